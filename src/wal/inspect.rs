//! Inspects a segment, record by record, with recovery's judgement and without opening the journal.
//!
//! Recovery stops at the first damage, because a node must not run on such a log. An operator needs the opposite:
//! everything that can still be read, and behind which damage it lies. So this iterator goes on, and marks what
//! recovery would not accept. It opens no file for writing and takes no lock, so that it works beside a running node
//! and on a copy.

use super::batches::{BatchReader, BrokenBatch, Continuation};
use super::format::{Flaw, Frame, RecordKind};
use super::tail::{Break, Surroundings, Tail, classify};
use bytes::Bytes;
use std::collections::VecDeque;

/// A record or a flaw in a segment, classified.
///
/// A torn batch ends an inspection and a bad one does not: behind a torn batch nothing was ever promised, while behind
/// damage there are records that were.
#[derive(Clone, Debug)]
pub enum Finding {
    /// A good record.
    Record(Frame),
    /// Damage to bytes that had been synced; or records, found just before, that are intact and contradict each other
    /// or those before them.
    Bad {
        /// The offset.
        at: u64,
        /// The length, up to the next good record or to the end.
        bytes: u64,
        /// What is wrong.
        flaw: Flaw,
        /// The offset of the next good record.
        next: Option<u64>,
    },
    /// A batch that was being written: normal after a crash. Nothing after it counts.
    Torn {
        /// The offset of the first bad byte.
        at: u64,
        /// The offset of the batch, where recovery cuts.
        cut: u64,
        /// How many good bytes the batch has.
        have: u64,
        /// How many bytes the batch should have; 0 if unknown.
        want: u64,
        /// What is wrong.
        flaw: Flaw,
    },
}

/// An iterator over a segment that distinguishes a torn batch from damage as recovery does, and goes on after damage.
///
/// A queue stands between reader and caller, because one batch yields many findings and a break comes after the good
/// frames of its batch, although its verdict needs the frames behind it.
pub struct Inspection {
    reader: BatchReader,
    around: Surroundings,
    size: u64,
    /// What was found and not yet returned.
    found: VecDeque<Finding>,
    /// Whether the reader is behind damage, where the next record may belong to a batch without a header.
    damaged: bool,
    sealed: bool,
    ended: bool,
}

impl Inspection {
    /// Begins at the first frame. `before` is what the segments before this one showed.
    ///
    /// Nothing is known to be intact yet, so each checksum is computed: a tool that trusts what it inspects finds
    /// nothing.
    pub fn new(bytes: Bytes, salt: u64, around: Surroundings, before: Continuation) -> Inspection {
        let size = bytes.len() as u64;
        let reader = BatchReader::new(bytes, salt, before, 0);
        Inspection { reader, around, size, found: VecDeque::new(), damaged: false, sealed: false, ended: false }
    }

    /// Whether a seal was read.
    ///
    /// Without a seal, the next segment should not be in use: the caller compares that with what is there.
    pub fn sealed(&self) -> bool {
        self.sealed
    }

    /// The current offset.
    pub fn at(&self) -> u64 {
        self.reader.at()
    }

    /// What this segment and those before it show of the next one.
    ///
    /// After damage it is unknown what the next segment should begin with, and nothing is compared there.
    pub fn continuation(self) -> Continuation {
        self.reader.state()
    }

    /// Reads the next batch, or what is in its place.
    ///
    /// Behind damage, a frame without a batch header is still a record with a good checksum. It may be the only copy of
    /// an entry that an operator is looking for.
    fn read_next(&mut self) {
        if self.damaged
            && let Some(frame) = self.reader.orphan()
        {
            self.found.push_back(Finding::Record(frame));
            return;
        }
        match self.reader.read_batch(|_, _| {}) {
            Ok(good) => self.found.extend(good.frames.into_iter().map(Finding::Record)),
            Err(broken) => self.judge(*broken),
        }
    }

    /// Classifies a break, after the good frames of its batch.
    ///
    /// Evidence is taken in one frame at a time. More frames never make a corrupt log less so, thus the first that
    /// suffices ends the search; for a log that is torn it goes on to the end of the file.
    fn judge(&mut self, BrokenBatch { frames, mut broken }: BrokenBatch) {
        let mut rest = self.reader.rest();
        let verdict = loop {
            // One frame may be evidence enough: then the rest need not be read.
            let verdict = classify(&broken, &self.around);
            match (verdict, rest.next()) {
                (Tail::End | Tail::Torn, Some(frame)) => broken.add(&frame),
                _ => break verdict,
            }
        };
        let Break { at, cut, flaw, want, intact, .. } = broken;
        // After intact frames that contradict the log, the reader is already behind them.
        let next = if intact { Some(self.reader.at()).filter(|next| *next < self.size) } else { broken.next };
        self.found.extend(frames.into_iter().map(Finding::Record));
        match verdict {
            Tail::Corrupt(_) => {
                let bytes = next.unwrap_or(self.size).saturating_sub(at);
                self.found.push_back(Finding::Bad { at, bytes, flaw, next });
                self.damaged = true;
            }
            Tail::Torn => self.found.push_back(Finding::Torn { at, cut, have: at - cut, want, flaw }),
            Tail::End => {}
        }
        // An end is believed only where recovery believes it; behind damage it reads on to the last good frame.
        self.ended = !matches!(verdict, Tail::Corrupt(_)) || next.is_none();
    }
}

impl Iterator for Inspection {
    type Item = Finding;

    fn next(&mut self) -> Option<Finding> {
        while self.found.is_empty() && !self.ended && !self.sealed {
            self.read_next();
        }
        let finding = self.found.pop_front();
        if let Some(Finding::Record(frame)) = &finding {
            // Only when the seal is returned: the records before it in the queue come first.
            self.sealed |= frame.kind == RecordKind::Seal;
        }
        finding
    }
}
