//! The simulated log thread of each machine. While a sync is in progress, the thread queues writes for the next sync.

use super::checks;
use super::disk::SimDisk;
use super::event::SimEvent;
use super::host::Process;
use super::upgrades::highest_level;
use super::world::World;
use crate::node::Event;
use crate::types::digest::hash_numbers;
use crate::types::{Mutants, NodeId, Time, Write};
use crate::wal::{self, Fault, Journal, Task};
use rand::RngExt;
use std::time::Duration;

/// How long the log thread is idle after a sync before the thread records in the log that the last writes are synced.
const IDLE_SYNC_RECORD_DELAY: Duration = Duration::from_millis(10);

/// The interval between two checks of a disk's free space.
const SPACE_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// How much longer a sync of a slow disk takes, in microseconds.
const SLOW_SYNC_EXTRA_MICROS: std::ops::RangeInclusive<u64> = 20_000..=200_000;

/// How many syncs, counted over all machines, there are between two comparisons of a disk with its journal's reports.
const SYNCS_PER_DISK_CHECK: u64 = 64;

/// Discards the log as `pending_release` says, if it is set, and appends the queued writes to the journal, both as
/// far as there is disk space. Returns the number of appended writes.
fn append_queued_writes(process: &mut Process) -> wal::Result<usize> {
    if let Some((upto, reuses_files)) = process.pending_release
        && make_space_for(&mut process.journal, &Task::Release { upto, reuses_files })?
    {
        process.pending_release = None;
        process.journal.release_and_reuse(upto, reuses_files)?;
    }
    for (nth, write) in process.queued_writes.iter().enumerate() {
        if !make_space_for(&mut process.journal, &Task::Write(write.clone()))? {
            process.queued_writes.drain(..nth);
            return Ok(nth);
        }
        process.journal.append(write)?;
    }
    Ok(std::mem::take(&mut process.queued_writes).len())
}

/// Lets the journal reserve disk space for a task. Returns whether there was enough space.
fn make_space_for(journal: &mut Journal<SimDisk>, task: &Task) -> wal::Result<bool> {
    match journal.reserve_room(task) {
        Err(Fault::Full { .. }) => Ok(false),
        reserved => reserved.map(|()| true),
    }
}

/// Adds a write to the hash of the run: its term, vote, and the checksums of its entries.
fn hash_write(hash: u64, write: &Write) -> u64 {
    let hard_state = write.hard_state.unwrap_or_default();
    let vote = hard_state.vote.map_or(0, |vote| vote.node.get());
    let entries_hash = write.entries.iter().fold(write.id.0, |all, entry| hash_numbers([all, entry.checksum.into()]));
    hash_numbers([hash, hard_state.term.0, vote, entries_hash])
}

impl World {
    /// Checks a node's write and queues the write for the log thread.
    pub(super) fn queue_write(&mut self, at: NodeId, write: Write) -> checks::Result<()> {
        let Some(process) = &mut self.hosts.get_mut(&at).expect("every node has a host").process else { return Ok(()) };
        let raft = process.node.raft();
        let leading_term = raft.leads().then(|| raft.term());
        self.checks.record_write(at, &write, leading_term)?;
        self.count_raised_level(at, &write);
        let Some(process) = &mut self.hosts.get_mut(&at).expect("every node has a host").process else { return Ok(()) };
        let hash = hash_write(self.hash, &write);
        process.queued_writes.push(write);
        self.hash = hash;
        Ok(())
    }

    /// The log thread appends the queued writes and starts a sync, unless one is in progress.
    pub(super) fn start_sync(&mut self, at: NodeId) -> checks::Result<()> {
        let (shortest, longest) = self.scenario.sync_range;
        let sync_time =
            Duration::from_nanos(self.rng.random_range(shortest.as_nanos() as u64..=longest.as_nanos() as u64));
        let is_slow = !self.faults_over && self.scenario.has_slow_disk(at, self.now - Time::ZERO);
        let sync_time = if is_slow {
            sync_time + Duration::from_micros(self.rng.random_range(SLOW_SYNC_EXTRA_MICROS))
        } else {
            sync_time
        };
        let host = self.host(at);
        let incarnation = host.incarnation;
        let Some(process) = &mut host.process else { return Ok(()) };
        if process.syncing {
            return Ok(());
        }
        let highest_level = highest_level(&process.queued_writes);
        match append_queued_writes(process) {
            Ok(0) => {}
            Ok(_) => {
                process.syncing = true;
                let stall = std::mem::take(&mut host.sync_stall);
                if !stall.is_zero() {
                    self.progress.mark_unhealthy_until(at, self.now + sync_time + stall);
                }
                let sync_time = sync_time + stall;
                self.schedule_after(sync_time, SimEvent::SyncDone { at, incarnation });
                self.check_written_level(at, highest_level)?;
            }
            Err(fault) => self.stop_process(at, &fault),
        }
        Ok(())
    }

