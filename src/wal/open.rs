//! Opening a journal: from a directory to a journal that can be written to.
//!
//! Recovery reads and validates everything first ([`super::recover`]). Only then is the disk changed: the torn tail is
//! overwritten with zeros, bytes that may not have been synced are written again, and all of it is synced.
//!
//! # Order of the steps
//!
//! ```text
//!   1  read and validate everything      no byte of the disk has changed; any fault ends here
//!   2  remove spares and unused files    else a later run would take an old segment for a new one
//!   3  zeros over the torn tail          not synced yet
//!   4  write the doubtful bytes again    the end of the last segment, as it was read
//!   5  sync the file, then the names     now all that was recovered is durable
//!   6  write the sync marker             it names what step 5 has synced
//! ```
//!
//! Step 4 looks superfluous and is the point of the file. The bytes that were read may exist in the page cache only:
//! the process before this one was killed before its sync, or its sync failed and the kernel then marked the pages
//! clean. In the second case a sync does nothing, since no page is dirty, and reports success. Only a new write makes
//! the pages dirty again. Without it, a node acknowledges a recovered entry, the power fails, and the entry is gone.
//!
//! A crash between any two steps leaves a directory that the next start reads in the same way: each step only removes
//! what recovery ignores, or writes what recovery has read.

use super::format::{self, file_name, file_number};
use super::journal::{Journal, Older, activate_segment, empty_report, header_of, opening_size, track_mapping};
use super::load::{read_all, read_whole};
use super::log_summary::LogSummary;
use super::options::{Options, ReadMode};
use super::recover::{self, BEGIN, Recovered, Replay};
use super::report::{Fault, Result};
use super::segment::{Segment, SparseIndex};
use super::spare::{SUFFIX, SpareOrder};
use super::sync_marker::{self, SyncMarker, SyncMarkerFile, io};
use crate::codec;
use crate::disk::{Disk, DiskFile, Meter};
use crate::types::{HardState, Mutant, SnapshotPoint, WriteId};
use bytes::Bytes;
use std::collections::VecDeque;
use std::num::NonZeroUsize;

/// Zeros are written in pieces of this size.
///
/// One mebibyte bounds the buffer; a whole torn piece is a little more than two.
const ZEROS: usize = 1 << 20;

/// The fields that a journal has from the start.
///
/// Founding and resuming build the same journal; a field that one of them forgets would be a difference between new and
/// old nodes.
struct JournalParts<D: Disk> {
    disk: D,
    options: Options,
    boot: u64,
    file: D::File,
    side: SyncMarkerFile<D::File>,
    segment: Segment,
    outline: LogSummary,
}

impl<D: Disk> JournalParts<D> {
    /// Makes a journal in which everything so far is synced.
    ///
    /// `sync_recorded` is false, so the first quiet moment confirms the recovered end of the log. `mirrored` is `None`,
    /// so the hard state is written to the marker in any case: its slots may be the damaged part.
    fn journal(self, batch: u64, older: VecDeque<Older>) -> Journal<D> {
        let JournalParts { disk, options, boot, file, side, segment, outline } = self;
        Journal {
            disk,
            boot,
            file,
            older,
            batch,
            open: false,
            dirty: false,
            sync_recorded: false,
            synced: (segment.number, segment.written),
            side,
            mirrored: None,
            spares: VecDeque::new(),
            reserve: None,
            appended: WriteId::ZERO,
            report: empty_report(),
            reported_room: u64::MAX,
            poisoned: false,
            segment,
            summary: outline,
            options,
        }
    }
}

impl<D: Disk> Journal<D> {
    /// Opens the journal in a directory and returns its contents. Like [`Journal::read`], with one thread and without a
    /// progress meter.
    ///
    /// For tests, tools and the simulator, where a start must do the same operations in the same order each time.
    pub fn open(disk: D, options: Options, founding: Option<&SnapshotPoint>) -> Result<(Journal<D>, Recovered)> {
        let (threads, meter) = (NonZeroUsize::MIN, &Meter::default());
        Journal::read(disk, options, founding, ReadMode { threads, meter })
    }

