//! The end of a segment's log: whether it ends there, has a torn tail, or is corrupt.
//!
//! [`classify`] decides this for recovery and for `dump`, `diff` and `check`. The first bad byte is *corrupt* if there
//! is evidence that bytes after it had been synced. Without evidence it is *torn*: it belongs to the batch that was
//! being written when the process or the machine died, which was never acknowledged. Evidence is a good frame of a
//! later batch (a batch begins only after the previous batch is synced), a later segment, or the sync marker.
//!
//! # Why a single piece of evidence suffices
//!
//! The two possible errors are not equally bad. A torn batch that is classified as corrupt costs an operator a morning;
//! a lost batch that is classified as torn costs a client an acknowledged write, perhaps for good. So any single piece
//! of evidence makes the verdict corrupt, and the verdict is torn only if there is none.
//!
//! ```text
//!                       last good batch    at: first bad byte
//!                              │              │
//!   ───┬───────┬───────────────┼──────────────┼─────────────────────────────
//!      │ good  │ good          │ header  good │ ????        zeros, or old records
//!   ───┴───────┴───────────────┼──────────────┴─────────────────────────────
//!                             cut                  ◀── evidence is searched for here, and
//!                                                      in the next file, and in the sync marker
//! ```
//!
//! Missing evidence proves nothing after a power loss: the last batch may have been synced and then damaged. The
//! alternative, to refuse every torn tail, was rejected as the default. A power cut of a whole site leaves such a batch
//! on many nodes at once, and a cluster in which all of them refuse does not come back without an operator
//! ([`super::TailPolicy`]).
//!
//! Three facts that other logs take for evidence of a torn write are no evidence: that the damaged bytes contain a
//! sector of zeros (a lost write leaves such a sector too), that the damage is in the last file, and that no commit
//! record follows.

use super::format::{
    EntryMetadata, Flaw, Frame, RECYCLED_FLAG, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader, UNKNOWN_KIND_FLAW,
};
use super::sync_marker::LogOffset;
use crate::types::Index;

/// The offset where the good batches of a segment end before the file ends, and the facts about the bytes after that
/// offset.
///
/// Invariant: `cut_offset <= first_bad_offset`. The good frames between the two offsets belong to a broken batch, and
/// are cut off with that batch.
#[derive(Clone, Debug)]
pub struct LogBreak {
    /// The offset of the first bad byte.
    pub first_bad_offset: u64,
    /// The end of the last good batch, where recovery cuts the log.
    pub cut_offset: u64,
    /// What is wrong at offset `at`.
    pub flaw: Flaw,
    /// Whether all frames are intact, but contradict each other or the log before them. A crash does not leave such
    /// frames.
    pub frames_intact: bool,
    /// Whether a good batch header is at `cut_offset`, which proves that a batch was being written.
    pub has_batch_header: bool,
    /// The size in bytes of the broken batch by its header; 0 without a header.
    pub batch_bytes: u64,
    /// The number of the broken batch, or of the batch that would follow the last good one; `None` if unknown.
    pub batch_number: Option<u64>,
    /// The offset of the next good frame, if there is one.
    pub next_good_offset: Option<u64>,
    /// The highest index of an entry after the break; 0 if there is none.
    pub highest_later_index: Index,
    /// The low 32 bits of the highest batch number of a good frame after the break.
    pub highest_later_batch: Option<u32>,
    /// Segment and offset up to which the log had been synced, by the batch headers after the break.
    // Segment first: the offsets of two segments are not comparable, and a sync in a later segment includes all earlier
    // ones.
    pub synced_end: (u64, u64),
}

