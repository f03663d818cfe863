//! What a node counts while it runs, as plain numbers: whoever counts owns them, and nobody waits for a lock.

use super::Refusal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The buckets of durations, in nanoseconds: from 50 µs, about two for each doubling and a half, to ten seconds.
const DURATIONS: [u64; 17] = [
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];
/// The buckets of counts.
const COUNTS: [u64; 13] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

/// How often something was how large.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Buckets {
    /// The upper bounds of the buckets, ascending; a bucket holds what lies above the bound before its own.
    pub bounds: Vec<u64>,
    /// How often, for each bucket; the last is for what lies above all bounds.
    pub counts: Vec<u64>,
    /// All that was counted, added up.
    pub sum: u64,
}

impl Buckets {
    /// Of durations, in nanoseconds.
    pub fn of_durations() -> Buckets {
        Buckets::with(&DURATIONS)
    }

    /// Of counts.
    pub fn of_counts() -> Buckets {
        Buckets::with(&COUNTS)
    }

    fn with(bounds: &[u64]) -> Buckets {
        Buckets { bounds: bounds.to_vec(), counts: vec![0; bounds.len() + 1], sum: 0 }
    }

    /// It was that once more.
    pub fn record(&mut self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
            self.sum = self.sum.saturating_add(value);
        }
    }

    /// It took that long once more.
    pub fn took(&mut self, duration: Duration) {
        self.record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How often in all.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What a node counts while it runs. Durations are in nanoseconds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// How often this node has seen another leader than before.
    pub leader_changes: u64,
    /// Proposals that wait to be committed and applied.
    pub proposals_pending: u64,
    /// Proposals that were turned away, or whose fate is unknown.
    pub proposals_failed: u64,
    /// Commands that had been executed before, and were answered from memory.
    pub session_duplicates: u64,
    /// On a leader: from the first proposal of a write to its being committed; sampled when much is under way.
    pub commit_ns: Buckets,
    /// Syncs of the journal.
    pub fsync_ns: Buckets,
    /// How many entries a sync made durable.
    pub batch_entries: Buckets,
    /// Snapshots of this node's own state, from freezing it to the file being durable.
    pub snapshot_ns: Buckets,
    /// Turns of the reactor: for so long nobody else was heard.
    pub turn_ns: Buckets,
    /// On a leader: from a heartbeat to its answer, for each other member.
    pub round_trip_ns: BTreeMap<u64, Buckets>,
    /// Bytes written to each other member.
    pub sent_bytes: BTreeMap<u64, u64>,
    /// Connections, by where they came in.
    pub connections: BTreeMap<String, u64>,
    /// What was asked at each gateway: `native`, `redis`, `http`.
    #[serde(default)]
    pub gateways: BTreeMap<String, GatewayFigures>,
}

/// What was asked at a gateway since the process started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GatewayFigures {
    /// Clients let in.
    pub accepted: u64,
    /// Clients turned away because as many were connected as may be.
    pub turned_away: u64,
    /// Requests that are put through the log.
    pub writes: u64,
    /// Requests that ask the state machine.
    pub reads: u64,
    /// Requests that need neither, those that are wrong among them.
    pub others: u64,
    /// Requests refused: nothing has happened. By reason, one of [`Refusal::name`]s.
    pub refused: BTreeMap<String, u64>,
    /// Requests that are wrong, or whose fate is unknown; by kind: one of [`WrongRequest`]'s names.
    pub errors: BTreeMap<String, u64>,
}

/// How a request came to nothing, or to nothing that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It was refused, for that reason: nothing has happened.
    Refused(&'static str),
    /// It was answered with an error.
    Wrong(WrongRequest),
}

/// How a request is wrong, or fails otherwise than by being refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WrongRequest {
    /// It may have taken effect, or may yet.
    UnknownOutcome,
    /// It could not be understood, or has the wrong arguments.
    Malformed,
    /// It is understood, and there is no such thing here.
    Unsupported,
    /// It came without the password, or from where it may not come from.
    Unauthorized,
    /// It is done, and its answer is longer than one may be; or the answer could not be read.
    Answer,
}

impl WrongRequest {
    /// The word for it in metrics.
    pub fn name(self) -> &'static str {
        match self {
            WrongRequest::UnknownOutcome => "unknown_outcome",
            WrongRequest::Malformed => "malformed",
            WrongRequest::Unsupported => "unsupported",
            WrongRequest::Unauthorized => "unauthorized",
            WrongRequest::Answer => "answer",
        }
    }
}

impl Refusal {
    /// The word for it in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Refusal::NotLeader { .. } => "not_leader",
            Refusal::NoLeader => "no_leader",
            Refusal::Busy => "busy",
            Refusal::TooLarge { .. } => "too_large",
            Refusal::Malformed => "malformed",
            Refusal::Stopping => "stopping",
            Refusal::NotMember { .. } => "no_member",
            Refusal::NoSpace => "no_space",
            Refusal::Changing { .. } | Refusal::InvalidChange { .. } | Refusal::UnsafeChange { .. } => "membership",
            Refusal::SnapshotGone => "snapshot_gone",
            Refusal::NotOffered => "not_offered",
            Refusal::TransferTimedOut { .. } => "transfer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_in_the_first_bucket_that_holds_it() {
        let mut counts = Buckets::of_counts();
        [0, 1, 2, 3, 4096, 4097, u64::MAX].into_iter().for_each(|value| counts.record(value));
        assert_eq!((counts.counts[..3].to_vec(), counts.counts[12], counts.counts[13]), (vec![2, 1, 1], 1, 2));
        assert_eq!((counts.count(), counts.sum), (7, u64::MAX));
    }
}
