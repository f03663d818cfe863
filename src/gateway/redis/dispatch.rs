//! Dispatches a command to its handler.

use super::cluster;
use super::connection::{Block, Element, RedisConnection, ReplyKind};
use super::error;
use super::gateway::{ClusterView, Follower, Options};
use super::reply::{self, ReplyShape};
use super::table::{self, Handler, Spec, Special};
use crate::api::{Consistency, Refusal};
use crate::limits::{ENTRY_BYTES_MAX, RESP_COMMAND_BYTES_MAX};
use crate::machine::commands::{Command, Query, Step};
use crate::pipeline::RequestKind;
use crate::types::Time;
use crate::wire::resp::{CommandArgs, Excess};
use bytes::BytesMut;

/// The context of a command.
pub struct RequestContext<'a> {
    /// When it is processed.
    pub now: Time,
    /// Options of the gateway.
    pub options: &'a Options,
    /// What the node knows of its cluster.
    pub scene: &'a dyn Fn() -> ClusterView,
    /// Whether the node refuses new requests because it is stopping.
    pub stopping: bool,
}

impl RequestContext<'_> {
    /// The error, if this node may not handle the command: the node is stopping, or the leader's gateway has to be
    /// used.
    fn elsewhere(&self, key: Option<&[u8]>) -> Option<String> {
        if self.stopping {
            return Some(reply::refusal(&Refusal::Stopping));
        }
        if self.options.follower == Follower::Forward {
            return None;
        }
        let scene = (self.scene)();
        let leader = scene.leader.filter(|leader| *leader != scene.node)?;
        let place = scene.places.iter().find(|place| place.node == leader)?;
        Some(format!("MOVED {} {}:{}", cluster::slot(key?), place.host, place.port))
    }
}

/// Handles a command: answers it in order, or passes it to the node. Returns false if the connection has to be closed
/// at once, because the client is a browser that was tricked into connecting.
pub fn handle_reply(
    talk: &mut RedisConnection,
    words: &CommandArgs,
    out: &mut BytesMut,
    setting: &RequestContext<'_>,
) -> bool {
    let name = words.at(0);
    if name.eq_ignore_ascii_case(b"POST") || name.eq_ignore_ascii_case(b"Host:") {
        return false;
    }
    let known = match words.excess() {
        Some(excess) => Err(too_large(words, excess)),
        None => known(talk, words),
    };
    let spec = match known {
        Ok(spec) => spec,
        Err(error) => {
            // An invalid EXEC ends the transaction, as in Redis.
            let ends = name.eq_ignore_ascii_case(b"EXEC") && talk.guest.known && words.excess().is_none();
            if ends {
                talk.block = None;
            } else if let Some(block) = &mut talk.block {
                block.spoiled = true;
            }
            let why = error.strip_prefix("ERR ").filter(|_| ends);
            talk.complain(
                out,
                &why.map_or(error.clone(), |why| format!("EXECABORT Transaction discarded because of: {why}")),
            );
            return true;
        }
    };
    match spec.does {
        Handler::Connection(special) => turn(talk, special, words, out, setting),
        _ if talk.block.is_some() => queue(talk, words, out),
        Handler::Local(small) => {
            let reply = small.answer(words, &mut talk.guest, setting.options, setting.scene);
            talk.push_reply(out, reply);
        }
        Handler::StateMachine(ask) => match ask(words) {
            Ok((step, shape)) => wait(talk, spec.key(words), step, shape, out, setting),
            Err(error) => talk.complain(out, &error),
        },
    }
    true
}

/// The error for a command that exceeds a size limit and was skipped.
fn too_large(words: &CommandArgs, excess: Excess) -> String {
    let [name, key] = [0, 1].map(|n| words.at(n).escape_ascii());
    let of = if words.len() > 1 { format!(" '{key}'") } else { String::new() };
    match excess {
        Excess::Argument(bytes) => {
            format!(
                "ERR {name}{of}: an argument of {bytes} bytes is over the limit of {ENTRY_BYTES_MAX} bytes; nothing was applied"
            )
        }
        Excess::Command => {
            format!(
                "ERR {name}{of}: the command is over the limit of {RESP_COMMAND_BYTES_MAX} bytes; nothing was applied"
            )
        }
    }
}

/// Looks up a command, and checks its number of arguments and whether the client is authenticated.
fn known(talk: &RedisConnection, words: &CommandArgs) -> Result<&'static Spec, String> {
    let spec = table::find(words.at(0)).ok_or_else(|| error::unknown(words));
    let open = |spec: &Spec| match spec.does {
        Handler::Local(small) => small.is_for_strangers(),
        Handler::Connection(special) => special == Special::Quit,
        Handler::StateMachine(_) => false,
    };
    if !talk.guest.known && !spec.as_ref().is_ok_and(|spec| open(spec)) {
        return Err("NOAUTH Authentication required.".into());
    }
    let spec = spec?;
    if !spec.takes(words.len()) {
        return Err(format!("ERR wrong number of arguments for '{}' command", spec.name));
    }
    if let Handler::Local(small) = spec.does {
        small.check(words)?;
    }
    Ok(spec)
}

