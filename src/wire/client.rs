//! The encoding of requests and replies, between clients and nodes and for requests that nodes forward.
//!
//! An operation is checked as soon as it is decoded, so a malformed one never reaches the log. A long operation is a
//! slice of its frame.

use super::change::{change_size, put_change, read_change};
use super::error::WireError;
use super::frame::{Frame, FrameKind, copy_if_small, put_frame};
use super::log_level::{put_level, put_level_request, read_level, read_level_request};
use super::refusal::{put_refusal, read_refusal};
use crate::api::{Consistency, Op, Outcome, Refusal, Reply, Request, Status};
use crate::codec::{BufMutExt, Malformed, Reader};
use crate::limits::ADDRESS_BYTES_MAX;
use crate::types::{Index, SessionId};
use bytes::{BufMut, BytesMut};

/// A client's request with its id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NumberedRequest {
    /// The id that the client chose for the request, unique on its connection; the reply has the same id.
    pub id: u64,
    /// Whether a follower forwards the request to the leader; otherwise it rejects the request and names the leader.
    pub forward: bool,
    /// What the client requests. An operation in it was checked to be well-formed.
    pub request: Request,
}

/// The id of an unsolicited reply: a status that a node sends to a client when the members have changed. No request may
/// use it.
pub const STATUS_UPDATE_ID: u64 = u64::MAX - 1;

const REQUEST_PROPOSE: u8 = 1;
const REQUEST_QUERY: u8 = 2;
const REQUEST_STATUS: u8 = 3;
const REQUEST_SNAPSHOT: u8 = 4;
const REQUEST_CHANGE: u8 = 5;
const REQUEST_TRANSFER: u8 = 6;
const REQUEST_READ_SNAPSHOT: u8 = 7;
const REQUEST_LOG_LEVEL: u8 = 8;
const REQUEST_SCRUB: u8 = 9;

const CONSISTENCY_LINEARIZABLE: u8 = 0;
const CONSISTENCY_LOCAL: u8 = 1;

const REPLY_DONE: u8 = 1;
const REPLY_ANSWER: u8 = 2;
const REPLY_STATUS: u8 = 3;
const REPLY_REFUSED: u8 = 4;
const REPLY_UNKNOWN: u8 = 5;
const REPLY_SNAPSHOT: u8 = 6;
const REPLY_CHANGED: u8 = 7;
const REPLY_TRANSFERRED: u8 = 8;
const REPLY_SNAPSHOT_CHUNK: u8 = 9;
const REPLY_LOG_LEVEL: u8 = 10;

const OUTCOME_OPENED: u8 = 1;
const OUTCOME_EXECUTED: u8 = 2;
const OUTCOME_CLOSED: u8 = 3;
const OUTCOME_SESSION_EXPIRED: u8 = 4;
const OUTCOME_RESPONSE_DISCARDED: u8 = 5;
const OUTCOME_WINDOW_EXCEEDED: u8 = 6;
const OUTCOME_MALFORMED: u8 = 7;
const OUTCOME_ANSWER_TOO_LONG: u8 = 8;
const OUTCOME_OUT_OF_ORDER: u8 = 9;

/// Appends a request as a frame: id (8 bytes), whether to forward it (1 byte), request.
pub fn put_request_frame(out: &mut BytesMut, id: u64, forward: bool, request: &Request) {
    put_frame(out, FrameKind::Request, |out| {
        out.put_u64_le(id);
        out.put_u8(u8::from(forward));
        put_request(out, request);
    });
}

/// Decodes a request from a frame. A frame of another kind is an error, and so are trailing bytes.
pub fn read_request_frame(frame: Frame) -> Result<NumberedRequest, WireError> {
    if frame.kind != FrameKind::Request {
        return Err(WireError::UnexpectedFrameKind(frame.kind as u8));
    }
    let mut reader = Reader::new(frame.content);
    let (id, forward) = (reader.u64()?, reader.bool()?);
    let request = read_request(&mut reader)?;
    reader.check_end()?;
    Ok(NumberedRequest { id, forward, request })
}

/// Appends a reply as a frame: id (8 bytes), reply.
pub fn put_reply_frame(out: &mut BytesMut, id: u64, reply: &Reply) {
    put_frame(out, FrameKind::Reply, |out| {
        out.put_u64_le(id);
        put_reply(out, reply);
    });
}

/// Decodes a reply from a frame. Returns the id of the request, or [`STATUS_UPDATE_ID`], and the reply.
pub fn read_reply_frame(frame: Frame) -> Result<(u64, Reply), WireError> {
    if frame.kind != FrameKind::Reply {
        return Err(WireError::UnexpectedFrameKind(frame.kind as u8));
    }
    let mut reader = Reader::new(frame.content);
    let id = reader.u64()?;
    let reply = read_reply(&mut reader)?;
    reader.check_end()?;
    Ok((id, reply))
}

