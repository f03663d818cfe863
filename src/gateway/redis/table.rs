//! The table of all commands: name, number of arguments, flags, keys and handler.
//!
//! `COMMAND` returns this table, and lookup, checks and dispatch use it: a command that is not in it is unknown.

use super::commands::{self, Translated};
use super::local_command::LocalCommand;
use crate::wire::resp::{CommandArgs, Writer};
use Handler::{Connection, Local, StateMachine};

/// A command.
#[derive(Debug)]
pub struct Spec {
    /// Its name, in lower case.
    pub name: &'static str,
    /// Its number of arguments, including its name. If negative, the minimum number.
    pub arity: i64,
    /// Its flags, as clients read them.
    pub flags: &'static [&'static str],
    /// Which arguments are keys: the first, the last (negative: counted from the end), and the step.
    pub keys: (i64, i64, i64),
    /// Its handler.
    pub does: Handler,
}

/// How a command is handled.
#[derive(Clone, Copy, Debug)]
pub enum Handler {
    /// By a command or query of the state machine.
    StateMachine(for<'a> fn(&'a CommandArgs) -> Translated<'a>),
    /// By an answer of this node.
    Local(LocalCommand),
    /// By the connection: the command affects other commands on it, or needs more than one request.
    Connection(Special),
}

/// A command that is handled by the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Special {
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

const READ: &[&str] = &["readonly", "fast"];
const WRITE: &[&str] = &["write", "denyoom", "fast"];
const FREE: &[&str] = &["write", "fast"];
const SMALL: &[&str] = &["loading", "stale", "fast"];
const ADMIN: &[&str] = &["admin", "loading", "stale"];
const NONE: (i64, i64, i64) = (0, 0, 0);
const ONE: (i64, i64, i64) = (1, 1, 1);
const ALL: (i64, i64, i64) = (1, -1, 1);

const fn row(
    name: &'static str,
    arity: i64,
    flags: &'static [&'static str],
    keys: (i64, i64, i64),
    does: Handler,
) -> Spec {
    Spec { name, arity, flags, keys, does }
}

/// All commands, sorted by name.
pub const COMMANDS: &[Spec] = &[
    row("append", 3, WRITE, ONE, StateMachine(commands::append)),
    row("asking", 1, SMALL, NONE, Local(LocalCommand::Ok)),
    row("auth", -2, SMALL, NONE, Local(LocalCommand::Auth)),
    row("client", -2, ADMIN, NONE, Local(LocalCommand::Client)),
    row("cluster", -2, ADMIN, NONE, Local(LocalCommand::Cluster)),
    row("command", -1, SMALL, NONE, Local(LocalCommand::Command)),
    row("config", -2, ADMIN, NONE, Local(LocalCommand::Config)),
    row("dbsize", 1, READ, NONE, StateMachine(commands::dbsize)),
    row("decr", 2, WRITE, ONE, StateMachine(commands::decr)),
    row("decrby", 3, WRITE, ONE, StateMachine(commands::decrby)),
    row("del", -2, FREE, ALL, StateMachine(commands::del)),
    row("discard", 1, SMALL, NONE, Connection(Special::Discard)),
    row("echo", 2, SMALL, NONE, Local(LocalCommand::Echo)),
    row("exec", 1, SMALL, NONE, Connection(Special::Exec)),
    row("exists", -2, READ, ALL, StateMachine(commands::exists)),
    row("expire", -3, FREE, ONE, StateMachine(commands::expire)),
    row("expireat", -3, FREE, ONE, StateMachine(commands::expireat)),
    row("get", 2, READ, ONE, StateMachine(commands::get)),
    row("hello", -1, SMALL, NONE, Local(LocalCommand::Hello)),
    row("incr", 2, WRITE, ONE, StateMachine(commands::incr)),
    row("incrby", 3, WRITE, ONE, StateMachine(commands::incrby)),
    row("info", -1, SMALL, NONE, Connection(Special::Info)),
    row("mget", -2, READ, ALL, StateMachine(commands::mget)),
    row("mset", -3, WRITE, (1, -1, 2), StateMachine(commands::mset)),
    row("multi", 1, SMALL, NONE, Connection(Special::Multi)),
    row("persist", 2, FREE, ONE, StateMachine(commands::persist)),
    row("pexpire", -3, FREE, ONE, StateMachine(commands::pexpire)),
    row("pexpireat", -3, FREE, ONE, StateMachine(commands::pexpireat)),
    row("ping", -1, SMALL, NONE, Local(LocalCommand::Ping)),
    row("pttl", 2, READ, ONE, StateMachine(commands::pttl)),
    row("quit", -1, SMALL, NONE, Connection(Special::Quit)),
    row("readonly", 1, SMALL, NONE, Local(LocalCommand::ReadOnly)),
    row("readwrite", 1, SMALL, NONE, Local(LocalCommand::ReadWrite)),
    row("scan", -2, READ, NONE, StateMachine(commands::scan)),
    row("select", 2, SMALL, NONE, Local(LocalCommand::Select)),
    row("set", -3, WRITE, ONE, StateMachine(commands::set)),
    row("strlen", 2, READ, ONE, StateMachine(commands::strlen)),
    row("ttl", 2, READ, ONE, StateMachine(commands::ttl)),
    row("type", 2, READ, ONE, StateMachine(commands::kind)),
    row("unlink", -2, FREE, ALL, StateMachine(commands::del)),
    row("watch", -2, SMALL, ALL, Connection(Special::Watch)),
];

/// Looks up a command, ignoring case.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    if name.len() > 16 {
        return None;
    }
    let name = name.to_ascii_lowercase();
    COMMANDS.binary_search_by(|spec| spec.name.as_bytes().cmp(&name)).ok().map(|at| &COMMANDS[at])
}

impl Spec {
    /// Whether it may have that many arguments.
    pub fn takes(&self, words: usize) -> bool {
        let words = words as i64;
        if self.arity < 0 { words >= -self.arity } else { words == self.arity }
    }

    /// The first key of the command, if it has one.
    pub fn key<'a>(&self, words: &'a CommandArgs) -> Option<&'a [u8]> {
        usize::try_from(self.keys.0).ok().filter(|first| *first > 0).map(|first| words.at(first))
    }
}

/// `COMMAND`: writes the whole table.
pub fn put_table(out: &mut Writer<'_>) {
    out.array(COMMANDS.len());
    for Spec { name, arity, flags, keys: (first, last, step), .. } in COMMANDS {
        out.array(6);
        out.bulk(name.as_bytes());
        out.integer(*arity);
        out.array(flags.len());
        flags.iter().for_each(|flag| out.line(flag));
        [first, last, step].into_iter().for_each(|number| out.integer(*number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_sorted_and_found_in_any_case() {
        assert!(COMMANDS.windows(2).all(|two| two[0].name < two[1].name));
        for spec in COMMANDS {
            let found = find(spec.name.to_ascii_uppercase().as_bytes()).unwrap();
            assert_eq!(found.name, spec.name);
            assert!(spec.keys.0 < spec.arity.abs(), "{}: the first key is among the required arguments", spec.name);
        }
        assert!(find(b"flushall").is_none() && find(&[b'x'; 99]).is_none());
    }
}
