//! Reads a data directory, while its node may be running: takes no locks and writes nothing.

use super::files::{Files, Segment, read};
use super::record::describe_record;
use super::record_text::{RecordText, Style};
use super::replay::Replay;
use super::snapshots::snapshots_at;
use super::violation::Rule;
use super::walk::{Damage, SegmentWalk, Visitor};
use crate::disk::FsDisk;
use crate::types::{ClusterId, DiskId, Index, Membership, NodeId, Position};
use crate::wal::format::{Frame, RecordKind, SegmentHeader, file_name, salted};
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
    /// The directory's own id.
    pub disk: DiskId,
}

/// An intact snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// The position of its last entry.
    pub position: Position,
    /// The digest of the state.
    pub digest: u64,
    /// The configuration as of that position.
    pub membership: Membership,
}

/// The contents of a data directory.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Where it is.
    pub path: PathBuf,
    /// Its path as text.
    pub name: String,
    /// Its owner, if its identity or any segment names one.
    pub owner: Option<Owner>,
    /// Its journal.
    pub replay: Replay,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Descriptions of what is damaged.
    pub damage: Vec<String>,
    /// Batches that were being written when the node stopped: normal after a crash.
    pub torn: u64,
}

/// The visitor that replays the segments of a directory.
struct SegmentSource {
    replay: Replay,
    owner: Option<Owner>,
    /// Records of the current batch. They count once the batch is complete.
    batch: Vec<Frame>,
    segment: u64,
    damage: Vec<String>,
    torn: u64,
}

/// How often to read a directory, at most: a running node may release a segment before it is read.
const LOOKS: usize = 5;

impl Directory {
    /// Reads the directory at `path`.
    pub fn read(path: &Path) -> anyhow::Result<Directory> {
        for _ in 1..LOOKS {
            let (directory, released) = Directory::read_once(path)?;
            if !released {
                return Ok(directory);
            }
        }
        Ok(Directory::read_once(path)?.0)
    }

    /// Reads the directory once. Also returns whether the node released a segment meanwhile.
    fn read_once(path: &Path) -> anyhow::Result<(Directory, bool)> {
        let name = path.display().to_string();
        let files = Files::at(path)?;
        if files.segments.is_empty() {
            anyhow::bail!("{name}: no journal here (segments named 0000000001.wal)");
        }
        let replay = Replay::new(&name);
        let mut reading =
            SegmentSource { replay, owner: None, batch: Vec::new(), segment: 0, damage: Vec::new(), torn: 0 };
        let mut tour = SegmentWalk::default();
        tour.walk(path, &files, &mut reading)?;
        reading.flush();
        let SegmentSource { mut replay, owner, mut damage, torn, .. } = reading;
        damage.append(&mut replay.odd);
        let mut directory =
            Directory { path: path.to_owned(), name, owner, replay, snapshots: Vec::new(), damage, torn };
        directory.identify();
        directory.look_at_snapshots()?;
        Ok((directory, tour.released_meanwhile()))
    }

    /// Checks the directory's identity against its segments.
    fn identify(&mut self) {
        let identity = match FsDisk::at(&self.path).map(|disk| Identity::read(&disk)) {
            Ok(Ok(Some(identity))) => identity,
            Ok(Err(fault)) => return self.damage.push(fault.to_string()),
            // The directory holds segments and no identity.
            Ok(Ok(None)) | Err(_) => return,
        };
        let says = Owner { node: identity.node, cluster: identity.cluster, disk: identity.disk };
        if self.owner.is_some_and(|owner| owner != says) {
            self.damage.push("identity: of another node, cluster or disk than the segments".to_owned());
        }
        self.owner.get_or_insert(says);
    }

