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
//! Checksums reject nearly all random input. The two formats with checksums are therefore also read with every checksum
//! corrected, so that the input reaches the decoders behind the checksum test.

use bytes::{Bytes, BytesMut};
use drave::codec;
use drave::disk::{Disk, DiskFile};
use drave::sim::disk::SimDisk;
use drave::types::{ClusterId, DiskId, Index, Membership, NodeId, Position, SnapshotPoint};
use drave::wal::batches::ReaderState;
use drave::wal::format::{
    self, BatchHeader, EntryMetadata, FRAME_HEADER_BYTES, Opening, RecordKind, SEGMENT_HEADER_BYTES, Seal,
};
use drave::wal::inspect::{Finding, Inspection};
use drave::wal::scan::{Scan, ScanItem};
use drave::wal::tail::SegmentContext;
use drave::wal::{Journal, Options, RecoveredLog};
use drave::wire::WireError;
use drave::wire::client::{put_reply_frame, put_request_frame, read_reply_frame, read_request_frame};
use drave::wire::frame::{Frame, FrameKind, FrameReader};
use drave::wire::hello::{Hello, VERSION_MAX, Welcome};
use drave::wire::http::{self, ResponseOptions};
use drave::wire::peer::PeerFrame;
use drave::wire::resp::{self, CommandLimits, OversizedPart};
use std::fmt::Debug;

/// The size of a wire frame's header in bytes.
const WIRE_HEADER_BYTES: usize = 12;
/// The disk id of the segments that `wal_scan` reads.
const SEGMENT_DISK: DiskId = DiskId(9);

/// Frames of the native protocol. The result does not depend on how the bytes are split on arrival, the memory is
/// bounded by the number of bytes, and a decoded frame that is encoded again decodes to the same frame.
pub fn frame(bytes: &[u8]) {
    for bytes in [bytes, &with_corrected_frame_checksums(bytes)] {
        let expected_frames = read_frames(bytes, bytes.len().max(1));
        assert_eq!(read_frames(bytes, 1), expected_frames);
        assert_eq!(read_frames(bytes, 13), expected_frames);
        expected_frames.0.into_iter().for_each(check_round_trip);
    }
}

