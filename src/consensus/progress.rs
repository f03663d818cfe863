//! One follower as its leader sees it.

use super::message::Round;
use super::room::Room;
use crate::types::{DiskId, Index, Position, Time};
use std::collections::VecDeque;
use std::time::Duration;

/// How a leader sends to a follower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgressState {
    /// One append at a time, to find where the logs agree; since when one is on its way.
    Probe {
        /// When it was sent, unless none was.
        asked: Option<Time>,
    },
    /// As much as the window allows, without waiting for answers.
    Stream,
    /// Nothing from the log: what it needs is no longer there, and a snapshot is on its way (§7).
    Snapshot,
}

/// One follower as its leader sees it.
///
/// Invariant: `matched ≤ agreed < next`. What is on its way is everything behind `agreed`.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The disk it speaks from; what another disk of its id said counts for nothing.
    pub disk: Option<DiskId>,
    /// Its copy and its answers count once it holds this index: the entry that names its disk, as the
    /// configuration has it. None if the configuration names another disk for it, or none.
    pub counted_from: Option<Index>,
    /// The probe that is on its way; zero if none is.
    pub probe: u64,
    /// It acknowledged everything up to this position and holds it no more, as a probe has shown. It is sent nothing
    /// before it has durably promised to vote as if it held it.
    pub has_lost: Option<Position>,
    /// How often that was seen, in this term.
    pub losses: u64,
    /// When it last acknowledged something new, or took in a part of a snapshot.
    pub acknowledged_at: Time,
    /// The follower holds everything up to here, in agreement with us and on its disk.
    pub matched: Index,
    /// Its log agrees with ours up to here, on its disk or not: what need not be sent, as far as we know.
    pub agreed: Index,
    /// What is sent next.
    pub next: Index,
    /// How it is sent.
    pub stage: ProgressState,
    /// The last index of each append on its way.
    pub in_flight: VecDeque<Index>,
    /// When entries were last sent or acknowledged.
    pub last_progress: Time,
    /// When it was last heard, at all, in this term; or when that began.
    pub last_contact: Time,
    /// Whether it was: by its vote, at least.
    pub responded_this_term: bool,
    /// How far its log agrees with ours, on its disk or not, as it said last. A hint: it may have
    /// been restarted since, and then a conflict tells.
    pub seen: Index,
    /// The latest round it confirmed.
    pub round: Round,
    /// The commit index it was told.
    pub commit_sent: Index,
    /// Appends sent to find where the logs agree.
    pub probes: u64,
    /// Whether the operator has been told that it is silent.
    pub silent: bool,
    /// How much room its disk has, as it said last.
    pub room: Room,
    /// Whether it has caught up (thesis §4.2.1): it holds all that there was an election timeout ago.
    pub caught_up: bool,
    /// What it has to reach next for that, and since when.
    chase: Option<(Index, Time)>,
}

impl Progress {
    /// A follower of whom nothing is known but that we are about to send it `next`.
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

    /// What it holds for a quorum: nothing, before it holds the entry that names its disk.
    pub fn counted(&self) -> Index {
        match self.counted_from {
            Some(from) if self.matched >= from => self.matched,
            Some(_) | None => Index::ZERO,
        }
    }

    /// It acknowledged everything up to there; whether that is news.
    pub fn acknowledged(&mut self, now: Time, matched: Index) -> bool {
        let news = matched > self.matched;
        if news {
            self.acknowledged_at = now;
        }
        self.matched = self.matched.max(matched);
        self.agreed = self.agreed.max(self.matched);
        while self.in_flight.front().is_some_and(|last| *last <= self.matched) {
            self.in_flight.pop_front();
        }
        match self.stage {
            ProgressState::Probe { .. } => {
                self.stage = ProgressState::Stream;
                // What it has seen and not yet synced need not be sent again.
                self.agreed = self.matched.max(self.seen);
                self.next = self.agreed.next();
                self.in_flight.clear();
            }
            ProgressState::Stream => self.next = self.next.max(self.matched.next()),
            // Whether that is enough shows when more is sent.
            ProgressState::Snapshot => self.stream(self.matched.next()),
        }
        self.last_progress = now;
        news
    }

    /// Sees whether it has caught up: each round it has to reach what was the end of the log when the round
    /// began, and the one it does within `patience` is the last (thesis §4.2.1).
    pub fn chase(&mut self, now: Time, last: Index, patience: Duration) {
        let (target, since) = *self.chase.get_or_insert((last, now));
        if self.matched >= target {
            self.caught_up = self.matched == last || now.since(since) < patience;
            self.chase = Some((last, now));
        } else if now.since(since) >= patience {
            self.caught_up = false;
        }
    }

    /// The link with it broke: what it had seen may have died with it.
    pub fn lost(&mut self) {
        self.seen = Index::ZERO;
        self.agreed = self.matched;
        let next = if self.matched > Index::ZERO { self.matched.next() } else { self.next };
        self.probe(next);
    }

    /// It holds less than it acknowledged, and has promised to vote as if it held that: it is fed again, and what it
    /// acknowledges from now on counts.
    pub fn begin_anew(&mut self) {
        (self.matched, self.seen, self.has_lost, self.caught_up) = (Index::ZERO, Index::ZERO, None, false);
        self.probe(self.next);
    }

    /// Back to asking, from `next` on.
    pub fn probe(&mut self, next: Index) {
        self.next = next.max(self.matched.next());
        self.agreed = self.matched;
        self.stage = ProgressState::Probe { asked: None };
        self.in_flight.clear();
    }

    /// The logs agree up to right before `next`, as it says itself.
    pub fn stream(&mut self, next: Index) {
        self.probe(next);
        self.agreed = self.next.prev();
        self.stage = ProgressState::Stream;
    }

    /// The log does not go back as far as it needs.
    pub fn ship(&mut self) {
        self.stage = ProgressState::Snapshot;
        self.in_flight.clear();
    }

    /// The word for how it is sent to.
    pub fn stage_name(&self) -> &'static str {
        match self.stage {
            ProgressState::Probe { .. } => "probe",
            ProgressState::Stream => "stream",
            ProgressState::Snapshot => "snapshot",
        }
    }
}
