//! Wakes the event loop from another thread, without a system call if it is awake.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Wakes the event loop. Each thread that sends it messages has a clone.
///
/// Invariant: a sender enqueues its message *before* it calls `wake`, and the event loop marks itself as sleeping
/// *before* it checks its queues for the last time. So at least one of the two notices the other.
#[derive(Clone, Debug)]
pub struct Waker {
    poll: Arc<mio::Waker>,
    sleeps: Arc<AtomicBool>,
}

impl Waker {
    /// A waker of that poll.
    pub fn new(poll: mio::Waker) -> Waker {
        Waker { poll: Arc::new(poll), sleeps: Arc::new(AtomicBool::new(false)) }
    }

    /// Makes the event loop check its queues. It costs a system call only if the loop sleeps.
    pub fn wake(&self) {
        if self.sleeps.swap(false, Ordering::SeqCst) {
            // The wake-up fails only when the process has no file descriptors or memory left. The loop then checks its
            // queues at its next deadline.
            if let Err(error) = self.poll.wake() {
                log::error!("cannot wake the reactor: {error}");
            }
        }
    }

    /// Marks the event loop as sleeping. It must check its queues once more before it sleeps.
    pub fn sleeping(&self) {
        self.sleeps.store(true, Ordering::SeqCst);
    }

    /// Marks the event loop as awake: it checks its queues by itself.
    pub fn awake(&self) {
        self.sleeps.store(false, Ordering::SeqCst);
    }
}
