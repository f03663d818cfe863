//! Random fault injection: at random intervals one fault of a random kind, mostly at one random machine.

use super::checks;
use super::disk::{Crash, DiskStop};
use super::event::SimEvent;
use super::scenario::FaultWeights;
use super::world::World;
use crate::disk::Disk;
use crate::node::{Caller, Event};
use crate::types::NodeId;
use rand::RngExt;
use std::time::Duration;

/// The average time between two faults in a scenario with `long_faults`, where faults are few and last long.
const LONG_FAULT_INTERVAL: Duration = Duration::from_secs(3);

/// The factor by which pauses and outages last longer in a scenario with `long_faults`.
const LONG_OUTAGE_FACTOR: u64 = 3;

/// A kind of fault, as in [`FaultWeights`], or the end of the network cuts (`EndCuts`). The trace prints these names.
#[derive(Clone, Copy, Debug)]
enum FaultKind {
    /// A machine loses power: unsynced data is lost in part or completely.
    Power,
    /// A process is killed; its page cache survives.
    Kill,
    /// A machine loses power in the middle of a disk operation.
    PowerMidOperation,
    /// All machines lose power at once.
    Blackout,
    /// A process is paused: it handles no event until the pause ends.
    Pause,
    /// The network is split into two parts that cannot exchange messages.
    Partition,
    /// The network loses the messages from one node to another.
    OneWay,
    /// All partitions and one-way cuts end.
    EndCuts,
    /// The connections between two nodes break, and a connection of a client to one of them ends.
    Reset,
    /// The next sync of a log takes long.
    Stall,
    /// The next sync of a disk fails.
    Eio,
    /// A disk becomes full, or a full disk has space again.
    DiskFull,
    /// A segment of a log is damaged, and the process restarts.
    Rot,
    /// A disk is copied, or replaced by its older copy.
    OlderCopy,
    /// A snapshot file is damaged.
    RotSnapshot,
    /// A machine's clock jumps forward.
    ClockJump,
    /// A file of a machine is damaged while its process keeps running.
    RotRunning,
    /// The next write to a log lands at another place in the log.
    Misdirect,
    /// The next sync of a log falsely reports success.
    FalseSync,
    /// The logs of two machines are damaged in different entries, and both processes restart.
    RotPair,
}

/// Each kind of fault with its weight: how likely it is to be drawn, relative to the other kinds.
fn weighted_faults(fault_weights: &FaultWeights) -> [(FaultKind, u32); 20] {
    [
        (FaultKind::Power, fault_weights.power),
        (FaultKind::Kill, fault_weights.kill),
        (FaultKind::PowerMidOperation, fault_weights.power_mid_operation),
        (FaultKind::Blackout, fault_weights.blackout),
        (FaultKind::Pause, fault_weights.pause),
        (FaultKind::Partition, fault_weights.partition),
        (FaultKind::OneWay, fault_weights.one_way),
        (FaultKind::EndCuts, 2 * (fault_weights.partition + fault_weights.one_way)),
        (FaultKind::Reset, fault_weights.reset),
        (FaultKind::Stall, fault_weights.stall),
        (FaultKind::Eio, fault_weights.eio),
        (FaultKind::DiskFull, fault_weights.disk_full),
        (FaultKind::Rot, fault_weights.rot),
        (FaultKind::OlderCopy, fault_weights.older_copy),
        (FaultKind::RotSnapshot, fault_weights.rot_snapshot),
        (FaultKind::ClockJump, fault_weights.clock_jump),
        (FaultKind::RotRunning, fault_weights.rot_running),
        (FaultKind::Misdirect, fault_weights.misdirect),
        (FaultKind::FalseSync, fault_weights.false_sync),
        (FaultKind::RotPair, fault_weights.rot_pair),
    ]
}

impl World {
    /// Injects a random fault and schedules the next one, until the faults end.
    pub(super) fn inject_random_fault(&mut self) -> checks::Result<()> {
        if self.faults_over {
            return Ok(());
        }
        let average_nanos = if self.scenario.long_faults { LONG_FAULT_INTERVAL } else { self.scenario.fault_interval }
            .as_nanos() as u64;
        let delay = Duration::from_nanos(self.rng.random_range(1..=2 * average_nanos));
        self.schedule_after(delay, SimEvent::FaultInjection);
        let weighted_faults = weighted_faults(&self.scenario.fault_weights);
        let total_weight: u32 = weighted_faults.iter().map(|(_, weight)| weight).sum();
        if total_weight == 0 {
            return Ok(());
        }
        let mut remaining_weight = self.rng.random_range(0..total_weight);
        let drawn_fault = weighted_faults.into_iter().find(|(_, weight)| {
            let is_drawn = remaining_weight < *weight;
            remaining_weight = remaining_weight.saturating_sub(*weight);
            is_drawn
        });
        let Some((kind, _)) = drawn_fault else { return Ok(()) };
        self.faults += 1;
        let at = self.draw_node();
        self.trace_line(|| format!("fault at {at}: {kind:?}"));
        self.inject_fault(kind, at)?;
        // The node is marked unhealthy, except for these faults: `record_unhealthy_nodes` records network cuts, `crash`
        // records the nodes of a blackout, a copied disk does not affect its node, and a false sync does so only after
        // a power loss.
        if !matches!(
            kind,
            FaultKind::Partition
                | FaultKind::OneWay
                | FaultKind::EndCuts
                | FaultKind::Blackout
                | FaultKind::OlderCopy
                | FaultKind::FalseSync
        ) {
            self.progress.mark_unhealthy_until(at, self.now);
        }
        self.record_unhealthy_nodes();
        Ok(())
    }

