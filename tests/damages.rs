//! Files of killed nodes are damaged in every way, while clients write: each node starts again, and no acknowledged write
//! is lost. In some rounds a second node is damaged at the same time, but not its log or snapshots.
//!
//! `scripts/damages.sh` runs this test with many rounds (`DRAVE_DAMAGE_ROUNDS`).

use bytes::Bytes;
use drave::client::Client;
use drave::machine::commands::{Answer, Command};
use drave::types::Position;
use drave::wal::format::{EntryMetadata, FRAME_HEADER_BYTES, RecordKind, SegmentHeader};
use drave::wal::scan::{Scan, ScanItem};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use support::{Cluster, wait_until};

mod support;

/// The size of a disk's sector in bytes.
const SECTOR_BYTES: usize = 512;
/// The size of a page in bytes: the system reads whole pages from the disk.
const PAGE_BYTES: usize = 4096;

/// How a file is damaged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Damage {
    FlippedBit,
    /// Random bytes over up to 8 KiB.
    Burst,
    ZeroedSector,
    /// A sector has the contents of another sector of the same file.
    MisdirectedSector,
    TruncatedFile,
    MissingFile,
    /// A sector has the contents from before the last writes: the disk has lost a write.
    LostWrite,
    /// Reads of a page fail with `EIO`.
    UnreadablePage,
}

/// Every kind of file in a data directory, with the damages that are tried on it.
const KINDS: [(&str, &[Damage]); 4] = {
    use Damage::{
        Burst, FlippedBit, LostWrite, MisdirectedSector, MissingFile, TruncatedFile, UnreadablePage, ZeroedSector,
    };
    [
        (
            "wal",
            &[
                FlippedBit,
                Burst,
                ZeroedSector,
                MisdirectedSector,
                TruncatedFile,
                MissingFile,
                LostWrite,
                UnreadablePage,
            ],
        ),
        (
            "snapshots",
            &[FlippedBit, Burst, ZeroedSector, MisdirectedSector, TruncatedFile, MissingFile, UnreadablePage],
        ),
        ("wal/synced", &[FlippedBit, ZeroedSector, TruncatedFile, MissingFile, LostWrite, UnreadablePage]),
        ("identity", &[FlippedBit, ZeroedSector, TruncatedFile, MissingFile, UnreadablePage]),
    ]
};

/// The kinds of files, among [`KINDS`], that are damaged on a second node at the same time.
const KINDS_OF_SECOND_NODE: std::ops::Range<usize> = 2..4;

/// What followed from a damage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Outcome {
    /// The node started and noticed nothing: the bytes meant nothing, or another file holds them too.
    Harmless,
    /// The node started, and logged a repair, a restored identity, or another snapshot than the newest.
    Repaired,
    /// The node did not start, and starts once the file is back: nothing was changed.
    Refused,
}

/// The files of a data directory that belong to a kind: segments with records, published snapshots, or a single file.
fn files_of(data: &Path, kind: &str) -> Vec<PathBuf> {
    let path = data.join(kind);
    if path.is_file() {
        return vec![path];
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().path());
    let is_data = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "wal" || extension == "snap");
    let is_written = |path: &PathBuf| std::fs::read(path).is_ok_and(|bytes| written_len(&bytes) > 0);
    entries.filter(is_data).filter(is_written).collect()
}

/// The contents of the segments and sync markers of all nodes, while they run.
fn read_journal_files(cluster: &Cluster) -> BTreeMap<PathBuf, Vec<u8>> {
    let data_directories = (0..3).map(|node| cluster.data_dir(node));
    let paths = data_directories.flat_map(|data| ["wal", "wal/synced"].map(|kind| files_of(&data, kind)));
    // A running node may have released a segment meanwhile.
    paths.flatten().filter_map(|path| Some((path.clone(), std::fs::read(&path).ok()?))).collect()
}

