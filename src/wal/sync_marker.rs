//! The sync marker: a file that records which part of the log was synced. Damage to the log does not affect it.
//!
//! The file holds two records, each in two alternating slots. The hard state is synced when it changes: a node with a
//! damaged log still knows its vote. The offset up to which the log was synced is written *after* the sync returned,
//! and the write of the offset is not synced itself. So the offset is always true, and it survives a kill and usually
//! even a power loss. A missing offset proves nothing.
//!
//! # Contents after a crash
//!
//! | after | hard state | offset |
//! |---|---|---|
//! | a killed process | durable | of the last sync: the page cache survives; *everything* acknowledged is before it |
//! | a power loss | durable | of some earlier sync: the bytes before it were synced, the later ones perhaps |
//! | a lost file, or a bad or unreadable slot | unknown | unknown: only the log itself is evidence |
//!
//! The log records a sync only in the header of its next batch, and no batch follows the last one. So only the marker
//! distinguishes a torn write from a lost one at the end of the log.
//!
//! A slot that is being overwritten when the power fails may be torn. The other slot of its pair then still has the
//! record before, which is older and just as true. A single slot with a copy elsewhere would need two writes for each
//! sync.

use super::report::{Fault, Result};
use crate::codec::{self, BufMutExt, Reader};
use crate::disk::unreadable::is_media_error;
use crate::disk::{Disk, DiskFile, is_too_many_open_files};
use crate::types::{DiskId, HardState, Position};
use bytes::{BufMut, Bytes};

/// The name of the sync marker's file.
pub const FILE_NAME: &str = "synced";
/// The version of the slots' format.
pub const FORMAT_VERSION: u16 = 0;
/// The distance between slots in bytes, so large that no sector holds two.
pub const SLOT_DISTANCE_BYTES: usize = 512;
/// The number of slots: hard state at 0 and 1, log offset at 2 and 3.
pub const SLOT_COUNT: usize = 4;
/// The size of a slot's contents in bytes.
pub const SLOT_BYTES: usize = 64;
/// The size in bytes of a slot's checksum, number, write number and disk id, before its fields.
const SLOT_HEADER_BYTES: usize = 24;

const _: () = {
    assert!(
        SLOT_BYTES <= 512 && SLOT_DISTANCE_BYTES.is_multiple_of(512),
        "a slot is within one sector, which is written whole"
    );
    assert!(SLOT_HEADER_BYTES + codec::HARD_STATE_BYTES <= SLOT_BYTES, "a hard state fits into a slot");
};

/// The record of the offset up to which the log was synced.
///
/// If the record was written in the current boot of the kernel, the page cache has kept every later write too: no
/// acknowledged byte of the log is after `offset`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogOffset {
    /// The id of the kernel boot in which the record was written.
    pub boot_id: u64,
    /// The number of the segment that was being written. All earlier segments were synced.
    pub segment: u64,
    /// All bytes of the segment before this offset were synced.
    pub offset: u64,
    /// The position of the log's last entry before that offset.
    // For messages: if the log ends before this position, the entries in between are lost.
    pub last_position: Position,
}

/// The contents of the sync marker.
///
/// A field is `None` if neither of its slots is good. A missing marker proves nothing, so a node without the file still
/// starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SyncMarker {
    /// The node's hard state (term, vote, promised position) at the last sync that changed it.
    pub hard_state: Option<HardState>,
    /// The offset up to which the log was synced, at least.
    pub log_offset: Option<LogOffset>,
    // The write number of the newer slot of each pair: hard state, then log offset. The next write of a pair has the
    // next write number and goes into the other slot.
    pair_write_numbers: [u64; 2],
    /// The id of the current boot of the kernel; 0 if unknown.
    boot_id: u64,
    /// How many of the two slots of each pair are good.
    good_slot_counts: [u8; 2],
}

