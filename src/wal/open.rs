//! Opening a journal: from a directory to a journal that can be written to.
//!
//! Recovery reads and validates everything first ([`super::recover`]). Only then is the disk changed: the torn tail is
//! overwritten with zeros, the bytes that may be unsynced are written again, and the file is synced.
//!
//! # Order of the steps
//!
//! ```text
//!   1  read and validate everything      any fault ends the start here; no byte of the disk has changed
//!   2  remove spares and unused files    otherwise a later run could take an old segment for a new one
//!   3  zeros over the torn tail          not synced yet
//!   4  write the unsynced bytes again    the end of the last segment, as it was read
//!   5  sync the file, then the names     the whole recovered log is durable now
//!   6  write the sync marker             the marker names the offset that step 5 has synced
//! ```
//!
//! Step 4 looks superfluous, but is necessary. The bytes that were read may exist in the page cache only:
//! the process before this one was killed before its sync, or its sync failed and the kernel then marked the pages
//! clean. In the second case a sync does nothing, since no page is dirty, and reports success. Only a new write makes
//! the pages dirty again. Without step 4, a node could acknowledge a recovered entry and lose it in a power loss.
//!
//! After a crash between any two steps, the next start recovers the same log: each step only removes files that
//! recovery ignores, or writes bytes that recovery has read.

use super::format::{self, RecordKind, file_name, file_number};
use super::journal::{Journal, OlderSegment, activate_segment, opening_body_bytes, segment_header, track_mapping};
use super::kept_entries::KeptEntries;
use super::load::load_segments;
use super::log_summary::LogSummary;
use super::newer_format;
use super::options::{Options, ReadMode};
use super::recover::{self, FIRST_FRAME_OFFSET, RecoveredLog, Replay};
use super::repair::{RepairedJournal, set_damage_aside};
use super::report::{EntrySummary, Fault, Report, Result, TORN_TAIL_ADVICE};
use super::segment::{Segment, SparseIndex};
use super::spare::{SpareOrder, TMP_SUFFIX};
use super::sync_marker::{self, SyncMarker, SyncMarkerFile, to_fault};
use crate::codec;
use crate::disk::{Disk, DiskFile, Meter};
use crate::types::{HardState, Index, Membership, Mutant, Position, SnapshotPoint, WriteId};
use bytes::Bytes;
use std::collections::VecDeque;
use std::num::NonZeroUsize;

/// The largest write in bytes when zeros or unsynced bytes are written.
const WRITE_PIECE_BYTES: usize = 1 << 20;

/// The fields of a journal that [`Journal::create`] and [`Journal::resume`] make in different ways. All other fields
/// begin with the same values.
struct JournalParts<D: Disk> {
    disk: D,
    options: Options,
    boot_id: u64,
    segment_file: D::File,
    sync_marker: SyncMarkerFile<D::File>,
    segment: Segment,
    summary: LogSummary,
}

impl<D: Disk> JournalParts<D> {
    /// Makes a journal in which everything so far is synced.
    ///
    /// `sync_recorded_in_log` is false, so that the recovered end of the log is confirmed when the node is first idle.
    /// `marker_hard_state` is `None`, so that the hard state is written to the marker in any case: its slots may be
    /// damaged.
    fn into_journal(self, batch_number: u64, older_segments: VecDeque<OlderSegment>) -> Journal<D> {
        let JournalParts { disk, options, boot_id, segment_file, sync_marker, segment, summary } = self;
        Journal {
            disk,
            boot_id,
            segment_file,
            older_segments,
            batch_number,
            batch_open: false,
            dirty: false,
            sync_recorded_in_log: false,
            synced_end: (segment.number, segment.written_end),
            sync_marker,
            marker_hard_state: None,
            spares: VecDeque::new(),
            reserve: None,
            last_appended: WriteId::ZERO,
            next_report: Report::empty(),
            reported_room_bytes: u64::MAX,
            poisoned: false,
            segment,
            summary,
            options,
        }
    }
}

