//! The clock of a client: nanoseconds since the client was created, by the monotonic clock of the process.

use crate::types::Time;
use std::time::{Duration, Instant};

/// A monotonic clock that starts at zero.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose time is zero now.
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    /// The time since the start.
    pub fn now(&self) -> Time {
        self.time_at(Instant::now())
    }

    /// Converts an instant to this clock's time; zero for an instant before the start.
    pub fn time_at(&self, instant: Instant) -> Time {
        Time::ZERO + instant.saturating_duration_since(self.start)
    }

    /// Converts a time of this clock back to an instant.
    pub fn instant_at(&self, time: Time) -> Instant {
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
        assert_eq!(clock.time_at(later), Time(5_000_000));
        assert_eq!(clock.instant_at(Time(5_000_000)), later);
    }
}
