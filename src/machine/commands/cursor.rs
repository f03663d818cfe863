//! Reads numbers, keys and values from borrowed bytes; and encodes the pairs of a serialized state.

use crate::codec::{BufMutExt, Malformed, Result};
use crate::limits::KEY_BYTES_MAX;
use crate::types::ClusterTime;
use bytes::{BufMut, BytesMut};

/// A flag in the length of a pair's key: a deadline follows the value. No key is that long, so a program version
/// without deadlines rejects such a pair as corrupt.
const HAS_DEADLINE_FLAG: u32 = 1 << 31;

/// A key with its value and deadline: the unit of a serialized state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair<'a> {
    /// The key; in a serialized state, greater than the previous pair's.
    pub key: &'a [u8],
    /// The value, possibly empty.
    pub value: &'a [u8],
    /// When the key expires; `None` for a key without a deadline.
    pub deadline: Option<ClusterTime>,
}

/// Appends key and value, each after its length (4 bytes), and the deadline (8 bytes) if there is one.
pub fn put_pair(out: &mut BytesMut, pair: Pair<'_>) {
    let deadline_flag = if pair.deadline.is_some() { HAS_DEADLINE_FLAG } else { 0 };
    out.put_u32_le(pair.key.len() as u32 | deadline_flag);
    out.put_slice(pair.key);
    out.put_blob(pair.value);
    if let Some(deadline) = pair.deadline {
        out.put_u64_le(deadline.0);
    }
}

/// Reads a pair that [`put_pair`] appended.
pub fn read_pair<'a>(bytes: &mut &'a [u8]) -> Result<Pair<'a>> {
    let mut cursor = Cursor(bytes);
    let key_length_and_flag = cursor.u32()?;
    let key = cursor.key_of_length((key_length_and_flag & !HAS_DEADLINE_FLAG) as usize)?;
    let value = cursor.blob()?;
    let deadline = if key_length_and_flag & HAS_DEADLINE_FLAG == 0 { None } else { Some(ClusterTime(cursor.u64()?)) };
    *bytes = cursor.0;
    Ok(Pair { key, value, deadline })
}

/// Reads values from the front of borrowed bytes; every read is bounds-checked. The counterpart of
/// `codec::Reader` for commands, without the cost of a reference count.
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        let Some((front, rest)) = self.0.split_at_checked(n) else {
            return Err(Malformed("ends too early"));
        };
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((front, rest)) = self.0.split_first_chunk::<N>() else {
            return Err(Malformed("ends too early"));
        };
        self.0 = rest;
        Ok(*front)
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn bool(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("neither 0 nor 1")),
        }
    }

    pub fn blob(&mut self) -> Result<&'a [u8]> {
        let length = self.u32()? as usize;
        self.bytes(length)
    }

    pub fn key(&mut self) -> Result<&'a [u8]> {
        let length = self.u32()? as usize;
        self.key_of_length(length)
    }

    fn key_of_length(&mut self, length: usize) -> Result<&'a [u8]> {
        if length > KEY_BYTES_MAX { Err(Malformed("key longer than allowed")) } else { self.bytes(length) }
    }

    pub fn optional_blob(&mut self) -> Result<Option<&'a [u8]>> {
        Ok(if self.bool()? { Some(self.blob()?) } else { None })
    }

    /// Reads a count (4 bytes), then as many elements, each by `read`. Memory grows with the actual bytes, since the
    /// count may be wrong.
    pub fn list<T>(&mut self, read: impl Fn(&mut Cursor<'a>) -> Result<T>) -> Result<Vec<T>> {
        let count = self.u32()?;
        let mut elements = Vec::new();
        for _ in 0..count {
            elements.push(read(self)?);
        }
        Ok(elements)
    }

    pub fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("bytes left over")) }
    }
}
