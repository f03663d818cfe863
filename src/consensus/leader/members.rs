//! Membership changes on the leader (§6, thesis §4).
//!
//! A change of voters is two entries, and the cluster never depends on one majority alone in between:
//!
//! ```text
//! C-old ──> adopt C-old,new ──> committed by both majorities ──> adopt C-new ──> committed
//!              │                                                (advance_membership)
//!              └──> not committed, and the new voters are silent ──> adopt C-old (revert_change, abort)
//! ```
//!
//! Joint consensus rather than one server at a time (thesis §4.1): a replacement is one change, with no moment in
//! between in which the cluster tolerates one failure less.
//!
//! A new member is a learner first. It receives the log without a vote, so that an empty disk does not make the quorum
//! larger before it can help to reach one (thesis §4.2.1).

use super::Leader;
use crate::api::Refusal;
use crate::consensus::next::Next;
use crate::consensus::note::Note;
use crate::consensus::progress::Progress;
use crate::consensus::quorum;
use crate::consensus::replica::Replica;
use crate::consensus::rules::membership;
use crate::types::{Change, InvalidChange, Membership, NodeId, Payload, PendingRole, Position, Time};
use std::collections::BTreeSet;

/// A removed member is notified for this many of the longest election timeouts at most.
///
/// It may be down for good, and its progress must not be kept forever. A removed member that misses the notice
/// campaigns, and pre-vote makes that harmless (thesis §4.2.3).
const TOLD_FOR: u32 = 10;

impl Leader {
    /// Changes the membership if the change is valid and, unless `force` is set, does not put the cluster at risk. A
    /// refusal means that nothing has happened.
    pub fn reconfigure(
        &mut self,
        me: &mut Replica,
        now: Time,
        change: &Change,
        force: bool,
    ) -> Result<Position, Refusal> {
        if *change == Change::Abort {
            return self.abort(me, now);
        }
        self.may_change(me)?;
        let next = me.configs.current().changed(change).map_err(unsound)?;
        self.names_entering(me, &next)?;
        if !force {
            self.is_harmless(me, now, change, &next)?;
        }
        Ok(self.adopt(me, now, next))
    }

    /// Allows one change at a time, and none before this leader's first entry is committed.
    ///
    /// The single-server changes of the thesis were published without this rule: two leaders could change the same
    /// configuration, each without knowing of the other, and commit with disjoint majorities (Ongaro, 2015; copycat#23,
    /// openraft#2051).
    fn may_change(&self, me: &Replica) -> Result<(), Refusal> {
        let since = me.configs.since();
        // A joint configuration that is committed is still half of a change: the leader leaves it by itself at the next
        // step.
        let settled = since <= me.log.commit() && !me.configs.current().is_joint();
        if !membership::change_may_begin(self.current_term_committed(me), settled, me.options.mutants) {
            return Err(Refusal::Changing { since: since.max(self.term_start_index) });
        }
        Ok(())
    }

    /// Rejects a new voter, forced or not, that does not hold the entry that names its disk: it would count in the
    /// quorum with a disk that could not be told from another.
    fn names_entering(&self, me: &Replica, next: &Membership) -> Result<(), Refusal> {
        let unnamed = |id: &&NodeId| !me.configs.current().is_voter(**id) && !self.is_named(me, **id);
        match next.voters.iter().find(unnamed) {
            None => Ok(()),
            Some(id) => Err(Refusal::InvalidChange {
                why: format!("{id} has not yet received the entry that names its disk: start it, and try again"),
            }),
        }
    }

    /// Whether that member holds the entry that names its disk.
    pub(super) fn is_named(&self, me: &Replica, id: NodeId) -> bool {
        id == me.id || membership::holds_name_of_disk(self.progress.get(&id), me.options.mutants)
    }

    /// Whether the cluster keeps working after the change: every new voter responds and has caught up, and enough of
    /// the new voters respond to form a quorum.
    ///
    /// A voter that does not answer is a failure that the cluster tolerates from the first moment on, and a second one
    /// would then stop it. The operator may know better, for example that the machine is about to start: hence `force`.
    fn is_harmless(&self, me: &Replica, now: Time, change: &Change, next: &Membership) -> Result<(), Refusal> {
        let dangerous = |why: String| Err(Refusal::UnsafeChange { why });
        let entering: Vec<NodeId> =
            next.voters.iter().copied().filter(|id| !me.configs.current().is_voter(*id)).collect();
        for id in entering {
            match self.progress.get(&id) {
                _ if !self.is_recent(me, now, id) => {
                    return dangerous(format!(
                        "{id} does not answer: as a voter it would count and acknowledge nothing"
                    ));
                }
                // In the first moments of a term no follower has had time to respond.
                _ if !self.answers(me, now, id) => return Err(Refusal::Busy),
                Some(progress) if !progress.caught_up => {
                    let behind = me.log.last().index.0 - progress.matched.0;
                    return dangerous(format!(
                        "{id} is {behind} entries behind: until it has caught up, nothing might commit"
                    ));
                }
                Some(_) | None => {}
            }
        }
        // A change of address or a new learner changes no quorum, and is never refused by this.
        let shrinks = matches!(change, Change::Remove(_) | Change::Promote(_) | Change::Voters(_)) && next.is_joint();
        let heard = next.voters.iter().filter(|id| self.answers(me, now, **id)).count();
        let quorum = Membership::majority_of(next.voters.len());
        if shrinks && heard < quorum {
            if next.voters.iter().filter(|id| self.is_recent(me, now, **id)).count() >= quorum {
                return Err(Refusal::Busy);
            }
            let of = next.voters.len();
            return dangerous(format!(
                "only {heard} of the {of} voters of the new configuration respond, and a quorum is {quorum}"
            ));
        }
        Ok(())
    }

