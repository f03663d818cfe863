//! Repair: what a journal keeps of a damaged log, and what it promises.

use super::matrix::scripts;
use super::world::*;
use drave::disk::{Disk, DiskFile};
use drave::sim::disk::{Crash, DiskStop, SimDisk};
use drave::types::{HardState, Index, NodeId, Position, Term, Vote, Write, WriteId};
use drave::wal::{Fault, Journal, Options, TailPolicy};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// The number of damaged journals for each outcome of a start.
#[derive(Default, Debug)]
struct OutcomeCounts {
    /// Journals that opened with everything that was durable.
    harmless_count: u64,
    /// Journals that were repaired.
    repaired_count: u64,
    /// Journals that did not open: no record shows other members, or the vote may be lost.
    stopped_count: u64,
    /// Journals that did not open because the vote may be lost.
    vote_lost_count: u64,
    /// Repairs that a crash interrupted.
    interrupted_count: u64,
}

/// Options with repair. A damaged last batch is not cut off as torn.
fn repair_options() -> Options {
    Options { repairs_damage: true, torn_tail: TailPolicy::Refuse, ..options() }
}

/// The disk after a script whose last steps have changed the vote twice, so that both slots of the marker are written.
///
/// Before a power loss, an entry and a batch without entries follow: the marker then is of an earlier boot and lacks
/// the last offset, which was not synced, and the last batch does not show where the entries ended.
fn disk_after(script: &[Step], crash: Crash) -> (SimDisk, Ledger) {
    let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
    let votes = [Step::Vote { term: 7, vote: 1 }, Step::Sync, Step::Vote { term: 8, vote: 2 }, Step::Sync];
    let steps: Vec<Step> = script.iter().cloned().chain([Step::Sync]).chain(votes).collect();
    let (mut journal, recovered) = Journal::open(disk.clone(), options(), Some(&founding())).unwrap();
    let mut view = recovered.view;
    run_steps(&disk, &mut journal, &mut view, &steps, &mut ledger).unwrap();
    if crash == Crash::Kill {
        disk.crash(&mut StdRng::seed_from_u64(3), crash);
        return (disk, ledger);
    }
    let next = ledger.last_index() + 1;
    let steps = [Step::Write { term: 8, from: next, to: next, bytes: 40 }, Step::Sync, Step::Confirm];
    run_steps(&disk, &mut journal, &mut view, &steps, &mut ledger).unwrap();
    (disk.durable_copy(), ledger)
}

/// Opens a damaged disk, and checks what was kept; then writes and opens it again, without repair.
fn open_damaged(disk: &SimDisk, ledger: &Ledger, counts: &mut OutcomeCounts) -> Result<(), String> {
    let (mut journal, recovered) = match Journal::open(disk.clone(), repair_options(), Some(&founding())) {
        Ok(opened) => opened,
        Err(Fault::Corrupt { advice, .. }) => {
            counts.stopped_count += 1;
            counts.vote_lost_count += u64::from(advice.contains("vote may be lost"));
            return Ok(());
        }
        Err(fault) => return Err(fault.to_string()),
    };
    if recovered.repair_note.is_some() {
        counts.repaired_count += 1;
        ledger.check_repaired(&recovered)?;
        assert!(recovered.repair_note.as_ref().is_some_and(|note| note.contains(".damaged")), "{recovered:?}");
    } else {
        counts.harmless_count += 1;
        // The interrupted repair may have been complete already.
        let full_check_result = ledger.clone().check(&recovered);
        return if counts.interrupted_count > 0 { ledger.check_repaired(&recovered) } else { full_check_result };
    }
    let hard_state = HardState { term: recovered.hard_state.term.next(), ..recovered.hard_state };
    let write = Write { id: WriteId::ZERO.next(), hard_state: Some(hard_state), base: None, entries: Vec::new() };
    journal.append(&write).and_then(|()| journal.sync()).map_err(|fault| fault.to_string())?;
    drop(journal);
    disk.crash(&mut StdRng::seed_from_u64(4), Crash::Power);
    let (_, reopened) =
        Journal::open(disk.clone(), options(), None).map_err(|fault| format!("after repair: {fault}"))?;
    let is_unchanged =
        reopened.hard_state == hard_state && reopened.entries == recovered.entries && reopened.base == recovered.base;
    is_unchanged.then_some(()).ok_or_else(|| "a repaired journal changes at the next start".to_owned())
}

