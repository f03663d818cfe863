//! Repair: turns a damaged journal into a shorter, intact one that keeps the node's promises.
//!
//! The rule and its proof are in `docs/repair.md`; `tests/repair_model` checks it. The journal keeps its readable
//! beginning: all records before the damage, also those of a batch that is damaged further on. The position up to which the node may have acknowledged entries becomes its promised position
//! ([`HardState::promised_position`]): the node votes and campaigns as if its log still reached it, and a leader sends
//! the missing entries again.
//!
//! # Order of the steps
//!
//! ```text
//!   1  the promised position, in the sync marker, synced      from here on no start can forget it
//!   2  a copy of the readable part of the damaged segment     as `.tmp`, synced; with a release record if needed
//!   3  the damaged segment gets the suffix `.damaged`, and the name is synced
//!   4  the copy gets the segment's name
//!   5  later segments get the suffix `.damaged`; the names are synced
//!   6  the new end of the log, in the sync marker             otherwise the marker would name an offset after the end
//! ```
//!
//! After a crash between any two steps, the next start finds damage again, or a shorter log beside a marker that is
//! ahead of it, and repairs it in the same way: the marker still has the promised position.

use super::batches::{BatchReader, BrokenBatch, ReaderState};
use super::format::{self, Frame, Opening, RecordKind, Seal, SegmentHeader, file_name};
use super::journal::Journal;
use super::kept_entries::{DAMAGED_SUFFIX, damaged_segment_number};
use super::load::{SegmentFile, load_segments};
use super::log_start::{AppendedBatch, KnownBases, latest_base};
use super::log_summary::LogSummary;
use super::options::Options;
use super::read_positions::ReadPositions;
use super::recover::FIRST_FRAME_OFFSET;
use super::report::{Fault, RepairedDamage, Result};
use super::scan::{Scan, ScanItem, last_nonzero};
use super::sync_marker::{LogOffset, SyncMarker, SyncMarkerFile, to_fault};
use crate::codec::{self, Reader};
use crate::disk::{Disk, DiskFile};
use crate::types::{HardState, Index, Membership, NodeId, Payload, Position, SnapshotPoint, Term, Vote};
use bytes::Bytes;

/// The advice to the operator if the vote may be among the damaged records.
const VOTE_LOST: &str = "This node's vote may be lost too, so that it cannot repair itself from the other nodes: it \
could vote twice in a term. Leave it down, and replace it by an empty directory: drave member remove ID, then drave \
member add ID=HOST:PORT, then drave serve --join with an empty --data.";

/// The journal that a repair leaves.
#[derive(Debug)]
pub struct RepairedJournal {
    /// The number of the segment that the journal continues; `None` if nothing of the log was readable, and no segment is
    /// left.
    pub last_segment: Option<u64>,
    /// The number for the next new segment: above every segment number that is in use or in the sync marker.
    pub next_segment: u64,
    /// The node's hard state, with the promised position.
    pub hard_state: HardState,
    /// The note to the operator about the damage and the repair.
    pub note: String,
    /// The damage, for the node's status.
    pub damage: RepairedDamage,
}

/// What can be read of a damaged log, from its beginning on.
struct ReadableLog {
    /// The last segment with readable batches, and the offset of their end; `None` if there is none.
    end: Option<(u64, u64)>,
    /// Whether the last batch is a seal, so that another segment must follow.
    is_sealed: bool,
    /// The state after the last readable batch.
    summary: Option<LogSummary>,
    /// The batch to append after `end`, if one is needed.
    appended_batch: Option<AppendedBatch>,
}

/// What the remaining records of a damaged journal show.
struct RecordEvidence {
    /// The highest position of any record: the log reached it.
    highest_position: Position,
    /// The newest term and vote of any record, and the highest promised position.
    hard_state: HardState,
    /// The newest membership that a record names, with the index of its entry; `None` if no record names one.
    membership: Option<(Index, Membership)>,
    /// The positions at which the log began at some time.
    bases: KnownBases,
}

