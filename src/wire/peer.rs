//! The encoding of the frames that nodes send to each other.
//!
//! The decoder checks only what corrupt bytes can break: that each entry matches its checksum, and that the entries of
//! an AppendEntries are consecutive and follow `prev`. The consensus module checks everything else.

use super::client::{put_reply, put_request, read_reply, read_request, reply_size, request_size};
use super::entries::{put_entries, read_entries};
use super::error::WireError;
use super::frame::{Frame, FrameKind, put_frame};
use crate::api::{Reply, Request};
use crate::codec::{BufMutExt, Malformed, Reader, entry_size};
use crate::consensus::clock::LeaderTime;
use crate::consensus::disk_room::DiskRoom;
use crate::consensus::message::{Envelope, Message, Origin, Round, SnapshotChunk, VoteKind};
use crate::limits::{CHUNK_BYTES, KNOWN_POSITIONS_MAX};
use crate::types::{ClusterTime, DiskId, Entry, Index, LogId, Position, Term};
use bytes::{BufMut, BytesMut};

/// A frame that one node sends to another.
#[derive(Clone, PartialEq, Debug)]
pub enum PeerFrame {
    /// A consensus message, with its sender, receiver and term.
    Raft(Envelope),
    /// A client's request, forwarded to the leader.
    Forward {
        /// The id that the forwarding node chose for the request. The answer has the same id.
        id: u64,
        /// The client's request, unchanged.
        request: Request,
    },
    /// The reply to a forwarded request.
    Answer {
        /// The id from [`PeerFrame::Forward`].
        id: u64,
        /// The reply, which the forwarding node sends on to the client.
        reply: Reply,
    },
}

const MESSAGE_REQUEST_VOTE: u8 = 1;
const MESSAGE_REQUEST_VOTE_RESPONSE: u8 = 2;
const MESSAGE_APPEND_ENTRIES: u8 = 3;
const MESSAGE_APPEND_RESPONSE: u8 = 4;
const MESSAGE_APPEND_REJECTED: u8 = 5;
const MESSAGE_HEARTBEAT: u8 = 6;
const MESSAGE_HEARTBEAT_RESPONSE: u8 = 7;
const MESSAGE_COMMITTED: u8 = 8;
const MESSAGE_STALE_TERM: u8 = 9;
const MESSAGE_INSTALL_SNAPSHOT: u8 = 10;
const MESSAGE_INSTALL_SNAPSHOT_RESPONSE: u8 = 11;
const MESSAGE_TIMEOUT_NOW: u8 = 12;
const MESSAGE_READ_INDEX_REQUEST: u8 = 13;
const MESSAGE_READ_INDEX_RESPONSE: u8 = 14;
const MESSAGE_LOST_ACKNOWLEDGED: u8 = 15;
const MESSAGE_LOST_ACK_RESPONSE: u8 = 16;
const MESSAGE_RECORDED_CLAIM: u8 = 17;
const MESSAGE_REQUEST_LOST_ENTRIES: u8 = 18;
const MESSAGE_LOST_ENTRIES: u8 = 19;

/// The size of an encoded position.
const POSITION_BYTES: usize = 16;
#[cfg(feature = "next-version")]
const MESSAGE_NEXT_VERSION_NOTICE: u8 = 255;

const VOTE_KIND_PRE_VOTE: u8 = 0;
const VOTE_KIND_VOTE: u8 = 1;
const VOTE_KIND_TRANSFER: u8 = 2;

/// The bound of indexes, terms, times and byte counts on the wire: the decoder rejects this number and higher ones, so
/// that arithmetic cannot overflow.
const WIRE_NUMBER_LIMIT: u64 = 1 << 62;

impl PeerFrame {
    /// The kind of frame on the wire.
    pub fn kind(&self) -> FrameKind {
        match self {
            PeerFrame::Raft(_) => FrameKind::Raft,
            PeerFrame::Forward { .. } => FrameKind::Forward,
            PeerFrame::Answer { .. } => FrameKind::Answer,
        }
    }

