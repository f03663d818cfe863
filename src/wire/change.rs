//! The encoding of membership changes.

use crate::codec::{BufMutExt, Malformed, Reader};
use crate::limits::{ADDRESS_BYTES_MAX, MEMBERS_MAX};
use crate::types::{Change, DiskId, PendingRole};
use bytes::{BufMut, BytesMut};
use std::collections::BTreeSet;

const CHANGE_ADD: u8 = 1;
const CHANGE_REMOVE: u8 = 2;
const CHANGE_PROMOTE: u8 = 3;
const CHANGE_SET_VOTERS: u8 = 4;
const CHANGE_SET_ADDRESS: u8 = 5;
const CHANGE_ABORT: u8 = 6;
const CHANGE_RAISE_FEATURE_LEVEL: u8 = 7;

const PENDING_ROLE_UNCHANGED: u8 = 0;
const PENDING_ROLE_PROMOTE: u8 = 1;
const PENDING_ROLE_REPLACE: u8 = 2;

/// An upper bound of the bytes that [`put_change`] appends.
pub(super) fn change_size(change: &Change) -> usize {
    match change {
        Change::Add { .. } | Change::SetAddress { .. } => 32 + ADDRESS_BYTES_MAX,
        Change::SetVoters(ids) => 8 + 8 * ids.len(),
        Change::Remove(_) | Change::Promote(_) | Change::RaiseFeatureLevel(_) | Change::Abort => 16,
    }
}

/// Appends the kind of change (1 byte), then its fields in order: the feature level (2 bytes), ids (8 bytes each), the pending role (1 byte) with
/// the id of the replaced member (8 bytes, 0 if there is none), the disk id (8 bytes, 0 if unknown), and the address
/// after its length.
pub(super) fn put_change(out: &mut BytesMut, change: &Change) {
    match change {
        Change::Add { id, address, disk, pending_role } => {
            out.put_u8(CHANGE_ADD);
            out.put_optional_node_id(Some(*id));
            let (role, replaced) = match pending_role {
                PendingRole::Promote => (PENDING_ROLE_PROMOTE, None),
                PendingRole::Replace(old) => (PENDING_ROLE_REPLACE, Some(*old)),
                PendingRole::Unchanged | PendingRole::Remove => (PENDING_ROLE_UNCHANGED, None),
            };
            out.put_u8(role);
            out.put_optional_node_id(replaced);
            out.put_u64_le(disk.map_or(0, |disk| disk.0));
            out.put_blob(address.as_bytes());
        }
        Change::Remove(id) => {
            out.put_u8(CHANGE_REMOVE);
            out.put_optional_node_id(Some(*id));
        }
        Change::Promote(id) => {
            out.put_u8(CHANGE_PROMOTE);
            out.put_optional_node_id(Some(*id));
        }
        Change::SetVoters(ids) => {
            out.put_u8(CHANGE_SET_VOTERS);
            out.put_u16_le(ids.len() as u16);
            ids.iter().for_each(|id| out.put_optional_node_id(Some(*id)));
        }
        Change::SetAddress { id, address } => {
            out.put_u8(CHANGE_SET_ADDRESS);
            out.put_optional_node_id(Some(*id));
            out.put_blob(address.as_bytes());
        }
        Change::RaiseFeatureLevel(level) => {
            out.put_u8(CHANGE_RAISE_FEATURE_LEVEL);
            out.put_u16_le(*level);
        }
        Change::Abort => out.put_u8(CHANGE_ABORT),
    }
}

pub(super) fn read_change(reader: &mut Reader) -> Result<Change, Malformed> {
    Ok(match reader.u8()? {
        CHANGE_ADD => {
            let id = reader.node_id()?;
            let pending_role = match (reader.u8()?, reader.optional_node_id()?) {
                (PENDING_ROLE_UNCHANGED, None) => PendingRole::Unchanged,
                (PENDING_ROLE_PROMOTE, None) => PendingRole::Promote,
                (PENDING_ROLE_REPLACE, Some(old)) => PendingRole::Replace(old),
                _ => return Err(Malformed("unknown pending role of a member")),
            };
            let disk = Some(reader.u64()?).filter(|disk| *disk != 0).map(DiskId);
            Change::Add { id, address: reader.string(ADDRESS_BYTES_MAX)?, disk, pending_role }
        }
        CHANGE_REMOVE => Change::Remove(reader.node_id()?),
        CHANGE_PROMOTE => Change::Promote(reader.node_id()?),
        CHANGE_SET_VOTERS => {
            let voter_count = reader.u16()? as usize;
            if voter_count > MEMBERS_MAX {
                return Err(Malformed("too many members"));
            }
            Change::SetVoters((0..voter_count).map(|_| reader.node_id()).collect::<Result<BTreeSet<_>, _>>()?)
        }
        CHANGE_SET_ADDRESS => Change::SetAddress { id: reader.node_id()?, address: reader.string(ADDRESS_BYTES_MAX)? },
        CHANGE_RAISE_FEATURE_LEVEL => Change::RaiseFeatureLevel(reader.u16()?),
        CHANGE_ABORT => Change::Abort,
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

    fn sample_changes() -> Vec<Change> {
        let add_change = |pending_role, disk| Change::Add { id: id(4), address: "d:4".into(), disk, pending_role };
        vec![
            add_change(PendingRole::Promote, None),
            add_change(PendingRole::Unchanged, Some(DiskId(77))),
            add_change(PendingRole::Replace(id(2)), None),
            Change::Remove(id(3)),
            Change::Promote(id(4)),
            Change::SetVoters([id(1), id(4)].into()),
            Change::SetAddress { id: id(1), address: "elsewhere:1".into() },
            Change::RaiseFeatureLevel(2),
            Change::Abort,
        ]
    }

    #[test]
    fn membership_change_round_trips_and_truncated_one_is_rejected() {
        for change in sample_changes() {
            let mut out = BytesMut::new();
            put_change(&mut out, &change);
            assert!(out.len() <= change_size(&change));
            let encoded = out.freeze();
            let mut reader = Reader::new(encoded.clone());
            assert_eq!(read_change(&mut reader), Ok(change));
            assert_eq!(reader.check_end(), Ok(()));
            for cut in 0..encoded.len() {
                assert!(read_change(&mut Reader::new(encoded.slice(..cut))).is_err());
            }
        }
    }
}
