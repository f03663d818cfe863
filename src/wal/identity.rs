//! The identity of a data directory: node id, cluster id and disk id, which never change, the log id, and the number of
//! starts.
//!
//! The file `identity` keeps a directory from being used by another node or another cluster, and distinguishes a lost
//! log from one that never existed.
//!
//! Why a file of its own: the identity must be readable when the log is not. If the owner were recorded in the log
//! only, a node whose log is lost would look like a new one, would begin anew, and could vote twice in a term (§5.2).
//!
//! The file is replaced as a whole by a rename, so that each crash leaves the old file or the new one.

use super::load::read_whole_file;
use super::report::{Fault, Result};
use super::sync_marker::to_fault;
use crate::codec::Reader;
use crate::disk::{Disk, DiskFile};
use crate::types::{ClusterId, DiskId, LogId, NodeId};
use bytes::{BufMut, Bytes};
use std::io::ErrorKind;

/// The name of the file in the data directory.
pub const FILE_NAME: &str = "identity";
/// The first bytes of the file.
pub const MAGIC: [u8; 8] = *b"draveid\0";
/// The version of the format that is written; version 1 is still read.
pub const FORMAT_VERSION: u32 = 2;
/// The size in bytes of a file of format version 2.
pub const FILE_BYTES: usize = 64;
/// Version 1 of the format, which has no log id and no number of starts.
const FORMAT_VERSION_1: u32 = 1;
/// The size in bytes of a file of version 1.
const FILE_BYTES_VERSION_1: usize = 48;

/// The identity of a data directory.
///
/// The disk id distinguishes two directories of one node. A node that restarts with an empty disk has the same node id
/// and none of its votes and entries, so votes and acknowledgments are counted by disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The node that owns the directory.
    pub node: NodeId,
    /// The cluster that the owner belongs to.
    pub cluster: ClusterId,
    /// The directory's own id, a random number from its creation on.
    pub disk: DiskId,
    /// Whether the journal was created. If so, a missing journal is lost data, and the node does not start.
    pub journal_created: bool,
    /// The id of the directory's log. `None` until a start finds that a majority has agreed on it.
    pub log: Option<LogId>,
    /// The number of times that a node was started on the directory. The older of two copies has the lower number.
    pub starts: u64,
}

