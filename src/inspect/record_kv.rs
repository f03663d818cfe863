//! Describes a command of the key-value state machine, as text and as JSON fields, for `dump` and `diff`.

use super::record_text::{Fields, RecordText, Style, quote, text_or_base64};
use crate::machine::commands::{Command, CommandOrQuery, Deadline, Expiration, ExpireCondition, Query, SetCondition};
use bytes::Bytes;

/// Describes a command. A value appears in the text as the style says, and in full in the JSON fields.
pub fn describe_command(command: &Command<'_>, style: Style) -> RecordText {
    let show = |bytes: &[u8]| quote(bytes, style);
    let mut record = RecordText::default();
    let fields = &mut record.fields;
    let key: &[u8] = match command {
        Command::Put { key, value } => {
            record.name = "put";
            record.content = format!("{} = {}", show(key), show(value));
            (fields.value, fields.value_b64) = text_or_base64(value);
            key
        }
        Command::Del { key } => {
            record.name = "del";
            record.content = show(key);
            key
        }
        Command::Cas { key, expected, new } => {
            record.name = "cas";
            let expected_text = expected.map_or("absent".to_owned(), show);
            record.content = format!("{} {expected_text} -> {}", show(key), show(new));
            (fields.old, fields.old_b64) = expected.map_or((None, None), text_or_base64);
            (fields.value, fields.value_b64) = text_or_base64(new);
            key
        }
        Command::Incr { key, by } => {
            record.name = "incr";
            record.content = format!("{} by {by}", show(key));
            fields.by = Some(*by);
            key
        }
        Command::Set { key, value, only_if, expiration, returns_previous } => {
            record.name = "set";
            record.content =
                format!("{} = {}{}", show(key), show(value), set_clauses(*only_if, *expiration, *returns_previous));
            (fields.value, fields.value_b64) = text_or_base64(value);
            (fields.ttl_ms, fields.until_ms) = ttl_fields(*expiration);
            key
        }
        Command::Append { key, tail } => {
            record.name = "append";
            record.content = format!("{} + {}", show(key), show(tail));
            (fields.value, fields.value_b64) = text_or_base64(tail);
            key
        }
        Command::Expire { key, deadline, condition } => {
            record.name = "expire";
            record.content = format!("{}{}{}", show(key), deadline_text(*deadline), condition_text(*condition));
            (fields.ttl_ms, fields.until_ms) = ttl_fields(Expiration::Until(*deadline));
            key
        }
        Command::Persist { key } => {
            record.name = "persist";
            record.content = show(key);
            key
        }
        Command::DelKeys(keys) => return describe_commands("del", keys.iter().map(|key| Command::Del { key }), style),
        Command::PutAll(pairs) => {
            return describe_commands("mset", pairs.iter().map(|(key, value)| Command::Put { key, value }), style);
        }
        Command::Batch(commands) => {
            return join_records("batch", commands.iter().map(|command| describe_command(command, style)));
        }
        Command::Block(steps) => return join_records("block", steps.iter().map(|step| describe_step(step, style))),
    };
    (fields.key, fields.key_b64) = text_or_base64(key);
    record.keys = vec![Bytes::copy_from_slice(key)];
    record
}

fn set_clauses(only_if: SetCondition, expiration: Expiration, returns_previous: bool) -> String {
    let condition = match only_if {
        SetCondition::Always => "",
        SetCondition::Absent => " if absent",
        SetCondition::Present => " if present",
    };
    let expiration = match expiration {
        Expiration::Endless => String::new(),
        Expiration::KeepTtl => " keeping its deadline".to_owned(),
        Expiration::Until(deadline) => deadline_text(deadline),
    };
    format!("{condition}{expiration}{}", if returns_previous { " telling the old" } else { "" })
}

fn deadline_text(deadline: Deadline) -> String {
    match deadline {
        Deadline::At(time) => format!(" until {}ms", time.0),
        Deadline::InMs(ms) => format!(" for {ms}ms"),
    }
}

/// The JSON fields `ttl_ms` and `until_ms`.
fn ttl_fields(expiration: Expiration) -> (Option<u64>, Option<u64>) {
    match expiration {
        Expiration::Endless | Expiration::KeepTtl => (None, None),
        Expiration::Until(Deadline::InMs(ms)) => (Some(ms), None),
        Expiration::Until(Deadline::At(time)) => (None, Some(time.0)),
    }
}

fn condition_text(condition: ExpireCondition) -> String {
    let presence_text =
        condition.must_have_deadline.map_or("", |required| if required { " if it has one" } else { " if it has none" });
    let order_text = condition.must_be_later.map_or("", |later| if later { " if later" } else { " if earlier" });
    format!("{presence_text}{order_text}")
}

fn describe_step(step: &CommandOrQuery<'_>, style: Style) -> RecordText {
    let query = match step {
        CommandOrQuery::Command(command) => return describe_command(command, style),
        CommandOrQuery::Query(query) => query,
    };
    let (name, keys): (_, Vec<&[u8]>) = match query {
        Query::Get { key } => ("get", vec![key]),
        Query::Scan { prefix, .. } => ("scan", vec![prefix]),
        Query::Count => ("count", vec![]),
        Query::Values(keys) => ("mget", keys.clone()),
        Query::CountPresent(keys) => ("exists", keys.clone()),
        Query::Length { key } => ("strlen", vec![key]),
        Query::TimeToLive { key } => ("ttl", vec![key]),
        Query::Keyspace => ("keyspace", vec![]),
        Query::Walk { prefix, .. } => ("walk", vec![prefix]),
    };
    let content = keys.iter().map(|key| quote(key, style)).collect::<Vec<_>>().join(" ");
    let fields = Fields { what: Some(content.clone()), ..Fields::default() };
    RecordText { name, content, fields, ..RecordText::default() }
}

/// Describes a command on several keys: as one command per key.
fn describe_commands<'a>(name: &'static str, commands: impl Iterator<Item = Command<'a>>, style: Style) -> RecordText {
    let records: Vec<RecordText> = commands.map(|command| describe_command(&command, style)).collect();
    let content = records.iter().map(|record| record.content.clone()).collect::<Vec<_>>().join(" ");
    RecordText { content, ..join_records(name, records.into_iter()) }
}

fn join_records(name: &'static str, records: impl Iterator<Item = RecordText>) -> RecordText {
    let records: Vec<RecordText> = records.collect();
    let texts: Vec<String> = records.iter().map(|record| format!("{} {}", record.name, record.content)).collect();
    let keys = records.iter().flat_map(|record| record.keys.clone()).collect();
    let commands = records.into_iter().map(|record| Fields { name: Some(record.name), ..record.fields }).collect();
    let fields = Fields { commands: Some(commands), ..Fields::default() };
    RecordText { name, keys, content: texts.join("; "), fields, ..RecordText::default() }
}
