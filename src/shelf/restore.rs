//! A state, taken in from a snapshot a little at a time: a gigabyte takes a second, and heartbeats do
//! not wait so long.

use super::start::base_of;
use super::trouble::{fault, strange};
use crate::apply::{Applier, Piece, Restoring, StateHeader};
use crate::disk::Meter;
use crate::machine::state_machine::StateMachine;
use crate::snapshot::{Chunk, ChunkKind, Header, Snapshot};
use crate::types::{ClusterId, Index, Membership, NodeId, SnapshotPoint};
use crate::wal::Result;

/// A state being taken in.
pub struct Reviving<M> {
    snapshot: Snapshot,
    pieces: Box<dyn Iterator<Item = crate::snapshot::Result<Chunk>> + Send>,
    restoring: Restoring<M>,
}

impl<M: StateMachine> Reviving<M> {
    /// Begins, for a machine of that applier's kind; the applier itself is left as it is.
    pub fn begin(like: &Applier<M>, snapshot: Snapshot) -> Reviving<M> {
        Reviving { pieces: Box::new(snapshot.pieces()), restoring: like.restoring(), snapshot }
    }

    /// The snapshot it comes from.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Takes in the next piece; false if there was none left.
    pub fn step(&mut self) -> Result<bool> {
        Ok(self.take()?.is_some())
    }

    /// Takes in the next piece, and says how long it was.
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

    /// All pieces were taken in: the applier, as the frozen one was; and the base its log has.
    pub fn finish(self) -> Result<(Applier<M>, Snapshot, SnapshotPoint)> {
        let Header { position, time, digest, sessions, .. } = *self.snapshot.header();
        let head = StateHeader { position, time, digest, sessions };
        let applier = self.restoring.finish(&head).map_err(|malformed| strange(self.snapshot.name(), &malformed))?;
        let base = base_of(self.snapshot.header());
        Ok((applier, self.snapshot, base))
    }

    /// Takes in all of it, one piece after the other; how far it is, is counted there.
    pub fn all(mut self, meter: &Meter) -> Result<(Applier<M>, Snapshot, SnapshotPoint)> {
        meter.expect(self.snapshot.bytes().len() as u64);
        while let Some(bytes) = self.take()? {
            meter.advance(bytes);
        }
        self.finish()
    }
}

/// The header of a snapshot of a state that was just frozen.
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

/// Which kind of chunk a piece is, and its bytes.
pub fn chunk_of(piece: &Piece) -> (ChunkKind, &[u8]) {
    match piece {
        Piece::Sessions(bytes) => (ChunkKind::Sessions, bytes),
        Piece::Machine(bytes) => (ChunkKind::Machine, bytes),
    }
}
