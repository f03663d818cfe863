//! Busy-polling before sleep: a wake-up often takes longer than the event that the thread waits for.

use std::time::{Duration, Instant};

/// The shortest busy-poll. It is still repeated often enough to notice when busy-polling pays again.
const SHORTEST: Duration = Duration::from_micros(4);
/// This many fruitless polls in a row halve the next.
const PATIENCE: u32 = 4;
/// If a yield takes longer than this, the processor is shared with other threads.
const SHARED: Duration = Duration::from_micros(20);

/// How long to busy-poll before sleeping. It follows only after work: an idle node sleeps.
///
/// On this kind of hardware, waking a sleeping thread takes 20 to 30 µs, a tenth of the time of a write. 60 µs of
/// busy-polling saves most of these wake-ups, and fruitless polls shorten the next ones. With more threads than
/// processors, busy-polling takes time from threads with work, so it ends as soon as that is noticed.
#[derive(Clone, Debug)]
pub struct BusyPoll {
    longest: Duration,
    now: Duration,
    in_vain: u32,
    /// When the current busy-poll began, and when this thread last had the processor.
    began: Instant,
    ours: Instant,
}

impl BusyPoll {
    /// Busy-polls at most for `longest`; zero disables it.
    pub fn new(longest: Duration) -> BusyPoll {
        let now = Instant::now();
        BusyPoll { longest, now: longest, in_vain: 0, began: now, ours: now }
    }

    /// Begins a busy-poll. Returns whether to poll at all.
    pub fn begin(&mut self) -> bool {
        self.began = Instant::now();
        self.ours = self.began;
        !self.longest.is_zero()
    }

    /// Yields the processor after a fruitless check. Returns whether to check once more.
    pub fn goes_on(&mut self) -> bool {
        std::thread::yield_now();
        let now = Instant::now();
        let shared = now - self.ours > SHARED;
        self.ours = now;
        let goes_on = !shared && now - self.began < self.now;
        if !goes_on {
            self.missed();
        }
        goes_on
    }

    /// Records that the busy-poll found work.
    pub fn found(&mut self) {
        self.in_vain = 0;
        self.now = (self.now * 2).min(self.longest);
    }

    /// Records that the busy-poll found no work.
    fn missed(&mut self) {
        self.in_vain += 1;
        if self.in_vain >= PATIENCE {
            self.in_vain = 0;
            self.now = (self.now / 2).max(SHORTEST).min(self.longest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_poll_backs_off() {
        let mut look = BusyPoll::new(Duration::from_micros(60));
        for _ in 0..100 {
            look.missed();
        }
        assert_eq!(look.now, SHORTEST);
        for _ in 0..9 {
            look.found();
        }
        assert_eq!(look.now, Duration::from_micros(60));
        let mut never = BusyPoll::new(Duration::ZERO);
        never.missed();
        never.found();
        assert_eq!(never.now, Duration::ZERO);
        assert!(!never.begin());
    }
}
