//! Checks a command, and dispatches it to its handler: the connection, this node, or the state machine.

use super::cluster;
use super::connection::{QueuedTransaction, RedisConnection, ReplyKind, TransactionReply};
use super::error;
use super::gateway::{ClusterView, FollowerPolicy, Options};
use super::reply::{self, ReplyShape};
use super::table::{self, CommandSpec, ConnectionCommand, Handler};
use crate::api::{Consistency, Refusal};
use crate::limits::{ENTRY_BYTES_MAX, RESP_COMMAND_BYTES_MAX};
use crate::machine::commands::{Command, CommandOrQuery, Query};
use crate::pipeline::RequestKind;
use crate::types::Time;
use crate::wire::resp::{CommandArgs, OversizedPart};
use bytes::BytesMut;

/// The circumstances in which a command is processed.
pub struct RequestContext<'a> {
    /// The current time. The time limit of the command starts now.
    pub now: Time,
    /// The password of the gateway, and its policy on a follower.
    pub options: &'a Options,
    /// Collects the node's view of its cluster. Called only by the commands that need it.
    pub cluster_view: &'a dyn Fn() -> ClusterView,
    /// Whether the node is stopping, so that commands for the state machine are refused.
    pub stopping: bool,
}

impl RequestContext<'_> {
    /// The error for a command for the state machine that this node must not pass on: the node is stopping, or
    /// redirects clients to the leader. `None` if the command may be passed on.
    fn redirect_error(&self, key: Option<&[u8]>) -> Option<String> {
        if self.stopping {
            return Some(reply::refusal_error(&Refusal::Stopping));
        }
        if self.options.follower_policy == FollowerPolicy::Forward {
            return None;
        }
        let cluster_view = (self.cluster_view)();
        let leader = cluster_view.leader.filter(|leader| *leader != cluster_view.node)?;
        let member = cluster_view.members.iter().find(|member| member.node == leader)?;
        Some(format!("MOVED {} {}:{}", cluster::key_slot(key?), member.host, member.port))
    }
}

/// Handles a command: adds the reply, or passes the command to the node. Returns false if the connection has to be
/// closed at once, because the input is an HTTP request: a page in a browser may have sent it to attack the node.
pub fn handle_command(
    connection: &mut RedisConnection,
    args: &CommandArgs,
    out: &mut BytesMut,
    context: &RequestContext<'_>,
) -> bool {
    let name = args.at(0);
    if name.eq_ignore_ascii_case(b"POST") || name.eq_ignore_ascii_case(b"Host:") {
        return false;
    }
    let checked_spec = match args.oversized_part() {
        Some(oversized_part) => Err(too_large_error(args, oversized_part)),
        None => check_command(connection, args),
    };
    let spec = match checked_spec {
        Ok(spec) => spec,
        Err(error) => {
            // An invalid EXEC ends the transaction, as in Redis.
            let ends_transaction = name.eq_ignore_ascii_case(b"EXEC")
                && connection.client.is_authenticated
                && args.oversized_part().is_none();
            if ends_transaction {
                connection.transaction = None;
            } else if let Some(transaction) = &mut connection.transaction {
                transaction.has_errors = true;
            }
            let abort_reason = error.strip_prefix("ERR ").filter(|_| ends_transaction);
            connection.push_error(
                out,
                &abort_reason
                    .map_or(error.clone(), |reason| format!("EXECABORT Transaction discarded because of: {reason}")),
            );
            return true;
        }
    };
    match spec.handler {
        Handler::Connection(command) => handle_connection_command(connection, command, args, out, context),
        _ if connection.transaction.is_some() => queue_command(connection, args, out),
        Handler::Local(local_command) => {
            let reply = local_command.execute(args, &mut connection.client, context.options, context.cluster_view);
            connection.push_reply(out, reply);
        }
        Handler::StateMachine(translate) => match translate(args) {
            Ok((step, shape)) => submit_to_node(connection, spec.first_key(args), step, shape, out, context),
            Err(error) => connection.push_error(out, &error),
        },
    }
    true
}

