//! The snapshots of each simulated machine: taken piece by piece between other things, received from
//! others, taken in, and what lets go of the log because of them.

use super::checks;
use super::host::{CLUSTER, Process, kept};
use super::network::Tier;
use super::world::{Happens, World};
use crate::consensus::message::{Chunk, Envelope, Message};
use crate::disk::Meter;
use crate::node::Event;
use crate::shelf::reviving::header;
use crate::shelf::{Done, Job, Reviving};
use crate::snapshot::{Snapshot, Store};
use crate::types::{Index, Membership, NodeId, Position};
use rand::RngExt;
use std::collections::BTreeMap;
use std::time::Duration;

/// Pieces are small, so that much happens between two of them.
const PIECE: usize = 300;

/// Of a snapshot that a follower is sent in calm, no more than so many times its size reaches it: what was
/// on its way when its links broke is sent again, and nothing else.
const SENT_MOST: u64 = 3;
/// The same where messages overtake one another: for each piece that arrives in order, a window of others
/// may have arrived too early, and comes again.
const SENT_MOST_OUT_OF_ORDER: u64 = 20;

/// What became of the snapshots of a world.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Taken {
    /// So many were taken.
    pub taken: u64,
    /// So many were taken in from another node; and in calm, when all that is left to do is to catch up.
    pub received: u64,
    /// Those in calm.
    pub caught_up: u64,
}

/// The snapshots of a world, for whoever counts.
#[derive(Debug, Default)]
pub struct Snapshots {
    pub(super) became: Taken,
    /// How many bytes of each arrived in calm, from whom, at whom.
    sent: BTreeMap<(NodeId, NodeId, Position), u64>,
}

impl World {
    /// purged ≤ snapshot ≤ applied ≤ commit ≤ last, on every node, after every step.
    pub(super) fn in_order(&self, at: NodeId) -> checks::Result<()> {
        let Some(up) = &self.hosts[&at].up else { return Ok(()) };
        let log = up.node.raft().log();
        let snapshot = up.node.snapshot().map_or(Index::ZERO, |kept| kept.position.index);
        let (purged, applied, last) = (log.base().index, up.node.applied(), log.last().index);
        let order = [purged, snapshot, applied, up.applier.applied(), log.commit(), last];
        if order.is_sorted() {
            return Ok(());
        }
        let said = "purged, snapshot, applied as the node knows and as the machine does, commit and last";
        Err(format!("of {at}, {said} are {order:?}, and must not fall"))
    }

    /// A piece of a snapshot reaches a node: in calm, not over and over.
    pub(super) fn shipped(&mut self, envelope: &Envelope) -> checks::Result<()> {
        let Envelope { from, to, message: Message::Chunk(chunk), .. } = envelope else { return Ok(()) };
        if !self.calm {
            return Ok(());
        }
        let sent = self.snapshots.sent.entry((*from, *to, chunk.snapshot)).or_default();
        *sent += chunk.bytes.len() as u64;
        let most = if self.network.tier() == Tier::Stream { SENT_MOST } else { SENT_MOST_OUT_OF_ORDER };
        if *sent > most * chunk.total {
            let total = chunk.total;
            return Err(format!("{from} sends {to} {sent} bytes of a snapshot that has {total}, and does not end"));
        }
        Ok(())
    }

    /// Whether that node has done all that it should do about its log without being asked: by bytes and by
    /// age, a snapshot has taken the place of what it may take, and what may go is gone.
    pub(super) fn is_tidy(&self, up: &Process) -> bool {
        let (log, options) = (up.node.raft().log(), &self.scenario.node);
        let kept = up.node.snapshot();
        let snapshot = kept.map_or(Index::ZERO, |kept| kept.position.index);
        let state = kept.map_or(0, |kept| kept.bytes.len() as u64);
        let grown = log.bytes(snapshot.max(log.base().index), log.commit());
        let small = grown < options.snapshot_log_bytes.max(state);
        let new = snapshot == log.commit() || options.snapshot_max_age > self.scenario.calm;
        let trailing = log.bytes(log.base().index, snapshot);
        small && new && trailing <= options.trailing_bytes && !up.node.is_taking()
    }

    /// The machine is frozen, and a snapshot of it begun.
    pub(super) fn takes(&mut self, at: NodeId, configured: Index, membership: Membership) -> checks::Result<()> {
        let Some(up) = &mut self.host(at).up else { return Ok(()) };
        let head = up.applier.freeze();
        // The members as of its index, not of some other (openraft#1808).
        let held = up.node.raft().membership_at(head.position.index);
        if held != Some(&(configured, membership.clone())) {
            let position = head.position;
            return Err(format!("{at} freezes {position} with the members of {configured}, and there {held:?} hold"));
        }
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
                self.snapshots.became.taken += u64::from(snapshot.is_some());
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
        self.applies_all(at)?;
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
        self.snapshots.became.received += 1;
        self.snapshots.became.caught_up += u64::from(self.calm);
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
