//! The identity of a data directory. Node, cluster and disk id never change; the log id and the number of starts are
//! added.
//!
//! The file `identity` keeps a directory from being used by another node or another cluster, and distinguishes a lost
//! log from one that never existed.
//!
//! Why a file of its own: it must be readable when the log is not. If the owner were recorded in the log only, a node
//! whose log is lost would look like a new one, would begin anew, and could vote twice in a term (§5.2).
//!
//! It is replaced as a whole by a rename, so that each crash leaves the old file or the new one.

use super::load::read_whole;
use super::report::{Fault, Result};
use super::sync_marker::io;
use crate::codec::Reader;
use crate::disk::{Disk, DiskFile};
use crate::types::{ClusterId, DiskId, LogId, NodeId};
use bytes::{BufMut, Bytes};
use std::io::ErrorKind;

/// The name of the file.
pub const NAME: &str = "identity";
/// Its first bytes.
pub const MAGIC: [u8; 8] = *b"draveid\0";
/// The version of its format.
pub const FORMAT: u32 = 2;
/// Its size in bytes.
pub const BYTES: usize = 64;
/// The older format, without log and starts, which is still read: its version and size.
const OLDER: (u32, usize) = (1, 48);

/// The identity of a data directory.
///
/// `disk` is what tells two directories of one node apart. A node that comes back with an empty disk has the same node
/// id and none of its promises, so votes and acknowledgments are counted by disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The node it belongs to.
    pub node: NodeId,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The directory's own id, drawn at random when it was made.
    pub disk: DiskId,
    /// Whether the journal was founded: after that, a missing journal is lost.
    pub founded: bool,
    /// The id of its log, from the first start on that found it agreed.
    pub log: Option<LogId>,
    /// How many times a node was started on it: of two copies of a directory, the older one has the lower number.
    pub starts: u64,
}

impl Identity {
    /// Reads the identity; `None` if the directory has none.
    ///
    /// A damaged file is never `None`: a new identity in its place would have a new disk id, and the old log would
    /// become foreign to its own directory.
    pub fn read<D: Disk>(disk: &D) -> Result<Option<Identity>> {
        match read_whole(disk, NAME) {
            Err(Fault::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            // The disk cannot read the file.
            Err(Fault::Corrupt { what, .. }) => Err(damaged(&what)),
            bytes => Identity::decode(&bytes?).map(Some),
        }
    }

    /// Writes it durably, replacing any earlier one.
    ///
    /// A file that an interrupted attempt left is removed first: `create` fails if the name exists.
    pub fn write<D: Disk>(&self, disk: &D) -> Result<()> {
        let tmp = format!("{NAME}.tmp");
        if disk.list().map_err(io("list", NAME))?.contains(&tmp) {
            disk.remove(&tmp).map_err(io("remove", NAME))?;
        }
        let mut file = disk.create(&tmp).map_err(io("create", NAME))?;
        file.write_at(0, &self.encode()).map_err(io("write", NAME))?;
        file.sync_all().map_err(io("sync", NAME))?;
        // After the sync: a name that is durable before its contents would lead to an empty file after a power loss.
        disk.rename(&tmp, NAME).map_err(io("rename", NAME))?;
        disk.sync_names().map_err(io("sync the directory of", NAME))
    }

    /// Checks that the directory, called `place` in the error, belongs to `node`.
    ///
    /// The usual cause is a copied command line. The error comes before anything is changed, and names the option.
    pub fn check(&self, place: &str, node: NodeId) -> Result<()> {
        if self.node == node {
            return Ok(());
        }
        let owner = self.owner(place);
        Err(Fault::Foreign(format!(
            "{owner}, but --id is {}: each node needs its own directory, --data. Nothing was changed.",
            node.get()
        )))
    }

    /// Describes the owner of the directory `place`, for messages.
    pub fn owner(&self, place: &str) -> String {
        format!("{place} belongs to node {} of cluster {}", self.node.get(), short(self.cluster))
    }

    /// Checks that the log recovered beside it, with the id `found` if it has one, can be the log of this directory.
    ///
    /// An identity that names no log accepts any: it is written before the log's first entry is known to be agreed.
    pub fn check_log(&self, place: &str, found: Option<LogId>) -> Result<()> {
        match (self.log, found) {
            (Some(known), Some(found)) if known != found => Err(Fault::Foreign(format!(
                "{place} holds log {found}, but its identity file names log {known}: they come from different \
                 directories. Nothing was changed."
            ))),
            (Some(known), None) => Err(Fault::Corrupt {
                file: "wal".to_owned(),
                offset: 0,
                what: format!("the log is empty, but the identity file names log {known}"),
                lost: "all".to_owned(),
                advice: "Restore the log. If it is lost: drave member remove, then add this node again with an empty \
                         directory. Nothing was changed.",
            }),
            _ => Ok(()),
        }
    }

    /// Encodes the identity:
    ///
    /// | at | size | field |
    /// |---|---|---|
    /// | 0 | 8 | magic, `draveid` and a zero |
    /// | 8 | 4 | format |
    /// | 12 | 4 | 1 once the journal is founded |
    /// | 16 | 8 | node |
    /// | 24 | 8 | cluster |
    /// | 32 | 8 | disk |
    /// | 40 | 8 | log, 0 as long as it is not known to be agreed |
    /// | 48 | 8 | how many times a node was started on it |
    /// | 56 | 4 | zero |
    /// | 60 | 4 | CRC-32 of all before |
    ///
    /// Format 1 has no log and no starts, and its checksum is at 44.
    ///
    /// A fixed size, well below a sector, so that the file is written whole or not at all.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BYTES);
        out.put_slice(&MAGIC);
        out.put_u32_le(FORMAT);
        out.put_u32_le(u32::from(self.founded));
        out.put_u64_le(self.node.get());
        out.put_u64_le(self.cluster.0);
        out.put_u64_le(self.disk.0);
        out.put_u64_le(self.log.map_or(0, |log| log.0));
        out.put_u64_le(self.starts);
        out.put_u32_le(0);
        out.put_u32_le(crc32fast::hash(&out));
        assert_eq!(out.len(), BYTES, "the checksum is where a reader of this format looks for it");
        out
    }

