//! Membership changes on the leader (§6, thesis §4).
//!
//! A change of voters appends two entries: a joint configuration, C-old,new, and then the new configuration, C-new.
//! While the joint configuration is in force, a majority of the old voters and a majority of the new voters are needed:
//!
//! ```text
//! C-old ──> append C-old,new ──> committed by both majorities ──> append C-new ──> committed
//!              │                                                 (advance_membership)
//!              └──> not committed, and the new voters are silent ──> append C-old (revert_change, abort)
//! ```
//!
//! Changes use joint consensus, not single-server changes (thesis §4.1): a replacement is one change, and the cluster
//! tolerates as many failures during the change as before.
//!
//! A new member is a learner first, and receives the log without a vote. If it were a voter from the start, the quorum
//! would be larger before the new member holds the log (thesis §4.2.1).

use super::Leader;
use crate::api::Refusal;
use crate::consensus::next::NextRole;
use crate::consensus::note::Note;
use crate::consensus::progress::Progress;
use crate::consensus::quorum;
use crate::consensus::replica::Replica;
use crate::consensus::rules::membership;
use crate::types::{Change, InvalidChange, Membership, NodeId, Payload, PendingRole, Position, Time};
use std::collections::BTreeSet;

/// The leader tries to notify a removed member of its removal for at most this many times the longest election timeout.
///
/// The member may be down for good, and its progress must not be kept forever. A removed member that is not notified
/// campaigns, and pre-vote makes these campaigns harmless (thesis §4.2.3).
const REMOVAL_NOTICE_ELECTION_TIMEOUTS: u32 = 10;

impl Leader {
    /// Changes the membership if the change is valid and, unless `force` is set, does not put the cluster at risk.
    /// After an error nothing was appended.
    pub fn reconfigure(
        &mut self,
        me: &mut Replica,
        now: Time,
        change: &Change,
        force: bool,
    ) -> Result<Position, Refusal> {
        if *change == Change::Abort {
            return self.abort_change(me, now);
        }
        self.check_no_change_pending(me)?;
        let next_membership = me.configs.current().after_change(change).map_err(invalid_change)?;
        self.check_disks_are_named(me, &next_membership)?;
        self.check_feature_level(me, now, &next_membership)?;
        if !force {
            self.check_change_is_safe(me, now, change, &next_membership)?;
        }
        Ok(self.append_configuration(me, now, next_membership))
    }

    /// Checks that no change is in progress, and that this leader's first entry is committed.
    ///
    /// The single-server changes of the thesis were published without the second condition: two leaders could change
    /// the same configuration, each without the other's change, and commit with disjoint majorities (Ongaro, 2015;
    /// copycat#23, openraft#2051).
    fn check_no_change_pending(&self, me: &Replica) -> Result<(), Refusal> {
        let configuration_index = me.configs.current_index();
        // A committed joint configuration is only half of a change: the leader still has to append the new
        // configuration.
        let no_change_pending = configuration_index <= me.log.commit() && !me.configs.current().is_joint();
        if !membership::change_may_begin(self.current_term_committed(me), no_change_pending, me.options.mutants) {
            return Err(Refusal::ChangeInProgress { since: configuration_index.max(self.term_start_index) });
        }
        Ok(())
    }

    /// Rejects a new voter, forced or not, that does not hold the entry that names its disk: its copy could not be
    /// distinguished from that of another disk under its id.
    fn check_disks_are_named(&self, me: &Replica, next: &Membership) -> Result<(), Refusal> {
        let lacks_entry_naming_disk =
            |id: &&NodeId| !me.configs.current().is_voter(**id) && !self.member_holds_entry_naming_its_disk(me, **id);
        match next.voters.iter().find(lacks_entry_naming_disk) {
            None => Ok(()),
            Some(id) => Err(Refusal::InvalidChange {
                why: format!("{id} has not yet received the entry that names its disk: start it, and try again"),
            }),
        }
    }

    /// Whether that member has acknowledged the entry that names its disk; always true for this node itself.
    pub(super) fn member_holds_entry_naming_its_disk(&self, me: &Replica, id: NodeId) -> bool {
        id == me.id || membership::member_holds_entry_naming_its_disk(self.progress.get(&id), me.options.mutants)
    }

