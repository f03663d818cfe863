//! The sync marker: a file that records what was certainly synced, out of reach of damage to the log.
//!
//! It holds two records, in two alternating slots each. The hard state is synced when it changes: a node with a damaged
//! log still knows its vote. The log offset up to which the log was synced is written *after* the sync returned, and is
//! not synced itself: it is always true, and it survives a kill and usually even a power loss. Its presence is
//! evidence; its absence proves nothing.
//!
//! # What it is worth
//!
//! | after | hard state | offset |
//! |---|---|---|
//! | a killed process | durable | there: the page cache survives; *everything* acknowledged is before it |
//! | a power loss | durable | of some earlier sync; bytes before it were synced, about others it says nothing |
//! | a lost file, or a bad slot | unknown | unknown: the log is judged by its own evidence |
//!
//! The log could state the same about itself only in its next batch, and the last batch has none. So the marker closes
//! the gap at the end of the log, where a torn write and a lost one look alike.
//!
//! Two slots take turns, because a slot that is being overwritten when the power fails may be torn: then the other slot
//! still has the statement before it, which is older and just as true. One slot with a copy elsewhere would need two
//! writes for each sync.

use super::report::{Fault, Result};
use crate::codec::{self, Put, Reader};
use crate::disk::{Disk, DiskFile, is_out_of_files};
use crate::types::{DiskId, HardState, Position};
use bytes::{BufMut, Bytes};

/// The name of the file.
pub const NAME: &str = "synced";
/// The distance between slots in bytes, so large that no sector holds two.
pub const SLOT: usize = 512;
/// The number of slots: hard state at 0 and 1, log offset at 2 and 3.
pub const SLOTS: usize = 4;
/// How many bytes of a slot are used.
pub const SLOT_BYTES: usize = 64;
/// The size in bytes of a slot's checksum, number, turn and disk id, before its fields.
const SLOT_HEADER: usize = 24;

const _: () = {
    assert!(SLOT_BYTES <= 512 && SLOT.is_multiple_of(512), "a slot is within one sector, which is written whole");
    assert!(SLOT_HEADER + codec::HARD_STATE_BYTES <= SLOT_BYTES, "a hard state fits into a slot");
};

/// The offset up to which the log was synced.
///
/// `boot` tells whether the page cache that kept this record is the one that the log is read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogOffset {
    /// The kernel boot in which it was written.
    pub boot: u64,
    /// The segment.
    pub segment: u64,
    /// All bytes of the segment before this offset were synced.
    pub offset: u64,
    /// The last position of the log there.
    // For messages: if the log ends before this position, the entries in between are lost.
    pub last: Position,
}

/// The contents of the sync marker.
///
/// Each field is `None` if no good slot has it. Absence proves nothing, so a missing marker makes no log corrupt; an
/// operator may lose the file and still start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SyncMarker {
    /// The mirrored hard state.
    pub hard: Option<HardState>,
    /// The offset up to which the log was synced, at least.
    pub place: Option<LogOffset>,
    // The turn of the newer slot of each pair. The next write continues from it, into the other slot.
    turn: [u64; 2],
    /// The current kernel boot.
    boot: u64,
}

impl SyncMarker {
    /// The same contents, read in the kernel boot `boot`.
    ///
    /// Apart from [`SyncMarker::read`], because tools read the directories of other machines, where no boot is the
    /// current one.
    pub fn in_boot(self, boot: u64) -> SyncMarker {
        SyncMarker { boot, ..self }
    }

    /// Whether `place` was written in this boot of the kernel. It is written after a sync has returned and before
    /// anything is acknowledged because of that sync, and the page cache keeps it when the process dies: so everything
    /// ever acknowledged is before that offset.
    ///
    /// Boot 0 means that the kernel does not tell. Two unknown boots must not count as the same one.
    pub fn is_of_this_boot(&self) -> bool {
        self.place.is_some_and(|place| place.boot == self.boot && self.boot != 0)
    }

    /// Decodes the file of a disk: the newer good slot of each pair, if any is good.
    ///
    /// A slot with another disk's id was copied from another directory, and one with another slot's number was written
    /// to the wrong place. Both are skipped like a wrong checksum.
    pub fn read(file: &Bytes, disk: DiskId) -> SyncMarker {
        let mut testimony = SyncMarker::default();
        for slot in 0..SLOTS {
            let Some(bytes) = file.get(slot * SLOT..slot * SLOT + SLOT_BYTES) else { continue };
            let Some((turn, mut fields)) = open_slot(Bytes::copy_from_slice(bytes), slot, disk) else { continue };
            let newest = &mut testimony.turn[slot / 2];
            // Turns only grow, so the greater one was written last. Turn 0 was never written.
            if turn <= *newest {
                continue;
            }
            if slot < 2 {
                // A checksum that is right over fields that are not: nothing can be learned from it, and the other slot
                // may be good.
                let Ok(hard) = codec::read_hard_state(&mut fields) else { continue };
                testimony.hard = Some(hard);
            } else {
                let Ok(place) = read_place(&mut fields) else { continue };
                testimony.place = Some(place);
            }
            *newest = turn;
        }
        testimony
    }
}

