//! The files of snapshots as `dump` and `snapshot list` find them, beside a node that may be taking one.

use crate::disk::{Disk, FsDisk};
use crate::snapshot::format::{Chain, Chunk, Chunks, Flaw, FlawKind, Header, file_position};
use crate::types::{ClusterId, Position};
use crate::wal::identity::Identity;
use anyhow::Context;
use bytes::Bytes;
use std::io::{self, ErrorKind};
use std::path::Path;

/// What the names of snapshots end with.
pub const SUFFIX: &str = "snap";

/// A published snapshot's file; not yet whether it is whole.
pub struct SnapshotFile {
    /// What it is called.
    pub name: String,
    /// The position in its name, if that is one's.
    pub position: Option<Position>,
    /// The file, as far as it can be read.
    pub bytes: Bytes,
    /// The cluster that its directory belongs to, if that is known.
    cluster: Option<ClusterId>,
    /// Whether the disk cannot read what is behind `bytes`.
    unreadable: bool,
}

/// The snapshots at a path, oldest first: itself, those in it, or those in `snapshots` in it. One that
/// the node removes meanwhile is left out.
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
    // Digits of one length: the older, the earlier.
    names.sort_unstable();
    let mut found = Vec::new();
    for name in names {
        // What is published is never written to again, so that it can be mapped beside its node.
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

/// Whose data directory that of the snapshots lies in, if in any.
fn owner(directory: &Path) -> Option<ClusterId> {
    let data = FsDisk::at(&directory.join("..")).ok()?;
    Identity::read(&data).ok().flatten().map(|owner| owner.cluster)
}

impl SnapshotFile {
    /// What it says it is of, and where its chunks begin.
    pub fn header(&self) -> Result<(Header, Chain), Flaw> {
        Header::decode(&self.bytes).map_err(|flaw| self.cut(flaw))
    }

    /// Its chunks, up to the first that is no good.
    pub fn chunks(&self, chain: Chain) -> impl Iterator<Item = Result<Chunk, Flaw>> + '_ {
        Chunks::new(self.bytes.clone(), chain).map(|chunk| chunk.map_err(|flaw| self.cut(flaw)))
    }

    /// Where the disk cannot read the file it does not end.
    fn cut(&self, flaw: Flaw) -> Flaw {
        if self.unreadable && flaw.what == FlawKind::Cut { Flaw { what: FlawKind::Unreadable, ..flaw } } else { flaw }
    }

    /// Why a start would not believe it though all its bytes are right.
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

    /// What is wrong with it; nothing if it is whole.
    pub fn flaw(&self) -> Option<Flaw> {
        let (header, chain) = match self.header() {
            Ok(read) => read,
            Err(flaw) => return Some(flaw),
        };
        self.misplaced(&header).or_else(|| self.chunks(chain).find_map(Result::err))
    }
}
