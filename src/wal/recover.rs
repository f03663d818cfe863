//! Recovery: from files to state, with the rule that distinguishes a torn tail from lost data.
//!
//! Nothing is changed on the disk before all segments are read and validated. The first bad byte is *corrupt*, a fault,
//! if there is evidence that bytes after it had been synced. Without evidence it is *torn*: the batch that was being
//! written when the process or the machine died, which was never acknowledged. Evidence is a good frame of a later
//! batch (a batch begins only after the previous batch is synced), a later segment, a seal, or the sync marker.

use super::format::{self, Batch, EntryHead, Flaw, Frame, RecordKind, SEGMENT_HEADER, Seal, SegmentHeader, file_name};
use super::load::{self, Read};
use super::log_summary::LogSummary;
use super::options::{Options, ReadMode, TailPolicy};
use super::parallel_checksum::{Ahead, ahead};
use super::report::{ADVICE, Fault, Result, Sealed};
use super::scan::{Scan, ScanItem, last_written};
use super::segment::SparseIndex;
use super::sync_marker::{LogOffset, SyncMarker};
use super::view::View;
use crate::codec::{self, Reader};
use crate::disk::Meter;
use crate::types::{ClusterTime, HardState, Index, Membership, Mutant, Payload, SnapshotPoint, Term};
use bytes::Bytes;

/// The term and size of an entry, for consensus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntrySummary {
    /// Its term.
    pub term: Term,
    /// Its size in bytes, as `codec` encodes it.
    pub bytes: u32,
}

/// The contents of a journal when it was opened.
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
    pub end: u64,
    /// All bytes before this are known to be on the disk; those after it may be only in the page cache.
    pub synced: u64,
    /// The offsets of its entries.
    pub marks: SparseIndex,
    /// The entries that belong to the log: first and last index; the last is below the first if there are none.
    pub live: (Index, Index),
}

/// The state that results from reading all files.
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
    first_known: Index,
    heads: Vec<EntrySummary>,
    meter: &'a Meter,
}

/// Where and why reading a segment stopped before its end.
struct Break {
    at: u64,
    flaw: Flaw,
    /// Whether a batch header is there, which proves that a batch was being written.
    begun: bool,
    next: Option<u64>,
    /// The highest batch number of a good frame after the break.
    later: Option<u32>,
    /// How far this segment had been synced, by the batch headers after the break.
    synced: u64,
    /// The highest entry index after the break.
    later_index: Index,
}

