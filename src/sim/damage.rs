//! Disks that do not hold the data that was written to them: flipped bits, misdirected writes, false syncs and older
//! copies.
//!
//! Only the disks of a minority are damaged at the same time: no protocol could recover data that a majority has lost.

use super::checks;
use super::disk::{Crash, DiskStop, SimDisk};
use super::event::SimEvent;
use super::node_history::DiskImage;
use super::world::World;
use crate::disk::Disk;
use crate::snapshot::format::file_position;
use crate::types::{Membership, NodeId, PendingRole};
use crate::wal::format::file_number;
use crate::wal::{identity, sync_marker};
use rand::RngExt;

impl World {
    /// Whether a machine's disk may hold other data than its process has written.
    pub(super) fn is_damaged(&self, at: NodeId) -> bool {
        let host = &self.hosts[&at];
        host.has_damaged_file || host.may_sync_falsely || self.snapshots.damaged_index(at).is_some()
    }

    /// Whether the disk of a machine may be damaged now: the machine must be running, and a majority of the other
    /// machines must still hold all their data. If the operator changes members, this must be a majority of every
    /// configuration in use. A change that names a voter whose disk was lost before is aborted, but nothing repairs a
    /// change whose voters are lost while it is in progress.
    pub(super) fn may_be_damaged(&self, at: NodeId) -> bool {
        let damaged_count = self.hosts.keys().filter(|id| self.is_damaged(**id)).count();
        let some_disk_lacks_lost_entries = self.hosts.keys().any(|id| self.checks.lacks_lost_entries(*id));
        // A machine that is down may just have lost power. Its log could not distinguish damage to the last batch from
        // a write that the power loss has interrupted (wal-format.md).
        let is_up = self.hosts[&at].process.is_some();
        let configurations_in_use = self.checks.configurations.in_use();
        let keeps_quorum = || configurations_in_use.iter().all(|membership| self.has_quorum_without(at, membership));
        let has_operator = self.scenario.operator.interval.is_some();
        // A learner that is to replace a voter changes the voters some time later, and so may the operator's pending
        // request.
        let has_replacing_learner = |membership: &&Membership| {
            membership.members.values().any(|member| matches!(member.pending_role, PendingRole::Replace(_)))
        };
        let voters_may_change = self.operator.is_waiting() || configurations_in_use.iter().any(has_replacing_learner);
        damaged_count < (self.hosts.len() - 1) / 2
            && !self.is_damaged(at)
            && is_up
            && !some_disk_lacks_lost_entries
            && !self.hosts.values().any(|host| host.may_sync_falsely)
            && (!has_operator || (!voters_may_change && keeps_quorum()))
    }

    /// Copies a machine's disk as a power loss would leave it; or, if there is such a copy, restarts the machine on the
    /// copy. The replaced disk is lost, or a later call swaps it back in, as when an administrator restores a backup
    /// and later returns to the original disk. Only one machine at a time has a copy, because nothing recovers data
    /// that a majority loses.
    pub(super) fn copy_or_restore_disk(&mut self, at: NodeId) {
        let another_machine_is_faulty =
            self.hosts.values().any(|host| host.may_sync_falsely || (host.disk_copy.is_some() && host.id != at));
        if self.is_damaged(at) || self.hosts[&at].was_wiped || self.hosts.len() < 3 {
            return;
        }
        let Some((disk, snapshot_disk, history)) = self.host(at).disk_copy.take() else {
            if !another_machine_is_faulty && self.hosts[&at].process.is_some() {
                let host = &self.hosts[&at];
                let disk_copy =
                    (host.disk.durable_copy(), host.snapshot_disk.durable_copy(), self.checks.copy_history(at));
                self.trace_line(|| format!("the disk of {at} is copied"));
                (self.host(at).disk_copy, self.host(at).copy_is_replaced_disk) = (Some(disk_copy), false);
            }
            return;
        };
        let configurations_in_use = self.checks.configurations.in_use();
        if !configurations_in_use.into_iter().all(|membership| self.has_quorum_without(at, membership)) {
            return;
        }
        self.crash(at, Crash::Kill);
        self.disk_swaps += u64::from(self.hosts[&at].copy_is_replaced_disk);
        let keeps_present_disk = self.rng.random_range(0..2) == 0;
        let present_disk = keeps_present_disk.then(|| {
            (
                self.hosts[&at].disk.durable_copy(),
                self.hosts[&at].snapshot_disk.durable_copy(),
                self.checks.copy_history(at),
            )
        });
        self.trace_line(|| {
            format!("{at} restarts on an older copy of its disk; its present disk is kept: {keeps_present_disk}")
        });
        self.checks.restore_copy(at, &history);
        let host = self.host(at);
        (host.disk, host.snapshot_disk, host.disk_copy, host.copy_is_replaced_disk) =
            (disk, snapshot_disk, present_disk, keeps_present_disk);
        let delay = self.draw_outage(500);
        self.schedule_after(delay, SimEvent::ProcessStart { at });
    }

