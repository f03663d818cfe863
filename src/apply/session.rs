//! One client session: its stored answers, and its encoding.
//!
//! A client that receives no reply repeats its command, perhaps at another node, and both attempts may be in the log.
//! The session makes the second attempt harmless: the replicated state records which numbers were executed, and with
//! which answers (thesis §6.3). A check by the leader, before the log, would not do: the leader may not have applied
//! the first attempt yet, or may be another node by now.
//!
//! ```text
//!            first_outstanding                first_outstanding + window
//!   discarded │ 7: answer  8: answer  9: -  10: answer  11: -  … │ refused
//!             └──────── executed, or yet to come ────────────────┘
//! ```
//!
//! The client alone moves the window: each command names the lowest number whose reply the client still awaits. The
//! client repeats no lower number, so the answers to lower numbers are dropped. A bound by count alone could drop the
//! answer to an attempt that is still under way, which would then execute again.

use crate::codec::{BufMutExt, Malformed, Reader, Result};
use crate::limits::{ANSWER_BYTES_MAX, SESSION_WINDOW_MAX};
use crate::types::digest::{Digest, hash, hash_numbers};
use crate::types::{ClusterTime, Index, SessionId};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::VecDeque;

/// The bytes charged for a stored answer in addition to its length: its slot in the queue, the spare capacity of a
/// growing queue, and the allocator's overhead for small allocations.
pub const ANSWER_OVERHEAD_BYTES: u64 = 128;

/// What a session has recorded of a command number when the command's entry is applied.
#[derive(Debug, PartialEq, Eq)]
pub enum CommandState {
    /// The command is new. Execute it, then store the answer with [`super::sessions::Sessions::store_answer`].
    New,
    /// The command was executed with this answer; `None` if the answer was too long to be stored.
    Executed(Option<Bytes>),
    /// The session is unknown or expired.
    SessionExpired,
    /// The command's number is below `first_outstanding`: its answer was discarded.
    ResponseDiscarded,
    /// The command's number is not below `first_outstanding` plus the session's window.
    WindowExceeded,
    /// The session is ordered, and the command with the preceding number has not been executed.
    OutOfOrder,
}

/// The replicated state of one client session.
///
/// Invariants: the numbers in `answers` ascend, from `first_outstanding` on and within the window. Room is allocated
/// for the stored answers, not for the window. In an ordered session the numbers run from `first_outstanding` to the
/// last one executed, without a gap. `answers_digest` is the digest of the stored answers.
#[derive(Clone, Debug)]
pub struct SessionState {
    window: u32,
    /// Whether a command is executed only after the commands with all lower numbers.
    ordered: bool,
    /// The lowest command number whose answer the client still waits for. Answers to lower numbers are discarded.
    first_outstanding: u64,
    /// The first answer to each command number. A repeated command receives it even if the state has changed since: it
    /// is the answer of the time when the command took effect.
    answers: VecDeque<(u64, StoredAnswer)>,
    /// The index of the session's last use.
    pub last_used: Index,
    /// The cluster time of the session's last use.
    pub last_used_time: ClusterTime,
    /// The index under which [`super::sessions::Sessions`] lists the session: the index of one of its uses.
    pub listing_index: Index,
    /// Whether the digest of all sessions excludes this session, because it changed after that digest was computed.
    pub dirty: bool,
    answers_digest: Digest,
}

#[derive(Clone, Debug)]
struct StoredAnswer {
    answer: Option<Bytes>,
    hash: u64,
}

/// A session's queue of stored answers never shrinks below a capacity for this many answers.
const ANSWER_QUEUE_CAPACITY_MIN: usize = 8;

impl SessionState {
    /// Creates the session that the entry at `index` opens.
    pub fn new(index: Index, time: ClusterTime, window: u32, ordered: bool) -> SessionState {
        SessionState {
            window,
            ordered,
            first_outstanding: 1,
            answers: VecDeque::new(),
            last_used: index,
            last_used_time: time,
            listing_index: index,
            dirty: true,
            answers_digest: Digest::default(),
        }
    }

