//! Snapshots on their way to followers that need what the log no longer holds: piece by piece, some of
//! them on their way at once, going on where the follower says it is.

use super::event::{Action, DurableSnapshot};
use super::options::Options;
use crate::consensus::Raft;
use crate::consensus::message::{Message, SnapshotChunk};
use crate::types::{Index, Mutant, Mutants, NodeId, Position, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// How many pieces may be on their way to one follower.
const WINDOW: u64 = 16;
/// After this long without a word of what was sent it is sent again.
const PATIENCE: Duration = Duration::from_secs(1);
/// What a follower says it lacks, of what was sent, is sent again no more often than that: words that were
/// overtaken by others say the same.
const AGAIN: Duration = Duration::from_millis(100);

/// A snapshot that a follower receives damaged, and that is whole here, is sent again so often; then the
/// follower waits for a newer one.
const RESENDS: u32 = 3;
/// After this long for the first time; each time after it, twice as long.
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// How often the time doubles: up to about a minute.
const RESEND_DOUBLES: u32 = 6;

/// The snapshots being sent.
#[derive(Clone, Debug)]
pub struct SnapshotSender {
    ships: BTreeMap<NodeId, Ship>,
    /// Bytes sent, to whomever, since this node began.
    sent: u64,
    /// How many bytes are sent at once.
    chunk: u64,
    /// Who says nothing for so long is not waited for.
    hold_for: Duration,
    mutants: Mutants,
}

/// One snapshot on its way to one follower. The file is mapped once, however many receive it, and is
/// there as long as anyone does, whatever its directory says.
#[derive(Clone, Debug)]
struct Ship {
    kept: DurableSnapshot,
    /// What the follower said it has.
    acked: u64,
    /// Whether it said so since we last had reason to doubt it; and whether it was asked.
    known: bool,
    asked: bool,
    sent: u64,
    /// When anything was sent or acknowledged.
    moved: Time,
    /// When what was sent was last begun again because the follower said so.
    begun_again: Time,
    /// From where on the follower says that it lacks what was sent, if it was begun again too short a while ago to
    /// believe that.
    lacks: Option<u64>,
    /// When the follower last said anything of it.
    heard: Time,
    /// What it waits for before anything is sent.
    hold: Hold,
    /// How many snapshots in a row the follower received damaged, this one or others; and how often this one.
    damaged: u32,
    of_this: u32,
}

/// What a snapshot waits for that a follower received damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hold {
    /// Nothing: it is being sent.
    Nothing,
    /// The file is read again.
    Inspection,
    /// It is sent again from the beginning, from then on.
    Until(Time),
    /// The file is damaged here: the next one is sent, whatever it holds.
    Replacement,
    /// It was sent often enough: one of a later position is sent.
    Newer,
}

impl SnapshotSender {
    /// Nothing is on its way.
    pub fn new(options: &Options) -> SnapshotSender {
        let Options { chunk_bytes, hold_for, mutants, .. } = *options;
        SnapshotSender { ships: BTreeMap::new(), sent: 0, chunk: chunk_bytes as u64, hold_for, mutants }
    }

    /// That follower, which holds everything up to `matched`, needs a snapshot: the one it is being sent
    /// already, unless it has had that; or the newest.
    pub fn begin(&mut self, now: Time, to: NodeId, newest: &DurableSnapshot, matched: Index) {
        let ship = self.ships.entry(to).or_insert_with(|| Ship::new(now, newest.clone()));
        if ship.kept.position.index <= matched {
            *ship = Ship { begun_again: ship.begun_again, ..Ship::new(now, newest.clone()) };
        } else if ship.hold == Hold::Nothing && now.since(ship.begun_again) >= AGAIN {
            // Not at every word of an acknowledgement that comes late.
            ship.begun_again = now;
            ship.ask_again(now);
        }
    }

    /// A follower says that it received all of a snapshot, and that it is damaged: nothing of it is sent until
    /// the file was read again. Returns how many times in a row that is, if the file is to be read.
    pub fn damaged(&mut self, now: Time, from: NodeId, snapshot: Position) -> Option<u32> {
        let ship = self.ships.get_mut(&from).filter(|ship| ship.kept.position == snapshot)?;
        ship.heard = now;
        if self.mutants.breaks(Mutant::ResendDamagedSnapshot) {
            (ship.acked, ship.sent, ship.known, ship.moved) = (0, 0, true, now);
            return None;
        }
        if ship.hold != Hold::Nothing {
            return None;
        }
        ship.damaged += 1;
        ship.of_this += 1;
        ship.hold = Hold::Inspection;
        Some(ship.damaged)
    }

