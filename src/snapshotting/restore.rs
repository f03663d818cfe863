//! Restores a state from a snapshot in small steps: a gigabyte takes a second, too long for heartbeats to wait.

use super::faults::{fault, strange};
use super::start::base_of;
use crate::apply::{Applier, ApplierRestore, Piece, StateHeader};
use crate::disk::Meter;
use crate::machine::state_machine::StateMachine;
use crate::snapshot::{Chunk, ChunkKind, Header, Snapshot};
use crate::types::{ClusterId, Index, Membership, NodeId, SnapshotPoint};
use crate::wal::Result;

/// A state that is being restored.
pub struct Restore<M> {
    snapshot: Snapshot,
    pieces: Box<dyn Iterator<Item = crate::snapshot::Result<Chunk>> + Send>,
    restoring: ApplierRestore<M>,
}

impl<M: StateMachine> Restore<M> {
    /// Begins a restore for a state machine of the same kind as that of `like`, which is not changed.
    pub fn begin(like: &Applier<M>, snapshot: Snapshot) -> Restore<M> {
        Restore { pieces: Box::new(snapshot.pieces()), restoring: like.restoring(), snapshot }
    }

    /// The snapshot that is being restored.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Restores the next piece; returns `false` if there was none left.
    pub fn step(&mut self) -> Result<bool> {
        Ok(self.take()?.is_some())
    }

    /// Restores the next piece and returns its size in bytes.
    fn take(&mut self) -> Result<Option<u64>> {
        let Some(chunk) = self.pieces.next() else { return Ok(None) };
        let Chunk { kind, body, .. } = chunk.map_err(fault)?;
        let bytes = body.len() as u64;
        let piece = match kind {
            ChunkKind::Sessions => Piece::Sessions(body),
            ChunkKind::Machine => Piece::Machine(body),
            ChunkKind::End => return Ok(Some(bytes)),
        };
        self.restoring.take(&piece).map_err(|malformed| strange(self.snapshot.name(), &malformed))?;
        Ok(Some(bytes))
    }

    /// To be called after the last piece: returns the applier in the frozen state, the snapshot, and the base of the
    /// log.
    pub fn finish(self) -> Result<(Applier<M>, Snapshot, SnapshotPoint)> {
        let Header { position, time, digest, sessions, .. } = *self.snapshot.header();
        let head = StateHeader { position, time, digest, sessions };
        let applier = self.restoring.finish(&head).map_err(|malformed| strange(self.snapshot.name(), &malformed))?;
        let base = base_of(self.snapshot.header());
        Ok((applier, self.snapshot, base))
    }

    /// Restores all pieces, and counts the progress in `meter`.
    pub fn all(mut self, meter: &Meter) -> Result<(Applier<M>, Snapshot, SnapshotPoint)> {
        meter.expect(self.snapshot.bytes().len() as u64);
        while let Some(bytes) = self.take()? {
            meter.advance(bytes);
        }
        self.finish()
    }
}

/// The header for the snapshot of a state that has just been frozen.
pub fn header(
    cluster: ClusterId,
    node: NodeId,
    head: &StateHeader,
    configured: Index,
    membership: Membership,
) -> Header {
    let StateHeader { position, time, digest, sessions } = *head;
    Header { cluster, node, position, configured, time, digest, sessions, membership }
}

/// The chunk kind of a piece, and its bytes.
pub fn chunk_of(piece: &Piece) -> (ChunkKind, &[u8]) {
    match piece {
        Piece::Sessions(bytes) => (ChunkKind::Sessions, bytes),
        Piece::Machine(bytes) => (ChunkKind::Machine, bytes),
    }
}
