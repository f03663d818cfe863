//! The snapshot jobs of the machines in the world: each takes a while, and its result is reported to the node.

use super::checks;
use super::event::SimEvent;
use super::host::{Process, durable_snapshot};
use super::snapshots::RestoredState;
use super::world::World;
use crate::consensus::message::SnapshotChunk;
use crate::node::Event;
use crate::snapshot::Snapshot;
use crate::snapshotting::{Job, JobResult};
use crate::types::{Index, Membership, NodeId, Position};
use rand::RngExt;
use std::time::Duration;

impl World {
    /// Freezes the state machine and begins a snapshot of it.
    pub(super) fn begin_snapshot(
        &mut self,
        at: NodeId,
        configured: Index,
        membership: Membership,
    ) -> checks::Result<()> {
        let Some(up) = &mut self.host(at).up else { return Ok(()) };
        let header = up.begin_snapshot(at, configured, membership)?;
        self.trace_line(|| format!("{at} takes a snapshot of {}", header.position));
        self.run_snapshot_job(at, Job::Begin(header))
    }

    /// Writes the next chunk of a snapshot that is being taken, or verifies the written file.
    pub(super) fn continue_snapshot(&mut self, at: NodeId) -> checks::Result<()> {
        match self.host(at).up.as_mut().and_then(Process::next_snapshot_job) {
            Some(job) => self.run_snapshot_job(at, job),
            None => Ok(()),
        }
    }

    /// Writes a received chunk of another node's snapshot.
    pub(super) fn store_chunk(&mut self, at: NodeId, from: NodeId, chunk: SnapshotChunk) -> checks::Result<()> {
        self.progress.unfit_until(at, self.now);
        let SnapshotChunk { snapshot, total, offset, bytes } = chunk;
        self.run_snapshot_job(at, Job::Receive { from, snapshot, total, offset, bytes })
    }

    /// Runs a job of a machine's snapshot worker, and schedules its consequence.
    pub(super) fn run_snapshot_job(&mut self, at: NodeId, job: Job) -> checks::Result<()> {
        let Some(up) = &mut self.host(at).up else { return Ok(()) };
        let result = match up.run_snapshot_job(job) {
            Ok(result) => result,
            Err(fault) => {
                self.stops(at, &fault);
                return Ok(());
            }
        };
        self.snapshots.record_result(at, &result);
        match result {
            JobResult::NoRoom => {}
            JobResult::Ready | JobResult::Written => {
                let life = self.hosts[&at].incarnation;
                let delay = Duration::from_micros(self.rng.random_range(10..20_000));
                self.later(delay, SimEvent::Piece { at, life });
            }
            JobResult::Published(snapshot) => {
                self.trace_line(|| format!("{at} has finished a snapshot: {}", snapshot.is_some()));
                self.follows(at, Event::SnapshotTaken(snapshot.map(|snapshot| durable_snapshot(&snapshot))));
            }
            JobResult::Damaged => {
                self.trace_line(|| format!("{at} has finished a snapshot that is damaged"));
                self.follows(at, Event::TakenDamaged);
            }
            JobResult::Received { from, snapshot, next, damaged } => {
                self.follows(at, Event::ChunkStored { from, snapshot, next, damaged });
            }
            JobResult::Inspected { snapshot, whole } => {
                self.trace_line(|| format!("{at} verifies its snapshot of {snapshot}: intact {whole}"));
                self.follows(at, Event::Inspected { snapshot, whole });
            }
            JobResult::Complete(snapshot) => {
                let life = self.hosts[&at].incarnation;
                let delay = Duration::from_micros(self.rng.random_range(10..50_000));
                self.later(delay, SimEvent::RestoreStep { at, life, snapshot: Box::new(snapshot) });
            }
        }
        Ok(())
    }

    /// Restores a received snapshot: replaces the state machine and notifies the node at once.
    pub(super) fn restore_snapshot(&mut self, at: NodeId, snapshot: Snapshot) -> checks::Result<()> {
        self.process_all_inputs(at)?;
        let Some(up) = &mut self.host(at).up else { return Ok(()) };
        let Some(restored) = up.restore(at, snapshot)? else { return Ok(()) };
        if std::mem::take(&mut up.taking) {
            // The frozen state is gone with the old state machine.
            self.run_snapshot_job(at, Job::Abort)?;
        }
        self.snapshots.record_restore(self.calm);
        let RestoredState { snapshot, base, time, report } = restored;
        let position = snapshot.position;
        self.trace_line(|| format!("{at} restores from a snapshot of {position}"));
        self.checks.check_restored_state(at, position, report.digest)?;
        self.handle(at, Event::Restored { kept: snapshot, base, time, report })
    }

    /// The log may be discarded up to `upto`, once the journal has a moment.
    pub(super) fn compact_log(&mut self, at: NodeId, upto: Position) -> checks::Result<()> {
        let intact = self.hosts[&at].durable_snapshot_index()?;
        // A snapshot that was found whole and damaged later counts as held.
        let held = intact.max(self.snapshots.damaged_index(at));
        self.checks.releases(at, upto.index, held)?;
        if let Some(up) = &mut self.host(at).up {
            up.release = Some(upto);
        }
        Ok(())
    }
}
