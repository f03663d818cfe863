//! The encoding of consecutive log entries in messages between nodes.

use super::frame::copy_if_small;
use crate::codec::{ENTRY_HEADER, ENTRY_KIND_MAX, Malformed, Reader, next_entry_kind, put_entry, read_entry};
use crate::limits::APPEND_ENTRIES_MAX;
use crate::types::{Entry, Position, Term};
use bytes::{BufMut, BytesMut};

/// Appends the number of entries (4 bytes), then the entries.
pub(super) fn put_entries(out: &mut BytesMut, entries: &[Entry]) {
    out.put_u32_le(entries.len() as u32);
    entries.iter().for_each(|entry| put_entry(out, entry));
}

/// Reads entries that follow `after` without a gap, of terms up to `term`; they are the rest of the frame.
pub(super) fn read_entries(reader: &mut Reader, after: Position, term: Term) -> Result<Vec<Entry>, Malformed> {
    let entry_count = reader.u32()? as usize;
    if entry_count > APPEND_ENTRIES_MAX {
        return Err(Malformed("too many entries in one message"));
    }
    // The announced count may be wrong: memory is reserved for no more entries than the received bytes can contain.
    let mut entries: Vec<Entry> = Vec::with_capacity(entry_count.min(reader.remaining() / ENTRY_HEADER));
    let mut reader = Reader::new(copy_if_small(reader.rest()));
    let mut last_position = after;
    for _ in 0..entry_count {
        // An entry of a later feature level follows the configuration that raises the level. This node stops at that
        // configuration, in words, if it receives the entries before the unknown one.
        if !entries.is_empty() && next_entry_kind(&reader).is_some_and(|kind| kind > ENTRY_KIND_MAX) {
            return Ok(entries);
        }
        let entry = read_entry(&mut reader)?;
        let position = entry.position;
        if position.index != last_position.index.next() || position.term < last_position.term || position.term > term {
            return Err(Malformed("entries are not consecutive"));
        }
        last_position = position;
        entries.push(entry);
    }
    reader.check_end()?;
    Ok(entries)
}
