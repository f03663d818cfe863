//! The snapshots of simulated machines: their counts, the known damage to their files, and the snapshots that a process
//! takes and restores, chunk by chunk between other events.

use super::disk::SimDisk;
use super::host::{CLUSTER, Host, Process, durable_snapshot};
use super::network::Tier;
use super::scenario::Scenario;
use super::violation::Result;
use crate::apply::Report;
use crate::consensus::message::{Envelope, Message};
use crate::disk::Meter;
use crate::node::DurableSnapshot;
use crate::snapshot::format::file_name;
use crate::snapshot::{Header, Snapshot, Store};
use crate::snapshotting::restore::header;
use crate::snapshotting::{Job, JobResult, Restore};
use crate::types::{ClusterTime, Index, Membership, NodeId, Position, SnapshotPoint};
use crate::wal;
use bytes::Bytes;
use std::collections::BTreeMap;

/// The chunk size in bytes: small, so that much happens between two chunks.
const CHUNK_BYTES: usize = 300;

/// In calm, a follower is sent at most this many times a snapshot's size: only the chunks that were in flight when its
/// links broke are sent again.
const SENT_MOST: u64 = 3;
/// The same limit where messages overtake one another: for each chunk that arrives in order, a window of others may
/// have arrived too early and is sent again.
const SENT_MOST_OUT_OF_ORDER: u64 = 20;

/// Counts of a world's snapshots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SnapshotCounts {
    /// Snapshots taken.
    pub taken: u64,
    /// Snapshots received from another node and restored, in the storm or in calm.
    pub received: u64,
    /// Those restored in calm, when nodes only have to catch up.
    pub caught_up: u64,
    /// Snapshots found damaged: on reading them back; on receiving them; and when the sender reads its own file again.
    pub damaged: [u64; 3],
}

/// The state of the snapshots of a world.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    pub(super) counts: SnapshotCounts,
    /// Machines with a flipped bit in the snapshot of that index, and no known newer snapshot.
    damaged: BTreeMap<NodeId, Index>,
    /// The bytes sent in calm, by sender, receiver, run of their link, and snapshot.
    sent_bytes: BTreeMap<(NodeId, NodeId, u64, Position), u64>,
}

impl Snapshots {
    /// Records that the snapshot of that index on that machine's disk was damaged.
    pub(super) fn record_damage(&mut self, at: NodeId, index: Index) {
        self.damaged.insert(at, index);
    }

    /// Records that the machine's disk was replaced, and with it any damaged snapshot.
    pub(super) fn clear_damage(&mut self, at: NodeId) {
        self.damaged.remove(&at);
    }

    /// The index of the machine's damaged snapshot, if it has one.
    pub(super) fn damaged_index(&self, at: NodeId) -> Option<Index> {
        self.damaged.get(&at).copied()
    }

    /// Records the result of a job of the machine's snapshot worker.
    pub(super) fn record_result(&mut self, at: NodeId, result: &JobResult) {
        match result {
            JobResult::Published(Some(snapshot)) => {
                self.counts.taken += 1;
                self.record_durable(at, snapshot);
            }
            JobResult::Complete(snapshot) => self.record_durable(at, snapshot),
            JobResult::Damaged => self.counts.damaged[0] += 1,
            JobResult::Received { damaged, .. } => self.counts.damaged[1] += u64::from(*damaged),
            JobResult::Inspected { whole, .. } => self.counts.damaged[2] += u64::from(!*whole),
            JobResult::Published(None) | JobResult::Ready | JobResult::Written | JobResult::NoRoom => {}
        }
    }

    /// A durable snapshot ends the damage to one that is not newer.
    fn record_durable(&mut self, at: NodeId, snapshot: &Snapshot) {
        let index = snapshot.header().position.index;
        if self.damaged.get(&at).is_some_and(|damaged| *damaged <= index) {
            self.damaged.remove(&at);
        }
    }

    /// Counts a state machine that was restored from a received snapshot.
    pub(super) fn record_restore(&mut self, calm: bool) {
        self.counts.received += 1;
        self.counts.caught_up += u64::from(calm);
    }

    /// Checks, whenever a node sends a chunk of a snapshot in calm, that the transfer ends. The bytes are counted where
    /// they are sent, since chunks sent during the storm may arrive long after its end; and for each run of a link,
    /// since a receiver that restarts in calm, or whose response is lost, needs the snapshot again.
    pub(super) fn record_sent(&mut self, envelope: &Envelope, run: u64, tier: Tier) -> Result<()> {
        let Envelope { from, to, message: Message::InstallSnapshot(chunk), .. } = envelope else { return Ok(()) };
        let sent = self.sent_bytes.entry((*from, *to, run, chunk.snapshot)).or_default();
        *sent += chunk.bytes.len() as u64;
        let most = if tier == Tier::Stream { SENT_MOST } else { SENT_MOST_OUT_OF_ORDER };
        if *sent > most * chunk.total {
            let total = chunk.total;
            return Err(format!("{from} sends {to} {sent} bytes of a snapshot of {total}: the transfer does not end"));
        }
        Ok(())
    }

