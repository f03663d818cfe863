//! Recovery: from files to state.
//!
//! Nothing is changed on the disk before all segments are read and validated. [`super::tail`] distinguishes a torn
//! tail, which is cut off, from lost data, which is a fault.
//!
//! # Which bytes are kept
//!
//! Recovery must decide which of the bytes on the disk were acknowledged. Of the two possible mistakes, one is
//! harmless: an entry that is kept although it was never acknowledged is like an entry that reached a follower just
//! before the crash. The other mistake loses data: a node that drops an acknowledged entry and then votes may elect a
//! leader without it (§5.4.1), and a committed write is lost.
//!
//! So recovery keeps every good batch, and drops only bytes that were certainly never acknowledged: the last batch, if
//! nothing after it and no sync marker shows that its sync had returned. Any other bad byte stops the start. Simpler
//! rules in use elsewhere were rejected, because each of them drops synced data in some case: to cut at the first zero
//! sector, to cut in the last file only, or to cut after the last commit record.
//!
//! # Calls
//!
//! ```text
//!   replay
//!     └─ read_segments        oldest segment first; the first one without a seal is the last of the log
//!         └─ read_segment     read_header: checks the owner   classify_end: the verdict on a break
//!             └─ read_batches ─▶ BatchReader ─▶ LogSummary::apply ─▶ record_effect
//!   take_entries              checks that the log is complete from its base on
//!   build_view                maps the sealed segments, and reads the last one's entries into memory
//! ```
//!
//! Damage or a faulty program may have changed any byte that is read here. So no assert depends on them: a
//! contradiction is a fault with a file, an offset and advice.

use super::batches::{BatchReader, ReaderState};
use super::format::{EntryMetadata, Frame, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader, file_name};
use super::kept_entries::KeptEntries;
use super::load::{self, SegmentFile};
use super::log_summary::{LogSummary, RecordEffect};
use super::newer_format;
use super::options::{Options, ReadMode, TailPolicy};
use super::parallel_checksum::{PrefixVerifier, verify_ahead};
use super::report::{DAMAGE_ADVICE, EntrySummary, Fault, RepairedDamage, Result, SealedSegment, TORN_TAIL_ADVICE};
use super::scan::{Scan, ScanItem, last_nonzero};
use super::segment::SparseIndex;
use super::sync_marker::{LogOffset, SyncMarker};
use super::tail::{LogBreak, REFUSED_TORN_TAIL, SegmentContext, TailVerdict, classify};
use super::view::View;
use crate::codec::{self, Reader};
use crate::disk::Meter;
use crate::types::{ClusterTime, HardState, Index, Membership, Mutant, SnapshotPoint};
use bytes::Bytes;

/// The contents of a journal when it was opened.
///
/// All of it is durable: [`super::open`] has synced the bytes that may have been in the page cache only. Otherwise a
/// node could acknowledge a recovered entry and lose it in the next power loss.
#[derive(Debug)]
pub struct RecoveredLog {
    /// The latest term, vote and promised position.
    pub hard_state: HardState,
    /// The position after which the log begins, and the configuration there.
    pub base: SnapshotPoint,
    /// A summary of each entry after the base, in order.
    pub entries: Vec<EntrySummary>,
    /// The latest cluster time of any entry.
    pub last_time: ClusterTime,
    /// The configurations after the base, by the index of their entry.
    pub configurations: Vec<(Index, Membership)>,
    /// The entries with their payloads, for reading.
    pub view: View,
    /// Notes for the operator: which bytes were cut off, and why.
    pub operator_notes: Vec<String>,
    /// A note for the operator if the journal was damaged and has been repaired ([`super::repair`]): acknowledged
    /// entries may be missing.
    pub repair_note: Option<String>,
    /// The intact entries of damaged files; none if the log reaches the promised position.
    pub kept_entries: KeptEntries,
    /// The damage that was repaired; `None` if there was none.
    pub repaired_damage: Option<RepairedDamage>,
}

