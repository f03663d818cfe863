//! Leadership transfer (thesis §3.10).
//!
//! ```text
//! leader                                           target
//! start_transfer: reject new work, fail waiting reads
//! ready:     stream the rest of the log ─────────> append, sync
//!            <───────────────────────────────────  AppendResponse, matched = last
//! send_timeout_now: TimeoutNow ──────────────────> campaign at once, kind Transfer
//!            <───────────────────────────────────  RequestVote of a higher term
//! step down (StepDownReason::Transferred)
//! ```
//!
//! A transfer makes a planned change of leader shorter than an election timeout, and changes no rule: the target needs
//! the votes of a majority like any candidate. If it does not win, the leader goes on after the deadline.

use super::Leader;
use crate::api::Refusal;
use crate::consensus::message::Message;
use crate::consensus::next::NextRole;
use crate::consensus::note::{Note, StepDownReason};
use crate::consensus::progress::ProgressState;
use crate::consensus::reads::ReadId;
use crate::consensus::replica::Replica;
use crate::types::{NodeId, Time};

/// A leadership transfer under way. The leader rejects new work until the target leads or the deadline passes.
#[derive(Clone, Debug)]
pub struct LeaderTransfer {
    target: NodeId,
    deadline: Time,
    // Whether `TimeoutNow` was sent. It is sent once per transfer: if it is lost, the transfer ends at the deadline.
    timeout_now_sent: bool,
}

impl LeaderTransfer {
    /// When the leader aborts the transfer and accepts new work again.
    pub fn deadline(&self) -> Time {
        self.deadline
    }
}

impl Leader {
    /// The voter that is to take over the leadership; `None` if no transfer is under way.
    pub fn transfer_target(&self) -> Option<NodeId> {
        self.transfer.as_ref().map(|transfer| transfer.target)
    }

    /// Starts a transfer to that voter, or to the best target. The leader rejects new work, brings the target up to
    /// date, and makes it campaign at once. Waiting reads fail and are returned. The transfer ends, or is aborted,
    /// within the shortest election timeout.
    ///
    /// Waiting reads fail at once: the target may lead and commit before this node learns of it, and a client can retry
    /// on the target (etcd-raft#99: a lease that outlived a transfer). The deadline is one election timeout, as in
    /// thesis §3.10: a failed transfer then interrupts the cluster no longer than a failed leader.
    pub fn start_transfer(
        &mut self,
        me: &mut Replica,
        now: Time,
        to: Option<NodeId>,
    ) -> Result<(NodeId, Vec<ReadId>), Refusal> {
        let invalid_change = |why: String| Refusal::InvalidChange { why };
        let target = match to {
            Some(to) if to == me.id => return Err(invalid_change(format!("{to} is already the leader"))),
            Some(to) if !me.configs.current().voters.contains(&to) => {
                return Err(invalid_change(format!("{to} is not a voter")));
            }
            Some(to) if !self.has_responded(me, now, to) => {
                return Err(invalid_change(format!("{to} does not answer")));
            }
            Some(to) if self.is_receiving_snapshot(to) => {
                return Err(invalid_change(format!(
                    "{to} is being sent a snapshot: it can lead once it holds that and the entries after it"
                )));
            }
            Some(to) => to,
            None => {
                self.best_transfer_target(me, now).ok_or_else(|| invalid_change("no other voter answers".to_owned()))?
            }
        };
        // A repeated request does not extend the deadline: otherwise a client that retries in a loop could keep the
        // leader from accepting work.
        if self.transfer_target() == Some(target) {
            return Ok((target, Vec::new()));
        }
        me.notes.push(Note::TransferStarted { to: target });
        self.transfer =
            Some(LeaderTransfer { target, deadline: now + me.options.election_min, timeout_now_sent: false });
        Ok((target, self.reads.abandon_all_reads()))
    }

    /// Whether a snapshot is being sent to that follower, because it needs compacted entries.
    fn is_receiving_snapshot(&self, id: NodeId) -> bool {
        self.progress.get(&id).is_some_and(|progress| progress.state == ProgressState::Snapshot)
    }

    /// The best target of a transfer. A target responds in this term, holds the entry that names its disk, and is not
    /// being sent a snapshot; room on its disk comes first, then the length of the matching log.
    fn best_transfer_target(&self, me: &Replica, now: Time) -> Option<NodeId> {
        let voters = me.configs.current().voters.iter().copied().filter(|id| *id != me.id);
        // Room comes before the length of the log: every target receives the rest of the log before it campaigns, but
        // no transfer gives a full disk more room.
        let candidates = voters.filter(|id| {
            self.has_responded(me, now, *id)
                && self.member_holds_entry_naming_its_disk(me, *id)
                && !self.is_receiving_snapshot(*id)
        });
        let target_rank = |id: &NodeId| self.progress.get(id).map(|progress| (!progress.room.is_low, progress.matched));
        candidates.max_by_key(target_rank)
    }

    /// Whether the best target has room on its disk, and so could lead when this node's disk is full.
    ///
    /// Without this check, nodes with full disks would transfer the leadership among them for ever.
    pub fn has_target_with_room(&self, me: &Replica, now: Time) -> bool {
        self.best_transfer_target(me, now)
            .and_then(|id| self.progress.get(&id))
            .is_some_and(|progress| !progress.room.is_low)
    }

    /// Sends `TimeoutNow` to the target, which then campaigns, once the target holds all of this leader's log.
    pub(super) fn send_timeout_now(&mut self, me: &mut Replica) {
        let Some(transfer) = &mut self.transfer else { return };
        // The target must hold the entries durably: its vote request waits until its log is durable.
        let holds_whole_log = self.progress.get(&transfer.target).is_some_and(|p| p.matched == me.log.last().index);
        if holds_whole_log && !transfer.timeout_now_sent {
            transfer.timeout_now_sent = true;
            me.send(transfer.target, Message::TimeoutNow);
        }
    }

    /// Aborts the transfer after its deadline; this node remains leader.
    pub(super) fn abort_overdue_transfer(&mut self, me: &mut Replica, now: Time) {
        if let Some(transfer) = self.transfer.take_if(|transfer| transfer.deadline <= now) {
            me.notes.push(Note::TransferTimedOut { to: transfer.target });
        }
    }

    /// Makes another voter campaign and steps down: in the committed configuration this node is no voter (§6).
    ///
    /// The node leads until C-new is committed, although the configuration does not list it, and does not count in any
    /// quorum meanwhile (thesis §4.2.2).
    pub(super) fn step_down_if_removed(&mut self, me: &mut Replica, now: Time) -> NextRole {
        // The target most likely needs no entries: a majority holds the configuration without this node.
        if let Some(target) = self.best_transfer_target(me, now) {
            me.send(target, Message::TimeoutNow);
        }
        // From a last heartbeat the followers learn that the configuration without this node is committed.
        self.send_last_heartbeat(me, now);
        NextRole::StepDown(StepDownReason::Removed)
    }

    /// Sends a last heartbeat with the commit index to all followers.
    ///
    /// A follower that misses the heartbeat learns the commit index from the next leader.
    fn send_last_heartbeat(&mut self, me: &mut Replica, now: Time) {
        let round = me.latest_round;
        self.send_heartbeats(me, now, round);
    }
}
