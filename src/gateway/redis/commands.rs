//! Translates Redis commands into commands and queries of the state machine.

use super::glob;
use super::reply::ReplyShape;
use crate::codec;
use crate::limits::KEY_BYTES_MAX;
use crate::machine::commands::{Command, CommandOrQuery, Deadline, Expiration, ExpireCondition, Query, SetCondition};
use crate::types::ClusterTime;
use crate::wire::resp::CommandArgs;
use bytes::Bytes;
use std::time::{SystemTime, UNIX_EPOCH};

/// The result of translating a command: a command or query of the state machine with the shape of the reply, or an
/// error in Redis's words.
pub type TranslatedCommand<'a> = Result<(CommandOrQuery<'a>, ReplyShape), String>;

const SYNTAX_ERROR: &str = "ERR syntax error";
const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";

fn query_with_plain_reply(query: Query<'_>) -> TranslatedCommand<'_> {
    Ok((CommandOrQuery::Query(query), ReplyShape::Plain))
}

fn command_with_plain_reply(command: Command<'_>) -> TranslatedCommand<'_> {
    Ok((CommandOrQuery::Command(command), ReplyShape::Plain))
}

/// The argument with the index `index`, from 0, as a key. A key that is too long is an error.
fn key_arg(args: &CommandArgs, index: usize) -> Result<&[u8], String> {
    check_key_length(args.at(index))
}

fn check_key_length(key: &[u8]) -> Result<&[u8], String> {
    match key.len() {
        ..=KEY_BYTES_MAX => Ok(key),
        bytes => Err(format!("ERR key is too long: {bytes} bytes, and the limit is {KEY_BYTES_MAX}")),
    }
}

fn key_args(args: &CommandArgs) -> Result<Vec<&[u8]>, String> {
    args.args_from(1).map(check_key_length).collect()
}

fn integer_arg(args: &CommandArgs, index: usize) -> Result<i64, String> {
    codec::parse_integer(args.at(index)).ok_or_else(|| NOT_AN_INTEGER.to_owned())
}

fn wrong_arg_count(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}

/// `GET key`
pub fn get(args: &CommandArgs) -> TranslatedCommand<'_> {
    query_with_plain_reply(Query::Get { key: key_arg(args, 1)? })
}

/// `MGET key …`
pub fn mget(args: &CommandArgs) -> TranslatedCommand<'_> {
    query_with_plain_reply(Query::Values(key_args(args)?))
}

/// `EXISTS key …`
pub fn exists(args: &CommandArgs) -> TranslatedCommand<'_> {
    query_with_plain_reply(Query::CountPresent(key_args(args)?))
}

/// `STRLEN key`
pub fn strlen(args: &CommandArgs) -> TranslatedCommand<'_> {
    query_with_plain_reply(Query::Length { key: key_arg(args, 1)? })
}

/// `TYPE key`
pub fn key_type(args: &CommandArgs) -> TranslatedCommand<'_> {
    Ok((CommandOrQuery::Query(Query::CountPresent(vec![key_arg(args, 1)?])), ReplyShape::KeyType))
}

/// `TTL key`
pub fn ttl(args: &CommandArgs) -> TranslatedCommand<'_> {
    Ok((CommandOrQuery::Query(Query::TimeToLive { key: key_arg(args, 1)? }), ReplyShape::Seconds))
}

/// `PTTL key`
pub fn pttl(args: &CommandArgs) -> TranslatedCommand<'_> {
    query_with_plain_reply(Query::TimeToLive { key: key_arg(args, 1)? })
}

/// `DBSIZE`
pub fn dbsize(_args: &CommandArgs) -> TranslatedCommand<'_> {
    query_with_plain_reply(Query::Count)
}

/// `DEL key …`, `UNLINK key …`
pub fn del(args: &CommandArgs) -> TranslatedCommand<'_> {
    match key_args(args)?[..] {
        [key] => command_with_plain_reply(Command::Del { key }),
        ref keys => command_with_plain_reply(Command::DelKeys(keys.to_vec())),
    }
}

/// `MSET key value …`
pub fn mset(args: &CommandArgs) -> TranslatedCommand<'_> {
    if args.len().is_multiple_of(2) {
        return Err(wrong_arg_count("mset"));
    }
    let pairs = (1..args.len()).step_by(2).map(|at| Ok((key_arg(args, at)?, args.at(at + 1))));
    command_with_plain_reply(Command::PutAll(pairs.collect::<Result<_, String>>()?))
}

