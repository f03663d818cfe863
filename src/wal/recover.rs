//! Recovery: from files to state.
//!
//! Nothing is changed on the disk before all segments are read and validated. [`super::tail`] tells a torn tail, which
//! is cut off, from lost data, which is a fault.
//!
//! # What recovery may conclude
//!
//! A start finds bytes, and must decide which of them the node had promised. Two mistakes are possible, and they differ
//! in weight. *Too much* is harmless: entries that were never acknowledged are like those of a follower that a leader's
//! append reached just before the crash. *Too little* is loss: a node that drops an acknowledged entry and then votes
//! may elect a leader without it (§5.4.1), and the cluster forgets a committed write.
//!
//! So recovery keeps everything that is good, and drops only bytes for which it can argue that they were never
//! promised: the last batch, if nothing behind it or beside it shows that its sync had returned. Everything else that
//! is bad stops the start. Simpler rules are in use and were rejected, because each of them drops synced data in some
//! case: to cut at the first zero sector, to cut in the last file only, or to cut behind the last commit mark.
//!
//! # The walk
//!
//! ```text
//!   replay
//!     └─ all            oldest segment first; the first one without a seal is the last of the log
//!         └─ segment    header: is it ours?   batches: up to the seal or a break   end_of_log: the verdict
//!             └─ batches ─▶ BatchReader ─▶ LogSummary::apply ─▶ applied: summaries and marks
//!   heads               is the log complete from its base on?
//!   view                mapped segments, and the last one's entries in memory
//! ```
//!
//! Everything here reads bytes that anything may have written. So no assert depends on their contents: a contradiction
//! is a fault with a file, an offset and advice.

use super::batches::{BatchReader, Continuation};
use super::format::{EntryHead, Frame, RecordKind, SEGMENT_HEADER, SegmentHeader, file_name};
use super::load::{self, Read};
use super::log_summary::{Effect, LogSummary};
use super::options::{Options, ReadMode, TailPolicy};
use super::parallel_checksum::{Ahead, ahead};
use super::report::{ADVICE, Fault, Result, Sealed};
use super::scan::{Scan, ScanItem, last_written};
use super::segment::SparseIndex;
use super::sync_marker::{LogOffset, SyncMarker};
use super::tail::{Break, Surroundings, Tail, classify};
use super::view::View;
use crate::codec::{self, Reader};
use crate::disk::Meter;
use crate::types::{ClusterTime, HardState, Index, Membership, Mutant, SnapshotPoint, Term};
use bytes::Bytes;

/// The term and size of an entry, for consensus.
///
/// Consensus compares terms and counts bytes in flight, and needs nothing else of an entry. Payloads stay in the mapped
/// files, so that a start does not need memory for the whole log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntrySummary {
    /// Its term.
    pub term: Term,
    /// Its size in bytes, as `codec` encodes it.
    pub bytes: u32,
}

/// The contents of a journal when it was opened.
///
/// Everything in it is durable: [`super::open`] has synced what may have been in the page cache only. A node that
/// acknowledged its recovered log without that sync could lose it in the next power loss.
#[derive(Debug)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// Where the log begins.
    pub base: SnapshotPoint,
    /// A summary of each entry, from the first after the base on.
    pub heads: Vec<EntrySummary>,
    /// The latest time of any entry.
    pub last_time: ClusterTime,
    /// The configurations after the base, by the index of their entry.
    pub configurations: Vec<(Index, Membership)>,
    /// The readable log.
    pub view: View,
    /// Notes for the operator: which bytes were cut off, and why.
    pub notes: Vec<String>,
}

/// A segment that was read and validated.
pub struct ValidatedSegment {
    /// Its header.
    pub header: SegmentHeader,
    /// Its bytes.
    pub bytes: Bytes,
    /// Where its last good batch ends.
    // Bytes after it belong to no batch: zeros, a torn batch, or the old records of a recycled file.
    pub end: u64,
    /// All bytes before this are known to be on the disk; those after it may be only in the page cache.
    // A lower bound: from the sync marker, or from a batch header that states the sync of an earlier batch.
    pub synced: u64,
    /// The offsets of its entries.
    pub marks: SparseIndex,
    /// The entries that belong to the log: first and last index; the last is below the first if there are none.
    pub live: (Index, Index),
}

