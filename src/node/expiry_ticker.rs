//! When a leader lets time pass by itself: an entry that bears nothing else, for what is to end.

use crate::api::Op;
use crate::consensus::Raft;
use crate::types::{ClusterTime, Index, Position, Time};
use std::time::Duration;

/// If the entry is not taken now, it is tried again after this long.
const AGAIN: Duration = Duration::from_millis(50);

/// While something is to end, the log is told the time at least so often. The time that has passed since the last entry
/// is known to those that run alone: if all of them stop, it is lost, and what was to end lives longer by that.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// A leader's own entries, one at a time.
#[derive(Clone, Debug)]
pub struct ExpiryTicker {
    /// The last one, until it is applied.
    outstanding: Option<Position>,
    /// When to look again.
    look_at: Time,
}

impl ExpiryTicker {
    /// None yet.
    pub fn new() -> ExpiryTicker {
        ExpiryTicker { outstanding: None, look_at: Time::NEVER }
    }

    /// Proposes one if it is time: the machine has applied everything up to `applied`, an entry of that time, and
    /// something in it ends at `due`. Only a leader does, and what it says binds nobody before it is committed.
    pub fn turn(&mut self, now: Time, raft: &mut Raft, applied: (Index, ClusterTime), due: Option<ClusterTime>) {
        self.look_at = Time::NEVER;
        let leads = raft.leads() && raft.transfer_target().is_none();
        let Some(due) = due.filter(|_| leads) else { return };
        let term = raft.term();
        if self.outstanding.is_some_and(|last| last.term == term && last.index > applied.0) {
            // That it is applied will wake us.
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
            Err(_) => self.look_at = now + AGAIN,
        }
    }

    /// When there is next something to do.
    pub fn deadline(&self) -> Time {
        self.look_at
    }
}

#[cfg(test)]
mod tests;
