//! What the key-value machine is told and asked, what it answers, and all three as bytes.
//!
//! Commands and queries borrow from the bytes they were read from, so that reading one costs no
//! allocation; answers own theirs. Lengths are four bytes, little-endian. Whatever cannot be read is
//! [`Malformed`], and the machine answers so: it never dies of a command.

use crate::codec::{Malformed, Put, Reader, Result};
use crate::limits::{ANSWER_BYTES_MAX, KEY_BYTES_MAX};
use bytes::{BufMut, Bytes, BytesMut};

/// What the machine is told: goes through the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// Sets a key, whatever it held.
    Put {
        /// Its name.
        key: &'a [u8],
        /// What it holds from now on.
        value: &'a [u8],
    },
    /// Removes a key, if it is there.
    Del {
        /// Its name.
        key: &'a [u8],
    },
    /// Sets a key if it holds what was expected (`None`: if it is absent).
    Cas {
        /// Its name.
        key: &'a [u8],
        /// What it must hold.
        expected: Option<&'a [u8]>,
        /// What it holds from now on.
        new: &'a [u8],
    },
    /// Adds to the decimal number a key holds; an absent key holds 0.
    Incr {
        /// Its name.
        key: &'a [u8],
        /// What is added, perhaps negative.
        by: i64,
    },
    /// All of these in order, or none: if one fails, nothing is applied. Holds no batch itself.
    Batch(Vec<Command<'a>>),
}

/// What the machine is asked: changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Query<'a> {
    /// What a key holds.
    Get {
        /// Its name.
        key: &'a [u8],
    },
    /// Pairs in the order of their keys. An answer has a largest size: it may hold fewer, and says so.
    Scan {
        /// What their keys begin with.
        prefix: &'a [u8],
        /// Only keys after this one.
        after: Option<&'a [u8]>,
        /// How many at most.
        limit: u32,
    },
    /// How many keys there are.
    Count,
}

/// What the machine answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The key is set.
    Done,
    /// The key is gone now.
    Deleted {
        /// Whether it was there.
        existed: bool,
    },
    /// The key held something else (or was absent), and still does.
    Kept {
        /// What it holds.
        actual: Option<Bytes>,
    },
    /// The number that the key holds now.
    Number(i64),
    /// The key does not hold a decimal number, and was left as it is.
    NotANumber,
    /// The sum does not fit 64 bits; the key was left as it is.
    Overflow,
    /// All of a batch was applied: the answers in order.
    All(Vec<Answer>),
    /// Nothing of a batch was applied.
    None {
        /// Which of its commands failed, from 0.
        at: u32,
        /// Its answer.
        why: Box<Answer>,
    },
    /// What a key holds, if it is there.
    Value(Option<Bytes>),
    /// Keys and what they hold, in order.
    Pairs {
        /// The pairs.
        pairs: Vec<(Bytes, Bytes)>,
        /// Whether there are more behind the last of them.
        more: bool,
    },
    /// How many keys there are.
    Count(u64),
    /// The command or query could not be read; nothing was done.
    Malformed,
}

const PUT: u8 = 1;
const DEL: u8 = 2;
const CAS: u8 = 3;
const INCR: u8 = 4;
const BATCH: u8 = 5;

const GET: u8 = 1;
const SCAN: u8 = 2;
const COUNT: u8 = 3;

pub(super) const DONE: u8 = 1;
const DELETED: u8 = 2;
const KEPT: u8 = 3;
const NUMBER: u8 = 4;
const NOT_A_NUMBER: u8 = 5;
const OVERFLOW: u8 = 6;
const ALL: u8 = 7;
const NONE: u8 = 8;
pub(super) const VALUE: u8 = 9;
pub(super) const PAIRS: u8 = 10;
const NUMBER_OF_KEYS: u8 = 11;
const MALFORMED: u8 = 12;

/// The key of an encoded command, if it is one of a single key and not cut off.
pub(super) fn key(command: &[u8]) -> Option<&[u8]> {
    let mut cursor = Cursor(command);
    match cursor.u8() {
        Ok(BATCH) | Err(_) => None,
        Ok(_) => cursor.key().ok(),
    }
}

