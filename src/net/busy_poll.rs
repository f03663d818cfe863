//! Looking again before sleeping: a wake-up costs more than what one waits for.

use std::time::{Duration, Instant};

/// The shortest look: often enough still to notice that looking pays again.
const SHORTEST: Duration = Duration::from_micros(4);
/// This many looks in vain, one after the other, halve the next.
const PATIENCE: u32 = 4;
/// Whoever gets the processor back this late, after offering it, shares it.
const SHARED: Duration = Duration::from_micros(20);

/// How long to look for more work before sleeping. Only after work was done: who is idle sleeps.
///
/// On this kind of hardware a thread that sleeps is woken in 20 to 30 µs, a tenth of the time one
/// write takes; 60 µs of looking saves most of those, and looking in vain makes the look shorter.
/// Where more threads run than there are processors, a look takes from those who have work: it ends
/// as soon as it notices.
#[derive(Clone, Debug)]
pub struct BusyPoll {
    longest: Duration,
    now: Duration,
    in_vain: u32,
    /// When the look that is going on began, and when the processor was last ours.
    began: Instant,
    ours: Instant,
}

impl BusyPoll {
    /// Looks that are at most that long; zero for never.
    pub fn new(longest: Duration) -> BusyPoll {
        let now = Instant::now();
        BusyPoll { longest, now: longest, in_vain: 0, began: now, ours: now }
    }

    /// Begins to look; whether to look at all.
    pub fn begin(&mut self) -> bool {
        self.began = Instant::now();
        self.ours = self.began;
        !self.longest.is_zero()
    }

    /// Nothing yet: offers the processor to others; whether to look once more.
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

    /// The look found something.
    pub fn found(&mut self) {
        self.in_vain = 0;
        self.now = (self.now * 2).min(self.longest);
    }

    /// The look found nothing.
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
    fn it_looks_shorter_when_it_looks_in_vain() {
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
