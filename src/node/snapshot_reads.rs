//! Clients that read a snapshot file chunk by chunk: a backup of a node's state.
//!
//! A client names the snapshot and an offset in each request, and the node keeps no connection state: a client that
//! lost its connection continues where it was, as long as the snapshot is held. What it reads is the file as followers
//! receive it, checksums included, so that a backup can be verified without this node.
//!
//! Chunks are slices of the mapped file, so a page that is not in memory is read from disk while the event loop waits.
//! Hence the limit per turn, and the queue: a fast reader of a large backup must not cost the leader its heartbeats.

use super::event::{Caller, DurableSnapshot};
use super::options::Options;
use crate::api::{Refusal, Reply};
use crate::types::{Position, Time};
use std::collections::VecDeque;

/// How many snapshots are held for readers. At the limit a read of a further one is refused as busy.
const HELD_MAX: usize = 4;
/// How many chunk requests may wait. At the limit a request is refused as busy.
const WAITING_MAX: usize = 64;
/// How many chunks are sent in one turn: pages that are not in memory are read from disk while heartbeats wait.
const PIECES_PER_TURN: usize = 4;

/// Snapshots that clients read, and the chunk requests that wait.
///
/// A snapshot that is being read stays readable when a newer one replaces it, until it was not read for
/// [`Options::read_hold`]: the file is mapped, and its disk space is freed with the mapping. Without that, a backup
/// that takes longer than the pause between two snapshots would never complete. The price is disk space, so few are
/// held.
///
/// Invariants: at most `HELD_MAX` snapshots are held, each once; at most `WAITING_MAX` requests wait.
#[derive(Clone, Debug)]
pub struct SnapshotReads {
    held: Vec<HeldSnapshot>,
    waiting: VecDeque<PieceRequest>,
    /// The size of a chunk, and how long a snapshot without readers is held: options that do not change.
    chunk: u64,
    hold: std::time::Duration,
}

#[derive(Clone, Debug)]
struct HeldSnapshot {
    kept: DurableSnapshot,
    /// When a chunk of it was last requested, by any client: readers of the same snapshot share its slot.
    read_at: Time,
}

#[derive(Clone, Copy, Debug)]
struct PieceRequest {
    from: Caller,
    id: u64,
    snapshot: Position,
    offset: u64,
}

impl SnapshotReads {
    /// Creates an empty set.
    pub fn new(options: &Options) -> SnapshotReads {
        let (chunk, hold) = (options.chunk_bytes as u64, options.read_hold);
        SnapshotReads { held: Vec::new(), waiting: VecDeque::new(), chunk, hold }
    }

    /// Adds a client's request for a chunk of `snapshot`, which must be `newest` or a held snapshot.
    ///
    /// Snapshots that were not read for long are released first: their slots may be what this request needs.
    ///
    /// # Errors
    ///
    /// [`Refusal::SnapshotGone`] if it is neither; [`Refusal::Busy`] at a limit.
    pub fn request(
        &mut self,
        now: Time,
        (from, id): (Caller, u64),
        (snapshot, offset): (Position, u64),
        newest: Option<&DurableSnapshot>,
    ) -> Result<(), Refusal> {
        self.release(now);
        if self.waiting.len() >= WAITING_MAX {
            return Err(Refusal::Busy);
        }
        match self.held.iter_mut().find(|held| held.kept.position == snapshot) {
            Some(held) => held.read_at = now,
            None => {
                let newest = newest.filter(|newest| newest.position == snapshot).ok_or(Refusal::SnapshotGone)?;
                if self.held.len() >= HELD_MAX {
                    return Err(Refusal::Busy);
                }
                self.held.push(HeldSnapshot { kept: newest.clone(), read_at: now });
            }
        }
        self.waiting.push_back(PieceRequest { from, id, snapshot, offset });
        self.check();
        Ok(())
    }

    /// Answers the oldest waiting requests, up to a limit per turn.
    ///
    /// An offset beyond the end is answered with no bytes and the size: a client finds the end of the file that way,
    /// and its number is not trusted. A snapshot may be gone by now, because it was found damaged after the request.
    pub fn answer(&mut self, now: Time, replies: &mut Vec<(Caller, u64, Reply)>) {
        for _ in 0..PIECES_PER_TURN {
            let Some(PieceRequest { from, id, snapshot, offset }) = self.waiting.pop_front() else { break };
            let held = self.held.iter().find(|held| held.kept.position == snapshot);
            let reply = held.map_or(Reply::Refused(Refusal::SnapshotGone), |held| {
                let file = &held.kept.bytes;
                let total = file.len() as u64;
                let begin = offset.min(total);
                let end = begin.saturating_add(self.chunk).min(total);
                assert!(end - begin <= self.chunk, "a reply holds one chunk, however much of the file is requested");
                Reply::SnapshotChunk { offset: begin, total, bytes: file.slice(begin as usize..end as usize) }
            });
            replies.push((from, id, reply));
        }
        self.release(now);
    }

