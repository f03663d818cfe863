//! Reads a segment batch by batch, each as a whole or not at all, up to the first that is not good.
//!
//! Recovery and the inspection of stored logs read through [`BatchReader`], so that both accept the same batches.
//!
//! The layers: [`super::scan`] finds frames and knows nothing of batches; this reader makes batches of them and
//! compares them with the log so far; [`super::tail`] judges the place where it stops. Five places once decided on
//! their own what is good (recovery, and four tools). An operator who is told by `check` that a log is good must not
//! see the node refuse it.
//!
//! A batch is compared with its surroundings in five ways, each against a failure that the others do not see:
//!
//! | check | failure that it finds |
//! |---|---|
//! | checksums of frames | flipped bits, torn sectors, writes to another place or file |
//! | chain of frames | a frame in the middle that was never written |
//! | count and size in the header | frames lost at the end of a batch |
//! | batch number | a whole batch that was never written |
//! | records against the log | a program that wrote what it should not have |

use super::format::{Batch, Flaw, Frame, RecordKind};
use super::log_summary::{Effect, LogSummary};
use super::scan::{Scan, ScanItem};
use super::tail::Break;
use bytes::Bytes;

/// The state in which one segment leaves the journal for the next.
///
/// `None` means unknown and is compared with nothing. The oldest segment that is left may begin anywhere in the log's
/// history, and behind damage nothing is known either.
#[derive(Clone, Debug, Default)]
pub struct Continuation {
    /// The number of the next batch; `None` if it is not known.
    pub batch: Option<u64>,
    /// The checksum of the last frame; `None` if it is not known.
    pub chain: Option<u32>,
    /// The log so far; `None` before the first opening record.
    pub log: Option<LogSummary>,
}

impl Continuation {
    /// The state before the first segment.
    ///
    /// A log that begins at its first segment is checked from its first frame: batch 1, and a chain that begins with 0.
    pub fn start() -> Continuation {
        Continuation { batch: Some(1), chain: Some(0), log: None }
    }

    /// The state before the oldest segment left: nothing is known, unless it is the first of all.
    pub fn before(segment: u64) -> Continuation {
        if segment == 1 { Continuation::start() } else { Continuation::default() }
    }
}

/// The reader of one segment.
///
/// Invariant: a batch is applied to the log only after all of its frames were found good. A batch whose end is missing
/// leaves no trace, except that a record may contradict the log in the middle of a batch; then the reader has broken
/// off for good.
#[derive(Debug)]
pub struct BatchReader {
    scan: Scan,
    state: Continuation,
    /// Whether a batch before the next one was lost: then its number and its contents are not compared with the log.
    lost: bool,
}

/// A good batch.
#[derive(Debug)]
pub struct GoodBatch {
    /// Its header.
    pub batch: Batch,
    /// Its frames, the header's first.
    pub frames: Vec<Frame>,
}

/// The frames before a break that belong to the broken batch, and the break.
///
/// Boxed by the reader: a good batch is the usual result, and should not be as large as the rare one.
#[derive(Debug)]
pub struct BrokenBatch {
    /// The good frames.
    pub frames: Vec<Frame>,
    /// Where they stop, and why.
    pub broken: Break,
}

impl BatchReader {
    /// Begins at the first frame of a segment with that salt. The frames before offset `whole` are known to be intact.
    pub fn new(bytes: Bytes, salt: u64, state: Continuation, whole: u64) -> BatchReader {
        let scan = Scan::new(bytes, salt, state.chain).known_to(whole);
        BatchReader { scan, state, lost: false }
    }

    /// The current offset, at the end of the last batch or frame.
    pub fn at(&self) -> u64 {
        self.scan.at()
    }

    /// The state after the last good batch.
    pub fn state(self) -> Continuation {
        self.state
    }

    /// Reads the next batch and applies its frames to the log; calls `applied` for each. At the end of the file, or
    /// before anything that is not a good batch, it returns a break, to which only the frames of this batch have been
    /// added.
    ///
    /// A piece that announces more keeps the number for the next piece. The cut is always where this batch began: the
    /// good frames of a broken batch are never kept, because its header promised all of them together.
    pub fn read_batch(&mut self, mut applied: impl FnMut(&Frame, Effect)) -> Result<GoodBatch, Box<BrokenBatch>> {
        // Taken before anything is read: a batch that is not whole is cut at its header, good frames and all.
        let cut = self.scan.at();
        let mut frames = Vec::new();
        let read = self.read(&mut frames).and_then(|batch| match self.apply(&frames, &mut applied) {
            Ok(()) => Ok(batch),
            Err(what) => Err(self.wrong(cut, what)),
        });
        match read {
            Ok(batch) => {
                // Wrapping, as the number comes from the disk.
                self.state.batch = Some(if batch.more { batch.number } else { batch.number.wrapping_add(1) });
                self.state.chain = self.scan.link();
                assert!(self.scan.at() > cut, "a batch is never empty, so a reader comes to an end");
                Ok(GoodBatch { batch, frames })
            }
            Err(broken) => {
                let mut broken = Break { cut, ..broken };
                if let Some(batch) = frames.first().and_then(Frame::batch_header) {
                    // The expected number is what later frames are compared with. Behind a lost batch nothing is
                    // expected, and the header is believed.
                    let number = self.state.batch.filter(|_| !self.lost).or(Some(batch.number));
                    // A good header proves that this batch was being written here, even if none of its frames survived.
                    // In a recycled file that tells a torn batch from old records.
                    broken = Break { begun: true, want: batch.bytes, number, ..broken };
                }
                frames.iter().for_each(|frame| broken.add(frame));
                assert!(broken.cut <= broken.at, "a log is cut at the end of its last good batch, before the bad byte");
                Err(Box::new(BrokenBatch { frames, broken }))
            }
        }
    }