    /// A hash of the whole session: its part of the digest of all sessions.
    pub fn hash(&self, id: SessionId) -> u64 {
        let answers_hash = self.answers_digest.finish(self.answers.len() as u64);
        let window_and_order = u64::from(self.window) | u64::from(self.ordered) << 32;
        hash_numbers([
            id.0,
            window_and_order,
            self.first_outstanding,
            self.last_used.0,
            self.last_used_time.0,
            answers_hash,
        ])
    }

    /// Discards the answers to numbers below `first_outstanding`, and returns the bytes that were charged for them.
    pub fn discard_below(&mut self, first_outstanding: u64) -> u64 {
        let mut freed_bytes = 0;
        while let Some((_, stored)) = self.answers.pop_front_if(|(seq, _)| *seq < first_outstanding) {
            freed_bytes += stored.charged_bytes();
            self.answers_digest -= stored.hash;
        }
        // The first outstanding number is never lowered: a late attempt names a lower number, but the answers below the
        // current one are gone.
        self.first_outstanding = self.first_outstanding.max(first_outstanding);
        if self.answers.capacity() > 4 * self.answers.len().max(ANSWER_QUEUE_CAPACITY_MIN) {
            self.answers.shrink_to(2 * self.answers.len().max(ANSWER_QUEUE_CAPACITY_MIN));
        }
        self.assert_answers_within_window();
        freed_bytes
    }

    /// The bytes charged for the session's stored answers, [`ANSWER_OVERHEAD_BYTES`] included.
    pub fn charged_bytes(&self) -> u64 {
        self.answers.iter().map(|(_, stored)| stored.charged_bytes()).sum()
    }

    /// The state of the command with number `seq`.
    pub fn command_state(&self, seq: u64) -> CommandState {
        let Some(offset) = seq.checked_sub(self.first_outstanding) else { return CommandState::ResponseDiscarded };
        if offset >= u64::from(self.window) {
            return CommandState::WindowExceeded;
        }
        match self.find_answer(seq) {
            Ok(at) => CommandState::Executed(self.answers[at].1.answer.clone()),
            Err(_) if self.ordered && seq != self.next_seq() => CommandState::OutOfOrder,
            Err(_) => CommandState::New,
        }
    }

    /// The command number after the highest one with a stored answer, but not below `first_outstanding`.
    fn next_seq(&self) -> u64 {
        self.answers.back().map_or(self.first_outstanding, |(last, _)| last.saturating_add(1))
    }

    fn find_answer(&self, seq: u64) -> std::result::Result<usize, usize> {
        // The usual case is a number above all stored ones, which needs no search.
        match self.answers.back() {
            Some((last, _)) if *last >= seq => self.answers.binary_search_by_key(&seq, |(seq, _)| *seq),
            _ => Err(self.answers.len()),
        }
    }

    /// Stores the answer to the command number `seq`, unless one is stored already, and returns the bytes charged for
    /// it. `None` stands for an answer that is too long: the command was executed, and must not be again.
    pub fn store(&mut self, seq: u64, answer: Option<Bytes>) -> u64 {
        assert!(
            seq.wrapping_sub(self.first_outstanding) < u64::from(self.window),
            "the number of a stored answer lies within the session's window"
        );
        let Err(at) = self.find_answer(seq) else { return 0 };
        let answer_hash = match &answer {
            Some(answer) => hash(seq, answer),
            None => hash(!seq, b"too long"),
        };
        let stored = StoredAnswer { answer, hash: answer_hash };
        let charged_bytes = stored.charged_bytes();
        self.answers_digest += stored.hash;
        self.answers.insert(at, (seq, stored));
        self.assert_answers_within_window();
        charged_bytes
    }

    /// Panics if a stored answer has a number outside the window, or two have the same number.
    fn assert_answers_within_window(&self) {
        let (Some((first, _)), Some((last, _))) = (self.answers.front(), self.answers.back()) else { return };
        assert!(
            *first >= self.first_outstanding,
            "every stored answer has a number that the client still awaits (thesis §6.3)"
        );
        let is_within_window = last.wrapping_sub(self.first_outstanding) < u64::from(self.window);
        assert!(is_within_window, "the highest number with a stored answer lies within the window");
        let seqs_are_distinct = last - first >= self.answers.len() as u64 - 1;
        assert!(seqs_are_distinct, "each command number has at most one stored answer");
    }

    /// The answer to the command with the highest number executed; `None` without answers, or if it was too long.
    pub fn latest_answer(&self) -> Option<Bytes> {
        self.answers.back()?.1.answer.clone()
    }

