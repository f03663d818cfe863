//! Whose data directory this is: written once, believed ever after.
//!
//! The file `identity` is what keeps a directory from being used by another node or another cluster,
//! and what tells a log that is gone from one that never was.

use super::report::{Fault, Result};
use super::side::io;
use crate::codec::Reader;
use crate::disk::{Disk, DiskFile};
use crate::types::{ClusterId, DiskId, NodeId};
use bytes::{BufMut, Bytes};

/// The name of the file.
pub const NAME: &str = "identity";
/// How it begins.
pub const MAGIC: [u8; 8] = *b"draveid\0";
/// The version of its format.
pub const FORMAT: u32 = 1;
/// How long it is.
pub const BYTES: usize = 48;

/// What a data directory says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The node it belongs to.
    pub node: NodeId,
    /// The cluster.
    pub cluster: ClusterId,
    /// Its own name, drawn when it was made.
    pub disk: DiskId,
    /// Whether the journal has been founded: from then on, a journal that is not there is lost.
    pub founded: bool,
}

impl Identity {
    /// What the directory says, if it says anything.
    pub fn read<D: Disk>(disk: &D) -> Result<Option<Identity>> {
        if !disk.list().map_err(io("list", NAME))?.iter().any(|name| name == NAME) {
            return Ok(None);
        }
        let file = disk.open(NAME).map_err(io("open", NAME))?;
        let mut bytes = vec![0; BYTES];
        let read = file.read_at(0, &mut bytes).map_err(io("read", NAME))?;
        bytes.truncate(read);
        Identity::decode(&bytes.into()).map(Some)
    }

    /// Writes it, durably, in the place of what was there.
    pub fn write<D: Disk>(&self, disk: &D) -> Result<()> {
        let tmp = format!("{NAME}.tmp");
        if disk.list().map_err(io("list", NAME))?.contains(&tmp) {
            disk.remove(&tmp).map_err(io("remove", NAME))?;
        }
        let mut file = disk.create(&tmp).map_err(io("create", NAME))?;
        file.write_at(0, &self.encode()).map_err(io("write", NAME))?;
        file.sync_all().map_err(io("sync", NAME))?;
        disk.rename(&tmp, NAME).map_err(io("rename", NAME))?;
        disk.sync_names().map_err(io("sync the name of", NAME))
    }

    /// Whether the directory, called `place`, is that node's.
    pub fn check(&self, place: &str, node: NodeId) -> Result<()> {
        if self.node == node {
            return Ok(());
        }
        let owner = self.owner(place);
        Err(Fault::Foreign(format!("{owner}; --id says {}. Nothing was changed.", node.get())))
    }

    /// Whose the directory, called `place`, is.
    pub fn owner(&self, place: &str) -> String {
        format!("{place} belongs to node {} of cluster {}", self.node.get(), short(self.cluster))
    }

    /// As bytes:
    ///
    /// | at | size | field |
    /// |---|---|---|
    /// | 0 | 8 | magic, `draveid` and a zero |
    /// | 8 | 4 | format |
    /// | 12 | 4 | 1 once the journal is founded |
    /// | 16 | 8 | node |
    /// | 24 | 8 | cluster |
    /// | 32 | 8 | disk |
    /// | 40 | 4 | zero |
    /// | 44 | 4 | CRC-32 of all before |
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BYTES);
        out.put_slice(&MAGIC);
        out.put_u32_le(FORMAT);
        out.put_u32_le(u32::from(self.founded));
        out.put_u64_le(self.node.get());
        out.put_u64_le(self.cluster.0);
        out.put_u64_le(self.disk.0);
        out.put_u32_le(0);
        out.put_u32_le(crc32fast::hash(&out));
        out
    }

    /// From bytes.
    pub fn decode(bytes: &Bytes) -> Result<Identity> {
        let damaged = |what: &str| Fault::Corrupt {
            file: NAME.to_owned(),
            offset: 0,
            what: what.to_owned(),
            lost: "none".to_owned(),
            advice: "Whose directory this is cannot be told; bring the file back from a backup: it never changes once \
                     the node has run. Never start a node with an empty directory under an id that was in use. \
                     Nothing was changed.",
        };
        let Some(fields) = bytes.get(..BYTES) else { return Err(damaged("too short")) };
        if fields[..8] != MAGIC {
            return Err(damaged("it does not begin with `draveid`"));
        }
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| fields[at + i]));
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| fields[at + i]));
        if word(BYTES - 4) != crc32fast::hash(&fields[..BYTES - 4]) {
            return Err(damaged("it does not match its checksum"));
        }
        if word(8) != FORMAT {
            return Err(Fault::Foreign(format!(
                "{NAME} is of format {}, and this program knows {FORMAT}. Nothing was changed.",
                word(8)
            )));
        }
        let Some(node) = Reader::new(bytes.slice(16..24)).node().ok().flatten() else {
            return Err(damaged("it names no node"));
        };
        Ok(Identity { node, cluster: ClusterId(long(24)), disk: DiskId(long(32)), founded: word(12) & 1 == 1 })
    }
}

/// The first half of a cluster's name, as people read it.
pub fn short(cluster: ClusterId) -> String {
    cluster.to_string()[..8].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FsDisk;
    use crate::disk::fs::Syncs;

    fn sample() -> Identity {
        let node = NodeId::new(1).unwrap();
        Identity { node, cluster: ClusterId(0x6f2c_91aa_0d77_be21), disk: DiskId(77), founded: false }
    }

    #[test]
    fn a_directory_knows_whose_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let disk = FsDisk::make(directory.path(), Syncs::Real).unwrap();
        assert_eq!(Identity::read(&disk).unwrap(), None);
        sample().write(&disk).unwrap();
        let founded = Identity { founded: true, ..sample() };
        founded.write(&disk).unwrap();
        assert_eq!(Identity::read(&disk).unwrap(), Some(founded));
    }

    #[test]
    fn another_node_is_turned_away_with_advice() {
        let fault = sample().check("d1", NodeId::new(2).unwrap()).unwrap_err();
        assert_eq!(fault.to_string(), "d1 belongs to node 1 of cluster 6f2c91aa; --id says 2. Nothing was changed.");
        assert_eq!(fault.exit_code(), 78);
    }

    #[test]
    fn a_flipped_bit_is_always_seen() {
        let bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&damaged.into()).is_err(), "bit {bit}");
        }
    }
}
