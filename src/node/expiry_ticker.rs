//! Proposes entries that carry nothing but the time, so that keys expire while no other entry is appended.

use crate::api::Op;
use crate::consensus::Raft;
use crate::types::{ClusterTime, Index, Position, Time};
use std::time::Duration;

/// The delay before the next attempt if the proposal is rejected.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// While a key has a deadline, an entry carries the time into the log at least this often. The time since the last
/// entry is known only to running nodes: if all of them stop, it is lost, and keys live longer by that much.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// A leader's own time entries, at most one at a time.
#[derive(Clone, Debug)]
pub struct ExpiryTicker {
    /// The last one, until it is applied.
    outstanding: Option<Position>,
    /// When to check again.
    look_at: Time,
}

impl ExpiryTicker {
    /// Creates a ticker with no entry outstanding.
    pub fn new() -> ExpiryTicker {
        ExpiryTicker { outstanding: None, look_at: Time::NEVER }
    }

    /// Proposes a time entry if it is due: the machine has applied the index and cluster time `applied`, and its next
    /// key expires at `due`. Only a leader does so, and the entry has no effect before it is committed.
    pub fn turn(&mut self, now: Time, raft: &mut Raft, applied: (Index, ClusterTime), due: Option<ClusterTime>) {
        self.look_at = Time::NEVER;
        let leads = raft.leads() && raft.transfer_target().is_none();
        let Some(due) = due.filter(|_| leads) else { return };
        let term = raft.term();
        if self.outstanding.is_some_and(|last| last.term == term && last.index > applied.0) {
            // The applier's report wakes the node.
            return;
        }
        let clock = raft.cluster_time(now);
        let due = due.min(ClusterTime(applied.1.0.saturating_add(TOLD_EVERY.as_millis() as u64)));
        if due > clock {
            self.look_at = now + Duration::from_millis(due.0 - clock.0);
            return;
        }
        match raft.propose(now, Op::Tick.encode()) {
            Ok(position) => self.outstanding = Some(position),
            Err(_) => self.look_at = now + RETRY_INTERVAL,
        }
    }

    /// When there is next work to do.
    pub fn deadline(&self) -> Time {
        self.look_at
    }
}

#[cfg(test)]
mod tests;
