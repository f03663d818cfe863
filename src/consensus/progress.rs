//! A leader's view of one follower.
//!
//! Everything here is the leader's own account, and lives as long as its leadership. Three indexes tell how far the
//! follower is, from what is sure to what is hoped for:
//!
//! ```text
//! matched      durable there, as it has acknowledged: counts for a commit
//!   ≤ agreed   known to match, durable or not: need not be sent again
//!   < next     the next one to send; what lies between the two is in flight
//! ```
//!
//! A leader that took one for another would commit what no disk holds (`agreed` for `matched`), or send everything
//! twice.

use super::message::Round;
use super::room::Room;
use crate::types::{DiskId, Index, Position, Time};
use std::collections::VecDeque;
use std::time::Duration;

/// How a leader sends to a follower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgressState {
    /// One append at a time, to find where the logs match.
    Probe {
        /// When the probe in flight was sent; none if none is in flight.
        asked: Option<Time>,
    },
    /// As much as the window allows, without waiting for answers.
    Stream,
    /// No entries: those that it needs are no longer in the log, and a snapshot is being sent (§7).
    Snapshot,
}

/// A leader's view of one follower.
///
/// Invariant: `matched ≤ agreed < next`. The entries between `agreed` and `next` are in flight.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The disk that its messages come from; messages from another disk of its id do not count.
    pub disk: Option<DiskId>,
    /// Its copy and its answers count once it holds this index: the entry of the configuration that names its disk.
    /// None if the configuration names another disk for it, or none.
    pub counted_from: Option<Index>,
    /// The number of the probe in flight; zero if none is.
    pub probe: u64,
    /// It acknowledged everything up to this position and no longer holds it, as a probe has proved. It is sent no
    /// entries until it has durably promised to vote as if it held it.
    pub has_lost: Option<Position>,
    /// How often a loss was detected in this term.
    pub losses: u64,
    /// When it last acknowledged a new entry, or received a chunk of a snapshot.
    // A snapshot of gigabytes acknowledges no entry for minutes, and is progress all the same.
    pub acknowledged_at: Time,
    /// The last index that matches the leader's log and is durable on the follower.
    pub matched: Index,
    /// The last index known to match the leader's log, durable or not: entries up to here need not be sent.
    pub agreed: Index,
    /// The next index to send.
    pub next: Index,
    /// How entries are sent to it.
    pub stage: ProgressState,
    /// The last index of each append in flight.
    pub in_flight: VecDeque<Index>,
    /// When entries were last sent or acknowledged.
    pub last_progress: Time,
    /// When its last message of this term came; at first, when the term began.
    pub last_contact: Time,
    /// Whether it sent any message in this term, at least its vote.
    pub responded_this_term: bool,
    /// How far its log matches, durable or not, by its last heartbeat response. A hint: it may have been restarted
    /// since, and then a rejection corrects it.
    pub seen: Index,
    /// The latest round that it confirmed.
    pub round: Round,
    /// The highest commit index that it was sent.
    pub commit_sent: Index,
    /// Number of probes sent to it.
    pub probes: u64,
    /// Whether the operator was warned that it does not respond.
    pub silent: bool,
    /// How much room its disk has, by its last report.
    pub room: Room,
    /// Whether it has caught up (thesis §4.2.1): it holds all entries that were in the log an election timeout ago.
    pub caught_up: bool,
    /// The index to reach in the current round of catching up, and when that round began.
    chase: Option<(Index, Time)>,
}

impl Progress {
    /// A follower of which nothing is known; `next` is the next index to send.
    ///
    /// Nothing is known of its log, so that it counts for nothing, and the first probe asks at the end of the leader's
    /// log: after most elections the logs match there.
    pub fn new(now: Time, next: Index) -> Progress {
        Progress {
            disk: None,
            counted_from: None,
            probe: 0,
            has_lost: None,
            losses: 0,
            acknowledged_at: now,
            matched: Index::ZERO,
            agreed: Index::ZERO,
            next,
            stage: ProgressState::Probe { asked: None },
            in_flight: VecDeque::new(),
            last_progress: now,
            last_contact: now,
            responded_this_term: false,
            seen: Index::ZERO,
            round: Round::default(),
            commit_sent: Index::ZERO,
            probes: 0,
            silent: false,
            room: Room::AMPLE,
            caught_up: false,
            chase: None,
        }
    }

    /// The last index that counts for a quorum: zero until it holds the entry that names its disk.
    ///
    /// All or nothing: an emptied disk under the same id receives the same entries in the same order, and cannot be
    /// told from the old one before it holds its name.
    pub fn counted(&self) -> Index {
        match self.counted_from {
            Some(from) if self.matched >= from => self.matched,
            Some(_) | None => Index::ZERO,
        }
    }

    /// Handles an acknowledgment up to `matched`. Returns whether it is new.
    pub fn acknowledged(&mut self, now: Time, matched: Index) -> bool {
        let news = matched > self.matched;
        if news {
            self.acknowledged_at = now;
        }
        // It never goes back: acknowledgments may arrive out of order. A follower that really has less is found by a
        // probe (`has_lost`).
        self.matched = self.matched.max(matched);
        self.agreed = self.agreed.max(self.matched);
        while self.in_flight.front().is_some_and(|last| *last <= self.matched) {
            self.in_flight.pop_front();
        }
        match self.stage {
            // Any acknowledgment ends the probe, also one for an earlier append: it proves that the logs match up to
            // there.
            ProgressState::Probe { .. } => {
                self.stage = ProgressState::Stream;
                // Entries that it has seen and not yet synced need not be sent again.
                self.agreed = self.matched.max(self.seen);
                self.next = self.agreed.next();
                self.in_flight.clear();
            }
            ProgressState::Stream => self.next = self.next.max(self.matched.next()),
            // Whether the log reaches back far enough shows when more is sent.
            ProgressState::Snapshot => self.stream(self.matched.next()),
        }
        self.last_progress = now;
        news
    }

