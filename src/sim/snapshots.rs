//! The snapshots of simulated machines: counts, the injected damage to snapshot files, and how a process takes and
//! restores snapshots, chunk by chunk between other events.

use super::disk::SimDisk;
use super::host::{CLUSTER_ID, Host, Process, to_durable_snapshot};
use super::network::LinkKind;
use super::scenario::{SENT_CHUNK_BYTES_MIN, Scenario};
use super::violation::Result;
use crate::apply::Report;
use crate::consensus::message::{Envelope, Message};
use crate::disk::Meter;
use crate::node::DurableSnapshot;
use crate::snapshot::format::file_name;
use crate::snapshot::{Header, Snapshot, Store};
use crate::snapshotting::restore::snapshot_header;
use crate::snapshotting::{Job, JobResult, SnapshotRestore};
use crate::types::{ClusterTime, Index, Membership, NodeId, Position, SnapshotPoint, Versions};
use crate::wal;
use bytes::Bytes;
use std::collections::BTreeMap;

/// The size in bytes of the chunks in which a snapshot is taken: small, so that many events happen between two chunks.
const CHUNK_BYTES: usize = 300;

/// How many times a snapshot's size may be sent to a follower after the faults on stream links, where only the chunks
/// in flight on a broken link are sent again.
const SNAPSHOT_SENDS_MAX: u64 = 3;
/// How many times a snapshot's size may be sent to a follower after the faults on datagram links, in addition to once
/// for each chunk. Messages overtake one another there: for each chunk that arrives in order, a window of other chunks
/// may have arrived too early and is sent again.
const SNAPSHOT_SENDS_OUT_OF_ORDER_MAX: u64 = 20;

/// How many snapshots the nodes of a world took, received, restored and found damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SnapshotCounts {
    /// Snapshots that nodes have taken and made durable.
    pub taken: u64,
    /// Snapshots received from another node and restored, during the faults or after them.
    pub received: u64,
    /// Snapshots received from another node and restored after the faults.
    pub restored_after_faults: u64,
    /// Snapshots that the node found damaged when it read back the file that it had just written.
    pub damaged_when_read_back: u64,
    /// Snapshots that a receiver found damaged once all chunks had arrived.
    pub damaged_when_received: u64,
    /// Snapshots that the sender found damaged when it read its own file again.
    pub damaged_at_sender: u64,
}

/// The record of a world's snapshots: counts, injected damage and sent bytes.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    pub(super) counts: SnapshotCounts,
    /// For each machine with a damaged snapshot, the index of that snapshot. The machine is removed once a snapshot at
    /// least as new is durable.
    damaged_snapshots: BTreeMap<NodeId, Index>,
    /// The bytes sent after the faults, by sender, receiver, generation of their link, and snapshot.
    sent_bytes: BTreeMap<(NodeId, NodeId, u64, Position), u64>,
}

impl Snapshots {
    /// Records that the snapshot of index `index` on a machine's disk was damaged.
    pub(super) fn record_damage(&mut self, at: NodeId, index: Index) {
        self.damaged_snapshots.insert(at, index);
    }

    /// Records that a machine's disk was replaced, so that the machine has no damaged snapshot any more.
    pub(super) fn clear_damage(&mut self, at: NodeId) {
        self.damaged_snapshots.remove(&at);
    }

    /// The index of the machine's damaged snapshot, if it has one.
    pub(super) fn damaged_index(&self, at: NodeId) -> Option<Index> {
        self.damaged_snapshots.get(&at).copied()
    }

    /// Records the result of a job of the machine's snapshot worker.
    pub(super) fn record_result(&mut self, at: NodeId, result: &JobResult) {
        match result {
            JobResult::SnapshotEnded(Some(snapshot)) => {
                self.counts.taken += 1;
                self.record_durable_snapshot(at, snapshot);
            }
            JobResult::TransferComplete(snapshot) => self.record_durable_snapshot(at, snapshot),
            JobResult::SnapshotDamaged => self.counts.damaged_when_read_back += 1,
            JobResult::PieceReceived { damaged, .. } => self.counts.damaged_when_received += u64::from(*damaged),
            JobResult::SnapshotInspected { undamaged, .. } => self.counts.damaged_at_sender += u64::from(!*undamaged),
            JobResult::SnapshotEnded(None)
            | JobResult::PieceWritten
            | JobResult::SnapshotWritten
            | JobResult::NoRoom => {}
        }
    }

