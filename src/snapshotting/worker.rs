//! The worker that reads and writes snapshot files: one job after the other, on any thread.
//!
//! On a full disk, log segments can be freed only after a snapshot. So a snapshot borrows the reserve if the reserve is
//! large enough, and returns it when the snapshot is published or when the log needs the space.

use super::faults::{reserve_fault, to_node_fault};
use super::restore::chunk_of;
use crate::apply::Piece;
use crate::disk::Disk;
use crate::snapshot::{self, Header, IncomingSnapshot, Snapshot, Store, Writer};
use crate::types::{NodeId, Position};
use crate::wal::{Ballast, Result};
use bytes::Bytes;
use std::io::ErrorKind;

/// The number of bytes of a snapshot that are read back in one [`Job::VerifySnapshot`].
const VERIFY_JOB_BYTES: u64 = 1 << 20;

/// What the [`SnapshotWorker`] can be told to do with snapshot files.
#[derive(Debug)]
pub enum Job {
    /// Begin to write a snapshot file with this header.
    BeginSnapshot(Header),
    /// Write the next piece of the snapshot that is being written.
    WritePiece(Piece),
    /// Seal the snapshot after its last piece, and make it durable.
    SealSnapshot,
    /// Read the next part of the sealed snapshot back from the disk. Publish the snapshot when all of it was verified.
    VerifySnapshot,
    /// Abort the snapshot that is being written.
    AbortSnapshot,
    /// Write a piece of another node's snapshot file.
    ReceivePiece {
        /// The node that sent the piece.
        from: NodeId,
        /// The position of the last entry that the snapshot replaces.
        snapshot: Position,
        /// The size of the whole file in bytes.
        total: u64,
        /// The offset of the piece in the file.
        offset: u64,
        /// The bytes of the file from `offset` on.
        bytes: Bytes,
    },
    /// Read a snapshot of this node again, because a follower received it damaged.
    InspectSnapshot {
        /// The follower that reported the damage.
        follower: NodeId,
        /// The position of the last entry that the snapshot replaces.
        snapshot: Position,
        /// The number of times in a row that the follower has received a damaged snapshot.
        damaged_count: u32,
    },
}

/// The result of a [`Job`].
#[derive(Debug)]
pub enum JobResult {
    /// The file was created or a piece was written: the worker accepts the next piece.
    PieceWritten,
    /// The whole state is written, and the file must still be read back: the next job should be
    /// [`Job::VerifySnapshot`].
    SnapshotWritten,
    /// The snapshot that was read back differs from what was written. It was set aside and is not used.
    SnapshotDamaged,
    /// The writing of a snapshot has ended: the snapshot is published and durable, or `None` if the disk had no space
    /// for it, or if it was aborted.
    SnapshotEnded(Option<Snapshot>),
    /// A part of another node's snapshot was written.
    PieceReceived {
        /// The node that sent the snapshot.
        from: NodeId,
        /// The position of the last entry that the snapshot replaces.
        snapshot: Position,
        /// The number of bytes received so far: the offset at which the sender continues.
        next: u64,
        /// Whether the whole snapshot was received and was damaged. If so, it was removed.
        damaged: bool,
    },
    /// A snapshot of this node was read again.
    SnapshotInspected {
        /// The position of the last entry that the snapshot replaces.
        snapshot: Position,
        /// Whether the snapshot is intact. If not, the file was set aside, or a newer snapshot has replaced it.
        undamaged: bool,
    },
    /// Another node's snapshot was received completely. It is verified and durable.
    TransferComplete(Snapshot),
    /// The disk has no space for another node's snapshot. No response is sent: the sender retries by itself.
    NoRoom,
}

/// The worker that writes one node's snapshot files.
pub struct SnapshotWorker<D: Disk> {
    store: Store<D>,
    reserve: Ballast<D>,
    writer: Option<Writer<D>>,
    incoming: Option<IncomingSnapshot<D>>,
    /// Position and size in bytes of the latest snapshot that was received completely. Later messages about that
    /// snapshot are stale.
    last_received: Option<(Position, u64)>,
    /// Whether a lack of disk space was logged since a snapshot last succeeded.
    no_room_logged: bool,
}

impl<D: Disk> SnapshotWorker<D> {
    /// An idle worker for the snapshots in `store`; `reserve` is on the same disk.
    pub fn new(store: Store<D>, reserve: Ballast<D>) -> SnapshotWorker<D> {
        SnapshotWorker { store, reserve, writer: None, incoming: None, last_received: None, no_room_logged: false }
    }

