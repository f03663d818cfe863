//! The end of a segment's log: whether it ends there, has a torn tail, or is corrupt.
//!
//! [`classify`] decides this for recovery and for `dump`, `diff` and `check`. The first bad byte is *corrupt* if there
//! is evidence that bytes after it had been synced. Without evidence it is *torn*: it belongs to the batch that was
//! being written when the process or the machine died, which was never acknowledged. Evidence is a good frame of a
//! later batch (a batch begins only after the previous batch is synced), a later segment, or the sync marker.
//!
//! # Why the order of the tests is what it is
//!
//! The verdict errs to one side. A torn batch that is called corrupt costs an operator a morning; a lost batch that is
//! called torn costs a client an acknowledged write, perhaps for good. So any single piece of evidence makes the
//! verdict corrupt, and torn is what remains if all of them are silent.
//!
//! ```text
//!                       last good batch    at: first bad byte
//!                              │              │
//!   ───┬───────┬───────────────┼──────────────┼─────────────────────────────
//!      │ good  │ good          │ header  good │ ????        zeros, or old records
//!   ───┴───────┴───────────────┼──────────────┴─────────────────────────────
//!                             cut                  ◀── evidence is searched for here, and
//!                                                      in the next file, and in `synced`
//! ```
//!
//! Silence proves nothing after a power loss: the last batch may have been synced and then damaged. The alternative, to
//! refuse every torn tail, was rejected as the default. A power cut of a whole site leaves such a batch on many nodes
//! at once, and a cluster in which all of them refuse does not come back without an operator ([`super::TailPolicy`]).
//!
//! Three tests that other logs use are not evidence: that a sector of zeros is in the damaged place (a lost write
//! leaves that too), that the damage is in the last file, and that no commit mark follows.

use super::format::{EntryHead, Flaw, Frame, RECYCLED, RecordKind, SEGMENT_HEADER, SegmentHeader, UNKNOWN_KIND};
use super::sync_marker::LogOffset;
use crate::types::Index;

/// Where the batches of a segment stop before its file ends, and what was found after that.
///
/// Invariant: `cut <= at`. Between the two are good frames of a batch that is not whole; they go with it.
#[derive(Clone, Debug)]
pub struct Break {
    /// The offset of the first bad byte.
    pub at: u64,
    /// The end of the last good batch.
    pub cut: u64,
    /// What is wrong at `at`.
    pub flaw: Flaw,
    /// Whether all frames are intact, and contradict each other or the log before them. A crash does not leave that.
    pub intact: bool,
    /// Whether a batch header is there, which proves that a batch was being written.
    pub begun: bool,
    /// The size in bytes of that batch by its header, 0 without one.
    pub want: u64,
    /// The number of that batch, or of the batch that would follow the last good one; `None` if it is not known.
    pub number: Option<u64>,
    /// The offset of the next good frame.
    pub next: Option<u64>,
    /// The highest index of an entry after the break.
    pub later_index: Index,
    /// The highest batch number of a good frame after the break.
    pub later: Option<u32>,
    /// Segment and offset up to which the log had been synced, by the batch headers after the break.
    // Segment first: the offsets of two segments are not comparable, and a later segment includes the ones before.
    pub synced: (u64, u64),
}

/// Facts about a segment from outside of it.
///
/// Collected by the caller, so that [`classify`] is a function of plain values: a test states a situation in one line,
/// and recovery and tools cannot differ in anything else.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings {
    /// Its number.
    pub number: u64,
    /// The offset up to which it was certainly synced: from the sync marker, if that is in this segment.
    pub synced: Option<u64>,
    /// Whether a later segment is in use.
    pub followed: bool,
    /// Whether its header has the flag of a recycled file.
    pub recycled: bool,
    /// Whether all segments before it were released: it was begun long ago, so its beginning was synced.
    pub oldest: bool,
    /// Whether bytes that may have been synced are never called torn.
    pub refuses_torn: bool,
}

/// The verdict on the end of a segment's log.
///
/// The text of [`Tail::Corrupt`] goes to the operator, who is asked to replace a disk because of it and should know
/// why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// The log ends here.
    End,
    /// The log ends here, and after it are bytes of a batch that was being written.
    Torn,
    /// Synced bytes are damaged or missing: why they are known to have been synced.
    Corrupt(&'static str),
}

