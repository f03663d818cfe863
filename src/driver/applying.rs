//! The state machine's part of the event loop: applying entries, answering queries, and its snapshots.
//!
//! It runs on the thread of the event loop, because waking another thread costs more than looking up a key in a map.
//! Longer work is divided: a state is serialized and restored in chunks.

use super::deferred_drop::DeferredDrop;
use crate::apply::{Applier, Report};
use crate::consensus::message::SnapshotChunk;
use crate::limits::CHUNK_BYTES;
use crate::machine::state_machine::StateMachine;
use crate::node::event::{DurableSnapshot, Event};
use crate::snapshot::Snapshot;
use crate::snapshotting::restore::header;
use crate::snapshotting::{Job, JobResult, Restore};
use crate::types::{ClusterId, ClusterTime, Entry, Index, Membership, NodeId, Position};
use crate::wal::report::Fault;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// After answers of this many bytes, output is written before further queries are made.
const ANSWERS_AT_ONCE: usize = 4 << 20;
/// Maximum time spent on restoring a state before the sockets are polled again.
const RESTORE_SLICE: Duration = Duration::from_millis(2);

/// The state machine with its client sessions, and its pending work.
pub struct Applying<M> {
    applier: Applier<M>,
    cluster: ClusterId,
    node: NodeId,
    /// The queue of the thread that writes and receives snapshots.
    snapshot_jobs: Sender<Job>,
    /// Frees large values on another thread.
    deferred_drop: DeferredDrop,
    /// Pending queries: ticket, query, cluster time.
    queries: VecDeque<(u64, Bytes, ClusterTime)>,
    /// Whether a snapshot of the state is being written.
    taking: bool,
    /// The state of another node, being restored from its snapshot.
    restoring: Option<Restore<M>>,
}

impl<M: StateMachine> Applying<M> {
    /// The state machine of a node. `snapshot_jobs` is the queue of the thread that writes snapshot files.
    pub fn new(
        applier: Applier<M>,
        (cluster, node): (ClusterId, NodeId),
        snapshot_jobs: Sender<Job>,
        deferred_drop: DeferredDrop,
    ) -> Applying<M> {
        Applying {
            applier,
            cluster,
            node,
            snapshot_jobs,
            deferred_drop,
            queries: VecDeque::new(),
            taking: false,
            restoring: None,
        }
    }

    /// Applies committed entries.
    pub fn apply(&mut self, entries: &[Entry]) -> Report {
        self.applier.apply(entries)
    }

    /// The index of the last applied entry.
    pub fn applied(&self) -> Index {
        self.applier.applied()
    }

    /// Adds a query for the state machine. `time` is the cluster's clock as far as the node knows it.
    pub fn ask(&mut self, ticket: u64, query: Bytes, time: ClusterTime) {
        self.queries.push_back((ticket, query, time));
    }

    /// Whether there is pending work that no event will announce.
    pub fn has_work(&self) -> bool {
        !self.queries.is_empty() || self.restoring.is_some()
    }

    /// Whether queries are pending.
    pub fn is_asked(&self) -> bool {
        !self.queries.is_empty()
    }

    /// Answers pending queries; if the answers are large, only some of them.
    pub fn answer(&mut self, mut hand_over: impl FnMut(Event)) {
        let mut bytes = 0;
        while bytes < ANSWERS_AT_ONCE
            && let Some((ticket, query, time)) = self.queries.pop_front()
        {
            let answer = self.applier.query(time, &query);
            bytes += answer.len();
            hand_over(Event::Queried { ticket, applied: self.applier.applied(), answer });
        }
    }

    /// Freezes the state and starts a snapshot of it. Returns false if the snapshot thread is gone.
    pub fn take(&mut self, configured: Index, membership: Membership) -> bool {
        let head = self.applier.freeze();
        self.taking = true;
        self.snapshot_jobs.send(Job::Begin(header(self.cluster, self.node, &head, configured, membership))).is_ok()
    }

    /// Passes on a chunk of the leader's snapshot. Returns false if the snapshot thread is gone.
    pub fn receive(&mut self, from: NodeId, chunk: SnapshotChunk) -> bool {
        let SnapshotChunk { snapshot, total, offset, bytes } = chunk;
        self.snapshot_jobs.send(Job::Receive { from, snapshot, total, offset, bytes }).is_ok()
    }

    /// Verifies the file of this node's snapshot, because a follower received it damaged. Returns false if the snapshot
    /// thread is gone.
    pub fn inspect(&mut self, follower: NodeId, snapshot: Position, times: u32) -> bool {
        self.snapshot_jobs.send(Job::Inspect { follower, snapshot, times }).is_ok()
    }

    /// Handles a result of the snapshot thread. Returns the event for the node, if any.
    pub fn done(&mut self, done: JobResult) -> Option<Event> {
        match done {
            JobResult::Ready if self.taking => {
                let job = self.applier.next_chunk(CHUNK_BYTES).map_or(Job::Finish, Job::Piece);
                // If the thread is gone, its own message reports that.
                let _there_or_gone = self.snapshot_jobs.send(job);
                None
            }
            JobResult::Written if self.taking => {
                let _there_or_gone = self.snapshot_jobs.send(Job::Verify);
                None
            }
            JobResult::Ready | JobResult::Written => None,
            JobResult::Damaged => {
                self.taking = false;
                self.applier.end_snapshot();
                Some(Event::TakenDamaged)
            }
            JobResult::Published(snapshot) => {
                self.taking = false;
                self.applier.end_snapshot();
                Some(Event::SnapshotTaken(snapshot.map(|snapshot| kept(&snapshot, &self.deferred_drop))))
            }
            JobResult::NoRoom => None,
            JobResult::Received { from, snapshot, next, damaged } => {
                Some(Event::ChunkStored { from, snapshot, next, damaged })
            }
            JobResult::Inspected { snapshot, whole } => Some(Event::Inspected { snapshot, whole }),
            JobResult::Complete(snapshot) => {
                self.restoring = Some(Restore::begin(&self.applier, snapshot));
                None
            }
        }
    }

    /// Continues to restore the state of another node, if there is one. Once it is complete, it replaces this node's.
    pub fn continue_restore(&mut self) -> Result<Option<Event>, Fault> {
        let Some(restoring) = &mut self.restoring else { return Ok(None) };
        let begun = Instant::now();
        while begun.elapsed() < RESTORE_SLICE {
            if !restoring.step()? {
                return self.install_restored();
            }
        }
        Ok(None)
    }

    fn install_restored(&mut self) -> Result<Option<Event>, Fault> {
        let Some(restoring) = self.restoring.take() else { return Ok(None) };
        let (applier, snapshot, base) = restoring.finish()?;
        if applier.applied() <= self.applier.applied() {
            self.deferred_drop.defer((applier, snapshot));
            return Ok(None);
        }
        self.deferred_drop.defer(std::mem::replace(&mut self.applier, applier));
        if std::mem::take(&mut self.taking) {
            // The frozen state is dropped with the old one. If the thread is gone, that is reported elsewhere.
            let _there_or_gone = self.snapshot_jobs.send(Job::Abort);
        }
        let (time, report) = (snapshot.header().time, self.applier.apply(&[]));
        Ok(Some(Event::Restored { kept: kept(&snapshot, &self.deferred_drop), base, time, report }))
    }
}

/// A snapshot as the node knows it. Its file, once removed, is freed on another thread.
pub fn kept(snapshot: &Snapshot, deferred_drop: &DeferredDrop) -> DurableSnapshot {
    DurableSnapshot { position: snapshot.header().position, bytes: deferred_drop.wrap(snapshot.bytes().clone()) }
}
