//! What goes wrong, by chance.

use super::checks;
use super::disk::{Crash, Stop};
use super::host::Host;
use super::scenario::Troubles;
use super::world::{Happens, World};
use crate::disk::Disk;
use crate::node::{Caller, Event};
use crate::types::NodeId;
use rand::RngExt;
use std::time::Duration;

/// The time between two troubles, on average, where they are few and last long.
const LASTING_EVERY: Duration = Duration::from_secs(3);

/// Troubles that last are so many times as long as others.
const LASTING_TIMES: u64 = 3;

/// One kind of trouble.
#[derive(Clone, Copy, Debug)]
enum Kind {
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
}

fn weights(troubles: &Troubles) -> [(Kind, u32); 16] {
    [
        (Kind::Power, troubles.power),
        (Kind::Kill, troubles.kill),
        (Kind::Midway, troubles.midway),
        (Kind::Blackout, troubles.blackout),
        (Kind::Pause, troubles.pause),
        (Kind::Partition, troubles.partition),
        (Kind::OneWay, troubles.one_way),
        (Kind::Mend, 2 * (troubles.partition + troubles.one_way)),
        (Kind::Reset, troubles.reset),
        (Kind::Stall, troubles.stall),
        (Kind::Eio, troubles.eio),
        (Kind::Full, troubles.full),
        (Kind::Rot, troubles.rot),
        (Kind::Older, troubles.older),
        (Kind::RotSnapshot, troubles.rot_snapshot),
        (Kind::ClockJump, troubles.clock_jump),
    ]
}

impl World {
    /// Something goes wrong, and something else will.
    pub(super) fn trouble(&mut self) -> checks::Result<()> {
        if self.calm {
            return Ok(());
        }
        let every = if self.scenario.lasting { LASTING_EVERY } else { self.scenario.every }.as_nanos() as u64;
        let next = Duration::from_nanos(self.rng.random_range(1..=2 * every));
        self.later(next, Happens::Trouble);
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
        self.say(|| format!("trouble for {at}: {kind:?}"));
        self.bring(kind, at)?;
        // Cuts are noted by themselves, and who copies a disk disturbs nobody. Whoever is brought down is noted then.
        if !matches!(kind, Kind::Partition | Kind::OneWay | Kind::Mend | Kind::Blackout | Kind::Older) {
            self.progress.unfit_until(at, self.now);
        }
        self.note_unfit();
        Ok(())
    }

    fn anyone(&mut self) -> NodeId {
        let nth = self.rng.random_range(0..self.hosts.len());
        *self.hosts.keys().nth(nth).expect("there are hosts")
    }

    fn a_while(&mut self, most_ms: u64) -> Duration {
        let most_ms = if self.scenario.lasting { most_ms * LASTING_TIMES } else { most_ms };
        Duration::from_millis(self.rng.random_range(1..=most_ms))
    }

    fn bring(&mut self, kind: Kind, at: NodeId) -> checks::Result<()> {
        match kind {
            Kind::Power => self.down(at, Crash::Power, 3000),
            Kind::Kill => self.down(at, Crash::Kill, 1000),
            Kind::Blackout => {
                for at in self.hosts.keys().copied().collect::<Vec<_>>() {
                    self.down(at, Crash::Power, 1000);
                }
            }
            Kind::Midway => {
                let shelf = self.rng.random();
                let host = &self.hosts[&at];
                let disk = if shelf { host.shelf.clone() } else { host.disk.clone() };
                let stop = Stop {
                    at: disk.operations() + self.rng.random_range(0..12),
                    bytes: self.rng.random_range(0..4096),
                };
                disk.stop_at(stop);
            }
            Kind::Pause => {
                let until = self.now + self.a_while(2500);
                self.host(at).paused = until;
            }
            Kind::Partition => {
                let sides: Vec<(NodeId, bool)> =
                    self.hosts.keys().copied().map(|id| (id, false)).map(|(id, _)| (id, self.rng.random())).collect();
                for (one, side) in &sides {
                    for (other, _) in sides.iter().filter(|(_, theirs)| theirs != side) {
                        self.network.cut(*one, *other);
                    }
                }
            }
            Kind::OneWay => {
                let to = self.anyone();
                self.network.cut(at, to);
            }
            Kind::Mend => self.network.mend(),
            Kind::Reset => {
                let other = self.anyone();
                if other != at {
                    self.relink(at, other);
                }
                let client = self.rng.random_range(1..=self.scenario.load.clients);
                self.handle(at, Event::CallerGone(Caller::Client(client)))?;
            }
            Kind::Stall => self.host(at).stall = Duration::from_millis(400),
            Kind::Eio => match self.rng.random() {
                true => self.host(at).disk.fail_next_sync(),
                false => self.host(at).shelf.fail_next_sync(),
            },
            Kind::Full => {
                let host = &self.hosts[&at];
                let is_full = host.disk.free().is_ok_and(|free| free < u64::MAX);
                // What was full has room again. The snapshots are on the same disk.
                host.disk.set_capacity((!is_full).then_some(host.disk.used()));
            }
            Kind::Rot => self.rot(at),
            Kind::Older => self.older(at),
            Kind::RotSnapshot => self.rot_snapshot(at),
            Kind::ClockJump => self.jump_clock(at),
        }
        Ok(())
    }

