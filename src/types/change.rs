//! Membership changes, and the memberships that result from them (§6, thesis §4).

use super::address::{AddressError, check_address};
use super::ids::{DiskId, NodeId};
use super::membership::{Member, Membership, PendingRole};
use crate::limits::MEMBERS_MAX;
use std::collections::BTreeSet;

/// A membership change that an operator, or a joining node, requests from the leader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Adds a member, at first as a learner.
    Add {
        /// An id that no other node has ever used.
        id: NodeId,
        /// The `host:port` at which other nodes dial the member.
        address: String,
        /// The disk id, if the new node itself requests the change; `None` if an operator requests it.
        disk: Option<DiskId>,
        /// The role change that follows once the learner has caught up; never [`PendingRole::Remove`].
        pending_role: PendingRole,
    },
    /// Removes a member, voter or learner.
    Remove(NodeId),
    /// Makes a learner a voter.
    Promote(NodeId),
    /// Makes these members the voters. Current voters that are not in the set stop being members.
    SetVoters(BTreeSet<NodeId>),
    /// Changes the address of a member.
    SetAddress {
        /// The member whose address changes.
        id: NodeId,
        /// The `host:port` from now on. It must differ from the present one.
        address: String,
    },
    /// Raises the feature level of the cluster. The level is never lowered again.
    RaiseFeatureLevel(u16),
    /// Reverts the change in progress, unless it is committed.
    Abort,
}

/// Why a change cannot be applied to a membership.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidChange {
    /// The node is already a member.
    #[error("{0} is a member already")]
    AlreadyMember(NodeId),
    /// The node is not a member.
    #[error("{0} is not a member")]
    NotMember(NodeId),
    /// The node is already a voter.
    #[error("{0} is a voter already")]
    AlreadyVoter(NodeId),
    /// The node to be replaced is not a voter.
    #[error("{0} is not a voter: no member can replace it")]
    ReplacesNonVoter(NodeId),
    /// A learner is already waiting to replace this voter.
    #[error("{0} is being replaced already")]
    AlreadyReplaced(NodeId),
    /// The change would leave no voter.
    #[error("no voters would be left")]
    NoVoters,
    /// The cluster has `MEMBERS_MAX` members already.
    #[error("a cluster has at most {MEMBERS_MAX} members")]
    TooManyMembers,
    /// The change would leave the membership as it is.
    #[error("nothing would change")]
    NoEffect,
    /// Another member, the one with this id, has the address already.
    #[error("{0} already has that address")]
    AddressInUse(NodeId),
    /// Other nodes cannot dial the address.
    #[error("that address cannot be dialed: {0}")]
    UndialableAddress(#[from] AddressError),
    /// The cluster has this feature level, which is the requested one or a higher one.
    #[error("the cluster has feature level {0} already")]
    LevelReached(u16),
    /// The change in progress is already being reverted.
    #[error("the change in progress is already being reverted")]
    AlreadyReverting,
    /// There is no change in progress that [`Change::Abort`] could revert.
    #[error("no change is in progress")]
    NoChangeInProgress,
}

impl Membership {
    /// The membership after a change: joint, if the voters change (§6). `self` must not be joint, and [`Change::Abort`]
    /// is handled by [`Membership::revert_joint`] instead.
    pub fn after_change(&self, change: &Change) -> Result<Membership, InvalidChange> {
        let mut next = self.clone();
        match change {
            Change::Add { id, .. } if self.members.contains_key(id) => return Err(InvalidChange::AlreadyMember(*id)),
            Change::Add { .. } if self.members.len() >= MEMBERS_MAX => return Err(InvalidChange::TooManyMembers),
            Change::Add { id, address, disk, pending_role } => {
                if let PendingRole::Replace(old) = pending_role {
                    self.check_replaceable(*old)?;
                }
                self.check_address_is_free(*id, address)?;
                next.members.insert(*id, Member { address: address.clone(), disk: *disk, pending_role: *pending_role });
            }
            Change::SetAddress { id, address } => {
                let member = next.members.get_mut(id).ok_or(InvalidChange::NotMember(*id))?;
                if member.address == *address {
                    return Err(InvalidChange::NoEffect);
                }
                self.check_address_is_free(*id, address)?;
                member.address.clone_from(address);
            }
            Change::Remove(id) if !self.members.contains_key(id) => return Err(InvalidChange::NotMember(*id)),
            Change::Remove(id) if !self.is_voter(*id) => {
                next.members.remove(id);
            }
            Change::Remove(id) => return self.enter_joint(self.voters.iter().copied().filter(|v| v != id).collect()),
            Change::Promote(id) if !self.members.contains_key(id) => return Err(InvalidChange::NotMember(*id)),
            Change::Promote(id) if self.is_voter(*id) => return Err(InvalidChange::AlreadyVoter(*id)),
            Change::Promote(id) => return self.enter_joint(self.voters.iter().copied().chain([*id]).collect()),
            Change::SetVoters(ids) => return self.enter_joint(ids.clone()),
            Change::RaiseFeatureLevel(level) if *level <= self.feature_level => {
                return Err(InvalidChange::LevelReached(self.feature_level));
            }
            Change::RaiseFeatureLevel(level) => next.feature_level = *level,
            Change::Abort => return Err(InvalidChange::NoChangeInProgress),
        }
        Ok(next)
    }

