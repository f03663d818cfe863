//! The snapshot jobs of the simulated machines. Each job takes some simulated time, and then its result is reported to
//! the node.

use super::checks;
use super::event::SimEvent;
use super::host::{Process, to_durable_snapshot};
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
        configuration_index: Index,
        membership: Membership,
    ) -> checks::Result<()> {
        let Some(process) = &mut self.host(at).process else { return Ok(()) };
        let header = process.begin_snapshot(at, configuration_index, membership)?;
        self.trace_line(|| format!("{at} takes a snapshot of {}", header.position));
        self.run_snapshot_job(at, Job::BeginSnapshot(header))
    }

    /// Writes the next chunk of a snapshot that is being taken, or verifies the written file.
    pub(super) fn continue_snapshot(&mut self, at: NodeId) -> checks::Result<()> {
        match self.host(at).process.as_mut().and_then(Process::next_snapshot_job) {
            Some(job) => self.run_snapshot_job(at, job),
            None => Ok(()),
        }
    }

    /// Writes a chunk of another node's snapshot that this node has received.
    pub(super) fn store_chunk(&mut self, at: NodeId, from: NodeId, chunk: SnapshotChunk) -> checks::Result<()> {
        self.progress.mark_unhealthy_until(at, self.now);
        let SnapshotChunk { snapshot, total_bytes: total, offset, bytes } = chunk;
        self.run_snapshot_job(at, Job::ReceivePiece { from, snapshot, total, offset, bytes })
    }

    /// Runs a job of a machine's snapshot worker, and schedules the event that follows from the job's result.
    pub(super) fn run_snapshot_job(&mut self, at: NodeId, job: Job) -> checks::Result<()> {
        let Some(process) = &mut self.host(at).process else { return Ok(()) };
        let result = match process.run_snapshot_job(job) {
            Ok(result) => result,
            Err(fault) => {
                self.stop_process(at, &fault);
                return Ok(());
            }
        };
        self.snapshots.record_result(at, &result);
        match result {
            JobResult::NoRoom => {}
            JobResult::PieceWritten | JobResult::SnapshotWritten => {
                let incarnation = self.hosts[&at].incarnation;
                let delay = Duration::from_micros(self.rng.random_range(10..20_000));
                self.schedule_after(delay, SimEvent::SnapshotStep { at, incarnation });
            }
            JobResult::SnapshotEnded(snapshot) => {
                self.trace_line(|| {
                    let outcome = if snapshot.is_some() { "published" } else { "not published" };
                    format!("{at} has written a snapshot, which is {outcome}")
                });
                self.schedule_node_event(
                    at,
                    Event::SnapshotTaken(snapshot.map(|snapshot| to_durable_snapshot(&snapshot))),
                );
            }
            JobResult::SnapshotDamaged => {
                self.trace_line(|| format!("{at} has written a snapshot, and finds it damaged"));
                self.schedule_node_event(at, Event::SnapshotDamaged);
            }
            JobResult::PieceReceived { from, snapshot, next, damaged } => {
                self.schedule_node_event(at, Event::ChunkStored { from, snapshot, next, damaged });
            }
            JobResult::SnapshotInspected { snapshot, undamaged } => {
                self.trace_line(|| {
                    let state = if undamaged { "intact" } else { "damaged" };
                    format!("{at} verifies its snapshot of {snapshot}, which is {state}")
                });
                self.schedule_node_event(at, Event::SnapshotInspected { snapshot, undamaged });
            }
            JobResult::TransferComplete(snapshot) => {
                let incarnation = self.hosts[&at].incarnation;
                let delay = Duration::from_micros(self.rng.random_range(10..50_000));
                self.schedule_after(delay, SimEvent::SnapshotRestore { at, incarnation, snapshot: Box::new(snapshot) });
            }
        }
        Ok(())
    }

    /// Restores a received snapshot: replaces the state machine and notifies the node at once.
    pub(super) fn restore_snapshot(&mut self, at: NodeId, snapshot: Snapshot) -> checks::Result<()> {
        self.handle_all_applier_inputs(at)?;
        let Some(process) = &mut self.host(at).process else { return Ok(()) };
        let Some(restored_state) = process.restore(at, snapshot)? else { return Ok(()) };
        if std::mem::take(&mut process.taking_snapshot) {
            // The snapshot in progress needs the frozen state of the replaced state machine, which no longer exists.
            self.run_snapshot_job(at, Job::AbortSnapshot)?;
        }
        self.snapshots.record_restore(self.faults_over);
        let RestoredState { snapshot, base, time, report } = restored_state;
        let position = snapshot.position;
        self.trace_line(|| format!("{at} restores from a snapshot of {position}"));
        self.checks.check_restored_state(at, position, report.digest)?;
        self.deliver_event(at, Event::Restored { snapshot, base, time, report })
    }

    /// Checks that the log may be discarded up to `upto`, and lets the log thread discard it at its next write.
    pub(super) fn compact_log(&mut self, at: NodeId, upto: Position, reuses_files: bool) -> checks::Result<()> {
        let intact_index = self.hosts[&at].durable_snapshot_index()?;
        // A snapshot that was damaged after the node had verified it still permits compaction.
        let snapshot_index = intact_index.max(self.snapshots.damaged_index(at));
        self.checks.check_compaction(at, upto.index, snapshot_index)?;
        if let Some(process) = &mut self.host(at).process {
            // The files of an earlier release that still waits are released together with these.
            let reuses_files = reuses_files && process.pending_release.is_none_or(|(_, reuses_files)| reuses_files);
            process.pending_release = Some((upto, reuses_files));
        }
        Ok(())
    }
}
