//! Wakes the event loop from another thread, without a system call while the loop is running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A handle that wakes the event loop. Each thread that sends messages to the loop has a clone.
///
/// Invariant: a sender enqueues its message *before* it calls `wake`, and the event loop marks itself as sleeping
/// *before* it checks its queues for the last time. So at least one of the two notices the other.
#[derive(Clone, Debug)]
pub struct Waker {
    mio_waker: Arc<mio::Waker>,
    is_sleeping: Arc<AtomicBool>,
}

impl Waker {
    /// Creates a waker for the poll with which `mio_waker` is registered.
    pub fn new(mio_waker: mio::Waker) -> Waker {
        Waker { mio_waker: Arc::new(mio_waker), is_sleeping: Arc::new(AtomicBool::new(false)) }
    }

    /// Makes the event loop check its queues. A system call is made only if the loop is sleeping.
    pub fn wake(&self) {
        if self.is_sleeping.swap(false, Ordering::SeqCst) {
            // The wake-up fails only when the process has no file descriptors or memory left. The loop then checks its
            // queues at its next deadline.
            if let Err(error) = self.mio_waker.wake() {
                log::error!("cannot wake the event loop: {error}; it continues at its next deadline");
            }
        }
    }

    /// Marks the event loop as sleeping. It must check its queues once more before it sleeps.
    pub fn mark_sleeping(&self) {
        self.is_sleeping.store(true, Ordering::SeqCst);
    }

    /// Marks the event loop as awake: it checks its queues by itself.
    pub fn mark_awake(&self) {
        self.is_sleeping.store(false, Ordering::SeqCst);
    }
}