/// Facts about a segment that the segment's own bytes do not show.
///
/// The caller collects them, so that [`classify`] is a function of plain values: a test states a situation in one line,
/// and the verdicts of recovery and of the tools can differ in nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct SegmentContext {
    /// The segment's number, as in the name of its file.
    pub segment_number: u64,
    /// The offset up to which the segment was synced at least; `None` if the sync marker names another segment.
    pub synced_offset: Option<u64>,
    /// Whether a later segment holds a record, or may hold one in an unreadable sector.
    pub successor_in_use: bool,
    /// Whether the segment's header has the flag of a recycled file.
    pub is_recycled: bool,
    /// Whether all segments before this one were released. Then this segment was begun long ago, so its beginning was
    /// synced.
    pub predecessors_released: bool,
    /// Whether a torn tail counts as corrupt too, because its bytes may have been synced (`--on-torn-tail refuse`).
    pub refuses_torn_tail: bool,
}

/// The reason of [`TailVerdict::Corrupt`] if only the options forbid to cut a torn tail.
pub const REFUSED_TORN_TAIL: &str = "it may have been synced, and --on-torn-tail is refuse";

/// The verdict on the end of a segment's log.
///
/// The text of [`TailVerdict::Corrupt`] is shown to the operator, who has to replace a disk because of it and should
/// know the reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TailVerdict {
    /// The log ends at the break, and nothing shows that a batch was being written there.
    End,
    /// The log ends at the break, and the bytes after the break are of a batch that was being written.
    Torn,
    /// Synced bytes are damaged or missing. The text says why they must have been synced.
    Corrupt(&'static str),
}

impl SegmentContext {
    /// The facts for the segment with this header.
    ///
    /// `predecessors_released` and `refuses_torn_tail` stay false. Both depend on more than the header, and a caller
    /// that does not know more must not call a disk damaged.
    pub fn for_segment(header: &SegmentHeader, marker: Option<LogOffset>, successor_in_use: bool) -> SegmentContext {
        let context = SegmentContext { segment_number: header.number, successor_in_use, ..SegmentContext::default() };
        SegmentContext { is_recycled: header.flags & RECYCLED_FLAG != 0, ..context }.with_sync_marker(marker)
    }

    /// The facts of `self`, and the offset in the sync marker if the marker names this segment.
    pub fn with_sync_marker(self, marker: Option<LogOffset>) -> SegmentContext {
        // An offset in another segment says nothing about offsets in this one.
        let synced_offset = marker.filter(|marker| marker.segment == self.segment_number).map(|marker| marker.offset);
        SegmentContext { synced_offset, ..self }
    }
}

impl LogBreak {
    /// A break at `at`, the end of the last good batch.
    ///
    /// The reader then fills in the other fields, as far as it has read the batch.
    pub fn new(at: u64, flaw: Flaw, batch_number: Option<u64>) -> LogBreak {
        LogBreak {
            first_bad_offset: at,
            cut_offset: at,
            flaw,
            frames_intact: false,
            has_batch_header: false,
            batch_bytes: 0,
            batch_number,
            next_good_offset: None,
            highest_later_index: Index::ZERO,
            highest_later_batch: None,
            synced_end: (0, 0),
        }
    }

    /// Adds a good frame at or after the break.
    ///
    /// The frame's checksum is valid for this segment and this offset, so the frame is not left from an earlier use of
    /// the file. Batch numbers have 32 bits here and may wrap around, so they are compared by their distance.
    pub fn add_frame(&mut self, frame: &Frame) {
        // The greatest number suffices: any later batch is evidence, and a later batch has a greater number.
        let is_newer =
            self.highest_later_batch.is_none_or(|later| frame.batch_number_low.wrapping_sub(later) as i32 > 0);
        if is_newer {
            self.highest_later_batch = Some(frame.batch_number_low);
        }
        // A batch header is the most exact evidence: it names the offset up to which the log was synced before it.
        if let Some(header) = frame.batch_header() {
            self.synced_end = self.synced_end.max(header.synced_end);
        }
        if frame.kind == RecordKind::Entry
            && let Ok(metadata) = EntryMetadata::decode(&frame.body)
        {
            self.highest_later_index = self.highest_later_index.max(metadata.position.index);
        }
    }