/// Passes a command or query of the state machine to the node.
fn wait(
    talk: &mut RedisConnection,
    key: Option<&[u8]>,
    step: Step<'_>,
    shape: ReplyShape,
    out: &mut BytesMut,
    setting: &RequestContext<'_>,
) {
    let local = talk.guest.reads_locally && matches!(step, Step::Ask(_)) && !setting.stopping;
    if !local && let Some(moved) = setting.elsewhere(key) {
        return talk.complain(out, &moved);
    }
    let (kind, body) = match step {
        Step::Do(command) => (RequestKind::Write(None), command.encode()),
        Step::Ask(query) => {
            let consistency = if local { Consistency::Local } else { Consistency::Linearizable };
            (RequestKind::Read(consistency), query.encode())
        }
    };
    talk.wait(setting.now, kind, body, ReplyKind::One(shape));
}

fn turn(
    talk: &mut RedisConnection,
    special: Special,
    words: &CommandArgs,
    out: &mut BytesMut,
    setting: &RequestContext<'_>,
) {
    match (special, talk.block.is_some()) {
        (Special::Multi, false) => {
            talk.block = Some(Block::default());
            let reply = talk.encode(|out| out.line("OK"));
            talk.push_reply(out, reply);
        }
        (Special::Multi, true) => talk.complain(out, "ERR MULTI calls can not be nested"),
        (Special::Exec, false) => talk.complain(out, "ERR EXEC without MULTI"),
        (Special::Discard, false) => talk.complain(out, "ERR DISCARD without MULTI"),
        (Special::Discard, true) => {
            talk.block = None;
            let reply = talk.encode(|out| out.line("OK"));
            talk.push_reply(out, reply);
        }
        (Special::Exec, true) => carry(talk, out, setting),
        (Special::Watch, true) => talk.complain(out, "ERR WATCH inside MULTI is not allowed"),
        (Special::Watch, false) => talk.complain(out, "ERR WATCH is not supported"),
        (Special::Quit, _) => {
            let reply = talk.encode(|out| out.line("OK"));
            talk.push_reply(out, reply);
            talk.pipeline.leaving = true;
        }
        (Special::Info, true) => {
            talk.block.iter_mut().for_each(|block| block.spoiled = true);
            talk.complain(out, "ERR Command not allowed inside a transaction");
        }
        (Special::Info, false) => {
            let what = ReplyKind::Info(words.keep(), Box::new((setting.scene)()));
            talk.wait(setting.now, RequestKind::StatusAnd(None), Query::Keyspace.encode(), what);
        }
    }
}

/// Queues a command of a transaction until `EXEC`.
fn queue(talk: &mut RedisConnection, words: &CommandArgs, out: &mut BytesMut) {
    let Some(block) = &mut talk.block else { return };
    let kept = words.keep();
    block.bytes += kept.size() + size_of::<CommandArgs>();
    if block.bytes > 2 * ENTRY_BYTES_MAX as usize {
        // The commands are dropped, since the transaction will not be executed.
        *block = Block { spoiled: true, bytes: block.bytes, ..Block::default() };
        let limit = 2 * ENTRY_BYTES_MAX;
        return talk.complain(
            out,
            &format!("ERR the transaction is over the limit of {limit} bytes; nothing of it is applied"),
        );
    }
    block.commands.push(kept);
    let reply = talk.encode(|out| out.line("QUEUED"));
    talk.push_reply(out, reply);
}

/// `EXEC`: proposes the transaction as one log entry. Commands that are invalid, or need no state machine, are answered
/// here.
fn carry(talk: &mut RedisConnection, out: &mut BytesMut, setting: &RequestContext<'_>) {
    let Some(block) = talk.block.take() else { return };
    if block.spoiled {
        return talk.complain(out, "EXECABORT Transaction discarded because of previous errors.");
    }
    let (mut steps, mut elements, mut first) = (Vec::new(), Vec::new(), None);
    for words in &block.commands {
        let Some(spec) = table::find(words.at(0)) else { continue };
        elements.push(match spec.does {
            Handler::StateMachine(ask) => match ask(words) {
                Ok((step, shape)) => {
                    first = first.or(spec.key(words));
                    steps.push(step);
                    Element::Shape(shape)
                }
                Err(error) => Element::Encoded(talk.encode(|out| out.error(&error))),
            },
            Handler::Local(small) => {
                Element::Encoded(small.answer(words, &mut talk.guest, setting.options, setting.scene))
            }
            Handler::Connection(_) => {
                Element::Encoded(talk.encode(|out| out.error("ERR Command not allowed inside a transaction")))
            }
        });
    }
    if let Some(moved) = setting.elsewhere(first) {
        return talk.complain(out, &moved);
    }
    if steps.is_empty() {
        let reply = talk.encode(|out| {
            out.array(elements.len());
            for element in &elements {
                if let Element::Encoded(reply) = element {
                    out.raw(reply);
                }
            }
        });
        return talk.push_reply(out, reply);
    }
    let body = Command::Block(steps).encode();
    talk.wait(setting.now, RequestKind::Write(None), body, ReplyKind::Block(elements));
}
