//! Who leads, for threads of the same process that act on it.

use crate::types::{NodeId, Term};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Who leads, as one node sees it. It differs from node to node, so nothing in a state machine may depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leadership {
    /// The latest term that the node knows. It grows with each leader: a machine finds the term of the leader that took a
    /// command in its [`Context`](crate::machine::Context), and can so refuse what was meant under an earlier one.
    pub term: Term,
    /// Who leads that term, if the node knows.
    pub leader: Option<NodeId>,
    /// Whether it is this node, and commands are taken: it may have been replaced by another without knowing yet, so
    /// whatever must not be done twice has to go through the log as well.
    pub leads: bool,
}

/// Where a node says who leads, and others wait for that to change.
#[derive(Clone, Debug, Default)]
pub struct Board {
    shared: Arc<(Mutex<Leadership>, Condvar)>,
}

impl Board {
    /// What was said last.
    pub fn read(&self) -> Leadership {
        *self.lock()
    }

    /// Says who leads, and wakes whoever waits to hear of it.
    pub fn write(&self, leadership: Leadership) {
        *self.lock() = leadership;
        self.shared.1.notify_all();
    }

    /// What is said as soon as it is something else than `known`; the same again after that long.
    pub fn wait(&self, known: &Leadership, timeout: Duration) -> Leadership {
        let until = Instant::now().checked_add(timeout);
        let mut now = self.lock();
        while *now == *known {
            let left = until.map_or(Duration::from_secs(3600), |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            now = self.shared.1.wait_timeout(now, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *now
    }

    /// Whole whatever a thread that panicked was about to do: it is written at one stroke.
    fn lock(&self) -> MutexGuard<'_, Leadership> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_hears_of_a_change_and_gives_up_in_time() {
        let board = Board::default();
        let nobody = board.read();
        assert_eq!(board.wait(&nobody, Duration::ZERO), nobody);
        let waiting = {
            let board = board.clone();
            std::thread::spawn(move || board.wait(&nobody, Duration::from_secs(60)))
        };
        let leads = Leadership { term: Term(3), leader: NodeId::new(1), leads: true };
        board.write(leads);
        assert_eq!(waiting.join().unwrap(), leads);
        assert_eq!(board.wait(&nobody, Duration::from_secs(60)), leads, "it is so already");
    }
}
