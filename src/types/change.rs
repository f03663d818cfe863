//! Membership changes, and the memberships that result from them (§6, thesis §4).

use super::address::{AddressError, check_address};
use super::ids::{DiskId, NodeId};
use super::membership::{Member, Membership, PendingRole};
use crate::limits::MEMBERS_MAX;
use std::collections::BTreeSet;

/// A membership change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Adds a member, at first as a learner.
    Add {
        /// Its id, which no other node has ever used.
        id: NodeId,
        /// Its `host:port`.
        address: String,
        /// Its disk id, if the node itself requests the change.
        disk: Option<DiskId>,
        /// Its pending role, which is not [`PendingRole::Remove`].
        prospect: PendingRole,
    },
    /// Removes a member, voter or learner.
    Remove(NodeId),
    /// Makes a learner a voter.
    Promote(NodeId),
    /// Makes these members the voters; current voters that are not named leave.
    Voters(BTreeSet<NodeId>),
    /// Changes the address of a member.
    Move {
        /// The member.
        id: NodeId,
        /// Its new `host:port`.
        address: String,
    },
    /// Reverts the change that is in progress.
    Abort,
}

/// Why a change results in no membership.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidChange {
    /// The node is already a member.
    #[error("{0} is a member already")]
    Member(NodeId),
    /// The node is not a member.
    #[error("{0} is not a member")]
    NotMember(NodeId),
    /// The node is already a voter.
    #[error("{0} is a voter already")]
    Voter(NodeId),
    /// The node to be replaced is not a voter.
    #[error("{0} is not a voter: no member can replace it")]
    NoPlace(NodeId),
    /// Another node is already to replace it.
    #[error("{0} is being replaced already")]
    Replaced(NodeId),
    /// No voter would be left.
    #[error("no voters would be left")]
    NoVoters,
    /// The cluster has as many members as allowed.
    #[error("a cluster has at most {MEMBERS_MAX} members")]
    Full,
    /// The membership would not change.
    #[error("nothing would change")]
    NoChange,
    /// Another member has that address.
    #[error("{0} already has that address")]
    Taken(NodeId),
    /// Other nodes cannot dial the address.
    #[error("that address cannot be dialed: {0}")]
    Address(#[from] AddressError),
    /// The change in progress is already being reverted.
    #[error("the change in progress is already being reverted")]
    Returning,
    /// No change is in progress to be reverted.
    #[error("no change is in progress")]
    Idle,
}

impl Membership {
    /// The membership after a change: joint, if the voters change (§6). `self` must not be joint, and [`Change::Abort`]
    /// is handled by [`Membership::restored`] instead.
    pub fn changed(&self, change: &Change) -> Result<Membership, InvalidChange> {
        let mut next = self.clone();
        match change {
            Change::Add { id, .. } if self.members.contains_key(id) => return Err(InvalidChange::Member(*id)),
            Change::Add { .. } if self.members.len() >= MEMBERS_MAX => return Err(InvalidChange::Full),
            Change::Add { id, address, disk, prospect } => {
                if let PendingRole::Replace(old) = prospect {
                    self.can_be_succeeded(*old)?;
                }
                self.is_free(*id, address)?;
                next.members.insert(*id, Member { address: address.clone(), disk: *disk, pending_role: *prospect });
            }
            Change::Move { id, address } => {
                let member = next.members.get_mut(id).ok_or(InvalidChange::NotMember(*id))?;
                if member.address == *address {
                    return Err(InvalidChange::NoChange);
                }
                self.is_free(*id, address)?;
                member.address.clone_from(address);
            }
            Change::Remove(id) if !self.members.contains_key(id) => return Err(InvalidChange::NotMember(*id)),
            Change::Remove(id) if !self.is_voter(*id) => {
                next.members.remove(id);
            }
            Change::Remove(id) => return self.towards(self.voters.iter().copied().filter(|v| v != id).collect()),
            Change::Promote(id) if !self.members.contains_key(id) => return Err(InvalidChange::NotMember(*id)),
            Change::Promote(id) if self.is_voter(*id) => return Err(InvalidChange::Voter(*id)),
            Change::Promote(id) => return self.towards(self.voters.iter().copied().chain([*id]).collect()),
            Change::Voters(ids) => return self.towards(ids.clone()),
            Change::Abort => return Err(InvalidChange::Idle),
        }
        Ok(next)
    }

    /// Checks that a node can be reached at `address`: by its form, and because no other member has it. Two members
    /// with one address would keep every node that learns of both from starting.
    fn is_free(&self, id: NodeId, address: &str) -> Result<(), InvalidChange> {
        check_address(address)?;
        let other = self.members.iter().find(|(other, member)| **other != id && member.address == address);
        other.map_or(Ok(()), |(other, _)| Err(InvalidChange::Taken(*other)))
    }

    fn can_be_succeeded(&self, old: NodeId) -> Result<(), InvalidChange> {
        let waits = |member: &Member| member.pending_role == PendingRole::Replace(old);
        match self.members.get(&old) {
            None => Err(InvalidChange::NotMember(old)),
            Some(_) if !self.is_voter(old) => Err(InvalidChange::NoPlace(old)),
            Some(_) if self.members.values().any(waits) => Err(InvalidChange::Replaced(old)),
            Some(_) => Ok(()),
        }
    }

