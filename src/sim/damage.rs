//! Disks that lose data, rot and lie: they do not hold the data that was written to them.
//!
//! A majority never loses data this way: nothing could prevent the loss of data that only this majority held.

use super::checks;
use super::disk::{Crash, SimDisk, Stop};
use super::event::SimEvent;
use super::node_history::Image;
use super::world::World;
use crate::disk::Disk;
use crate::snapshot::format::file_position;
use crate::types::{Membership, NodeId, PendingRole};
use crate::wal::{identity, sync_marker};
use rand::RngExt;

impl World {
    /// Whether a machine's disk may hold other data than was written to it.
    pub(super) fn is_damaged(&self, at: NodeId) -> bool {
        let host = &self.hosts[&at];
        host.damaged || host.may_lie || self.snapshots.damaged_index(at).is_some()
    }

    /// Whether a running machine may be damaged: of the others, a majority must hold all they ever held. If the
    /// operator changes members, that is a majority by every configuration in use. A change that names a voter whose
    /// disk was lost before is aborted, but nothing repairs a change whose voters are lost in the middle of it.
    pub(super) fn may_be_damaged(&self, at: NodeId) -> bool {
        let damaged = self.hosts.keys().filter(|id| self.is_damaged(**id)).count();
        let ghosts = self.hosts.keys().any(|id| self.checks.has_ghost(*id));
        // A machine that is down may just have lost power: further damage to its last batch looks like that of the
        // power loss (wal-format.md).
        let is_up = self.hosts[&at].up.is_some();
        let in_use = self.checks.configurations.in_use();
        let holds = || in_use.iter().all(|membership| self.holds_without(at, membership));
        let is_governed = self.scenario.governance.every.is_some();
        // A successor replaces a voter some time later, and so may the request in progress.
        let succeeds = |membership: &&Membership| {
            membership.members.values().any(|member| matches!(member.pending_role, PendingRole::Replace(_)))
        };
        let changes = self.operator.is_waiting() || in_use.iter().any(succeeds);
        damaged < (self.hosts.len() - 1) / 2
            && !self.is_damaged(at)
            && is_up
            && !ghosts
            && !self.hosts.values().any(|host| host.may_lie)
            && (!is_governed || (!changes && holds()))
    }

    /// Copies a machine's disk as a power loss would leave it, or restores such a copy. The replaced disk is gone, or
    /// is swapped back in later: two directories of one node, like a machine restored from a backup and the one it was
    /// to replace. One machine at a time: data that a majority loses is gone.
    pub(super) fn older(&mut self, at: NodeId) {
        let others = self.hosts.values().any(|host| host.may_lie || (host.copy.is_some() && host.id != at));
        if self.is_damaged(at) || self.hosts[&at].wiped || self.hosts.len() < 3 {
            return;
        }
        let Some((disk, snapshot_disk, life)) = self.host(at).copy.take() else {
            if !others && self.hosts[&at].up.is_some() {
                let host = &self.hosts[&at];
                let copy = (host.disk.durable(), host.snapshot_disk.durable(), self.checks.copy(at));
                self.trace_line(|| format!("the disk of {at} is copied"));
                (self.host(at).copy, self.host(at).copy_is_replaced_disk) = (Some(copy), false);
            }
            return;
        };
        let in_use = self.checks.configurations.in_use();
        if !in_use.into_iter().all(|membership| self.holds_without(at, membership)) {
            return;
        }
        self.crash(at, Crash::Kill);
        self.twins += u64::from(self.hosts[&at].copy_is_replaced_disk);
        let takes_turns = self.rng.random_range(0..2) == 0;
        let twin = takes_turns
            .then(|| (self.hosts[&at].disk.durable(), self.hosts[&at].snapshot_disk.durable(), self.checks.copy(at)));
        self.trace_line(|| {
            format!("{at} restarts on an older copy of its disk; its present disk is kept: {takes_turns}")
        });
        self.checks.restore_copy(at, &life);
        let host = self.host(at);
        (host.disk, host.snapshot_disk, host.copy, host.copy_is_replaced_disk) =
            (disk, snapshot_disk, twin, takes_turns);
        let delay = self.a_while(500);
        self.later(delay, SimEvent::Starts { at });
    }

    /// Flips a bit of some segment, or makes a sector of it unreadable, and restarts the process on it.
    pub(super) fn rot(&mut self, at: NodeId) {
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
        if self.damage(at, &disk, &name) {
            self.host(at).damaged = true;
            self.down(at, Crash::Kill, 500);
        }
    }

    /// Damages some file of a machine whose process keeps running: the damage is found when the file is read, at the
    /// latest at the next start. Term and vote, and the directory's identity, are in files of their own.
    pub(super) fn rot_running(&mut self, at: NodeId) {
        if !self.may_be_damaged(at) {
            return;
        }
        let host = &self.hosts[&at];
        let (disk, snapshot_disk, root) = (host.disk.clone(), host.snapshot_disk.clone(), host.root.clone());
        let in_log = |name: &String| name.ends_with(".wal") || name == sync_marker::NAME;
        let mut files: Vec<(SimDisk, String)> = vec![(root, identity::NAME.to_owned())];
        files.extend(disk.list().unwrap_or_default().into_iter().filter(in_log).map(|name| (disk.clone(), name)));
        let snapshots =
            snapshot_disk.list().unwrap_or_default().into_iter().filter(|name| file_position(name).is_some());
        files.extend(snapshots.map(|name| (snapshot_disk.clone(), name)));
        let (disk, name) = files.swap_remove(self.rng.random_range(0..files.len()));
        if self.damage(at, &disk, &name) {
            self.host(at).damaged = true;
            if let Some(position) = file_position(&name) {
                self.snapshots.record_damage(at, position.index);
            }
        }
    }

