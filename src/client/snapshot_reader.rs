//! Reads the newest snapshot of one node, chunk by chunk, over a connection of its own: for a backup.

use super::blocking::Client;
use super::call_protocol::Options;
use super::connection::{CallError, Connection, deadline};
use super::error::{ClientError, FailedAttempts};
use crate::api::{Consistency, Outcome, Refusal, Reply, Request};
use crate::limits::CHUNK_BYTES;
use crate::types::Position;
use bytes::Bytes;
use std::time::{Duration, Instant};

/// How many chunks are requested before they arrive, so that the node need not wait for requests.
const CHUNKS_AHEAD: u64 = 4;
/// The reader fails after this long without a chunk, during which it has dialed again repeatedly.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause before the reader dials again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Reads the file of one snapshot of one node. After a lost connection it dials again and continues at the same offset,
/// as long as the node keeps that snapshot.
pub struct SnapshotReader {
    endpoint: String,
    options: Options,
    connection: Option<Connection>,
    snapshot_position: Position,
    total_bytes: u64,
    /// The offset up to which the file was read.
    read_upto: u64,
    /// The number of chunks from `read_upto` on that were requested over the current connection.
    requested_chunk_count: u64,
}

impl Client {
    /// Makes the node at `endpoint` take a snapshot of all entries that it has applied, and starts to read the
    /// snapshot. With [`Consistency::Linearizable`], the node first applies all writes acknowledged before this call,
    /// as a quorum confirms. The node may be a follower.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] if the node does not reply, or refuses. Nothing was changed.
    pub fn read_snapshot(&self, endpoint: &str, consistency: Consistency) -> Result<SnapshotReader, ClientError> {
        let options = self.options().clone();
        let started_at = Instant::now();
        let refused_error = |refusal, error: Option<&CallError>| {
            ClientError::Refused(failed_attempt(endpoint, started_at, refusal, error))
        };
        let until = deadline(options.timeout);
        let dial_result =
            Connection::dial_operator(endpoint, options.keys.as_ref(), until.min(deadline(options.node_timeout)));
        let mut connection = dial_result.map_err(|error| refused_error(None, Some(&error)))?;
        let mut call = |request: &Request| match connection.call(request, until) {
            Ok(Reply::Refused(refusal)) => Err(refused_error(Some(refusal), None)),
            Ok(reply) => Ok(reply),
            Err(error) => Err(refused_error(None, Some(&error))),
        };
        if consistency == Consistency::Linearizable {
            call(&Request::Query { query: Bytes::new(), consistency })?;
        }
        let Reply::Snapshot { position, bytes } = call(&Request::Snapshot)? else { return Err(unexpected_reply()) };
        Ok(SnapshotReader {
            endpoint: endpoint.to_owned(),
            options,
            connection: Some(connection),
            snapshot_position: position,
            total_bytes: bytes,
            read_upto: 0,
            requested_chunk_count: 0,
        })
    }
}

impl SnapshotReader {
    /// The position of the last entry that the snapshot contains.
    pub fn position(&self) -> Position {
        self.snapshot_position
    }

    /// The size of the snapshot's file in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Waits for the next chunk of the file; `None` after the last one. Whether the snapshot is valid can be verified
    /// only once the whole file is read.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`]: with [`Refusal::SnapshotGone`] if the node no longer has that snapshot; otherwise the
    /// node has not sent a chunk for half a minute.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.read_upto >= self.total_bytes {
            return Ok(None);
        }
        let started_at = Instant::now();
        let until = deadline(CHUNK_TIMEOUT.min(self.options.timeout));
        loop {
            let failure = match self.receive_chunk(until) {
                Ok(Reply::SnapshotChunk { offset, total, bytes })
                    if (offset, total) == (self.read_upto, self.total_bytes) && !bytes.is_empty() =>
                {
                    self.read_upto += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Ok(Reply::Refused(refusal @ Refusal::SnapshotGone)) => {
                    return Err(ClientError::Refused(failed_attempt(&self.endpoint, started_at, Some(refusal), None)));
                }
                Ok(Reply::Refused(refusal)) => failed_attempt(&self.endpoint, started_at, Some(refusal), None),
                Ok(_) => return Err(unexpected_reply()),
                Err(error) => failed_attempt(&self.endpoint, started_at, None, Some(&error)),
            };
            // Later chunks that were requested are lost, since their connection is gone.
            self.connection = None;
            if Instant::now() >= until {
                return Err(ClientError::Refused(failure));
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
    }

    /// Requests chunks ahead, and waits for the reply with the chunk at `read_upto`, over the current connection or a
    /// new one.
    fn receive_chunk(&mut self, until: Instant) -> Result<Reply, CallError> {
        if self.connection.is_none() {
            self.requested_chunk_count = 0;
            let dial_result = Connection::dial_operator(
                &self.endpoint,
                self.options.keys.as_ref(),
                until.min(deadline(self.options.node_timeout)),
            );
            self.connection = Some(dial_result?);
        }
        let Some(connection) = &mut self.connection else { return Ok(Reply::Unknown) };
        while self.requested_chunk_count < CHUNKS_AHEAD {
            let offset = self.read_upto + self.requested_chunk_count * CHUNK_BYTES as u64;
            if offset >= self.total_bytes {
                break;
            }
            connection.send_request(&Request::ReadSnapshot { snapshot: self.snapshot_position, offset }, until)?;
            self.requested_chunk_count += 1;
        }
        self.requested_chunk_count -= 1;
        // The refusal of one chunk may arrive before chunks that were requested earlier, so any reply is accepted.
        connection.wait_for_any_reply(until)
    }
}

fn failed_attempt(
    endpoint: &str,
    started_at: Instant,
    refusal: Option<Refusal>,
    error: Option<&CallError>,
) -> FailedAttempts {
    let last_error = error.map(|error| format!("{endpoint}: {error}"));
    FailedAttempts { endpoints: vec![endpoint.to_owned()], duration: started_at.elapsed(), refusal, last_error }
}

fn unexpected_reply() -> ClientError {
    ClientError::UnexpectedReply(Box::new(Outcome::Malformed))
}