    /// Opens the journal in a directory and returns its contents.
    ///
    /// An empty directory is initialized with the base `founding`, durably. Without `founding` it is a fault: a journal
    /// that should be there and is not is lost.
    ///
    /// The caller passes `founding` only as long as `identity` does not say that the journal was founded. So the
    /// decision between a new node and a lost log does not rest on what the log's directory looks like, which is what
    /// was lost.
    pub fn read(
        disk: D,
        options: Options,
        founding: Option<&SnapshotPoint>,
        reading: ReadMode<'_>,
    ) -> Result<(Journal<D>, Recovered)> {
        // The boot id decides how much the sync marker proves, so it is read before the marker.
        let boot = disk.boot().map_err(io("read the boot id for", "the journal"))?;
        let names = disk.list().map_err(io("list", "the journal"))?;
        let testimony = match names.iter().any(|name| name == sync_marker::NAME) {
            true => SyncMarker::read(&read_whole(&disk, sync_marker::NAME)?, options.disk),
            false => SyncMarker::default(),
        }
        .in_boot(boot);
        // Only canonical names count: `1.wal` would be read as segment 1, and then written as `0000000001.wal` beside
        // it.
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| file_number(name)).collect();
        numbers.sort_unstable();
        let mut replay = recover::replay(read_all(&disk, &numbers)?, &options, &testimony, reading)?;
        // No record at all. That is a new directory or an interrupted founding, if nothing was ever promised; otherwise
        // the log is lost, and a node that began anew would vote a second time in terms in which it has voted.
        if replay.outline.is_none() {
            let nothing_promised = testimony.place.is_none() && testimony.hard.is_none() && replay.segments.len() <= 1;
            let Some(base) = founding.filter(|_| nothing_promised) else { return Err(lost()) };
            replay.outline = Some(LogSummary::new(base.clone()));
            return Journal::found(disk, options, boot, replay, &names, testimony);
        }
        // The last check. It comes before the first change to the disk, as a missing segment must leave everything as
        // it is.
        let heads = replay.heads()?;
        Journal::resume(disk, options, boot, replay, heads, &names, testimony)
    }

    /// Resumes a journal that was read and validated. From here on the disk is changed.
    ///
    /// One long function on purpose: the steps depend on one another, and their order is the subject. It is listed as
    /// such in `tests/house.rs`.
    fn resume(
        disk: D,
        options: Options,
        boot: u64,
        mut replay: Replay<'_>,
        heads: Vec<recover::EntrySummary>,
        names: &[String],
        testimony: SyncMarker,
    ) -> Result<(Journal<D>, Recovered)> {
        let Some(outline) = replay.outline.take() else { return Err(lost()) };
        // The marker's hard state is written after the log's, so it is never ahead of a whole log. If it is, the log
        // has lost a vote, even if its last batch looks like a clean end. A marker without a vote in the same term is
        // just older.
        let ahead = testimony.hard.is_some_and(|mirror| {
            mirror.term > outline.hard.term
                || (mirror.term == outline.hard.term && mirror.vote.is_some() && mirror.vote != outline.hard.vote)
        });
        // The last one is appended to; the others are sealed and are mapped for readers.
        let Some(mut last) = replay.segments.pop() else { return Err(lost()) };
        let name = file_name(last.header.number);
        if !replay.unused.is_empty() {
            // A segment after this one was made and never written to. So this one is mapped, and it is about to be
            // written to.
            last.bytes = Bytes::copy_from_slice(&last.bytes);
        }
        // The node must not start even if its log is fine otherwise: the lost vote may have been given to a candidate,
        // and a second vote in the same term could make a second leader (§5.2).
        if ahead && !options.mutants.breaks(Mutant::CutDamage) {
            return Err(Fault::Corrupt {
                file: name,
                offset: last.end,
                what: "the log lacks a term or vote that was synced".to_owned(),
                lost: format!("{} and later", outline.last.index.next()),
                advice: super::report::ADVICE,
            });
        }
        debug_assert!(
            replay.segments.iter().all(|segment| !replay.unused.contains(&file_name(segment.header.number))),
            "a start removes no segment of the log that it recovers"
        );
        assert!(!replay.unused.contains(&name), "a start keeps the segment that it continues");
        clear(&disk, names, &replay.unused)?;
        // Opened by its name: recovery has read a copy, and the journal writes through this handle from now on.
        let mut file = disk.open(&name).map_err(io("open", &name))?;
        let mut end = last.end;
        // The mutant begins behind the garbage, as if the tail were part of the log.
        if options.mutants.breaks(Mutant::KeepTornTail) {
            let garbage = super::scan::last_written(&last.bytes, end).map_or(end, |at| at + 1);
            end = garbage.next_multiple_of(format::ALIGN as u64);
        } else {
            blank(&mut file, &name, &last.bytes, end)?;
        }
        if !options.mutants.breaks(Mutant::SkipRecoverySync) {
            if let Some(before) = replay.segments.last_mut().filter(|_| last.end == BEGIN) {
                // Nothing in the last segment proves that the one before it was synced. Bytes that are written to a
                // file must not come from a mapping of that file.
                before.bytes = Bytes::copy_from_slice(&before.bytes);
                let name = file_name(before.header.number);
                let mut file = disk.open(&name).map_err(io("open", &name))?;
                secure(&mut file, &name, before)?;
            }
            secure(&mut file, &name, &last)?;
            // The last segment's own name may be unsynced: the process before this one died between its rename and this
            // call.
            disk.sync_names().map_err(io("sync the directory of", &name))?;
        }
        // The turns continue from those that were read: with turns from 1 again, the old slots would count as the newer
        // ones.
        let side = SyncMarkerFile::open(&disk, options.disk, &testimony)?;
        // The file's real size, whatever the options say now: the size of a segment may change between two starts.
        let capacity = last.bytes.len() as u64;
        // The chain goes on from the last good frame, so that the next start sees one unbroken log and not one log for
        // each process. The batch number goes on as well.
        let segment = Segment::new(&last.header, capacity, end, replay.chain.unwrap_or(0), last.marks.clone());
        let mut older = VecDeque::new();
        // Mapped a second time, now with a reference count: the mappings of recovery end here, and a segment is
        // recycled only when no reader is left.
        for believed in &mut replay.segments {
            let (number, live) = (believed.header.number, believed.live.1);
            let name = file_name(number);
            let (bytes, mapped) = track_mapping(disk.map(&name).map_err(io("map", &name))?);
            older.push_back(Older { number, bytes: bytes.len() as u64, live, mapped });
            believed.bytes = bytes;
        }
        replay.segments.push(last);
        // Put back for the view, which begins at the base.
        replay.outline = Some(outline.clone());
        let view = replay.view()?;
        let started = JournalParts { disk, options, boot, file, side, segment, outline };
        let mut journal = started.journal(replay.batch, older);
        // Its opening record goes in first, so that the segment can be the oldest one left some day.
        if end == BEGIN {
            // The last segment was made and never written to.
            journal.put_opening();
            journal.settle()?;
        }
        journal.write_sync_marker()?;
        journal.check();
        let recovered = Recovered {
            hard_state: journal.summary.hard,
            base: journal.summary.base.clone(),
            heads,
            last_time: journal.summary.time,
            configurations: journal.summary.configurations.clone(),
            view,
            notes: replay.notes,
        };
        Ok((journal, recovered))
    }

    /// Makes the first segment, or makes it anew after an interrupted founding.
    ///
    /// A founding that was interrupted left at most one segment without a good record, and is repeated from the
    /// beginning. The caller records in `identity` that the journal exists only after this returns, so a crash in
    /// between leads back here. From then on a missing journal is a fault.
    fn found(
        disk: D,
        options: Options,
        boot: u64,
        replay: Replay<'_>,
        names: &[String],
        testimony: SyncMarker,
    ) -> Result<(Journal<D>, Recovered)> {
        let Some(outline) = replay.outline else { return Err(lost()) };
        // `nothing_promised` has made sure that none of these files holds a record.
        let unfinished: Vec<String> = names.iter().filter(|name| file_number(name).is_some()).cloned().collect();
        clear(&disk, names, &unfinished)?;
        // `prepare` and not `reserve`: nothing waits yet, and the first segment should be as fast as the later ones.
        let order = SpareOrder { name: "founding".to_owned(), bytes: options.segment_bytes };
        let header = header_of(&options, 1, 0);
        let bytes = Segment::room_for(opening_size(&outline), codec::ENTRY_HEADER).max(options.segment_bytes);
        let spare = SpareOrder { bytes, ..order }.prepare(&disk, || {})?;
        let skip_names = options.mutants.breaks(Mutant::SkipNameSync);
        let (file, capacity) = activate_segment(&disk, spare, &header, skip_names)?;
        let side = SyncMarkerFile::open(&disk, options.disk, &testimony)?;
        let segment = Segment::new(&header, capacity, BEGIN, 0, SparseIndex::default());
        let view = super::view::View::new(outline.base.position.index);
        let started = JournalParts { disk, options, boot, file, side, segment, outline };
        let mut journal = started.journal(1, VecDeque::new());
        // A default hard state promises nothing, so it need not be in the marker, and a founding saves a sync.
        journal.mirrored = Some(HardState::default());
        journal.put_opening();
        journal.settle()?;
        journal.check();
        let recovered = Recovered {
            hard_state: HardState::default(),
            base: journal.summary.base.clone(),
            heads: Vec::new(),
            last_time: journal.summary.time,
            configurations: Vec::new(),
            view,
            notes: Vec::new(),
        };
        Ok((journal, recovered))
    }
}