    /// Damages a snapshot: one that is being written or received, or a published one. A machine whose only snapshot is
    /// damaged may never start again, so the number of such machines is limited as that of damaged logs is.
    pub(super) fn rot_snapshot(&mut self, at: NodeId) {
        let may_lose = self.may_be_damaged(at);
        let host = &self.hosts[&at];
        if host.up.is_none() {
            return;
        }
        let is_open = |name: &String| name.ends_with(".tmp") || name.ends_with(".part");
        let may_rot = |name: &String| is_open(name) || (may_lose && file_position(name).is_some());
        let snapshot_disk = host.snapshot_disk.clone();
        let mut files: Vec<String> = snapshot_disk.list().unwrap_or_default().into_iter().filter(may_rot).collect();
        files.sort();
        if files.is_empty() {
            return;
        }
        let name = files[self.rng.random_range(0..files.len())].clone();
        let Some(size) = snapshot_disk.seen(&name).map(|bytes| bytes.len()).filter(|size| *size > 0) else { return };
        let offset = self.rng.random_range(0..size) as u64;
        match is_open(&name) && self.rng.random_range(0..3) == 0 {
            true => snapshot_disk.lose_sector(&name, offset),
            false => snapshot_disk.flip(&name, offset, self.rng.random_range(0..8)),
        }
        self.trace_line(|| format!("{name} of {at} is damaged at {offset}"));
        if let Some(position) = file_position(&name) {
            self.snapshots.record_damage(at, position.index);
        }
    }

    /// Flips a bit of a file, or makes a sector of it unreadable. Returns whether the file held any data.
    fn damage(&mut self, at: NodeId, disk: &SimDisk, name: &str) -> bool {
        let Some(bytes) = disk.seen(name) else { return false };
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if used == 0 {
            return false;
        }
        let offset = self.rng.random_range(0..used) as u64;
        match self.rng.random_range(0..3) {
            0 => disk.lose_sector(name, offset),
            _ => disk.flip(name, offset, self.rng.random_range(0..8)),
        }
        self.trace_line(|| format!("{name} of {at} is damaged at {offset}"));
        true
    }

    /// The next write to a machine's log lands at another place in the log.
    pub(super) fn misdirect(&mut self, at: NodeId) {
        if self.may_be_damaged(at) {
            let draw = self.rng.random();
            self.hosts[&at].disk.misdirect_next_write(draw);
            self.host(at).damaged = true;
        }
    }

    /// The next sync of a machine's log is reported as done and is not: a power loss takes the data that it should have
    /// written, unless that is written again by then.
    pub(super) fn lie(&mut self, at: NodeId) {
        let damaged = self.hosts.keys().any(|id| self.is_damaged(*id));
        let in_use = self.checks.configurations.in_use();
        let holds = in_use.into_iter().all(|membership| self.holds_without(at, membership));
        let copied = self.hosts.values().any(|host| host.copy.is_some());
        if damaged || copied || !holds || !self.may_be_damaged(at) || self.hosts[&at].wiped {
            return;
        }
        self.checks.lies(at);
        let soon = self.rng.random_range(0..2) == 0;
        let (operations, bytes) = (self.rng.random_range(2..10), self.rng.random_range(0..4096));
        let host = self.host(at);
        host.may_lie = true;
        host.disk.lie_next_sync();
        if soon {
            // The power fails before much else is written: the end of the log is missing.
            host.disk.stop_at(Stop { at: host.disk.operations() + operations, bytes });
        }
    }

    /// A machine stops: whether its disk has lied by then decides what may be missing from it.
    pub(super) fn lies_no_more(&mut self, at: NodeId, how: Crash) {
        let host = &mut self.hosts.get_mut(&at).expect("every node has a host");
        if !host.may_lie || self.checks.may_have_lost(at) {
            return;
        }
        match (host.disk.has_lied(), how) {
            (false, _) => {
                host.may_lie = false;
                self.checks.is_honest(at);
            }
            (true, Crash::Power) => self.checks.loses_power(at),
            (true, Crash::Kill) => {}
        }
    }

    /// Checks that a machine's journal recovered everything that its disk had reported as synced, unless that disk has
    /// lied.
    pub(super) fn recovers(&mut self, at: NodeId, image: Image) -> checks::Result<()> {
        self.checks.disks.insert(at, self.hosts[&at].disk_id);
        let lost = self.checks.recovers(at, image)?;
        if lost {
            self.trace_line(|| format!("{at} lacks writes that its disk reported as synced"));
            self.lost_writes += 1;
        }
        let host = self.host(at);
        host.may_lie &= host.disk.has_lied();
        Ok(())
    }
}
