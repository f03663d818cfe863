//! What a command does to its key.
//!
//! Decided from what the key holds, and carried out afterwards by whoever holds the keys: so a batch is
//! the same decisions made against what it would leave.

use super::words::{Answer, Bar, Command, Expiration, SetCondition};
use crate::codec::integer;
use crate::limits::ENTRY_BYTES_MAX;
use crate::types::ClusterTime;
use bytes::Bytes;
use std::borrow::Cow;

/// What a key holds, and until when.
#[derive(Clone, Copy, Debug)]
pub struct StoredValue<'a> {
    /// What it holds.
    pub value: &'a [u8],
    /// Until when, if it ends.
    pub deadline: Option<ClusterTime>,
}

/// What becomes of a key.
#[derive(Clone, Debug)]
pub enum Change<'a> {
    /// It stays as it is.
    Keep,
    /// It holds that, until then.
    Set(Cow<'a, [u8]>, Option<ClusterTime>),
    /// It is gone.
    Remove,
}

/// How far apart two deadlines may be, in milliseconds, that the same date has become: each was counted from when its
/// command reached a node to when the leader took it on.
const DATE_DOUBT_MS: u64 = 100;

type Decision<'a> = Result<(Change<'a>, Answer), Answer>;

/// What a command of one key does to it, given what it holds at that time, and the answer; or why it does nothing.
pub fn decide<'a>(command: &Command<'a>, held: Option<StoredValue<'_>>, now: ClusterTime) -> Decision<'a> {
    let value = held.map(|held| held.value);
    let lasts = held.and_then(|held| held.deadline);
    match command {
        Command::Put { value, .. } => Ok((Change::Set(Cow::Borrowed(value), None), Answer::Done)),
        Command::Del { .. } => match held {
            Some(_) => Ok((Change::Remove, Answer::Deleted { existed: true })),
            None => Ok((Change::Keep, Answer::Deleted { existed: false })),
        },
        Command::Cas { expected, new, .. } if value == *expected => {
            Ok((Change::Set(Cow::Borrowed(new), None), Answer::Done))
        }
        Command::Cas { .. } => Err(Answer::Kept { actual: value.map(Bytes::copy_from_slice) }),
        Command::Incr { by, .. } => {
            let number = value.map_or(Some(0), integer).ok_or(Answer::NotANumber)?;
            let sum = number.checked_add(*by).ok_or(Answer::Overflow)?;
            Ok((Change::Set(Cow::Owned(sum.to_string().into_bytes()), lasts), Answer::Number(sum)))
        }
        Command::Set { value: new, only_if, life, tells, .. } => {
            let answer = |done| if *tells { Answer::Value(value.map(Bytes::copy_from_slice)) } else { done };
            let meets = match only_if {
                SetCondition::Either => true,
                SetCondition::Absent => held.is_none(),
                SetCondition::Present => held.is_some(),
            };
            if !meets {
                return Ok((Change::Keep, answer(Answer::Unmet)));
            }
            let deadline = match life {
                Expiration::Endless => None,
                Expiration::Kept => lasts,
                Expiration::Until(deadline) => Some(deadline.from(now)),
            };
            Ok((until(Cow::Borrowed(new), deadline, held, now), answer(Answer::Done)))
        }
        Command::Append { tail, .. } => {
            let whole = [value.unwrap_or_default(), tail].concat();
            if whole.len() as u64 > ENTRY_BYTES_MAX {
                return Err(Answer::TooLong);
            }
            let length = whole.len() as i64;
            Ok((Change::Set(Cow::Owned(whole), lasts), Answer::Number(length)))
        }
        Command::Expire { deadline, bar, .. } => {
            let Some(StoredValue { value, .. }) = held else { return Ok((Change::Keep, Answer::Number(0))) };
            let deadline = deadline.from(now);
            if !lets(*bar, lasts, deadline) {
                return Ok((Change::Keep, Answer::Number(0)));
            }
            Ok((until(Cow::Owned(value.to_vec()), Some(deadline), held, now), Answer::Number(1)))
        }
        Command::Persist { .. } => match held {
            Some(StoredValue { value, deadline: Some(_) }) => {
                Ok((Change::Set(Cow::Owned(value.to_vec()), None), Answer::Number(1)))
            }
            _ => Ok((Change::Keep, Answer::Number(0))),
        },
        // These are not of one key. The decoder lets none through; whoever builds one by hand is told so.
        Command::Batch(_) | Command::Block(_) | Command::Forget(_) | Command::PutAll(_) => Err(Answer::Malformed),
    }
}

/// Holds that until then; what ends before it begins is never there.
fn until<'a>(
    value: Cow<'a, [u8]>,
    deadline: Option<ClusterTime>,
    held: Option<StoredValue<'_>>,
    now: ClusterTime,
) -> Change<'a> {
    match deadline {
        Some(deadline) if deadline <= now && held.is_none() => Change::Keep,
        Some(deadline) if deadline <= now => Change::Remove,
        _ => Change::Set(value, deadline),
    }
}

fn lets(bar: Bar, has: Option<ClusterTime>, new: ClusterTime) -> bool {
    let one = bar.has_one.is_none_or(|must| must == has.is_some());
    let doubt = if bar.dated { DATE_DOUBT_MS } else { 0 };
    let order = match (bar.later, has) {
        (None, _) => true,
        // No deadline is later than any.
        (Some(later), None) => !later,
        (Some(true), Some(has)) => new.0 > has.0.saturating_add(doubt),
        (Some(false), Some(has)) => new.0.saturating_add(doubt) < has.0,
    };
    one && order
}

/// Which key a command concerns; what is not of one key concerns none of its own.
pub fn key_of<'a>(command: &Command<'a>) -> &'a [u8] {
    match command {
        Command::Put { key, .. } | Command::Del { key } | Command::Cas { key, .. } | Command::Incr { key, .. } => key,
        Command::Set { key, .. } | Command::Append { key, .. } => key,
        Command::Expire { key, .. } | Command::Persist { key } => key,
        Command::Batch(_) | Command::Block(_) | Command::Forget(_) | Command::PutAll(_) => b"",
    }
}