/// `INCR key`
pub fn incr(args: &CommandArgs) -> TranslatedCommand<'_> {
    command_with_plain_reply(Command::Incr { key: key_arg(args, 1)?, by: 1 })
}

/// `DECR key`
pub fn decr(args: &CommandArgs) -> TranslatedCommand<'_> {
    command_with_plain_reply(Command::Incr { key: key_arg(args, 1)?, by: -1 })
}

/// `INCRBY key increment`
pub fn incrby(args: &CommandArgs) -> TranslatedCommand<'_> {
    command_with_plain_reply(Command::Incr { key: key_arg(args, 1)?, by: integer_arg(args, 2)? })
}

/// `DECRBY key decrement`
pub fn decrby(args: &CommandArgs) -> TranslatedCommand<'_> {
    let increment = integer_arg(args, 2)?.checked_neg().ok_or("ERR decrement would overflow")?;
    command_with_plain_reply(Command::Incr { key: key_arg(args, 1)?, by: increment })
}

/// `APPEND key tail`
pub fn append(args: &CommandArgs) -> TranslatedCommand<'_> {
    command_with_plain_reply(Command::Append { key: key_arg(args, 1)?, tail: args.at(2) })
}

/// `PERSIST key`
pub fn persist(args: &CommandArgs) -> TranslatedCommand<'_> {
    command_with_plain_reply(Command::Persist { key: key_arg(args, 1)? })
}

/// `SET key value [NX|XX] [GET] [EX s|PX ms|EXAT s|PXAT ms|KEEPTTL]`. An option may be repeated with another number;
/// the last one counts, as in Redis.
pub fn set(args: &CommandArgs) -> TranslatedCommand<'_> {
    let (key, value) = (key_arg(args, 1)?, args.at(2));
    let (mut only_if, mut return_previous, mut keep_ttl, mut time) = (SetCondition::Always, false, false, None);
    let mut arg_index = 3;
    while arg_index < args.len() {
        let option = args.at(arg_index).to_ascii_uppercase();
        match &option[..] {
            b"NX" if only_if != SetCondition::Present => only_if = SetCondition::Absent,
            b"XX" if only_if != SetCondition::Absent => only_if = SetCondition::Present,
            b"GET" => return_previous = true,
            b"KEEPTTL" if time.is_none() => keep_ttl = true,
            b"EX" | b"PX" | b"EXAT" | b"PXAT" if !keep_ttl && arg_index + 1 < args.len() => {
                let time_format = TimeFormat::of(&option);
                if time.is_some_and(|(before, _)| before != time_format) {
                    return Err(SYNTAX_ERROR.into());
                }
                arg_index += 1;
                time = Some((time_format, arg_index));
            }
            _ => return Err(SYNTAX_ERROR.into()),
        }
        arg_index += 1;
    }
    let expiration = match time {
        None if keep_ttl => Expiration::KeepTtl,
        None => Expiration::Endless,
        Some((time_format, arg_index)) => {
            let deadline = Some(integer_arg(args, arg_index)?)
                .filter(|number| *number > 0)
                .and_then(|number| time_format.deadline(number));
            Expiration::Until(deadline.ok_or("ERR invalid expire time in 'set' command")?)
        }
    };
    if (only_if, expiration, return_previous) == (SetCondition::Always, Expiration::Endless, false) {
        return command_with_plain_reply(Command::Put { key, value });
    }
    command_with_plain_reply(Command::Set { key, value, only_if, expiration, returns_previous: return_previous })
}

/// The format of a time argument: its unit, and whether it is a date or a duration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct TimeFormat {
    /// Whether the number counts milliseconds; otherwise seconds.
    is_milliseconds: bool,
    /// Whether the number is a date since 1970; otherwise a duration from now.
    is_date: bool,
}

impl TimeFormat {
    /// The format of the number after the option `EX`, `PX`, `EXAT` or `PXAT` of `SET`.
    fn of(option: &[u8]) -> TimeFormat {
        TimeFormat { is_milliseconds: option.starts_with(b"P"), is_date: option.ends_with(b"AT") }
    }

