//! The writer of the log, on the log thread: appends, syncs, rotates and releases segments.
//!
//! A disk error is final. After one, the journal rejects every call: it is unknown which bytes reached the disk, and a
//! retry would not show it. A full disk is no such error: [`Journal::reserve_room`] reports it before anything is
//! written.
//!
//! Three rules shape this file. *Order*: records reach the disk in the order in which consensus made them, because a
//! later record may depend on an earlier one, such as an entry on the vote that made its author leader. *No retry*:
//! Linux marks pages clean after a failed write-back, so that a second `fsync` succeeds although the data never reached
//! the disk (cockroach#37102, WiredTiger WT-4045). *Space first*: the one foreseeable error, a full disk, is found
//! before anything is written.

use super::ballast::Ballast;
use super::format::{self, BATCH_FRAME_BYTES, BatchHeader, RECYCLED_FLAG, RecordKind, Seal, SegmentHeader, file_name};
use super::log_summary::LogSummary;
use super::newer_format::check_write;
use super::options::Options;
use super::report::{Fault, Report, Result, SealedSegment};
use super::segment::Segment;
use super::spare::{Spare, SpareOrder, TMP_SUFFIX};
use super::sync_marker::{LogOffset, SyncMarkerFile, to_fault};
use super::task::Task;
use crate::codec;
use crate::disk::{Disk, DiskFile};
use crate::limits::ENTRY_BYTES_MAX;
use crate::types::{HardState, Index, Mutant, Mutants, Payload, SnapshotPoint, Write, WriteId};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

/// The used part of a segment, in percent, at which the next spare is ordered. The other half leaves time to prepare
/// the spare in the background. A late spare costs little: the journal then makes the file itself.
const SPARE_ORDER_PERCENT: u64 = 50;
/// Maximum number of spares, recycled segments included.
pub(super) const SPARES_MAX: usize = 2;

/// The journal of one node.
///
/// Invariants: a batch begins only after the previous batch is synced; a segment is written to only after the previous
/// segment is sealed and synced, and after the name of its own file is durable.
///
/// Recovery relies on the first invariant. A good batch proves that every byte before it was synced, so damage before a
/// good batch is lost data and never a torn write. If a batch could begin while the one before it is being synced, as
/// in a journal with several syncs in flight, the two cases would look the same.
#[derive(Debug)]
pub struct Journal<D: Disk> {
    pub(super) disk: D,
    pub(super) options: Options,
    pub(super) boot_id: u64,
    pub(super) segment_file: D::File,
    pub(super) segment: Segment,
    pub(super) older_segments: VecDeque<OlderSegment>,
    pub(super) summary: LogSummary,
    pub(super) batch_number: u64,
    /// Whether a piece of the current batch is in the file and its header announces more pieces.
    pub(super) batch_open: bool,
    /// Whether anything was appended since the last sync.
    pub(super) dirty: bool,
    /// Whether a synced batch header records that everything before it was synced.
    pub(super) sync_recorded_in_log: bool,
    // The segment number and offset up to which a sync has returned, for the next batch header and the sync marker.
    pub(super) synced_end: (u64, u64),
    pub(super) sync_marker: SyncMarkerFile<D::File>,
    // The hard state in the sync marker. Only a new term or vote changes the hard state, and costs a second sync.
    pub(super) marker_hard_state: Option<HardState>,
    pub(super) spares: VecDeque<Spare<D::File>>,
    pub(super) reserve: Option<Ballast<D>>,
    // The id of the last write that was appended, which the next sync makes durable. Ids begin anew with each process.
    pub(super) last_appended: WriteId,
    pub(super) next_report: Report,
    /// [`Report::room_bytes`] in the last report.
    pub(super) reported_room_bytes: u64,
    pub(super) poisoned: bool,
}

/// A sealed segment whose file still exists under its name.
#[derive(Debug)]
pub(super) struct OlderSegment {
    pub(super) number: u64,
    pub(super) bytes: u64,
    /// The last index in the segment that still belongs to the log.
    ///
    /// This index may be below the last index in the file: a follower may have replaced the last entries, and then the
    /// file can be removed as soon as the smaller index is released.
    pub(super) last_live_index: Index,
    /// Counts the readers that hold the mapping: the reactor's view, and messages in flight.
    ///
    /// A recycled file is written to, and a reader would see its entries change. So a file with readers is removed
    /// instead: their mapping stays valid.
    pub(super) mapping_readers: Weak<()>,
}

