//! Fuzz targets: each takes arbitrary bytes, feeds them to one decoder, and panics if a property does not hold.
//!
//! They use only the library, so that cargo-fuzz, which needs the nightly toolchain, can use them as well: after
//! `cargo fuzz init`, `fuzz/fuzz_targets/frame.rs` is
//!
//! ```ignore
//! #![no_main]
//! #[path = "../../tests/fuzz/targets.rs"]
//! mod targets;
//! libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::frame(bytes));
//! ```
//!
//! and likewise for `resp`, `http` and `wal_scan`; `fuzz/Cargo.toml` needs `bytes` and `crc32fast`.
//!
//! Checksums reject nearly all random input, so the two formats that have them are also read with every checksum
//! corrected: then the decoders behind them are reached.

use bytes::{Bytes, BytesMut};
use drave::codec;
use drave::disk::{Disk, DiskFile};
use drave::sim::disk::SimDisk;
use drave::types::{ClusterId, DiskId, Index, Membership, NodeId, Position, SnapshotPoint};
use drave::wal::batches::Continuation;
use drave::wal::format::{self, Batch, EntryHead, FRAME_HEADER, Opening, RecordKind, SEGMENT_HEADER, Seal};
use drave::wal::inspect::{Finding, Inspection};
use drave::wal::scan::{Scan, ScanItem};
use drave::wal::tail::Surroundings;
use drave::wal::{Journal, Options, Recovered};
use drave::wire::WireError;
use drave::wire::client::{put_reply_frame, put_request_frame, read_reply_frame, read_request_frame};
use drave::wire::frame::{Frame, FrameKind, FrameReader};
use drave::wire::hello::{Hello, Welcome};
use drave::wire::http::{self, ResponseOptions};
use drave::wire::peer::PeerFrame;
use drave::wire::resp::{self, Bounds, Excess};
use std::fmt::Debug;

/// The size of a wire frame's header in bytes.
const WIRE_HEADER: usize = 12;
/// The disk of the segment that `wal_scan` reads.
const DISK: DiskId = DiskId(9);

/// The native protocol: the result does not depend on how the bytes arrive, memory grows only with them, and each
/// content that decodes is encoded to one that decodes to the same.
pub fn frame(bytes: &[u8]) {
    for bytes in [bytes, &with_frame_checksums(bytes)] {
        let whole = read_frames(bytes, bytes.len().max(1));
        assert_eq!(read_frames(bytes, 1), whole);
        assert_eq!(read_frames(bytes, 13), whole);
        whole.0.into_iter().for_each(check_content);
    }
}

/// The frames in these bytes, which arrive in pieces of that length, and the error that ends them.
fn read_frames(bytes: &[u8], piece: usize) -> (Vec<Frame>, Option<WireError>) {
    let (mut reader, mut input, mut frames) = (FrameReader::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            assert!(reader.held() <= 64 + 2 * bytes.len(), "{} bytes held of {}", reader.held(), bytes.len());
            match reader.next(&mut input) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fn check_content(frame: Frame) {
    match frame.kind {
        FrameKind::Hello => round_trip(frame, Hello::read, |hello, out| hello.put(out)),
        FrameKind::Welcome => round_trip(frame, Welcome::read, |welcome, out| welcome.put(out)),
        // A refusal is an error to its reader.
        FrameKind::Refused => assert!(Welcome::read(frame).is_err()),
        FrameKind::Request => round_trip(frame, read_request_frame, |numbered, out| {
            put_request_frame(out, numbered.id, numbered.forward, &numbered.request);
        }),
        FrameKind::Reply => round_trip(frame, read_reply_frame, |(id, reply), out| put_reply_frame(out, *id, reply)),
        FrameKind::Raft | FrameKind::Forward | FrameKind::Answer => {
            round_trip(frame, PeerFrame::read, |frame, out| frame.put(out));
        }
    }
}

fn round_trip<T: PartialEq + Debug>(
    frame: Frame,
    read: impl Fn(Frame) -> Result<T, WireError>,
    put: impl Fn(&T, &mut BytesMut),
) {
    let Ok(decoded) = read(frame) else { return };
    let mut out = BytesMut::new();
    put(&decoded, &mut out);
    let again = FrameReader::default().next(&mut out).expect("an encoded frame is valid").expect("it is complete");
    assert_eq!(read(again), Ok(decoded));
}

/// The same bytes with the checksum of each whole frame corrected.
fn with_frame_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut rest = &mut bytes[..];
    while let Some(length) = rest.first_chunk().map(|length| u32::from_le_bytes(*length) as usize) {
        if rest.len() < WIRE_HEADER || rest.len() - WIRE_HEADER < length {
            break;
        }
        let (frame, behind) = rest.split_at_mut(WIRE_HEADER + length);
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&frame[..8]);
        checksum.update(&frame[WIRE_HEADER..]);
        frame[8..WIRE_HEADER].copy_from_slice(&checksum.finalize().to_le_bytes());
        rest = behind;
    }
    bytes
}

