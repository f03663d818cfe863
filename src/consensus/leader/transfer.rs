//! How a leader hands over (thesis §3.10).

use super::Leader;
use crate::api::Refusal;
use crate::consensus::message::Message;
use crate::consensus::next::Next;
use crate::consensus::note::{Note, StepDown};
use crate::consensus::progress::ProgressState;
use crate::consensus::reads::ReadId;
use crate::consensus::replica::Replica;
use crate::types::{NodeId, Time};

/// Another is to take over: no new work is taken until it has, or until that takes too long.
#[derive(Clone, Debug)]
pub struct LeaderTransfer {
    to: NodeId,
    until: Time,
    asked: bool,
}

impl LeaderTransfer {
    /// When it is given up.
    pub fn until(&self) -> Time {
        self.until
    }
}

impl Leader {
    /// To whom we hand over, while we do.
    pub fn transfer_target(&self) -> Option<NodeId> {
        self.handover.as_ref().map(|handover| handover.to)
    }

    /// Hands over to that voter, or to the one that is best placed: takes no new work, brings it up to date,
    /// and asks it to campaign at once. Reads that wait come to nothing: the ones that are returned.
    /// Within an election timeout it is done, or given up.
    pub fn hand_over(
        &mut self,
        me: &mut Replica,
        now: Time,
        to: Option<NodeId>,
    ) -> Result<(NodeId, Vec<ReadId>), Refusal> {
        let unsound = |why: String| Refusal::InvalidChange { why };
        let to = match to {
            Some(to) if to == me.id => return Err(unsound(format!("{to} leads already"))),
            Some(to) if !me.configs.current().voters.contains(&to) => {
                return Err(unsound(format!("{to} is not a voter")));
            }
            Some(to) if !self.answers(me, now, to) => return Err(unsound(format!("{to} does not answer"))),
            Some(to) if self.is_sent_snapshot(to) => {
                return Err(unsound(format!(
                    "{to} is being sent a snapshot: it can lead once it holds that and the log behind it"
                )));
            }
            Some(to) => to,
            None => self.best_transfer_target(me, now).ok_or_else(|| unsound("no other voter answers".to_owned()))?,
        };
        if self.transfer_target() == Some(to) {
            return Ok((to, Vec::new()));
        }
        me.notes.push(Note::HandsOver { to });
        self.handover = Some(LeaderTransfer { to, until: now + me.options.election_min, asked: false });
        Ok((to, self.reads.abandon()))
    }

    /// Whether what a follower needs is not in the log any more, and a snapshot is on its way to it.
    fn is_sent_snapshot(&self, id: NodeId) -> bool {
        self.progress.get(&id).is_some_and(|progress| progress.stage == ProgressState::Snapshot)
    }

    /// The voter that would take over soonest: it has answered in this term, has room on its disk, and holds the most of our log.
    fn best_transfer_target(&self, me: &Replica, now: Time) -> Option<NodeId> {
        let voters = me.configs.current().voters.iter().copied().filter(|id| *id != me.id);
        let able =
            voters.filter(|id| self.answers(me, now, *id) && self.is_named(me, *id) && !self.is_sent_snapshot(*id));
        let rank = |id: &NodeId| self.progress.get(id).map(|progress| (!progress.room.low, progress.matched));
        able.max_by_key(rank)
    }

    /// Whether a voter that answers has room on its disk, and so could lead where we cannot.
    pub fn has_roomy_heir(&self, me: &Replica, now: Time) -> bool {
        self.best_transfer_target(me, now)
            .and_then(|id| self.progress.get(&id))
            .is_some_and(|progress| !progress.room.low)
    }

    /// Asks it to campaign, once it holds all of our log.
    pub(super) fn ask_to_step_up(&mut self, me: &mut Replica) {
        let Some(handover) = &mut self.handover else { return };
        let matched = self.progress.get(&handover.to).is_some_and(|p| p.matched == me.log.last().index);
        if matched && !handover.asked {
            handover.asked = true;
            me.send(handover.to, Message::TimeoutNow);
        }
    }

    /// It takes too long, or who was to take over does not answer: we lead on.
    pub(super) fn end_handover(&mut self, me: &mut Replica, now: Time) {
        if let Some(handover) = self.handover.take_if(|handover| handover.until <= now) {
            me.notes.push(Note::KeepsLead { to: handover.to });
        }
    }

    /// We are no voter any more, and that is committed: another takes over, and we lead no more (§6).
    pub(super) fn step_down_if_removed(&mut self, me: &mut Replica, now: Time) -> Next {
        // Best placed already: it holds the configuration without us, for a majority does.
        if let Some(heir) = self.best_transfer_target(me, now) {
            me.send(heir, Message::TimeoutNow);
        }
        // Those who wait for word of that commit have it with our last beat.
        self.farewell(me, now);
        Next::StepDown(StepDown::Removed)
    }

    /// A last beat: what is committed, to everyone who holds it.
    fn farewell(&mut self, me: &mut Replica, now: Time) {
        let round = me.round;
        self.beat(me, now, round);
    }
}
