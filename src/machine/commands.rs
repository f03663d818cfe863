//! The commands, queries and answers of the key-value machine, and their encoding.
//!
//! A command or query borrows the bytes that it was decoded from, so that decoding it allocates no keys or values; an
//! answer owns its bytes. Lengths are four bytes, little-endian. Invalid bytes are
//! [`Malformed`](crate::codec::Malformed), and the machine answers [`Answer::Malformed`]: it never panics on a command.

use crate::types::ClusterTime;
use bytes::Bytes;

/// A command to the key-value machine, replicated through the log. A key has at most
/// [`KEY_BYTES_MAX`](crate::limits::KEY_BYTES_MAX) bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// Sets a key, whatever its value is, and clears its deadline. Answered by [`Answer::Done`].
    Put {
        /// The key to set; created if it is absent.
        key: &'a [u8],
        /// The new value, stored as it is: any bytes, possibly none.
        value: &'a [u8],
    },
    /// Removes a key, if it is present. Answered by [`Answer::Deleted`].
    Del {
        /// The key to remove.
        key: &'a [u8],
    },
    /// Compare-and-swap: sets a key if it has the expected value, and clears its deadline. Answered by [`Answer::Done`]
    /// or [`Answer::CasMismatch`].
    Cas {
        /// The key to compare and set.
        key: &'a [u8],
        /// The value that the key must have; `None`: the key must be absent.
        expected: Option<&'a [u8]>,
        /// The value that replaces the expected one.
        new: &'a [u8],
    },
    /// Adds to the decimal number in a key; an absent key counts as 0. The deadline stays. Answered by the sum, as
    /// [`Answer::Number`].
    Incr {
        /// The key of the number.
        key: &'a [u8],
        /// The summand, possibly negative.
        by: i64,
    },
    /// Commands that are applied in order, all of them or none: if one fails, nothing is applied. A batch contains
    /// neither batches nor blocks.
    Batch(Vec<Command<'a>>),
    /// Sets a key like Redis' `SET` with its options.
    Set {
        /// The key to set, if `only_if` permits it.
        key: &'a [u8],
        /// The new value, stored as it is.
        value: &'a [u8],
        /// The condition on the key's presence (`NX`, `XX`); if it is not met, nothing changes.
        only_if: SetCondition,
        /// The deadline that the key has afterwards (`EX`, `PX`, `KEEPTTL`).
        expiration: Expiration,
        /// Whether the answer is the previous value (`GET`), whether or not the key is set.
        returns_previous: bool,
    },
    /// Appends bytes to a key's value; an absent key counts as empty. The deadline stays.
    Append {
        /// The key whose value grows.
        key: &'a [u8],
        /// The bytes to add after the current value.
        tail: &'a [u8],
    },
    /// Gives a key a deadline, if the condition holds; a deadline that has passed removes the key. Answered by 1 if the
    /// key was changed, otherwise by 0.
    Expire {
        /// The key to expire; if it is absent, nothing happens.
        key: &'a [u8],
        /// When the key expires.
        deadline: Deadline,
        /// The condition on the current deadline (`NX`, `XX`, `GT`, `LT`).
        condition: ExpireCondition,
    },
    /// Removes a key's deadline. Answered by 1 if the key had one, otherwise by 0.
    Persist {
        /// The key that no longer expires.
        key: &'a [u8],
    },
    /// Removes each of these keys that is present. Answered by the number of removed keys.
    DelKeys(Vec<&'a [u8]>),
    /// Sets several keys, one after the other, and clears their deadlines.
    PutAll(Vec<(&'a [u8], &'a [u8])>),
    /// A Redis transaction: commands and queries that are executed in order, each with its own answer. After one that
    /// fails, the next ones are executed all the same. A block contains neither batches nor blocks.
    Block(Vec<CommandOrQuery<'a>>),
}

/// An element of [`Command::Block`], or the translation of a Redis command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandOrQuery<'a> {
    /// A command to apply; neither a batch nor a block.
    Command(Command<'a>),
    /// A query, which sees the effects of the previous commands of the block.
    Query(Query<'a>),
}

/// The condition on a key's presence for [`Command::Set`]. The number of a variant is its byte in the encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SetCondition {
    /// The key is set whether it is present or absent.
    #[default]
    Always,
    /// The key is set only if it is absent (`NX`).
    Absent,
    /// The key is set only if it is present (`XX`).
    Present,
}

/// The time at which a key expires, by the cluster's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deadline {
    /// An absolute time of the cluster's clock.
    At(ClusterTime),
    /// Milliseconds after the time of the log entry that holds the command.
    InMs(u64),
}

impl Deadline {
    /// Converts the deadline to a time of the cluster's clock; `now` is the time of the command's entry.
    pub fn resolve(self, now: ClusterTime) -> ClusterTime {
        match self {
            Deadline::At(time) => time,
            Deadline::InMs(ms) => ClusterTime(now.0.saturating_add(ms)),
        }
    }
}

/// The deadline that [`Command::Set`] gives a key together with the new value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Expiration {
    /// The key has no deadline afterwards.
    #[default]
    Endless,
    /// The key keeps its current deadline, if it has one (`KEEPTTL`).
    KeepTtl,
    /// The key expires at this deadline.
    Until(Deadline),
}

