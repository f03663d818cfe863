//! The cluster's clock: runs while a leader lives, and never goes back.

use crate::types::{ClusterTime, Term, Time};
use std::time::Duration;

/// A leader looks at its clock with every heartbeat, if not more often. If it has not for so many it was
/// frozen, and the cluster's clock goes on by no more than these.
const BEATS_MAX: u32 = 20;

/// A time of the cluster's clock, and the term of the leader by whose clock it runs. Later terms come first in
/// comparing: what a deposed leader counted alone has passed for nobody else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct LeaderTime {
    /// The leader's term.
    pub term: Term,
    /// The time, by its clock.
    pub time: ClusterTime,
}

/// What this node knows of the cluster's time.
///
/// Invariant: as a leader never less than the time of the last entry of its log, so that its entries
/// carry on where the last leader's ended. While nobody leads it stands still: nothing lapses or
/// expires for want of a leader. Nor does a leader that was frozen catch up on waking, whether or not it
/// still leads: it has told nobody the time meanwhile.
///
/// A new leader begins at the latest time by [`LeaderTime`] that it or any of its voters has heard. Then what a read
/// found ended stays so: a majority heard the time of the read's round, and one of them voted. And nothing ends early: the
/// clock of a later leader may be behind that of an earlier one that was cut off, and keys that were set by
/// it count by it. (Counter-example, of the highest time heard: a leader counts on alone for 300 ms; its successor began
/// where it had last been heard; when it leads again, it would take 300 ms off the life of every key that was set
/// meanwhile. Seed 2199024002609 with `--members`.)
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    known: LeaderTime,
    /// The time of the last entry in the log.
    last_entry: ClusterTime,
    leading: Option<Leading>,
}

/// How the clock runs while we lead.
#[derive(Clone, Copy, Debug)]
struct Leading {
    /// When we last looked, but for what was left of a millisecond then.
    looked: Time,
    /// As far as it may go on from one look to the next.
    most: Duration,
}

impl Clock {
    /// An entry of that term and time is the last of the log.
    pub fn observe_entry(&mut self, term: Term, time: ClusterTime) {
        self.last_entry = time;
        self.observe(LeaderTime { term, time });
    }

    /// A leader said that time, or a voter has heard it.
    pub fn observe(&mut self, heard: LeaderTime) {
        self.known = self.known.max(heard);
    }

    /// What was heard.
    pub fn known(&self) -> LeaderTime {
        self.known
    }

    /// We lead that term from now on: the clock runs by ours, and is looked at with every heartbeat.
    pub fn start(&mut self, now: Time, heartbeat: Duration, term: Term) {
        self.known = LeaderTime { term, time: self.known.time.max(self.last_entry) };
        self.leading = Some(Leading { looked: now, most: heartbeat * BEATS_MAX });
    }

    /// We lead no more.
    pub fn stop(&mut self) {
        self.leading = None;
    }

    /// The cluster's time, if we lead: the time for a new entry.
    pub fn read(&mut self, now: Time) -> ClusterTime {
        let time = &mut self.known.time;
        if let Some(Leading { looked, most }) = &mut self.leading {
            let run = now.since(*looked);
            // What is left of a millisecond counts the next time.
            let whole = run.min(*most).as_millis() as u64;
            *looked = if run > *most { now } else { *looked + Duration::from_millis(whole) };
            time.0 = time.0.saturating_add(whole);
        }
        *time
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_leader_that_was_frozen_does_not_catch_up() {
        let (mut clock, second) = (Clock::default(), Duration::from_secs(1));
        clock.start(Time::ZERO, Duration::from_millis(50), Term(1));
        assert_eq!(clock.read(Time::ZERO + second), ClusterTime(1000));
        let woken = Time::ZERO + second * 3601;
        assert_eq!(clock.read(woken), ClusterTime(2000));
        assert_eq!(clock.read(woken + Duration::from_micros(1500)), ClusterTime(2001));
        assert_eq!(clock.read(woken + Duration::from_micros(2999)), ClusterTime(2002));
    }

    #[test]
    fn the_clock_stands_still_without_a_leader_and_never_goes_back() {
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
    fn what_a_deposed_leader_counted_alone_has_passed_for_nobody() {
        let (mut clock, beat) = (Clock::default(), Duration::from_millis(50));
        clock.start(Time::ZERO, beat, Term(3));
        assert_eq!(clock.read(Time::ZERO + beat * 10), ClusterTime(500));
        clock.stop();
        let later = LeaderTime { term: Term(4), time: ClusterTime(200) };
        clock.observe(later);
        assert_eq!(clock.known(), later);
        clock.start(Time::ZERO + beat * 20, beat, Term(5));
        assert_eq!(clock.read(Time::ZERO + beat * 20), ClusterTime(200));
        // But a log's times ascend: of what it holds, the last entry may be one that it wrote alone.
        clock.observe_entry(Term(5), ClusterTime(700));
        clock.observe(LeaderTime { term: Term(6), time: ClusterTime(300) });
        clock.start(Time::ZERO + beat * 20, beat, Term(7));
        assert_eq!(clock.read(Time::ZERO + beat * 20), ClusterTime(700));
    }
}
