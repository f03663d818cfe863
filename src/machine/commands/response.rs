//! The encoding of answers.

use super::{Answer, TimeToLive};
use crate::codec::{Malformed, Put, Reader, Result};
use crate::limits::ANSWER_BYTES_MAX;
use bytes::{BufMut, Bytes, BytesMut};

const DONE: u8 = 1;
const DELETED: u8 = 2;
const KEPT: u8 = 3;
const NUMBER: u8 = 4;
const NOT_A_NUMBER: u8 = 5;
const OVERFLOW: u8 = 6;
const ALL: u8 = 7;
const NONE: u8 = 8;
pub const VALUE: u8 = 9;
pub const PAIRS: u8 = 10;
const NUMBER_OF_KEYS: u8 = 11;
const MALFORMED: u8 = 12;
const UNMET: u8 = 13;
const EACH: u8 = 14;
const VALUES: u8 = 15;
const LEFT: u8 = 17;
const TOO_LONG: u8 = 18;
const OMITTED: u8 = 19;
// 16 was for keys in key order.
const WALKED: u8 = 20;

/// The maximum number of bytes around the elements of a list answer.
const AROUND: usize = 16;

impl Answer {
    /// Encodes: kind (1), then the fields in order.
    pub fn encode(&self) -> Bytes {
        if let Answer::Done = self {
            // By far the most frequent answer costs no allocation.
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
                put_list(out, answers, |out, answer| answer.put(out));
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
                put_list(out, pairs, |out, (key, value)| {
                    out.put_blob(key);
                    out.put_blob(value);
                });
            }
            Answer::Count(count) => {
                out.put_u8(NUMBER_OF_KEYS);
                out.put_u64_le(*count);
            }
            Answer::Malformed => out.put_u8(MALFORMED),
            Answer::Unmet => out.put_u8(UNMET),
            Answer::Each(answers) => {
                out.put_u8(EACH);
                put_list(out, answers, |out, answer| answer.put(out));
            }
            Answer::Values(values) => {
                out.put_u8(VALUES);
                put_list(out, values, |out, value| put_option(out, value.as_deref()));
            }
            Answer::Walked { keys, next } => {
                out.put_u8(WALKED);
                out.put_u64_le(*next);
                put_list(out, keys, |out, key| out.put_blob(key));
            }
            Answer::Left(left) => {
                let (kind, ms) = match left {
                    TimeToLive::Absent => (0, 0),
                    TimeToLive::Endless => (1, 0),
                    TimeToLive::Ms(ms) => (2, *ms),
                };
                out.put_u8(LEFT);
                out.put_u8(kind);
                out.put_u64_le(ms);
            }
            Answer::TooLong => out.put_u8(TOO_LONG),
            Answer::Omitted => out.put_u8(OMITTED),
        }
    }

    /// The encoded length in bytes.
    pub fn size(&self) -> usize {
        let option = |bytes: &Option<Bytes>| 1 + bytes.as_ref().map_or(0, |bytes| 4 + bytes.len());
        1 + match self {
            Answer::Done | Answer::NotANumber | Answer::Overflow | Answer::Malformed => 0,
            Answer::Unmet | Answer::TooLong | Answer::Omitted => 0,
            Answer::Deleted { .. } => 1,
            Answer::Number(_) | Answer::Count(_) => 8,
            Answer::Left(_) => 9,
            Answer::Kept { actual: held } | Answer::Value(held) => option(held),
            Answer::All(answers) | Answer::Each(answers) => 4 + answers.iter().map(Answer::size).sum::<usize>(),
            Answer::None { why, .. } => 4 + why.size(),
            Answer::Pairs { pairs, .. } => 5 + pairs.iter().map(|(k, v)| 8 + k.len() + v.len()).sum::<usize>(),
            Answer::Values(values) => 4 + values.iter().map(option).sum::<usize>(),
            Answer::Walked { keys, .. } => 12 + keys.iter().map(|key| 4 + key.len()).sum::<usize>(),
        }
    }

    /// Decodes; values are slices of `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Answer> {
        let mut reader = Reader::new(bytes);
        let answer = match reader.u8()? {
            ALL => Answer::All(list(&mut reader, Answer::next)?),
            EACH => Answer::Each(list(&mut reader, Answer::next)?),
            NONE => {
                let at = reader.u32()?;
                Answer::None { at, why: Box::new(Answer::next(&mut reader)?) }
            }
            kind => Answer::single(kind, &mut reader)?,
        };
        reader.end()?;
        Ok(answer)
    }

    fn next(reader: &mut Reader) -> Result<Answer> {
        let kind = reader.u8()?;
        Answer::single(kind, reader)
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
                let pairs = list(reader, |reader| Ok((reader.blob(usize::MAX)?, reader.blob(usize::MAX)?)))?;
                Answer::Pairs { pairs, more }
            }
            NUMBER_OF_KEYS => Answer::Count(reader.u64()?),
            MALFORMED => Answer::Malformed,
            UNMET => Answer::Unmet,
            VALUES => Answer::Values(list(reader, read_option)?),
            WALKED => {
                let next = reader.u64()?;
                Answer::Walked { keys: list(reader, |reader| reader.blob(usize::MAX))?, next }
            }
            LEFT => Answer::Left(match (reader.u8()?, reader.u64()?) {
                (0, 0) => TimeToLive::Absent,
                (1, 0) => TimeToLive::Endless,
                (2, ms) => TimeToLive::Ms(ms),
                _ => return Err(Malformed("not a time to live")),
            }),
            TOO_LONG => Answer::TooLong,
            OMITTED => Answer::Omitted,
            _ => return Err(Malformed("unknown kind of answer")),
        })
    }
}

/// A flag (1), then, if it is 1, the bytes after their length.
pub fn put_option(out: &mut BytesMut, bytes: Option<&[u8]>) {
    out.put_u8(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        out.put_blob(bytes);
    }
}

fn read_option(reader: &mut Reader) -> Result<Option<Bytes>> {
    Ok(if reader.bool()? { Some(reader.blob(usize::MAX)?) } else { None })
}

/// A count, then as many elements, each written by `put`.
fn put_list<T>(out: &mut BytesMut, all: &[T], put: impl Fn(&mut BytesMut, &T)) {
    out.put_u32_le(all.len() as u32);
    all.iter().for_each(|one| put(out, one));
}

/// A count, then as many elements, each read by `take`; memory grows with the actual bytes.
fn list<T>(reader: &mut Reader, take: impl Fn(&mut Reader) -> Result<T>) -> Result<Vec<T>> {
    let count = reader.u32()?;
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(take(reader)?);
    }
    Ok(all)
}

/// The answers of a batch or a block, limited to the size of one answer: an element that does not fit becomes
/// [`Answer::Omitted`].
#[derive(Debug)]
pub struct AnswerList {
    answers: Vec<Answer>,
    left: usize,
}

impl AnswerList {
    /// An empty list for that many elements.
    pub fn of(count: usize) -> AnswerList {
        // There is always room to mark each as omitted: each came in as many bytes as that takes.
        AnswerList {
            answers: Vec::with_capacity(count),
            left: (ANSWER_BYTES_MAX as usize - AROUND).saturating_sub(count),
        }
    }

    /// Appends the next element.
    pub fn push(&mut self, answer: Answer) {
        let more = answer.size() - 1;
        if more <= self.left {
            self.left -= more;
            self.answers.push(answer);
        } else {
            self.answers.push(Answer::Omitted);
        }
    }

    /// The complete list.
    pub fn end(self) -> Vec<Answer> {
        self.answers
    }
}
