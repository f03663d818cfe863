//! Inspects a segment, record by record, with the same verdicts as recovery and without opening the journal.
//!
//! Recovery stops at the first damage, because a node must not run on such a log. An operator needs the opposite: every
//! record that can still be read, and the damage before it. So the inspection continues after damage, and reports the
//! bytes that recovery would reject. The inspection opens no file for writing and takes no lock, so that it works
//! beside a running node and on a copy.

use super::batches::{BatchReader, BrokenBatch, ReaderState};
use super::format::{Flaw, Frame, RecordKind};
use super::tail::{LogBreak, SegmentContext, TailVerdict, classify};
use bytes::Bytes;
use std::collections::VecDeque;

/// A record, damage, or a torn batch in a segment.
///
/// A torn batch ends an inspection, and damage does not: no record after a torn batch was ever acknowledged, while
/// records after damage may have been.
#[derive(Clone, Debug)]
pub enum Finding {
    /// A good record.
    Record(Frame),
    /// Damage to bytes that had been synced, or a contradiction: the records that were returned just before this
    /// finding are intact, but contradict each other or earlier records.
    Damage {
        /// The offset of the first damaged byte.
        at: u64,
        /// The number of damaged bytes, up to the next good record or to the end of the file.
        bytes: u64,
        /// What is wrong at offset `at`.
        flaw: Flaw,
        /// The offset of the next good record, if there is one.
        next_good_offset: Option<u64>,
    },
    /// A batch that was being written when the node stopped: normal after a crash. It ends the log.
    TornBatch {
        /// The offset of the first bad byte.
        at: u64,
        /// The offset of the batch, where recovery cuts the log.
        cut_offset: u64,
        /// The number of good bytes from `cut_offset` on.
        good_bytes: u64,
        /// The size of the batch by its header; 0 if unknown.
        batch_bytes: u64,
        /// What is wrong at offset `at`.
        flaw: Flaw,
    },
}

/// An iterator over the findings in a segment, which distinguishes a torn batch from damage as recovery does, and
/// continues after damage.
///
/// The findings pass through a queue, because one batch yields many of them. A break is returned after the good frames
/// of its batch, although its verdict depends on the frames after it.
pub struct Inspection {
    reader: BatchReader,
    context: SegmentContext,
    file_size: u64,
    /// Findings that were not yet returned.
    pending_findings: VecDeque<Finding>,
    /// Whether the reader has passed damage, after which the next record may belong to a batch without a header.
    is_after_damage: bool,
    is_sealed: bool,
    has_ended: bool,
}

impl Inspection {
    /// An inspection that begins at the first frame. `before` is the reader's state after the segments before this one.
    ///
    /// No frame is known to be intact, so each checksum is computed.
    pub fn new(bytes: Bytes, salt: u64, context: SegmentContext, before: ReaderState) -> Inspection {
        let file_size = bytes.len() as u64;
        let reader = BatchReader::new(bytes, salt, before, 0);
        Inspection {
            reader,
            context,
            file_size,
            pending_findings: VecDeque::new(),
            is_after_damage: false,
            is_sealed: false,
            has_ended: false,
        }
    }

    /// Whether the segment's seal record was returned.
    ///
    /// A segment without a seal must be the last one in use, which the caller checks.
    pub fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    /// The offset up to which the segment was read: the end of the last batch, or of the last frame without a batch.
    pub fn offset(&self) -> u64 {
        self.reader.offset()
    }

    /// The reader's state at the end of the segment, with which the inspection of the next segment begins.
    ///
    /// After damage the log's state is unknown, and the records of the next segment are compared with nothing.
    pub fn into_reader_state(self) -> ReaderState {
        self.reader.into_state()
    }

    /// Queues the findings of the next batch or break.
    ///
    /// After damage, a frame without a batch header is still a record with a good checksum. It may be the only copy of
    /// an entry that an operator is looking for.
    fn queue_next_findings(&mut self) {
        if self.is_after_damage
            && let Some(frame) = self.reader.read_orphan_frame()
        {
            self.pending_findings.push_back(Finding::Record(frame));
            return;
        }
        match self.reader.read_batch(|_, _| {}) {
            Ok(good) => self.pending_findings.extend(good.frames.into_iter().map(Finding::Record)),
            Err(broken) => self.classify_break(*broken),
        }
    }

    /// Classifies a break, and queues it after the good frames of its batch.
    ///
    /// The frames after the break are read one by one. Further frames never change the verdict from corrupt to torn, so
    /// the search ends at the first frame that is sufficient evidence. If the batch is torn, the search reads to the
    /// end of the file.
    fn classify_break(&mut self, BrokenBatch { frames, mut log_break }: BrokenBatch) {
        let mut later_frames = self.reader.remaining_frames();
        let verdict = loop {
            let verdict = classify(&log_break, &self.context);
            match (verdict, later_frames.next()) {
                (TailVerdict::End | TailVerdict::Torn, Some(frame)) => log_break.add_frame(&frame),
                _ => break verdict,
            }
        };
        let LogBreak { first_bad_offset: at, cut_offset, flaw, batch_bytes, frames_intact, next_good_offset, .. } =
            log_break;
        // The reader has already passed intact frames that contradict the log, and is at the next frame.
        let next_good_offset = if frames_intact {
            Some(self.reader.offset()).filter(|next| *next < self.file_size)
        } else {
            next_good_offset
        };
        self.pending_findings.extend(frames.into_iter().map(Finding::Record));
        match verdict {
            TailVerdict::Corrupt(_) => {
                let bytes = next_good_offset.unwrap_or(self.file_size).saturating_sub(at);
                self.pending_findings.push_back(Finding::Damage { at, bytes, flaw, next_good_offset });
                self.is_after_damage = true;
            }
            TailVerdict::Torn => {
                let good_bytes = at - cut_offset;
                self.pending_findings.push_back(Finding::TornBatch { at, cut_offset, good_bytes, batch_bytes, flaw });
            }
            TailVerdict::End => {}
        }
        // The inspection ends where recovery ends the log. After damage, it continues to the last good frame.
        self.has_ended = !matches!(verdict, TailVerdict::Corrupt(_)) || next_good_offset.is_none();
    }
}

impl Iterator for Inspection {
    type Item = Finding;

    fn next(&mut self) -> Option<Finding> {
        while self.pending_findings.is_empty() && !self.has_ended && !self.is_sealed {
            self.queue_next_findings();
        }
        let finding = self.pending_findings.pop_front();
        if let Some(Finding::Record(frame)) = &finding {
            // Set here and not when the seal is queued: the records before the seal are still in the queue then.
            self.is_sealed |= frame.kind == RecordKind::Seal;
        }
        finding
    }
}
