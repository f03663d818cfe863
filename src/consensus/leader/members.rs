//! How a leader changes who belongs to the cluster (§6, thesis §4).

use super::Leader;
use crate::api::Refusal;
use crate::consensus::next::Next;
use crate::consensus::note::Note;
use crate::consensus::progress::Progress;
use crate::consensus::quorum;
use crate::consensus::replica::Replica;
use crate::types::{Change, InvalidChange, Membership, Mutant, NodeId, Payload, PendingRole, Position, Time};
use std::collections::BTreeSet;

/// Who is no member any more is told so for this many of the longest election timeouts.
const TOLD_FOR: u32 = 10;

impl Leader {
    /// Changes the members, if that is sound, and, unless `force`d, if it does not put the cluster at
    /// risk. A refusal means that nothing has happened.
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

    /// One change at a time, and none before our own first entry is committed: two leaders that changed the
    /// same configuration, each without the other's knowledge, could come to disjoint majorities.
    fn may_change(&self, me: &Replica) -> Result<(), Refusal> {
        let mutants = me.options.mutants;
        let open = self.current_term_committed(me) || mutants.breaks(Mutant::ChangeBeforeNoop);
        let since = me.configs.since();
        let settled = since <= me.log.commit() && !me.configs.current().is_joint();
        if !open || !(settled || mutants.breaks(Mutant::StackChanges)) {
            return Err(Refusal::Changing { since: since.max(self.term_start_index) });
        }
        Ok(())
    }

