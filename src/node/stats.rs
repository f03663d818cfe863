//! The node's measurements of itself, as plain counters: one thread, no lock.
//!
//! A write is measured in four stages, so that an operator sees which one is slow: *queue* (from the request to the
//! journal), *fsync*, *replicate* (from there until a quorum holds it) and *apply*. *fsync* runs within *replicate*:
//! the leader's own sync and the followers' overlap.
//!
//! Measuring must not change what is measured. One entry of each write is sampled, not each entry; samples are bounded;
//! and everything that would need a second clock, or a walk over a table, is computed only when a status is requested.

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
struct DurationHistogram(Histogram<u64>);

impl DurationHistogram {
    fn new() -> DurationHistogram {
        DurationHistogram(
            Histogram::new_with_bounds(1, 60_000_000_000, 2)
                .expect("the lower bound of the histogram is below its upper bound"),
        )
    }

    fn record(&mut self, took: Duration) {
        self.0.saturating_record(took.as_nanos() as u64);
    }

    /// The value at a quantile, in microseconds; zero if nothing was recorded yet.
    fn quantile_us(&self, quantile: f64) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.value_at_quantile(quantile) as f64 / 1000.0 }
    }
}

/// The node's measurements of itself.
///
/// Times are those that the driver hands in, so a simulated node measures simulated time. A difference of two such
/// times is exact to within the duration of one event loop iteration.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Durations of the journal's syncs. All numbers in `Stats` count from the start of the process.
    sync_durations: DurationHistogram,
    sync_count: u64,
    synced_entries: u64,
    synced_bytes: u64,
    queue_durations: DurationHistogram,
    replicate_durations: DurationHistogram,
    apply_durations: DurationHistogram,
    /// One entry of each of the latest writes: its index, and when it was proposed and sent. In log order, so that a
    /// commit index ends a prefix of them.
    write_samples: VecDeque<(Index, Time, Time)>,
    /// When the first proposal since the last write was made. One is enough: each turn writes all proposals.
    oldest_proposal_at: Option<Time>,
    /// The unanswered heartbeat to each follower, and when it was sent. The latest round replaces an earlier
    /// one, whose response then measures nothing.
    unanswered_heartbeats: BTreeMap<NodeId, (Round, Time)>,
    /// When the snapshot that is being taken was started; `None` if none is being taken.
    snapshot_started_at: Option<Time>,
    /// By how many bytes the log can grow until the disk is full, as last reported by the journal; `None` before its
    /// first report.
    log_room_bytes: Option<u64>,
    /// Counters and histograms that are reported as they are. The driver adds its own to them, such as the duration of
    /// an event loop iteration, which only a clock outside the node can measure.
    pub counters: Counters,
    /// The last known leader. It stays while there is none, so that a leader that is found again is no change.
    last_leader: Option<NodeId>,
    /// Bytes of snapshot chunks received from leaders, useless ones included: the number measures the network's load.
    pub received_snapshot_bytes: u64,
    /// How many elections this node has started since its process started, by reason.
    pub elections: BTreeMap<String, u64>,
}

/// How many uncommitted entries are sampled, at most. A leader without a quorum commits nothing, and would collect
/// samples for as long as clients keep trying.
const WRITE_SAMPLES_MAX: usize = 1024;

impl Default for Stats {
    fn default() -> Stats {
        Stats {
            sync_durations: DurationHistogram::new(),
            sync_count: 0,
            synced_entries: 0,
            synced_bytes: 0,
            queue_durations: DurationHistogram::new(),
            replicate_durations: DurationHistogram::new(),
            apply_durations: DurationHistogram::new(),
            write_samples: VecDeque::new(),
            oldest_proposal_at: None,
            unanswered_heartbeats: BTreeMap::new(),
            snapshot_started_at: None,
            log_room_bytes: None,
            counters: Counters {
                commit_ns: Buckets::of_durations(),
                fsync_ns: Buckets::of_durations(),
                batch_entries: Buckets::of_counts(),
                snapshot_ns: Buckets::of_durations(),
                turn_ns: Buckets::of_durations(),
                ..Counters::default()
            },
            last_leader: None,
            received_snapshot_bytes: 0,
            elections: BTreeMap::new(),
        }
    }
}

impl Stats {
    /// Records a report of the journal. A report without written bytes is not about a sync: it only reports the free
    /// disk space.
    pub fn record_sync(&mut self, report: &Report) {
        self.log_room_bytes = Some(report.room_bytes);
        // A report without written bytes would count as a sync of duration zero: the disk would look faster than it is.
        if report.written_bytes == 0 {
            return;
        }
        self.sync_durations.record(report.sync_duration);
        self.counters.fsync_ns.record_duration(report.sync_duration);
        self.counters.batch_entries.record(report.entry_count);
        self.sync_count += 1;
        self.synced_entries += report.entry_count;
        self.synced_bytes += report.written_bytes;
    }

    /// Records a proposal. The oldest since the last write counts: it has waited longest, and the others share its
    /// write.
    pub fn record_proposal(&mut self, now: Time) {
        self.oldest_proposal_at.get_or_insert(now);
    }