/// Removes spares and segments that an earlier run made and did not use.
///
/// Spares are not reused: whether their zeros are durable is unknown, and to find out costs as much as to make a new
/// one. The removals need no sync of their own: a name that comes back is removed by the next start.
fn clear<D: Disk>(disk: &D, names: &[String], unused: &[String]) -> Result<()> {
    let begun = names.iter().filter(|name| name.ends_with(SUFFIX));
    for name in begun.chain(unused) {
        disk.remove(name).map_err(io("remove", name))?;
    }
    Ok(())
}

/// Writes again and syncs all bytes that are not known to have been synced. They may be only in the page cache: left
/// there by a process that was killed, or, after a failed sync, in pages that the kernel failed to write and marked
/// clean.
///
/// `sync_all`, since the file's size may not be durable either. The bytes come from memory and not from a mapping of
/// the same file, where a failed write could change the source while it is being written.
fn secure<F: DiskFile>(file: &mut F, name: &str, segment: &recover::ValidatedSegment) -> Result<()> {
    // What is known to be synced need not be written again: on a log that was confirmed when it was idle, this range is
    // short. The marker may name an offset beyond the end if damage was cut by a mutant.
    let doubtful = segment.synced.min(segment.end) as usize..segment.end as usize;
    for (piece, bytes) in segment.bytes[doubtful.clone()].chunks(ZEROS).enumerate() {
        let at = (doubtful.start + piece * ZEROS) as u64;
        file.write_at(at, bytes).map_err(io("write", name))?;
    }
    file.sync_all().map_err(io("sync", name))
}

