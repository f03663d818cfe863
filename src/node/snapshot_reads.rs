//! Clients that read a snapshot file chunk by chunk: a backup of a node's state.
//!
//! A client names the snapshot and an offset in each request, and the node keeps no connection state: a client that
//! lost its connection continues where it was, as long as the snapshot is held. The client reads the same file that
//! followers receive, checksums included, so that a backup can be verified without this node.
//!
//! Chunks are slices of the mapped file, so a page that is not in memory is read from disk while the event loop waits.
//! Hence the limit of chunks per call of `turn`, and the queue of requests: a fast reader of a large backup must not
//! cost the leader its heartbeats.

use super::event::{Caller, DurableSnapshot};
use super::options::Options;
use crate::api::{Refusal, Reply};
use crate::types::{Position, Time};
use std::collections::VecDeque;

/// How many snapshots are held for readers. At the limit a read of a further one is refused as busy.
const HELD_SNAPSHOTS_MAX: usize = 4;
/// How many chunk requests may wait. At the limit a request is refused as busy.
const WAITING_REQUESTS_MAX: usize = 64;
/// How many chunks are sent in one call of `turn`: pages that are not in memory are read from disk while heartbeats
/// wait.
const CHUNKS_PER_TURN_MAX: usize = 4;

/// The snapshots held for clients that read them, and the chunk requests that wait.
///
/// A snapshot that is being read stays readable when a newer one replaces it, until it was not read for
/// [`Options::snapshot_read_hold`]: the file is mapped, and its disk space is freed with the mapping. Without that, a
/// backup that takes longer than the pause between two snapshots would never complete. The price is disk space, so few
/// are held.
///
/// Invariants: at most `HELD_SNAPSHOTS_MAX` snapshots are held, each once; at most `WAITING_REQUESTS_MAX` requests
/// wait.
#[derive(Clone, Debug)]
pub struct SnapshotReads {
    held_snapshots: Vec<HeldSnapshot>,
    waiting_requests: VecDeque<ChunkRequest>,
    /// The size of a chunk, and how long a snapshot without readers is held: options that do not change.
    chunk_bytes: u64,
    hold_time: std::time::Duration,
}

#[derive(Clone, Debug)]
struct HeldSnapshot {
    snapshot: DurableSnapshot,
    /// When a chunk of the snapshot was last requested, by any client: readers of the same snapshot share its slot.
    last_read_at: Time,
}

#[derive(Clone, Copy, Debug)]
struct ChunkRequest {
    from: Caller,
    id: u64,
    snapshot: Position,
    offset: u64,
}

impl SnapshotReads {
    /// Creates the table, in which no snapshot is held and no request waits.
    pub fn new(options: &Options) -> SnapshotReads {
        let (chunk_bytes, hold_time) = (options.chunk_bytes as u64, options.snapshot_read_hold);
        SnapshotReads { held_snapshots: Vec::new(), waiting_requests: VecDeque::new(), chunk_bytes, hold_time }
    }

    /// Adds a client's request for a chunk of `snapshot`, which must be `newest` or a held snapshot.
    ///
    /// Held snapshots that were not read for `hold_time` are released first: the request may need a free slot.
    ///
    /// # Errors
    ///
    /// [`Refusal::SnapshotGone`] if `snapshot` is neither; [`Refusal::Busy`] at a limit.
    pub fn push(
        &mut self,
        now: Time,
        (from, id): (Caller, u64),
        (snapshot, offset): (Position, u64),
        newest: Option<&DurableSnapshot>,
    ) -> Result<(), Refusal> {
        self.release_unread_snapshots(now);
        if self.waiting_requests.len() >= WAITING_REQUESTS_MAX {
            return Err(Refusal::Busy);
        }
        match self.held_snapshots.iter_mut().find(|held| held.snapshot.position == snapshot) {
            Some(held) => held.last_read_at = now,
            None => {
                let newest = newest.filter(|newest| newest.position == snapshot).ok_or(Refusal::SnapshotGone)?;
                if self.held_snapshots.len() >= HELD_SNAPSHOTS_MAX {
                    return Err(Refusal::Busy);
                }
                self.held_snapshots.push(HeldSnapshot { snapshot: newest.clone(), last_read_at: now });
            }
        }
        self.waiting_requests.push_back(ChunkRequest { from, id, snapshot, offset });
        self.check();
        Ok(())
    }