/// A mapping with a reference count of its readers.
struct CountedMapping {
    bytes: Bytes,
    _reader_count: Arc<()>,
}

impl AsRef<[u8]> for CountedMapping {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

pub(super) fn track_mapping(bytes: Bytes) -> (Bytes, Weak<()>) {
    let reader_count = Arc::new(());
    let weak_count = Arc::downgrade(&reader_count);
    (Bytes::from_owner(CountedMapping { bytes, _reader_count: reader_count }), weak_count)
}

impl<D: Disk> Journal<D> {
    /// Appends a write to the buffer. The next [`Journal::sync`] makes it durable.
    ///
    /// Writes are collected in the buffer, so that many small entries cost one system call. Only a buffer above
    /// [`Options::batch_bytes`] is written to the file early, which bounds memory while a follower catches up.
    pub fn append(&mut self, write: &Write) -> Result<()> {
        self.check_usable()?;
        let outcome = self.append_records(write);
        self.poison_on_error(outcome)
    }

    /// Makes all appended writes durable with one sync, and returns a report of the sync.
    pub fn sync(&mut self) -> Result<Report> {
        self.check_usable()?;
        let outcome = if self.dirty { self.sync_and_record() } else { Ok(()) };
        self.poison_on_error(outcome)?;
        assert!(!self.dirty, "a write is reported as durable only after a sync (safety rule: durable before visible)");
        self.next_report.last_durable = self.last_appended;
        // If the free space cannot be read, the next write reports the disk's error.
        self.next_report.room_bytes = self.appendable_bytes().unwrap_or(self.reported_room_bytes);
        self.reported_room_bytes = self.next_report.room_bytes;
        Ok(std::mem::replace(&mut self.next_report, Report::empty()))
    }

    /// Returns a report if [`Report::room_bytes`] has changed since the last report. To be called when the log thread
    /// is idle: other processes may fill the disk or free space on it.
    pub fn check_space(&mut self) -> Result<Option<Report>> {
        self.check_usable()?;
        if self.appendable_bytes()? == self.reported_room_bytes { Ok(None) } else { self.sync().map(Some) }
    }

    /// The number of bytes that can still be appended, to this segment and to as many others as the spares, the free
    /// disk space and the reserve allow. The end of each segment is not counted: the next entry may not fit there.
    fn appendable_bytes(&self) -> Result<u64> {
        let name = file_name(self.segment.number);
        let free_bytes = self.disk.free_bytes().map_err(to_fault("check the free disk space for", &name))?;
        let usable_bytes = free_bytes.saturating_add(self.reserve.as_ref().map_or(0, Ballast::measured_size));
        let segment_bytes = self.options.segment_bytes;
        let new_segment_count = self.spares.len() as u64 + usable_bytes / segment_bytes.max(1);
        let unusable_bytes = ENTRY_BYTES_MAX.min(segment_bytes / 2);
        let current_segment_room_bytes = self.segment.unused_bytes().saturating_sub(unusable_bytes);
        Ok(current_segment_room_bytes.saturating_add(new_segment_count.saturating_mul(segment_bytes - unusable_bytes)))
    }

    /// Records in the log itself that everything was synced, so that damage to the last batch cannot be mistaken for a
    /// torn batch. To be called when the log thread is idle.
    ///
    /// The record is an empty batch. Without it, and without the sync marker after a power loss, a flipped bit in the
    /// last batch would look like a torn write, and recovery would cut off acknowledged entries. An empty batch costs a
    /// sync itself, so none is written while the log is busy: then the next batch is the evidence.
    pub fn confirm_sync(&mut self) -> Result<()> {
        self.check_usable()?;
        if self.sync_recorded_in_log && !self.dirty {
            return Ok(());
        }
        if let Err(Fault::Full { .. }) = self.reserve_bytes(0) {
            // The record is optional, so a full disk is no fault here.
            return Ok(());
        }
        let outcome = self.record_sync_in_log();
        self.poison_on_error(outcome)
    }

    /// The order for the next segment's file, if an order is due. The same order is returned until
    /// [`Journal::add_spare`] is called: the caller must remember whether the file is being made.
    pub fn next_spare_order(&self) -> Option<SpareOrder> {
        let is_due = self.spares.is_empty() && !self.poisoned && self.segment.percent_used() >= SPARE_ORDER_PERCENT;
        is_due.then(|| SpareOrder {
            name_prefix: format!("spare-{:010}", self.segment.number + 1),
            bytes: self.options.segment_bytes,
        })
    }

