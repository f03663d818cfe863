//! The encoding of commands and queries.

use super::cursor::Cursor;
use super::{Command, CommandOrQuery, Deadline, Expiration, ExpireCondition, Query, SetCondition};
use crate::codec::{BufMutExt, Malformed, Result};
use crate::types::ClusterTime;
use bytes::{BufMut, Bytes, BytesMut};

// The kinds of an encoded command: its first byte.
pub(super) const COMMAND_KIND_PUT: u8 = 1;
pub(super) const COMMAND_KIND_DEL: u8 = 2;
const COMMAND_KIND_CAS: u8 = 3;
const COMMAND_KIND_INCR: u8 = 4;
pub(super) const COMMAND_KIND_BATCH: u8 = 5;
const COMMAND_KIND_SET: u8 = 6;
const COMMAND_KIND_APPEND: u8 = 7;
const COMMAND_KIND_EXPIRE: u8 = 8;
const COMMAND_KIND_PERSIST: u8 = 9;
const COMMAND_KIND_DEL_KEYS: u8 = 10;
const COMMAND_KIND_PUT_ALL: u8 = 11;
pub(super) const COMMAND_KIND_BLOCK: u8 = 12;
/// A put of feature level 2, which no released program knows.
#[cfg(feature = "next-version")]
pub const COMMAND_KIND_PUT_LEVEL_2: u8 = 250;

// The kinds of an encoded query: its first byte.
const QUERY_KIND_GET: u8 = 1;
const QUERY_KIND_SCAN: u8 = 2;
const QUERY_KIND_COUNT: u8 = 3;
const QUERY_KIND_VALUES: u8 = 4;
const QUERY_KIND_COUNT_PRESENT: u8 = 5;
const QUERY_KIND_LENGTH: u8 = 6;
const QUERY_KIND_TIME_TO_LIVE: u8 = 7;
// 8 is reserved: an earlier version used it for a query of keys in key order.
const QUERY_KIND_WALK: u8 = 9;
const QUERY_KIND_KEYSPACE: u8 = 10;

/// Added to the byte of [`ExpireCondition::must_be_later`] if the deadline comes from a date.
const FROM_DATE_OFFSET: u8 = 3;

/// The byte before each command of an encoded block.
const ELEMENT_KIND_COMMAND: u8 = 0;
/// The byte before each query of an encoded block.
const ELEMENT_KIND_QUERY: u8 = 1;

/// Reads the key of an encoded command; `None` if the command has no single key or is truncated.
pub fn read_key(command: &[u8]) -> Option<&[u8]> {
    let mut cursor = Cursor(command);
    match cursor.u8() {
        Ok(COMMAND_KIND_BATCH | COMMAND_KIND_DEL_KEYS | COMMAND_KIND_PUT_ALL | COMMAND_KIND_BLOCK) | Err(_) => None,
        Ok(_) => cursor.key().ok(),
    }
}

/// The feature level that an encoded command needs, by its kind. A command that this program does not know needs level 1:
/// every node answers that it is malformed.
pub fn needed_level(command: &[u8]) -> u16 {
    match command.first() {
        #[cfg(feature = "next-version")]
        Some(&COMMAND_KIND_PUT_LEVEL_2) => 2,
        _ => 1,
    }
}

