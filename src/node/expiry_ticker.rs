//! Proposes entries that carry nothing but the time, so that keys expire while no other entry is appended.
//!
//! The machine has no clock of its own: with one, two nodes would apply the same entry to different states. The
//! machine's time is that of the last applied entry, so without entries the machine's time stops, and keys never expire
//! on a cluster without writes. An entry at fixed intervals would cost an idle cluster a sync per interval, forever. So
//! the leader proposes a tick when the machine reports that a key is due, and otherwise once a minute while any key has
//! a deadline.
//!
//! A tick is an ordinary entry. It may be lost with its leader, or committed late; expiry depends only on the time in
//! it, and on its place in the log.

use crate::api::Op;
use crate::consensus::Raft;
use crate::types::{ClusterTime, Index, Position, Time};
use std::time::Duration;

/// The delay before the next attempt if the proposal is rejected: the log holds too many uncommitted bytes, or is not
/// confirmed as the cluster's log yet.
const PROPOSAL_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// While a key has a deadline, an entry carries the time into the log at least this often. The time since the last
/// entry is known only to running nodes: if all of them stop, it is lost, and keys live longer by that much.
const TICK_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// Proposes ticks (entries that carry only the cluster time) on a leader, at most one at a time.
#[derive(Clone, Debug)]
pub struct ExpiryTicker {
    /// The position of the last tick, until the tick is applied. Its term tells whether it may still be committed as
    /// proposed: a tick of a lost term is forgotten, and the next leader proposes its own.
    outstanding_tick: Option<Position>,
    /// When to check again whether a tick is due.
    next_check_at: Time,
}

impl ExpiryTicker {
    /// Creates a ticker with no tick outstanding.
    pub fn new() -> ExpiryTicker {
        ExpiryTicker { outstanding_tick: None, next_check_at: Time::NEVER }
    }

    /// Proposes a tick if it is due: the machine has applied the index and cluster time `applied`, and its next
    /// key expires at `due`. Only a leader proposes ticks, and a tick has no effect before it is committed.
    ///
    /// One entry is outstanding at a time: until it is applied, `due` still names the key that it expires, and each
    /// turn would propose another. All keys due by the time of one entry expire with it.
    ///
    /// No tick is proposed during a leadership transfer: the log must not grow while the target catches up (thesis
    /// §3.10).
    pub fn propose_if_due(
        &mut self,
        now: Time,
        raft: &mut Raft,
        applied: (Index, ClusterTime),
        due: Option<ClusterTime>,
    ) {
        self.next_check_at = Time::NEVER;
        let may_propose = raft.leads() && raft.transfer_target().is_none();
        let Some(due) = due.filter(|_| may_propose) else { return };
        let term = raft.term();
        if self.outstanding_tick.is_some_and(|last| last.term == term && last.index > applied.0) {
            // The previous tick is not applied yet. The applier's report of it wakes the node.
            return;
        }
        let cluster_time = raft.cluster_time(now);
        let due = due.min(ClusterTime(applied.1.0.saturating_add(TICK_INTERVAL_MAX.as_millis() as u64)));
        if due > cluster_time {
            self.next_check_at = now + Duration::from_millis(due.0 - cluster_time.0);
            return;
        }
        match raft.propose(now, Op::Tick.encode()) {
            Ok(position) => {
                assert!(position.index > applied.0, "an entry is applied only after it is proposed");
                assert_eq!(position.term, term, "a leader proposes in its own term (§5.3)");
                self.outstanding_tick = Some(position);
            }
            Err(_) => self.next_check_at = now + PROPOSAL_RETRY_INTERVAL,
        }
    }

    /// When [`ExpiryTicker::propose_if_due`] has to check again.
    pub fn deadline(&self) -> Time {
        self.next_check_at
    }
}

#[cfg(test)]
mod tests;
