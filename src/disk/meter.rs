//! Counters for the progress of a long read, such as that of the log at a start or of a snapshot at a restore.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the bytes to be read and the bytes that were read. The reader adds to the counters, and a reporting thread
/// reads them at any time. The meter has no clock and never blocks.
#[derive(Debug, Default)]
pub struct Meter {
    total_bytes: AtomicU64,
    read_bytes: AtomicU64,
}

impl Meter {
    /// Adds to the number of bytes to be read.
    pub fn add_total(&self, bytes: u64) {
        self.total_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds to the number of bytes that were read.
    pub fn add_read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The number of bytes that were read so far.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// The number of bytes to be read in all, those already read included. The number may still grow.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }
}
