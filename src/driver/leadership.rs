//! The current leader, for other threads of the process.

use crate::types::{NodeId, Term};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The current leader as one node sees it. Nodes may see different leaders, so a state machine must not depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leadership {
    /// The latest term that the node knows. Each new leader has a higher term. A state machine finds the term of the
    /// leader that accepted a command in its [`Context`](crate::machine::Context), and can so reject a command that was
    /// meant for an earlier leader.
    pub term: Term,
    /// The leader of `term`, if the node knows it.
    pub leader: Option<NodeId>,
    /// Whether this node is the leader and accepts commands. A newer leader may exist without its knowledge, so an
    /// action that must not happen twice has to go through the log as well.
    pub leads: bool,
}

/// A shared cell in which a node publishes its leadership, and in which other threads wait for a change.
#[derive(Clone, Debug, Default)]
pub struct LeadershipCell {
    shared: Arc<(Mutex<Leadership>, Condvar)>,
}

impl LeadershipCell {
    /// Returns the leadership that the node published last.
    pub fn read(&self) -> Leadership {
        *self.lock()
    }

    /// Publishes a leadership, and wakes the threads that wait for a change.
    pub fn write(&self, leadership: Leadership) {
        *self.lock() = leadership;
        self.shared.1.notify_all();
    }

    /// Waits until the leadership differs from `known`, at most for `timeout`. Returns the leadership published last.
    pub fn wait(&self, known: &Leadership, timeout: Duration) -> Leadership {
        let deadline = Instant::now().checked_add(timeout);
        let mut current = self.lock();
        while *current == *known {
            let time_left = deadline
                .map_or(Duration::from_secs(3600), |deadline| deadline.saturating_duration_since(Instant::now()));
            if time_left.is_zero() {
                break;
            }
            current = self.shared.1.wait_timeout(current, time_left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *current
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
        let cell = LeadershipCell::default();
        let no_leader = cell.read();
        assert_eq!(cell.wait(&no_leader, Duration::ZERO), no_leader);
        let waiting_thread = {
            let cell = cell.clone();
            std::thread::spawn(move || cell.wait(&no_leader, Duration::from_secs(60)))
        };
        let leadership = Leadership { term: Term(3), leader: NodeId::new(1), leads: true };
        cell.write(leadership);
        assert_eq!(waiting_thread.join().unwrap(), leadership);
        assert_eq!(cell.wait(&no_leader, Duration::from_secs(60)), leadership, "the value differs already");
    }
}