    /// Drops snapshots that were not read for `hold`. Also at each answer, not only when a slot is needed: a held
    /// snapshot that was replaced keeps its disk space, although its name is gone from the directory.
    fn release(&mut self, now: Time) {
        let hold = self.hold;
        self.held.retain(|held| now.since(held.read_at) < hold);
    }

    /// Drops a snapshot whose file is damaged: no more of it is sent. A backup of it would be found damaged when it is
    /// needed; its reader learns now that it has to begin again.
    pub fn discard(&mut self, snapshot: Position) {
        self.held.retain(|held| held.kept.position != snapshot);
    }

    /// Drops all requests of a caller that is gone. Its snapshot is held for a while: the client may reconnect and
    /// continue.
    pub fn forget(&mut self, caller: Caller) {
        self.waiting.retain(|request| request.from != caller);
    }

    /// Number of waiting requests.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no request waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Panics if a limit is exceeded, or a snapshot is held twice.
    pub(super) fn check(&self) {
        assert!(self.held.len() <= HELD_MAX, "snapshots are held for few readers: each holds its disk space");
        assert!(self.waiting.len() <= WAITING_MAX, "chunk requests keep within their limit");
        let position = |nth: usize| self.held[nth].kept.position;
        let mut pairs = (0..self.held.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
        debug_assert!(pairs.all(|(a, b)| position(a) != position(b)), "a snapshot is held once, for all its readers");
    }

    /// When there is next work to do: at once while requests wait, since each turn answers only some of them; otherwise
    /// when the first snapshot may be released.
    pub fn deadline(&self) -> Time {
        if !self.waiting.is_empty() {
            return Time::ZERO;
        }
        self.held.iter().map(|held| held.read_at + self.hold).min().unwrap_or(Time::NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Index, Term};
    use bytes::Bytes;
    use std::time::Duration;

    const CLIENT: Caller = Caller::Client(7);

    fn kept(index: u64) -> DurableSnapshot {
        DurableSnapshot { position: Position::new(Index(index), Term(1)), bytes: Bytes::from(vec![index as u8; 25]) }
    }

    fn reads() -> SnapshotReads {
        SnapshotReads::new(&Options { chunk_bytes: 10, read_hold: Duration::from_nanos(100), ..Options::default() })
    }

    /// Requests one piece, and returns its answer.
    fn read(reads: &mut SnapshotReads, now: u64, of: u64, offset: u64, newest: u64) -> Result<(u64, usize), Refusal> {
        let (now, newest) = (Time(now), kept(newest));
        reads.request(now, (CLIENT, 1), (kept(of).position, offset), Some(&newest))?;
        let mut replies = Vec::new();
        reads.answer(now, &mut replies);
        match replies.pop() {
            Some((CLIENT, 1, Reply::SnapshotChunk { offset, total: 25, bytes })) => Ok((offset, bytes.len())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn snapshot_is_read_in_chunks_up_to_its_end() {
        let mut reads = reads();
        let pieces = [0, 10, 20, 25, u64::MAX].map(|offset| read(&mut reads, 0, 9, offset, 9).unwrap());
        assert_eq!(pieces, [(0, 10), (10, 10), (20, 5), (25, 0), (25, 0)]);
    }

    #[test]
    fn snapshot_is_released_after_read_hold_without_reads() {
        let mut reads = reads();
        assert_eq!(read(&mut reads, 0, 8, 0, 9), Err(Refusal::SnapshotGone));
        assert!(read(&mut reads, 0, 8, 0, 8).is_ok());
        // A newer snapshot has replaced it.
        assert!(read(&mut reads, 90, 8, 10, 9).is_ok());
        assert!(read(&mut reads, 180, 8, 20, 9).is_ok());
        assert_eq!(reads.deadline(), Time(280));
        reads.answer(Time(280), &mut Vec::new());
        assert_eq!((reads.held.len(), reads.deadline()), (0, Time::NEVER), "its slot is free");
        assert_eq!(read(&mut reads, 280, 8, 20, 9), Err(Refusal::SnapshotGone));
    }

    #[test]
    fn readers_and_requests_are_bounded() {
        let mut reads = reads();
        for of in 1..=HELD_MAX as u64 {
            assert!(read(&mut reads, 0, of, 0, of).is_ok());
        }
        assert_eq!(read(&mut reads, 0, 9, 0, 9), Err(Refusal::Busy));
        assert!(read(&mut reads, 100, 9, 0, 9).is_ok(), "the slots of idle readers are free");
        let newest = kept(9);
        let mut ask = || reads.request(Time(100), (CLIENT, 1), (newest.position, 0), Some(&newest));
        assert!((0..WAITING_MAX).all(|_| ask().is_ok()));
        assert_eq!(ask(), Err(Refusal::Busy));
        let mut replies = Vec::new();
        reads.answer(Time(100), &mut replies);
        assert_eq!((replies.len(), reads.deadline()), (PIECES_PER_TURN, Time::ZERO));
        reads.forget(CLIENT);
        assert!(reads.is_empty());
    }
}
