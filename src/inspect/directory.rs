//! Reads a data directory, while its node may be running. Takes no locks and writes nothing.

use super::files::{JournalFiles, Segment, read};
use super::record::describe_record;
use super::record_text::{RecordText, Style};
use super::replay::Replay;
use super::set_aside::{SetAsideFile, find_set_aside_files};
use super::snapshots::snapshots_at;
use super::violation::Rule;
use super::walk::{Damage, SegmentWalk, Visitor};
use crate::disk::FsDisk;
use crate::types::{ClusterId, DiskId, Index, Membership, NodeId, Position};
use crate::wal::format::{Frame, RecordKind, SegmentHeader, file_name, salt_crc};
use crate::wal::identity::Identity;
use crate::wal::inspect::Finding;
use bytes::Bytes;
use std::io;
use std::path::{Path, PathBuf};

/// The identity that is stored in a directory, and in the header of each of its segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The node that the directory belongs to.
    pub node: NodeId,
    /// The cluster of that node.
    pub cluster: ClusterId,
    /// The id of this directory, drawn at random when it was created.
    pub disk: DiskId,
}

/// The header of an intact snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IntactSnapshot {
    /// The position of the last entry that the snapshot contains.
    pub position: Position,
    /// The digest of the state machine and the sessions as of `position`.
    pub digest: u64,
    /// The configuration in force at `position`.
    pub membership: Membership,
}

/// The contents of a data directory, as far as they could be read.
#[derive(Clone, Debug)]
pub struct Directory {
    /// The path as the caller gave it.
    pub path: PathBuf,
    /// The path as text: the directory's name in messages.
    pub name: String,
    /// The owner named by the identity file or a segment header; `None` if neither is readable.
    pub owner: Option<Owner>,
    /// The log, votes and configurations, rebuilt from the records of the journal.
    pub replay: Replay,
    /// The intact snapshots, oldest first.
    pub snapshots: Vec<IntactSnapshot>,
    /// A line of text for each damaged or missing part; empty if the directory is intact.
    pub damage: Vec<String>,
    /// The number of torn batches, which were being written when the node stopped: normal after a crash.
    pub torn_batches: u64,
    /// The files that a repair has set aside.
    pub set_aside_files: Vec<SetAsideFile>,
}

/// The visitor that replays the segments of a directory.
struct ReplayVisitor {
    replay: Replay,
    owner: Option<Owner>,
    /// The frames of the current batch, which are replayed once the batch is complete.
    batch_frames: Vec<Frame>,
    segment_number: u64,
    damage: Vec<String>,
    torn_batches: u64,
}

/// The maximum number of attempts to read a directory. An attempt fails if a running node releases a segment meanwhile.
const READ_ATTEMPTS: usize = 5;

impl Directory {
    /// Reads the data directory, directory of segments or single segment at `path`.
    pub fn read(path: &Path) -> anyhow::Result<Directory> {
        for _ in 1..READ_ATTEMPTS {
            let (directory, segment_released) = Directory::read_once(path)?;
            if !segment_released {
                return Ok(directory);
            }
        }
        Ok(Directory::read_once(path)?.0)
    }

    /// Reads the directory once. Also returns whether the node released a segment meanwhile.
    fn read_once(path: &Path) -> anyhow::Result<(Directory, bool)> {
        let name = path.display().to_string();
        let files = JournalFiles::find_at(path)?;
        if files.segments.is_empty() {
            anyhow::bail!("{name}: no journal here (segments named 0000000001.wal)");
        }
        let replay = Replay::new(&name);
        let mut visitor = ReplayVisitor {
            replay,
            owner: None,
            batch_frames: Vec::new(),
            segment_number: 0,
            damage: Vec::new(),
            torn_batches: 0,
        };
        let mut walk = SegmentWalk::default();
        walk.walk(path, &files, &mut visitor)?;
        visitor.replay_batch();
        let ReplayVisitor { mut replay, owner, mut damage, torn_batches, .. } = visitor;
        damage.append(&mut replay.malformed_records);
        let set_aside_files = match path.is_dir() {
            true => find_set_aside_files(path, files.find_disk_id())?,
            false => Vec::new(),
        };
        let (path, snapshots) = (path.to_owned(), Vec::new());
        let mut directory = Directory { path, name, owner, replay, snapshots, damage, torn_batches, set_aside_files };
        directory.check_identity();
        directory.read_snapshots()?;
        Ok((directory, walk.segment_released()))
    }

    /// Checks the directory's identity against its segments.
    fn check_identity(&mut self) {
        let identity = match FsDisk::open_existing(&self.path).map(|disk| Identity::read(&disk)) {
            Ok(Ok(Some(identity))) => identity,
            Ok(Err(fault)) => return self.damage.push(fault.to_string()),
            // The directory holds segments and no identity.
            Ok(Ok(None)) | Err(_) => return,
        };
        let named_owner = Owner { node: identity.node, cluster: identity.cluster, disk: identity.disk };
        if self.owner.is_some_and(|owner| owner != named_owner) {
            self.damage.push("identity: of another node, cluster or disk than the segments".to_owned());
        }
        self.owner.get_or_insert(named_owner);
    }

