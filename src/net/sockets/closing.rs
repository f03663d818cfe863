//! Sessions of connections that are gone: each is closed, however often that has to be asked for.

use crate::api::{Outcome, Refusal, Reply};
use crate::types::{SessionId, Time};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What was refused is asked for again after this long.
const AGAIN: Duration = Duration::from_millis(50);
/// So many are asked for again at once: a leader that was busy is not to be so again for that.
const AT_ONCE: usize = 64;
/// So many are remembered. One more is forgotten, and lapses by itself.
const MOST: usize = 16_384;

/// Sessions that are being closed.
#[derive(Debug, Default)]
pub struct Closing {
    /// By the number of the request.
    asked: BTreeMap<u64, SessionId>,
    /// Those whose request was refused, or came to nothing.
    refused: VecDeque<SessionId>,
    again_at: Time,
}

impl Closing {
    /// A session is asked to be closed with the request of that number.
    pub fn asked(&mut self, number: u64, session: SessionId) {
        if self.asked.len() + self.refused.len() < MOST {
            self.asked.insert(number, session);
        }
    }

    /// That request was answered. To close a session twice is harmless, so whatever is not known is asked for again.
    pub fn answered(&mut self, now: Time, number: u64, reply: &Reply) {
        let Some(session) = self.asked.remove(&number) else { return };
        match reply {
            Reply::Done { outcome: Outcome::Closed | Outcome::SessionExpired, .. } => {}
            // Whoever asks it afterwards will have it closed, or nobody.
            Reply::Refused(Refusal::Stopping) => {}
            _ => {
                if self.refused.is_empty() {
                    self.again_at = now + AGAIN;
                }
                self.refused.push_back(session);
            }
        }
    }

    /// Those that are to be asked for again by now.
    pub fn due(&mut self, now: Time) -> Vec<SessionId> {
        if self.refused.is_empty() || self.again_at > now {
            return Vec::new();
        }
        self.again_at = now + AGAIN;
        self.refused.drain(..self.refused.len().min(AT_ONCE)).collect()
    }

    /// When there is something to do even if nothing comes.
    pub fn deadline(&self) -> Time {
        if self.refused.is_empty() { Time::NEVER } else { self.again_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Position;

    #[test]
    fn what_is_refused_is_asked_for_again_until_it_is_done() {
        let mut closing = Closing::default();
        (1..=100).for_each(|n| closing.asked(n, SessionId(n)));
        closing.answered(Time(0), 1, &Reply::Done { position: Position::ZERO, outcome: Outcome::Closed });
        assert_eq!(closing.deadline(), Time::NEVER);
        closing.answered(Time(0), 2, &Reply::Refused(Refusal::Busy));
        closing.answered(Time(0), 3, &Reply::Unknown);
        assert_eq!((closing.deadline(), closing.due(Time(1))), (Time(0) + AGAIN, vec![]));
        assert_eq!(closing.due(Time(0) + AGAIN), [SessionId(2), SessionId(3)]);
        (4..=100).for_each(|n| closing.answered(Time(0), n, &Reply::Refused(Refusal::Busy)));
        assert_eq!(closing.due(Time(0) + AGAIN + AGAIN).len(), AT_ONCE);
        assert_eq!(closing.due(Time::NEVER).len(), 97 - AT_ONCE);
        closing.answered(Time(0), 4, &Reply::Refused(Refusal::Busy));
        assert_eq!(closing.deadline(), Time::NEVER, "it was answered already");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut closing = Closing::default();
        (0..2 * MOST as u64).for_each(|n| closing.asked(n, SessionId(n)));
        (0..2 * MOST as u64).for_each(|n| closing.answered(Time(0), n, &Reply::Unknown));
        assert_eq!(closing.refused.len(), MOST);
    }
}
