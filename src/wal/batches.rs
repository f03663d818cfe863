//! Reads a segment batch by batch, up to the first damaged or incomplete batch. A batch is accepted as a whole or not
//! at all.
//!
//! Recovery and the inspection of stored logs read through [`BatchReader`], so that both accept the same batches.
//!
//! There are three layers. [`super::scan`] finds frames and knows nothing of batches. This reader makes batches of the
//! frames and compares them with the log so far. [`super::tail`] classifies the offset where the reader stops. Recovery
//! and four tools once had a reader each, and a node could reject a log that `drave check` had called good.
//!
//! A batch passes five checks, each against a failure that the other checks do not find:
//!
//! | check | failure that it finds |
//! |---|---|
//! | checksums of frames | flipped bits, torn sectors, writes to a wrong offset or file |
//! | chain of frames | a frame in the middle that was never written |
//! | count and size in the header | frames lost at the end of a batch |
//! | batch number | a whole batch that was never written |
//! | records against the log | an invalid record that a faulty program wrote |

use super::format::{BatchHeader, Flaw, Frame, RecordKind};
use super::log_summary::{LogSummary, RecordEffect};
use super::scan::{Scan, ScanItem};
use super::tail::LogBreak;
use bytes::Bytes;

/// The state of a [`BatchReader`] at the end of one segment, with which the reader of the next segment begins.
///
/// A field that is `None` is unknown and compared with nothing. All fields are unknown before the oldest existing
/// segment, which may begin anywhere in the log's history, and after damage.
#[derive(Clone, Debug, Default)]
pub struct ReaderState {
    /// The number that the next batch must have.
    pub next_batch_number: Option<u64>,
    /// The checksum of the last frame, which the next frame repeats.
    pub last_checksum: Option<u32>,
    /// The summary of the log so far. Also `None` before the first opening record.
    pub log: Option<LogSummary>,
}

impl ReaderState {
    /// The state before the first segment.
    ///
    /// The number of the first batch of a log is 1, and the checksum before its first frame is 0.
    pub fn before_first_segment() -> ReaderState {
        ReaderState { next_batch_number: Some(1), last_checksum: Some(0), log: None }
    }

    /// The state before the oldest existing segment, whose number is `segment`: unknown, unless that is segment 1.
    pub fn before_segment(segment: u64) -> ReaderState {
        if segment == 1 { ReaderState::before_first_segment() } else { ReaderState::default() }
    }
}

/// The reader of one segment.
///
/// Invariant: a batch is applied to the log only after all of its frames were found good. A batch whose end is missing
/// changes nothing. There is one exception: the records before a record that contradicts the log have been applied.
#[derive(Debug)]
pub struct BatchReader {
    scan: Scan,
    state: ReaderState,
    /// Whether a batch before the next one was lost: then the number and the records of the next batch are not compared
    /// with the log.
    previous_batch_lost: bool,
}

/// A batch that passed the five checks of this module.
#[derive(Debug)]
pub struct GoodBatch {
    /// The decoded body of the first frame.
    pub header: BatchHeader,
    /// The frames of the batch; the first one is that of the header.
    pub frames: Vec<Frame>,
}

/// The place where the good batches of a segment end, and the good frames of the batch that is broken there.
///
/// The reader boxes this value, so that the usual result, a good batch, is not as large as this rare one.
#[derive(Debug)]
pub struct BrokenBatch {
    /// The frames of the batch before the break.
    pub frames: Vec<Frame>,
    /// The offset where the good frames end, and the reason.
    pub log_break: LogBreak,
}

impl BatchReader {
    /// A reader at the first frame of a segment with that salt. The frames before offset `intact_end` are known to be
    /// intact, and their checksums are not computed again.
    pub fn new(bytes: Bytes, salt: u64, state: ReaderState, intact_end: u64) -> BatchReader {
        let scan = Scan::new(bytes, salt, state.last_checksum).skip_checksums_before(intact_end);
        BatchReader { scan, state, previous_batch_lost: false }
    }

