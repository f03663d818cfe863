//! `drave dump` over healthy, torn and damaged journals: its output and its exit codes.

use bytes::Bytes;
use drave::api::Op;
use drave::codec;
use drave::disk::FsDisk;
use drave::disk::fs::SyncMode;
use drave::machine::commands::Command;
use drave::snapshot::{ChunkKind, Header, Store};
use drave::types::*;
use drave::wal::{Journal, Options};
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use tempfile::TempDir;

fn run_dump(args: &[&str], path: &Path) -> (String, i32) {
    let output = dump_command(args, path).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

fn dump_command(args: &[&str], path: &Path) -> process::Command {
    let mut command = process::Command::new(env!("CARGO_BIN_EXE_drave"));
    command.arg("dump").args(args).arg(path);
    command
}

/// The lines with the checksums masked and the duration at the end removed, since both differ between runs.
fn mask_checksums(text: &str) -> Vec<String> {
    let mask_line = |line: &str| match line.starts_with("# total") {
        true => line.rsplit_once(" · ").unwrap().0.to_owned(),
        false if line.starts_with(' ') => format!("{}········{}", &line[..53], line.get(61..).unwrap_or("")),
        false => line.to_owned(),
    };
    text.lines().map(mask_line).collect()
}

fn founding_point() -> SnapshotPoint {
    let members = (1..=3).map(|id| (NodeId::new(id).unwrap(), format!("n{id}:1")));
    SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership: Membership::founding(members) }
}

fn execute_payload(session: u64, seq: u64, command: Command<'_>) -> Payload {
    let command = command.encode();
    Payload::Opaque(Op::Execute { session: SessionId(session), seq, first_outstanding: 1, command }.encode())
}

fn open_journal(path: &Path, segment_bytes: u64) -> Journal<FsDisk> {
    let disk = FsDisk::open_or_create(&path.join("wal"), SyncMode::Executed).unwrap();
    let (cluster_id, disk_id) = (ClusterId(0x6f2c_91aa_0d77_be21), DiskId(9));
    let options = Options { segment_bytes, ..Options::new(NodeId::new(1).unwrap(), cluster_id, disk_id) };
    Journal::open(disk, options, Some(&founding_point())).unwrap().0
}

fn write_and_sync(journal: &mut Journal<FsDisk>, id: u64, hard_state_term: Option<u64>, payloads: Vec<(u64, Payload)>) {
    let entry = |(index, payload)| codec::entry(Position::new(Index(index), Term(1)), ClusterTime(5), payload);
    let write = Write {
        id: WriteId(id),
        hard_state: hard_state_term.map(|term| HardState {
            term: Term(term),
            vote: NodeId::new(1).map(|node| Vote { node, disk: DiskId(7) }),
            promised_position: Position::ZERO,
        }),
        base: None,
        entries: payloads.into_iter().map(entry).collect(),
    };
    journal.append(&write).unwrap();
    journal.sync().unwrap();
}

/// A data directory with every kind of entry.
fn sample_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open_journal(directory.path(), 1 << 20);
    write_and_sync(&mut journal, 1, Some(1), vec![(1, Payload::Noop)]);
    write_and_sync(
        &mut journal,
        2,
        None,
        vec![
            (2, Payload::Membership(Box::new(founding_point().membership))),
            (3, Payload::Opaque(Op::Open { window: 64, ordered: false }.encode())),
        ],
    );
    let commands = vec![
        (4, execute_payload(3, 1, Command::Put { key: b"user:1", value: b"ada" })),
        (5, execute_payload(3, 2, Command::Cas { key: b"user:1", expected: None, new: b"\xff\n" })),
        (6, execute_payload(3, 3, Command::Incr { key: b"n", by: -2 })),
        (
            7,
            execute_payload(
                3,
                4,
                Command::Batch(vec![Command::Del { key: b"a" }, Command::Put { key: b"b", value: b"1" }]),
            ),
        ),
        (8, execute_payload(3, 5, Command::Put { key: b"long", value: &[b'x'; 60] })),
        (9, Payload::Opaque(Op::Close { session: SessionId(3) }.encode())),
    ];
    write_and_sync(&mut journal, 3, None, commands);
    directory
}