/// The frames in `bytes`, which arrive in pieces of `piece_length` bytes, and the error after the last frame, if any.
fn read_frames(bytes: &[u8], piece_length: usize) -> (Vec<Frame>, Option<WireError>) {
    let (mut reader, mut input, mut frames) = (FrameReader::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece_length) {
        input.extend_from_slice(piece);
        loop {
            assert!(
                reader.allocated_bytes() <= 64 + 2 * bytes.len(),
                "the reader holds {} bytes after receiving at most {}",
                reader.allocated_bytes(),
                bytes.len()
            );
            match reader.next(&mut input) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fn check_round_trip(frame: Frame) {
    match frame.kind {
        FrameKind::Hello => assert_round_trip(frame, Hello::read, |hello, out| hello.put(out)),
        FrameKind::Welcome => assert_round_trip(frame, Welcome::read, |welcome, out| welcome.put(out)),
        // A reader of the welcome returns a refusal frame as an error.
        FrameKind::Refused => assert!(Welcome::read(frame).is_err()),
        FrameKind::Request => assert_round_trip(frame, read_request_frame, |numbered, out| {
            put_request_frame(out, numbered.id, numbered.forward, &numbered.request);
        }),
        FrameKind::Reply => {
            assert_round_trip(frame, read_reply_frame, |(id, reply), out| put_reply_frame(out, *id, reply))
        }
        FrameKind::Raft | FrameKind::Forward | FrameKind::Answer => {
            assert_round_trip(
                frame,
                |frame| PeerFrame::read(frame, VERSION_MAX),
                |frame, out| frame.put(VERSION_MAX, out),
            );
        }
    }
}

fn assert_round_trip<T: PartialEq + Debug>(
    frame: Frame,
    read: impl Fn(Frame) -> Result<T, WireError>,
    put: impl Fn(&T, &mut BytesMut),
) {
    let Ok(decoded) = read(frame) else { return };
    let mut out = BytesMut::new();
    put(&decoded, &mut out);
    let reread_frame = FrameReader::default()
        .next(&mut out)
        .expect("an encoded frame is valid")
        .expect("an encoded frame is complete");
    assert_eq!(read(reread_frame), Ok(decoded));
}

/// The same bytes with the checksum of each complete frame corrected.
fn with_corrected_frame_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut rest = &mut bytes[..];
    while let Some(length) = rest.first_chunk().map(|length| u32::from_le_bytes(*length) as usize) {
        if rest.len() < WIRE_HEADER_BYTES || rest.len() - WIRE_HEADER_BYTES < length {
            break;
        }
        let (frame, after) = rest.split_at_mut(WIRE_HEADER_BYTES + length);
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&frame[..8]);
        checksum.update(&frame[WIRE_HEADER_BYTES..]);
        frame[8..WIRE_HEADER_BYTES].copy_from_slice(&checksum.finalize().to_le_bytes());
        rest = after;
    }
    bytes
}

/// Commands of Redis clients. The result does not depend on how the bytes are split on arrival, and a decoded command
/// that is encoded again decodes to the same command.
pub fn resp(bytes: &[u8]) {
    for limits in [CommandLimits::AUTHENTICATED, CommandLimits::UNAUTHENTICATED] {
        let (commands, error) = read_commands(bytes, bytes.len().max(1), limits);
        assert_eq!(read_commands(bytes, 1, limits), (commands.clone(), error.clone()));
        assert_eq!(read_commands(bytes, 7, limits), (commands.clone(), error));
        for (words, oversized_part) in commands {
            assert!(!words.is_empty());
            if oversized_part.is_none() {
                let mut out = BytesMut::new();
                let mut writer = resp::ReplyWriter::new(&mut out, resp::RespVersion::Resp2);
                writer.array(words.len());
                words.iter().for_each(|word| writer.bulk(word));
                assert_eq!(read_commands(&out, out.len(), CommandLimits::AUTHENTICATED), (vec![(words, None)], None));
            }
        }
    }
}

/// The words of a decoded command, and which limit it exceeds, if any.
type DecodedCommand = (Vec<Vec<u8>>, Option<OversizedPart>);

fn read_commands(bytes: &[u8], piece_length: usize, limits: CommandLimits) -> (Vec<DecodedCommand>, Option<String>) {
    let (mut reader, mut input, mut commands) = (resp::CommandReader::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece_length) {
        input.extend_from_slice(piece);
        loop {
            match reader.next(&mut input, limits) {
                Ok(Some(words)) => {
                    commands.push((words.args_from(0).map(<[u8]>::to_vec).collect(), words.oversized_part()))
                }
                Ok(None) => break,
                Err(error) => return (commands, Some(error.to_string())),
            }
        }
    }
    (commands, None)
}

/// Requests of HTTP clients. Neither the decoded heads nor the class of the error status depends on how the bytes are
/// split on arrival. The exact status may depend on it, since two errors may be found in either order.
pub fn http(bytes: &[u8]) {
    let expected = read_heads(bytes, bytes.len().max(1));
    assert_eq!(read_heads(bytes, 1), expected);
    assert_eq!(read_heads(bytes, 7), expected);
    for head in expected.0 {
        assert!(head.path.starts_with('/'), "{head:?}");
        let _text_or_error = (http::percent_decode(&head.path), http::percent_decode(&head.query));
        let (mut out, body) = (BytesMut::new(), head.path.as_bytes());
        let response = http::Response { status: 200, content_type: "text/plain", fields: &[], body };
        http::put_response(&mut out, &response, ResponseOptions::of(&head));
        assert_eq!(out.ends_with(body), head.method != http::Method::Head, "{head:?}");
    }
}

/// The request heads in `bytes`, which arrive in pieces of `piece_length` bytes, and the class of the error status
/// after them, if any. Bodies are not removed: their bytes are read as the next head.
fn read_heads(bytes: &[u8], piece_length: usize) -> (Vec<http::RequestHead>, Option<u16>) {
    let (mut reader, mut input, mut heads) = (http::RequestHeadReader::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece_length) {
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

/// Segments of a journal. The scan covers each byte once, the inspection that `dump` uses finds no record that the scan
/// does not find, and a start either recovers the same log twice or fails and changes nothing.
pub fn wal_scan(bytes: &[u8]) {
    for bytes in [bytes, &with_corrected_wal_checksums(bytes)] {
        let bytes = Bytes::copy_from_slice(bytes);
        let mut offset = SEGMENT_HEADER_BYTES as u64;
        let mut frames = Vec::new();
        for item in Scan::new(bytes.clone(), format::salt(SEGMENT_DISK, 1), None) {
            match item {
                ScanItem::Frame(frame) => {
                    assert!(frame.offset == offset && frame.end() > offset);
                    offset = frame.end();
                    check_record(frame.kind, &frame.body);
                    frames.push((frame.offset, frame.checksum));
                }
                ScanItem::Gap { at: begin, next_good_offset: next, .. } => {
                    assert!(begin == offset && next.is_none_or(|next| next >= offset));
                    offset = next.unwrap_or(bytes.len() as u64);
                }
            }
        }
        assert!(offset >= bytes.len() as u64 || bytes.len() < SEGMENT_HEADER_BYTES);
        let context = SegmentContext { segment_number: 1, ..SegmentContext::default() };
        for finding in
            Inspection::new(bytes.clone(), format::salt(SEGMENT_DISK, 1), context, ReaderState::before_first_segment())
        {
            if let Finding::Record(frame) = finding {
                assert!(frames.contains(&(frame.offset, frame.checksum)));
            }
        }
        check_recovery(&bytes);
    }
}

/// Checks that a decoded record that is encoded again decodes to the same record.
fn check_record(kind: RecordKind, body: &Bytes) {
    let mut out = Vec::new();
    match kind {
        RecordKind::Batch => {
            if let Ok(batch) = BatchHeader::decode(body) {
                batch.encode(&mut out);
                assert_eq!(BatchHeader::decode(&out.into()), Ok(batch));
            }
        }
        RecordKind::Open => {
            if let Ok(opening) = Opening::decode(body) {
                opening.encode(&mut out);
                assert_eq!(Opening::decode(&out.into()), Ok(opening));
            }
        }
        RecordKind::HardState => {
            if let Ok(hard) = format::decode_hard_state(body) {
                format::encode_hard_state(&mut out, &hard);
                assert_eq!(format::decode_hard_state(&out.into()), Ok(hard));
            }
        }
        RecordKind::Base | RecordKind::Release => {
            if let Ok(base) = format::decode_base(body) {
                format::encode_base(&mut out, &base);
                assert_eq!(format::decode_base(&out.into()), Ok(base));
            }
        }
        RecordKind::Entry => {
            let metadata = EntryMetadata::decode(body);
            if let Ok(entry) = codec::read_entry(&mut codec::Reader::new(body.clone())) {
                codec::put_entry(&mut out, &entry);
                assert!(out == body[..out.len()], "the encoding of {entry:?} differs from the decoded bytes");
                assert!(metadata.is_err() || metadata.is_ok_and(|metadata| metadata.position == entry.position));
            }
        }
        RecordKind::Seal => {
            if let Ok(seal) = Seal::decode(body) {
                seal.encode(&mut out);
                assert_eq!(Seal::decode(&out.into()), Ok(seal));
            }
        }
    }
}

/// Opens a journal whose only segment is `segment`, twice, and compares what is recovered.
fn check_recovery(segment: &Bytes) {
    let disk = SimDisk::new();
    let name = format::file_name(1);
    let mut file = disk.create(&name).unwrap();
    file.write_at(0, segment).unwrap();
    file.sync_all().unwrap();
    disk.sync_names().unwrap();
    let node = NodeId::new(1).unwrap();
    let options = Options { segment_bytes: 2048, batch_bytes: 700, ..Options::new(node, ClusterId(7), SEGMENT_DISK) };
    let membership = Membership::founding([(node, "n1:1".to_owned())]);
    let founding = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership };
    let open = || Journal::open(disk.clone(), options.clone(), Some(&founding)).map(|(_, recovered)| recovered);
    match open() {
        Ok(first_recovery) => {
            let second_recovery =
                open().unwrap_or_else(|fault| panic!("a recovered journal does not open again: {fault}"));
            assert_eq!(summarize(&second_recovery), summarize(&first_recovery));
        }
        Err(fault) => {
            assert_eq!(
                disk.read_file(&name).as_deref(),
                Some(&segment[..]),
                "a failed start changes the segment: {fault}"
            )
        }
    }
}

fn summarize(recovered: &RecoveredLog) -> impl PartialEq + Debug + use<> {
    let last_index = recovered.base.position.index.0 + recovered.entries.len() as u64;
    let entries = recovered.view.entries(recovered.base.position.index.next()..=Index(last_index), u64::MAX);
    let entries = entries.unwrap_or_else(|fault| panic!("a recovered entry cannot be read: {fault}"));
    let configurations = recovered.configurations.clone();
    (recovered.hard_state, recovered.base.clone(), recovered.last_time, entries, configurations)
}

/// The same segment with a valid header, and with the checksums of its frames corrected up to the first frame with an
/// invalid length.
fn with_corrected_wal_checksums(bytes: &[u8]) -> Vec<u8> {
    let (node, salt_crc) = (NodeId::new(1).unwrap(), format::salt_crc(format::salt(SEGMENT_DISK, 1)));
    let header = format::SegmentHeader { flags: 0, cluster: ClusterId(7), node, disk: SEGMENT_DISK, number: 1 };
    let mut out = header.encode().to_vec();
    out.extend_from_slice(bytes.get(SEGMENT_HEADER_BYTES..).unwrap_or_default());
    // A batch frame contains the checksum of the batch's last frame, and so is corrected after all frames of the batch.
    let (mut offset, mut chained_checksum, mut batch) = (SEGMENT_HEADER_BYTES, 0, None);
    while let Some(frame) = out.get(offset..).and_then(|rest| rest.first_chunk::<FRAME_HEADER_BYTES>()) {
        let length = u32::from_le_bytes([frame[8], frame[9], frame[10], 0]) as usize;
        let is_batch = frame[11] == RecordKind::Batch as u8;
        if length < 4 || out.len() - offset - FRAME_HEADER_BYTES < length {
            break;
        }
        if is_batch {
            correct_batch_checksum(
                &mut out,
                batch.replace((offset, length, chained_checksum)),
                salt_crc,
                chained_checksum,
            );
        } else {
            chained_checksum = correct_frame_checksum(&mut out, offset, length, salt_crc, chained_checksum);
        }
        offset += format::frame_size(length);
    }
    correct_batch_checksum(&mut out, batch, salt_crc, chained_checksum);
    out
}

/// Corrects the checksums of a batch frame, given as its offset, its length and the checksum of the frame before it.
fn correct_batch_checksum(out: &mut [u8], batch: Option<(usize, usize, u32)>, salt_crc: u32, last_checksum: u32) {
    let Some((offset, length, previous_checksum)) = batch else { return };
    if let Some(field) = out[offset + FRAME_HEADER_BYTES..][..length].get_mut(28..32) {
        field.copy_from_slice(&last_checksum.to_le_bytes());
    }
    correct_frame_checksum(out, offset, length, salt_crc, previous_checksum);
}

/// Corrects the checksums of one frame. Returns the checksum of its header.
fn correct_frame_checksum(out: &mut [u8], offset: usize, length: usize, salt_crc: u32, previous_checksum: u32) -> u32 {
    let (header, body) = out[offset..][..FRAME_HEADER_BYTES + length].split_at_mut(FRAME_HEADER_BYTES);
    header[4..8].copy_from_slice(&previous_checksum.to_le_bytes());
    let checksum = crc32fast::hash(&body[4..]).to_le_bytes();
    body[..4].copy_from_slice(&checksum);
    let rest = header.last_chunk::<12>().copied().unwrap_or_default();
    let checksum = format::header_checksum(salt_crc, offset as u64, &rest, checksum);
    header[..4].copy_from_slice(&checksum.to_le_bytes());
    checksum
}