/// The number of bytes up to the last one that is not zero.
fn written_len(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// A file that was damaged while its node did not run.
struct DamagedFile {
    path: PathBuf,
    /// The contents of the file before.
    original: Vec<u8>,
    /// The offset of the page that cannot be read; `None` for another damage.
    unreadable_page: Option<usize>,
}

/// Damages a file. `earlier` has the contents of the file before the last writes; it is empty if the file is newer.
fn damage_file(path: &Path, damage: Damage, earlier: &[u8], rng: &mut StdRng) -> DamagedFile {
    let original = std::fs::read(path).unwrap();
    let mut bytes = original.clone();
    let written = written_len(&bytes);
    let at = rng.random_range(0..written);
    let damaged_file = |original| {
        let unreadable_page = (damage == Damage::UnreadablePage).then_some(at / PAGE_BYTES * PAGE_BYTES);
        DamagedFile { path: path.to_owned(), original, unreadable_page }
    };
    let sector = at / SECTOR_BYTES * SECTOR_BYTES;
    let sector_end = (sector + SECTOR_BYTES).min(bytes.len());
    match damage {
        Damage::FlippedBit => bytes[at] ^= 1 << rng.random_range(0..8),
        Damage::Burst => {
            let end = (at + rng.random_range(1..8192)).min(bytes.len());
            rng.fill(&mut bytes[at..end]);
        }
        Damage::ZeroedSector => bytes[sector..sector_end].fill(0),
        Damage::MisdirectedSector => {
            let from = rng.random_range(0..written) / SECTOR_BYTES * SECTOR_BYTES;
            let copied = original[from..(from + SECTOR_BYTES).min(original.len())].to_vec();
            let end = (sector + copied.len()).min(bytes.len());
            bytes[sector..end].copy_from_slice(&copied[..end - sector]);
        }
        Damage::TruncatedFile => bytes.truncate(at),
        Damage::MissingFile => {
            std::fs::remove_file(path).unwrap();
            return damaged_file(original);
        }
        Damage::UnreadablePage => return damaged_file(original),
        Damage::LostWrite => {
            let sectors = bytes.chunks_mut(SECTOR_BYTES).zip(earlier.chunks(SECTOR_BYTES));
            let mut changed: Vec<_> =
                sectors.filter(|(now, before)| now != before && now.len() == before.len()).collect();
            if !changed.is_empty() {
                let (now, before) = changed.swap_remove(rng.random_range(0..changed.len()));
                now.copy_from_slice(before);
            }
        }
    }
    std::fs::write(path, bytes).unwrap();
    damaged_file(original)
}

/// Starts a node on its damaged directory.
fn spawn_with_damage(cluster: &mut Cluster, node: usize, damaged_file: &DamagedFile) {
    if let Some(offset) = damaged_file.unreadable_page {
        cluster.unreadable_pages.insert(node, (damaged_file.path.clone(), offset));
    }
    cluster.spawn(node);
    // The next start has another disk.
    cluster.unreadable_pages.remove(&node);
}

/// Starts a node on its damaged directory, and waits until it has caught up or has refused to start. In the latter case
/// the file is brought back first.
fn start_damaged(cluster: &mut Cluster, node: usize, damaged_file: &DamagedFile) -> Outcome {
    let is_repair = |line: &str| {
        ["votes only for", "this node starts from an older", "is restored from"].iter().any(|text| line.contains(text))
    };
    let node_log =
        |cluster: &Cluster| std::fs::read_to_string(cluster.data_dir(node).with_extension("log")).unwrap_or_default();
    let lines_before = node_log(cluster).lines().count();
    spawn_with_damage(cluster, node, damaged_file);
    let committed = cluster.status(cluster.wait_for_leader()).map_or(1, |status| status.commit);
    let has_caught_up = |cluster: &Cluster| cluster.status(node).is_some_and(|status| status.applied >= committed);
    let shared = RefCell::new(&mut *cluster);
    let exit_code = wait_until(
        "the node catches up or refuses to start",
        || {
            let exit_code = shared.borrow_mut().exit_code(node);
            if exit_code.is_some() || has_caught_up(&shared.borrow()) { Some(exit_code) } else { None }
        },
        || shared.borrow().logs(),
    );
    let log = node_log(cluster);
    let is_explanation = |line: &&str| is_repair(line) || (exit_code.is_some() && line.contains("error: "));
    log.lines().skip(lines_before).filter(is_explanation).for_each(|line| eprintln!("    {line}"));
    match exit_code {
        None if log.lines().skip(lines_before).any(is_repair) => Outcome::Repaired,
        None => Outcome::Harmless,
        Some(code) => {
            assert!([5, 78].contains(&code), "exit code {code}\n{}", cluster.logs());
            std::fs::write(&damaged_file.path, &damaged_file.original).unwrap();
            cluster.wait_for_exit(node);
            cluster.spawn(node);
            let has_caught_up = || has_caught_up(cluster).then_some(());
            wait_until("the node starts once its file is back", has_caught_up, || cluster.logs());
            Outcome::Refused
        }
    }
}

/// Increments a counter and overwrites some keys until `stop` is set.
fn write_until_stopped(client: &mut Client, acknowledged: &AtomicI64, unknown: &AtomicI64, stop: &AtomicBool) {
    let value = vec![7; 2000];
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let increment = Command::Incr { key: b"counter", by: 1 }.encode();
        match client.execute(&increment).ok().map(|executed| Answer::decode(executed.answer)) {
            Some(Ok(Answer::Number(value))) => {
                let before = acknowledged.fetch_add(1, Ordering::Relaxed);
                assert!(value > before, "the counter is {value} after {before} acknowledged increments");
            }
            Some(other) => panic!("an increment returned {other:?}"),
            None => _ = unknown.fetch_add(1, Ordering::Relaxed),
        }
        let key = format!("key{}", n % 50);
        let _outcome_is_irrelevant = client.execute(&Command::Append { key: key.as_bytes(), tail: &value }.encode());
        if n % 20 == 0 {
            let _outcome_is_irrelevant = client.execute(&Command::Del { key: key.as_bytes() }.encode());
        }
    }
}