/// Reads all segments, oldest first.
pub fn replay<'a>(
    mut files: Vec<Read>,
    options: &Options,
    sync_marker: &SyncMarker,
    reading: ReadMode<'a>,
) -> Result<Replay<'a>> {
    // If a number is missing, the segments before it were released, and a power loss undid the removal of some of them
    // and not of others. If they were not released, `Replay::heads` finds that the log begins too late.
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
    fn all(&mut self, files: &[Read], options: &Options, testimony: &SyncMarker, ahead: &Ahead<'_>) -> Result<()> {
        for (nth, file) in files.iter().enumerate() {
            let behind = &files[nth + 1..];
            let whole = ahead.whole(nth);
            if !self.segment(file, options, behind, testimony, whole)? {
                self.unused.extend(behind.iter().map(|file| file_name(file.number)));
                break;
            }
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
        if bytes.len() < SEGMENT_HEADER
            && let Some(fault) = self.unreadable(file, behind)?
        {
            return Err(fault);
        }
        let header = self.header(number, &bytes, options)?;
        let first_batch = if self.segments.is_empty() && number != 1 { None } else { Some(self.batch) };
        let chain = if self.segments.is_empty() && number != 1 { None } else { Some(self.chain.unwrap_or(0)) };
        let mut scan = Scan::new(bytes.clone(), header.salt(), chain).known_to(whole);
        let mut marks = SparseIndex::default();
        let mut synced = testimony.place.filter(|place| place.segment == number).map_or(BEGIN, |place| place.offset);
        let (end, chain, sealed, broken) = self.batches(number, &mut scan, first_batch, &mut marks, &mut synced)?;
        self.chain = chain;
        if sealed.is_none() {
            if let Some(fault) = self.unreadable(file, behind)? {
                return Err(fault);
            }
            self.classify_tail(&header, end, broken, options, behind, testimony, &bytes)?;
        }
        let live = marks.entries().unwrap_or((Index(1), Index::ZERO));
        let bytes = padded(bytes, end);
        self.segments.push(ValidatedSegment { header, bytes, end, synced, marks, live });
        Ok(sealed.is_some())
    }

    /// The fault of a segment that the disk cannot read to its end. An unreadable place is never taken for the end of
    /// the log: a record may be there, and a segment that has a successor holds more records.
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

    fn header(&mut self, number: u64, bytes: &Bytes, options: &Options) -> Result<SegmentHeader> {
        let header = match SegmentHeader::decode(bytes) {
            Ok(header) => header,
            Err(malformed) if malformed.0.starts_with("a version") => {
                return Err(Fault::Foreign(format!("{}: {}. Nothing was changed.", file_name(number), malformed.0)));
            }
            Err(malformed) => return Err(self.corrupt(number, 0, malformed.0.to_owned(), Index::ZERO)),
        };
        let ours = (options.node, options.cluster, options.disk);
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

    /// Applies batch after batch, each as a whole or not at all.
    #[allow(clippy::type_complexity)]
    fn batches(
        &mut self,
        number: u64,
        scan: &mut Scan,
        first_batch: Option<u64>,
        marks: &mut SparseIndex,
        synced: &mut u64,
    ) -> Result<(u64, Option<u32>, Option<Seal>, Option<Break>)> {
        let mut expected = first_batch;
        loop {
            let (start, chain) = (scan.at(), scan.link());
            let mut frames = Vec::new();
            let outcome = read_batch(scan, expected, &mut frames);
            let outcome = outcome.and_then(|batch| match self.take(&frames, marks) {
                Ok(()) => Ok(batch),
                Err(what) => Err((start, Flaw::Wrong(what), true, None)),
            });
            match outcome {
                Ok(batch) => {
                    self.meter.advance(batch.bytes);
                    expected = Some(if batch.more { batch.number } else { batch.number + 1 });
                    self.batch = batch.number + u64::from(!batch.more);
                    if batch.synced.0 == number {
                        *synced = (*synced).max(batch.synced.1);
                    }
                    if let Some(seal) = frames.last().filter(|frame| frame.kind == RecordKind::Seal) {
                        let seal = Seal::read(&seal.body).ok();
                        return Ok((scan.at(), scan.link(), seal, None));
                    }
                }
                Err((at, flaw, begun, next)) => {
                    let mut broken = Break { at, flaw, begun, next, later: None, synced: 0, later_index: Index::ZERO };
                    for frame in &frames {
                        broken.sees(frame, number);
                    }
                    for item in scan.by_ref() {
                        if let ScanItem::Frame(frame) = item {
                            broken.sees(&frame, number);
                        }
                    }
                    let broken = (flaw != Flaw::Blank || broken.later.is_some() || begun).then_some(broken);
                    return Ok((start, chain, None, broken));
                }
            }
        }
    }

    /// Decides whether the log ends here, has a torn tail, or is corrupt.
    #[allow(clippy::too_many_arguments)]
    fn classify_tail(
        &mut self,
        header: &SegmentHeader,
        end: u64,
        broken: Option<Break>,
        options: &Options,
        behind: &[Read],
        testimony: &SyncMarker,
        bytes: &Bytes,
    ) -> Result<()> {
        let number = header.number;
        let place = testimony.place.filter(|place| place.segment == number && place.offset > end);
        // A segment that is not number 1 and has no predecessor was begun long ago, so its opening was synced.
        let first_lost = self.outline.is_none() && number != 1;
        let later_batch = broken
            .as_ref()
            .and_then(|broken| broken.later)
            .filter(|later| first_lost || (later.wrapping_sub(self.batch as u32) as i32) > 0);
        let later_synced = broken.as_ref().is_some_and(|broken| broken.synced > end);
        let used_behind = behind.iter().any(|file| file.is_used(options.disk));
        let (at, what) = match &broken {
            Some(broken) => {
                let next = broken.next.map_or(String::new(), |next| format!(" · next good record at {next}"));
                (broken.at, format!("{}{next}", broken.flaw))
            }
            None => (end, "the log ends here".to_owned()),
        };
        // In a recycled file, old records usually follow the end.
        let broken = broken.filter(|broken| {
            broken.begun || header.flags & format::RECYCLED == 0 || later_batch.is_some() || later_synced
        });
        let evidence = if later_batch.is_some() {
            Some("good records of a later batch follow it")
        } else if later_synced {
            Some("a later batch records that it was synced")
        } else if place.is_some() {
            Some("the side file `synced` records a sync beyond it")
        } else if used_behind {
            Some("the next segment is in use")
        } else if first_lost {
            Some("this segment has no predecessor, so its beginning was synced")
        } else if broken.is_some() && options.torn_tail == TailPolicy::Refuse && !testimony.is_of_this_boot() {
            Some("it may have been synced, and --on-torn-tail is refuse")
        } else {
            None
        };
        if let Some(evidence) = evidence
            && !options.mutants.breaks(Mutant::CutDamage)
        {
            let seen = broken.as_ref().map_or(Index::ZERO, |broken| broken.later_index);
            let lost = place.map_or(seen, |place| seen.max(place.last.index));
            return Err(self.corrupt(number, at, format!("{what}; {evidence}"), lost));
        }
        if let Some(broken) = broken {
            self.notes.push(torn(number, end, &broken, testimony.place, bytes));
        }
        Ok(())
    }

    /// Applies the frames of one good batch.
    fn take(&mut self, frames: &[Frame], marks: &mut SparseIndex) -> std::result::Result<(), &'static str> {
        for frame in frames {
            match frame.kind {
                RecordKind::Batch => return Err("a batch within a batch"),
                RecordKind::Open => self.open(frame)?,
                RecordKind::Seal => {
                    Seal::read(&frame.body).map_err(|malformed| malformed.0)?;
                }
                RecordKind::Hard => {
                    let hard = format::read_hard(&frame.body).map_err(|malformed| malformed.0)?;
                    self.opened()?.hard = hard;
                }
                RecordKind::Base => {
                    let base = format::read_base(&frame.body).map_err(|malformed| malformed.0)?;
                    self.heads.clear();
                    self.first_known = base.position.index.next();
                    self.replaced(Index::ZERO);
                    marks.clear();
                    self.opened()?.restart(base);
                }
                RecordKind::Release => {
                    let base = format::read_base(&frame.body).map_err(|malformed| malformed.0)?;
                    self.opened()?.release(base);
                }
                RecordKind::Entry => self.entry(frame, marks)?,
            }
        }
        Ok(())
    }

    fn opened(&mut self) -> std::result::Result<&mut LogSummary, &'static str> {
        self.outline.as_mut().ok_or("a segment that does not begin with an opening record")
    }

    fn open(&mut self, frame: &Frame) -> std::result::Result<(), &'static str> {
        let opening = format::Opening::read(&frame.body).map_err(|malformed| malformed.0)?;
        match &self.outline {
            // The configuration is not compared: a truncation may have restored one whose entry is in a segment
            // released since, which is not known here. All configurations after the base are known.
            Some(outline)
                if (outline.hard, outline.last, outline.time, &outline.base)
                    != (opening.hard, opening.last, opening.time, &opening.base) =>
            {
                Err("the opening record differs from the end of the segment before it")
            }
            Some(_) => Ok(()),
            None => {
                let configurations = Some(opening.current).filter(|(index, _)| *index > opening.base.position.index);
                self.first_known = opening.last.index.next();
                self.outline = Some(LogSummary {
                    hard: opening.hard,
                    base: opening.base,
                    last: opening.last,
                    time: opening.time,
                    configurations: configurations.into_iter().collect(),
                });
                Ok(())
            }
        }
    }

    fn entry(&mut self, frame: &Frame, marks: &mut SparseIndex) -> std::result::Result<(), &'static str> {
        let head = EntryHead::read(&frame.body).map_err(|malformed| malformed.0)?;
        let index = head.position.index;
        let last = self.opened()?.last.index;
        if index == Index::ZERO || index > last.next() {
            return Err("an entry that does not follow the one before it");
        }
        let membership = match head.membership {
            true => {
                match codec::read_entry(&mut Reader::new(frame.body.clone())).map_err(|malformed| malformed.0)?.payload
                {
                    Payload::Membership(membership) => Some(membership),
                    _ => None,
                }
            }
            false => None,
        };
        if index < self.first_known {
            self.heads.clear();
            self.first_known = index;
        }
        self.heads.truncate((index.0 - self.first_known.0) as usize);
        self.heads.push(EntrySummary { term: head.position.term, bytes: frame.body.len() as u32 });
        self.replaced(index);
        marks.entry(index, frame.at);
        self.opened()?.append(head.position, head.time, membership.as_deref());
        Ok(())
    }

    /// Records that older segments hold no live entry from `index` on.
    fn replaced(&mut self, index: Index) {
        for segment in self.segments.iter_mut().rev() {
            if segment.live.1 < index && segment.live.0 <= segment.live.1 {
                break;
            }
            segment.live.1 = segment.live.1.min(index.prev());
        }
    }

    /// The summaries of all entries after the base. A missing entry is a fault.
    pub fn heads(&mut self) -> Result<Vec<EntrySummary>> {
        let Some(outline) = &self.outline else { return Ok(Vec::new()) };
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
        let skipped = (base.index.next().0 - self.first_known.0).min(self.heads.len() as u64);
        let mut heads = std::mem::take(&mut self.heads);
        heads.drain(..skipped as usize);
        Ok(heads)
    }

    /// The readable log: the last segment's entries in memory, all other segments mapped.
    pub fn view(&self) -> Result<View> {
        let released = self.outline.as_ref().map_or(Index::ZERO, |outline| outline.base.position.index);
        let mut view = View::new(released);
        let Some((last, sealed)) = self.segments.split_last() else { return Ok(view) };
        for segment in sealed {
            let Some((first, end)) = segment.marks.entries() else { continue };
            let bytes = segment.bytes.clone();
            let number = segment.header.number;
            let whole = Sealed { segment: number, entries: first..=end, marks: segment.marks.shared(), bytes };
            view.add_recovered(whole, (segment.live.0.max(released.next()), segment.live.1))?;
        }
        let good = last.bytes.slice(..last.end as usize);
        for item in Scan::new(good, last.header.salt(), None) {
            let ScanItem::Frame(frame) = item else { break };
            if frame.kind == RecordKind::Base {
                view.restart();
            }
            if frame.kind == RecordKind::Entry
                && let Ok(entry) = codec::read_entry(&mut Reader::new(frame.body))
            {
                view.push_entry(entry);
            }
        }
        view.release(released);
        Ok(view)
    }

    fn corrupt(&self, number: u64, offset: u64, what: String, seen: Index) -> Fault {
        let last = self.outline.as_ref().map_or(Index::ZERO, |outline| outline.last.index);
        let lost =
            if seen > last { format!("{} to {seen}", last.next()) } else { format!("{} and later", last.next()) };
        Fault::Corrupt { file: file_name(number), offset, what, lost, advice: ADVICE }
    }
}

