//! The time of a client: nanoseconds since it was made, by the process's own clock.

use crate::types::Time;
use std::time::{Duration, Instant};

/// A clock that starts at zero.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts a clock now.
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    /// The current time.
    pub fn now(&self) -> Time {
        self.time(Instant::now())
    }

    /// The time at that instant; zero before the clock was started.
    pub fn time(&self, at: Instant) -> Time {
        Time::ZERO + at.saturating_duration_since(self.start)
    }

    /// The instant of that time.
    pub fn instant(&self, time: Time) -> Instant {
        self.start + Duration::from_nanos(time.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_converts_to_instant_and_back() {
        let clock = Clock::start();
        let later = clock.start + Duration::from_millis(5);
        assert_eq!(clock.time(later), Time(5_000_000));
        assert_eq!(clock.instant(Time(5_000_000)), later);
    }
}