    /// Flips a bit of a random segment, or makes one of its sectors unreadable, and restarts the process.
    pub(super) fn damage_segment(&mut self, at: NodeId) {
        if !self.may_be_damaged(at) {
            return;
        }
        let disk = self.hosts[&at].disk.clone();
        let names = disk.list().unwrap_or_default();
        let mut segments: Vec<String> = names.into_iter().filter(|name| name.ends_with(".wal")).collect();
        segments.sort();
        if segments.is_empty() {
            return;
        }
        let name = segments[self.rng.random_range(0..segments.len())].clone();
        if self.damage_file(at, &disk, &name) {
            self.host(at).has_damaged_file = true;
            self.crash_and_restart(at, Crash::Kill, 500);
        }
    }

    /// Damages a random file of a machine whose process keeps running. The process finds the damage when it reads the
    /// file, at the latest at its next start. The file may also be the sync marker or the identity file.
    pub(super) fn damage_file_beneath_process(&mut self, at: NodeId) {
        if !self.may_be_damaged(at) {
            return;
        }
        let host = &self.hosts[&at];
        let (disk, snapshot_disk, identity_disk) =
            (host.disk.clone(), host.snapshot_disk.clone(), host.identity_disk.clone());
        let is_log_file = |name: &String| name.ends_with(".wal") || name == sync_marker::FILE_NAME;
        let mut files: Vec<(SimDisk, String)> = vec![(identity_disk, identity::FILE_NAME.to_owned())];
        files.extend(disk.list().unwrap_or_default().into_iter().filter(is_log_file).map(|name| (disk.clone(), name)));
        let snapshots =
            snapshot_disk.list().unwrap_or_default().into_iter().filter(|name| file_position(name).is_some());
        files.extend(snapshots.map(|name| (snapshot_disk.clone(), name)));
        // Damage that a check can find is more likely in worlds in which nodes check their files.
        if self.scenario.node.scrub_interval.is_some() && self.rng.random() {
            let sealed_upto = self.hosts[&at].process.as_ref().map_or(0, |process| process.node.sealed_upto());
            let is_sealed = |name: &str| file_number(name).is_some_and(|number| number <= sealed_upto);
            if files.iter().any(|(_, name)| is_sealed(name)) {
                files.retain(|(_, name)| is_sealed(name));
            }
        }
        let (disk, name) = files.swap_remove(self.rng.random_range(0..files.len()));
        if self.damage_file(at, &disk, &name) {
            let host = self.host(at);
            host.has_damaged_file = true;
            host.damaged_segment = Some(name.clone()).filter(|name| name.ends_with(".wal"));
            if let Some(position) = file_position(&name) {
                self.snapshots.record_damage(at, position.index);
            }
        }
    }

    /// Damages a snapshot file that is being written or received, or a published snapshot file. A machine whose only
    /// snapshot is damaged may never start again. Published snapshots are therefore damaged only on a minority of the
    /// machines, like logs.
    pub(super) fn damage_snapshot(&mut self, at: NodeId) {
        let may_damage_published_snapshot = self.may_be_damaged(at);
        let host = &self.hosts[&at];
        if host.process.is_none() {
            return;
        }
        let is_unpublished_file = |name: &String| name.ends_with(".tmp") || name.ends_with(".part");
        let is_damageable_file = |name: &String| {
            is_unpublished_file(name) || (may_damage_published_snapshot && file_position(name).is_some())
        };
        let snapshot_disk = host.snapshot_disk.clone();
        let mut files: Vec<String> =
            snapshot_disk.list().unwrap_or_default().into_iter().filter(is_damageable_file).collect();
        files.sort();
        if files.is_empty() {
            return;
        }
        let name = files[self.rng.random_range(0..files.len())].clone();
        let Some(size) = snapshot_disk.read_file(&name).map(|bytes| bytes.len()).filter(|size| *size > 0) else {
            return;
        };
        let offset = self.rng.random_range(0..size) as u64;
        match is_unpublished_file(&name) && self.rng.random_range(0..3) == 0 {
            true => snapshot_disk.lose_sector(&name, offset),
            false => snapshot_disk.flip_bit(&name, offset, self.rng.random_range(0..8)),
        }
        self.trace_line(|| format!("{name} of {at} is damaged at {offset}"));
        if let Some(position) = file_position(&name) {
            self.snapshots.record_damage(at, position.index);
        }
    }