    /// Completes a sync and reports the durable writes to the node.
    pub(super) fn finish_sync(&mut self, at: NodeId) -> checks::Result<()> {
        let incarnation = self.hosts[&at].incarnation;
        let Some(process) = &mut self.host(at).process else { return Ok(()) };
        process.syncing = false;
        match process.journal.sync() {
            Ok(report) => {
                self.checks.record_sync(at, report.last_durable);
                self.check_durable_log(at)?;
                self.deliver_event(at, Event::Journal(report))?;
            }
            Err(fault) => {
                self.stop_process(at, &fault);
                return Ok(());
            }
        }
        self.schedule_spare_segment(at);
        if self.hosts[&at].process.as_ref().is_some_and(|process| !process.syncing) {
            self.schedule_after(IDLE_SYNC_RECORD_DELAY, SimEvent::LogIdle { at, incarnation });
        }
        Ok(())
    }

    /// After every [`SYNCS_PER_DISK_CHECK`] syncs, checks that the disk really holds what the journal reported as
    /// synced.
    fn check_durable_log(&mut self, at: NodeId) -> checks::Result<()> {
        self.syncs += 1;
        let host = &self.hosts[&at];
        let is_checked = !host.has_damaged_file && !host.may_sync_falsely;
        if !self.syncs.is_multiple_of(SYNCS_PER_DISK_CHECK) || !is_checked || self.scenario.mutants != Mutants::NONE {
            return Ok(());
        }
        let durable_image = host.durable_image(&self.scenario);
        let durable_image =
            durable_image.map_err(|fault| format!("the disk of {at} lacks data that was synced: {fault}"))?;
        self.checks.check_durable_image(at, durable_image)
    }

    /// Records in the log that the last writes are synced, unless a sync is in progress.
    pub(super) fn record_idle_sync(&mut self, at: NodeId) -> checks::Result<()> {
        let Some(process) = &mut self.host(at).process else { return Ok(()) };
        if process.syncing {
            return Ok(());
        }
        if let Err(fault) = process.journal.confirm_sync() {
            self.stop_process(at, &fault);
        }
        Ok(())
    }

    /// Checks the free space of a machine's disk, reports a change to the node, and schedules the next check.
    pub(super) fn check_free_space(&mut self, at: NodeId) -> checks::Result<()> {
        let host = self.host(at);
        let incarnation = host.incarnation;
        let Some(process) = &mut host.process else { return Ok(()) };
        let space_change = match process.space_monitor.check_space() {
            Ok(space_change) => space_change,
            // The power failed during this check. While the log lacks space for writes, no other operation would notice
            // the power failure.
            Err(fault) if self.hosts[&at].disk_has_stopped() => {
                self.stop_process(at, &fault);
                return Ok(());
            }
            // The journal's next operation will report the disk fault that this check has found.
            Err(_) => None,
        };
        self.schedule_after(SPACE_CHECK_INTERVAL, SimEvent::SpaceCheck { at, incarnation });
        match space_change {
            Some(low) => {
                self.trace_line(|| {
                    format!("the disk of {at} has {} free space", if low { "too little" } else { "enough" })
                });
                self.deliver_event(at, Event::DiskSpace { low })
            }
            // The disk may have space now for the writes that wait for it.
            None => self.start_sync(at),
        }?;
        self.check_log_space(at)
    }

    /// Lets the journal check whether the disk has space again, unless a sync is in progress.
    fn check_log_space(&mut self, at: NodeId) -> checks::Result<()> {
        match self
            .host(at)
            .process
            .as_mut()
            .filter(|process| !process.syncing)
            .map(|process| process.journal.check_space())
        {
            Some(Ok(Some(report))) => self.deliver_event(at, Event::Journal(report)),
            Some(Err(fault)) => {
                self.stop_process(at, &fault);
                Ok(())
            }
            Some(Ok(None)) | None => Ok(()),
        }
    }

    /// Schedules the preparation of a spare segment, if the journal needs one.
    fn schedule_spare_segment(&mut self, at: NodeId) {
        let incarnation = self.hosts[&at].incarnation;
        let Some(process) = &mut self.host(at).process else { return };
        if !process.preparing_spare_segment && process.journal.next_spare_order().is_some() {
            process.preparing_spare_segment = true;
            let delay = Duration::from_millis(self.rng.random_range(1..20));
            self.schedule_after(delay, SimEvent::SpareSegmentReady { at, incarnation });
        }
    }

    /// Prepares a spare segment and adds the segment to the journal. On a full disk, no segment is prepared.
    pub(super) fn add_spare_segment(&mut self, at: NodeId) -> checks::Result<()> {
        let host = self.host(at);
        let disk = host.disk.clone();
        let Some(Process { journal, preparing_spare_segment, .. }) = &mut host.process else { return Ok(()) };
        *preparing_spare_segment = false;
        let Some(spare_order) = journal.next_spare_order() else { return Ok(()) };
        match spare_order.prepare(&disk, || {}) {
            Ok(spare) => journal.add_spare(spare),
            Err(Fault::Full { .. }) => {}
            Err(fault) => self.stop_process(at, &fault),
        }
        Ok(())
    }
}
