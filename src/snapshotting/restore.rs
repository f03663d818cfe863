//! Restores a state from a snapshot in small steps: a gigabyte takes about a second, and heartbeats must not wait that
//! long.

use super::faults::{invalid_state_fault, to_node_fault};
use super::start::base_after_snapshot;
use crate::apply::{Applier, ApplierRestore, Piece, StateHeader};
use crate::disk::Meter;
use crate::machine::state_machine::StateMachine;
use crate::snapshot::{Chunk, ChunkKind, Header, Snapshot};
use crate::types::{ClusterId, Index, Membership, NodeId, SnapshotPoint};
use crate::wal::Result;

/// The state of a snapshot that is being restored, piece by piece.
pub struct SnapshotRestore<M> {
    snapshot: Snapshot,
    pieces: Box<dyn Iterator<Item = crate::snapshot::Result<Chunk>> + Send>,
    applier_restore: ApplierRestore<M>,
}

impl<M: StateMachine> SnapshotRestore<M> {
    /// Begins a restore for the same kind of state machine as in `template`. Does not change `template`.
    pub fn begin(template: &Applier<M>, snapshot: Snapshot) -> SnapshotRestore<M> {
        SnapshotRestore { pieces: Box::new(snapshot.pieces()), applier_restore: template.begin_restore(), snapshot }
    }

    /// The snapshot whose state is being restored.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Restores the next piece; returns `false` if no piece was left.
    pub fn step(&mut self) -> Result<bool> {
        Ok(self.restore_piece()?.is_some())
    }

    /// Restores the next piece and returns its size in bytes; `None` if none is left.
    fn restore_piece(&mut self) -> Result<Option<u64>> {
        let Some(chunk) = self.pieces.next() else { return Ok(None) };
        let Chunk { kind, body, .. } = chunk.map_err(to_node_fault)?;
        let bytes = body.len() as u64;
        let piece = match kind {
            ChunkKind::Sessions => Piece::Sessions(body),
            ChunkKind::Machine => Piece::Machine(body),
            ChunkKind::End => return Ok(Some(bytes)),
        };
        self.applier_restore.add(&piece).map_err(|malformed| invalid_state_fault(self.snapshot.name(), &malformed))?;
        Ok(Some(bytes))
    }

    /// Returns the applier in the restored state, the snapshot, and the base of the log after it. To be called when
    /// [`SnapshotRestore::step`] has returned `false`.
    pub fn finish(self) -> Result<(Applier<M>, Snapshot, SnapshotPoint)> {
        let state_header = state_header(self.snapshot.header());
        let applier = self
            .applier_restore
            .finish(&state_header)
            .map_err(|malformed| invalid_state_fault(self.snapshot.name(), &malformed))?;
        let base = base_after_snapshot(self.snapshot.header());
        Ok((applier, self.snapshot, base))
    }

    /// Restores all pieces, and counts the progress in `meter`.
    pub fn restore_all(mut self, meter: &Meter) -> Result<(Applier<M>, Snapshot, SnapshotPoint)> {
        meter.add_total(self.snapshot.bytes().len() as u64);
        while let Some(bytes) = self.restore_piece()? {
            meter.add_read(bytes);
        }
        self.finish()
    }
}

/// The header of the state in a snapshot.
pub fn state_header(header: &Header) -> StateHeader {
    let Header { position, time, digest, sessions, .. } = *header;
    StateHeader { position, time, digest, sessions, feature_level: header.membership.feature_level }
}

/// The header for the snapshot of a state that has just been frozen.
pub fn snapshot_header(
    cluster: ClusterId,
    node: NodeId,
    state_header: &StateHeader,
    configuration_index: Index,
    membership: Membership,
) -> Header {
    let StateHeader { position, time, digest, sessions, feature_level: _ } = *state_header;
    Header { cluster, node, position, configuration_index, time, digest, sessions, membership }
}

/// The chunk kind of a piece, and its bytes.
pub fn chunk_of(piece: &Piece) -> (ChunkKind, &[u8]) {
    match piece {
        Piece::Sessions(bytes) => (ChunkKind::Sessions, bytes),
        Piece::Machine(bytes) => (ChunkKind::Machine, bytes),
    }
}
