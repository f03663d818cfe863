//! The cluster's clock. It advances while there is a leader, and the times of a log's entries never decrease.
//!
//! The state machine must not read a clock: replicas would expire the same key at different entries, and their states
//! would differ from then on (copycat#40, nomad#13725). So time is part of the log. The leader stamps each entry, and
//! applying an entry is the only thing that advances the time of the state machine.
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

/// The maximum number of heartbeat intervals by which the cluster's clock advances in one reading. A leader reads the
/// clock at least with every heartbeat, so a longer interval shows that its process was frozen.
///
/// A virtual machine that was suspended for a day would otherwise expire every session of the cluster at once when it
/// resumes, before it learns that it was deposed.
const ADVANCE_HEARTBEATS_MAX: u32 = 20;

/// A time of the cluster's clock, and the term of the leader that counted it. Times are compared by term first: time
/// that a deposed leader counted alone has passed for no other node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct LeaderTime {
    /// The term of the leader that counted the time.
    pub term: Term,
    /// The cluster time, in milliseconds since the log began.
    pub time: ClusterTime,
}

/// This node's knowledge of the cluster's time.
///
/// Invariant: on a leader the time is never less than that of the last entry of its log, so that the leader's entries
/// continue where the last leader's ended. The clock stops while there is no leader: no session and no key expires
/// because a leader is missing. A leader whose process was frozen does not add the frozen time when it resumes, because
/// no other node has received that time.
///
/// A new leader starts at the latest [`LeaderTime`] known to it or any of its voters. A majority received the time of
/// each round of reads, and one node of that majority voted, so the clock does not fall behind any such round. (A read
/// is answered one round trip after its round began, so the clock of a new leader may be behind the time of the answer
/// by one round trip; see `docs/limits.md`.)
///
/// No key expires early, because times are compared by term first. (Counter-example, if the highest time won whatever
/// its term: a leader is cut off, and its clock advances by 300 ms; the next leader starts at the last time received
/// from the first; when the first leader leads again, every key that was set meanwhile expires 300 ms early. Simulator
/// seed 2199024002609 with `--members`.)
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// The latest time that this node knows, compared by term first.
    latest_leader_time: LeaderTime,
    /// The time of the last entry in the log.
    last_entry_time: ClusterTime,
    /// The clock of a leader; `None` while this node does not lead.
    leader_clock: Option<LeaderClock>,
}

/// The state of the clock while this node leads.
#[derive(Clone, Copy, Debug)]
struct LeaderClock {
    /// When the clock was last read, less the fraction of a millisecond by which that reading did not advance the
    /// clock.
    last_read_at: Time,
    /// The longest time by which the clock advances between two readings.
    advance_max: Duration,
}

impl Clock {
    /// Observes the entry that is now the last of the log, by its term and time.
    ///
    /// The time is set, not raised: after a truncation the last entry may have an earlier time, and the next leader's
    /// entries continue from there.
    pub fn observe_entry(&mut self, term: Term, time: ClusterTime) {
        self.last_entry_time = time;
        self.observe_leader_time(LeaderTime { term, time });
    }

    /// Observes a time that a leader sent, or that a voter reported with its vote. An earlier one changes nothing.
    pub fn observe_leader_time(&mut self, time: LeaderTime) {
        self.latest_leader_time = self.latest_leader_time.max(time);
    }

    /// The latest cluster time known to this node; on a leader, the time that it counts itself.
    pub fn latest_leader_time(&self) -> LeaderTime {
        self.latest_leader_time
    }

    /// Starts the clock when this node becomes the leader of `term`. The leader reads the clock at least once per
    /// `heartbeat` interval.
    ///
    /// The clock starts at the latest known time or at the time of the last entry, whichever is later: the times within
    /// one log never decrease. A leader that was cut off may have appended the last entry with a time above the latest
    /// known time, which is of a later term.
    pub fn start(&mut self, now: Time, heartbeat: Duration, term: Term) {
        self.latest_leader_time = LeaderTime { term, time: self.latest_leader_time.time.max(self.last_entry_time) };
        self.leader_clock = Some(LeaderClock { last_read_at: now, advance_max: heartbeat * ADVANCE_HEARTBEATS_MAX });
    }

