//! A second opinion: while the node we wait for is silent, another one is asked who leads.
//!
//! A node that is frozen or cut off does not say that it is, and its connections stay open. The others
//! know within an election timeout. What is asked of them is a read of nothing: whoever follows says
//! whom, at once; whoever has no leader answers when there is one; and the leader itself answers it
//! without an entry in the log.

use crate::api::{Consistency, Refusal, Reply, Request};
use crate::secure::{Keys, Stream};
use crate::types::NodeId;
use crate::wire::WireError;
use crate::wire::client::{NEWS, put_request_frame, read_reply_frame};
use crate::wire::frame::FrameReader;
use crate::wire::hello::{Hello, Welcome};
use bytes::{Bytes, BytesMut};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{self, Read};
use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

/// Who was named as leader before is asked for again after this long, and then twice that, and so on.
const AGAIN: Duration = Duration::from_millis(50);
/// But no more rarely than this.
const AGAIN_MAX: Duration = Duration::from_millis(400);

/// A connection that asks who leads.
pub struct Scout {
    stream: Stream<TcpStream>,
    endpoint: String,
    /// Who was reached.
    node: Option<NodeId>,
    output: BytesMut,
    input: BytesMut,
    reader: FrameReader,
    /// Until then it must have said hello.
    greeted_by: Instant,
    /// When to ask once more, if there was an answer.
    again: Option<Instant>,
    pause: Duration,
}

/// What it has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Word {
    /// Nothing yet.
    Nothing,
    /// That node leads, and is reached there.
    Leads(NodeId, String),
    /// This one is of no use.
    Gone,
}

impl Scout {
    /// Dials; who does not say hello within `patience` is of no use.
    pub fn dial(
        endpoint: &str,
        keys: Option<&Keys>,
        token: Token,
        registry: &Registry,
        now: Instant,
        patience: Duration,
    ) -> io::Result<Scout> {
        let address = endpoint.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
        let socket = TcpStream::connect(address)?;
        let _if_not_it_is_slower = socket.set_nodelay(true);
        let mut stream = Stream::dialed(keys, socket, endpoint)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let mut output = BytesMut::new();
        Hello::client().put(&mut output);
        Ok(Scout {
            stream,
            endpoint: endpoint.to_owned(),
            node: None,
            output,
            input: BytesMut::new(),
            reader: FrameReader::default(),
            greeted_by: now + patience,
            again: None,
            pause: AGAIN,
        })
    }

    /// Closes it.
    pub fn recall(mut self, registry: &Registry) {
        let _either_way_it_is_dropped = registry.deregister(&mut self.stream);
    }

    /// When there is something to do by itself.
    pub fn deadline(&self) -> Option<Instant> {
        if self.node.is_none() { Some(self.greeted_by) } else { self.again }
    }

    /// Whom it was told of was known before: it is asked again a little later.
    pub fn ask_again(&mut self, now: Instant) {
        self.again = Some(now + self.pause);
        self.pause = (self.pause * 2).min(AGAIN_MAX);
    }

    /// Reads what there is, writes what it can.
    pub fn work(&mut self, now: Instant, scratch: &mut [u8]) -> Word {
        if self.again.is_some_and(|again| again <= now) {
            self.again = None;
            self.ask();
        }
        let word = match self.read(scratch) {
            Ok(word) => word,
            Err(error) => {
                log::debug!("{}: {error}", self.endpoint);
                return Word::Gone;
            }
        };
        if self.write().is_err() || (self.node.is_none() && self.greeted_by <= now) {
            return Word::Gone;
        }
        word
    }

    fn ask(&mut self) {
        let request = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
        put_request_frame(&mut self.output, 0, false, &request);
    }

    fn read(&mut self, scratch: &mut [u8]) -> io::Result<Word> {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.input.extend_from_slice(&scratch[..n]),
                Err(error) if waits(&error) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            let odd = |error: WireError| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
            let word = self.take_in().map_err(odd)?;
            if word != Word::Nothing {
                return Ok(word);
            }
        }
        Ok(Word::Nothing)
    }

    fn take_in(&mut self) -> Result<Word, WireError> {
        while let Some(frame) = self.reader.next(&mut self.input)? {
            let Some(node) = self.node else {
                self.node = Some(Welcome::read(frame)?.node);
                self.ask();
                continue;
            };
            let (number, reply) = read_reply_frame(frame)?;
            if number == NEWS {
                continue;
            }
            return Ok(match reply {
                Reply::Refused(Refusal::NotLeader { leader: Some(leader), address: Some(address), .. }) => {
                    Word::Leads(leader, address)
                }
                Reply::Answer { .. } => Word::Leads(node, self.endpoint.clone()),
                _ => Word::Gone,
            });
        }
        Ok(Word::Nothing)
    }

    fn write(&mut self) -> io::Result<()> {
        self.stream.pour(&mut self.output)
    }
}

/// Nothing to read, or not connected yet: an event says when there is.
fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}

#[cfg(test)]
mod tests;
