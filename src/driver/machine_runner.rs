//! The state machine's part of the event loop: it applies entries, answers queries, and takes and restores snapshots.
//!
//! The state machine runs on the thread of the event loop, because waking another thread costs more than looking up a
//! key in a map. Longer work is divided: a state is serialized and restored in chunks.

use super::deferred_drop::DeferredDrop;
use crate::apply::{Applier, Report};
use crate::consensus::message::SnapshotChunk;
use crate::limits::CHUNK_BYTES;
use crate::machine::state_machine::StateMachine;
use crate::node::event::{DurableSnapshot, Event};
use crate::snapshot::Snapshot;
use crate::snapshotting::restore::snapshot_header;
use crate::snapshotting::{Job, JobResult, SnapshotRestore};
use crate::types::{ClusterId, ClusterTime, Entry, Index, Membership, NodeId, Position};
use crate::wal::report::Fault;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// After answers of this many bytes, the sockets' output is written before more queries are answered.
const ANSWER_BYTES_PER_FLUSH: usize = 4 << 20;
/// Maximum time spent on restoring a state before the sockets are polled again.
const RESTORE_TIME_SLICE: Duration = Duration::from_millis(2);

/// Runs the state machine, with its client sessions, on the thread of the event loop.
pub struct MachineRunner<M> {
    applier: Applier<M>,
    cluster: ClusterId,
    node: NodeId,
    /// The queue of the thread that writes and receives snapshots.
    snapshot_jobs: Sender<Job>,
    /// Frees large values on another thread.
    deferred_drop: DeferredDrop,
    /// Pending queries, in order: the node's ticket, the query, and the cluster time as the node knew it.
    queries: VecDeque<(u64, Bytes, ClusterTime)>,
    /// Whether a snapshot of the state is being written.
    taking_snapshot: bool,
    /// The state of another node that is being restored from its snapshot, if any.
    restore: Option<SnapshotRestore<M>>,
}

impl<M: StateMachine> MachineRunner<M> {
    /// Creates the runner of a node's state machine, with the ids of cluster and node, which go into snapshots.
    /// `snapshot_jobs` is the queue of the thread that writes snapshot files.
    pub fn new(
        applier: Applier<M>,
        (cluster, node): (ClusterId, NodeId),
        snapshot_jobs: Sender<Job>,
        deferred_drop: DeferredDrop,
    ) -> MachineRunner<M> {
        MachineRunner {
            applier,
            cluster,
            node,
            snapshot_jobs,
            deferred_drop,
            queries: VecDeque::new(),
            taking_snapshot: false,
            restore: None,
        }
    }

    /// Applies a batch of committed entries, which must follow those applied before.
    pub fn apply(&mut self, entries: &[Entry]) -> Report {
        self.applier.apply(entries)
    }

    /// The index of the last applied entry.
    pub fn applied(&self) -> Index {
        self.applier.applied()
    }

    /// Adds a query, to be answered in order. `time` is the cluster time as far as the node knows it.
    pub fn push_query(&mut self, ticket: u64, query: Bytes, time: ClusterTime) {
        self.queries.push_back((ticket, query, time));
    }

    /// Whether there is pending work that no event will announce.
    pub fn has_work(&self) -> bool {
        !self.queries.is_empty() || self.restore.is_some()
    }

    /// Whether queries wait for their answers.
    pub fn has_queries(&self) -> bool {
        !self.queries.is_empty()
    }

    /// Answers pending queries, and passes each answer to `emit`. If the answers are large, some queries stay pending.
    pub fn answer_queries(&mut self, mut emit: impl FnMut(Event)) {
        let mut answer_bytes = 0;
        while answer_bytes < ANSWER_BYTES_PER_FLUSH
            && let Some((ticket, query, time)) = self.queries.pop_front()
        {
            let answer = self.applier.query(time, &query);
            answer_bytes += answer.len();
            emit(Event::Queried { ticket, applied: self.applier.applied(), answer });
        }
    }

    /// Freezes the state and starts a snapshot of it. Returns false if the snapshot thread is gone.
    pub fn take_snapshot(&mut self, configuration_index: Index, membership: Membership) -> bool {
        let state_header = self.applier.freeze();
        self.taking_snapshot = true;
        self.snapshot_jobs
            .send(Job::BeginSnapshot(snapshot_header(
                self.cluster,
                self.node,
                &state_header,
                configuration_index,
                membership,
            )))
            .is_ok()
    }