impl<'a> Command<'a> {
    /// As bytes: kind (1), then the fields in order, keys and values behind their lengths.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.size());
        self.put(&mut out);
        debug_assert_eq!(out.len(), self.size());
        out.freeze()
    }

    fn size(&self) -> usize {
        1 + match self {
            Command::Put { key, value } => 8 + key.len() + value.len(),
            Command::Del { key } => 4 + key.len(),
            Command::Cas { key, expected, new } => {
                9 + key.len() + expected.map_or(0, |expected| 4 + expected.len()) + new.len()
            }
            Command::Incr { key, .. } => 12 + key.len(),
            Command::Batch(commands) => 4 + commands.iter().map(Command::size).sum::<usize>(),
        }
    }

    fn put(&self, out: &mut BytesMut) {
        match self {
            Command::Put { key, value } => {
                out.put_u8(PUT);
                out.put_blob(key);
                out.put_blob(value);
            }
            Command::Del { key } => {
                out.put_u8(DEL);
                out.put_blob(key);
            }
            Command::Cas { key, expected, new } => {
                out.put_u8(CAS);
                out.put_blob(key);
                put_option(out, *expected);
                out.put_blob(new);
            }
            Command::Incr { key, by } => {
                out.put_u8(INCR);
                out.put_blob(key);
                out.put_i64_le(*by);
            }
            Command::Batch(commands) => {
                out.put_u8(BATCH);
                out.put_u32_le(commands.len() as u32);
                commands.iter().for_each(|command| command.put(out));
            }
        }
    }

    /// From bytes; keys and values are slices of them.
    pub fn decode(bytes: &'a [u8]) -> Result<Command<'a>> {
        let mut cursor = Cursor(bytes);
        let kind = cursor.u8()?;
        let command = if kind == BATCH { Command::batch(&mut cursor)? } else { Command::single(kind, &mut cursor)? };
        cursor.end()?;
        Ok(command)
    }

    fn single(kind: u8, cursor: &mut Cursor<'a>) -> Result<Command<'a>> {
        match kind {
            PUT => Ok(Command::Put { key: cursor.key()?, value: cursor.blob()? }),
            DEL => Ok(Command::Del { key: cursor.key()? }),
            CAS => Ok(Command::Cas { key: cursor.key()?, expected: cursor.option()?, new: cursor.blob()? }),
            INCR => Ok(Command::Incr { key: cursor.key()?, by: cursor.u64()? as i64 }),
            BATCH => Err(Malformed("a batch inside a batch")),
            _ => Err(Malformed("unknown kind of command")),
        }
    }

    fn batch(cursor: &mut Cursor<'a>) -> Result<Command<'a>> {
        let count = cursor.u32()?;
        // Grows with the bytes that are there; the count is only what they claim.
        let mut commands = Vec::new();
        for _ in 0..count {
            let kind = cursor.u8()?;
            commands.push(Command::single(kind, cursor)?);
        }
        Ok(Command::Batch(commands))
    }
}

impl<'a> Query<'a> {
    /// As bytes: kind (1), then the fields in order.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Query::Get { key } => {
                out.put_u8(GET);
                out.put_blob(key);
            }
            Query::Scan { prefix, after, limit } => {
                out.put_u8(SCAN);
                out.put_blob(prefix);
                put_option(&mut out, *after);
                out.put_u32_le(*limit);
            }
            Query::Count => out.put_u8(COUNT),
        }
        out.freeze()
    }

    /// From bytes; keys are slices of them.
    pub fn decode(bytes: &'a [u8]) -> Result<Query<'a>> {
        let mut cursor = Cursor(bytes);
        let query = match cursor.u8()? {
            GET => Query::Get { key: cursor.key()? },
            SCAN => Query::Scan { prefix: cursor.key()?, after: cursor.option()?, limit: cursor.u32()? },
            COUNT => Query::Count,
            _ => return Err(Malformed("unknown kind of query")),
        };
        cursor.end()?;
        Ok(query)
    }
}

impl Answer {
    /// As bytes: kind (1), then the fields in order.
    pub fn encode(&self) -> Bytes {
        if let Answer::Done = self {
            // By far the most frequent one costs nothing.
            return Bytes::from_static(&[DONE]);
        }
        let mut out = BytesMut::new();
        self.put(&mut out);
        assert!(out.len() as u64 <= ANSWER_BYTES_MAX, "an answer fits a frame");
        out.freeze()
    }

