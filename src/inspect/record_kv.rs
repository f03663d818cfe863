//! A command of the key-value state machine as text and as JSON fields.

use super::record_text::{Fields, RecordText, Style, quoted, text};
use crate::machine::commands::{Command, Deadline, Expiration, ExpireCondition, Query, SetCondition, Step};
use bytes::Bytes;

/// Decodes a command.
pub fn command(command: &Command<'_>, style: Style) -> RecordText {
    let show = |bytes: &[u8]| quoted(bytes, style);
    let mut said = RecordText::default();
    let fields = &mut said.fields;
    let key: &[u8] = match command {
        Command::Put { key, value } => {
            said.name = "put";
            said.what = format!("{} = {}", show(key), show(value));
            (fields.value, fields.value_b64) = text(value);
            key
        }
        Command::Del { key } => {
            said.name = "del";
            said.what = show(key);
            key
        }
        Command::Cas { key, expected, new } => {
            said.name = "cas";
            let old = expected.map_or("absent".to_owned(), show);
            said.what = format!("{} {old} -> {}", show(key), show(new));
            (fields.old, fields.old_b64) = expected.map_or((None, None), text);
            (fields.value, fields.value_b64) = text(new);
            key
        }
        Command::Incr { key, by } => {
            said.name = "incr";
            said.what = format!("{} by {by}", show(key));
            fields.by = Some(*by);
            key
        }
        Command::Set { key, value, only_if, life, tells } => {
            said.name = "set";
            said.what = format!("{} = {}{}", show(key), show(value), condition(*only_if, *life, *tells));
            (fields.value, fields.value_b64) = text(value);
            (fields.ttl_ms, fields.until_ms) = lasts(*life);
            key
        }
        Command::Append { key, tail } => {
            said.name = "append";
            said.what = format!("{} + {}", show(key), show(tail));
            (fields.value, fields.value_b64) = text(tail);
            key
        }
        Command::Expire { key, deadline, bar } => {
            said.name = "expire";
            said.what = format!("{}{}{}", show(key), when(*deadline), barred(*bar));
            (fields.ttl_ms, fields.until_ms) = lasts(Expiration::Until(*deadline));
            key
        }
        Command::Persist { key } => {
            said.name = "persist";
            said.what = show(key);
            key
        }
        Command::Forget(keys) => return many("del", keys.iter().map(|key| Command::Del { key }), style),
        Command::PutAll(pairs) => {
            return many("mset", pairs.iter().map(|(key, value)| Command::Put { key, value }), style);
        }
        Command::Batch(commands) => return together("batch", commands.iter().map(|one| self::command(one, style))),
        Command::Block(steps) => return together("block", steps.iter().map(|one| step(one, style))),
    };
    (fields.key, fields.key_b64) = text(key);
    said.keys = vec![Bytes::copy_from_slice(key)];
    said
}

fn condition(only_if: SetCondition, life: Expiration, tells: bool) -> String {
    let presence = match only_if {
        SetCondition::Either => "",
        SetCondition::Absent => " if absent",
        SetCondition::Present => " if present",
    };
    let life = match life {
        Expiration::Endless => String::new(),
        Expiration::Kept => " keeping its deadline".to_owned(),
        Expiration::Until(deadline) => when(deadline),
    };
    format!("{presence}{life}{}", if tells { " telling the old" } else { "" })
}

fn when(deadline: Deadline) -> String {
    match deadline {
        Deadline::At(time) => format!(" until {}ms", time.0),
        Deadline::In(ms) => format!(" for {ms}ms"),
    }
}

fn lasts(life: Expiration) -> (Option<u64>, Option<u64>) {
    match life {
        Expiration::Endless | Expiration::Kept => (None, None),
        Expiration::Until(Deadline::In(ms)) => (Some(ms), None),
        Expiration::Until(Deadline::At(time)) => (None, Some(time.0)),
    }
}

fn barred(bar: ExpireCondition) -> String {
    let one = bar.has_one.map_or("", |one| if one { " if it has one" } else { " if it has none" });
    let later = bar.later.map_or("", |later| if later { " if later" } else { " if earlier" });
    format!("{one}{later}")
}

fn step(step: &Step<'_>, style: Style) -> RecordText {
    let query = match step {
        Step::Do(one) => return command(one, style),
        Step::Ask(query) => query,
    };
    let (name, keys): (_, Vec<&[u8]>) = match query {
        Query::Get { key } => ("get", vec![key]),
        Query::Scan { prefix, .. } => ("scan", vec![prefix]),
        Query::Count => ("count", vec![]),
        Query::Values(keys) => ("mget", keys.clone()),
        Query::Present(keys) => ("exists", keys.clone()),
        Query::Length { key } => ("strlen", vec![key]),
        Query::Left { key } => ("ttl", vec![key]),
        Query::Keyspace => ("keyspace", vec![]),
        Query::Walk { prefix, .. } => ("walk", vec![prefix]),
    };
    let what = keys.iter().map(|key| quoted(key, style)).collect::<Vec<_>>().join(" ");
    let fields = Fields { what: Some(what.clone()), ..Fields::default() };
    RecordText { name, what, fields, ..RecordText::default() }
}

/// One command on many keys, each shown like a command of its own.
fn many<'a>(name: &'static str, commands: impl Iterator<Item = Command<'a>>, style: Style) -> RecordText {
    let said: Vec<RecordText> = commands.map(|one| command(&one, style)).collect();
    let what = said.iter().map(|one| one.what.clone()).collect::<Vec<_>>().join(" ");
    RecordText { what, ..together(name, said.into_iter()) }
}

fn together(name: &'static str, said: impl Iterator<Item = RecordText>) -> RecordText {
    let said: Vec<RecordText> = said.collect();
    let words: Vec<String> = said.iter().map(|one| format!("{} {}", one.name, one.what)).collect();
    let keys = said.iter().flat_map(|one| one.keys.clone()).collect();
    let commands = said.into_iter().map(|one| Fields { name: Some(one.name), ..one.fields }).collect();
    let fields = Fields { commands: Some(commands), ..Fields::default() };
    RecordText { name, keys, what: words.join("; "), fields, ..RecordText::default() }
}
