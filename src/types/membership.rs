//! Cluster membership: voters, learners, and which majorities decide.

use super::ids::{DiskId, LogId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A member: its address, and its disk id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// `host:port` of its native listener. A hint, not an identity: it is resolved again at every dial.
    pub address: String,
    /// The member's data directory, once it is known: a node that comes with this id and another disk has lost the
    /// state behind its promises.
    pub disk: Option<DiskId>,
    /// Its pending role.
    pub pending_role: PendingRole,
}

/// A role change that follows by itself when its condition is met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PendingRole {
    /// None: the role stays.
    #[default]
    Stays,
    /// A learner that becomes a voter once it has caught up.
    Promote,
    /// A learner that replaces that voter once it has caught up, in one change.
    Replace(NodeId),
    /// An outgoing voter that ceases to be a member when the change completes.
    Remove,
}

impl Member {
    /// A member of which only the address is known.
    pub fn at(address: String) -> Member {
        Member { address, disk: None, pending_role: PendingRole::Stays }
    }
}

/// A configuration of the cluster, as one log entry holds it (§6).
///
/// Every voter, incoming or outgoing, is a member. Members that are neither are learners: they receive the log and do
/// not vote. While `outgoing` is empty one majority of `voters` decides; otherwise the configuration is *joint* and a
/// majority of each set is needed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Membership {
    /// All members: they receive the log.
    pub members: BTreeMap<NodeId, Member>,
    /// The voters of the (new) configuration.
    pub voters: BTreeSet<NodeId>,
    /// In a joint configuration, the voters of the old one; else empty.
    pub outgoing: BTreeSet<NodeId>,
    /// The feature level of every member: an operation of a later level is proposed only once all members support it.
    pub level: u16,
    /// The log that this configuration belongs to; `None` before the first leader has drawn its id.
    pub log_id: Option<LogId>,
    /// Whether the entry that drew the log id is known to be committed.
    ///
    /// Two founders may each begin a log before either commits an entry; then one log is replaced like any uncommitted
    /// entries (§5.3). A log in which a configuration has `true` is never replaced by another log.
    pub log_agreed: bool,
}

impl Membership {
    /// The membership that the founders write at index 0: all of them voters.
    pub fn founding(addresses: impl IntoIterator<Item = (NodeId, String)>) -> Membership {
        let members: BTreeMap<_, _> = addresses.into_iter().map(|(id, address)| (id, Member::at(address))).collect();
        let voters = members.keys().copied().collect();
        Membership { members, voters, level: 1, ..Membership::default() }
    }

    /// Whether two majorities are needed (§6).
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether a node is a voter, incoming or outgoing.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// All voters, incoming and outgoing, each once.
    pub fn all_voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.voters.union(&self.outgoing).copied()
    }

    /// All members: they receive the log.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.keys().copied()
    }

    /// The disk id of a member, if it is known.
    pub fn disk(&self, id: NodeId) -> Option<DiskId> {
        self.members.get(&id)?.disk
    }

    /// The log id, once it is agreed.
    pub fn agreed_log(&self) -> Option<LogId> {
        self.log_id.filter(|_| self.log_agreed)
    }

    /// Whether a node is a member here and in `next`, and still the same one. If its disk id is known here and differs
    /// or is missing in `next`, the node was removed and added again in between: it may return with any disk.
    pub fn stays(&self, id: NodeId, next: &Membership) -> bool {
        let both = self.members.contains_key(&id) && next.members.contains_key(&id);
        both && self.disk(id).is_none_or(|disk| next.disk(id) == Some(disk))
    }

    /// The majority of `n` voters.
    pub const fn majority_of(n: usize) -> usize {
        n / 2 + 1
    }

    /// The address of a member.
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
