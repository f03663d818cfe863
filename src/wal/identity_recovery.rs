//! Restores a lost or damaged identity file from the headers of the journal's files.
//!
//! # What is restored, and why it is safe
//!
//! | field | from | reason |
//! |---|---|---|
//! | node, cluster, disk | the header of each segment, and the disk id in the sync marker | they never change, and all copies must agree |
//! | journal created | yes | a segment exists. If its log is lost, the start stops: nothing is founded anew |
//! | log id | not restored | the recovered log names it, and the next start writes it. A log that names none is refused |
//! | number of starts | a number above every count of starts | only for warnings about older copies, which stay below it |
//!
//! The identity protects a directory from another node, from another cluster, and from a new beginning after the log
//! was lost. The first two need the ids only. A directory without any intact header stays without an identity, so a lost
//! log is never taken for a new one. An older copy of a directory is detected by the peers and not by this file
//! (`docs/voters.md`, rules 12 to 14).

use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader, file_name, file_number};
use super::identity::{FILE_NAME, FORMAT_VERSION, Identity, MAGIC};
use super::newer_format::check_sync_marker;
use super::report::{Fault, Result};
use super::sync_marker::{self, SyncMarker, to_fault};
use crate::disk::unreadable::is_media_error;
use crate::disk::{Disk, DiskFile};
use crate::types::DiskId;
use bytes::Bytes;

/// The name under which a damaged identity file is kept.
pub const DAMAGED_NAME: &str = "identity.damaged";

/// The result of [`restore_identity`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RestoredIdentity {
    /// The identity, which all files that name it agree on.
    Certain(Identity),
    /// The identity is not certain. The text is the reason.
    Uncertain(String),
}

/// Restores the identity of a directory whose identity file is missing or damaged. `root` is the directory of the file,
/// and `journal` that of the journal. Changes nothing: [`write_restored_identity`] does that, once everything else in the
/// directory is accepted.
///
/// `starts_bound` is a number above every count of starts of any copy of the directory.
///
/// # Errors
///
/// [`Fault::Foreign`] if a segment or the sync marker has a format of a newer program, and [`Fault::Io`].
pub fn restore_identity<D: Disk>(root: &D, journal: &D, starts_bound: u64) -> Result<RestoredIdentity> {
    let uncertain = |reason: String| Ok(RestoredIdentity::Uncertain(reason));
    if has_unknown_format(root)? {
        return uncertain("its format may be one of a newer program".to_owned());
    }
    let names = journal.list().map_err(to_fault("list", "the journal"))?;
    let mut owner: Option<SegmentHeader> = None;
    for number in names.iter().filter_map(|name| file_number(name)) {
        let Some(header) = read_header(journal, number)? else { continue };
        let ids = |header: &SegmentHeader| (header.node, header.cluster, header.disk);
        if let Some(other) = owner.filter(|other| ids(other) != ids(&header)) {
            let (one, two) = (file_name(other.number.min(number)), file_name(other.number.max(number)));
            return uncertain(format!("{one} and {two} name different nodes, clusters or disks"));
        }
        owner = Some(header);
    }
    let Some(SegmentHeader { node, cluster, disk, .. }) = owner else {
        return uncertain("no segment has an intact header".to_owned());
    };
    if !marker_names(journal, &names, disk)? {
        return uncertain(format!("the file `{}` does not confirm disk {disk}", sync_marker::FILE_NAME));
    }
    let identity = Identity { node, cluster, disk, journal_created: true, log: None, starts: starts_bound };
    Ok(RestoredIdentity::Certain(identity))
}

/// Writes a restored identity durably. A damaged identity file is kept as [`DAMAGED_NAME`].
pub fn write_restored_identity<D: Disk>(root: &D, identity: &Identity) -> Result<()> {
    let names = root.list().map_err(to_fault("list", FILE_NAME))?;
    if names.iter().any(|name| name == FILE_NAME) {
        root.rename(FILE_NAME, DAMAGED_NAME).map_err(to_fault("rename", FILE_NAME))?;
    }
    identity.write(root)
}

/// The fault of an identity that is damaged and cannot be restored, for that reason.
pub fn uncertain_identity_fault(damage: Fault, reason: &str) -> Fault {
    match damage {
        Fault::Corrupt { file, offset, description, lost, advice } => {
            let description = format!("{description}; it is not restored from the other files, because {reason}");
            Fault::Corrupt { file, offset, description, lost, advice }
        }
        other => other,
    }
}

/// Whether the identity file has the magic and an unknown format number. A newer program may have written it: no file of
/// a newer program is replaced.
fn has_unknown_format<D: Disk>(root: &D) -> Result<bool> {
    let mut bytes = [0; 12];
    let read = root.open(FILE_NAME).and_then(|file| file.read_at(0, &mut bytes));
    match read {
        Ok(12) => {
            let format = u32::from_le_bytes(std::array::from_fn(|i| bytes[8 + i]));
            Ok(bytes[..8] == MAGIC && format > FORMAT_VERSION)
        }
        Ok(_) => Ok(false),
        Err(error) if is_media_error(&error) || error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(to_fault("read", FILE_NAME)(error)),
    }
}