/// The error for a command that exceeds a size limit. The parser has skipped its arguments.
fn too_large_error(args: &CommandArgs, oversized_part: OversizedPart) -> String {
    let [name, key] = [0, 1].map(|n| args.at(n).escape_ascii());
    let key_text = if args.len() > 1 { format!(" '{key}'") } else { String::new() };
    match oversized_part {
        OversizedPart::Argument(bytes) => {
            format!(
                "ERR {name}{key_text}: an argument of {bytes} bytes is over the limit of {ENTRY_BYTES_MAX} bytes; \
                 nothing was applied"
            )
        }
        OversizedPart::Command => {
            format!(
                "ERR {name}{key_text}: the command is over the limit of {RESP_COMMAND_BYTES_MAX} bytes; \
                 nothing was applied"
            )
        }
    }
}

/// Looks up a command, and checks its number of arguments and whether the client is authenticated. Returns the error in
/// Redis's words.
fn check_command(connection: &RedisConnection, args: &CommandArgs) -> Result<&'static CommandSpec, String> {
    let spec = table::find_command(args.at(0)).ok_or_else(|| error::unknown_command(args));
    let allowed_unauthenticated = |spec: &CommandSpec| match spec.handler {
        Handler::Local(local_command) => local_command.is_allowed_unauthenticated(),
        Handler::Connection(command) => command == ConnectionCommand::Quit,
        Handler::StateMachine(_) => false,
    };
    if !connection.client.is_authenticated && !spec.as_ref().is_ok_and(|spec| allowed_unauthenticated(spec)) {
        return Err("NOAUTH Authentication required.".into());
    }
    let spec = spec?;
    if !spec.accepts_arg_count(args.len()) {
        return Err(format!("ERR wrong number of arguments for '{}' command", spec.name));
    }
    if let Handler::Local(local_command) = spec.handler {
        local_command.check_subcommand(args)?;
    }
    Ok(spec)
}

/// Passes a command or query for the state machine to the node, or redirects the client. A query is answered locally
/// after `READONLY`.
fn submit_to_node(
    connection: &mut RedisConnection,
    key: Option<&[u8]>,
    step: CommandOrQuery<'_>,
    shape: ReplyShape,
    out: &mut BytesMut,
    context: &RequestContext<'_>,
) {
    let reads_locally =
        connection.client.reads_locally && matches!(step, CommandOrQuery::Query(_)) && !context.stopping;
    if !reads_locally && let Some(redirect) = context.redirect_error(key) {
        return connection.push_error(out, &redirect);
    }
    let (kind, body) = match step {
        CommandOrQuery::Command(command) => (RequestKind::Write(None), command.encode()),
        CommandOrQuery::Query(query) => {
            let consistency = if reads_locally { Consistency::Local } else { Consistency::Linearizable };
            (RequestKind::Read(consistency), query.encode())
        }
    };
    connection.push_command(context.now, kind, body, ReplyKind::Single(shape));
}

/// Handles a command of the connection itself, such as `MULTI`, depending on whether a transaction is open.
fn handle_connection_command(
    connection: &mut RedisConnection,
    command: ConnectionCommand,
    args: &CommandArgs,
    out: &mut BytesMut,
    context: &RequestContext<'_>,
) {
    match (command, connection.transaction.is_some()) {
        (ConnectionCommand::Multi, false) => {
            connection.transaction = Some(QueuedTransaction::default());
            let reply = connection.encode(|out| out.simple_string("OK"));
            connection.push_reply(out, reply);
        }
        (ConnectionCommand::Multi, true) => connection.push_error(out, "ERR MULTI calls can not be nested"),
        (ConnectionCommand::Exec, false) => connection.push_error(out, "ERR EXEC without MULTI"),
        (ConnectionCommand::Discard, false) => connection.push_error(out, "ERR DISCARD without MULTI"),
        (ConnectionCommand::Discard, true) => {
            connection.transaction = None;
            let reply = connection.encode(|out| out.simple_string("OK"));
            connection.push_reply(out, reply);
        }
        (ConnectionCommand::Exec, true) => execute_transaction(connection, out, context),
        (ConnectionCommand::Watch, true) => connection.push_error(out, "ERR WATCH inside MULTI is not allowed"),
        (ConnectionCommand::Watch, false) => connection.push_error(out, "ERR WATCH is not supported"),
        (ConnectionCommand::Quit, _) => {
            let reply = connection.encode(|out| out.simple_string("OK"));
            connection.push_reply(out, reply);
            connection.pipeline.closes_when_empty = true;
        }
        (ConnectionCommand::Info, true) => {
            connection.transaction.iter_mut().for_each(|transaction| transaction.has_errors = true);
            connection.push_error(out, "ERR Command not allowed inside a transaction");
        }
        (ConnectionCommand::Info, false) => {
            let reply_kind = ReplyKind::Info(args.to_owned_copy(), Box::new((context.cluster_view)()));
            connection.push_command(
                context.now,
                RequestKind::StatusThenRead(None),
                Query::Keyspace.encode(),
                reply_kind,
            );
        }
    }
}

