//! One client session: its stored answers, and its encoding.
//!
//! A client that receives no reply repeats its command, perhaps at another node, and both attempts may be in the log.
//! The session makes the second one harmless: the state machine itself remembers which numbers it has executed, and
//! with which answers (thesis §6.3). A check by the leader, before the log, would not do: the leader may not have
//! applied the first attempt yet, or may be another node by now.
//!
//! ```text
//!            first_outstanding                first_outstanding + window
//!   discarded │ 7: answer  8: answer  9: -  10: answer  11: -  … │ refused
//!             └──────── executed, or yet to come ────────────────┘
//! ```
//!
//! The client alone moves the window: each command names the lowest number whose reply it still awaits. What it no
//! longer awaits it cannot repeat, so those answers are dropped; a bound by count alone could drop the answer to an
//! attempt that is still under way, which then executes again.

use crate::codec::{Malformed, Put, Reader, Result};
use crate::limits::{ANSWER_BYTES_MAX, SESSION_WINDOW_MAX};
use crate::types::digest::{Digest, hash, hash_numbers};
use crate::types::{ClusterTime, Index, SessionId};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::VecDeque;

/// The bytes charged for a stored answer beside its own length: its slot, the spare room of a growing queue, and the
/// allocator's overhead for small allocations.
pub const ANSWER_OVERHEAD: u64 = 128;

/// What a session knows of a command before it is executed.
#[derive(Debug, PartialEq, Eq)]
pub enum CommandState {
    /// It is new: execute it, then store the answer with [`super::sessions::Sessions::remember`].
    New,
    /// It was executed with this answer; `None` if the answer was too long to be stored.
    Executed(Option<Bytes>),
    /// The session is unknown or expired.
    SessionExpired,
    /// Its answer was discarded, with the client's permission.
    ResponseDiscarded,
    /// Its number lies beyond the session's window.
    WindowExceeded,
    /// The session is ordered, and a lower number has not been executed.
    OutOfOrder,
}

/// One client session.
///
/// Invariants: the numbers in `answers` ascend, from `lowest` on and within the window. Room is allocated for the
/// stored answers, not for the window. In an ordered session the numbers run from `lowest` to the last one executed,
/// without a gap. `digest` is that of the stored answers.
#[derive(Clone, Debug)]
pub struct SessionState {
    window: u32,
    /// Whether a number is executed only after all lower ones.
    ordered: bool,
    /// The lowest number the client still waits for: lower ones are discarded.
    first_outstanding: u64,
    /// The first answer to each number. A repeated command receives it even if the state has changed since: that answer
    /// is when the command took effect.
    answers: VecDeque<(u64, Stored)>,
    /// The index of the session's last use.
    pub used: Index,
    /// The cluster time of its last use.
    pub time: ClusterTime,
    /// The index under which the table lists it.
    pub listed: Index,
    /// Whether the table's digest excludes it.
    pub touched: bool,
    digest: Digest,
}

#[derive(Clone, Debug)]
struct Stored {
    answer: Option<Bytes>,
    hash: u64,
}

/// An empty queue keeps room for this many answers.
const ROOM: usize = 8;

impl SessionState {
    /// Creates a session that was just opened.
    pub fn new(index: Index, time: ClusterTime, window: u32, ordered: bool) -> SessionState {
        SessionState {
            window,
            ordered,
            first_outstanding: 1,
            answers: VecDeque::new(),
            used: index,
            time,
            listed: index,
            touched: true,
            digest: Digest::default(),
        }
    }

    /// The session's part of the table's digest.
    pub fn hash(&self, id: SessionId) -> u64 {
        let answers = self.digest.finish(self.answers.len() as u64);
        let kind = u64::from(self.window) | u64::from(self.ordered) << 32;
        hash_numbers([id.0, kind, self.first_outstanding, self.used.0, self.time.0, answers])
    }

    /// Discards the answers below `lowest`, and returns the bytes they were charged.
    pub fn trim(&mut self, lowest: u64) -> u64 {
        let mut freed = 0;
        while let Some((_, stored)) = self.answers.pop_front_if(|(seq, _)| *seq < lowest) {
            freed += stored.cost();
            self.digest -= stored.hash;
        }
        // Not lowered: an old attempt names an old number, and the answers below are gone.
        self.first_outstanding = self.first_outstanding.max(lowest);
        if self.answers.capacity() > 4 * self.answers.len().max(ROOM) {
            self.answers.shrink_to(2 * self.answers.len().max(ROOM));
        }
        self.check();
        freed
    }

    /// The bytes charged for its stored answers.
    pub fn cost(&self) -> u64 {
        self.answers.iter().map(|(_, stored)| stored.cost()).sum()
    }

    /// Looks up a number.
    pub fn find(&self, seq: u64) -> CommandState {
        let Some(at) = seq.checked_sub(self.first_outstanding) else { return CommandState::ResponseDiscarded };
        if at >= u64::from(self.window) {
            return CommandState::WindowExceeded;
        }
        match self.place(seq) {
            Ok(at) => CommandState::Executed(self.answers[at].1.answer.clone()),
            Err(_) if self.ordered && seq != self.next() => CommandState::OutOfOrder,
            Err(_) => CommandState::New,
        }
    }

    /// The number after the last one executed, but not below `lowest`.
    fn next(&self) -> u64 {
        self.answers.back().map_or(self.first_outstanding, |(last, _)| last.saturating_add(1))
    }

