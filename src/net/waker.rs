//! Wakes the reactor from another thread, and saves the system call when it is awake.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Wakes the reactor. Cloned into every thread that sends it something.
///
/// Rule: who sends puts its message into the queue *before* it wakes; the reactor says that it
/// sleeps *before* it looks into the queue for the last time. One of the two sees the other.
#[derive(Clone, Debug)]
pub struct Waker {
    poll: Arc<mio::Waker>,
    sleeps: Arc<AtomicBool>,
}

impl Waker {
    /// Wakes that poll.
    pub fn new(poll: mio::Waker) -> Waker {
        Waker { poll: Arc::new(poll), sleeps: Arc::new(AtomicBool::new(false)) }
    }

    /// Something is in a queue: the reactor must look. Costs a system call only if it sleeps.
    pub fn wake(&self) {
        if self.sleeps.swap(false, Ordering::SeqCst) {
            // A poll that cannot be woken is a process without file descriptors or memory: it looks
            // again when its next deadline comes.
            if let Err(error) = self.poll.wake() {
                log::error!("cannot wake the reactor: {error}");
            }
        }
    }

    /// The reactor is going to sleep: it looks once more into its queues, and sleeps if they are empty.
    pub fn sleeping(&self) {
        self.sleeps.store(true, Ordering::SeqCst);
    }

    /// The reactor is awake and will look into its queues by itself.
    pub fn awake(&self) {
        self.sleeps.store(false, Ordering::SeqCst);
    }
}