impl Surroundings {
    /// The facts for the segment with this header.
    ///
    /// `oldest` and `refuses_torn` stay false: they need to know more than the header, and a caller without that
    /// knowledge should not accuse a disk.
    pub fn of(header: &SegmentHeader, place: Option<LogOffset>, followed: bool) -> Surroundings {
        let around = Surroundings { number: header.number, followed, ..Surroundings::default() };
        Surroundings { recycled: header.flags & RECYCLED != 0, ..around }.with_synced(place)
    }

    /// The same facts, with the place up to which the journal was synced.
    pub fn with_synced(self, place: Option<LogOffset>) -> Surroundings {
        // A place in another segment says nothing about offsets in this one.
        let synced = place.filter(|place| place.segment == self.number).map(|place| place.offset);
        Surroundings { synced, ..self }
    }
}

impl Break {
    /// A break at `at`, where the last good batch ends too.
    ///
    /// A break about which nothing else is known yet: the reader fills in what it has seen of the batch.
    pub fn at(at: u64, flaw: Flaw, number: Option<u64>) -> Break {
        Break {
            at,
            cut: at,
            flaw,
            intact: false,
            begun: false,
            want: 0,
            number,
            next: None,
            later_index: Index::ZERO,
            later: None,
            synced: (0, 0),
        }
    }

    /// Adds a good frame at or after the break.
    ///
    /// Only frames with a good checksum for this segment and this offset come here, so none of them is left from an
    /// earlier use of the file. The numbers have 32 bits and may wrap; they are compared by their distance.
    pub fn add(&mut self, frame: &Frame) {
        // The greatest one is enough: any later batch is evidence, and a greater number is later.
        let newer = self.later.is_none_or(|later| frame.batch.wrapping_sub(later) as i32 > 0);
        if newer {
            self.later = Some(frame.batch);
        }
        // A header states what was synced before it: the most exact evidence there is, as it names the offset.
        if let Some(batch) = frame.batch_header() {
            self.synced = self.synced.max(batch.synced);
        }
        if frame.kind == RecordKind::Entry
            && let Ok(head) = EntryHead::read(&frame.body)
        {
            self.later_index = self.later_index.max(head.position.index);
        }
    }

    /// Whether nothing but zeros follows the last good batch.
    pub fn is_clean(&self) -> bool {
        self.flaw == Flaw::Blank && self.later.is_none() && !self.begun
    }

    /// Whether a good frame of a later batch follows. Without a number to compare with, any frame is one.
    ///
    /// A frame of the *same* batch proves nothing: the disk may write the sectors of one batch in any order.
    fn has_later_batch(&self) -> bool {
        let is_later = |later: u32| self.number.is_none_or(|number| later.wrapping_sub(number as u32) as i32 > 0);
        self.later.is_some_and(is_later)
    }
}

