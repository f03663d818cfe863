//! Sends snapshots to followers that need entries which the log no longer holds: chunk by chunk, with a window of
//! unacknowledged chunks, from the offset that the follower has reached.
//!
//! ```text
//!   leader                                follower
//!   begin: one chunk probes    ──────▶    stores it, or has more already
//!   chunked(next)              ◀──────    "I have `next` bytes"
//!   up to WINDOW chunks        ──────▶    …
//!   the window moves           ◀──────    "I have `next` bytes"
//!                                         complete: read back, then restored, or reported damaged
//! ```
//!
//! The follower's offset is the only truth. It restarts, loses its partial file, or holds part of this snapshot from an
//! earlier transfer. So the sender keeps no record of what must have arrived, and probes again whenever it is in doubt.
//!
//! Chunks are messages among others, each small enough for heartbeats to pass between two. Lost ones are noticed in two
//! ways: the follower repeats an offset, or is silent for `PATIENCE`. A repeated offset may also be an acknowledgment
//! that was overtaken by a later one. Resending at each of them made the bytes sent grow with the square of the number
//! of chunks. So sending restarts no more often than every `RETRY_INTERVAL`, and only at an offset that no newer
//! acknowledgment has contradicted.
//!
//! A damaged snapshot has a walk of its own, in `Hold`: the leader reads its own file before it sends anything again.

use super::event::{Action, DurableSnapshot};
use super::options::Options;
use crate::consensus::Raft;
use crate::consensus::message::{Message, SnapshotChunk};
use crate::types::{Index, Mutant, Mutants, NodeId, Position, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// How many chunks may be unacknowledged by one follower. Enough to keep a link busy during a round trip, and little
/// enough that a link which breaks loses little.
const WINDOW: u64 = 16;
/// Without an acknowledgment for this long, unacknowledged chunks are sent again.
const PATIENCE: Duration = Duration::from_secs(1);
/// Chunks that a follower reports missing are sent again no more often than this: reordered acknowledgments report the
/// same.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How often a snapshot that is undamaged here, but that a follower received damaged, is sent again. Then the follower
/// waits for a newer one.
const RESENDS: u32 = 3;
/// The delay before the first resend; it doubles with each further one.
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// How often that delay doubles: up to about a minute.
const RESEND_DOUBLES: u32 = 6;

/// The snapshots being sent.
///
/// Invariants, for each transfer: `acked ≤ sent ≤` the file's size; no more than `WINDOW` chunks, and the one that
/// crosses its edge, are unacknowledged; a damaged snapshot is resent `RESENDS` times at most. No transfer sends a
/// newer snapshot than the newest of this node.
#[derive(Clone, Debug)]
pub struct SnapshotSender {
    transfers: BTreeMap<NodeId, Transfer>,
    /// Bytes sent to all followers since this node started, whether they arrived or not.
    sent: u64,
    /// Bytes per chunk.
    chunk: u64,
    /// A follower that does not respond for this long holds back no log.
    hold_for: Duration,
    mutants: Mutants,
}

/// One snapshot on its way to one follower. The file is mapped once, however many followers receive it, and stays
/// readable while any of them does, even after it is deleted from its directory.
#[derive(Clone, Debug)]
struct Transfer {
    kept: DurableSnapshot,
    /// How many bytes the follower has acknowledged.
    acked: u64,
    /// Whether `acked` is certain, since it was last in doubt; and whether the follower was probed for it. A probe is a
    /// single chunk: a window of them, sent to a follower that has everything or nothing, would be wasted.
    known: bool,
    asked: bool,
    sent: u64,
    /// When a chunk was last sent or acknowledged. Sending counts, so that a silent follower is probed once per
    /// `PATIENCE`, and not at each turn after it.
    last_progress: Time,
    /// When sending was last restarted because of a response of the follower. A new transfer to the same follower keeps
    /// it.
    restarted_at: Time,
    /// The offset from which the follower reports chunks missing, if sending restarted too recently to trust that
    /// report.
    missing_from: Option<u64>,
    /// When the follower last responded for this snapshot.
    last_response: Time,
    /// Why sending is on hold.
    hold: Hold,
    /// How many snapshots in a row the follower received damaged, of any position; and how often this one. The first
    /// lengthens the delay, so that a follower with a bad disk costs less and less; the second ends the attempts.
    damaged: u32,
    of_this: u32,
}

/// Why a snapshot that a follower received damaged is on hold.
///
/// ```text
///   Nothing ──damaged──▶ Inspection ──undamaged here──▶ Until(…) ──▶ Nothing   (a few times, then Newer)
///                            └────────damaged here────▶ Replacement
/// ```
///
/// A leader that resent without reading its own file sent 97.8 MB of a damaged snapshot of 12 MB in 8 s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hold {
    /// It is not on hold: it is being sent.
    Nothing,
    /// The file is being read again.
    Inspection,
    /// It is sent again from the beginning, at this time.
    Until(Time),
    /// The file is damaged here: the next snapshot is sent, of whatever position.
    Replacement,
    /// It was resent often enough: a snapshot of a later position is sent.
    Newer,
}