    /// A snapshot of ours that a follower received damaged was read again. If it is whole it is sent again
    /// after a while, a few times; if not, nobody is sent any more of it.
    pub fn inspected(&mut self, now: Time, snapshot: Position, whole: bool) {
        for ship in self.ships.values_mut().filter(|ship| ship.kept.position == snapshot) {
            if !whole {
                ship.hold = Hold::Replacement;
            } else if ship.hold == Hold::Inspection && ship.of_this > RESENDS {
                ship.hold = Hold::Newer;
            } else if ship.hold == Hold::Inspection {
                let doubles = ship.damaged.saturating_sub(1).min(RESEND_DOUBLES);
                ship.hold = Hold::Until(now + RESEND_AFTER * (1 << doubles));
            }
        }
    }

    /// A follower says how much of a snapshot it has.
    pub fn chunked(&mut self, now: Time, from: NodeId, snapshot: Position, next: u64) {
        let Some(ship) = self.ships.get_mut(&from).filter(|ship| ship.kept.position == snapshot) else { return };
        if ship.hold != Hold::Nothing {
            // It left before the follower found the damage.
            return;
        }
        if next > ship.total() {
            return;
        }
        ship.heard = now;
        ship.lacks = (ship.known && next <= ship.acked).then_some(next);
        if !ship.known {
            ship.begin_again_at(now, next);
        }
        // It was restarted and has less than it had, or something was lost.
        ship.send_what_it_lacks(now);
        (ship.acked, ship.known) = (ship.acked.max(next), true);
        ship.sent = ship.sent.max(next);
        if self.mutants.breaks(Mutant::SendSnapshotsAgain) {
            (ship.acked, ship.sent) = (0, 0);
        }
        ship.moved = now;
    }

    /// Sends what may be sent. A follower that is silent for long is sent the newest snapshot when it is
    /// back: neither the one it was being sent nor the log behind that is kept for it.
    pub fn pump(&mut self, now: Time, raft: &Raft, newest: Option<&DurableSnapshot>, actions: &mut Vec<Action>) {
        if self.ships.is_empty() {
            return;
        }
        self.ships.retain(|to, _| raft.ships_to(*to));
        newest.into_iter().for_each(|newest| self.renew(now, newest));
        for (to, ship) in &mut self.ships {
            ship.go_on(now);
            ship.send_what_it_lacks(now);
            if ship.hold == Hold::Nothing && now.since(ship.moved) >= PATIENCE {
                ship.ask_again(now);
            }
            while let Some(chunk) = ship.next(self.chunk) {
                ship.moved = now;
                self.sent += chunk.bytes.len() as u64;
                // A follower has answered us in this term, so our disk knows it.
                actions.push(Action::Send(raft.envelope(*to, raft.term(), Message::InstallSnapshot(chunk))));
            }
        }
    }

    /// That one takes the place of whatever was sent to who is silent, and of what was received damaged.
    fn renew(&mut self, now: Time, newest: &DurableSnapshot) {
        for ship in self.ships.values_mut() {
            let is_newer = newest.position.index > ship.kept.position.index;
            let waits = is_newer && (ship.hold == Hold::Newer || ship.is_silent(now, self.hold_for));
            if waits || ship.hold == Hold::Replacement {
                *ship = Ship { heard: ship.heard, damaged: ship.damaged, ..Ship::new(now, newest.clone()) };
            }
        }
    }

    /// The oldest snapshot that is being sent to anyone who answers.
    pub fn oldest(&self, now: Time) -> Option<Index> {
        let all = self.mutants.breaks(Mutant::HoldForTheSilent);
        let replaced = |ship: &Ship| matches!(ship.hold, Hold::Replacement | Hold::Newer);
        let waits = self.ships.values().filter(|ship| all || !(replaced(ship) || ship.is_silent(now, self.hold_for)));
        waits.map(|ship| ship.kept.position.index).min()
    }

