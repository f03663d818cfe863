//! How far a long read is.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many bytes there are to read, and how many of them were: whoever reads counts here, and whoever
/// wants to tell somebody looks, when it wants to. No clock, and nobody waits.
#[derive(Debug, Default)]
pub struct Meter {
    of: AtomicU64,
    done: AtomicU64,
}

impl Meter {
    /// So many more bytes are to be read.
    pub fn expect(&self, bytes: u64) {
        self.of.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many more were.
    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many were read.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Of how many.
    pub fn of(&self) -> u64 {
        self.of.load(Ordering::Relaxed)
    }
}