    /// Appends a configuration. It is in force as soon as it is in the log (§6).
    ///
    /// Disks that are known by now are named on the way, so that a change never costs a second entry only for that.
    fn adopt(&mut self, me: &mut Replica, now: Time, next: Membership) -> Position {
        let mut next = membership::transition(next, me.options.mutants);
        me.name_disks(&mut next);
        // The configuration is in force with the append: without a voter no quorum could ever undo it.
        assert!(!next.voters.is_empty(), "a configuration has voters (§6)");
        let is_member = |id: NodeId| next.members.contains_key(&id);
        assert!(next.all_voters().all(is_member), "every voter is a member, and so receives the log");
        let position = me.append(now, Payload::Membership(Box::new(next)));
        self.arrange(me, now);
        position
    }

    /// Applies the configuration in force: starts to replicate to new members, and to notify removed ones.
    ///
    /// It compares indexes and not configurations: this runs after every step, and the index changes with every
    /// configuration.
    pub(super) fn arrange(&mut self, me: &Replica, now: Time) {
        if self.arranged == me.configs.since() {
            return;
        }
        self.arranged = me.configs.since();
        let membership = me.configs.current();
        // For a new member too: the first probe at the end of the log finds where its log ends, by its hint, in one
        // round trip.
        let next = me.log.last().index.next();
        for id in membership.ids().filter(|id| *id != me.id) {
            if self.leaving.remove(&id).is_some() {
                // It was removed and added again: it may no longer hold what it held then.
                self.progress.remove(&id);
            }
            self.progress.entry(id).or_insert_with(|| Progress::new(now, next));
        }
        // After the new members are in, and before anything is counted.
        self.update_counted_from(me);
        // A removed member still receives the log up to its own removal. If it did not, it would time out and campaign,
        // and ask for the votes of a cluster it does not know to have left.
        let until = now + me.options.election_max * TOLD_FOR;
        for id in self.progress.keys().filter(|id| !membership.members.contains_key(id)) {
            self.leaving.entry(*id).or_insert(until);
        }
    }

    /// Handles a new disk of a peer: acknowledgments from its earlier disk no longer count.
    ///
    /// Its log may be empty. If `matched` were kept, the leader would take its rejections for late ones or for a loss,
    /// and the disk that has just been added would have to promise what another disk has lost.
    pub fn forget(&mut self, me: &Replica, peer: NodeId) {
        if let Some(progress) = self.progress.get_mut(&peer) {
            *progress = Progress::new(progress.last_contact, me.log.last().index.next());
        }
    }

    /// Drops removed members that hold the configuration without them and know that it is committed, or whose time is
    /// up.
    pub(super) fn drop_removed(&mut self, me: &mut Replica, now: Time) {
        let since = me.configs.since();
        let progress = &mut self.progress;
        let notes = &mut me.notes;
        self.leaving.retain(|peer, until| {
            let told = progress.get(peer).is_some_and(|p| p.commit_sent >= since && p.matched >= since);
            let stays = !told && now < *until;
            if !stays {
                progress.remove(peer);
                notes.push(Note::MemberRemoved { peer: *peer, told });
            }
            stays
        });
    }

    /// Reverts a change that is not committed.
    ///
    /// Only while the change is not committed. From then on the leader moves on to the new configuration by itself, and
    /// the way back is another change.
    fn abort(&mut self, me: &mut Replica, now: Time) -> Result<Position, Refusal> {
        let current = me.configs.current();
        if !current.is_joint() || me.configs.since() <= me.log.commit() {
            return Err(unsound(InvalidChange::Idle));
        }
        let back = match self.revert_target(me) {
            Some(old) => old,
            None if me.configs.before().is_some_and(Membership::is_joint) => {
                return Err(unsound(InvalidChange::Returning));
            }
            // An earlier leader began the change, and another may have moved on to the new configuration unseen: the
            // same two majorities have to agree on the way back.
            None => current.turned(),
        };
        Ok(self.adopt(me, now, back))
    }