    /// Checks that the cluster keeps working after the change: every added voter responds and has caught up, and the
    /// responding voters form a quorum.
    ///
    /// A new voter that does not respond counts as a failure from the start, and one more failure may stop the cluster.
    /// With `force` the operator overrides this check, for example because the machine is about to start.
    fn check_change_is_safe(&self, me: &Replica, now: Time, change: &Change, next: &Membership) -> Result<(), Refusal> {
        let unsafe_change = |why: String| Err(Refusal::UnsafeChange { why });
        let new_voters: Vec<NodeId> =
            next.voters.iter().copied().filter(|id| !me.configs.current().is_voter(*id)).collect();
        for id in new_voters {
            match self.progress.get(&id) {
                _ if !self.is_in_contact(me, now, id) => {
                    return unsafe_change(format!(
                        "{id} does not answer: as a voter it would raise the quorum and acknowledge nothing"
                    ));
                }
                // At the start of a term a member may be in contact but not have responded yet.
                _ if !self.has_responded(me, now, id) => return Err(Refusal::Busy),
                Some(progress) if !progress.caught_up => {
                    let missing_entries = me.log.last().index.0 - progress.matched.0;
                    return unsafe_change(format!(
                        "{id} is {missing_entries} entries behind: until it has caught up, nothing might commit"
                    ));
                }
                Some(_) | None => {}
            }
        }
        // A change of address or a new learner changes no quorum, and so is not checked here.
        let changes_voters =
            matches!(change, Change::Remove(_) | Change::Promote(_) | Change::SetVoters(_)) && next.is_joint();
        let responding_count = next.voters.iter().filter(|id| self.has_responded(me, now, **id)).count();
        let quorum_size = Membership::majority_of(next.voters.len());
        if changes_voters && responding_count < quorum_size {
            if next.voters.iter().filter(|id| self.is_in_contact(me, now, **id)).count() >= quorum_size {
                return Err(Refusal::Busy);
            }
            let voter_count = next.voters.len();
            return unsafe_change(format!(
                "only {responding_count} of the {voter_count} voters of the new configuration respond, and a quorum is \
                 {quorum_size}"
            ));
        }
        Ok(())
    }

    /// Appends a configuration. It is in force as soon as it is in the log (§6).
    ///
    /// The entry also names all disks that are known by now, which saves a second entry.
    fn append_configuration(&mut self, me: &mut Replica, now: Time, next: Membership) -> Position {
        let mut next = membership::configuration_to_append(next, me.options.mutants);
        me.name_disks(&mut next);
        // The configuration is in force with the append: if it had no voters, no quorum could ever replace it.
        assert!(!next.voters.is_empty(), "a new configuration has at least one voter (§6)");
        let is_next_member = |id: NodeId| next.members.contains_key(&id);
        assert!(next.all_voters().all(is_next_member), "every voter of a new configuration is a member");
        let position = me.append(now, Payload::Membership(Box::new(next)));
        self.apply_configuration(me, now);
        position
    }

    /// Applies the configuration in force: starts to replicate to new members and to notify removed ones.
    ///
    /// This function runs after every event, so it compares indexes and not configurations.
    pub(super) fn apply_configuration(&mut self, me: &Replica, now: Time) {
        if self.applied_configuration_index == me.configs.current_index() {
            return;
        }
        self.applied_configuration_index = me.configs.current_index();
        let membership = me.configs.current();
        // The next index to send is the end of the leader's log, even for a new member: its rejection of the first
        // probe shows in one round trip where its log ends.
        let next = me.log.last().index.next();
        for id in membership.ids().filter(|id| *id != me.id) {
            if self.removed_members.remove(&id).is_some() {
                // This member was removed and added again, and may have lost the entries that it acknowledged.
                self.progress.remove(&id);
            }
            self.progress.entry(id).or_insert_with(|| Progress::new(now, next));
        }
        // This call follows the change of `progress` and precedes any count of copies.
        self.update_copy_counts_from(me);
        // A removed member is still sent the log up to its own removal. Otherwise it would not learn of the removal,
        // and would campaign at every election timeout.
        let notify_until = now + me.options.election_max * REMOVAL_NOTICE_ELECTION_TIMEOUTS;
        for id in self.progress.keys().filter(|id| !membership.members.contains_key(id)) {
            self.removed_members.entry(*id).or_insert(notify_until);
        }
    }

