//! What other threads tell the reactor, and what it tells them.

use super::credentials::Credentials;
use super::leadership::{Board, Leadership};
use super::waker::Waker;
use crate::api::{Reply, Request};
use crate::shelf::JobResult;
use crate::wal::report as wal;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// What another thread tells the reactor.
#[derive(Debug)]
pub enum Letter {
    /// From the log thread: what it made durable.
    Journal(wal::Report),
    /// From the thread that has the snapshots' files: what it has done, or why it must stop.
    Shelf(wal::Result<JobResult>),
    /// From the thread that watches the disk: it has too little room, or enough again.
    Space {
        /// Whether it has too little.
        low: bool,
    },
    /// From a thread that has a handle: a request, and where its answer goes.
    Ask {
        /// What is asked.
        request: Request,
        /// Where the one answer goes.
        answer: Sender<Reply>,
        /// Until when it is waited for.
        until: Instant,
    },
    /// From the thread that read them: keys and password for connections that are opened from now on.
    Credentials(Box<Credentials>),
    /// From a thread that has a handle: finish, and stop.
    Stop,
    /// A thread is gone that must not be. Why, whoever joins it learns.
    Gone(&'static str),
}

/// Where letters are posted. Cloned into every thread that has something to say.
#[derive(Clone, Debug)]
pub struct Post {
    letters: Sender<Letter>,
    waker: Waker,
    board: Board,
}

/// Where the reactor finds them.
#[derive(Debug)]
pub struct Inbox {
    letters: Receiver<Letter>,
    /// One that was found while only looking whether there is any.
    next: Option<Letter>,
    board: Board,
}

/// A new inbox, and the post to it.
pub fn inbox(waker: Waker) -> (Post, Inbox) {
    let (sender, receiver) = channel();
    let board = Board::default();
    (Post { letters: sender, waker, board: board.clone() }, Inbox { letters: receiver, next: None, board })
}

impl Post {
    /// Posts a letter, and wakes the reactor. False if it is gone.
    pub fn post(&self, letter: Letter) -> bool {
        let posted = self.letters.send(letter).is_ok();
        self.waker.wake();
        posted
    }

    /// Where the reactor says who leads.
    pub fn board(&self) -> &Board {
        &self.board
    }
}

impl Drop for Inbox {
    /// Nobody reads it any more: this node does not lead, and does not know who does.
    fn drop(&mut self) {
        self.board.write(Leadership { leader: None, leads: false, ..self.board.read() });
    }
}

impl Inbox {
    /// Says who leads to other threads, if it is another than was said before.
    pub fn say_who_leads(&self, leadership: Leadership) {
        if self.board.read() != leadership {
            self.board.write(leadership);
        }
    }

    /// Whether there is a letter.
    pub fn has_mail(&mut self) -> bool {
        if self.next.is_none() {
            self.next = self.letters.try_recv().ok();
        }
        self.next.is_some()
    }

    /// The next letter, if there is one.
    pub fn take(&mut self) -> Option<Letter> {
        self.next.take().or_else(|| self.letters.try_recv().ok())
    }
}
