//! The cluster's clock: runs while a leader lives, and never goes back.

use crate::types::{ClusterTime, Time};

/// What this node knows of the cluster's time.
///
/// Invariant: never less than the time of any entry this node has held, so that a leader's entries
/// carry on where the last leader's ended. While nobody leads it stands still: nothing lapses or
/// expires for want of a leader.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    seen: ClusterTime,
    leading: Option<(Time, ClusterTime)>,
}

impl Clock {
    /// An entry of that time is in the log.
    pub fn observe(&mut self, time: ClusterTime) {
        self.seen = self.seen.max(time);
    }

    /// We lead from now on: the clock runs by ours.
    pub fn start(&mut self, now: Time) {
        self.leading = Some((now, self.seen));
    }

    /// We lead no more.
    pub fn stop(&mut self) {
        self.leading = None;
    }

    /// The time for a new entry.
    pub fn read(&mut self, now: Time) -> ClusterTime {
        if let Some((since, then)) = self.leading {
            let run = now.since(since).as_millis() as u64;
            self.observe(ClusterTime(then.0.saturating_add(run)));
        }
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_clock_stands_still_without_a_leader_and_never_goes_back() {
        let mut clock = Clock::default();
        clock.observe(ClusterTime(500));
        clock.observe(ClusterTime(400));
        assert_eq!(clock.read(Time::ZERO + Duration::from_secs(9)), ClusterTime(500));
        clock.start(Time::ZERO + Duration::from_secs(10));
        assert_eq!(clock.read(Time::ZERO + Duration::from_secs(11)), ClusterTime(1500));
        clock.stop();
        assert_eq!(clock.read(Time::ZERO + Duration::from_secs(99)), ClusterTime(1500));
    }
}
