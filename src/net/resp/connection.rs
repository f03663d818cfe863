//! One connection: commands in, answers out, in the order of the commands.

use super::gateway::ClusterView;
use super::info;
use super::local::ClientState;
use super::reply::{self, Shape};
use crate::api::Reply;
use crate::machine::words::Answer;
use crate::pipeline::{NodeRequest, PendingRequest, RequestFate, RequestKind, RequestPipeline};
use crate::types::Time;
use crate::wire::resp::{CommandArgs, Reader, Version, Writer};
use bytes::{Bytes, BytesMut};

/// A transaction that is being said.
#[derive(Debug, Default)]
pub struct Block {
    /// Its commands.
    pub commands: Vec<CommandArgs>,
    /// How many bytes they have.
    pub bytes: usize,
    /// Whether one of them was wrong, so that none is carried out.
    pub spoiled: bool,
}

/// What is made of an answer, and in which words.
#[derive(Debug)]
pub struct ReplyFormat {
    /// Which replies its client understood when it asked: it may come to understand others before it is answered.
    pub version: Version,
    /// What is made of the answer.
    pub what: ReplyKind,
}

/// What is made of an answer.
#[derive(Debug)]
pub enum ReplyKind {
    /// A reply.
    One(Shape),
    /// A reply for each command of a block: what was known before, or what is made of the machine's next answer.
    Block(Vec<Element>),
    /// What `INFO` says of it, for those words.
    Info(CommandArgs, Box<ClusterView>),
}

/// One command of a block.
#[derive(Debug)]
pub enum Element {
    /// Its reply was known without the machine.
    Said(BytesMut),
    /// What is made of the machine's answer.
    Shape(Shape),
}

/// One connection.
#[derive(Debug)]
pub struct RedisConnection {
    /// What comes in.
    pub reader: Reader,
    /// Who it is with.
    pub guest: ClientState,
    /// The transaction that is being said.
    pub block: Option<Block>,
    /// What was asked and is not answered.
    pub pipeline: RequestPipeline<ReplyFormat>,
    /// What came was no command, and nothing more is heard: the rest is dropped, so that the error is read.
    pub broken: bool,
}

impl RedisConnection {
    /// A connection that has said nothing yet.
    pub fn new(guest: ClientState) -> RedisConnection {
        RedisConnection {
            reader: Reader::default(),
            guest,
            block: None,
            pipeline: RequestPipeline::default(),
            broken: false,
        }
    }

    /// A reply that is known, in its turn.
    pub fn say(&mut self, out: &mut BytesMut, said: BytesMut) {
        self.pipeline.tally.failures.extend(reply::failure(&said));
        self.pipeline.say(out, said);
    }

    /// An error, in its turn.
    pub fn complain(&mut self, out: &mut BytesMut, error: &str) {
        let said = self.said(|out| out.error(error));
        self.say(out, said);
    }

    /// A reply, not yet in its turn.
    pub fn said(&self, say: impl FnOnce(&mut Writer<'_>)) -> BytesMut {
        said(self.guest.version, say)
    }

    /// A command that the node has to answer.
    pub fn wait(&mut self, now: Time, kind: RequestKind, body: Bytes, what: ReplyKind) {
        self.pipeline.wait(PendingRequest::new(now, kind, body, ReplyFormat { version: self.guest.version, what }));
    }

    /// Says what is due, and what is wanted of the node now. `rests` is whether the client has too much to read.
    pub fn pump(&mut self, now: Time, out: &mut BytesMut, rests: bool, wants: &mut Vec<NodeRequest>) {
        self.pipeline.pump(now, out, rests, wants, &mut tell);
    }

    /// The node answers what was asked under that number.
    pub fn hear(&mut self, number: u64, reply: Reply) {
        self.pipeline.hear(number, reply, &mut tell);
    }
}

fn said(version: Version, say: impl FnOnce(&mut Writer<'_>)) -> BytesMut {
    let mut said = BytesMut::new();
    say(&mut Writer::new(&mut said, version));
    said
}

/// What became of a command, in Redis's words.
fn tell(pending: &PendingRequest<ReplyFormat>, fate: RequestFate<'_>) -> BytesMut {
    let error = |text: &str| said(pending.reading.version, |out| out.error(text));
    match fate {
        RequestFate::Answer(answer) => read(pending, answer),
        RequestFate::TooLong if reads(pending) => error(&reply::too_long_to_read()),
        RequestFate::TooLong => error(&reply::too_long()),
        RequestFate::Refused(refusal) => error(&reply::refusal(refusal)),
        RequestFate::Unknown => error(reply::UNKNOWN),
        RequestFate::OutOfTurn(who) => error(&format!("ERR {who} answered out of turn")),
        RequestFate::Status(_) => error("ERR the node answered out of turn"),
    }
}

/// Whether it changes nothing.
fn reads(pending: &PendingRequest<ReplyFormat>) -> bool {
    matches!(pending.kind, RequestKind::Read(_))
}

/// What is made of the machine's answer.
fn read(pending: &PendingRequest<ReplyFormat>, answer: Bytes) -> BytesMut {
    let version = pending.reading.version;
    let Ok(answer) = Answer::decode(answer) else {
        return said(version, |out| out.error("ERR an answer that cannot be read"));
    };
    said(version, |out| match (&pending.reading.what, answer) {
        (ReplyKind::One(_), Answer::Omitted) if reads(pending) => out.error(&reply::too_long_to_read()),
        (ReplyKind::One(shape), answer) => reply::tell(out, shape, &answer),
        (ReplyKind::Block(elements), Answer::Each(answers)) => {
            let mut answers = answers.iter();
            out.array(elements.len());
            for element in elements {
                match element {
                    Element::Said(said) => out.raw(said),
                    Element::Shape(shape) => {
                        let answer = answers.next().unwrap_or(&Answer::Malformed);
                        reply::tell(out, shape, answer);
                    }
                }
            }
        }
        (ReplyKind::Info(words, scene), Answer::Each(counts)) => match (&pending.kind, &counts[..]) {
            (RequestKind::StatusAnd(Some(status)), [Answer::Count(keys), Answer::Count(dated)]) => {
                out.bulk(info::tell(words, scene, status, (*keys, *dated)).as_bytes());
            }
            _ => out.error("ERR the node answered out of turn"),
        },
        _ => out.error("ERR the cluster answered out of turn"),
    })
}

#[cfg(test)]
mod tests;
