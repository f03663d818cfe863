//! Decides the effect of a command on its key.
//!
//! The decision depends on the key's current value only, and the map applies the decided change afterwards. So a batch
//! can decide each command against the result of its previous commands, before it changes anything.

use super::commands::{Answer, Command, Expiration, ExpireCondition, SetCondition};
use crate::codec::parse_integer;
use crate::limits::ENTRY_BYTES_MAX;
use crate::types::ClusterTime;
use bytes::Bytes;
use std::borrow::Cow;

/// The value and deadline of a key that is present.
#[derive(Clone, Copy, Debug)]
pub struct StoredValue<'a> {
    /// The value, borrowed from the map.
    pub value: &'a [u8],
    /// When the key expires; `None` for a key without a deadline.
    pub deadline: Option<ClusterTime>,
}

/// A command's effect on its key.
#[derive(Clone, Debug)]
pub enum Change<'a> {
    /// The key stays as it is.
    Keep,
    /// The key has this value and this deadline afterwards.
    Set(Cow<'a, [u8]>, Option<ClusterTime>),
    /// The key is absent afterwards.
    Remove,
}

/// By how many milliseconds two deadlines from the same date may differ: each is off by the time from its command's
/// arrival at a node to its acceptance by the leader.
const DATE_TOLERANCE_MS: u64 = 100;

/// The change of the key and the answer to the command; `Err` has the answer to a command that failed.
type Decision<'a> = Result<(Change<'a>, Answer), Answer>;

/// Decides the effect of a single-key command at the time `now`, and its answer. An error is the answer of a command
/// that failed: a batch with such a command applies nothing.
pub fn decide<'a>(command: &Command<'a>, current: Option<StoredValue<'_>>, now: ClusterTime) -> Decision<'a> {
    let value = current.map(|stored| stored.value);
    let current_deadline = current.and_then(|stored| stored.deadline);
    match command {
        Command::Put { value, .. } => Ok((Change::Set(Cow::Borrowed(value), None), Answer::Done)),
        Command::Del { .. } => match current {
            Some(_) => Ok((Change::Remove, Answer::Deleted { existed: true })),
            None => Ok((Change::Keep, Answer::Deleted { existed: false })),
        },
        Command::Cas { expected, new, .. } if value == *expected => {
            Ok((Change::Set(Cow::Borrowed(new), None), Answer::Done))
        }
        Command::Cas { .. } => Err(Answer::CasMismatch { actual: value.map(Bytes::copy_from_slice) }),
        Command::Incr { by, .. } => {
            let number = value.map_or(Some(0), parse_integer).ok_or(Answer::NotANumber)?;
            let sum = number.checked_add(*by).ok_or(Answer::Overflow)?;
            Ok((Change::Set(Cow::Owned(sum.to_string().into_bytes()), current_deadline), Answer::Number(sum)))
        }
        Command::Set { value: new, only_if, expiration, returns_previous, .. } => {
            let previous_value_or = |answer_without_value| {
                if *returns_previous { Answer::Value(value.map(Bytes::copy_from_slice)) } else { answer_without_value }
            };
            let condition_is_met = match only_if {
                SetCondition::Always => true,
                SetCondition::Absent => current.is_none(),
                SetCondition::Present => current.is_some(),
            };
            if !condition_is_met {
                return Ok((Change::Keep, previous_value_or(Answer::ConditionUnmet)));
            }
            let deadline = match expiration {
                Expiration::Endless => None,
                Expiration::KeepTtl => current_deadline,
                Expiration::Until(deadline) => Some(deadline.resolve(now)),
            };
            Ok((set_or_remove(Cow::Borrowed(new), deadline, current, now), previous_value_or(Answer::Done)))
        }
        Command::Append { tail, .. } => {
            let new_value = [value.unwrap_or_default(), tail].concat();
            if new_value.len() as u64 > ENTRY_BYTES_MAX {
                return Err(Answer::TooLong);
            }
            let length = new_value.len() as i64;
            Ok((Change::Set(Cow::Owned(new_value), current_deadline), Answer::Number(length)))
        }
        Command::Expire { deadline, condition, .. } => {
            let Some(StoredValue { value, .. }) = current else { return Ok((Change::Keep, Answer::Number(0))) };
            let deadline = deadline.resolve(now);
            if !condition_permits(*condition, current_deadline, deadline) {
                return Ok((Change::Keep, Answer::Number(0)));
            }
            Ok((set_or_remove(Cow::Owned(value.to_vec()), Some(deadline), current, now), Answer::Number(1)))
        }
        Command::Persist { .. } => match current {
            Some(StoredValue { value, deadline: Some(_) }) => {
                Ok((Change::Set(Cow::Owned(value.to_vec()), None), Answer::Number(1)))
            }
            _ => Ok((Change::Keep, Answer::Number(0))),
        },
        // These commands have no single key. The decoder rejects them; a command built by hand gets this answer.
        Command::Batch(_) | Command::Block(_) | Command::DelKeys(_) | Command::PutAll(_) => Err(Answer::Malformed),
    }
}

/// Sets value and deadline; a deadline that has passed removes the key instead.
fn set_or_remove<'a>(
    value: Cow<'a, [u8]>,
    deadline: Option<ClusterTime>,
    current: Option<StoredValue<'_>>,
    now: ClusterTime,
) -> Change<'a> {
    match deadline {
        Some(deadline) if deadline <= now && current.is_none() => Change::Keep,
        Some(deadline) if deadline <= now => Change::Remove,
        _ => Change::Set(value, deadline),
    }
}

fn condition_permits(condition: ExpireCondition, current: Option<ClusterTime>, new: ClusterTime) -> bool {
    let presence_holds = condition.must_have_deadline.is_none_or(|required| required == current.is_some());
    let tolerance = if condition.from_date { DATE_TOLERANCE_MS } else { 0 };
    let order_holds = match (condition.must_be_later, current) {
        (None, _) => true,
        // The absence of a deadline counts as later than any deadline.
        (Some(later), None) => !later,
        (Some(true), Some(current)) => new.0 > current.0.saturating_add(tolerance),
        (Some(false), Some(current)) => new.0.saturating_add(tolerance) < current.0,
    };
    presence_holds && order_holds
}

/// The key of a command; empty for a command without a single key.
pub fn key_of<'a>(command: &Command<'a>) -> &'a [u8] {
    match command {
        Command::Put { key, .. } | Command::Del { key } | Command::Cas { key, .. } | Command::Incr { key, .. } => key,
        Command::Set { key, .. } | Command::Append { key, .. } => key,
        Command::Expire { key, .. } | Command::Persist { key } => key,
        Command::Batch(_) | Command::Block(_) | Command::DelKeys(_) | Command::PutAll(_) => b"",
    }
}
