//! The encoding of commands and queries.

use super::cursor::Cursor;
use super::{Command, Deadline, Expiration, ExpireCondition, Query, SetCondition, Step};
use crate::codec::{Malformed, Put, Result};
use crate::types::ClusterTime;
use bytes::{BufMut, Bytes, BytesMut};

pub(super) const PUT: u8 = 1;
pub(super) const DEL: u8 = 2;
const CAS: u8 = 3;
const INCR: u8 = 4;
pub(super) const BATCH: u8 = 5;
const SET: u8 = 6;
const APPEND: u8 = 7;
const EXPIRE: u8 = 8;
const PERSIST: u8 = 9;
const FORGET: u8 = 10;
const PUT_ALL: u8 = 11;
pub(super) const BLOCK: u8 = 12;

const GET: u8 = 1;
const SCAN: u8 = 2;
const COUNT: u8 = 3;
const VALUES: u8 = 4;
const PRESENT: u8 = 5;
const LENGTH: u8 = 6;
const LEFT: u8 = 7;
// 8 was for keys in key order.
const WALK: u8 = 9;
const KEYSPACE: u8 = 10;

/// Added to the byte that says later or earlier: the deadline comes from a date.
const DATED: u8 = 3;

/// In a block, before each step: a command or a query follows.
const DO: u8 = 0;
const ASK: u8 = 1;

/// The key of an encoded command, if it has a single key and is not cut off.
pub fn key(command: &[u8]) -> Option<&[u8]> {
    let mut cursor = Cursor(command);
    match cursor.u8() {
        Ok(BATCH | FORGET | PUT_ALL | BLOCK) | Err(_) => None,
        Ok(_) => cursor.key().ok(),
    }
}

