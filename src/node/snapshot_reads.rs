//! Clients that read the file of a snapshot, piece by piece: a backup of what a node holds.

use super::event::{Caller, DurableSnapshot};
use super::options::Options;
use crate::api::{Refusal, Reply};
use crate::types::{Position, Time};
use std::collections::VecDeque;

/// How many snapshots are held for readers. At the limit a reader of another one is refused: busy.
const HELD_MAX: usize = 4;
/// How many pieces may wait to be sent. At the limit a request is refused: busy.
const WAITING_MAX: usize = 64;
/// How many pieces are sent in one turn: what is not in memory is read from the disk while heartbeats wait.
const PIECES_PER_TURN: usize = 4;

/// Snapshots that clients read, and the pieces that they wait for.
///
/// A snapshot that is being read stays readable when a newer one takes its place, until nobody has read it for
/// [`Options::read_hold`]: the file is mapped, and its room on the disk goes when the mapping does.
#[derive(Clone, Debug)]
pub struct SnapshotReads {
    held: Vec<HeldSnapshot>,
    waiting: VecDeque<PieceRequest>,
    chunk: u64,
    hold: std::time::Duration,
}

#[derive(Clone, Debug)]
struct HeldSnapshot {
    kept: DurableSnapshot,
    /// When a piece of it was last requested.
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
    /// Nothing is read yet.
    pub fn new(options: &Options) -> SnapshotReads {
        let (chunk, hold) = (options.chunk_bytes as u64, options.read_hold);
        SnapshotReads { held: Vec::new(), waiting: VecDeque::new(), chunk, hold }
    }

    /// A client requests a piece of that snapshot, which is `newest` or one that is held.
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
        Ok(())
    }

    /// Answers the requests whose turn it is.
    pub fn answer(&mut self, now: Time, replies: &mut Vec<(Caller, u64, Reply)>) {
        for _ in 0..PIECES_PER_TURN {
            let Some(PieceRequest { from, id, snapshot, offset }) = self.waiting.pop_front() else { break };
            let held = self.held.iter().find(|held| held.kept.position == snapshot);
            let reply = held.map_or(Reply::Refused(Refusal::SnapshotGone), |held| {
                let file = &held.kept.bytes;
                let total = file.len() as u64;
                let begin = offset.min(total);
                let end = begin.saturating_add(self.chunk).min(total);
                Reply::SnapshotPiece { offset: begin, total, bytes: file.slice(begin as usize..end as usize) }
            });
            replies.push((from, id, reply));
        }
        self.release(now);
    }

    /// Drops what nobody has read for long.
    fn release(&mut self, now: Time) {
        let hold = self.hold;
        self.held.retain(|held| now.since(held.read_at) < hold);
    }

    /// The file of that snapshot is damaged: nobody is sent any more of it.
    pub fn discard(&mut self, snapshot: Position) {
        self.held.retain(|held| held.kept.position != snapshot);
    }

    /// Nobody waits for that caller's answers any more. What it read is held for a while: it may come back and go on.
    pub fn forget(&mut self, caller: Caller) {
        self.waiting.retain(|request| request.from != caller);
    }

    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When there is next something to do.
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
            Some((CLIENT, 1, Reply::SnapshotPiece { offset, total: 25, bytes })) => Ok((offset, bytes.len())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn file_is_read_piece_by_piece_to_its_end_and_no_further() {
        let mut reads = reads();
        let pieces = [0, 10, 20, 25, u64::MAX].map(|offset| read(&mut reads, 0, 9, offset, 9).unwrap());
        assert_eq!(pieces, [(0, 10), (10, 10), (20, 5), (25, 0), (25, 0)]);
    }

    #[test]
    fn snapshot_that_is_read_stays_until_nobody_has_read_it_for_a_while() {
        let mut reads = reads();
        assert_eq!(read(&mut reads, 0, 8, 0, 9), Err(Refusal::SnapshotGone));
        assert!(read(&mut reads, 0, 8, 0, 8).is_ok());
        // A newer one has taken its place.
        assert!(read(&mut reads, 90, 8, 10, 9).is_ok());
        assert!(read(&mut reads, 180, 8, 20, 9).is_ok());
        assert_eq!(reads.deadline(), Time(280));
        reads.answer(Time(280), &mut Vec::new());
        assert_eq!((reads.held.len(), reads.deadline()), (0, Time::NEVER), "its room is free");
        assert_eq!(read(&mut reads, 280, 8, 20, 9), Err(Refusal::SnapshotGone));
    }

    #[test]
    fn readers_and_requests_are_bounded() {
        let mut reads = reads();
        for of in 1..=HELD_MAX as u64 {
            assert!(read(&mut reads, 0, of, 0, of).is_ok());
        }
        assert_eq!(read(&mut reads, 0, 9, 0, 9), Err(Refusal::Busy));
        assert!(read(&mut reads, 100, 9, 0, 9).is_ok(), "the others are read no more");
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