/// The condition on a key's current deadline for [`Command::Expire`]. An absent deadline counts as later than any
/// other; the default permits every change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExpireCondition {
    /// Whether the key must have a deadline (`true`) or none (`false`); `None`: both are permitted.
    pub must_have_deadline: Option<bool>,
    /// Whether the new deadline must be later than the current one (`true`) or earlier (`false`); `None`: both are
    /// permitted.
    pub must_be_later: Option<bool>,
    /// Whether the client gave a date: a node converts it to the cluster's clock only to within some milliseconds, and
    /// the new deadline must be later, or earlier, by more than that.
    pub from_date: bool,
}

/// A query of the key-value machine: not part of the log, and without effect on the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Query<'a> {
    /// The value of a key. Answered by [`Answer::Value`].
    Get {
        /// The key to look up.
        key: &'a [u8],
    },
    /// Keys with their values, in key order. Answered by [`Answer::Pairs`]: an answer is limited in size, so it may
    /// have fewer pairs than `limit`, and then has `has_more` set.
    Scan {
        /// The bytes that each key begins with; empty for all keys.
        prefix: &'a [u8],
        /// The last key of the previous answer: the scan begins behind it. `None` at the start.
        after: Option<&'a [u8]>,
        /// The maximum number of pairs in the answer.
        limit: u32,
    },
    /// The number of keys. Answered by [`Answer::Count`].
    Count,
    /// The number of keys and the number of keys with a deadline: two counts in an [`Answer::List`].
    Keyspace,
    /// The value of each of these keys, in their order. Answered by [`Answer::Values`].
    Values(Vec<&'a [u8]>),
    /// How many of these keys are present; a repeated key counts each time.
    CountPresent(Vec<&'a [u8]>),
    /// The length of a key's value in bytes; 0 if the key is absent.
    Length {
        /// The key whose value is measured.
        key: &'a [u8],
    },
    /// A key's time to live. Answered by [`Answer::TimeToLive`].
    TimeToLive {
        /// The key whose deadline is looked up.
        key: &'a [u8],
    },
    /// Keys in the order of their hashes, from a position on. Answered by [`Answer::WalkPage`].
    ///
    /// The order is the same on every node, and a key's position never changes. A client that continues where each
    /// answer ended, on any node, sees every key that is present throughout, and none twice.
    Walk {
        /// The bytes that each key begins with; empty for all keys.
        prefix: &'a [u8],
        /// The position to start from: 0 at first, then `next` of the previous answer.
        from: u64,
        /// The approximate number of keys; an answer may have fewer.
        limit: u32,
    },
}

/// The machine's answer to a command or a query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The key of the command is set, or all keys of [`Command::PutAll`].
    Done,
    /// The key is absent now.
    Deleted {
        /// Whether the key was present before.
        existed: bool,
    },
    /// The compare-and-swap found another value than the expected one, or no value, and changed nothing.
    CasMismatch {
        /// The value that the key has; `None` if the key is absent.
        actual: Option<Bytes>,
    },
    /// The number that is now in the key; or the number of keys or bytes that the command changed or the query counted.
    Number(i64),
    /// The key's value is not a decimal number, and was not changed.
    NotANumber,
    /// The sum does not fit in 64 bits; the key was not changed.
    Overflow,
    /// Every command of a batch was applied: their answers, in order.
    Batch(Vec<Answer>),
    /// One command of a batch failed, so none was applied.
    BatchFailed {
        /// The index in the batch of the command that failed, from 0.
        index: u32,
        /// The answer of the failed command: why it failed.
        why: Box<Answer>,
    },
    /// The value of a key; `None` if the key is absent.
    Value(Option<Bytes>),
    /// A page of a [`Query::Scan`].
    Pairs {
        /// Keys with their values, in key order.
        pairs: Vec<(Bytes, Bytes)>,
        /// Whether the scan has more pairs after the last one.
        has_more: bool,
    },
    /// The number of keys that are present, or of those with a deadline.
    Count(u64),
    /// The command or query could not be decoded, and had no effect.
    Malformed,
    /// The [`SetCondition`] was not met; the key was not changed.
    ConditionUnmet,
    /// The answers of a block, one for each command or query in order; or the two counts of [`Query::Keyspace`].
    List(Vec<Answer>),
    /// The values of several keys, in the order of the query; `None` for an absent key.
    Values(Vec<Option<Bytes>>),
    /// A page of a [`Query::Walk`].
    WalkPage {
        /// The keys found; possibly none although the walk has more.
        keys: Vec<Bytes>,
        /// The position to continue from, below 2^52; 0 at the end of the walk.
        next: u64,
    },
    /// How long a key lives, as of the time of the query.
    TimeToLive(TimeToLive),
    /// The value would be longer than [`ENTRY_BYTES_MAX`](crate::limits::ENTRY_BYTES_MAX); the key was not changed.
    TooLong,
    /// The answer is too large to send; the command was executed all the same.
    Omitted,
}

/// How long a key lives, by the cluster's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeToLive {
    /// There is no such key.
    Absent,
    /// The key has no deadline.
    Endless,
    /// The milliseconds until the deadline; 0 if it has passed and no entry has removed the key yet.
    Ms(u64),
}

mod cursor;
mod request;
mod response;

pub(super) use cursor::{Pair, put_pair, read_pair};
#[cfg(feature = "next-version")]
pub use request::COMMAND_KIND_PUT_LEVEL_2;
pub(super) use request::{needed_level, read_key};
pub(super) use response::{ANSWER_KIND_PAIRS, ANSWER_KIND_VALUE, AnswerList, put_optional_blob};

#[cfg(test)]
mod tests;