    /// Checks whether it has caught up: in each round it has to reach the index that ended the log when the round
    /// began, and a round that it completes within `patience` is the last (thesis §4.2.1).
    ///
    /// A fixed number of entries would be no measure: under load a follower that keeps up is always some entries
    /// behind, and an idle one that is ten behind may be dead. A round of bounded duration means that a cluster which
    /// has to wait for it waits no longer than for an election.
    pub fn chase(&mut self, now: Time, last: Index, patience: Duration) {
        // The first round starts with the first check. The target is fixed for the round, or a busy log would move it
        // away for ever.
        let (target, since) = *self.chase.get_or_insert((last, now));
        if self.matched >= target {
            self.caught_up = self.matched == last || now.since(since) < patience;
            self.chase = Some((last, now));
        } else if now.since(since) >= patience {
            self.caught_up = false;
        }
    }

    /// Handles a broken link: entries that it had seen and not synced may be lost.
    ///
    /// `matched` stays: it was durable there. `seen` does not: the process may have gone down with the connection.
    pub fn lost(&mut self) {
        self.seen = Index::ZERO;
        self.agreed = self.matched;
        // A follower that has not acknowledged anything is probed where it was: from index one the probe would carry
        // the whole log to a follower that most likely has it.
        let next = if self.matched > Index::ZERO { self.matched.next() } else { self.next };
        self.probe(next);
    }

    /// Sends entries again: the follower holds less than it acknowledged, and has promised to vote as if it held that.
    /// Acknowledgments from now on count.
    ///
    /// `matched` falls back to zero, as it does nowhere else for the same disk. What was committed by the old value
    /// stays safe by the promise, and what is counted from here on is on the disk.
    pub fn resume_after_loss(&mut self) {
        (self.matched, self.seen, self.has_lost, self.caught_up) = (Index::ZERO, Index::ZERO, None, false);
        self.probe(self.next);
    }

    /// Goes back to probing, from `next` on.
    ///
    /// Never at or below `matched`: a rejection that would lead there is a late one, or proves a loss.
    pub fn probe(&mut self, next: Index) {
        self.next = next.max(self.matched.next());
        self.agreed = self.matched;
        self.stage = ProgressState::Probe { asked: None };
        self.in_flight.clear();
    }

    /// Starts streaming from `next`: the follower reports that the logs match up to right before it.
    pub fn stream(&mut self, next: Index) {
        self.probe(next);
        self.agreed = self.next.prev();
        self.stage = ProgressState::Stream;
    }

    /// Switches to a snapshot: the log does not reach back far enough.
    ///
    /// `next` stays where it is. The acknowledgment of the snapshot moves it, and so does one of entries, if the
    /// follower had received more than the leader knew.
    pub fn start_snapshot(&mut self) {
        self.stage = ProgressState::Snapshot;
        self.in_flight.clear();
    }

    /// Panics if an invariant is violated, for a leader whose log ends at `last`. Called after every step
    /// ([`super::invariants`]).
    pub(super) fn check(&self, last: Index, commit: Index, window: usize) {
        let ordered = self.matched <= self.agreed && self.agreed < self.next;
        assert!(ordered, "matched entries agree, and agreeing entries are not sent again");
        assert!(self.matched <= last, "a follower's matched index is in the leader's log");
        assert!(self.next <= last.next(), "only entries of the log are sent");
        // `seen` becomes `agreed` after a probe: beyond the log it would skip entries that are not written yet.
        assert!(self.seen <= last, "a follower's hint does not reach beyond the leader's log");
        assert!(self.commit_sent <= commit, "no follower is sent a commit index that this leader has not reached");
        let streams = self.stage == ProgressState::Stream;
        assert!(streams || self.in_flight.is_empty(), "a probe has nothing else in flight");
        assert!(self.in_flight.len() <= window, "a slow follower does not fill the memory with appends");
        let (front, back) = (self.in_flight.front(), self.in_flight.back());
        assert!(front.is_none_or(|last| *last > self.matched), "an acknowledged append is not in flight");
        assert!(back.is_none_or(|last| *last < self.next), "every append in flight ends before the next one");
        debug_assert!(self.in_flight.iter().is_sorted_by(|a, b| a < b), "appends are sent in the order of the log");
        let lost = self.has_lost.map(|upto| upto.index);
        assert!(lost.is_none_or(|upto| upto <= self.matched), "only acknowledged entries are lost");
        assert!(self.chase.is_none_or(|(target, _)| target <= last), "a follower catches up with entries of the log");
    }

    /// The name of the state.
    pub fn stage_name(&self) -> &'static str {
        match self.stage {
            ProgressState::Probe { .. } => "probe",
            ProgressState::Stream => "stream",
            ProgressState::Snapshot => "snapshot",
        }
    }
}