/// Queues a command of an open transaction until `EXEC`. Above the size limit, the transaction is marked as rejected.
fn queue_command(connection: &mut RedisConnection, args: &CommandArgs, out: &mut BytesMut) {
    let Some(transaction) = &mut connection.transaction else { return };
    let queued_args = args.to_owned_copy();
    transaction.memory_bytes += queued_args.memory_bytes() + size_of::<CommandArgs>();
    let bytes_max = 2 * ENTRY_BYTES_MAX;
    if transaction.memory_bytes > bytes_max as usize {
        // The transaction will not be executed, so its commands are dropped to free their memory.
        *transaction = QueuedTransaction {
            has_errors: true,
            memory_bytes: transaction.memory_bytes,
            ..QueuedTransaction::default()
        };
        return connection.push_error(
            out,
            &format!("ERR the transaction is over the limit of {bytes_max} bytes; nothing of it is applied"),
        );
    }
    transaction.commands.push(queued_args);
    let reply = connection.encode(|out| out.simple_string("QUEUED"));
    connection.push_reply(out, reply);
}

/// `EXEC`: executes the commands for the state machine as one log entry. The replies to invalid commands, and to
/// commands that this node answers alone, are encoded before the entry is proposed.
fn execute_transaction(connection: &mut RedisConnection, out: &mut BytesMut, context: &RequestContext<'_>) {
    let Some(transaction) = connection.transaction.take() else { return };
    if transaction.has_errors {
        return connection.push_error(out, "EXECABORT Transaction discarded because of previous errors.");
    }
    let (mut steps, mut elements, mut first_key) = (Vec::new(), Vec::new(), None);
    for args in &transaction.commands {
        let Some(spec) = table::find_command(args.at(0)) else { continue };
        elements.push(match spec.handler {
            Handler::StateMachine(translate) => match translate(args) {
                Ok((step, shape)) => {
                    first_key = first_key.or(spec.first_key(args));
                    steps.push(step);
                    TransactionReply::Shape(shape)
                }
                Err(error) => TransactionReply::Encoded(connection.encode(|out| out.error(&error))),
            },
            Handler::Local(local_command) => TransactionReply::Encoded(local_command.execute(
                args,
                &mut connection.client,
                context.options,
                context.cluster_view,
            )),
            Handler::Connection(_) => TransactionReply::Encoded(
                connection.encode(|out| out.error("ERR Command not allowed inside a transaction")),
            ),
        });
    }
    if let Some(redirect) = context.redirect_error(first_key) {
        return connection.push_error(out, &redirect);
    }
    if steps.is_empty() {
        let reply = connection.encode(|out| {
            out.array(elements.len());
            for element in &elements {
                if let TransactionReply::Encoded(reply) = element {
                    out.raw(reply);
                }
            }
        });
        return connection.push_reply(out, reply);
    }
    let body = Command::Block(steps).encode();
    connection.push_command(context.now, RequestKind::Write(None), body, ReplyKind::Transaction(elements));
}