    fn place(&self, seq: u64) -> std::result::Result<usize, usize> {
        // The usual case: a number above all others.
        match self.answers.back() {
            Some((last, _)) if *last >= seq => self.answers.binary_search_by_key(&seq, |(seq, _)| *seq),
            _ => Err(self.answers.len()),
        }
    }

    /// Stores the answer to a number, unless one is stored already, and returns the bytes charged for it. An answer
    /// that is too long is stored as such: the command was executed, and must not be again.
    pub fn store(&mut self, seq: u64, answer: Option<Bytes>) -> u64 {
        assert!(
            seq.wrapping_sub(self.first_outstanding) < u64::from(self.window),
            "a number was looked up before it is answered"
        );
        let Err(at) = self.place(seq) else { return 0 };
        let hash = match &answer {
            Some(answer) => hash(seq, answer),
            None => hash(!seq, b"too long"),
        };
        let stored = Stored { answer, hash };
        let cost = stored.cost();
        self.digest += stored.hash;
        self.answers.insert(at, (seq, stored));
        self.check();
        cost
    }

    /// Panics if the stored answers leave the window.
    fn check(&self) {
        let (Some((first, _)), Some((last, _))) = (self.answers.front(), self.answers.back()) else { return };
        assert!(
            *first >= self.first_outstanding,
            "an answer that the client no longer awaits is dropped (thesis §6.3)"
        );
        let within = last.wrapping_sub(self.first_outstanding) < u64::from(self.window);
        assert!(within, "no number beyond the window is executed: it bounds what a session stores");
        let distinct = last - first >= self.answers.len() as u64 - 1;
        assert!(distinct, "a number has one stored answer, the first one");
    }

    /// The answer to the highest number executed.
    pub fn latest(&self) -> Option<Bytes> {
        self.answers.back()?.1.answer.clone()
    }

    /// Appends the session without its answers: a mark (1) of whether it is ordered, id (8), window (4), lowest number
    /// (8), index (8) and time (8) of its last use.
    pub fn put_head(&self, out: &mut BytesMut, id: SessionId) {
        out.put_u8(if self.ordered { HEAD_ORDERED } else { HEAD });
        out.put_u64_le(id.0);
        out.put_u32_le(self.window);
        out.put_u64_le(self.first_outstanding);
        out.put_u64_le(self.used.0);
        out.put_u64_le(self.time.0);
    }

    /// Appends answers to numbers above `told` until `out` holds `bytes` bytes: each as a mark (1), the number (8),
    /// whether there is an answer (1), and the answer prefixed by its length. Returns the last number appended, or
    /// `None` after the last answer.
    pub fn put_answers(&self, out: &mut BytesMut, told: u64, bytes: usize) -> Option<u64> {
        let from = self.answers.partition_point(|(seq, _)| *seq <= told);
        let mut told = told;
        for (seq, stored) in self.answers.range(from..) {
            if out.len() >= bytes {
                return Some(told);
            }
            out.put_u8(ANSWER);
            out.put_u64_le(*seq);
            out.put_u8(u8::from(stored.answer.is_some()));
            out.put_blob(stored.answer.as_deref().unwrap_or_default());
            told = *seq;
        }
        None
    }
}

const HEAD: u8 = 1;
const ANSWER: u8 = 2;
const HEAD_ORDERED: u8 = 3;

/// A record of the encoded session table.
#[derive(Debug)]
pub enum Record {
    /// A session without its answers.
    Head(SessionId, SessionState),
    /// An answer of the preceding session.
    Answer(u64, Option<Bytes>),
}

impl Record {
    /// Reads a record that [`SessionState::put_head`] or [`SessionState::put_answers`] appended. Answers are copied, so
    /// that they do not keep the buffer alive.
    pub fn read(reader: &mut Reader) -> Result<Record> {
        match reader.u8()? {
            mark @ (HEAD | HEAD_ORDERED) => {
                let id = SessionId(reader.u64()?);
                let (window, lowest) = (reader.u32()?, reader.u64()?);
                let (used, time) = (Index(reader.u64()?), ClusterTime(reader.u64()?));
                if window == 0 || window > SESSION_WINDOW_MAX || used.0 < id.0 {
                    return Err(Malformed("an invalid session"));
                }
                Ok(Record::Head(
                    id,
                    SessionState {
                        first_outstanding: lowest,
                        ..SessionState::new(used, time, window, mark == HEAD_ORDERED)
                    },
                ))
            }
            ANSWER => {
                let (seq, told) = (reader.u64()?, reader.bool()?);
                let answer = reader.blob(ANSWER_BYTES_MAX as usize)?;
                Ok(Record::Answer(seq, told.then(|| Bytes::copy_from_slice(&answer))))
            }
            _ => Err(Malformed("neither a session nor an answer")),
        }
    }
}

impl SessionState {
    /// Stores an answer read from a snapshot, and returns the bytes charged for it.
    pub fn restore(&mut self, seq: u64, answer: Option<Bytes>) -> Result<u64> {
        let next = self.next();
        let follows = if self.ordered { seq == next } else { seq >= next };
        match seq.checked_sub(self.first_outstanding) {
            Some(at) if at < u64::from(self.window) && follows => Ok(self.store(seq, answer)),
            _ => Err(Malformed("an answer out of order")),
        }
    }
}

impl Stored {
    fn cost(&self) -> u64 {
        ANSWER_OVERHEAD + self.answer.as_ref().map_or(0, |answer| answer.len() as u64)
    }
}
