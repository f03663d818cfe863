//! Reading and writing bytes with bounds checks, and the encodings that journal, wire and snapshots share.
//!
//! Little-endian throughout. A [`Reader`] never panics, and never allocates by a length that it has not checked against
//! the bytes present. Invalid bytes are [`Malformed`], and the caller decides what that means: a protocol violation by
//! a peer, or a corrupt disk.

use crate::limits::{ADDRESS_BYTES_MAX, MEMBERS_MAX};
use crate::types::{
    ClusterTime, DiskId, Entry, HardState, Index, LogId, Member, Membership, NodeId, Payload, PendingRole, Position,
    Term, Vote,
};
use byteorder::{ByteOrder, LittleEndian};
use bytes::{Buf, BufMut, Bytes};
use std::borrow::Cow;

/// The error for bytes that are not a valid encoding, with the reason in a few words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// The result of decoding: the decoded value, or why the bytes are not a valid encoding.
pub type Result<T> = std::result::Result<T, Malformed>;

/// Parses a decimal integer in its one canonical form, as Redis does: a sign only if the number is negative, no leading
/// zero, no space. `+1`, `01` and `-0` are not integers but text: an increment that replaced such a value by a number
/// would destroy the client's data.
pub fn parse_integer(bytes: &[u8]) -> Option<i64> {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    match digits {
        [b'0'] if digits.len() == bytes.len() => return Some(0),
        [b'1'..=b'9', rest @ ..] if rest.len() < 19 && rest.iter().all(u8::is_ascii_digit) => {}
        _ => return None,
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Reads values from the front of a byte sequence, and checks each read against the bytes that are left.
///
/// The input is [`Bytes`], so that a value read from a large frame is a slice of the frame and not a copy.
#[derive(Clone, Debug)]
pub struct Reader {
    bytes: Bytes,
}

impl Reader {
    /// Creates a reader at the first byte of `bytes`.
    pub fn new(bytes: Bytes) -> Reader {
        Reader { bytes }
    }

    /// The number of unread bytes.
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// Reads the next `n` bytes, as a slice of the input.
    pub fn bytes(&mut self, n: usize) -> Result<Bytes> {
        if n > self.bytes.len() {
            return Err(Malformed("ends too early"));
        }
        Ok(self.bytes.split_to(n))
    }

    /// Reads all remaining bytes.
    pub fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.bytes)
    }

    /// Checks that no bytes remain.
    pub fn check_end(&self) -> Result<()> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Malformed("bytes left over")) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some(array) = self.bytes.first_chunk::<N>().copied() else {
            return Err(Malformed("ends too early"));
        };
        self.bytes.advance(N);
        Ok(array)
    }

    /// Reads an unsigned integer of one byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Reads a little-endian integer of two bytes.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Reads a little-endian integer of four bytes.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Reads a little-endian integer of eight bytes.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Reads one byte: 0 is false, 1 is true, and any other value is an error.
    pub fn bool(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("neither 0 nor 1")),
        }
    }

    /// Reads a node id; `None` for 0.
    pub fn optional_node_id(&mut self) -> Result<Option<NodeId>> {
        Ok(NodeId::new(self.u64()?))
    }

    /// Reads a node id that must not be 0.
    pub fn node_id(&mut self) -> Result<NodeId> {
        self.optional_node_id()?.ok_or(Malformed("node id 0 is invalid"))
    }

    /// Reads an index, then a term.
    pub fn position(&mut self) -> Result<Position> {
        let index = Index(self.u64()?);
        let term = Term(self.u64()?);
        Ok(Position { term, index })
    }

    /// Reads a byte sequence prefixed by its length (four bytes), at most `max` bytes.
    pub fn blob(&mut self, max: usize) -> Result<Bytes> {
        let length = self.u32()? as usize;
        if length > max {
            return Err(Malformed("longer than allowed"));
        }
        self.bytes(length)
    }

    /// Reads a UTF-8 string prefixed by its length (four bytes), at most `max` bytes.
    pub fn string(&mut self, max: usize) -> Result<String> {
        let bytes = self.blob(max)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(Malformed("not UTF-8")),
        }
    }
}

/// Writes values as a [`Reader`] reads them.
pub trait BufMutExt: BufMut {
    /// Writes a node id; 0 for `None`.
    fn put_optional_node_id(&mut self, node: Option<NodeId>) {
        self.put_u64_le(node.map_or(0, NodeId::get));
    }

    /// Writes an index, then a term.
    fn put_position(&mut self, position: Position) {
        self.put_u64_le(position.index.0);
        self.put_u64_le(position.term.0);
    }

    /// Writes bytes prefixed by their length (four bytes).
    fn put_blob(&mut self, bytes: &[u8]) {
        self.put_u32_le(bytes.len() as u32);
        self.put_slice(bytes);
    }
}