impl Break {
    fn sees(&mut self, frame: &Frame, number: u64) {
        let newer = self.later.is_none_or(|later| frame.batch.wrapping_sub(later) as i32 > 0);
        if newer {
            self.later = Some(frame.batch);
        }
        if frame.kind == RecordKind::Batch
            && let Ok(batch) = Batch::read(&frame.body)
            && batch.synced.0 == number
        {
            self.synced = self.synced.max(batch.synced.1);
        }
        if frame.kind == RecordKind::Entry
            && let Ok(head) = EntryHead::read(&frame.body)
        {
            self.later_index = self.later_index.max(head.position.index);
        }
    }
}

/// Offset and cause of a failed read of a batch, whether the batch's header was good, and the offset of the next good
/// frame.
type NoBatch = (u64, Flaw, bool, Option<u64>);

/// Reads the batch that begins here: puts its frames into `frames` and returns its header.
fn read_batch(scan: &mut Scan, expected: Option<u64>, frames: &mut Vec<Frame>) -> std::result::Result<Batch, NoBatch> {
    let start = scan.at();
    let (batch, end) = match scan.next() {
        None => return Err((start, Flaw::Blank, false, None)),
        Some(ScanItem::Gap { at, flaw, next }) => return Err((at, flaw, false, next)),
        Some(ScanItem::Frame(frame)) => {
            let read = match frame.kind {
                RecordKind::Batch => Batch::read(&frame.body).map_err(|malformed| malformed.0),
                _ => Err("a record outside a batch"),
            };
            frames.push(frame);
            let batch = read.map_err(|what| (start, Flaw::Wrong(what), true, None))?;
            if expected.is_some_and(|expected| expected != batch.number) {
                return Err((start, Flaw::Wrong("a batch whose number does not follow the one before it"), true, None));
            }
            (batch, start.saturating_add(batch.bytes))
        }
    };
    while scan.at() < end {
        match scan.next() {
            Some(ScanItem::Frame(frame)) if frame.kind != RecordKind::Batch => frames.push(frame),
            Some(ScanItem::Frame(frame)) => {
                let at = frame.at;
                frames.push(frame);
                return Err((at, Flaw::Wrong("a batch that begins within another"), true, None));
            }
            Some(ScanItem::Gap { at, flaw, next }) => return Err((at, flaw, true, next)),
            None => return Err((scan.at(), Flaw::Short { want: batch.bytes, have: scan.at() - start }, true, None)),
        }
    }
    let whole = scan.at() == end
        && frames.len() as u64 == u64::from(batch.frames) + 1
        && (batch.frames == 0 || frames.last().is_some_and(|frame| frame.checksum == batch.tail));
    if !whole {
        return Err((start, Flaw::Wrong("a batch that does not match its header"), true, None));
    }
    frames.remove(0);
    Ok(batch)
}

/// The bytes up to `end` at least: a file that was cut within the padding of its last frame has that frame complete, and
/// ends before it.
fn padded(bytes: Bytes, end: u64) -> Bytes {
    if bytes.len() as u64 >= end {
        return bytes;
    }
    let mut copy = bytes.to_vec();
    copy.resize(end as usize, 0);
    copy.into()
}

/// The note for the operator about a torn tail that is cut off.
fn torn(number: u64, end: u64, broken: &Break, place: Option<LogOffset>, bytes: &Bytes) -> String {
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
