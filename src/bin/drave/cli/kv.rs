//! `drave put`, `get`, `ttl`, `del`, `cas`, `incr`, `scan`: one command each on the key-value state machine.

use crate::output::outln;
use crate::remote::cluster::{ClusterArgs, ms_since};
use crate::remote::failure::CliError;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use drave::api::Consistency;
use drave::client::CommandResult;
use drave::inspect::record_text::base64;
use drave::machine::commands::{Answer, Command, Deadline, Expiration, Query, SetCondition, TimeToLive};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// Whether a read must see all acknowledged writes.
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
    #[arg(long, value_name = "DURATION", value_parser = parse_ttl)]
    ttl: Option<Duration>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Prints the value of a key as raw bytes; adds a newline only if the output is a terminal.
#[derive(Args, Debug)]
pub struct Get {
    key: OsString,
    /// How fresh the read must be
    #[arg(long, value_enum, default_value_t = ReadConsistency::Linearizable)]
    consistency: ReadConsistency,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Prints the remaining time to live of a key.
#[derive(Args, Debug)]
pub struct Ttl {
    key: OsString,
    /// How fresh the read must be
    #[arg(long, value_enum, default_value_t = ReadConsistency::Linearizable)]
    consistency: ReadConsistency,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Removes a key.
#[derive(Args, Debug)]
pub struct Del {
    key: OsString,
    #[command(flatten)]
    cluster: ClusterArgs,
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
    #[arg(long = "absent")]
    expects_absent: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Adds to the number in a key.
#[derive(Args, Debug)]
pub struct Incr {
    key: OsString,
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    by: i64,
    #[command(flatten)]
    cluster: ClusterArgs,
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
    cluster: ClusterArgs,
}

/// The maximum number of keys in one page of a scan: between two pages the node serves other requests.
const SCAN_PAGE_KEYS_MAX: u32 = 1000;

/// Parses a time to live of at least one millisecond, the unit of the cluster's clock.
fn parse_ttl(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match u64::try_from(duration.as_millis()) {
        Ok(1..) => Ok(duration),
        Ok(0) => Err("a time to live is at least one millisecond".into()),
        Err(_) => Err("the time to live is too long".into()),
    }
}

fn to_consistency(read_consistency: ReadConsistency) -> Consistency {
    match read_consistency {
        ReadConsistency::Linearizable => Consistency::Linearizable,
        ReadConsistency::Local => Consistency::Local,
    }
}

fn decode_answer(answer: Bytes) -> Result<Answer, CliError> {
    Answer::decode(answer).map_err(|error| CliError { message: format!("cannot decode the answer: {error}"), code: 70 })
}

/// The error, with exit code 1, for a command that found no key or did not change the key.
fn negative_result_error(message: String) -> CliError {
    CliError { message, code: 1 }
}

fn unexpected_answer_error(answer: &Answer) -> CliError {
    CliError { message: format!("the cluster sent an unexpected reply: {answer:?}"), code: 70 }
}

/// Executes a command. Returns its position in the log, its answer, and the milliseconds until the answer.
fn execute(cluster: &ClusterArgs, command: &Command<'_>) -> Result<(CommandResult, Answer, f64), CliError> {
    let began = Instant::now();
    let command_result =
        cluster.kv_client().execute(&command.encode()).map_err(|error| cluster.explain_error(error))?;
    let answer = decode_answer(command_result.answer.clone())?;
    Ok((command_result, answer, ms_since(began)))
}

/// Prints the position at which a command was committed, as text or JSON. `extra_fields` is added to the JSON object.
fn print_committed(cluster: &ClusterArgs, command_result: &CommandResult, ms: f64, text: &str, extra_fields: Value) {
    if !cluster.prints_json() {
        outln!("{text} {} ({ms} ms)", command_result.position);
        return;
    }
    let position = command_result.position;
    let mut object = json!({ "ok": true, "index": position.index.0, "term": position.term.0, "ms": ms,
        "duplicate": command_result.duplicate });
    if let (Some(object), Value::Object(extra_fields)) = (object.as_object_mut(), extra_fields) {
        object.extend(extra_fields);
    }
    outln!("{object}");
}

/// `drave put`: sets a key; with `--ttl` the key expires.
pub fn put(args: &Put) -> Result<(), CliError> {
    let (key, value) = (args.key.as_bytes(), args.value.as_bytes());
    let command = match args.ttl {
        None => Command::Put { key, value },
        Some(ttl) => {
            let expiration = Expiration::Until(Deadline::InMs(ttl.as_millis() as u64));
            Command::Set { key, value, only_if: SetCondition::Always, expiration, returns_previous: false }
        }
    };
    let (command_result, answer, ms) = execute(&args.cluster, &command)?;
    match answer {
        Answer::Done => print_committed(&args.cluster, &command_result, ms, "ok", json!({})),
        other => return Err(unexpected_answer_error(&other)),
    }
    Ok(())
}

/// `drave del`: exits with 1 if the key does not exist.
pub fn del(args: &Del) -> Result<(), CliError> {
    let (command_result, answer, ms) = execute(&args.cluster, &Command::Del { key: args.key.as_bytes() })?;
    match answer {
        Answer::Deleted { existed: true } => {
            print_committed(&args.cluster, &command_result, ms, "ok", json!({ "existed": true }))
        }
        Answer::Deleted { existed: false } => {
            return Err(negative_result_error(format!("{:?} did not exist", args.key)));
        }
        other => return Err(unexpected_answer_error(&other)),
    }
    Ok(())
}

/// `drave cas`: exits with 1 if the key holds another value.
pub fn cas(args: &Cas) -> Result<(), CliError> {
    let expected = (!args.expects_absent).then_some(args.old.as_bytes());
    let command = Command::Cas { key: args.key.as_bytes(), expected, new: args.new.as_bytes() };
    let (command_result, answer, ms) = execute(&args.cluster, &command)?;
    match answer {
        Answer::Done => print_committed(&args.cluster, &command_result, ms, "ok", json!({})),
        Answer::CasMismatch { actual: None } => {
            return Err(negative_result_error(format!("{:?} does not exist; nothing was changed", args.key)));
        }
        Answer::CasMismatch { actual: Some(actual) } => {
            let actual = actual.escape_ascii();
            return Err(negative_result_error(format!("{:?} holds \"{actual}\"; nothing was changed", args.key)));
        }
        other => return Err(unexpected_answer_error(&other)),
    }
    Ok(())
}

/// `drave incr`: prints the key's new number.
pub fn incr(args: &Incr) -> Result<(), CliError> {
    let command = Command::Incr { key: args.key.as_bytes(), by: args.by };
    let (command_result, answer, ms) = execute(&args.cluster, &command)?;
    match answer {
        Answer::Number(number) if args.cluster.prints_json() => {
            print_committed(&args.cluster, &command_result, ms, "", json!({ "value": number }));
        }
        Answer::Number(number) => outln!("{number}"),
        Answer::NotANumber => {
            return Err(negative_result_error(format!("{:?} holds no decimal number; nothing was changed", args.key)));
        }
        Answer::Overflow => {
            return Err(negative_result_error(format!("{:?} would overflow 64 bits; nothing was changed", args.key)));
        }
        other => return Err(unexpected_answer_error(&other)),
    }
    Ok(())
}

/// `drave get`: prints the raw value, with a newline only on a terminal; exits with 1 if the key does not exist.
pub fn get(args: &Get) -> Result<(), CliError> {
    let query = Query::Get { key: args.key.as_bytes() };
    let response = args.cluster.kv_client().query(&query.encode(), to_consistency(args.consistency));
    let response = response.map_err(|error| args.cluster.explain_error(error))?;
    let value = match decode_answer(response.answer)? {
        Answer::Value(value) => value,
        other => return Err(unexpected_answer_error(&other)),
    };
    let Some(value) = value else { return Err(negative_result_error(format!("{:?} does not exist", args.key))) };
    if args.cluster.prints_json() {
        let mut line = json!({ "applied": response.applied.0 });
        insert_bytes(&mut line, "value", &value);
        outln!("{line}");
        return Ok(());
    }
    let mut stdout = std::io::stdout();
    let newline: &[u8] = if stdout.is_terminal() { b"\n" } else { b"" };
    let write_result = stdout.write_all(&value).and_then(|()| stdout.write_all(newline)).and_then(|()| stdout.flush());
    write_result.or_else(ignore_broken_pipe)
}

/// `drave ttl`: prints the key's remaining time to live, or `none` if it has no deadline; exits with 1 if the key does
/// not exist.
pub fn ttl(args: &Ttl) -> Result<(), CliError> {
    let query = Query::TimeToLive { key: args.key.as_bytes() };
    let response = args.cluster.kv_client().query(&query.encode(), to_consistency(args.consistency));
    let response = response.map_err(|error| args.cluster.explain_error(error))?;
    let remaining = match decode_answer(response.answer)? {
        Answer::TimeToLive(TimeToLive::Absent) => {
            return Err(negative_result_error(format!("{:?} does not exist", args.key)));
        }
        Answer::TimeToLive(TimeToLive::Endless) => None,
        Answer::TimeToLive(TimeToLive::Ms(ms)) => Some(ms),
        other => return Err(unexpected_answer_error(&other)),
    };
    if args.cluster.prints_json() {
        outln!("{}", json!({ "applied": response.applied.0, "ttl_ms": remaining }));
    } else {
        let remaining = remaining.map(|ms| humantime::format_duration(Duration::from_millis(ms)).to_string());
        outln!("{}", remaining.as_deref().unwrap_or("none"));
    }
    Ok(())
}

/// Adds bytes to a JSON object: as `name` if they are UTF-8, otherwise in base64 as `name_b64`, as `drave dump` does.
fn insert_bytes(object: &mut Value, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object[name] = text.into(),
        Err(_) => object[format!("{name}_b64")] = base64(bytes).into(),
    }
}

/// Converts a failed write to standard output into an error. A closed pipe is no error: the reader needs no more
/// output.
fn ignore_broken_pipe(error: std::io::Error) -> Result<(), CliError> {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(CliError { message: format!("standard output: {error}"), code: 74 }),
    }
}

/// `drave scan`: prints a line per pair: key, tab, value, both escaped as in Rust. The keys are read in pages.
pub fn scan(args: &Scan) -> Result<(), CliError> {
    let mut client = args.cluster.kv_client();
    let (mut after, mut remaining) = (None::<Bytes>, args.limit.unwrap_or(u64::MAX));
    let mut stdout = std::io::stdout().lock();
    loop {
        let limit = remaining.min(SCAN_PAGE_KEYS_MAX.into()) as u32;
        let query = Query::Scan { prefix: args.prefix.as_bytes(), after: after.as_deref(), limit };
        let response = client.query(&query.encode(), to_consistency(args.consistency));
        let response = response.map_err(|error| args.cluster.explain_error(error))?;
        let (pairs, has_more) = match decode_answer(response.answer)? {
            Answer::Pairs { pairs, has_more } => (pairs, has_more),
            other => return Err(unexpected_answer_error(&other)),
        };
        for (key, value) in &pairs {
            let line = if args.cluster.prints_json() {
                let mut line = json!({});
                insert_bytes(&mut line, "key", key);
                insert_bytes(&mut line, "value", value);
                line.to_string()
            } else {
                format!("{}\t{}", key.escape_ascii(), value.escape_ascii())
            };
            if let Err(error) = writeln!(stdout, "{line}") {
                return ignore_broken_pipe(error);
            }
        }
        remaining -= pairs.len() as u64;
        after = pairs.last().map(|(key, _)| key.clone());
        if !has_more || pairs.is_empty() {
            break;
        }
        if remaining == 0 {
            eprintln!("there are more keys: --limit ended the output after {}", args.limit.unwrap_or_default());
            break;
        }
    }
    stdout.flush().or_else(ignore_broken_pipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_base64_for_bytes_that_are_not_utf8() {
        let mut line = json!({});
        insert_bytes(&mut line, "key", b"lunch");
        insert_bytes(&mut line, "value", b"\xff\xfe");
        assert_eq!(line, json!({ "key": "lunch", "value_b64": "//4=" }));
    }
}
