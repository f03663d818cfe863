//! Why a connection failed, in words for an operator, and how often that is logged.

use crate::types::Time;
use crate::wire::WireError;
use crate::wire::reason::Reason;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::time::Duration;

/// The same line is logged at most once in this time: a peer is dialed ten times a second.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Why a connection failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// A word or two, for lists of several peers.
    pub word: &'static str,
    /// A full description.
    pub text: String,
    /// Whether the failure lasts until an operator acts. It is then logged as a warning.
    pub is_lasting: bool,
}

impl Failure {
    fn new(word: &'static str, text: impl Into<String>, is_lasting: bool) -> Failure {
        Failure { word, text: text.into(), is_lasting }
    }

    /// A socket could not be connected, read or written.
    pub fn of_socket(error: &io::Error) -> Failure {
        match error.kind() {
            ErrorKind::ConnectionRefused => Failure::new("refused", "connection refused: nothing listens there", false),
            ErrorKind::TimedOut => Failure::new("timed out", "no answer from that host", false),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                Failure::new("unreachable", error.to_string(), false)
            }
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                Failure::new("closed", "the other side closed the connection", false)
            }
            // A TLS error about a certificate includes the names for which it is valid.
            ErrorKind::InvalidData => Failure::new("TLS", format!("TLS: {error}"), true),
            _ => Failure::new("failed", error.to_string(), true),
        }
    }

    /// The peer's name could not be resolved.
    pub fn of_name(error: &io::Error) -> Failure {
        Failure::new("name", format!("the name cannot be resolved: {error}"), true)
    }

    /// The other side accepted the connection and did not answer in time.
    pub fn no_answer() -> Failure {
        Failure::new("no answer", "the connection was accepted, but no answer came in time", false)
    }

    /// The other side closed a connection that was in use.
    pub fn closed() -> Failure {
        Failure::new("closed", "the other side closed the connection", false)
    }

    /// The other side closed the connection instead of answering. `encrypted` is whether this node uses TLS.
    pub fn closed_early(encrypted: bool) -> Failure {
        let hint = if encrypted { "does it use TLS, and trust our certificate?" } else { "does it require TLS?" };
        Failure::new("closed", format!("the peer closed the connection before it answered; {hint}"), false)
    }

    /// The other side violated the protocol, or rejected this node. `encrypted` is whether this node uses TLS.
    pub fn of_protocol(error: &WireError, encrypted: bool) -> Failure {
        match error {
            WireError::Refused(reason) => {
                let is_lasting = !matches!(reason, Reason::Stopping | Reason::Full);
                Failure::new(reason.word(), format!("the peer rejected the connection: {reason}"), is_lasting)
            }
            WireError::Malformed(what) => Failure::new("rejected", what.to_string(), true),
            _ if encrypted => Failure::new("protocol", format!("the bytes received are not valid: {error}"), true),
            _ => Failure::new("protocol", format!("the bytes received are not valid, or are TLS: {error}"), true),
        }
    }
}

/// Lines that were logged within the last minute.
#[derive(Debug)]
pub struct RecentLines {
    lines: BTreeMap<String, Time>,
    most: usize,
}

impl RecentLines {
    /// Remembers at most `most` different lines. Beyond that none is logged until some are older than a minute.
    pub fn at_most(most: usize) -> RecentLines {
        RecentLines { lines: BTreeMap::new(), most }
    }

    /// Whether a line has to be logged now. If so, it is recorded as logged.
    pub fn is_new(&mut self, now: Time, line: &str) -> bool {
        if self.lines.get(line).is_some_and(|at| now.since(*at) < SAY_EVERY) {
            return false;
        }
        if self.lines.len() >= self.most {
            self.lines.retain(|_, at| now.since(*at) < SAY_EVERY);
        }
        let has_room = self.lines.len() < self.most;
        if has_room {
            self.lines.insert(line.to_owned(), now);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_logged_once_a_minute() {
        let mut said = RecentLines::at_most(8);
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        assert!(said.is_new(at(1), "n2: refused"));
        assert!(!said.is_new(at(60), "n2: refused"));
        assert!(said.is_new(at(60), "n2: closed"), "another cause");
        assert!(said.is_new(at(61), "n2: refused"));
    }

    #[test]
    fn memory_of_lines_is_bounded() {
        let mut said = RecentLines::at_most(20);
        let lines = (0..10_000).filter(|n| said.is_new(Time::ZERO, &n.to_string())).count();
        assert_eq!((lines, said.lines.len()), (20, 20));
        assert!(said.is_new(Time::ZERO + SAY_EVERY, "later"));
        assert_eq!(said.lines.len(), 1);
    }

    #[test]
    fn failure_names_its_cause() {
        let of = |kind: ErrorKind| Failure::of_socket(&io::Error::new(kind, "bad certificate"));
        assert_eq!(of(ErrorKind::ConnectionRefused).word, "refused");
        let tls = of(ErrorKind::InvalidData);
        assert_eq!((tls.text.as_str(), tls.is_lasting), ("TLS: bad certificate", true));
        let refused = Failure::of_protocol(&WireError::Refused(Reason::Cluster), false);
        assert_eq!((refused.word, refused.is_lasting), ("another cluster", true));
        assert!(Failure::of_protocol(&WireError::Checksum, false).text.contains("or are TLS"));
    }
}