impl Identity {
    /// Reads the identity; `None` if the directory has none.
    ///
    /// A damaged file is never `None`: a new identity in its place would have a new disk id, and the old log would
    /// become foreign to its own directory.
    pub fn read<D: Disk>(disk: &D) -> Result<Option<Identity>> {
        match read_whole_file(disk, FILE_NAME) {
            Err(Fault::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            // A media error: the disk cannot read the file.
            Err(Fault::Corrupt { description, .. }) => Err(damage_fault(&description)),
            bytes => Identity::decode(&bytes?).map(Some),
        }
    }

    /// Writes the identity durably, and replaces any earlier one.
    ///
    /// The temporary file of an interrupted attempt is removed first: `create` fails if the name exists.
    pub fn write<D: Disk>(&self, disk: &D) -> Result<()> {
        let tmp_name = format!("{FILE_NAME}.tmp");
        if disk.list().map_err(to_fault("list", FILE_NAME))?.contains(&tmp_name) {
            disk.remove(&tmp_name).map_err(to_fault("remove", FILE_NAME))?;
        }
        let mut file = disk.create(&tmp_name).map_err(to_fault("create", FILE_NAME))?;
        file.write_at(0, &self.encode()).map_err(to_fault("write", FILE_NAME))?;
        file.sync_all().map_err(to_fault("sync", FILE_NAME))?;
        // After the sync: a name that is durable before its contents would lead to an empty file after a power loss.
        disk.rename(&tmp_name, FILE_NAME).map_err(to_fault("rename", FILE_NAME))?;
        disk.sync_names().map_err(to_fault("sync the directory of", FILE_NAME))
    }

    /// Checks that the directory, called `directory` in the error, belongs to `node`.
    ///
    /// The usual cause of the error is a copied command line. The check precedes any change, and the error names the
    /// option.
    pub fn check_owner(&self, directory: &str, node: NodeId) -> Result<()> {
        if self.node == node {
            return Ok(());
        }
        let owner = self.describe_owner(directory);
        Err(Fault::Foreign(format!(
            "{owner}, but --id is {}: each node needs its own directory, --data. Nothing was changed.",
            node.get()
        )))
    }

    /// Describes the owner of the directory, for messages; `directory` is its name.
    pub fn describe_owner(&self, directory: &str) -> String {
        format!("{directory} belongs to node {} of cluster {}", self.node.get(), short_cluster_id(self.cluster))
    }

    /// Checks that the recovered log belongs to this directory. `recovered_log` is the id of that log, if it has one.
    ///
    /// An identity without a log id accepts any log: the identity is written before a majority has agreed on the log's
    /// first entry.
    pub fn check_log(&self, directory: &str, recovered_log: Option<LogId>) -> Result<()> {
        match (self.log, recovered_log) {
            (Some(known), Some(found)) if known != found => Err(Fault::Foreign(format!(
                "{directory} holds log {found}, but its identity file names log {known}: they come from different \
                 directories. Nothing was changed."
            ))),
            (Some(known), None) => Err(Fault::Corrupt {
                file: "wal".to_owned(),
                offset: 0,
                description: format!("the log is empty, but the identity file names log {known}"),
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
    /// | 12 | 4 | 1 once the journal is created |
    /// | 16 | 8 | node |
    /// | 24 | 8 | cluster |
    /// | 32 | 8 | disk |
    /// | 40 | 8 | log id, 0 if unknown |
    /// | 48 | 8 | number of starts |
    /// | 56 | 4 | zero |
    /// | 60 | 4 | CRC-32 of all bytes before |
    ///
    /// Format 1 has no log id and no number of starts, and its checksum is at 44. Magic, format, size and checksum stay
    /// the same in later formats, so that this program can tell a later format from damage.
    ///
    /// The file is smaller than a sector, so that it is written as a whole or not at all.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FILE_BYTES);
        out.put_slice(&MAGIC);
        out.put_u32_le(FORMAT_VERSION);
        out.put_u32_le(u32::from(self.journal_created));
        out.put_u64_le(self.node.get());
        out.put_u64_le(self.cluster.0);
        out.put_u64_le(self.disk.0);
        out.put_u64_le(self.log.map_or(0, |log| log.0));
        out.put_u64_le(self.starts);
        out.put_u32_le(0);
        out.put_u32_le(crc32fast::hash(&out));
        assert_eq!(
            out.len(),
            FILE_BYTES,
            "an encoded identity has the size of the file, so its checksum is in the last four bytes"
        );
        out
    }

    /// Decodes an identity.
    ///
    /// The checksum is verified before the version is compared. Otherwise a flipped bit in the version would be
    /// reported as the format of a newer program.
    pub fn decode(bytes: &Bytes) -> Result<Identity> {
        if bytes.get(..8).is_none_or(|magic| magic != MAGIC) {
            return Err(damage_fault("it does not begin with `draveid`"));
        }
        let u32_at = |at: usize| bytes.get(at..at + 4).map(|four| u32::from_le_bytes(std::array::from_fn(|i| four[i])));
        let Some(format) = u32_at(8) else { return Err(damage_fault("too short")) };
        let format_bytes = if format == FORMAT_VERSION_1 { FILE_BYTES_VERSION_1 } else { FILE_BYTES };
        let Some(fields) = bytes.get(..format_bytes) else { return Err(damage_fault("too short")) };
        // Both versions end with their checksum.
        if u32_at(format_bytes - 4) != Some(crc32fast::hash(&fields[..format_bytes - 4])) {
            return Err(damage_fault("it does not match its checksum"));
        }
        if ![FORMAT_VERSION_1, FORMAT_VERSION].contains(&format) {
            return Err(Fault::unknown_format(&format!("{FILE_NAME} has format {format}"), FORMAT_VERSION));
        }
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| fields[at + i]));
        let Some(node) = Reader::new(bytes.slice(16..24)).optional_node_id().ok().flatten() else {
            return Err(damage_fault("it has no node id"));
        };
        let (log, starts) = if format == FORMAT_VERSION { (u64_at(40), u64_at(48)) } else { (0, 0) };
        Ok(Identity {
            node,
            cluster: ClusterId(u64_at(24)),
            disk: DiskId(u64_at(32)),
            journal_created: u32_at(12).is_some_and(|flags| flags & 1 == 1),
            log: (log != 0).then_some(LogId(log)),
            starts,
        })
    }
}

/// The fault of a damaged identity file; `description` says what is wrong with the file.
fn damage_fault(description: &str) -> Fault {
    Fault::Corrupt {
        file: FILE_NAME.to_owned(),
        offset: 0,
        description: description.to_owned(),
        lost: "none".to_owned(),
        advice: "The owner of this directory is unknown; restore the file from a backup: its node, cluster and disk \
                 ids never change. Never start a node with an empty directory under an id that was in use. \
                 Nothing was changed.",
    }
}

/// The first eight digits of a cluster id, for messages.
///
/// Eight digits distinguish the few clusters of one operator.
pub fn short_cluster_id(cluster: ClusterId) -> String {
    cluster.to_string()[..8].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FsDisk;
    use crate::disk::fs::SyncMode;
    use crate::sim::disk::SimDisk;

    fn sample_identity() -> Identity {
        let node = NodeId::new(1).unwrap();
        Identity {
            node,
            cluster: ClusterId(0x6f2c_91aa_0d77_be21),
            disk: DiskId(77),
            journal_created: false,
            log: Some(LogId(5)),
            starts: 3,
        }
    }

    #[test]
    fn identity_reads_back_as_written() {
        let directory = tempfile::tempdir().unwrap();
        let disk = FsDisk::open_or_create(directory.path(), SyncMode::Executed).unwrap();
        assert_eq!(Identity::read(&disk).unwrap(), None);
        sample_identity().write(&disk).unwrap();
        let identity_with_journal = Identity { journal_created: true, ..sample_identity() };
        identity_with_journal.write(&disk).unwrap();
        assert_eq!(Identity::read(&disk).unwrap(), Some(identity_with_journal));
    }

    #[test]
    fn identity_file_of_format_1_is_read() {
        let mut bytes = sample_identity().encode();
        bytes.truncate(FILE_BYTES_VERSION_1 - 8);
        bytes[8] = 1;
        bytes.put_u32_le(0);
        bytes.put_u32_le(crc32fast::hash(&bytes));
        let decoded = Identity::decode(&bytes.into()).unwrap();
        assert_eq!(decoded, Identity { log: None, starts: 0, ..sample_identity() });
    }

    #[test]
    fn foreign_log_is_rejected_and_missing_log_is_damage() {
        let (with_log_5, without_log) = (sample_identity(), Identity { log: None, ..sample_identity() });
        with_log_5.check_log("d1", Some(LogId(5))).unwrap();
        without_log.check_log("d1", Some(LogId(6))).unwrap();
        without_log.check_log("d1", None).unwrap();
        assert_eq!(with_log_5.check_log("d1", Some(LogId(6))).unwrap_err().exit_code(), 78);
        assert_eq!(with_log_5.check_log("d1", None).unwrap_err().exit_code(), 5);
    }

    #[test]
    fn unreadable_sector_of_identity_is_damage() {
        let disk = SimDisk::new();
        sample_identity().write(&disk).unwrap();
        disk.lose_sector(FILE_NAME, 0);
        let fault = Identity::read(&disk).unwrap_err();
        assert!(fault.to_string().contains("the disk cannot read it"), "{fault}");
        assert_eq!(fault.exit_code(), 5);
    }

    #[test]
    fn other_node_id_is_rejected_with_advice() {
        let fault = sample_identity().check_owner("d1", NodeId::new(2).unwrap()).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "d1 belongs to node 1 of cluster 6f2c91aa, but --id is 2: each node needs its own directory, \
             --data. Nothing was changed."
        );
        assert_eq!(fault.exit_code(), 78);
    }

    #[test]
    fn flipped_bit_is_always_detected() {
        let bytes = sample_identity().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&damaged.into()).is_err(), "bit {bit}");
        }
    }
}
