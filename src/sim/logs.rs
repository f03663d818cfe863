//! The log thread of each simulated machine: it collects writes while a sync is in progress.

use super::checks;
use super::disk::SimDisk;
use super::event::SimEvent;
use super::host::Process;
use super::world::World;
use crate::node::Event;
use crate::types::digest::hash_numbers;
use crate::types::{Mutants, NodeId, Time, Write};
use crate::wal::{self, Fault, Journal, Task};
use rand::RngExt;
use std::time::Duration;

/// How long the log thread waits for more writes before it confirms the synced ones.
const IDLE: Duration = Duration::from_millis(10);

/// The interval between two checks of a disk's free space.
const LOOKS: Duration = Duration::from_millis(200);

/// How long a sync of a slow disk takes, in microseconds.
const SLOW_MICROS: std::ops::RangeInclusive<u64> = 20_000..=200_000;

/// After how many syncs, over all machines, a disk is compared with its journal's reports.
const CHECK_INTERVAL: u64 = 64;

/// Appends the queued writes to the journal, as far as there is space. Returns their number.
fn append(up: &mut Process) -> wal::Result<usize> {
    if let Some(upto) = up.release
        && provides(&mut up.journal, &Task::Release(upto))?
    {
        up.release = None;
        up.journal.release(upto)?;
    }
    for (nth, write) in up.queued.iter().enumerate() {
        if !provides(&mut up.journal, &Task::Write(write.clone()))? {
            up.queued.drain(..nth);
            return Ok(nth);
        }
        up.journal.append(write)?;
    }
    Ok(std::mem::take(&mut up.queued).len())
}

/// Whether there is space for this task.
fn provides(journal: &mut Journal<SimDisk>, task: &Task) -> wal::Result<bool> {
    match journal.provide(task) {
        Err(Fault::Full { .. }) => Ok(false),
        provided => provided.map(|()| true),
    }
}

/// Folds a write into the hash of the run.
fn fold(hash: u64, write: &Write) -> u64 {
    let hard = write.hard_state.unwrap_or_default();
    let vote = hard.vote.map_or(0, |vote| vote.node.get());
    let entries = write.entries.iter().fold(write.id.0, |all, entry| hash_numbers([all, entry.checksum.into()]));
    hash_numbers([hash, hard.term.0, vote, entries])
}

impl World {
    pub(super) fn writes(&mut self, at: NodeId, write: Write) -> checks::Result<()> {
        let Some(up) = &mut self.hosts.get_mut(&at).expect("every node has a host").up else { return Ok(()) };
        let raft = up.node.raft();
        let leads = raft.leads().then(|| raft.term());
        self.checks.writes(at, &write, leads)?;
        let fold = fold(self.hash, &write);
        up.queued.push(write);
        self.hash = fold;
        Ok(())
    }

    /// The log thread appends the queued writes and starts a sync, unless one is in progress.
    pub(super) fn write_on(&mut self, at: NodeId) -> checks::Result<()> {
        let (least, most) = self.scenario.sync;
        let took = Duration::from_nanos(self.rng.random_range(least.as_nanos() as u64..=most.as_nanos() as u64));
        let is_slow = !self.calm && self.scenario.is_slow(at, self.now - Time::ZERO);
        let took = if is_slow { took + Duration::from_micros(self.rng.random_range(SLOW_MICROS)) } else { took };
        let host = self.host(at);
        let life = host.incarnation;
        let Some(up) = &mut host.up else { return Ok(()) };
        if up.syncing {
            return Ok(());
        }
        match append(up) {
            Ok(0) => {}
            Ok(_) => {
                up.syncing = true;
                let stall = std::mem::take(&mut host.stall);
                if !stall.is_zero() {
                    self.progress.unfit_until(at, self.now + took + stall);
                }
                let took = took + stall;
                self.later(took, SimEvent::Synced { at, life });
            }
            Err(fault) => self.stops(at, &fault),
        }
        Ok(())
    }

