//! The progress of one follower, as its leader tracks it.
//!
//! The progress exists for as long as the leader leads. Three indexes describe the follower's log, from the most
//! certain to the least:
//!
//! ```text
//! matched             acknowledged as durable: counts for a commit
//!   ≤ known_matching  known to match, durable or not: need not be sent again
//!   < next            the next entry to send; the entries above `known_matching` and below `next` are in flight
//! ```
//!
//! A leader that confused two of these indexes would commit entries that no disk holds (`known_matching` for
//! `matched`), or send entries twice.

use super::disk_room::DiskRoom;
use super::message::Round;
use crate::types::{DiskId, Index, Position, Time};
use std::collections::VecDeque;
use std::time::Duration;

/// How a leader sends entries to a follower; the states are etcd's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgressState {
    /// One append at a time, to find where the logs match.
    Probe {
        /// When the probe in flight was sent; `None` if the next one may be sent.
        sent_at: Option<Time>,
    },
    /// As many appends as the window allows, without waiting for answers.
    Stream,
    /// No entries: the follower needs compacted ones, and a snapshot is being sent (§7).
    Snapshot,
}

/// The progress of one follower, as its leader tracks it.
///
/// Invariant: `matched ≤ known_matching < next`. The entries between `known_matching` and `next` are in flight.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The disk that the follower's messages come from; `None` before the first one.
    pub disk: Option<DiskId>,
    /// The index of the entry that names the follower's disk. The follower's copy and answers count for quorums once it
    /// holds this entry. `None` if the configuration names another disk for the follower, or none.
    pub copy_counts_from: Option<Index>,
    /// The number of the last probe sent to the follower; zero before the first.
    pub probe_number: u64,
    /// If a probe proved that the follower lost acknowledged entries: the highest position that it acknowledged. The
    /// follower is sent no entries until it has durably promised to vote as if it held this position.
    pub lost_upto: Option<Position>,
    /// How many times a loss of acknowledged entries was detected in this term.
    pub loss_count: u64,
    /// When the follower last acknowledged a new entry, or a chunk of a snapshot.
    // Chunks count as well: a follower that receives a snapshot of gigabytes acknowledges no entry for minutes.
    pub last_new_ack: Time,
    /// The last index that matches the leader's log and is durable on the follower.
    pub matched: Index,
    /// The last index known to match the leader's log, durable or not: entries up to here need not be sent.
    pub known_matching: Index,
    /// The next index to send.
    pub next: Index,
    /// How entries are sent to the follower.
    pub state: ProgressState,
    /// The last index of each append in flight.
    pub appends_in_flight: VecDeque<Index>,
    /// When entries were last sent or acknowledged.
    pub last_progress: Time,
    /// When the follower's last message of this term arrived; at first, when the term began.
    pub last_contact: Time,
    /// Whether the follower has sent any message in this term. Its vote for this leader is such a message.
    pub responded_this_term: bool,
    /// The index up to which the follower's log matches, durable or not, by its last heartbeat response. A restarted
    /// follower may hold less; then a rejection corrects the next index to send.
    pub reported_prefix: Index,
    /// The latest round that the follower confirmed.
    pub confirmed_round: Round,
    /// The highest commit index that was sent to the follower, as far as its log matches.
    pub commit_sent: Index,
    /// How many probes were sent to the follower in this term.
    pub probes_sent: u64,
    /// Whether the operator was warned that the follower does not respond.
    pub silence_warned: bool,
    /// The room on the follower's disk, by its last heartbeat response.
    pub room: DiskRoom,
    /// Whether the follower has caught up (thesis §4.2.1): it holds all entries that were in the log an election
    /// timeout ago.
    pub caught_up: bool,
    /// The index that the follower has to reach in the current catch-up round, and when that round began.
    catch_up_round: Option<(Index, Time)>,
}

