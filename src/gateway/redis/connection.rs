//! The state of one Redis connection: parser, client state, open transaction, and commands in progress. Replies are
//! sent in the order of the commands.

use super::gateway::ClusterView;
use super::info;
use super::local::ClientState;
use super::reply::{self, ReplyShape};
use crate::api::Reply;
use crate::machine::commands::Answer;
use crate::pipeline::{NodeRequest, PendingRequest, RequestFate, RequestKind, RequestPipeline};
use crate::types::Time;
use crate::wire::resp::{CommandArgs, CommandReader, ReplyWriter, RespVersion};
use bytes::{Bytes, BytesMut};

/// The commands between `MULTI` and `EXEC`, queued until `EXEC`.
#[derive(Debug, Default)]
pub struct QueuedTransaction {
    /// The queued commands, in order; empty if the transaction exceeds the size limit.
    pub commands: Vec<CommandArgs>,
    /// The memory of the commands in bytes, which counts toward that of the connection.
    pub memory_bytes: usize,
    /// Whether a command was rejected when it was queued, so that `EXEC` has to reject the transaction.
    pub has_errors: bool,
}

/// How the answer to a command is encoded, stored with the command while it waits for the node.
#[derive(Debug)]
pub struct ReplyFormat {
    /// The client's protocol version (RESP2 or RESP3) at the time of the command. The client may change it with `HELLO`
    /// before the reply.
    pub version: RespVersion,
    /// Whether it is the reply to a single command, to `EXEC` or to `INFO`.
    pub kind: ReplyKind,
}

/// What the reply to a command that the node answers is made of.
#[derive(Debug)]
pub enum ReplyKind {
    /// One reply, from the state machine's answer.
    Single(ReplyShape),
    /// The array of replies to `EXEC`, one for each command of the transaction.
    Transaction(Vec<TransactionReply>),
    /// The text of `INFO`, with the arguments of the command and the view of the cluster at its time.
    Info(CommandArgs, Box<ClusterView>),
}

/// The reply to one command of a transaction, before `EXEC` is answered.
#[derive(Debug)]
pub enum TransactionReply {
    /// The encoded reply, known without the state machine.
    Encoded(BytesMut),
    /// The reply is the state machine's next answer, in this shape.
    Shape(ReplyShape),
}

/// The protocol state of one Redis connection.
#[derive(Debug)]
pub struct RedisConnection {
    /// Parses commands from the input, and keeps the state of an incomplete command.
    pub reader: CommandReader,
    /// The settings of the client: protocol version, authentication, name.
    pub client: ClientState,
    /// The open transaction, between `MULTI` and `EXEC`; `None` outside.
    pub transaction: Option<QueuedTransaction>,
    /// The commands in progress, whose replies are sent in order.
    pub pipeline: RequestPipeline<ReplyFormat>,
    /// Whether the input was malformed. Further input is read and discarded, so that the client receives the error.
    pub input_malformed: bool,
}

impl RedisConnection {
    /// Creates a connection without a transaction or commands in progress.
    pub fn new(client: ClientState) -> RedisConnection {
        RedisConnection {
            reader: CommandReader::default(),
            client,
            transaction: None,
            pipeline: RequestPipeline::default(),
            input_malformed: false,
        }
    }

    /// Adds a reply that needs no answer of the node, behind the replies to earlier commands, and counts it if it is an
    /// error.
    pub fn push_reply(&mut self, out: &mut BytesMut, reply: BytesMut) {
        self.pipeline.tally.failures.extend(reply::classify_error(&reply));
        self.pipeline.push_reply(out, reply);
    }

    /// Adds an error as the reply to a command, behind the replies to earlier commands.
    pub fn push_error(&mut self, out: &mut BytesMut, error: &str) {
        let reply = self.encode(|out| out.error(error));
        self.push_reply(out, reply);
    }