    /// Whether nothing but zeros follows the last good batch.
    pub fn is_clean(&self) -> bool {
        self.flaw == Flaw::Blank && self.highest_later_batch.is_none() && !self.has_batch_header
    }

    /// Whether a good frame of a later batch follows. If the number of the broken batch is unknown, any frame counts.
    ///
    /// A frame of the *same* batch proves nothing: the disk may write the sectors of one batch in any order.
    fn has_later_batch(&self) -> bool {
        let is_later = |later: u32| self.batch_number.is_none_or(|number| later.wrapping_sub(number as u32) as i32 > 0);
        self.highest_later_batch.is_some_and(is_later)
    }
}

/// Decides whether the log ends at a break, has a torn tail there, or is corrupt. Further frames after the break
/// ([`LogBreak::add_frame`]) never change the verdict from corrupt to torn.
pub fn classify(log_break: &LogBreak, context: &SegmentContext) -> TailVerdict {
    // In a recycled file, old records usually follow the end of the log. Only a batch header of this segment proves
    // that a batch was begun there.
    let is_torn = !log_break.is_clean() && (log_break.has_batch_header || !context.is_recycled);
    // If several reasons apply, the operator reads the most certain one.
    if log_break.frames_intact || log_break.flaw == UNKNOWN_KIND_FLAW {
        TailVerdict::Corrupt("its bytes are intact, so it is not torn")
    } else if log_break.has_later_batch() {
        TailVerdict::Corrupt("good records of a later batch follow it")
    } else if log_break.synced_end.0 == context.segment_number && log_break.synced_end.1 > log_break.cut_offset {
        TailVerdict::Corrupt("a later batch records that it was synced")
    } else if context.synced_offset.is_some_and(|synced| synced > log_break.cut_offset) {
        TailVerdict::Corrupt("the side file `synced` records a sync beyond it")
    } else if context.successor_in_use {
        TailVerdict::Corrupt("the next segment is in use")
    } else if context.predecessors_released && log_break.cut_offset == SEGMENT_HEADER_BYTES as u64 {
        TailVerdict::Corrupt("this segment has no predecessor, so its beginning was synced")
    } else if is_torn && context.refuses_torn_tail {
        TailVerdict::Corrupt(REFUSED_TORN_TAIL)
    } else if is_torn {
        TailVerdict::Torn
    } else {
        TailVerdict::End
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::format::BatchHeader;
    use bytes::Bytes;

    /// A frame of batch `batch`. With `synced`, the frame is a batch header: segment 1 was synced up to that offset.
    fn frame(batch: u64, synced: Option<u64>) -> Frame {
        let mut body = Vec::new();
        if let Some(offset) = synced {
            BatchHeader { number: batch, synced_end: (1, offset), ..BatchHeader::default() }.encode(&mut body);
        }
        let kind = if synced.is_some() { RecordKind::Batch } else { RecordKind::HardState };
        Frame {
            offset: 900,
            checksum: 0,
            previous_checksum: 0,
            batch_number_low: batch as u32,
            kind,
            body: Bytes::from(body),
        }
    }

    /// The verdict on a break at offset 500 of segment 1, where batch 7 should begin, with `frames` after the break.
    fn verdict(flaw: Flaw, change: impl Fn(&mut LogBreak, &mut SegmentContext), frames: &[Frame]) -> TailVerdict {
        let mut log_break = LogBreak::new(500, flaw, Some(7));
        let mut context = SegmentContext { segment_number: 1, ..SegmentContext::default() };
        change(&mut log_break, &mut context);
        frames.iter().for_each(|frame| log_break.add_frame(frame));
        classify(&log_break, &context)
    }

    const BAD_CHECKSUM: Flaw = Flaw::Checksum { stored: 1, computed: 2 };

    #[test]
    fn last_batch_without_evidence_of_sync_is_torn() {
        let no_change = |_: &mut LogBreak, _: &mut SegmentContext| ();
        assert_eq!(verdict(Flaw::Blank, no_change, &[]), TailVerdict::End);
        assert_eq!(verdict(BAD_CHECKSUM, no_change, &[]), TailVerdict::Torn);
        assert_eq!(verdict(BAD_CHECKSUM, no_change, &[frame(7, None), frame(7, Some(500))]), TailVerdict::Torn);
        assert_eq!(verdict(Flaw::Blank, |log_break, _| log_break.has_batch_header = true, &[]), TailVerdict::Torn);
        let marker_at_break = |_: &mut LogBreak, context: &mut SegmentContext| context.synced_offset = Some(500);
        assert_eq!(verdict(BAD_CHECKSUM, marker_at_break, &[]), TailVerdict::Torn);
    }

    #[test]
    fn old_records_in_a_recycled_file_are_neither_torn_nor_corrupt() {
        let in_recycled_file = |_: &mut LogBreak, context: &mut SegmentContext| context.is_recycled = true;
        assert_eq!(verdict(BAD_CHECKSUM, in_recycled_file, &[]), TailVerdict::End);
        let batch_header_in_recycled_file = |log_break: &mut LogBreak, context: &mut SegmentContext| {
            (log_break.has_batch_header, context.is_recycled) = (true, true)
        };
        assert_eq!(verdict(BAD_CHECKSUM, batch_header_in_recycled_file, &[]), TailVerdict::Torn);
    }

    #[test]
    fn evidence_of_a_sync_makes_a_tail_corrupt() {
        let no_change = |_: &mut LogBreak, _: &mut SegmentContext| ();
        let is_corrupt_because =
            |tail: TailVerdict, word: &str| matches!(tail, TailVerdict::Corrupt(why) if why.contains(word));
        for flaw in [Flaw::Blank, BAD_CHECKSUM] {
            assert!(is_corrupt_because(verdict(flaw, no_change, &[frame(8, None)]), "later batch follow"));
            assert!(is_corrupt_because(verdict(flaw, no_change, &[frame(7, Some(501))]), "records that it was synced"));
            assert!(is_corrupt_because(
                verdict(flaw, |_, context| context.synced_offset = Some(501), &[]),
                "side file"
            ));
            assert!(is_corrupt_because(
                verdict(flaw, |_, context| context.successor_in_use = true, &[]),
                "next segment"
            ));
            let unknown_batch_number = |log_break: &mut LogBreak, _: &mut SegmentContext| log_break.batch_number = None;
            assert!(is_corrupt_because(verdict(flaw, unknown_batch_number, &[frame(1, None)]), "later batch follow"));
            let no_predecessor = |log_break: &mut LogBreak, context: &mut SegmentContext| {
                (log_break.cut_offset, context.predecessors_released) = (SEGMENT_HEADER_BYTES as u64, true);
            };
            assert!(is_corrupt_because(verdict(flaw, no_predecessor, &[]), "no predecessor"));
            assert!(is_corrupt_because(verdict(flaw, |log_break, _| log_break.frames_intact = true, &[]), "intact"));
        }
        assert!(is_corrupt_because(verdict(UNKNOWN_KIND_FLAW, no_change, &[]), "intact"));
        assert!(is_corrupt_because(
            verdict(BAD_CHECKSUM, |_, context| context.refuses_torn_tail = true, &[]),
            "refuse"
        ));
        assert_eq!(verdict(Flaw::Blank, |_, context| context.refuses_torn_tail = true, &[]), TailVerdict::End);
    }

    #[test]
    fn batch_numbers_are_compared_modulo_2_to_the_32() {
        let highest_batch_number =
            |log_break: &mut LogBreak, _: &mut SegmentContext| log_break.batch_number = Some(u64::from(u32::MAX));
        assert!(matches!(
            verdict(BAD_CHECKSUM, highest_batch_number, &[frame(1 << 32, None)]),
            TailVerdict::Corrupt(_)
        ));
        assert_eq!(verdict(BAD_CHECKSUM, highest_batch_number, &[frame(u64::from(u32::MAX), None)]), TailVerdict::Torn);
    }
}