impl Progress {
    /// The progress of a follower whose log is not known yet; `next` is the next index to send.
    ///
    /// The follower's copy does not count for quorums yet. Callers pass the index after the leader's log as `next`:
    /// after most elections the logs match up to there.
    pub fn new(now: Time, next: Index) -> Progress {
        Progress {
            disk: None,
            copy_counts_from: None,
            probe_number: 0,
            lost_upto: None,
            loss_count: 0,
            last_new_ack: now,
            matched: Index::ZERO,
            known_matching: Index::ZERO,
            next,
            state: ProgressState::Probe { sent_at: None },
            appends_in_flight: VecDeque::new(),
            last_progress: now,
            last_contact: now,
            responded_this_term: false,
            reported_prefix: Index::ZERO,
            confirmed_round: Round::default(),
            commit_sent: Index::ZERO,
            probes_sent: 0,
            silence_warned: false,
            room: DiskRoom::AMPLE,
            caught_up: false,
            catch_up_round: None,
        }
    }

    /// The last index that counts for a quorum: zero until the follower holds the entry that names its disk.
    ///
    /// Before that no part of the copy counts: an emptied disk under the same node id receives the same entries in the
    /// same order, and cannot be distinguished from the old disk before it holds the entry that names it.
    pub fn counted_index(&self) -> Index {
        match self.copy_counts_from {
            Some(from) if self.matched >= from => self.matched,
            Some(_) | None => Index::ZERO,
        }
    }

    /// Records an acknowledgment up to `matched`. Returns whether it acknowledges new entries.
    pub fn record_ack(&mut self, now: Time, matched: Index) -> bool {
        let acks_new_entries = matched > self.matched;
        if acks_new_entries {
            self.last_new_ack = now;
        }
        // `matched` never decreases here: acknowledgments may arrive out of order. If a follower has lost entries, a
        // probe detects the loss (`lost_upto`).
        self.matched = self.matched.max(matched);
        self.known_matching = self.known_matching.max(self.matched);
        while self.appends_in_flight.front().is_some_and(|last| *last <= self.matched) {
            self.appends_in_flight.pop_front();
        }
        match self.state {
            // Any acknowledgment ends the probe, even an acknowledgment of an earlier append: it proves that the logs
            // match up to its index.
            ProgressState::Probe { .. } => {
                self.state = ProgressState::Stream;
                // Entries that the follower has received and not yet synced need not be sent again.
                self.known_matching = self.matched.max(self.reported_prefix);
                self.next = self.known_matching.next();
                self.appends_in_flight.clear();
            }
            ProgressState::Stream => self.next = self.next.max(self.matched.next()),
            // If the next entry is compacted, `ready` starts another snapshot.
            ProgressState::Snapshot => self.start_stream(self.matched.next()),
        }
        self.last_progress = now;
        acks_new_entries
    }

    /// Checks whether the follower has caught up with the leader's log, which ends at `last`. In each round it has to
    /// reach the index that ended the log when the round began; it has caught up when it completes a round within
    /// `timeout` (thesis §4.2.1).
    ///
    /// A limit on the number of missing entries would not work: under load a healthy follower always lacks some
    /// entries, and a follower of an idle leader that lacks ten entries may be dead. With rounds of bounded duration, a
    /// cluster that has to wait for the follower waits no longer than for an election.
    pub fn update_caught_up(&mut self, now: Time, last: Index, timeout: Duration) {
        // The first round starts with the first check. The target index is fixed for the round: if it moved with a
        // growing log, the follower might never reach it.
        let (target, since) = *self.catch_up_round.get_or_insert((last, now));
        if self.matched >= target {
            self.caught_up = self.matched == last || now.since(since) < timeout;
            self.catch_up_round = Some((last, now));
        } else if now.since(since) >= timeout {
            self.caught_up = false;
        }
    }

    /// Handles a broken link: entries that the follower had received and not synced may be lost.
    ///
    /// `matched` stays, because those entries are durable. `reported_prefix` is reset: the process may have ended with
    /// the connection.
    pub fn handle_lost_link(&mut self) {
        self.reported_prefix = Index::ZERO;
        self.known_matching = self.matched;
        // A follower that has not acknowledged an entry in this term is probed at the same index as before: a probe at
        // index one would send the whole log to a follower that most likely holds it.
        let next = if self.matched > Index::ZERO { self.matched.next() } else { self.next };
        self.start_probe(next);
    }