    fn read_snapshots(&mut self) -> anyhow::Result<()> {
        if !self.path.is_dir() || !self.path.join("snapshots").is_dir() {
            return Ok(());
        }
        for snapshot_file in snapshots_at(&self.path)? {
            if let Some(flaw) = snapshot_file.find_flaw() {
                self.damage.push(format!("{}: byte {}: {flaw}", snapshot_file.name, flaw.at));
                continue;
            }
            let Ok((header, _)) = snapshot_file.header() else { continue };
            let (position, digest) = (header.position, header.digest);
            self.snapshots.push(IntactSnapshot { position, digest, membership: header.membership });
        }
        let log = &self.replay.log;
        for snapshot in &self.snapshots {
            let position = snapshot.position;
            if let Some(term) =
                log.term(position.index).filter(|term| *term != position.term && position.index > Index::ZERO)
            {
                let description =
                    format!("its snapshot is of {position}, and its log has {}@{term} there", position.index);
                self.replay.violations.add(Rule::Snapshots, &[&self.name], description);
            }
        }
        Ok(())
    }

    /// The position up to which entries are known to be committed: that of the newest snapshot, or the position up to
    /// which the log was released.
    pub fn committed_upto(&self) -> Position {
        let snapshots = self.snapshots.iter().map(|snapshot| snapshot.position);
        snapshots.chain([self.replay.base]).max_by_key(|position| position.index).unwrap_or_default()
    }

    /// Positions of entries that the log held earlier: the positions of the snapshots, of the log's base, and of the
    /// entry before its first entry.
    pub fn known_positions(&self) -> impl Iterator<Item = Position> + '_ {
        let log_positions = [self.replay.base, self.replay.log.position_before()];
        let positions = self.snapshots.iter().map(|snapshot| snapshot.position).chain(log_positions);
        positions.filter(|position| position.index > Index::ZERO && position.term.0 > 0)
    }

    /// The configuration in force at the end of the log; `None` if the journal has none.
    pub fn membership(&self) -> Option<&Membership> {
        self.replay.configurations.last().map(|configured| &configured.membership)
    }

    /// The record of the entry at that index, as text; `None` if the entry is no longer stored.
    pub fn record(&self, index: Index, style: Style) -> Option<RecordText> {
        let entry = self.replay.log.get(index)?;
        let wal_directory = self.path.join("wal");
        let directory = if wal_directory.is_dir() { &wal_directory } else { &self.path };
        let path = match self.path.is_file() {
            true => self.path.clone(),
            false => directory.join(file_name(entry.segment_number.into())),
        };
        let bytes = read(&path).ok()??;
        let header = SegmentHeader::decode(&bytes).ok()?;
        let frame = Frame::read(&bytes, salt_crc(header.salt()), entry.offset.into()).ok()?;
        (frame.kind == RecordKind::Entry).then(|| describe_record(&frame, style))
    }
}

impl ReplayVisitor {
    /// Replays the current batch, which is complete or whose remaining records are damaged.
    fn replay_batch(&mut self) {
        for frame in self.batch_frames.drain(..) {
            self.replay.replay_record(self.segment_number, &frame);
        }
    }
}

impl Visitor for ReplayVisitor {
    fn visit_segment(&mut self, segment: &Segment, header: Option<&SegmentHeader>, _bytes: &Bytes) -> io::Result<()> {
        self.replay_batch();
        if self.segment_number != 0 && segment.number != self.segment_number + 1 {
            self.replay.expect_gap();
        }
        self.segment_number = segment.number;
        let Some(header) = header else { return Ok(()) };
        let named_owner = Owner { node: header.node, cluster: header.cluster, disk: header.disk };
        if self.owner.is_some_and(|owner| owner != named_owner) {
            self.damage.push(format!("{}: of another node, cluster or disk than the one before it", segment.name));
        }
        self.owner = Some(named_owner);
        self.replay.set_node(header.node);
        Ok(())
    }

    fn visit_finding(&mut self, segment: &Segment, finding: Finding) -> io::Result<()> {
        match finding {
            Finding::Record(frame) => {
                if frame.kind == RecordKind::Batch {
                    self.replay_batch();
                }
                self.batch_frames.push(frame);
            }
            Finding::TornBatch { cut_offset, .. } => {
                self.torn_batches += 1;
                self.batch_frames.retain(|frame| frame.offset < cut_offset);
                self.replay_batch();
            }
            Finding::Damage { at, flaw, .. } => {
                self.damage.push(format!("{}: byte {at}: {flaw}", segment.name));
                self.replay_batch();
                self.replay.expect_gap();
            }
        }
        Ok(())
    }

    fn visit_damage(&mut self, damage: Damage<'_>) -> io::Result<()> {
        self.damage.push(match damage.bytes {
            0 => format!("{}: {}", damage.file, damage.description),
            _ => format!("{}: byte {}: {}", damage.file, damage.at, damage.description),
        });
        self.replay_batch();
        self.replay.expect_gap();
        Ok(())
    }
}