    /// Whether the frame must not wait behind a long frame. It is then sent between the pieces of the long frame.
    pub fn is_urgent(&self) -> bool {
        match self {
            PeerFrame::Raft(envelope) => envelope.message.is_urgent(),
            PeerFrame::Forward { .. } | PeerFrame::Answer { .. } => false,
        }
    }

    /// The number of bytes that [`PeerFrame::put_content`] appends, or a few more.
    pub fn size(&self) -> usize {
        match self {
            PeerFrame::Raft(envelope) => {
                96 + match &envelope.message {
                    Message::AppendEntries { entries, .. } | Message::LostEntries { entries, .. } => {
                        entries.iter().map(entry_size).sum()
                    }
                    Message::RequestLostEntries { known, .. } => known.len() * POSITION_BYTES,
                    Message::InstallSnapshot(chunk) => chunk.bytes.len(),
                    _ => 0,
                }
            }
            PeerFrame::Forward { request, .. } => 8 + request_size(request),
            PeerFrame::Answer { reply, .. } => 8 + reply_size(reply),
        }
    }

    /// Appends the frame as in that version of the protocol, in pieces if it is long.
    pub fn put(&self, version: u16, out: &mut BytesMut) {
        put_frame(out, self.kind(), |out| self.put_content(version, out));
    }

    /// Appends the content of the frame as in that version of the protocol, without a header. A field of a later version
    /// is left out.
    pub fn put_content(&self, version: u16, out: &mut BytesMut) {
        debug_assert!(self.exists_in(version), "a frame is sent only on connections of a version that has it");
        match self {
            PeerFrame::Raft(envelope) => put_envelope(out, envelope),
            PeerFrame::Forward { id, request } => {
                out.put_u64_le(*id);
                put_request(out, request);
            }
            PeerFrame::Answer { id, reply } => {
                out.put_u64_le(*id);
                put_reply(out, reply);
            }
        }
    }

    /// Decodes a frame of a connection of that version. A kind of message of a later version is an error. The payloads of entries are slices of the frame, or of a copy if the entries are short.
    pub fn read(frame: Frame, version: u16) -> Result<PeerFrame, WireError> {
        let mut reader = Reader::new(frame.content);
        let decoded = match frame.kind {
            FrameKind::Raft => PeerFrame::Raft(read_envelope(&mut reader)?),
            FrameKind::Forward => PeerFrame::Forward { id: reader.u64()?, request: read_request(&mut reader)? },
            FrameKind::Answer => PeerFrame::Answer { id: reader.u64()?, reply: read_reply(&mut reader)? },
            FrameKind::Hello | FrameKind::Welcome | FrameKind::Refused | FrameKind::Request | FrameKind::Reply => {
                return Err(WireError::UnexpectedFrameKind(frame.kind as u8));
            }
        };
        reader.check_end()?;
        if !decoded.exists_in(version) {
            return Err(Malformed("a message of a later version of the protocol than the connection's").into());
        }
        Ok(decoded)
    }
}

