//! The directory of snapshots: which there are, the newest that is whole, and what may go.
//!
//! A name that ends in `.snap` was given after the file was synced: behind it stands a whole
//! snapshot, or a disk that has lost what it promised. That is an error, never an empty state.

use super::format::{Chain, Chunk, ChunkKind, Chunks, Header, file_name, file_position};
use super::incoming::{Incoming, PART};
use super::report::{ADVICE, ADVICE_SAVED, Fault, Result, damaged, io};
use super::verify::{read_back, read_whole};
use super::writer::{UNFINISHED, Writer};
use crate::disk::{Disk, DiskFile, Meter};
use crate::types::{ClusterId, Mutants, Position};
use bytes::Bytes;

/// What errors that concern no file in particular name.
const DIRECTORY: &str = "snapshots";
/// What the name of a damaged file ends with.
const DAMAGED: &str = ".damaged";

/// The directory of snapshots. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Store<D> {
    disk: D,
    cluster: ClusterId,
    mutants: Mutants,
}

/// A snapshot that was verified: its file, mapped.
#[derive(Clone, Debug)]
pub struct Snapshot {
    name: String,
    header: Header,
    bytes: Bytes,
    /// Where its chunks begin.
    chain: Chain,
}

/// What the directory holds under one name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The file.
    pub name: String,
    /// The position in its name.
    pub position: Position,
    /// How many bytes it has.
    pub bytes: u64,
}

/// The newest snapshot that is whole, and what is wrong with newer ones.
///
/// Without a snapshot and without damage there never was one. With damage there was, whatever
/// `snapshot` says: whether that and the log behind it will do, the caller must find out.
#[derive(Debug)]
pub struct Newest {
    /// The newest that verifies from its first byte to its last.
    pub snapshot: Option<Snapshot>,
    /// Why newer ones are not believed, the newest first.
    pub damaged: Vec<Fault>,
}

impl Snapshot {
    pub(super) fn new(name: String, header: Header, bytes: Bytes, chain: Chain) -> Snapshot {
        Snapshot { name, header, bytes, chain }
    }

    /// The snapshot in a file outside of any data directory, called `name` in errors, if all of it is whole. `bytes` is
    /// the file, mapped.
    ///
    /// # Errors
    ///
    /// [`Fault::Damaged`], with the first byte that is wrong; [`Fault::Io`].
    pub fn read(name: &str, file: &impl DiskFile, bytes: Bytes, meter: &Meter) -> Result<Snapshot> {
        meter.expect(bytes.len() as u64);
        let read = read_whole(file, meter).map_err(io("read", name))?;
        let (header, chain) = read.map_err(damaged(name, ADVICE_SAVED))?;
        Ok(Snapshot { name: name.to_owned(), header, bytes, chain })
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is of.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The file: what is sent to another node, by offset.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its pieces in order, each checked once more as it comes.
    pub fn pieces(&self) -> impl Iterator<Item = Result<Chunk>> + Send + use<> {
        let damaged = damaged(&self.name, ADVICE);
        let chunks = Chunks::new(self.bytes.clone(), self.chain).map(move |chunk| chunk.map_err(&damaged));
        chunks.filter(|chunk| !matches!(chunk, Ok(Chunk { kind: ChunkKind::End, .. })))
    }
}

impl<D: Disk> Store<D> {
    /// That directory, which nobody else writes to. Removes what was left half written, and makes sure
    /// that the names which are seen are durable: they may be what a killed process left unsynced.
    pub fn open(disk: D, cluster: ClusterId) -> Result<Store<D>> {
        let store = Store { disk, cluster, mutants: Mutants::NONE };
        for name in store.names()?.into_iter().filter(|name| name.ends_with(UNFINISHED)) {
            store.remove(&name)?;
        }
        store.disk.sync_names().map_err(io("sync the names in", DIRECTORY))?;
        Ok(store)
    }

    /// The same, with a rule broken.
    pub fn breaking(self, mutants: Mutants) -> Store<D> {
        Store { mutants, ..self }
    }

    fn names(&self) -> Result<Vec<String>> {
        self.disk.list().map_err(io("list", DIRECTORY))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.disk.remove(name).map_err(io("remove", name))
    }

    fn positions(&self) -> Result<Vec<Position>> {
        let mut positions: Vec<_> = self.names()?.iter().filter_map(|name| file_position(name)).collect();
        positions.sort_unstable_by_key(|position| (position.index, position.term));
        Ok(positions)
    }