/// Sets the damaged part of a journal aside, so that the next start finds an intact one.
///
/// # Errors
///
/// `fault`, if the journal cannot be repaired: the vote may be lost too, or no other node has the entries. Any other
/// fault is of the repair itself.
pub fn set_damage_aside<D: Disk>(
    disk: &D,
    options: &Options,
    numbers: &[u64],
    marker: &SyncMarker,
    fault: Fault,
) -> Result<RepairedJournal> {
    let Fault::Corrupt { file, offset, description, lost, .. } = fault else { return Err(fault) };
    let files = load_segments(disk, numbers)?;
    let evidence = RecordEvidence::collect(&files, options);
    let readable_log = ReadableLog::find(&files, options, &evidence.bases)?;
    let last_readable_position = readable_log.summary.as_ref().map_or(Position::ZERO, |summary| summary.last_position);
    // Term and vote are on the disk twice. The copy in the log may be among the damaged records, and the marker may
    // have missed a write that the log has.
    let log_hard_state = readable_log
        .summary
        .as_ref()
        .map_or(evidence.hard_state, |summary| newest_hard_state(evidence.hard_state, summary.hard_state));
    let hard_state =
        marker.certain_hard_state().map(|marker_hard_state| newest_hard_state(marker_hard_state, log_hard_state));
    // Without another voter, no node has the lost entries, and the operator decides about the remaining ones. If no
    // record shows the members, a repair that was interrupted has checked them.
    let continues_repair = hard_state.is_some_and(|hard_state| hard_state.promised_position > last_readable_position);
    let may_be_repaired = match &evidence.membership {
        Some((_, members)) => has_other_voters(members, options.node),
        None => continues_repair,
    };
    if !may_be_repaired {
        return Err(Fault::Corrupt { file, offset, description, lost, advice: super::report::DAMAGE_ADVICE });
    }
    let Some(hard_state) = hard_state else {
        return Err(Fault::Corrupt { file, offset, description, lost, advice: VOTE_LOST });
    };
    let hard_state = with_proven_term(hard_state, evidence.highest_position.term, options.node);
    // Files of an earlier repair are still needed if that repair has not ended, or was interrupted.
    if hard_state.promised_position <= last_readable_position {
        remove_damaged_files(disk)?;
    }
    let promised_position = promised_position(&evidence, marker, hard_state);
    let hard_state = HardState { promised_position, ..hard_state };
    let mut marker_file = SyncMarkerFile::open(disk, options.disk, marker)?;
    // Twice, so that both slots hold it: until the log does, no other copy exists.
    marker_file.write_hard_state(&hard_state)?;
    marker_file.write_hard_state(&hard_state)?;
    let last_segment = replace_segments(disk, options, &files, &readable_log)?;
    let (segment, offset_now) = last_segment.unwrap_or_default();
    marker_file.write_offset(&LogOffset {
        boot_id: marker.boot_id(),
        segment,
        offset: offset_now,
        last_position: last_readable_position,
    })?;
    let note = format!(
        "{file}: byte {offset}: {description}; affected entries: {lost}. The log is readable up to {last_readable_position}, \
         and may have reached {promised_position}: this node gets the rest from the other nodes, and votes only for \
         logs that reach it. The damaged files have the suffix {DAMAGED_SUFFIX}"
    );
    let next_segment =
        numbers.iter().copied().max().unwrap_or(0).max(marker.log_offset.map_or(0, |end| end.segment)) + 1;
    let last_segment = last_segment.map(|(number, _)| number);
    let damage = RepairedDamage { file, offset, description, lost };
    Ok(RepairedJournal { last_segment, next_segment, hard_state, note, damage })
}

impl<D: Disk> Journal<D> {
    /// Gives up an intact log whose entries cannot be applied, because the snapshot before them is damaged or missing:
    /// the promised position reaches the end of the log, and then the log restarts after `base`. Both are durable on
    /// return. Returns the new hard state; `None` without any change if the journal is not to be repaired, or has no
    /// other voter.
    pub fn give_up_log(&mut self, base: &SnapshotPoint) -> Result<Option<HardState>> {
        if !self.options.repairs_damage || !has_other_voters(current_membership(&self.summary), self.options.node) {
            return Ok(None);
        }
        let hard_state = self.summary.hard_state;
        let promised_position = hard_state.promised_position.max(self.summary.last_position);
        let hard_state = HardState { promised_position, ..hard_state };
        self.restart(base, Some(hard_state))?;
        Ok(Some(hard_state))
    }
}

