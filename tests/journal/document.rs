//! Compares `wal-format.md` with the code: decodes the document's dump of a segment and compares its tables.

use bytes::Bytes;
use drave::codec;
use drave::disk::Disk;
use drave::sim::disk::SimDisk;
use drave::types::*;
use drave::wal::format::{self, Frame, Opening, RecordKind, SegmentHeader};
use drave::wal::scan::{Scan, ScanItem};
use drave::wal::{Journal, Options, sync_marker};

const DOCUMENT: &str = include_str!("../../wal-format.md");

/// The disk and the segment of the document's dump: node 1, alone in its cluster, votes for itself in term 1, and
/// appends a no-op and one command.
fn sample_segment() -> (SimDisk, Bytes) {
    let disk = SimDisk::new();
    let node = NodeId::new(1).unwrap();
    let members = Membership::founding([(node, "127.0.0.1:7401".to_owned())]);
    let founding = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership: members };
    let ids = (ClusterId(0x6f2c_91aa_0d77_be21), DiskId(0x51c0_aa17_9a3c_11f0));
    let options = Options { segment_bytes: 4096, ..Options::new(node, ids.0, ids.1) };
    let (mut journal, _) = Journal::open(disk.clone(), options, Some(&founding)).unwrap();
    let entry_at = |index, payload| codec::entry(Position::new(Index(index), Term(1)), ClusterTime(250), payload);
    let hard_state =
        HardState { term: Term(1), vote: Some(Vote { node, disk: ids.1 }), promised_position: Position::ZERO };
    let entries = vec![entry_at(1, Payload::Noop), entry_at(2, Payload::Opaque(Bytes::from_static(b"x=1")))];
    let write = Write { id: WriteId(1), hard_state: Some(hard_state), base: None, entries };
    journal.append(&write).unwrap();
    journal.sync().unwrap();
    let bytes = disk.read_file("0000000001.wal").unwrap();
    (disk, bytes.into())
}

/// The bytes of the dump in the document.
fn documented_bytes() -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in DOCUMENT.lines() {
        let Some((offset, rest)) = line.split_once("  ") else { continue };
        if offset.len() != 8 || u32::from_str_radix(offset, 16) != Ok(bytes.len() as u32) {
            continue;
        }
        let hex = rest.split('|').next().unwrap();
        bytes.extend(hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    bytes
}

fn hex_dump(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (line, chunk) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let half = hex.len().min(8);
        let text: String = chunk.iter().map(|b| if (32..127).contains(b) { *b as char } else { '.' }).collect();
        let hex = format!("{}  {}", hex[..half].join(" "), hex[half..].join(" "));
        out += &format!("{:08x}  {hex:<48}  |{text}|\n", line * 16);
    }
    out
}

#[test]
fn documented_dump_matches_written_segment() {
    let (_, bytes) = sample_segment();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let written_bytes = &bytes[..end.next_multiple_of(8)];
    assert!(
        documented_bytes() == written_bytes,
        "the document's dump differs from what the journal writes:\n{}",
        hex_dump(written_bytes)
    );
}

#[test]
fn documented_dump_decodes_to_documented_records() {
    let bytes = Bytes::from(documented_bytes());
    let header = SegmentHeader::decode(&bytes).unwrap();
    assert_eq!((header.node.get(), header.number, header.flags), (1, 1, 0));
    let scan = Scan::new(bytes.clone(), header.salt(), Some(0));
    let frames: Vec<Frame> =
        scan.map(|item| if let ScanItem::Frame(frame) = item { frame } else { panic!("{item:?}") }).collect();
    let decoded_frames: Vec<(u64, usize, RecordKind)> =
        frames.iter().map(|frame| (frame.offset, frame.body.len(), frame.kind)).collect();
    use RecordKind::*;
    let expected_frames = [(0x40, 80, Batch), (0xa0, 200, Open), (0x178, 80, Batch), (0x1d8, 48, HardState)];
    assert_eq!(decoded_frames[..4], expected_frames);
    assert_eq!(decoded_frames[4..], [(0x218, 32, Entry), (0x248, 35, Entry)]);
    for frame in &frames {
        let row = format!("| `{:x}` | {} | {:08x} |", frame.offset, frame.kind as u8, frame.checksum);
        assert!(DOCUMENT.contains(&row), "the table of the dump has no row {row}");
    }
    let batch = format::BatchHeader::decode(&frames[2].body).unwrap();
    assert_eq!((batch.number, batch.bytes, batch.frame_count, batch.synced_end), (2, 264, 3, (1, 376)));
    assert_eq!(Opening::decode(&frames[1].body).unwrap().last_position, Position::ZERO);
    assert_eq!(format::decode_hard_state(&frames[3].body).unwrap().vote.map(|vote| vote.node), NodeId::new(1));
    let entry = codec::read_entry(&mut codec::Reader::new(frames[5].body.clone())).unwrap();
    assert_eq!(entry.payload, Payload::Opaque(Bytes::from_static(b"x=1")));
}

