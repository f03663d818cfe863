//! Reads, verifies and restores a snapshot file outside any data directory, as `snapshot save` writes it.

use crate::remote::failure::CliError;
use drave::apply::{Applier, Piece, StateHeader};
use drave::disk::{Disk, DiskFile, FsDisk, Meter};
use drave::machine::Kv;
use drave::snapshot::{ChunkKind, Fault, Header, Snapshot};
use std::io;
use std::path::Path;

/// A file's directory and name.
pub fn place(path: &Path) -> io::Result<(FsDisk, String)> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the file name is not valid UTF-8"))?;
    Ok((FsDisk::at(directory)?, name.to_owned()))
}

/// Opens the snapshot in a file and verifies all of it. Reads from the disk and not from the page cache as far as that
/// is possible. `meter` counts the progress.
///
/// # Errors
///
/// Code 5 if it is damaged, 74 if it cannot be read.
pub fn open(path: &Path, meter: &Meter) -> Result<Snapshot, CliError> {
    let shown = path.display().to_string();
    let failed = |error: io::Error| CliError { what: format!("{shown}: {error}"), code: 74 };
    let (disk, name) = place(path).map_err(failed)?;
    let file = disk.open_to_read(&name).map_err(failed)?;
    file.drop_cache().map_err(failed)?;
    let bytes = disk.map(&name).map_err(failed)?;
    Snapshot::read(&shown, &file, bytes, meter).map_err(|fault| trouble(&fault))
}

fn trouble(fault: &Fault) -> CliError {
    let code = fault.exit_code();
    match fault {
        Fault::Damaged { file, offset, what, advice } => {
            CliError { what: format!("{file} is damaged: byte {offset}: {what}\n  {advice}"), code }
        }
        Fault::Io { file, source, .. } => CliError { what: format!("{file}: {source}"), code },
        fault => CliError { what: fault.to_string(), code },
    }
}

/// The state in a snapshot; `None` if it is not one of the key-value state machine. The state matches the digest in the
/// snapshot's header.
///
/// # Errors
///
/// Code 5 if the state has another digest, or if bytes that were intact before are not any more.
pub fn state(snapshot: &Snapshot) -> Result<Option<Applier<Kv>>, CliError> {
    let mut restoring = Applier::new(Kv::new()).restoring();
    for chunk in snapshot.pieces() {
        let chunk = chunk.map_err(|fault| trouble(&fault))?;
        let piece = match chunk.kind {
            ChunkKind::Sessions => Piece::Sessions(chunk.body),
            ChunkKind::Machine => Piece::Machine(chunk.body),
            ChunkKind::End => continue,
        };
        if restoring.take(&piece).is_err() {
            return Ok(None);
        }
    }
    let Header { position, time, digest, sessions, .. } = *snapshot.header();
    restoring.finish(&StateHeader { position, time, digest, sessions }).map(Some).map_err(|_| {
        let what = format!(
            "{} is damaged: its state does not match the digest {digest:016x}\n  use an older one, or save another",
            snapshot.name()
        );
        CliError { what, code: 5 }
    })
}