    fn put(&self, out: &mut BytesMut) {
        match self {
            Answer::Done => out.put_u8(DONE),
            Answer::Deleted { existed } => {
                out.put_u8(DELETED);
                out.put_u8(u8::from(*existed));
            }
            Answer::Kept { actual } => {
                out.put_u8(KEPT);
                put_option(out, actual.as_deref());
            }
            Answer::Number(number) => {
                out.put_u8(NUMBER);
                out.put_i64_le(*number);
            }
            Answer::NotANumber => out.put_u8(NOT_A_NUMBER),
            Answer::Overflow => out.put_u8(OVERFLOW),
            Answer::All(answers) => {
                out.put_u8(ALL);
                out.put_u32_le(answers.len() as u32);
                answers.iter().for_each(|answer| answer.put(out));
            }
            Answer::None { at, why } => {
                out.put_u8(NONE);
                out.put_u32_le(*at);
                why.put(out);
            }
            Answer::Value(value) => {
                out.put_u8(VALUE);
                put_option(out, value.as_deref());
            }
            Answer::Pairs { pairs, more } => {
                out.put_u8(PAIRS);
                out.put_u8(u8::from(*more));
                out.put_u32_le(pairs.len() as u32);
                for (key, value) in pairs {
                    out.put_blob(key);
                    out.put_blob(value);
                }
            }
            Answer::Count(count) => {
                out.put_u8(NUMBER_OF_KEYS);
                out.put_u64_le(*count);
            }
            Answer::Malformed => out.put_u8(MALFORMED),
        }
    }

    /// From bytes; values are slices of them.
    pub fn decode(bytes: Bytes) -> Result<Answer> {
        let mut reader = Reader::new(bytes);
        let answer = match reader.u8()? {
            ALL => {
                let count = reader.u32()?;
                let mut answers = Vec::new();
                for _ in 0..count {
                    let kind = reader.u8()?;
                    answers.push(Answer::single(kind, &mut reader)?);
                }
                Answer::All(answers)
            }
            NONE => {
                let at = reader.u32()?;
                let kind = reader.u8()?;
                Answer::None { at, why: Box::new(Answer::single(kind, &mut reader)?) }
            }
            kind => Answer::single(kind, &mut reader)?,
        };
        reader.end()?;
        Ok(answer)
    }

    fn single(kind: u8, reader: &mut Reader) -> Result<Answer> {
        Ok(match kind {
            DONE => Answer::Done,
            DELETED => Answer::Deleted { existed: reader.bool()? },
            KEPT => Answer::Kept { actual: read_option(reader)? },
            NUMBER => Answer::Number(reader.u64()? as i64),
            NOT_A_NUMBER => Answer::NotANumber,
            OVERFLOW => Answer::Overflow,
            VALUE => Answer::Value(read_option(reader)?),
            PAIRS => {
                let more = reader.bool()?;
                let count = reader.u32()?;
                let mut pairs = Vec::new();
                for _ in 0..count {
                    pairs.push((reader.blob(usize::MAX)?, reader.blob(usize::MAX)?));
                }
                Answer::Pairs { pairs, more }
            }
            NUMBER_OF_KEYS => Answer::Count(reader.u64()?),
            MALFORMED => Answer::Malformed,
            _ => return Err(Malformed("unknown kind of answer")),
        })
    }
}

/// A flag (1), then, if it is 1, the bytes behind their length.
pub(super) fn put_option(out: &mut BytesMut, bytes: Option<&[u8]>) {
    out.put_u8(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        out.put_blob(bytes);
    }
}

fn read_option(reader: &mut Reader) -> Result<Option<Bytes>> {
    Ok(if reader.bool()? { Some(reader.blob(usize::MAX)?) } else { None })
}

/// A key and what it holds, each behind its length: how a frozen state is told.
pub(super) fn put_pair(out: &mut BytesMut, key: &[u8], value: &[u8]) {
    out.put_blob(key);
    out.put_blob(value);
}

/// Takes off what [`put_pair`] appended.
pub(super) fn read_pair<'a>(bytes: &mut &'a [u8]) -> Result<(&'a [u8], &'a [u8])> {
    let mut cursor = Cursor(bytes);
    let pair = (cursor.key()?, cursor.blob()?);
    *bytes = cursor.0;
    Ok(pair)
}

/// Takes values off the front of borrowed bytes; every take is checked. What `codec::Reader` is for
/// frames, this is for commands: it costs no count of references.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.0.split_at_checked(n) else {
            return Err(Malformed("ends too early"));
        };
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((taken, rest)) = self.0.split_first_chunk::<N>() else {
            return Err(Malformed("ends too early"));
        };
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn blob(&mut self) -> Result<&'a [u8]> {
        let length = self.u32()? as usize;
        self.bytes(length)
    }

    fn key(&mut self) -> Result<&'a [u8]> {
        let key = self.blob()?;
        if key.len() > KEY_BYTES_MAX { Err(Malformed("key longer than allowed")) } else { Ok(key) }
    }

    fn option(&mut self) -> Result<Option<&'a [u8]>> {
        match self.u8()? {
            0 => Ok(None),
            1 => Ok(Some(self.blob()?)),
            _ => Err(Malformed("neither yes nor no")),
        }
    }

    fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("bytes left over")) }
    }
}

#[cfg(test)]
mod tests;
