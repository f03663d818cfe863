//! Computes the checksums of segments on other cores, ahead of the reader.
//!
//! The content of a log can only be interpreted from front to back, but whether its bytes are intact can be checked in
//! any order. So recovery reads the log in one thread and in order as always, and only skips the checksums of frames
//! that were found intact meanwhile. Damage is not reported here: the reader meets it and classifies it.
//!
//! Why not read the log in parallel: a record means something only after all records before it, since an entry may
//! replace earlier ones and a restart drops them all. Checksums are most of the work of reading and need no order.
//!
//! The two sides do not depend on one another for correctness. A prefix that is found too short, or not at all, costs
//! time only: the reader checks the rest itself. So a helper that meets anything odd just stops and says how far it
//! came.

use super::format::{self, Frame, RecordKind, SEGMENT_HEADER};
use super::load::Read;
use crate::types::DiskId;
use bytes::Bytes;
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The verified prefix of each segment, as far as it is known yet.
///
/// Segments are handed out in order and one at a time, since the reader needs the oldest first.
pub struct Ahead<'a> {
    /// All segments; empty if nothing is computed ahead.
    segments: &'a [Read],
    disk: DiskId,
    found: Mutex<VerifiedPrefix>,
    news: Condvar,
}

#[derive(Debug)]
struct VerifiedPrefix {
    /// The first segment that no thread has begun with.
    next: usize,
    /// The offset up to which each segment is intact.
    whole: Vec<Option<u64>>,
}

/// Runs `read`, which reads the segments oldest first, while `threads` threads in all compute their checksums. With one
/// thread nothing is computed ahead, and the reader checks each frame itself.
///
/// One thread is also what the simulator uses: its runs must not depend on how threads are scheduled.
pub fn ahead<T>(files: &[Read], disk: DiskId, threads: NonZeroUsize, read: impl FnOnce(&Ahead<'_>) -> T) -> T {
    // Then the helpers' first pass over the bytes would only be a second one for the reader.
    let alone = threads.get() == 1;
    let segments = if alone { &[] } else { files };
    let whole = vec![None; segments.len()];
    let ahead = Ahead { segments, disk, found: Mutex::new(VerifiedPrefix { next: 0, whole }), news: Condvar::new() };
    std::thread::scope(|scope| {
        for _ in 1..threads.get() {
            scope.spawn(|| while ahead.check_one() {});
        }
        // A reader that is done or has met damage needs no more checksums, and the scope waits for all threads.
        let _stops = Stops(&ahead);
        read(&ahead)
    })
}

fn salted(disk: DiskId, number: u64) -> u32 {
    format::salted(format::salt(disk, number))
}

/// The offset up to which a segment's frames are intact, one after the other: header and body match their checksums.
/// Whether they are the right frames is not checked.
///
/// It stops at the seal: behind it may be old records of a recycled file, whose checksums would be wrong or of no use.
pub fn whole(bytes: &Bytes, salted: u32) -> u64 {
    let mut at = SEGMENT_HEADER as u64;
    while let Ok((end, kind)) = Frame::check(bytes, salted, at) {
        at = end;
        if kind == RecordKind::Seal {
            break;
        }
    }
    at
}

impl Ahead<'_> {
    /// The offset up to which the frames of the nth segment are intact. While another thread checks it, this one checks
    /// the next segments.
    pub fn whole(&self, nth: usize) -> u64 {
        while nth < self.segments.len() {
            if let Some(whole) = self.found().whole[nth] {
                return whole;
            }
            // All segments are taken, and this one is being checked by another thread. Its result is worth waiting for:
            // to compute it again would take as long.
            if !self.check_one() {
                let waits = |found: &mut VerifiedPrefix| found.whole[nth].is_none();
                let found = self.news.wait_while(self.found(), waits);
                return found.unwrap_or_else(PoisonError::into_inner).whole[nth].unwrap_or(0);
            }
        }
        0
    }

    /// Checks the next segment; returns `false` if none is left.
    ///
    /// The lock is held only to take a number and to store a result, never while checksums are computed.
    fn check_one(&self) -> bool {
        let nth = {
            let mut found = self.found();
            found.next += 1;
            found.next - 1
        };
        let Some(file) = self.segments.get(nth) else { return false };
        // An unreadable place is left for the reader to meet.
        let whole = file.readable().map_or(0, |bytes| whole(&bytes, salted(self.disk, file.number)));
        let earlier = self.found().whole[nth].replace(whole);
        assert!(earlier.is_none(), "each segment is checked by one thread");
        self.news.notify_all();
        true
    }

    /// Locks the results. No panic happens while they are locked.
    fn found(&self) -> MutexGuard<'_, VerifiedPrefix> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the threads from beginning with another segment once it is dropped.
///
/// A guard and not a call at the end: the reader may also leave by a panic, and the scope would wait for all segments.
struct Stops<'a>(&'a Ahead<'a>);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.found().next = self.0.segments.len();
    }
}