    /// Passes a chunk of the leader's snapshot to the snapshot thread. Returns false if the snapshot thread is gone.
    pub fn store_chunk(&mut self, from: NodeId, chunk: SnapshotChunk) -> bool {
        let SnapshotChunk { snapshot, total_bytes: total, offset, bytes } = chunk;
        self.snapshot_jobs.send(Job::ReceivePiece { from, snapshot, total, offset, bytes }).is_ok()
    }

    /// Verifies the file of this node's snapshot, because a follower received it damaged. Returns false if the snapshot
    /// thread is gone.
    pub fn inspect_snapshot(&mut self, follower: NodeId, snapshot: Position, damaged_count: u32) -> bool {
        self.snapshot_jobs.send(Job::InspectSnapshot { follower, snapshot, damaged_count }).is_ok()
    }

    /// Handles the result of a job of the snapshot thread. Returns the event for the node, if any.
    pub fn handle_job_result(&mut self, result: JobResult) -> Option<Event> {
        match result {
            JobResult::PieceWritten if self.taking_snapshot => {
                let job = self.applier.next_chunk(CHUNK_BYTES).map_or(Job::SealSnapshot, Job::WritePiece);
                // If the snapshot thread has ended, its `ThreadEnded` message reports that.
                let _thread_may_be_gone = self.snapshot_jobs.send(job);
                None
            }
            JobResult::SnapshotWritten if self.taking_snapshot => {
                let _thread_may_be_gone = self.snapshot_jobs.send(Job::VerifySnapshot);
                None
            }
            JobResult::PieceWritten | JobResult::SnapshotWritten => None,
            JobResult::SnapshotDamaged => {
                self.taking_snapshot = false;
                self.applier.end_snapshot();
                Some(Event::SnapshotDamaged)
            }
            JobResult::SnapshotEnded(snapshot) => {
                self.taking_snapshot = false;
                self.applier.end_snapshot();
                Some(Event::SnapshotTaken(snapshot.map(|snapshot| durable_snapshot(&snapshot, &self.deferred_drop))))
            }
            JobResult::NoRoom => None,
            JobResult::PieceReceived { from, snapshot, next, damaged } => {
                Some(Event::ChunkStored { from, snapshot, next, damaged })
            }
            JobResult::SnapshotInspected { snapshot, undamaged } => {
                Some(Event::SnapshotInspected { snapshot, undamaged })
            }
            JobResult::TransferComplete(snapshot) => {
                self.restore = Some(SnapshotRestore::begin(&self.applier, snapshot));
                None
            }
        }
    }

    /// Continues to restore the state of another node, if a restore is in progress. The complete state replaces this
    /// node's state.
    pub fn continue_restore(&mut self) -> Result<Option<Event>, Fault> {
        let Some(restore) = &mut self.restore else { return Ok(None) };
        let started = Instant::now();
        while started.elapsed() < RESTORE_TIME_SLICE {
            if !restore.step()? {
                return self.install_restored_state();
            }
        }
        Ok(None)
    }

    fn install_restored_state(&mut self) -> Result<Option<Event>, Fault> {
        let Some(restore) = self.restore.take() else { return Ok(None) };
        let (applier, snapshot, base) = restore.finish()?;
        if applier.applied() <= self.applier.applied() {
            self.deferred_drop.defer((applier, snapshot));
            return Ok(None);
        }
        self.deferred_drop.defer(std::mem::replace(&mut self.applier, applier));
        if std::mem::take(&mut self.taking_snapshot) {
            // The frozen state was dropped with the old machine. If the snapshot thread has ended, its `ThreadEnded`
            // message reports that.
            let _thread_may_be_gone = self.snapshot_jobs.send(Job::AbortSnapshot);
        }
        let (time, report) = (snapshot.header().time, self.applier.apply(&[]));
        Ok(Some(Event::Restored { snapshot: durable_snapshot(&snapshot, &self.deferred_drop), base, time, report }))
    }
}

/// Describes a snapshot to the node. The memory of the snapshot's file is freed on another thread, whichever thread
/// drops the last reference.
pub fn durable_snapshot(snapshot: &Snapshot, deferred_drop: &DeferredDrop) -> DurableSnapshot {
    DurableSnapshot { position: snapshot.header().position, bytes: deferred_drop.wrap(snapshot.bytes().clone()) }
}
