//! One Redis connection: commands are answered in order.

use super::gateway::ClusterView;
use super::info;
use super::local::ClientState;
use super::reply::{self, ReplyShape};
use crate::api::Reply;
use crate::machine::commands::Answer;
use crate::pipeline::{NodeRequest, PendingRequest, RequestFate, RequestKind, RequestPipeline};
use crate::types::Time;
use crate::wire::resp::{CommandArgs, Reader, Version, Writer};
use bytes::{Bytes, BytesMut};

/// A transaction that is being queued.
#[derive(Debug, Default)]
pub struct Block {
    /// Its commands.
    pub commands: Vec<CommandArgs>,
    /// The size of its commands in bytes.
    pub bytes: usize,
    /// Whether one of its commands was wrong, so that `EXEC` has to reject the transaction.
    pub spoiled: bool,
}

/// How an answer is encoded.
#[derive(Debug)]
pub struct ReplyFormat {
    /// The client's protocol version at the time of the command. The client may change it before the reply.
    pub version: Version,
    /// The kind of reply.
    pub what: ReplyKind,
}

/// The kind of reply.
#[derive(Debug)]
pub enum ReplyKind {
    /// A single reply.
    One(ReplyShape),
    /// One reply for each command of a transaction: a reply that was known before, or the machine's next answer.
    Block(Vec<Element>),
    /// The text of `INFO`, for those arguments.
    Info(CommandArgs, Box<ClusterView>),
}

/// The reply to one command of a transaction.
#[derive(Debug)]
pub enum Element {
    /// It was known without the state machine.
    Encoded(BytesMut),
    /// The shape of the reply to the state machine's answer.
    Shape(ReplyShape),
}

/// One Redis connection.
#[derive(Debug)]
pub struct RedisConnection {
    /// Parses its input.
    pub reader: Reader,
    /// The state of its client.
    pub guest: ClientState,
    /// The transaction that is being queued, if any.
    pub block: Option<Block>,
    /// The commands that are not answered yet.
    pub pipeline: RequestPipeline<ReplyFormat>,
    /// Whether its input was malformed. The rest of it is read and discarded, so that the client can read the error.
    pub broken: bool,
}

impl RedisConnection {
    /// A new connection.
    pub fn new(guest: ClientState) -> RedisConnection {
        RedisConnection {
            reader: Reader::default(),
            guest,
            block: None,
            pipeline: RequestPipeline::default(),
            broken: false,
        }
    }

    /// Adds a known reply, in order.
    pub fn push_reply(&mut self, out: &mut BytesMut, reply: BytesMut) {
        self.pipeline.tally.failures.extend(reply::failure(&reply));
        self.pipeline.push_reply(out, reply);
    }

    /// Adds an error reply, in order.
    pub fn complain(&mut self, out: &mut BytesMut, error: &str) {
        let reply = self.encode(|out| out.error(error));
        self.push_reply(out, reply);
    }

    /// Encodes a reply without adding it.
    pub fn encode(&self, write: impl FnOnce(&mut Writer<'_>)) -> BytesMut {
        encode(self.guest.version, write)
    }

    /// Adds a command that the node has to answer.
    pub fn wait(&mut self, now: Time, kind: RequestKind, body: Bytes, what: ReplyKind) {
        self.pipeline.push_request(PendingRequest::new(
            now,
            kind,
            body,
            ReplyFormat { version: self.guest.version, what },
        ));
    }

    /// Writes the replies that are due to `out`, and adds the requests to send now to `wants`. `rests` is whether the
    /// client has too much output to read.
    pub fn pump(&mut self, now: Time, out: &mut BytesMut, rests: bool, wants: &mut Vec<NodeRequest>) {
        self.pipeline.pump(now, out, rests, wants, &mut encode_result);
    }

    /// Handles the node's answer to the request of that number.
    pub fn handle_reply(&mut self, number: u64, reply: Reply) {
        self.pipeline.handle_reply(number, reply, &mut encode_result);
    }
}

fn encode(version: Version, write: impl FnOnce(&mut Writer<'_>)) -> BytesMut {
    let mut out = BytesMut::new();
    write(&mut Writer::new(&mut out, version));
    out
}

/// Encodes the result of a command in Redis's words.
fn encode_result(pending: &PendingRequest<ReplyFormat>, fate: RequestFate<'_>) -> BytesMut {
    let error = |text: &str| encode(pending.format.version, |out| out.error(text));
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

/// Whether the command only reads.
fn reads(pending: &PendingRequest<ReplyFormat>) -> bool {
    matches!(pending.kind, RequestKind::Read(_))
}

/// Encodes the state machine's answer.
fn read(pending: &PendingRequest<ReplyFormat>, answer: Bytes) -> BytesMut {
    let version = pending.format.version;
    let Ok(answer) = Answer::decode(answer) else {
        return encode(version, |out| out.error("ERR an answer that cannot be read"));
    };
    encode(version, |out| match (&pending.format.what, answer) {
        (ReplyKind::One(_), Answer::Omitted) if reads(pending) => out.error(&reply::too_long_to_read()),
        (ReplyKind::One(shape), answer) => reply::put_answer(out, shape, &answer),
        (ReplyKind::Block(elements), Answer::Each(answers)) => {
            let mut answers = answers.iter();
            out.array(elements.len());
            for element in elements {
                match element {
                    Element::Encoded(reply) => out.raw(reply),
                    Element::Shape(shape) => {
                        let answer = answers.next().unwrap_or(&Answer::Malformed);
                        reply::put_answer(out, shape, answer);
                    }
                }
            }
        }
        (ReplyKind::Info(words, scene), Answer::Each(counts)) => match (&pending.kind, &counts[..]) {
            (RequestKind::StatusAnd(Some(status)), [Answer::Count(keys), Answer::Count(dated)]) => {
                out.bulk(info::render(words, scene, status, (*keys, *dated)).as_bytes());
            }
            _ => out.error("ERR the node answered out of turn"),
        },
        _ => out.error("ERR the cluster answered out of turn"),
    })
}

#[cfg(test)]
mod tests;