/// Asserts that a line of the document contains all of these strings.
fn assert_documented(strings: &[&str]) {
    let is_documented = DOCUMENT.lines().any(|line| strings.iter().all(|string| line.contains(string)));
    assert!(is_documented, "no line of wal-format.md contains {strings:?}");
}

#[test]
fn documented_tables_match_code() {
    let number = |n: usize| n.to_string();
    assert_documented(&["magic", &format!("`{}`", std::str::from_utf8(&format::MAGIC).unwrap())]);
    assert_documented(&["format version", &format!("| {} |", format::FORMAT_VERSION)]);
    assert_documented(&["segment header", &format!("{} bytes", format::SEGMENT_HEADER_BYTES)]);
    assert_documented(&["frame header", &format!("{} bytes", format::FRAME_HEADER_BYTES)]);
    assert_documented(&["multiple of", &number(format::FRAME_ALIGNMENT)]);
    assert_documented(&["body of a frame", &number(format::BODY_BYTES_MAX)]);
    assert_documented(&["batch frame", &format!("{} bytes", format::BATCH_FRAME_BYTES)]);
    assert_documented(&["seal frame", &format!("{} bytes", format::SEAL_FRAME_BYTES)]);
    assert_documented(&["segment size", &format!("{} MiB", Options::SEGMENT_BYTES >> 20)]);
    assert_documented(&["piece of a batch", &format!("{} MiB", Options::BATCH_BYTES >> 20)]);
    assert_documented(&[
        "side file",
        &format!("`{}`", sync_marker::FILE_NAME),
        &format!("{} slots", sync_marker::SLOT_COUNT),
        &number(sync_marker::SLOT_DISTANCE_BYTES),
    ]);
    assert_documented(&["header of an entry", &format!("{} bytes", codec::ENTRY_HEADER)]);
    use RecordKind::*;
    let kinds = [
        (Batch, "batch"),
        (Open, "open"),
        (HardState, "hard"),
        (Base, "base"),
        (Release, "release"),
        (Entry, "entry"),
        (Seal, "seal"),
    ];
    for (kind, name) in kinds {
        assert_documented(&[&format!("| {} | {name} |", kind as u8)]);
    }
    assert_documented(&["recycled", &format!("bit {}", format::RECYCLED_FLAG.trailing_zeros())]);
}

#[test]
fn sync_marker_file_matches_document() {
    let (disk, _) = sample_segment();
    let bytes = Bytes::from(disk.read_file(sync_marker::FILE_NAME).unwrap());
    assert_eq!(bytes.len(), sync_marker::SLOT_DISTANCE_BYTES * sync_marker::SLOT_COUNT);
    let marker = sync_marker::SyncMarker::read(&bytes, DiskId(0x51c0_aa17_9a3c_11f0));
    let synced_offset = marker.log_offset.unwrap();
    assert_eq!((synced_offset.segment, synced_offset.offset, synced_offset.last_position.index), (1, 640, Index(2)));
    assert_eq!(marker.hard_state.unwrap().vote.map(|vote| vote.node), NodeId::new(1));
    assert_eq!(file_names(&disk), ["0000000001.wal", sync_marker::FILE_NAME]);
}

fn file_names(disk: &SimDisk) -> Vec<String> {
    disk.list().unwrap()
}