    /// Resumes sending entries to a follower that lost acknowledged ones and has promised to vote as if it held them.
    /// Its acknowledgments count again from now on.
    ///
    /// Only here `matched` is reset to zero for the same disk. Entries that were committed by the old `matched` are
    /// safe by the follower's promise.
    pub fn resume_after_loss(&mut self) {
        (self.matched, self.reported_prefix, self.lost_upto, self.caught_up) = (Index::ZERO, Index::ZERO, None, false);
        self.start_probe(self.next);
    }

    /// Starts to probe at `next`.
    ///
    /// `next` is raised above `matched`: a rejection at or below `matched` is late, or proves a loss.
    pub fn start_probe(&mut self, next: Index) {
        self.next = next.max(self.matched.next());
        self.known_matching = self.matched;
        self.state = ProgressState::Probe { sent_at: None };
        self.appends_in_flight.clear();
    }

    /// Starts streaming from `next`: the logs are known to match up to the index before it.
    pub fn start_stream(&mut self, next: Index) {
        self.start_probe(next);
        self.known_matching = self.next.prev();
        self.state = ProgressState::Stream;
    }

    /// Stops sending entries until the follower has installed a snapshot: the next entry to send is compacted.
    ///
    /// `next` does not change until the follower acknowledges the snapshot, or entries that it had received before.
    pub fn start_snapshot(&mut self) {
        self.state = ProgressState::Snapshot;
        self.appends_in_flight.clear();
    }

    /// Panics if an invariant is violated, for a leader whose log ends at `last`. Called after every step
    /// ([`super::invariants`]).
    pub(super) fn check_invariants(&self, last: Index, commit: Index, window_appends_max: usize) {
        let indexes_are_ordered = self.matched <= self.known_matching && self.known_matching < self.next;
        assert!(indexes_are_ordered, "the indexes of a follower are ordered: matched ≤ known_matching < next");
        assert!(self.matched <= last, "a follower's matched index is in the leader's log");
        assert!(self.next <= last.next(), "the next index to send is at most one past the leader's log");
        // `reported_prefix` becomes `known_matching` after a probe. Beyond the log it would skip entries that are not
        // appended yet.
        assert!(self.reported_prefix <= last, "a follower's reported prefix is in the leader's log");
        assert!(self.commit_sent <= commit, "the commit index sent to a follower is at most the leader's commit index");
        let is_streaming = self.state == ProgressState::Stream;
        assert!(is_streaming || self.appends_in_flight.is_empty(), "appends are in flight only in the state Stream");
        assert!(
            self.appends_in_flight.len() <= window_appends_max,
            "at most window_appends_max appends are in flight to a follower"
        );
        let (front, back) = (self.appends_in_flight.front(), self.appends_in_flight.back());
        assert!(
            front.is_none_or(|last| *last > self.matched),
            "the oldest append in flight ends above the matched index"
        );
        assert!(
            back.is_none_or(|last| *last < self.next),
            "the newest append in flight ends before the next index to send"
        );
        debug_assert!(
            self.appends_in_flight.iter().is_sorted_by(|a, b| a < b),
            "the last indexes of the appends in flight ascend"
        );
        let lost_index = self.lost_upto.map(|upto| upto.index);
        assert!(
            lost_index.is_none_or(|upto| upto <= self.matched),
            "the lost position is at or below the matched index"
        );
        assert!(
            self.catch_up_round.is_none_or(|(target, _)| target <= last),
            "the target of a catch-up round is in the leader's log"
        );
    }

    /// The name of the state in the status: `probe`, `stream` or `snapshot`.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            ProgressState::Probe { .. } => "probe",
            ProgressState::Stream => "stream",
            ProgressState::Snapshot => "snapshot",
        }
    }
}