/// Appends sender, receiver, term, the sender's disk and the sender's log (8 bytes each), the kind of message (1 byte),
/// then its fields in order.
fn put_envelope(out: &mut BytesMut, envelope: &Envelope) {
    out.put_u64_le(envelope.from.get());
    out.put_u64_le(envelope.to.get());
    out.put_u64_le(envelope.term.0);
    out.put_u64_le(envelope.origin.disk.map_or(0, |disk| disk.0));
    out.put_u64_le(envelope.origin.log.map_or(0, |log| log.0));
    match &envelope.message {
        Message::RequestVote { last, kind } => {
            out.put_u8(MESSAGE_REQUEST_VOTE);
            out.put_position(*last);
            put_vote_kind(out, *kind);
        }
        Message::RequestVoteResponse { granted, maybe_emptied, kind, leader_time } => {
            put_vote_response(out, (*granted, *maybe_emptied), *kind, *leader_time);
        }
        Message::AppendEntries { prev, commit, probe_number, entries } => {
            put_append_entries(out, (*prev, *commit, *probe_number), entries)
        }
        Message::AppendResponse { matched } => {
            out.put_u8(MESSAGE_APPEND_RESPONSE);
            out.put_u64_le(matched.0);
        }
        Message::AppendRejected { index, hint, probe_number } => {
            out.put_u8(MESSAGE_APPEND_REJECTED);
            out.put_u64_le(index.0);
            out.put_position(*hint);
            out.put_u64_le(*probe_number);
        }
        Message::LostAcknowledged { upto } => put_kind_and_position(out, MESSAGE_LOST_ACKNOWLEDGED, *upto),
        Message::LostAcknowledgedResponse { upto } => put_kind_and_position(out, MESSAGE_LOST_ACK_RESPONSE, *upto),
        Message::RecordedClaim { term, position } => put_recorded_claim(out, *term, *position),
        Message::RequestLostEntries { after, known } => put_request_lost_entries(out, *after, known),
        Message::LostEntries { after, entries } => put_lost_entries(out, *after, entries),
        Message::Heartbeat { commit, round, time } => {
            out.put_u8(MESSAGE_HEARTBEAT);
            out.put_u64_le(commit.0);
            out.put_u64_le(round.0);
            out.put_u64_le(time.0);
        }
        Message::HeartbeatResponse { round, matched_prefix, room } => {
            out.put_u8(MESSAGE_HEARTBEAT_RESPONSE);
            out.put_u64_le(round.0);
            out.put_u64_le(matched_prefix.0);
            put_disk_room(out, room);
        }
        Message::Committed { upto } => put_kind_and_number(out, MESSAGE_COMMITTED, upto.0),
        Message::InstallSnapshot(chunk) => put_snapshot_chunk(out, chunk),
        Message::InstallSnapshotResponse { snapshot, received_bytes, damaged } => {
            out.put_u8(MESSAGE_INSTALL_SNAPSHOT_RESPONSE);
            out.put_position(*snapshot);
            out.put_u64_le(*received_bytes);
            out.put_u8(u8::from(*damaged));
        }
        Message::TimeoutNow => out.put_u8(MESSAGE_TIMEOUT_NOW),
        Message::ReadIndexRequest { number } => put_kind_and_number(out, MESSAGE_READ_INDEX_REQUEST, *number),
        Message::ReadIndexResponse { number, index } => {
            out.put_u8(MESSAGE_READ_INDEX_RESPONSE);
            out.put_u64_le(*number);
            out.put_u64_le(index.0);
        }
        Message::StaleTerm => out.put_u8(MESSAGE_STALE_TERM),
        #[cfg(feature = "next-version")]
        Message::NextVersionNotice => out.put_u8(MESSAGE_NEXT_VERSION_NOTICE),
    }
}

fn put_append_entries(out: &mut BytesMut, (prev, commit, probe_number): (Position, Index, u64), entries: &[Entry]) {
    out.put_u8(MESSAGE_APPEND_ENTRIES);
    out.put_position(prev);
    out.put_u64_le(commit.0);
    out.put_u64_le(probe_number);
    put_entries(out, entries);
}

fn put_kind_and_number(out: &mut BytesMut, kind: u8, number: u64) {
    out.put_u8(kind);
    out.put_u64_le(number);
}

fn put_kind_and_position(out: &mut BytesMut, kind: u8, position: Position) {
    out.put_u8(kind);
    out.put_position(position);
}

fn put_recorded_claim(out: &mut BytesMut, term: Term, position: Position) {
    put_kind_and_position(out, MESSAGE_RECORDED_CLAIM, position);
    out.put_u64_le(term.0);
}

/// `after`, the number of known positions (1 byte), and these.
fn put_request_lost_entries(out: &mut BytesMut, after: Position, known: &[Position]) {
    put_kind_and_position(out, MESSAGE_REQUEST_LOST_ENTRIES, after);
    out.put_u8(known.len() as u8);
    known.iter().for_each(|position| out.put_position(*position));
}

