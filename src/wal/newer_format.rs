//! Formats of a later version of this program: a start that meets one refuses in words, and changes nothing.
//!
//! To this program, a record of a later version looks like damage. A repair would set it aside, although it is intact
//! and may have been acknowledged. So before a damaged journal is repaired, or reported as damaged, all of its segments
//! are searched for later formats. Each one must be intact by its checksum: a flipped bit in a version is damage.
//!
//! For this search to work, later versions keep these rules: the header of a segment keeps its size, its magic, the place
//! of its version and its checksum; a frame keeps its header, and the checksum that begins its body; an encoded
//! membership begins with the feature level; and what precedes the membership in a base, a release or an opening keeps
//! its size. Bytes behind a sector that cannot be read are not searched.

use super::format::{
    self, FRAME_ALIGNMENT, FRAME_HEADER_BYTES, Frame, MAGIC, Opening, RecordKind, SEGMENT_HEADER_BYTES, file_name,
    header_checksum, salt_crc,
};
use super::load::SegmentFile;
use super::log_summary::LogSummary;
use super::options::Options;
use super::report::{Fault, Result};
use super::scan::{Scan, ScanItem};
use super::sync_marker::{self, SyncMarker};
use crate::codec::{ENTRY_HEADER, ENTRY_KIND_MAX, HARD_STATE_BYTES};
use crate::types::{DiskId, Mutant, Mutants, Payload, Write};
use bytes::Bytes;

/// The kind of a log entry that holds a membership.
const MEMBERSHIP_ENTRY_KIND: u8 = 1;

/// The offset of the base in the body of a base or release record: after checksum and reserved field.
const BASE_OFFSET: usize = 8;
/// The offset of the base in the body of an opening: after hard state, last position and time too.
const OPENING_BASE_OFFSET: usize = BASE_OFFSET + HARD_STATE_BYTES + 16 + 8;
/// The offset of the membership in a base: after its position and the index of its configuration.
const MEMBERSHIP_OFFSET: usize = 16 + 8;

/// Refuses segments of a later format, records and entries of an unknown kind, and configurations of an unknown feature
/// level, wherever they are in the files. Unreadable bytes are skipped.
pub fn check_segments(files: &[SegmentFile], options: &Options) -> Result<()> {
    for file in files {
        let bytes = file.readable_bytes()?;
        check_header(file.number, &bytes)?;
        let salt = format::salt(options.disk, file.number);
        if let Some((offset, kind)) = find_unknown_kind(&bytes, salt_crc(salt)) {
            let subject = format!("{}: byte {offset} has a record of kind {kind}", file_name(file.number));
            return Err(Fault::unknown_format(&subject, RecordKind::Seal as u32));
        }
        for item in Scan::new(bytes, salt, None) {
            if let ScanItem::Frame(frame) = item {
                check_record(file.number, &frame, options.feature_level_max)?;
            }
        }
    }
    Ok(())
}

/// Refuses a segment whose header is intact and has a later version.
pub fn check_header(number: u64, bytes: &Bytes) -> Result<()> {
    let Some(header) = bytes.first_chunk::<SEGMENT_HEADER_BYTES>().filter(|header| header.starts_with(&MAGIC)) else {
        return Ok(());
    };
    let version = read_u32(&header[MAGIC.len()..]);
    let (fields, checksum) = header.split_at(SEGMENT_HEADER_BYTES - 4);
    if version > format::FORMAT_VERSION && read_u32(checksum) == crc32fast::hash(fields) {
        let subject = format!("{} has format {version}", file_name(number));
        return Err(Fault::unknown_format(&subject, format::FORMAT_VERSION));
    }
    Ok(())
}

/// Refuses a sync marker of a later format: it may hold a vote.
pub fn check_sync_marker(bytes: &Bytes, disk: DiskId) -> Result<()> {
    match SyncMarker::newer_version(bytes, disk) {
        None => Ok(()),
        Some(version) => {
            let subject = format!("{} has format {version}", sync_marker::FILE_NAME);
            Err(Fault::unknown_format(&subject, u32::from(sync_marker::FORMAT_VERSION)))
        }
    }
}

