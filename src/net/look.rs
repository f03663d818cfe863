//! Looking again before sleeping: a wake-up costs more than what one waits for.

use std::time::Duration;

/// The shortest look: often enough still to notice that looking pays again.
const SHORTEST: Duration = Duration::from_micros(4);
/// This many looks in vain, one after the other, halve the next.
const PATIENCE: u32 = 4;

/// How long to look for more work before sleeping. Only after work was done: who is idle sleeps.
///
/// On this kind of hardware a thread that sleeps is woken in 20 to 30 µs, a tenth of the time one
/// write takes; 60 µs of looking saves most of those, and looking in vain makes the look shorter.
#[derive(Clone, Debug)]
pub struct Look {
    longest: Duration,
    now: Duration,
    in_vain: u32,
}

impl Look {
    /// Looks that are at most that long; zero for never.
    pub fn new(longest: Duration) -> Look {
        Look { longest, now: longest, in_vain: 0 }
    }

    /// How long to look this time.
    pub fn length(&self) -> Duration {
        self.now
    }

    /// The look found something.
    pub fn found(&mut self) {
        self.in_vain = 0;
        self.now = (self.now * 2).min(self.longest);
    }

    /// The look found nothing.
    pub fn missed(&mut self) {
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
        let mut look = Look::new(Duration::from_micros(60));
        for _ in 0..100 {
            look.missed();
        }
        assert_eq!(look.length(), SHORTEST);
        for _ in 0..9 {
            look.found();
        }
        assert_eq!(look.length(), Duration::from_micros(60));
        let mut never = Look::new(Duration::ZERO);
        never.missed();
        never.found();
        assert_eq!(never.length(), Duration::ZERO);
    }
}
