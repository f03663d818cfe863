//! The node's measurements of itself, as plain counters: one thread, no lock.
//!
//! A write is measured in four stages, so that an operator sees which one is slow: *queue* (from the request to the
//! journal), *fsync*, *replicate* (from there until a quorum holds it) and *apply*. The second runs within the third:
//! the leader's own sync and the followers' overlap.
//!
//! Measuring must not change what is measured. One entry of each write is sampled, not each entry; samples are bounded;
//! and everything that would need a second clock, or a walk over a table, is left to the report.

use crate::api::figures::{Buckets, Counters};
use crate::api::{DiskStatus, StageStatus};
use crate::consensus::message::{Envelope, Message, Round};
use crate::types::{Index, NodeId, Time};
use crate::wal::report::Report;
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Durations from a microsecond to a minute, recorded in nanoseconds. Longer ones count as a minute: a histogram of
/// fixed bounds needs no more memory however long it records.
#[derive(Clone, Debug)]
struct Durations(Histogram<u64>);

impl Durations {
    fn new() -> Durations {
        Durations(Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("the bounds are in order"))
    }

    fn record(&mut self, took: Duration) {
        self.0.saturating_record(took.as_nanos() as u64);
    }

    /// The value at a quantile, in microseconds; zero if nothing was recorded yet.
    fn us(&self, quantile: f64) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.value_at_quantile(quantile) as f64 / 1000.0 }
    }
}

/// The node's measurements of itself.
///
/// Times are those that the driver hands in, so a simulated node measures simulated time. A difference of two of them
/// is exact to the length of a turn.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Since the start of the process, like all of the following.
    syncs: Durations,
    sync_count: u64,
    entries: u64,
    bytes: u64,
    queue: Durations,
    replicate: Durations,
    apply: Durations,
    /// One entry of each of the latest writes: its index, and when it was proposed and sent. In log order, so that a
    /// commit index ends a prefix of them.
    sent: VecDeque<(Index, Time, Time)>,
    /// When the first proposal since the last write was made. One is enough: each turn writes all that was proposed.
    proposed: Option<Time>,
    /// The unanswered heartbeat to each follower, and when it was sent. The latest round replaces an earlier
    /// one, whose response then measures nothing.
    beats: BTreeMap<NodeId, (Round, Time)>,
    /// When the snapshot that is being taken was begun. There is one at a time.
    taking: Option<Time>,
    /// How many more bytes the log can take, as last reported by the journal; none before its first report.
    room: Option<u64>,
    /// Counters and histograms that are reported as they are. The driver adds its own to them, such as the length of a
    /// turn, which only a clock outside the node can measure.
    pub figures: Counters,
    /// The last known leader. It stays while there is none, so that a leader that is found again is no change.
    leader: Option<NodeId>,
    /// Bytes of snapshot chunks received from leaders, those that were of no use included: it is the network's load.
    pub received: u64,
    /// Elections started, by reason.
    pub elections: BTreeMap<String, u64>,
}

/// How many entries under way are sampled; further ones are not. A leader without a quorum commits nothing, and would
/// collect samples for as long as clients keep trying.
const SAMPLES: usize = 1024;

impl Default for Stats {
    fn default() -> Stats {
        Stats {
            syncs: Durations::new(),
            sync_count: 0,
            entries: 0,
            bytes: 0,
            queue: Durations::new(),
            replicate: Durations::new(),
            apply: Durations::new(),
            sent: VecDeque::new(),
            proposed: None,
            beats: BTreeMap::new(),
            taking: None,
            room: None,
            figures: Counters {
                commit_ns: Buckets::of_durations(),
                fsync_ns: Buckets::of_durations(),
                batch_entries: Buckets::of_counts(),
                snapshot_ns: Buckets::of_durations(),
                turn_ns: Buckets::of_durations(),
                ..Counters::default()
            },
            leader: None,
            received: 0,
            elections: BTreeMap::new(),
        }
    }
}

impl Stats {
    /// Records a report of the journal. A report of no bytes is not a sync: it only names the room left.
    pub fn synced(&mut self, report: &Report) {
        self.room = Some(report.room);
        // Counted as a sync it would make the disk look faster than it is.
        if report.bytes == 0 {
            return;
        }
        self.syncs.record(report.took);
        self.figures.fsync_ns.took(report.took);
        self.figures.batch_entries.record(report.entries);
        self.sync_count += 1;
        self.entries += report.entries;
        self.bytes += report.bytes;
    }

    /// Records a proposal. The oldest since the last write counts: it has waited longest, and the others share its
    /// write.
    pub fn proposed(&mut self, now: Time) {
        self.proposed.get_or_insert(now);
    }

