//! The worker that reads and writes snapshot files: one job after the other, on any thread.
//!
//! On a full disk a snapshot is what frees room. So it borrows the reserve if it fits into that, and returns it when it
//! is done or when the log needs it.

use super::faults::{fault, of_reserve};
use super::restore::chunk_of;
use crate::apply::Piece;
use crate::disk::Disk;
use crate::snapshot::{self, Header, Incoming, Snapshot, Store, Writer};
use crate::types::{NodeId, Position};
use crate::wal::{Ballast, Result};
use bytes::Bytes;
use std::io::ErrorKind;

/// How many bytes of a snapshot are read back in one job.
const VERIFY_BYTES: u64 = 1 << 20;

/// A job for the worker.
#[derive(Debug)]
pub enum Job {
    /// Begin to write a snapshot.
    Begin(Header),
    /// Write the next piece of it.
    Piece(Piece),
    /// Seal it after the last piece, and make it durable.
    Finish,
    /// Read the next part of it back from the disk; publish it when all of it matches what was written.
    Verify,
    /// Abort it.
    Abort,
    /// Write a piece of another node's snapshot file.
    Receive {
        /// The sender.
        from: NodeId,
        /// The position of the snapshot.
        snapshot: Position,
        /// The size of the file in bytes.
        total: u64,
        /// The offset of the piece.
        offset: u64,
        /// The piece.
        bytes: Bytes,
    },
    /// Read a snapshot of this node again, because a follower received it damaged.
    Inspect {
        /// The follower.
        follower: NodeId,
        /// The position of the snapshot.
        snapshot: Position,
        /// How many times in a row that follower has received one damaged.
        times: u32,
    },
}

/// The result of a job.
#[derive(Debug)]
pub enum JobResult {
    /// The worker is ready for the next piece.
    Ready,
    /// The whole state is written and must be read back.
    Written,
    /// The snapshot differed from what was written when it was read back: it was set aside, and is not used.
    Damaged,
    /// The snapshot is published and durable; `None` if there was no room for it, or if it was aborted.
    Published(Option<Snapshot>),
    /// A part of another node's snapshot is here.
    Received {
        /// The sender.
        from: NodeId,
        /// The position of the snapshot.
        snapshot: Position,
        /// How many bytes of it are here.
        next: u64,
        /// Whether the whole snapshot was received and was damaged: then no part of it is left.
        damaged: bool,
    },
    /// A snapshot of this node was read again.
    Inspected {
        /// The position of the snapshot.
        snapshot: Position,
        /// Whether it is whole. If not, it was set aside, or a newer one has replaced it.
        whole: bool,
    },
    /// Another node's snapshot was received, whole and durable.
    Complete(Snapshot),
    /// There is no room for another node's snapshot. No response is sent: the sender retries by itself.
    NoRoom,
}

/// The worker that writes one node's snapshot files.
pub struct SnapshotWorker<D: Disk> {
    store: Store<D>,
    reserve: Ballast<D>,
    writer: Option<Writer<D>>,
    incoming: Option<Incoming<D>>,
    /// Position and size of the latest received snapshot: later messages from its sender about it are stale.
    arrived: Option<(Position, u64)>,
    /// Whether a lack of room was logged since there last was room.
    no_room_logged: bool,
}

impl<D: Disk> SnapshotWorker<D> {
    /// An idle worker for these files; `reserve` is on the same disk.
    pub fn new(store: Store<D>, reserve: Ballast<D>) -> SnapshotWorker<D> {
        SnapshotWorker { store, reserve, writer: None, incoming: None, arrived: None, no_room_logged: false }
    }

    /// Runs a job. An error is final: the node must stop.
    pub fn run(&mut self, job: Job) -> Result<JobResult> {
        let outcome = match job {
            Job::Begin(header) => self.with_reserve(|keeper| keeper.begin(&header)),
            Job::Piece(piece) => self.with_reserve(|keeper| keeper.put(&piece)),
            Job::Finish => self.with_reserve(SnapshotWorker::seal),
            Job::Verify => self.with_reserve(SnapshotWorker::verify),
            Job::Abort => Ok(JobResult::Published(None)),
            Job::Receive { from, snapshot, total, offset, bytes } => {
                return self.receive(from, snapshot, total, offset, &bytes);
            }
            Job::Inspect { follower, snapshot, times } => {
                return self.inspect(follower, snapshot, times).map_err(fault);
            }
        };
        match outcome {
            Ok(done @ (JobResult::Ready | JobResult::Written)) => Ok(done),
            Ok(done @ JobResult::Published(Some(_))) => {
                self.no_room_logged = false;
                self.reserve.end_loan();
                Ok(done)
            }
            Ok(done) => self.abort().map(|()| done),
            Err(snapshot::Fault::Full { file }) => {
                self.log_no_room_once(&file);
                self.abort().map(|()| JobResult::Published(None))
            }
            Err(damaged @ snapshot::Fault::Damaged { .. }) => self.set_aside(&damaged).map_err(fault),
            Err(wrong) => Err(fault(wrong)),
        }
    }

