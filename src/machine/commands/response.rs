//! The encoding of answers.

use super::{Answer, TimeToLive};
use crate::codec::{BufMutExt, Malformed, Reader, Result};
use crate::limits::ANSWER_BYTES_MAX;
use bytes::{BufMut, Bytes, BytesMut};

// The kinds of an encoded answer: its first byte.
const ANSWER_KIND_DONE: u8 = 1;
const ANSWER_KIND_DELETED: u8 = 2;
const ANSWER_KIND_CAS_MISMATCH: u8 = 3;
const ANSWER_KIND_NUMBER: u8 = 4;
const ANSWER_KIND_NOT_A_NUMBER: u8 = 5;
const ANSWER_KIND_OVERFLOW: u8 = 6;
const ANSWER_KIND_BATCH: u8 = 7;
const ANSWER_KIND_BATCH_FAILED: u8 = 8;
pub const ANSWER_KIND_VALUE: u8 = 9;
pub const ANSWER_KIND_PAIRS: u8 = 10;
const ANSWER_KIND_COUNT: u8 = 11;
const ANSWER_KIND_MALFORMED: u8 = 12;
const ANSWER_KIND_CONDITION_UNMET: u8 = 13;
const ANSWER_KIND_LIST: u8 = 14;
const ANSWER_KIND_VALUES: u8 = 15;
const ANSWER_KIND_TIME_TO_LIVE: u8 = 17;
const ANSWER_KIND_TOO_LONG: u8 = 18;
const ANSWER_KIND_OMITTED: u8 = 19;
// 16 is reserved: an earlier version used it for an answer with keys in key order.
const ANSWER_KIND_WALK_PAGE: u8 = 20;

/// An upper bound of the bytes that a list answer adds to those of its elements.
const LIST_OVERHEAD_BYTES: usize = 16;

impl Answer {
    /// The encoded answer: its kind (1 byte), then its fields in order.
    ///
    /// Panics if the answer is longer than a frame can carry: the machine limits its answers before.
    pub fn encode(&self) -> Bytes {
        if let Answer::Done = self {
            // The most frequent answer by far costs no allocation.
            return Bytes::from_static(&[ANSWER_KIND_DONE]);
        }
        let mut out = BytesMut::new();
        self.put(&mut out);
        assert!(out.len() as u64 <= ANSWER_BYTES_MAX, "an encoded answer has at most ANSWER_BYTES_MAX bytes");
        out.freeze()
    }

    fn put(&self, out: &mut BytesMut) {
        match self {
            Answer::Done => out.put_u8(ANSWER_KIND_DONE),
            Answer::Deleted { existed } => {
                out.put_u8(ANSWER_KIND_DELETED);
                out.put_u8(u8::from(*existed));
            }
            Answer::CasMismatch { actual } => {
                out.put_u8(ANSWER_KIND_CAS_MISMATCH);
                put_optional_blob(out, actual.as_deref());
            }
            Answer::Number(number) => {
                out.put_u8(ANSWER_KIND_NUMBER);
                out.put_i64_le(*number);
            }
            Answer::NotANumber => out.put_u8(ANSWER_KIND_NOT_A_NUMBER),
            Answer::Overflow => out.put_u8(ANSWER_KIND_OVERFLOW),
            Answer::Batch(answers) => {
                out.put_u8(ANSWER_KIND_BATCH);
                put_list(out, answers, |out, answer| answer.put(out));
            }
            Answer::BatchFailed { index, why } => {
                out.put_u8(ANSWER_KIND_BATCH_FAILED);
                out.put_u32_le(*index);
                why.put(out);
            }
            Answer::Value(value) => {
                out.put_u8(ANSWER_KIND_VALUE);
                put_optional_blob(out, value.as_deref());
            }
            Answer::Pairs { pairs, has_more } => {
                out.put_u8(ANSWER_KIND_PAIRS);
                out.put_u8(u8::from(*has_more));
                put_list(out, pairs, |out, (key, value)| {
                    out.put_blob(key);
                    out.put_blob(value);
                });
            }
            Answer::Count(count) => {
                out.put_u8(ANSWER_KIND_COUNT);
                out.put_u64_le(*count);
            }
            Answer::Malformed => out.put_u8(ANSWER_KIND_MALFORMED),
            Answer::ConditionUnmet => out.put_u8(ANSWER_KIND_CONDITION_UNMET),
            Answer::List(answers) => {
                out.put_u8(ANSWER_KIND_LIST);
                put_list(out, answers, |out, answer| answer.put(out));
            }
            Answer::Values(values) => {
                out.put_u8(ANSWER_KIND_VALUES);
                put_list(out, values, |out, value| put_optional_blob(out, value.as_deref()));
            }
            Answer::WalkPage { keys, next } => {
                out.put_u8(ANSWER_KIND_WALK_PAGE);
                out.put_u64_le(*next);
                put_list(out, keys, |out, key| out.put_blob(key));
            }
            Answer::TimeToLive(left) => {
                let (kind, ms) = match left {
                    TimeToLive::Absent => (0, 0),
                    TimeToLive::Endless => (1, 0),
                    TimeToLive::Ms(ms) => (2, *ms),
                };
                out.put_u8(ANSWER_KIND_TIME_TO_LIVE);
                out.put_u8(kind);
                out.put_u64_le(ms);
            }
            Answer::TooLong => out.put_u8(ANSWER_KIND_TOO_LONG),
            Answer::Omitted => out.put_u8(ANSWER_KIND_OMITTED),
        }
    }

