//! The writer of the log, on the log thread: appends, syncs, rotates and releases segments.
//!
//! A disk error is final. After one, the journal rejects every call: it is unknown which bytes reached the disk, and a
//! retry would not show it. A full disk need not cause a failure: [`Journal::provide`] reports it before anything is
//! written.
//!
//! Three rules shape this file. *Order*: records reach the disk in the order in which consensus made them, because a
//! later record may depend on an earlier one, such as an entry on the vote that made its author leader. *No retry*:
//! Linux marks pages clean after a failed write-back, so that a second `fsync` succeeds although the data never reached
//! the disk (cockroach#37102, WiredTiger WT-4045). *Room first*: the one foreseeable error, a full disk, is found while
//! nothing is half written.

use super::ballast::Ballast;
use super::format::{self, BATCH_FRAME, Batch, RECYCLED, RecordKind, Seal, SegmentHeader, file_name};
use super::log_summary::LogSummary;
use super::options::Options;
use super::report::{Fault, Report, Result, Sealed};
use super::segment::Segment;
use super::spare::{SUFFIX, Spare, SpareOrder};
use super::sync_marker::{LogOffset, SyncMarkerFile, io};
use super::task::Task;
use crate::codec;
use crate::disk::{Disk, DiskFile};
use crate::limits::ENTRY_BYTES_MAX;
use crate::types::{HardState, Index, Mutant, Mutants, Payload, Position, SnapshotPoint, Write, WriteId};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How full a segment is, in percent, when a spare is ordered: early enough to prepare it without haste, and never on a
/// node that writes little. A spare that comes late costs little.
const SPARE_AT: u64 = 50;
/// Maximum number of spares: released segments that are kept, together with the ordered one.
const SPARES: usize = 2;

/// The journal of one node.
///
/// Invariants: a batch begins only after the previous batch is synced; a segment is written to only after the previous
/// segment is sealed and synced, and after the name of its own file is durable.
///
/// The first invariant is what recovery lives on. A good batch proves that every byte before it was synced, so damage
/// before a good batch is loss and never a torn write. If a batch could begin while the one before it is being synced,
/// as in a journal with several syncs in flight, the two cases would look the same.
///
/// One field each tracks a different debt: `dirty` is owed a sync, `open` is owed the end of a batch, and
/// `sync_recorded` is false as long as the log itself does not state its last sync.
#[derive(Debug)]
pub struct Journal<D: Disk> {
    pub(super) disk: D,
    pub(super) options: Options,
    pub(super) boot: u64,
    pub(super) file: D::File,
    pub(super) segment: Segment,
    pub(super) older: VecDeque<Older>,
    pub(super) summary: LogSummary,
    pub(super) batch: u64,
    /// Whether a piece of the current batch is in the file and its header announces more pieces.
    pub(super) open: bool,
    /// Whether anything was appended since the last sync.
    pub(super) dirty: bool,
    /// Whether a synced batch header records that everything before it was synced.
    pub(super) sync_recorded: bool,
    // Segment and offset up to which a sync has returned. The next batch header states it, and so does the sync marker.
    pub(super) synced: (u64, u64),
    pub(super) side: SyncMarkerFile<D::File>,
    // The hard state in the sync marker. It changes with elections only, and only then costs a second sync.
    pub(super) mirrored: Option<HardState>,
    pub(super) spares: VecDeque<Spare<D::File>>,
    pub(super) reserve: Option<Ballast<D>>,
    // The last write that was appended: after the next sync it is the durable one. Ids begin anew with each process.
    pub(super) appended: WriteId,
    pub(super) report: Report,
    /// The room in the last report, in bytes.
    pub(super) reported_room: u64,
    pub(super) poisoned: bool,
}

/// A sealed segment whose file still exists.
#[derive(Debug)]
pub(super) struct Older {
    pub(super) number: u64,
    pub(super) bytes: u64,
    /// Its last index that still belongs to the log.
    ///
    /// Not its last index in the file: a follower may have replaced the last entries, in this segment or in a later
    /// one, and then the file can go as soon as the smaller index is released.
    pub(super) live: Index,
    /// Dead once no reader holds the mapping any more.
    ///
    /// The reactor's view and messages under way share the mapping. A recycled file is written to, and a reader would
    /// see its entries change, so a file with readers is removed instead: the mapping keeps the removed file alive.
    pub(super) mapped: Weak<()>,
}