/// An upper bound of the size of a reply's frame content in bytes, except for a status and `NotMember`.
pub fn reply_frame_size(reply: &Reply) -> usize {
    8 + reply_size(reply)
}

/// An upper bound of the bytes that [`put_request`] appends.
pub(super) fn request_size(request: &Request) -> usize {
    match request {
        Request::Propose { op } => 1 + op.len(),
        Request::Query { query, .. } => 2 + query.len(),
        Request::Status | Request::Snapshot | Request::Scrub => 1,
        Request::LogLevel(_) => 2,
        Request::ReadSnapshot { .. } => 25,
        Request::Change { change, .. } => 2 + change_size(change),
        Request::Transfer { .. } => 9,
    }
}

/// Appends the kind of request (1 byte), then its fields. A field of bytes at the end has no length: it fills the
/// frame.
pub(super) fn put_request(out: &mut BytesMut, request: &Request) {
    match request {
        Request::Propose { op } => {
            out.put_u8(REQUEST_PROPOSE);
            out.put_slice(op);
        }
        Request::Query { query, consistency } => {
            out.put_u8(REQUEST_QUERY);
            out.put_u8(match consistency {
                Consistency::Linearizable => CONSISTENCY_LINEARIZABLE,
                Consistency::Local => CONSISTENCY_LOCAL,
            });
            out.put_slice(query);
        }
        Request::Status => out.put_u8(REQUEST_STATUS),
        Request::Snapshot => out.put_u8(REQUEST_SNAPSHOT),
        Request::Scrub => out.put_u8(REQUEST_SCRUB),
        Request::ReadSnapshot { snapshot, offset } => {
            out.put_u8(REQUEST_READ_SNAPSHOT);
            out.put_position(*snapshot);
            out.put_u64_le(*offset);
        }
        Request::Change { change, force } => {
            out.put_u8(REQUEST_CHANGE);
            out.put_u8(u8::from(*force));
            put_change(out, change);
        }
        Request::Transfer { to } => {
            out.put_u8(REQUEST_TRANSFER);
            out.put_optional_node_id(*to);
        }
        Request::LogLevel(request) => {
            out.put_u8(REQUEST_LOG_LEVEL);
            put_level_request(out, *request);
        }
    }
}

pub(super) fn read_request(reader: &mut Reader) -> Result<Request, Malformed> {
    match reader.u8()? {
        REQUEST_PROPOSE => {
            let op = copy_if_small(reader.rest());
            match Op::read(&op)? {
                Op::Tick => Err(Malformed("an operation that only a leader may propose")),
                Op::Open { .. } | Op::Execute { .. } | Op::Close { .. } => Ok(Request::Propose { op }),
            }
        }
        REQUEST_QUERY => {
            let consistency = match reader.u8()? {
                CONSISTENCY_LINEARIZABLE => Consistency::Linearizable,
                CONSISTENCY_LOCAL => Consistency::Local,
                _ => return Err(Malformed("unknown consistency")),
            };
            Ok(Request::Query { query: reader.rest(), consistency })
        }
        REQUEST_STATUS => Ok(Request::Status),
        REQUEST_SNAPSHOT => Ok(Request::Snapshot),
        REQUEST_SCRUB => Ok(Request::Scrub),
        REQUEST_READ_SNAPSHOT => Ok(Request::ReadSnapshot { snapshot: reader.position()?, offset: reader.u64()? }),
        REQUEST_CHANGE => {
            let force = reader.bool()?;
            Ok(Request::Change { change: read_change(reader)?, force })
        }
        REQUEST_TRANSFER => Ok(Request::Transfer { to: reader.optional_node_id()? }),
        REQUEST_LOG_LEVEL => Ok(Request::LogLevel(read_level_request(reader)?)),
        _ => Err(Malformed("unknown request")),
    }
}

/// An upper bound of the bytes that [`put_reply`] appends, except for a status and `NotMember`.
pub(super) fn reply_size(reply: &Reply) -> usize {
    match reply {
        Reply::Done { outcome: Outcome::Executed { answer, .. }, .. } => 32 + answer.len(),
        Reply::Answer { answer, .. } => 32 + answer.len(),
        Reply::SnapshotChunk { bytes, .. } => 32 + bytes.len(),
        // The size of a status is only estimated: it sizes a buffer, which can grow.
        Reply::Status(_) => 4096,
        Reply::Refused(Refusal::InvalidChange { why } | Refusal::UnsafeChange { why }) => 16 + why.len(),
        Reply::Refused(_) => 64 + ADDRESS_BYTES_MAX,
        Reply::Done { .. } | Reply::Snapshot { .. } | Reply::Unknown => 32,
        Reply::Changed { .. } | Reply::Transferred { .. } | Reply::LogLevel(_) => 32,
    }
}

