//! The progress of a long read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the bytes to be read and the bytes that were read. The reader adds to it, and a reporting thread looks at it
/// at any time. It has no clock and never blocks.
#[derive(Debug, Default)]
pub struct Meter {
    of: AtomicU64,
    done: AtomicU64,
}

impl Meter {
    /// Adds to the number of bytes to be read.
    pub fn expect(&self, bytes: u64) {
        self.of.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds to the number of bytes that were read.
    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many bytes were read.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// How many bytes there are to read.
    pub fn of(&self) -> u64 {
        self.of.load(Ordering::Relaxed)
    }
}