    /// Records a leader's write, up to `last`, on its way to the journal. A write without a proposal, such as a no-op
    /// or a tick, is no client's wait, and is not sampled.
    pub fn sent(&mut self, now: Time, last: Index) {
        // Also if the samples are full: the next write must not be timed from this one's proposal.
        if let Some(proposed) = self.proposed.take() {
            self.queue.record(now.since(proposed));
            if self.sent.len() < SAMPLES {
                let follows = self.sent.back().is_none_or(|(latest, ..)| *latest < last);
                assert!(follows, "samples are in log order: those of a lost term are dropped with it");
                self.sent.push_back((last, proposed, now));
            }
        }
    }

    /// Records that everything up to `commit` is committed. Only a leader has samples, and a new term clears them, so
    /// an index is enough to know the entry.
    pub fn committed(&mut self, now: Time, commit: Index) {
        while let Some((index, proposed, at)) = self.sent.front().copied()
            && index <= commit
        {
            self.replicate.record(now.since(at));
            self.figures.commit_ns.took(now.since(proposed));
            self.sent.pop_front();
        }
    }

    /// Records that a batch was applied, from its submission to its report: the wait for the applier is part of it.
    pub fn applied(&mut self, took: Duration) {
        self.apply.record(took);
    }

    /// Drops the samples under way, because this node no longer leads or leads another term. Their indexes may be those
    /// of other entries by now, and followers may be gone from the membership.
    pub fn reset_sent(&mut self) {
        self.sent.clear();
        self.beats.clear();
        // Round trips are a leader's. Those of an earlier leadership would be shown beside followers of another time.
        self.figures.round_trip_ns.clear();
    }

    /// Records a message sent, if it is a heartbeat. A repeated heartbeat is measured from its first transmission.
    pub fn sends(&mut self, now: Time, envelope: &Envelope) {
        if let Message::Heartbeat { round, .. } = envelope.message {
            // The first transmission: a response tells the round, not which copy of it arrived.
            let beat = self.beats.entry(envelope.to).or_insert((round, now));
            if beat.0 != round {
                *beat = (round, now);
            }
        }
    }

    /// Records a message received, if it is the response to a heartbeat. One of an earlier round removes the sample
    /// without counting it: the messages are out of step, and the next heartbeat begins anew.
    pub fn receives(&mut self, now: Time, envelope: &Envelope) {
        if let Message::HeartbeatResponse { round, .. } = envelope.message
            && let Some((_, at)) = self.beats.remove(&envelope.from).filter(|(beaten, _)| *beaten == round)
        {
            let trips = self.figures.round_trip_ns.entry(envelope.from.get());
            trips.or_insert_with(Buckets::of_durations).took(now.since(at));
        }
    }

    /// Records the leader, if there is one. A follower learns leaders late and may miss one, so the counts of two nodes
    /// may differ.
    pub fn led_by(&mut self, leader: Option<NodeId>) {
        if leader.is_some() && leader != self.leader {
            self.leader = leader;
            self.figures.leader_changes += 1;
        }
    }

    /// Records that the link with `peer` broke: a heartbeat or its response may be lost. A heartbeat of the same round
    /// that is sent on the next link is measured anew.
    pub fn lost(&mut self, peer: NodeId) {
        self.beats.remove(&peer);
    }

    /// Records that a snapshot was begun, so that its duration includes the wait for the snapshot thread.
    pub fn begins_snapshot(&mut self, now: Time) {
        self.taking = Some(now);
    }

    /// Records that no snapshot is being taken any more: it is durable, or it failed. Failed ones are not measured:
    /// they end early, and would make snapshots look fast on the disk that has no room for them.
    pub fn ends_snapshot(&mut self, now: Time, durable: bool) {
        // Also after a leader's snapshot replaced the machine, and ended the one that was being taken.
        if let Some(since) = self.taking.take().filter(|_| durable) {
            self.figures.snapshot_ns.took(now.since(since));
        }
    }

    /// The disk's measurements, for `status`. `oldest_unsynced` is the core's: a disk that has stopped answering shows
    /// in no histogram, since only completed syncs are in it.
    pub fn disk(&self, oldest_unsynced: Duration) -> DiskStatus {
        DiskStatus {
            syncs: self.sync_count,
            entries: self.entries,
            bytes: self.bytes,
            sync_p50_us: self.syncs.us(0.5),
            sync_p99_us: self.syncs.us(0.99),
            sync_max_us: self.syncs.us(1.0),
            oldest_unsynced_ms: oldest_unsynced.as_millis() as u64,
            room: self.room,
        }
    }

    /// The median time that a write spends in each stage. Medians do not add up to the median of the whole: they tell
    /// which stage to look at, not how long a write takes.
    pub fn stages(&self) -> StageStatus {
        StageStatus {
            queue_us: self.queue.us(0.5),
            fsync_us: self.syncs.us(0.5),
            replicate_us: self.replicate.us(0.5),
            apply_us: self.apply.us(0.5),
        }
    }
}