    /// Appends the session without its answers: kind of record (1 byte), which tells whether the session is ordered, id
    /// (8), window (4), first outstanding number (8), index (8) and time (8) of its last use.
    pub fn put_session(&self, out: &mut BytesMut, id: SessionId) {
        out.put_u8(if self.ordered { RECORD_ORDERED_SESSION } else { RECORD_SESSION });
        out.put_u64_le(id.0);
        out.put_u32_le(self.window);
        out.put_u64_le(self.first_outstanding);
        out.put_u64_le(self.last_used.0);
        out.put_u64_le(self.last_used_time.0);
    }

    /// Appends answers to numbers above `after` until `out` holds `bytes` bytes: each as kind of record (1 byte),
    /// number (8), whether there is an answer (1), and the answer prefixed by its length. Returns the last number
    /// appended, or `None` after the last answer.
    pub fn put_answers(&self, out: &mut BytesMut, after: u64, bytes: usize) -> Option<u64> {
        let first_position = self.answers.partition_point(|(seq, _)| *seq <= after);
        let mut last_appended_seq = after;
        for (seq, stored) in self.answers.range(first_position..) {
            if out.len() >= bytes {
                return Some(last_appended_seq);
            }
            out.put_u8(RECORD_ANSWER);
            out.put_u64_le(*seq);
            out.put_u8(u8::from(stored.answer.is_some()));
            out.put_blob(stored.answer.as_deref().unwrap_or_default());
            last_appended_seq = *seq;
        }
        None
    }
}

// The kinds of an encoded session record: its first byte.
const RECORD_SESSION: u8 = 1;
const RECORD_ANSWER: u8 = 2;
const RECORD_ORDERED_SESSION: u8 = 3;

/// A record of the serialized sessions: a session, or one of its stored answers.
#[derive(Debug)]
pub enum SessionRecord {
    /// A session without its answers.
    Session(SessionId, SessionState),
    /// A command number of the preceding session and the answer to it; `None` for an answer that was too long.
    Answer(u64, Option<Bytes>),
}

impl SessionRecord {
    /// Reads a record that [`SessionState::put_session`] or [`SessionState::put_answers`] appended. Answers are copied,
    /// so that they do not keep the buffer of `reader` alive.
    pub fn read(reader: &mut Reader) -> Result<SessionRecord> {
        match reader.u8()? {
            kind @ (RECORD_SESSION | RECORD_ORDERED_SESSION) => {
                let id = SessionId(reader.u64()?);
                let (window, first_outstanding) = (reader.u32()?, reader.u64()?);
                let (last_used, time) = (Index(reader.u64()?), ClusterTime(reader.u64()?));
                if window == 0 || window > SESSION_WINDOW_MAX || last_used.0 < id.0 {
                    return Err(Malformed("an invalid session"));
                }
                Ok(SessionRecord::Session(
                    id,
                    SessionState {
                        first_outstanding,
                        ..SessionState::new(last_used, time, window, kind == RECORD_ORDERED_SESSION)
                    },
                ))
            }
            RECORD_ANSWER => {
                let (seq, has_answer) = (reader.u64()?, reader.bool()?);
                let answer = reader.blob(ANSWER_BYTES_MAX as usize)?;
                Ok(SessionRecord::Answer(seq, has_answer.then(|| Bytes::copy_from_slice(&answer))))
            }
            _ => Err(Malformed("neither a session nor an answer")),
        }
    }
}

impl SessionState {
    /// Stores an answer read from a snapshot, and returns the bytes charged for it.
    pub fn restore(&mut self, seq: u64, answer: Option<Bytes>) -> Result<u64> {
        let next_seq = self.next_seq();
        let is_next = if self.ordered { seq == next_seq } else { seq >= next_seq };
        match seq.checked_sub(self.first_outstanding) {
            Some(offset) if offset < u64::from(self.window) && is_next => Ok(self.store(seq, answer)),
            _ => Err(Malformed("an answer out of order")),
        }
    }
}

impl StoredAnswer {
    fn charged_bytes(&self) -> u64 {
        ANSWER_OVERHEAD_BYTES + self.answer.as_ref().map_or(0, |answer| answer.len() as u64)
    }
}
