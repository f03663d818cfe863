//! Finds and verifies snapshot files, while a node may be taking a snapshot.

use crate::disk::{Disk, FsDisk};
use crate::snapshot::format::{ChecksumChain, Chunk, Chunks, Flaw, FlawKind, Header, file_position};
use crate::types::{ClusterId, Index, Position};
use crate::wal::identity::Identity;
use anyhow::Context;
use bytes::Bytes;
use std::io::{self, ErrorKind};
use std::path::Path;

/// The file name extension of snapshots.
pub const SNAPSHOT_EXTENSION: &str = "snap";

/// The maximum number of searches for a snapshot that must exist: a running node may replace the snapshot by a newer
/// one during a search.
const SEARCH_ATTEMPTS: usize = 3;

/// The file of a complete snapshot, as far as the disk can read it; it may be damaged.
pub struct SnapshotFile {
    /// The file name, without the directory.
    pub name: String,
    /// The position in the file name; `None` for a file with another name.
    pub position: Option<Position>,
    /// The bytes of the file, as far as they can be read.
    pub bytes: Bytes,
    /// The cluster that owns the data directory; `None` if the file is not in one.
    cluster: Option<ClusterId>,
    /// Whether the disk cannot read the bytes after `bytes`.
    has_unreadable_end: bool,
}

/// Whether the data directory has an intact snapshot of all entries up to index `base`.
pub fn has_snapshot_upto(path: &Path, base: Index) -> anyhow::Result<bool> {
    for _ in 0..SEARCH_ATTEMPTS {
        let reaches_base = |file: &SnapshotFile| file.position.is_some_and(|position| position.index >= base);
        if snapshots_at(path)?.iter().any(|file| reaches_base(file) && file.find_flaw().is_none()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Finds the snapshots at a path, oldest first. The path names one file, a directory of snapshots, or a data directory,
/// whose `snapshots` is searched. Skips a snapshot that the node removes meanwhile.
pub fn snapshots_at(path: &Path) -> anyhow::Result<Vec<SnapshotFile>> {
    let snapshot_directory = path.join("snapshots");
    let directory = match path.parent() {
        Some(parent) if path.is_file() => parent,
        _ if snapshot_directory.is_dir() => &snapshot_directory,
        _ => path,
    };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let disk = FsDisk::open_existing(directory)?;
    let cluster = read_cluster_id(directory);
    let mut names: Vec<String> = match path.file_name().filter(|_| path.is_file()) {
        Some(name) => vec![name.to_string_lossy().into_owned()],
        None => list_snapshot_names(&disk)?,
    };
    // The index and the term in a name have a fixed number of digits, so that names of older snapshots sort first.
    names.sort_unstable();
    let mut snapshots = Vec::new();
    for name in names {
        // A published snapshot is never written to again, so it can be mapped while its node runs.
        match disk.find_media_error(&name).and_then(|unreadable| Ok((disk.map(&name)?, unreadable))) {
            Ok((mut bytes, unreadable)) => {
                if let Some(unreadable) = &unreadable {
                    bytes.truncate(unreadable.offset as usize);
                }
                snapshots.push(SnapshotFile {
                    position: file_position(&name),
                    name,
                    bytes,
                    cluster,
                    has_unreadable_end: unreadable.is_some(),
                });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{}", directory.join(&name).display())),
        }
    }
    Ok(snapshots)
}

fn list_snapshot_names(disk: &FsDisk) -> io::Result<Vec<String>> {
    Ok(disk.list()?.into_iter().filter(|name| file_position(name).is_some()).collect())
}

/// The cluster that owns the data directory around the directory of snapshots, if there is one.
fn read_cluster_id(directory: &Path) -> Option<ClusterId> {
    let data_directory = FsDisk::open_existing(&directory.join("..")).ok()?;
    Identity::read(&data_directory).ok().flatten().map(|identity| identity.cluster)
}

impl SnapshotFile {
    /// Decodes the header. Also returns the checksum chain at the first chunk, for [`SnapshotFile::chunks`].
    pub fn header(&self) -> Result<(Header, ChecksumChain), Flaw> {
        Header::decode(&self.bytes).map_err(|flaw| self.reclassify_flaw(flaw))
    }

    /// Decodes the chunks in order; ends after the first damaged one.
    pub fn chunks(&self, chain: ChecksumChain) -> impl Iterator<Item = Result<Chunk, Flaw>> + '_ {
        Chunks::new(self.bytes.clone(), chain).map(|chunk| chunk.map_err(|flaw| self.reclassify_flaw(flaw)))
    }

    /// Converts [`FlawKind::Truncated`] to [`FlawKind::Unreadable`] if `bytes` ends because the disk cannot read the
    /// rest.
    fn reclassify_flaw(&self, flaw: Flaw) -> Flaw {
        if self.has_unreadable_end && flaw.kind == FlawKind::Truncated {
            Flaw { kind: FlawKind::Unreadable, ..flaw }
        } else {
            flaw
        }
    }

    /// Why a node would reject the snapshot although its bytes are intact: the snapshot has another position than its
    /// name, or belongs to another cluster.
    pub fn identity_flaw(&self, header: &Header) -> Option<Flaw> {
        let mismatch = |description| Some(Flaw { at: 0, kind: FlawKind::Invalid(description) });
        if self.position.is_some_and(|position| position != header.position) {
            return mismatch("it is of another position than its name says");
        }
        if self.cluster.is_some_and(|cluster| cluster != header.cluster) {
            return mismatch("it is of another cluster");
        }
        None
    }

    /// Verifies the whole file; returns the first flaw, or `None` if the file is intact.
    pub fn find_flaw(&self) -> Option<Flaw> {
        let (header, chain) = match self.header() {
            Ok(decoded) => decoded,
            Err(flaw) => return Some(flaw),
        };
        self.identity_flaw(&header).or_else(|| self.chunks(chain).find_map(Result::err))
    }
}