impl<B: BufMut> BufMutExt for B {}

/// The size of an encoded entry's header in bytes: the fields before the payload, see [`put_entry`].
pub const ENTRY_HEADER: usize = 32;

// The kinds of a log entry: the byte at offset 7 of its header.
const ENTRY_KIND_NOOP: u8 = 0;
const ENTRY_KIND_MEMBERSHIP: u8 = 1;
const ENTRY_KIND_OPAQUE: u8 = 2;
/// The largest kind of entry that this version knows; an entry of a larger kind is rejected.
pub const ENTRY_KIND_MAX: u8 = ENTRY_KIND_OPAQUE;

/// Creates an entry with its checksum, which is computed here once and stored and sent with the entry.
pub fn entry(position: Position, time: ClusterTime, payload: Payload) -> Entry {
    let mut entry = Entry { position, time, payload, checksum: 0 };
    let encoded = encoded_payload(&entry.payload);
    let checksum = checksum(&entry_header(&entry, &encoded), &encoded);
    drop(encoded);
    entry.checksum = checksum;
    entry
}

/// Number of bytes that [`put_entry`] writes.
pub fn entry_size(entry: &Entry) -> usize {
    ENTRY_HEADER
        + match &entry.payload {
            Payload::Noop => 0,
            Payload::Membership(membership) => membership_size(membership),
            Payload::Opaque(bytes) => bytes.len(),
        }
}

/// Writes an entry:
///
/// | at | size | field |
/// |---|---|---|
/// | 0 | 4 | CRC-32 of everything after this field |
/// | 4 | 3 | length of the payload |
/// | 7 | 1 | kind: 0 no-op, 1 membership, 2 opaque |
/// | 8 | 8 | index |
/// | 16 | 8 | term |
/// | 24 | 8 | cluster time, ms |
/// | 32 | … | payload |
pub fn put_entry(out: &mut impl BufMut, entry: &Entry) {
    let encoded = encoded_payload(&entry.payload);
    out.put_u32_le(entry.checksum);
    out.put_slice(&entry_header(entry, &encoded));
    out.put_slice(&encoded);
}

/// The kind of the entry at which the reader is; `None` if there are too few bytes. The checksum is not verified.
pub fn next_entry_kind(from: &Reader) -> Option<u8> {
    from.bytes.get(7).copied()
}

/// Reads an entry and verifies its checksum.
pub fn read_entry(from: &mut Reader) -> Result<Entry> {
    let stored_checksum = from.u32()?;
    let header: [u8; ENTRY_HEADER - 4] = from.array()?;
    let length = LittleEndian::read_u24(&header) as usize;
    let encoded = from.bytes(length)?;
    if checksum(&header, &encoded) != stored_checksum {
        return Err(Malformed("entry checksum"));
    }
    let position =
        Position::new(Index(LittleEndian::read_u64(&header[4..])), Term(LittleEndian::read_u64(&header[12..])));
    let time = ClusterTime(LittleEndian::read_u64(&header[20..]));
    let payload = match header[3] {
        ENTRY_KIND_NOOP if length == 0 => Payload::Noop,
        ENTRY_KIND_MEMBERSHIP => {
            let mut reader = Reader::new(encoded);
            let membership = read_membership(&mut reader)?;
            reader.check_end()?;
            Payload::Membership(Box::new(membership))
        }
        ENTRY_KIND_OPAQUE => Payload::Opaque(encoded),
        _ => return Err(Malformed("unknown kind of entry")),
    };
    Ok(Entry { position, time, payload, checksum: stored_checksum })
}

/// The entry's header without the checksum, which covers these bytes and the payload.
fn entry_header(entry: &Entry, encoded: &[u8]) -> [u8; ENTRY_HEADER - 4] {
    let kind = match entry.payload {
        Payload::Noop => ENTRY_KIND_NOOP,
        Payload::Membership(_) => ENTRY_KIND_MEMBERSHIP,
        Payload::Opaque(_) => ENTRY_KIND_OPAQUE,
    };
    assert!(encoded.len() < 1 << 24, "a payload's length fits in three bytes");
    let mut header = [0; ENTRY_HEADER - 4];
    LittleEndian::write_u24(&mut header, encoded.len() as u32);
    header[3] = kind;
    LittleEndian::write_u64(&mut header[4..], entry.position.index.0);
    LittleEndian::write_u64(&mut header[12..], entry.position.term.0);
    LittleEndian::write_u64(&mut header[20..], entry.time.0);
    header
}

/// The encoded payload: borrowed if the payload is opaque, so that a command is not copied.
fn encoded_payload(payload: &Payload) -> Cow<'_, [u8]> {
    match payload {
        Payload::Noop => Cow::Borrowed(&[]),
        Payload::Opaque(bytes) => Cow::Borrowed(bytes),
        Payload::Membership(membership) => {
            let mut bytes = Vec::with_capacity(membership_size(membership));
            put_membership(&mut bytes, membership);
            Cow::Owned(bytes)
        }
    }
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(payload);
    crc.finalize()
}