    /// Handles a new disk of a peer: acknowledgments from its earlier disk no longer count.
    ///
    /// The log on the new disk may be empty. If `matched` were kept, the leader would treat rejections as late or as
    /// proof of a loss, and the new disk would have to promise entries that another disk had acknowledged.
    pub fn reset_progress(&mut self, me: &Replica, peer: NodeId) {
        if let Some(progress) = self.progress.get_mut(&peer) {
            *progress = Progress::new(progress.last_contact, me.log.last().index.next());
        }
    }

    /// Stops replicating to removed members that have acknowledged the configuration without them and were sent its
    /// commit, or whose notification timed out.
    pub(super) fn drop_removed_members(&mut self, me: &mut Replica, now: Time) {
        let configuration_index = me.configs.current_index();
        let progress = &mut self.progress;
        let notes = &mut me.notes;
        self.removed_members.retain(|peer, until| {
            let is_notified = progress
                .get(peer)
                .is_some_and(|p| p.commit_sent >= configuration_index && p.matched >= configuration_index);
            let stays_tracked = !is_notified && now < *until;
            if !stays_tracked {
                progress.remove(peer);
                notes.push(Note::MemberRemoved { peer: *peer, notified: is_notified });
            }
            stays_tracked
        });
    }

    /// Reverts the joint configuration in force, if it is not committed.
    ///
    /// Once the joint configuration is committed, the leader appends the new configuration at once, and only another
    /// change restores the old voters.
    fn abort_change(&mut self, me: &mut Replica, now: Time) -> Result<Position, Refusal> {
        let current = me.configs.current();
        if !current.is_joint() || me.configs.current_index() <= me.log.commit() {
            return Err(invalid_change(InvalidChange::NoChangeInProgress));
        }
        let reverting_configuration = match self.revert_target(me) {
            Some(old) => old,
            None if me.configs.previous().is_some_and(Membership::is_joint) => {
                return Err(invalid_change(InvalidChange::AlreadyReverting));
            }
            // An earlier leader began the change, and another leader, of which this node does not know, may have
            // appended the new configuration: the same two majorities have to agree on the revert.
            None => current.with_swapped_voter_sets(),
        };
        Ok(self.append_configuration(me, now, reverting_configuration))
    }

    /// The old configuration, if the leader may return to it directly, without another joint configuration. It may if
    /// this leader began the change and the change is not committed: then no leader can have appended the new
    /// configuration, and a majority of the old voters shares a voter with every other quorum in use.
    ///
    /// (Counter-example to a direct return from a change that an earlier leader began: another leader, unseen, has
    /// committed the joint configuration and appended C-new, so that under that leader a majority of the new voters
    /// alone decides. After a return to C-old a majority of the old voters alone decides under this leader. The two
    /// majorities may be disjoint.)
    fn revert_target(&self, me: &Replica) -> Option<Membership> {
        let (current, configuration_index) = (me.configs.current(), me.configs.current_index());
        let is_own_change = configuration_index >= self.term_start_index && configuration_index > me.log.commit();
        let previous_is_simple = me.configs.previous().is_some_and(|before| !before.is_joint());
        (current.is_joint() && is_own_change && previous_is_simple).then(|| current.revert_joint())
    }

    /// Reverts the change under way if its new voters do not respond. Returns whether the change was reverted. Called
    /// when no quorum responds: after a revert the leader does not step down, because without a leader no node could
    /// revert the change.
    ///
    /// No entry commits in this state, so an operator command that needs a log entry could not revert the change either
    /// (raft-rs#192: a joint configuration whose new half had no quorum).
    pub(super) fn revert_change(&mut self, me: &mut Replica, now: Time) -> bool {
        let Some(old_configuration) =
            self.revert_target(me).filter(|_| membership::reverts_stuck_change(me.options.mutants))
        else {
            return false;
        };
        // If the old voters respond, the revert commits. If the old voters do not respond either, the change is not the
        // cause, and the leader steps down.
        let old_voters_respond = quorum::decides(&old_configuration, |id| self.is_in_contact(me, now, id));
        if old_voters_respond {
            me.notes.push(Note::ChangeAborted { configuration_index: me.configs.current_index() });
            self.append_configuration(me, now, old_configuration);
        }
        old_voters_respond
    }