/// A mapping with a reference count that shows when it is unused.
struct LeasedMapping {
    bytes: Bytes,
    _alive: Arc<()>,
}

impl AsRef<[u8]> for LeasedMapping {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

pub(super) fn track_mapping(bytes: Bytes) -> (Bytes, Weak<()>) {
    let alive = Arc::new(());
    let watch = Arc::downgrade(&alive);
    (Bytes::from_owner(LeasedMapping { bytes, _alive: alive }), watch)
}

impl<D: Disk> Journal<D> {
    /// Appends a write to the buffer, and to the file if the buffer is large. Not yet durable.
    ///
    /// A write is buffered whole before it is written, so that a batch of many small entries costs one system call.
    /// Only a buffer above [`Options::batch_bytes`] is written early, which bounds memory while a follower catches up.
    pub fn append(&mut self, write: &Write) -> Result<()> {
        self.guard()?;
        let outcome = self.put(write);
        self.latch(outcome)
    }

    /// Makes everything that was appended durable, with one sync, and reports it.
    pub fn sync(&mut self) -> Result<Report> {
        self.guard()?;
        let outcome = if self.dirty { self.settle() } else { Ok(()) };
        self.latch(outcome)?;
        assert!(!self.dirty, "a write is reported as durable only after a sync (safety rule: durable before visible)");
        self.report.durable = self.appended;
        // A disk error here is left for the next write to report.
        self.report.room = self.room().unwrap_or(self.reported_room);
        self.reported_room = self.report.room;
        Ok(std::mem::replace(&mut self.report, empty_report()))
    }

    /// Returns a report if the room has changed since the last one. To be called when the log thread is idle: other
    /// processes may fill the disk or free space on it.
    pub fn check_space(&mut self) -> Result<Option<Report>> {
        self.guard()?;
        if self.room()? == self.reported_room { Ok(None) } else { self.sync().map(Some) }
    }

    /// How many bytes the log can still take: the rest of the segment, plus all segments that the disk has room for
    /// once the reserve is removed. The end of each segment is not counted, because the next entry may not fit there.
    fn room(&self) -> Result<u64> {
        let free = self.disk.free().map_err(io("check the free disk space for", &file_name(self.segment.number)))?;
        let disk = free.saturating_add(self.reserve.as_ref().map_or(0, Ballast::seen));
        let size = self.options.segment_bytes;
        let segments = self.spares.len() as u64 + disk / size.max(1);
        let end = ENTRY_BYTES_MAX.min(size / 2);
        Ok(self.segment.left().saturating_sub(end).saturating_add(segments.saturating_mul(size - end)))
    }

    /// Records in the log itself that everything was synced, so that damage to the last batch cannot be mistaken for a
    /// torn batch. To be called when the log thread is idle.
    ///
    /// Without it, the last batch before a quiet time would be the weak spot of the format: after a power loss that
    /// also takes the sync marker, a flipped bit in it looks like a write that was torn, and recovery would cut off
    /// acknowledged entries. An empty batch behind it is evidence. It is not written after each sync, because it costs
    /// a sync itself; a busy log needs none, as the next batch is the evidence.
    pub fn confirm(&mut self) -> Result<()> {
        self.guard()?;
        if self.sync_recorded && !self.dirty {
            return Ok(());
        }
        if let Err(Fault::Full { .. }) = self.provide_bytes(0) {
            // This record is optional, so a full disk is no fault here. The next write may need the room.
            return Ok(());
        }
        let outcome = self.record_sync_in_log();
        self.latch(outcome)
    }

    /// The order for the next segment's file, if it is time to make one. The same order is returned until the spare is
    /// there: the caller must keep track of whether the file is being made.
    pub fn spare_wanted(&self) -> Option<SpareOrder> {
        let wanted = self.spares.is_empty() && !self.poisoned && self.segment.filled() >= SPARE_AT;
        wanted.then(|| SpareOrder {
            name: format!("spare-{:010}", self.segment.number + 1),
            bytes: self.options.segment_bytes,
        })
    }

    /// Hands over a finished spare.
    pub fn spare_ready(&mut self, spare: Spare<D::File>) {
        // A spare that comes too late, when the journal had to make its own, serves the segment after.
        if self.spares.len() < SPARES {
            self.spares.push_back(spare);
        } else if let Err(error) = self.disk.remove(&spare.name) {
            // Its name ends in `.tmp`, so the next start removes it.
            log::debug!("{}: {error}", spare.name);
        }
    }

