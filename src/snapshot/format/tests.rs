//! A snapshot reads back unchanged; any change of its bytes is detected.

use super::*;
use proptest::prelude::*;

fn header() -> Header {
    let node = NodeId::new(2).unwrap();
    Header {
        cluster: ClusterId(0x6f2c_91aa_0d77_be21),
        node,
        position: Position::new(Index(812), Term(3)),
        configuration_index: Index(7),
        time: ClusterTime(86_400_000),
        digest: 0x9a3c_11f0,
        sessions: 1,
        membership: Membership::founding([(node, "b:2".to_owned())]),
    }
}

type Pieces = Vec<(ChunkKind, Vec<u8>)>;

/// The encoded parts of a file: header, chunks, end.
fn parts(pieces: &Pieces) -> Vec<Vec<u8>> {
    let mut parts = vec![header().encode()];
    let mut chain = ChecksumChain::after_header(&parts[0]);
    parts.extend(pieces.iter().map(|(kind, body)| chain.encode_chunk(*kind, body)));
    parts.push(chain.encode_end());
    parts
}

fn read(file: Vec<u8>) -> Result<Pieces, Flaw> {
    let file = Bytes::from(file);
    let (found, chain) = Header::decode(&file)?;
    assert_eq!(found, header());
    let mut pieces = Vec::new();
    for chunk in Chunks::new(file, chain) {
        let chunk = chunk?;
        pieces.push((chunk.kind, chunk.body.to_vec()));
    }
    assert_eq!(pieces.pop().map(|(kind, _)| kind), Some(ChunkKind::End));
    Ok(pieces)
}

fn pieces() -> impl Strategy<Value = Pieces> {
    let bodies = || prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..5);
    (bodies(), bodies()).prop_map(|(sessions, machine)| {
        let with_kind = |kind| move |body| (kind, body);
        sessions
            .into_iter()
            .map(with_kind(ChunkKind::Sessions))
            .chain(machine.into_iter().map(with_kind(ChunkKind::Machine)))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn snapshot_round_trips(pieces in pieces()) {
        prop_assert_eq!(read(parts(&pieces).concat()), Ok(pieces));
    }

    #[test]
    fn every_flip_and_truncation_is_detected(pieces in pieces(), bit in 0..8) {
        let file = parts(&pieces).concat();
        for at in 0..file.len() {
            let mut flipped_file = file.clone();
            flipped_file[at] ^= 1u8 << bit;
            prop_assert!(read(flipped_file).is_err(), "a flipped bit in byte {} is detected", at);
            prop_assert!(read(file[..at].to_vec()).is_err(), "a truncation to {} bytes is detected", at);
        }
        prop_assert!(read([&file[..], &[0]].concat()).is_err(), "an additional byte at the end is detected");
    }

    #[test]
    fn missing_duplicate_or_moved_chunk_is_detected(
        pieces in pieces(), first_part: prop::sample::Index, second_part: prop::sample::Index,
    ) {
        let parts = parts(&pieces);
        let first_part = 1 + first_part.index(parts.len() - 1);
        let second_part = 1 + second_part.index(parts.len() - 1);
        let mut parts_without_one = parts.clone();
        parts_without_one.remove(first_part);
        prop_assert!(read(parts_without_one.concat()).is_err());
        let mut parts_with_duplicate = parts.clone();
        parts_with_duplicate.insert(second_part, parts[first_part].clone());
        prop_assert!(read(parts_with_duplicate.concat()).is_err());
        let mut parts_with_swap = parts.clone();
        parts_with_swap.swap(first_part, second_part);
        prop_assert_eq!(read(parts_with_swap.concat()).is_err(), parts[first_part] != parts[second_part]);
    }

    #[test]
    fn chunk_of_another_snapshot_is_detected(pieces in pieces(), other_pieces in pieces(), at: prop::sample::Index) {
        let mut mixed_parts = parts(&pieces);
        let other_parts = parts(&other_pieces);
        let chunk_number = 1 + at.index(mixed_parts.len().min(other_parts.len()) - 1);
        let is_same_chunk = mixed_parts[chunk_number] == other_parts[chunk_number];
        mixed_parts[chunk_number] = other_parts[chunk_number].clone();
        prop_assert_eq!(read(mixed_parts.concat()).is_ok(), is_same_chunk);
    }

    #[test]
    fn garbage_input_does_not_panic(bytes: Vec<u8>, length: u32) {
        let _any_result = Header::decode(&bytes.clone().into());
        let start = [&MAGIC[..], &FORMAT_VERSION.to_le_bytes(), &length.to_le_bytes(), &bytes].concat();
        prop_assert!(Header::decode(&start.into()).is_err());
        let (_, chain) = Header::decode(&header().encode().into()).unwrap();
        let chunk = [&length.to_le_bytes()[..], &u32::MAX.to_le_bytes(), &bytes].concat();
        prop_assert!(Chunks::new([header().encode(), chunk].concat().into(), chain).all(|chunk| chunk.is_err()));
    }
}

#[test]
fn longest_header_fits_size_limit() {
    let longest_address = "x".repeat(ADDRESS_BYTES_MAX);
    let members = (1..=MEMBERS_MAX as u64).map(|id| (NodeId::new(id).unwrap(), longest_address.clone()));
    let longest_header = Header { membership: Membership::founding(members), ..header() };
    let encoded = longest_header.encode();
    assert_eq!(encoded.len(), HEADER_BYTES_MAX);
    assert_eq!(Header::decode(&encoded.into()).unwrap().0, longest_header);
}

#[test]
fn file_name_encodes_position() {
    let position = Position::new(Index(0x32c), Term(3));
    assert_eq!(file_name(position), "000000000000032c-0000000000000003.snap");
    assert_eq!(file_position(&file_name(position)), Some(position));
    for other in ["32c-3.snap", "000000000000032C-0000000000000003.snap", "x.snap", "synced"] {
        assert_eq!(file_position(other), None, "{other}");
    }
}