    pub(super) fn synced(&mut self, at: NodeId) -> checks::Result<()> {
        let life = self.hosts[&at].incarnation;
        let Some(up) = &mut self.host(at).up else { return Ok(()) };
        up.syncing = false;
        match up.journal.sync() {
            Ok(report) => {
                self.checks.synced(at, report.durable);
                self.look_at_disk(at)?;
                self.handle(at, Event::Journal(report))?;
            }
            Err(fault) => {
                self.stops(at, &fault);
                return Ok(());
            }
        }
        self.want_spare(at);
        if self.hosts[&at].up.as_ref().is_some_and(|up| !up.syncing) {
            self.later(IDLE, SimEvent::Idle { at, life });
        }
        Ok(())
    }

    /// At intervals, checks that the disk really holds what the journal reported.
    fn look_at_disk(&mut self, at: NodeId) -> checks::Result<()> {
        self.syncs += 1;
        let host = &self.hosts[&at];
        let is_judged = !host.damaged && !host.may_lie;
        if !self.syncs.is_multiple_of(CHECK_INTERVAL) || !is_judged || self.scenario.mutants != Mutants::NONE {
            return Ok(());
        }
        let found = host.durable(&self.scenario);
        let found = found.map_err(|fault| format!("the disk of {at} holds less than was synced: {fault}"))?;
        self.checks.holds(at, found)
    }

    pub(super) fn idle(&mut self, at: NodeId) -> checks::Result<()> {
        let Some(up) = &mut self.host(at).up else { return Ok(()) };
        if up.syncing {
            return Ok(());
        }
        if let Err(fault) = up.journal.confirm() {
            self.stops(at, &fault);
        }
        Ok(())
    }

    /// Checks the free space, and schedules the next check.
    pub(super) fn looks(&mut self, at: NodeId) -> checks::Result<()> {
        let host = self.host(at);
        let life = host.incarnation;
        let Some(up) = &mut host.up else { return Ok(()) };
        let news = match up.watch.check_space() {
            Ok(news) => news,
            // The power failed in the middle of it. With a log that rejects writes, nothing else would notice.
            Err(fault) if self.hosts[&at].has_stopped() => {
                self.stops(at, &fault);
                return Ok(());
            }
            // A fault of the disk that the journal will meet too.
            Err(_) => None,
        };
        self.later(LOOKS, SimEvent::Looks { at, life });
        match news {
            Some(low) => {
                self.trace_line(|| {
                    format!("the disk of {at} has {} free space", if low { "too little" } else { "enough" })
                });
                self.handle(at, Event::Space { low })
            }
            // Writes that wait for space, if there are any, are retried.
            None => self.write_on(at),
        }?;
        self.look_for_room(at)
    }

    /// An idle log checks how much space there is.
    fn look_for_room(&mut self, at: NodeId) -> checks::Result<()> {
        match self.host(at).up.as_mut().filter(|up| !up.syncing).map(|up| up.journal.check_space()) {
            Some(Ok(Some(report))) => self.handle(at, Event::Journal(report)),
            Some(Err(fault)) => {
                self.stops(at, &fault);
                Ok(())
            }
            Some(Ok(None)) | None => Ok(()),
        }
    }

    fn want_spare(&mut self, at: NodeId) {
        let life = self.hosts[&at].incarnation;
        let Some(up) = &mut self.host(at).up else { return };
        if !up.sparing && up.journal.spare_wanted().is_some() {
            up.sparing = true;
            let delay = Duration::from_millis(self.rng.random_range(1..20));
            self.later(delay, SimEvent::Spared { at, life });
        }
    }

    pub(super) fn spared(&mut self, at: NodeId) -> checks::Result<()> {
        let host = self.host(at);
        let disk = host.disk.clone();
        let Some(Process { journal, sparing, .. }) = &mut host.up else { return Ok(()) };
        *sparing = false;
        let Some(order) = journal.spare_wanted() else { return Ok(()) };
        match order.prepare(&disk, || {}) {
            Ok(spare) => journal.spare_ready(spare),
            Err(Fault::Full { .. }) => {}
            Err(fault) => self.stops(at, &fault),
        }
        Ok(())
    }
}