impl<D: Disk> Journal<D> {
    /// Opens the journal in a directory and returns its contents. Like [`Journal::open_with`], with one thread and
    /// without a progress meter.
    ///
    /// For tests, tools and the simulator, where a start must do the same operations in the same order each time.
    pub fn open(disk: D, options: Options, founding: Option<&SnapshotPoint>) -> Result<(Journal<D>, RecoveredLog)> {
        let (thread_count, meter) = (NonZeroUsize::MIN, &Meter::default());
        Journal::open_with(disk, options, founding, ReadMode { thread_count, meter })
    }

    /// Opens the journal in a directory and returns its contents.
    ///
    /// In an empty directory, a journal with the base `founding` is created, durably. Without `founding`, an empty
    /// directory is a fault: the journal is lost.
    ///
    /// The caller passes `founding` only as long as the file `identity` does not record that the journal was created.
    /// So an empty directory alone never makes a node with a lost log look like a new node.
    pub fn open_with(
        disk: D,
        options: Options,
        founding: Option<&SnapshotPoint>,
        read_mode: ReadMode<'_>,
    ) -> Result<(Journal<D>, RecoveredLog)> {
        let own_disk = options.disk;
        let (journal, mut recovered) =
            match Journal::open_intact(disk.clone(), options.clone(), founding, read_mode, None) {
                Err(fault @ Fault::Corrupt { .. }) => {
                    Journal::open_damaged(disk.clone(), options, founding, read_mode, fault)?
                }
                outcome => outcome?,
            };
        if recovered.hard_state.promised_position > journal.summary.last_position {
            let names = disk.list().map_err(to_fault("list", "the journal"))?;
            recovered.kept_entries = KeptEntries::load(&disk, own_disk, &names)?;
        }
        Ok((journal, recovered))
    }

    /// Opens a journal that was found damaged: repairs it, if that is asked for, unless another read succeeds. A device
    /// may fail for a moment.
    fn open_damaged(
        disk: D,
        options: Options,
        founding: Option<&SnapshotPoint>,
        read_mode: ReadMode<'_>,
        fault: Fault,
    ) -> Result<(Journal<D>, RecoveredLog)> {
        // To this program, a record of a later version looks like damage.
        let directory = JournalDirectory::read(&disk, &options)?;
        newer_format::check_segments(&load_segments(&disk, &directory.segment_numbers)?, &options)?;
        if !options.repairs_damage || matches!(fault, Fault::Corrupt { advice: TORN_TAIL_ADVICE, .. }) {
            return Err(fault);
        }
        let fault = match Journal::open_intact(disk.clone(), options.clone(), founding, read_mode, None) {
            Err(fault @ Fault::Corrupt { .. }) => fault,
            outcome => return outcome,
        };
        let repaired_journal = set_damage_aside(&disk, &options, &directory.segment_numbers, &directory.marker, fault)?;
        let (journal, recovered) = Journal::open_intact(disk, options, founding, read_mode, Some(&repaired_journal))?;
        let RepairedJournal { note, damage, .. } = repaired_journal;
        Ok((journal, RecoveredLog { repair_note: Some(note), repaired_damage: Some(damage), ..recovered }))
    }

