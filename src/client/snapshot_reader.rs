//! Reads the newest snapshot of one node over its own connection: a backup, piece by piece.

use super::blocking::Client;
use super::call_protocol::Options;
use super::connection::{CallError, Connection, deadline};
use super::error::{ClientError, Tried};
use crate::api::{Consistency, Outcome, Refusal, Reply, Request};
use crate::limits::CHUNK_BYTES;
use crate::types::Position;
use bytes::Bytes;
use std::time::{Duration, Instant};

/// How many pieces are requested before the first of them has come.
const WINDOW: u64 = 4;
/// After this long without a piece the reader gives up. It has dialed again meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause before the reader dials again.
const AGAIN: Duration = Duration::from_millis(100);

/// Reads the file of one snapshot of one node. A connection that breaks is dialed again, and the reading goes on where
/// it was, for as long as the node holds that snapshot.
pub struct SnapshotReader {
    endpoint: String,
    options: Options,
    connection: Option<Connection>,
    snapshot: Position,
    total: u64,
    /// All before this has been read.
    at: u64,
    /// How many pieces from `at` on are requested.
    requested: u64,
}

impl Client {
    /// Lets that node, and no other, take a snapshot of all it has applied, and begins to read it. With
    /// [`Consistency::Linearizable`] a quorum confirms first that nothing that was acknowledged before this call is
    /// missing; the node may be a follower.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] if the node does not answer, or refuses. Nothing was changed.
    pub fn read_snapshot(&self, endpoint: &str, consistency: Consistency) -> Result<SnapshotReader, ClientError> {
        let options = self.options().clone();
        let begun = Instant::now();
        let failed =
            |refusal, trouble: Option<&CallError>| ClientError::Refused(refused(endpoint, begun, refusal, trouble));
        let until = deadline(options.timeout);
        let dialed = Connection::dial_operator(endpoint, options.keys.as_ref(), until.min(deadline(options.patience)));
        let mut connection = dialed.map_err(|trouble| failed(None, Some(&trouble)))?;
        let mut call = |request: &Request| match connection.call(request, until) {
            Ok(Reply::Refused(refusal)) => Err(failed(Some(refusal), None)),
            Ok(reply) => Ok(reply),
            Err(trouble) => Err(failed(None, Some(&trouble))),
        };
        if consistency == Consistency::Linearizable {
            call(&Request::Query { query: Bytes::new(), consistency })?;
        }
        let Reply::Snapshot { position, bytes } = call(&Request::Snapshot)? else { return Err(out_of_turn()) };
        Ok(SnapshotReader {
            endpoint: endpoint.to_owned(),
            options,
            connection: Some(connection),
            snapshot: position,
            total: bytes,
            at: 0,
            requested: 0,
        })
    }
}

impl SnapshotReader {
    /// The position that the snapshot stands for.
    pub fn position(&self) -> Position {
        self.snapshot
    }

    /// How many bytes its file has.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The next piece of the file, nothing behind the last one. Whether all pieces together are whole only the file
    /// itself can tell.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`]: with [`Refusal::SnapshotGone`] if the node does not hold that snapshot any more; else
    /// the node has not sent a piece for half a minute.
    pub fn next_piece(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.at >= self.total {
            return Ok(None);
        }
        let begun = Instant::now();
        let until = deadline(PATIENCE.min(self.options.timeout));
        loop {
            let failure = match self.receive(until) {
                Ok(Reply::SnapshotPiece { offset, total, bytes })
                    if (offset, total) == (self.at, self.total) && !bytes.is_empty() =>
                {
                    self.at += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Ok(Reply::Refused(refusal @ Refusal::SnapshotGone)) => {
                    return Err(ClientError::Refused(refused(&self.endpoint, begun, Some(refusal), None)));
                }
                Ok(Reply::Refused(refusal)) => refused(&self.endpoint, begun, Some(refusal), None),
                Ok(_) => return Err(out_of_turn()),
                Err(trouble) => refused(&self.endpoint, begun, None, Some(&trouble)),
            };
            // Pieces that were requested behind this one are of no use any more: they come on a connection that is gone.
            self.connection = None;
            if Instant::now() >= until {
                return Err(ClientError::Refused(failure));
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// The answer to the request for the piece at `at`, over the connection there is or a new one.
    fn receive(&mut self, until: Instant) -> Result<Reply, CallError> {
        if self.connection.is_none() {
            self.requested = 0;
            let dialed = Connection::dial_operator(
                &self.endpoint,
                self.options.keys.as_ref(),
                until.min(deadline(self.options.patience)),
            );
            self.connection = Some(dialed?);
        }
        let Some(connection) = &mut self.connection else { return Ok(Reply::Unknown) };
        while self.requested < WINDOW {
            let offset = self.at + self.requested * CHUNK_BYTES as u64;
            if offset >= self.total {
                break;
            }
            connection.ask(&Request::ReadSnapshot { snapshot: self.snapshot, offset }, until)?;
            self.requested += 1;
        }
        self.requested -= 1;
        // A refusal overtakes pieces that were requested before it: each answer is looked at as it comes.
        connection.next_answer(until)
    }
}

fn refused(endpoint: &str, begun: Instant, refusal: Option<Refusal>, trouble: Option<&CallError>) -> Tried {
    let trouble = trouble.map(|trouble| format!("{endpoint}: {trouble}"));
    Tried { endpoints: vec![endpoint.to_owned()], took: begun.elapsed(), refusal, trouble }
}

fn out_of_turn() -> ClientError {
    ClientError::Strange(Box::new(Outcome::Malformed))
}