    /// Makes sure that there is room for a task before any of it is done, and removes the reserve if there is no other
    /// room. Returns [`Fault::Full`] if there is none: then nothing has changed, and the caller may retry.
    ///
    /// To write and then undo what did not fit would need more writes on a disk that has just failed one, and a crash
    /// in the middle leaves a partial record (cockroach#32631, prometheus#13027: it stays, and later records follow
    /// it).
    pub fn provide(&mut self, task: &Task) -> Result<()> {
        self.guard()?;
        let bytes = match task {
            Task::Write(write) => frames_of(write),
            Task::Release(_) => format::frame_size(opening_size(&self.summary)),
        };
        // Each piece of a batch has a header of its own.
        let pieces = bytes / self.options.batch_bytes + 1;
        self.provide_bytes(bytes + pieces * BATCH_FRAME)
    }

    /// Reserves whole segments and not bytes: a file's room is allocated when it is made, so later writes cannot fail
    /// for lack of it. The spares stay here until a rotation takes them, and a caller that tries again finds them.
    fn provide_bytes(&mut self, bytes: usize) -> Result<()> {
        if self.segment.fits(bytes) {
            return Ok(());
        }
        // An entry is never split, so the end of each segment may be too short for the next entry and stay unused.
        let segments = (bytes as u64).div_ceil(self.options.segment_bytes / 2);
        let needed = Segment::room_for(opening_size(&self.summary), 0).max(self.options.segment_bytes);
        while (self.spares.len() as u64) < segments {
            let order = SpareOrder { name: format!("needed-{:010}", self.segment.number + 1), bytes: needed };
            let spare = self.reserve_segment(&order)?;
            self.spares.push_back(spare);
        }
        Ok(())
    }

    /// Sets the reserve that is removed when the disk has no room for the next segment.
    pub fn fall_back_on(&mut self, reserve: Ballast<D>) {
        self.reserve = Some(reserve);
    }

    /// Releases the log up to a position: removes or recycles whole segments, oldest first.
    ///
    /// Whole segments only: to cut the front off a file would need a second format for files that begin in the middle.
    /// So the log on the disk begins up to a segment before its base, and recovery skips those entries.
    pub fn release(&mut self, upto: Position) -> Result<()> {
        self.guard()?;
        let outcome = self.release_segments(upto);
        self.latch(outcome)
    }

    /// Restarts the log after `base`, durably, because a snapshot holds everything before it. Also sets term and vote
    /// if `hard_state` is given.
    ///
    /// For a start only, when the snapshot is ahead of the log or contradicts it (§7). A running node sends a [`Write`]
    /// with a base instead, which keeps its place in the order of writes.
    pub fn restart(&mut self, base: &SnapshotPoint, hard_state: Option<HardState>) -> Result<()> {
        self.guard()?;
        let write = Write { id: self.appended, hard_state, base: Some(base.clone()), entries: Vec::new() };
        let outcome = self.put(&write).and_then(|()| self.settle());
        self.latch(outcome)
    }

    /// The rules that are broken on purpose.
    pub fn mutants(&self) -> Mutants {
        self.options.mutants
    }

    fn guard(&self) -> Result<()> {
        if !self.poisoned {
            return Ok(());
        }
        let source = std::io::Error::other("an earlier write or sync of the log failed");
        Err(Fault::Io { action: "use", file: file_name(self.segment.number), source })
    }

    /// Poisons the journal with the first error, and checks the invariants otherwise. It stands at the end of each
    /// entry point, so that `?` within a step needs no care: there is no way out that leaves a half-done step
    /// unnoticed.
    fn latch<T>(&mut self, outcome: Result<T>) -> Result<T> {
        self.poisoned |= outcome.is_err();
        self.check();
        outcome
    }

