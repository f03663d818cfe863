//! The commands, queries and answers of the key-value machine, and their encoding.
//!
//! Commands and queries borrow from the bytes that they were decoded from, so that decoding costs no allocation;
//! answers own theirs. Lengths are four bytes, little-endian. Invalid bytes are [`Malformed`](crate::codec::Malformed),
//! and the machine answers so: it never panics on a command.

use crate::types::ClusterTime;
use bytes::Bytes;

/// A command to the machine: replicated through the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// Sets a key, whatever its value was.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// Removes a key, if it is present.
    Del {
        /// The key.
        key: &'a [u8],
    },
    /// Sets a key if it has the expected value (`None`: if it is absent).
    Cas {
        /// The key.
        key: &'a [u8],
        /// The expected value.
        expected: Option<&'a [u8]>,
        /// The new value.
        new: &'a [u8],
    },
    /// Adds to the decimal number in a key; an absent key counts as 0.
    Incr {
        /// The key.
        key: &'a [u8],
        /// The summand, possibly negative.
        by: i64,
    },
    /// All of these in order, or none: if one fails, nothing is applied. Contains no batch and no block.
    Batch(Vec<Command<'a>>),
    /// Sets a key, with options.
    Set {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
        /// Whether the key must be absent or present.
        only_if: SetCondition,
        /// The deadline of the new value.
        life: Expiration,
        /// Whether to answer with the previous value, whether or not the key is set.
        tells: bool,
    },
    /// Appends bytes to a key's value; an absent key counts as empty. The deadline stays.
    Append {
        /// The key.
        key: &'a [u8],
        /// The appended bytes.
        tail: &'a [u8],
    },
    /// Gives a key a deadline, if the bar permits; a deadline that has passed removes the key.
    Expire {
        /// The key.
        key: &'a [u8],
        /// The new deadline.
        deadline: Deadline,
        /// The condition on the current deadline.
        bar: ExpireCondition,
    },
    /// Removes a key's deadline.
    Persist {
        /// The key.
        key: &'a [u8],
    },
    /// Removes those of the keys that are present.
    Forget(Vec<&'a [u8]>),
    /// Sets keys, one after the other.
    PutAll(Vec<(&'a [u8], &'a [u8])>),
    /// All of these in order, each with its own answer: if one fails, the following are executed all the same. Contains
    /// no batch and no block.
    Block(Vec<Step<'a>>),
}

/// One step of a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// Applies a command.
    Do(Command<'a>),
    /// Answers a query of the state at this step.
    Ask(Query<'a>),
}

/// Whether a key must be present or absent to be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SetCondition {
    /// The key may be present or absent.
    #[default]
    Either,
    /// Only if it is absent.
    Absent,
    /// Only if it is present.
    Present,
}

/// A deadline by the cluster's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deadline {
    /// At a time of the cluster's clock.
    At(ClusterTime),
    /// A number of milliseconds after the time of the command's entry.
    In(u64),
}

impl Deadline {
    /// The deadline as a time of the cluster's clock; `now` is the time of the command's entry.
    pub fn resolve(self, now: ClusterTime) -> ClusterTime {
        match self {
            Deadline::At(time) => time,
            Deadline::In(ms) => ClusterTime(now.0.saturating_add(ms)),
        }
    }
}

/// The deadline that a key gets with its new value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Expiration {
    /// None.
    #[default]
    Endless,
    /// The key's current deadline, if it has one.
    Kept,
    /// The key expires at this deadline.
    Until(Deadline),
}

/// The condition on a key's current deadline for a new one. An absent deadline counts as later than any other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExpireCondition {
    /// Whether the key must have one, or none.
    pub has_one: Option<bool>,
    /// Whether the new deadline must be later, or earlier.
    pub later: Option<bool>,
    /// Whether the new deadline comes from a date, which is known only to within some milliseconds: it must then be
    /// later, or earlier, by more than that.
    pub dated: bool,
}

/// A query of the machine: changes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Query<'a> {
    /// The value of a key.
    Get {
        /// The key.
        key: &'a [u8],
    },
    /// Pairs in key order. An answer is limited in size: it may have fewer pairs, and then has `more` set.
    Scan {
        /// The prefix of the keys.
        prefix: &'a [u8],
        /// Only keys after this one.
        after: Option<&'a [u8]>,
        /// The maximum number of pairs.
        limit: u32,
    },
    /// The number of keys.
    Count,
    /// The number of keys, and the number of keys with a deadline.
    Keyspace,
    /// The value of each of these keys.
    Values(Vec<&'a [u8]>),
    /// How many of these keys are present; a repeated key counts each time.
    Present(Vec<&'a [u8]>),
    /// The length of a key's value in bytes; 0 if it is absent.
    Length {
        /// The key.
        key: &'a [u8],
    },
    /// A key's time to live in milliseconds.
    Left {
        /// The key.
        key: &'a [u8],
    },
    /// Keys in the order of their hashes, from a position on. The order is the same on every node, and a key's position
    /// never changes. A client that continues where each answer ended, on any node, sees every key that is present
    /// throughout, and none twice.
    Walk {
        /// The prefix of the keys.
        prefix: &'a [u8],
        /// The position; 0 at the start.
        from: u64,
        /// The approximate number of keys; an answer may have fewer.
        limit: u32,
    },
}

/// An answer of the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The key is set.
    Done,
    /// The key is absent now.
    Deleted {
        /// Whether it was present.
        existed: bool,
    },
    /// The key had a different value (or was absent), and was not changed.
    Kept {
        /// The value that the key has.
        actual: Option<Bytes>,
    },
    /// The number now in the key; or the number of keys or bytes concerned.
    Number(i64),
    /// The key's value is not a decimal number, and was not changed.
    NotANumber,
    /// The sum does not fit in 64 bits; the key was not changed.
    Overflow,
    /// All of a batch was applied: the answers in order.
    All(Vec<Answer>),
    /// Nothing of a batch was applied.
    None {
        /// The index of the command that failed, from 0.
        at: u32,
        /// The answer of that command.
        why: Box<Answer>,
    },
    /// The value of a key, if it is present.
    Value(Option<Bytes>),
    /// Pairs of key and value, in order.
    Pairs {
        /// Key and value, in key order.
        pairs: Vec<(Bytes, Bytes)>,
        /// Whether there are more pairs after the last one.
        more: bool,
    },
    /// The number of keys.
    Count(u64),
    /// The command or query was malformed; nothing was done.
    Malformed,
    /// The condition on the key was not met; nothing was done.
    Unmet,
    /// The answer of each step of a block, in order.
    Each(Vec<Answer>),
    /// The value of each of several keys, if it is present.
    Values(Vec<Option<Bytes>>),
    /// Keys of a walk.
    Walked {
        /// The keys; possibly none although there are more.
        keys: Vec<Bytes>,
        /// The position to continue from, below 2^52; 0 at the end.
        next: u64,
    },
    /// A key's time to live.
    Left(TimeToLive),
    /// The value would exceed the maximum length; the key was not changed.
    TooLong,
    /// The answer is too large to send; the command was executed all the same.
    Omitted,
}

/// A key's time to live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeToLive {
    /// The key is absent.
    Absent,
    /// It has no deadline.
    Endless,
    /// The milliseconds left by the cluster's clock.
    Ms(u64),
}

mod cursor;
mod request;
mod response;

pub(super) use cursor::{Pair, put_pair, read_pair};
pub(super) use request::key;
pub(super) use response::{AnswerList, PAIRS, VALUE, put_option};

#[cfg(test)]
mod tests;
