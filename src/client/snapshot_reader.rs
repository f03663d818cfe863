//! Reads the newest snapshot of one node over a separate connection: a backup, chunk by chunk.

use super::blocking::Client;
use super::call_protocol::Options;
use super::connection::{CallError, Connection, deadline};
use super::error::{ClientError, Tried};
use crate::api::{Consistency, Outcome, Refusal, Reply, Request};
use crate::limits::CHUNK_BYTES;
use crate::types::Position;
use bytes::Bytes;
use std::time::{Duration, Instant};

/// How many chunks are requested ahead.
const WINDOW: u64 = 4;
/// The reader fails after this long without a chunk. It has dialed again meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause before the reader dials again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Reads the file of one snapshot of one node. After a broken connection it dials again and continues where it was, as
/// long as the node keeps that snapshot.
pub struct SnapshotReader {
    endpoint: String,
    options: Options,
    connection: Option<Connection>,
    snapshot: Position,
    total: u64,
    /// The file is read up to here.
    at: u64,
    /// How many chunks from `at` on are requested.
    requested: u64,
}

impl Client {
    /// Makes that node, and no other, take a snapshot of everything it has applied, and starts to read it. With
    /// [`Consistency::Linearizable`] a quorum first confirms that nothing that was acknowledged before this call is
    /// missing; the node may be a follower.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] if the node does not reply, or refuses. Nothing was changed.
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
    /// The position of the snapshot.
    pub fn position(&self) -> Position {
        self.snapshot
    }

    /// The size of the file in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The next chunk of the file, or `None` after the last one. Only the whole file shows whether the snapshot is
    /// valid.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`]: with [`Refusal::SnapshotGone`] if the node no longer has that snapshot; otherwise the
    /// node has not sent a chunk for half a minute.
    pub fn next_piece(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.at >= self.total {
            return Ok(None);
        }
        let begun = Instant::now();
        let until = deadline(PATIENCE.min(self.options.timeout));
        loop {
            let failure = match self.receive(until) {
                Ok(Reply::SnapshotChunk { offset, total, bytes })
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
            // Later chunks that were requested are lost, since their connection is gone.
            self.connection = None;
            if Instant::now() >= until {
                return Err(ClientError::Refused(failure));
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
    }

    /// The reply to the request for the chunk at `at`, over the current connection or a new one.
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
        // A refusal may overtake chunks requested before it: replies are handled as they arrive.
        connection.next_answer(until)
    }
}

fn refused(endpoint: &str, begun: Instant, refusal: Option<Refusal>, trouble: Option<&CallError>) -> Tried {
    let trouble = trouble.map(|trouble| format!("{endpoint}: {trouble}"));
    Tried { endpoints: vec![endpoint.to_owned()], took: begun.elapsed(), refusal, last_error: trouble }
}

fn out_of_turn() -> ClientError {
    ClientError::UnexpectedReply(Box::new(Outcome::Malformed))
}
