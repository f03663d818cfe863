//! Who belongs to the cluster, and whose word counts.

use super::ids::{DiskId, LogId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One member: where to reach it, and the disk it is known by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// `host:port` of its native door. A hint, not an identity: it is resolved again at every dial.
    pub address: String,
    /// The data directory it is known by, once that was heard of: whoever comes under this id with
    /// another has forgotten what it promised.
    pub disk: Option<DiskId>,
    /// What is to become of it.
    pub prospect: PendingRole,
}

/// What is to become of a member, by itself, when its time has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PendingRole {
    /// It is what it is.
    #[default]
    Stays,
    /// A learner that becomes a voter once it has caught up.
    Rises,
    /// A learner that takes that voter's place once it has caught up, in one change.
    Succeeds(NodeId),
    /// An outgoing voter that is no member any more when the change is through.
    Leaves,
}

impl Member {
    /// Someone of whom nothing is known but where to reach it.
    pub fn at(address: String) -> Member {
        Member { address, disk: None, prospect: PendingRole::Stays }
    }
}

/// A configuration of the cluster, as one log index holds it (§6).
///
/// Every voter, incoming or outgoing, is a member; members who are neither are learners, who
/// receive the log and have no word. While `outgoing` is empty one majority of `voters` decides;
/// otherwise the configuration is *joint* and a majority of each is needed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Membership {
    /// Everyone who receives the log.
    pub members: BTreeMap<NodeId, Member>,
    /// The voters of the (new) configuration.
    pub voters: BTreeSet<NodeId>,
    /// In a joint configuration, the voters of the old one; else empty.
    pub outgoing: BTreeSet<NodeId>,
    /// What every member understands: an operation of a later kind is proposed only once all do.
    pub level: u16,
    /// The log that this configuration belongs to; none before the first leader has drawn one.
    pub log_id: Option<LogId>,
    /// Whether the entry that drew the log id is known to be committed.
    ///
    /// Two founders may each begin a log before either commits anything, and then one of the two gives way as any
    /// uncommitted entry does (§5.3). A log in which some configuration says `true` never gives way to another log.
    pub log_agreed: bool,
}

impl Membership {
    /// What the founders write at index 0: all of them voters.
    pub fn founding(addresses: impl IntoIterator<Item = (NodeId, String)>) -> Membership {
        let members: BTreeMap<_, _> = addresses.into_iter().map(|(id, address)| (id, Member::at(address))).collect();
        let voters = members.keys().copied().collect();
        Membership { members, voters, level: 1, ..Membership::default() }
    }

    /// Whether two majorities are needed (§6).
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether this node's vote and its copy count.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Everyone whose vote and copy count, each once.
    pub fn all_voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.voters.union(&self.outgoing).copied()
    }

    /// Everyone who receives the log.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.keys().copied()
    }

    /// The disk that a member is known by, if one is.
    pub fn disk(&self, id: NodeId) -> Option<DiskId> {
        self.members.get(&id)?.disk
    }

    /// The log id, once it is agreed.
    pub fn agreed_log(&self) -> Option<LogId> {
        self.log_id.filter(|_| self.log_agreed)
    }

    /// Whether that one is a member here and in what follows, and the same. Of one whose disk was named, and is so no
    /// more, it was not seen how it went and came back: it may come with any disk.
    pub fn stays(&self, id: NodeId, next: &Membership) -> bool {
        let both = self.members.contains_key(&id) && next.members.contains_key(&id);
        both && self.disk(id).is_none_or(|disk| next.disk(id) == Some(disk))
    }

    /// How many of `n` voters are a majority.
    pub const fn majority_of(n: usize) -> usize {
        n / 2 + 1
    }

    /// Where to reach that member.
    pub fn address(&self, id: NodeId) -> Option<&str> {
        self.members.get(&id).map(|member| member.address.as_str())
    }
}

impl fmt::Display for Membership {
    /// `voters=1,2,3`, and `outgoing=…`, `learners=…` where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ids: Vec<NodeId>| ids.iter().map(|id| id.get().to_string()).collect::<Vec<_>>().join(",");
        write!(f, "voters={}", list(self.voters.iter().copied().collect()))?;
        if self.is_joint() {
            write!(f, " outgoing={}", list(self.outgoing.iter().copied().collect()))?;
        }
        let learners: Vec<_> = self.ids().filter(|id| !self.is_voter(*id)).collect();
        if !learners.is_empty() {
            write!(f, " learners={}", list(learners))?;
        }
        Ok(())
    }
}