fn first_segment_path(directory: &TempDir) -> PathBuf {
    directory.path().join("wal/0000000001.wal")
}

fn overwrite_bytes(path: &Path, offset: usize, replacement: &[u8]) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset..offset + replacement.len()].copy_from_slice(replacement);
    std::fs::write(path, bytes).unwrap();
}

/// Offset and length in bytes of the record of the entry at `index`.
fn record_offset_and_length(directory: &TempDir, index: u64) -> (usize, usize) {
    let index = index.to_string();
    let (text, _) = run_dump(&["--from", &index, "--to", &index], directory.path());
    let line = text.lines().find(|line| line.starts_with(' ')).unwrap();
    let mut columns = line.split_whitespace().map(|word| word.parse().unwrap_or(0));
    (columns.next().unwrap(), columns.next().unwrap())
}

#[test]
fn healthy_journal_prints_as_text() {
    let directory = sample_directory();
    let (text, code) = run_dump(&[], directory.path());
    let expected_lines = "\
# segment 0000000001.wal · node 1 · cluster 6f2c91aa · format 2 · first entry 1 · 1.0 MiB · open
#   offset     len  type    term       index  batch  crc       what
       160     296  seg        0           -      1  ········  begins behind 0@0 base=0@0 term=0 vote=- voters=1,2,3
       552      64  hard       1           -      2  ········  term=1 vote=1
       616      48  noop       1           1      2  ········
       760     136  conf       1           2      3  ········  voters=1,2,3
       896      56  open       1           3      3  ········  session=3 window=64
      1048      96  put        1           4      4  ········  3#1 \"user:1\" = \"ada\"
      1144      96  cas        1           5      4  ········  3#2 \"user:1\" absent -> \"\\xff\\n\"
      1240      88  incr       1           6      4  ········  3#3 \"n\" by -2
      1328      96  batch      1           7      4  ········  3#4 del \"a\"; put \"b\" = \"1\"
      1424     152  put        1           8      4  ········  3#5 \"long\" = \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"… +12 bytes
      1576      64  close      1           9      4  ········  session=3
# total 1 segments · 11 records · entries 1..9 · terms 1..1 · 0 bad · 0 torn";
    let expected_lines: Vec<String> = expected_lines.lines().map(str::to_owned).collect();
    let printed_lines = mask_checksums(&text);
    assert_eq!(printed_lines, expected_lines, "\n{}", printed_lines.join("\n"));
    assert_eq!(code, 0);
    for path in [directory.path().join("wal"), first_segment_path(&directory)] {
        assert_eq!(
            mask_checksums(&run_dump(&[], &path).0),
            expected_lines,
            "a directory of segments and a single segment print the same"
        );
    }
}

#[test]
fn healthy_journal_prints_as_jsonl() {
    let directory = sample_directory();
    let (text, code) = run_dump(&["-o", "jsonl"], directory.path());
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(code, 0);
    assert_eq!(lines[0]["k"], "segment");
    assert_eq!((&lines[0]["file"], &lines[0]["size"]), (&"0000000001.wal".into(), &(1 << 20).into()));
    assert_eq!((&lines[0]["cluster"], &lines[0]["sealed"]), (&"6f2c91aa".into(), &false.into()));
    let put_line = lines.iter().find(|line| line["type"] == "put").unwrap();
    assert_eq!(
        (&put_line["k"], &put_line["ok"], &put_line["index"], &put_line["batch"]),
        (&"rec".into(), &true.into(), &4.into(), &4.into())
    );
    assert_eq!((&put_line["session"], &put_line["seq"]), (&3.into(), &1.into()));
    assert_eq!((&put_line["key"], &put_line["value"]), (&"user:1".into(), &"ada".into()));
    assert_eq!(put_line["crc"].as_str().unwrap().len(), 8);
    let cas_line = lines.iter().find(|line| line["type"] == "cas").unwrap();
    assert_eq!((&cas_line["value_b64"], &cas_line["old"]), (&"/wo=".into(), &serde_json::Value::Null));
    let batch_line = lines.iter().find(|line| line["type"] == "batch").unwrap();
    assert_eq!(batch_line["commands"][1]["key"], "b");
    let total_line = lines.last().unwrap();
    assert_eq!(
        *total_line,
        serde_json::json!({
            "k": "total", "snapshots": 0, "chunks": 0, "segments": 1, "records": 11, "first": 1, "last": 9, "bad": 0, "torn": 0, "exit": 0,
        })
    );
}