/// A segment that was read and validated.
pub struct ValidatedSegment {
    /// The decoded header of the segment, whose ids are those of this journal.
    pub header: SegmentHeader,
    /// The bytes of the file: mapped, or in memory for the last segment.
    pub bytes: Bytes,
    /// The offset at which the last good batch ends.
    // After this offset are zeros, a torn batch, or old records of a recycled file.
    pub good_end: u64,
    /// All bytes before this offset are known to be synced; later ones may exist in the page cache only.
    // Known from the sync marker, or from a batch header that records the sync of an earlier batch.
    pub synced_offset: u64,
    /// The file offsets of some of the segment's entries.
    pub sparse_index: SparseIndex,
    /// The first and the last index of the entries that still belong to the log; the last is below the first if there
    /// are none.
    pub live_range: (Index, Index),
}

/// The state of recovery after the segments that were read so far.
///
/// Each segment is compared with the summary, the batch number and the checksum at the end of the segment before it, so
/// that a segment of another log is detected although each of its frames is intact.
pub struct Replay<'a> {
    /// The summary of the log after the last good batch; `None` until an opening record was read.
    pub summary: Option<LogSummary>,
    /// The segments, oldest first. The journal will append to the last one.
    pub segments: Vec<ValidatedSegment>,
    /// The number that the next batch of the journal gets.
    pub next_batch_number: u64,
    /// The checksum of the last frame; `None` if no frame was read.
    pub last_checksum: Option<u32>,
    /// Segment files that do not belong to the log: made and never used, or released but not removed.
    pub unused_files: Vec<String>,
    /// Notes for the operator: which bytes were cut off, and why.
    pub operator_notes: Vec<String>,
    // The index of the first entry in `entries`. It may be at or before the base, since segments are released as a
    // whole.
    first_index: Index,
    entries: Vec<EntrySummary>,
    meter: &'a Meter,
}

/// Reads all segments, oldest first.
///
/// A sync marker that names a later segment than the last one proves that a file is missing. Only the marker detects
/// that an operator has removed the newest files: no check of the remaining files can.
pub fn replay<'a>(
    mut files: Vec<SegmentFile>,
    options: &Options,
    marker: &SyncMarker,
    read_mode: ReadMode<'a>,
) -> Result<Replay<'a>> {
    // The numbers are sorted, so every gap is a missing file. The segments before a gap were released, and a power loss
    // has undone the removal of some of them. If they were not released, `Replay::take_entries` finds that the log
    // begins too late.
    let is_consecutive = |pair: &[SegmentFile]| pair[1].number == pair[0].number + 1;
    let first_file_after_gaps = files.windows(2).rposition(|pair| !is_consecutive(pair)).map_or(0, |gap| gap + 1);
    let released_names: Vec<String> = files.drain(..first_file_after_gaps).map(|file| file_name(file.number)).collect();
    let mut replay = Replay {
        summary: None,
        segments: Vec::new(),
        next_batch_number: 1,
        last_checksum: None,
        unused_files: released_names,
        operator_notes: Vec::new(),
        first_index: Index::ZERO,
        entries: Vec::new(),
        meter: read_mode.meter,
    };
    // The total is set before the first read, so that the progress report can show it from the beginning.
    read_mode.meter.add_total(files.iter().map(SegmentFile::size).sum());
    verify_ahead(&files, options.disk, read_mode.thread_count, |verifier| {
        replay.read_segments(&files, options, marker, verifier)
    })?;
    if let (Some(synced), Some(last)) = (marker.log_offset, replay.segments.last())
        && synced.segment > last.header.number
        && !options.mutants.breaks(Mutant::CutDamage)
    {
        return Err(missing_segment_fault(synced.segment, "a segment that was synced is missing"));
    }
    Ok(replay)
}