impl<'a> Command<'a> {
    /// Encodes: kind (1), then the fields in order, keys and values after their lengths.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.size());
        self.put(&mut out);
        debug_assert_eq!(out.len(), self.size());
        out.freeze()
    }

    fn size(&self) -> usize {
        1 + match self {
            Command::Put { key, value } => 8 + key.len() + value.len(),
            Command::Del { key } | Command::Persist { key } => 4 + key.len(),
            Command::Cas { key, expected, new } => {
                9 + key.len() + expected.map_or(0, |expected| 4 + expected.len()) + new.len()
            }
            Command::Incr { key, .. } => 12 + key.len(),
            Command::Batch(commands) => 4 + commands.iter().map(Command::size).sum::<usize>(),
            Command::Set { key, value, .. } => 19 + key.len() + value.len(),
            Command::Append { key, tail } => 8 + key.len() + tail.len(),
            Command::Expire { key, .. } => 15 + key.len(),
            Command::Forget(keys) => 4 + keys.iter().map(|key| 4 + key.len()).sum::<usize>(),
            Command::PutAll(pairs) => 4 + pairs.iter().map(|(key, value)| 8 + key.len() + value.len()).sum::<usize>(),
            Command::Block(steps) => 4 + steps.iter().map(Step::size).sum::<usize>(),
        }
    }

    fn put(&self, out: &mut BytesMut) {
        match self {
            Command::Put { key, value } => put_blobs(out, PUT, &[key, value]),
            Command::Del { key } => put_blobs(out, DEL, &[key]),
            Command::Cas { key, expected, new } => {
                put_blobs(out, CAS, &[key]);
                super::put_option(out, *expected);
                out.put_blob(new);
            }
            Command::Incr { key, by } => {
                put_blobs(out, INCR, &[key]);
                out.put_i64_le(*by);
            }
            Command::Batch(commands) => {
                out.put_u8(BATCH);
                out.put_u32_le(commands.len() as u32);
                commands.iter().for_each(|command| command.put(out));
            }
            Command::Set { key, value, only_if, life, tells } => {
                put_blobs(out, SET, &[key, value]);
                out.put_u8(*only_if as u8);
                out.put_u8(u8::from(*tells));
                put_life(out, *life);
            }
            Command::Append { key, tail } => put_blobs(out, APPEND, &[key, tail]),
            Command::Expire { key, deadline, bar } => {
                put_blobs(out, EXPIRE, &[key]);
                put_life(out, Expiration::Until(*deadline));
                out.put_u8(choice(bar.has_one));
                out.put_u8(choice(bar.later) + if bar.dated && bar.later.is_some() { DATED } else { 0 });
            }
            Command::Persist { key } => put_blobs(out, PERSIST, &[key]),
            Command::Forget(keys) => put_keys(out, FORGET, keys),
            Command::PutAll(pairs) => {
                out.put_u8(PUT_ALL);
                out.put_u32_le(pairs.len() as u32);
                for (key, value) in pairs {
                    out.put_blob(key);
                    out.put_blob(value);
                }
            }
            Command::Block(steps) => {
                out.put_u8(BLOCK);
                out.put_u32_le(steps.len() as u32);
                steps.iter().for_each(|step| step.put(out));
            }
        }
    }

    /// Decodes; keys and values are slices of `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<Command<'a>> {
        let mut cursor = Cursor(bytes);
        let command = match cursor.u8()? {
            BATCH => Command::Batch(cursor.list(|cursor| Command::single(cursor.u8()?, cursor))?),
            BLOCK => Command::Block(cursor.list(Step::take)?),
            kind => Command::single(kind, &mut cursor)?,
        };
        cursor.end()?;
        Ok(command)
    }

    fn single(kind: u8, cursor: &mut Cursor<'a>) -> Result<Command<'a>> {
        match kind {
            PUT => Ok(Command::Put { key: cursor.key()?, value: cursor.blob()? }),
            DEL => Ok(Command::Del { key: cursor.key()? }),
            CAS => Ok(Command::Cas { key: cursor.key()?, expected: cursor.option()?, new: cursor.blob()? }),
            INCR => Ok(Command::Incr { key: cursor.key()?, by: cursor.u64()? as i64 }),
            SET => {
                let (key, value) = (cursor.key()?, cursor.blob()?);
                let (only_if, tells) = (take_presence(cursor)?, cursor.bool()?);
                Ok(Command::Set { key, value, only_if, tells, life: take_life(cursor)? })
            }
            APPEND => Ok(Command::Append { key: cursor.key()?, tail: cursor.blob()? }),
            EXPIRE => {
                let key = cursor.key()?;
                let Expiration::Until(deadline) = take_life(cursor)? else { return Err(Malformed("no deadline")) };
                let has_one = choice_of(cursor.u8()?)?;
                let bar = match cursor.u8()? {
                    byte @ DATED.. => ExpireCondition { has_one, later: choice_of(byte - DATED)?, dated: true },
                    byte => ExpireCondition { has_one, later: choice_of(byte)?, dated: false },
                };
                Ok(Command::Expire { key, deadline, bar })
            }
            PERSIST => Ok(Command::Persist { key: cursor.key()? }),
            FORGET => Ok(Command::Forget(cursor.list(Cursor::key)?)),
            PUT_ALL => Ok(Command::PutAll(cursor.list(|cursor| Ok((cursor.key()?, cursor.blob()?)))?)),
            BATCH | BLOCK => Err(Malformed("a batch or a block inside another")),
            _ => Err(Malformed("unknown kind of command")),
        }
    }
}

impl<'a> Step<'a> {
    fn size(&self) -> usize {
        1 + match self {
            Step::Do(command) => command.size(),
            Step::Ask(query) => query.size(),
        }
    }

    fn put(&self, out: &mut BytesMut) {
        match self {
            Step::Do(command) => {
                out.put_u8(DO);
                command.put(out);
            }
            Step::Ask(query) => {
                out.put_u8(ASK);
                query.put(out);
            }
        }
    }

    fn take(cursor: &mut Cursor<'a>) -> Result<Step<'a>> {
        match cursor.u8()? {
            DO => Ok(Step::Do(Command::single(cursor.u8()?, cursor)?)),
            ASK => Ok(Step::Ask(Query::take(cursor)?)),
            _ => Err(Malformed("neither a command nor a query")),
        }
    }
}

impl<'a> Query<'a> {
    /// Encodes: kind (1), then the fields in order.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.size());
        self.put(&mut out);
        debug_assert_eq!(out.len(), self.size());
        out.freeze()
    }

    fn size(&self) -> usize {
        1 + match self {
            Query::Get { key } | Query::Length { key } | Query::Left { key } => 4 + key.len(),
            Query::Scan { prefix, after, .. } => 9 + prefix.len() + after.map_or(0, |after| 4 + after.len()),
            Query::Walk { prefix, .. } => 16 + prefix.len(),
            Query::Count | Query::Keyspace => 0,
            Query::Values(keys) | Query::Present(keys) => 4 + keys.iter().map(|key| 4 + key.len()).sum::<usize>(),
        }
    }