    fn put(&mut self, write: &Write) -> Result<()> {
        assert!(write.id >= self.appended, "writes arrive in order: that one is durable means all before it are");
        assert!(
            write.hard_state.is_some() || write.base.is_some() || !write.entries.is_empty(),
            "a sync without a batch would use up a batch number, and the next start would miss that batch"
        );
        self.dirty = true;
        self.appended = write.id;
        // The order is base, hard state, entries: the entries of a write that installs a snapshot come after its base,
        // and recovery applies records in file order.
        if let Some(base) = &write.base {
            let mut body = Vec::new();
            format::put_base(&mut body, base);
            self.make_room(body.len())?;
            self.segment.frame(RecordKind::Base, self.batch, |out| out.extend_from_slice(&body));
            self.summary.restart(base.clone());
            self.segment.marks.clear();
            // No entry of an older segment belongs to the log any more, whatever its index (§7).
            self.replaced(Index::ZERO);
        }
        if let Some(hard) = &write.hard_state {
            let mut body = Vec::new();
            format::put_hard(&mut body, hard);
            self.make_room(body.len())?;
            self.segment.frame(RecordKind::Hard, self.batch, |out| out.extend_from_slice(&body));
            self.summary.hard = *hard;
        }
        for entry in &write.entries {
            assert!(
                entry.position.index <= self.summary.last.index.next() && entry.position.index != Index::ZERO,
                "log indexes have no gaps"
            );
            assert!(
                entry.position.index > self.summary.base.position.index,
                "no entry replaces one that a snapshot holds: it was committed (§5.4)"
            );
            self.make_room(codec::entry_size(entry))?;
            self.segment.entry(self.batch, entry.position, |out| codec::put_entry(out, entry));
            if entry.position.index != self.summary.last.index.next() {
                self.replaced(entry.position.index);
            }
            let membership = match &entry.payload {
                Payload::Membership(membership) => Some(&**membership),
                _ => None,
            };
            self.summary.append(entry.position, entry.time, membership);
            self.report.entries += 1;
            // The header of this piece announces another one: a batch of several pieces has one number, and ends with
            // the piece that does not. Recovery keeps whole pieces of a batch that was cut short. They are in order, so
            // what it keeps is a prefix of what consensus wrote, which Raft permits: they may never have been
            // acknowledged.
            if self.segment.waiting() >= self.options.batch_bytes {
                self.write_out(true)?;
            }
        }
        Ok(())
    }

    /// Records that older segments hold no live entry from `index` on.
    fn replaced(&mut self, index: Index) {
        for older in &mut self.older {
            older.live = older.live.min(index.prev());
        }
    }

    pub(super) fn put_opening(&mut self) {
        let mut body = Vec::new();
        self.summary.opening().put(&mut body);
        self.segment.frame(RecordKind::Open, self.batch, |out| out.extend_from_slice(&body));
        self.dirty = true;
    }

    /// Writes the buffered frames as a batch, or with `more` as a piece of one.
    fn write_out(&mut self, more: bool) -> Result<()> {
        let batch = Batch { number: self.batch, more, synced: self.synced, boot: self.boot, ..Batch::default() };
        let at = self.segment.written;
        assert!(!self.poisoned, "nothing is written after a failed write or sync: a retry proves nothing");
        assert!(self.synced <= (self.segment.number, at), "a batch never overwrites synced bytes");
        let bytes = self.segment.batch(batch);
        self.report.bytes += bytes.len() as u64;
        self.file.write_at(at, bytes).map_err(io("write", &file_name(self.segment.number)))?;
        self.segment.wrote();
        self.open = more;
        Ok(())
    }

    /// Writes the buffered frames and syncs the file.
    ///
    /// An open batch is closed even if nothing waits: without its last piece, recovery would expect more of it and take
    /// the next batch's number for a gap.
    fn flush(&mut self) -> Result<()> {
        if self.segment.waiting() > 0 || self.open {
            self.write_out(false)?;
        }
        if !self.options.mutants.breaks(Mutant::SkipSync) {
            let outcome = match self.file.sync() {
                Err(_) if self.options.mutants.breaks(Mutant::RetryFailedSync) => self.file.sync(),
                outcome => outcome,
            };
            outcome.map_err(io("sync", &file_name(self.segment.number)))?;
        }
        assert!(!self.open && self.segment.waiting() == 0, "a batch begins only after the one before it is synced");
        self.synced = (self.segment.number, self.segment.written);
        self.batch += 1;
        Ok(())
    }

    /// Makes everything durable, and records it in the sync marker.
    ///
    /// The marker comes last. Written before the sync returned, it could claim what a power loss then takes away, and a
    /// start would refuse a disk that lost nothing it had promised.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.flush()?;
        self.dirty = false;
        self.sync_recorded = false;
        self.write_sync_marker()
    }

    fn record_sync_in_log(&mut self) -> Result<()> {
        if self.dirty {
            self.settle()?;
        }
        if self.segment.fits(0) {
            // The header of an empty batch records what was synced before it.
            self.write_out(false)?;
        } else {
            self.rotate(0)?;
        }
        self.settle()?;
        self.sync_recorded = true;
        Ok(())
    }