/// Commands of Redis clients: the result does not depend on how the bytes arrive, and each command that is read is
/// encoded to one that is read as the same.
pub fn resp(bytes: &[u8]) {
    for bounds in [Bounds::KNOWN, Bounds::UNKNOWN] {
        let (commands, error) = read_commands(bytes, bytes.len().max(1), bounds);
        assert_eq!(read_commands(bytes, 1, bounds), (commands.clone(), error.clone()));
        assert_eq!(read_commands(bytes, 7, bounds), (commands.clone(), error));
        for (words, excess) in commands {
            assert!(!words.is_empty());
            if excess.is_none() {
                let mut out = BytesMut::new();
                let mut writer = resp::Writer::new(&mut out, resp::Version::Two);
                writer.array(words.len());
                words.iter().for_each(|word| writer.bulk(word));
                assert_eq!(read_commands(&out, out.len(), Bounds::KNOWN), (vec![(words, None)], None));
            }
        }
    }
}

/// The words of a command, and what is too large in it.
type Command = (Vec<Vec<u8>>, Option<Excess>);

fn read_commands(bytes: &[u8], piece: usize, bounds: Bounds) -> (Vec<Command>, Option<String>) {
    let (mut reader, mut input, mut commands) = (resp::Reader::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            match reader.next(&mut input, bounds) {
                Ok(Some(words)) => commands.push((words.from(0).map(<[u8]>::to_vec).collect(), words.excess())),
                Ok(None) => break,
                Err(error) => return (commands, Some(error.to_string())),
            }
        }
    }
    (commands, None)
}

/// Requests of HTTP clients: the heads do not depend on how the bytes arrive, and neither does the class of the status
/// that ends them. Two errors may be found in either order.
pub fn http(bytes: &[u8]) {
    let whole = read_heads(bytes, bytes.len().max(1));
    assert_eq!(read_heads(bytes, 1), whole);
    assert_eq!(read_heads(bytes, 7), whole);
    for head in whole.0 {
        assert!(head.path.starts_with('/'), "{head:?}");
        let _either = (http::decoded(&head.path), http::decoded(&head.query));
        let (mut out, body) = (BytesMut::new(), head.path.as_bytes());
        let response = http::Response { status: 200, kind: "text/plain", fields: &[], body };
        http::put_response(&mut out, &response, ResponseOptions::of(&head));
        assert_eq!(out.ends_with(body), head.method != http::Method::Head, "{head:?}");
    }
}

/// The heads of requests whose bodies, if any, are not removed, and the class of the error that ends them.
fn read_heads(bytes: &[u8], piece: usize) -> (Vec<http::RequestHead>, Option<u16>) {
    let (mut reader, mut input, mut heads) = (http::Reader::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            match reader.next(&mut input) {
                Ok(Some(head)) => heads.push(head),
                Ok(None) => break,
                Err(error) => {
                    assert!((400..600).contains(&error.status), "{error:?}");
                    return (heads, Some(error.status / 100));
                }
            }
        }
    }
    (heads, None)
}

/// Segments of a journal: the scan covers each byte once, `dump`'s inspection reads no other records than the scan, and
/// a start recovers the same twice or changes nothing.
pub fn wal_scan(bytes: &[u8]) {
    for bytes in [bytes, &with_wal_checksums(bytes)] {
        let bytes = Bytes::copy_from_slice(bytes);
        let mut at = SEGMENT_HEADER as u64;
        let mut frames = Vec::new();
        for item in Scan::new(bytes.clone(), format::salt(DISK, 1), None) {
            match item {
                ScanItem::Frame(frame) => {
                    assert!(frame.at == at && frame.end() > at);
                    at = frame.end();
                    check_record(frame.kind, &frame.body);
                    frames.push((frame.at, frame.checksum));
                }
                ScanItem::Gap { at: begin, next, .. } => {
                    assert!(begin == at && next.is_none_or(|next| next >= at));
                    at = next.unwrap_or(bytes.len() as u64);
                }
            }
        }
        assert!(at >= bytes.len() as u64 || bytes.len() < SEGMENT_HEADER);
        let around = Surroundings { number: 1, ..Surroundings::default() };
        for finding in Inspection::new(bytes.clone(), format::salt(DISK, 1), around, Continuation::start()) {
            if let Finding::Record(frame) = finding {
                assert!(frames.contains(&(frame.at, frame.checksum)));
            }
        }
        recover(&bytes);
    }
}