    /// Sets the damaged snapshot aside: it is not used, and the log before it is kept.
    fn set_aside(&mut self, damaged: &snapshot::Fault) -> snapshot::Result<JobResult> {
        if let Some(writer) = self.writer.take() {
            let aside = self.store.set_aside(&writer.unfinished())?;
            log::error!("snapshot {damaged}; the file is set aside as {aside}");
        }
        self.reserve.end_loan();
        Ok(JobResult::Damaged)
    }

    /// Runs a step, and once more with the reserve if there is no room without it.
    fn with_reserve(
        &mut self,
        mut step: impl FnMut(&mut Self) -> snapshot::Result<JobResult>,
    ) -> snapshot::Result<JobResult> {
        match step(self) {
            Err(snapshot::Fault::Full { file }) if self.store.drop_set_aside()? || self.lend(&file)? => step(self),
            outcome => outcome,
        }
    }

    fn lend(&self, file: &str) -> snapshot::Result<bool> {
        let lent = self.reserve.lend().map_err(of_reserve)?;
        if lent {
            log::warn!("no space left for {file}: the snapshot borrows the reserve");
        }
        Ok(lent)
    }

    /// Logs a lack of room once, since it may last long.
    fn log_no_room_once(&mut self, file: &str) {
        if !std::mem::replace(&mut self.no_room_logged, true) {
            log::warn!("no space left for {file}, not even with the reserve: the log is kept until there is space");
        }
    }

    /// Aborts the snapshot that is being written: its room and the loan of the reserve are free when this returns.
    fn abort(&mut self) -> Result<()> {
        let abandoned = self.writer.take().map_or(Ok(()), Writer::abandon);
        self.reserve.end_loan();
        abandoned.map_err(fault)
    }

    fn begin(&mut self, header: &Header) -> snapshot::Result<JobResult> {
        self.writer = Some(self.store.writer(header)?);
        Ok(JobResult::Ready)
    }

    fn put(&mut self, piece: &Piece) -> snapshot::Result<JobResult> {
        let Some(writer) = &mut self.writer else { return Ok(JobResult::Published(None)) };
        if self.reserve.is_claimed() {
            // The log has priority: without it the node cannot vote.
            return Ok(JobResult::Published(None));
        }
        let (kind, bytes) = chunk_of(piece);
        writer.put(kind, bytes)?;
        Ok(JobResult::Ready)
    }

    fn seal(&mut self) -> snapshot::Result<JobResult> {
        let Some(writer) = &mut self.writer else { return Ok(JobResult::Published(None)) };
        writer.seal()?;
        Ok(JobResult::Written)
    }

    fn verify(&mut self) -> snapshot::Result<JobResult> {
        let Some(writer) = &mut self.writer else { return Ok(JobResult::Published(None)) };
        if self.reserve.is_claimed() {
            return Ok(JobResult::Published(None));
        }
        let Some(snapshot) = writer.verify(VERIFY_BYTES)? else { return Ok(JobResult::Written) };
        self.writer = None;
        // If a newer snapshot was received from a leader meanwhile, this one came too late.
        let index = snapshot.header().position.index;
        match self.arrived.filter(|(arrived, _)| arrived.index > index) {
            None => drop(self.store.prune_older_than(&snapshot)?),
            Some((arrived, _)) => match self.store.prune(arrived) {
                Err(damaged @ snapshot::Fault::Damaged { .. }) => log::error!("snapshot {damaged}"),
                pruned => drop(pruned?),
            },
        }
        Ok(JobResult::Published(Some(snapshot)))
    }