/// Appends the kind of reply (1 byte), then its fields. A field of bytes at the end has no length: it fills the frame.
pub fn put_reply(out: &mut BytesMut, reply: &Reply) {
    match reply {
        Reply::Done { position, outcome } => {
            out.put_u8(REPLY_DONE);
            out.put_position(*position);
            put_outcome(out, outcome);
        }
        Reply::Answer { applied, answer } => {
            out.put_u8(REPLY_ANSWER);
            out.put_u64_le(applied.0);
            out.put_slice(answer);
        }
        Reply::Status(status) => {
            out.put_u8(REPLY_STATUS);
            serde_json::to_writer(out.writer(), status).expect("a status serializes: all its keys are strings");
        }
        Reply::Refused(refusal) => {
            out.put_u8(REPLY_REFUSED);
            put_refusal(out, refusal);
        }
        Reply::Unknown => out.put_u8(REPLY_UNKNOWN),
        Reply::Changed { position } => {
            out.put_u8(REPLY_CHANGED);
            out.put_position(*position);
        }
        Reply::Transferred { to } => {
            out.put_u8(REPLY_TRANSFERRED);
            out.put_optional_node_id(Some(*to));
        }
        Reply::LogLevel(level) => {
            out.put_u8(REPLY_LOG_LEVEL);
            put_level(out, *level);
        }
        Reply::Snapshot { position, bytes } => {
            out.put_u8(REPLY_SNAPSHOT);
            out.put_position(*position);
            out.put_u64_le(*bytes);
        }
        Reply::SnapshotChunk { offset, total, bytes } => {
            out.put_u8(REPLY_SNAPSHOT_CHUNK);
            out.put_u64_le(*offset);
            out.put_u64_le(*total);
            out.put_slice(bytes);
        }
    }
}

pub(super) fn read_reply(reader: &mut Reader) -> Result<Reply, Malformed> {
    Ok(match reader.u8()? {
        REPLY_DONE => Reply::Done { position: reader.position()?, outcome: read_outcome(reader)? },
        REPLY_ANSWER => Reply::Answer { applied: Index(reader.u64()?), answer: reader.rest() },
        REPLY_STATUS => {
            let status: Status = serde_json::from_slice(&reader.rest()).map_err(|_| Malformed("invalid status"))?;
            Reply::Status(Box::new(status))
        }
        REPLY_REFUSED => Reply::Refused(read_refusal(reader)?),
        REPLY_UNKNOWN => Reply::Unknown,
        REPLY_CHANGED => Reply::Changed { position: reader.position()? },
        REPLY_TRANSFERRED => Reply::Transferred { to: reader.node_id()? },
        REPLY_LOG_LEVEL => Reply::LogLevel(read_level(reader)?),
        REPLY_SNAPSHOT => Reply::Snapshot { position: reader.position()?, bytes: reader.u64()? },
        REPLY_SNAPSHOT_CHUNK => {
            Reply::SnapshotChunk { offset: reader.u64()?, total: reader.u64()?, bytes: reader.rest() }
        }
        _ => return Err(Malformed("unknown reply")),
    })
}

fn put_outcome(out: &mut BytesMut, outcome: &Outcome) {
    match outcome {
        Outcome::Opened { session } => {
            out.put_u8(OUTCOME_OPENED);
            out.put_u64_le(session.0);
        }
        Outcome::Executed { answer, duplicate } => {
            out.put_u8(OUTCOME_EXECUTED);
            out.put_u8(u8::from(*duplicate));
            out.put_slice(answer);
        }
        Outcome::Closed => out.put_u8(OUTCOME_CLOSED),
        Outcome::SessionExpired => out.put_u8(OUTCOME_SESSION_EXPIRED),
        Outcome::ResponseDiscarded => out.put_u8(OUTCOME_RESPONSE_DISCARDED),
        Outcome::WindowExceeded => out.put_u8(OUTCOME_WINDOW_EXCEEDED),
        Outcome::OutOfOrder => out.put_u8(OUTCOME_OUT_OF_ORDER),
        Outcome::Malformed => out.put_u8(OUTCOME_MALFORMED),
        Outcome::AnswerTooLong => out.put_u8(OUTCOME_ANSWER_TOO_LONG),
    }
}

