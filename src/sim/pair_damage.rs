//! Damage to the logs of two machines at once, in different entries: an intact copy of each entry is left, and the two
//! machines must get their entries back even if no other machine has them.

use super::disk::{Crash, SimDisk};
use super::world::World;
use crate::codec::{self, Reader};
use crate::disk::Disk;
use crate::types::{DiskId, Index, NodeId, Position};
use crate::wal::format::{Frame, RecordKind, file_number, salt};
use crate::wal::scan::{Scan, ScanItem};
use bytes::Bytes;
use rand::RngExt;
use std::collections::BTreeMap;
use std::ops::Range;

/// An entry in a segment of a machine's log.
struct StoredEntry {
    position: Position,
    file: String,
    /// The offsets of its frame.
    bytes: Range<u64>,
    batch_number_low: u32,
}

/// All entries in the files of a log, in the order of their writing; also those that were replaced.
fn stored_entries(disk: &SimDisk, disk_id: DiskId) -> Vec<StoredEntry> {
    let mut names = disk.list().unwrap_or_default();
    names.sort();
    let mut entries = Vec::new();
    for name in names {
        let (Some(number), Some(bytes)) = (file_number(&name), disk.read_file(&name)) else { continue };
        for item in Scan::new(Bytes::from(bytes), salt(disk_id, number), None) {
            if let ScanItem::Frame(frame) = item {
                entries.extend(stored_entry(&frame, &name));
            }
        }
    }
    entries
}

fn stored_entry(frame: &Frame, file: &str) -> Option<StoredEntry> {
    let entry =
        (frame.kind == RecordKind::Entry).then(|| codec::read_entry(&mut Reader::new(frame.body.clone())).ok())??;
    Some(StoredEntry {
        position: entry.position,
        file: file.to_owned(),
        bytes: frame.offset..frame.end(),
        batch_number_low: frame.batch_number_low,
    })
}

impl World {
    /// Damages an entry in the log of `at` and another one in the log of another machine, and restarts both. Often a
    /// third machine goes down too, so that it lacks the entries that the others write meanwhile.
    pub(super) fn damage_pair(&mut self, at: NodeId) {
        let ids: Vec<NodeId> = self.hosts.keys().copied().filter(|id| *id != at).collect();
        let other = ids[self.rng.random_range(0..ids.len())];
        let is_whole = |id: &NodeId| !self.is_damaged(*id) && !self.checks.lacks_lost_entries(*id);
        if !self.hosts.keys().all(is_whole) {
            return;
        }
        let (own_entries, other_entries) = (self.damageable_entries(at, other), self.damageable_entries(other, at));
        let Some(own_entry) = self.draw_entry(&own_entries, None) else { return };
        let Some(other_entry) = self.draw_entry(&other_entries, Some(own_entry.position.index)) else { return };
        for (id, entry) in [(at, own_entry), (other, other_entry)] {
            let (offset, bit) = (self.rng.random_range(entry.bytes.clone()), self.rng.random_range(0..8));
            self.hosts[&id].disk.flip_bit(&entry.file, offset, bit);
            self.trace_line(|| format!("entry {} of {id} is damaged at {offset} of {}", entry.position, entry.file));
            self.host(id).has_damaged_file = true;
        }
        self.pair_damages += 1;
        self.crash_and_restart(at, Crash::Kill, 500);
        self.crash_and_restart(other, Crash::Kill, 500);
    }

    /// The entries of a machine's log whose damage the other machine can mend.
    ///
    /// Both logs hold the entry, behind both snapshots: nobody sends a snapshot while there is no leader. The entry is
    /// not in the last batch, which looks like one that a power loss has torn. The next entry is of the same term:
    /// otherwise the damage hides which log that entry continues (`docs/repair.md`). The log before the entry is agreed,
    /// and names all disks: otherwise the rest of the log does not show whose votes and entries count.
    fn damageable_entries(&self, at: NodeId, other: NodeId) -> Vec<StoredEntry> {
        let (host, other_host) = (&self.hosts[&at], &self.hosts[&other]);
        let (Some(process), Some(other_process)) = (&host.process, &other_host.process) else { return Vec::new() };
        let snapshot_index = |node: &crate::node::Node| node.snapshot().map_or(Index::ZERO, |it| it.position.index);
        let first_index = snapshot_index(&process.node).max(snapshot_index(&other_process.node)).next();
        let (log, other_log) = (process.node.raft().log(), other_process.node.raft().log());
        let entries = stored_entries(&host.disk, host.disk_id);
        let Some(last_batch) = entries.last().map(|entry| entry.batch_number_low) else { return Vec::new() };
        // Replaced entries are left out, and entries that were written again after they were replaced.
        let mut latest_entries: BTreeMap<Index, StoredEntry> = BTreeMap::new();
        for entry in entries {
            latest_entries.split_off(&entry.position.index);
            latest_entries.insert(entry.position.index, entry);
        }
        let is_founded_before = |index: Index| {
            process.node.raft().membership_at(index.prev()).is_some_and(|(_, membership)| {
                membership.agreed_log_id().is_some() && membership.members.values().all(|member| member.disk.is_some())
            })
        };
        let is_damageable = |entry: &StoredEntry| {
            let Position { index, term } = entry.position;
            index >= first_index
                && entry.batch_number_low != last_batch
                && index.next() <= log.durable()
                && index.next() <= other_log.durable()
                && log.term(index.next()) == Some(term)
                && log.holds(entry.position)
                && other_log.holds(entry.position)
                && is_founded_before(index)
        };
        latest_entries.into_values().filter(is_damageable).collect()
    }

    /// A random entry of another index than `excluded_index`.
    fn draw_entry(&mut self, entries: &[StoredEntry], excluded_index: Option<Index>) -> Option<StoredEntry> {
        let candidates: Vec<&StoredEntry> =
            entries.iter().filter(|entry| Some(entry.position.index) != excluded_index).collect();
        if candidates.is_empty() {
            return None;
        }
        let StoredEntry { position, file, bytes, batch_number_low } =
            candidates[self.rng.random_range(0..candidates.len())];
        Some(StoredEntry {
            position: *position,
            file: file.clone(),
            bytes: bytes.clone(),
            batch_number_low: *batch_number_low,
        })
    }
}