fn put_lost_entries(out: &mut BytesMut, after: Position, entries: &[Entry]) {
    put_kind_and_position(out, MESSAGE_LOST_ENTRIES, after);
    put_entries(out, entries);
}

fn put_snapshot_chunk(out: &mut BytesMut, chunk: &SnapshotChunk) {
    let SnapshotChunk { snapshot, total_bytes: total, offset, bytes } = chunk;
    out.put_u8(MESSAGE_INSTALL_SNAPSHOT);
    out.put_position(*snapshot);
    out.put_u64_le(*total);
    out.put_u64_le(*offset);
    out.put_blob(bytes);
}

fn put_disk_room(out: &mut BytesMut, room: &DiskRoom) {
    let DiskRoom { is_low, free_bytes, counted_after } = room;
    out.put_u8(u8::from(*is_low));
    out.put_u64_le(*free_bytes);
    out.put_u64_le(counted_after.0);
}

fn put_vote_response(
    out: &mut BytesMut,
    (granted, maybe_emptied): (bool, bool),
    vote_kind: VoteKind,
    leader_time: LeaderTime,
) {
    out.put_u8(MESSAGE_REQUEST_VOTE_RESPONSE);
    out.put_u8(u8::from(granted));
    out.put_u8(u8::from(maybe_emptied));
    put_vote_kind(out, vote_kind);
    out.put_u64_le(leader_time.term.0);
    out.put_u64_le(leader_time.time.0);
}

fn put_vote_kind(out: &mut BytesMut, vote_kind: VoteKind) {
    out.put_u8(match vote_kind {
        VoteKind::PreVote => VOTE_KIND_PRE_VOTE,
        VoteKind::Vote => VOTE_KIND_VOTE,
        VoteKind::Transfer => VOTE_KIND_TRANSFER,
    });
}

fn read_envelope(reader: &mut Reader) -> Result<Envelope, Malformed> {
    let (from, to) = (reader.node_id()?, reader.node_id()?);
    let term = Term(check_wire_number(reader.u64()?)?);
    let disk = Some(reader.u64()?).filter(|disk| *disk != 0).map(DiskId);
    let log = Some(reader.u64()?).filter(|log| *log != 0).map(LogId);
    let message = match reader.u8()? {
        MESSAGE_REQUEST_VOTE => Message::RequestVote { last: read_position(reader)?, kind: read_vote_kind(reader)? },
        MESSAGE_REQUEST_VOTE_RESPONSE => {
            let (granted, maybe_emptied, kind) = (reader.bool()?, reader.bool()?, read_vote_kind(reader)?);
            let leader_time = LeaderTime {
                term: Term(check_wire_number(reader.u64()?)?),
                time: ClusterTime(check_wire_number(reader.u64()?)?),
            };
            Message::RequestVoteResponse { granted, maybe_emptied, kind, leader_time }
        }
        MESSAGE_APPEND_ENTRIES => read_append_entries(reader, term)?,
        MESSAGE_APPEND_RESPONSE => Message::AppendResponse { matched: read_index(reader)? },
        MESSAGE_APPEND_REJECTED => Message::AppendRejected {
            index: read_index(reader)?,
            hint: read_position(reader)?,
            probe_number: reader.u64()?,
        },
        MESSAGE_LOST_ACKNOWLEDGED => Message::LostAcknowledged { upto: read_position(reader)? },
        MESSAGE_RECORDED_CLAIM => {
            Message::RecordedClaim { position: read_position(reader)?, term: Term(check_wire_number(reader.u64()?)?) }
        }
        MESSAGE_REQUEST_LOST_ENTRIES => read_request_lost_entries(reader)?,
        MESSAGE_LOST_ENTRIES => {
            let after = read_position(reader)?;
            Message::LostEntries { after, entries: read_entries(reader, after, term)? }
        }
        MESSAGE_LOST_ACK_RESPONSE => Message::LostAcknowledgedResponse { upto: read_position(reader)? },
        MESSAGE_HEARTBEAT => {
            let (commit, round) = (read_index(reader)?, Round(reader.u64()?));
            Message::Heartbeat { commit, round, time: ClusterTime(check_wire_number(reader.u64()?)?) }
        }
        MESSAGE_HEARTBEAT_RESPONSE => Message::HeartbeatResponse {
            round: Round(reader.u64()?),
            matched_prefix: read_index(reader)?,
            room: read_disk_room(reader)?,
        },
        MESSAGE_COMMITTED => Message::Committed { upto: read_index(reader)? },
        MESSAGE_INSTALL_SNAPSHOT => read_snapshot_chunk(reader)?,
        MESSAGE_INSTALL_SNAPSHOT_RESPONSE => {
            let (snapshot, received_bytes) = (read_position(reader)?, check_wire_number(reader.u64()?)?);
            Message::InstallSnapshotResponse { snapshot, received_bytes, damaged: reader.bool()? }
        }
        MESSAGE_TIMEOUT_NOW => Message::TimeoutNow,
        MESSAGE_READ_INDEX_REQUEST => Message::ReadIndexRequest { number: reader.u64()? },
        MESSAGE_READ_INDEX_RESPONSE => Message::ReadIndexResponse { number: reader.u64()?, index: read_index(reader)? },
        MESSAGE_STALE_TERM => Message::StaleTerm,
        #[cfg(feature = "next-version")]
        MESSAGE_NEXT_VERSION_NOTICE => Message::NextVersionNotice,
        _ => return Err(Malformed("unknown message")),
    };
    Ok(Envelope { from, to, term, origin: Origin { disk, log }, message })
}

