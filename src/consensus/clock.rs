//! The cluster's clock: runs while a leader lives, and never goes back.

use crate::types::{ClusterTime, Time};
use std::time::Duration;

/// A leader looks at its clock with every heartbeat, if not more often. If it has not for so many it was
/// frozen, and the cluster's clock goes on by no more than these.
const BEATS_MAX: u32 = 20;

/// What this node knows of the cluster's time.
///
/// Invariant: never less than the time of any entry this node has held, so that a leader's entries
/// carry on where the last leader's ended. While nobody leads it stands still: nothing lapses or
/// expires for want of a leader. Nor does a leader that was frozen catch up on waking, whether or not it
/// still leads: it has told nobody the time meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    seen: ClusterTime,
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
    /// An entry of that time is in the log.
    pub fn observe(&mut self, time: ClusterTime) {
        self.seen = self.seen.max(time);
    }

    /// We lead from now on: the clock runs by ours, and is looked at with every heartbeat.
    pub fn start(&mut self, now: Time, heartbeat: Duration) {
        self.leading = Some(Leading { looked: now, most: heartbeat * BEATS_MAX });
    }

    /// We lead no more.
    pub fn stop(&mut self) {
        self.leading = None;
    }

    /// The cluster's time, if we lead: the time for a new entry.
    pub fn read(&mut self, now: Time) -> ClusterTime {
        if let Some(Leading { looked, most }) = &mut self.leading {
            let run = now.since(*looked);
            // What is left of a millisecond counts the next time.
            let whole = run.min(*most).as_millis() as u64;
            *looked = if run > *most { now } else { *looked + Duration::from_millis(whole) };
            self.seen.0 = self.seen.0.saturating_add(whole);
        }
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_leader_that_was_frozen_does_not_catch_up() {
        let (mut clock, second) = (Clock::default(), Duration::from_secs(1));
        clock.start(Time::ZERO, Duration::from_millis(50));
        assert_eq!(clock.read(Time::ZERO + second), ClusterTime(1000));
        let woken = Time::ZERO + second * 3601;
        assert_eq!(clock.read(woken), ClusterTime(2000));
        assert_eq!(clock.read(woken + Duration::from_micros(1500)), ClusterTime(2001));
        assert_eq!(clock.read(woken + Duration::from_micros(2999)), ClusterTime(2002));
    }

    #[test]
    fn the_clock_stands_still_without_a_leader_and_never_goes_back() {
        let mut clock = Clock::default();
        clock.observe(ClusterTime(500));
        clock.observe(ClusterTime(400));
        assert_eq!(clock.read(Time::ZERO + Duration::from_secs(9)), ClusterTime(500));
        clock.start(Time::ZERO + Duration::from_secs(10), Duration::from_millis(50));
        assert_eq!(clock.read(Time::ZERO + Duration::from_secs(11)), ClusterTime(1500));
        clock.stop();
        assert_eq!(clock.read(Time::ZERO + Duration::from_secs(99)), ClusterTime(1500));
    }
}