impl ReadableLog {
    /// Reads the newest run of consecutive segments that has every entry after its base, up to its first damage.
    ///
    /// A run before a gap is as good as the last one: it is the log at an earlier time.
    fn find(files: &[SegmentFile], options: &Options, bases: &KnownBases) -> Result<ReadableLog> {
        let mut runs: Vec<&[SegmentFile]> = files.chunk_by(|one, next| one.number + 1 == next.number).collect();
        while let Some(run) = runs.pop() {
            if let Some(readable_log) = ReadableLog::read(run, options, bases)? {
                return Ok(readable_log);
            }
        }
        Ok(ReadableLog { end: None, is_sealed: false, summary: None, appended_batch: None })
    }

    /// Reads a run of segments. Returns `None` if no entry can be read, or entries between the base and the first one
    /// are missing.
    fn read(run: &[SegmentFile], options: &Options, bases: &KnownBases) -> Result<Option<ReadableLog>> {
        let mut readable_log = ReadableLog { end: None, is_sealed: false, summary: None, appended_batch: None };
        let mut broken_batch = None;
        let mut state = ReaderState::before_segment(run.first().map_or(0, |file| file.number));
        let mut positions = ReadPositions::default();
        for file in run {
            let bytes = file.readable_bytes()?;
            let Some(header) = own_header(&bytes, file.number, options) else { break };
            let mut reader = BatchReader::new(bytes, header.salt(), state.clone(), 0);
            let mut is_sealed = false;
            let mut on_applied = |_: &Frame, effect| positions.apply(effect);
            while !is_sealed {
                match reader.read_batch(&mut on_applied) {
                    Ok(batch) => {
                        readable_log.end = Some((file.number, reader.offset()));
                        is_sealed = batch.frames.last().is_some_and(|frame| frame.kind == RecordKind::Seal);
                    }
                    Err(broken) => {
                        broken_batch = Some(broken);
                        break;
                    }
                }
            }
            state = reader.into_state();
            if readable_log.end.is_some_and(|(number, _)| number == file.number) {
                readable_log.is_sealed = is_sealed;
            }
            if !is_sealed {
                break;
            }
        }
        let ReaderState { next_batch_number, last_checksum, mut log } = state;
        if log.is_none() || readable_log.end.is_none() {
            return Ok(None);
        }
        let frames = broken_batch.map_or(Vec::new(), |broken| apply_intact_frames(*broken, &mut log, &mut positions));
        let Some(summary) = log else { return Ok(None) };
        let mut released_base = None;
        if summary.base.position.index.next() < positions.first_index() {
            let Some(base) = latest_base(&positions, bases) else { return Ok(None) };
            released_base = Some(base.clone());
        }
        let (batch_number, last_checksum) = (next_batch_number.unwrap_or_default(), last_checksum.unwrap_or_default());
        let appended_batch = AppendedBatch { frames, released_base, batch_number, last_checksum };
        readable_log.appended_batch = Some(appended_batch).filter(|batch| !batch.is_empty());
        readable_log.summary = Some(summary);
        Ok(Some(readable_log))
    }
}

/// Applies the records of a damaged batch before the damage to the log, and returns their frames. They are written again
/// as a batch of their own.
///
/// A batch can be large, and can replace entries: without these records, the readable log could end with entries that had
/// been replaced, and its end would not show which log it was (`docs/repair.md`, clause 6). If the frames are intact and
/// do not match their header, they may be those of an older batch, and none is used.
fn apply_intact_frames(broken: BrokenBatch, log: &mut Option<LogSummary>, positions: &mut ReadPositions) -> Vec<Frame> {
    let mut intact_frames = Vec::new();
    if broken.log_break.frames_intact {
        return intact_frames;
    }
    // The first frame is that of the batch header.
    for frame in broken.frames.into_iter().skip(1) {
        // A seal promises that another segment follows.
        let effect = if frame.kind == RecordKind::Seal { None } else { LogSummary::apply(log, &frame).ok() };
        let Some(effect) = effect else { break };
        positions.apply(effect);
        intact_frames.push(frame);
    }
    intact_frames
}

impl RecordEvidence {
    /// Reads all good frames of all files, wherever they are.
    fn collect(files: &[SegmentFile], options: &Options) -> RecordEvidence {
        let mut evidence = RecordEvidence {
            highest_position: Position::ZERO,
            hard_state: HardState::default(),
            membership: None,
            bases: KnownBases::new(),
        };
        for file in files {
            let Ok(bytes) = file.readable_bytes() else { continue };
            for item in Scan::new(bytes, format::salt(options.disk, file.number), None) {
                if let ScanItem::Frame(frame) = item {
                    evidence.add(&frame);
                }
            }
        }
        evidence
    }