/// Refuses a log with a configuration of an unknown feature level, committed or not: any entry after it may be of a kind
/// that this program does not know.
pub fn check_feature_level(summary: &LogSummary, options: &Options) -> Result<()> {
    let configurations = summary.configurations.iter().map(|(_, membership)| membership);
    configurations
        .chain([&summary.base.membership])
        .try_for_each(|membership| check_level(membership.feature_level, options.feature_level_max))
}

/// Refuses a write with a configuration of a feature level above `level_max`, which this program does not know. Such a
/// node was away when the cluster raised its level, or has just joined. The node calls this before anything that depends
/// on the write leaves it, and the journal before any byte of the write is in the log.
pub fn check_write(write: &Write, level_max: u16, mutants: Mutants) -> Result<()> {
    if mutants.breaks(Mutant::WriteUnknownLevel) {
        return Ok(());
    }
    if let Some(base) = &write.base {
        check_level(base.membership.feature_level, level_max)?;
    }
    write.entries.iter().try_for_each(|entry| match &entry.payload {
        Payload::Membership(membership) => check_level(membership.feature_level, level_max),
        Payload::Noop | Payload::Opaque(_) => Ok(()),
    })
}

fn check_record(number: u64, frame: &Frame, level_max: u16) -> Result<()> {
    match frame.kind {
        RecordKind::Entry => {
            let Some((header, payload)) = frame.body.split_first_chunk::<ENTRY_HEADER>() else { return Ok(()) };
            if header[7] > ENTRY_KIND_MAX {
                let subject =
                    format!("{}: byte {} has an entry of kind {}", file_name(number), frame.offset, header[7]);
                return Err(Fault::unknown_format(&subject, u32::from(ENTRY_KIND_MAX)));
            }
            match payload.first_chunk::<2>().filter(|_| header[7] == MEMBERSHIP_ENTRY_KIND) {
                Some(level) => check_level(u16::from_le_bytes(*level), level_max),
                None => Ok(()),
            }
        }
        RecordKind::Open => {
            check_level(read_base_level(&frame.body, OPENING_BASE_OFFSET), level_max)?;
            Opening::decode(&frame.body)
                .map_or(Ok(()), |opening| check_level(opening.configuration.1.feature_level, level_max))
        }
        RecordKind::Base | RecordKind::Release => check_level(read_base_level(&frame.body, BASE_OFFSET), level_max),
        RecordKind::Batch | RecordKind::HardState | RecordKind::Seal => Ok(()),
    }
}

/// The feature level of the base at an offset of a body; 0 if the body is too short. It is read where it is, because a
/// later version may have appended fields to a membership.
fn read_base_level(body: &[u8], base_offset: usize) -> u16 {
    let level = body.get(base_offset + MEMBERSHIP_OFFSET..).and_then(<[u8]>::first_chunk::<2>);
    level.copied().map_or(0, u16::from_le_bytes)
}

fn check_level(level: u16, level_max: u16) -> Result<()> {
    if level > level_max { Err(Fault::unknown_feature_level(level, level_max)) } else { Ok(()) }
}

/// The offset and the kind of the first intact frame whose kind is unknown, at any aligned offset.
fn find_unknown_kind(bytes: &[u8], salt_crc: u32) -> Option<(u64, u8)> {
    (SEGMENT_HEADER_BYTES..bytes.len())
        .step_by(FRAME_ALIGNMENT)
        .find_map(|at| Some((at as u64, unknown_kind_at(bytes, salt_crc, at)?)))
}

/// The kind of the frame at an offset, if the frame is intact and its kind unknown.
fn unknown_kind_at(bytes: &[u8], salt_crc: u32, at: usize) -> Option<u8> {
    let (header, rest) = bytes.get(at..)?.split_first_chunk::<FRAME_HEADER_BYTES>()?;
    let length = u32::from_le_bytes([header[8], header[9], header[10], 0]) as usize;
    let kind = header[11];
    if (RecordKind::Batch as u8..=RecordKind::Seal as u8).contains(&kind) {
        return None;
    }
    let (body_checksum, fields) = rest.get(..length)?.split_first_chunk::<4>()?;
    let header_fields = header.last_chunk::<12>()?;
    let is_intact = read_u32(header) == header_checksum(salt_crc, at as u64, header_fields, *body_checksum)
        && u32::from_le_bytes(*body_checksum) == crc32fast::hash(fields);
    is_intact.then_some(kind)
}

fn read_u32(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().copied().map_or(0, u32::from_le_bytes)
}
