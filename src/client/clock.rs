//! The time of a client: nanoseconds since it was made, by the process's own clock.

use crate::types::Time;
use std::time::{Duration, Instant};

/// Where the time of one client begins.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    /// The time now.
    pub fn now(&self) -> Time {
        self.time(Instant::now())
    }

    /// What it shows at that instant; zero before it began.
    pub fn time(&self, at: Instant) -> Time {
        Time::ZERO + at.saturating_duration_since(self.start)
    }

    /// The instant at which it shows that.
    pub fn instant(&self, time: Time) -> Instant {
        self.start + Duration::from_nanos(time.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_an_instant_and_back() {
        let clock = Clock::start();
        let later = clock.start + Duration::from_millis(5);
        assert_eq!(clock.time(later), Time(5_000_000));
        assert_eq!(clock.instant(Time(5_000_000)), later);
    }
}
