//! The directory of snapshots: which there are, the newest that is whole, and what may go.
//!
//! A name that ends in `.snap` was given after the file was synced: behind it stands a whole
//! snapshot, or a disk that has lost what it promised. That is an error, never an empty state.

use super::format::{Chain, Chunk, Chunks, Flaw, Header, Kind, What, file_name, file_position};
use super::incoming::{Incoming, PART};
use super::report::{ADVICE, Fault, Result, damaged, io};
use super::writer::Writer;
use crate::disk::{Disk, DiskFile, Meter};
use crate::types::{ClusterId, Position};
use bytes::Bytes;

/// What errors that concern no file in particular name.
const DIRECTORY: &str = "snapshots";

/// The directory of snapshots. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Store<D> {
    disk: D,
    cluster: ClusterId,
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

    /// That file, if it is whole, and the snapshot its name says.
    pub(super) fn verify(
        name: String,
        bytes: Bytes,
        cluster: ClusterId,
        meter: &Meter,
    ) -> std::result::Result<Snapshot, Flaw> {
        let (header, chain) = Header::decode(&bytes)?;
        let wrong = |what| Err(Flaw { at: 0, what: What::Wrong(what) });
        if header.cluster != cluster {
            return wrong("it is of another cluster");
        }
        if file_name(header.position) != name {
            return wrong("it is of another position than its name says");
        }
        for chunk in Chunks::new(bytes.clone(), chain) {
            meter.advance(chunk?.body.len() as u64);
        }
        Ok(Snapshot { name, header, bytes, chain })
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
        chunks.filter(|chunk| !matches!(chunk, Ok(Chunk { kind: Kind::End, .. })))
    }
}

impl<D: Disk> Store<D> {
    /// That directory, which nobody else writes to. Removes what was left half written, and makes sure
    /// that the names which are seen are durable: they may be what a killed process left unsynced.
    pub fn open(disk: D, cluster: ClusterId) -> Result<Store<D>> {
        let store = Store { disk, cluster };
        for name in store.names()?.into_iter().filter(|name| name.ends_with(".tmp")) {
            store.remove(&name)?;
        }
        store.disk.sync_names().map_err(io("sync the names in", DIRECTORY))?;
        Ok(store)
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
            let bytes = self.disk.map(&name).map_err(io("map", &name))?.len() as u64;
            Ok(Listed { name, position, bytes })
        };
        self.positions()?.into_iter().map(listed).collect()
    }

    /// The snapshot of that position, if it is whole.
    pub fn read(&self, position: Position) -> Result<Snapshot> {
        self.verify(position, &Meter::default())
    }

    fn verify(&self, position: Position, meter: &Meter) -> Result<Snapshot> {
        let name = file_name(position);
        let bytes = self.disk.map(&name).map_err(io("map", &name))?;
        meter.expect(bytes.len() as u64);
        Snapshot::verify(name.clone(), bytes, self.cluster, meter).map_err(damaged(&name, ADVICE))
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
                Ok(snapshot) => return Ok(Newest { snapshot: Some(snapshot), damaged }),
                Err(fault @ Fault::Damaged { .. }) => damaged.push(fault),
                Err(fault) => return Err(fault),
            }
        }
        Ok(Newest { snapshot: None, damaged })
    }

    /// Begins to take one.
    pub fn writer(&self, header: &Header) -> Result<Writer<D>> {
        assert_eq!(header.cluster, self.cluster, "a node takes snapshots of its own cluster");
        Writer::create(self.disk.clone(), header)
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