    /// The current offset: the end of the last batch, or of the last frame of [`BatchReader::read_orphan_frame`].
    pub fn offset(&self) -> u64 {
        self.scan.offset()
    }

    /// The state of the reader after the last good batch.
    pub fn into_state(self) -> ReaderState {
        self.state
    }

    /// Reads the next batch and applies its frames to the log; calls `on_applied` for each frame. At the end of the
    /// file, or if no good batch follows, returns a break. The frames after the break are not read here.
    ///
    /// A large batch is written in several pieces with the same batch number. The log is always cut where the batch
    /// began: the good frames of a broken batch are dropped too, because a batch is valid only as a whole.
    pub fn read_batch(
        &mut self,
        mut on_applied: impl FnMut(&Frame, RecordEffect),
    ) -> Result<GoodBatch, Box<BrokenBatch>> {
        // The offset of the batch header, where the log is cut if the batch is broken.
        let cut_offset = self.scan.offset();
        let mut frames = Vec::new();
        let outcome =
            self.read_frames(&mut frames).and_then(|header| match self.apply_frames(&frames, &mut on_applied) {
                Ok(()) => Ok(header),
                Err(description) => Err(self.break_at_invalid_frame(cut_offset, description)),
            });
        match outcome {
            Ok(header) => {
                // The addition wraps, because the number comes from the disk and may be the largest one.
                let next_batch_number =
                    if header.has_more_pieces { header.number } else { header.number.wrapping_add(1) };
                self.state.next_batch_number = Some(next_batch_number);
                self.state.last_checksum = self.scan.last_checksum();
                assert!(
                    self.scan.offset() > cut_offset,
                    "each batch that is read moves the offset forward, so that reading a segment ends"
                );
                Ok(GoodBatch { header, frames })
            }
            Err(log_break) => {
                let mut log_break = LogBreak { cut_offset, ..log_break };
                if let Some(header) = frames.first().and_then(Frame::batch_header) {
                    // Frames after the break are compared with the expected batch number. After a lost batch no number
                    // is expected, and that of the header is used.
                    let batch_number =
                        self.state.next_batch_number.filter(|_| !self.previous_batch_lost).or(Some(header.number));
                    // A good header proves that this batch was being written here, even if none of its frames survived.
                    // In a recycled file the header distinguishes a torn batch from old records.
                    log_break =
                        LogBreak { has_batch_header: true, batch_bytes: header.bytes, batch_number, ..log_break };
                }
                frames.iter().for_each(|frame| log_break.add_frame(frame));
                assert!(
                    log_break.cut_offset <= log_break.first_bad_offset,
                    "the offset where a log is cut is at or before the first bad byte"
                );
                Err(Box::new(BrokenBatch { frames, log_break }))
            }
        }
    }

    /// The good frames after a break. The reader itself does not move.
    ///
    /// A copy of the scan reads them, so that a tool can search for evidence first and then continue at the break.
    pub fn remaining_frames(&self) -> impl Iterator<Item = Frame> + use<> {
        self.scan.clone().filter_map(|item| match item {
            ScanItem::Frame(frame) => Some(frame),
            ScanItem::Gap { .. } => None,
        })
    }

    /// After a break: reads the next good frame of a batch whose header was lost. Returns `None` at the next batch
    /// header, where the next batch can be read, and at another break.
    ///
    /// Only tools read on after damage. From then on batch numbers and records are no longer compared with the log: a
    /// part of the log was lost, so a difference would prove nothing.
    pub fn read_orphan_frame(&mut self) -> Option<Frame> {
        (self.previous_batch_lost, self.state.log) = (true, None);
        self.state.last_checksum = self.scan.last_checksum();
        match self.scan.clone().next() {
            Some(ScanItem::Frame(frame)) if frame.kind != RecordKind::Batch => {
                self.scan.next();
                self.state.last_checksum = self.scan.last_checksum();
                Some(frame)
            }
            _ => None,
        }
    }

