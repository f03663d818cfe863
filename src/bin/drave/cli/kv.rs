//! `drave put`, `get`, `ttl`, `del`, `cas`, `incr`, `scan`: one command each on the key-value state machine.

use crate::output::outln;
use crate::remote::cluster::{Cluster, ms_since};
use crate::remote::failure::CliError;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use drave::api::Consistency;
use drave::client::Executed;
use drave::inspect::record_text::base64;
use drave::machine::commands::{Answer, Command, Deadline, Expiration, Query, SetCondition, TimeToLive};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// How fresh a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ReadConsistency {
    /// The latest committed state: the leader confirms with a quorum that it still leads.
    Linearizable,
    /// What the contacted node has applied, at once: stale while that node is cut off from the leader.
    Local,
}

/// Sets a key.
#[derive(Args, Debug)]
pub struct Put {
    key: OsString,
    #[arg(allow_hyphen_values = true)]
    value: OsString,
    /// The key's time to live, by the cluster's clock; default: the key does not expire
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    ttl: Option<Duration>,
    #[command(flatten)]
    cluster: Cluster,
}

/// Prints the value of a key as raw bytes; adds a newline only if the output is a terminal.
#[derive(Args, Debug)]
pub struct Get {
    key: OsString,
    /// How fresh the read must be
    #[arg(long, value_enum, default_value_t = ReadConsistency::Linearizable)]
    consistency: ReadConsistency,
    #[command(flatten)]
    cluster: Cluster,
}

/// Prints the remaining time to live of a key.
#[derive(Args, Debug)]
pub struct Ttl {
    key: OsString,
    /// How fresh the read must be
    #[arg(long, value_enum, default_value_t = ReadConsistency::Linearizable)]
    consistency: ReadConsistency,
    #[command(flatten)]
    cluster: Cluster,
}

/// Removes a key.
#[derive(Args, Debug)]
pub struct Del {
    key: OsString,
    #[command(flatten)]
    cluster: Cluster,
}

/// Sets a key if it has the expected value.
#[derive(Args, Debug)]
pub struct Cas {
    key: OsString,
    /// The expected value; empty together with --absent
    #[arg(allow_hyphen_values = true)]
    old: OsString,
    #[arg(allow_hyphen_values = true)]
    new: OsString,
    /// Expects that the key does not exist
    #[arg(long)]
    absent: bool,
    #[command(flatten)]
    cluster: Cluster,
}

/// Adds to the number in a key.
#[derive(Args, Debug)]
pub struct Incr {
    key: OsString,
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    by: i64,
    #[command(flatten)]
    cluster: Cluster,
}

/// Prints keys and their values, in order.
#[derive(Args, Debug)]
pub struct Scan {
    /// The prefix of the keys
    #[arg(default_value = "")]
    prefix: OsString,
    /// The maximum number of keys to print; default: all
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// How fresh the read must be
    #[arg(long, value_enum, default_value_t = ReadConsistency::Linearizable)]
    consistency: ReadConsistency,
    #[command(flatten)]
    cluster: Cluster,
}

/// The most keys that one scan request fetches: other clients' requests are served between two pages.
const SCAN_PAGE: u32 = 1000;

/// Parses a time to live. The cluster's clock counts it in milliseconds, so it is at least one.
fn lifetime(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match u64::try_from(duration.as_millis()) {
        Ok(1..) => Ok(duration),
        Ok(0) => Err("a time to live is at least one millisecond".into()),
        Err(_) => Err("the time to live is too long".into()),
    }
}

fn consistency(fresh: ReadConsistency) -> Consistency {
    match fresh {
        ReadConsistency::Linearizable => Consistency::Linearizable,
        ReadConsistency::Local => Consistency::Local,
    }
}

fn decode(answer: Bytes) -> Result<Answer, CliError> {
    Answer::decode(answer).map_err(|error| CliError { what: format!("cannot decode the answer: {error}"), code: 70 })
}

fn negative_result(what: String) -> CliError {
    CliError { what, code: 1 }
}

fn unexpected_answer(answer: &Answer) -> CliError {
    CliError { what: format!("the cluster sent an unexpected reply: {answer:?}"), code: 70 }
}

