//! Messages of other threads to the event loop, and the leadership that it publishes to them.

use super::leadership::{Board, Leadership};
use crate::api::{Reply, Request};
use crate::net::credentials::Credentials;
use crate::net::waker::Waker;
use crate::snapshotting::JobResult;
use crate::wal::report as wal;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// A message of another thread to the event loop.
#[derive(Debug)]
pub enum LoopMessage {
    /// From the log thread: what became durable.
    Journal(wal::Report),
    /// From the snapshot thread: a finished job, or the fault that ends it.
    Snapshot(wal::Result<JobResult>),
    /// From the thread that watches the disk: free space has become too low, or sufficient again.
    Space {
        /// Whether free space is too low.
        low: bool,
    },
    /// From a thread with a handle: a request.
    Request {
        /// The request.
        request: Request,
        /// Receives the one answer.
        answer: Sender<Reply>,
        /// Until when the thread waits.
        until: Instant,
    },
    /// From the thread that reads them: TLS keys and password for new connections.
    Credentials(Box<Credentials>),
    /// From a thread with a handle: finish requests in progress, and stop.
    Stop,
    /// A thread of the node has ended. Joining it yields the reason.
    Gone(&'static str),
}

/// The sending side of the inbox. Each thread that sends messages has a clone.
#[derive(Clone, Debug)]
pub struct InboxSender {
    messages: Sender<LoopMessage>,
    waker: Waker,
    board: Board,
}

/// The receiving side, which belongs to the event loop.
#[derive(Debug)]
pub struct Inbox {
    messages: Receiver<LoopMessage>,
    /// A message that was received by a check for messages.
    next: Option<LoopMessage>,
    board: Board,
}

/// Creates an inbox and its sending side.
pub fn inbox(waker: Waker) -> (InboxSender, Inbox) {
    let (sender, receiver) = channel();
    let board = Board::default();
    (InboxSender { messages: sender, waker, board: board.clone() }, Inbox { messages: receiver, next: None, board })
}

impl InboxSender {
    /// Sends a message, and wakes the event loop. Returns false if the event loop has ended.
    pub fn post(&self, message: LoopMessage) -> bool {
        let posted = self.messages.send(message).is_ok();
        self.waker.wake();
        posted
    }

    /// Where the event loop publishes the leadership.
    pub fn board(&self) -> &Board {
        &self.board
    }
}

impl Drop for Inbox {
    /// The event loop has ended: this node does not lead, and does not know the leader.
    fn drop(&mut self) {
        self.board.write(Leadership { leader: None, leads: false, ..self.board.read() });
    }
}

impl Inbox {
    /// Publishes the leadership to other threads if it has changed.
    pub fn publish(&self, leadership: Leadership) {
        if self.board.read() != leadership {
            self.board.write(leadership);
        }
    }

    /// Whether there is a message.
    pub fn has_message(&mut self) -> bool {
        if self.next.is_none() {
            self.next = self.messages.try_recv().ok();
        }
        self.next.is_some()
    }

    /// The next message, if there is one.
    pub fn take(&mut self) -> Option<LoopMessage> {
        self.next.take().or_else(|| self.messages.try_recv().ok())
    }
}
