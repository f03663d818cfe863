//! One command whose answer is due.

use super::door::Scene;
use super::telling::Shape;
use crate::api::{Consistency, Op, Refusal, Request, Status};
use crate::types::{SessionId, Time};
use crate::wire::resp::{Version, Words};
use bytes::{Bytes, BytesMut};

/// One command whose answer is due: answers leave in the order of the commands.
#[derive(Debug)]
pub enum Slot {
    /// The reply is here.
    Said(BytesMut),
    /// It is not.
    Waits(Box<Pending>),
}

/// What kind of question it is.
#[derive(Debug)]
pub enum Kind {
    /// Something to do, under that number in the session once it has one.
    Write(Option<(SessionId, u64)>),
    /// Something to answer.
    Read(Consistency),
    /// `INFO`: how the node is, and then how many keys there are.
    Info(Option<Box<Status>>),
}

/// What is made of the answer.
#[derive(Debug)]
pub enum Reading {
    /// A reply.
    One(Shape),
    /// A reply for each command of a block: what was known before, or what is made of the machine's next answer.
    Block(Vec<Element>),
    /// What `INFO` says of it, for those words.
    Info(Words, Box<Scene>),
}

/// One command of a block.
#[derive(Debug)]
pub enum Element {
    /// Its reply was known without the machine.
    Said(BytesMut),
    /// What is made of the machine's answer.
    Shape(Shape),
}

/// A command whose answer is not here.
#[derive(Debug)]
pub struct Pending {
    /// What kind of question it is.
    pub kind: Kind,
    /// What the machine is told, or asked.
    pub body: Bytes,
    /// What is made of the answer.
    pub reading: Reading,
    /// When it came.
    pub since: Time,
    /// Which replies its client understood then: it may come to understand others before this one is answered.
    pub version: Version,
    /// Whether it is under way.
    pub asked: bool,
    /// Whether some attempt may have taken effect.
    pub doubt: bool,
    /// Why the last attempt came to nothing.
    pub refusal: Option<Refusal>,
}

impl Pending {
    /// A command that came just now.
    pub fn new(now: Time, version: Version, kind: Kind, body: Bytes, reading: Reading) -> Pending {
        Pending { kind, body, reading, since: now, version, asked: false, doubt: false, refusal: None }
    }

    /// Whether it does something.
    pub fn is_write(&self) -> bool {
        matches!(self.kind, Kind::Write(_))
    }

    /// What is asked of the node; `lowest` is the lowest number in the session that is waited for.
    pub fn request(&self, lowest: u64) -> Request {
        match &self.kind {
            Kind::Write(number) => {
                let (session, seq) = number.expect("a write has its number before it is asked");
                let op = Op::Execute { session, seq, lowest: lowest.min(seq), command: self.body.clone() };
                Request::Propose { op: op.encode() }
            }
            Kind::Read(consistency) => Request::Query { query: self.body.clone(), consistency: *consistency },
            Kind::Info(None) => Request::Status,
            Kind::Info(Some(_)) => Request::Query { query: self.body.clone(), consistency: Consistency::Local },
        }
    }
}