    /// When something is to be sent again.
    pub fn deadline(&self) -> Time {
        let due = |ship: &Ship| match ship.hold {
            Hold::Nothing if ship.lacks.is_some() => ship.begun_again + AGAIN,
            Hold::Nothing => ship.moved + PATIENCE,
            Hold::Until(when) => when,
            Hold::Inspection | Hold::Replacement | Hold::Newer => Time::NEVER,
        };
        self.ships.values().map(due).min().unwrap_or(Time::NEVER)
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
    fn new(now: Time, kept: DurableSnapshot) -> Ship {
        let (acked, sent, known, asked) = (0, 0, false, false);
        let (hold, damaged, of_this) = (Hold::Nothing, 0, 0);
        let (moved, begun_again, heard, lacks) = (now, now, now, None);
        Ship { kept, acked, known, asked, sent, moved, begun_again, lacks, heard, hold, damaged, of_this }
    }

    /// The follower said that it lacks some of what was sent, and has said nothing newer since: that was no word that
    /// others overtook. To wait for the long patience at each piece that is lost would take as many seconds as pieces.
    fn send_what_it_lacks(&mut self, now: Time) {
        if let Some(from) = self.lacks
            && self.hold == Hold::Nothing
            && now.since(self.begun_again) >= AGAIN
        {
            self.begin_again_at(now, from);
        }
    }

    /// Sends all from there on once more.
    fn begin_again_at(&mut self, now: Time, from: u64) {
        (self.acked, self.sent, self.lacks) = (from, from, None);
        (self.begun_again, self.moved) = (now, now);
    }

    /// What was received damaged is sent again, when its time has come.
    fn go_on(&mut self, now: Time) {
        if matches!(self.hold, Hold::Until(when) if when <= now) {
            let (damaged, of_this, heard) = (self.damaged, self.of_this, self.heard);
            *self = Ship { damaged, of_this, heard, ..Ship::new(now, self.kept.clone()) };
        }
    }

    fn is_silent(&self, now: Time, hold_for: Duration) -> bool {
        now.since(self.heard) >= hold_for
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
    fn next(&mut self, chunk: u64) -> Option<SnapshotChunk> {
        if self.hold != Hold::Nothing {
            return None;
        }
        let end = self.total().min(self.acked + WINDOW * chunk);
        let may = if self.known { self.sent < end } else { !std::mem::replace(&mut self.asked, true) };
        if !may {
            return None;
        }
        let offset = self.sent;
        self.sent = self.total().min(offset + chunk);
        let bytes = self.kept.bytes.slice(offset as usize..self.sent as usize);
        Some(SnapshotChunk { snapshot: self.kept.position, total: self.total(), offset, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::CHUNK_BYTES;
    use crate::types::Term;
    use bytes::Bytes;

    const CHUNK: u64 = CHUNK_BYTES as u64;

    fn ship(chunks: u64) -> Ship {
        let bytes = Bytes::from(vec![7; (chunks * CHUNK) as usize]);
        Ship::new(Time(0), DurableSnapshot { position: Position::new(Index(9), Term(2)), bytes })
    }

    fn offsets(ship: &mut Ship) -> Vec<u64> {
        std::iter::from_fn(|| ship.next(CHUNK)).map(|chunk| chunk.offset / CHUNK).collect()
    }

    #[test]
    fn one_piece_asks_and_then_the_window_fills() {
        let mut shipping = SnapshotSender::new(&Options::default());
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
        shipping.begin(Time(9) + AGAIN, to, &newest, Index(0));
        assert_eq!(offsets(shipping.ships.get_mut(&to).expect("it is there")), [12]);
        shipping.chunked(Time(9) + AGAIN, to, newest.position, 20 * CHUNK);
        assert_eq!(offsets(shipping.ships.get_mut(&to).expect("it is there")).first(), Some(&20));
    }

    /// Without it each piece that is lost costs a second: seed 90 of ten seconds did not come to rest.
    #[test]
    fn piece_that_is_lost_is_sent_again_soon() {
        let mut shipping = SnapshotSender::new(&Options::default());
        let to = NodeId::new(2).expect("not nobody");
        let newest = ship(100).kept;
        shipping.begin(Time(0), to, &newest, Index(0));
        shipping.chunked(Time(1), to, newest.position, CHUNK);
        let sends = |shipping: &mut SnapshotSender, now: Time| {
            let ship = shipping.ships.get_mut(&to).expect("it is there");
            ship.send_what_it_lacks(now);
            offsets(ship)
        };
        assert_eq!(sends(&mut shipping, Time(1)).len(), WINDOW as usize);
        // The first of them is lost, and all others are refused.
        (0..15).for_each(|_| shipping.chunked(Time(2), to, newest.position, CHUNK));
        assert_eq!(sends(&mut shipping, Time(2)), Vec::<u64>::new(), "they may have been overtaken");
        assert_eq!(shipping.deadline(), Time(1) + AGAIN);
        assert_eq!(sends(&mut shipping, Time(1) + AGAIN).first(), Some(&1));
        // It was only late.
        shipping.chunked(Time(2) + AGAIN, to, newest.position, CHUNK);
        shipping.chunked(Time(3) + AGAIN, to, newest.position, 3 * CHUNK);
        assert_eq!(sends(&mut shipping, Time(3) + AGAIN + AGAIN), [17, 18]);
    }

    /// Streaming one to a follower blocked the next (rqlite, before v10): pitfall 38.
    #[test]
    fn a_snapshot_that_is_being_sent_holds_up_no_newer_one() {
        let mut shipping = SnapshotSender::new(&Options::default());
        let to = NodeId::new(2).expect("not nobody");
        let (older, newer) =
            (ship(100).kept, DurableSnapshot { position: Position::new(Index(20), Term(2)), ..ship(3).kept });
        shipping.begin(Time(0), to, &older, Index(0));
        shipping.chunked(Time(1), to, older.position, 10 * CHUNK);
        // A newer one was taken. Who receives goes on with the older one, and then needs no other.
        shipping.renew(Time(2), &newer);
        shipping.begin(Time(0) + AGAIN, to, &newer, Index(0));
        assert_eq!(
            (shipping.oldest(Time(2)), shipping.progress(to)),
            (Some(Index(9)), Some((10 * CHUNK, 100 * CHUNK)))
        );
        // Who has had it, and needs one again, is sent the newer one.
        shipping.begin(Time(0) + AGAIN, to, &newer, Index(9));
        assert_eq!((shipping.oldest(Time(2)), shipping.progress(to)), (Some(Index(20)), Some((0, 3 * CHUNK))));
    }

    /// Segments stayed for consumers that were gone for good (rabbitmq-server#14522): pitfall 23.
    #[test]
    fn who_is_silent_holds_back_nothing_and_is_sent_the_newest() {
        let options = Options::default();
        let mut shipping = SnapshotSender::new(&options);
        let to = NodeId::new(2).expect("not nobody");
        let newer = DurableSnapshot { position: Position::new(Index(20), Term(2)), ..ship(3).kept };
        shipping.begin(Time(0), to, &ship(100).kept, Index(0));
        let (before, after) = (Time(0) + (options.hold_for - AGAIN), Time(0) + options.hold_for);
        shipping.renew(before, &newer);
        assert_eq!(shipping.oldest(before), Some(Index(9)));
        assert_eq!(shipping.oldest(after), None);
        let mutants = Mutants::only(Mutant::HoldForTheSilent);
        assert_eq!(SnapshotSender { mutants, ..shipping.clone() }.oldest(after), Some(Index(9)), "the mutant of it");
        shipping.renew(after, &newer);
        assert_eq!((shipping.oldest(after), shipping.progress(to)), (None, Some((0, 3 * CHUNK))));
        // It is back.
        shipping.chunked(after, to, newer.position, CHUNK);
        assert_eq!((shipping.oldest(after), shipping.progress(to)), (Some(Index(20)), Some((CHUNK, 3 * CHUNK))));
    }

    /// Words that overtook one another made all go over and over: bytes grew with the square of the pieces
    /// (hashicorp/raft#697 is another road to the same): safety 41.
    #[test]
    fn words_that_come_late_make_nothing_go_twice() {
        let mut shipping = SnapshotSender::new(&Options::default());
        let to = NodeId::new(2).expect("not nobody");
        let newest = ship(100).kept;
        shipping.begin(Time(0), to, &newest, Index(0));
        shipping.chunked(Time(1), to, newest.position, CHUNK);
        assert_eq!(offsets(shipping.ships.get_mut(&to).expect("it is there")).len(), WINDOW as usize);
        let mut broken = SnapshotSender { mutants: Mutants::only(Mutant::SendSnapshotsAgain), ..shipping.clone() };
        broken.chunked(Time(2), to, newest.position, 2 * CHUNK);
        assert_eq!(offsets(broken.ships.get_mut(&to).expect("it is there")).first(), Some(&0), "the mutant of it");
        for next in [3, 2, 1, 3, 2, 1, 3] {
            shipping.chunked(Time(2), to, newest.position, next * CHUNK);
            shipping.begin(Time(2), to, &newest, Index(0));
        }
        assert_eq!(offsets(shipping.ships.get_mut(&to).expect("it is there")), [17, 18]);
        // If it goes on saying so, something was lost.
        shipping.chunked(Time(9) + AGAIN, to, newest.position, 3 * CHUNK);
        assert_eq!(offsets(shipping.ships.get_mut(&to).expect("it is there")).first(), Some(&3));
    }

    #[test]
    fn several_followers_are_sent_the_same_bytes_and_no_copies_and_all_is_counted() {
        let mut shipping = SnapshotSender::new(&Options::default());
        let newest = ship(20).kept;
        let followers = [2, 3, 4].map(|n| NodeId::new(n).expect("not nobody"));
        for to in followers {
            shipping.begin(Time(0), to, &newest, Index(0));
            shipping.chunked(Time(1), to, newest.position, CHUNK);
        }
        for to in followers {
            let ship = shipping.ships.get_mut(&to).expect("it is there");
            let chunks: Vec<SnapshotChunk> = std::iter::from_fn(|| ship.next(CHUNK)).collect();
            assert_eq!(chunks.len() as u64, WINDOW);
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
        assert_eq!(ship.next(CHUNK), None);
        ship.ask_again(Time(5));
        let asked = ship.next(CHUNK).expect("a question");
        assert_eq!((asked.offset, asked.bytes.len()), (2 * CHUNK, 0));
        assert_eq!(ship.next(CHUNK), None);
    }

    fn begun(mutant: Option<Mutant>) -> (SnapshotSender, NodeId, DurableSnapshot) {
        let mutants = mutant.map_or(Mutants::NONE, Mutants::only);
        let mut shipping = SnapshotSender { mutants, ..SnapshotSender::new(&Options::default()) };
        let (to, newest) = (NodeId::new(2).expect("not nobody"), ship(3).kept);
        shipping.begin(Time(0), to, &newest, Index(0));
        shipping.chunked(Time(0), to, newest.position, 0);
        (shipping, to, newest)
    }

    fn sends(shipping: &mut SnapshotSender, to: NodeId) -> Vec<u64> {
        offsets(shipping.ships.get_mut(&to).expect("it is there"))
    }

    #[test]
    fn whole_snapshot_received_damaged_is_resent_a_few_times() {
        let (mut shipping, to, newest) = begun(None);
        let (mut now, mut pauses, mut times) = (Time(0), Vec::new(), 0);
        assert_eq!(sends(&mut shipping, to), [0, 1, 2]);
        while let Some(nth) = shipping.damaged(now, to, newest.position) {
            times += 1;
            assert_eq!(nth, times);
            assert_eq!(shipping.damaged(now, to, newest.position), None, "it is being read already");
            assert_eq!((sends(&mut shipping, to), shipping.deadline()), (vec![], Time::NEVER));
            shipping.inspected(now, newest.position, true);
            let Hold::Until(when) = shipping.ships[&to].hold else { break };
            pauses.push(when.since(now).as_secs());
            let ship = shipping.ships.get_mut(&to).expect("it is there");
            ship.go_on(Time(when.0 - 1));
            assert_eq!(ship.next(CHUNK), None, "not yet");
            ship.go_on(when);
            now = when;
            shipping.chunked(now, to, newest.position, 0);
            assert_eq!(sends(&mut shipping, to), [0, 1, 2]);
        }
        assert_eq!(pauses, [1, 2, 4]);
        assert_eq!(shipping.oldest(now), None, "it holds no log");
        shipping.renew(now, &newest);
        assert!(sends(&mut shipping, to).is_empty(), "the same is not sent again");
        let newer = DurableSnapshot { position: Position::new(Index(20), Term(2)), ..ship(2).kept };
        shipping.renew(now, &newer);
        shipping.chunked(now, to, newer.position, 0);
        assert_eq!(sends(&mut shipping, to), [0, 1]);
        assert_eq!(shipping.damaged(now, to, newer.position), Some(5), "the pauses go on growing");
    }

    /// What was sent for ever: 97.8 MB of a 12 MB snapshot in 8 s, and not a line in any log.
    #[test]
    fn damaged_snapshot_is_sent_to_nobody() {
        let (mut shipping, to, newest) = begun(None);
        let other = NodeId::new(3).expect("not nobody");
        shipping.begin(Time(0), other, &newest, Index(0));
        assert_eq!(shipping.damaged(Time(1), to, newest.position), Some(1));
        shipping.inspected(Time(1), newest.position, false);
        for follower in [to, other] {
            assert!(sends(&mut shipping, follower).is_empty());
            shipping.begin(Time(0) + AGAIN, follower, &newest, Index(0));
            assert!(sends(&mut shipping, follower).is_empty());
        }
        // Another of the same position: nothing was written meanwhile.
        shipping.renew(Time(2), &newest);
        assert_eq!(sends(&mut shipping, other), [0]);

        let (mut broken, to, newest) = begun(Some(Mutant::ResendDamagedSnapshot));
        for _ in 0..100 {
            assert_eq!(sends(&mut broken, to), [0, 1, 2], "the mutant of it");
            assert_eq!(broken.damaged(Time(1), to, newest.position), None);
        }
    }
}
