//! A node's counters, as plain numbers: one thread updates each of them, so no counter needs a lock.

use super::Refusal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Upper bounds of the duration buckets, in nanoseconds: from 50 µs to ten seconds, in steps of 2 or 2.5.
const DURATION_BOUNDS_NS: [u64; 17] = [
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
/// Upper bounds of the buckets for numbers of entries: powers of two.
const COUNT_BOUNDS: [u64; 13] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

/// A histogram with fixed buckets, which the metrics page can serve as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Buckets {
    /// The upper bounds of the buckets, ascending and inclusive.
    pub bounds: Vec<u64>,
    /// The number of values in each bucket; the last counts values above all bounds.
    pub counts: Vec<u64>,
    /// The sum of all values, in the unit of `bounds`. It stops at the maximum instead of wrapping.
    pub sum: u64,
}

impl Buckets {
    /// An empty histogram of durations, in nanoseconds.
    pub fn of_durations() -> Buckets {
        Buckets::with_bounds(&DURATION_BOUNDS_NS)
    }

    /// An empty histogram of counts.
    pub fn of_counts() -> Buckets {
        Buckets::with_bounds(&COUNT_BOUNDS)
    }

    fn with_bounds(bounds: &[u64]) -> Buckets {
        Buckets { bounds: bounds.to_vec(), counts: vec![0; bounds.len() + 1], sum: 0 }
    }

    /// Counts a value in the first bucket whose bound is not below it.
    pub fn record(&mut self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
            self.sum = self.sum.saturating_add(value);
        }
    }

    /// Counts a duration, in nanoseconds.
    pub fn record_duration(&mut self, duration: Duration) {
        self.record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The number of values counted so far, in all buckets together.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// A node's counters. Durations are in nanoseconds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// How often this node learned of a leader with another id than the last one it knew.
    pub leader_changes: u64,
    /// Proposals that wait to be committed and applied.
    pub proposals_pending: u64,
    /// Proposals that were refused, or whose outcome is unknown.
    pub proposals_failed: u64,
    /// Commands that had been executed before, and were answered with the answer stored in their session.
    pub session_duplicates: u64,
    /// Times from the first proposal of a write of this node as leader to its commit; sampled under load.
    pub commit_ns: Buckets,
    /// Durations of the journal's syncs.
    pub fsync_ns: Buckets,
    /// Number of entries that each sync made durable.
    pub batch_entries: Buckets,
    /// Durations of this node's own snapshots, from freezing the state to the durable file.
    pub snapshot_ns: Buckets,
    /// Durations of the event loop's iterations. An event that arrives during an iteration waits for the next one.
    pub turn_ns: Buckets,
    /// Times from a heartbeat of this node as leader to the response, by the id of the member that responded.
    pub round_trip_ns: BTreeMap<u64, Buckets>,
    /// Bytes written to the sockets of other members, by the id of the member.
    pub sent_bytes: BTreeMap<u64, u64>,
    /// Open connections, by kind: `native`, `redis`, `http`, `peer`, `unknown`.
    pub connections: BTreeMap<String, u64>,
    /// The counters of the gateways, by name: `native`, `redis`, `http`.
    #[serde(default)]
    pub gateways: BTreeMap<String, GatewayCounters>,
}

/// Requests and clients at a gateway since the process started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GatewayCounters {
    /// Client connections that the gateway accepted, closed ones included.
    pub accepted: u64,
    /// Client connections rejected because the limit of connections was reached.
    pub turned_away: u64,
    /// Requests that go through the log.
    pub writes: u64,
    /// Requests that read from the state machine.
    pub reads: u64,
    /// Requests that need neither log nor state machine, invalid ones included.
    pub others: u64,
    /// Refused requests by reason, a name of [`Refusal::name`]. They had no effect.
    pub refused: BTreeMap<String, u64>,
    /// Requests answered with an error, by kind: a name of [`RequestError::name`].
    pub errors: BTreeMap<String, u64>,
}

/// Why a request counts as failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The request was refused without effect. The reason is a name of [`Refusal::name`].
    Refused(&'static str),
    /// The request was not refused, but answered with an error of this kind.
    Error(RequestError),
}

/// The kind of an error that is no refusal: the request is invalid, or it may have had an effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestError {
    /// The request may have taken effect, or may still take effect.
    UnknownOutcome,
    /// The request could not be parsed, or has invalid arguments.
    Malformed,
    /// The request is well-formed, but not supported by this gateway.
    Unsupported,
    /// The client did not send the password, or the request is not allowed.
    Unauthorized,
    /// The request was executed, but its answer exceeds the size limit or could not be decoded.
    UnusableAnswer,
}

impl RequestError {
    /// The value of the label `kind` in metrics.
    pub fn name(self) -> &'static str {
        match self {
            RequestError::UnknownOutcome => "unknown_outcome",
            RequestError::Malformed => "malformed",
            RequestError::Unsupported => "unsupported",
            RequestError::Unauthorized => "unauthorized",
            RequestError::UnusableAnswer => "answer",
        }
    }
}

impl Refusal {
    /// Whether the refusal is about the command itself: another attempt would be refused too.
    pub fn rejects_command(&self) -> bool {
        matches!(self, Refusal::TooLarge { .. } | Refusal::Malformed | Refusal::NotEnabled { .. })
    }

    /// The value of the label `reason` in metrics.
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
            Refusal::ChangeInProgress { .. } | Refusal::InvalidChange { .. } | Refusal::UnsafeChange { .. } => {
                "membership"
            }
            Refusal::SnapshotGone => "snapshot_gone",
            Refusal::NotSupported => "not_offered",
            Refusal::NotEnabled { .. } => "not_enabled",
            Refusal::TransferTimedOut { .. } => "transfer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_counted_in_the_first_bucket_that_holds_it() {
        let mut counts = Buckets::of_counts();
        [0, 1, 2, 3, 4096, 4097, u64::MAX].into_iter().for_each(|value| counts.record(value));
        assert_eq!((counts.counts[..3].to_vec(), counts.counts[12], counts.counts[13]), (vec![2, 1, 1], 1, 2));
        assert_eq!((counts.count(), counts.sum), (7, u64::MAX));
    }
}