/// The state that results from reading all files.
///
/// The state between files. A segment is read with the summary, the batch number and the checksum that the one before
/// it ended with, so that a segment of another log is noticed although each of its frames is intact.
pub struct Replay<'a> {
    /// The log after the last good batch; `None` until an opening record was read.
    pub outline: Option<LogSummary>,
    /// The segments, oldest first; the last one will be appended to.
    pub segments: Vec<ValidatedSegment>,
    /// The number of the next batch.
    pub batch: u64,
    /// The checksum of the last frame.
    pub chain: Option<u32>,
    /// Files that do not belong to the log: made and never used, or released and still there.
    pub unused: Vec<String>,
    /// Notes for the operator.
    pub notes: Vec<String>,
    // The index of the first entry in `heads`. The oldest segment usually begins before the base, since segments are
    // released as a whole, and its opening names the last entry before it.
    first_known: Index,
    heads: Vec<EntrySummary>,
    meter: &'a Meter,
}

/// Reads all segments, oldest first.
///
/// A sync marker in a later segment than the last one proves that a file is gone. The marker outlives the removal of
/// files by an operator who wanted to save room, which no check of the remaining files would notice.
pub fn replay<'a>(
    mut files: Vec<Read>,
    options: &Options,
    sync_marker: &SyncMarker,
    reading: ReadMode<'a>,
) -> Result<Replay<'a>> {
    // If a number is missing, the segments before it were released, and a power loss undid the removal of some of them
    // and not of others. If they were not released, `Replay::heads` finds that the log begins too late.
    // The numbers are sorted, so every gap is a missing file.
    let follows = |pair: &[Read]| pair[1].number == pair[0].number + 1;
    let begin = files.windows(2).rposition(|pair| !follows(pair)).map_or(0, |gap| gap + 1);
    let left: Vec<String> = files.drain(..begin).map(|file| file_name(file.number)).collect();
    let mut replay = Replay {
        outline: None,
        segments: Vec::new(),
        batch: 1,
        chain: None,
        unused: left,
        notes: Vec::new(),
        first_known: Index::ZERO,
        heads: Vec::new(),
        meter: reading.meter,
    };
    // Known before the first byte is read, so that an operator sees from the start how long it takes.
    reading.meter.expect(files.iter().map(Read::size).sum());
    ahead(&files, options.disk, reading.threads, |ahead| replay.all(&files, options, sync_marker, ahead))?;
    if let (Some(place), Some(last)) = (sync_marker.place, replay.segments.last())
        && place.segment > last.header.number
        && !options.mutants.breaks(Mutant::CutDamage)
    {
        return Err(missing(place.segment, "a segment that was synced is missing"));
    }
    Ok(replay)
}

