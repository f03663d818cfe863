//! Random fault injection.

use super::checks;
use super::disk::{Crash, Stop};
use super::event::SimEvent;
use super::scenario::FaultWeights;
use super::world::World;
use crate::disk::Disk;
use crate::node::{Caller, Event};
use crate::types::NodeId;
use rand::RngExt;
use std::time::Duration;

/// The average time between two faults, where faults are few and last long.
const LASTING_EVERY: Duration = Duration::from_secs(3);

/// The factor by which long-lasting faults are longer than others.
const LASTING_TIMES: u64 = 3;

#[derive(Clone, Copy, Debug)]
enum FaultKind {
    Power,
    Kill,
    Midway,
    Blackout,
    Pause,
    Partition,
    OneWay,
    Mend,
    Reset,
    Stall,
    Eio,
    Full,
    Rot,
    Older,
    RotSnapshot,
    ClockJump,
    RotRunning,
    Misdirect,
    FalseSync,
}

fn weights(troubles: &FaultWeights) -> [(FaultKind, u32); 19] {
    [
        (FaultKind::Power, troubles.power),
        (FaultKind::Kill, troubles.kill),
        (FaultKind::Midway, troubles.midway),
        (FaultKind::Blackout, troubles.blackout),
        (FaultKind::Pause, troubles.pause),
        (FaultKind::Partition, troubles.partition),
        (FaultKind::OneWay, troubles.one_way),
        (FaultKind::Mend, 2 * (troubles.partition + troubles.one_way)),
        (FaultKind::Reset, troubles.reset),
        (FaultKind::Stall, troubles.stall),
        (FaultKind::Eio, troubles.eio),
        (FaultKind::Full, troubles.full),
        (FaultKind::Rot, troubles.rot),
        (FaultKind::Older, troubles.older),
        (FaultKind::RotSnapshot, troubles.rot_snapshot),
        (FaultKind::ClockJump, troubles.clock_jump),
        (FaultKind::RotRunning, troubles.rot_running),
        (FaultKind::Misdirect, troubles.misdirect),
        (FaultKind::FalseSync, troubles.lie),
    ]
}

impl World {
    /// Injects a fault and schedules the next one.
    pub(super) fn trouble(&mut self) -> checks::Result<()> {
        if self.calm {
            return Ok(());
        }
        let every = if self.scenario.long_faults { LASTING_EVERY } else { self.scenario.every }.as_nanos() as u64;
        let next = Duration::from_nanos(self.rng.random_range(1..=2 * every));
        self.later(next, SimEvent::Trouble);
        let weights = weights(&self.scenario.troubles);
        let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return Ok(());
        }
        let mut draw = self.rng.random_range(0..total);
        let drawn = weights.into_iter().find(|(_, weight)| {
            let here = draw < *weight;
            draw = draw.saturating_sub(*weight);
            here
        });
        let Some((kind, _)) = drawn else { return Ok(()) };
        self.faults += 1;
        let at = self.anyone();
        self.trace_line(|| format!("fault at {at}: {kind:?}"));
        self.inject(kind, at)?;
        // Network cuts are noted separately, and copying a disk affects no node. A crash notes its node itself.
        if !matches!(
            kind,
            FaultKind::Partition
                | FaultKind::OneWay
                | FaultKind::Mend
                | FaultKind::Blackout
                | FaultKind::Older
                | FaultKind::FalseSync
        ) {
            self.progress.unfit_until(at, self.now);
        }
        self.note_unfit();
        Ok(())
    }

    fn anyone(&mut self) -> NodeId {
        let nth = self.rng.random_range(0..self.hosts.len());
        *self.hosts.keys().nth(nth).expect("the world has at least one host")
    }

    pub(super) fn a_while(&mut self, most_ms: u64) -> Duration {
        let most_ms = if self.scenario.long_faults { most_ms * LASTING_TIMES } else { most_ms };
        Duration::from_millis(self.rng.random_range(1..=most_ms))
    }

    fn inject(&mut self, kind: FaultKind, at: NodeId) -> checks::Result<()> {
        match kind {
            FaultKind::Power => self.down(at, Crash::Power, 3000),
            FaultKind::Kill => self.down(at, Crash::Kill, 1000),
            FaultKind::Blackout => {
                for at in self.hosts.keys().copied().collect::<Vec<_>>() {
                    self.down(at, Crash::Power, 1000);
                }
            }
            FaultKind::Midway => {
                let snapshot_disk = self.rng.random();
                let host = &self.hosts[&at];
                let disk = if snapshot_disk { host.snapshot_disk.clone() } else { host.disk.clone() };
                let stop = Stop {
                    at: disk.operations() + self.rng.random_range(0..12),
                    bytes: self.rng.random_range(0..4096),
                };
                disk.stop_at(stop);
            }
            FaultKind::Pause => {
                let until = self.now + self.a_while(2500);
                self.host(at).paused = until;
            }
            FaultKind::Partition => {
                let sides: Vec<(NodeId, bool)> =
                    self.hosts.keys().copied().map(|id| (id, false)).map(|(id, _)| (id, self.rng.random())).collect();
                for (one, side) in &sides {
                    for (other, _) in sides.iter().filter(|(_, theirs)| theirs != side) {
                        self.network.cut(*one, *other);
                    }
                }
            }
            FaultKind::OneWay => {
                let to = self.anyone();
                self.network.cut(at, to);
            }
            FaultKind::Mend => self.network.end_cuts(),
            FaultKind::Reset => {
                let other = self.anyone();
                if other != at {
                    self.relink(at, other);
                }
                let client = self.rng.random_range(1..=self.scenario.load.clients);
                self.handle(at, Event::CallerGone(Caller::Client(client)))?;
            }
            FaultKind::Stall => self.host(at).stall = Duration::from_millis(400),
            FaultKind::Eio => match self.rng.random() {
                true => self.host(at).disk.fail_next_sync(),
                false => self.host(at).snapshot_disk.fail_next_sync(),
            },
            FaultKind::Full => {
                let host = &self.hosts[&at];
                let is_full = host.disk.free().is_ok_and(|free| free < u64::MAX);
                // A full disk gets space again. The snapshots are on the same disk.
                host.disk.set_capacity((!is_full).then_some(host.disk.used()));
            }
            FaultKind::Rot => self.rot(at),
            FaultKind::Older => self.older(at),
            FaultKind::RotSnapshot => self.rot_snapshot(at),
            FaultKind::ClockJump => self.jump_clock(at),
            FaultKind::RotRunning => self.rot_running(at),
            FaultKind::Misdirect => self.misdirect(at),
            FaultKind::FalseSync => self.lie(at),
        }
        Ok(())
    }

    /// The clock of a machine jumps forward; deadlines that have then passed are due at once.
    fn jump_clock(&mut self, at: NodeId) {
        let by = Duration::from_millis(self.rng.random_range(100..=5000));
        let host = self.host(at);
        host.clock.jump(by);
        if let Some(up) = &mut host.up {
            up.tick_at = None;
        }
        self.schedule(at);
    }

    pub(super) fn down(&mut self, at: NodeId, how: Crash, most_ms: u64) {
        self.crash(at, how);
        let delay = self.a_while(most_ms);
        self.later(delay, SimEvent::Starts { at });
    }
}