    /// Opens a journal without damage, or one that was just repaired.
    fn open_intact(
        disk: D,
        options: Options,
        founding: Option<&SnapshotPoint>,
        read_mode: ReadMode<'_>,
        repaired: Option<&RepairedJournal>,
    ) -> Result<(Journal<D>, RecoveredLog)> {
        let JournalDirectory { boot_id, file_names, segment_numbers, marker } =
            JournalDirectory::read(&disk, &options)?;
        let mut replay = recover::replay(load_segments(&disk, &segment_numbers)?, &options, &marker, read_mode)?;
        // There is no record at all. If the node never acknowledged anything, the directory is new, or the creation of
        // the journal was interrupted. Otherwise the log is lost: a new log would let the node vote twice in a term.
        if replay.summary.is_none() {
            if let Some(repaired) = repaired.filter(|repaired| repaired.last_segment.is_none()) {
                // Without any member, the node waits for a leader's log, or for a snapshot.
                let membership = Membership::default();
                let base = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership };
                replay.summary = Some(LogSummary { hard_state: repaired.hard_state, ..LogSummary::new(base) });
                return Journal::create(disk, options, boot_id, replay, &file_names, (marker, repaired.next_segment));
            }
            let nothing_acknowledged =
                marker.log_offset.is_none() && marker.hard_state.is_none() && replay.segments.len() <= 1;
            let Some(base) = founding.filter(|_| nothing_acknowledged) else { return Err(missing_journal_fault()) };
            replay.summary = Some(LogSummary::new(base.clone()));
            return Journal::create(disk, options, boot_id, replay, &file_names, (marker, 1));
        }
        // The last check, before the first change to the disk: if a segment is missing, nothing may be changed.
        let entries = replay.take_entries()?;
        if let Some(summary) = &replay.summary {
            newer_format::check_feature_level(summary, &options)?;
        }
        let repaired_hard_state = repaired.map(|repaired| repaired.hard_state);
        Journal::resume(disk, options, boot_id, replay, entries, &file_names, (marker, repaired_hard_state))
    }

    /// Resumes a journal that was read and validated. From here on the disk is changed.
    ///
    /// One long function on purpose: each step depends on the steps before it. `tests/house.rs` lists it as an
    /// exception.
    fn resume(
        disk: D,
        options: Options,
        boot_id: u64,
        mut replay: Replay<'_>,
        entries: Vec<EntrySummary>,
        names: &[String],
        (marker, repaired_hard_state): (SyncMarker, Option<HardState>),
    ) -> Result<(Journal<D>, RecoveredLog)> {
        let Some(summary) = replay.summary.take() else { return Err(missing_journal_fault()) };
        // The marker's hard state is written after the log's. So if the marker is ahead of the log, the log has lost a
        // vote, even if it seems to end cleanly. A marker without a vote in the same term is just older.
        let marker_is_ahead = marker.hard_state.is_some_and(|hard_state| {
            hard_state.term > summary.hard_state.term
                || hard_state.promised_position > summary.hard_state.promised_position
                || (hard_state.term == summary.hard_state.term
                    && hard_state.vote.is_some()
                    && hard_state.vote != summary.hard_state.vote)
        });
        // The journal appends to the last segment; the others are sealed and are mapped for readers.
        let Some(mut last) = replay.segments.pop() else { return Err(missing_journal_fault()) };
        let name = file_name(last.header.number);
        if !replay.unused_files.is_empty() {
            // The file of a later segment exists, so this segment was mapped. A mapped file must not be written to.
            last.bytes = Bytes::copy_from_slice(&last.bytes);
        }
        // The node must not start even if its log is fine otherwise: the lost vote may have been given to a candidate,
        // and a second vote in the same term could make a second leader (§5.2).
        // After a repair the marker is ahead on purpose: only the marker has the promised position yet.
        if marker_is_ahead && repaired_hard_state.is_none() && !options.mutants.breaks(Mutant::CutDamage) {
            return Err(Fault::Corrupt {
                file: name,
                offset: last.good_end,
                description: "the log lacks a term or vote that was synced".to_owned(),
                lost: format!("{} and later", summary.last_position.index.next()),
                advice: super::report::DAMAGE_ADVICE,
            });
        }
        debug_assert!(
            replay.segments.iter().all(|segment| !replay.unused_files.contains(&file_name(segment.header.number))),
            "no segment of the recovered log is an unused file"
        );
        assert!(
            !replay.unused_files.contains(&name),
            "the last segment, to which the journal will append, is not an unused file"
        );
        remove_unused_files(&disk, names, &replay.unused_files)?;
        // Recovery has read a copy of the file; the journal writes to it through this handle.
        let mut file = disk.open(&name).map_err(to_fault("open", &name))?;
        let mut log_end = last.good_end;
        // The mutant continues after the garbage, as if the tail were part of the log.
        if options.mutants.breaks(Mutant::KeepTornTail) {
            let garbage_end = super::scan::last_nonzero(&last.bytes, log_end).map_or(log_end, |at| at + 1);
            log_end = garbage_end.next_multiple_of(format::FRAME_ALIGNMENT as u64);
        } else {
            zero_tail(&mut file, &name, &last.bytes, log_end)?;
        }
        if !options.mutants.breaks(Mutant::SkipRecoverySync) {
            if let Some(before) = replay.segments.last_mut().filter(|_| last.good_end == FIRST_FRAME_OFFSET) {
                // The last segment is empty and does not prove that the one before it was synced. Bytes that are
                // written to a file must not come from a mapping of that file.
                before.bytes = Bytes::copy_from_slice(&before.bytes);
                let name = file_name(before.header.number);
                let mut file = disk.open(&name).map_err(to_fault("open", &name))?;
                rewrite_unsynced_bytes(&mut file, &name, before)?;
            }
            rewrite_unsynced_bytes(&mut file, &name, &last)?;
            // The last segment's name may be unsynced: an earlier process may have died between its rename and its
            // sync.
            disk.sync_names().map_err(to_fault("sync the directory of", &name))?;
        }
        // The turns of the slots continue from the marker that was read: turns from 1 again would look older than the
        // old slots.
        let sync_marker = SyncMarkerFile::open(&disk, options.disk, &marker)?;
        // The file's real size: the size of a segment in the options may have changed since the file was made.
        let capacity = last.bytes.len() as u64;
        // The chain of checksums continues from the last good frame, and the batch numbers continue too, so that the
        // next start reads one unbroken log.
        let segment =
            Segment::new(&last.header, capacity, log_end, replay.last_checksum.unwrap_or(0), last.sparse_index.clone());
        let mut older_segments = VecDeque::new();
        // Each segment is mapped a second time, now with a reference count: a segment is recycled only when no reader
        // is left. The mappings of recovery are dropped.
        for sealed in &mut replay.segments {
            let (number, last_live_index) = (sealed.header.number, sealed.live_range.1);
            let name = file_name(number);
            let (bytes, mapping_readers) = track_mapping(disk.map(&name).map_err(to_fault("map", &name))?);
            older_segments.push_back(OlderSegment {
                number,
                bytes: bytes.len() as u64,
                last_live_index,
                mapping_readers,
            });
            sealed.bytes = bytes;
        }
        replay.segments.push(last);
        // `build_view` needs the summary, because the view begins at the base in it.
        replay.summary = Some(summary.clone());
        let view = replay.build_view()?;
        let parts = JournalParts { disk, options, boot_id, segment_file: file, sync_marker, segment, summary };
        let mut journal = parts.into_journal(replay.next_batch_number, older_segments);
        if log_end == FIRST_FRAME_OFFSET {
            // The last segment is empty: it was made and never written to.
            journal.append_opening();
        }
        // Appended before the marker is written again: until then only the marker has the promised position.
        if let Some(hard_state) = repaired_hard_state.filter(|hard_state| *hard_state != journal.summary.hard_state) {
            journal.append_hard_state(&hard_state)?;
        }
        if journal.dirty {
            journal.sync_and_record()?;
        }
        journal.write_sync_marker()?;
        journal.check_invariants();
        let recovered = RecoveredLog {
            hard_state: journal.summary.hard_state,
            base: journal.summary.base.clone(),
            entries,
            last_time: journal.summary.time,
            configurations: journal.summary.configurations.clone(),
            view,
            operator_notes: replay.operator_notes,
            repair_note: None,
            kept_entries: KeptEntries::default(),
            repaired_damage: None,
        };
        Ok((journal, recovered))
    }

    /// Appends the opening record of a new segment: everything that the segment inherits.
    pub(super) fn append_opening(&mut self) {
        let mut body = Vec::new();
        self.summary.opening().encode(&mut body);
        self.segment.add_frame(RecordKind::Open, self.batch_number, |out| out.extend_from_slice(&body));
        self.dirty = true;
    }

    /// Creates the first segment of a new journal.
    ///
    /// An interrupted creation leaves at most one segment without a good record, and is repeated from the beginning.
    /// Only after this function has returned, the caller records in `identity` that the journal exists. From then on a
    /// missing journal is a fault.
    fn create(
        disk: D,
        options: Options,
        boot_id: u64,
        replay: Replay<'_>,
        names: &[String],
        (marker, number): (SyncMarker, u64),
    ) -> Result<(Journal<D>, RecoveredLog)> {
        let Some(summary) = replay.summary else { return Err(missing_journal_fault()) };
        // `open_with` has checked that none of these files holds a record.
        let unfinished_names: Vec<String> = names.iter().filter(|name| file_number(name).is_some()).cloned().collect();
        remove_unused_files(&disk, names, &unfinished_names)?;
        // `prepare` and not `reserve`: no write is waiting yet, and a file full of zeros makes later syncs faster.
        let order = SpareOrder { name_prefix: "founding".to_owned(), bytes: options.segment_bytes };
        let header = segment_header(&options, number, 0);
        let spare_bytes =
            Segment::size_for(opening_body_bytes(&summary), codec::ENTRY_HEADER).max(options.segment_bytes);
        let spare = SpareOrder { bytes: spare_bytes, ..order }.prepare(&disk, || {})?;
        let skip_name_sync = options.mutants.breaks(Mutant::SkipNameSync);
        let (file, capacity) = activate_segment(&disk, spare, &header, skip_name_sync)?;
        let sync_marker = SyncMarkerFile::open(&disk, options.disk, &marker)?;
        let segment = Segment::new(&header, capacity, FIRST_FRAME_OFFSET, 0, SparseIndex::default());
        let view = super::view::View::new(summary.base.position.index);
        let parts = JournalParts { disk, options, boot_id, segment_file: file, sync_marker, segment, summary };
        let mut journal = parts.into_journal(1, VecDeque::new());
        // A default hard state holds no vote, so it need not be in the marker, which saves a sync.
        journal.marker_hard_state = Some(HardState::default());
        journal.append_opening();
        journal.sync_and_record()?;
        journal.check_invariants();
        let recovered = RecoveredLog {
            hard_state: journal.summary.hard_state,
            base: journal.summary.base.clone(),
            entries: Vec::new(),
            last_time: journal.summary.time,
            configurations: Vec::new(),
            view,
            operator_notes: Vec::new(),
            repair_note: None,
            kept_entries: KeptEntries::default(),
            repaired_damage: None,
        };
        Ok((journal, recovered))
    }
}

