//! Cluster membership: voters, learners, and which majorities decide.

use super::ids::{DiskId, LogId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One member of a configuration, a voter or a learner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// `host:port` of the member's listener for peers. It does not identify the member, and is resolved at every dial.
    pub address: String,
    /// The id of the member's data directory, once the leader knows it. A node with this node id and another disk has
    /// lost the votes and acknowledgments of the member.
    pub disk: Option<DiskId>,
    /// The role change that the leader makes automatically, if one is pending.
    pub pending_role: PendingRole,
}

/// A role change that the leader makes automatically once the condition of the variant is met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PendingRole {
    /// No role change is pending.
    #[default]
    Unchanged,
    /// The learner becomes a voter once it has caught up.
    Promote,
    /// The learner replaces this voter once it has caught up, in one change.
    Replace(NodeId),
    /// The outgoing voter stops being a member when the change completes.
    Remove,
}

impl Member {
    /// A member whose disk id is not known yet and that has no pending role.
    pub fn with_address(address: String) -> Member {
        Member { address, disk: None, pending_role: PendingRole::Unchanged }
    }
}

/// A configuration of the cluster, as one log entry holds it (§6).
///
/// Every voter, incoming or outgoing, is a member. Members that are neither are learners: they receive the log and do
/// not vote. While `outgoing` is empty one majority of `voters` decides; otherwise the configuration is *joint* and a
/// majority of each set is needed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Membership {
    /// The voters and the learners: every member receives the log.
    pub members: BTreeMap<NodeId, Member>,
    /// The voters; in a joint configuration, the voters of the new configuration.
    pub voters: BTreeSet<NodeId>,
    /// In a joint configuration, the voters of the old configuration; otherwise empty.
    pub outgoing: BTreeSet<NodeId>,
    /// The feature level of every member: an operation of a later level is proposed only once all members support it.
    pub feature_level: u16,
    /// The log that this configuration belongs to; `None` before the first leader has drawn the log id.
    pub log_id: Option<LogId>,
    /// Whether the entry that first carries the log id is known to be committed.
    ///
    /// Two founders may each begin a log before either commits an entry; then one log is replaced like any uncommitted
    /// entries (§5.3). A log in which a configuration has `true` is never replaced by another log.
    pub log_agreed: bool,
}

impl Membership {
    /// The membership that the founders write at index 0. All founders are voters.
    pub fn founding(addresses: impl IntoIterator<Item = (NodeId, String)>) -> Membership {
        let members: BTreeMap<_, _> =
            addresses.into_iter().map(|(id, address)| (id, Member::with_address(address))).collect();
        let voters = members.keys().copied().collect();
        Membership { members, voters, feature_level: 1, ..Membership::default() }
    }

    /// Whether the configuration is joint: decisions need a majority of the old and of the new voters (§6).
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

    /// The ids of all members, voters and learners, ascending.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.keys().copied()
    }

    /// The disk id of a member; `None` for a node that is no member, or whose disk is not named yet.
    pub fn disk(&self, id: NodeId) -> Option<DiskId> {
        self.members.get(&id)?.disk
    }

    /// The log id; `None` until the entry that first carries it is known to be committed.
    pub fn agreed_log_id(&self) -> Option<LogId> {
        self.log_id.filter(|_| self.log_agreed)
    }

    /// Whether a node is the same member in this configuration and in `next`. If this configuration names its disk, and
    /// `next` names another disk or none, the node was removed and added again in between, and may return with any
    /// disk.
    pub fn keeps_member(&self, id: NodeId, next: &Membership) -> bool {
        let is_in_both = self.members.contains_key(&id) && next.members.contains_key(&id);
        is_in_both && self.disk(id).is_none_or(|disk| next.disk(id) == Some(disk))
    }

    /// The number of voters that form a majority of `n`.
    pub const fn majority_of(n: usize) -> usize {
        n / 2 + 1
    }

    /// The `host:port` of a member; `None` for a node that is no member.
    pub fn address(&self, id: NodeId) -> Option<&str> {
        self.members.get(&id).map(|member| member.address.as_str())
    }
}

impl fmt::Display for Membership {
    /// `voters=1,2,3`, and `outgoing=…`, `learners=…` where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join_ids = |ids: Vec<NodeId>| ids.iter().map(|id| id.get().to_string()).collect::<Vec<_>>().join(",");
        write!(f, "voters={}", join_ids(self.voters.iter().copied().collect()))?;
        if self.is_joint() {
            write!(f, " outgoing={}", join_ids(self.outgoing.iter().copied().collect()))?;
        }
        let learners: Vec<_> = self.ids().filter(|id| !self.is_voter(*id)).collect();
        if !learners.is_empty() {
            write!(f, " learners={}", join_ids(learners))?;
        }
        Ok(())
    }
}
