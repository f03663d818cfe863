//! Decides what a command does to its key.
//!
//! The decision depends on the key's current value, and the map executes it afterwards: a batch makes the same
//! decisions against the result of its previous commands.

use super::commands::{Answer, Command, Expiration, ExpireCondition, SetCondition};
use crate::codec::integer;
use crate::limits::ENTRY_BYTES_MAX;
use crate::types::ClusterTime;
use bytes::Bytes;
use std::borrow::Cow;

/// A key's value, and its deadline.
#[derive(Clone, Copy, Debug)]
pub struct StoredValue<'a> {
    /// The value.
    pub value: &'a [u8],
    /// The deadline, if the key has one.
    pub deadline: Option<ClusterTime>,
}

/// A command's effect on its key.
#[derive(Clone, Debug)]
pub enum Change<'a> {
    /// The key stays as it is.
    Keep,
    /// Sets that value and deadline.
    Set(Cow<'a, [u8]>, Option<ClusterTime>),
    /// The key is removed.
    Remove,
}

/// By how many milliseconds two deadlines from the same date may differ: each is off by the time from its command's
/// arrival at a node to its acceptance by the leader.
const DATE_DOUBT_MS: u64 = 100;

type Decision<'a> = Result<(Change<'a>, Answer), Answer>;

/// Decides the effect of a single-key command at that time, and its answer; an error is the answer of a command that
/// has no effect.
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
                Expiration::Until(deadline) => Some(deadline.resolve(now)),
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
            let deadline = deadline.resolve(now);
            if !permits(*bar, lasts, deadline) {
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
        // These have no single key. The decoder rejects them; a command built by hand gets this answer.
        Command::Batch(_) | Command::Block(_) | Command::Forget(_) | Command::PutAll(_) => Err(Answer::Malformed),
    }
}

/// Sets value and deadline; a passed deadline removes the key.
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

fn permits(bar: ExpireCondition, has: Option<ClusterTime>, new: ClusterTime) -> bool {
    let one = bar.has_one.is_none_or(|must| must == has.is_some());
    let doubt = if bar.dated { DATE_DOUBT_MS } else { 0 };
    let order = match (bar.later, has) {
        (None, _) => true,
        // An absent deadline is later than any other.
        (Some(later), None) => !later,
        (Some(true), Some(has)) => new.0 > has.0.saturating_add(doubt),
        (Some(false), Some(has)) => new.0.saturating_add(doubt) < has.0,
    };
    one && order
}

/// The key of a command; empty for a command without a single key.
pub fn key_of<'a>(command: &Command<'a>) -> &'a [u8] {
    match command {
        Command::Put { key, .. } | Command::Del { key } | Command::Cas { key, .. } | Command::Incr { key, .. } => key,
        Command::Set { key, .. } | Command::Append { key, .. } => key,
        Command::Expire { key, .. } | Command::Persist { key } => key,
        Command::Batch(_) | Command::Block(_) | Command::Forget(_) | Command::PutAll(_) => b"",
    }
}