#[test]
fn filters_select_records() {
    let directory = sample_directory();
    let count_records =
        |args: &[&str]| run_dump(args, directory.path()).0.lines().filter(|line| line.starts_with(' ')).count();
    assert_eq!(count_records(&["--from", "3", "--to", "5"]), 3);
    assert_eq!(count_records(&["--term", "1"]), 10);
    assert_eq!(count_records(&["--term", "2"]), 0);
    assert_eq!(count_records(&["--type", "put,conf"]), 3);
    assert_eq!(count_records(&["--type", "head"]), 4);
    assert_eq!(count_records(&["--key", "user:"]), 2);
    assert_eq!(count_records(&["--key", "b"]), 1, "a key within a batch");
    assert_eq!(count_records(&["-n", "2"]), 2);
    let lines = |args: &[&str]| run_dump(args, directory.path()).0.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&["--key", "nowhere"]).len(), 1, "a segment without a matching record has no heading");
    assert_eq!(lines(&["--key", "user:"]).len(), 5);
    assert_eq!(run_dump(&["-o", "json", "-n", "1"], directory.path()).1, 0);
    assert_eq!(count_records(&["--check"]), 0);
    let (text, _) = run_dump(&["--tail", "1", "--type", "put", "--full"], directory.path());
    assert!(text.contains(&format!("{:?}\n", "x".repeat(60))), "{text}");
    assert!(!text.contains("ada"));
    assert!(run_dump(&["--hex", "-n", "7"], directory.path()).0.contains("757365723a31 = 616461"));
}

#[test]
fn stats_count_types_and_entries_per_batch() {
    let directory = sample_directory();
    let (text, _) = run_dump(&["--stats"], directory.path());
    assert!(text.contains("# put              2           248\n"), "{text}");
    assert!(text.contains("# 4 fsync batches · 2.2 entries each\n"), "{text}");
}

#[test]
fn torn_tail_is_not_damage() {
    let directory = sample_directory();
    let (offset, _) = record_offset_and_length(&directory, 6);
    // As after a power loss: the sectors after `offset` are not written, and the sync marker is an old one.
    overwrite_bytes(&first_segment_path(&directory), offset, &vec![0; 4096]);
    std::fs::remove_file(directory.path().join("wal/synced")).unwrap();
    let (text, code) = run_dump(&["--check"], directory.path());
    assert_eq!(code, 0, "{text}");
    let torn_line = text.lines().find(|line| line.starts_with('!')).unwrap();
    assert_eq!(
        torn_line,
        format!(
            "!{offset:>9}     {:>3}  TORN       -           -      -  -         batch says 688, {} are good · \
             normal after a crash: recovery cuts at 952",
            offset - 952,
            offset - 952
        )
    );
    assert!(text.contains("0 bad · 1 torn"), "{text}");
    let (json, _) = run_dump(&["-o", "jsonl"], directory.path());
    let line = json.lines().find(|line| line.contains("\"torn\",") || line.contains("\"k\":\"torn\"")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["off"], &line["want"], &line["tail"]), (&offset.into(), &688.into(), &true.into()));
}

#[test]
fn zeroed_synced_tail_is_damage() {
    let directory = sample_directory();
    let (offset, _) = record_offset_and_length(&directory, 6);
    overwrite_bytes(&first_segment_path(&directory), offset, &vec![0; 4096]);
    let (text, code) = run_dump(&["--check"], directory.path());
    assert_eq!(code, 5, "the sync marker covers the zeroed part:\n{text}");
}