/// A body that decodes is encoded to one that decodes to the same.
fn check_record(kind: RecordKind, body: &Bytes) {
    let mut out = Vec::new();
    match kind {
        RecordKind::Batch => {
            if let Ok(batch) = Batch::read(body) {
                batch.put(&mut out);
                assert_eq!(Batch::read(&out.into()), Ok(batch));
            }
        }
        RecordKind::Open => {
            if let Ok(opening) = Opening::read(body) {
                opening.put(&mut out);
                assert_eq!(Opening::read(&out.into()), Ok(opening));
            }
        }
        RecordKind::Hard => {
            if let Ok(hard) = format::read_hard(body) {
                format::put_hard(&mut out, &hard);
                assert_eq!(format::read_hard(&out.into()), Ok(hard));
            }
        }
        RecordKind::Base | RecordKind::Release => {
            if let Ok(base) = format::read_base(body) {
                format::put_base(&mut out, &base);
                assert_eq!(format::read_base(&out.into()), Ok(base));
            }
        }
        RecordKind::Entry => {
            let head = EntryHead::read(body);
            if let Ok(entry) = codec::read_entry(&mut codec::Reader::new(body.clone())) {
                codec::put_entry(&mut out, &entry);
                assert!(out == body[..out.len()], "{entry:?} is written differently");
                assert!(head.is_err() || head.is_ok_and(|head| head.position == entry.position));
            }
        }
        RecordKind::Seal => {
            if let Ok(seal) = Seal::read(body) {
                seal.put(&mut out);
                assert_eq!(Seal::read(&out.into()), Ok(seal));
            }
        }
    }
}

/// Starts a journal whose only segment is this one, twice.
fn recover(segment: &Bytes) {
    let disk = SimDisk::new();
    let name = format::file_name(1);
    let mut file = disk.create(&name).unwrap();
    file.write_at(0, segment).unwrap();
    file.sync_all().unwrap();
    disk.sync_names().unwrap();
    let node = NodeId::new(1).unwrap();
    let options = Options { segment_bytes: 2048, batch_bytes: 700, ..Options::new(node, ClusterId(7), DISK) };
    let membership = Membership::founding([(node, "n1:1".to_owned())]);
    let founding = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership };
    let open = || Journal::open(disk.clone(), options.clone(), Some(&founding)).map(|(_, recovered)| recovered);
    match open() {
        Ok(first) => {
            let second = open().unwrap_or_else(|fault| panic!("a recovered journal does not open again: {fault}"));
            assert_eq!(summary(&second), summary(&first));
        }
        Err(fault) => assert_eq!(disk.seen(&name).as_deref(), Some(&segment[..]), "a failed start changes it: {fault}"),
    }
}

fn summary(recovered: &Recovered) -> impl PartialEq + Debug + use<> {
    let last = recovered.base.position.index.0 + recovered.heads.len() as u64;
    let entries = recovered.view.entries(recovered.base.position.index.next()..=Index(last), u64::MAX);
    let entries = entries.unwrap_or_else(|fault| panic!("a recovered entry cannot be read: {fault}"));
    let configurations = recovered.configurations.clone();
    (recovered.hard_state, recovered.base.clone(), recovered.last_time, entries, configurations)
}

/// The same segment with a valid header and with the checksums of its frames corrected, as far as their lengths lead.
fn with_wal_checksums(bytes: &[u8]) -> Vec<u8> {
    let (node, salted) = (NodeId::new(1).unwrap(), format::salted(format::salt(DISK, 1)));
    let header = format::SegmentHeader { flags: 0, cluster: ClusterId(7), node, disk: DISK, number: 1 };
    let mut out = header.encode().to_vec();
    out.extend_from_slice(bytes.get(SEGMENT_HEADER..).unwrap_or_default());
    // The batch frame's checksum covers that of the batch's last frame, so it is computed after that one.
    let (mut at, mut chain, mut batch) = (SEGMENT_HEADER, 0, None);
    while let Some(frame) = out.get(at..).and_then(|rest| rest.first_chunk::<FRAME_HEADER>()) {
        let length = u32::from_le_bytes([frame[8], frame[9], frame[10], 0]) as usize;
        let is_batch = frame[11] == RecordKind::Batch as u8;
        if length < 4 || out.len() - at - FRAME_HEADER < length {
            break;
        }
        if is_batch {
            finish_batch(&mut out, batch.replace((at, length, chain)), salted, chain);
        } else {
            chain = seal_frame(&mut out, at, length, salted, chain);
        }
        at += format::frame_size(length);
    }
    finish_batch(&mut out, batch, salted, chain);
    out
}

fn finish_batch(out: &mut [u8], batch: Option<(usize, usize, u32)>, salted: u32, tail: u32) {
    let Some((at, length, previous)) = batch else { return };
    if let Some(field) = out[at + FRAME_HEADER..][..length].get_mut(28..32) {
        field.copy_from_slice(&tail.to_le_bytes());
    }
    seal_frame(out, at, length, salted, previous);
}

/// Corrects the checksums of one frame; returns that of its header.
fn seal_frame(out: &mut [u8], at: usize, length: usize, salted: u32, previous: u32) -> u32 {
    let (header, body) = out[at..][..FRAME_HEADER + length].split_at_mut(FRAME_HEADER);
    header[4..8].copy_from_slice(&previous.to_le_bytes());
    let checksum = crc32fast::hash(&body[4..]).to_le_bytes();
    body[..4].copy_from_slice(&checksum);
    let rest = header.last_chunk::<12>().copied().unwrap_or_default();
    let checksum = format::header_checksum(salted, at as u64, &rest, checksum);
    header[..4].copy_from_slice(&checksum.to_le_bytes());
    checksum
}