    /// Stops the clock: this node no longer leads.
    ///
    /// `latest_leader_time` stays: this node reports it with its next vote.
    pub fn stop(&mut self) {
        self.leader_clock = None;
    }

    /// The cluster time for a new entry. The time advances only while this node leads.
    ///
    /// Only whole milliseconds are counted, and the fraction is left for the next reading: a busy leader reads many
    /// times in a millisecond, and would otherwise lose time at each reading by rounding.
    pub fn read(&mut self, now: Time) -> ClusterTime {
        let time = &mut self.latest_leader_time.time;
        if let Some(LeaderClock { last_read_at, advance_max }) = &mut self.leader_clock {
            let elapsed = now.since(*last_read_at);
            let whole_ms = elapsed.min(*advance_max).as_millis() as u64;
            *last_read_at = if elapsed > *advance_max { now } else { *last_read_at + Duration::from_millis(whole_ms) };
            time.0 = time.0.saturating_add(whole_ms);
        }
        *time
    }

    /// Panics if an invariant of the clock is violated; `leads` is whether this node leads `term`. Called after every
    /// step ([`super::invariants`]).
    pub(super) fn check_invariants(&self, term: Term, leads: bool) {
        // If clocks ran on two nodes, keys would expire by time that has passed for only one of them.
        assert_eq!(self.leader_clock.is_some(), leads, "the cluster's clock runs on a leader and on no other node");
        assert!(
            self.latest_leader_time.term <= term,
            "the latest leader time is of this node's term or an earlier one (§5.1)"
        );
        if leads {
            assert_eq!(self.latest_leader_time.term, term, "the latest leader time of a leader is of its own term");
            // An entry with an earlier time would bring back keys that the state machine has expired.
            assert!(
                self.latest_leader_time.time >= self.last_entry_time,
                "a leader's cluster time is not before the time of its last entry"
            );
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
        let resumed_at = Time::ZERO + second * 3601;
        assert_eq!(clock.read(resumed_at), ClusterTime(2000));
        assert_eq!(clock.read(resumed_at + Duration::from_micros(1500)), ClusterTime(2001));
        assert_eq!(clock.read(resumed_at + Duration::from_micros(2999)), ClusterTime(2002));
    }

    #[test]
    fn clock_stops_without_leader_and_never_goes_back() {
        let mut clock = Clock::default();
        clock.observe_entry(Term(1), ClusterTime(500));
        clock.observe_leader_time(LeaderTime { term: Term(1), time: ClusterTime(400) });
        assert_eq!(clock.read(Time::ZERO + Duration::from_secs(9)), ClusterTime(500));
        clock.start(Time::ZERO + Duration::from_secs(10), Duration::from_millis(50), Term(2));
        assert_eq!(clock.read(Time::ZERO + Duration::from_secs(11)), ClusterTime(1500));
        clock.stop();
        assert_eq!(clock.read(Time::ZERO + Duration::from_secs(99)), ClusterTime(1500));
    }

    #[test]
    fn time_of_later_term_replaces_higher_time_of_earlier_term() {
        let (mut clock, heartbeat) = (Clock::default(), Duration::from_millis(50));
        clock.start(Time::ZERO, heartbeat, Term(3));
        assert_eq!(clock.read(Time::ZERO + heartbeat * 10), ClusterTime(500));
        clock.stop();
        let later_leader_time = LeaderTime { term: Term(4), time: ClusterTime(200) };
        clock.observe_leader_time(later_leader_time);
        assert_eq!(clock.latest_leader_time(), later_leader_time);
        clock.start(Time::ZERO + heartbeat * 20, heartbeat, Term(5));
        assert_eq!(clock.read(Time::ZERO + heartbeat * 20), ClusterTime(200));
        // The times within a log never decrease, even if this node appended the last entry while it was cut off.
        clock.observe_entry(Term(5), ClusterTime(700));
        clock.observe_leader_time(LeaderTime { term: Term(6), time: ClusterTime(300) });
        clock.start(Time::ZERO + heartbeat * 20, heartbeat, Term(7));
        assert_eq!(clock.read(Time::ZERO + heartbeat * 20), ClusterTime(700));
    }
}