    /// Adds a finished spare, which the next rotation uses.
    pub fn add_spare(&mut self, spare: Spare<D::File>) {
        // A late spare, after the journal had to make a file itself, is used for the segment after that.
        if self.spares.len() < SPARES_MAX {
            self.spares.push_back(spare);
        } else if let Err(error) = self.disk.remove(&spare.name) {
            // The spare's name ends in `.tmp`, so the next start removes the file.
            log::debug!("cannot remove the surplus spare {}: {error}", spare.name);
        }
    }

    /// Reserves space for a task before the task writes anything, and removes the reserve if the disk has no other
    /// space. Returns [`Fault::Full`] if the space is not enough: then nothing has changed, and the caller may retry.
    ///
    /// The alternative, to undo a write that did not fit, needs more writes on a full disk. A crash before the undo
    /// leaves a partial record, to which later records are appended (cockroach#32631, prometheus#13027).
    pub fn reserve_room(&mut self, task: &Task) -> Result<()> {
        self.check_usable()?;
        let bytes = match task {
            Task::Write(write) => frames_size(write),
            Task::Release { .. } => format::frame_size(opening_body_bytes(&self.summary)),
        };
        // Each piece of a batch has a header of its own.
        let piece_count = bytes / self.options.batch_bytes + 1;
        self.reserve_bytes(bytes + piece_count * BATCH_FRAME_BYTES)
    }

    /// Reserves whole segments: a file's space is allocated when it is made, so a later write to it cannot meet a full
    /// disk. After a failure, the spares made so far are kept for the caller's retry.
    fn reserve_bytes(&mut self, bytes: usize) -> Result<()> {
        if self.segment.fits(bytes) {
            return Ok(());
        }
        // An entry is never split, so the end of each segment may be too short for the next entry and stay unused.
        let segment_count = (bytes as u64).div_ceil(self.options.segment_bytes / 2);
        let needed_bytes = Segment::size_for(opening_body_bytes(&self.summary), 0).max(self.options.segment_bytes);
        while (self.spares.len() as u64) < segment_count {
            let order =
                SpareOrder { name_prefix: format!("needed-{:010}", self.segment.number + 1), bytes: needed_bytes };
            let spare = self.reserve_segment(&order)?;
            self.spares.push_back(spare);
        }
        Ok(())
    }

    /// Sets the reserve, which is removed when the disk has no space for the next segment. A new journal has none.
    pub fn set_reserve(&mut self, reserve: Ballast<D>) {
        self.reserve = Some(reserve);
    }

    /// Restarts the log after `base`, durably, because a snapshot holds everything before it. Also sets term and vote
    /// if `hard_state` is given.
    ///
    /// Only for a start, when the snapshot is ahead of the log or contradicts it (§7). A running node appends a
    /// [`Write`] with a base instead, in the order of its other writes.
    pub fn restart(&mut self, base: &SnapshotPoint, hard_state: Option<HardState>) -> Result<()> {
        self.check_usable()?;
        let write = Write { id: self.last_appended, hard_state, base: Some(base.clone()), entries: Vec::new() };
        let outcome = self.append_records(&write).and_then(|()| self.sync_and_record());
        self.poison_on_error(outcome)
    }

    /// The rules that a test breaks on purpose; none in production.
    pub fn mutants(&self) -> Mutants {
        self.options.mutants
    }

    pub(super) fn check_usable(&self) -> Result<()> {
        if !self.poisoned {
            return Ok(());
        }
        let source = std::io::Error::other("an earlier write or sync of the log failed");
        Err(Fault::Io { action: "use", file: file_name(self.segment.number), source })
    }

    /// Poisons the journal if `outcome` is an error, and checks the invariants otherwise. Each public call that writes
    /// ends with this function, so that no write fails halfway unnoticed.
    pub(super) fn poison_on_error<T>(&mut self, outcome: Result<T>) -> Result<T> {
        self.poisoned |= outcome.is_err();
        self.check_invariants();
        outcome
    }