    /// Answers the oldest waiting requests, at most `CHUNKS_PER_TURN_MAX`.
    ///
    /// An offset beyond the end is answered with no bytes and the size: a client finds the end of the file that way,
    /// and the client's offset is not trusted. A snapshot may be gone by now, because it was found damaged after the
    /// request.
    pub fn answer_waiting(&mut self, now: Time, replies: &mut Vec<(Caller, u64, Reply)>) {
        for _ in 0..CHUNKS_PER_TURN_MAX {
            let Some(ChunkRequest { from, id, snapshot, offset }) = self.waiting_requests.pop_front() else { break };
            let held_snapshot = self.held_snapshots.iter().find(|held| held.snapshot.position == snapshot);
            let reply = held_snapshot.map_or(Reply::Refused(Refusal::SnapshotGone), |held| {
                let file = &held.snapshot.bytes;
                let total = file.len() as u64;
                let begin = offset.min(total);
                let end = begin.saturating_add(self.chunk_bytes).min(total);
                assert!(end - begin <= self.chunk_bytes, "a reply contains at most one chunk of the snapshot's file");
                Reply::SnapshotChunk { offset: begin, total, bytes: file.slice(begin as usize..end as usize) }
            });
            replies.push((from, id, reply));
        }
        self.release_unread_snapshots(now);
    }

    /// Drops snapshots that were not read for `hold_time`. Called at each answer too, not only when a slot is needed: a
    /// held snapshot occupies disk space even after its file was deleted from the directory.
    fn release_unread_snapshots(&mut self, now: Time) {
        let hold_time = self.hold_time;
        self.held_snapshots.retain(|held| now.since(held.last_read_at) < hold_time);
    }

    /// Drops a snapshot whose file is damaged: no more of it is sent. A backup of it would be found damaged when it is
    /// needed; its reader learns now that it has to begin again.
    pub fn discard_snapshot(&mut self, snapshot: Position) {
        self.held_snapshots.retain(|held| held.snapshot.position != snapshot);
    }

    /// Drops all requests of a caller that is gone. Its snapshot is held for a while: the client may reconnect and
    /// continue.
    pub fn forget(&mut self, caller: Caller) {
        self.waiting_requests.retain(|request| request.from != caller);
    }

    /// Number of waiting requests.
    pub fn len(&self) -> usize {
        self.waiting_requests.len()
    }

    /// Whether no request waits.
    pub fn is_empty(&self) -> bool {
        self.waiting_requests.is_empty()
    }

