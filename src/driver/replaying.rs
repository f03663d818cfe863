//! Progress of replaying the log found at startup. Reads wait until it is applied.

use crate::codec::entry_size;
use crate::types::{Entry, Index, Time};
use std::time::Duration;

/// How often progress is logged.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The log that a node found at startup, while it is being applied.
#[derive(Clone, Debug)]
pub struct Replaying {
    /// The index of its last entry.
    upto: Index,
    /// The bytes to apply.
    of: u64,
    /// How many entries and bytes of it were applied.
    entries: u64,
    bytes: u64,
    /// When its first entry was applied, which is once the node has learned that it is committed.
    begun: Option<Time>,
    told: Time,
}

/// What to log about the progress.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplayEvent {
    /// Nothing now.
    Nothing,
    /// A progress line.
    SoFar(String),
    /// The summary: all of the log is applied.
    Ended(String),
}

impl Replaying {
    /// A log up to the entry `upto`, with `of` bytes to apply. `None` if there is nothing to apply.
    pub fn new(upto: Index, of: u64) -> Option<Replaying> {
        (of > 0).then_some(Replaying { upto, of, entries: 0, bytes: 0, begun: None, told: Time::ZERO })
    }

    /// Records that `entries` were applied between `begun` and now. `last` is the current end of the log.
    pub fn applied(&mut self, begun: Time, now: Time, entries: &[Entry], last: Index) -> ReplayEvent {
        let since = *self.begun.get_or_insert(begun);
        self.told = self.told.max(since);
        // The tail of the log may have been truncated in favor of the leader's.
        self.upto = self.upto.min(last);
        let ours = entries.iter().take_while(|entry| entry.position.index <= self.upto);
        let (count, bytes) = ours.fold((0, 0), |(n, bytes), entry| (n + 1, bytes + entry_size(entry) as u64));
        (self.entries, self.bytes) = (self.entries + count, self.bytes + bytes);
        let took = now.since(since);
        let rate = self.bytes as f64 / 1e9 / took.as_secs_f64().max(1e-9);
        let done = self.bytes.div_ceil(1_000_000);
        if entries.last().is_some_and(|entry| entry.position.index >= self.upto) {
            let (n, took) = (self.entries, took.as_secs_f64());
            return ReplayEvent::Ended(format!(
                "applied the log: {n} entries, {done} MB in {took:.2} s, {rate:.2} GB/s"
            ));
        }
        if now.since(self.told) < REPORT_INTERVAL {
            return ReplayEvent::Nothing;
        }
        self.told = now;
        let of = self.of.max(self.bytes).div_ceil(1_000_000);
        ReplayEvent::SoFar(format!("applying the log: {done} of {of} MB, {rate:.2} GB/s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use crate::types::{ClusterTime, Payload, Position, Term};
    use bytes::Bytes;

    fn entries(from: u64, to: u64) -> Vec<Entry> {
        let payload = || Payload::Opaque(Bytes::from(vec![7; 1_000_000 - codec::ENTRY_HEADER]));
        let position = |index| Position::new(Index(index), Term(1));
        (from..=to).map(|index| codec::entry(position(index), ClusterTime(0), payload())).collect()
    }

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn replay_progress_is_logged_once_a_second() {
        let mut replaying = Replaying::new(Index(5), 5_000_000).unwrap();
        // An hour passed before the node learned that the log is committed.
        let hour = 3_600_000;
        let mut applied = |from, to, ms| replaying.applied(at(hour), at(hour + ms), &entries(from, to), Index(7));
        assert_eq!(applied(1, 1, 500), ReplayEvent::Nothing);
        assert_eq!(applied(2, 2, 1000), ReplayEvent::SoFar("applying the log: 2 of 5 MB, 0.00 GB/s".into()));
        assert_eq!(applied(3, 3, 1900), ReplayEvent::Nothing);
        assert_eq!(applied(4, 4, 2000), ReplayEvent::SoFar("applying the log: 4 of 5 MB, 0.00 GB/s".into()));
        // Entries after the end of the initial log do not count.
        let ended = "applied the log: 5 entries, 5 MB in 2.50 s, 0.00 GB/s";
        assert_eq!(applied(5, 7, 2500), ReplayEvent::Ended(ended.into()));
    }

    #[test]
    fn replay_of_truncated_log_ends_at_the_truncation() {
        let mut replaying = Replaying::new(Index(5), 5_000_000).unwrap();
        let told = replaying.applied(at(0), at(1), &entries(1, 2), Index(2));
        assert_eq!(told, ReplayEvent::Ended("applied the log: 2 entries, 2 MB in 0.00 s, 2.00 GB/s".into()));
    }

    #[test]
    fn replay_of_applied_log_is_not_logged() {
        assert!(Replaying::new(Index(5), 0).is_none());
    }
}