/// Decides whether the log ends at a break, has a torn tail there, or is corrupt. More frames after the break
/// ([`Break::add`]) never make a corrupt log less so.
pub fn classify(broken: &Break, around: &Surroundings) -> Tail {
    // In a recycled file, old records usually follow the end.
    // A batch header of this segment still proves that a batch was begun.
    let torn = !broken.is_clean() && (broken.begun || !around.recycled);
    // From the most certain to the least, so that the operator reads the strongest reason.
    if broken.intact || broken.flaw == UNKNOWN_KIND {
        Tail::Corrupt("its bytes are intact, so it is not torn")
    } else if broken.has_later_batch() {
        Tail::Corrupt("good records of a later batch follow it")
    } else if broken.synced.0 == around.number && broken.synced.1 > broken.cut {
        Tail::Corrupt("a later batch records that it was synced")
    } else if around.synced.is_some_and(|synced| synced > broken.cut) {
        Tail::Corrupt("the side file `synced` records a sync beyond it")
    } else if around.followed {
        Tail::Corrupt("the next segment is in use")
    } else if around.oldest && broken.cut == SEGMENT_HEADER as u64 {
        Tail::Corrupt("this segment has no predecessor, so its beginning was synced")
    } else if torn && around.refuses_torn {
        Tail::Corrupt("it may have been synced, and --on-torn-tail is refuse")
    } else if torn {
        Tail::Torn
    } else {
        Tail::End
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::format::Batch;
    use bytes::Bytes;

    /// A frame of that batch; of a batch header, one that says that segment 1 was synced up to `synced`.
    fn frame(batch: u64, synced: Option<u64>) -> Frame {
        let mut body = Vec::new();
        if let Some(offset) = synced {
            Batch { number: batch, synced: (1, offset), ..Batch::default() }.put(&mut body);
        }
        let kind = if synced.is_some() { RecordKind::Batch } else { RecordKind::Hard };
        Frame { at: 900, checksum: 0, previous: 0, batch: batch as u32, kind, body: Bytes::from(body) }
    }

    /// The verdict on a break at 500 in the first segment, where batch 7 should begin, with these frames after it.
    fn verdict(flaw: Flaw, change: impl Fn(&mut Break, &mut Surroundings), frames: &[Frame]) -> Tail {
        let mut broken = Break::at(500, flaw, Some(7));
        let mut around = Surroundings { number: 1, ..Surroundings::default() };
        change(&mut broken, &mut around);
        frames.iter().for_each(|frame| broken.add(frame));
        classify(&broken, &around)
    }

    const BAD: Flaw = Flaw::Checksum { stored: 1, computed: 2 };

    #[test]
    fn bytes_of_the_last_batch_are_torn() {
        let same = |_: &mut Break, _: &mut Surroundings| ();
        assert_eq!(verdict(Flaw::Blank, same, &[]), Tail::End);
        assert_eq!(verdict(BAD, same, &[]), Tail::Torn);
        assert_eq!(verdict(BAD, same, &[frame(7, None), frame(7, Some(500))]), Tail::Torn);
        assert_eq!(verdict(Flaw::Blank, |broken, _| broken.begun = true, &[]), Tail::Torn);
        let earlier = |_: &mut Break, around: &mut Surroundings| around.synced = Some(500);
        assert_eq!(verdict(BAD, earlier, &[]), Tail::Torn);
    }

    #[test]
    fn old_records_in_a_recycled_file_are_neither_torn_nor_corrupt() {
        let recycled = |_: &mut Break, around: &mut Surroundings| around.recycled = true;
        assert_eq!(verdict(BAD, recycled, &[]), Tail::End);
        let begun = |broken: &mut Break, around: &mut Surroundings| (broken.begun, around.recycled) = (true, true);
        assert_eq!(verdict(BAD, begun, &[]), Tail::Torn);
    }

    #[test]
    fn evidence_of_a_sync_makes_a_tail_corrupt() {
        let same = |_: &mut Break, _: &mut Surroundings| ();
        let corrupt = |tail: Tail, word: &str| matches!(tail, Tail::Corrupt(why) if why.contains(word));
        for flaw in [Flaw::Blank, BAD] {
            assert!(corrupt(verdict(flaw, same, &[frame(8, None)]), "later batch follow"));
            assert!(corrupt(verdict(flaw, same, &[frame(7, Some(501))]), "records that it was synced"));
            assert!(corrupt(verdict(flaw, |_, around| around.synced = Some(501), &[]), "side file"));
            assert!(corrupt(verdict(flaw, |_, around| around.followed = true, &[]), "next segment"));
            let unknown = |broken: &mut Break, _: &mut Surroundings| broken.number = None;
            assert!(corrupt(verdict(flaw, unknown, &[frame(1, None)]), "later batch follow"));
            let first = |broken: &mut Break, around: &mut Surroundings| {
                (broken.cut, around.oldest) = (SEGMENT_HEADER as u64, true);
            };
            assert!(corrupt(verdict(flaw, first, &[]), "no predecessor"));
            assert!(corrupt(verdict(flaw, |broken, _| broken.intact = true, &[]), "intact"));
        }
        assert!(corrupt(verdict(UNKNOWN_KIND, same, &[]), "intact"));
        assert!(corrupt(verdict(BAD, |_, around| around.refuses_torn = true, &[]), "refuse"));
        assert_eq!(verdict(Flaw::Blank, |_, around| around.refuses_torn = true, &[]), Tail::End);
    }

    #[test]
    fn batch_numbers_are_compared_by_their_low_bits() {
        let wrapped = |broken: &mut Break, _: &mut Surroundings| broken.number = Some(u64::from(u32::MAX));
        assert!(matches!(verdict(BAD, wrapped, &[frame(1 << 32, None)]), Tail::Corrupt(_)));
        assert_eq!(verdict(BAD, wrapped, &[frame(u64::from(u32::MAX), None)]), Tail::Torn);
    }
}