    /// Checks that `address` has a valid form and that no other member has it. A node whose configuration has two
    /// members with one address does not start.
    fn check_address_is_free(&self, id: NodeId, address: &str) -> Result<(), InvalidChange> {
        check_address(address)?;
        let address_holder = self.members.iter().find(|(holder, member)| **holder != id && member.address == address);
        address_holder.map_or(Ok(()), |(holder, _)| Err(InvalidChange::AddressInUse(*holder)))
    }

    /// Checks that `old` is a voter that no other member is to replace yet.
    fn check_replaceable(&self, old: NodeId) -> Result<(), InvalidChange> {
        let replaces_old = |member: &Member| member.pending_role == PendingRole::Replace(old);
        match self.members.get(&old) {
            None => Err(InvalidChange::NotMember(old)),
            Some(_) if !self.is_voter(old) => Err(InvalidChange::ReplacesNonVoter(old)),
            Some(_) if self.members.values().any(replaces_old) => Err(InvalidChange::AlreadyReplaced(old)),
            Some(_) => Ok(()),
        }
    }

    /// The joint configuration from the current voters to `voters` (§6). Voters that are not in `voters` are removed
    /// when the joint configuration is left.
    pub fn enter_joint(&self, voters: BTreeSet<NodeId>) -> Result<Membership, InvalidChange> {
        if voters.is_empty() {
            return Err(InvalidChange::NoVoters);
        }
        if let Some(non_member) = voters.iter().find(|id| !self.members.contains_key(id)) {
            return Err(InvalidChange::NotMember(*non_member));
        }
        if voters == self.voters {
            return Err(InvalidChange::NoEffect);
        }
        let mut next = Membership { outgoing: self.voters.clone(), voters, ..self.clone() };
        for (id, member) in &mut next.members {
            if next.voters.contains(id) {
                member.pending_role = PendingRole::Unchanged;
            } else if next.outgoing.contains(id) {
                member.pending_role = PendingRole::Remove;
            }
        }
        Ok(next)
    }

    /// The configuration C-new that follows a joint one (§6): only its new voters decide.
    pub fn leave_joint(&self) -> Membership {
        let mut next = Membership { outgoing: BTreeSet::new(), ..self.clone() };
        next.members.retain(|id, member| next.voters.contains(id) || member.pending_role != PendingRole::Remove);
        // A learner that waited to replace a removed voter becomes an additional voter instead.
        let new_voters: BTreeSet<NodeId> = next.voters.clone();
        for member in next.members.values_mut() {
            if matches!(member.pending_role, PendingRole::Replace(old) if !new_voters.contains(&old)) {
                member.pending_role = PendingRole::Promote;
            }
        }
        next
    }

    /// The joint configuration that leads back to the old voters: the new voters become the outgoing ones. Its
    /// decisions need the same two majorities.
    pub fn with_swapped_voter_sets(&self) -> Membership {
        let mut next = Membership { voters: self.outgoing.clone(), outgoing: self.voters.clone(), ..self.clone() };
        for member in next.members.values_mut() {
            // No role changes by itself after a revert: the new voters are learners again, and the leaving voters stay.
            member.pending_role = PendingRole::Unchanged;
        }
        next
    }