impl SyncMarker {
    /// The same contents, read in the kernel boot with that id.
    ///
    /// [`SyncMarker::read`] leaves the id 0, because tools also read directories that come from other machines.
    pub fn with_boot_id(self, boot_id: u64) -> SyncMarker {
        SyncMarker { boot_id, ..self }
    }

    /// Whether `log_offset` was written in the current boot of the kernel. Then everything ever acknowledged is before
    /// that offset: it is written after a sync has returned and before anything is acknowledged because of that sync,
    /// and the page cache keeps it when the process dies. If one of the two slots is damaged, it may be the newer one.
    ///
    /// Id 0 stands for an unknown boot. Two unknown boots must not count as the same one.
    pub fn is_of_this_boot(&self) -> bool {
        self.good_slot_counts[1] == 2
            && self.log_offset.is_some_and(|synced| synced.boot_id == self.boot_id && self.boot_id != 0)
    }

    /// The id of the current boot, as given to [`SyncMarker::with_boot_id`].
    pub fn boot_id(&self) -> u64 {
        self.boot_id
    }

    /// The hard state, if it is certain that no later one was written: both slots are good. If one slot is damaged, it may
    /// be the newer one.
    pub fn certain_hard_state(&self) -> Option<HardState> {
        self.hard_state.filter(|_| self.good_slot_counts[0] == 2)
    }

    /// Decodes the file: the newer good slot of each pair. `disk` is the id of the file's data directory.
    ///
    /// A slot with another disk id was copied from another directory, and a slot with a wrong number was written to a
    /// wrong offset. Both are skipped, like a slot with a wrong checksum.
    pub fn read(file: &Bytes, disk: DiskId) -> SyncMarker {
        let mut marker = SyncMarker::default();
        for slot in 0..SLOT_COUNT {
            let Some(bytes) = file.get(slot * SLOT_DISTANCE_BYTES..slot * SLOT_DISTANCE_BYTES + SLOT_BYTES) else {
                continue;
            };
            let Some((write_number, mut fields)) = decode_slot(Bytes::copy_from_slice(bytes), slot as u32, disk) else {
                continue;
            };
            // Write numbers only grow, so the slot with the greater one was written last. Number 0 was never written.
            let is_newer = write_number > marker.pair_write_numbers[slot / 2];
            // If the fields are invalid although the checksum is right, the slot is skipped: the other slot may be
            // good.
            if slot < 2 {
                let Ok(hard_state) = codec::read_hard_state(&mut fields) else { continue };
                marker.hard_state = if is_newer { Some(hard_state) } else { marker.hard_state };
            } else {
                let Ok(log_offset) = read_log_offset(&mut fields) else { continue };
                marker.log_offset = if is_newer { Some(log_offset) } else { marker.log_offset };
            }
            marker.good_slot_counts[slot / 2] += 1;
            marker.pair_write_numbers[slot / 2] = marker.pair_write_numbers[slot / 2].max(write_number);
        }
        marker
    }

    /// The version of a slot that a later version of this program has written; `None` if there is no such slot. Such a
    /// marker must not be read as a missing one: it may hold a vote.
    pub fn newer_version(file: &Bytes, disk: DiskId) -> Option<u16> {
        file.chunks(SLOT_DISTANCE_BYTES).take(SLOT_COUNT).enumerate().find_map(|(slot, bytes)| {
            let bytes = Bytes::copy_from_slice(bytes.get(..SLOT_BYTES)?);
            let version = u16::from_le_bytes([bytes[6], bytes[7]]);
            let number = slot as u32 | u32::from(version) << 16;
            decode_slot(bytes, number, disk).map(|_| version).filter(|version| *version > FORMAT_VERSION)
        })
    }
}

/// The sync marker's file, open for writing.
#[derive(Debug)]
pub struct SyncMarkerFile<F> {
    file: F,
    disk: DiskId,
    pair_write_numbers: [u64; 2],
}

