//! The queue of orders to the thread that checks this node's files.

use crate::scrub::ScrubOrder;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// The number of a pass that never begins.
const NO_PASS: u64 = u64::MAX;

/// The sending side, which belongs to the event loop. Its drop ends the running pass and the thread.
#[derive(Debug)]
pub struct ScrubQueue {
    orders: Sender<ScrubOrder>,
    latest_pass: Arc<AtomicU64>,
}

/// The receiving side, which belongs to the thread that reads.
#[derive(Debug)]
pub struct ScrubOrders {
    orders: Receiver<ScrubOrder>,
    latest_pass: Arc<AtomicU64>,
}

/// Tells whether the pass of an order is still wanted.
#[derive(Clone, Debug)]
pub struct PassWatch {
    pass: u64,
    latest_pass: Arc<AtomicU64>,
}

/// Creates a queue of orders: both sides of it.
pub fn scrub_queue() -> (ScrubQueue, ScrubOrders) {
    let (sender, receiver) = channel();
    let latest_pass = Arc::new(AtomicU64::new(0));
    (ScrubQueue { orders: sender, latest_pass: latest_pass.clone() }, ScrubOrders { orders: receiver, latest_pass })
}

impl ScrubQueue {
    /// Orders a pass, and ends the running one. Returns false if the thread is gone.
    pub fn order(&self, order: ScrubOrder) -> bool {
        self.latest_pass.store(order.pass, Ordering::Relaxed);
        self.orders.send(order).is_ok()
    }
}

impl Drop for ScrubQueue {
    fn drop(&mut self) {
        self.latest_pass.store(NO_PASS, Ordering::Relaxed);
    }
}

impl ScrubOrders {
    /// Waits for the next order; `None` when the sending side is dropped.
    pub fn wait(&self) -> Option<(ScrubOrder, PassWatch)> {
        let order = self.orders.recv().ok()?;
        Some((order, PassWatch { pass: order.pass, latest_pass: self.latest_pass.clone() }))
    }
}

impl PassWatch {
    /// Whether no later pass was ordered, and the event loop still runs.
    pub fn is_wanted(&self) -> bool {
        self.latest_pass.load(Ordering::Relaxed) == self.pass
    }
}
