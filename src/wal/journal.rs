//! The writer, on the log thread: append, sync, rotate, release.
//!
//! An error of the disk is final. Whatever failed, the journal refuses everything after it: what
//! reached the disk is unknown, and asking again would not tell. Only for want of room nothing has to
//! fail: [`Journal::provide`] says so before anything is written.

use super::ballast::Reserve;
use super::format::{self, BATCH_FRAME, Batch, RECYCLED, RecordKind, Seal, SegmentHeader, file_name};
use super::log_summary::Outline;
use super::options::Options;
use super::report::{Fault, Report, Result, Sealed};
use super::segment::Segment;
use super::spare::{SUFFIX, Spare, SpareOrder};
use super::sync_marker::{LogOffset, Side, io};
use super::task::Task;
use crate::codec;
use crate::disk::{Disk, DiskFile};
use crate::limits::ENTRY_BYTES_MAX;
use crate::types::{HardState, Index, Mutant, Mutants, Payload, Position, SnapshotPoint, Write, WriteId};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A spare is wanted when the segment is filled this far, in percent: early enough to be made at
/// leisure, and not at all by a node that writes little. To be late costs little.
const SPARE_AT: u64 = 50;
/// Released segments are kept as spares up to this many, the one that was ordered among them.
const SPARES: usize = 2;

/// The journal of one node.
///
/// Invariants: a batch is begun only when the one before it is synced; a segment is written to only
/// when the one before it is sealed and synced; its file has its name durably before that.
#[derive(Debug)]
pub struct Journal<D: Disk> {
    pub(super) disk: D,
    pub(super) options: Options,
    pub(super) boot: u64,
    pub(super) file: D::File,
    pub(super) segment: Segment,
    pub(super) older: VecDeque<Older>,
    pub(super) outline: Outline,
    pub(super) batch: u64,
    /// Whether the batch has a piece in the file that says that more follows.
    pub(super) open: bool,
    /// Whether anything was appended since the last sync.
    pub(super) dirty: bool,
    /// Whether a synced batch says of all before it that it was synced.
    pub(super) stated: bool,
    pub(super) synced: (u64, u64),
    pub(super) side: Side<D::File>,
    pub(super) mirrored: Option<HardState>,
    pub(super) spares: VecDeque<Spare<D::File>>,
    pub(super) reserve: Option<Reserve<D>>,
    pub(super) appended: WriteId,
    pub(super) report: Report,
    /// How much room was reported last.
    pub(super) told: u64,
    pub(super) poisoned: bool,
}

/// A sealed segment that is still there.
#[derive(Debug)]
pub(super) struct Older {
    pub(super) number: u64,
    pub(super) bytes: u64,
    /// The last index of it that belongs to the log.
    pub(super) live: Index,
    /// Gone when nobody reads the mapping any more.
    pub(super) mapped: Weak<()>,
}

/// A mapping that can be seen to be unused.
struct LeasedMapping {
    bytes: Bytes,
    _alive: Arc<()>,
}

impl AsRef<[u8]> for LeasedMapping {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

pub(super) fn held(bytes: Bytes) -> (Bytes, Weak<()>) {
    let alive = Arc::new(());
    let watch = Arc::downgrade(&alive);
    (Bytes::from_owner(LeasedMapping { bytes, _alive: alive }), watch)
}

impl<D: Disk> Journal<D> {
    /// Takes in a write: into the buffer, and into the file if it is large. Not yet durable.
    pub fn append(&mut self, write: &Write) -> Result<()> {
        self.guard()?;
        let outcome = self.put(write);
        self.latch(outcome)
    }

    /// Makes everything that was appended durable, with one sync, and says so.
    pub fn sync(&mut self) -> Result<Report> {
        self.guard()?;
        let outcome = if self.dirty { self.settle() } else { Ok(()) };
        self.latch(outcome)?;
        self.report.durable = self.appended;
        // An error of the disk is met by what is written next.
        self.report.room = self.room().unwrap_or(self.told);
        self.told = self.report.room;
        Ok(std::mem::replace(&mut self.report, empty_report()))
    }

    /// A report if there is more room than was told last, or less. For when there is nothing else to do: others
    /// may fill the disk, or empty it.
    pub fn look(&mut self) -> Result<Option<Report>> {
        self.guard()?;
        if self.room()? == self.told { Ok(None) } else { self.sync().map(Some) }
    }