/// Number of bytes that [`put_hard_state`] writes.
pub const HARD_STATE_BYTES: usize = 40;

/// Writes the term (8 bytes), the vote in that term (node id of 8 bytes, which is 0 if there is no vote, and disk id of
/// 8 bytes), and [`HardState::promised_position`] (16 bytes).
pub fn put_hard_state(out: &mut impl BufMut, hard_state: &HardState) {
    out.put_u64_le(hard_state.term.0);
    out.put_optional_node_id(hard_state.vote.map(|vote| vote.node));
    out.put_u64_le(hard_state.vote.map_or(0, |vote| vote.disk.0));
    out.put_position(hard_state.promised_position);
}

/// Reads a hard state that [`put_hard_state`] wrote.
pub fn read_hard_state(from: &mut Reader) -> Result<HardState> {
    let term = Term(from.u64()?);
    let (node, disk) = (from.optional_node_id()?, DiskId(from.u64()?));
    Ok(HardState { term, vote: node.map(|node| Vote { node, disk }), promised_position: from.position()? })
}

// The bits of the flags byte of an encoded member of a membership.
const MEMBER_FLAG_VOTER: u8 = 1;
const MEMBER_FLAG_OUTGOING: u8 = 2;
const MEMBER_FLAG_PROMOTE: u8 = 4;
const MEMBER_FLAG_REPLACE: u8 = 8;
const MEMBER_FLAG_REMOVE: u8 = 16;

fn membership_size(membership: &Membership) -> usize {
    let replaced_bytes = |member: &Member| if matches!(member.pending_role, PendingRole::Replace(_)) { 8 } else { 0 };
    13 + membership.members.values().map(|m| 8 + 1 + replaced_bytes(m) + 8 + 4 + m.address.len()).sum::<usize>()
}

/// Writes a membership:
///
/// | size | field |
/// |---|---|
/// | 2 | feature level |
/// | 2 | number of members |
/// | 8 | log id, 0 if unknown |
/// | 1 | 1 if the log id is agreed, otherwise 0 |
///
/// Then, for each member:
///
/// | size | field |
/// |---|---|
/// | 8 | node id |
/// | 1 | sum of flags: voter 1, outgoing voter 2, and at most one pending role: promote 4, replace 8, remove 16 |
/// | 0 or 8 | id of the voter that the member replaces; only with the flag 8 |
/// | 8 | disk id, 0 if unknown |
/// | 4 + … | address, prefixed by its length |
pub fn put_membership(out: &mut impl BufMut, membership: &Membership) {
    assert!(membership.members.len() <= MEMBERS_MAX, "a membership has at most MEMBERS_MAX members");
    out.put_u16_le(membership.feature_level);
    out.put_u16_le(membership.members.len() as u16);
    out.put_u64_le(membership.log_id.map_or(0, |log| log.0));
    out.put_u8(u8::from(membership.log_agreed));
    for (id, member) in &membership.members {
        out.put_u64_le(id.get());
        let voter_flag = if membership.voters.contains(id) { MEMBER_FLAG_VOTER } else { 0 };
        let outgoing_flag = if membership.outgoing.contains(id) { MEMBER_FLAG_OUTGOING } else { 0 };
        let (role_flag, replaced) = match member.pending_role {
            PendingRole::Unchanged => (0, None),
            PendingRole::Promote => (MEMBER_FLAG_PROMOTE, None),
            PendingRole::Replace(old) => (MEMBER_FLAG_REPLACE, Some(old)),
            PendingRole::Remove => (MEMBER_FLAG_REMOVE, None),
        };
        out.put_u8(voter_flag | outgoing_flag | role_flag);
        if replaced.is_some() {
            out.put_optional_node_id(replaced);
        }
        out.put_u64_le(member.disk.map_or(0, |disk| disk.0));
        out.put_blob(member.address.as_bytes());
    }
}

