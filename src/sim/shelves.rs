//! The snapshots of each simulated machine: taken piece by piece between other things, received from
//! others, taken in, and what lets go of the log because of them.

use super::checks;
use super::host::{CLUSTER, Process, kept};
use super::world::{Happens, World};
use crate::consensus::message::Chunk;
use crate::disk::Meter;
use crate::node::Event;
use crate::shelf::reviving::header;
use crate::shelf::{Done, Job, Reviving};
use crate::snapshot::{Snapshot, Store};
use crate::types::{Index, Membership, NodeId, Position};
use rand::RngExt;
use std::time::Duration;

/// Pieces are small, so that much happens between two of them.
const PIECE: usize = 300;

impl World {
    /// The machine is frozen, and a snapshot of it begun.
    pub(super) fn takes(&mut self, at: NodeId, configured: Index, membership: Membership) -> checks::Result<()> {
        let Some(up) = &mut self.host(at).up else { return Ok(()) };
        let head = up.applier.freeze();
        up.taking = true;
        let begin = Job::Begin(header(CLUSTER, at, &head, configured, membership));
        self.say(|| format!("{at} takes a snapshot of {}", head.position));
        self.job(at, begin)
    }

    /// The next piece of it.
    pub(super) fn piece(&mut self, at: NodeId) -> checks::Result<()> {
        let Some(up) = self.host(at).up.as_mut().filter(|up| up.taking) else { return Ok(()) };
        let job = up.applier.piece(PIECE).map_or(Job::Finish, Job::Piece);
        self.job(at, job)
    }

    pub(super) fn receives(&mut self, at: NodeId, from: NodeId, chunk: Chunk) -> checks::Result<()> {
        let Chunk { snapshot, total, offset, bytes } = chunk;
        self.job(at, Job::Receive { from, snapshot, total, offset, bytes })
    }

    fn job(&mut self, at: NodeId, job: Job) -> checks::Result<()> {
        let Some(up) = &mut self.host(at).up else { return Ok(()) };
        match up.keeper.carry_out(job) {
            Ok(Done::NoRoom) => Ok(()),
            Ok(Done::Wants) => {
                let life = self.hosts[&at].life;
                let delay = Duration::from_micros(self.rng.random_range(10..20_000));
                self.later(delay, Happens::Piece { at, life });
                Ok(())
            }
            Ok(Done::Taken(snapshot)) => {
                up.taking = false;
                up.applier.thaw();
                self.say(|| format!("{at} has taken a snapshot: {}", snapshot.is_some()));
                self.follows(at, Event::Taken(snapshot.map(|snapshot| kept(&snapshot))));
                Ok(())
            }
            Ok(Done::Received { from, snapshot, next }) => {
                self.follows(at, Event::Received { from, snapshot, next });
                Ok(())
            }
            Ok(Done::Arrived(snapshot)) => {
                let life = self.hosts[&at].life;
                let delay = Duration::from_micros(self.rng.random_range(10..50_000));
                self.later(delay, Happens::Revives { at, life, snapshot: Box::new(snapshot) });
                Ok(())
            }
            Err(fault) => {
                self.stops(at, &fault);
                Ok(())
            }
        }
    }

    /// Another's snapshot was taken in: the machine becomes what it holds, and the node knows at once.
    pub(super) fn revives(&mut self, at: NodeId, snapshot: Snapshot) -> checks::Result<()> {
        let Some(up) = &mut self.host(at).up else { return Ok(()) };
        let position = snapshot.header().position;
        let (applier, snapshot, base) = match Reviving::begin(&up.applier, snapshot).all(&Meter::default()) {
            Ok(revived) => revived,
            Err(fault) => return Err(format!("{at} cannot take in a whole snapshot: {fault}")),
        };
        if position.index <= up.applier.applied() {
            return Ok(());
        }
        up.applier = applier;
        let report = up.applier.apply(&[]);
        let (kept, time) = (kept(&snapshot), snapshot.header().time);
        if std::mem::take(&mut up.taking) {
            // What was frozen is gone with the old state.
            self.job(at, Job::GiveUp)?;
        }
        self.say(|| format!("{at} takes in a snapshot of {position}"));
        self.checks.becomes(at, position, report.digest)?;
        self.handle(at, Event::Restored { kept, base, time, report })
    }

    /// The log may be let go of up to there, once the journal has a moment.
    pub(super) fn releases(&mut self, at: NodeId, upto: Position) -> checks::Result<()> {
        let store = Store::open(self.hosts[&at].shelf.durable(), CLUSTER);
        let newest = store.and_then(|store| store.newest()).map_err(|fault| format!("{at}: {fault}"))?;
        let holds = newest.snapshot.map(|snapshot| snapshot.header().position.index);
        self.checks.releases(at, upto.index, holds)?;
        if let Some(Process { release, .. }) = &mut self.host(at).up {
            *release = Some(upto);
        }
        Ok(())
    }
}