/// The header of a segment; `None` if it is damaged or unreadable, or that of another segment.
fn read_header<D: Disk>(journal: &D, number: u64) -> Result<Option<SegmentHeader>> {
    let name = file_name(number);
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let read = match journal.open(&name).and_then(|file| file.read_at(0, &mut bytes)) {
        Ok(read) => read,
        Err(error) if is_media_error(&error) => return Ok(None),
        Err(error) => return Err(to_fault("read", &name)(error)),
    };
    match SegmentHeader::decode(&Bytes::copy_from_slice(&bytes[..read])) {
        Ok(header) => Ok(Some(header).filter(|header| header.number == number)),
        Err(malformed) if malformed.0.starts_with("a version") => {
            Err(Fault::Foreign(format!("{name}: {}. Nothing was changed.", malformed.0)))
        }
        Err(_) => Ok(None),
    }
}

/// Whether a slot of the sync marker names the disk.
fn marker_names<D: Disk>(journal: &D, names: &[String], disk: DiskId) -> Result<bool> {
    if !names.iter().any(|name| name == sync_marker::FILE_NAME) {
        return Ok(false);
    }
    let slots = sync_marker::read_slots(journal)?.bytes;
    check_sync_marker(&slots, disk)?;
    let marker = SyncMarker::read(&slots, disk);
    Ok(marker.hard_state.is_some() || marker.log_offset.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::disk::SimDisk;
    use crate::types::{ClusterId, Index, Membership, NodeId, Position, SnapshotPoint};
    use crate::wal::{Journal, Options};

    const STARTS_BOUND: u64 = 1_000_000;

    /// A directory with a journal, and the identity that it should have.
    fn sample_directory() -> (SimDisk, SimDisk, Identity) {
        let (root, journal) = (SimDisk::new(), SimDisk::new());
        let node = NodeId::new(3).unwrap();
        let (cluster, disk) = (ClusterId(7), DiskId(9));
        let founding =
            SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership: Membership::default() };
        let options = Options { segment_bytes: 4096, ..Options::new(node, cluster, disk) };
        drop(Journal::open(journal.clone(), options, Some(&founding)).unwrap());
        let identity = Identity { node, cluster, disk, journal_created: true, log: None, starts: STARTS_BOUND };
        identity.write(&root).unwrap();
        (root, journal, identity)
    }

    fn restore(root: &SimDisk, journal: &SimDisk) -> RestoredIdentity {
        restore_identity(root, journal, STARTS_BOUND).unwrap()
    }

    /// The reason why the identity is not restored.
    fn refusal(root: &SimDisk, journal: &SimDisk) -> String {
        match restore(root, journal) {
            RestoredIdentity::Uncertain(reason) => reason,
            RestoredIdentity::Certain(identity) => panic!("{identity:?} is restored"),
        }
    }

    #[test]
    fn identity_is_restored_from_segment_header_and_sync_marker() {
        let (root, journal, identity) = sample_directory();
        root.flip_bit(FILE_NAME, 20, 1);
        assert_eq!(restore(&root, &journal), RestoredIdentity::Certain(identity));
        assert!(Identity::read(&root).is_err(), "nothing was changed");
        write_restored_identity(&root, &identity).unwrap();
        assert_eq!(Identity::read(&root).unwrap(), Some(identity));
        assert!(root.list().unwrap().contains(&DAMAGED_NAME.to_owned()));
        root.remove(FILE_NAME).unwrap();
        assert_eq!(restore(&root, &journal), RestoredIdentity::Certain(identity));
    }

    #[test]
    fn identity_is_not_restored_without_an_intact_header_or_sync_marker() {
        let (root, journal, _) = sample_directory();
        root.remove(FILE_NAME).unwrap();
        let damaged = journal.fork();
        damaged.flip_bit(&file_name(1), 20, 1);
        assert!(refusal(&root, &damaged).contains("no segment has an intact header"));
        let damaged = journal.fork();
        damaged.lose_sector(&file_name(1), 0);
        assert!(refusal(&root, &damaged).contains("no segment has an intact header"));
        let damaged = journal.fork();
        damaged.remove(sync_marker::FILE_NAME).unwrap();
        assert!(refusal(&root, &damaged).contains("does not confirm disk"));
    }

    #[test]
    fn identity_is_not_restored_if_two_segments_disagree() {
        let (root, journal, identity) = sample_directory();
        root.remove(FILE_NAME).unwrap();
        for header in [
            SegmentHeader { flags: 0, cluster: ClusterId(8), node: identity.node, disk: identity.disk, number: 2 },
            SegmentHeader { flags: 0, cluster: identity.cluster, node: identity.node, disk: DiskId(10), number: 2 },
        ] {
            let journal = journal.fork();
            journal.create(&file_name(2)).unwrap().write_at(0, &header.encode()).unwrap();
            let message = refusal(&root, &journal);
            assert!(message.contains("0000000001.wal and 0000000002.wal name different"), "{message}");
        }
    }

    #[test]
    fn files_of_newer_programs_are_not_replaced() {
        let (root, journal, _) = sample_directory();
        root.open(FILE_NAME).unwrap().write_at(8, &[3]).unwrap();
        assert!(refusal(&root, &journal).contains("a newer program"));
        root.remove(FILE_NAME).unwrap();
        let mut header = journal.read_file(&file_name(1)).unwrap()[..SEGMENT_HEADER_BYTES].to_vec();
        header[8] = 99;
        let checksum = crc32fast::hash(&header[..SEGMENT_HEADER_BYTES - 4]);
        header[SEGMENT_HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        journal.open(&file_name(1)).unwrap().write_at(0, &header).unwrap();
        assert_eq!(restore_identity(&root, &journal, STARTS_BOUND).unwrap_err().exit_code(), 78);
    }
}