    /// Adds what an intact record shows.
    fn add(&mut self, frame: &Frame) {
        let position = match frame.kind {
            RecordKind::Entry => codec::read_entry(&mut Reader::new(frame.body.clone())).ok().map(|entry| {
                if let Payload::Membership(membership) = entry.payload {
                    self.add_membership(entry.position.index, *membership);
                }
                entry.position
            }),
            RecordKind::Seal => Seal::decode(&frame.body).map(|seal| seal.last_position).ok(),
            RecordKind::Batch => frame.batch_header().map(|batch| Position::new(batch.index_range.1, batch.last_term)),
            RecordKind::Open => Opening::decode(&frame.body).ok().map(|opening| {
                self.add_membership(opening.configuration.0, opening.configuration.1);
                self.hard_state = newest_hard_state(self.hard_state, opening.hard_state);
                self.bases.insert(opening.base.position, opening.base);
                opening.last_position
            }),
            RecordKind::HardState => {
                self.hard_state = format::decode_hard_state(&frame.body)
                    .map_or(self.hard_state, |hard_state| newest_hard_state(self.hard_state, hard_state));
                None
            }
            RecordKind::Base | RecordKind::Release => {
                if let Ok(base) = format::decode_base(&frame.body) {
                    self.add_membership(base.configured, base.membership.clone());
                    self.bases.insert(base.position, base);
                }
                None
            }
        };
        self.highest_position = self.highest_position.max(position.unwrap_or_default());
    }

    fn add_membership(&mut self, index: Index, membership: Membership) {
        if self.membership.as_ref().is_none_or(|(known_index, _)| *known_index <= index) {
            self.membership = Some((index, membership));
        }
    }
}

/// The highest position that the node may have acknowledged.
///
/// A marker of the current boot names that position. An older marker may be behind, and then nothing proves where the
/// log ended: a write that was lost leaves no trace behind the records of earlier batches. So the result is after every
/// index of the node's term; no acknowledged entry is of a later term.
fn promised_position(evidence: &RecordEvidence, marker: &SyncMarker, hard_state: HardState) -> Position {
    let marker_position = marker.log_offset.map_or(Position::ZERO, |end| end.last_position);
    let highest_position = evidence.highest_position.max(marker_position).max(hard_state.promised_position);
    match marker.is_of_this_boot() {
        true => highest_position,
        false => highest_position.max(Position::new(Index(u64::MAX), hard_state.term)),
    }
}

/// The hard state, or a later term that an entry proves. Then both copies of that term are lost, and the node may have
/// voted in it: its vote is used up, for a candidate that does not exist.
fn with_proven_term(hard_state: HardState, proven_term: Term, node: NodeId) -> HardState {
    match proven_term > hard_state.term {
        true => HardState { term: proven_term, vote: Some(Vote::new(node, None)), ..hard_state },
        false => hard_state,
    }
}

/// The newest of two copies of the hard state: a copy of the same term may be from before the vote.
fn newest_hard_state(one: HardState, other: HardState) -> HardState {
    let promised_position = one.promised_position.max(other.promised_position);
    let newer = if (other.term, other.vote.is_some()) > (one.term, one.vote.is_some()) { other } else { one };
    HardState { promised_position, ..newer }
}

