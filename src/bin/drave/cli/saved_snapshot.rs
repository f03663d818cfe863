//! Reads, verifies and restores a snapshot file outside any data directory, as `snapshot save` writes it.

use crate::remote::failure::CliError;
use drave::apply::{Applier, Piece};
use drave::disk::{Disk, DiskFile, FsDisk, Meter};
use drave::machine::Kv;
use drave::snapshot::{ChunkKind, Fault, Snapshot};
use drave::snapshotting::restore::state_header;
use std::io;
use std::path::Path;

/// Opens the directory of a file; returns the directory and the name of the file in it.
pub fn open_parent_directory(path: &Path) -> io::Result<(FsDisk, String)> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the file name is not valid UTF-8"))?;
    Ok((FsDisk::open_existing(directory)?, name.to_owned()))
}

/// Opens the snapshot in a file and verifies all of it. If possible, the file is dropped from the page cache first, so
/// that the data on the disk is verified. `meter` counts the progress.
///
/// # Errors
///
/// Exit code 5 if the snapshot is damaged, 74 if the file cannot be read.
pub fn open_snapshot(path: &Path, meter: &Meter) -> Result<Snapshot, CliError> {
    let path_text = path.display().to_string();
    let io_error = |error: io::Error| CliError { message: format!("{path_text}: {error}"), code: 74 };
    let (disk, name) = open_parent_directory(path).map_err(io_error)?;
    let file = disk.open_to_read(&name).map_err(io_error)?;
    file.drop_cache().map_err(io_error)?;
    let bytes = disk.map(&name).map_err(io_error)?;
    Snapshot::read(&path_text, &file, bytes, meter).map_err(|fault| snapshot_error(&fault))
}

/// The error for a snapshot that is damaged or cannot be read, with the exit code of `fault`.
fn snapshot_error(fault: &Fault) -> CliError {
    let code = fault.exit_code();
    match fault {
        Fault::Damaged { file, offset, description: what, advice } => {
            CliError { message: format!("{file} is damaged: byte {offset}: {what}\n  {advice}"), code }
        }
        Fault::Io { file, source, .. } => CliError { message: format!("{file}: {source}"), code },
        fault => CliError { message: fault.to_string(), code },
    }
}

/// Restores the state in a snapshot; `None` if the state is not one of the key-value state machine. The digest of the
/// returned state matches the snapshot's header.
///
/// # Errors
///
/// Exit code 5 if the state has another digest, or if a chunk is damaged.
pub fn restore_state(snapshot: &Snapshot) -> Result<Option<Applier<Kv>>, CliError> {
    let mut restore = Applier::new(Kv::new()).begin_restore();
    for chunk in snapshot.pieces() {
        let chunk = chunk.map_err(|fault| snapshot_error(&fault))?;
        let state_piece = match chunk.kind {
            ChunkKind::Sessions => Piece::Sessions(chunk.body),
            ChunkKind::Machine => Piece::Machine(chunk.body),
            ChunkKind::End => continue,
        };
        if restore.add(&state_piece).is_err() {
            return Ok(None);
        }
    }
    let digest = snapshot.header().digest;
    restore.finish(&state_header(snapshot.header())).map(Some).map_err(|_| {
        let message = format!(
            "{} is damaged: its state does not match the digest {digest:016x}\n  use an older one, or save another",
            snapshot.name()
        );
        CliError { message, code: 5 }
    })
}