    /// The frames after a break, without leaving it.
    ///
    /// A copy of the scan reads them, so that a tool can look for evidence first and then continue where it was.
    pub fn rest(&self) -> impl Iterator<Item = Frame> + use<> {
        self.scan.clone().filter_map(|item| match item {
            ScanItem::Frame(frame) => Some(frame),
            ScanItem::Gap { .. } => None,
        })
    }

    /// After a break: the next good frame of a batch whose header was lost. `None` before a header, from which on
    /// batches are read again, and at another break.
    ///
    /// Only tools go on behind damage. From here on numbers and records are no longer compared with the log: part of it
    /// was lost, so a difference would prove nothing.
    pub fn orphan(&mut self) -> Option<Frame> {
        (self.lost, self.state.log) = (true, None);
        self.state.chain = self.scan.link();
        match self.scan.clone().next() {
            Some(ScanItem::Frame(frame)) if frame.kind != RecordKind::Batch => {
                self.scan.next();
                self.state.chain = self.scan.link();
                Some(frame)
            }
            _ => None,
        }
    }

    /// Reads the frames of the batch that begins here.
    fn read(&mut self, frames: &mut Vec<Frame>) -> Result<Batch, Break> {
        let start = self.scan.at();
        let batch = match self.scan.next() {
            None => return Err(Break::at(start, Flaw::Blank, self.state.batch)),
            Some(ScanItem::Gap { at, flaw, next }) => {
                return Err(Break { next, ..Break::at(at, flaw, self.state.batch) });
            }
            Some(ScanItem::Frame(frame)) => {
                let batch = match frame.kind {
                    RecordKind::Batch => Batch::read(&frame.body).map_err(|malformed| malformed.0),
                    _ => Err("a record outside a batch"),
                };
                frames.push(frame);
                batch.map_err(|what| self.wrong(start, what))?
            }
        };
        // A batch that was never written, between two that were: only the number tells. The chain does too, unless the
        // lost batch was empty.
        if self.state.batch.is_some_and(|expected| !self.lost && expected != batch.number) {
            return Err(self.wrong(start, "a batch whose number does not follow the one before it"));
        }
        // The size comes from the disk. Its header's checksum is right, but a sum that overflows must not panic.
        let end = start.saturating_add(batch.bytes);
        while self.scan.at() < end {
            let at = self.scan.at();
            match self.scan.next() {
                Some(ScanItem::Frame(frame)) => {
                    let within = frame.kind != RecordKind::Batch;
                    frames.push(frame);
                    if !within {
                        return Err(self.wrong(at, "a batch that begins within another"));
                    }
                }
                Some(ScanItem::Gap { at, flaw, next }) => {
                    return Err(Break { next, ..Break::at(at, flaw, self.state.batch) });
                }
                // The file ends within the batch: it was cut, as a file system does that lost its size in a crash.
                None => {
                    let flaw = Flaw::Short { want: batch.bytes, have: at - start };
                    return Err(Break::at(at, flaw, self.state.batch));
                }
            }
        }
        // Intact frames that do not add up. A crash does not leave that, as it tears frames; a program wrote it, or a
        // write of an older batch was lost under a newer one.
        let whole = self.scan.at() == end
            && frames.len() as u64 == u64::from(batch.frames) + 1
            && (batch.frames == 0 || frames.last().is_some_and(|frame| frame.checksum == batch.tail));
        if whole { Ok(batch) } else { Err(self.wrong(start, "a batch that does not match its header")) }
    }

    /// A break at `at`, where a frame is intact and wrong.
    ///
    /// Such a break is never torn: all checksums are right, so these are not the remains of a write that was
    /// interrupted.
    fn wrong(&self, at: u64, what: &'static str) -> Break {
        Break { intact: true, begun: true, ..Break::at(at, Flaw::Wrong(what), self.state.batch) }
    }

    /// Applies the frames of a batch to the log.
    fn apply(&mut self, frames: &[Frame], applied: &mut impl FnMut(&Frame, Effect)) -> Result<(), &'static str> {
        // The first frame is the header, which says nothing about the log.
        for frame in frames.iter().skip(1).filter(|_| !self.lost) {
            let effect = LogSummary::apply(&mut self.state.log, frame)?;
            applied(frame, effect);
        }
        Ok(())
    }
}
