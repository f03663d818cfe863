//! Who reads and writes the files: one job after the other, on whatever thread.

use super::reviving::chunk_of;
use super::trouble::fault;
use crate::apply::Piece;
use crate::disk::Disk;
use crate::snapshot::{self, Header, Incoming, Snapshot, Store, Writer};
use crate::types::{NodeId, Position};
use crate::wal::Result;
use bytes::Bytes;

/// What there is to do.
#[derive(Debug)]
pub enum Job {
    /// Begin to write a state down.
    Begin(Header),
    /// Its next piece.
    Piece(Piece),
    /// There are no more: publish it.
    Finish,
    /// It will not be finished.
    GiveUp,
    /// A piece of the file of another node's snapshot.
    Receive {
        /// Who sends it.
        from: NodeId,
        /// Which snapshot.
        snapshot: Position,
        /// How long its file is.
        total: u64,
        /// Where the piece begins.
        offset: u64,
        /// The piece.
        bytes: Bytes,
    },
}

/// What came of it.
#[derive(Debug)]
pub enum Done {
    /// The next piece may come.
    Wants,
    /// The state is written down, durably; or there was no room for it, or it was given up.
    Taken(Option<Snapshot>),
    /// Of that node's snapshot this much is here.
    Received {
        /// Whose.
        from: NodeId,
        /// Which.
        snapshot: Position,
        /// How many bytes.
        next: u64,
    },
    /// Another node's snapshot is here, whole and durable.
    Arrived(Snapshot),
}

/// The files of one node's snapshots, being written.
pub struct Keeper<D: Disk> {
    store: Store<D>,
    writer: Option<Writer<D>>,
    incoming: Option<Incoming<D>>,
    /// The latest that arrived: what its sender says of it later is old.
    arrived: Option<(Position, u64)>,
}

impl<D: Disk> Keeper<D> {
    /// With those files, and nothing to do yet.
    pub fn new(store: Store<D>) -> Keeper<D> {
        Keeper { store, writer: None, incoming: None, arrived: None }
    }

    /// Carries out a job. An error is final: the node must stop.
    pub fn carry_out(&mut self, job: Job) -> Result<Done> {
        let outcome = match job {
            Job::Begin(header) => self.begin(&header),
            Job::Piece(piece) => self.put(&piece),
            Job::Finish => self.finish(),
            Job::GiveUp => Ok(Done::Taken(None)),
            Job::Receive { from, snapshot, total, offset, bytes } => {
                return self.receive(from, snapshot, total, offset, &bytes);
            }
        };
        match outcome {
            Ok(Done::Taken(None)) | Err(snapshot::Fault::Full { .. }) => {
                if let Some(writer) = self.writer.take() {
                    writer.abandon().map_err(fault)?;
                }
                Ok(Done::Taken(None))
            }
            outcome => outcome.map_err(fault),
        }
    }

    fn begin(&mut self, header: &Header) -> snapshot::Result<Done> {
        self.writer = Some(self.store.writer(header)?);
        Ok(Done::Wants)
    }

    fn put(&mut self, piece: &Piece) -> snapshot::Result<Done> {
        let Some(writer) = &mut self.writer else { return Ok(Done::Taken(None)) };
        let (kind, bytes) = chunk_of(piece);
        writer.put(kind, bytes)?;
        Ok(Done::Wants)
    }

    fn finish(&mut self) -> snapshot::Result<Done> {
        let Some(writer) = self.writer.take() else { return Ok(Done::Taken(None)) };
        let snapshot = writer.finish()?;
        // A leader's that arrived meanwhile is newer: then this one came too late.
        let position = snapshot.header().position;
        let newest = self.arrived.map(|(arrived, _)| arrived).filter(|arrived| arrived.index > position.index);
        self.store.prune(newest.unwrap_or(position))?;
        Ok(Done::Taken(Some(snapshot)))
    }

    fn receive(&mut self, from: NodeId, position: Position, total: u64, offset: u64, bytes: &[u8]) -> Result<Done> {
        let said = |next| Done::Received { from, snapshot: position, next };
        match self.take_in(position, total, offset, bytes) {
            Ok(Ok(next)) => Ok(said(next)),
            Ok(Err(snapshot)) => Ok(Done::Arrived(snapshot)),
            // It was removed, or there is no room for it: from the beginning, when the sender asks again.
            Err(snapshot::Fault::Damaged { .. } | snapshot::Fault::Full { .. }) => {
                self.incoming = None;
                Ok(said(0))
            }
            Err(wrong) => Err(fault(wrong)),
        }
    }

    /// How much of it is here, or all of it.
    fn take_in(
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
            self.incoming = Some(self.store.incoming(position, total)?);
        }
        let Some(incoming) = &mut self.incoming else { return Ok(Ok(0)) };
        let next = incoming.put(offset, bytes)?;
        match self.incoming.take_if(|incoming| incoming.is_complete()) {
            None => Ok(Ok(next)),
            Some(incoming) => {
                let snapshot = incoming.finish()?;
                self.store.prune(position)?;
                self.arrived = Some((position, total));
                Ok(Err(snapshot))
            }
        }
    }
}
