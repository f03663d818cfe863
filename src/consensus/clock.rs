//! The cluster's clock: it advances while a leader lives, and never goes back in a log.
//!
//! The state machine must not read a clock: replicas would expire the same key at different entries, and differ from
//! then on (copycat#40, nomad#13725). So time is part of the log. The leader stamps each entry, and applying an entry
//! is the only thing that advances the time of the state machine.
//!
//! ```text
//! leader 1   stamps 100, 120, 140 ─┬─ dies
//! heartbeats contain 150 ──────────┘  followers know 150
//!            no leader: the clock stands still, nothing expires
//! leader 2   starts at the greatest time that it or one of its voters knows: 150, 160, ...
//! ```
//!
//! The time is cluster time, not the time of day: it starts at zero with the log, and lags behind real time by the
//! periods without a leader.

use crate::types::{ClusterTime, Term, Time};
use std::time::Duration;

/// A leader reads its clock with every heartbeat at least. If it has not for this many heartbeats it was frozen, and
/// the cluster's clock advances by no more than these.
///
/// A virtual machine that was suspended for a day would otherwise expire every session of the cluster at once when it
/// resumes, before it learns that it was deposed.
const BEATS_MAX: u32 = 20;

/// A time of the cluster's clock, and the term of the leader that counted it. Times are compared by term first: time
/// that a deposed leader counted alone has passed for no other node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct LeaderTime {
    /// The leader's term.
    pub term: Term,
    /// The cluster time.
    pub time: ClusterTime,
}

/// This node's knowledge of the cluster's time.
///
/// Invariant: on a leader it is never less than the time of the last entry of its log, so that the leader's entries
/// continue where the last leader's ended. It stops while there is no leader: no session and no key expires for want of
/// one. A leader that was frozen does not catch up when it resumes, whether or not it still leads: it has sent no time
/// meanwhile.
///
/// A new leader starts at the latest [`LeaderTime`] known to it or any of its voters. A majority received the time of
/// each round of reads, and one node of that majority voted, so the clock does not fall behind any such round. (An
/// answer is later than its round by a round trip; a new leader may be behind it by that much, see `docs/limits.md`.)
///
/// No key expires early. (Counter-example, if the highest time of any term counted: a leader is cut off, and counts on
/// for 300 ms; its successor starts at the last time received from it; when the first one leads again, every key that
/// was set meanwhile expires 300 ms early. Seed 2199024002609 with `--members`.)
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    known: LeaderTime,
    /// The time of the last entry in the log.
    last_entry: ClusterTime,
    leading: Option<Leading>,
}

/// The state of the clock while this node leads.
#[derive(Clone, Copy, Debug)]
struct Leading {
    /// When the clock was last read, less the fraction of a millisecond left over then.
    looked: Time,
    /// The most that it advances from one reading to the next.
    most: Duration,
}

impl Clock {
    /// Observes the entry that is now the last of the log, by its term and time.
    ///
    /// Set, and not the maximum: after a truncation the last entry may have an earlier time, and the next leader's
    /// entries continue from there.
    pub fn observe_entry(&mut self, term: Term, time: ClusterTime) {
        self.last_entry = time;
        self.observe(LeaderTime { term, time });
    }

    /// Observes a time that a leader sent, or that a voter knows.
    pub fn observe(&mut self, heard: LeaderTime) {
        self.known = self.known.max(heard);
    }

    /// The latest time known to this node; on a leader, its own.
    pub fn known(&self) -> LeaderTime {
        self.known
    }

    /// Starts the clock: this node leads that term, and reads the clock with every heartbeat.
    ///
    /// The maximum of two times: the latest known one may be from a later term and yet less than that of the last
    /// entry, which a leader wrote while it was cut off. Entries of one log ascend all the same.
    pub fn start(&mut self, now: Time, heartbeat: Duration, term: Term) {
        self.known = LeaderTime { term, time: self.known.time.max(self.last_entry) };
        self.leading = Some(Leading { looked: now, most: heartbeat * BEATS_MAX });
    }