fn read_disk_room(reader: &mut Reader) -> Result<DiskRoom, Malformed> {
    Ok(DiskRoom { is_low: reader.bool()?, free_bytes: reader.u64()?, counted_after: read_index(reader)? })
}

fn read_vote_kind(reader: &mut Reader) -> Result<VoteKind, Malformed> {
    match reader.u8()? {
        VOTE_KIND_PRE_VOTE => Ok(VoteKind::PreVote),
        VOTE_KIND_VOTE => Ok(VoteKind::Vote),
        VOTE_KIND_TRANSFER => Ok(VoteKind::Transfer),
        _ => Err(Malformed("unknown kind of vote")),
    }
}

fn read_append_entries(reader: &mut Reader, term: Term) -> Result<Message, Malformed> {
    let prev = read_position(reader)?;
    let commit = read_index(reader)?;
    let probe_number = reader.u64()?;
    let entries = read_entries(reader, prev, term)?;
    Ok(Message::AppendEntries { prev, commit, probe_number, entries })
}

fn read_request_lost_entries(reader: &mut Reader) -> Result<Message, Malformed> {
    let after = read_position(reader)?;
    let known_count = usize::from(reader.u8()?);
    if known_count > KNOWN_POSITIONS_MAX {
        return Err(Malformed("too many known positions in a request for lost entries"));
    }
    let known = (0..known_count).map(|_| read_position(reader)).collect::<Result<_, _>>()?;
    Ok(Message::RequestLostEntries { after, known })
}

fn read_snapshot_chunk(reader: &mut Reader) -> Result<Message, Malformed> {
    let snapshot = read_position(reader)?;
    let (total, offset) = (check_wire_number(reader.u64()?)?, check_wire_number(reader.u64()?)?);
    let bytes = reader.blob(CHUNK_BYTES)?;
    if offset + bytes.len() as u64 > total {
        return Err(Malformed("a chunk extends beyond the end of its snapshot"));
    }
    Ok(Message::InstallSnapshot(SnapshotChunk { snapshot, total_bytes: total, offset, bytes }))
}

fn read_index(reader: &mut Reader) -> Result<Index, Malformed> {
    Ok(Index(check_wire_number(reader.u64()?)?))
}