impl SnapshotSender {
    /// Creates a sender with no snapshot in progress.
    pub fn new(options: &Options) -> SnapshotSender {
        let Options { chunk_bytes, hold_for, mutants, .. } = *options;
        SnapshotSender { transfers: BTreeMap::new(), sent: 0, chunk: chunk_bytes as u64, hold_for, mutants }
    }

    /// Starts sending a snapshot to the follower `to`, which holds everything up to `matched`. A snapshot in progress
    /// continues, unless the follower already holds it; otherwise the newest is sent.
    ///
    /// The core calls this each time that it finds a follower to need a snapshot, also after a broken link or a late
    /// response while a transfer is under way. Replacing that by the newest each time would never finish under load:
    /// the next snapshot is taken before the last one has arrived. (rqlite before version 10 had the opposite fault: a
    /// stream blocked the next one.)
    pub fn begin(&mut self, now: Time, to: NodeId, newest: &DurableSnapshot, matched: Index) {
        let ship = self.transfers.entry(to).or_insert_with(|| Transfer::new(now, newest.clone()));
        if ship.kept.position.index <= matched {
            *ship = Transfer { restarted_at: ship.restarted_at, ..Transfer::new(now, newest.clone()) };
        } else if ship.hold == Hold::Nothing && now.since(ship.restarted_at) >= RETRY_INTERVAL {
            // Not at every late acknowledgment.
            ship.restarted_at = now;
            ship.probe(now);
        }
    }