/// Runs rounds of damage while a client writes, and then checks that every acknowledged increment counts, once. The number
/// of rounds is that of `DRAVE_DAMAGE_ROUNDS`, or `default_rounds`. A round gets the number of acknowledged increments.
fn damage_under_load(
    mut cluster: Cluster,
    default_rounds: usize,
    mut run_round: impl FnMut(&mut Cluster, &AtomicI64, &mut StdRng),
) {
    let rounds: usize = std::env::var("DRAVE_DAMAGE_ROUNDS").map_or(default_rounds, |rounds| rounds.parse().unwrap());
    let seed = std::env::var("DRAVE_DAMAGE_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    let (acknowledged, unknown, stop) = (AtomicI64::new(0), AtomicI64::new(0), AtomicBool::new(false));
    let mut client = cluster.client();
    std::thread::scope(|scope| {
        scope.spawn(|| write_until_stopped(&mut client, &acknowledged, &unknown, &stop));
        let rounds = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..rounds).for_each(|_| run_round(&mut cluster, &acknowledged, &mut rng));
        }));
        stop.store(true, Ordering::Relaxed);
        rounds.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    cluster.wait_for_convergence();
    let executed = cluster.client().execute(&Command::Incr { key: b"counter", by: 0 }.encode()).unwrap();
    let Ok(Answer::Number(value)) = Answer::decode(executed.answer) else { panic!("the counter is a number") };
    let (acknowledged, unknown) = (acknowledged.into_inner(), unknown.into_inner());
    eprintln!("{value} after {acknowledged} acknowledged and {unknown} unknown increments");
    assert!((acknowledged..=acknowledged + unknown).contains(&value), "{value} of {acknowledged} + {unknown}");
    cluster.expect_no_deaths();
}

fn wait_for_writes(cluster: &Cluster, acknowledged: &AtomicI64) {
    let before = acknowledged.load(Ordering::Relaxed);
    let has_grown = || (acknowledged.load(Ordering::Relaxed) > before + 100).then_some(());
    wait_until("100 more writes", has_grown, || cluster.logs());
}

#[test]
fn damaged_files_of_one_node_lose_nothing() {
    let mut cluster = Cluster::prepare(3);
    cluster.extra_args.extend(["--snapshot-log-bytes", "512KiB", "--trailing-bytes", "64KiB"].map(str::to_owned));
    let mut counts: BTreeMap<(&str, Damage), BTreeMap<Outcome, u64>> = BTreeMap::new();
    damage_under_load(cluster, 12, |cluster, acknowledged, rng| {
        let earlier_files = read_journal_files(cluster);
        wait_for_writes(cluster, acknowledged);
        let node = rng.random_range(0..3);
        let mut kinds_by_node = vec![(node, rng.random_range(0..KINDS.len()))];
        if rng.random_range(0..4) == 0 {
            let second_node = (node + rng.random_range(1..3)) % 3;
            // Damaged later and started first: its log is whole, and makes a quorum with the third node.
            kinds_by_node.push((second_node, rng.random_range(KINDS_OF_SECOND_NODE)));
        }
        kinds_by_node.iter().for_each(|(node, _)| cluster.kill(*node));
        let mut damaged_files = Vec::new();
        for (node, kind) in kinds_by_node {
            let (kind, damages) = KINDS[kind];
            let damage = damages[rng.random_range(0..damages.len())];
            let files = files_of(&cluster.data_dir(node), kind);
            let path = files.get(rng.random_range(0..files.len().max(1))).cloned();
            let damaged_file = path.map(|path| {
                let earlier = earlier_files.get(&path).map_or(&[][..], |bytes| &bytes[..]);
                damage_file(&path, damage, earlier, rng)
            });
            damaged_files.push((node, kind, damage, damaged_file));
        }
        for (node, kind, damage, damaged_file) in damaged_files.into_iter().rev() {
            let Some(damaged_file) = damaged_file else {
                cluster.spawn(node);
                continue;
            };
            let outcome = start_damaged(cluster, node, &damaged_file);
            eprintln!("n{}: {kind}, {damage:?}: {outcome:?}", node + 1);
            *counts.entry((kind, damage)).or_default().entry(outcome).or_default() += 1;
        }
    });
    eprintln!("{counts:#?}");
}