    /// The clock of a machine jumps forward, and what is due by it then is due at once.
    fn jump_clock(&mut self, at: NodeId) {
        let by = Duration::from_millis(self.rng.random_range(100..=5000));
        let host = self.host(at);
        host.clock.jump(by);
        if let Some(up) = &mut host.up {
            up.tick_at = None;
        }
        self.schedule(at);
    }

    fn down(&mut self, at: NodeId, how: Crash, most_ms: u64) {
        self.crash(at, how);
        let delay = self.a_while(most_ms);
        self.later(delay, Happens::Starts { at });
    }

    /// Copies what a machine's disk holds, as a power loss would leave it; or brings such a copy back. One machine at
    /// a time: what a majority forgets is gone.
    fn older(&mut self, at: NodeId) {
        let others = self.hosts.values().any(|host| host.copy.is_some() && host.id != at);
        let host = &self.hosts[&at];
        if host.rotten || self.snapshots.rotten.contains_key(&at) || host.wiped || self.hosts.len() < 3 {
            return;
        }
        let Some((disk, shelf, life)) = self.host(at).copy.take() else {
            if !others && self.hosts[&at].up.is_some() {
                let host = &self.hosts[&at];
                let copy = (host.disk.durable(), host.shelf.durable(), self.checks.copy(at));
                self.say(|| format!("the disk of {at} is copied"));
                self.host(at).copy = Some(copy);
            }
            return;
        };
        let in_use = self.checks.configurations.in_use();
        if !in_use.into_iter().all(|membership| self.holds_without(at, membership)) {
            return;
        }
        self.crash(at, Crash::Kill);
        self.say(|| format!("{at} comes back with an older copy of its disk"));
        self.checks.brings_back(at, &life);
        let host = self.host(at);
        (host.disk, host.shelf) = (disk, shelf);
        let delay = self.a_while(500);
        self.later(delay, Happens::Starts { at });
    }

    /// Turns a bit over in some segment, or makes a sector of it unreadable, and restarts the process on it. Never on
    /// so many machines that what they lose could have been the last copies: what a majority forgets is gone.
    fn rot(&mut self, at: NodeId) {
        let is_rotten = |host: &&Host| host.rotten || self.snapshots.rotten.contains_key(&host.id);
        let rotten = self.hosts.values().filter(is_rotten).count();
        // A machine that is down may just have lost power: what its last batch suffered on top of
        // that cannot be told from what the power loss did (wal-format.md).
        let host = &self.hosts[&at];
        let ghosts = self.hosts.keys().any(|id| self.checks.has_ghost(*id));
        if rotten >= (self.hosts.len() - 1) / 2 || host.rotten || host.up.is_none() || ghosts {
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
        let Some(bytes) = disk.seen(&name) else { return };
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if used == 0 {
            return;
        }
        let offset = self.rng.random_range(0..used) as u64;
        match self.rng.random_range(0..3) {
            0 => disk.lose_sector(&name, offset),
            _ => disk.flip(&name, offset, self.rng.random_range(0..8)),
        }
        self.say(|| format!("{name} of {at} is damaged at {offset}"));
        self.host(at).rotten = true;
        self.down(at, Crash::Kill, 500);
    }
}