    fn draw_node(&mut self) -> NodeId {
        let position = self.rng.random_range(0..self.hosts.len());
        *self.hosts.keys().nth(position).expect("the world has at least one host")
    }

    /// Draws how long a machine is down or paused: up to `longest_ms` milliseconds, or [`LONG_OUTAGE_FACTOR`] times as
    /// long in a scenario with `long_faults`.
    pub(super) fn draw_outage(&mut self, longest_ms: u64) -> Duration {
        let longest_ms = if self.scenario.long_faults { longest_ms * LONG_OUTAGE_FACTOR } else { longest_ms };
        Duration::from_millis(self.rng.random_range(1..=longest_ms))
    }

    fn inject_fault(&mut self, kind: FaultKind, at: NodeId) -> checks::Result<()> {
        match kind {
            FaultKind::Power => self.crash_and_restart(at, Crash::Power, 3000),
            FaultKind::Kill => self.crash_and_restart(at, Crash::Kill, 1000),
            FaultKind::Blackout => {
                for at in self.hosts.keys().copied().collect::<Vec<_>>() {
                    self.crash_and_restart(at, Crash::Power, 1000);
                }
            }
            FaultKind::PowerMidOperation => {
                let is_on_snapshot_disk = self.rng.random();
                let host = &self.hosts[&at];
                let disk = if is_on_snapshot_disk { host.snapshot_disk.clone() } else { host.disk.clone() };
                let stop = DiskStop {
                    operation: disk.operation_count() + self.rng.random_range(0..12),
                    written_bytes: self.rng.random_range(0..4096),
                };
                disk.stop_at(stop);
            }
            FaultKind::Pause => {
                let paused_until = self.now + self.draw_outage(2500);
                self.host(at).paused_until = paused_until;
            }
            FaultKind::Partition => {
                let nodes_with_sides: Vec<(NodeId, bool)> =
                    self.hosts.keys().copied().map(|id| (id, false)).map(|(id, _)| (id, self.rng.random())).collect();
                for (one, side) in &nodes_with_sides {
                    for (other, _) in nodes_with_sides.iter().filter(|(_, other_side)| other_side != side) {
                        self.network.cut(*one, *other);
                    }
                }
            }
            FaultKind::OneWay => {
                let to = self.draw_node();
                self.network.cut(at, to);
            }
            FaultKind::EndCuts => self.network.end_cuts(),
            FaultKind::Reset => {
                let peer = self.draw_node();
                if peer != at {
                    self.reset_connections(at, peer);
                }
                let client = self.rng.random_range(1..=self.scenario.load.clients);
                self.deliver_event(at, Event::CallerGone(Caller::Client(client)))?;
            }
            FaultKind::Stall => self.host(at).sync_stall = Duration::from_millis(400),
            FaultKind::Eio => match self.rng.random() {
                true => self.host(at).disk.fail_next_sync(),
                false => self.host(at).snapshot_disk.fail_next_sync(),
            },
            FaultKind::DiskFull => {
                let host = &self.hosts[&at];
                let is_full = host.disk.free_bytes().is_ok_and(|free| free < u64::MAX);
                // The snapshots are on the same disk as the log, so their directory is full as well.
                host.disk.set_capacity((!is_full).then_some(host.disk.used_bytes()));
            }
            FaultKind::Rot => self.damage_segment(at),
            FaultKind::OlderCopy => self.copy_or_restore_disk(at),
            FaultKind::RotSnapshot => self.damage_snapshot(at),
            FaultKind::ClockJump => self.jump_clock(at),
            FaultKind::RotRunning => self.damage_file_beneath_process(at),
            FaultKind::Misdirect => self.misdirect_write(at),
            FaultKind::FalseSync => self.inject_false_sync(at),
            FaultKind::RotPair => self.damage_pair(at),
        }
        Ok(())
    }

    /// Makes the clock of a machine jump forward by up to five seconds. The node at once handles the deadlines that its
    /// clock has passed.
    fn jump_clock(&mut self, at: NodeId) {
        let jump = Duration::from_millis(self.rng.random_range(100..=5000));
        let host = self.host(at);
        host.clock.jump_forward(jump);
        if let Some(process) = &mut host.process {
            process.queued_deadline = None;
        }
        self.schedule_deadline(at);
    }

    /// Crashes a machine, and starts it again after an outage of up to `longest_ms` milliseconds.
    pub(super) fn crash_and_restart(&mut self, at: NodeId, how: Crash, longest_ms: u64) {
        self.crash(at, how);
        let delay = self.draw_outage(longest_ms);
        self.schedule_after(delay, SimEvent::ProcessStart { at });
    }
}
