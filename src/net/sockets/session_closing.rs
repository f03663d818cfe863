//! Closes the sessions of closed connections, and retries until each session is closed.

use crate::api::{Outcome, Refusal, Reply};
use crate::types::{SessionId, Time};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The pause before a refused close is requested again.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum sessions whose close is requested again in one interval, so that the retries do not overload a busy leader.
const RETRIES_PER_INTERVAL_MAX: usize = 64;
/// Maximum sessions that are being closed. A session beyond the maximum is not retried; it expires unused.
const CLOSING_SESSIONS_MAX: usize = 16_384;

/// Remembers each session that is being closed until the cluster has closed it.
#[derive(Debug, Default)]
pub struct SessionCloser {
    /// Sessions whose close was requested and not answered yet, by the number of the request.
    sessions_closing: BTreeMap<u64, SessionId>,
    /// Sessions whose close was refused, or has an unknown outcome.
    sessions_to_retry: VecDeque<SessionId>,
    /// When the closes of `sessions_to_retry` are requested again; meaningless while there are none.
    retry_at: Time,
}

impl SessionCloser {
    /// Records that the request with the number `number` closes a session.
    pub fn record_close_request(&mut self, number: u64, session: SessionId) {
        if self.sessions_closing.len() + self.sessions_to_retry.len() < CLOSING_SESSIONS_MAX {
            self.sessions_closing.insert(number, session);
        }
    }

    /// Handles the reply to the request with the number `number`. Closing a session twice is harmless, so an unknown
    /// outcome is retried.
    pub fn handle_reply(&mut self, now: Time, number: u64, reply: &Reply) {
        let Some(session) = self.sessions_closing.remove(&number) else { return };
        match reply {
            Reply::Done { outcome: Outcome::Closed | Outcome::SessionExpired, .. } => {}
            // This node is stopping, so it does not retry. The session expires unused.
            Reply::Refused(Refusal::Stopping) => {}
            _ => {
                if self.sessions_to_retry.is_empty() {
                    self.retry_at = now + RETRY_INTERVAL;
                }
                self.sessions_to_retry.push_back(session);
            }
        }
    }

    /// Takes the sessions whose close is to be requested again now.
    pub fn take_due_closes(&mut self, now: Time) -> Vec<SessionId> {
        if self.sessions_to_retry.is_empty() || self.retry_at > now {
            return Vec::new();
        }
        self.retry_at = now + RETRY_INTERVAL;
        self.sessions_to_retry.drain(..self.sessions_to_retry.len().min(RETRIES_PER_INTERVAL_MAX)).collect()
    }

    /// When the next retries are due; never if no session waits for a retry.
    pub fn deadline(&self) -> Time {
        if self.sessions_to_retry.is_empty() { Time::NEVER } else { self.retry_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Position;

    #[test]
    fn refused_session_close_is_retried_until_done() {
        let mut closer = SessionCloser::default();
        (1..=100).for_each(|n| closer.record_close_request(n, SessionId(n)));
        closer.handle_reply(Time(0), 1, &Reply::Done { position: Position::ZERO, outcome: Outcome::Closed });
        assert_eq!(closer.deadline(), Time::NEVER);
        closer.handle_reply(Time(0), 2, &Reply::Refused(Refusal::Busy));
        closer.handle_reply(Time(0), 3, &Reply::Unknown);
        assert_eq!((closer.deadline(), closer.take_due_closes(Time(1))), (Time(0) + RETRY_INTERVAL, vec![]));
        assert_eq!(closer.take_due_closes(Time(0) + RETRY_INTERVAL), [SessionId(2), SessionId(3)]);
        (4..=100).for_each(|n| closer.handle_reply(Time(0), n, &Reply::Refused(Refusal::Busy)));
        assert_eq!(closer.take_due_closes(Time(0) + RETRY_INTERVAL + RETRY_INTERVAL).len(), RETRIES_PER_INTERVAL_MAX);
        assert_eq!(closer.take_due_closes(Time::NEVER).len(), 97 - RETRIES_PER_INTERVAL_MAX);
        closer.handle_reply(Time(0), 4, &Reply::Refused(Refusal::Busy));
        assert_eq!(closer.deadline(), Time::NEVER, "a second answer is ignored");
    }

    #[test]
    fn pending_session_closes_are_bounded() {
        let mut closer = SessionCloser::default();
        (0..2 * CLOSING_SESSIONS_MAX as u64).for_each(|n| closer.record_close_request(n, SessionId(n)));
        (0..2 * CLOSING_SESSIONS_MAX as u64).for_each(|n| closer.handle_reply(Time(0), n, &Reply::Unknown));
        assert_eq!(closer.sessions_to_retry.len(), CLOSING_SESSIONS_MAX);
    }
}