/// Every script, once before a killed process and once before a power loss.
fn scripts_and_crashes() -> impl Iterator<Item = ((&'static str, Vec<Step>), Crash)> {
    scripts().into_iter().flat_map(|script| [Crash::Kill, Crash::Power].map(|crash| (script.clone(), crash)))
}

/// The files of a journal that a start reads: all but the spares, which it removes.
fn journal_files(disk: &SimDisk) -> Vec<String> {
    file_names(disk).into_iter().filter(|name| !name.ends_with(".tmp")).collect()
}

#[test]
fn flipped_bit_is_repaired() {
    for ((script_name, script), crash) in scripts_and_crashes() {
        let (disk, ledger) = disk_after(&script, crash);
        let mut counts = OutcomeCounts::default();
        for name in journal_files(&disk) {
            for offset in 0..disk.read_file(&name).unwrap().len() as u64 {
                let disk = disk.fork();
                disk.flip_bit(&name, offset, (offset % 8) as u8);
                open_damaged(&disk, &ledger, &mut counts)
                    .unwrap_or_else(|why| panic!("{script_name}, {crash:?}: {name} byte {offset}: {why}"));
            }
        }
        assert!(
            counts.repaired_count > counts.stopped_count && counts.vote_lost_count == 0,
            "{script_name}: {counts:?}"
        );
    }
}

/// After a flipped bit, the damaged files still show every entry but those of the damaged record.
#[test]
fn intact_entries_after_the_damage_are_kept() {
    let script = [Step::Write { term: 1, from: 1, to: 30, bytes: 40 }, Step::Sync];
    let (disk, ledger) = disk_after(&script, Crash::Kill);
    let mut kept_count = 0;
    for name in journal_files(&disk).into_iter().filter(|name| name.ends_with(".wal")) {
        let bytes = disk.read_file(&name).unwrap();
        let written_end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64;
        for offset in (64..written_end).step_by(8) {
            let disk = disk.fork();
            disk.flip_bit(&name, offset, 0);
            let (_, recovered) = Journal::open(disk, repair_options(), Some(&founding())).unwrap();
            let mut known_indexes: Vec<u64> = (1..=recovered.entries.len() as u64).collect();
            for (before, summaries) in recovered.kept_entries.summaries() {
                known_indexes.extend((before.index.0 + 1..).take(summaries.len()));
            }
            known_indexes.sort_unstable();
            known_indexes.dedup();
            let last_index = ledger.last_index();
            assert!(known_indexes.len() as u64 + 1 >= last_index, "{name} byte {offset}: only {known_indexes:?}");
            kept_count += usize::from(recovered.kept_entries.summaries().count() > 0);
        }
    }
    assert!(kept_count > 10, "{kept_count}");
}

/// The log ends before the first damaged entry, not before its batch: a batch may replace entries, and they must not come
/// back.
#[test]
fn entries_before_the_damage_are_kept_within_a_batch() {
    let write = |term, from, to| Step::Write { term, from, to, bytes: 150 };
    let script = [write(1, 1, 10), Step::Sync, write(2, 6, 14), Step::Sync, write(2, 15, 40), Step::Sync];
    for crash in [Crash::Kill, Crash::Power] {
        let (disk, ledger) = disk_after(&script, crash);
        for damaged_index in 6..=14 {
            let (name, offset) = offset_of_entry(&disk, damaged_index, 2);
            let disk = disk.fork();
            disk.flip_bit(&name, offset, 2);
            let (_, recovered) = Journal::open(disk.fork(), repair_options(), None).unwrap();
            ledger.check_repaired(&recovered).unwrap_or_else(|why| panic!("{damaged_index}, {crash:?}: {why}"));
            let terms: Vec<Term> = recovered.entries.iter().map(|entry| entry.term).collect();
            // If the first entry of the batch is damaged, nothing shows that it had replaced others.
            let expected_terms: Vec<u64> = match damaged_index {
                6 => vec![1; 10],
                index => (1..index).map(|index| if index < 6 { 1 } else { 2 }).collect(),
            };
            assert_eq!(terms, expected_terms.into_iter().map(Term).collect::<Vec<_>>(), "{damaged_index}, {crash:?}");
            let mut counts = OutcomeCounts::default();
            open_damaged(&disk, &ledger, &mut counts).unwrap_or_else(|why| panic!("{damaged_index}: {why}"));
            assert_eq!(counts.repaired_count, 1, "{damaged_index}, {crash:?}");
        }
    }
}

/// A fragment that replaces others names the position that it continues, however often that part was replaced before.
#[test]
fn kept_entries_continue_the_position_that_was_not_replaced() {
    let write = |term, from, to| Step::Write { term, from, to, bytes: 40 };
    let replacements = [write(2, 20, 24), Step::Sync, write(3, 22, 23), Step::Sync, write(4, 18, 20), Step::Sync];
    let script: Vec<Step> =
        [write(1, 1, 4), Step::Sync, write(1, 5, 21), Step::Sync].into_iter().chain(replacements).collect();
    let (disk, ledger) = disk_after(&script, Crash::Kill);
    let (name, offset) = offset_of_entry(&disk, 6, 1);
    disk.flip_bit(&name, offset, 2);
    let (_, recovered) = Journal::open(disk, repair_options(), None).unwrap();
    ledger.check_repaired(&recovered).unwrap();
    assert_eq!(recovered.entries.len(), 5);
    let fragments: Vec<(String, usize)> =
        recovered.kept_entries.summaries().map(|(before, entries)| (before.to_string(), entries.len())).collect();
    // In several segments: each begins a fragment.
    let expected = [("0@0", 5), ("6@1", 6), ("12@1", 9), ("19@1", 4), ("23@2", 1), ("21@2", 2), ("17@1", 3)];
    assert_eq!(fragments, expected.map(|(before, count)| (before.to_owned(), count)));
}

#[test]
fn zeroed_or_unreadable_sector_or_missing_segment_is_repaired() {
    for ((script_name, script), crash) in scripts_and_crashes() {
        let (undamaged, ledger) = disk_after(&script, crash);
        let mut counts = OutcomeCounts::default();
        for name in journal_files(&undamaged) {
            let bytes = undamaged.read_file(&name).unwrap();
            for sector in (0..bytes.len()).step_by(512) {
                // Zeros over the whole end of the log, with a marker of an earlier boot, look like a log that ended
                // before (wal-format.md).
                let is_whole_end = bytes[sector..].iter().skip(512).all(|byte| *byte == 0) && name.ends_with(".wal");
                let sector = sector as u64;
                if crash == Crash::Kill || !is_whole_end {
                    let disk = undamaged.fork();
                    disk.open(&name).unwrap().write_at(sector, &[0; 512]).unwrap();
                    open_damaged(&disk, &ledger, &mut counts)
                        .unwrap_or_else(|why| panic!("{script_name}, {crash:?}: {name} sector at {sector}: {why}"));
                }
                let disk = undamaged.fork();
                disk.lose_sector(&name, sector);
                open_damaged(&disk, &ledger, &mut counts)
                    .unwrap_or_else(|why| panic!("{script_name}, {crash:?}: {name} unreadable at {sector}: {why}"));
            }
            let disk = undamaged.fork();
            disk.remove(&name).unwrap();
            open_damaged(&disk, &ledger, &mut counts)
                .unwrap_or_else(|why| panic!("{script_name}, {crash:?}: {name} is missing: {why}"));
        }
        assert!(counts.repaired_count > 1 && counts.vote_lost_count == 0, "{script_name}: {counts:?}");
    }
}

/// A crash after each operation of a repair: the next start repairs again, and still knows what the node had promised.
#[test]
fn repair_interrupted_at_any_operation_is_repeated() {
    let mut counts = OutcomeCounts::default();
    for (script_name, script) in scripts() {
        let (disk, ledger) = disk_after(&script, Crash::Kill);
        for name in journal_files(&disk).into_iter().filter(|name| name.ends_with(".wal")) {
            let bytes = disk.read_file(&name).unwrap();
            let last_written = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
            // The flipped bit is in the opening record, or in the middle of the records.
            for (offset, operation) in
                [100, last_written / 2].into_iter().flat_map(|at| (0..40).map(move |nth| (at, nth)))
            {
                let disk = disk.fork();
                disk.flip_bit(&name, offset, 3);
                let operation_at = disk.operation_count() + operation;
                let written_bytes = [0, 100, 512][operation as usize % 3];
                disk.stop_at(DiskStop { operation: operation_at, written_bytes });
                let opened = Journal::open(disk.clone(), repair_options(), None);
                if !disk.stopped() {
                    // Byte 100 may be in the only record that names the members: without other members, the journal is not
                    // repaired.
                    assert!(opened.is_ok() || offset == 100, "{script_name}: {name} byte {offset}");
                    continue;
                }
                counts.interrupted_count += 1;
                for how in [Crash::Kill, Crash::Power] {
                    let disk = disk.fork();
                    disk.crash(&mut StdRng::seed_from_u64(operation), how);
                    open_damaged(&disk, &ledger, &mut counts).unwrap_or_else(|why| {
                        panic!("{script_name}: {name} byte {offset}, operation {operation}, {how:?}: {why}")
                    });
                }
            }
        }
    }
    assert!(counts.interrupted_count > 100 && counts.repaired_count > 100 && counts.vote_lost_count == 0, "{counts:?}");
}

/// Two damages at once: a record of the log, and one copy of the vote.
#[test]
fn node_stops_if_the_vote_may_be_lost() {
    let (disk, ledger) = disk_after(&scripts()[0].1, Crash::Kill);
    let mut counts = OutcomeCounts::default();
    for slot in [0, 512] {
        for is_unreadable in [false, true] {
            let disk = disk.fork();
            match is_unreadable {
                true => disk.lose_sector("synced", slot),
                false => disk.flip_bit("synced", slot + 20, 1),
            }
            disk.flip_bit("0000000001.wal", 700, 1);
            open_damaged(&disk, &ledger, &mut counts).unwrap();
        }
    }
    assert_eq!((counts.vote_lost_count, counts.repaired_count), (4, 0));
}

/// Two damages at once: the last write of the sync marker was lost, and a record of the log is damaged. If that record
/// holds the latest vote, entries of its term prove that a vote may be lost.
#[test]
fn term_that_an_entry_proves_uses_up_the_vote() {
    let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
    let (mut journal, recovered) = Journal::open(disk.clone(), options(), Some(&founding())).unwrap();
    let mut view = recovered.view;
    let steps =
        [Step::Vote { term: 1, vote: 1 }, Step::Sync, Step::Write { term: 1, from: 1, to: 3, bytes: 40 }, Step::Sync];
    run_steps(&disk, &mut journal, &mut view, &steps, &mut ledger).unwrap();
    let old_marker = disk.read_file("synced").unwrap();
    let steps =
        [Step::Vote { term: 2, vote: 3 }, Step::Sync, Step::Write { term: 2, from: 4, to: 9, bytes: 40 }, Step::Sync];
    run_steps(&disk, &mut journal, &mut view, &steps, &mut ledger).unwrap();
    drop(journal);
    disk.open("synced").unwrap().write_at(0, &old_marker).unwrap();
    let (mut kept_count, mut used_up_count) = (0, 0);
    for offset in (64..1500).step_by(4) {
        let disk = disk.fork();
        disk.flip_bit("0000000001.wal", offset, 0);
        let Ok((_, recovered)) = Journal::open(disk, repair_options(), Some(&founding())) else { continue };
        assert_eq!(recovered.hard_state.term, Term(2), "byte {offset}");
        match recovered.hard_state.vote {
            Some(vote) if vote == Vote::new(NodeId::new(1).unwrap(), None) => used_up_count += 1,
            vote => {
                assert_eq!(vote.map(|vote| vote.node.get()), Some(3), "byte {offset}");
                kept_count += 1;
            }
        }
    }
    assert!(kept_count > 10 && used_up_count > 0, "{kept_count} and {used_up_count}");
}

/// A record is damaged, and no other node has the entries.
#[test]
fn journal_of_only_member_is_not_repaired() {
    let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
    let single_member =
        drave::types::SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership: members(1) };
    let (mut journal, recovered) = Journal::open(disk.clone(), options(), Some(&single_member)).unwrap();
    let script = [Step::Vote { term: 1, vote: 1 }, Step::Sync, Step::Vote { term: 2, vote: 1 }, Step::Sync];
    let mut view = recovered.view;
    run_steps(&disk, &mut journal, &mut view, &script, &mut ledger).unwrap();
    drop(journal);
    disk.flip_bit("0000000001.wal", 200, 1);
    let bytes_before = disk.read_file("0000000001.wal");
    let opened = Journal::open(disk.clone(), repair_options(), None);
    assert!(matches!(opened, Err(Fault::Corrupt { .. })));
    assert_eq!(disk.read_file("0000000001.wal"), bytes_before, "nothing was changed");
}