    /// Decodes an identity.
    ///
    /// The checksum is verified before the version is believed. A flipped bit in the version would otherwise advise the
    /// operator to look for a newer program.
    pub fn decode(bytes: &Bytes) -> Result<Identity> {
        if bytes.get(..8).is_none_or(|magic| magic != MAGIC) {
            return Err(damaged("it does not begin with `draveid`"));
        }
        let word = |at: usize| bytes.get(at..at + 4).map(|four| u32::from_le_bytes(std::array::from_fn(|i| four[i])));
        let Some(format) = word(8) else { return Err(damaged("too short")) };
        let length = if format == OLDER.0 { OLDER.1 } else { BYTES };
        let Some(fields) = bytes.get(..length) else { return Err(damaged("too short")) };
        // Both versions end with their checksum.
        if word(length - 4) != Some(crc32fast::hash(&fields[..length - 4])) {
            return Err(damaged("it does not match its checksum"));
        }
        if ![OLDER.0, FORMAT].contains(&format) {
            return Err(Fault::Foreign(format!(
                "{NAME} has format {format}, but this program reads up to format {FORMAT}. Nothing was changed."
            )));
        }
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| fields[at + i]));
        let Some(node) = Reader::new(bytes.slice(16..24)).node().ok().flatten() else {
            return Err(damaged("it has no node id"));
        };
        let (log, starts) = if format == FORMAT { (long(40), long(48)) } else { (0, 0) };
        Ok(Identity {
            node,
            cluster: ClusterId(long(24)),
            disk: DiskId(long(32)),
            founded: word(12).is_some_and(|flags| flags & 1 == 1),
            log: (log != 0).then_some(LogId(log)),
            starts,
        })
    }
}

/// The fault of a damaged identity.
fn damaged(what: &str) -> Fault {
    Fault::Corrupt {
        file: NAME.to_owned(),
        offset: 0,
        what: what.to_owned(),
        lost: "none".to_owned(),
        advice: "The owner of this directory is unknown; restore the file from a backup: its node, cluster and disk \
                 ids never change. Never start a node with an empty directory under an id that was in use. \
                 Nothing was changed.",
    }
}

/// The first half of a cluster id, as shown to people.
///
/// Eight digits are enough to tell the few clusters apart that one operator has.
pub fn short(cluster: ClusterId) -> String {
    cluster.to_string()[..8].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FsDisk;
    use crate::disk::fs::Syncs;
    use crate::sim::disk::SimDisk;

    fn sample() -> Identity {
        let node = NodeId::new(1).unwrap();
        Identity {
            node,
            cluster: ClusterId(0x6f2c_91aa_0d77_be21),
            disk: DiskId(77),
            founded: false,
            log: Some(LogId(5)),
            starts: 3,
        }
    }

    #[test]
    fn identity_reads_back_as_written() {
        let directory = tempfile::tempdir().unwrap();
        let disk = FsDisk::make(directory.path(), Syncs::Real).unwrap();
        assert_eq!(Identity::read(&disk).unwrap(), None);
        sample().write(&disk).unwrap();
        let founded = Identity { founded: true, ..sample() };
        founded.write(&disk).unwrap();
        assert_eq!(Identity::read(&disk).unwrap(), Some(founded));
    }

    #[test]
    fn identity_of_format_1_is_read() {
        let mut bytes = sample().encode();
        bytes.truncate(OLDER.1 - 8);
        bytes[8] = 1;
        bytes.put_u32_le(0);
        bytes.put_u32_le(crc32fast::hash(&bytes));
        let read = Identity::decode(&bytes.into()).unwrap();
        assert_eq!(read, Identity { log: None, starts: 0, ..sample() });
    }

    #[test]
    fn foreign_log_is_rejected_and_missing_log_is_damage() {
        let (of_5, unknown) = (sample(), Identity { log: None, ..sample() });
        of_5.check_log("d1", Some(LogId(5))).unwrap();
        unknown.check_log("d1", Some(LogId(6))).unwrap();
        unknown.check_log("d1", None).unwrap();
        assert_eq!(of_5.check_log("d1", Some(LogId(6))).unwrap_err().exit_code(), 78);
        assert_eq!(of_5.check_log("d1", None).unwrap_err().exit_code(), 5);
    }

    #[test]
    fn unreadable_sector_of_identity_is_damage() {
        let disk = SimDisk::new();
        sample().write(&disk).unwrap();
        disk.lose_sector(NAME, 0);
        let fault = Identity::read(&disk).unwrap_err();
        assert!(fault.to_string().contains("the disk cannot read it"), "{fault}");
        assert_eq!(fault.exit_code(), 5);
    }

    #[test]
    fn other_node_id_is_rejected_with_advice() {
        let fault = sample().check("d1", NodeId::new(2).unwrap()).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "d1 belongs to node 1 of cluster 6f2c91aa, but --id is 2: each node needs its own directory, \
             --data. Nothing was changed."
        );
        assert_eq!(fault.exit_code(), 78);
    }

    #[test]
    fn flipped_bit_is_always_detected() {
        let bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&damaged.into()).is_err(), "bit {bit}");
        }
    }
}