fn read_outcome(reader: &mut Reader) -> Result<Outcome, Malformed> {
    Ok(match reader.u8()? {
        OUTCOME_OPENED => Outcome::Opened { session: SessionId(reader.u64()?) },
        OUTCOME_EXECUTED => {
            let duplicate = reader.bool()?;
            Outcome::Executed { answer: reader.rest(), duplicate }
        }
        OUTCOME_CLOSED => Outcome::Closed,
        OUTCOME_SESSION_EXPIRED => Outcome::SessionExpired,
        OUTCOME_RESPONSE_DISCARDED => Outcome::ResponseDiscarded,
        OUTCOME_WINDOW_EXCEEDED => Outcome::WindowExceeded,
        OUTCOME_OUT_OF_ORDER => Outcome::OutOfOrder,
        OUTCOME_MALFORMED => Outcome::Malformed,
        OUTCOME_ANSWER_TOO_LONG => Outcome::AnswerTooLong,
        _ => return Err(Malformed("unknown outcome")),
    })
}

#[cfg(test)]
mod tests {
    use super::super::frame::FrameReader;
    use super::*;
    use crate::api::figures::{Buckets, Counters};
    use crate::api::{
        DiskStatus, LogLevel, LogLevelInForce, LogLevelRequest, LogStatus, MemberStatus, PeerStatus, RepairStatus,
        RoleName, ScrubStatus, StageStatus, TimingStatus,
    };
    use crate::types::Term;
    use crate::types::{Change, NodeId, Position};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn encode_frame(put: impl FnOnce(&mut BytesMut)) -> Frame {
        let mut out = BytesMut::new();
        put(&mut out);
        FrameReader::default().next(&mut out).unwrap().unwrap()
    }