/// After a compaction, the only record of where the log begins is after the damage. The entries before the damage are
/// kept all the same.
#[test]
fn readable_entries_are_kept_if_the_release_record_is_lost() {
    let write = |from, to| Step::Write { term: 1, from, to, bytes: 150 };
    for (release_upto, damaged_index, crash) in [25, 26, 27]
        .into_iter()
        .flat_map(|upto| [29, 30].map(|damaged| (upto, damaged)))
        .flat_map(|(upto, damaged)| [Crash::Kill, Crash::Power].map(|crash| (upto, damaged, crash)))
    {
        let script = [write(1, 28), Step::Sync, write(29, 30), Step::Sync, Step::Release(release_upto), write(31, 50)];
        let (disk, ledger) = disk_after(&script, crash);
        let (name, offset) = offset_of_entry(&disk, damaged_index, 1);
        disk.flip_bit(&name, offset, 2);
        let opened = Journal::open(disk.fork(), repair_options(), None).unwrap();
        let case = format!("released up to {release_upto}, {damaged_index} is damaged, {crash:?}");
        ledger.check_repaired(&opened.1).unwrap_or_else(|why| panic!("{case}: {why}"));
        let base_index = opened.1.base.position.index.0;
        let readable_count = damaged_index - 1 - release_upto;
        assert_eq!((base_index, opened.1.entries.len() as u64), (release_upto, readable_count), "{case}");
        let mut counts = OutcomeCounts::default();
        open_damaged(&disk, &ledger, &mut counts).unwrap_or_else(|why| panic!("{case}: {why}"));
        assert_eq!(counts.repaired_count, 1, "{case}");
    }
}