    /// Writes the durable hard state and offset to the sync marker.
    ///
    /// The hard state is synced and the offset is not. A vote forgotten with a damaged log lets a node vote twice in a
    /// term (§5.2), while a missing offset only takes away evidence. To sync the offset too would double the syncs of
    /// each write.
    pub(super) fn write_sync_marker(&mut self) -> Result<()> {
        let hard = self.summary.hard;
        if self.mirrored != Some(hard) {
            self.side.mirror(&hard)?;
            self.mirrored = Some(hard);
        }
        assert!(!self.dirty, "the sync marker states the last position of what is synced, not of what is buffered");
        let (segment, offset) = self.synced;
        self.side.write_offset(&LogOffset { boot: self.boot, segment, offset, last: self.summary.last })
    }

    fn make_room(&mut self, body: usize) -> Result<()> {
        if self.segment.fits(body) { Ok(()) } else { self.rotate(body) }
    }

    /// Seals the segment and begins the next one.
    ///
    /// 1. the next segment's header is written and synced, and its name made durable
    /// 2. the seal, which names that segment, is written and synced
    /// 3. the opening record and all that follows are buffered for the new segment
    ///
    /// In this order, each crash leaves a log that recovery can tell apart. After 1 there is a segment without records
    /// behind one without a seal: it was never used and is removed. After 2 the seal promises a file that is there.
    /// Sealing first would leave a seal without a successor, which looks exactly like a lost file.
    fn rotate(&mut self, body: usize) -> Result<()> {
        let number = self.segment.number + 1;
        let needed = Segment::room_for(opening_size(&self.summary), body).max(self.options.segment_bytes);
        let fits = self.spares.iter().position(|spare| spare.bytes >= needed);
        let spare = match fits.and_then(|at| self.spares.remove(at)) {
            Some(spare) => spare,
            None => self.reserve_segment(&SpareOrder { name: format!("needed-{number:010}"), bytes: needed })?,
        };
        let header = header_of(&self.options, number, if spare.recycled { RECYCLED } else { 0 });
        let skip_names = self.options.mutants.breaks(Mutant::SkipNameSync);
        let (file, capacity) = activate_segment(&self.disk, spare, &header, skip_names)?;

        let seal = Seal { successor: number, last: self.summary.last };
        self.segment.frame(RecordKind::Seal, self.batch, |out| seal.put(out));
        self.flush()?;
        self.retire()?;

        assert_eq!(
            self.synced,
            (self.segment.number, self.segment.written),
            "a segment is written only after its predecessor is sealed and synced"
        );
        self.segment = self.segment.successor(&header, capacity);
        self.file = file;
        self.put_opening();
        assert!(self.segment.fits(body), "a new segment has room for the frame that it was begun for");
        Ok(())
    }

    /// Reserves a file for the next segment, and removes the reserve if there is no other room. Nothing is written
    /// before this.
    ///
    /// It reserves and does not write zeros: to write 64 MiB on the log thread would be a pause of every write of this
    /// node, and on a follower could cost the leader its quorum.
    fn reserve_segment(&self, order: &SpareOrder) -> Result<Spare<D::File>> {
        match (order.reserve(&self.disk), &self.reserve) {
            (Err(Fault::Full { file }), Some(reserve)) if reserve.remove_for_log()? => {
                log::warn!("no space left for {file}: the reserve is freed for it");
                order.reserve(&self.disk)
            }
            (made, _) => made,
        }
    }

    /// Maps the sealed segment for reading and adds it to the report.
    ///
    /// The mapping is made here, after the last write to the file, and sent to the reactor with the report. A mapping
    /// of a file that still grows would show readers bytes that are not synced.
    fn retire(&mut self) -> Result<()> {
        let number = self.segment.number;
        let name = file_name(number);
        let (bytes, mapped) = track_mapping(self.disk.map(&name).map_err(io("map", &name))?);
        let entries = self.segment.marks.entries();
        let live = entries.map_or(Index::ZERO, |(_, last)| last);
        self.older.push_back(Older { number, bytes: self.segment.capacity(), live, mapped });
        let marks = self.segment.marks.shared();
        let (first, last) = entries.unwrap_or((Index(1), Index::ZERO));
        self.report.sealed.push(Sealed { segment: number, entries: first..=last, marks, bytes });
        Ok(())
    }