impl Replay<'_> {
    /// Reads one segment after the other, up to the first that is not sealed.
    ///
    /// A segment without a seal ends the log. What lies behind it was made and never used: if one of the later files
    /// held a good frame, [`Surroundings::followed`] would have made the missing seal a fault.
    fn all(&mut self, files: &[Read], options: &Options, testimony: &SyncMarker, ahead: &Ahead<'_>) -> Result<()> {
        for (nth, file) in files.iter().enumerate() {
            let behind = &files[nth + 1..];
            let whole = ahead.whole(nth);
            // No seal, so the log ends here. What is behind was judged as evidence while this segment was read, and
            // holds no record. It is listed, and removed by the caller after everything is accepted.
            if !self.segment(file, options, behind, testimony, whole)? {
                self.unused.extend(behind.iter().map(|file| file_name(file.number)));
                break;
            }
            // The seal is written only after its successor's name is durable, so no crash leaves a seal at the end.
            if behind.is_empty() {
                let what = "the segment is missing, although the one before it is sealed";
                return Err(missing(file.number + 1, what));
            }
        }
        Ok(())
    }

    /// Reads one segment, whose frames before offset `whole` are known to be intact. Returns whether it is sealed.
    fn segment(
        &mut self,
        file: &Read,
        options: &Options,
        behind: &[Read],
        testimony: &SyncMarker,
        whole: u64,
    ) -> Result<bool> {
        let (number, bytes) = (file.number, file.readable()?);
        // A header that cannot be read is a bad disk and not a foreign file: the advice to the operator differs.
        if bytes.len() < SEGMENT_HEADER
            && let Some(fault) = self.unreadable(file, behind)?
        {
            return Err(fault);
        }
        let header = self.header(number, &bytes, options)?;
        let oldest = self.segments.is_empty();
        // The oldest segment has nothing before it to be compared with, unless it is the first one ever made.
        let before = match oldest {
            true => Continuation::before(number),
            false => Continuation { batch: Some(self.batch), chain: self.chain, log: self.outline.take() },
        };
        let mut reader = BatchReader::new(bytes.clone(), header.salt(), before, whole);
        let place = testimony.place.filter(|place| place.segment == number);
        let mut segment = ValidatedSegment {
            header,
            bytes,
            end: BEGIN,
            synced: place.map_or(BEGIN, |place| place.offset),
            marks: SparseIndex::default(),
            live: (Index(1), Index::ZERO),
        };
        // A break is no verdict yet: it only says where good batches stop, and what follows.
        let broken = self.batches(&mut segment, &mut reader);
        let after = reader.state();
        // The reader took the summary over and returns it, to avoid a copy of all configurations for each segment.
        (self.chain, self.outline) = (after.chain, after.log);
        self.batch = after.batch.unwrap_or(self.batch);
        let is_sealed = broken.is_none();
        if let Some(broken) = broken {
            if let Some(fault) = self.unreadable(file, behind)? {
                return Err(fault);
            }
            let around = Surroundings {
                oldest: oldest && number != 1,
                // A marker of this boot was kept by the page cache: what it does not cover was never acknowledged. The
                // strict policy has nothing to be strict about then.
                refuses_torn: options.torn_tail == TailPolicy::Refuse && !testimony.is_of_this_boot(),
                ..Surroundings::of(&header, testimony.place, behind.iter().any(|file| file.is_used(options.disk)))
            };
            self.end_of_log(&segment, &broken, &around, options, testimony.place)?;
            // Later code slices the bytes up to the end of the log, and must not find fewer.
            segment.bytes = padded(segment.bytes, segment.end);
        }
        segment.live = segment.marks.entries().unwrap_or(segment.live);
        assert!(
            self.segments.last().is_none_or(|before| before.header.number + 1 == number),
            "segments are read oldest first, and none is skipped"
        );
        self.segments.push(segment);
        Ok(is_sealed)
    }

    /// The fault of a segment that the disk cannot read to its end. An unreadable place is never taken for the end of
    /// the log: a record may be there, and a segment that has a successor holds more records.
    ///
    /// The lost entries are named as exactly as the next segment's opening allows, because they decide what the
    /// operator does: a follower of which one entry is lost can be replaced, a majority that lost it cannot.
    fn unreadable(&self, file: &Read, behind: &[Read]) -> Result<Option<Fault>> {
        let Some(place) = file.unreadable()? else { return Ok(None) };
        let next = self.outline.as_ref().map_or(Index(1), |outline| outline.last.index.next());
        let inherited = behind.first().and_then(Read::inherits);
        let lost = match inherited.filter(|last| *last >= next) {
            Some(last) => format!("{next} to {last}"),
            None => format!("{next} and later"),
        };
        Ok(Some(load::unreadable(&file_name(file.number), place, lost)))
    }

    /// Another version or owner is no damage: the file is fine and this process must leave it alone. The error says so,
    /// and has another exit code, so that a script does not replace a disk because of a wrong option.
    fn header(&mut self, number: u64, bytes: &Bytes, options: &Options) -> Result<SegmentHeader> {
        let header = match SegmentHeader::decode(bytes) {
            Ok(header) => header,
            Err(malformed) if malformed.0.starts_with("a version") => {
                return Err(Fault::Foreign(format!("{}: {}. Nothing was changed.", file_name(number), malformed.0)));
            }
            Err(malformed) => return Err(self.corrupt(number, 0, malformed.0.to_owned(), Index::ZERO)),
        };
        let ours = (options.node, options.cluster, options.disk);
        // The disk id is compared too: a segment copied from another directory of the same node is well-formed, and
        // holds the promises of a different past.
        if (header.node, header.cluster, header.disk) != ours {
            return Err(Fault::Foreign(format!(
                "{} belongs to node {} of cluster {}, disk {}; this is node {} of cluster {}, disk {}. Nothing was \
                 changed.",
                file_name(number),
                header.node.get(),
                header.cluster,
                header.disk,
                options.node.get(),
                options.cluster,
                options.disk
            )));
        }
        if header.number != number {
            // A misdirected write, to the wrong file, leaves this too.
            let what = format!("its header names segment {}: the file was renamed or overwritten", header.number);
            return Err(self.corrupt(number, 0, what, Index::ZERO));
        }
        Ok(header)
    }

    /// Applies batch after batch, up to the seal or a break.
    ///
    /// After a break it reads on, to the end of the file. The frames behind are not kept: they are evidence of what was
    /// synced, and the more of them are seen, the harder it is to call a lost batch torn.
    fn batches(&mut self, segment: &mut ValidatedSegment, reader: &mut BatchReader) -> Option<Break> {
        loop {
            let applied = |frame: &Frame, effect| self.applied(frame, effect, &mut segment.marks);
            match reader.read_batch(applied) {
                Ok(good) => {
                    self.meter.advance(good.batch.bytes);
                    segment.end = reader.at();
                    // A statement about an earlier segment adds nothing: a sealed segment was synced before this one
                    // was written.
                    if good.batch.synced.0 == segment.header.number {
                        segment.synced = segment.synced.max(good.batch.synced.1);
                    }
                    // What is behind the seal is of no account: a recycled file has old records there, and a spare has
                    // zeros.
                    if good.frames.last().is_some_and(|frame| frame.kind == RecordKind::Seal) {
                        return None;
                    }
                }
                Err(broken) => {
                    let mut broken = broken.broken;
                    reader.rest().for_each(|frame| broken.add(&frame));
                    return Some(broken);
                }
            }
        }
    }

    /// Decides whether the log ends at a break. If it has a torn tail there, that is noted; if it is corrupt, it is a
    /// fault.
    ///
    /// The text names the first bad byte and the next good record. With these two an operator finds the place in `drave
    /// dump`, and can tell a flipped bit from a lost block.
    fn end_of_log(
        &mut self,
        segment: &ValidatedSegment,
        broken: &Break,
        around: &Surroundings,
        options: &Options,
        place: Option<LogOffset>,
    ) -> Result<()> {
        match classify(broken, around) {
            Tail::Corrupt(evidence) if !options.mutants.breaks(Mutant::CutDamage) => {
                let next = broken.next.map_or(String::new(), |next| format!(" · next good record at {next}"));
                let what = match broken.is_clean() {
                    true => "the log ends here".to_owned(),
                    false => format!("{}{next}", broken.flaw),
                };
                // The marker's position is named only if it is part of the evidence; otherwise it is before the damage.
                let synced = place.filter(|_| around.synced.is_some_and(|synced| synced > broken.cut));
                let seen = synced.map_or(broken.later_index, |place| broken.later_index.max(place.last.index));
                Err(self.corrupt(around.number, broken.at, format!("{what}; {evidence}"), seen))
            }
            // Corrupt comes here only with the mutant that cuts damage as if it were torn.
            Tail::Torn | Tail::Corrupt(_) if !broken.is_clean() => {
                self.notes.push(torn(around.number, broken, place, &segment.bytes));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Records what a frame changed in the log.
    ///
    /// The same three acts as in the running journal: a restart drops all, an entry drops what it replaces, and older
    /// segments lose the indexes that it takes. A difference between the two would show after a restart only.
    fn applied(&mut self, frame: &Frame, effect: Effect, marks: &mut SparseIndex) {
        match effect {
            Effect::Summary => {}
            Effect::Began(last) => self.first_known = last.index.next(),
            Effect::Restarted(base) => {
                self.heads.clear();
                self.first_known = base.index.next();
                self.replaced(Index::ZERO);
                marks.clear();
            }
            Effect::Appended(EntryHead { position, .. }) => {
                let index = position.index;
                // A truncation to before the oldest entry that is left: the ones in between were released, and are
                // replaced.
                if index < self.first_known {
                    self.heads.clear();
                    self.first_known = index;
                }
                self.heads.truncate((index.0 - self.first_known.0) as usize);
                self.heads.push(EntrySummary { term: position.term, bytes: frame.body.len() as u32 });
                self.replaced(index);
                marks.entry(index, frame.at);
            }
        }
    }

    /// Records that older segments hold no live entry from `index` on.
    fn replaced(&mut self, index: Index) {
        // From the newest back, and only as far as something changes: a log of a thousand segments is truncated in its
        // last few, and a walk over all of them for each entry would make a start quadratic.
        for segment in self.segments.iter_mut().rev() {
            // A segment without live entries is no reason to stop: an older one may still have some.
            if segment.live.1 < index && segment.live.0 <= segment.live.1 {
                break;
            }
            segment.live.1 = segment.live.1.min(index.prev());
        }
    }

    /// The summaries of all entries after the base. A missing entry is a fault.
    ///
    /// This is the last check of completeness. A release is recorded durably before the first file goes, so a log whose
    /// base is before its first entry has lost a file that was not released.
    pub fn heads(&mut self) -> Result<Vec<EntrySummary>> {
        let Some(outline) = &self.outline else { return Ok(Vec::new()) };
        // The base is from the newest record, and may be far beyond where the oldest segment begins.
        let base = outline.base.position;
        if base.index.next() < self.first_known {
            let first = self.segments.first().map_or(0, |segment| segment.header.number);
            return Err(Fault::Corrupt {
                file: file_name(first.saturating_sub(1)),
                offset: 0,
                what: "a segment that was not released is missing".to_owned(),
                lost: format!("{} to {}", base.index.next(), self.first_known.prev()),
                advice: ADVICE,
            });
        }
        debug_assert!(
            self.first_known.0.wrapping_add(self.heads.len() as u64) == outline.last.index.0.wrapping_add(1),
            "the summary and the summaries of its entries end at the same index"
        );
        // Entries up to the base are in the oldest segment still, and in a snapshot too. After a restart at a snapshot
        // the base may be beyond all of them.
        let skipped = (base.index.next().0 - self.first_known.0).min(self.heads.len() as u64);
        let mut heads = std::mem::take(&mut self.heads);
        heads.drain(..skipped as usize);
        Ok(heads)
    }

    /// The readable log: the last segment's entries in memory, all other segments mapped.
    ///
    /// The last segment is not mapped, because it will be written to. Its entries are read into memory once more, which
    /// costs one segment at most.
    pub fn view(&self) -> Result<View> {
        let released = self.outline.as_ref().map_or(Index::ZERO, |outline| outline.base.position.index);
        let mut view = View::new(released);
        let Some((last, sealed)) = self.segments.split_last() else { return Ok(view) };
        for segment in sealed {
            let Some((first, end)) = segment.marks.entries() else { continue };
            let bytes = segment.bytes.clone();
            let number = segment.header.number;
            let whole = Sealed { segment: number, entries: first..=end, marks: segment.marks.shared(), bytes };
            // Only live entries above the base: the file has the others too, and a read must not return them.
            view.add_recovered(whole, (segment.live.0.max(released.next()), segment.live.1))?;
        }
        let good = last.bytes.slice(..last.end as usize);
        for item in Scan::new(good, last.header.salt(), None) {
            let ScanItem::Frame(frame) = item else { break };
            // The entries before a restart are in the file still, and belong to no log.
            if frame.kind == RecordKind::Base {
                view.restart();
            }
            if frame.kind == RecordKind::Entry {
                let at = frame.at;
                // An entry left out would put all after it at a wrong index.
                let entry = codec::read_entry(&mut Reader::new(frame.body))
                    .map_err(|malformed| self.corrupt(last.header.number, at, malformed.0.to_owned(), Index::ZERO))?;
                view.push_entry(entry);
            }
        }
        // The last segment may begin before the base, if it was released in part.
        view.release(released);
        Ok(view)
    }

    /// `seen` is the highest index that anything after the damage names. Without such a name the end of the loss is
    /// open, and the text says so instead of guessing.
    fn corrupt(&self, number: u64, offset: u64, what: String, seen: Index) -> Fault {
        let last = self.outline.as_ref().map_or(Index::ZERO, |outline| outline.last.index);
        let lost =
            if seen > last { format!("{} to {seen}", last.next()) } else { format!("{} and later", last.next()) };
        Fault::Corrupt { file: file_name(number), offset, what, lost, advice: ADVICE }
    }
}

/// The bytes up to `end` at least: a file that was cut within the padding of its last frame has that frame complete,
/// and ends before it.
fn padded(bytes: Bytes, end: u64) -> Bytes {
    if bytes.len() as u64 >= end {
        return bytes;
    }
    let mut copy = bytes.to_vec();
    copy.resize(end as usize, 0);
    copy.into()
}

/// The note for the operator about a torn tail that is cut off.
///
/// The start goes on, but never in silence: if the argument for a torn batch is ever wrong, this line is the only trace
/// of what was cut.
fn torn(number: u64, broken: &Break, place: Option<LogOffset>, bytes: &Bytes) -> String {
    let end = broken.cut;
    let bytes_cut = last_written(bytes, end).map_or(0, |last| last + 1 - end);
    let known = match place {
        Some(place) if place.segment == number => "the side file `synced` records no sync of it",
        _ => "no record shows that it was synced",
    };
    format!(
        "{}: the last batch is torn at byte {} ({}), and {known}: truncated {bytes_cut} bytes from {end} on",
        file_name(number),
        broken.at,
        broken.flaw
    )
}

fn missing(number: u64, what: &str) -> Fault {
    Fault::Corrupt {
        file: file_name(number),
        offset: 0,
        what: what.to_owned(),
        lost: "all in this segment".to_owned(),
        advice: ADVICE,
    }
}

/// The offset of the first frame in a segment.
pub const BEGIN: u64 = SEGMENT_HEADER as u64;
