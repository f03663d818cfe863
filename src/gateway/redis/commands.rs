//! Translates Redis commands into commands and queries of the state machine.

use super::glob;
use super::reply::ReplyShape;
use crate::codec;
use crate::limits::KEY_BYTES_MAX;
use crate::machine::commands::{Command, Deadline, Expiration, ExpireCondition, Query, SetCondition, Step};
use crate::types::ClusterTime;
use crate::wire::resp::CommandArgs;
use bytes::Bytes;
use std::time::{SystemTime, UNIX_EPOCH};

/// A translated command: a command or query of the state machine with the shape of its reply, or an error in Redis's
/// words.
pub type Translated<'a> = Result<(Step<'a>, ReplyShape), String>;

const SYNTAX: &str = "ERR syntax error";
const NO_INTEGER: &str = "ERR value is not an integer or out of range";

fn read(query: Query<'_>) -> Translated<'_> {
    Ok((Step::Ask(query), ReplyShape::Plain))
}

fn write(command: Command<'_>) -> Translated<'_> {
    Ok((Step::Do(command), ReplyShape::Plain))
}

/// A key argument. A key that is too long is an error.
fn key(words: &CommandArgs, at: usize) -> Result<&[u8], String> {
    checked(words.at(at))
}

fn checked(key: &[u8]) -> Result<&[u8], String> {
    match key.len() {
        ..=KEY_BYTES_MAX => Ok(key),
        bytes => Err(format!("ERR key is too long: {bytes} bytes, and the limit is {KEY_BYTES_MAX}")),
    }
}

fn keys(words: &CommandArgs) -> Result<Vec<&[u8]>, String> {
    words.from(1).map(checked).collect()
}

fn integer(words: &CommandArgs, at: usize) -> Result<i64, String> {
    codec::integer(words.at(at)).ok_or_else(|| NO_INTEGER.to_owned())
}

fn wrong_count(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}

/// `GET key`
pub fn get(words: &CommandArgs) -> Translated<'_> {
    read(Query::Get { key: key(words, 1)? })
}

/// `MGET key …`
pub fn mget(words: &CommandArgs) -> Translated<'_> {
    read(Query::Values(keys(words)?))
}

/// `EXISTS key …`
pub fn exists(words: &CommandArgs) -> Translated<'_> {
    read(Query::Present(keys(words)?))
}

/// `STRLEN key`
pub fn strlen(words: &CommandArgs) -> Translated<'_> {
    read(Query::Length { key: key(words, 1)? })
}

/// `TYPE key`
pub fn kind(words: &CommandArgs) -> Translated<'_> {
    Ok((Step::Ask(Query::Present(vec![key(words, 1)?])), ReplyShape::Kind))
}

/// `TTL key`
pub fn ttl(words: &CommandArgs) -> Translated<'_> {
    Ok((Step::Ask(Query::Left { key: key(words, 1)? }), ReplyShape::Seconds))
}

/// `PTTL key`
pub fn pttl(words: &CommandArgs) -> Translated<'_> {
    read(Query::Left { key: key(words, 1)? })
}

/// `DBSIZE`
pub fn dbsize(_words: &CommandArgs) -> Translated<'_> {
    read(Query::Count)
}

/// `DEL key …`, `UNLINK key …`
pub fn del(words: &CommandArgs) -> Translated<'_> {
    match keys(words)?[..] {
        [key] => write(Command::Del { key }),
        ref keys => write(Command::Forget(keys.to_vec())),
    }
}

/// `MSET key value …`
pub fn mset(words: &CommandArgs) -> Translated<'_> {
    if words.len().is_multiple_of(2) {
        return Err(wrong_count("mset"));
    }
    let pairs = (1..words.len()).step_by(2).map(|at| Ok((key(words, at)?, words.at(at + 1))));
    write(Command::PutAll(pairs.collect::<Result<_, String>>()?))
}

/// `INCR key`
pub fn incr(words: &CommandArgs) -> Translated<'_> {
    write(Command::Incr { key: key(words, 1)?, by: 1 })
}

/// `DECR key`
pub fn decr(words: &CommandArgs) -> Translated<'_> {
    write(Command::Incr { key: key(words, 1)?, by: -1 })
}

/// `INCRBY key by`
pub fn incrby(words: &CommandArgs) -> Translated<'_> {
    write(Command::Incr { key: key(words, 1)?, by: integer(words, 2)? })
}

/// `DECRBY key by`
pub fn decrby(words: &CommandArgs) -> Translated<'_> {
    let by = integer(words, 2)?.checked_neg().ok_or("ERR decrement would overflow")?;
    write(Command::Incr { key: key(words, 1)?, by })
}

/// `APPEND key tail`
pub fn append(words: &CommandArgs) -> Translated<'_> {
    write(Command::Append { key: key(words, 1)?, tail: words.at(2) })
}

/// `PERSIST key`
pub fn persist(words: &CommandArgs) -> Translated<'_> {
    write(Command::Persist { key: key(words, 1)? })
}

