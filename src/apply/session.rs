//! One client's session: its first answers, and itself as bytes.

use crate::codec::{Malformed, Put, Reader, Result};
use crate::limits::{ANSWER_BYTES_MAX, SESSION_WINDOW_MAX};
use crate::types::digest::{Digest, hash, hash_numbers};
use crate::types::{ClusterTime, Index, SessionId};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::VecDeque;

/// What a stored answer is said to cost beside its own bytes: its slot, the room a growing queue
/// leaves, and what the allocator adds to small ones.
pub const ANSWER_OVERHEAD: u64 = 128;

/// What is known of a command before it is executed.
#[derive(Debug, PartialEq, Eq)]
pub enum CommandState {
    /// It is new: execute it, then [`super::sessions::Sessions::remember`] the answer.
    Never,
    /// It was executed, and this was the answer; `None` if that was too long to be told.
    Before(Option<Bytes>),
    /// The session is not known.
    SessionExpired,
    /// Its answer was forgotten, as the client allowed.
    ResponseDiscarded,
    /// It lies beyond the session's window.
    WindowExceeded,
    /// The session is ordered, and a number before it has not been executed.
    OutOfOrder,
}

/// One client's session.
///
/// Invariants: the numbers in `answers` ascend, from `lowest` on and within the window; there is
/// room for what is stored, not for the window. In an ordered session they are all numbers from `lowest` to
/// the last that was executed, without a gap. `digest` is that of the stored answers.
#[derive(Clone, Debug)]
pub struct SessionState {
    window: u32,
    /// Whether a number is executed only behind all before it.
    ordered: bool,
    /// The lowest number the client still waits for: what lies below is forgotten.
    lowest: u64,
    /// The first answers to numbers.
    answers: VecDeque<(u64, Stored)>,
    /// The index of its last use.
    pub used: Index,
    /// The cluster's time then.
    pub time: ClusterTime,
    /// The index it is listed under.
    pub listed: Index,
    /// Whether it is out of the table's digest.
    pub touched: bool,
    digest: Digest,
}

#[derive(Clone, Debug)]
struct Stored {
    answer: Option<Bytes>,
    hash: u64,
}

/// An empty queue keeps room for so many.
const ROOM: usize = 8;

impl SessionState {
    /// A session that was just opened.
    pub fn new(index: Index, time: ClusterTime, window: u32, ordered: bool) -> SessionState {
        SessionState {
            window,
            ordered,
            lowest: 1,
            answers: VecDeque::new(),
            used: index,
            time,
            listed: index,
            touched: true,
            digest: Digest::default(),
        }
    }

    /// The part of the table's digest that this session is.
    pub fn hash(&self, id: SessionId) -> u64 {
        let answers = self.digest.finish(self.answers.len() as u64);
        let kind = u64::from(self.window) | u64::from(self.ordered) << 32;
        hash_numbers([id.0, kind, self.lowest, self.used.0, self.time.0, answers])
    }

    /// Drops the answers below `lowest`; says what they cost.
    pub fn trim(&mut self, lowest: u64) -> u64 {
        let mut freed = 0;
        while let Some((_, stored)) = self.answers.pop_front_if(|(seq, _)| *seq < lowest) {
            freed += stored.cost();
            self.digest -= stored.hash;
        }
        self.lowest = self.lowest.max(lowest);
        if self.answers.capacity() > 4 * self.answers.len().max(ROOM) {
            self.answers.shrink_to(2 * self.answers.len().max(ROOM));
        }
        freed
    }

    /// What its stored answers cost.
    pub fn cost(&self) -> u64 {
        self.answers.iter().map(|(_, stored)| stored.cost()).sum()
    }

    /// What is known of a number.
    pub fn find(&self, seq: u64) -> CommandState {
        let Some(at) = seq.checked_sub(self.lowest) else { return CommandState::ResponseDiscarded };
        if at >= u64::from(self.window) {
            return CommandState::WindowExceeded;
        }
        match self.place(seq) {
            Ok(at) => CommandState::Before(self.answers[at].1.answer.clone()),
            Err(_) if self.ordered && seq != self.next() => CommandState::OutOfOrder,
            Err(_) => CommandState::Never,
        }
    }

    /// The number behind the last that was executed, and not below those that are waited for.
    fn next(&self) -> u64 {
        self.answers.back().map_or(self.lowest, |(last, _)| last.saturating_add(1))
    }

    fn place(&self, seq: u64) -> std::result::Result<usize, usize> {
        // Mostly it is the next one.
        match self.answers.back() {
            Some((last, _)) if *last >= seq => self.answers.binary_search_by_key(&seq, |(seq, _)| *seq),
            _ => Err(self.answers.len()),
        }
    }

    /// Keeps an answer, the first one if there is one already; says what it costs.
    pub fn store(&mut self, seq: u64, answer: Option<Bytes>) -> u64 {
        assert!(seq.wrapping_sub(self.lowest) < u64::from(self.window), "a number was looked up before it is answered");
        let Err(at) = self.place(seq) else { return 0 };
        let hash = match &answer {
            Some(answer) => hash(seq, answer),
            None => hash(!seq, b"too long"),
        };
        let stored = Stored { answer, hash };
        let cost = stored.cost();
        self.digest += stored.hash;
        self.answers.insert(at, (seq, stored));
        cost
    }

    /// The answer to the highest number executed.
    pub fn latest(&self) -> Option<Bytes> {
        self.answers.back()?.1.answer.clone()
    }

    /// Appends itself without its answers: a mark (1) of whether it is ordered, id (8), window (4), lowest number (8), index
    /// (8) and time (8) of its last use.
    pub fn put_head(&self, out: &mut BytesMut, id: SessionId) {
        out.put_u8(if self.ordered { HEAD_ORDERED } else { HEAD });
        out.put_u64_le(id.0);
        out.put_u32_le(self.window);
        out.put_u64_le(self.lowest);
        out.put_u64_le(self.used.0);
        out.put_u64_le(self.time.0);
    }

    /// Appends answers to numbers above `told` until there are `bytes`; each as a mark (1), the number
    /// (8), whether there is an answer (1), and the answer behind its length. Says how far it came;
    /// `None` if that was all.
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

/// What a frozen table of sessions is told in.
#[derive(Debug)]
pub enum Record {
    /// A session, without its answers.
    Head(SessionId, SessionState),
    /// An answer of the session told last.
    Answer(u64, Option<Bytes>),
}

impl Record {
    /// Reads what [`SessionState::put_head`] or [`SessionState::put_answers`] appended. Answers are copies:
    /// they must not keep alive what they were read from.
    pub fn read(reader: &mut Reader) -> Result<Record> {
        match reader.u8()? {
            mark @ (HEAD | HEAD_ORDERED) => {
                let id = SessionId(reader.u64()?);
                let (window, lowest) = (reader.u32()?, reader.u64()?);
                let (used, time) = (Index(reader.u64()?), ClusterTime(reader.u64()?));
                if window == 0 || window > SESSION_WINDOW_MAX || used.0 < id.0 {
                    return Err(Malformed("not a session"));
                }
                Ok(Record::Head(
                    id,
                    SessionState { lowest, ..SessionState::new(used, time, window, mark == HEAD_ORDERED) },
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
    /// Takes in an answer that was told; says what it costs.
    pub fn restore(&mut self, seq: u64, answer: Option<Bytes>) -> Result<u64> {
        let next = self.next();
        let follows = if self.ordered { seq == next } else { seq >= next };
        match seq.checked_sub(self.lowest) {
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