#[test]
fn damaged_record_is_reported_and_skipped() {
    let directory = sample_directory();
    let ((offset, len), (next, _)) = (record_offset_and_length(&directory, 2), record_offset_and_length(&directory, 3));
    overwrite_bytes(&first_segment_path(&directory), offset + 40, b"!!");
    let (text, code) = run_dump(&[], directory.path());
    assert_eq!(code, 5);
    let damaged_line = text.lines().find(|line| line.starts_with('!')).unwrap();
    assert!(
        damaged_line.starts_with(&format!("!{offset:>9}  {len:>6}  BAD        -           -      -")),
        "{damaged_line}"
    );
    assert!(damaged_line.contains("stored ") && damaged_line.contains(" computed "), "{damaged_line}");
    assert!(damaged_line.ends_with(&format!(" · next good record at {next}")), "{damaged_line}");
    assert!(text.contains("entries 1..9") && text.contains("1 bad · 0 torn"), "{text}");
    let (json, code) = run_dump(&["-o", "jsonl", "--check"], directory.path());
    assert_eq!(code, 5);
    let line: serde_json::Value = json.lines().nth(1).map(|line| serde_json::from_str(line).unwrap()).unwrap();
    assert_eq!((&line["k"], &line["off"], &line["next"]), (&"bad".into(), &offset.into(), &next.into()));
    assert_eq!(line["stored"].as_str().unwrap().len(), 8);
}

#[test]
fn damaged_segment_header_does_not_hide_records() {
    let directory = multi_segment_directory();
    overwrite_bytes(&directory.path().join("wal/0000000002.wal"), 3, b"?");
    let (text, code) = run_dump(&[], directory.path());
    assert_eq!(code, 5);
    assert!(text.contains("not a segment"), "{text}");
    assert!(text.contains("entries 1..40"), "{text}");
}

/// A data directory with 40 entries of 300 bytes in several segments of 4 KiB.
fn multi_segment_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open_journal(directory.path(), 4096);
    for id in 1..=20u64 {
        let payload = |index| (index, Payload::Opaque(Bytes::from(vec![b'.'; 300])));
        write_and_sync(&mut journal, id, Some(1), vec![payload(id * 2 - 1), payload(id * 2)]);
    }
    directory
}

#[test]
fn several_segments_form_one_log() {
    let directory = multi_segment_directory();
    let (text, code) = run_dump(&["--check"], directory.path());
    assert_eq!(code, 0, "{text}");
    let segment_lines: Vec<&str> = text.lines().filter(|line| line.starts_with("# segment")).collect();
    assert!(segment_lines.len() > 3);
    let (last, sealed) = segment_lines.split_last().unwrap();
    assert!(sealed.iter().all(|line| line.ends_with("· sealed")) && last.ends_with("· open"), "{text}");
    assert!(text.contains("entries 1..40"), "{text}");
}

#[test]
fn missing_segment_is_damage() {
    for number in [2, 3] {
        let directory = multi_segment_directory();
        std::fs::remove_file(directory.path().join(format!("wal/{number:010}.wal"))).unwrap();
        let (text, code) = run_dump(&["--check"], directory.path());
        assert_eq!(code, 5, "{text}");
        assert!(text.contains("0.wal: missing") || text.contains(&format!("{number:010}.wal: missing")), "{text}");
    }
    let directory = multi_segment_directory();
    let last_segment = std::fs::read_dir(directory.path().join("wal")).unwrap().map(|entry| entry.unwrap().path());
    let last_segment = last_segment.filter(|path| path.extension().is_some_and(|end| end == "wal")).max().unwrap();
    std::fs::remove_file(last_segment).unwrap();
    assert_eq!(run_dump(&["--check"], directory.path()).1, 5);
}