    /// A node reads the snapshot that it sends from a mapping of the file, so a chunk holds the file's current bytes.
    /// `disk` is the sender's directory of snapshots.
    pub(super) fn read_mapping(&self, disk: &SimDisk, envelope: &mut Envelope) {
        let Envelope { from, message: Message::InstallSnapshot(chunk), .. } = envelope else { return };
        if !self.damaged.contains_key(from) {
            return;
        }
        let Some(file) = disk.seen(&file_name(chunk.snapshot)) else { return };
        let range = chunk.offset as usize..chunk.offset as usize + chunk.bytes.len();
        if let Some(bytes) = file.get(range).filter(|_| file.len() as u64 == chunk.total) {
            chunk.bytes = Bytes::copy_from_slice(bytes);
        }
    }
}

impl Host {
    /// The index of the newest whole snapshot that would be left if the power failed now.
    pub(super) fn durable_snapshot_index(&self) -> Result<Option<Index>> {
        let store = Store::open(self.snapshot_disk.durable(), CLUSTER);
        let newest = store.and_then(|store| store.newest()).map_err(|fault| format!("{}: {fault}", self.id))?;
        Ok(newest.snapshot.map(|snapshot| snapshot.header().position.index))
    }
}

/// The state that a process has restored from a snapshot.
pub(super) struct RestoredState {
    pub(super) snapshot: DurableSnapshot,
    pub(super) base: SnapshotPoint,
    /// The cluster time at the snapshot's position.
    pub(super) time: ClusterTime,
    /// The state machine's report right after the restore.
    pub(super) report: Report,
}

impl Process {
    /// Checks that purged ≤ snapshot ≤ applied ≤ commit ≤ last.
    pub(super) fn check_index_order(&self, at: NodeId) -> Result<()> {
        let log = self.node.raft().log();
        let snapshot = self.node.snapshot().map_or(Index::ZERO, |kept| kept.position.index);
        let (purged, applied, last) = (log.base().index, self.node.applied(), log.last().index);
        let order = [purged, snapshot, applied, self.applier.applied(), log.commit(), last];
        if order.is_sorted() {
            return Ok(());
        }
        let names = "purged, snapshot, applied (by the node, by the state machine), commit and last";
        Err(format!("{names} of {at} are {order:?}, and must ascend"))
    }

    /// Whether the node has compacted its log as it should without a request: a snapshot covers the entries that it has
    /// to cover by size and age, and the entries that may be discarded are gone.
    pub(super) fn is_compacted(&self, scenario: &Scenario) -> bool {
        let (log, options) = (self.node.raft().log(), &scenario.node);
        let kept = self.node.snapshot();
        let snapshot = kept.map_or(Index::ZERO, |kept| kept.position.index);
        let state = kept.map_or(0, |kept| kept.bytes.len() as u64);
        let grown = log.bytes(snapshot.max(log.base().index), log.commit());
        let small = grown < options.snapshot_log_bytes.max(state);
        let new = snapshot == log.commit() || options.snapshot_max_age > scenario.calm;
        let trailing = log.bytes(log.base().index, snapshot);
        small && new && trailing <= options.trailing_bytes && !self.node.is_taking()
    }

    /// Freezes the state machine. Returns the header of the snapshot to write of it.
    pub(super) fn begin_snapshot(&mut self, at: NodeId, configured: Index, membership: Membership) -> Result<Header> {
        let head = self.applier.freeze();
        // The members must be those as of the snapshot's index, not of another index (openraft#1808).
        let held = self.node.raft().membership_at(head.position.index);
        if held != Some(&(configured, membership.clone())) {
            let position = head.position;
            return Err(format!("{at} freezes {position} with the members of {configured}, and {held:?} apply there"));
        }
        self.taking = true;
        Ok(header(CLUSTER, at, &head, configured, membership))
    }

    /// The job that continues the snapshot that is being taken, if one is.
    pub(super) fn next_snapshot_job(&mut self) -> Option<Job> {
        if !self.taking {
            return None;
        }
        Some(match self.keeper.is_written() {
            true => Job::Verify,
            false => self.applier.next_chunk(CHUNK_BYTES).map_or(Job::Finish, Job::Piece),
        })
    }

    /// Runs a job of the snapshot worker. When the worker is done with the snapshot that is being taken, the frozen
    /// state is released.
    pub(super) fn run_snapshot_job(&mut self, job: Job) -> wal::Result<JobResult> {
        let result = self.keeper.run(job)?;
        if matches!(result, JobResult::Published(_) | JobResult::Damaged) {
            self.taking = false;
            self.applier.end_snapshot();
        }
        Ok(result)
    }

    /// Replaces the state machine by the state of a received snapshot, unless it has applied as much already.
    pub(super) fn restore(&mut self, at: NodeId, snapshot: Snapshot) -> Result<Option<RestoredState>> {
        let position = snapshot.header().position;
        let restored = Restore::begin(&self.applier, snapshot).all(&Meter::default());
        let (applier, snapshot, base) =
            restored.map_err(|fault| format!("{at} cannot restore from an intact snapshot: {fault}"))?;
        if position.index <= self.applier.applied() {
            return Ok(None);
        }
        self.applier = applier;
        let report = self.applier.apply(&[]);
        let time = snapshot.header().time;
        Ok(Some(RestoredState { snapshot: durable_snapshot(&snapshot), base, time, report }))
    }
}