/// Executes a command. Returns where it was committed, its answer, and the milliseconds it took.
fn execute(cluster: &Cluster, command: &Command<'_>) -> Result<(Executed, Answer, f64), CliError> {
    let began = Instant::now();
    let executed = cluster.kv_client().execute(&command.encode()).map_err(|error| cluster.explain(error))?;
    let answer = decode(executed.answer.clone())?;
    Ok((executed, answer, ms_since(began)))
}

/// Prints where the command was committed, as text or JSON; `more` is added to the JSON object.
fn done(cluster: &Cluster, executed: &Executed, ms: f64, text: &str, more: Value) {
    if !cluster.json() {
        outln!("{text} {} ({ms} ms)", executed.position);
        return;
    }
    let mut line = json!({ "ok": true, "index": executed.position.index.0, "term": executed.position.term.0, "ms": ms,
        "duplicate": executed.duplicate });
    if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
    outln!("{line}");
}

/// `drave put`.
pub fn put(args: &Put) -> Result<(), CliError> {
    let (key, value) = (args.key.as_bytes(), args.value.as_bytes());
    let command = match args.ttl {
        None => Command::Put { key, value },
        Some(ttl) => {
            let life = Expiration::Until(Deadline::In(ttl.as_millis() as u64));
            Command::Set { key, value, only_if: SetCondition::Either, life, tells: false }
        }
    };
    let (executed, answer, ms) = execute(&args.cluster, &command)?;
    match answer {
        Answer::Done => done(&args.cluster, &executed, ms, "ok", json!({})),
        other => return Err(unexpected_answer(&other)),
    }
    Ok(())
}

/// `drave del`: exits with 1 if the key does not exist.
pub fn del(args: &Del) -> Result<(), CliError> {
    let (executed, answer, ms) = execute(&args.cluster, &Command::Del { key: args.key.as_bytes() })?;
    match answer {
        Answer::Deleted { existed: true } => done(&args.cluster, &executed, ms, "ok", json!({ "existed": true })),
        Answer::Deleted { existed: false } => return Err(negative_result(format!("{:?} did not exist", args.key))),
        other => return Err(unexpected_answer(&other)),
    }
    Ok(())
}

/// `drave cas`: exits with 1 if the key holds another value.
pub fn cas(args: &Cas) -> Result<(), CliError> {
    let expected = (!args.absent).then_some(args.old.as_bytes());
    let command = Command::Cas { key: args.key.as_bytes(), expected, new: args.new.as_bytes() };
    let (executed, answer, ms) = execute(&args.cluster, &command)?;
    match answer {
        Answer::Done => done(&args.cluster, &executed, ms, "ok", json!({})),
        Answer::Kept { actual: None } => {
            return Err(negative_result(format!("{:?} does not exist; nothing was changed", args.key)));
        }
        Answer::Kept { actual: Some(actual) } => {
            let actual = actual.escape_ascii();
            return Err(negative_result(format!("{:?} holds \"{actual}\"; nothing was changed", args.key)));
        }
        other => return Err(unexpected_answer(&other)),
    }
    Ok(())
}

/// `drave incr`: prints the key's new number.
pub fn incr(args: &Incr) -> Result<(), CliError> {
    let command = Command::Incr { key: args.key.as_bytes(), by: args.by };
    let (executed, answer, ms) = execute(&args.cluster, &command)?;
    match answer {
        Answer::Number(number) if args.cluster.json() => {
            done(&args.cluster, &executed, ms, "", json!({ "value": number }));
        }
        Answer::Number(number) => outln!("{number}"),
        Answer::NotANumber => {
            return Err(negative_result(format!("{:?} holds no decimal number; nothing was changed", args.key)));
        }
        Answer::Overflow => {
            return Err(negative_result(format!("{:?} would overflow 64 bits; nothing was changed", args.key)));
        }
        other => return Err(unexpected_answer(&other)),
    }
    Ok(())
}