impl<'a> Command<'a> {
    /// The encoded command: its kind (1 byte), then its fields in order, each key and value after its length (4 bytes).
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
            Command::DelKeys(keys) => 4 + keys.iter().map(|key| 4 + key.len()).sum::<usize>(),
            Command::PutAll(pairs) => 4 + pairs.iter().map(|(key, value)| 8 + key.len() + value.len()).sum::<usize>(),
            Command::Block(steps) => 4 + steps.iter().map(CommandOrQuery::size).sum::<usize>(),
        }
    }

    fn put(&self, out: &mut BytesMut) {
        match self {
            Command::Put { key, value } => put_blobs(out, COMMAND_KIND_PUT, &[key, value]),
            Command::Del { key } => put_blobs(out, COMMAND_KIND_DEL, &[key]),
            Command::Cas { key, expected, new } => {
                put_blobs(out, COMMAND_KIND_CAS, &[key]);
                super::put_optional_blob(out, *expected);
                out.put_blob(new);
            }
            Command::Incr { key, by } => {
                put_blobs(out, COMMAND_KIND_INCR, &[key]);
                out.put_i64_le(*by);
            }
            Command::Batch(commands) => {
                out.put_u8(COMMAND_KIND_BATCH);
                out.put_u32_le(commands.len() as u32);
                commands.iter().for_each(|command| command.put(out));
            }
            Command::Set { key, value, only_if, expiration, returns_previous } => {
                put_blobs(out, COMMAND_KIND_SET, &[key, value]);
                out.put_u8(*only_if as u8);
                out.put_u8(u8::from(*returns_previous));
                put_expiration(out, *expiration);
            }
            Command::Append { key, tail } => put_blobs(out, COMMAND_KIND_APPEND, &[key, tail]),
            Command::Expire { key, deadline, condition } => {
                put_blobs(out, COMMAND_KIND_EXPIRE, &[key]);
                put_expiration(out, Expiration::Until(*deadline));
                out.put_u8(optional_bool_byte(condition.must_have_deadline));
                out.put_u8(
                    optional_bool_byte(condition.must_be_later)
                        + if condition.from_date && condition.must_be_later.is_some() { FROM_DATE_OFFSET } else { 0 },
                );
            }
            Command::Persist { key } => put_blobs(out, COMMAND_KIND_PERSIST, &[key]),
            Command::DelKeys(keys) => put_keys(out, COMMAND_KIND_DEL_KEYS, keys),
            Command::PutAll(pairs) => {
                out.put_u8(COMMAND_KIND_PUT_ALL);
                out.put_u32_le(pairs.len() as u32);
                for (key, value) in pairs {
                    out.put_blob(key);
                    out.put_blob(value);
                }
            }
            Command::Block(steps) => {
                out.put_u8(COMMAND_KIND_BLOCK);
                out.put_u32_le(steps.len() as u32);
                steps.iter().for_each(|step| step.put(out));
            }
        }
    }

    /// Decodes a whole command, whose keys and values are slices of `bytes`; trailing bytes are an error.
    pub fn decode(bytes: &'a [u8]) -> Result<Command<'a>> {
        let mut cursor = Cursor(bytes);
        let command = match cursor.u8()? {
            COMMAND_KIND_BATCH => Command::Batch(cursor.list(|cursor| Command::read_single(cursor.u8()?, cursor))?),
            COMMAND_KIND_BLOCK => Command::Block(cursor.list(CommandOrQuery::read)?),
            #[cfg(feature = "next-version")]
            COMMAND_KIND_PUT_LEVEL_2 => Command::Put { key: cursor.key()?, value: cursor.blob()? },
            kind => Command::read_single(kind, &mut cursor)?,
        };
        cursor.end()?;
        Ok(command)
    }

    fn read_single(kind: u8, cursor: &mut Cursor<'a>) -> Result<Command<'a>> {
        match kind {
            COMMAND_KIND_PUT => Ok(Command::Put { key: cursor.key()?, value: cursor.blob()? }),
            COMMAND_KIND_DEL => Ok(Command::Del { key: cursor.key()? }),
            COMMAND_KIND_CAS => {
                Ok(Command::Cas { key: cursor.key()?, expected: cursor.optional_blob()?, new: cursor.blob()? })
            }
            COMMAND_KIND_INCR => Ok(Command::Incr { key: cursor.key()?, by: cursor.u64()? as i64 }),
            COMMAND_KIND_SET => {
                let (key, value) = (cursor.key()?, cursor.blob()?);
                let (only_if, returns_previous) = (read_set_condition(cursor)?, cursor.bool()?);
                Ok(Command::Set { key, value, only_if, returns_previous, expiration: read_expiration(cursor)? })
            }
            COMMAND_KIND_APPEND => Ok(Command::Append { key: cursor.key()?, tail: cursor.blob()? }),
            COMMAND_KIND_EXPIRE => {
                let key = cursor.key()?;
                let Expiration::Until(deadline) = read_expiration(cursor)? else {
                    return Err(Malformed("no deadline"));
                };
                let must_have_deadline = optional_bool_from_byte(cursor.u8()?)?;
                let condition = match cursor.u8()? {
                    byte @ FROM_DATE_OFFSET.. => ExpireCondition {
                        must_have_deadline,
                        must_be_later: optional_bool_from_byte(byte - FROM_DATE_OFFSET)?,
                        from_date: true,
                    },
                    byte => ExpireCondition {
                        must_have_deadline,
                        must_be_later: optional_bool_from_byte(byte)?,
                        from_date: false,
                    },
                };
                Ok(Command::Expire { key, deadline, condition })
            }
            COMMAND_KIND_PERSIST => Ok(Command::Persist { key: cursor.key()? }),
            COMMAND_KIND_DEL_KEYS => Ok(Command::DelKeys(cursor.list(Cursor::key)?)),
            COMMAND_KIND_PUT_ALL => Ok(Command::PutAll(cursor.list(|cursor| Ok((cursor.key()?, cursor.blob()?)))?)),
            COMMAND_KIND_BATCH | COMMAND_KIND_BLOCK => Err(Malformed("a batch or a block inside another")),
            _ => Err(Malformed("unknown kind of command")),
        }
    }
}

impl<'a> CommandOrQuery<'a> {
    fn size(&self) -> usize {
        1 + match self {
            CommandOrQuery::Command(command) => command.size(),
            CommandOrQuery::Query(query) => query.size(),
        }
    }

    fn put(&self, out: &mut BytesMut) {
        match self {
            CommandOrQuery::Command(command) => {
                out.put_u8(ELEMENT_KIND_COMMAND);
                command.put(out);
            }
            CommandOrQuery::Query(query) => {
                out.put_u8(ELEMENT_KIND_QUERY);
                query.put(out);
            }
        }
    }

    fn read(cursor: &mut Cursor<'a>) -> Result<CommandOrQuery<'a>> {
        match cursor.u8()? {
            ELEMENT_KIND_COMMAND => Ok(CommandOrQuery::Command(Command::read_single(cursor.u8()?, cursor)?)),
            ELEMENT_KIND_QUERY => Ok(CommandOrQuery::Query(Query::read(cursor)?)),
            _ => Err(Malformed("neither a command nor a query")),
        }
    }
}

impl<'a> Query<'a> {
    /// The encoded query: its kind (1 byte), then its fields in order, each key after its length (4 bytes).
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.size());
        self.put(&mut out);
        debug_assert_eq!(out.len(), self.size());
        out.freeze()
    }

    fn size(&self) -> usize {
        1 + match self {
            Query::Get { key } | Query::Length { key } | Query::TimeToLive { key } => 4 + key.len(),
            Query::Scan { prefix, after, .. } => 9 + prefix.len() + after.map_or(0, |after| 4 + after.len()),
            Query::Walk { prefix, .. } => 16 + prefix.len(),
            Query::Count | Query::Keyspace => 0,
            Query::Values(keys) | Query::CountPresent(keys) => 4 + keys.iter().map(|key| 4 + key.len()).sum::<usize>(),
        }
    }

    fn put(&self, out: &mut BytesMut) {
        match self {
            Query::Get { key } => put_blobs(out, QUERY_KIND_GET, &[key]),
            Query::Scan { prefix, after, limit } => put_scan(out, QUERY_KIND_SCAN, prefix, *after, *limit),
            Query::Count => out.put_u8(QUERY_KIND_COUNT),
            Query::Keyspace => out.put_u8(QUERY_KIND_KEYSPACE),
            Query::Values(keys) => put_keys(out, QUERY_KIND_VALUES, keys),
            Query::CountPresent(keys) => put_keys(out, QUERY_KIND_COUNT_PRESENT, keys),
            Query::Length { key } => put_blobs(out, QUERY_KIND_LENGTH, &[key]),
            Query::TimeToLive { key } => put_blobs(out, QUERY_KIND_TIME_TO_LIVE, &[key]),
            Query::Walk { prefix, from, limit } => {
                put_blobs(out, QUERY_KIND_WALK, &[prefix]);
                out.put_u64_le(*from);
                out.put_u32_le(*limit);
            }
        }
    }

    /// Decodes a whole query, whose keys are slices of `bytes`; trailing bytes are an error.
    pub fn decode(bytes: &'a [u8]) -> Result<Query<'a>> {
        let mut cursor = Cursor(bytes);
        let query = Query::read(&mut cursor)?;
        cursor.end()?;
        Ok(query)
    }

    fn read(cursor: &mut Cursor<'a>) -> Result<Query<'a>> {
        Ok(match cursor.u8()? {
            QUERY_KIND_GET => Query::Get { key: cursor.key()? },
            QUERY_KIND_SCAN => {
                Query::Scan { prefix: cursor.key()?, after: cursor.optional_blob()?, limit: cursor.u32()? }
            }
            QUERY_KIND_COUNT => Query::Count,
            QUERY_KIND_VALUES => Query::Values(cursor.list(Cursor::key)?),
            QUERY_KIND_COUNT_PRESENT => Query::CountPresent(cursor.list(Cursor::key)?),
            QUERY_KIND_LENGTH => Query::Length { key: cursor.key()? },
            QUERY_KIND_TIME_TO_LIVE => Query::TimeToLive { key: cursor.key()? },
            QUERY_KIND_KEYSPACE => Query::Keyspace,
            QUERY_KIND_WALK => Query::Walk { prefix: cursor.key()?, from: cursor.u64()?, limit: cursor.u32()? },
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

fn put_scan(out: &mut BytesMut, kind: u8, prefix: &[u8], after: Option<&[u8]>, limit: u32) {
    put_blobs(out, kind, &[prefix]);
    super::put_optional_blob(out, after);
    out.put_u32_le(limit);
}

/// Appends a kind (1 byte) and a number (8 bytes): a time, a number of milliseconds, or 0 for a kind without a number.
fn put_expiration(out: &mut BytesMut, expiration: Expiration) {
    let (kind, number) = match expiration {
        Expiration::Endless => (0, 0),
        Expiration::KeepTtl => (1, 0),
        Expiration::Until(Deadline::At(time)) => (2, time.0),
        Expiration::Until(Deadline::InMs(ms)) => (3, ms),
    };
    out.put_u8(kind);
    out.put_u64_le(number);
}

fn read_expiration(cursor: &mut Cursor<'_>) -> Result<Expiration> {
    Ok(match (cursor.u8()?, cursor.u64()?) {
        (0, 0) => Expiration::Endless,
        (1, 0) => Expiration::KeepTtl,
        (2, time) => Expiration::Until(Deadline::At(ClusterTime(time))),
        (3, ms) => Expiration::Until(Deadline::InMs(ms)),
        _ => return Err(Malformed("unknown kind of expiration")),
    })
}

fn read_set_condition(cursor: &mut Cursor<'_>) -> Result<SetCondition> {
    Ok(match cursor.u8()? {
        0 => SetCondition::Always,
        1 => SetCondition::Absent,
        2 => SetCondition::Present,
        _ => return Err(Malformed("unknown condition of a set command")),
    })
}

/// The byte of an optional flag: 0 for false, 1 for true, 2 for `None`.
fn optional_bool_byte(value: Option<bool>) -> u8 {
    value.map_or(2, u8::from)
}

fn optional_bool_from_byte(byte: u8) -> Result<Option<bool>> {
    Ok(match byte {
        0 => Some(false),
        1 => Some(true),
        2 => None,
        _ => return Err(Malformed("an optional flag is not 0, 1 or 2")),
    })
}