/// Overwrites all bytes after the end of the log with zeros: an old record left there could be taken for a valid one
/// once the log has grown up to it.
///
/// The salt and the chain reject most old records already. A torn batch of *this* segment at *this* offset has the
/// right salt, and its frames would fit again once the log reached them with the same frame before.
///
/// To truncate the file instead would be shorter, and would give back its allocated blocks: later writes would have to
/// allocate, could meet a full disk, and would change metadata in each sync.
fn blank<F: DiskFile>(file: &mut F, name: &str, bytes: &Bytes, end: u64) -> Result<()> {
    // Usually there is nothing: a clean stop costs no write.
    let Some(last) = super::scan::last_written(bytes, end) else { return Ok(()) };
    let zeros = vec![0; ZEROS];
    // Up to the last byte that is not zero: the rest of the file is zeros already, and a segment has 64 MiB.
    let mut at = end;
    while at <= last {
        let n = zeros.len().min((last + 1 - at) as usize);
        file.write_at(at, &zeros[..n]).map_err(io("write", name))?;
        at += n as u64;
    }
    Ok(())
}

/// It names segment 1, since that is the file that every journal begins with, although others may be missing too.
fn lost() -> Fault {
    Fault::Corrupt {
        file: file_name(1),
        offset: 0,
        what: "the journal of this node is missing".to_owned(),
        lost: "all".to_owned(),
        advice: super::report::ADVICE,
    }
}