impl Replay<'_> {
    /// Reads one segment after the other, up to the first without a seal, which ends the log.
    ///
    /// Later files were made and never used: if one of them held a good frame, [`SegmentContext::successor_in_use`]
    /// would have made the missing seal a fault.
    fn read_segments(
        &mut self,
        files: &[SegmentFile],
        options: &Options,
        marker: &SyncMarker,
        verifier: &PrefixVerifier<'_>,
    ) -> Result<()> {
        for (nth, file) in files.iter().enumerate() {
            let later_files = &files[nth + 1..];
            let intact_end = verifier.verified_prefix_end(nth);
            // Without a seal, the log ends here. Later files hold no record, and the caller removes them once
            // everything is accepted.
            if !self.read_segment(file, options, later_files, marker, intact_end)? {
                self.unused_files.extend(later_files.iter().map(|file| file_name(file.number)));
                break;
            }
            // The seal is written only after its successor's name is durable, so no crash leaves a seal at the end.
            if later_files.is_empty() {
                let description = "the segment is missing, although the one before it is sealed";
                return Err(missing_segment_fault(file.number + 1, description));
            }
        }
        Ok(())
    }

    /// Reads one segment, whose frames before offset `intact_end` are known to be intact. Returns whether it is sealed.
    fn read_segment(
        &mut self,
        file: &SegmentFile,
        options: &Options,
        later_files: &[SegmentFile],
        marker: &SyncMarker,
        intact_end: u64,
    ) -> Result<bool> {
        let (number, bytes) = (file.number, file.readable_bytes()?);
        // An unreadable header is damage and not a foreign file: the advice to the operator differs.
        if bytes.len() < SEGMENT_HEADER_BYTES
            && let Some(fault) = self.unreadable_fault(file, later_files)?
        {
            return Err(fault);
        }
        let header = self.read_header(number, &bytes, options)?;
        let is_oldest = self.segments.is_empty();
        // The oldest segment is compared with nothing, unless it is segment 1.
        let state_before = match is_oldest {
            true => ReaderState::before_segment(number),
            false => ReaderState {
                next_batch_number: Some(self.next_batch_number),
                last_checksum: self.last_checksum,
                log: self.summary.take(),
            },
        };
        let mut reader = BatchReader::new(bytes.clone(), header.salt(), state_before, intact_end);
        let marker_offset = marker.log_offset.filter(|log_offset| log_offset.segment == number);
        let mut segment = ValidatedSegment {
            header,
            bytes,
            good_end: FIRST_FRAME_OFFSET,
            synced_offset: marker_offset.map_or(FIRST_FRAME_OFFSET, |log_offset| log_offset.offset),
            sparse_index: SparseIndex::default(),
            live_range: (Index(1), Index::ZERO),
        };
        let log_break = self.read_batches(&mut segment, &mut reader);
        let state_after = reader.into_state();
        // The summary is moved through the reader, to avoid a copy of all configurations for each segment.
        (self.last_checksum, self.summary) = (state_after.last_checksum, state_after.log);
        self.next_batch_number = state_after.next_batch_number.unwrap_or(self.next_batch_number);
        let is_sealed = log_break.is_none();
        if let Some(log_break) = log_break {
            if let Some(fault) = self.unreadable_fault(file, later_files)? {
                return Err(fault);
            }
            let context = SegmentContext {
                predecessors_released: is_oldest && number != 1,
                // A marker of this boot covers everything that was acknowledged, so the strict policy does not apply.
                refuses_torn_tail: options.torn_tail == TailPolicy::Refuse && !marker.is_of_this_boot(),
                ..SegmentContext::for_segment(
                    &header,
                    marker.log_offset,
                    later_files.iter().any(|file| file.is_used(options.disk)),
                )
            };
            self.classify_end(&segment, &log_break, &context, options, marker.log_offset)?;
            // `build_view` and `resume` slice the bytes up to `good_end`: after the end of a file cut within padding.
            segment.bytes = pad_with_zeros(segment.bytes, segment.good_end);
        }
        segment.live_range = segment.sparse_index.index_range().unwrap_or(segment.live_range);
        assert!(
            self.segments.last().is_none_or(|before| before.header.number + 1 == number),
            "segments are read oldest first, and none is skipped"
        );
        self.segments.push(segment);
        Ok(is_sealed)
    }

    /// The fault of a segment that the disk cannot read to its end; `None` if the whole segment is readable. An
    /// unreadable sector is never taken for the end of the log, because it may hold a record.
    ///
    /// The fault names the lost entries, as exactly as the opening record of the next segment allows. The operator
    /// needs these indexes: a follower that lost an entry can be replaced, but a majority that lost it cannot.
    fn unreadable_fault(&self, file: &SegmentFile, later_files: &[SegmentFile]) -> Result<Option<Fault>> {
        let Some(media_error) = file.media_error()? else { return Ok(None) };
        let next_index = self.summary.as_ref().map_or(Index(1), |summary| summary.last_position.index.next());
        let last_lost_index = later_files.first().and_then(SegmentFile::last_index_of_earlier_segments);
        let lost_entries = match last_lost_index.filter(|last| *last >= next_index) {
            Some(last) => format!("{next_index} to {last}"),
            None => format!("{next_index} and later"),
        };
        Ok(Some(load::unreadable_fault(&file_name(file.number), media_error, lost_entries)))
    }

    /// Decodes and checks the header of a segment.
    ///
    /// A header with another version or owner is not damage but [`Fault::Foreign`], with another exit code, so that a
    /// script does not replace a disk because of a wrong option.
    fn read_header(&mut self, number: u64, bytes: &Bytes, options: &Options) -> Result<SegmentHeader> {
        let header = match SegmentHeader::decode(bytes) {
            Ok(header) => header,
            Err(malformed) if malformed.0.starts_with("a version") => {
                newer_format::check_header(number, bytes)?;
                return Err(Fault::Foreign(format!("{}: {}. Nothing was changed.", file_name(number), malformed.0)));
            }
            Err(malformed) => return Err(self.corrupt_fault(number, 0, malformed.0.to_owned(), Index::ZERO)),
        };
        let own_ids = (options.node, options.cluster, options.disk);
        // The disk id is compared too: a segment copied from another directory of the same node is valid, but part of
        // another log.
        if (header.node, header.cluster, header.disk) != own_ids {
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
            // The file was renamed or overwritten, or the disk has written the header of another segment to it.
            let description =
                format!("its header names segment {}: the file was renamed or overwritten", header.number);
            return Err(self.corrupt_fault(number, 0, description, Index::ZERO));
        }
        Ok(header)
    }

    /// Applies batch after batch, up to the seal. Returns the break if the batches end before a seal.
    ///
    /// After a break, all later frames in the file are read too: they may be evidence that the broken batch was synced.
    fn read_batches(&mut self, segment: &mut ValidatedSegment, reader: &mut BatchReader) -> Option<LogBreak> {
        loop {
            let on_applied = |frame: &Frame, effect| self.record_effect(frame, effect, &mut segment.sparse_index);
            match reader.read_batch(on_applied) {
                Ok(good) => {
                    self.meter.add_read(good.header.bytes);
                    segment.good_end = reader.offset();
                    // The header may also name an earlier segment, which was synced completely before this one.
                    if good.header.synced_end.0 == segment.header.number {
                        segment.synced_offset = segment.synced_offset.max(good.header.synced_end.1);
                    }
                    // Old records of a recycled file, or zeros, follow the seal.
                    if good.frames.last().is_some_and(|frame| frame.kind == RecordKind::Seal) {
                        return None;
                    }
                }
                Err(broken) => {
                    let mut log_break = broken.log_break;
                    reader.remaining_frames().for_each(|frame| log_break.add_frame(&frame));
                    return Some(log_break);
                }
            }
        }
    }

    /// Decides whether the log ends at a break. A torn tail at the break adds a note for the operator, and damage is a
    /// fault.
    ///
    /// The fault names the first bad byte and the next good record. With these two an operator finds the damage in
    /// `drave dump`, and can distinguish a flipped bit from a lost block.
    fn classify_end(
        &mut self,
        segment: &ValidatedSegment,
        log_break: &LogBreak,
        context: &SegmentContext,
        options: &Options,
        synced: Option<LogOffset>,
    ) -> Result<()> {
        match classify(log_break, context) {
            TailVerdict::Corrupt(evidence) if !options.mutants.breaks(Mutant::CutDamage) => {
                let next_record =
                    log_break.next_good_offset.map_or(String::new(), |next| format!(" · next good record at {next}"));
                let description = match log_break.is_clean() {
                    true => "the log ends here".to_owned(),
                    false => format!("{}{next_record}", log_break.flaw),
                };
                // The marker's position counts only if it is after the damage.
                let evidence_offset =
                    synced.filter(|_| context.synced_offset.is_some_and(|at| at > log_break.cut_offset));
                let highest_later_index = log_break.highest_later_index;
                let highest_index = evidence_offset
                    .map_or(highest_later_index, |synced| highest_later_index.max(synced.last_position.index));
                let fault = self.corrupt_fault(
                    context.segment_number,
                    log_break.first_bad_offset,
                    format!("{description}; {evidence}"),
                    highest_index,
                );
                Err(if evidence == REFUSED_TORN_TAIL { fault.with_advice(TORN_TAIL_ADVICE) } else { fault })
            }
            // `Corrupt` only with the mutant that cuts off damage like a torn tail.
            TailVerdict::Torn | TailVerdict::Corrupt(_) if !log_break.is_clean() => {
                self.operator_notes.push(torn_tail_note(context.segment_number, log_break, synced, &segment.bytes));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Records the change that a frame made to the log.
    ///
    /// The changes are the same as in the running journal: a restart removes all entries, and an entry removes those
    /// that it replaces, also from older segments.
    fn record_effect(&mut self, frame: &Frame, effect: RecordEffect, sparse_index: &mut SparseIndex) {
        match effect {
            RecordEffect::SummaryOnly => {}
            RecordEffect::LogBegan(last) => self.first_index = last.index.next(),
            RecordEffect::LogRestarted(base) => {
                self.entries.clear();
                self.first_index = base.index.next();
                self.mark_entries_replaced_from(Index::ZERO);
                sparse_index.clear();
            }
            RecordEffect::EntryAppended(EntryMetadata { position, .. }) => {
                let index = position.index;
                // The new entry is before the oldest recovered one: the entries in between were released.
                if index < self.first_index {
                    self.entries.clear();
                    self.first_index = index;
                }
                self.entries.truncate((index.0 - self.first_index.0) as usize);
                self.entries.push(EntrySummary { term: position.term, bytes: frame.body.len() as u32 });
                self.mark_entries_replaced_from(index);
                sparse_index.add_entry(index, frame.offset);
            }
        }
    }

    /// Records that older segments hold no live entry from `index` on.
    fn mark_entries_replaced_from(&mut self, index: Index) {
        // The loop goes from the newest segment back, and only as far as a range changes: to visit a thousand segments
        // for each entry would make a start quadratic.
        for segment in self.segments.iter_mut().rev() {
            // The loop continues past a segment without live entries: an older one may still have some.
            if segment.live_range.1 < index && segment.live_range.0 <= segment.live_range.1 {
                break;
            }
            segment.live_range.1 = segment.live_range.1.min(index.prev());
        }
    }

    /// Takes the summaries of all entries after the base. A missing entry is a fault.
    ///
    /// A release is recorded durably before the first file is removed. So a log whose base is before its first entry
    /// has lost a file that was not released.
    pub fn take_entries(&mut self) -> Result<Vec<EntrySummary>> {
        let Some(summary) = &self.summary else { return Ok(Vec::new()) };
        let base_position = summary.base.position;
        if base_position.index.next() < self.first_index {
            let first_segment = self.segments.first().map_or(0, |segment| segment.header.number);
            return Err(Fault::Corrupt {
                file: file_name(first_segment.saturating_sub(1)),
                offset: 0,
                description: "a segment that was not released is missing".to_owned(),
                lost: format!("{} to {}", base_position.index.next(), self.first_index.prev()),
                advice: DAMAGE_ADVICE,
            });
        }
        debug_assert!(
            self.first_index.0.wrapping_add(self.entries.len() as u64) == summary.last_position.index.0.wrapping_add(1),
            "the summary and the summaries of its entries end at the same index"
        );
        // Entries up to the base are still in the oldest segment. After a restart at a snapshot, the base may be after
        // all entries.
        let skipped_count = (base_position.index.next().0 - self.first_index.0).min(self.entries.len() as u64);
        let mut entries = std::mem::take(&mut self.entries);
        entries.drain(..skipped_count as usize);
        Ok(entries)
    }

    /// Builds the view of the log: the last segment's entries in memory, all other segments mapped.
    ///
    /// The last segment is not mapped, because the journal will write to it. Its entries are decoded once more.
    pub fn build_view(&self) -> Result<View> {
        let released_upto = self.summary.as_ref().map_or(Index::ZERO, |summary| summary.base.position.index);
        let mut view = View::new(released_upto);
        let Some((last, sealed)) = self.segments.split_last() else { return Ok(view) };
        for segment in sealed {
            let Some((first, end)) = segment.sparse_index.index_range() else { continue };
            let bytes = segment.bytes.clone();
            let number = segment.header.number;
            let sealed = SealedSegment {
                segment: number,
                index_range: first..=end,
                sparse_index: segment.sparse_index.to_shared_entries(),
                bytes,
            };
            // A read must not return the other entries of the file, which were replaced or released.
            view.add_recovered(sealed, (segment.live_range.0.max(released_upto.next()), segment.live_range.1))?;
        }
        let good_bytes = last.bytes.slice(..last.good_end as usize);
        for item in Scan::new(good_bytes, last.header.salt(), None) {
            let ScanItem::Frame(frame) = item else { break };
            // The entries before a restart no longer belong to the log.
            if frame.kind == RecordKind::Base {
                view.restart();
            }
            if frame.kind == RecordKind::Entry {
                let at = frame.offset;
                // If an entry were skipped, all later ones would have a wrong index.
                let entry = codec::read_entry(&mut Reader::new(frame.body)).map_err(|malformed| {
                    self.corrupt_fault(last.header.number, at, malformed.0.to_owned(), Index::ZERO)
                })?;
                view.push_entry(entry);
            }
        }
        // The last segment may begin before the base.
        view.release(released_upto);
        Ok(view)
    }

    /// The fault of damage at an offset. `highest_index` is the highest index that a record after the damage or the
    /// sync marker names; if there is none, the text does not name the last lost entry.
    fn corrupt_fault(&self, number: u64, offset: u64, description: String, highest_index: Index) -> Fault {
        let last_index = self.summary.as_ref().map_or(Index::ZERO, |summary| summary.last_position.index);
        let lost = if highest_index > last_index {
            format!("{} to {highest_index}", last_index.next())
        } else {
            format!("{} and later", last_index.next())
        };
        Fault::Corrupt { file: file_name(number), offset, description, lost, advice: DAMAGE_ADVICE }
    }
}

/// Pads the bytes with zeros up to `end` at least: a file may have been cut within the padding of its last frame.
fn pad_with_zeros(bytes: Bytes, end: u64) -> Bytes {
    if bytes.len() as u64 >= end {
        return bytes;
    }
    let mut copy = bytes.to_vec();
    copy.resize(end as usize, 0);
    copy.into()
}

/// The note for the operator about a torn tail that is cut off.
///
/// The start continues, but never silently: if the verdict is ever wrong, this line is the only trace of the bytes that
/// were cut off.
fn torn_tail_note(number: u64, log_break: &LogBreak, synced: Option<LogOffset>, bytes: &Bytes) -> String {
    let cut_offset = log_break.cut_offset;
    let cut_bytes = last_nonzero(bytes, cut_offset).map_or(0, |last| last + 1 - cut_offset);
    let evidence = match synced {
        Some(synced) if synced.segment == number => "the side file `synced` records no sync of it",
        _ => "no record shows that it was synced",
    };
    format!(
        "{}: the last batch is torn at byte {} ({}), and {evidence}: truncated {cut_bytes} bytes from {cut_offset} on",
        file_name(number),
        log_break.first_bad_offset,
        log_break.flaw
    )
}

/// The fault of a missing segment; `description` says why the segment must have existed.
fn missing_segment_fault(number: u64, description: &str) -> Fault {
    Fault::Corrupt {
        file: file_name(number),
        offset: 0,
        description: description.to_owned(),
        lost: "all in this segment".to_owned(),
        advice: DAMAGE_ADVICE,
    }
}

/// The offset of the first frame in a segment, in bytes.
pub const FIRST_FRAME_OFFSET: u64 = SEGMENT_HEADER_BYTES as u64;