    /// Runs a job. An error is final: the node must stop.
    pub fn run(&mut self, job: Job) -> Result<JobResult> {
        let result = match job {
            Job::BeginSnapshot(header) => self.retry_with_reserve(|worker| worker.begin_snapshot(&header)),
            Job::WritePiece(piece) => self.retry_with_reserve(|worker| worker.write_piece(&piece)),
            Job::SealSnapshot => self.retry_with_reserve(SnapshotWorker::seal_snapshot),
            Job::VerifySnapshot => self.retry_with_reserve(SnapshotWorker::verify_snapshot),
            Job::AbortSnapshot => Ok(JobResult::SnapshotEnded(None)),
            Job::ReceivePiece { from, snapshot, total, offset, bytes } => {
                return self.receive(from, snapshot, total, offset, &bytes);
            }
            Job::InspectSnapshot { follower, snapshot, damaged_count } => {
                return self.inspect_snapshot(follower, snapshot, damaged_count).map_err(to_node_fault);
            }
        };
        match result {
            Ok(done @ (JobResult::PieceWritten | JobResult::SnapshotWritten)) => Ok(done),
            Ok(done @ JobResult::SnapshotEnded(Some(_))) => {
                self.no_room_logged = false;
                self.reserve.end_loan();
                Ok(done)
            }
            Ok(done) => self.abort_snapshot().map(|()| done),
            Err(snapshot::Fault::Full { file }) => {
                self.log_no_room_once(&file);
                self.abort_snapshot().map(|()| JobResult::SnapshotEnded(None))
            }
            Err(damaged @ snapshot::Fault::Damaged { .. }) => self.set_damaged_aside(&damaged).map_err(to_node_fault),
            Err(other) => Err(to_node_fault(other)),
        }
    }

    /// Sets the damaged snapshot aside: the file is renamed and never used, and the log is kept.
    fn set_damaged_aside(&mut self, damaged: &snapshot::Fault) -> snapshot::Result<JobResult> {
        if let Some(writer) = self.writer.take() {
            let set_aside_name = self.store.set_aside(&writer.unfinished_name())?;
            log::error!("snapshot {damaged}; the file is set aside as {set_aside_name}");
        }
        self.reserve.end_loan();
        Ok(JobResult::SnapshotDamaged)
    }

    /// Runs a step. If the disk is full, removes the damaged file that was set aside or borrows the reserve, and runs
    /// the step once more.
    fn retry_with_reserve(
        &mut self,
        mut step: impl FnMut(&mut Self) -> snapshot::Result<JobResult>,
    ) -> snapshot::Result<JobResult> {
        match step(self) {
            Err(snapshot::Fault::Full { file })
                if self.store.remove_set_aside_files()? || self.borrow_reserve(&file)? =>
            {
                step(self)
            }
            outcome => outcome,
        }
    }

    fn borrow_reserve(&self, file: &str) -> snapshot::Result<bool> {
        let is_lent = self.reserve.lend().map_err(reserve_fault)?;
        if is_lent {
            log::warn!("no space left for {file}: the snapshot borrows the reserve");
        }
        Ok(is_lent)
    }

    /// Logs a lack of disk space only once, since the lack may last long.
    fn log_no_room_once(&mut self, file: &str) {
        if !std::mem::replace(&mut self.no_room_logged, true) {
            log::warn!("no space left for {file}, not even with the reserve: the log is kept until there is space");
        }
    }

    /// Aborts the snapshot that is being written: removes its file, and returns the reserve.
    fn abort_snapshot(&mut self) -> Result<()> {
        let outcome = self.writer.take().map_or(Ok(()), Writer::abandon);
        self.reserve.end_loan();
        outcome.map_err(to_node_fault)
    }

    fn begin_snapshot(&mut self, header: &Header) -> snapshot::Result<JobResult> {
        self.writer = Some(self.store.create_writer(header)?);
        Ok(JobResult::PieceWritten)
    }

    fn write_piece(&mut self, piece: &Piece) -> snapshot::Result<JobResult> {
        let Some(writer) = &mut self.writer else { return Ok(JobResult::SnapshotEnded(None)) };
        if self.reserve.is_claimed_by_log() {
            // The log has priority: without space for it the node cannot vote.
            return Ok(JobResult::SnapshotEnded(None));
        }
        let (kind, bytes) = chunk_of(piece);
        writer.write_piece(kind, bytes)?;
        Ok(JobResult::PieceWritten)
    }

    fn seal_snapshot(&mut self) -> snapshot::Result<JobResult> {
        let Some(writer) = &mut self.writer else { return Ok(JobResult::SnapshotEnded(None)) };
        writer.seal()?;
        Ok(JobResult::SnapshotWritten)
    }

    fn verify_snapshot(&mut self) -> snapshot::Result<JobResult> {
        let Some(writer) = &mut self.writer else { return Ok(JobResult::SnapshotEnded(None)) };
        if self.reserve.is_claimed_by_log() {
            return Ok(JobResult::SnapshotEnded(None));
        }
        let Some(snapshot) = writer.verify(VERIFY_JOB_BYTES)? else { return Ok(JobResult::SnapshotWritten) };
        self.writer = None;
        // A newer snapshot may have been received from a leader meanwhile. Then the snapshot that was written is
        // outdated and is pruned.
        let index = snapshot.header().position.index;
        match self.last_received.filter(|(received, _)| received.index > index) {
            None => drop(self.store.prune_older_than(&snapshot)?),
            Some((received, _)) => match self.store.prune(received) {
                Err(damaged @ snapshot::Fault::Damaged { .. }) => log::error!("snapshot {damaged}"),
                pruned => drop(pruned?),
            },
        }
        Ok(JobResult::SnapshotEnded(Some(snapshot)))
    }

