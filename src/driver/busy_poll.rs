//! Busy-polling before sleep: waking a thread often takes longer than the arrival of the event that it waits for.

use std::time::{Duration, Instant};

/// The shortest busy-poll. Polls of this length still notice when longer busy-polls would find work again.
const POLL_DURATION_MIN: Duration = Duration::from_micros(4);
/// After this many busy-polls in a row without work, the next busy-poll is half as long.
const FRUITLESS_POLLS_MAX: u32 = 4;
/// If a call of `yield_now` takes longer than this, other threads use this processor too.
const UNSHARED_PROCESSOR_YIELD_MAX: Duration = Duration::from_micros(20);

/// Decides how long a thread busy-polls before it sleeps. A thread busy-polls only after work: an idle node sleeps.
///
/// On common servers, waking a sleeping thread takes 20 to 30 µs, a tenth of the time of a write. 60 µs of busy-polling
/// saves most of these wake-ups, and fruitless polls shorten the next ones. With more threads than processors,
/// busy-polling takes time from threads with work, so a busy-poll ends as soon as the processor turns out to be shared.
#[derive(Clone, Debug)]
pub struct BusyPoll {
    poll_duration_max: Duration,
    /// The length of the next busy-poll.
    poll_duration: Duration,
    /// How many busy-polls in a row found no work.
    fruitless_polls: u32,
    /// When the current busy-poll began.
    poll_began_at: Instant,
    /// When this thread last had the processor.
    last_ran_at: Instant,
}

impl BusyPoll {
    /// Creates a policy with busy-polls of at most `poll_duration_max`; zero disables busy-polling.
    pub fn new(poll_duration_max: Duration) -> BusyPoll {
        let now = Instant::now();
        BusyPoll {
            poll_duration_max,
            poll_duration: poll_duration_max,
            fruitless_polls: 0,
            poll_began_at: now,
            last_ran_at: now,
        }
    }

    /// Begins a busy-poll. Returns whether to poll at all.
    pub fn begin(&mut self) -> bool {
        self.poll_began_at = Instant::now();
        self.last_ran_at = self.poll_began_at;
        !self.poll_duration_max.is_zero()
    }

    /// Yields the processor after a fruitless check. Returns whether to check once more.
    pub fn should_continue(&mut self) -> bool {
        std::thread::yield_now();
        let now = Instant::now();
        let is_processor_shared = now - self.last_ran_at > UNSHARED_PROCESSOR_YIELD_MAX;
        self.last_ran_at = now;
        let should_continue = !is_processor_shared && now - self.poll_began_at < self.poll_duration;
        if !should_continue {
            self.record_no_work();
        }
        should_continue
    }

    /// Records that the busy-poll found work: the next one may take twice as long, up to the maximum.
    pub fn record_work(&mut self) {
        self.fruitless_polls = 0;
        self.poll_duration = (self.poll_duration * 2).min(self.poll_duration_max);
    }

    /// Records that the busy-poll found no work. After `FRUITLESS_POLLS_MAX` such busy-polls in a row, the next one is
    /// half as long.
    fn record_no_work(&mut self) {
        self.fruitless_polls += 1;
        if self.fruitless_polls >= FRUITLESS_POLLS_MAX {
            self.fruitless_polls = 0;
            self.poll_duration = (self.poll_duration / 2).max(POLL_DURATION_MIN).min(self.poll_duration_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_poll_backs_off() {
        let mut poll = BusyPoll::new(Duration::from_micros(60));
        for _ in 0..100 {
            poll.record_no_work();
        }
        assert_eq!(poll.poll_duration, POLL_DURATION_MIN);
        for _ in 0..9 {
            poll.record_work();
        }
        assert_eq!(poll.poll_duration, Duration::from_micros(60));
        let mut disabled_poll = BusyPoll::new(Duration::ZERO);
        disabled_poll.record_no_work();
        disabled_poll.record_work();
        assert_eq!(disabled_poll.poll_duration, Duration::ZERO);
        assert!(!disabled_poll.begin());
    }
}
