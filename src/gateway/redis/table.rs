//! The table of all commands: name, number of arguments, flags, keys and handler.
//!
//! `COMMAND` returns this table, and lookup, checks and dispatch use it: a command that is not in the table is unknown.

use super::commands::{self, TranslatedCommand};
use super::local_command::LocalCommand;
use crate::wire::resp::{CommandArgs, ReplyWriter};
use Handler::{Connection, Local, StateMachine};

/// The specification of a command, as listed by `COMMAND`, with its handler.
#[derive(Debug)]
pub struct CommandSpec {
    /// The name in lower case.
    pub name: &'static str,
    /// The number of arguments, including the name. A negative number is the minimum, negated.
    pub arity: i64,
    /// The flags that `COMMAND` reports, under Redis's names.
    pub flags: &'static [&'static str],
    /// The positions of the keys among the arguments: the first, the last (counted from the end if negative), and the
    /// step. All are 0 for a command without keys.
    pub key_positions: (i64, i64, i64),
    /// Which part of the node executes the command, with the function or the command of that part.
    pub handler: Handler,
}

/// The part of the node that handles a command.
#[derive(Clone, Copy, Debug)]
pub enum Handler {
    /// The state machine. The function translates the arguments into its command or query.
    StateMachine(for<'a> fn(&'a CommandArgs) -> TranslatedCommand<'a>),
    /// This node, without the state machine.
    Local(LocalCommand),
    /// The connection: the command affects later commands, or needs more than one request to the node.
    Connection(ConnectionCommand),
}

/// A command that the connection handles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectionCommand {
    /// `MULTI`
    Multi,
    /// `EXEC`
    Exec,
    /// `DISCARD`
    Discard,
    /// `WATCH`: not supported; the reply is an error.
    Watch,
    /// `QUIT`
    Quit,
    /// `INFO`
    Info,
}

/// Flags of commands that only read keys.
const READ_FLAGS: &[&str] = &["readonly", "fast"];
/// Flags of writes that may use more memory.
const WRITE_FLAGS: &[&str] = &["write", "denyoom", "fast"];
/// Flags of writes that use no more memory, and so are not denied when the memory is full.
const FREEING_WRITE_FLAGS: &[&str] = &["write", "fast"];
/// Flags of commands that neither read nor write keys.
const CONNECTION_FLAGS: &[&str] = &["loading", "stale", "fast"];
/// Flags of commands about the server and the cluster.
const ADMIN_FLAGS: &[&str] = &["admin", "loading", "stale"];
const NO_KEYS: (i64, i64, i64) = (0, 0, 0);
const FIRST_ARG_IS_KEY: (i64, i64, i64) = (1, 1, 1);
const ALL_ARGS_ARE_KEYS: (i64, i64, i64) = (1, -1, 1);

const fn spec(
    name: &'static str,
    arity: i64,
    flags: &'static [&'static str],
    key_positions: (i64, i64, i64),
    handler: Handler,
) -> CommandSpec {
    CommandSpec { name, arity, flags, key_positions, handler }
}

