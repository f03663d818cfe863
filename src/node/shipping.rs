//! Snapshots on their way to followers that need what the log no longer holds: piece by piece, some of
//! them on their way at once, going on where the follower says it is.

use super::event::{Action, Kept};
use crate::consensus::Raft;
use crate::consensus::message::{Chunk, Envelope, Message};
use crate::limits::CHUNK_BYTES;
use crate::types::{Index, NodeId, Position, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// How much may be on its way to one follower.
const WINDOW: u64 = 4 << 20;
/// After this long without a word of what was sent it is sent again.
const PATIENCE: Duration = Duration::from_secs(1);

/// The snapshots being sent.
#[derive(Clone, Debug, Default)]
pub struct Shipping {
    ships: BTreeMap<NodeId, Ship>,
    /// Bytes sent, to whomever, since this node began.
    sent: u64,
}

/// One snapshot on its way to one follower. The file is mapped once, however many receive it, and is
/// there as long as anyone does, whatever its directory says.
#[derive(Clone, Debug)]
struct Ship {
    kept: Kept,
    /// What the follower said it has.
    acked: u64,
    /// Whether it said so since we last had reason to doubt it; and whether it was asked.
    known: bool,
    asked: bool,
    sent: u64,
    /// When anything was sent or acknowledged.
    moved: Time,
}

impl Shipping {
    /// That follower, which holds everything up to `matched`, needs a snapshot: the one it is being sent
    /// already, unless it has had that; or the newest.
    pub fn begin(&mut self, now: Time, to: NodeId, newest: &Kept, matched: Index) {
        let ship = self.ships.entry(to).or_insert_with(|| Ship::new(now, newest.clone()));
        if ship.kept.position.index <= matched {
            *ship = Ship::new(now, newest.clone());
        }
        ship.ask_again(now);
    }

    /// A follower says how much of a snapshot it has.
    pub fn chunked(&mut self, now: Time, from: NodeId, snapshot: Position, next: u64) {
        let Some(ship) = self.ships.get_mut(&from).filter(|ship| ship.kept.position == snapshot) else { return };
        if next > ship.total() {
            return;
        }
        if !ship.known || next < ship.acked {
            // Its first word; or it was restarted, and has less than it had.
            ship.sent = next;
        }
        (ship.acked, ship.known) = (next, true);
        ship.sent = ship.sent.max(next);
        ship.moved = now;
    }

    /// Sends what may be sent.
    pub fn pump(&mut self, now: Time, raft: &Raft, actions: &mut Vec<Action>) {
        if self.ships.is_empty() {
            return;
        }
        self.ships.retain(|to, _| raft.ships_to(*to));
        for (to, ship) in &mut self.ships {
            if now.since(ship.moved) >= PATIENCE {
                ship.ask_again(now);
            }
            while let Some(chunk) = ship.next() {
                ship.moved = now;
                self.sent += chunk.bytes.len() as u64;
                // A follower has answered us in this term, so our disk knows it.
                let (from, term) = (raft.id(), raft.term());
                actions.push(Action::Send(Envelope { from, to: *to, term, message: Message::Chunk(chunk) }));
            }
        }
    }

    /// The oldest snapshot that is being sent.
    pub fn oldest(&self) -> Option<Index> {
        self.ships.values().map(|ship| ship.kept.position.index).min()
    }

    /// When something is to be sent again.
    pub fn deadline(&self) -> Time {
        self.ships.values().map(|ship| ship.moved + PATIENCE).min().unwrap_or(Time::NEVER)
    }

    /// How many bytes were sent, to whomever, since this node began; some of them perhaps twice.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// How much of its snapshot a follower has, and of how much.
    pub fn progress(&self, of: NodeId) -> Option<(u64, u64)> {
        self.ships.get(&of).map(|ship| (ship.acked, ship.total()))
    }
}

impl Ship {
    fn new(now: Time, kept: Kept) -> Ship {
        Ship { kept, acked: 0, known: false, asked: false, sent: 0, moved: now }
    }

    fn total(&self) -> u64 {
        self.kept.bytes.len() as u64
    }

    /// What was sent may be lost: the next piece will show how far it is.
    fn ask_again(&mut self, now: Time) {
        (self.known, self.asked) = (false, false);
        self.sent = self.acked;
        self.moved = now;
    }

    /// The next piece, if there is room for it on the way. Until the follower has said how far it is, one
    /// is enough; an empty one if it had everything and may be at work on it.
    fn next(&mut self) -> Option<Chunk> {
        let end = self.total().min(self.acked + WINDOW);
        let may = if self.known { self.sent < end } else { !std::mem::replace(&mut self.asked, true) };
        if !may {
            return None;
        }
        let offset = self.sent;
        self.sent = self.total().min(offset + CHUNK_BYTES as u64);
        let bytes = self.kept.bytes.slice(offset as usize..self.sent as usize);
        Some(Chunk { snapshot: self.kept.position, total: self.total(), offset, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Term;
    use bytes::Bytes;

    const CHUNK: u64 = CHUNK_BYTES as u64;

    fn ship(chunks: u64) -> Ship {
        let bytes = Bytes::from(vec![7; (chunks * CHUNK) as usize]);
        Ship::new(Time(0), Kept { position: Position::new(Index(9), Term(2)), bytes })
    }

    fn offsets(ship: &mut Ship) -> Vec<u64> {
        std::iter::from_fn(|| ship.next()).map(|chunk| chunk.offset / CHUNK).collect()
    }

    #[test]
    fn one_piece_asks_and_then_the_window_fills() {
        let mut shipping = Shipping::default();
        let to = NodeId::new(2).expect("not nobody");
        let newest = ship(100).kept;
        shipping.begin(Time(0), to, &newest, Index(0));
        assert_eq!(offsets(shipping.ships.get_mut(&to).expect("it is there")), [0]);
        // It had ten of them before it was restarted: none is sent again.
        shipping.chunked(Time(1), to, newest.position, 10 * CHUNK);
        let ship = shipping.ships.get_mut(&to).expect("it is there");
        assert_eq!(offsets(ship), (10..26).collect::<Vec<_>>());
        shipping.chunked(Time(2), to, newest.position, 12 * CHUNK);
        assert_eq!(offsets(shipping.ships.get_mut(&to).expect("it is there")), [26, 27]);
        // Its link broke: one piece asks how far it is.
        shipping.begin(Time(3), to, &newest, Index(0));
        assert_eq!(offsets(shipping.ships.get_mut(&to).expect("it is there")), [12]);
        shipping.chunked(Time(4), to, newest.position, 20 * CHUNK);
        assert_eq!(offsets(shipping.ships.get_mut(&to).expect("it is there")).first(), Some(&20));
    }

    #[test]
    fn several_followers_are_sent_the_same_bytes_and_no_copies_and_all_is_counted() {
        let mut shipping = Shipping::default();
        let newest = ship(20).kept;
        let followers = [2, 3, 4].map(|n| NodeId::new(n).expect("not nobody"));
        for to in followers {
            shipping.begin(Time(0), to, &newest, Index(0));
            shipping.chunked(Time(1), to, newest.position, CHUNK);
        }
        for to in followers {
            let ship = shipping.ships.get_mut(&to).expect("it is there");
            let chunks: Vec<Chunk> = std::iter::from_fn(|| ship.next()).collect();
            assert_eq!(chunks.len() as u64, WINDOW / CHUNK);
            for chunk in chunks {
                let there = newest.bytes[chunk.offset as usize..].as_ptr();
                assert_eq!(chunk.bytes.as_ptr(), there, "a piece is a part of the file, mapped once");
            }
        }
    }

    #[test]
    fn whoever_has_everything_is_asked_and_sent_nothing() {
        let mut ship = ship(2);
        (ship.known, ship.acked, ship.sent) = (true, 2 * CHUNK, 2 * CHUNK);
        assert_eq!(ship.next(), None);
        ship.ask_again(Time(5));
        let asked = ship.next().expect("a question");
        assert_eq!((asked.offset, asked.bytes.len()), (2 * CHUNK, 0));
        assert_eq!(ship.next(), None);
    }
}