    /// The configuration to revert the change under way to, if that may be done directly. It may if this leader began
    /// the change and it is not committed: then no leader can have moved on from it, because this one would have, and a
    /// majority of the old voters rules out every other quorum in use.
    ///
    /// (Counter-example to a direct return from a change that an earlier leader began: another leader, unseen, has
    /// committed the joint configuration and appended C-new, so that a majority of the new voters alone decides there.
    /// After a return to C-old a majority of the old voters alone decides here, and the two majorities may be
    /// disjoint.)
    fn revert_target(&self, me: &Replica) -> Option<Membership> {
        let (current, since) = (me.configs.current(), me.configs.since());
        let ours = since >= self.term_start_index && since > me.log.commit();
        let direct = me.configs.before().is_some_and(|before| !before.is_joint());
        (current.is_joint() && ours && direct).then(|| current.restored())
    }

    /// Called when no quorum responds. If the cause is that the new voters of a change do not respond, the leader
    /// reverts the change and does not step down: without a leader, no node could revert it.
    ///
    /// Nothing commits in this state, so no operator command that goes through the log could help either (raft-rs#192:
    /// a joint configuration whose new half had no quorum).
    pub(super) fn revert_change(&mut self, me: &mut Replica, now: Time) -> bool {
        let Some(back) = self.revert_target(me).filter(|_| membership::reverts_stuck_change(me.options.mutants)) else {
            return false;
        };
        // The old voters respond, so the way back commits. If they do not either, the cause is not the change, and the
        // leader steps down like any other.
        let returns = quorum::decides(&back, |id| self.is_recent(me, now, id));
        if returns {
            me.notes.push(Note::ChangeAborted { since: me.configs.since() });
            self.adopt(me, now, back);
        }
        returns
    }

    /// Makes the changes that follow from a committed configuration: leaves a joint configuration, steps down if this
    /// leader was removed, promotes learners that have caught up, and names disks that are known.
    ///
    /// At most one entry per call, in the order of urgency: a joint configuration needs two majorities for every
    /// commit, so it is left first; a leader that is removed only delays its successor; promotions come last.
    pub fn advance_membership(&mut self, me: &mut Replica, now: Time) -> Next {
        // The configuration may come from entries received as a follower, or from this leader.
        self.arrange(me, now);
        // One change at a time, for automatic ones too (redpanda#17675: two promotions in flight, two leaders).
        if me.configs.since() > me.log.commit() || !self.current_term_committed(me) {
            return Next::Stay;
        }
        if me.configs.current().is_joint() {
            let settled = me.configs.current().settled();
            self.adopt(me, now, settled);
            return Next::Stay;
        }
        if !me.configs.current().is_voter(me.id) {
            return self.step_down_if_removed(me, now);
        }
        if !me.configs.current().log_agreed {
            if self.may_be_named_elsewhere(me, now) {
                return Next::Stay;
            }
            let agreed = Membership { log_agreed: true, ..me.configs.current().clone() };
            self.adopt(me, now, agreed);
            return Next::Stay;
        }
        // The transfer target has to hold the whole log before it campaigns: each further entry would delay that, while
        // clients wait.
        if self.transfer.is_none() {
            let next = self.with_promotions(me, now).or_else(|| with_named_disks(me));
            if let Some(next) = next {
                self.adopt(me, now, next);
            }
        }
        Next::Stay
    }

    /// Whether a founder that is alone in its list still waits: members of another log that know it by id and address
    /// dial it, and it must not accept a command before they have had the time to.
    fn may_be_named_elsewhere(&self, me: &Replica, now: Time) -> bool {
        me.configs.current().members.len() == 1 && now.since(self.began) < me.options.sole_founder_wait
    }

    /// The configuration that promotes the learners that wait for a vote, respond and have caught up.
    ///
    /// All learners that are ready in one change. One after the other, a cluster that grows from one to three would be
    /// one of two in between, which tolerates no failure and needs both.
    fn with_promotions(&self, me: &Replica, now: Time) -> Option<Membership> {
        let current = me.configs.current();
        let mut voters: BTreeSet<NodeId> = current.voters.clone();
        for (id, member) in &current.members {
            let fit = self.progress.get(id).is_some_and(|progress| progress.caught_up)
                && self.is_named(me, *id)
                && self.answers(me, now, *id);
            match member.pending_role {
                PendingRole::Promote if fit => {}
                PendingRole::Replace(old) if fit => {
                    voters.remove(&old);
                }
                _ => continue,
            }
            voters.insert(*id);
        }
        let next = (voters != current.voters).then(|| current.towards(voters).ok()).flatten()?;
        // Does not count on a voter that has just stopped responding.
        quorum::decides(&next.settled(), |id| self.answers(me, now, id)).then_some(next)
    }
}

/// The configuration that names the known disks, if any are not named yet.
fn with_named_disks(me: &Replica) -> Option<Membership> {
    let mut next = me.configs.current().clone();
    me.name_disks(&mut next).then_some(next)
}

fn unsound(why: InvalidChange) -> Refusal {
    Refusal::InvalidChange { why: why.to_string() }
}
