//! Every command: what it is called, how many words it has, and what it does.
//!
//! `COMMAND` says this table, and checks and dispatch go by it: what is not here is not known.

use super::asking::{self, Asked};
use super::small::{self, Small};
use crate::wire::resp::{Words, Writer};
use Does::{Answer, Ask, Turn};

/// A command.
#[derive(Debug)]
pub struct Spec {
    /// Its name, in small letters.
    pub name: &'static str,
    /// How many words it has, its name counted in; negative: at least so many.
    pub arity: i64,
    /// What clients may want to know of it.
    pub flags: &'static [&'static str],
    /// Which words are keys: the first, the last (negative: counted from the end), and every how many.
    pub keys: (i64, i64, i64),
    /// What it does.
    pub does: Does,
}

/// What a command does.
#[derive(Clone, Copy, Debug)]
pub enum Does {
    /// Something of the machine.
    Ask(for<'a> fn(&'a Words) -> Asked<'a>),
    /// Something that is answered here.
    Answer(Small),
    /// Something that concerns what else is said on the connection, or takes more than one question.
    Turn(Special),
}

/// What concerns the connection as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Special {
    /// `MULTI`
    Begin,
    /// `EXEC`
    Carry,
    /// `DISCARD`
    Drop,
    /// `WATCH`: not there, and it says so.
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
    does: Does,
) -> Spec {
    Spec { name, arity, flags, keys, does }
}

/// All of them, by name.
pub const COMMANDS: &[Spec] = &[
    row("append", 3, WRITE, ONE, Ask(asking::append)),
    row("asking", 1, SMALL, NONE, Answer(Small::Ok)),
    row("auth", -2, SMALL, NONE, Answer(Small::Auth)),
    row("client", -2, ADMIN, NONE, Answer(Small::Client)),
    row("cluster", -2, ADMIN, NONE, Answer(Small::Cluster)),
    row("command", -1, SMALL, NONE, Answer(Small::Command)),
    row("config", -2, ADMIN, NONE, Answer(Small::Config)),
    row("dbsize", 1, READ, NONE, Ask(asking::dbsize)),
    row("decr", 2, WRITE, ONE, Ask(asking::decr)),
    row("decrby", 3, WRITE, ONE, Ask(asking::decrby)),
    row("del", -2, FREE, ALL, Ask(asking::del)),
    row("discard", 1, SMALL, NONE, Turn(Special::Drop)),
    row("echo", 2, SMALL, NONE, Answer(Small::Echo)),
    row("exec", 1, SMALL, NONE, Turn(Special::Carry)),
    row("exists", -2, READ, ALL, Ask(asking::exists)),
    row("expire", -3, FREE, ONE, Ask(asking::expire)),
    row("expireat", -3, FREE, ONE, Ask(asking::expireat)),
    row("get", 2, READ, ONE, Ask(asking::get)),
    row("hello", -1, SMALL, NONE, Answer(Small::Hello)),
    row("incr", 2, WRITE, ONE, Ask(asking::incr)),
    row("incrby", 3, WRITE, ONE, Ask(asking::incrby)),
    row("info", -1, SMALL, NONE, Turn(Special::Info)),
    row("mget", -2, READ, ALL, Ask(asking::mget)),
    row("mset", -3, WRITE, (1, -1, 2), Ask(asking::mset)),
    row("multi", 1, SMALL, NONE, Turn(Special::Begin)),
    row("persist", 2, FREE, ONE, Ask(asking::persist)),
    row("pexpire", -3, FREE, ONE, Ask(asking::pexpire)),
    row("pexpireat", -3, FREE, ONE, Ask(asking::pexpireat)),
    row("ping", -1, SMALL, NONE, Answer(Small::Ping)),
    row("pttl", 2, READ, ONE, Ask(asking::pttl)),
    row("quit", -1, SMALL, NONE, Turn(Special::Quit)),
    row("readonly", 1, SMALL, NONE, Answer(Small::ReadOnly)),
    row("readwrite", 1, SMALL, NONE, Answer(Small::ReadWrite)),
    row("scan", -2, READ, NONE, Ask(asking::scan)),
    row("select", 2, SMALL, NONE, Answer(Small::Select)),
    row("set", -3, WRITE, ONE, Ask(asking::set)),
    row("strlen", 2, READ, ONE, Ask(asking::strlen)),
    row("ttl", 2, READ, ONE, Ask(asking::ttl)),
    row("type", 2, READ, ONE, Ask(asking::kind)),
    row("unlink", -2, FREE, ALL, Ask(asking::del)),
    row("watch", -2, SMALL, ALL, Turn(Special::Watch)),
];

/// The command of that name, however it is written.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    if name.len() > 16 {
        return None;
    }
    let name = name.to_ascii_lowercase();
    COMMANDS.binary_search_by(|spec| spec.name.as_bytes().cmp(&name)).ok().map(|at| &COMMANDS[at])
}

impl Spec {
    /// Whether it may have that many words.
    pub fn takes(&self, words: usize) -> bool {
        let words = words as i64;
        if self.arity < 0 { words >= -self.arity } else { words == self.arity }
    }

    /// The first key of such a command, if it has one.
    pub fn key<'a>(&self, words: &'a Words) -> Option<&'a [u8]> {
        usize::try_from(self.keys.0).ok().filter(|first| *first > 0).map(|first| words.at(first))
    }
}

/// `COMMAND`: all of them.
pub fn tell(out: &mut Writer<'_>) {
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

/// What is said of a command that is not known, in Redis' words.
pub fn unknown(words: &Words) -> String {
    let name = words.at(0);
    let name = name[..name.len().min(small::SHOWN)].escape_ascii();
    if ["eval", "eval_ro"].iter().any(|eval| words.at(0).eq_ignore_ascii_case(eval.as_bytes())) {
        // django-redis takes any error to EVAL for a sum that is too large, and counts by GET and SET instead, which loses
        // what others count meanwhile; but for those of a connection, which is what redis-py takes this kind for.
        return format!(
            "NOAUTH {name} is not supported: there are no scripts here, whatever the password. Nothing was applied"
        );
    }
    let mut shown = String::new();
    for word in words.from(1) {
        let room = small::SHOWN.saturating_sub(shown.len());
        if room == 0 {
            break;
        }
        shown += &format!("'{}' ", word[..word.len().min(room)].escape_ascii());
    }
    format!("ERR unknown command '{name}', with args beginning with: {shown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ascend_and_are_found_however_they_are_written() {
        assert!(COMMANDS.windows(2).all(|two| two[0].name < two[1].name));
        for spec in COMMANDS {
            let found = find(spec.name.to_ascii_uppercase().as_bytes()).unwrap();
            assert_eq!(found.name, spec.name);
            assert!(spec.keys.0 < spec.arity.abs(), "{}: its first key is there", spec.name);
        }
        assert!(find(b"flushall").is_none() && find(&[b'x'; 99]).is_none());
    }
}