    fn sample_requests() -> Vec<Request> {
        let execute = Op::Execute {
            session: SessionId(3),
            seq: 9,
            first_outstanding: 4,
            command: Bytes::from_static(b"\x01command"),
        };
        vec![
            Request::Propose { op: execute.encode() },
            Request::Query { query: Bytes::from_static(b"q"), consistency: Consistency::Local },
            Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable },
            Request::Status,
            Request::Snapshot,
            Request::ReadSnapshot { snapshot: Position::new(Index(9), Term(2)), offset: 1 << 40 },
            Request::Change { change: Change::Remove(NodeId::new(3).unwrap()), force: true },
            Request::Transfer { to: None },
            Request::Transfer { to: NodeId::new(2) },
            Request::LogLevel(LogLevelRequest::Read),
            Request::Scrub,
        ]
    }

    fn sample_status() -> Status {
        Status {
            log_id: "6f2c".into(),
            promised: "812@3".into(),
            repair: Some(RepairStatus { file: "0000000001.wal".into(), missing: Some(3), ..RepairStatus::default() }),
            node: 1,
            cluster: "6f2c91aa0d77be21".into(),
            role: RoleName::Leader,
            term: 3,
            leader: Some(1),
            commit: 812,
            goal: 812,
            applied: 812,
            last: 815,
            durable: 814,
            digest: "0".into(),
            sessions: 2,
            membership: "voters=1,2,3".into(),
            peers: vec![PeerStatus { node: 2, address: "b:2".into(), ..PeerStatus::default() }],
            disk: DiskStatus { sync_p50_us: 101.5, ..DiskStatus::default() },
            fsync: true,
            in_memory: false,
            file_system: "ext4".into(),
            timing: TimingStatus { heartbeat_ms: 50.0, ..TimingStatus::default() },
            low_space: true,
            cpu_ns: 7,
            uptime_ms: 8,
            stages: StageStatus::default(),
            version: "0.1.0".into(),
            versions: Default::default(),
            elections: [("timeout".to_owned(), 2)].into(),
            members: vec![MemberStatus { node: 2, kind: "voter".into(), ..MemberStatus::default() }],
            hands_over: 2,
            log: LogStatus { first: 7, ..LogStatus::default() },
            timer_ms: 9,
            certificate_expires: Some(1_900_000_000),
            machine: "kv 1".to_owned(),
            authority_expires: None,
            figures: Counters { round_trip_ns: [(2, Buckets::of_durations())].into(), ..Counters::default() },
            scrub: ScrubStatus { pass: 3, ended: 2, total_bytes: Some(9), ..ScrubStatus::default() },
        }
    }

    fn sample_replies() -> Vec<Reply> {
        let position = Position::new(Index(812), Term(3));
        let outcomes = [
            Outcome::Opened { session: SessionId(7) },
            Outcome::Executed { answer: Bytes::from_static(b"a"), duplicate: true },
            Outcome::Closed,
            Outcome::SessionExpired,
            Outcome::ResponseDiscarded,
            Outcome::WindowExceeded,
            Outcome::OutOfOrder,
            Outcome::Malformed,
            Outcome::AnswerTooLong,
        ];
        let refusals = [
            Refusal::NotLeader { leader: NodeId::new(2), address: Some("b:2".into()), term: Term(3) },
            Refusal::NotLeader { leader: None, address: None, term: Term(3) },
            Refusal::NoLeader,
            Refusal::Busy,
            Refusal::TooLarge { bytes: 9, limit: 8 },
            Refusal::Malformed,
            Refusal::Stopping,
            Refusal::NoSpace,
            Refusal::SnapshotGone,
            Refusal::NotSupported,
            Refusal::NotEnabled { needed: 2, level: 1 },
            Refusal::ChangeInProgress { since: Index(9) },
            Refusal::InvalidChange { why: "n9 is not a member".into() },
            Refusal::UnsafeChange { why: "n4 does not answer".into() },
            Refusal::TransferTimedOut { to: NodeId::new(2).unwrap() },
            Refusal::NotMember { node: NodeId::new(2).unwrap(), members: vec!["b:2".into(), String::new()] },
        ];
        let mut replies: Vec<_> = outcomes.into_iter().map(|outcome| Reply::Done { position, outcome }).collect();
        replies.extend(refusals.map(Reply::Refused));
        replies.push(Reply::Answer { applied: Index(3), answer: Bytes::from_static(b"a") });
        replies.push(Reply::Status(Box::new(sample_status())));
        replies.push(Reply::Snapshot { position, bytes: 77 });
        replies.push(Reply::SnapshotChunk { offset: 3, total: 7, bytes: Bytes::from_static(b"abcd") });
        replies.push(Reply::LogLevel(LogLevelInForce { level: LogLevel::Debug, changed: true }));
        replies.push(Reply::Unknown);
        replies.push(Reply::Changed { position });
        replies.push(Reply::Transferred { to: NodeId::new(2).unwrap() });
        replies
    }

    #[test]
    fn request_round_trips() {
        for (id, request) in (5..).zip(sample_requests()) {
            let frame = encode_frame(|out| put_request_frame(out, id, id % 2 == 0, &request));
            assert!(frame.content.len() <= 9 + request_size(&request));
            assert_eq!(read_request_frame(frame), Ok(NumberedRequest { id, forward: id % 2 == 0, request }));
        }
    }

    #[test]
    fn reply_round_trips() {
        for (id, reply) in (5..).zip(sample_replies()) {
            let frame = encode_frame(|out| put_reply_frame(out, id, &reply));
            assert_eq!(read_reply_frame(frame), Ok((id, reply)));
        }
    }

    #[test]
    fn small_operation_is_copied_and_invalid_one_is_rejected() {
        let execute = |bytes| {
            let command = Bytes::from(vec![7; bytes]);
            Request::Propose {
                op: Op::Execute { session: SessionId(3), seq: 9, first_outstanding: 4, command }.encode(),
            }
        };
        // A short operation is copied, because a slice of it would keep all received bytes in memory.
        for (bytes, slice) in [(100, false), (60_000, true)] {
            let frame = encode_frame(|out| put_request_frame(out, 1, false, &execute(bytes)));
            let received_bytes = frame.content.clone();
            let Request::Propose { op } = read_request_frame(frame).unwrap().request else { panic!() };
            assert_eq!(received_bytes.as_ptr_range().contains(&op.as_ptr()), slice, "{bytes}");
        }
        let malformed = Request::Propose { op: Bytes::from_static(b"\xffnonsense") };
        assert!(read_request_frame(encode_frame(|out| put_request_frame(out, 1, false, &malformed))).is_err());
    }

    proptest! {
        #[test]
        fn garbage_input_does_not_panic(bytes: Vec<u8>) {
            let content = Bytes::from(bytes);
            let _any_result = read_request_frame(Frame { kind: FrameKind::Request, content: content.clone() });
            let _any_result = read_reply_frame(Frame { kind: FrameKind::Reply, content });
        }

        #[test]
        fn corrupt_or_truncated_reply_does_not_panic(
            sample in 0..sample_replies().len(), at: prop::sample::Index, byte: u8, cut in any::<bool>(),
        ) {
            let mut bytes = encode_frame(|out| put_reply_frame(out, 1, &sample_replies()[sample])).content.to_vec();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] = byte }
            let _any_result = read_reply_frame(Frame { kind: FrameKind::Reply, content: bytes.into() });
        }
    }
}