    /// Reads a snapshot of this node again that a follower received damaged: either this file is damaged, or the
    /// follower's copy was damaged in transit or on the follower's disk.
    fn inspect(&mut self, follower: NodeId, position: Position, times: u32) -> snapshot::Result<JobResult> {
        let file = snapshot::format::file_name(position);
        log::warn!(
            "{follower} received snapshot {file} damaged ({times} times in a row): this node reads its file again"
        );
        let whole = match self.store.reread(position) {
            Ok(_) => {
                log::warn!(
                    "snapshot {file} is intact here: it was damaged on its way to {follower}, or on the disk of \
                     {follower}; it is sent again, a few times at most, or the next snapshot is sent"
                );
                true
            }
            Err(snapshot::Fault::Damaged { file, offset, what, .. }) => {
                let aside = self.store.set_aside(&file)?;
                log::error!(
                    "snapshot {file} is damaged here: byte {offset}: {what}; the file is set aside as {aside}, and \
                     another snapshot is taken"
                );
                false
            }
            // A newer snapshot has replaced it.
            Err(snapshot::Fault::Io { source, .. }) if source.kind() == ErrorKind::NotFound => false,
            Err(wrong) => return Err(wrong),
        };
        Ok(JobResult::Inspected { snapshot: position, whole })
    }

    fn receive(
        &mut self,
        from: NodeId,
        position: Position,
        total: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<JobResult> {
        let said = |next, damaged| JobResult::Received { from, snapshot: position, next, damaged };
        match self.receive_piece(position, total, offset, bytes) {
            Ok(Ok(next)) => Ok(said(next, false)),
            Ok(Err(snapshot)) => {
                self.no_room_logged = false;
                Ok(JobResult::Complete(snapshot))
            }
            // The damaged file was removed. The sender is informed, and reads its own file again.
            Err(damaged @ snapshot::Fault::Damaged { .. }) => {
                self.incoming = None;
                log::warn!("snapshot {position} from {from} is damaged: {damaged}; this node reports it to {from}");
                Ok(said(0, true))
            }
            Err(snapshot::Fault::Full { file }) => {
                self.incoming = None;
                self.log_no_room_once(&file);
                Ok(JobResult::NoRoom)
            }
            Err(wrong) => Err(fault(wrong)),
        }
    }

    /// Whether a snapshot is completely written and must be read back.
    pub fn is_written(&self) -> bool {
        self.writer.as_ref().is_some_and(Writer::is_sealed)
    }

    /// Begins or resumes a transfer, in the room of the reserve if it needs that and fits into it.
    fn open(&mut self, position: Position, total: u64) -> snapshot::Result<Incoming<D>> {
        let mut lacks = self.store.missing_room(position, total)?;
        if lacks > 0 && self.store.drop_set_aside()? {
            lacks = self.store.missing_room(position, total)?;
        }
        let file = snapshot::format::file_name(position);
        if lacks == 0 {
            return self.store.incoming(position, total);
        }
        if lacks > self.reserve.size().map_err(of_reserve)? || !self.lend(&file)? {
            return Err(snapshot::Fault::Full { file });
        }
        let incoming = self.store.incoming(position, total);
        // The file has all the room that it will need, or none.
        self.reserve.end_loan();
        incoming
    }

    /// How many bytes of the snapshot are here, or the snapshot if it is complete.
    fn receive_piece(
        &mut self,
        position: Position,
        total: u64,
        offset: u64,
        bytes: &[u8],
    ) -> snapshot::Result<std::result::Result<u64, Snapshot>> {
        if let Some((arrived, total)) = self.arrived.filter(|(arrived, _)| arrived.index >= position.index) {
            return Ok(Ok(if arrived == position { total } else { 0 }));
        }
        let other = |incoming: &Incoming<D>| incoming.position() != position || incoming.total() != total;
        if self.incoming.as_ref().is_none_or(other) {
            self.incoming = None;
            self.incoming = Some(self.open(position, total)?);
        }
        let Some(incoming) = &mut self.incoming else { return Ok(Ok(0)) };
        let next = incoming.put(offset, bytes)?;
        match self.incoming.take_if(|incoming| incoming.is_complete()) {
            None => Ok(Ok(next)),
            Some(incoming) => {
                let snapshot = incoming.finish()?;
                self.store.prune_older_than(&snapshot)?;
                self.arrived = Some((position, total));
                Ok(Err(snapshot))
            }
        }
    }
}

#[cfg(test)]
mod tests;
