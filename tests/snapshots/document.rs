//! Compares `wal-format.md` with the code: decodes the document's dump of a snapshot and compares its tables.

use bytes::Bytes;
use drave::api::Op;
use drave::apply::{Applier, Piece};
use drave::codec;
use drave::limits::CHUNK_BYTES;
use drave::machine::{Command, Kv};
use drave::sim::disk::SimDisk;
use drave::snapshot::format::{self, Chunks};
use drave::snapshot::{ChunkKind, Header, Store};
use drave::snapshotting::restore::state_header;
use drave::types::*;

const WAL_FORMAT_PAGE: &str = include_str!("../../wal-format.md");

/// The state of the snapshot in the document: one session, which put one key.
fn documented_state() -> Applier<Kv> {
    let mut applier = Applier::new(Kv::new());
    let command = Command::Put { key: b"x", value: b"1" }.encode();
    let ops = [
        Op::Open { window: 8, ordered: false },
        Op::Execute { session: SessionId(1), seq: 1, first_outstanding: 1, command },
    ];
    let entry = |(index, op): (u64, &Op)| {
        let position = Position::new(Index(index), Term(1));
        codec::entry(position, ClusterTime(250), Payload::Opaque(op.encode()))
    };
    applier.apply(&(1..).zip(&ops).map(entry).collect::<Vec<_>>());
    applier
}

/// The snapshot of the document, taken by node 1 of a single-node cluster.
fn sample_snapshot() -> Bytes {
    let mut applier = documented_state();
    let node = NodeId::new(1).unwrap();
    let state_header = applier.freeze();
    let header = Header {
        cluster: ClusterId(0x6f2c_91aa_0d77_be21),
        node,
        position: state_header.position,
        configuration_index: Index::ZERO,
        time: state_header.time,
        digest: state_header.digest,
        sessions: state_header.sessions,
        membership: Membership::founding([(node, "127.0.0.1:7401".to_owned())]),
    };
    let store = Store::open(SimDisk::new(), header.cluster).unwrap();
    let mut writer = store.create_writer(&header).unwrap();
    while let Some(piece) = applier.next_chunk(CHUNK_BYTES) {
        match piece {
            Piece::Sessions(bytes) => writer.write_piece(ChunkKind::Sessions, &bytes).unwrap(),
            Piece::Machine(bytes) => writer.write_piece(ChunkKind::Machine, &bytes).unwrap(),
        }
    }
    writer.finish().unwrap().bytes().clone()
}

fn snapshots_section() -> &'static str {
    let section_start = WAL_FORMAT_PAGE.find("\n## Snapshots\n").expect("the document has a section on snapshots");
    &WAL_FORMAT_PAGE[section_start..]
}

/// The bytes of the dump in the document's section on snapshots.
fn documented_bytes() -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in snapshots_section().lines() {
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
        let first_half_length = hex.len().min(8);
        let text: String = chunk.iter().map(|b| if (32..127).contains(b) { *b as char } else { '.' }).collect();
        let hex = format!("{}  {}", hex[..first_half_length].join(" "), hex[first_half_length..].join(" "));
        out += &format!("{:08x}  {hex:<48}  |{text}|\n", line * 16);
    }
    out
}

#[test]
fn documented_dump_matches_written_snapshot() {
    let written_bytes = sample_snapshot();
    assert!(
        documented_bytes() == written_bytes[..],
        "the document's dump differs from the written snapshot:\n{}",
        hex_dump(&written_bytes)
    );
}

#[test]
fn documented_dump_decodes_to_documented_chunks() {
    let bytes = Bytes::from(documented_bytes());
    let (header, chain) = Header::decode(&bytes).unwrap();
    assert_eq!(
        (header.node.get(), header.position, header.time),
        (1, Position::new(Index(2), Term(1)), ClusterTime(250))
    );
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    assert!(snapshots_section().contains(&format!("digest `{:016x}`", header.digest)), "{:016x}", header.digest);
    assert!(snapshots_section().contains(&format!("checksum `{:08x}`", chain.checksum)), "{:08x}", chain.checksum);
    for chunk in Chunks::new(bytes.clone(), chain) {
        let chunk = chunk.unwrap();
        let row = format!("| `{:x}` | {} | {:08x} |", chunk.at, chunk.kind as u8, u32_at(chunk.at as usize));
        assert!(snapshots_section().contains(&row), "the table of the dump has no row {row}");
    }
}

#[test]
fn documented_dump_restores_documented_state() {
    let bytes = Bytes::from(documented_bytes());
    let (header, chain) = Header::decode(&bytes).unwrap();
    let mut applier_restore = Applier::new(Kv::new()).begin_restore();
    for chunk in Chunks::new(bytes, chain) {
        let chunk = chunk.unwrap();
        match chunk.kind {
            ChunkKind::Sessions => applier_restore.add(&Piece::Sessions(chunk.body)).unwrap(),
            ChunkKind::Machine => applier_restore.add(&Piece::Machine(chunk.body)).unwrap(),
            ChunkKind::End => {}
        }
    }
    let restored = applier_restore.finish(&state_header(&header)).unwrap();
    assert_eq!(restored.machine().get(b"x"), Some(&b"1"[..]));
    assert_eq!(restored.digest(), documented_state().digest());
}

/// Asserts that a line of the section on snapshots contains all of these strings.
fn assert_documented(strings: &[&str]) {
    let is_documented = snapshots_section().lines().any(|line| strings.iter().all(|string| line.contains(string)));
    assert!(is_documented, "no line of the section contains {strings:?}");
}

#[test]
fn documented_tables_match_code() {
    assert_documented(&["magic", &format!("`{}`", std::str::from_utf8(&format::MAGIC).unwrap())]);
    assert_documented(&["format version", &format!("| {} |", format::FORMAT_VERSION)]);
    assert_documented(&[&format!("| {} | … | members |", format::FIXED_HEADER_BYTES)]);
    assert_documented(&["header of a chunk", &format!("{} bytes", format::CHUNK_HEADER_BYTES)]);
    assert_documented(&["body of a chunk", &format!("{} bytes", format::CHUNK_BODY_BYTES_MAX)]);
    assert_documented(&["header of a snapshot", &format!("{} bytes", format::HEADER_BYTES_MAX)]);
    for (kind, name) in [(ChunkKind::Sessions, "sessions"), (ChunkKind::Machine, "machine"), (ChunkKind::End, "end")] {
        assert_documented(&[&format!("| {} | {name} |", kind as u8)]);
    }
}