    /// What is left of the segment, and all segments that can be made, the reserve given up for them; but for
    /// the end of each, which the next entry may not fit.
    fn room(&self) -> Result<u64> {
        let free = self.disk.free().map_err(io("look for room beside", &file_name(self.segment.number)))?;
        let disk = free.saturating_add(self.reserve.as_ref().map_or(0, Reserve::seen));
        let size = self.options.segment_bytes;
        let segments = self.spares.len() as u64 + disk / size.max(1);
        let end = ENTRY_BYTES_MAX.min(size / 2);
        Ok(self.segment.left().saturating_sub(end).saturating_add(segments.saturating_mul(size - end)))
    }

    /// States in the log itself that everything was synced, so that damage to the last batch cannot
    /// be taken for a torn one. For when there is nothing else to do.
    pub fn confirm(&mut self) -> Result<()> {
        self.guard()?;
        if self.stated && !self.dirty {
            return Ok(());
        }
        if let Err(Fault::Full { .. }) = self.provide_bytes(0) {
            // It can do without; what comes next may not.
            return Ok(());
        }
        let outcome = self.restate();
        self.latch(outcome)
    }

    /// The next segment's file, if it is time to make one. The same order is given until the spare is
    /// there: it is for the caller to know that it is being made.
    pub fn spare_wanted(&self) -> Option<SpareOrder> {
        let wanted = self.spares.is_empty() && !self.poisoned && self.segment.filled() >= SPARE_AT;
        wanted.then(|| SpareOrder {
            name: format!("spare-{:010}", self.segment.number + 1),
            bytes: self.options.segment_bytes,
        })
    }

    /// A file that was ordered is there.
    pub fn spare_ready(&mut self, spare: Spare<D::File>) {
        // One that comes too late, when the journal had to make its own, serves the segment after.
        if self.spares.len() < SPARES {
            self.spares.push_back(spare);
        } else if let Err(error) = self.disk.remove(&spare.name) {
            // Its name ends in `.tmp`: the next start removes it.
            log::debug!("{}: {error}", spare.name);
        }
    }

    /// Makes sure of the room for a task before anything of it is done, from the reserve if there is no
    /// other. [`Fault::Full`] if there is none: nothing has happened, and it may be asked again.
    pub fn provide(&mut self, task: &Task) -> Result<()> {
        self.guard()?;
        let bytes = match task {
            Task::Write(write) => frames_of(write),
            Task::Release(_) => format::frame_size(opening_size(&self.outline)),
        };
        let pieces = bytes / self.options.batch_bytes + 1;
        self.provide_bytes(bytes + pieces * BATCH_FRAME)
    }

    fn provide_bytes(&mut self, bytes: usize) -> Result<()> {
        if self.segment.fits(bytes) {
            return Ok(());
        }
        // An entry is not cut: at the end of each segment, room may be left that it did not fit.
        let segments = (bytes as u64).div_ceil(self.options.segment_bytes / 2);
        let needed = Segment::room_for(opening_size(&self.outline), 0).max(self.options.segment_bytes);
        while (self.spares.len() as u64) < segments {
            let order = SpareOrder { name: format!("needed-{:010}", self.segment.number + 1), bytes: needed };
            let spare = self.reserve_segment(&order)?;
            self.spares.push_back(spare);
        }
        Ok(())
    }

    /// When there is no room for the next segment, that is given up for it.
    pub fn fall_back_on(&mut self, reserve: Reserve<D>) {
        self.reserve = Some(reserve);
    }

    /// Everything up to there may go: whole segments do, the oldest first.
    pub fn release(&mut self, upto: Position) -> Result<()> {
        self.guard()?;
        let outcome = self.let_go(upto);
        self.latch(outcome)
    }

    /// The log begins anew behind that base, durably: a snapshot holds everything before it. With
    /// another term and vote, if they are given.
    pub fn restart(&mut self, base: &SnapshotPoint, hard_state: Option<HardState>) -> Result<()> {
        self.guard()?;
        let write = Write { id: self.appended, hard_state, base: Some(base.clone()), entries: Vec::new() };
        let outcome = self.put(&write).and_then(|()| self.settle());
        self.latch(outcome)
    }

    /// Which rule is broken on purpose.
    pub fn mutants(&self) -> Mutants {
        self.options.mutants
    }

    fn guard(&self) -> Result<()> {
        if !self.poisoned {
            return Ok(());
        }
        let source = std::io::Error::other("an earlier write or sync of it failed");
        Err(Fault::Io { action: "go on with", file: file_name(self.segment.number), source })
    }

