//! The side file: what was certainly synced, kept where damage to the log does not reach.
//!
//! Two things, in two alternating slots each. The hard state, synced when it changes: a node with a
//! damaged log still knows how it voted. And how far the log was synced, written *after* the sync
//! returned and not synced itself: what it says is always true, it survives a kill, and mostly even
//! a power loss. It is evidence when it is there, and proves nothing when it is not.

use super::report::{Fault, Result};
use crate::codec::{self, Put, Reader};
use crate::disk::{Disk, DiskFile, is_out_of_files};
use crate::types::{DiskId, HardState, Position};
use bytes::{BufMut, Bytes};

/// The name of the file.
pub const NAME: &str = "synced";
/// Slots stand so far apart that no sector holds two.
pub const SLOT: usize = 512;
/// Hard state at 0 and 1, place at 2 and 3.
pub const SLOTS: usize = 4;
/// How much of a slot is used.
pub const SLOT_BYTES: usize = 64;

/// How far the log was synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogOffset {
    /// Which run of the kernel said so.
    pub boot: u64,
    /// The segment.
    pub segment: u64,
    /// All bytes of it before this were synced.
    pub offset: u64,
    /// The last position of the log there.
    pub last: Position,
}

/// What the side file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SyncMarker {
    /// The hard state it mirrors.
    pub hard: Option<HardState>,
    /// How far the log was synced at least.
    pub place: Option<LogOffset>,
    turn: [u64; 2],
    /// Which run of the kernel this is.
    boot: u64,
}

impl SyncMarker {
    /// The same, read in that run of the kernel.
    pub fn in_boot(self, boot: u64) -> SyncMarker {
        SyncMarker { boot, ..self }
    }

    /// Whether its place was written in this run of the kernel. It is written when a sync has returned, before
    /// anything is acknowledged because of it, and the page cache loses nothing of it when the process dies: so
    /// all that was ever acknowledged stands before that place.
    pub fn is_of_this_boot(&self) -> bool {
        self.place.is_some_and(|place| place.boot == self.boot && self.boot != 0)
    }

    /// What the file of that disk says: the newer good slot of each pair, if any is good.
    pub fn read(file: &Bytes, disk: DiskId) -> SyncMarker {
        let mut testimony = SyncMarker::default();
        for slot in 0..SLOTS {
            let Some(bytes) = file.get(slot * SLOT..slot * SLOT + SLOT_BYTES) else { continue };
            let Some((turn, mut fields)) = open_slot(Bytes::copy_from_slice(bytes), slot, disk) else { continue };
            let newest = &mut testimony.turn[slot / 2];
            if turn <= *newest {
                continue;
            }
            if slot < 2 {
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

/// The side file, being written.
#[derive(Debug)]
pub struct Side<F> {
    file: F,
    disk: DiskId,
    turn: [u64; 2],
}

impl<F: DiskFile> Side<F> {
    /// The side file of that directory, made if it is not there.
    pub fn open<D: Disk<File = F>>(disk: &D, id: DiskId, testimony: &SyncMarker) -> Result<Side<F>> {
        let there = disk.list().map_err(io("list", NAME))?.iter().any(|name| name == NAME);
        if !there {
            let tmp = format!("{NAME}.tmp");
            let mut file = disk.create(&tmp).map_err(io("create", NAME))?;
            file.allocate((SLOT * SLOTS) as u64).map_err(io("allocate", NAME))?;
            file.sync_all().map_err(io("sync", NAME))?;
            disk.rename(&tmp, NAME).map_err(io("rename", NAME))?;
            disk.sync_names().map_err(io("sync the name of", NAME))?;
        }
        let file = disk.open(NAME).map_err(io("open", NAME))?;
        Ok(Side { file, disk: id, turn: testimony.turn })
    }

    /// Mirrors the hard state, durably.
    pub fn mirror(&mut self, hard: &HardState) -> Result<()> {
        let mut fields = Vec::with_capacity(codec::HARD_STATE_BYTES);
        codec::put_hard_state(&mut fields, hard);
        self.write(0, &fields)?;
        self.file.sync().map_err(io("sync", NAME))
    }

    /// States how far the log was synced; not synced itself.
    pub fn state(&mut self, place: &LogOffset) -> Result<()> {
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
    /// | 24 | 40 | fields, zeros behind them |
    fn write(&mut self, pair: usize, fields: &[u8]) -> Result<()> {
        self.turn[pair] += 1;
        let turn = self.turn[pair];
        let slot = pair * 2 + (turn % 2) as usize;
        let mut bytes = [0; SLOT_BYTES];
        bytes[4..8].copy_from_slice(&(slot as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&turn.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.disk.0.to_le_bytes());
        bytes[24..24 + fields.len()].copy_from_slice(fields);
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

/// What an error of the disk comes to.
pub fn io(action: &'static str, file: &str) -> impl FnOnce(std::io::Error) -> Fault {
    let file = file.to_owned();
    move |source| match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Fault::Full { file },
        // Nothing is wrong with the disk, and it passes like a want of room.
        _ if is_out_of_files(&source) => Fault::Full { file: format!("{file} ({source})") },
        _ => Fault::Io { action, file, source },
    }
}
