//! The current leader, for other threads of the process.

use crate::types::{NodeId, Term};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The current leader as one node sees it. It differs from node to node, so a state machine must not depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leadership {
    /// The latest term that the node knows. Each leader has a higher one. A state machine finds the term of the leader
    /// that accepted a command in its [`Context`](crate::machine::Context), and can so reject a command meant for an
    /// earlier one.
    pub term: Term,
    /// The leader of that term, if the node knows it.
    pub leader: Option<NodeId>,
    /// Whether this node is the leader and accepts commands. A newer leader may exist without its knowledge, so an
    /// action that must not happen twice has to go through the log as well.
    pub leads: bool,
}

/// A shared cell in which a node publishes its leadership, and in which other threads wait for a change.
#[derive(Clone, Debug, Default)]
pub struct Board {
    shared: Arc<(Mutex<Leadership>, Condvar)>,
}

impl Board {
    /// The latest value.
    pub fn read(&self) -> Leadership {
        *self.lock()
    }

    /// Publishes a value, and wakes the waiting threads.
    pub fn write(&self, leadership: Leadership) {
        *self.lock() = leadership;
        self.shared.1.notify_all();
    }

    /// Waits until the value differs from `known`, at most for `timeout`. Returns the latest value.
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

    /// Ignores poisoning: the value is replaced in a single assignment, so a panic cannot leave it inconsistent.
    fn lock(&self) -> MutexGuard<'_, Leadership> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_returns_on_change_or_timeout() {
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
        assert_eq!(board.wait(&nobody, Duration::from_secs(60)), leads, "the value differs already");
    }
}