    fn latch<T>(&mut self, outcome: Result<T>) -> Result<T> {
        self.poisoned |= outcome.is_err();
        outcome
    }

    fn put(&mut self, write: &Write) -> Result<()> {
        self.dirty = true;
        self.appended = write.id;
        if let Some(base) = &write.base {
            let mut body = Vec::new();
            format::put_base(&mut body, base);
            self.make_room(body.len())?;
            self.segment.frame(RecordKind::Base, self.batch, |out| out.extend_from_slice(&body));
            self.outline.restart(base.clone());
            self.segment.marks.clear();
            self.replaced(Index::ZERO);
        }
        if let Some(hard) = &write.hard_state {
            let mut body = Vec::new();
            format::put_hard(&mut body, hard);
            self.make_room(body.len())?;
            self.segment.frame(RecordKind::Hard, self.batch, |out| out.extend_from_slice(&body));
            self.outline.hard = *hard;
        }
        for entry in &write.entries {
            assert!(
                entry.position.index <= self.outline.last.index.next() && entry.position.index != Index::ZERO,
                "a log has no gaps"
            );
            self.make_room(codec::entry_size(entry))?;
            self.segment.entry(self.batch, entry.position, |out| codec::put_entry(out, entry));
            if entry.position.index != self.outline.last.index.next() {
                self.replaced(entry.position.index);
            }
            let membership = match &entry.payload {
                Payload::Membership(membership) => Some(&**membership),
                _ => None,
            };
            self.outline.append(entry.position, entry.time, membership);
            self.report.entries += 1;
            if self.segment.waiting() >= self.options.batch_bytes {
                self.write_out(true)?;
            }
        }
        Ok(())
    }

    /// All from that index on in older segments is gone.
    fn replaced(&mut self, index: Index) {
        for older in &mut self.older {
            older.live = older.live.min(index.prev());
        }
    }

    pub(super) fn put_opening(&mut self) {
        let mut body = Vec::new();
        self.outline.opening().put(&mut body);
        self.segment.frame(RecordKind::Open, self.batch, |out| out.extend_from_slice(&body));
        self.dirty = true;
    }

    /// Writes what waits as a batch, or as a piece of one.
    fn write_out(&mut self, more: bool) -> Result<()> {
        let batch = Batch { number: self.batch, more, synced: self.synced, boot: self.boot, ..Batch::default() };
        let at = self.segment.written;
        let bytes = self.segment.batch(batch);
        self.report.bytes += bytes.len() as u64;
        self.file.write_at(at, bytes).map_err(io("write", &file_name(self.segment.number)))?;
        self.segment.wrote();
        self.open = more;
        Ok(())
    }

    /// Writes what waits and syncs the file.
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
        self.synced = (self.segment.number, self.segment.written);
        self.batch += 1;
        Ok(())
    }

