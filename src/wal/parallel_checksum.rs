//! Verifies the checksums of segments in several threads, ahead of the reader.
//!
//! Recovery interprets the log in one thread and in order. An entry may replace earlier ones, and a restart drops them
//! all, so a record has no meaning without the records before it. But most of the work are checksums, and these can be
//! verified in any order. So the reader only skips the checksums of frames that another thread has found intact.
//!
//! The reader's result does not depend on the other threads. If the verified prefix of a segment is too short, the
//! reader verifies the rest itself. So a thread that finds a bad frame stops there and reports nothing: the reader
//! finds the same frame and classifies it.

use super::format::{self, Frame, RecordKind, SEGMENT_HEADER_BYTES};
use super::load::SegmentFile;
use crate::types::DiskId;
use bytes::Bytes;
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Verifies the checksums at the beginning of each segment, in several threads.
///
/// The threads take the segments in order and one at a time, since the reader needs the oldest first.
pub struct PrefixVerifier<'a> {
    /// All segments; empty if the reader is the only thread.
    segments: &'a [SegmentFile],
    disk: DiskId,
    prefixes: Mutex<VerifiedPrefixes>,
    prefix_verified: Condvar,
}

#[derive(Debug)]
struct VerifiedPrefixes {
    /// The position in `segments` of the first segment that no thread verifies or has verified.
    next_segment: usize,
    /// The offset up to which each segment is intact; `None` until a thread has verified the segment.
    prefix_ends: Vec<Option<u64>>,
}

/// Runs `read`, which reads the segments oldest first, while other threads verify checksums ahead of it. `thread_count`
/// counts the thread of `read` too. With one thread, the reader verifies each frame itself.
///
/// The simulator uses one thread: its runs must not depend on how threads are scheduled.
pub fn verify_ahead<T>(
    files: &[SegmentFile],
    disk: DiskId,
    thread_count: NonZeroUsize,
    read: impl FnOnce(&PrefixVerifier<'_>) -> T,
) -> T {
    // A single thread would only read the bytes twice.
    let is_single_threaded = thread_count.get() == 1;
    let segments = if is_single_threaded { &[] } else { files };
    let prefix_ends = vec![None; segments.len()];
    let verifier = PrefixVerifier {
        segments,
        disk,
        prefixes: Mutex::new(VerifiedPrefixes { next_segment: 0, prefix_ends }),
        prefix_verified: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 1..thread_count.get() {
            scope.spawn(|| while verifier.verify_next() {});
        }
        // The scope waits for all threads, and a reader that has returned needs no more checksums.
        let _stop = StopOnDrop(&verifier);
        read(&verifier)
    })
}

fn salt_crc(disk: DiskId, number: u64) -> u32 {
    format::salt_crc(format::salt(disk, number))
}

/// The offset up to which the header and the body of each frame match their checksums. The chain of frames is not
/// checked.
///
/// The prefix ends after the seal at the latest: old records of a recycled file may follow.
pub fn verified_prefix_end(bytes: &Bytes, salt_crc: u32) -> u64 {
    let mut at = SEGMENT_HEADER_BYTES as u64;
    while let Ok((end, kind)) = Frame::check(bytes, salt_crc, at) {
        at = end;
        if kind == RecordKind::Seal {
            break;
        }
    }
    at
}

impl PrefixVerifier<'_> {
    /// The offset up to which the frames of the segment at a position of `segments` are intact. While another thread
    /// verifies that segment, this thread verifies later ones.
    pub fn verified_prefix_end(&self, segment_position: usize) -> u64 {
        while segment_position < self.segments.len() {
            if let Some(end) = self.lock_prefixes().prefix_ends[segment_position] {
                return end;
            }
            // No other segment is left to verify, and another thread is verifying this one. To verify it here too would
            // take longer than to wait.
            if !self.verify_next() {
                let is_unverified = |prefixes: &mut VerifiedPrefixes| prefixes.prefix_ends[segment_position].is_none();
                let prefixes = self.prefix_verified.wait_while(self.lock_prefixes(), is_unverified);
                return prefixes.unwrap_or_else(PoisonError::into_inner).prefix_ends[segment_position].unwrap_or(0);
            }
        }
        0
    }

    /// Verifies the next segment; returns `false` if none is left.
    ///
    /// The lock is not held while checksums are computed.
    fn verify_next(&self) -> bool {
        let nth = {
            let mut prefixes = self.lock_prefixes();
            prefixes.next_segment += 1;
            prefixes.next_segment - 1
        };
        let Some(file) = self.segments.get(nth) else { return false };
        // An unreadable sector is left to the reader.
        let end =
            file.readable_bytes().map_or(0, |bytes| verified_prefix_end(&bytes, salt_crc(self.disk, file.number)));
        let earlier_end = self.lock_prefixes().prefix_ends[nth].replace(end);
        assert!(earlier_end.is_none(), "each segment is verified by one thread only");
        self.prefix_verified.notify_all();
        true
    }

    /// Locks the verified prefixes. A poisoned lock is fine: no panic leaves the prefixes half changed.
    fn lock_prefixes(&self) -> MutexGuard<'_, VerifiedPrefixes> {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When dropped, keeps the threads from beginning with another segment.
///
/// A guard, because the reader may also panic, and the scope would then wait until all segments are verified.
struct StopOnDrop<'a>(&'a PrefixVerifier<'a>);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.lock_prefixes().next_segment = self.0.segments.len();
    }
}