fn read_position(reader: &mut Reader) -> Result<Position, Malformed> {
    let position = reader.position()?;
    check_wire_number(position.index.0)?;
    check_wire_number(position.term.0)?;
    Ok(position)
}

fn check_wire_number(number: u64) -> Result<u64, Malformed> {
    if number < WIRE_NUMBER_LIMIT { Ok(number) } else { Err(Malformed("a term or index is out of range")) }
}

#[cfg(test)]
mod tests {
    use super::super::frame::FrameReader;
    use super::super::hello::VERSION_MAX;
    use super::*;
    use crate::codec;
    use crate::limits::APPEND_ENTRIES_MAX;
    use crate::types::{ClusterTime, Membership, NodeId, Payload};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn id(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn entry(index: u64, term: u64, payload: Payload) -> Entry {
        codec::entry(Position::new(Index(index), Term(term)), ClusterTime(5), payload)
    }

    fn raft_frame(term: u64, message: Message) -> PeerFrame {
        let origin = Origin { disk: Some(DiskId(77)), log: Some(LogId(5)) };
        PeerFrame::Raft(Envelope { from: id(1), to: id(2), term: Term(term), origin, message })
    }

    fn append(prev: (u64, u64), entries: Vec<Entry>) -> Message {
        Message::AppendEntries {
            prev: Position::new(Index(prev.0), Term(prev.1)),
            commit: Index(3),
            probe_number: 6,
            entries,
        }
    }

    fn content(frame: &PeerFrame) -> Bytes {
        let mut out = BytesMut::new();
        frame.put_content(VERSION_MAX, &mut out);
        assert!(out.len() <= frame.size());
        out.freeze()
    }

    fn read(kind: FrameKind, content: Bytes) -> Result<PeerFrame, WireError> {
        PeerFrame::read(Frame { kind, content }, VERSION_MAX)
    }

    fn sample_frames() -> Vec<PeerFrame> {
        let last = Position::new(Index(812), Term(3));
        let membership = Membership::founding([(id(1), "a:1".into()), (id(2), "b:2".into())]);
        let entries = vec![
            entry(4, 2, Payload::Noop),
            entry(5, 2, Payload::Opaque(Bytes::from_static(b"x"))),
            entry(6, 3, Payload::Membership(Box::new(membership))),
        ];
        let leader_time = LeaderTime { term: Term(2), time: ClusterTime(70) };
        let messages = vec![
            Message::RequestVote { last, kind: VoteKind::PreVote },
            Message::RequestVoteResponse { granted: true, maybe_emptied: false, kind: VoteKind::Vote, leader_time },
            Message::RequestVoteResponse {
                granted: true,
                maybe_emptied: true,
                kind: VoteKind::Transfer,
                leader_time: LeaderTime::default(),
            },
            Message::TimeoutNow,
            Message::ReadIndexRequest { number: 7 },
            Message::ReadIndexResponse { number: 7, index: Index(9) },
            append((3, 1), entries.clone()),
            append((3, 1), vec![]),
            Message::RequestLostEntries { after: last, known: vec![last, Position::new(Index(9), Term(2))] },
            Message::LostEntries { after: Position::new(Index(3), Term(1)), entries },
            Message::AppendResponse { matched: Index(9) },
            Message::AppendRejected { index: Index(9), hint: last, probe_number: 6 },
            Message::LostAcknowledged { upto: last },
            Message::LostAcknowledgedResponse { upto: last },
            Message::RecordedClaim { term: Term(3), position: last },
            Message::Heartbeat { commit: Index(9), round: Round(u64::MAX), time: ClusterTime(77) },
            Message::HeartbeatResponse {
                round: Round(7),
                matched_prefix: Index(9),
                room: DiskRoom { is_low: true, free_bytes: 1 << 40, counted_after: Index(8) },
            },
            Message::Committed { upto: Index(9) },
            Message::StaleTerm,
            Message::InstallSnapshot(SnapshotChunk {
                snapshot: last,
                total_bytes: 9,
                offset: 4,
                bytes: Bytes::from_static(b"piece"),
            }),
            Message::InstallSnapshotResponse { snapshot: last, received_bytes: 9, damaged: true },
        ];
        let request = Request::Propose { op: crate::api::Op::Open { window: 3, ordered: false }.encode() };
        let mut frames: Vec<_> = messages.into_iter().map(|message| raft_frame(3, message)).collect();
        frames.push(PeerFrame::Forward { id: 4, request });
        frames.push(PeerFrame::Answer { id: 4, reply: Reply::Unknown });
        frames
    }

    #[test]
    fn peer_frame_round_trips_and_truncated_one_is_rejected() {
        for frame in sample_frames() {
            let mut out = BytesMut::new();
            frame.put(VERSION_MAX, &mut out);
            let encoded = FrameReader::default().next(&mut out).unwrap().unwrap();
            for cut in 0..encoded.content.len() {
                assert!(read(encoded.kind, encoded.content.slice(..cut)).is_err(), "cut at {cut}: {frame:?}");
            }
            assert_eq!(PeerFrame::read(encoded, VERSION_MAX), Ok(frame));
        }
    }

    #[test]
    fn append_with_gap_or_falling_term_is_rejected() {
        let noop = |index, term| entry(index, term, Payload::Noop);
        for (why, prev, entries) in [
            ("a gap after prev", (3, 1), vec![noop(5, 1)]),
            ("a gap between entries", (3, 1), vec![noop(4, 1), noop(6, 1)]),
            ("the same index twice", (3, 1), vec![noop(4, 1), noop(4, 1)]),
            ("a falling term", (3, 2), vec![noop(4, 1)]),
            ("a term above the sender's", (3, 1), vec![noop(4, 4)]),
        ] {
            let frame = raft_frame(3, append(prev, entries));
            assert!(read(FrameKind::Raft, content(&frame)).is_err(), "{why}");
        }
    }

    #[test]
    fn small_payload_is_copied_and_large_one_is_sliced() {
        for (bytes, slice) in [(100, false), (60_000, true)] {
            let payload = Payload::Opaque(Bytes::from(vec![7; bytes]));
            let received_bytes = content(&raft_frame(3, append((3, 1), vec![entry(4, 2, payload)])));
            let Ok(PeerFrame::Raft(envelope)) = read(FrameKind::Raft, received_bytes.clone()) else { panic!() };
            let Message::AppendEntries { entries, .. } = envelope.message else { panic!() };
            let Payload::Opaque(op) = &entries[0].payload else { panic!() };
            assert_eq!(received_bytes.as_ptr_range().contains(&op.as_ptr()), slice, "{bytes}");
        }
    }

    #[test]
    fn entry_count_beyond_content_is_rejected() {
        let mut out = BytesMut::new();
        out.put_slice(&content(&raft_frame(3, append((3, 1), vec![]))));
        let count_offset = out.len() - 4;
        out[count_offset..].copy_from_slice(&(APPEND_ENTRIES_MAX as u32).to_le_bytes());
        assert!(read(FrameKind::Raft, out.clone().freeze()).is_err());
        out[count_offset..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(read(FrameKind::Raft, out.freeze()).is_err());
        assert!(
            read(FrameKind::Raft, content(&raft_frame(3, Message::AppendResponse { matched: Index(u64::MAX) })))
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn garbage_input_does_not_panic(sample in 0..21usize, bytes: Vec<u8>) {
            let _any_result = read(sample_frames()[sample].kind(), bytes.into());
        }

        #[test]
        fn frame_with_changed_byte_is_rejected_or_round_trips(sample in 0..21usize, at: prop::sample::Index, byte: u8) {
            let frame = &sample_frames()[sample];
            let mut bytes = content(frame).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            // If the changed bytes decode, the decoded frame round-trips.
            if let Ok(other) = read(frame.kind(), bytes.clone().into()) {
                prop_assert_eq!(read(other.kind(), content(&other)), Ok(other));
            }
        }
    }
}