    /// The encoded length in bytes.
    pub fn size(&self) -> usize {
        let optional_blob_size = |bytes: &Option<Bytes>| 1 + bytes.as_ref().map_or(0, |bytes| 4 + bytes.len());
        1 + match self {
            Answer::Done | Answer::NotANumber | Answer::Overflow | Answer::Malformed => 0,
            Answer::ConditionUnmet | Answer::TooLong | Answer::Omitted => 0,
            Answer::Deleted { .. } => 1,
            Answer::Number(_) | Answer::Count(_) => 8,
            Answer::TimeToLive(_) => 9,
            Answer::CasMismatch { actual: value } | Answer::Value(value) => optional_blob_size(value),
            Answer::Batch(answers) | Answer::List(answers) => 4 + answers.iter().map(Answer::size).sum::<usize>(),
            Answer::BatchFailed { why, .. } => 4 + why.size(),
            Answer::Pairs { pairs, .. } => 5 + pairs.iter().map(|(k, v)| 8 + k.len() + v.len()).sum::<usize>(),
            Answer::Values(values) => 4 + values.iter().map(optional_blob_size).sum::<usize>(),
            Answer::WalkPage { keys, .. } => 12 + keys.iter().map(|key| 4 + key.len()).sum::<usize>(),
        }
    }

    /// Decodes a whole answer, whose values are slices of `bytes`; trailing bytes are an error.
    pub fn decode(bytes: Bytes) -> Result<Answer> {
        let mut reader = Reader::new(bytes);
        let answer = match reader.u8()? {
            ANSWER_KIND_BATCH => Answer::Batch(read_list(&mut reader, Answer::read_element)?),
            ANSWER_KIND_LIST => Answer::List(read_list(&mut reader, Answer::read_element)?),
            ANSWER_KIND_BATCH_FAILED => {
                let index = reader.u32()?;
                Answer::BatchFailed { index, why: Box::new(Answer::read_element(&mut reader)?) }
            }
            kind => Answer::read_single(kind, &mut reader)?,
        };
        reader.check_end()?;
        Ok(answer)
    }

    fn read_element(reader: &mut Reader) -> Result<Answer> {
        let kind = reader.u8()?;
        Answer::read_single(kind, reader)
    }

