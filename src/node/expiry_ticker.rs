//! Proposes entries that carry nothing but the time, so that keys expire while no other entry is appended.
//!
//! The machine has no clock of its own: it would apply the same entry to different states on two nodes. Its time is
//! that of the last applied entry, so without entries time stands still, and a key that expires during a quiet night
//! would be there in the morning. An entry at fixed intervals would cost an idle cluster a sync at each of them,
//! forever. So the leader proposes one when the machine says that a key is due, and otherwise once a minute while any
//! key has a deadline.
//!
//! A tick is an ordinary entry. It may be lost with its leader, or committed late; expiry depends only on the time in
//! it, and on its place in the log.

use crate::api::Op;
use crate::consensus::Raft;
use crate::types::{ClusterTime, Index, Position, Time};
use std::time::Duration;

/// The delay before the next attempt if the proposal is rejected: the log holds too much that is not committed, or
/// is not agreed yet.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// While a key has a deadline, an entry carries the time into the log at least this often. The time since the last
/// entry is known only to running nodes: if all of them stop, it is lost, and keys live longer by that much.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// A leader's own time entries, at most one at a time.
#[derive(Clone, Debug)]
pub struct ExpiryTicker {
    /// The last one, until it is applied. Its term tells whether it may still be committed as proposed: a tick of a
    /// lost term is forgotten, and the next leader proposes its own.
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
    ///
    /// One entry is outstanding at a time: until it is applied, `due` still names the key that it expires, and each
    /// turn would propose another. All keys due by the time of one entry expire with it.
    ///
    /// No tick is proposed during a transfer: the target must catch up with a log that stands still (thesis §3.10).
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
            Ok(position) => {
                assert!(position.index > applied.0, "an entry is applied only after it is proposed");
                assert_eq!(position.term, term, "a leader proposes in its own term (§5.3)");
                self.outstanding = Some(position);
            }
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