    /// Reads a snapshot of this node again that a follower received damaged: either this file is damaged, or the
    /// follower's copy was damaged in transit or on the follower's disk.
    fn inspect_snapshot(
        &mut self,
        follower: NodeId,
        position: Position,
        damaged_count: u32,
    ) -> snapshot::Result<JobResult> {
        let file = snapshot::format::file_name(position);
        log::warn!(
            "{follower} received snapshot {file} damaged ({damaged_count} times in a row): this node reads its file \
             again"
        );
        let undamaged = match self.store.read_uncached(position) {
            Ok(_) => {
                log::warn!(
                    "snapshot {file} is intact here: it was damaged on its way to {follower}, or on the disk of \
                     {follower}; it is sent again, a few times at most, or the next snapshot is sent"
                );
                true
            }
            Err(snapshot::Fault::Damaged { file, offset, description, .. }) => {
                let set_aside_name = self.store.set_aside(&file)?;
                log::error!(
                    "snapshot {file} is damaged here: byte {offset}: {description}; the file is set aside as \
                     {set_aside_name}, and another snapshot is taken"
                );
                false
            }
            // The file is gone: a newer snapshot has replaced this one.
            Err(snapshot::Fault::Io { source, .. }) if source.kind() == ErrorKind::NotFound => false,
            Err(other) => return Err(other),
        };
        Ok(JobResult::SnapshotInspected { snapshot: position, undamaged })
    }

    fn receive(
        &mut self,
        from: NodeId,
        position: Position,
        total: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<JobResult> {
        let received_result = |next, damaged| JobResult::PieceReceived { from, snapshot: position, next, damaged };
        match self.receive_piece(position, total, offset, bytes) {
            Ok(Ok(next)) => Ok(received_result(next, false)),
            Ok(Err(snapshot)) => {
                self.no_room_logged = false;
                Ok(JobResult::TransferComplete(snapshot))
            }
            // The damaged file was removed. The sender is informed, and reads its own file again.
            Err(damaged @ snapshot::Fault::Damaged { .. }) => {
                self.incoming = None;
                log::warn!("snapshot {position} from {from} is damaged: {damaged}; this node reports it to {from}");
                Ok(received_result(0, true))
            }
            Err(snapshot::Fault::Full { file }) => {
                self.incoming = None;
                self.log_no_room_once(&file);
                Ok(JobResult::NoRoom)
            }
            Err(other) => Err(to_node_fault(other)),
        }
    }

    /// Whether the whole snapshot is written and must be read back.
    pub fn is_written(&self) -> bool {
        self.writer.as_ref().is_some_and(Writer::is_sealed)
    }

    /// Begins or resumes a transfer. Borrows the reserve if the free space is too small without it.
    fn open_incoming(&mut self, position: Position, total: u64) -> snapshot::Result<IncomingSnapshot<D>> {
        let mut missing_bytes = self.store.missing_bytes(position, total)?;
        if missing_bytes > 0 && self.store.remove_set_aside_files()? {
            missing_bytes = self.store.missing_bytes(position, total)?;
        }
        let file = snapshot::format::file_name(position);
        if missing_bytes == 0 {
            return self.store.open_incoming(position, total);
        }
        if missing_bytes > self.reserve.size().map_err(reserve_fault)? || !self.borrow_reserve(&file)? {
            return Err(snapshot::Fault::Full { file });
        }
        let incoming = self.store.open_incoming(position, total);
        // The file's whole space is allocated, or none: the reserve need not be lent any longer.
        self.reserve.end_loan();
        incoming
    }

    /// Writes a piece of another node's snapshot. Returns the number of bytes received so far as `Ok`, or the complete
    /// snapshot as `Err`.
    fn receive_piece(
        &mut self,
        position: Position,
        total: u64,
        offset: u64,
        bytes: &[u8],
    ) -> snapshot::Result<std::result::Result<u64, Snapshot>> {
        if let Some((received, total)) = self.last_received.filter(|(received, _)| received.index >= position.index) {
            return Ok(Ok(if received == position { total } else { 0 }));
        }
        let is_other_transfer =
            |incoming: &IncomingSnapshot<D>| incoming.position() != position || incoming.total_bytes() != total;
        if self.incoming.as_ref().is_none_or(is_other_transfer) {
            self.incoming = None;
            self.incoming = Some(self.open_incoming(position, total)?);
        }
        let Some(incoming) = &mut self.incoming else { return Ok(Ok(0)) };
        let next = incoming.write_bytes(offset, bytes)?;
        match self.incoming.take_if(|incoming| incoming.is_complete()) {
            None => Ok(Ok(next)),
            Some(incoming) => {
                let snapshot = incoming.finish()?;
                self.store.prune_older_than(&snapshot)?;
                self.last_received = Some((position, total));
                Ok(Err(snapshot))
            }
        }
    }
}

#[cfg(test)]
mod tests;