    /// The deadline for a number in this format; `None` if the number is too large. The cluster's clock starts with the
    /// cluster and stops while there is no leader, so a date is converted to the time left until it, by this node's
    /// clock.
    fn deadline(self, number: i64) -> Option<Deadline> {
        let ms = if self.is_milliseconds { number } else { number.checked_mul(1000)? };
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        // A date may lie arbitrarily far in the past. The key then expires at once.
        let ms_left = if self.is_date { ms.saturating_sub(now_ms) } else { now_ms.checked_add(ms).map(|_| ms)? };
        Some(match u64::try_from(ms_left) {
            Ok(ms_left @ 1..) => Deadline::InMs(ms_left),
            _ => Deadline::At(ClusterTime(0)),
        })
    }
}

/// `EXPIRE key s [NX|XX|GT|LT]`
pub fn expire(args: &CommandArgs) -> TranslatedCommand<'_> {
    parse_expire(args, "expire", TimeFormat::of(b"EX"))
}

/// `PEXPIRE key ms …`
pub fn pexpire(args: &CommandArgs) -> TranslatedCommand<'_> {
    parse_expire(args, "pexpire", TimeFormat::of(b"PX"))
}

/// `EXPIREAT key s …`
pub fn expireat(args: &CommandArgs) -> TranslatedCommand<'_> {
    parse_expire(args, "expireat", TimeFormat::of(b"EXAT"))
}

/// `PEXPIREAT key ms …`
pub fn pexpireat(args: &CommandArgs) -> TranslatedCommand<'_> {
    parse_expire(args, "pexpireat", TimeFormat::of(b"PXAT"))
}

fn parse_expire<'a>(args: &'a CommandArgs, name: &str, time_format: TimeFormat) -> TranslatedCommand<'a> {
    let key = key_arg(args, 1)?;
    // The checks have the order of Redis: unknown options, then incompatible options, then the time.
    let [mut nx, mut xx, mut gt, mut lt] = [false; 4];
    for word in args.args_from(3) {
        match &word.to_ascii_uppercase()[..] {
            b"NX" => nx = true,
            b"XX" => xx = true,
            b"GT" => gt = true,
            b"LT" => lt = true,
            _ => return Err(format!("ERR Unsupported option {}", word.escape_ascii())),
        }
    }
    if nx && (xx || gt || lt) {
        return Err("ERR NX and XX, GT or LT options at the same time are not compatible".into());
    }
    if gt && lt {
        return Err("ERR GT and LT options at the same time are not compatible".into());
    }
    let deadline = time_format.deadline(integer_arg(args, 2)?);
    let deadline = deadline.ok_or_else(|| format!("ERR invalid expire time in '{name}' command"))?;
    let condition = ExpireCondition {
        from_date: time_format.is_date,
        must_have_deadline: (nx || xx).then_some(xx),
        must_be_later: (gt || lt).then_some(gt),
    };
    command_with_plain_reply(Command::Expire { key, deadline, condition })
}

/// `SCAN cursor [MATCH pattern] [COUNT n] [TYPE type]`
pub fn scan(args: &CommandArgs) -> TranslatedCommand<'_> {
    let (mut pattern, mut limit, mut matches_type) = (None, 10, true);
    let mut cursor = parse_cursor(args.at(1))?;
    for at in (2..args.len()).step_by(2) {
        if at + 1 >= args.len() {
            return Err(SYNTAX_ERROR.into());
        }
        match &args.at(at).to_ascii_uppercase()[..] {
            b"MATCH" => pattern = Some(args.at(at + 1)),
            b"COUNT" => {
                let count = integer_arg(args, at + 1)?;
                if count < 1 {
                    return Err(SYNTAX_ERROR.into());
                }
                limit = count.min(i64::from(u32::MAX)) as u32;
            }
            b"TYPE" => matches_type = args.at(at + 1).eq_ignore_ascii_case(b"string"),
            _ => return Err(SYNTAX_ERROR.into()),
        }
    }
    if !matches_type {
        // All values are strings, so a scan for another type starts at the end.
        cursor = u64::MAX;
    }
    let prefix = check_key_length(pattern.map_or(&b""[..], glob::literal_prefix)).unwrap_or_default();
    Ok((
        CommandOrQuery::Query(Query::Walk { prefix, from: cursor, limit }),
        ReplyShape::Scan { pattern: pattern.map(Bytes::copy_from_slice) },
    ))
}

/// Parses a scan cursor. Any number of 64 bits is valid, as in Redis.
fn parse_cursor(word: &[u8]) -> Result<u64, String> {
    let digits = Some(word).filter(|word| word.iter().all(u8::is_ascii_digit));
    let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    number.ok_or_else(|| "ERR invalid cursor".to_owned())
}