    /// Records a leader's write, up to `last`, on its way to the journal. A write without a proposal, such as a no-op
    /// or a tick, delays no client, and is not sampled.
    pub fn record_write(&mut self, now: Time, last: Index) {
        // The proposal is removed even if the samples are full: the next write must not be timed from it.
        if let Some(proposed) = self.oldest_proposal_at.take() {
            self.queue_durations.record(now.since(proposed));
            if self.write_samples.len() < WRITE_SAMPLES_MAX {
                let is_later = self.write_samples.back().is_none_or(|(latest, ..)| *latest < last);
                assert!(is_later, "the samples are in log order: those of a lost term were dropped");
                self.write_samples.push_back((last, proposed, now));
            }
        }
    }

    /// Records that everything up to `commit` is committed. Only a leader has samples, and a new term clears them, so
    /// an index is enough to know the entry.
    pub fn record_commit(&mut self, now: Time, commit: Index) {
        while let Some((index, proposed, at)) = self.write_samples.front().copied()
            && index <= commit
        {
            self.replicate_durations.record(now.since(at));
            self.counters.commit_ns.record_duration(now.since(proposed));
            self.write_samples.pop_front();
        }
    }

    /// Records that a batch was applied, from its submission to its report: the wait for the applier is part of it.
    pub fn record_apply(&mut self, took: Duration) {
        self.apply_durations.record(took);
    }

    /// Drops the unfinished samples, because this node no longer leads or leads another term. Their indexes may be
    /// those of other entries by now, and followers may be gone from the membership.
    pub fn reset_samples(&mut self) {
        self.write_samples.clear();
        self.unanswered_heartbeats.clear();
        // Only a leader measures round trips. Those of its earlier leadership may be of nodes that are not followers
        // now.
        self.counters.round_trip_ns.clear();
    }

    /// Records a message sent, if it is a heartbeat. A repeated heartbeat is measured from its first transmission.
    pub fn record_sent(&mut self, now: Time, envelope: &Envelope) {
        if let Message::Heartbeat { round, .. } = envelope.message {
            // The time of the first transmission stays: a response names the round, not which transmission it answers.
            let heartbeat = self.unanswered_heartbeats.entry(envelope.to).or_insert((round, now));
            if heartbeat.0 != round {
                *heartbeat = (round, now);
            }
        }
    }

    /// Records a message received, if it is the response to a heartbeat. A response to an earlier round removes the
    /// sample without counting it: the response is late, and the measurement starts again with the next heartbeat.
    pub fn record_received(&mut self, now: Time, envelope: &Envelope) {
        if let Message::HeartbeatResponse { round, .. } = envelope.message
            && let Some((_, at)) =
                self.unanswered_heartbeats.remove(&envelope.from).filter(|(sent_round, _)| *sent_round == round)
        {
            let round_trips = self.counters.round_trip_ns.entry(envelope.from.get());
            round_trips.or_insert_with(Buckets::of_durations).record_duration(now.since(at));
        }
    }

    /// Records the leader, if there is one. A follower learns leaders late and may miss one, so the counts of two nodes
    /// may differ.
    pub fn record_leader(&mut self, leader: Option<NodeId>) {
        if leader.is_some() && leader != self.last_leader {
            self.last_leader = leader;
            self.counters.leader_changes += 1;
        }
    }

    /// Records that the link with `peer` broke: a heartbeat or its response may be lost. A heartbeat of the same round
    /// that is sent on the next link is measured anew.
    pub fn record_link_lost(&mut self, peer: NodeId) {
        self.unanswered_heartbeats.remove(&peer);
    }

    /// Records that a snapshot was requested of the driver, so that its duration includes the wait for the snapshot
    /// thread.
    pub fn record_snapshot_started(&mut self, now: Time) {
        self.snapshot_started_at = Some(now);
    }

    /// Records that no snapshot is being taken any more: it is durable, or it failed. Failed ones are not measured:
    /// they end early, and would make snapshots look fast on a full disk.
    pub fn record_snapshot_ended(&mut self, now: Time, durable: bool) {
        // The start time is removed even if the snapshot failed, or was ended by a leader's snapshot that replaced the
        // machine.
        if let Some(since) = self.snapshot_started_at.take().filter(|_| durable) {
            self.counters.snapshot_ns.record_duration(now.since(since));
        }
    }

    /// The disk's measurements, for `status`. `oldest_unsynced`, the age of the oldest write that is not durable, comes
    /// from the core: a disk that has stopped answering shows in no histogram, since only completed syncs are in it.
    pub fn disk_status(&self, oldest_unsynced: Duration) -> DiskStatus {
        DiskStatus {
            syncs: self.sync_count,
            entries: self.synced_entries,
            bytes: self.synced_bytes,
            sync_p50_us: self.sync_durations.quantile_us(0.5),
            sync_p99_us: self.sync_durations.quantile_us(0.99),
            sync_max_us: self.sync_durations.quantile_us(1.0),
            oldest_unsynced_ms: oldest_unsynced.as_millis() as u64,
            room: self.log_room_bytes,
        }
    }

    /// The median time that a write spends in each stage. The medians do not add up to the median of the total: they
    /// show which stage is slow, not how long a write takes.
    pub fn stage_status(&self) -> StageStatus {
        StageStatus {
            queue_us: self.queue_durations.quantile_us(0.5),
            fsync_us: self.sync_durations.quantile_us(0.5),
            replicate_us: self.replicate_durations.quantile_us(0.5),
            apply_us: self.apply_durations.quantile_us(0.5),
        }
    }
}