    fn release_segments(&mut self, upto: Position) -> Result<()> {
        // `take_while` and not `filter`: a gap in the numbers would look like lost segments at the next start, even if
        // the segment in the middle holds no live entry.
        let whole = self.older.iter().take_while(|older| older.live <= upto.index).count();
        if whole == 0 || upto.index > self.summary.last.index {
            return Ok(());
        }
        if upto.index > self.summary.base.position.index {
            // The release record must be durable before any file is removed, so that the remaining segments are known
            // to be complete.
            let base = self.summary.base_at(upto);
            let mut body = Vec::new();
            format::put_base(&mut body, &base);
            self.make_room(body.len())?;
            self.segment.frame(RecordKind::Release, self.batch, |out| out.extend_from_slice(&body));
            self.summary.release(base);
            self.dirty = true;
        }
        if self.dirty {
            self.settle()?;
        }
        // Oldest first. A power loss may undo the removal of some of these names and not of others, since one sync
        // covers all of them; recovery therefore accepts a gap if the base is behind it.
        for older in self.older.drain(..whole).collect::<Vec<_>>() {
            let name = file_name(older.number);
            assert!(
                older.live <= self.summary.base.position.index,
                "a file is removed only if a snapshot holds all of its entries (§7)"
            );
            // A file that is still being read through its mapping must not be written to.
            let free = older.mapped.strong_count() == 0 && older.bytes == self.options.segment_bytes;
            // A recycled file costs no zeros: its blocks are written already, so a sync of new bytes in it changes no
            // metadata. Its old records fail the checksum, which is salted with the number of the segment.
            if free && self.spares.len() < SPARES {
                let spare = format!("recycled-{:010}{SUFFIX}", older.number);
                self.disk.rename(&name, &spare).map_err(io("rename", &name))?;
                let file = self.disk.open(&spare).map_err(io("open", &spare))?;
                self.spares.push_back(Spare::recycled(spare, file, older.bytes));
            } else {
                self.disk.remove(&name).map_err(io("remove", &name))?;
            }
        }
        self.disk.sync_names().map_err(io("sync the directory of", &file_name(self.segment.number)))
    }
}

pub(super) fn empty_report() -> Report {
    Report { durable: WriteId::ZERO, sealed: Vec::new(), entries: 0, bytes: 0, took: Duration::ZERO, room: u64::MAX }
}

pub(super) fn header_of(options: &Options, number: u64, flags: u32) -> SegmentHeader {
    SegmentHeader { flags, cluster: options.cluster, node: options.node, disk: options.disk, number }
}

/// The size of a write's frames, in bytes.
fn frames_of(write: &Write) -> usize {
    let base = write.base.as_ref().map_or(0, |base| {
        let mut body = Vec::new();
        format::put_base(&mut body, base);
        format::frame_size(body.len())
    });
    let hard = write.hard_state.as_ref().map_or(0, |hard| {
        let mut body = Vec::new();
        format::put_hard(&mut body, hard);
        format::frame_size(body.len())
    });
    base + hard + write.entries.iter().map(|entry| format::frame_size(codec::entry_size(entry))).sum::<usize>()
}

pub(super) fn opening_size(outline: &LogSummary) -> usize {
    let mut body = Vec::new();
    outline.opening().put(&mut body);
    body.len()
}

/// Turns a spare into a segment: writes the header, syncs, renames, syncs the name. Only then may the segment be
/// written to.
///
/// `sync_all` and not `sync`, because a file that was only reserved may have a size that is not yet durable. The
/// directory is synced last: a record in a file whose name is lost by a power loss is lost too.
pub(super) fn activate_segment<D: Disk>(
    disk: &D,
    spare: Spare<D::File>,
    header: &SegmentHeader,
    skip_names: bool,
) -> Result<(D::File, u64)> {
    let name = file_name(header.number);
    assert!(spare.name.ends_with(SUFFIX), "only a file in the making becomes a segment");
    let Spare { name: spare, mut file, bytes, .. } = spare;
    file.write_at(0, &header.encode()).map_err(io("write", &name))?;
    file.sync_all().map_err(io("sync", &name))?;
    disk.rename(&spare, &name).map_err(io("rename", &name))?;
    if !skip_names {
        disk.sync_names().map_err(io("sync the directory of", &name))?;
    }
    Ok((file, bytes))
}
