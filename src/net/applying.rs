//! The machine's corner of the loop: what it applies, what it is asked, and its snapshots.
//!
//! It runs on the loop's own thread: to wake another costs more than a map takes to look up a key.
//! What takes longer is done a little at a time: a state is told and taken in piece by piece.

use super::deferred_drop::DeferredDrop;
use crate::apply::{Applier, Report};
use crate::consensus::message::SnapshotChunk;
use crate::limits::CHUNK_BYTES;
use crate::machine::state_machine::StateMachine;
use crate::node::event::{DurableSnapshot, Event};
use crate::shelf::restore::header;
use crate::shelf::{Job, JobResult, Reviving};
use crate::snapshot::Snapshot;
use crate::types::{ClusterId, ClusterTime, Entry, Index, Membership, NodeId, Position};
use crate::wal::report::Fault;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// When answers of this size have gathered they are written before more is asked of the machine.
const ANSWERS_AT_ONCE: usize = 4 << 20;
/// So long a state is taken in before the sockets are looked at again.
const REVIVE_FOR: Duration = Duration::from_millis(2);

/// The machine with its sessions, and what it has to do.
pub struct Applying<M> {
    applier: Applier<M>,
    cluster: ClusterId,
    node: NodeId,
    /// Where snapshots are written and received.
    shelf: Sender<Job>,
    /// Where to leave what is large and no longer needed.
    leavings: DeferredDrop,
    /// What it is asked next.
    queries: VecDeque<(u64, Bytes, ClusterTime)>,
    /// Whether its state is being written down.
    taking: bool,
    /// Another's state, being taken in.
    reviving: Option<Reviving<M>>,
}

impl<M: StateMachine> Applying<M> {
    /// That machine, on that node; `shelf` leads to the thread that has the files.
    pub fn new(
        applier: Applier<M>,
        (cluster, node): (ClusterId, NodeId),
        shelf: Sender<Job>,
        leavings: DeferredDrop,
    ) -> Applying<M> {
        Applying { applier, cluster, node, shelf, leavings, queries: VecDeque::new(), taking: false, reviving: None }
    }

    /// Applies committed entries.
    pub fn apply(&mut self, entries: &[Entry]) -> Report {
        self.applier.apply(entries)
    }

    /// Everything up to here is applied.
    pub fn applied(&self) -> Index {
        self.applier.applied()
    }

    /// The machine will be asked that; `time` is what the node knows of the cluster's clock.
    pub fn ask(&mut self, ticket: u64, query: Bytes, time: ClusterTime) {
        self.queries.push_back((ticket, query, time));
    }

    /// Whether there is something to do that nobody else will remind us of.
    pub fn has_work(&self) -> bool {
        !self.queries.is_empty() || self.reviving.is_some()
    }

    /// Whether anything waits to be asked.
    pub fn is_asked(&self) -> bool {
        !self.queries.is_empty()
    }

    /// Asks the machine what waits to be asked; not all at once if the answers are large.
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

    /// Freezes the state, and has it written down. False if nobody is there to write.
    pub fn take(&mut self, configured: Index, membership: Membership) -> bool {
        let head = self.applier.freeze();
        self.taking = true;
        self.shelf.send(Job::Begin(header(self.cluster, self.node, &head, configured, membership))).is_ok()
    }

    /// A leader sends a piece of a snapshot. False if nobody is there to write.
    pub fn receive(&mut self, from: NodeId, chunk: SnapshotChunk) -> bool {
        let SnapshotChunk { snapshot, total, offset, bytes } = chunk;
        self.shelf.send(Job::Receive { from, snapshot, total, offset, bytes }).is_ok()
    }

    /// A follower received our snapshot damaged: its file is read again. False if nobody is there to read.
    pub fn inspect(&mut self, follower: NodeId, snapshot: Position, times: u32) -> bool {
        self.shelf.send(Job::Inspect { follower, snapshot, times }).is_ok()
    }

    /// The files' thread has done something; what the node should know of it.
    pub fn done(&mut self, done: JobResult) -> Option<Event> {
        match done {
            JobResult::Wants if self.taking => {
                let job = self.applier.piece(CHUNK_BYTES).map_or(Job::Finish, Job::Piece);
                // If it is gone, it says so itself.
                let _there_or_gone = self.shelf.send(job);
                None
            }
            JobResult::Written if self.taking => {
                let _there_or_gone = self.shelf.send(Job::Verify);
                None
            }
            JobResult::Wants | JobResult::Written => None,
            JobResult::Damaged => {
                self.taking = false;
                self.applier.thaw();
                Some(Event::TakenDamaged)
            }
            JobResult::Taken(snapshot) => {
                self.taking = false;
                self.applier.thaw();
                Some(Event::Taken(snapshot.map(|snapshot| kept(&snapshot, &self.leavings))))
            }
            JobResult::NoRoom => None,
            JobResult::Received { from, snapshot, next, damaged } => {
                Some(Event::Received { from, snapshot, next, damaged })
            }
            JobResult::Inspected { snapshot, whole } => Some(Event::Inspected { snapshot, whole }),
            JobResult::Arrived(snapshot) => {
                self.reviving = Some(Reviving::begin(&self.applier, snapshot));
                None
            }
        }
    }

    /// Takes in more of another's state, if there is one; when all of it is in, the machine has become it.
    pub fn revive(&mut self) -> Result<Option<Event>, Fault> {
        let Some(reviving) = &mut self.reviving else { return Ok(None) };
        let begun = Instant::now();
        while begun.elapsed() < REVIVE_FOR {
            if !reviving.step()? {
                return self.become_it();
            }
        }
        Ok(None)
    }

    fn become_it(&mut self) -> Result<Option<Event>, Fault> {
        let Some(reviving) = self.reviving.take() else { return Ok(None) };
        let (applier, snapshot, base) = reviving.finish()?;
        if applier.applied() <= self.applier.applied() {
            self.leavings.leave((applier, snapshot));
            return Ok(None);
        }
        self.leavings.leave(std::mem::replace(&mut self.applier, applier));
        if std::mem::take(&mut self.taking) {
            // What was frozen is gone with the old state. If nobody is there, that is said elsewhere.
            let _there_or_gone = self.shelf.send(Job::GiveUp);
        }
        let (time, report) = (snapshot.header().time, self.applier.apply(&[]));
        Ok(Some(Event::Restored { kept: kept(&snapshot, &self.leavings), base, time, report }))
    }
}

/// A snapshot, as the node knows it. Its file, once removed, is let go of where nobody waits.
pub fn kept(snapshot: &Snapshot, leavings: &DeferredDrop) -> DurableSnapshot {
    DurableSnapshot { position: snapshot.header().position, bytes: leavings.lend(snapshot.bytes().clone()) }
}