    /// Panics if a limit is exceeded, or a snapshot is held twice.
    pub(super) fn check(&self) {
        assert!(
            self.held_snapshots.len() <= HELD_SNAPSHOTS_MAX,
            "the number of held snapshots is within its limit: each occupies disk space"
        );
        assert!(
            self.waiting_requests.len() <= WAITING_REQUESTS_MAX,
            "the number of waiting chunk requests is within its limit"
        );
        let position = |nth: usize| self.held_snapshots[nth].snapshot.position;
        let mut pairs = (0..self.held_snapshots.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
        debug_assert!(pairs.all(|(a, b)| position(a) != position(b)), "a snapshot is held once, for all its readers");
    }

    /// When there is next work to do: at once while requests wait, since each call of `turn` answers only some of them;
    /// otherwise when the first held snapshot may be released.
    pub fn deadline(&self) -> Time {
        if !self.waiting_requests.is_empty() {
            return Time::ZERO;
        }
        self.held_snapshots.iter().map(|held| held.last_read_at + self.hold_time).min().unwrap_or(Time::NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Index, Term};
    use bytes::Bytes;
    use std::time::Duration;

    const CLIENT: Caller = Caller::Client(7);

    fn durable_snapshot(index: u64) -> DurableSnapshot {
        DurableSnapshot { position: Position::new(Index(index), Term(1)), bytes: Bytes::from(vec![index as u8; 25]) }
    }

    fn empty_reads() -> SnapshotReads {
        SnapshotReads::new(&Options {
            chunk_bytes: 10,
            snapshot_read_hold: Duration::from_nanos(100),
            ..Options::default()
        })
    }

    /// Requests one chunk, and returns its offset and length.
    fn read_chunk(
        reads: &mut SnapshotReads,
        now: u64,
        snapshot: u64,
        offset: u64,
        newest: u64,
    ) -> Result<(u64, usize), Refusal> {
        let (now, newest) = (Time(now), durable_snapshot(newest));
        reads.push(now, (CLIENT, 1), (durable_snapshot(snapshot).position, offset), Some(&newest))?;
        let mut replies = Vec::new();
        reads.answer_waiting(now, &mut replies);
        match replies.pop() {
            Some((CLIENT, 1, Reply::SnapshotChunk { offset, total: 25, bytes })) => Ok((offset, bytes.len())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn snapshot_is_read_in_chunks_up_to_its_end() {
        let mut reads = empty_reads();
        let chunks = [0, 10, 20, 25, u64::MAX].map(|offset| read_chunk(&mut reads, 0, 9, offset, 9).unwrap());
        assert_eq!(chunks, [(0, 10), (10, 10), (20, 5), (25, 0), (25, 0)]);
    }

    #[test]
    fn unread_snapshot_is_released_after_hold_time() {
        let mut reads = empty_reads();
        assert_eq!(read_chunk(&mut reads, 0, 8, 0, 9), Err(Refusal::SnapshotGone));
        assert!(read_chunk(&mut reads, 0, 8, 0, 8).is_ok());
        // Snapshot 9 has replaced snapshot 8, which is still held.
        assert!(read_chunk(&mut reads, 90, 8, 10, 9).is_ok());
        assert!(read_chunk(&mut reads, 180, 8, 20, 9).is_ok());
        assert_eq!(reads.deadline(), Time(280));
        reads.answer_waiting(Time(280), &mut Vec::new());
        assert_eq!((reads.held_snapshots.len(), reads.deadline()), (0, Time::NEVER), "its slot is free");
        assert_eq!(read_chunk(&mut reads, 280, 8, 20, 9), Err(Refusal::SnapshotGone));
    }

    #[test]
    fn held_snapshots_and_chunk_requests_are_bounded() {
        let mut reads = empty_reads();
        for snapshot in 1..=HELD_SNAPSHOTS_MAX as u64 {
            assert!(read_chunk(&mut reads, 0, snapshot, 0, snapshot).is_ok());
        }
        assert_eq!(read_chunk(&mut reads, 0, 9, 0, 9), Err(Refusal::Busy));
        assert!(read_chunk(&mut reads, 100, 9, 0, 9).is_ok(), "the slots of idle readers are free");
        let newest = durable_snapshot(9);
        let mut push = || reads.push(Time(100), (CLIENT, 1), (newest.position, 0), Some(&newest));
        assert!((0..WAITING_REQUESTS_MAX).all(|_| push().is_ok()));
        assert_eq!(push(), Err(Refusal::Busy));
        let mut replies = Vec::new();
        reads.answer_waiting(Time(100), &mut replies);
        assert_eq!((replies.len(), reads.deadline()), (CHUNKS_PER_TURN_MAX, Time::ZERO));
        reads.forget(CLIENT);
        assert!(reads.is_empty());
    }
}