impl<F: DiskFile> SyncMarkerFile<F> {
    /// Opens the file in a directory, or creates the file. `marker` is the content of an existing file: the write
    /// numbers continue from those in `marker`.
    ///
    /// A new file gets its name only when its size is durable. The file is never extended afterwards: the sync of a
    /// slot changes no metadata, and on most file systems the write of a slot succeeds on a full disk.
    ///
    /// A file with an unreadable slot is replaced by a copy in which that slot has zeros: a write of 64 bytes to an
    /// unreadable sector may fail too, because the kernel reads the rest of the page first.
    pub fn open<D: Disk<File = F>>(disk: &D, id: DiskId, marker: &SyncMarker) -> Result<SyncMarkerFile<F>> {
        let names = disk.list().map_err(to_fault("list", FILE_NAME))?;
        let exists = names.iter().any(|name| name == FILE_NAME);
        let slots = if exists { read_slots(disk)? } else { MarkerSlots::default() };
        if !exists || slots.unreadable_count > 0 {
            let tmp_name = format!("{FILE_NAME}.tmp");
            if names.contains(&tmp_name) {
                // The file is left from an interrupted attempt.
                disk.remove(&tmp_name).map_err(to_fault("remove", FILE_NAME))?;
            }
            let mut file = disk.create(&tmp_name).map_err(to_fault("create", FILE_NAME))?;
            file.allocate((SLOT_DISTANCE_BYTES * SLOT_COUNT) as u64).map_err(to_fault("allocate", FILE_NAME))?;
            if exists {
                file.write_at(0, &slots.bytes).map_err(to_fault("write", FILE_NAME))?;
            }
            file.sync_all().map_err(to_fault("sync", FILE_NAME))?;
            disk.rename(&tmp_name, FILE_NAME).map_err(to_fault("rename", FILE_NAME))?;
            disk.sync_names().map_err(to_fault("sync the directory of", FILE_NAME))?;
        }
        let file = disk.open(FILE_NAME).map_err(to_fault("open", FILE_NAME))?;
        Ok(SyncMarkerFile { file, disk: id, pair_write_numbers: marker.pair_write_numbers })
    }

    /// Writes the hard state, durably.
    ///
    /// Called after the log's own sync and before the report: a vote leaves the node only when both copies are durable.
    /// If the power fails between the two syncs, the vote was never sent, and the marker is merely behind the log.
    pub fn write_hard_state(&mut self, hard_state: &HardState) -> Result<()> {
        let mut fields = Vec::with_capacity(codec::HARD_STATE_BYTES);
        codec::put_hard_state(&mut fields, hard_state);
        self.write_slot(0, &fields)?;
        self.file.sync().map_err(to_fault("sync", FILE_NAME))
    }

    /// Writes the offset up to which the log was synced; the write itself is not synced.
    ///
    /// A plain write to the page cache costs microseconds. In return, a start after a kill knows exactly where the
    /// acknowledged log ends.
    pub fn write_offset(&mut self, log_offset: &LogOffset) -> Result<()> {
        let mut fields = [0; 40];
        let mut out = &mut fields[..];
        out.put_u64_le(log_offset.boot_id);
        out.put_u64_le(log_offset.segment);
        out.put_u64_le(log_offset.offset);
        out.put_position(log_offset.last_position);
        self.write_slot(1, &fields)
    }

    /// Writes a record to the next slot of its pair:
    ///
    /// | at | size | field |
    /// |---|---|---|
    /// | 0 | 4 | CRC-32 of the rest |
    /// | 4 | 2 | number of the slot |
    /// | 6 | 2 | version of the format, 0 |
    /// | 8 | 8 | write number: the higher of a pair is the newer |
    /// | 16 | 8 | disk id |
    /// | 24 | 40 | fields, zeros after them |
    ///
    /// The number is counted up before the write. A failed write uses up its number, but the journal is poisoned then.
    ///
    /// The first record of a pair is written to both slots: a slot without a record could not be told from a zeroed one.
    fn write_slot(&mut self, pair: usize, fields: &[u8]) -> Result<()> {
        if self.pair_write_numbers[pair] == 0 {
            self.write_next_slot(pair, fields)?;
        }
        self.write_next_slot(pair, fields)
    }

