//! The encoding of refusals: why a node did not execute a request.

use crate::api::Refusal;
use crate::codec::{BufMutExt, Malformed, Reader};
use crate::limits::{ADDRESS_BYTES_MAX, MEMBERS_MAX};
use crate::types::{Index, Term};
use bytes::{BufMut, BytesMut};

const REFUSAL_NOT_LEADER: u8 = 1;
const REFUSAL_NO_LEADER: u8 = 2;
const REFUSAL_BUSY: u8 = 3;
const REFUSAL_TOO_LARGE: u8 = 4;
const REFUSAL_MALFORMED: u8 = 5;
const REFUSAL_STOPPING: u8 = 6;
const REFUSAL_NO_SPACE: u8 = 7;
const REFUSAL_CHANGING: u8 = 8;
const REFUSAL_INVALID_CHANGE: u8 = 9;
const REFUSAL_UNSAFE_CHANGE: u8 = 10;
const REFUSAL_TRANSFER_TIMED_OUT: u8 = 11;
const REFUSAL_NOT_MEMBER: u8 = 12;
const REFUSAL_SNAPSHOT_GONE: u8 = 13;
const REFUSAL_NOT_OFFERED: u8 = 14;
const REFUSAL_NOT_ENABLED: u8 = 15;

/// The maximum length of a refusal's reason in bytes.
const REASON_BYTES_MAX: usize = 4096;

/// Appends the encoding of a refusal.
pub(super) fn put_refusal(out: &mut BytesMut, refusal: &Refusal) {
    match refusal {
        Refusal::NotLeader { leader, address, term } => {
            out.put_u8(REFUSAL_NOT_LEADER);
            out.put_optional_node_id(*leader);
            out.put_u64_le(term.0);
            out.put_blob(address.as_deref().unwrap_or("").as_bytes());
        }
        Refusal::NoLeader => out.put_u8(REFUSAL_NO_LEADER),
        Refusal::Busy => out.put_u8(REFUSAL_BUSY),
        Refusal::TooLarge { bytes, limit } => {
            out.put_u8(REFUSAL_TOO_LARGE);
            out.put_u64_le(*bytes);
            out.put_u64_le(*limit);
        }
        Refusal::Malformed => out.put_u8(REFUSAL_MALFORMED),
        Refusal::Stopping => out.put_u8(REFUSAL_STOPPING),
        Refusal::NoSpace => out.put_u8(REFUSAL_NO_SPACE),
        Refusal::SnapshotGone => out.put_u8(REFUSAL_SNAPSHOT_GONE),
        Refusal::NotSupported => out.put_u8(REFUSAL_NOT_OFFERED),
        Refusal::NotEnabled { needed, level } => {
            out.put_u8(REFUSAL_NOT_ENABLED);
            out.put_u16_le(*needed);
            out.put_u16_le(*level);
        }
        Refusal::ChangeInProgress { since } => {
            out.put_u8(REFUSAL_CHANGING);
            out.put_u64_le(since.0);
        }
        Refusal::InvalidChange { why } => put_reason(out, REFUSAL_INVALID_CHANGE, why),
        Refusal::UnsafeChange { why } => put_reason(out, REFUSAL_UNSAFE_CHANGE, why),
        Refusal::TransferTimedOut { to } => {
            out.put_u8(REFUSAL_TRANSFER_TIMED_OUT);
            out.put_optional_node_id(Some(*to));
        }
        Refusal::NotMember { node, members } => {
            out.put_u8(REFUSAL_NOT_MEMBER);
            out.put_optional_node_id(Some(*node));
            let members = &members[..members.len().min(MEMBERS_MAX)];
            out.put_u8(members.len() as u8);
            members.iter().for_each(|address| out.put_blob(address.as_bytes()));
        }
    }
}

fn put_reason(out: &mut BytesMut, kind: u8, reason: &str) {
    out.put_u8(kind);
    let length = reason.floor_char_boundary(REASON_BYTES_MAX);
    out.put_blob(&reason.as_bytes()[..length]);
}

/// Decodes a refusal.
pub(super) fn read_refusal(reader: &mut Reader) -> Result<Refusal, Malformed> {
    Ok(match reader.u8()? {
        REFUSAL_NOT_LEADER => {
            let (leader, term) = (reader.optional_node_id()?, Term(reader.u64()?));
            let address = Some(reader.string(ADDRESS_BYTES_MAX)?).filter(|address| !address.is_empty());
            Refusal::NotLeader { leader, address, term }
        }
        REFUSAL_NO_LEADER => Refusal::NoLeader,
        REFUSAL_BUSY => Refusal::Busy,
        REFUSAL_TOO_LARGE => Refusal::TooLarge { bytes: reader.u64()?, limit: reader.u64()? },
        REFUSAL_MALFORMED => Refusal::Malformed,
        REFUSAL_STOPPING => Refusal::Stopping,
        REFUSAL_NO_SPACE => Refusal::NoSpace,
        REFUSAL_SNAPSHOT_GONE => Refusal::SnapshotGone,
        REFUSAL_NOT_OFFERED => Refusal::NotSupported,
        REFUSAL_NOT_ENABLED => Refusal::NotEnabled { needed: reader.u16()?, level: reader.u16()? },
        REFUSAL_CHANGING => Refusal::ChangeInProgress { since: Index(reader.u64()?) },
        REFUSAL_INVALID_CHANGE => Refusal::InvalidChange { why: reader.string(REASON_BYTES_MAX)? },
        REFUSAL_UNSAFE_CHANGE => Refusal::UnsafeChange { why: reader.string(REASON_BYTES_MAX)? },
        REFUSAL_TRANSFER_TIMED_OUT => Refusal::TransferTimedOut { to: reader.node_id()? },
        REFUSAL_NOT_MEMBER => {
            let node = reader.node_id()?;
            let member_count = usize::from(reader.u8()?);
            if member_count > MEMBERS_MAX {
                return Err(Malformed("too many members"));
            }
            // Memory is reserved for the addresses that arrive, not for the announced count.
            let members = (0..member_count).map(|_| reader.string(ADDRESS_BYTES_MAX)).collect::<Result<_, _>>()?;
            Refusal::NotMember { node, members }
        }
        _ => return Err(Malformed("unknown refusal")),
    })
}