    /// Flips a bit of a file, or makes a sector of the file unreadable. Returns whether the file held any data.
    fn damage_file(&mut self, at: NodeId, disk: &SimDisk, name: &str) -> bool {
        let Some(bytes) = disk.read_file(name) else { return false };
        let data_end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if data_end == 0 {
            return false;
        }
        let offset = self.rng.random_range(0..data_end) as u64;
        match self.rng.random_range(0..3) {
            0 => disk.lose_sector(name, offset),
            _ => disk.flip_bit(name, offset, self.rng.random_range(0..8)),
        }
        self.trace_line(|| format!("{name} of {at} is damaged at {offset}"));
        true
    }

    /// Makes the next write within a machine's log land at another place in the log.
    pub(super) fn misdirect_write(&mut self, at: NodeId) {
        if self.may_be_damaged(at) {
            let draw = self.rng.random();
            self.hosts[&at].disk.misdirect_next_write(draw);
            self.host(at).has_damaged_file = true;
        }
    }

    /// Makes the next sync of a machine's log report success without writing anything to the disk. A power loss then
    /// loses this data, unless the data is written and synced again before.
    pub(super) fn inject_false_sync(&mut self, at: NodeId) {
        let some_disk_is_damaged = self.hosts.keys().any(|id| self.is_damaged(*id));
        let configurations_in_use = self.checks.configurations.in_use();
        let keeps_quorum = configurations_in_use.into_iter().all(|membership| self.has_quorum_without(at, membership));
        let some_disk_is_copied = self.hosts.values().any(|host| host.disk_copy.is_some());
        if some_disk_is_damaged
            || some_disk_is_copied
            || !keeps_quorum
            || !self.may_be_damaged(at)
            || self.hosts[&at].was_wiped
        {
            return;
        }
        self.checks.begin_false_sync(at);
        let loses_power_soon = self.rng.random_range(0..2) == 0;
        let (operations, bytes) = (self.rng.random_range(2..10), self.rng.random_range(0..4096));
        let host = self.host(at);
        host.may_sync_falsely = true;
        host.disk.lie_next_sync();
        if loses_power_soon {
            // The power fails before much else is written, so that the end of the log is missing.
            host.disk.stop_at(DiskStop { operation: host.disk.operation_count() + operations, written_bytes: bytes });
        }
    }

    /// Decides, when a machine stops, whether data may be missing from its disk. That is so only if a false sync has
    /// happened and the machine loses power.
    pub(super) fn resolve_false_sync(&mut self, at: NodeId, how: Crash) {
        let host = &mut self.hosts.get_mut(&at).expect("every node has a host");
        if !host.may_sync_falsely || self.checks.may_lack_writes(at) {
            return;
        }
        match (host.disk.has_lied(), how) {
            (false, _) => {
                host.may_sync_falsely = false;
                self.checks.end_false_sync(at);
            }
            (true, Crash::Power) => self.checks.record_power_loss(at),
            (true, Crash::Kill | Crash::Reboot) => {}
        }
    }

    /// Checks the journal of a machine that was damaged and has been repaired. The damage ends with the repair.
    pub(super) fn check_repair(&mut self, at: NodeId, image: DiskImage, has_no_members: bool) -> checks::Result<()> {
        if !self.is_damaged(at) {
            return Err(format!("{at} repairs a journal that was not damaged"));
        }
        self.checks.disk_ids.insert(at, self.hosts[&at].disk_id);
        self.checks.check_repaired_image(at, image)?;
        if has_no_members {
            // Nothing was readable: the node waits for a leader's log, like a node that joins.
            self.checks.configurations.remove_founder(at);
        }
        self.repairs += 1;
        let host = self.host(at);
        (host.has_damaged_file, host.may_sync_falsely, host.damaged_segment) = (false, false, None);
        Ok(())
    }

    /// Checks that a machine's journal recovered everything that its disk had reported as synced. Only after a false
    /// sync and a power loss may something be missing.
    pub(super) fn check_recovery(&mut self, at: NodeId, image: DiskImage) -> checks::Result<()> {
        self.checks.disk_ids.insert(at, self.hosts[&at].disk_id);
        let has_lost_writes = self.checks.check_recovered_image(at, image)?;
        if has_lost_writes {
            self.trace_line(|| format!("{at} lacks writes that its disk reported as synced"));
            self.lost_writes += 1;
        }
        let host = self.host(at);
        host.may_sync_falsely &= host.disk.has_lied();
        Ok(())
    }
}