    /// Makes the changes that follow from a committed configuration: leaves a joint configuration, steps down if this
    /// leader was removed, promotes learners that have caught up, and names disks that are known.
    ///
    /// A call appends at most one entry, in order of urgency. A joint configuration is left first, because it needs two
    /// majorities for every commit. Then a removed leader steps down, so that another node can lead. Promotions come
    /// last.
    pub fn advance_membership(&mut self, me: &mut Replica, now: Time) -> NextRole {
        // The configuration in force may be from an entry that this node received as a follower.
        self.apply_configuration(me, now);
        // There is one change at a time, also for automatic changes (redpanda#17675: two promotions in flight led to
        // two leaders).
        if me.configs.current_index() > me.log.commit() || !self.current_term_committed(me) {
            return NextRole::Stay;
        }
        if me.configs.current().is_joint() {
            let new_configuration = me.configs.current().leave_joint();
            self.append_configuration(me, now, new_configuration);
            return NextRole::Stay;
        }
        if !me.configs.current().is_voter(me.id) {
            return self.step_down_if_removed(me, now);
        }
        if !me.configs.current().log_agreed {
            if self.must_wait_for_former_members(me, now) {
                return NextRole::Stay;
            }
            let agreed_membership = Membership { log_agreed: true, ..me.configs.current().clone() };
            self.append_configuration(me, now, agreed_membership);
            return NextRole::Stay;
        }
        // The transfer target has to hold the whole log before it campaigns: each further entry would delay the
        // transfer, while clients wait.
        if self.transfer.is_none() {
            let next = self.promotion_configuration(me, now).or_else(|| disk_naming_configuration(me));
            if let Some(next) = next {
                self.append_configuration(me, now, next);
            }
        }
        NextRole::Stay
    }

    /// Whether this leader is the only founder and still waits for peers. If this node was a member of an existing log,
    /// members of that log dial it. It must not accept a command before they have had time to do so.
    fn must_wait_for_former_members(&self, me: &Replica, now: Time) -> bool {
        me.configs.current().members.len() == 1 && now.since(self.leader_since) < me.options.sole_founder_wait
    }

    /// The configuration that promotes every learner that has a pending promotion, responds and has caught up; `None`
    /// if there is no such learner.
    ///
    /// All learners that are ready are promoted in one change. If they were promoted one after the other, a cluster
    /// that grows from one voter to three would have two voters in between, and would tolerate no failure.
    fn promotion_configuration(&self, me: &Replica, now: Time) -> Option<Membership> {
        let current = me.configs.current();
        let mut voters: BTreeSet<NodeId> = current.voters.clone();
        for (id, member) in &current.members {
            let may_be_promoted = self.progress.get(id).is_some_and(|progress| progress.caught_up)
                && self.member_holds_entry_naming_its_disk(me, *id)
                && self.has_responded(me, now, *id);
            match member.pending_role {
                PendingRole::Promote if may_be_promoted => {}
                PendingRole::Replace(old) if may_be_promoted => {
                    voters.remove(&old);
                }
                _ => continue,
            }
            voters.insert(*id);
        }
        let next = (voters != current.voters).then(|| current.enter_joint(voters).ok()).flatten()?;
        // No learner is promoted if the responding voters would not form a quorum of the new configuration.
        quorum::decides(&next.leave_joint(), |id| self.has_responded(me, now, id)).then_some(next)
    }
}

/// The configuration in force with all known disks named; `None` if it names them already.
fn disk_naming_configuration(me: &Replica) -> Option<Membership> {
    let mut next = me.configs.current().clone();
    me.name_disks(&mut next).then_some(next)
}

fn invalid_change(why: InvalidChange) -> Refusal {
    Refusal::InvalidChange { why: why.to_string() }
}