    fn append_records(&mut self, write: &Write) -> Result<()> {
        assert!(write.id >= self.last_appended, "write ids never decrease, so a durable id covers all earlier writes");
        assert!(
            write.hard_state.is_some() || write.base.is_some() || !write.entries.is_empty(),
            "no write is empty: it would use up a batch number, and the next start would miss that batch"
        );
        check_write(write, self.options.feature_level_max, self.options.mutants)?;
        (self.dirty, self.last_appended) = (true, write.id);
        // Recovery applies records in file order. The hard state comes first: a rotation may make it durable alone, and a
        // log without its entries must not be durable without the promise for them. A base removes all entries.
        if let Some(hard_state) = &write.hard_state {
            self.append_hard_state(hard_state)?;
        }
        if let Some(base) = &write.base {
            let mut body = Vec::new();
            format::encode_base(&mut body, base);
            self.ensure_room(body.len())?;
            self.segment.add_frame(RecordKind::Base, self.batch_number, |out| out.extend_from_slice(&body));
            self.summary.restart(base.clone());
            self.segment.sparse_index.clear();
            // No entry of an older segment belongs to the log any more, whatever its index (§7).
            self.mark_entries_replaced_from(Index::ZERO);
        }
        for entry in &write.entries {
            assert!(
                entry.position.index <= self.summary.last_position.index.next() && entry.position.index != Index::ZERO,
                "the index of an appended entry is at most one above the last index: a log has no gaps"
            );
            assert!(
                entry.position.index > self.summary.base.position.index,
                "an appended entry is after the base: the entries up to the base were committed (§5.4)"
            );
            self.ensure_room(codec::entry_size(entry))?;
            self.segment.add_entry(self.batch_number, entry.position, |out| codec::put_entry(out, entry));
            if entry.position.index != self.summary.last_position.index.next() {
                self.mark_entries_replaced_from(entry.position.index);
            }
            let membership = match &entry.payload {
                Payload::Membership(membership) => Some(&**membership),
                _ => None,
            };
            self.summary.append(entry.position, entry.time, membership);
            self.next_report.entry_count += 1;
            // A batch above `batch_bytes` is written in pieces with the same batch number. Recovery keeps the complete
            // pieces of a batch that a crash interrupted: they are a prefix of what consensus wrote, which Raft
            // permits, since none of it was acknowledged.
            if self.segment.buffered_bytes() >= self.options.batch_bytes {
                self.write_batch(true)?;
            }
        }
        Ok(())
    }

    /// Records that older segments hold no live entry from `index` on.
    fn mark_entries_replaced_from(&mut self, index: Index) {
        for older in &mut self.older_segments {
            older.last_live_index = older.last_live_index.min(index.prev());
        }
    }

    pub(super) fn append_hard_state(&mut self, hard_state: &HardState) -> Result<()> {
        let mut body = Vec::new();
        format::encode_hard_state(&mut body, hard_state);
        self.ensure_room(body.len())?;
        self.segment.add_frame(RecordKind::HardState, self.batch_number, |out| out.extend_from_slice(&body));
        self.summary.hard_state = *hard_state;
        self.dirty = true;
        Ok(())
    }

    /// Writes the buffered frames as a batch, or as a piece of a batch if `has_more_pieces` is set.
    fn write_batch(&mut self, has_more_pieces: bool) -> Result<()> {
        let header = BatchHeader {
            number: self.batch_number,
            has_more_pieces,
            synced_end: self.synced_end,
            boot_id: self.boot_id,
            ..BatchHeader::default()
        };
        let at = self.segment.written_end;
        assert!(!self.poisoned, "nothing is written after a failed write or sync: a retry proves nothing");
        assert!(
            self.synced_end <= (self.segment.number, at),
            "a batch is written at or after the synced end: synced bytes are never overwritten"
        );
        let bytes = self.segment.finish_batch(header);
        self.next_report.written_bytes += bytes.len() as u64;
        self.segment_file.write_at(at, bytes).map_err(to_fault("write", &file_name(self.segment.number)))?;
        self.segment.mark_written();
        self.batch_open = has_more_pieces;
        Ok(())
    }