/// A power loss may undo the removal of some released segments and not of others.
#[test]
fn gap_among_released_segments_is_not_damage() {
    let segment_path = |directory: &TempDir, number: u64| directory.path().join(format!("wal/{number:010}.wal"));
    let directory = multi_segment_directory();
    let oldest_segment = std::fs::read(segment_path(&directory, 1)).unwrap();
    let mut journal = open_journal(directory.path(), 4096);
    journal.release(Position::new(Index(32), Term(1))).unwrap();
    drop(journal);
    assert!(!segment_path(&directory, 1).exists() && !segment_path(&directory, 2).exists());
    // The test checks only the journal, since its data directory has no snapshots.
    let check = || run_dump(&["--check"], &directory.path().join("wal"));
    assert_eq!(check().1, 0, "{}", check().0);
    std::fs::write(segment_path(&directory, 1), oldest_segment).unwrap();
    assert_eq!(check().1, 0, "{}", check().0);
    let (text, code) = run_dump(&["--check"], directory.path());
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("snapshots: missing: the log begins behind 32"), "{text}");
    // A missing segment that the log needs is damage.
    let needed_segment_number = (3..).find(|number| segment_path(&directory, *number).exists()).unwrap();
    std::fs::remove_file(segment_path(&directory, needed_segment_number)).unwrap();
    let (text, code) = check();
    assert_eq!(code, 5, "{text}");
    assert!(text.contains(&format!("{needed_segment_number:010}.wal: missing, and it was not released")), "{text}");
}

/// Writes a snapshot of the state at `index` into the data directory of the journal.
fn write_snapshot(directory: &TempDir, index: u64) {
    let cluster = ClusterId(0x6f2c_91aa_0d77_be21);
    let header = Header {
        cluster,
        node: NodeId::new(1).unwrap(),
        position: Position::new(Index(index), Term(1)),
        configuration_index: Index::ZERO,
        time: ClusterTime(5),
        digest: 1,
        sessions: 0,
        membership: founding_point().membership,
    };
    let disk = FsDisk::open_or_create(&directory.path().join("snapshots"), SyncMode::Executed).unwrap();
    let mut writer = Store::open(disk, cluster).unwrap().create_writer(&header).unwrap();
    writer.write_piece(ChunkKind::Machine, b"a state").unwrap();
    writer.finish().unwrap();
}

/// rabbitmq-server#2505, #6447, #12141, #13113, dragonboat#146, #372: segments were kept although no entry in them was
/// needed, and nothing reported why.
#[test]
fn why_kept_reports_reason_of_each_segment() {
    let directory = multi_segment_directory();
    let read_keep_reasons = || {
        let (text, code) = run_dump(&["--why-kept", "-o", "jsonl"], directory.path());
        assert_eq!(code, 0, "{text}");
        let mut lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let total_line = lines.pop().unwrap();
        assert_eq!(
            (&total_line["k"], total_line["segments"].as_u64()),
            (&"reclaimable".into(), Some(lines.len() as u64))
        );
        let oldest_reclaimable = lines.iter().take_while(|line| line["reclaimable"] == true);
        assert_eq!(
            total_line["bytes"],
            oldest_reclaimable.map(|line| line["bytes"].as_u64().unwrap()).sum::<u64>(),
            "{text}"
        );
        let reason = |line: &serde_json::Value| (line["last"].as_u64(), line["why"].as_str().unwrap().to_owned());
        (lines.iter().map(reason).collect::<Vec<_>>(), total_line["bytes"].as_u64().unwrap())
    };
    let (reasons_before, reclaimable_before) = read_keep_reasons();
    let (last, sealed) = reasons_before.split_last().unwrap();
    assert!(sealed.len() > 2 && sealed.iter().all(|(_, reason)| reason == "not_in_snapshot"), "{reasons_before:?}");
    assert_eq!((last, reclaimable_before), (&(Some(40), "newest".to_owned()), 0), "there is no snapshot");

    write_snapshot(&directory, 20);
    let (reasons_now, reclaimable_now) = read_keep_reasons();
    for ((last, reason), (last_before, _)) in reasons_now.iter().zip(sealed) {
        assert_eq!(last, last_before);
        assert_eq!(reason, if *last <= Some(20) { "trailing" } else { "not_in_snapshot" }, "{reasons_now:?}");
    }
    assert!(
        reclaimable_now > 0 && reasons_now.iter().any(|(_, reason)| reason == "not_in_snapshot"),
        "{reasons_now:?}"
    );
    let (text, _) = run_dump(&["--why-kept"], directory.path());
    assert!(text.contains("for followers: --trailing-bytes") && text.contains("the snapshot ends at 20"), "{text}");
    assert!(text.lines().last().unwrap().ends_with("· snapshot up to 20"), "{text}");

    // The journal releases two segments. Later one of them is put back, as after a power loss.
    let first_segment = directory.path().join("wal/0000000001.wal");
    let bytes = std::fs::read(&first_segment).unwrap();
    open_journal(directory.path(), 4096).release(Position::new(Index(reasons_now[1].0.unwrap()), Term(1))).unwrap();
    assert_eq!(read_keep_reasons().0[0], reasons_now[2], "two segments are released");
    std::fs::write(directory.path().join("wal/0000000002.wal"), b"damaged").unwrap();
    let (text, code) = run_dump(&["--why-kept"], directory.path());
    assert!(code == 5 && text.contains("its header is damaged"), "{text}");
    std::fs::remove_file(directory.path().join("wal/0000000002.wal")).unwrap();
    std::fs::write(&first_segment, bytes).unwrap();
    assert_eq!(read_keep_reasons().0[0].1, "released");
}