/// The contents of a journal's directory at the beginning of a start, before anything is changed.
struct JournalDirectory {
    /// The id of the current boot of the kernel.
    boot_id: u64,
    file_names: Vec<String>,
    /// The numbers of the segments, ascending.
    segment_numbers: Vec<u64>,
    marker: SyncMarker,
}

impl JournalDirectory {
    fn read<D: Disk>(disk: &D, options: &Options) -> Result<JournalDirectory> {
        // A sync marker that was written in the current boot proves that everything acknowledged is before its offset.
        let boot_id = disk.boot_id().map_err(to_fault("read the boot id for", "the journal"))?;
        let file_names = disk.list().map_err(to_fault("list", "the journal"))?;
        let marker = match file_names.iter().any(|name| name == sync_marker::FILE_NAME) {
            true => {
                let slots = sync_marker::read_slots(disk)?.bytes;
                newer_format::check_sync_marker(&slots, options.disk)?;
                SyncMarker::read(&slots, options.disk)
            }
            false => SyncMarker::default(),
        }
        .with_boot_id(boot_id);
        // `file_number` accepts canonical names only: `1.wal` would be read as segment 1, whose name is
        // `0000000001.wal`.
        let mut segment_numbers: Vec<u64> = file_names.iter().filter_map(|name| file_number(name)).collect();
        segment_numbers.sort_unstable();
        Ok(JournalDirectory { boot_id, file_names, segment_numbers, marker })
    }
}

