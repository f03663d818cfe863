//! Causes of failed connections, in words for an operator, and the rate limit of their log lines.

use crate::types::Time;
use crate::wire::WireError;
use crate::wire::reason::HelloRejection;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::time::Duration;

/// The same line is logged at most once in this time. Without the limit a dead peer, which is dialed ten times a
/// second, would fill the log.
const SAME_LOG_LINE_INTERVAL: Duration = Duration::from_secs(60);

/// The cause of a failed connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectionFailure {
    /// The cause in one or two words, for a log line that lists several peers.
    pub short_cause: &'static str,
    /// The cause as part of a sentence, with advice where there is any.
    pub description: String,
    /// Whether the failure lasts until an operator acts. It is then logged as a warning.
    pub needs_operator: bool,
}

impl ConnectionFailure {
    fn new(short_cause: &'static str, description: impl Into<String>, needs_operator: bool) -> ConnectionFailure {
        ConnectionFailure { short_cause, description: description.into(), needs_operator }
    }

    /// The cause of an error of the system or of TLS, while a socket was connected, read or written.
    pub fn of_socket(error: &io::Error) -> ConnectionFailure {
        match error.kind() {
            ErrorKind::ConnectionRefused => {
                ConnectionFailure::new("refused", "connection refused: nothing listens there", false)
            }
            ErrorKind::TimedOut => ConnectionFailure::new("timed out", "no answer from that host", false),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                ConnectionFailure::new("unreachable", error.to_string(), false)
            }
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                ConnectionFailure::new("closed", "the other side closed the connection", false)
            }
            // A TLS error about a certificate includes the names for which it is valid.
            ErrorKind::InvalidData => ConnectionFailure::new("TLS", format!("TLS: {error}"), true),
            _ => ConnectionFailure::new("failed", error.to_string(), true),
        }
    }

    /// The cause of an error while the peer's host name was resolved.
    pub fn of_name_lookup(error: &io::Error) -> ConnectionFailure {
        ConnectionFailure::new("name", format!("the host name cannot be resolved: {error}"), true)
    }

    /// The peer accepted the connection and did not answer the hello in time.
    pub fn no_answer() -> ConnectionFailure {
        ConnectionFailure::new("no answer", "the connection was accepted, but no answer came in time", false)
    }

    /// The peer closed a connection after the handshake.
    pub fn closed() -> ConnectionFailure {
        ConnectionFailure::new("closed", "the other side closed the connection", false)
    }

    /// The peer closed the connection before it answered the hello, as when only one side uses TLS. `encrypted` is
    /// whether this node uses TLS.
    pub fn closed_early(encrypted: bool) -> ConnectionFailure {
        let hint = if encrypted { "does it use TLS, and trust our certificate?" } else { "does it require TLS?" };
        ConnectionFailure::new("closed", format!("the peer closed the connection before it answered; {hint}"), false)
    }

    /// The cause of an error while a frame was decoded, or the reason for which the peer rejected this node.
    /// `encrypted` is whether this node uses TLS: otherwise the bytes may be TLS.
    pub fn of_protocol(error: &WireError, encrypted: bool) -> ConnectionFailure {
        match error {
            WireError::Refused(reason) => {
                let needs_operator = !matches!(reason, HelloRejection::Stopping | HelloRejection::TooManyConnections);
                ConnectionFailure::new(
                    reason.label(),
                    format!("the peer rejected the connection: {reason}"),
                    needs_operator,
                )
            }
            WireError::NoCommonVersion { .. } => {
                ConnectionFailure::new(HelloRejection::Version.label(), error.to_string(), true)
            }
            WireError::Malformed(description) => ConnectionFailure::new("rejected", description.to_string(), true),
            _ if encrypted => {
                ConnectionFailure::new("protocol", format!("the bytes received are not valid: {error}"), true)
            }
            _ => ConnectionFailure::new(
                "protocol",
                format!("the bytes received are not valid, or are TLS: {error}"),
                true,
            ),
        }
    }
}

/// The log lines of the last minute, so that the same line is logged at most once a minute.
#[derive(Debug)]
pub struct RecentLogLines {
    lines: BTreeMap<String, Time>,
    lines_max: usize,
}

impl RecentLogLines {
    /// Creates an empty record of at most `lines_max` different lines. While the record is full, no other line is
    /// logged.
    pub fn new(lines_max: usize) -> RecentLogLines {
        RecentLogLines { lines: BTreeMap::new(), lines_max }
    }

    /// Records a line, unless it was recorded within the last minute or the record is full. Returns whether the caller
    /// has to log the line.
    pub fn record_if_new(&mut self, now: Time, line: &str) -> bool {
        if self.lines.get(line).is_some_and(|at| now.since(*at) < SAME_LOG_LINE_INTERVAL) {
            return false;
        }
        if self.lines.len() >= self.lines_max {
            self.lines.retain(|_, at| now.since(*at) < SAME_LOG_LINE_INTERVAL);
        }
        let has_room = self.lines.len() < self.lines_max;
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
        let mut recent_lines = RecentLogLines::new(8);
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        assert!(recent_lines.record_if_new(at(1), "n2: refused"));
        assert!(!recent_lines.record_if_new(at(60), "n2: refused"));
        assert!(recent_lines.record_if_new(at(60), "n2: closed"), "another cause is another line");
        assert!(recent_lines.record_if_new(at(61), "n2: refused"));
    }

    #[test]
    fn number_of_remembered_lines_is_bounded() {
        let mut recent_lines = RecentLogLines::new(20);
        let logged_count = (0..10_000).filter(|n| recent_lines.record_if_new(Time::ZERO, &n.to_string())).count();
        assert_eq!((logged_count, recent_lines.lines.len()), (20, 20));
        assert!(recent_lines.record_if_new(Time::ZERO + SAME_LOG_LINE_INTERVAL, "later"));
        assert_eq!(recent_lines.lines.len(), 1);
    }

    #[test]
    fn failure_names_its_cause() {
        let of_kind = |kind: ErrorKind| ConnectionFailure::of_socket(&io::Error::new(kind, "bad certificate"));
        assert_eq!(of_kind(ErrorKind::ConnectionRefused).short_cause, "refused");
        let tls_failure = of_kind(ErrorKind::InvalidData);
        assert_eq!((tls_failure.description.as_str(), tls_failure.needs_operator), ("TLS: bad certificate", true));
        let rejection = ConnectionFailure::of_protocol(&WireError::Refused(HelloRejection::Cluster), false);
        assert_eq!((rejection.short_cause, rejection.needs_operator), ("another cluster", true));
        assert!(ConnectionFailure::of_protocol(&WireError::ChecksumMismatch, false).description.contains("or are TLS"));
    }
}
