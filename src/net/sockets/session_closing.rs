//! Closes the sessions of connections that have ended, and retries until each is closed.

use crate::api::{Outcome, Refusal, Reply};
use crate::types::{SessionId, Time};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The pause before a refused request is retried.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum requests retried at once, so that the retries do not overload a leader that was busy.
const AT_ONCE: usize = 64;
/// Maximum sessions remembered. A session beyond that is not closed; it expires by itself.
const MOST: usize = 16_384;

/// Sessions that are being closed.
#[derive(Debug, Default)]
pub struct SessionClosing {
    /// Sessions whose close was requested, by request number.
    asked: BTreeMap<u64, SessionId>,
    /// Sessions whose request was refused or failed.
    refused: VecDeque<SessionId>,
    again_at: Time,
}

impl SessionClosing {
    /// Records that the request of that number closes a session.
    pub fn asked(&mut self, number: u64, session: SessionId) {
        if self.asked.len() + self.refused.len() < MOST {
            self.asked.insert(number, session);
        }
    }

    /// Handles the reply to that request. Closing a session twice is harmless, so an unknown outcome is retried.
    pub fn answered(&mut self, now: Time, number: u64, reply: &Reply) {
        let Some(session) = self.asked.remove(&number) else { return };
        match reply {
            Reply::Done { outcome: Outcome::Closed | Outcome::SessionExpired, .. } => {}
            // This node is stopping, so it does not retry. If no later request closes the session, it expires.
            Reply::Refused(Refusal::Stopping) => {}
            _ => {
                if self.refused.is_empty() {
                    self.again_at = now + RETRY_INTERVAL;
                }
                self.refused.push_back(session);
            }
        }
    }

    /// Returns the sessions whose close is to be retried now.
    pub fn due(&mut self, now: Time) -> Vec<SessionId> {
        if self.refused.is_empty() || self.again_at > now {
            return Vec::new();
        }
        self.again_at = now + RETRY_INTERVAL;
        self.refused.drain(..self.refused.len().min(AT_ONCE)).collect()
    }

    /// When a retry is due.
    pub fn deadline(&self) -> Time {
        if self.refused.is_empty() { Time::NEVER } else { self.again_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Position;

    #[test]
    fn rejected_session_close_is_retried_until_done() {
        let mut closing = SessionClosing::default();
        (1..=100).for_each(|n| closing.asked(n, SessionId(n)));
        closing.answered(Time(0), 1, &Reply::Done { position: Position::ZERO, outcome: Outcome::Closed });
        assert_eq!(closing.deadline(), Time::NEVER);
        closing.answered(Time(0), 2, &Reply::Refused(Refusal::Busy));
        closing.answered(Time(0), 3, &Reply::Unknown);
        assert_eq!((closing.deadline(), closing.due(Time(1))), (Time(0) + RETRY_INTERVAL, vec![]));
        assert_eq!(closing.due(Time(0) + RETRY_INTERVAL), [SessionId(2), SessionId(3)]);
        (4..=100).for_each(|n| closing.answered(Time(0), n, &Reply::Refused(Refusal::Busy)));
        assert_eq!(closing.due(Time(0) + RETRY_INTERVAL + RETRY_INTERVAL).len(), AT_ONCE);
        assert_eq!(closing.due(Time::NEVER).len(), 97 - AT_ONCE);
        closing.answered(Time(0), 4, &Reply::Refused(Refusal::Busy));
        assert_eq!(closing.deadline(), Time::NEVER, "a second answer is ignored");
    }

    #[test]
    fn pending_session_closes_are_bounded() {
        let mut closing = SessionClosing::default();
        (0..2 * MOST as u64).for_each(|n| closing.asked(n, SessionId(n)));
        (0..2 * MOST as u64).for_each(|n| closing.answered(Time(0), n, &Reply::Unknown));
        assert_eq!(closing.refused.len(), MOST);
    }
}