    /// Stops the clock: this node no longer leads.
    ///
    /// The known time stays. It is the offer that this node makes as a voter.
    pub fn stop(&mut self) {
        self.leading = None;
    }

    /// The cluster's time for a new entry. It advances only while this node leads.
    ///
    /// Whole milliseconds are taken out and the rest is left for the next reading, because a busy leader reads many
    /// times in a millisecond, and would lose all of them by rounding.
    pub fn read(&mut self, now: Time) -> ClusterTime {
        let time = &mut self.known.time;
        if let Some(Leading { looked, most }) = &mut self.leading {
            let run = now.since(*looked);
            // The fraction of a millisecond counts at the next reading.
            let whole = run.min(*most).as_millis() as u64;
            *looked = if run > *most { now } else { *looked + Duration::from_millis(whole) };
            time.0 = time.0.saturating_add(whole);
        }
        *time
    }

    /// Panics if an invariant of the clock is violated; `leads` is the term that this node leads, if it does. Called
    /// after every step ([`super::invariants`]).
    pub(super) fn check(&self, term: Term, leads: bool) {
        // On two nodes at once, keys would expire by time that has passed for only one of them.
        assert_eq!(self.leading.is_some(), leads, "the cluster's clock runs on a leader, and only there");
        assert!(self.known.term <= term, "no node knows a time of a term that it has not reached (§5.1)");
        if leads {
            assert_eq!(self.known.term, term, "a leader counts time in its own term");
            // The state machine relies on it: an entry with an earlier time would take expired keys back.
            assert!(self.known.time >= self.last_entry, "the times of a leader's entries never go back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn clock_does_not_count_time_while_leader_was_frozen() {
        let (mut clock, second) = (Clock::default(), Duration::from_secs(1));
        clock.start(Time::ZERO, Duration::from_millis(50), Term(1));
        assert_eq!(clock.read(Time::ZERO + second), ClusterTime(1000));
        let woken = Time::ZERO + second * 3601;
        assert_eq!(clock.read(woken), ClusterTime(2000));
        assert_eq!(clock.read(woken + Duration::from_micros(1500)), ClusterTime(2001));
        assert_eq!(clock.read(woken + Duration::from_micros(2999)), ClusterTime(2002));
    }

    #[test]
    fn clock_stops_without_leader_and_never_goes_back() {
        let mut clock = Clock::default();
        clock.observe_entry(Term(1), ClusterTime(500));
        clock.observe(LeaderTime { term: Term(1), time: ClusterTime(400) });
        assert_eq!(clock.read(Time::ZERO + Duration::from_secs(9)), ClusterTime(500));
        clock.start(Time::ZERO + Duration::from_secs(10), Duration::from_millis(50), Term(2));
        assert_eq!(clock.read(Time::ZERO + Duration::from_secs(11)), ClusterTime(1500));
        clock.stop();
        assert_eq!(clock.read(Time::ZERO + Duration::from_secs(99)), ClusterTime(1500));
    }

    #[test]
    fn time_of_later_term_replaces_higher_time_of_earlier_term() {
        let (mut clock, beat) = (Clock::default(), Duration::from_millis(50));
        clock.start(Time::ZERO, beat, Term(3));
        assert_eq!(clock.read(Time::ZERO + beat * 10), ClusterTime(500));
        clock.stop();
        let later = LeaderTime { term: Term(4), time: ClusterTime(200) };
        clock.observe(later);
        assert_eq!(clock.known(), later);
        clock.start(Time::ZERO + beat * 20, beat, Term(5));
        assert_eq!(clock.read(Time::ZERO + beat * 20), ClusterTime(200));
        // The times of a log ascend all the same, and its last entry may be one that this node wrote alone.
        clock.observe_entry(Term(5), ClusterTime(700));
        clock.observe(LeaderTime { term: Term(6), time: ClusterTime(300) });
        clock.start(Time::ZERO + beat * 20, beat, Term(7));
        assert_eq!(clock.read(Time::ZERO + beat * 20), ClusterTime(700));
    }
}