    /// Writes the buffered frames and syncs the file.
    ///
    /// An open batch is closed even if the buffer is empty: without its last piece, recovery would take the number of
    /// the next batch for a gap.
    ///
    /// The seal may extend the file. A start takes over a file of any size: one that was cut, or one whose last record is
    /// the release that a repair has appended, may have no room for the seal.
    fn sync_segment(&mut self) -> Result<()> {
        if self.segment.buffered_bytes() > 0 || self.batch_open {
            self.write_batch(false)?;
        }
        let extends_file = self.segment.written_end > self.segment.capacity();
        if !self.options.mutants.breaks(Mutant::SkipSync) {
            let sync = |file: &mut D::File| match extends_file {
                false => file.sync(),
                true => file.sync_all(),
            };
            let outcome = match sync(&mut self.segment_file) {
                Err(_) if self.options.mutants.breaks(Mutant::RetryFailedSync) => sync(&mut self.segment_file),
                outcome => outcome,
            };
            outcome.map_err(to_fault("sync", &file_name(self.segment.number)))?;
        }
        assert!(
            !self.batch_open && self.segment.buffered_bytes() == 0,
            "a sync leaves neither an open batch nor a buffered frame"
        );
        self.synced_end = (self.segment.number, self.segment.written_end);
        self.batch_number += 1;
        Ok(())
    }

    /// Makes everything appended durable, and records the sync in the sync marker.
    ///
    /// The marker is written last. A marker that is written before the sync returned could name bytes that a power loss
    /// then destroys, and a start would reject a disk on which nothing acknowledged is lost.
    pub(super) fn sync_and_record(&mut self) -> Result<()> {
        self.sync_segment()?;
        self.dirty = false;
        self.sync_recorded_in_log = false;
        self.write_sync_marker()
    }

    fn record_sync_in_log(&mut self) -> Result<()> {
        if self.dirty {
            self.sync_and_record()?;
        }
        if self.segment.fits(0) {
            // The header of an empty batch records what was synced before it.
            self.write_batch(false)?;
        } else {
            self.rotate_segment(0)?;
        }
        self.sync_and_record()?;
        self.sync_recorded_in_log = true;
        Ok(())
    }

    /// Writes the durable hard state and offset to the sync marker.
    ///
    /// The hard state is synced and the offset is not: a lost vote lets a node vote twice in a term (§5.2), while a
    /// lost offset is only missing evidence. A sync of the offset would double the syncs of each write.
    pub(super) fn write_sync_marker(&mut self) -> Result<()> {
        let hard_state = self.summary.hard_state;
        if self.marker_hard_state != Some(hard_state) {
            self.sync_marker.write_hard_state(&hard_state)?;
            self.marker_hard_state = Some(hard_state);
        }
        assert!(!self.dirty, "the sync marker is written only when everything appended is synced");
        let ((segment, offset), last_position) = (self.synced_end, self.summary.last_position);
        self.sync_marker.write_offset(&LogOffset { boot_id: self.boot_id, segment, offset, last_position })
    }

    pub(super) fn ensure_room(&mut self, body_bytes: usize) -> Result<()> {
        if self.segment.fits(body_bytes) { Ok(()) } else { self.rotate_segment(body_bytes) }
    }

    /// Seals the segment and begins the next one.
    ///
    /// 1. the next segment's header is written and synced, and its name made durable
    /// 2. the seal, which names that segment, is written and synced
    /// 3. the opening record and all that follows are buffered for the new segment
    ///
    /// In this order, recovery can continue after a crash at any step. After step 1, the segment before has no seal and
    /// the new one has no records: recovery removes the new one, which was never used. After step 2, the seal names a
    /// file that exists. The reverse order could leave a seal without a successor, which looks exactly like a lost
    /// file.
    fn rotate_segment(&mut self, body_bytes: usize) -> Result<()> {
        let successor = self.segment.number + 1;
        let bytes = Segment::size_for(opening_body_bytes(&self.summary), body_bytes).max(self.options.segment_bytes);
        let fitting_spare = self.spares.iter().position(|spare| spare.bytes >= bytes);
        let spare = match fitting_spare.and_then(|at| self.spares.remove(at)) {
            Some(spare) => spare,
            None => self.reserve_segment(&SpareOrder { name_prefix: format!("needed-{successor:010}"), bytes })?,
        };
        let header = segment_header(&self.options, successor, if spare.is_recycled { RECYCLED_FLAG } else { 0 });
        let skip_name_sync = self.options.mutants.breaks(Mutant::SkipNameSync);
        let (file, capacity) = activate_segment(&self.disk, spare, &header, skip_name_sync)?;

        let seal = Seal { successor_number: successor, last_position: self.summary.last_position };
        self.segment.add_frame(RecordKind::Seal, self.batch_number, |out| seal.encode(out));
        self.sync_segment()?;
        self.map_sealed_segment()?;

        assert_eq!(
            self.synced_end,
            (self.segment.number, self.segment.written_end),
            "a new segment begins only after the segment before it is synced up to its seal"
        );
        self.segment = self.segment.successor(&header, capacity);
        self.segment_file = file;
        self.append_opening();
        assert!(self.segment.fits(body_bytes), "a new segment has space for the frame that caused the rotation");
        Ok(())
    }