    fn write_next_slot(&mut self, pair: usize, fields: &[u8]) -> Result<()> {
        self.pair_write_numbers[pair] += 1;
        let write_number = self.pair_write_numbers[pair];
        // The slot alternates: the slot of the write number before is the only good one during this write.
        let slot = pair * 2 + (write_number % 2) as usize;
        let mut bytes = [0; SLOT_BYTES];
        bytes[4..8].copy_from_slice(&(slot as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&write_number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.disk.0.to_le_bytes());
        bytes[SLOT_HEADER_BYTES..SLOT_HEADER_BYTES + fields.len()].copy_from_slice(fields);
        let checksum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        self.file.write_at((slot * SLOT_DISTANCE_BYTES) as u64, &bytes).map_err(to_fault("write", FILE_NAME))
    }
}

/// The bytes of all slots of the file.
#[derive(Default)]
pub struct MarkerSlots {
    /// The slots at their offsets. An unreadable or missing slot has zeros, so that it counts as a bad one.
    pub bytes: Bytes,
    /// The number of slots that the disk cannot read.
    pub unreadable_count: u32,
}

/// Reads the slots of the existing file, each with a read of its own: an unreadable sector makes only its slot a bad
/// one. A read that fails is repeated, because a device may fail for a moment.
pub fn read_slots<D: Disk>(disk: &D) -> Result<MarkerSlots> {
    let file = disk.open(FILE_NAME).map_err(to_fault("open", FILE_NAME))?;
    let mut bytes = vec![0; SLOT_DISTANCE_BYTES * SLOT_COUNT];
    let mut unreadable_count = 0;
    for (number, slot) in bytes.chunks_mut(SLOT_DISTANCE_BYTES).enumerate() {
        let (offset, slot_bytes) = ((number * SLOT_DISTANCE_BYTES) as u64, &mut slot[..SLOT_BYTES]);
        let first_read = file.read_at(offset, slot_bytes);
        match first_read.or_else(|_| file.read_at(offset, slot_bytes)) {
            Ok(_) => {}
            Err(error) if is_media_error(&error) => {
                slot_bytes.fill(0);
                unreadable_count += 1;
            }
            Err(error) => return Err(to_fault("read", FILE_NAME)(error)),
        }
    }
    Ok(MarkerSlots { bytes: bytes.into(), unreadable_count })
}

/// Returns the write number of a slot and a reader of its fields; `None` if the slot is not good. `number` is the number
/// of the slot, with the version of the format in its upper half.
fn decode_slot(bytes: Bytes, number: u32, disk: DiskId) -> Option<(u64, Reader)> {
    let computed = crc32fast::hash(&bytes[4..]);
    let mut reader = Reader::new(bytes);
    let is_good = reader.u32() == Ok(computed) && reader.u32() == Ok(number);
    let write_number = reader.u64().ok()?;
    let is_same_disk = reader.u64() == Ok(disk.0);
    (is_good && is_same_disk).then_some((write_number, reader))
}

fn read_log_offset(fields: &mut Reader) -> codec::Result<LogOffset> {
    Ok(LogOffset {
        boot_id: fields.u64()?,
        segment: fields.u64()?,
        offset: fields.u64()?,
        last_position: fields.position()?,
    })
}

/// Converts a disk error to a fault.
///
/// The node waits until a full disk has space again, and stops after any other error.
pub fn to_fault(action: &'static str, file: &str) -> impl FnOnce(std::io::Error) -> Fault {
    let file = file.to_owned();
    move |source| match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Fault::Full { file },
        // The process has too many open files. The disk is fine, and the condition is temporary like a full disk.
        _ if is_too_many_open_files(&source) => Fault::Full { file: format!("{file} ({source})") },
        _ => Fault::Io { action, file, source },
    }
}
