//! Messages of other threads to the event loop, and the leadership that the event loop publishes to them.

use super::leadership::{Leadership, LeadershipCell};
use crate::api::{Reply, Request};
use crate::net::credentials::Credentials;
use crate::net::waker::Waker;
use crate::scrub::ScrubReport;
use crate::snapshotting::JobResult;
use crate::wal::report as wal;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// A message of another thread to the event loop.
#[derive(Debug)]
pub enum LoopMessage {
    /// From the log thread: the writes that became durable.
    Journal(wal::Report),
    /// From the snapshot thread: the result of a job, or the fault that ends the thread.
    Snapshot(wal::Result<JobResult>),
    /// From the thread that checks this node's files: a report of the running pass.
    Scrub(ScrubReport),
    /// From the thread that watches the disk: free space has become too low, or sufficient again.
    DiskSpace {
        /// Whether free space is too low.
        low: bool,
    },
    /// From a thread with a handle: a request.
    Request {
        /// The request, which the node handles like that of a client.
        request: Request,
        /// The channel for the answer, of which there is at most one.
        answer: Sender<Reply>,
        /// When the requesting thread stops waiting for the answer.
        deadline: Instant,
    },
    /// From the thread that reloads credentials: TLS keys and password for new connections.
    Credentials(Box<Credentials>),
    /// From a thread with a handle: finish requests in progress, and stop.
    Stop,
    /// A thread of the node, with this name, has ended. Joining the thread yields the reason.
    ThreadEnded(&'static str),
}

/// The sending side of the inbox. Each thread that sends messages has a clone.
#[derive(Clone, Debug)]
pub struct InboxSender {
    messages: Sender<LoopMessage>,
    waker: Waker,
    leadership_cell: LeadershipCell,
}

/// The receiving side of the inbox, which belongs to the event loop.
#[derive(Debug)]
pub struct Inbox {
    messages: Receiver<LoopMessage>,
    /// The next message, if [`Inbox::has_message`] has received it already.
    peeked_message: Option<LoopMessage>,
    leadership_cell: LeadershipCell,
}

/// Creates an inbox and its sending side.
pub fn inbox(waker: Waker) -> (InboxSender, Inbox) {
    let (sender, receiver) = channel();
    let leadership_cell = LeadershipCell::default();
    (
        InboxSender { messages: sender, waker, leadership_cell: leadership_cell.clone() },
        Inbox { messages: receiver, peeked_message: None, leadership_cell },
    )
}

impl InboxSender {
    /// Sends a message, and wakes the event loop. Returns false if the event loop has ended.
    pub fn send(&self, message: LoopMessage) -> bool {
        let is_sent = self.messages.send(message).is_ok();
        self.waker.wake();
        is_sent
    }

    /// The cell in which the event loop publishes the leadership.
    pub fn leadership_cell(&self) -> &LeadershipCell {
        &self.leadership_cell
    }
}

impl Drop for Inbox {
    /// Runs when the event loop ends: from then on this node does not lead, and does not know the leader.
    fn drop(&mut self) {
        self.leadership_cell.write(Leadership { leader: None, leads: false, ..self.leadership_cell.read() });
    }
}

impl Inbox {
    /// Publishes the leadership to other threads if it has changed.
    pub fn publish(&self, leadership: Leadership) {
        if self.leadership_cell.read() != leadership {
            self.leadership_cell.write(leadership);
        }
    }

    /// Whether a message has arrived. [`Inbox::try_receive`] returns it.
    pub fn has_message(&mut self) -> bool {
        if self.peeked_message.is_none() {
            self.peeked_message = self.messages.try_recv().ok();
        }
        self.peeked_message.is_some()
    }

    /// Receives the next message, if one has arrived. Never blocks.
    pub fn try_receive(&mut self) -> Option<LoopMessage> {
        self.peeked_message.take().or_else(|| self.messages.try_recv().ok())
    }
}