/// Reads a membership that [`put_membership`] wrote.
pub fn read_membership(from: &mut Reader) -> Result<Membership> {
    let feature_level = from.u16()?;
    let member_count = from.u16()? as usize;
    if member_count > MEMBERS_MAX {
        return Err(Malformed("too many members"));
    }
    let log_id = Some(from.u64()?).filter(|log| *log != 0).map(LogId);
    let mut membership = Membership { feature_level, log_id, log_agreed: from.bool()?, ..Membership::default() };
    for _ in 0..member_count {
        let id = from.node_id()?;
        // A membership has exactly one encoding: a node that sends a membership entry to another node encodes the
        // membership anew, and the checksum of the first encoding must still match.
        if membership.members.last_key_value().is_some_and(|(last, _)| id <= *last) {
            return Err(Malformed("members that are not in the order of their ids"));
        }
        let flags = from.u8()?;
        let pending_role = match flags & !(MEMBER_FLAG_VOTER | MEMBER_FLAG_OUTGOING) {
            0 => PendingRole::Unchanged,
            MEMBER_FLAG_PROMOTE => PendingRole::Promote,
            MEMBER_FLAG_REPLACE => PendingRole::Replace(from.node_id()?),
            MEMBER_FLAG_REMOVE => PendingRole::Remove,
            _ => return Err(Malformed("unknown flags of a member")),
        };
        let disk = Some(from.u64()?).filter(|disk| *disk != 0).map(DiskId);
        let address = from.string(ADDRESS_BYTES_MAX)?;
        if flags & MEMBER_FLAG_VOTER != 0 {
            membership.voters.insert(id);
        }
        if flags & MEMBER_FLAG_OUTGOING != 0 {
            membership.outgoing.insert(id);
        }
        membership.members.insert(id, Member { address, disk, pending_role });
    }
    Ok(membership)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use proptest::prelude::*;

    fn sample_entry(index: u64, term: u64, payload: Payload) -> Entry {
        entry(Position::new(Index(index), Term(term)), ClusterTime(86_400_000), payload)
    }

    fn encode(entry: &Entry) -> Bytes {
        let mut out = BytesMut::new();
        put_entry(&mut out, entry);
        assert_eq!(out.len(), entry_size(entry));
        out.freeze()
    }

    proptest! {
        #[test]
        fn entry_roundtrips(index: u64, term: u64, command: Vec<u8>) {
            let entry = sample_entry(index, term, Payload::Opaque(command.into()));
            let mut reader = Reader::new(encode(&entry));
            prop_assert_eq!(read_entry(&mut reader), Ok(entry));
            prop_assert_eq!(reader.check_end(), Ok(()));
        }

        #[test]
        fn entry_with_flipped_bit_is_rejected(command: Vec<u8>, flipped_byte: prop::sample::Index, bit in 0..8) {
            let mut bytes = encode(&sample_entry(812, 3, Payload::Opaque(command.into()))).to_vec();
            let flipped_byte = flipped_byte.index(bytes.len());
            bytes[flipped_byte] ^= 1u8 << bit;
            prop_assert!(read_entry(&mut Reader::new(bytes.into())).is_err());
        }

        #[test]
        fn arbitrary_bytes_decode_without_panic(bytes: Vec<u8>) {
            let _any_result = read_entry(&mut Reader::new(bytes.clone().into()));
            let _any_result = read_membership(&mut Reader::new(bytes.into()));
        }
    }

    #[test]
    fn integer_is_parsed_in_canonical_form_only() {
        for number in [0, 7, -7, 10, i64::MAX, i64::MIN] {
            assert_eq!(parse_integer(number.to_string().as_bytes()), Some(number));
        }
        for text in ["", "-", "+1", "01", "007", "-0", "-01", "00", " 1", "1 ", "1.0", "0x1", "--1", "1\0"] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text:?}");
        }
        for text in ["9223372036854775808", "-9223372036854775809", "10000000000000000000", &"1".repeat(99)] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn membership_roundtrips() {
        let id = |n| NodeId::new(n).unwrap();
        let mut membership = Membership::founding([(id(1), "a:1".into()), (id(2), "b:2".into())]);
        let pending_roles =
            [PendingRole::Unchanged, PendingRole::Promote, PendingRole::Replace(id(1)), PendingRole::Remove];
        for (n, pending_role) in (9..).zip(pending_roles) {
            let disk = Some(DiskId(77)).filter(|_| n % 2 == 1);
            membership.members.insert(id(n), Member { address: format!("c:{n}"), disk, pending_role });
        }
        membership.outgoing.insert(id(2));
        (membership.log_id, membership.log_agreed) = (Some(LogId(0x6f2c)), true);
        let entry = sample_entry(2, 1, Payload::Membership(Box::new(membership)));
        assert_eq!(read_entry(&mut Reader::new(encode(&entry))), Ok(entry));
    }

    #[test]
    fn members_out_of_order_are_rejected() {
        let id = |n| NodeId::new(n).unwrap();
        let mut bytes = Vec::new();
        put_membership(&mut bytes, &Membership::founding([(id(1), "a:1".into()), (id(2), "b:2".into())]));
        let (head, members) = bytes.split_at(13);
        let (first, second) = members.split_at(members.len() / 2);
        let read = |parts: [&[u8]; 3]| read_membership(&mut Reader::new(parts.concat().into()));
        assert!(read([head, first, second]).is_ok());
        for members in [[second, first], [first, first]] {
            assert!(read([head, members[0], members[1]]).is_err());
        }
    }
}