    /// Makes everything durable, and says so beside the log.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.flush()?;
        self.dirty = false;
        self.stated = false;
        self.write_sync_marker()
    }

    fn restate(&mut self) -> Result<()> {
        if self.dirty {
            self.settle()?;
        }
        if self.segment.fits(0) {
            // An empty batch: its header says what was synced before it.
            self.write_out(false)?;
        } else {
            self.rotate(0)?;
        }
        self.settle()?;
        self.stated = true;
        Ok(())
    }

    /// Tells the side file what is durable now.
    pub(super) fn write_sync_marker(&mut self) -> Result<()> {
        let hard = self.outline.hard;
        if self.mirrored != Some(hard) {
            self.side.mirror(&hard)?;
            self.mirrored = Some(hard);
        }
        let (segment, offset) = self.synced;
        self.side.state(&LogOffset { boot: self.boot, segment, offset, last: self.outline.last })
    }

    fn make_room(&mut self, body: usize) -> Result<()> {
        if self.segment.fits(body) { Ok(()) } else { self.rotate(body) }
    }

    /// Seals the segment and begins the next one.
    fn rotate(&mut self, body: usize) -> Result<()> {
        let number = self.segment.number + 1;
        let needed = Segment::room_for(opening_size(&self.outline), body).max(self.options.segment_bytes);
        let fits = self.spares.iter().position(|spare| spare.bytes >= needed);
        let spare = match fits.and_then(|at| self.spares.remove(at)) {
            Some(spare) => spare,
            None => self.reserve_segment(&SpareOrder { name: format!("needed-{number:010}"), bytes: needed })?,
        };
        let header = header_of(&self.options, number, if spare.recycled { RECYCLED } else { 0 });
        let skip_names = self.options.mutants.breaks(Mutant::SkipNameSync);
        let (file, capacity) = activate_segment(&self.disk, spare, &header, skip_names)?;

        let seal = Seal { successor: number, last: self.outline.last };
        self.segment.frame(RecordKind::Seal, self.batch, |out| seal.put(out));
        self.flush()?;
        self.retire()?;

        self.segment = self.segment.successor(&header, capacity);
        self.file = file;
        self.put_opening();
        Ok(())
    }

    /// Room for the next segment, from the reserve if there is no other. Nothing is written before.
    fn reserve_segment(&self, order: &SpareOrder) -> Result<Spare<D::File>> {
        match (order.reserve(&self.disk), &self.reserve) {
            (Err(Fault::Full { file }), Some(reserve)) if reserve.give_up()? => {
                log::warn!("no space left for {file}: the reserve is given up for it");
                order.reserve(&self.disk)
            }
            (made, _) => made,
        }
    }

    /// The segment is sealed: from now on it is read.
    fn retire(&mut self) -> Result<()> {
        let number = self.segment.number;
        let name = file_name(number);
        let (bytes, mapped) = held(self.disk.map(&name).map_err(io("map", &name))?);
        let entries = self.segment.marks.entries();
        let live = entries.map_or(Index::ZERO, |(_, last)| last);
        self.older.push_back(Older { number, bytes: self.segment.capacity(), live, mapped });
        let marks = self.segment.marks.shared();
        let (first, last) = entries.unwrap_or((Index(1), Index::ZERO));
        self.report.sealed.push(Sealed { segment: number, entries: first..=last, marks, bytes });
        Ok(())
    }

    fn let_go(&mut self, upto: Position) -> Result<()> {
        let whole = self.older.iter().take_while(|older| older.live <= upto.index).count();
        if whole == 0 || upto.index > self.outline.last.index {
            return Ok(());
        }
        if upto.index > self.outline.base.position.index {
            // Durable before anything goes, so that what is left is known to be all of it.
            let base = self.outline.base_at(upto);
            let mut body = Vec::new();
            format::put_base(&mut body, &base);
            self.make_room(body.len())?;
            self.segment.frame(RecordKind::Release, self.batch, |out| out.extend_from_slice(&body));
            self.outline.release(base);
            self.dirty = true;
        }
        if self.dirty {
            self.settle()?;
        }
        for older in self.older.drain(..whole).collect::<Vec<_>>() {
            let name = file_name(older.number);
            // A file that somebody still reads must not be written to.
            let free = older.mapped.strong_count() == 0 && older.bytes == self.options.segment_bytes;
            if free && self.spares.len() < SPARES {
                let spare = format!("recycled-{:010}{SUFFIX}", older.number);
                self.disk.rename(&name, &spare).map_err(io("rename", &name))?;
                let file = self.disk.open(&spare).map_err(io("open", &spare))?;
                self.spares.push_back(Spare::recycled(spare, file, older.bytes));
            } else {
                self.disk.remove(&name).map_err(io("remove", &name))?;
            }
        }
        self.disk.sync_names().map_err(io("sync the names beside", &file_name(self.segment.number)))
    }
}

pub(super) fn empty_report() -> Report {
    Report { durable: WriteId::ZERO, sealed: Vec::new(), entries: 0, bytes: 0, took: Duration::ZERO, room: u64::MAX }
}

pub(super) fn header_of(options: &Options, number: u64, flags: u32) -> SegmentHeader {
    SegmentHeader { flags, cluster: options.cluster, node: options.node, disk: options.disk, number }
}

/// How many bytes the frames of a write have.
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

pub(super) fn opening_size(outline: &Outline) -> usize {
    let mut body = Vec::new();
    outline.opening().put(&mut body);
    body.len()
}

/// Makes a segment of a spare: header, sync, name, sync of the name, and only then may it be written to.
pub(super) fn activate_segment<D: Disk>(
    disk: &D,
    spare: Spare<D::File>,
    header: &SegmentHeader,
    skip_names: bool,
) -> Result<(D::File, u64)> {
    let name = file_name(header.number);
    let Spare { name: spare, mut file, bytes, .. } = spare;
    file.write_at(0, &header.encode()).map_err(io("write", &name))?;
    file.sync_all().map_err(io("sync", &name))?;
    disk.rename(&spare, &name).map_err(io("rename", &name))?;
    if !skip_names {
        disk.sync_names().map_err(io("sync the name of", &name))?;
    }
    Ok((file, bytes))
}
