//! Snapshot files, read while a node may be taking a snapshot.

use crate::disk::{Disk, FsDisk};
use crate::snapshot::format::{Chain, Chunk, Chunks, Flaw, FlawKind, Header, file_position};
use crate::types::{ClusterId, Index, Position};
use crate::wal::identity::Identity;
use anyhow::Context;
use bytes::Bytes;
use std::io::{self, ErrorKind};
use std::path::Path;

/// The file name extension of snapshots.
pub const SUFFIX: &str = "snap";

/// How often to look for a snapshot that must exist: a running node may replace it with a newer one.
const READ_ATTEMPTS: usize = 3;

/// A published snapshot's file, which may be damaged.
pub struct SnapshotFile {
    /// Its file name.
    pub name: String,
    /// The position in its name, if the name has one.
    pub position: Option<Position>,
    /// The bytes of the file, as far as they can be read.
    pub bytes: Bytes,
    /// The cluster that its directory belongs to, if that is known.
    cluster: Option<ClusterId>,
    /// Whether the disk cannot read the bytes after `bytes`.
    unreadable: bool,
}

/// Whether an intact snapshot reaches index `base`.
pub fn reaches(path: &Path, base: Index) -> anyhow::Result<bool> {
    for _ in 0..READ_ATTEMPTS {
        let mut found = snapshots_at(path)?.into_iter();
        if found.any(|found| found.position.is_some_and(|position| position.index >= base) && found.flaw().is_none()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Finds the snapshots at a path, oldest first: the file itself, or those in the directory or in its `snapshots`. Skips
/// a snapshot that the node removes meanwhile.
pub fn snapshots_at(path: &Path) -> anyhow::Result<Vec<SnapshotFile>> {
    let inside = path.join("snapshots");
    let directory = match path.parent() {
        Some(parent) if path.is_file() => parent,
        _ if inside.is_dir() => &inside,
        _ => path,
    };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let disk = FsDisk::at(directory)?;
    let cluster = owner(directory);
    let mut names: Vec<String> = match path.file_name().filter(|_| path.is_file()) {
        Some(name) => vec![name.to_string_lossy().into_owned()],
        None => listed(&disk)?,
    };
    // The digits have a fixed length, so that older names sort first.
    names.sort_unstable();
    let mut found = Vec::new();
    for name in names {
        // A published snapshot is never written to again, so it can be mapped while its node runs.
        match disk.find_unreadable(&name).and_then(|place| Ok((disk.map(&name)?, place))) {
            Ok((mut bytes, place)) => {
                if let Some(place) = &place {
                    bytes.truncate(place.at as usize);
                }
                found.push(SnapshotFile {
                    position: file_position(&name),
                    name,
                    bytes,
                    cluster,
                    unreadable: place.is_some(),
                });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{}", directory.join(&name).display())),
        }
    }
    Ok(found)
}

fn listed(disk: &FsDisk) -> io::Result<Vec<String>> {
    Ok(disk.list()?.into_iter().filter(|name| file_position(name).is_some()).collect())
}

/// The cluster that owns the data directory around the directory of snapshots, if there is one.
fn owner(directory: &Path) -> Option<ClusterId> {
    let data = FsDisk::at(&directory.join("..")).ok()?;
    Identity::read(&data).ok().flatten().map(|owner| owner.cluster)
}

impl SnapshotFile {
    /// Its header, and the start of its chunks.
    pub fn header(&self) -> Result<(Header, Chain), Flaw> {
        Header::decode(&self.bytes).map_err(|flaw| self.cut(flaw))
    }

    /// Its chunks, up to the first damaged one.
    pub fn chunks(&self, chain: Chain) -> impl Iterator<Item = Result<Chunk, Flaw>> + '_ {
        Chunks::new(self.bytes.clone(), chain).map(|chunk| chunk.map_err(|flaw| self.cut(flaw)))
    }

    /// A file that the disk cannot read further is unreadable there, not cut off.
    fn cut(&self, flaw: Flaw) -> Flaw {
        if self.unreadable && flaw.what == FlawKind::Cut { Flaw { what: FlawKind::Unreadable, ..flaw } } else { flaw }
    }

    /// Why a start would reject the snapshot although all its bytes are right.
    pub fn misplaced(&self, header: &Header) -> Option<Flaw> {
        let wrong = |what| Some(Flaw { at: 0, what: FlawKind::Wrong(what) });
        if self.position.is_some_and(|position| position != header.position) {
            return wrong("it is of another position than its name says");
        }
        if self.cluster.is_some_and(|cluster| cluster != header.cluster) {
            return wrong("it is of another cluster");
        }
        None
    }

    /// Its damage; `None` if it is intact.
    pub fn flaw(&self) -> Option<Flaw> {
        let (header, chain) = match self.header() {
            Ok(read) => read,
            Err(flaw) => return Some(flaw),
        };
        self.misplaced(&header).or_else(|| self.chunks(chain).find_map(Result::err))
    }
}