    /// Makes a file for the next segment, and removes the reserve if the disk has no other space.
    ///
    /// The file's space is allocated, and no zeros are written: 64 MiB of zeros on the log thread would delay every
    /// write of this node, and on a follower could cost the leader its quorum.
    fn reserve_segment(&self, order: &SpareOrder) -> Result<Spare<D::File>> {
        match (order.reserve(&self.disk), &self.reserve) {
            (Err(Fault::Full { file }), Some(reserve)) if reserve.remove_for_log()? => {
                log::warn!("no space left for {file}: the reserve is freed for it");
                order.reserve(&self.disk)
            }
            (outcome, _) => outcome,
        }
    }

    /// Maps the sealed segment for reading and adds it to the report.
    ///
    /// The mapping is made after the last write to the file and its sync: readers must not see unsynced bytes.
    fn map_sealed_segment(&mut self) -> Result<()> {
        let number = self.segment.number;
        let name = file_name(number);
        let (bytes, mapping_readers) = track_mapping(self.disk.map(&name).map_err(to_fault("map", &name))?);
        let (first, last) = self.segment.sparse_index.index_range().unwrap_or((Index(1), Index::ZERO));
        let older = OlderSegment { number, bytes: self.segment.capacity(), last_live_index: last, mapping_readers };
        self.older_segments.push_back(older);
        let sparse_index = self.segment.sparse_index.to_shared_entries();
        let sealed = SealedSegment { segment: number, index_range: first..=last, sparse_index, bytes };
        self.next_report.sealed_segments.push(sealed);
        Ok(())
    }
}

pub(super) fn segment_header(options: &Options, number: u64, flags: u32) -> SegmentHeader {
    SegmentHeader { flags, cluster: options.cluster, node: options.node, disk: options.disk, number }
}

/// The size in bytes of all frames of a write.
fn frames_size(write: &Write) -> usize {
    let base_bytes = write.base.as_ref().map_or(0, |base| {
        let mut body = Vec::new();
        format::encode_base(&mut body, base);
        format::frame_size(body.len())
    });
    let hard_state_bytes = write.hard_state.as_ref().map_or(0, |hard_state| {
        let mut body = Vec::new();
        format::encode_hard_state(&mut body, hard_state);
        format::frame_size(body.len())
    });
    let entry_bytes: usize = write.entries.iter().map(|entry| format::frame_size(codec::entry_size(entry))).sum();
    base_bytes + hard_state_bytes + entry_bytes
}

pub(super) fn opening_body_bytes(summary: &LogSummary) -> usize {
    let mut body = Vec::new();
    summary.opening().encode(&mut body);
    body.len()
}

/// Turns a spare into a segment: writes the header, syncs the file, renames it, and syncs the directory. Only then may
/// records be written to it.
///
/// `sync_all` and not `sync`, because the size of a reserved file may not be durable yet. The directory is synced last:
/// a record in a file whose name a power loss removes is lost too.
pub(super) fn activate_segment<D: Disk>(
    disk: &D,
    spare: Spare<D::File>,
    header: &SegmentHeader,
    skip_name_sync: bool,
) -> Result<(D::File, u64)> {
    let name = file_name(header.number);
    assert!(spare.name.ends_with(TMP_SUFFIX), "only a spare, whose name ends in `.tmp`, becomes a segment");
    let Spare { name: spare, mut file, bytes, .. } = spare;
    file.write_at(0, &header.encode()).map_err(to_fault("write", &name))?;
    file.sync_all().map_err(to_fault("sync", &name))?;
    disk.rename(&spare, &name).map_err(to_fault("rename", &name))?;
    if !skip_name_sync {
        disk.sync_names().map_err(to_fault("sync the directory of", &name))?;
    }
    Ok((file, bytes))
}