    fn read_single(kind: u8, reader: &mut Reader) -> Result<Answer> {
        Ok(match kind {
            ANSWER_KIND_DONE => Answer::Done,
            ANSWER_KIND_DELETED => Answer::Deleted { existed: reader.bool()? },
            ANSWER_KIND_CAS_MISMATCH => Answer::CasMismatch { actual: read_optional_blob(reader)? },
            ANSWER_KIND_NUMBER => Answer::Number(reader.u64()? as i64),
            ANSWER_KIND_NOT_A_NUMBER => Answer::NotANumber,
            ANSWER_KIND_OVERFLOW => Answer::Overflow,
            ANSWER_KIND_VALUE => Answer::Value(read_optional_blob(reader)?),
            ANSWER_KIND_PAIRS => {
                let has_more = reader.bool()?;
                let pairs = read_list(reader, |reader| Ok((reader.blob(usize::MAX)?, reader.blob(usize::MAX)?)))?;
                Answer::Pairs { pairs, has_more }
            }
            ANSWER_KIND_COUNT => Answer::Count(reader.u64()?),
            ANSWER_KIND_MALFORMED => Answer::Malformed,
            ANSWER_KIND_CONDITION_UNMET => Answer::ConditionUnmet,
            ANSWER_KIND_VALUES => Answer::Values(read_list(reader, read_optional_blob)?),
            ANSWER_KIND_WALK_PAGE => {
                let next = reader.u64()?;
                Answer::WalkPage { keys: read_list(reader, |reader| reader.blob(usize::MAX))?, next }
            }
            ANSWER_KIND_TIME_TO_LIVE => Answer::TimeToLive(match (reader.u8()?, reader.u64()?) {
                (0, 0) => TimeToLive::Absent,
                (1, 0) => TimeToLive::Endless,
                (2, ms) => TimeToLive::Ms(ms),
                _ => return Err(Malformed("not a time to live")),
            }),
            ANSWER_KIND_TOO_LONG => Answer::TooLong,
            ANSWER_KIND_OMITTED => Answer::Omitted,
            _ => return Err(Malformed("unknown kind of answer")),
        })
    }
}

/// Appends a flag (1 byte) and, if the flag is 1, the bytes after their length (4 bytes).
pub fn put_optional_blob(out: &mut BytesMut, bytes: Option<&[u8]>) {
    out.put_u8(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        out.put_blob(bytes);
    }
}

fn read_optional_blob(reader: &mut Reader) -> Result<Option<Bytes>> {
    Ok(if reader.bool()? { Some(reader.blob(usize::MAX)?) } else { None })
}

/// Appends the number of elements (4 bytes) and the elements, each by `put`.
fn put_list<T>(out: &mut BytesMut, elements: &[T], put: impl Fn(&mut BytesMut, &T)) {
    out.put_u32_le(elements.len() as u32);
    elements.iter().for_each(|element| put(out, element));
}

/// Reads the number of elements (4 bytes) and the elements, each by `read`. Memory grows with the actual bytes, not
/// with the count.
fn read_list<T>(reader: &mut Reader, read: impl Fn(&mut Reader) -> Result<T>) -> Result<Vec<T>> {
    let count = reader.u32()?;
    let mut elements = Vec::new();
    for _ in 0..count {
        elements.push(read(reader)?);
    }
    Ok(elements)
}

/// The answers of a batch or a block, limited to the size of one answer: an element that does not fit becomes
/// [`Answer::Omitted`].
#[derive(Debug)]
pub struct AnswerList {
    answers: Vec<Answer>,
    /// How many bytes the next elements may have, in addition to the one byte that is reserved for each.
    bytes_left: usize,
}

impl AnswerList {
    /// An empty list for `count` elements.
    pub fn with_capacity(count: usize) -> AnswerList {
        // One byte is reserved for each element: the size of `Omitted`. These bytes always fit: each element's command
        // took at least one byte of an entry, which is smaller than an answer.
        AnswerList {
            answers: Vec::with_capacity(count),
            bytes_left: (ANSWER_BYTES_MAX as usize - LIST_OVERHEAD_BYTES).saturating_sub(count),
        }
    }

    /// Appends the next element, or [`Answer::Omitted`] if the element would make the encoded answer too long.
    pub fn push(&mut self, answer: Answer) {
        let unreserved_bytes = answer.size() - 1;
        if unreserved_bytes <= self.bytes_left {
            self.bytes_left -= unreserved_bytes;
            self.answers.push(answer);
        } else {
            self.answers.push(Answer::Omitted);
        }
    }

    /// The answers, in the order of their commands.
    pub fn into_answers(self) -> Vec<Answer> {
        self.answers
    }
}
