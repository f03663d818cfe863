//! Checks the bytes of one sealed segment.

use super::report::ScrubDamage;
use crate::disk::DiskFile;
use crate::disk::unreadable::read_through;
use crate::types::{DiskId, Index};
use crate::wal::batches::{BatchReader, ReaderState};
use crate::wal::format::{RecordKind, SegmentHeader};
use bytes::Bytes;
use std::io;

/// Reads a sealed segment up to its seal, and checks it as recovery does: frames, batches, and records against the log
/// before them. Returns the first damage and the reader's state at the end, with which the next segment begins.
///
/// The whole file is in memory meanwhile, as at a start: a batch is checked as a whole.
pub fn check_segment(
    file: &impl DiskFile,
    (number, disk): (u64, DiskId),
    state_before: ReaderState,
) -> io::Result<(Option<ScrubDamage>, ReaderState)> {
    let mut bytes = Vec::with_capacity(usize::try_from(file.size()?).unwrap_or_default());
    let media_error = read_through(file, |piece| bytes.extend_from_slice(piece))?;
    let first_index = |state: &ReaderState| state.log.as_ref().map(|log| log.last_position.index.next());
    let damage = |offset, description: String, first_index: Option<Index>| {
        (Some(ScrubDamage { offset, description, first_index }), ReaderState::default())
    };
    let bytes = Bytes::from(bytes);
    if let Some(media_error) = media_error {
        let description = format!("the disk cannot read it ({})", media_error.error);
        return Ok(damage(media_error.offset, description, first_index(&state_before)));
    }
    let header = match SegmentHeader::decode(&bytes) {
        Ok(header) if header.number == number && header.disk == disk => header,
        Ok(_) => {
            let description = "the header of another segment".to_owned();
            return Ok(damage(0, description, first_index(&state_before)));
        }
        Err(malformed) => return Ok(damage(0, malformed.0.to_owned(), first_index(&state_before))),
    };
    let mut reader = BatchReader::new(bytes, header.salt(), state_before, 0);
    loop {
        match reader.read_batch(|_, _| {}) {
            Ok(batch) if batch.frames.iter().any(|frame| frame.kind == RecordKind::Seal) => {
                return Ok((None, reader.into_state()));
            }
            Ok(_) => {}
            Err(broken) => {
                let (offset, description) = (broken.log_break.first_bad_offset, broken.log_break.flaw.to_string());
                return Ok(damage(offset, description, first_index(&reader.into_state())));
            }
        }
    }
}