/// The segment file and the offset of an entry's payload.
fn offset_of_entry(disk: &SimDisk, index: u64, term: u64) -> (String, u64) {
    let payload = format!("{index}@{term} ").into_bytes();
    let offset_in = |name: &String| {
        let bytes = disk.read_file(name).unwrap();
        let found = bytes.windows(payload.len() + 1).position(|window| window.ends_with(&payload) && window[0] == 0);
        Some((name.clone(), found? as u64 + 1))
    };
    let segments = file_names(disk).into_iter().filter(|name| name.ends_with(".wal"));
    segments.collect::<Vec<_>>().iter().find_map(offset_in).unwrap()
}

/// A device that fails a read for a moment: nothing is repaired, and nothing is changed.
#[test]
fn read_error_that_passes_changes_nothing() {
    for ((script_name, script), crash) in scripts_and_crashes() {
        let (undamaged, ledger) = disk_after(&script, crash);
        for name in journal_files(&undamaged) {
            for sector in (0..undamaged.read_file(&name).unwrap().len() as u64).step_by(512) {
                let disk = undamaged.fork();
                disk.fail_next_read(&name, sector);
                let case = format!("{script_name}, {crash:?}: {name} sector at {sector}");
                let opened = Journal::open(disk.clone(), repair_options(), None);
                let (_, recovered) = opened.unwrap_or_else(|fault| panic!("{case}: {fault}"));
                assert_eq!(recovered.repair_note, None, "{case}");
                ledger.clone().check(&recovered).unwrap_or_else(|why| panic!("{case}: {why}"));
            }
        }
    }
}

/// Unreadable slots of the sync marker count as bad ones. The file is replaced by a readable one, in which a slot that
/// was lost still proves nothing.
#[test]
fn unreadable_slots_of_sync_marker_do_not_stop_a_start() {
    for ((script_name, script), crash) in scripts_and_crashes() {
        let (undamaged, ledger) = disk_after(&script, crash);
        for lost_slots in 1..16 {
            let disk = undamaged.fork();
            (0..4).filter(|slot| lost_slots >> slot & 1 == 1).for_each(|slot| disk.lose_sector("synced", slot * 512));
            let case = format!("{script_name}, {crash:?}: slots {lost_slots:04b}");
            let options = Options { torn_tail: TailPolicy::Cut, ..repair_options() };
            let opened = Journal::open(disk.clone(), options, None);
            let (_, recovered) = opened.unwrap_or_else(|fault| panic!("{case}: {fault}"));
            assert_eq!(recovered.repair_note, None, "{case}");
            ledger.clone().check(&recovered).unwrap_or_else(|why| panic!("{case}: {why}"));
            let mut slots = [0; 2048];
            assert_eq!(disk.open("synced").unwrap().read_at(0, &mut slots).unwrap(), 2048, "{case}");
        }
    }
}
