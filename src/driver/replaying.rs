//! The progress of applying the log that was found at startup. Reads wait until all of it is applied.

use crate::codec::entry_size;
use crate::types::{Entry, Index, Time};
use std::time::Duration;

/// The shortest interval between two log lines about the progress.
const PROGRESS_LINE_INTERVAL: Duration = Duration::from_secs(1);

/// How much of the log that a node found at startup is applied.
#[derive(Clone, Debug)]
pub struct ReplayProgress {
    /// The last index of the log found at startup.
    last_index: Index,
    /// The size in bytes of all entries that are to be applied.
    total_bytes: u64,
    /// How many entries and bytes of the log found at startup were applied so far.
    applied_entries: u64,
    applied_bytes: u64,
    /// When the first batch of entries began to be applied: the node had then learned that they are committed.
    started_at: Option<Time>,
    last_report_at: Time,
}

/// The line to log about the progress, if one is due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplayEvent {
    /// No line is due.
    NoLineDue,
    /// Part of the log is applied; this line says how much.
    Progress(String),
    /// All of the log is applied; this line is the summary.
    Finished(String),
}

impl ReplayProgress {
    /// Creates the progress of a log up to the entry `upto`, with `total_bytes` to apply. `None` if there is nothing to
    /// apply.
    pub fn new(upto: Index, total_bytes: u64) -> Option<ReplayProgress> {
        (total_bytes > 0).then_some(ReplayProgress {
            last_index: upto,
            total_bytes,
            applied_entries: 0,
            applied_bytes: 0,
            started_at: None,
            last_report_at: Time::ZERO,
        })
    }

    /// Records that `entries` were applied between `batch_started_at` and `now`. `last` is the current last index of
    /// the log.
    pub fn record_applied(&mut self, batch_started_at: Time, now: Time, entries: &[Entry], last: Index) -> ReplayEvent {
        let replay_started_at = *self.started_at.get_or_insert(batch_started_at);
        self.last_report_at = self.last_report_at.max(replay_started_at);
        // The tail of the log may have been truncated in favor of the leader's.
        self.last_index = self.last_index.min(last);
        let replayed = entries.iter().take_while(|entry| entry.position.index <= self.last_index);
        let (count, bytes) = replayed.fold((0, 0), |(n, bytes), entry| (n + 1, bytes + entry_size(entry) as u64));
        (self.applied_entries, self.applied_bytes) = (self.applied_entries + count, self.applied_bytes + bytes);
        let took = now.since(replay_started_at);
        let gigabytes_per_second = self.applied_bytes as f64 / 1e9 / took.as_secs_f64().max(1e-9);
        let applied_mb = self.applied_bytes.div_ceil(1_000_000);
        if entries.last().is_some_and(|entry| entry.position.index >= self.last_index) {
            let (n, took) = (self.applied_entries, took.as_secs_f64());
            return ReplayEvent::Finished(format!(
                "applied the log: {n} entries, {applied_mb} MB in {took:.2} s, {gigabytes_per_second:.2} GB/s"
            ));
        }
        if now.since(self.last_report_at) < PROGRESS_LINE_INTERVAL {
            return ReplayEvent::NoLineDue;
        }
        self.last_report_at = now;
        let total_mb = self.total_bytes.max(self.applied_bytes).div_ceil(1_000_000);
        ReplayEvent::Progress(format!(
            "applying the log: {applied_mb} of {total_mb} MB, {gigabytes_per_second:.2} GB/s"
        ))
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
        let mut progress = ReplayProgress::new(Index(5), 5_000_000).unwrap();
        // An hour passed before the node learned that the log is committed.
        let hour_ms = 3_600_000;
        let mut record_applied =
            |from, to, ms| progress.record_applied(at(hour_ms), at(hour_ms + ms), &entries(from, to), Index(7));
        assert_eq!(record_applied(1, 1, 500), ReplayEvent::NoLineDue);
        assert_eq!(record_applied(2, 2, 1000), ReplayEvent::Progress("applying the log: 2 of 5 MB, 0.00 GB/s".into()));
        assert_eq!(record_applied(3, 3, 1900), ReplayEvent::NoLineDue);
        assert_eq!(record_applied(4, 4, 2000), ReplayEvent::Progress("applying the log: 4 of 5 MB, 0.00 GB/s".into()));
        // Entries after the end of the initial log do not count.
        let summary = "applied the log: 5 entries, 5 MB in 2.50 s, 0.00 GB/s";
        assert_eq!(record_applied(5, 7, 2500), ReplayEvent::Finished(summary.into()));
    }

    #[test]
    fn replay_of_truncated_log_ends_at_the_truncation() {
        let mut progress = ReplayProgress::new(Index(5), 5_000_000).unwrap();
        let event = progress.record_applied(at(0), at(1), &entries(1, 2), Index(2));
        assert_eq!(event, ReplayEvent::Finished("applied the log: 2 entries, 2 MB in 0.00 s, 2.00 GB/s".into()));
    }

    #[test]
    fn replay_of_applied_log_is_not_logged() {
        assert!(ReplayProgress::new(Index(5), 0).is_none());
    }
}