    /// Encodes a reply in the client's protocol version, for the caller to add.
    pub fn encode(&self, write: impl FnOnce(&mut ReplyWriter<'_>)) -> BytesMut {
        encode(self.client.version, write)
    }

    /// Adds a command that the node has to answer. `body` is the encoded command or query.
    pub fn push_command(&mut self, now: Time, kind: RequestKind, body: Bytes, reply_kind: ReplyKind) {
        self.pipeline.push_request(PendingRequest::new(
            now,
            kind,
            body,
            ReplyFormat { version: self.client.version, kind: reply_kind },
        ));
    }

    /// Appends the replies that are due now to the output `out`, and the requests for the node to `requests`. If the
    /// client has too much unread output (`output_full`), no request is appended.
    pub fn pump(&mut self, now: Time, out: &mut BytesMut, output_full: bool, requests: &mut Vec<NodeRequest>) {
        self.pipeline.pump(now, out, output_full, requests, &mut encode_result);
    }

    /// Handles the node's reply to the request with the number `number`.
    pub fn handle_reply(&mut self, number: u64, reply: Reply) {
        self.pipeline.handle_reply(number, reply, &mut encode_result);
    }
}

fn encode(version: RespVersion, write: impl FnOnce(&mut ReplyWriter<'_>)) -> BytesMut {
    let mut out = BytesMut::new();
    write(&mut ReplyWriter::new(&mut out, version));
    out
}

/// Encodes the result of a command: the answer, or an error in Redis's words.
fn encode_result(pending: &PendingRequest<ReplyFormat>, fate: RequestFate<'_>) -> BytesMut {
    let encode_error = |text: &str| encode(pending.format.version, |out| out.error(text));
    match fate {
        RequestFate::Answer(answer) => encode_answer(pending, answer),
        RequestFate::AnswerTooLong if is_single_read(pending) => encode_error(&reply::read_too_long_error()),
        RequestFate::AnswerTooLong => encode_error(&reply::answer_too_long_error()),
        RequestFate::Refused(refusal) => encode_error(&reply::refusal_error(refusal)),
        RequestFate::Unknown => encode_error(reply::UNKNOWN_OUTCOME),
        RequestFate::UnexpectedReply(who) => encode_error(&format!("ERR {who} sent an unexpected answer")),
        RequestFate::Status(_) => encode_error("ERR the node sent an unexpected answer"),
    }
}

/// Whether the command is a single read. The client can then request less at a time if the answer is too long.
fn is_single_read(pending: &PendingRequest<ReplyFormat>) -> bool {
    matches!(pending.kind, RequestKind::Read(_))
}

/// Encodes the state machine's answer in the structure that the command expects.
fn encode_answer(pending: &PendingRequest<ReplyFormat>, answer: Bytes) -> BytesMut {
    let version = pending.format.version;
    let Ok(answer) = Answer::decode(answer) else {
        return encode(version, |out| out.error("ERR an answer that cannot be read"));
    };
    encode(version, |out| match (&pending.format.kind, answer) {
        (ReplyKind::Single(_), Answer::Omitted) if is_single_read(pending) => out.error(&reply::read_too_long_error()),
        (ReplyKind::Single(shape), answer) => reply::put_answer(out, shape, &answer),
        (ReplyKind::Transaction(elements), Answer::List(answers)) => {
            let mut answers = answers.iter();
            out.array(elements.len());
            for element in elements {
                match element {
                    TransactionReply::Encoded(reply) => out.raw(reply),
                    TransactionReply::Shape(shape) => {
                        let answer = answers.next().unwrap_or(&Answer::Malformed);
                        reply::put_answer(out, shape, answer);
                    }
                }
            }
        }
        (ReplyKind::Info(args, cluster_view), Answer::List(counts)) => match (&pending.kind, &counts[..]) {
            (RequestKind::StatusThenRead(Some(status)), [Answer::Count(keys), Answer::Count(with_expiry)]) => {
                out.bulk(info::render(args, cluster_view, status, (*keys, *with_expiry)).as_bytes());
            }
            _ => out.error("ERR the node sent an unexpected answer"),
        },
        _ => out.error("ERR the cluster sent an unexpected answer"),
    })
}

#[cfg(test)]
mod tests;