/// Replaces the damaged segment by its readable part and sets it and all later segments aside. Returns the segment that
/// the journal continues and the offset of its end; `None` if nothing was readable.
fn replace_segments<D: Disk>(
    disk: &D,
    options: &Options,
    files: &[SegmentFile],
    readable_log: &ReadableLog,
) -> Result<Option<(u64, u64)>> {
    if readable_log.appended_batch.is_none() && is_only_short(files, readable_log) {
        return Ok(readable_log.end);
    }
    let mut continued_segment = match readable_log.end {
        // Another segment must follow a seal.
        Some((number, _)) if readable_log.is_sealed => Some((number + 1, FIRST_FRAME_OFFSET)),
        end => end,
    };
    if let Some((number, end)) = continued_segment {
        let file = files.iter().find(|file| file.number == number);
        let header = super::journal::segment_header(options, number, 0);
        let bytes = match file.map(SegmentFile::readable_bytes).transpose()? {
            // A file that was cut within the padding of its last record is shorter than that record's end.
            Some(bytes) if end > FIRST_FRAME_OFFSET => bytes.slice(..bytes.len().min(end as usize)),
            _ => Bytes::copy_from_slice(&header.encode()),
        };
        let bytes = match (&readable_log.appended_batch, &readable_log.summary) {
            (Some(batch), Some(summary)) => batch.append_to(&bytes, &header, end, summary),
            _ => bytes,
        };
        let end = end.max(bytes.len() as u64);
        continued_segment = Some((number, end));
        let size = file.map_or(0, SegmentFile::size).max(options.segment_bytes).max(end);
        let (name, tmp) = (file_name(number), format!("{}.tmp", file_name(number)));
        if disk.list().map_err(to_fault("list", "the journal"))?.contains(&tmp) {
            // The file is left from an interrupted repair.
            disk.remove(&tmp).map_err(to_fault("remove", &tmp))?;
        }
        let mut copy = disk.create(&tmp).map_err(to_fault("create", &tmp))?;
        copy.allocate(size).map_err(to_fault("allocate", &tmp))?;
        copy.write_at(0, &bytes).map_err(to_fault("write", &tmp))?;
        copy.sync_all().map_err(to_fault("sync", &tmp))?;
        if file.is_some() {
            set_segment_aside(disk, number)?;
            // Of two unsynced renames, only the second may survive a power loss: it would replace the damaged file.
            sync_names(disk)?;
        }
        disk.rename(&tmp, &name).map_err(to_fault("rename", &tmp))?;
    }
    let first_damaged_number = continued_segment.map_or(0, |(number, _)| number + 1);
    for file in files.iter().filter(|file| file.number >= first_damaged_number) {
        set_segment_aside(disk, file.number)?;
    }
    sync_names(disk)?;
    Ok(continued_segment)
}

/// Whether no byte of the log is damaged: only the sync marker shows that more had been written, as after a repair that
/// was interrupted.
fn is_only_short(files: &[SegmentFile], readable_log: &ReadableLog) -> bool {
    let (Some((number, end)), Some(last_file)) = (readable_log.end, files.last()) else { return false };
    last_file.number == number
        && !readable_log.is_sealed
        && matches!(last_file.media_error(), Ok(None))
        && last_file.readable_bytes().is_ok_and(|bytes| last_nonzero(&bytes, end).is_none())
}

fn sync_names<D: Disk>(disk: &D) -> Result<()> {
    disk.sync_names().map_err(to_fault("sync the directory of", "the journal"))
}

/// Gives a segment the suffix of damaged files, and a number if the name is taken: both files may have records that the
/// other one lacks.
fn set_segment_aside<D: Disk>(disk: &D, number: u64) -> Result<()> {
    let names = disk.list().map_err(to_fault("list", "the journal"))?;
    let name = file_name(number);
    let mut damaged_name = format!("{name}{DAMAGED_SUFFIX}");
    for nth in 2.. {
        if !names.contains(&damaged_name) {
            break;
        }
        damaged_name = format!("{name}{DAMAGED_SUFFIX}-{nth}");
    }
    disk.rename(&name, &damaged_name).map_err(to_fault("rename", &name))
}

/// The names of the files that repairs have set aside.
fn damaged_names<D: Disk>(disk: &D) -> Result<Vec<String>> {
    let names = disk.list().map_err(to_fault("list", "the journal"))?;
    Ok(names.into_iter().filter(|name| damaged_segment_number(name).is_some()).collect())
}

/// Removes the files that earlier repairs have set aside, so that they do not accumulate.
fn remove_damaged_files<D: Disk>(disk: &D) -> Result<()> {
    for name in damaged_names(disk)? {
        disk.remove(&name).map_err(to_fault("remove", &name))?;
    }
    sync_names(disk)
}

/// The header of a segment, if it is intact and of this journal.
fn own_header(bytes: &Bytes, number: u64, options: &Options) -> Option<SegmentHeader> {
    let header = SegmentHeader::decode(bytes).ok()?;
    let own_ids = (options.node, options.cluster, options.disk, number);
    Some(header).filter(|header| (header.node, header.cluster, header.disk, header.number) == own_ids)
}

/// The latest configuration of a log.
fn current_membership(summary: &LogSummary) -> &Membership {
    summary.configurations.last().map_or(&summary.base.membership, |(_, membership)| membership)
}

fn has_other_voters(membership: &Membership, node: NodeId) -> bool {
    membership.all_voters().any(|id| id != node)
}