    /// Records a durable snapshot. Damage to the same or an older snapshot no longer matters.
    fn record_durable_snapshot(&mut self, at: NodeId, snapshot: &Snapshot) {
        let index = snapshot.header().position.index;
        if self.damaged_snapshots.get(&at).is_some_and(|damaged| *damaged <= index) {
            self.damaged_snapshots.remove(&at);
        }
    }

    /// Counts a restore from a received snapshot.
    pub(super) fn record_restore(&mut self, faults_over: bool) {
        self.counts.received += 1;
        self.counts.restored_after_faults += u64::from(faults_over);
    }

    /// Counts the bytes of a snapshot chunk that a node sends after the faults, and checks that the transfer ends.
    ///
    /// The bytes are counted when they are sent, since chunks sent during the faults may arrive long after the faults
    /// end. Each generation of a link is counted separately, since a receiver that restarts, or whose response is lost,
    /// needs the snapshot again.
    pub(super) fn record_sent_chunk(
        &mut self,
        envelope: &Envelope,
        generation: u64,
        link_kind: LinkKind,
    ) -> Result<()> {
        let Envelope { from, to, message: Message::InstallSnapshot(chunk), .. } = envelope else { return Ok(()) };
        let sent_bytes = self.sent_bytes.entry((*from, *to, generation, chunk.snapshot)).or_default();
        *sent_bytes += chunk.bytes.len() as u64;
        let sends_max = match link_kind {
            LinkKind::Stream => SNAPSHOT_SENDS_MAX,
            LinkKind::Datagram => SNAPSHOT_SENDS_OUT_OF_ORDER_MAX + chunk.total_bytes / SENT_CHUNK_BYTES_MIN as u64,
        };
        if *sent_bytes > sends_max * chunk.total_bytes {
            let total_bytes = chunk.total_bytes;
            return Err(format!(
                "{from} has sent {sent_bytes} bytes of a snapshot of {total_bytes} bytes to {to}: the transfer does \
                 not end"
            ));
        }
        Ok(())
    }

    /// Replaces the bytes of a snapshot chunk by the current bytes of the sender's snapshot file, if that file was
    /// damaged. A real node sends a snapshot from a memory mapping of the file, so damage to the file is sent too.
    /// `disk` is the sender's directory of snapshots.
    pub(super) fn replace_damaged_chunk_bytes(&self, disk: &SimDisk, envelope: &mut Envelope) {
        let Envelope { from, message: Message::InstallSnapshot(chunk), .. } = envelope else { return };
        if !self.damaged_snapshots.contains_key(from) {
            return;
        }
        let Some(file) = disk.read_file(&file_name(chunk.snapshot)) else { return };
        let chunk_range = chunk.offset as usize..chunk.offset as usize + chunk.bytes.len();
        if let Some(bytes) = file.get(chunk_range).filter(|_| file.len() as u64 == chunk.total_bytes) {
            chunk.bytes = Bytes::copy_from_slice(bytes);
        }
    }
}

impl Host {
    /// The index of the newest intact snapshot that would be left if the power failed now.
    pub(super) fn durable_snapshot_index(&self) -> Result<Option<Index>> {
        let store = Store::open(self.snapshot_disk.durable_copy(), CLUSTER_ID)
            .map(|store| store.with_feature_level_max(Versions::COMPILED.feature_level_max));
        let newest_snapshot =
            store.and_then(|store| store.newest()).map_err(|fault| format!("{}: {fault}", self.id))?;
        Ok(newest_snapshot.snapshot.map(|snapshot| snapshot.header().position.index))
    }
}

/// The state that a process has restored from a snapshot.
pub(super) struct RestoredState {
    pub(super) snapshot: DurableSnapshot,
    /// The position after which the log begins once the snapshot is restored, and the membership at that position.
    pub(super) base: SnapshotPoint,
    /// The cluster time at the snapshot's position.
    pub(super) time: ClusterTime,
    /// The state machine's report right after the restore.
    pub(super) report: Report,
}