/// All commands, sorted by name.
pub const COMMANDS: &[CommandSpec] = &[
    spec("append", 3, WRITE_FLAGS, FIRST_ARG_IS_KEY, StateMachine(commands::append)),
    spec("asking", 1, CONNECTION_FLAGS, NO_KEYS, Local(LocalCommand::Asking)),
    spec("auth", -2, CONNECTION_FLAGS, NO_KEYS, Local(LocalCommand::Auth)),
    spec("client", -2, ADMIN_FLAGS, NO_KEYS, Local(LocalCommand::Client)),
    spec("cluster", -2, ADMIN_FLAGS, NO_KEYS, Local(LocalCommand::Cluster)),
    spec("command", -1, CONNECTION_FLAGS, NO_KEYS, Local(LocalCommand::Command)),
    spec("config", -2, ADMIN_FLAGS, NO_KEYS, Local(LocalCommand::Config)),
    spec("dbsize", 1, READ_FLAGS, NO_KEYS, StateMachine(commands::dbsize)),
    spec("decr", 2, WRITE_FLAGS, FIRST_ARG_IS_KEY, StateMachine(commands::decr)),
    spec("decrby", 3, WRITE_FLAGS, FIRST_ARG_IS_KEY, StateMachine(commands::decrby)),
    spec("del", -2, FREEING_WRITE_FLAGS, ALL_ARGS_ARE_KEYS, StateMachine(commands::del)),
    spec("discard", 1, CONNECTION_FLAGS, NO_KEYS, Connection(ConnectionCommand::Discard)),
    spec("echo", 2, CONNECTION_FLAGS, NO_KEYS, Local(LocalCommand::Echo)),
    spec("exec", 1, CONNECTION_FLAGS, NO_KEYS, Connection(ConnectionCommand::Exec)),
    spec("exists", -2, READ_FLAGS, ALL_ARGS_ARE_KEYS, StateMachine(commands::exists)),
    spec("expire", -3, FREEING_WRITE_FLAGS, FIRST_ARG_IS_KEY, StateMachine(commands::expire)),
    spec("expireat", -3, FREEING_WRITE_FLAGS, FIRST_ARG_IS_KEY, StateMachine(commands::expireat)),
    spec("get", 2, READ_FLAGS, FIRST_ARG_IS_KEY, StateMachine(commands::get)),
    spec("hello", -1, CONNECTION_FLAGS, NO_KEYS, Local(LocalCommand::Hello)),
    spec("incr", 2, WRITE_FLAGS, FIRST_ARG_IS_KEY, StateMachine(commands::incr)),
    spec("incrby", 3, WRITE_FLAGS, FIRST_ARG_IS_KEY, StateMachine(commands::incrby)),
    spec("info", -1, CONNECTION_FLAGS, NO_KEYS, Connection(ConnectionCommand::Info)),
    spec("mget", -2, READ_FLAGS, ALL_ARGS_ARE_KEYS, StateMachine(commands::mget)),
    spec("mset", -3, WRITE_FLAGS, (1, -1, 2), StateMachine(commands::mset)),
    spec("multi", 1, CONNECTION_FLAGS, NO_KEYS, Connection(ConnectionCommand::Multi)),
    spec("persist", 2, FREEING_WRITE_FLAGS, FIRST_ARG_IS_KEY, StateMachine(commands::persist)),
    spec("pexpire", -3, FREEING_WRITE_FLAGS, FIRST_ARG_IS_KEY, StateMachine(commands::pexpire)),
    spec("pexpireat", -3, FREEING_WRITE_FLAGS, FIRST_ARG_IS_KEY, StateMachine(commands::pexpireat)),
    spec("ping", -1, CONNECTION_FLAGS, NO_KEYS, Local(LocalCommand::Ping)),
    spec("pttl", 2, READ_FLAGS, FIRST_ARG_IS_KEY, StateMachine(commands::pttl)),
    spec("quit", -1, CONNECTION_FLAGS, NO_KEYS, Connection(ConnectionCommand::Quit)),
    spec("readonly", 1, CONNECTION_FLAGS, NO_KEYS, Local(LocalCommand::ReadOnly)),
    spec("readwrite", 1, CONNECTION_FLAGS, NO_KEYS, Local(LocalCommand::ReadWrite)),
    spec("scan", -2, READ_FLAGS, NO_KEYS, StateMachine(commands::scan)),
    spec("select", 2, CONNECTION_FLAGS, NO_KEYS, Local(LocalCommand::Select)),
    spec("set", -3, WRITE_FLAGS, FIRST_ARG_IS_KEY, StateMachine(commands::set)),
    spec("strlen", 2, READ_FLAGS, FIRST_ARG_IS_KEY, StateMachine(commands::strlen)),
    spec("ttl", 2, READ_FLAGS, FIRST_ARG_IS_KEY, StateMachine(commands::ttl)),
    spec("type", 2, READ_FLAGS, FIRST_ARG_IS_KEY, StateMachine(commands::key_type)),
    spec("unlink", -2, FREEING_WRITE_FLAGS, ALL_ARGS_ARE_KEYS, StateMachine(commands::del)),
    spec("watch", -2, CONNECTION_FLAGS, ALL_ARGS_ARE_KEYS, Connection(ConnectionCommand::Watch)),
];

/// Looks up a command by its name in any case; `None` if the command is unknown.
pub fn find_command(name: &[u8]) -> Option<&'static CommandSpec> {
    if name.len() > 16 {
        return None;
    }
    let name = name.to_ascii_lowercase();
    COMMANDS.binary_search_by(|spec| spec.name.as_bytes().cmp(&name)).ok().map(|at| &COMMANDS[at])
}

impl CommandSpec {
    /// Whether the command may have `count` arguments, including its name.
    pub fn accepts_arg_count(&self, count: usize) -> bool {
        let count = count as i64;
        if self.arity < 0 { count >= -self.arity } else { count == self.arity }
    }

    /// The first key among the arguments; `None` if the command has no keys.
    pub fn first_key<'a>(&self, args: &'a CommandArgs) -> Option<&'a [u8]> {
        usize::try_from(self.key_positions.0).ok().filter(|first| *first > 0).map(|first| args.at(first))
    }
}

/// `COMMAND`: writes the whole table as a reply.
pub fn put_command_table(out: &mut ReplyWriter<'_>) {
    out.array(COMMANDS.len());
    for CommandSpec { name, arity, flags, key_positions: (first, last, step), .. } in COMMANDS {
        out.array(6);
        out.bulk(name.as_bytes());
        out.integer(*arity);
        out.array(flags.len());
        flags.iter().for_each(|flag| out.simple_string(flag));
        [first, last, step].into_iter().for_each(|number| out.integer(*number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_sorted_and_found_in_any_case() {
        assert!(COMMANDS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for spec in COMMANDS {
            let found_spec = find_command(spec.name.to_ascii_uppercase().as_bytes()).unwrap();
            assert_eq!(found_spec.name, spec.name);
            assert!(
                spec.key_positions.0 < spec.arity.abs(),
                "{}: the first key is among the required arguments",
                spec.name
            );
        }
        assert!(find_command(b"flushall").is_none() && find_command(&[b'x'; 99]).is_none());
    }
}