    fn look_at_snapshots(&mut self) -> anyhow::Result<()> {
        if !self.path.is_dir() || !self.path.join("snapshots").is_dir() {
            return Ok(());
        }
        for found in snapshots_at(&self.path)? {
            if let Some(flaw) = found.flaw() {
                self.damage.push(format!("{}: byte {}: {flaw}", found.name, flaw.at));
                continue;
            }
            let Ok((header, _)) = found.header() else { continue };
            let (position, digest) = (header.position, header.digest);
            self.snapshots.push(Snapshot { position, digest, membership: header.membership });
        }
        let log = &self.replay.log;
        for snapshot in &self.snapshots {
            let at = snapshot.position;
            if let Some(term) = log.term(at.index).filter(|term| *term != at.term && at.index > Index::ZERO) {
                let what = format!("its snapshot is of {at}, and its log has {}@{term} there", at.index);
                self.replay.violations.add(Rule::Snapshots, &[&self.name], what);
            }
        }
        Ok(())
    }

    /// The position up to which entries are known to be committed, by the log's base and the snapshots.
    pub fn committed(&self) -> Position {
        let snapshots = self.snapshots.iter().map(|snapshot| snapshot.position);
        snapshots.chain([self.replay.base]).max_by_key(|position| position.index).unwrap_or_default()
    }

    /// Positions that its log is known to have had: of its snapshots, its base, and before its first entry.
    pub fn waypoints(&self) -> impl Iterator<Item = Position> + '_ {
        let others = [self.replay.base, self.replay.log.before()];
        let all = self.snapshots.iter().map(|snapshot| snapshot.position).chain(others);
        all.filter(|position| position.index > Index::ZERO && position.term.0 > 0)
    }

    /// The configuration in force at the end of its log.
    pub fn membership(&self) -> Option<&Membership> {
        self.replay.configurations.last().map(|configured| &configured.membership)
    }

    /// The record of the entry at that index, as text; `None` if it is no longer stored.
    pub fn record(&self, index: Index, style: Style) -> Option<RecordText> {
        let head = self.replay.log.get(index)?;
        let inside = self.path.join("wal");
        let directory = if inside.is_dir() { &inside } else { &self.path };
        let path = match self.path.is_file() {
            true => self.path.clone(),
            false => directory.join(file_name(head.segment.into())),
        };
        let bytes = read(&path).ok()??;
        let header = SegmentHeader::decode(&bytes).ok()?;
        let frame = Frame::read(&bytes, salted(header.salt()), head.at.into()).ok()?;
        (frame.kind == RecordKind::Entry).then(|| describe_record(&frame, style))
    }
}

impl SegmentSource {
    /// Replays the current batch: it is complete, or no more of it exists.
    fn flush(&mut self) {
        for frame in self.batch.drain(..) {
            self.replay.take(self.segment, &frame);
        }
    }
}

impl Visitor for SegmentSource {
    fn segment(&mut self, segment: &Segment, header: Option<&SegmentHeader>, _bytes: &Bytes) -> io::Result<()> {
        self.flush();
        if self.segment != 0 && segment.number != self.segment + 1 {
            self.replay.breaks();
        }
        self.segment = segment.number;
        let Some(header) = header else { return Ok(()) };
        let says = Owner { node: header.node, cluster: header.cluster, disk: header.disk };
        if self.owner.is_some_and(|owner| owner != says) {
            self.damage.push(format!("{}: of another node, cluster or disk than the one before it", segment.name));
        }
        self.owner = Some(says);
        self.replay.belongs_to(header.node);
        Ok(())
    }

    fn finding(&mut self, segment: &Segment, finding: Finding) -> io::Result<()> {
        match finding {
            Finding::Record(frame) => {
                if frame.kind == RecordKind::Batch {
                    self.flush();
                }
                self.batch.push(frame);
            }
            Finding::Torn { cut, .. } => {
                self.torn += 1;
                self.batch.retain(|frame| frame.at < cut);
                self.flush();
            }
            Finding::Bad { at, flaw, .. } => {
                self.damage.push(format!("{}: byte {at}: {flaw}", segment.name));
                self.flush();
                self.replay.breaks();
            }
        }
        Ok(())
    }

    fn bad(&mut self, bad: Damage<'_>) -> io::Result<()> {
        self.damage.push(match bad.bytes {
            0 => format!("{}: {}", bad.file, bad.what),
            _ => format!("{}: byte {}: {}", bad.file, bad.at, bad.what),
        });
        self.flush();
        self.replay.breaks();
        Ok(())
    }
}
