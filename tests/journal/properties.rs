//! Properties of the segment format that hold for arbitrary bytes.

use super::world::{entry, founding};
use bytes::Bytes;
use drave::codec;
use drave::types::*;
use drave::wal::format::{self, BatchHeader, Flaw, Frame, Opening, RecordKind, Seal, SegmentHeader};
use drave::wal::scan::{Scan, ScanItem};
use drave::wal::segment::{Segment, SparseIndex};
use drave::wal::sync_marker::SyncMarker;
use proptest::prelude::*;

fn header(number: u64) -> SegmentHeader {
    let node = NodeId::new(1).unwrap();
    SegmentHeader { flags: 0, cluster: ClusterId(7), node, disk: DiskId(9), number }
}

/// A segment with one batch of entries.
fn segment(payload_sizes: &[usize]) -> Bytes {
    let header = header(3);
    let mut bytes = header.encode().to_vec();
    let mut segment = Segment::new(&header, 1 << 20, bytes.len() as u64, 0x1234, SparseIndex::default());
    for (index, size) in (1..).zip(payload_sizes) {
        let entry = entry(index, 1, *size);
        segment.add_entry(5, entry.position, |out| codec::put_entry(out, &entry));
    }
    bytes.extend_from_slice(segment.finish_batch(BatchHeader { number: 5, ..BatchHeader::default() }));
    bytes.resize(bytes.len() + 256, 0);
    bytes.into()
}

fn good_frames(bytes: &Bytes) -> Vec<Frame> {
    let scan = Scan::new(bytes.clone(), header(3).salt(), Some(0x1234));
    scan.filter_map(|item| if let ScanItem::Frame(frame) = item { Some(frame) } else { None }).collect()
}

proptest! {
    #[test]
    fn frames_round_trip(sizes in prop::collection::vec(0..400usize, 0..10)) {
        let bytes = segment(&sizes);
        let frames = good_frames(&bytes);
        prop_assert_eq!(frames.len(), sizes.len() + 1);
        let batch = BatchHeader::decode(&frames[0].body).unwrap();
        prop_assert_eq!(batch.frame_count as usize, sizes.len());
        prop_assert_eq!(frames.last().unwrap().end(), 64 + batch.bytes);
        for ((index, size), frame) in (1..).zip(&sizes).zip(&frames[1..]) {
            prop_assert_eq!(frame.kind, RecordKind::Entry);
            let read_result = codec::read_entry(&mut codec::Reader::new(frame.body.clone()));
            prop_assert_eq!(read_result, Ok(entry(index, 1, *size)));
        }
    }

    #[test]
    fn flipped_bit_hides_only_the_frame_that_holds_it(
        sizes in prop::collection::vec(0..400usize, 1..10),
        flipped_byte: prop::sample::Index,
        bit in 0..8u8,
    ) {
        let bytes = segment(&sizes);
        let intact_frames = good_frames(&bytes);
        let end = intact_frames.last().unwrap().end() as usize;
        let flipped_byte = 64 + flipped_byte.index(end - 64);
        let mut damaged_bytes = bytes.to_vec();
        damaged_bytes[flipped_byte] ^= 1 << bit;
        let remaining_offsets: Vec<u64> = good_frames(&damaged_bytes.into()).iter().map(|frame| frame.offset).collect();
        let is_untouched = |frame: &&Frame| !(frame.offset..frame.end()).contains(&(flipped_byte as u64));
        let untouched_frames = intact_frames.iter().filter(is_untouched);
        prop_assert_eq!(remaining_offsets, untouched_frames.map(|frame| frame.offset).collect::<Vec<_>>());
    }

    #[test]
    fn frame_is_valid_only_at_its_offset_in_its_segment(size in 0..400usize, distance in 1..8u64) {
        let bytes = segment(&[size]);
        let salt_crc = format::salt_crc(header(3).salt());
        prop_assert!(Frame::read(&bytes, salt_crc, 64).is_ok());
        let mut shifted_bytes = vec![0; distance as usize * 8];
        shifted_bytes.extend_from_slice(&bytes);
        prop_assert!(Frame::read(&shifted_bytes.into(), salt_crc, 64 + distance * 8).is_err());
        let other_salt_crc = format::salt_crc(header(3 + distance).salt());
        prop_assert!(Frame::read(&bytes, other_salt_crc, 64).is_err());
    }

    #[test]
    fn arbitrary_bytes_decode_without_panic(bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        let _any_result = SegmentHeader::decode(&bytes);
        let _any_result = (BatchHeader::decode(&bytes), Opening::decode(&bytes), Seal::decode(&bytes));
        let _any_result = (format::decode_hard_state(&bytes), format::decode_base(&bytes));
        let _any_result = format::EntryMetadata::decode(&bytes);
        let _any_result = SyncMarker::read(&bytes, DiskId(9));
        let item_count = Scan::new(bytes.clone(), 1, None).count();
        prop_assert!(item_count <= 1);
        let _any_result = Frame::read_without_body_check(&bytes, 1, bytes.len() as u64 / 2);
    }

    #[test]
    fn segment_header_round_trips(number: u64, node in 1..u64::MAX, flags in 0..2u32) {
        let header = SegmentHeader { node: NodeId::new(node).unwrap(), flags, ..header(number) };
        prop_assert_eq!(SegmentHeader::decode(&header.encode().to_vec().into()), Ok(header));
    }
}

#[test]
fn record_bodies_round_trip() {
    let mut out = Vec::new();
    let opening = Opening {
        hard_state: HardState {
            term: Term(4),
            vote: NodeId::new(2).map(|node| Vote { node, disk: DiskId(7) }),
            promised_position: Position::ZERO,
        },
        last_position: Position::new(Index(9), Term(4)),
        time: ClusterTime(77),
        base: founding(),
        configuration: (Index(6), founding().membership),
    };
    opening.encode(&mut out);
    assert_eq!(Opening::decode(&out.clone().into()), Ok(opening));
    out.clear();
    format::encode_base(&mut out, &founding());
    assert_eq!(format::decode_base(&out.clone().into()), Ok(founding()));
    out.clear();
    let seal = Seal { successor_number: 4, last_position: Position::new(Index(9), Term(4)) };
    seal.encode(&mut out);
    assert_eq!(Seal::decode(&out.clone().into()), Ok(seal));
}

#[test]
fn zeroed_file_has_a_blank_frame_and_one_gap() {
    let zeros = Bytes::from(vec![0; 4096]);
    assert_eq!(Frame::read(&zeros, 1, 64).unwrap_err(), Flaw::Blank);
    assert_eq!(Scan::new(zeros, 1, None).count(), 1);
}
