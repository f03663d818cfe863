//! Encodes the state machine's answers and the node's refusals as Redis replies.

use super::glob;
use crate::api::Refusal;
use crate::api::figures::{Failure, RequestError};
use crate::limits::ANSWER_BYTES_MAX;
use crate::machine::commands::{Answer, TimeToLive};
use crate::wire::resp::ReplyWriter;
use bytes::Bytes;

/// The shape of the reply to a single command: how the state machine's answer is encoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplyShape {
    /// The answer as it is: a number as an integer, a value as a bulk string.
    Plain,
    /// A time to live in seconds, rounded from the milliseconds of the answer (`TTL`).
    Seconds,
    /// The type of a key, `string` or `none`, from the number of existing keys (`TYPE`).
    KeyType,
    /// The next cursor, and the keys that match the pattern (`SCAN`).
    Scan {
        /// The glob pattern after `MATCH`; `None` for all keys.
        pattern: Option<Bytes>,
    },
}

/// The error for a request with an unknown outcome: it may have been applied, or may still be.
pub const UNKNOWN_OUTCOME: &str = "TIMEOUT outcome unknown";
/// The error for a request that was not applied, because there is no leader.
pub const NO_LEADER: &str = "CLUSTERDOWN No Raft leader";

/// The error for an executed write whose answer exceeds the maximum size.
pub fn answer_too_long_error() -> String {
    format!("ERR the answer is over the limit of {ANSWER_BYTES_MAX} bytes; what was asked is done")
}

/// The error for a read whose answer exceeds the maximum size.
pub fn read_too_long_error() -> String {
    format!("ERR the answer is over the limit of {ANSWER_BYTES_MAX} bytes; ask for less at a time")
}

/// Writes the reply for an answer of the state machine, in the given shape.
pub fn put_answer(out: &mut ReplyWriter<'_>, shape: &ReplyShape, answer: &Answer) {
    match (shape, answer) {
        (ReplyShape::Seconds, Answer::TimeToLive(TimeToLive::Ms(ms))) => {
            out.integer((ms.saturating_add(500) / 1000) as i64)
        }
        (ReplyShape::KeyType, Answer::Number(count)) => out.simple_string(if *count > 0 { "string" } else { "none" }),
        (ReplyShape::Scan { pattern }, Answer::WalkPage { keys, next }) => {
            let matches = |key: &&Bytes| pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, key));
            let matching_keys: Vec<&Bytes> = keys.iter().filter(matches).collect();
            out.array(2);
            out.bulk(next.to_string().as_bytes());
            out.array(matching_keys.len());
            matching_keys.iter().for_each(|key| out.bulk(key));
        }
        (_, answer) => put_plain_answer(out, answer),
    }
}

fn put_plain_answer(out: &mut ReplyWriter<'_>, answer: &Answer) {
    match answer {
        Answer::Done => out.simple_string("OK"),
        Answer::Deleted { existed } => out.integer(i64::from(*existed)),
        Answer::Number(number) => out.integer(*number),
        Answer::Count(count) => out.integer(*count as i64),
        Answer::ConditionUnmet => out.nil(),
        Answer::Value(value) => out.bulk_or_nil(value.as_deref()),
        Answer::Values(values) => {
            out.array(values.len());
            values.iter().for_each(|value| out.bulk_or_nil(value.as_deref()));
        }
        Answer::TimeToLive(TimeToLive::Absent) => out.integer(-2),
        Answer::TimeToLive(TimeToLive::Endless) => out.integer(-1),
        Answer::TimeToLive(TimeToLive::Ms(ms)) => out.integer(i64::try_from(*ms).unwrap_or(i64::MAX)),
        Answer::NotANumber => out.error("ERR value is not an integer or out of range"),
        Answer::Overflow => out.error("ERR increment or decrement would overflow"),
        Answer::TooLong => out.error("ERR string exceeds maximum allowed size (proto-max-bulk-len)"),
        Answer::Omitted => out.error(&answer_too_long_error()),
        Answer::Malformed => out.error("ERR the command could not be read"),
        Answer::CasMismatch { .. }
        | Answer::Batch(_)
        | Answer::BatchFailed { .. }
        | Answer::Pairs { .. }
        | Answer::List(_)
        | Answer::WalkPage { .. } => {
            out.error("ERR the cluster sent an unexpected answer");
        }
    }
}

/// The error for a request that the node refused, without effect.
pub fn refusal_error(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NoLeader | Refusal::NotLeader { .. } => NO_LEADER.into(),
        Refusal::Stopping => "CLUSTERDOWN the node is stopping".into(),
        Refusal::Busy => "BUSY too many requests are in progress; nothing was applied".into(),
        Refusal::NoSpace => "MISCONF no space left on the disk of the leader; nothing was applied".into(),
        other => format!("ERR {other}"),
    }
}

/// The kind of failure under which metrics count a reply; `None` if the reply is no error. Only for replies that the
/// gateway creates without asking the node.
pub fn classify_error(reply: &[u8]) -> Option<Failure> {
    let error = std::str::from_utf8(reply.strip_prefix(b"-")?).unwrap_or_default();
    let error_kind = match error.split([' ', '\r']).next().unwrap_or_default() {
        // This arm precedes those for the prefixes, because the reply to `EVAL` has the prefix of a missing password.
        _ if error.starts_with("ERR unknown") || error.contains("not supported") => RequestError::Unsupported,
        "NOAUTH" | "WRONGPASS" | "NOPERM" => RequestError::Unauthorized,
        "MOVED" => return Some(Failure::Refused("not_leader")),
        "CLUSTERDOWN" => return Some(Failure::Refused(Refusal::Stopping.name())),
        _ => RequestError::Malformed,
    };
    Some(Failure::Error(error_kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classified_by_prefix() {
        let classify = |reply: &str| classify_error(reply.as_bytes());
        let failure = |kind| Some(Failure::Error(kind));
        assert_eq!([classify("+OK\r\n"), classify("$3\r\n-ab\r\n"), classify("")], [None; 3]);
        assert_eq!(classify("-NOAUTH Authentication required.\r\n"), failure(RequestError::Unauthorized));
        assert_eq!(classify("-ERR unknown command 'X'\r\n"), failure(RequestError::Unsupported));
        assert_eq!(classify("-NOAUTH EVAL is not supported: …\r\n"), failure(RequestError::Unsupported));
        assert_eq!(classify("-ERR wrong number of arguments\r\n"), failure(RequestError::Malformed));
        assert_eq!(classify("-MOVED 1 localhost:1\r\n"), Some(Failure::Refused("not_leader")));
        let stopping_reply = format!("-{}\r\n", refusal_error(&Refusal::Stopping));
        assert_eq!(classify(&stopping_reply), Some(Failure::Refused("stopping")));
    }
}