    /// Nobody becomes a voter, forced or not, that does not hold the entry that names its disk: it would stand in
    /// the quorum under a disk that nobody could tell from another.
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
        let holds = |progress: &Progress| progress.counted_from.is_some_and(|from| progress.matched >= from);
        me.options.mutants.breaks(Mutant::PromoteUnnamed) || id == me.id || self.progress.get(&id).is_some_and(holds)
    }

    /// Whether the cluster would go on all the same: whoever is to become a voter is there and has caught
    /// up, and so many of the new voters are heard that they can decide.
    fn is_harmless(&self, me: &Replica, now: Time, change: &Change, next: &Membership) -> Result<(), Refusal> {
        let dangerous = |why: String| Err(Refusal::UnsafeChange { why });
        let entering: Vec<NodeId> =
            next.voters.iter().copied().filter(|id| !me.configs.current().is_voter(*id)).collect();
        for id in entering {
            match self.progress.get(&id) {
                _ if !self.hears(me, now, id) => {
                    return dangerous(format!("{id} does not answer: as a voter it would count and not help"));
                }
                // In the first moments of a term nobody has had the time to.
                _ if !self.answers(me, now, id) => return Err(Refusal::Busy),
                Some(progress) if !progress.caught_up => {
                    let behind = me.log.last().index.0 - progress.matched.0;
                    return dangerous(format!("{id} is {behind} entries behind: nothing might commit until it is not"));
                }
                Some(_) | None => {}
            }
        }
        let shrinks = matches!(change, Change::Remove(_) | Change::Promote(_) | Change::Voters(_)) && next.is_joint();
        let heard = next.voters.iter().filter(|id| self.answers(me, now, **id)).count();
        let quorum = Membership::majority_of(next.voters.len());
        if shrinks && heard < quorum {
            if next.voters.iter().filter(|id| self.hears(me, now, **id)).count() >= quorum {
                return Err(Refusal::Busy);
            }
            let of = next.voters.len();
            return dangerous(format!(
                "only {heard} of the {of} voters it leads to are heard, and a quorum is {quorum}"
            ));
        }
        Ok(())
    }

    /// A configuration counts from the moment it is in the log (§6).
    fn adopt(&mut self, me: &mut Replica, now: Time, next: Membership) -> Position {
        let mut next = if me.options.mutants.breaks(Mutant::ChangeWithoutJoint) { next.settled() } else { next };
        me.name_disks(&mut next);
        let position = me.append(now, Payload::Membership(Box::new(next)));
        self.arrange(me, now);
        position
    }

    /// Follows the configuration in force: whoever is new is sent the log, and whoever left is told so.
    pub(super) fn arrange(&mut self, me: &Replica, now: Time) {
        if self.arranged == me.configs.since() {
            return;
        }
        self.arranged = me.configs.since();
        let membership = me.configs.current();
        let next = me.log.last().index.next();
        for id in membership.ids().filter(|id| *id != me.id) {
            if self.leaving.remove(&id).is_some() {
                // It left and was added again: what it held then, it may hold no more.
                self.progress.remove(&id);
            }
            self.progress.entry(id).or_insert_with(|| Progress::new(now, next));
        }
        self.recount(me);
        let until = now + me.options.election_max * TOLD_FOR;
        for id in self.progress.keys().filter(|id| !membership.members.contains_key(id)) {
            self.leaving.entry(*id).or_insert(until);
        }
    }

    /// That peer came with a disk we did not know: what was confirmed on another counts for nothing.
    pub fn forget(&mut self, me: &Replica, peer: NodeId) {
        if let Some(progress) = self.progress.get_mut(&peer) {
            *progress = Progress::new(progress.last_contact, me.log.last().index.next());
        }
    }

    /// Lets go of those who left, once they know: they hold the configuration without them, and know that it
    /// is committed; or when they have had time enough.
    pub(super) fn let_go(&mut self, me: &mut Replica, now: Time) {
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

    /// Takes back a change that is not committed.
    fn abort(&mut self, me: &mut Replica, now: Time) -> Result<Position, Refusal> {
        let current = me.configs.current();
        if !current.is_joint() || me.configs.since() <= me.log.commit() {
            return Err(unsound(InvalidChange::Idle));
        }
        let back = match self.way_back(me) {
            Some(old) => old,
            None if me.configs.before().is_some_and(Membership::is_joint) => {
                return Err(unsound(InvalidChange::Returning));
            }
            // An earlier leader began it, and another may have gone on to the new configuration unseen: the
            // same two majorities have to agree on the way back.
            None => current.turned(),
        };
        Ok(self.adopt(me, now, back))
    }

    /// What the change under way came from, if it may be returned to at once. It may if this leader began it
    /// and it is not committed: then nobody can have gone on from it, for we should have, and one majority of
    /// the old voters excludes any other that is in use.
    fn way_back(&self, me: &Replica) -> Option<Membership> {
        let (current, since) = (me.configs.current(), me.configs.since());
        let ours = since >= self.term_start_index && since > me.log.commit();
        let direct = me.configs.before().is_some_and(|before| !before.is_joint());
        (current.is_joint() && ours && direct).then(|| current.restored())
    }

    /// No quorum is heard. If that is because those whom a change would make voters do not answer, the change is
    /// taken back rather than the leadership given up: with nobody to lead, nobody could.
    pub(super) fn takes_back(&mut self, me: &mut Replica, now: Time) -> bool {
        let Some(back) = self.way_back(me).filter(|_| !me.options.mutants.breaks(Mutant::NeverTakeBack)) else {
            return false;
        };
        let returns = quorum::decides(&back, |id| self.hears(me, now, id));
        if returns {
            me.notes.push(Note::ChangeAborted { since: me.configs.since() });
            self.adopt(me, now, back);
        }
        returns
    }

    /// What follows by itself from what is committed: a joint configuration settles, a leader that is no
    /// member goes, learners that have caught up rise, and disks that were heard of are named.
    pub fn govern(&mut self, me: &mut Replica, now: Time) -> Next {
        // Whatever brought it: a follower's entries that we now lead, or our own.
        self.arrange(me, now);
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
        if self.handover.is_none() {
            let next = self.risen(me, now).or_else(|| named(me));
            if let Some(next) = next {
                self.adopt(me, now, next);
            }
        }
        Next::Stay
    }

    /// Whether a founder that has nobody to ask still waits: members of another log that know it by its id and
    /// address dial it, and it must not take a command before it has heard of them.
    fn may_be_named_elsewhere(&self, me: &Replica, now: Time) -> bool {
        me.configs.current().members.len() == 1 && now.since(self.began) < me.options.alone_wait
    }

    /// The configuration in which learners that wait for a vote, and are there and caught up, have one.
    fn risen(&self, me: &Replica, now: Time) -> Option<Membership> {
        let current = me.configs.current();
        let mut voters: BTreeSet<NodeId> = current.voters.clone();
        for (id, member) in &current.members {
            let fit = self.progress.get(id).is_some_and(|progress| progress.caught_up)
                && self.is_named(me, *id)
                && self.answers(me, now, *id);
            match member.prospect {
                PendingRole::Rises if fit => {}
                PendingRole::Succeeds(old) if fit => {
                    voters.remove(&old);
                }
                _ => continue,
            }
            voters.insert(*id);
        }
        let next = (voters != current.voters).then(|| current.towards(voters).ok()).flatten()?;
        // Whoever falls silent just now must not be counted on.
        quorum::decides(&next.settled(), |id| self.answers(me, now, id)).then_some(next)
    }
}

/// The configuration in which disks that we have met are named, if there are any that are not.
fn named(me: &Replica) -> Option<Membership> {
    let mut next = me.configs.current().clone();
    me.name_disks(&mut next).then_some(next)
}

fn unsound(why: InvalidChange) -> Refusal {
    Refusal::InvalidChange { why: why.to_string() }
}