/// `drave get`: prints the raw value, with a newline only on a terminal; exits with 1 if the key does not exist.
pub fn get(args: &Get) -> Result<(), CliError> {
    let query = Query::Get { key: args.key.as_bytes() };
    let queried = args.cluster.kv_client().query(&query.encode(), consistency(args.consistency));
    let queried = queried.map_err(|error| args.cluster.explain(error))?;
    let value = match decode(queried.answer)? {
        Answer::Value(value) => value,
        other => return Err(unexpected_answer(&other)),
    };
    let Some(value) = value else { return Err(negative_result(format!("{:?} does not exist", args.key))) };
    if args.cluster.json() {
        let mut line = json!({ "applied": queried.applied.0 });
        name(&mut line, "value", &value);
        outln!("{line}");
        return Ok(());
    }
    let mut stdout = std::io::stdout();
    let newline: &[u8] = if stdout.is_terminal() { b"\n" } else { b"" };
    let printed = stdout.write_all(&value).and_then(|()| stdout.write_all(newline)).and_then(|()| stdout.flush());
    printed.or_else(quietly)
}

/// `drave ttl`: prints the key's remaining time to live, or `none` if it has no deadline; exits with 1 if the key does
/// not exist.
pub fn ttl(args: &Ttl) -> Result<(), CliError> {
    let query = Query::Left { key: args.key.as_bytes() };
    let queried = args.cluster.kv_client().query(&query.encode(), consistency(args.consistency));
    let queried = queried.map_err(|error| args.cluster.explain(error))?;
    let left = match decode(queried.answer)? {
        Answer::Left(TimeToLive::Absent) => return Err(negative_result(format!("{:?} does not exist", args.key))),
        Answer::Left(TimeToLive::Endless) => None,
        Answer::Left(TimeToLive::Ms(ms)) => Some(ms),
        other => return Err(unexpected_answer(&other)),
    };
    if args.cluster.json() {
        outln!("{}", json!({ "applied": queried.applied.0, "ttl_ms": left }));
    } else {
        let left = left.map(|ms| humantime::format_duration(Duration::from_millis(ms)).to_string());
        outln!("{}", left.as_deref().unwrap_or("none"));
    }
    Ok(())
}

/// Sets `name` to the bytes if they are UTF-8, otherwise `name_b64` to their base64, as `dump` does.
fn name(line: &mut Value, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => line[name] = text.into(),
        Err(_) => line[format!("{name}_b64")] = base64(bytes).into(),
    }
}

/// A closed pipe is not an error: the reader of the output needs no more of it.
fn quietly(error: std::io::Error) -> Result<(), CliError> {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(CliError { what: format!("standard output: {error}"), code: 74 }),
    }
}

/// `drave scan`: prints a line per pair: key, tab, value, escaped as in Rust.
pub fn scan(args: &Scan) -> Result<(), CliError> {
    let mut client = args.cluster.kv_client();
    let (mut after, mut left) = (None::<Bytes>, args.limit.unwrap_or(u64::MAX));
    let mut stdout = std::io::stdout().lock();
    loop {
        let limit = left.min(SCAN_PAGE.into()) as u32;
        let query = Query::Scan { prefix: args.prefix.as_bytes(), after: after.as_deref(), limit };
        let queried = client.query(&query.encode(), consistency(args.consistency));
        let queried = queried.map_err(|error| args.cluster.explain(error))?;
        let (pairs, more) = match decode(queried.answer)? {
            Answer::Pairs { pairs, more } => (pairs, more),
            other => return Err(unexpected_answer(&other)),
        };
        for (key, value) in &pairs {
            let line = if args.cluster.json() {
                let mut line = json!({});
                name(&mut line, "key", key);
                name(&mut line, "value", value);
                line.to_string()
            } else {
                format!("{}\t{}", key.escape_ascii(), value.escape_ascii())
            };
            if let Err(error) = writeln!(stdout, "{line}") {
                return quietly(error);
            }
        }
        left -= pairs.len() as u64;
        after = pairs.last().map(|(key, _)| key.clone());
        if !more || pairs.is_empty() {
            break;
        }
        if left == 0 {
            eprintln!("there are more keys: --limit ended the output after {}", args.limit.unwrap_or_default());
            break;
        }
    }
    stdout.flush().or_else(quietly)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_base64_for_bytes_that_are_not_utf8() {
        let mut line = json!({});
        name(&mut line, "key", b"lunch");
        name(&mut line, "value", b"\xff\xfe");
        assert_eq!(line, json!({ "key": "lunch", "value_b64": "//4=" }));
    }
}