impl Process {
    /// Checks the order of a node's indexes: purged ≤ snapshot ≤ applied ≤ commit ≤ last.
    pub(super) fn check_index_order(&self, at: NodeId) -> Result<()> {
        let log = self.node.raft().log();
        let snapshot_index = self.node.snapshot().map_or(Index::ZERO, |durable| durable.position.index);
        let (purged, applied, last) = (log.base().index, self.node.applied(), log.last().index);
        let indexes = [purged, snapshot_index, applied, self.applier.applied(), log.commit(), last];
        if indexes.is_sorted() {
            return Ok(());
        }
        let index_names = "purged, snapshot, applied (by the node, by the state machine), commit and last";
        Err(format!("{index_names} of {at} are {indexes:?}, but must be in ascending order"))
    }

    /// Whether the node has compacted its log as its options require: the entries that no snapshot covers are few and
    /// new enough, and the entries that may be discarded are discarded.
    pub(super) fn is_compacted(&self, scenario: &Scenario) -> bool {
        let (log, options) = (self.node.raft().log(), &scenario.node);
        let durable_snapshot = self.node.snapshot();
        let snapshot_index = durable_snapshot.map_or(Index::ZERO, |durable_snapshot| durable_snapshot.position.index);
        let snapshot_bytes = durable_snapshot.map_or(0, |durable_snapshot| durable_snapshot.bytes.len() as u64);
        let log_bytes = log.bytes(snapshot_index.max(log.base().index), log.commit());
        let uncovered_log_is_small = log_bytes < options.snapshot_log_bytes.max(snapshot_bytes);
        let uncovered_log_is_new = snapshot_index == log.commit() || options.snapshot_max_age > scenario.rest_limit;
        let trailing_bytes = log.bytes(log.base().index, snapshot_index);
        uncovered_log_is_small
            && uncovered_log_is_new
            && trailing_bytes <= options.trailing_bytes
            && !self.node.is_taking_snapshot()
    }

    /// Freezes the state machine. Returns the header of the snapshot that is to be written of the frozen state.
    pub(super) fn begin_snapshot(
        &mut self,
        at: NodeId,
        configuration_index: Index,
        membership: Membership,
    ) -> Result<Header> {
        let head = self.applier.freeze();
        // The membership in the snapshot must be the one at the snapshot's index, not at another index (openraft#1808).
        let membership_in_log = self.node.raft().membership_at(head.position.index);
        if membership_in_log != Some(&(configuration_index, membership.clone())) {
            let position = head.position;
            return Err(format!(
                "{at} takes a snapshot at {position} with the membership of index {configuration_index}, \
                 but its log has {membership_in_log:?} there"
            ));
        }
        self.taking_snapshot = true;
        Ok(snapshot_header(CLUSTER_ID, at, &head, configuration_index, membership))
    }

    /// The job that continues the snapshot that is being taken; `None` if no snapshot is being taken.
    pub(super) fn next_snapshot_job(&mut self) -> Option<Job> {
        if !self.taking_snapshot {
            return None;
        }
        Some(match self.snapshot_worker.is_written() {
            true => Job::VerifySnapshot,
            false => self.applier.next_chunk(CHUNK_BYTES).map_or(Job::SealSnapshot, Job::WritePiece),
        })
    }

    /// Runs a job of the snapshot worker. When the worker is done with the snapshot that is being taken, the frozen
    /// state is released.
    pub(super) fn run_snapshot_job(&mut self, job: Job) -> wal::Result<JobResult> {
        let result = self.snapshot_worker.run(job)?;
        if matches!(result, JobResult::SnapshotEnded(_) | JobResult::SnapshotDamaged) {
            self.taking_snapshot = false;
            self.applier.end_snapshot();
        }
        Ok(result)
    }

    /// Replaces the state machine by the state of a received snapshot, unless the state machine has already applied the
    /// snapshot's index.
    pub(super) fn restore(&mut self, at: NodeId, snapshot: Snapshot) -> Result<Option<RestoredState>> {
        let position = snapshot.header().position;
        let restore_result = SnapshotRestore::begin(&self.applier, snapshot).restore_all(&Meter::default());
        let (applier, snapshot, base) =
            restore_result.map_err(|fault| format!("{at} cannot restore from an intact snapshot: {fault}"))?;
        if position.index <= self.applier.applied() {
            return Ok(None);
        }
        self.applier = applier;
        let report = self.applier.apply(&[]);
        let time = snapshot.header().time;
        Ok(Some(RestoredState { snapshot: to_durable_snapshot(&snapshot), base, time, report }))
    }
}