    fn put(&self, out: &mut BytesMut) {
        match self {
            Query::Get { key } => put_blobs(out, GET, &[key]),
            Query::Scan { prefix, after, limit } => put_walk(out, SCAN, prefix, *after, *limit),
            Query::Count => out.put_u8(COUNT),
            Query::Keyspace => out.put_u8(KEYSPACE),
            Query::Values(keys) => put_keys(out, VALUES, keys),
            Query::Present(keys) => put_keys(out, PRESENT, keys),
            Query::Length { key } => put_blobs(out, LENGTH, &[key]),
            Query::Left { key } => put_blobs(out, LEFT, &[key]),
            Query::Walk { prefix, from, limit } => {
                put_blobs(out, WALK, &[prefix]);
                out.put_u64_le(*from);
                out.put_u32_le(*limit);
            }
        }
    }

    /// Decodes; keys are slices of `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<Query<'a>> {
        let mut cursor = Cursor(bytes);
        let query = Query::take(&mut cursor)?;
        cursor.end()?;
        Ok(query)
    }

    fn take(cursor: &mut Cursor<'a>) -> Result<Query<'a>> {
        Ok(match cursor.u8()? {
            GET => Query::Get { key: cursor.key()? },
            SCAN => Query::Scan { prefix: cursor.key()?, after: cursor.option()?, limit: cursor.u32()? },
            COUNT => Query::Count,
            VALUES => Query::Values(cursor.list(Cursor::key)?),
            PRESENT => Query::Present(cursor.list(Cursor::key)?),
            LENGTH => Query::Length { key: cursor.key()? },
            LEFT => Query::Left { key: cursor.key()? },
            KEYSPACE => Query::Keyspace,
            WALK => Query::Walk { prefix: cursor.key()?, from: cursor.u64()?, limit: cursor.u32()? },
            _ => return Err(Malformed("unknown kind of query")),
        })
    }
}

fn put_blobs(out: &mut BytesMut, kind: u8, blobs: &[&[u8]]) {
    out.put_u8(kind);
    blobs.iter().for_each(|blob| out.put_blob(blob));
}

fn put_keys(out: &mut BytesMut, kind: u8, keys: &[&[u8]]) {
    out.put_u8(kind);
    out.put_u32_le(keys.len() as u32);
    keys.iter().for_each(|key| out.put_blob(key));
}

fn put_walk(out: &mut BytesMut, kind: u8, prefix: &[u8], after: Option<&[u8]>, limit: u32) {
    put_blobs(out, kind, &[prefix]);
    super::put_option(out, after);
    out.put_u32_le(limit);
}

/// A kind (1) and a number (8), which is zero for a kind without one.
fn put_life(out: &mut BytesMut, life: Expiration) {
    let (kind, number) = match life {
        Expiration::Endless => (0, 0),
        Expiration::Kept => (1, 0),
        Expiration::Until(Deadline::At(time)) => (2, time.0),
        Expiration::Until(Deadline::In(ms)) => (3, ms),
    };
    out.put_u8(kind);
    out.put_u64_le(number);
}

fn take_life(cursor: &mut Cursor<'_>) -> Result<Expiration> {
    Ok(match (cursor.u8()?, cursor.u64()?) {
        (0, 0) => Expiration::Endless,
        (1, 0) => Expiration::Kept,
        (2, time) => Expiration::Until(Deadline::At(ClusterTime(time))),
        (3, ms) => Expiration::Until(Deadline::In(ms)),
        _ => return Err(Malformed("not a deadline")),
    })
}

fn take_presence(cursor: &mut Cursor<'_>) -> Result<SetCondition> {
    Ok(match cursor.u8()? {
        0 => SetCondition::Either,
        1 => SetCondition::Absent,
        2 => SetCondition::Present,
        _ => return Err(Malformed("not a condition")),
    })
}

/// 0 for no, 1 for yes, 2 for either.
fn choice(choice: Option<bool>) -> u8 {
    choice.map_or(2, u8::from)
}

fn choice_of(byte: u8) -> Result<Option<bool>> {
    Ok(match byte {
        0 => Some(false),
        1 => Some(true),
        2 => None,
        _ => return Err(Malformed("not a choice")),
    })
}