/// An entry in a segment's file.
struct StoredEntry {
    index: u64,
    /// The bytes of the record's body in the file.
    body: Range<usize>,
}

/// The newest segment of a node, and those of its entries whose damage another node can mend: the entries beside them are of
/// the same term, so that the damage hides no change of term. The last ones may be missing in the other log.
fn mendable_entries(data: &Path) -> (PathBuf, Vec<StoredEntry>) {
    let path = files_of(data, "wal").into_iter().max().unwrap();
    let bytes = Bytes::from(std::fs::read(&path).unwrap());
    let salt = SegmentHeader::decode(&bytes).unwrap().salt();
    let frames = Scan::new(bytes, salt, None).filter_map(|item| match item {
        ScanItem::Frame(frame) => Some(frame),
        ScanItem::Gap { .. } => None,
    });
    let entries: Vec<_> = frames
        .filter(|frame| frame.kind == RecordKind::Entry)
        .map(|frame| {
            let body_start = frame.offset as usize + FRAME_HEADER_BYTES;
            let position = EntryMetadata::decode(&frame.body).unwrap().position;
            (position, body_start..body_start + frame.body.len())
        })
        .collect();
    let continue_each_other = |one: Position, next: Position| one.term == next.term && one.index.next() == next.index;
    let mut mendable: Vec<StoredEntry> = entries
        .windows(3)
        .filter(|beside| continue_each_other(beside[0].0, beside[1].0) && continue_each_other(beside[1].0, beside[2].0))
        .map(|beside| StoredEntry { index: beside[1].0.index.0, body: beside[1].1.clone() })
        .collect();
    mendable.truncate(mendable.len() * 4 / 5);
    (path, mendable)
}

/// The newest entries are damaged on two of three nodes, in different entries: neither can lead before it has the other
/// one's entries, and the third may lack the last ones.
#[test]
fn damaged_logs_of_two_nodes_lose_nothing() {
    let mut cluster = Cluster::prepare(3);
    // Nobody sends a snapshot while there is no leader.
    cluster.extra_args.extend(["--snapshot-log-bytes", "100GiB"].map(str::to_owned));
    damage_under_load(cluster, 3, |cluster, acknowledged, rng| {
        wait_for_writes(cluster, acknowledged);
        let first = rng.random_range(0..3);
        let nodes = [first, (first + rng.random_range(1..3)) % 3];
        nodes.iter().for_each(|node| cluster.kill(*node));
        let mut damaged_index = None;
        for node in nodes {
            let (path, mut entries) = mendable_entries(&cluster.data_dir(node));
            entries.retain(|entry| damaged_index.is_none_or(|other: u64| entry.index.abs_diff(other) > 1));
            if entries.is_empty() {
                continue;
            }
            let entry = &entries[rng.random_range(0..entries.len())];
            damaged_index = Some(entry.index);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[rng.random_range(entry.body.clone())] ^= 1 << rng.random_range(0..8);
            std::fs::write(&path, bytes).unwrap();
            eprintln!("n{}: entry {} of {}", node + 1, entry.index, path.display());
        }
        nodes.iter().for_each(|node| cluster.spawn(*node));
        let committed = cluster.status(cluster.wait_for_leader()).map_or(1, |status| status.commit);
        let have_caught_up =
            || (0..3).all(|node| cluster.status(node).is_some_and(|status| status.applied >= committed)).then_some(());
        wait_until("all nodes catch up", have_caught_up, || cluster.logs());
    });
}
