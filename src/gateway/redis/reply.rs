//! Encodes the state machine's answers, and refusals, as Redis replies.

use super::glob;
use crate::api::Refusal;
use crate::api::figures::{Failure, RequestError};
use crate::limits::ANSWER_BYTES_MAX;
use crate::machine::commands::{Answer, TimeToLive};
use crate::wire::resp::Writer;
use bytes::Bytes;

/// How an answer is encoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplyShape {
    /// As it is.
    Plain,
    /// Milliseconds as seconds, rounded.
    Seconds,
    /// The number of existing keys as the type of the key.
    Kind,
    /// The next cursor, and the keys that match the pattern if there is one.
    Scan(Option<Bytes>),
}

/// The error for an unknown outcome.
pub const UNKNOWN: &str = "TIMEOUT outcome unknown";
/// The error for a request without a leader, known not to be applied.
pub const NO_LEADER: &str = "CLUSTERDOWN No Raft leader";

/// The error in place of an answer that exceeds the maximum size.
pub fn too_long() -> String {
    format!("ERR the answer is over the limit of {ANSWER_BYTES_MAX} bytes; what was asked is done")
}

/// The same for a read.
pub fn too_long_to_read() -> String {
    format!("ERR the answer is over the limit of {ANSWER_BYTES_MAX} bytes; ask for less at a time")
}

/// Writes an answer.
pub fn put_answer(out: &mut Writer<'_>, shape: &ReplyShape, answer: &Answer) {
    match (shape, answer) {
        (ReplyShape::Seconds, Answer::Left(TimeToLive::Ms(ms))) => out.integer((ms.saturating_add(500) / 1000) as i64),
        (ReplyShape::Kind, Answer::Number(count)) => out.line(if *count > 0 { "string" } else { "none" }),
        (ReplyShape::Scan(pattern), Answer::Walked { keys, next }) => {
            let matches = |key: &&Bytes| pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, key));
            let matching: Vec<&Bytes> = keys.iter().filter(matches).collect();
            out.array(2);
            out.bulk(next.to_string().as_bytes());
            out.array(matching.len());
            matching.iter().for_each(|key| out.bulk(key));
        }
        (_, answer) => plain(out, answer),
    }
}

fn plain(out: &mut Writer<'_>, answer: &Answer) {
    match answer {
        Answer::Done => out.line("OK"),
        Answer::Deleted { existed } => out.integer(i64::from(*existed)),
        Answer::Number(number) => out.integer(*number),
        Answer::Count(count) => out.integer(*count as i64),
        Answer::Unmet => out.nil(),
        Answer::Value(value) => out.option(value.as_deref()),
        Answer::Values(values) => {
            out.array(values.len());
            values.iter().for_each(|value| out.option(value.as_deref()));
        }
        Answer::Left(TimeToLive::Absent) => out.integer(-2),
        Answer::Left(TimeToLive::Endless) => out.integer(-1),
        Answer::Left(TimeToLive::Ms(ms)) => out.integer(i64::try_from(*ms).unwrap_or(i64::MAX)),
        Answer::NotANumber => out.error("ERR value is not an integer or out of range"),
        Answer::Overflow => out.error("ERR increment or decrement would overflow"),
        Answer::TooLong => out.error("ERR string exceeds maximum allowed size (proto-max-bulk-len)"),
        Answer::Omitted => out.error(&too_long()),
        Answer::Malformed => out.error("ERR the command could not be read"),
        Answer::Kept { .. }
        | Answer::All(_)
        | Answer::None { .. }
        | Answer::Pairs { .. }
        | Answer::Each(_)
        | Answer::Walked { .. } => {
            out.error("ERR an answer out of turn");
        }
    }
}

/// The error for a refused request, which had no effect.
pub fn refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NoLeader | Refusal::NotLeader { .. } => NO_LEADER.into(),
        Refusal::Stopping => "CLUSTERDOWN the node is stopping".into(),
        Refusal::Busy => "BUSY more is under way than may be; nothing was applied".into(),
        Refusal::NoSpace => "MISCONF no space left on the disk of the leader; nothing was applied".into(),
        other => format!("ERR {other}"),
    }
}

/// How a request with that immediate reply is counted as a failure, if the reply is an error.
pub fn failure(reply: &[u8]) -> Option<Failure> {
    let error = std::str::from_utf8(reply.strip_prefix(b"-")?).unwrap_or_default();
    let wrong = match error.split([' ', '\r']).next().unwrap_or_default() {
        // Checked before the kind of error: the reply to `EVAL` has that of a missing password.
        _ if error.starts_with("ERR unknown") || error.contains("not supported") => RequestError::Unsupported,
        "NOAUTH" | "WRONGPASS" | "NOPERM" => RequestError::Unauthorized,
        "MOVED" => return Some(Failure::Refused("not_leader")),
        "CLUSTERDOWN" => return Some(Failure::Refused(Refusal::Stopping.name())),
        _ => RequestError::Malformed,
    };
    Some(Failure::Wrong(wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classified_by_prefix() {
        let of = |reply: &str| failure(reply.as_bytes());
        let wrong = |kind| Some(Failure::Wrong(kind));
        assert_eq!([of("+OK\r\n"), of("$3\r\n-ab\r\n"), of("")], [None; 3]);
        assert_eq!(of("-NOAUTH Authentication required.\r\n"), wrong(RequestError::Unauthorized));
        assert_eq!(of("-ERR unknown command 'X'\r\n"), wrong(RequestError::Unsupported));
        assert_eq!(of("-NOAUTH EVAL is not supported: …\r\n"), wrong(RequestError::Unsupported));
        assert_eq!(of("-ERR wrong number of arguments\r\n"), wrong(RequestError::Malformed));
        assert_eq!(of("-MOVED 1 localhost:1\r\n"), Some(Failure::Refused("not_leader")));
        let stopping = format!("-{}\r\n", refusal(&Refusal::Stopping));
        assert_eq!(of(&stopping), Some(Failure::Refused("stopping")));
    }
}