    /// Records that a follower received all of a snapshot and found it damaged: no more of it is sent until the file is
    /// read again. Returns how many damaged snapshots in a row the follower received, if the file is to be read.
    ///
    /// A second report for the same transfer changes nothing: the file is being read already, or a decision stands.
    pub fn damaged(&mut self, now: Time, from: NodeId, snapshot: Position) -> Option<u32> {
        let ship = self.transfers.get_mut(&from).filter(|ship| ship.kept.position == snapshot)?;
        ship.last_response = now;
        if self.mutants.breaks(Mutant::ResendDamagedSnapshot) {
            (ship.acked, ship.sent, ship.known, ship.last_progress) = (0, 0, true, now);
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

    /// Records that the file of a snapshot that a follower received damaged was read again. If it is undamaged it is
    /// sent again after a delay, a few times; if it is damaged, it is sent to no follower any more.
    ///
    /// All transfers of that snapshot learn of a damaged file, also those whose follower has not noticed yet. An
    /// undamaged file matters only to the transfers that were waiting for the verdict.
    pub fn inspected(&mut self, now: Time, snapshot: Position, whole: bool) {
        for ship in self.transfers.values_mut().filter(|ship| ship.kept.position == snapshot) {
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

    /// Records how many bytes of a snapshot a follower has.
    ///
    /// The number is input: one beyond the file's end is ignored, and one below `acked` restarts sending only if no
    /// later one contradicts it.
    pub fn chunked(&mut self, now: Time, from: NodeId, snapshot: Position, next: u64) {
        let Some(ship) = self.transfers.get_mut(&from).filter(|ship| ship.kept.position == snapshot) else { return };
        if ship.hold != Hold::Nothing {
            // The follower sent this before it found the damage.
            return;
        }
        if next > ship.total() {
            return;
        }
        ship.last_response = now;
        ship.missing_from = (ship.known && next <= ship.acked).then_some(next);
        if !ship.known {
            ship.begin_again_at(now, next);
        }
        // The follower restarted and has less than before, or chunks were lost.
        ship.send_what_it_lacks(now);
        (ship.acked, ship.known) = (ship.acked.max(next), true);
        // More than was sent: an earlier leader, or an earlier attempt, sent the rest.
        ship.sent = ship.sent.max(next);
        if self.mutants.breaks(Mutant::SendSnapshotsAgain) {
            (ship.acked, ship.sent) = (0, 0);
        }
        ship.last_progress = now;
        ship.check();
    }

    /// Sends the chunks that are due. A follower that did not respond for long is sent the newest snapshot when it is
    /// back: neither its previous snapshot nor the log behind that is kept for it.
    pub fn pump(&mut self, now: Time, raft: &Raft, newest: Option<&DurableSnapshot>, actions: &mut Vec<Action>) {
        if self.transfers.is_empty() {
            return;
        }
        // Also all of them, if this node no longer leads: the next leader begins transfers of its own.
        self.transfers.retain(|to, _| raft.needs_snapshot(*to));
        newest.into_iter().for_each(|newest| self.renew(now, newest));
        for (to, ship) in &mut self.transfers {
            ship.resume_after_hold(now);
            ship.send_what_it_lacks(now);
            // Chunks or acknowledgments are lost, or the follower is down: a window would be as well, a probe is
            // enough.
            if ship.hold == Hold::Nothing && now.since(ship.last_progress) >= PATIENCE {
                ship.probe(now);
            }
            while let Some(chunk) = ship.next(self.chunk) {
                ship.last_progress = now;
                self.sent += chunk.bytes.len() as u64;
                // The follower has responded in this term, so the term is durable here.
                actions.push(Action::Send(raft.envelope(*to, raft.term(), Message::InstallSnapshot(chunk))));
            }
        }
    }

    /// Replaces the snapshots of followers that do not respond, and snapshots received damaged, by `newest`.
    ///
    /// The time of the last response stays: a silent follower is still silent, and the log behind its new snapshot is
    /// not held for it either. So does the count of damaged snapshots, and with it the delay.
    fn renew(&mut self, now: Time, newest: &DurableSnapshot) {
        for ship in self.transfers.values_mut() {
            let is_known = newest.position.index >= ship.kept.position.index;
            assert!(is_known, "a transfer sends no newer snapshot than this node's newest: that never becomes older");
            let is_newer = newest.position.index > ship.kept.position.index;
            let waits = is_newer && (ship.hold == Hold::Newer || ship.is_silent(now, self.hold_for));
            if waits || ship.hold == Hold::Replacement {
                *ship = Transfer {
                    last_response: ship.last_response,
                    damaged: ship.damaged,
                    ..Transfer::new(now, newest.clone())
                };
            }
        }
    }

    /// The oldest snapshot that is being sent to a follower that responds. The log behind it is kept, so that the
    /// follower finds its next entry there. Followers that are silent, and transfers that will be replaced, hold
    /// nothing back: a node that is gone for good would otherwise keep every leader's log forever.
    pub fn oldest(&self, now: Time) -> Option<Index> {
        let all = self.mutants.breaks(Mutant::HoldForTheSilent);
        let replaced = |ship: &Transfer| matches!(ship.hold, Hold::Replacement | Hold::Newer);
        let waits =
            self.transfers.values().filter(|ship| all || !(replaced(ship) || ship.is_silent(now, self.hold_for)));
        waits.map(|ship| ship.kept.position.index).min()
    }

    /// When chunks are next due to be sent again. A transfer that waits for a verdict or for another snapshot needs no
    /// timer: the event that ends the wait brings a turn.
    pub fn deadline(&self) -> Time {
        let due = |ship: &Transfer| match ship.hold {
            Hold::Nothing if ship.missing_from.is_some() => ship.restarted_at + RETRY_INTERVAL,
            Hold::Nothing => ship.last_progress + PATIENCE,
            Hold::Until(when) => when,
            Hold::Inspection | Hold::Replacement | Hold::Newer => Time::NEVER,
        };
        self.transfers.values().map(due).min().unwrap_or(Time::NEVER)
    }

    /// Panics if a law of a transfer is violated.
    pub(super) fn check(&self) {
        self.transfers.values().for_each(Transfer::check);
    }

    /// Bytes sent to all followers since this node started; some of them perhaps twice.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// How many bytes of its snapshot a follower has, and the snapshot's size. Less may be shown than before: an offset
    /// in doubt is taken back.
    pub fn progress(&self, of: NodeId) -> Option<(u64, u64)> {
        self.transfers.get(&of).map(|ship| (ship.acked, ship.total()))
    }
}

impl Transfer {
    fn new(now: Time, kept: DurableSnapshot) -> Transfer {
        let (acked, sent, known, asked) = (0, 0, false, false);
        let (hold, damaged, of_this) = (Hold::Nothing, 0, 0);
        let (moved, begun_again, heard, lacks) = (now, now, now, None);
        Transfer {
            kept,
            acked,
            known,
            asked,
            sent,
            last_progress: moved,
            restarted_at: begun_again,
            missing_from: lacks,
            last_response: heard,
            hold,
            damaged,
            of_this,
        }
    }

    /// Resends from the offset that the follower reported missing, if no newer acknowledgment has contradicted it: then
    /// that report was not merely reordered. Waiting for `PATIENCE` at each lost chunk would take as many seconds as
    /// chunks are lost.
    fn send_what_it_lacks(&mut self, now: Time) {
        if let Some(from) = self.missing_from
            && self.hold == Hold::Nothing
            && now.since(self.restarted_at) >= RETRY_INTERVAL
        {
            self.begin_again_at(now, from);
        }
    }

    /// Sends everything from `from` on again. `acked` goes back with it: the window begins where the follower is.
    fn begin_again_at(&mut self, now: Time, from: u64) {
        (self.acked, self.sent, self.missing_from) = (from, from, None);
        (self.restarted_at, self.last_progress) = (now, now);
    }

    /// Restarts a snapshot received damaged, once its delay is over. From the beginning: the follower has dropped its
    /// file, since no chunk tells where the damage was.
    fn resume_after_hold(&mut self, now: Time) {
        if matches!(self.hold, Hold::Until(when) if when <= now) {
            let (damaged, of_this, heard) = (self.damaged, self.of_this, self.last_response);
            *self = Transfer { damaged, of_this, last_response: heard, ..Transfer::new(now, self.kept.clone()) };
        }
    }

    /// Whether the follower did not respond for so long that nothing is held for it. A response to anything else does
    /// not count: a follower may be alive, and unable to store a snapshot.
    fn is_silent(&self, now: Time, hold_for: Duration) -> bool {
        now.since(self.last_response) >= hold_for
    }

    /// The size of the snapshot's file, which bounds every offset here.
    fn total(&self) -> u64 {
        self.kept.bytes.len() as u64
    }

    /// Panics if a law of the transfer is violated.
    fn check(&self) {
        assert!(self.acked <= self.sent, "bytes that a follower has are not sent again");
        assert!(self.sent <= self.total(), "a chunk lies within the snapshot's file");
        assert!(self.missing_from.is_none_or(|from| from <= self.total()), "sending restarts within the file");
        assert!(self.of_this <= self.damaged, "a snapshot received damaged counts among all that were");
        assert!(self.of_this <= RESENDS + 1, "a snapshot that keeps arriving damaged is given up after a few times");
    }

    /// Probes the follower for its offset, because the chunks sent may be lost. Sending restarts at what it has
    /// acknowledged: its answer corrects that, up or down.
    fn probe(&mut self, now: Time) {
        (self.known, self.asked) = (false, false);
        self.sent = self.acked;
        self.last_progress = now;
    }

    /// The next chunk, if the window has room. Until the follower has named its offset, a single chunk is sent as a
    /// probe; it is empty if the follower had everything and may be restoring it.
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
        let unacknowledged = self.sent - self.acked;
        assert!(unacknowledged <= (WINDOW + 1) * chunk, "no more than a window of chunks is under way to a follower");
        let bytes = self.kept.bytes.slice(offset as usize..self.sent as usize);
        Some(SnapshotChunk { snapshot: self.kept.position, total: self.total(), offset, bytes })
    }
}

#[cfg(test)]
mod tests;