/// The sync marker's file, open for writing.
#[derive(Debug)]
pub struct SyncMarkerFile<F> {
    file: F,
    disk: DiskId,
    turn: [u64; 2],
}

impl<F: DiskFile> SyncMarkerFile<F> {
    /// Opens the file in a directory; creates it if it does not exist.
    ///
    /// A new file gets its name only when its size is durable. It is never extended afterwards: a sync of a slot
    /// changes no metadata, and on most file systems a write to it works on a full disk.
    pub fn open<D: Disk<File = F>>(disk: &D, id: DiskId, testimony: &SyncMarker) -> Result<SyncMarkerFile<F>> {
        let there = disk.list().map_err(io("list", NAME))?.iter().any(|name| name == NAME);
        if !there {
            let tmp = format!("{NAME}.tmp");
            let mut file = disk.create(&tmp).map_err(io("create", NAME))?;
            file.allocate((SLOT * SLOTS) as u64).map_err(io("allocate", NAME))?;
            file.sync_all().map_err(io("sync", NAME))?;
            disk.rename(&tmp, NAME).map_err(io("rename", NAME))?;
            disk.sync_names().map_err(io("sync the directory of", NAME))?;
        }
        let file = disk.open(NAME).map_err(io("open", NAME))?;
        Ok(SyncMarkerFile { file, disk: id, turn: testimony.turn })
    }

    /// Writes the hard state, durably.
    ///
    /// After the log's own sync and before the report: a vote leaves the node only when both copies are durable. If the
    /// power fails between the two syncs, the vote was never sent, and the marker is merely behind the log.
    pub fn mirror(&mut self, hard: &HardState) -> Result<()> {
        let mut fields = Vec::with_capacity(codec::HARD_STATE_BYTES);
        codec::put_hard_state(&mut fields, hard);
        self.write(0, &fields)?;
        self.file.sync().map_err(io("sync", NAME))
    }

    /// Writes the offset up to which the log was synced; the write itself is not synced.
    ///
    /// A plain write to the page cache costs microseconds. It is the price for knowing, after each kill, exactly where
    /// the acknowledged log ends.
    pub fn write_offset(&mut self, place: &LogOffset) -> Result<()> {
        let mut fields = [0; 40];
        let mut out = &mut fields[..];
        out.put_u64_le(place.boot);
        out.put_u64_le(place.segment);
        out.put_u64_le(place.offset);
        out.put_position(place.last);
        self.write(1, &fields)
    }

    /// | at | size | field |
    /// |---|---|---|
    /// | 0 | 4 | CRC-32 of the rest |
    /// | 4 | 4 | number of the slot |
    /// | 8 | 8 | turn: the higher of a pair is the newer |
    /// | 16 | 8 | disk id |
    /// | 24 | 40 | fields, zeros after them |
    ///
    /// The turn is counted before the write. After a failed write the turn is used up, and the journal is poisoned
    /// anyway.
    fn write(&mut self, pair: usize, fields: &[u8]) -> Result<()> {
        self.turn[pair] += 1;
        let turn = self.turn[pair];
        // Never the slot of the turn before, which is the only good one while this one is being written.
        let slot = pair * 2 + (turn % 2) as usize;
        let mut bytes = [0; SLOT_BYTES];
        bytes[4..8].copy_from_slice(&(slot as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&turn.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.disk.0.to_le_bytes());
        bytes[SLOT_HEADER..SLOT_HEADER + fields.len()].copy_from_slice(fields);
        let checksum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        self.file.write_at((slot * SLOT) as u64, &bytes).map_err(io("write", NAME))
    }
}

fn open_slot(bytes: Bytes, slot: usize, disk: DiskId) -> Option<(u64, Reader)> {
    let computed = crc32fast::hash(&bytes[4..]);
    let mut reader = Reader::new(bytes);
    let good = reader.u32() == Ok(computed) && reader.u32() == Ok(slot as u32);
    let turn = reader.u64().ok()?;
    let same = reader.u64() == Ok(disk.0);
    (good && same).then_some((turn, reader))
}

fn read_place(fields: &mut Reader) -> codec::Result<LogOffset> {
    Ok(LogOffset { boot: fields.u64()?, segment: fields.u64()?, offset: fields.u64()?, last: fields.position()? })
}

/// Converts a disk error to a fault.
///
/// The distinction matters: a full disk is waited for, and every other error stops the node.
pub fn io(action: &'static str, file: &str) -> impl FnOnce(std::io::Error) -> Fault {
    let file = file.to_owned();
    move |source| match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Fault::Full { file },
        // The disk is fine, and this passes like a lack of room.
        _ if is_out_of_files(&source) => Fault::Full { file: format!("{file} ({source})") },
        _ => Fault::Io { action, file, source },
    }
}
