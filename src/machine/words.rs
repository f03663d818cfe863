//! What the key-value machine is told and asked, what it answers, and all three as bytes.
//!
//! Commands and queries borrow from the bytes they were read from, so that reading one costs no
//! allocation; answers own theirs. Lengths are four bytes, little-endian. Whatever cannot be read is
//! [`Malformed`](crate::codec::Malformed), and the machine answers so: it never dies of a command.

use crate::types::ClusterTime;
use bytes::Bytes;

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
    /// All of these in order, or none: if one fails, nothing is applied. Holds no batch and no block itself.
    Batch(Vec<Command<'a>>),
    /// Sets a key, as asked.
    Set {
        /// Its name.
        key: &'a [u8],
        /// What it holds from now on.
        value: &'a [u8],
        /// Whether only if it is there, or is not.
        only_if: SetCondition,
        /// Until when it holds that.
        life: Expiration,
        /// Whether to answer with what it held before, whatever became of it.
        tells: bool,
    },
    /// Puts bytes behind what a key holds; an absent key holds none. Its deadline stays.
    Append {
        /// Its name.
        key: &'a [u8],
        /// What comes behind.
        tail: &'a [u8],
    },
    /// Gives a key a deadline, if the bar lets it; one that is over already removes the key.
    Expire {
        /// Its name.
        key: &'a [u8],
        /// When it ends.
        deadline: Deadline,
        /// What must hold of the deadline it has.
        bar: Bar,
    },
    /// Takes a key's deadline away.
    Persist {
        /// Its name.
        key: &'a [u8],
    },
    /// Removes keys, those that are there.
    Forget(Vec<&'a [u8]>),
    /// Sets keys, one after the other.
    PutAll(Vec<(&'a [u8], &'a [u8])>),
    /// All of these in order, each with its own answer: one that fails does not stop those behind it.
    /// Holds no batch and no block itself.
    Block(Vec<Step<'a>>),
}

/// One step of a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// Something to do.
    Do(Command<'a>),
    /// Something to answer, as of there.
    Ask(Query<'a>),
}

/// Whether a key must be there to be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SetCondition {
    /// Whichever.
    #[default]
    Either,
    /// Only if it is absent.
    Absent,
    /// Only if it is there.
    Present,
}

/// When something ends, by the cluster's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deadline {
    /// Then.
    At(ClusterTime),
    /// So many milliseconds after the entry that says so.
    In(u64),
}

impl Deadline {
    /// The moment, for an entry of that time.
    pub fn from(self, now: ClusterTime) -> ClusterTime {
        match self {
            Deadline::At(time) => time,
            Deadline::In(ms) => ClusterTime(now.0.saturating_add(ms)),
        }
    }
}

/// Until when a key holds what it is set to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Expiration {
    /// For ever.
    #[default]
    Endless,
    /// Until the deadline it has, if it has one.
    Kept,
    /// Until then.
    Until(Deadline),
}

/// What must hold of a key's deadline for it to be given another. A key without one ends later than any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bar {
    /// Whether it must have one, or must have none.
    pub has_one: Option<bool>,
    /// Whether the new one must be later, or earlier.
    pub later: Option<bool>,
    /// Whether the new one was said as a date, which is known to some milliseconds only: then it has to be later, or
    /// earlier, by more than that.
    pub dated: bool,
}

/// What the machine is asked: changes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
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
    /// How many keys there are, and how many of them have a deadline.
    Keyspace,
    /// What each of these keys holds.
    Values(Vec<&'a [u8]>),
    /// How many of these are there; a key that is named twice counts twice.
    Present(Vec<&'a [u8]>),
    /// How many bytes a key holds; none if it is absent.
    Length {
        /// Its name.
        key: &'a [u8],
    },
    /// How many milliseconds a key has left.
    Left {
        /// Its name.
        key: &'a [u8],
    },
    /// Keys in the order of their hashes, from a position in it on. The order is the same on every node and a key never
    /// changes its place in it: whoever goes on where an answer ended, at whichever node, meets every key that is there
    /// all the while, and none twice.
    Walk {
        /// What the keys begin with.
        prefix: &'a [u8],
        /// The position: 0 to begin.
        from: u64,
        /// About how many keys; an answer may have fewer.
        limit: u32,
    },
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
    /// The number that the key holds now; or how many keys, or bytes, it was about.
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
    /// What was to hold of the key does not; nothing was done.
    Unmet,
    /// What each step of a block came to, in order.
    Each(Vec<Answer>),
    /// What each of several keys holds, if it is there.
    Values(Vec<Option<Bytes>>),
    /// Keys of a walk.
    Walked {
        /// The keys; perhaps none, although there are more.
        keys: Vec<Bytes>,
        /// The position to go on from, below 2^52; 0 at the end.
        next: u64,
    },
    /// How long a key goes on.
    Left(TimeToLive),
    /// The value would be longer than one may be; the key was left as it is.
    TooLong,
    /// What there is to say does not fit an answer. What was asked for is done.
    Omitted,
}

/// How long a key goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeToLive {
    /// It is not there.
    Absent,
    /// It has no deadline.
    Endless,
    /// So many milliseconds of the cluster's clock.
    Ms(u64),
}

mod answered;
mod asked;
mod cursor;

pub(super) use answered::{AnswerList, PAIRS, VALUE, put_option};
pub(super) use asked::key;
pub(super) use cursor::{Pair, put_pair, read_pair};

#[cfg(test)]
mod tests;