/// Removes spares and segments that an earlier run made and did not use.
///
/// Spares are not reused: it is unknown whether their zeros are durable. The removals need no sync of their own: the
/// next start removes a name that a power loss brings back.
fn remove_unused_files<D: Disk>(disk: &D, names: &[String], unused: &[String]) -> Result<()> {
    let spare_names = names.iter().filter(|name| name.ends_with(TMP_SUFFIX));
    for name in spare_names.chain(unused) {
        disk.remove(name).map_err(to_fault("remove", name))?;
    }
    Ok(())
}

/// Writes again and syncs all bytes of a segment that may be unsynced. Such bytes may exist in the page cache only: a
/// process was killed before its sync, or its sync failed and the kernel marked the pages clean.
///
/// `sync_all`, since the file's size may not be durable either. The bytes come from memory and not from a mapping of
/// the same file, which would change during the write.
fn rewrite_unsynced_bytes<F: DiskFile>(file: &mut F, name: &str, segment: &recover::ValidatedSegment) -> Result<()> {
    // The range is short if the log was confirmed when it was idle. A mutant that cuts damage may leave an offset in
    // the marker that is beyond the end, hence `min`.
    let unsynced_range = segment.synced_offset.min(segment.good_end) as usize..segment.good_end as usize;
    for (piece, bytes) in segment.bytes[unsynced_range.clone()].chunks(WRITE_PIECE_BYTES).enumerate() {
        let at = (unsynced_range.start + piece * WRITE_PIECE_BYTES) as u64;
        file.write_at(at, bytes).map_err(to_fault("write", name))?;
    }
    file.sync_all().map_err(to_fault("sync", name))
}