    /// What is published, oldest first; not whether it is whole.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let listed = |position| {
            let name = file_name(position);
            let size = self.disk.open(&name).and_then(|file| file.size());
            let bytes = size.map_err(io("measure", &name))?;
            Ok(Listed { name, position, bytes })
        };
        self.positions()?.into_iter().map(listed).collect()
    }

    /// The snapshot of that position, if it is whole.
    pub fn read(&self, position: Position) -> Result<Snapshot> {
        self.verify(position, &Meter::default())
    }

    /// The same, and as far as possible from the disk, whatever the page cache holds.
    pub fn reread(&self, position: Position) -> Result<Snapshot> {
        let name = file_name(position);
        self.disk.open(&name).and_then(|file| file.drop_cache()).map_err(io("read", &name))?;
        self.read(position)
    }

    fn verify(&self, position: Position, meter: &Meter) -> Result<Snapshot> {
        let name = file_name(position);
        let file = self.disk.open(&name).map_err(io("open", &name))?;
        meter.expect(file.size().map_err(io("measure", &name))?);
        let read = read_back(&file, &name, self.cluster, meter).map_err(io("read", &name))?;
        let (header, chain) = read.map_err(damaged(&name, ADVICE))?;
        let bytes = self.disk.map(&name).map_err(io("map", &name))?;
        Ok(Snapshot { name, header, bytes, chain })
    }

    /// Sets a damaged file aside, under a name that nobody takes for a snapshot's; returns that name. One is
    /// kept, for whoever wants to know what the disk did: the file that was set aside before it is removed.
    pub fn set_aside(&self, name: &str) -> Result<String> {
        let aside = format!("{}{DAMAGED}", name.strip_suffix(UNFINISHED).unwrap_or(name));
        self.drop_set_aside()?;
        self.disk.rename(name, &aside).map_err(io("rename", name))?;
        self.disk.sync_names().map_err(io("sync the names in", DIRECTORY))?;
        Ok(aside)
    }

    /// Removes the file that was set aside, if there is one; returns whether there was.
    pub fn drop_set_aside(&self) -> Result<bool> {
        let aside: Vec<_> = self.names()?.into_iter().filter(|name| name.ends_with(DAMAGED)).collect();
        aside.iter().try_for_each(|name| self.remove(name))?;
        Ok(!aside.is_empty())
    }

    /// The snapshots that were set aside, and are newer than that one.
    fn set_aside_since(&self, newest: Option<Position>) -> Result<Vec<Fault>> {
        let position = |name: &String| name.strip_suffix(DAMAGED).and_then(file_position);
        let is_newer =
            |name: &String| position(name).is_some_and(|at| newest.is_none_or(|newest| at.index > newest.index));
        let what = || "it was found damaged before, and set aside".to_owned();
        let fault = |file| Fault::Damaged { file, offset: 0, what: what(), advice: ADVICE };
        Ok(self.names()?.into_iter().filter(is_newer).map(fault).collect())
    }

    /// The newest that is whole.
    pub fn newest(&self) -> Result<Newest> {
        self.find_newest(&Meter::default())
    }

    /// The newest that is whole; how far the reading is, is counted there.
    pub fn find_newest(&self, meter: &Meter) -> Result<Newest> {
        let mut damaged = Vec::new();
        for position in self.positions()?.into_iter().rev() {
            match self.verify(position, meter) {
                Ok(snapshot) => {
                    damaged.extend(self.set_aside_since(Some(position))?);
                    return Ok(Newest { snapshot: Some(snapshot), damaged });
                }
                Err(fault @ Fault::Damaged { .. }) => damaged.push(fault),
                Err(fault) => return Err(fault),
            }
        }
        damaged.extend(self.set_aside_since(None)?);
        Ok(Newest { snapshot: None, damaged })
    }

    /// Begins to take one.
    pub fn writer(&self, header: &Header) -> Result<Writer<D>> {
        assert_eq!(header.cluster, self.cluster, "a node takes snapshots of its own cluster");
        Writer::create(self.disk.clone(), header, self.mutants)
    }

    /// Begins to receive one of `total` bytes from another node, or goes on receiving it. One is
    /// received at a time: what there is of others is removed.
    pub fn incoming(&self, position: Position, total: u64) -> Result<Incoming<D>> {
        let part = format!("{}{PART}", file_name(position));
        for name in self.names()?.into_iter().filter(|name| name.ends_with(PART) && *name != part) {
            self.remove(&name)?;
        }
        Incoming::open(self.disk.clone(), self.cluster, position, total)
    }

    /// How much more room [`Store::incoming`] needs than there is.
    pub fn lacks(&self, position: Position, total: u64) -> Result<u64> {
        let part = format!("{}{PART}", file_name(position));
        let free = self.disk.free().map_err(io("look for room beside", &part))?;
        let has = match self.names()?.contains(&part) {
            true => self.disk.open(&part).and_then(|file| file.size()).map_err(io("measure", &part))?,
            false => 0,
        };
        Ok(total.saturating_sub(has).saturating_sub(free))
    }

    /// Removes what is older than that snapshot, published or received in part; first makes sure that this
    /// one is whole. One that is being taken meanwhile stays, and is for the next time. Says what it removed.
    pub fn prune(&self, keep: Position) -> Result<Vec<String>> {
        self.read(keep)?;
        self.prune_to(keep)
    }

    /// The same, behind a snapshot that was found whole just now.
    pub fn prune_behind(&self, keep: &Snapshot) -> Result<Vec<String>> {
        self.prune_to(keep.header.position)
    }

    fn prune_to(&self, keep: Position) -> Result<Vec<String>> {
        let mut gone: Vec<_> = self.names()?.into_iter().filter(|name| outdated(name, keep)).collect();
        // Zeros in front: the older, the earlier. At every moment the newer ones are there.
        gone.sort_unstable();
        for name in &gone {
            self.remove(name)?;
        }
        self.disk.sync_names().map_err(io("sync the names in", DIRECTORY))?;
        Ok(gone)
    }
}

/// Whether that file is of no use to whoever has that snapshot.
fn outdated(name: &str, keep: Position) -> bool {
    let age = |position: Position| (position.index, position.term);
    match name.strip_suffix(PART) {
        Some(name) => file_position(name).is_some_and(|position| age(position) <= age(keep)),
        None => file_position(name).is_some_and(|position| age(position) < age(keep)),
    }
}