    /// Reads the frames of the batch at the current offset into `frames`. Returns the batch header.
    fn read_frames(&mut self, frames: &mut Vec<Frame>) -> Result<BatchHeader, LogBreak> {
        let batch_start = self.scan.offset();
        let header = match self.scan.next() {
            None => return Err(LogBreak::new(batch_start, Flaw::Blank, self.state.next_batch_number)),
            Some(ScanItem::Gap { at, flaw, next_good_offset }) => {
                return Err(LogBreak { next_good_offset, ..LogBreak::new(at, flaw, self.state.next_batch_number) });
            }
            Some(ScanItem::Frame(frame)) => {
                let header = match frame.kind {
                    RecordKind::Batch => BatchHeader::decode(&frame.body).map_err(|malformed| malformed.0),
                    _ => Err("a record outside a batch"),
                };
                frames.push(frame);
                header.map_err(|description| self.break_at_invalid_frame(batch_start, description))?
            }
        };
        // Only the batch number reveals a lost batch between two others. The chain of checksums reveals one too, unless
        // the lost batch was empty.
        if self.state.next_batch_number.is_some_and(|expected| !self.previous_batch_lost && expected != header.number) {
            return Err(
                self.break_at_invalid_frame(batch_start, "a batch whose number does not follow the one before it")
            );
        }
        // The size comes from the disk. The header's checksum is right, but a sum that overflows must not panic.
        let end = batch_start.saturating_add(header.bytes);
        while self.scan.offset() < end {
            let at = self.scan.offset();
            match self.scan.next() {
                Some(ScanItem::Frame(frame)) => {
                    let is_batch_header = frame.kind == RecordKind::Batch;
                    frames.push(frame);
                    if is_batch_header {
                        return Err(self.break_at_invalid_frame(at, "a batch that begins within another"));
                    }
                }
                Some(ScanItem::Gap { at, flaw, next_good_offset }) => {
                    return Err(LogBreak { next_good_offset, ..LogBreak::new(at, flaw, self.state.next_batch_number) });
                }
                // The file ends within the batch: a file system may lose the size of a file in a crash.
                None => {
                    let flaw = Flaw::Truncated { expected: header.bytes, available: at - batch_start };
                    return Err(LogBreak::new(at, flaw, self.state.next_batch_number));
                }
            }
        }
        // Intact frames may still not match their header. A crash cannot leave such frames. Either a faulty program
        // wrote the batch, or the disk has lost a part of a write that replaced an older batch.
        let matches_header = self.scan.offset() == end
            && frames.len() as u64 == u64::from(header.frame_count) + 1
            && (header.frame_count == 0 || frames.last().is_some_and(|frame| frame.checksum == header.last_checksum));
        if matches_header {
            Ok(header)
        } else {
            Err(self.break_at_invalid_frame(batch_start, "a batch that does not match its header"))
        }
    }

    /// A break at `at`, where a frame is intact but invalid; `description` says why.
    ///
    /// Such a break is never torn: all checksums are right, so the frames are not the remains of an interrupted write.
    fn break_at_invalid_frame(&self, at: u64, description: &'static str) -> LogBreak {
        LogBreak {
            frames_intact: true,
            has_batch_header: true,
            ..LogBreak::new(at, Flaw::Invalid(description), self.state.next_batch_number)
        }
    }

    /// Applies the frames of a batch to the summary of the log, and passes each frame to `on_applied`.
    fn apply_frames(
        &mut self,
        frames: &[Frame],
        on_applied: &mut impl FnMut(&Frame, RecordEffect),
    ) -> Result<(), &'static str> {
        // The first frame is the batch header, which says nothing about the log.
        for frame in frames.iter().skip(1).filter(|_| !self.previous_batch_lost) {
            let effect = LogSummary::apply(&mut self.state.log, frame)?;
            on_applied(frame, effect);
        }
        Ok(())
    }
}