/// Overwrites all bytes after the end of the log with zeros. Otherwise an old record there could be taken for a valid
/// one once the log has grown up to it.
///
/// The salt and the chain of checksums already reject most old records. But a torn batch of *this* segment at *this*
/// offset has the right salt, and its frames would be valid again after the same frame before them.
///
/// The file is not truncated, which would free its allocated blocks: later writes would have to allocate blocks, could
/// meet a full disk, and would change metadata in each sync.
fn zero_tail<F: DiskFile>(file: &mut F, name: &str, bytes: &Bytes, end: u64) -> Result<()> {
    // After a clean stop, all bytes after the end of the log are zeros already: nothing is written.
    let Some(last) = super::scan::last_nonzero(bytes, end) else { return Ok(()) };
    let zeros = vec![0; WRITE_PIECE_BYTES];
    // Zeros up to the last non-zero byte are enough: the rest of the 64 MiB is zeros already.
    let mut at = end;
    while at <= last {
        let n = zeros.len().min((last + 1 - at) as usize);
        file.write_at(at, &zeros[..n]).map_err(to_fault("write", name))?;
        at += n as u64;
    }
    Ok(())
}

/// The fault of a lost journal. The fault names segment 1, the first file of every journal; others may be missing too.
fn missing_journal_fault() -> Fault {
    Fault::Corrupt {
        file: file_name(1),
        offset: 0,
        description: "the journal of this node is missing".to_owned(),
        lost: "all".to_owned(),
        advice: super::report::DAMAGE_ADVICE,
    }
}