/// A segment with nothing but overwritten entries is not needed, since the log has other entries at their indexes. It
/// is kept only because an older segment is kept.
#[test]
fn segment_without_live_entries_is_kept_while_an_older_one_is_kept() {
    let directory = multi_segment_directory();
    let mut journal = open_journal(directory.path(), 4096);
    let payload = |index| (index, Payload::Opaque(Bytes::from(vec![b'.'; 300])));
    write_and_sync(&mut journal, 21, None, vec![payload(5), payload(6)]);
    drop(journal);
    write_snapshot(&directory, 6);
    let (text, code) = run_dump(&["--why-kept"], directory.path());
    let segment_rows: Vec<&str> = text.lines().filter(|line| line.contains(".wal")).collect();
    assert!(code == 0 && segment_rows[0].contains(" 1           4  for followers"), "{text}");
    assert!(segment_rows[1].contains("-           -  an older one is kept"), "{text}");
    assert!(segment_rows.last().unwrap().contains("6  the newest"), "{text}");
}

#[test]
fn every_flipped_byte_is_reported_and_no_file_changes() {
    let directory = sample_directory();
    let segment_path = first_segment_path(&directory);
    let bytes = std::fs::read(&segment_path).unwrap();
    let last_written_offset = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    for offset in (0..last_written_offset).step_by(7) {
        overwrite_bytes(&segment_path, offset, &[bytes[offset] ^ 0x10]);
        let bytes_before = std::fs::read(&segment_path).unwrap();
        let (text, code) = run_dump(&["--check"], directory.path());
        assert_eq!(code, 5, "byte {offset}:\n{text}");
        assert_eq!(std::fs::read(&segment_path).unwrap(), bytes_before);
        std::fs::write(&segment_path, &bytes).unwrap();
    }
}

#[test]
fn follow_prints_new_records() {
    let directory = sample_directory();
    let mut journal = open_journal(directory.path(), 1 << 20);
    for (args, index) in [(&["-f"][..], 10), (&["-f", "--tail", "1"], 11)] {
        let mut child = dump_command(args, directory.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut any_line_contains =
            |number: u64| lines.any(|line| line.split_whitespace().any(|other| other == number.to_string()));
        assert!(any_line_contains(index - 1), "{args:?}: existing records are printed first");
        write_and_sync(&mut journal, index, None, vec![(index, Payload::Noop)]);
        let is_printed = any_line_contains(index);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_printed, "{args:?}");
    }
}

#[test]
fn directory_without_segments_is_an_error() {
    let empty_directory = tempfile::tempdir().unwrap();
    let output = dump_command(&[], empty_directory.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(74));
    assert!(String::from_utf8(output.stderr).unwrap().contains("no segments here"));
    assert_eq!(process::Command::new(env!("CARGO_BIN_EXE_drave")).arg("dump").status().unwrap().code(), Some(2));
}