/// `SET key value [NX|XX] [GET] [EX s|PX ms|EXAT s|PXAT ms|KEEPTTL]`. An option may be repeated with another number;
/// the last one counts, as in Redis.
pub fn set(words: &CommandArgs) -> Translated<'_> {
    let (key, value) = (key(words, 1)?, words.at(2));
    let (mut only_if, mut tells, mut kept, mut time) = (SetCondition::Either, false, false, None);
    let mut at = 3;
    while at < words.len() {
        let word = words.at(at).to_ascii_uppercase();
        match &word[..] {
            b"NX" if only_if != SetCondition::Present => only_if = SetCondition::Absent,
            b"XX" if only_if != SetCondition::Absent => only_if = SetCondition::Present,
            b"GET" => tells = true,
            b"KEEPTTL" if time.is_none() => kept = true,
            b"EX" | b"PX" | b"EXAT" | b"PXAT" if !kept && at + 1 < words.len() => {
                let unit = Unit::of(&word);
                if time.is_some_and(|(before, _)| before != unit) {
                    return Err(SYNTAX.into());
                }
                at += 1;
                time = Some((unit, at));
            }
            _ => return Err(SYNTAX.into()),
        }
        at += 1;
    }
    let life = match time {
        None if kept => Expiration::Kept,
        None => Expiration::Endless,
        Some((unit, at)) => {
            let deadline =
                Some(integer(words, at)?).filter(|number| *number > 0).and_then(|number| unit.deadline(number));
            Expiration::Until(deadline.ok_or("ERR invalid expire time in 'set' command")?)
        }
    };
    if (only_if, life, tells) == (SetCondition::Either, Expiration::Endless, false) {
        return write(Command::Put { key, value });
    }
    write(Command::Set { key, value, only_if, life, tells })
}

/// The unit and the base of a time argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Unit {
    milliseconds: bool,
    absolute: bool,
}

impl Unit {
    /// The unit for `EX`, `PX`, `EXAT` or `PXAT`.
    fn of(word: &[u8]) -> Unit {
        Unit { milliseconds: word.starts_with(b"P"), absolute: word.ends_with(b"AT") }
    }

    /// The deadline for a number; `None` if the number is too large. The cluster's clock starts with the cluster and
    /// stops while there is no leader, so an absolute date is converted to the time left until then.
    fn deadline(self, number: i64) -> Option<Deadline> {
        let ms = if self.milliseconds { number } else { number.checked_mul(1000)? };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        // A date may be arbitrarily far in the past: the key then expires at once.
        let left = if self.absolute { ms.saturating_sub(now) } else { now.checked_add(ms).map(|_| ms)? };
        Some(match u64::try_from(left) {
            Ok(left @ 1..) => Deadline::In(left),
            _ => Deadline::At(ClusterTime(0)),
        })
    }
}

/// `EXPIRE key s [NX|XX|GT|LT]`
pub fn expire(words: &CommandArgs) -> Translated<'_> {
    expires(words, "expire", Unit::of(b"EX"))
}

/// `PEXPIRE key ms …`
pub fn pexpire(words: &CommandArgs) -> Translated<'_> {
    expires(words, "pexpire", Unit::of(b"PX"))
}

/// `EXPIREAT key s …`
pub fn expireat(words: &CommandArgs) -> Translated<'_> {
    expires(words, "expireat", Unit::of(b"EXAT"))
}

/// `PEXPIREAT key ms …`
pub fn pexpireat(words: &CommandArgs) -> Translated<'_> {
    expires(words, "pexpireat", Unit::of(b"PXAT"))
}

fn expires<'a>(words: &'a CommandArgs, name: &str, unit: Unit) -> Translated<'a> {
    let key = key(words, 1)?;
    // The order of checks is that of Redis: unknown options, then incompatible options, then the number.
    let [mut nx, mut xx, mut gt, mut lt] = [false; 4];
    for word in words.from(3) {
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
    let deadline = unit.deadline(integer(words, 2)?);
    let deadline = deadline.ok_or_else(|| format!("ERR invalid expire time in '{name}' command"))?;
    let bar =
        ExpireCondition { dated: unit.absolute, has_one: (nx || xx).then_some(xx), later: (gt || lt).then_some(gt) };
    write(Command::Expire { key, deadline, bar })
}

/// `SCAN cursor [MATCH pattern] [COUNT n] [TYPE type]`
pub fn scan(words: &CommandArgs) -> Translated<'_> {
    let (mut pattern, mut limit, mut strings) = (None, 10, true);
    let mut from = cursor(words.at(1))?;
    for at in (2..words.len()).step_by(2) {
        if at + 1 >= words.len() {
            return Err(SYNTAX.into());
        }
        match &words.at(at).to_ascii_uppercase()[..] {
            b"MATCH" => pattern = Some(words.at(at + 1)),
            b"COUNT" => {
                let number = integer(words, at + 1)?;
                if number < 1 {
                    return Err(SYNTAX.into());
                }
                limit = number.min(i64::from(u32::MAX)) as u32;
            }
            b"TYPE" => strings = words.at(at + 1).eq_ignore_ascii_case(b"string"),
            _ => return Err(SYNTAX.into()),
        }
    }
    if !strings {
        // All values are strings, so a scan for another type ends at once.
        from = u64::MAX;
    }
    let prefix = checked(pattern.map_or(&b""[..], glob::prefix)).unwrap_or_default();
    Ok((Step::Ask(Query::Walk { prefix, from, limit }), ReplyShape::Scan(pattern.map(Bytes::copy_from_slice))))
}

/// A scan cursor. Any number is valid, as in Redis.
fn cursor(word: &[u8]) -> Result<u64, String> {
    let digits = Some(word).filter(|word| word.iter().all(u8::is_ascii_digit));
    let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    number.ok_or_else(|| "ERR invalid cursor".to_owned())
}