    /// The joint configuration from the current voters to `voters` (§6). Members that are outgoing voters only will
    /// leave.
    pub fn towards(&self, voters: BTreeSet<NodeId>) -> Result<Membership, InvalidChange> {
        if voters.is_empty() {
            return Err(InvalidChange::NoVoters);
        }
        if let Some(stranger) = voters.iter().find(|id| !self.members.contains_key(id)) {
            return Err(InvalidChange::NotMember(*stranger));
        }
        if voters == self.voters {
            return Err(InvalidChange::NoChange);
        }
        let mut next = Membership { outgoing: self.voters.clone(), voters, ..self.clone() };
        for (id, member) in &mut next.members {
            if next.voters.contains(id) {
                member.pending_role = PendingRole::Stays;
            } else if next.outgoing.contains(id) {
                member.pending_role = PendingRole::Remove;
            }
        }
        Ok(next)
    }

    /// The configuration C-new in which a joint configuration results (§6).
    pub fn settled(&self) -> Membership {
        let mut next = Membership { outgoing: BTreeSet::new(), ..self.clone() };
        next.members.retain(|id, member| next.voters.contains(id) || member.pending_role != PendingRole::Remove);
        // A learner that was to replace a voter that is gone is to become a voter of its own instead.
        let places: BTreeSet<NodeId> = next.voters.clone();
        for member in next.members.values_mut() {
            if matches!(member.pending_role, PendingRole::Replace(old) if !places.contains(&old)) {
                member.pending_role = PendingRole::Promote;
            }
        }
        next
    }

    /// The reversed joint configuration: its decisions need the same two majorities.
    pub fn turned(&self) -> Membership {
        let mut next = Membership { voters: self.outgoing.clone(), outgoing: self.voters.clone(), ..self.clone() };
        for member in next.members.values_mut() {
            // All by operator command from here: pending voters are learners again, and leaving voters stay.
            member.pending_role = PendingRole::Stays;
        }
        next
    }

    /// The configuration before a joint one, with its new voters as learners.
    pub fn restored(&self) -> Membership {
        self.turned().settled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn ids(all: &[u64]) -> BTreeSet<NodeId> {
        all.iter().map(|n| id(*n)).collect()
    }

    fn of(voters: &[u64]) -> Membership {
        Membership::founding(voters.iter().map(|n| (id(*n), format!("h:{n}"))))
    }

    fn add(n: u64, prospect: PendingRole) -> Change {
        Change::Add { id: id(n), address: format!("h:{n}"), disk: None, prospect }
    }

    #[test]
    fn new_member_is_learner_then_voter_by_joint_configuration() {
        let with_learner = of(&[1, 2, 3]).changed(&add(4, PendingRole::Promote)).unwrap();
        assert_eq!((with_learner.is_joint(), &with_learner.voters), (false, &ids(&[1, 2, 3])));
        let joint = with_learner.changed(&Change::Promote(id(4))).unwrap();
        assert_eq!((&joint.outgoing, &joint.voters), (&ids(&[1, 2, 3]), &ids(&[1, 2, 3, 4])));
        assert_eq!(joint.settled(), of(&[1, 2, 3, 4]));
    }

    #[test]
    fn replacement_is_one_joint_change() {
        let waiting = of(&[1, 2, 3]).changed(&add(4, PendingRole::Replace(id(2)))).unwrap();
        assert_eq!(waiting.changed(&add(5, PendingRole::Replace(id(2)))), Err(InvalidChange::Replaced(id(2))));
        let joint = waiting.towards(ids(&[1, 3, 4])).unwrap();
        assert_eq!(joint.settled(), of(&[1, 3, 4]));
    }

    #[test]
    fn replacement_of_removed_voter_becomes_a_promotion() {
        let waiting = of(&[1, 2, 3]).changed(&add(4, PendingRole::Replace(id(2)))).unwrap();
        let gone = waiting.changed(&Change::Remove(id(2))).unwrap().settled();
        assert_eq!(gone.members[&id(4)].pending_role, PendingRole::Promote);
    }

    #[test]
    fn reverted_change_restores_the_previous_voters() {
        let before = of(&[1, 2, 3]).changed(&add(4, PendingRole::Promote)).unwrap();
        let joint = before.towards(ids(&[2, 3, 4])).unwrap();
        let back = joint.restored();
        assert_eq!((&back.voters, back.is_joint()), (&ids(&[1, 2, 3]), false));
        assert!(back.members.contains_key(&id(4)), "it is a learner again");
        assert_eq!(back.members[&id(4)].pending_role, PendingRole::Stays, "and is not promoted again automatically");
        assert_eq!(joint.turned().settled(), back);
    }

    #[test]
    fn each_invalid_change_has_its_own_error() {
        let three = of(&[1, 2, 3]);
        let says = |change: Change| three.changed(&change).unwrap_err();
        assert_eq!(says(add(3, PendingRole::Stays)), InvalidChange::Member(id(3)));
        assert_eq!(says(Change::Remove(id(9))), InvalidChange::NotMember(id(9)));
        assert_eq!(says(Change::Promote(id(9))), InvalidChange::NotMember(id(9)));
        assert_eq!(says(Change::Promote(id(3))), InvalidChange::Voter(id(3)));
        assert_eq!(says(Change::Voters(ids(&[]))), InvalidChange::NoVoters);
        assert_eq!(says(Change::Voters(ids(&[1, 2, 3]))), InvalidChange::NoChange);
        assert_eq!(says(Change::Move { id: id(3), address: "h:3".into() }), InvalidChange::NoChange);
        assert_eq!(says(Change::Abort), InvalidChange::Idle);
        assert_eq!(of(&[1]).changed(&Change::Remove(id(1))), Err(InvalidChange::NoVoters));
        let waiting = three.changed(&add(4, PendingRole::Stays)).unwrap();
        assert_eq!(waiting.changed(&add(5, PendingRole::Replace(id(4)))), Err(InvalidChange::NoPlace(id(4))));
    }
}