    /// The configuration before `self`, which is joint: the outgoing voters are the voters again, and the new voters
    /// are learners.
    pub fn revert_joint(&self) -> Membership {
        self.with_swapped_voter_sets().leave_joint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn ids(numbers: &[u64]) -> BTreeSet<NodeId> {
        numbers.iter().map(|n| id(*n)).collect()
    }

    fn membership_of(voters: &[u64]) -> Membership {
        Membership::founding(voters.iter().map(|n| (id(*n), format!("h:{n}"))))
    }

    fn add(n: u64, pending_role: PendingRole) -> Change {
        Change::Add { id: id(n), address: format!("h:{n}"), disk: None, pending_role }
    }

    #[test]
    fn new_member_is_learner_then_voter_by_joint_configuration() {
        let membership_with_learner = membership_of(&[1, 2, 3]).after_change(&add(4, PendingRole::Promote)).unwrap();
        assert_eq!((membership_with_learner.is_joint(), &membership_with_learner.voters), (false, &ids(&[1, 2, 3])));
        let joint_membership = membership_with_learner.after_change(&Change::Promote(id(4))).unwrap();
        assert_eq!((&joint_membership.outgoing, &joint_membership.voters), (&ids(&[1, 2, 3]), &ids(&[1, 2, 3, 4])));
        assert_eq!(joint_membership.leave_joint(), membership_of(&[1, 2, 3, 4]));
    }

    #[test]
    fn replacement_is_one_joint_change() {
        let membership_with_replacement =
            membership_of(&[1, 2, 3]).after_change(&add(4, PendingRole::Replace(id(2)))).unwrap();
        assert_eq!(
            membership_with_replacement.after_change(&add(5, PendingRole::Replace(id(2)))),
            Err(InvalidChange::AlreadyReplaced(id(2)))
        );
        let joint_membership = membership_with_replacement.enter_joint(ids(&[1, 3, 4])).unwrap();
        assert_eq!(joint_membership.leave_joint(), membership_of(&[1, 3, 4]));
    }

    #[test]
    fn replacement_of_removed_voter_becomes_a_promotion() {
        let membership_with_replacement =
            membership_of(&[1, 2, 3]).after_change(&add(4, PendingRole::Replace(id(2)))).unwrap();
        let membership_after_removal =
            membership_with_replacement.after_change(&Change::Remove(id(2))).unwrap().leave_joint();
        assert_eq!(membership_after_removal.members[&id(4)].pending_role, PendingRole::Promote);
    }

    #[test]
    fn reverted_change_restores_the_previous_voters() {
        let membership_with_learner = membership_of(&[1, 2, 3]).after_change(&add(4, PendingRole::Promote)).unwrap();
        let joint_membership = membership_with_learner.enter_joint(ids(&[2, 3, 4])).unwrap();
        let reverted_membership = joint_membership.revert_joint();
        assert_eq!((&reverted_membership.voters, reverted_membership.is_joint()), (&ids(&[1, 2, 3]), false));
        assert!(reverted_membership.members.contains_key(&id(4)), "the new voter is a learner again");
        assert_eq!(
            reverted_membership.members[&id(4)].pending_role,
            PendingRole::Unchanged,
            "the learner is not promoted again automatically"
        );
        assert_eq!(joint_membership.with_swapped_voter_sets().leave_joint(), reverted_membership);
    }

    #[test]
    fn each_invalid_change_has_its_own_error() {
        let three_voters = membership_of(&[1, 2, 3]);
        let error_of = |change: Change| three_voters.after_change(&change).unwrap_err();
        assert_eq!(error_of(add(3, PendingRole::Unchanged)), InvalidChange::AlreadyMember(id(3)));
        assert_eq!(error_of(Change::Remove(id(9))), InvalidChange::NotMember(id(9)));
        assert_eq!(error_of(Change::Promote(id(9))), InvalidChange::NotMember(id(9)));
        assert_eq!(error_of(Change::Promote(id(3))), InvalidChange::AlreadyVoter(id(3)));
        assert_eq!(error_of(Change::SetVoters(ids(&[]))), InvalidChange::NoVoters);
        assert_eq!(error_of(Change::SetVoters(ids(&[1, 2, 3]))), InvalidChange::NoEffect);
        assert_eq!(error_of(Change::SetAddress { id: id(3), address: "h:3".into() }), InvalidChange::NoEffect);
        assert_eq!(error_of(Change::Abort), InvalidChange::NoChangeInProgress);
        assert_eq!(error_of(Change::RaiseFeatureLevel(1)), InvalidChange::LevelReached(1));
        assert_eq!(membership_of(&[1]).after_change(&Change::Remove(id(1))), Err(InvalidChange::NoVoters));
        let membership_with_replacement = three_voters.after_change(&add(4, PendingRole::Unchanged)).unwrap();
        assert_eq!(
            membership_with_replacement.after_change(&add(5, PendingRole::Replace(id(4)))),
            Err(InvalidChange::ReplacesNonVoter(id(4)))
        );
    }
}
