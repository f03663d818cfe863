//! Leadership transfer (thesis §3.10).
//!
//! ```text
//! leader                                           target
//! hand_over: reject new work, fail waiting reads
//! ready:     stream the rest of the log ─────────> append, sync
//!            <───────────────────────────────────  AppendResponse, matched = last
//! send_timeout_now: TimeoutNow ──────────────────> campaign at once, kind Transfer
//!            <───────────────────────────────────  RequestVote of a higher term
//! step down (StepDown::Transferred)
//! ```
//!
//! A transfer makes a planned change of leader shorter than an election timeout, and changes no rule: the target needs
//! the votes of a majority like any candidate. If it does not win, the leader goes on after the deadline.

use super::Leader;
use crate::api::Refusal;
use crate::consensus::message::Message;
use crate::consensus::next::Next;
use crate::consensus::note::{Note, StepDown};
use crate::consensus::progress::ProgressState;
use crate::consensus::reads::ReadId;
use crate::consensus::replica::Replica;
use crate::types::{NodeId, Time};

/// A leadership transfer under way. The leader rejects new work until the target leads or the deadline passes.
#[derive(Clone, Debug)]
pub struct LeaderTransfer {
    to: NodeId,
    until: Time,
    // One request per transfer: if it is lost, the deadline ends the transfer, and clients wait no longer than that.
    asked: bool,
}

impl LeaderTransfer {
    /// The time at which it is aborted.
    pub fn until(&self) -> Time {
        self.until
    }
}

impl Leader {
    /// The target of the transfer under way, if any.
    pub fn transfer_target(&self) -> Option<NodeId> {
        self.transfer.as_ref().map(|handover| handover.to)
    }

    /// Transfers leadership to that voter, or to the best target: rejects new work, brings the target up to date, and
    /// makes it campaign at once. Waiting reads fail and are returned. The transfer ends, or is aborted, within the
    /// shortest election timeout.
    ///
    /// Reads fail at once, and do not wait for their round: the target may lead and commit before this node learns of
    /// it, and a client can retry on the target (etcd-raft#99: a lease that outlived a transfer). The deadline is one
    /// election timeout, as in thesis §3.10, because that is what the cluster would lose without a leader.
    pub fn hand_over(
        &mut self,
        me: &mut Replica,
        now: Time,
        to: Option<NodeId>,
    ) -> Result<(NodeId, Vec<ReadId>), Refusal> {
        let unsound = |why: String| Refusal::InvalidChange { why };
        let to = match to {
            Some(to) if to == me.id => return Err(unsound(format!("{to} is already the leader"))),
            Some(to) if !me.configs.current().voters.contains(&to) => {
                return Err(unsound(format!("{to} is not a voter")));
            }
            Some(to) if !self.answers(me, now, to) => return Err(unsound(format!("{to} does not answer"))),
            Some(to) if self.is_sent_snapshot(to) => {
                return Err(unsound(format!(
                    "{to} is being sent a snapshot: it can lead once it holds that and the entries after it"
                )));
            }
            Some(to) => to,
            None => self.best_transfer_target(me, now).ok_or_else(|| unsound("no other voter answers".to_owned()))?,
        };
        // A repeated command does not prolong the deadline: a client that retries in a loop would keep the cluster from
        // serving.
        if self.transfer_target() == Some(to) {
            return Ok((to, Vec::new()));
        }
        me.notes.push(Note::TransferStarted { to });
        self.transfer = Some(LeaderTransfer { to, until: now + me.options.election_min, asked: false });
        Ok((to, self.reads.abandon()))
    }

    /// Whether a snapshot is being sent to that follower, because the entries it needs are no longer in the log.
    fn is_sent_snapshot(&self, id: NodeId) -> bool {
        self.progress.get(&id).is_some_and(|progress| progress.stage == ProgressState::Snapshot)
    }

    /// The best target of a transfer. A target responds in this term, holds the entry that names its disk, and is not
    /// being sent a snapshot; room on its disk comes first, then the length of the matching log.
    fn best_transfer_target(&self, me: &Replica, now: Time) -> Option<NodeId> {
        let voters = me.configs.current().voters.iter().copied().filter(|id| *id != me.id);
        // Not the longest log first: every target receives the rest of the log before it campaigns, but no transfer
        // gives a full disk more room.
        let able =
            voters.filter(|id| self.answers(me, now, *id) && self.is_named(me, *id) && !self.is_sent_snapshot(*id));
        let rank = |id: &NodeId| self.progress.get(id).map(|progress| (!progress.room.low, progress.matched));
        able.max_by_key(rank)
    }

    /// Whether a voter that responds has room on its disk, and so could lead where this node cannot.
    ///
    /// Otherwise a cluster whose disks are all full would pass the leadership around, without a node that could accept
    /// a write.
    pub fn has_target_with_room(&self, me: &Replica, now: Time) -> bool {
        self.best_transfer_target(me, now)
            .and_then(|id| self.progress.get(&id))
            .is_some_and(|progress| !progress.room.low)
    }

    /// Makes the target campaign, once it holds all of this leader's log.
    pub(super) fn send_timeout_now(&mut self, me: &mut Replica) {
        let Some(handover) = &mut self.transfer else { return };
        // `matched`, so on the disk of the target: its vote request states the end of its log, and waits for its disk
        // in any case.
        let matched = self.progress.get(&handover.to).is_some_and(|p| p.matched == me.log.last().index);
        if matched && !handover.asked {
            handover.asked = true;
            me.send(handover.to, Message::TimeoutNow);
        }
    }

    /// Aborts the transfer after its deadline; this node goes on leading.
    pub(super) fn end_handover(&mut self, me: &mut Replica, now: Time) {
        if let Some(handover) = self.transfer.take_if(|handover| handover.until <= now) {
            me.notes.push(Note::TransferTimedOut { to: handover.to });
        }
    }

    /// Makes another voter campaign and steps down: the committed configuration has no vote for this node (§6).
    ///
    /// It has led up to here although the configuration does not list it: until C-new is committed, it has to manage a
    /// cluster that does not include it (thesis §4.2.2). It is not counted in any quorum meanwhile.
    pub(super) fn step_down_if_removed(&mut self, me: &mut Replica, now: Time) -> Next {
        // The target should need no entries: a majority holds the configuration without this node.
        if let Some(heir) = self.best_transfer_target(me, now) {
            me.send(heir, Message::TimeoutNow);
        }
        // Followers learn from a last heartbeat that the configuration is committed.
        self.farewell(me, now);
        Next::StepDown(StepDown::Removed)
    }

    /// Sends a last heartbeat with the commit index to all followers.
    ///
    /// A follower that misses it learns the same from the next leader, an election later.
    fn farewell(&mut self, me: &mut Replica, now: Time) {
        let round = me.round;
        self.send_heartbeats(me, now, round);
    }
}
