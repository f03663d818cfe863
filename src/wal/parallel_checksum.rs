//! Checksums of segments, computed ahead of who reads them, on other cores.
//!
//! What a log says can only be found out from front to back; whether its bytes are those that were
//! written can be found out anywhere. So whoever recovers a log reads it as it always does, alone and
//! in order, and is only spared the checksums of what was found whole meanwhile. Where something is
//! not whole nothing is said of it: it is for the reader to meet it, and to judge.

use super::format::{self, Frame, RecordKind, SEGMENT_HEADER};
use super::load::Read;
use crate::types::DiskId;
use bytes::Bytes;
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How far each segment is whole, as far as that is known yet.
pub struct Ahead<'a> {
    /// All segments; none if nothing is computed ahead.
    segments: &'a [Read],
    disk: DiskId,
    found: Mutex<VerifiedPrefix>,
    news: Condvar,
}

#[derive(Debug)]
struct VerifiedPrefix {
    /// The first segment that nobody has begun with.
    next: usize,
    /// How far each is whole.
    whole: Vec<Option<u64>>,
}

/// Reads segments, oldest first, while their checksums are computed by so many threads in all; by one
/// alone, nothing is computed ahead, and all that is read is checked as it is met.
pub fn ahead<T>(files: &[Read], disk: DiskId, threads: NonZeroUsize, read: impl FnOnce(&Ahead<'_>) -> T) -> T {
    let alone = threads.get() == 1;
    let segments = if alone { &[] } else { files };
    let whole = vec![None; segments.len()];
    let ahead = Ahead { segments, disk, found: Mutex::new(VerifiedPrefix { next: 0, whole }), news: Condvar::new() };
    std::thread::scope(|scope| {
        for _ in 1..threads.get() {
            scope.spawn(|| while ahead.check_one() {});
        }
        // Whoever is done with reading, or has met damage, needs no more: and the scope waits for all.
        let _stops = Stops(&ahead);
        read(&ahead)
    })
}

fn salted(disk: DiskId, number: u64) -> u32 {
    format::salted(format::salt(disk, number))
}

/// How far the frames of a segment are whole, one behind the other: header and body match their
/// checksums. Not whether they are what should stand there.
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
    /// How far the frames of the nth segment are whole. As long as another is at it, the next are looked
    /// at meanwhile.
    pub fn whole(&self, nth: usize) -> u64 {
        while nth < self.segments.len() {
            if let Some(whole) = self.found().whole[nth] {
                return whole;
            }
            if !self.check_one() {
                let waits = |found: &mut VerifiedPrefix| found.whole[nth].is_none();
                let found = self.news.wait_while(self.found(), waits);
                return found.unwrap_or_else(PoisonError::into_inner).whole[nth].unwrap_or(0);
            }
        }
        0
    }

    /// Looks at the next segment; false if none is left.
    fn check_one(&self) -> bool {
        let nth = {
            let mut found = self.found();
            found.next += 1;
            found.next - 1
        };
        let Some(file) = self.segments.get(nth) else { return false };
        // What cannot be read is for the reader to meet.
        let whole = file.readable().map_or(0, |bytes| whole(&bytes, salted(self.disk, file.number)));
        self.found().whole[nth] = Some(whole);
        self.news.notify_all();
        true
    }

    /// No panic happens while this is locked.
    fn found(&self) -> MutexGuard<'_, VerifiedPrefix> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody begins with another segment once this is gone.
struct Stops<'a>(&'a Ahead<'a>);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.found().next = self.0.segments.len();
    }
}
