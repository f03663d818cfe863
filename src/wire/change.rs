//! The encoding of membership changes.

use crate::codec::{Malformed, Put, Reader};
use crate::limits::{ADDRESS_BYTES_MAX, MEMBERS_MAX};
use crate::types::{Change, DiskId, PendingRole};
use bytes::{BufMut, BytesMut};
use std::collections::BTreeSet;

const ADD: u8 = 1;
const REMOVE: u8 = 2;
const PROMOTE: u8 = 3;
const VOTERS: u8 = 4;
const MOVE: u8 = 5;
const ABORT: u8 = 6;

const STAYS: u8 = 0;
const RISES: u8 = 1;
const SUCCEEDS: u8 = 2;

/// An upper bound of the bytes that [`put_change`] appends.
pub(super) fn change_size(change: &Change) -> usize {
    match change {
        Change::Add { .. } | Change::Move { .. } => 32 + ADDRESS_BYTES_MAX,
        Change::Voters(ids) => 8 + 8 * ids.len(),
        Change::Remove(_) | Change::Promote(_) | Change::Abort => 16,
    }
}

/// The kind of change (1), then its fields in order: ids (8), the pending role (1, and the id of the replaced member
/// (8)), disk (8, 0 if unknown), address after its length.
pub(super) fn put_change(out: &mut BytesMut, change: &Change) {
    match change {
        Change::Add { id, address, disk, prospect } => {
            out.put_u8(ADD);
            out.put_node(Some(*id));
            let (kind, place) = match prospect {
                PendingRole::Promote => (RISES, None),
                PendingRole::Replace(old) => (SUCCEEDS, Some(*old)),
                PendingRole::Stays | PendingRole::Remove => (STAYS, None),
            };
            out.put_u8(kind);
            out.put_node(place);
            out.put_u64_le(disk.map_or(0, |disk| disk.0));
            out.put_blob(address.as_bytes());
        }
        Change::Remove(id) => {
            out.put_u8(REMOVE);
            out.put_node(Some(*id));
        }
        Change::Promote(id) => {
            out.put_u8(PROMOTE);
            out.put_node(Some(*id));
        }
        Change::Voters(ids) => {
            out.put_u8(VOTERS);
            out.put_u16_le(ids.len() as u16);
            ids.iter().for_each(|id| out.put_node(Some(*id)));
        }
        Change::Move { id, address } => {
            out.put_u8(MOVE);
            out.put_node(Some(*id));
            out.put_blob(address.as_bytes());
        }
        Change::Abort => out.put_u8(ABORT),
    }
}

pub(super) fn read_change(reader: &mut Reader) -> Result<Change, Malformed> {
    Ok(match reader.u8()? {
        ADD => {
            let id = reader.node_id()?;
            let prospect = match (reader.u8()?, reader.node()?) {
                (STAYS, None) => PendingRole::Stays,
                (RISES, None) => PendingRole::Promote,
                (SUCCEEDS, Some(old)) => PendingRole::Replace(old),
                _ => return Err(Malformed("unknown pending role of a member")),
            };
            let disk = Some(reader.u64()?).filter(|disk| *disk != 0).map(DiskId);
            Change::Add { id, address: reader.string(ADDRESS_BYTES_MAX)?, disk, prospect }
        }
        REMOVE => Change::Remove(reader.node_id()?),
        PROMOTE => Change::Promote(reader.node_id()?),
        VOTERS => {
            let count = reader.u16()? as usize;
            if count > MEMBERS_MAX {
                return Err(Malformed("too many members"));
            }
            Change::Voters((0..count).map(|_| reader.node_id()).collect::<Result<BTreeSet<_>, _>>()?)
        }
        MOVE => Change::Move { id: reader.node_id()?, address: reader.string(ADDRESS_BYTES_MAX)? },
        ABORT => Change::Abort,
        _ => return Err(Malformed("unknown membership change")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn id(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn samples() -> Vec<Change> {
        let add = |prospect, disk| Change::Add { id: id(4), address: "d:4".into(), disk, prospect };
        vec![
            add(PendingRole::Promote, None),
            add(PendingRole::Stays, Some(DiskId(77))),
            add(PendingRole::Replace(id(2)), None),
            Change::Remove(id(3)),
            Change::Promote(id(4)),
            Change::Voters([id(1), id(4)].into()),
            Change::Move { id: id(1), address: "elsewhere:1".into() },
            Change::Abort,
        ]
    }

    #[test]
    fn membership_change_round_trips_and_truncated_one_is_rejected() {
        for change in samples() {
            let mut out = BytesMut::new();
            put_change(&mut out, &change);
            assert!(out.len() <= change_size(&change));
            let whole = out.freeze();
            let mut reader = Reader::new(whole.clone());
            assert_eq!(read_change(&mut reader), Ok(change));
            assert_eq!(reader.end(), Ok(()));
            for cut in 0..whole.len() {
                assert!(read_change(&mut Reader::new(whole.slice(..cut))).is_err());
            }
        }
    }
}
