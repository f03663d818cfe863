//! The snapshots of each simulated machine: taken chunk by chunk between other events, received from other nodes and
//! restored, and the log compaction that follows from them.

use super::checks;
use super::event::SimEvent;
use super::host::{CLUSTER, Process, durable_snapshot};
use super::network::Tier;
use super::world::World;
use crate::consensus::message::{Envelope, Message, SnapshotChunk};
use crate::disk::{Disk, Meter};
use crate::node::Event;
use crate::snapshot::format::{file_name, file_position};
use crate::snapshot::{Snapshot, Store};
use crate::snapshotting::restore::header;
use crate::snapshotting::{Job, JobResult, Restore};
use crate::types::{Index, Membership, NodeId, Position};
use bytes::Bytes;
use rand::RngExt;
use std::time::Duration;

/// The chunk size in bytes: small, so that much happens between two chunks.
const PIECE: usize = 300;

/// In calm, a follower is sent at most this many times a snapshot's size: only the chunks that were in flight when its
/// links broke are sent again.
const SENT_MOST: u64 = 3;
/// The same limit where messages overtake one another: for each chunk that arrives in order, a window of others may
/// have arrived too early and is sent again.
const SENT_MOST_OUT_OF_ORDER: u64 = 20;

impl World {
    /// Checks that purged ≤ snapshot ≤ applied ≤ commit ≤ last, on every node, after every step.
    pub(super) fn in_order(&self, at: NodeId) -> checks::Result<()> {
        let Some(up) = &self.hosts[&at].up else { return Ok(()) };
        let log = up.node.raft().log();
        let snapshot = up.node.snapshot().map_or(Index::ZERO, |kept| kept.position.index);
        let (purged, applied, last) = (log.base().index, up.node.applied(), log.last().index);
        let order = [purged, snapshot, applied, up.applier.applied(), log.commit(), last];
        if order.is_sorted() {
            return Ok(());
        }
        let said = "purged, snapshot, applied (by the node, by the state machine), commit and last";
        Err(format!("{said} of {at} are {order:?}, and must ascend"))
    }

    /// Checks, whenever a node sends a chunk of a snapshot in calm, that the transfer ends. The bytes are counted where
    /// they are sent, since chunks sent during the storm may arrive long after its end; and for each run of a link,
    /// since a receiver that restarts in calm, or whose response is lost, needs the snapshot again.
    pub(super) fn shipped(&mut self, envelope: &Envelope) -> checks::Result<()> {
        let Envelope { from, to, message: Message::InstallSnapshot(chunk), .. } = envelope else { return Ok(()) };
        if !self.calm {
            return Ok(());
        }
        let run = self.network.run(*from, *to);
        let sent = self.snapshots.sent.entry((*from, *to, run, chunk.snapshot)).or_default();
        *sent += chunk.bytes.len() as u64;
        let most = if self.network.tier() == Tier::Stream { SENT_MOST } else { SENT_MOST_OUT_OF_ORDER };
        if *sent > most * chunk.total {
            let total = chunk.total;
            return Err(format!("{from} sends {to} {sent} bytes of a snapshot of {total}: the transfer does not end"));
        }
        Ok(())
    }

    /// Whether a node has compacted its log as it should without a request: a snapshot covers the entries that it has
    /// to cover by size and age, and the entries that may be discarded are gone.
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

    /// Freezes the state machine and begins a snapshot of it.
    pub(super) fn takes(&mut self, at: NodeId, configured: Index, membership: Membership) -> checks::Result<()> {
        let Some(up) = &mut self.host(at).up else { return Ok(()) };
        let head = up.applier.freeze();
        // The members must be those as of the snapshot's index, not of another index (openraft#1808).
        let held = up.node.raft().membership_at(head.position.index);
        if held != Some(&(configured, membership.clone())) {
            let position = head.position;
            return Err(format!("{at} freezes {position} with the members of {configured}, and {held:?} apply there"));
        }
        up.taking = true;
        let begin = Job::Begin(header(CLUSTER, at, &head, configured, membership));
        self.trace_line(|| format!("{at} takes a snapshot of {}", head.position));
        self.job(at, begin)
    }

    /// Writes the next chunk of it.
    pub(super) fn piece(&mut self, at: NodeId) -> checks::Result<()> {
        let Some(up) = self.host(at).up.as_mut().filter(|up| up.taking) else { return Ok(()) };
        let job = match up.keeper.is_written() {
            true => Job::Verify,
            false => up.applier.next_chunk(PIECE).map_or(Job::Finish, Job::Piece),
        };
        self.job(at, job)
    }

    pub(super) fn receives(&mut self, at: NodeId, from: NodeId, chunk: SnapshotChunk) -> checks::Result<()> {
        self.progress.unfit_until(at, self.now);
        let SnapshotChunk { snapshot, total, offset, bytes } = chunk;
        self.job(at, Job::Receive { from, snapshot, total, offset, bytes })
    }

    pub(super) fn job(&mut self, at: NodeId, job: Job) -> checks::Result<()> {
        let Some(up) = &mut self.host(at).up else { return Ok(()) };
        match up.keeper.run(job) {
            Ok(JobResult::NoRoom) => Ok(()),
            Ok(JobResult::Ready | JobResult::Written) => {
                let life = self.hosts[&at].incarnation;
                let delay = Duration::from_micros(self.rng.random_range(10..20_000));
                self.later(delay, SimEvent::Piece { at, life });
                Ok(())
            }
            Ok(JobResult::Published(snapshot)) => {
                up.taking = false;
                up.applier.end_snapshot();
                self.snapshots.became.taken += u64::from(snapshot.is_some());
                let index = snapshot.as_ref().map(|snapshot| snapshot.header().position.index);
                index.into_iter().for_each(|index| self.is_sound_again(at, index));
                self.trace_line(|| format!("{at} has finished a snapshot: {}", snapshot.is_some()));
                self.follows(at, Event::SnapshotTaken(snapshot.map(|snapshot| durable_snapshot(&snapshot))));
                Ok(())
            }
            Ok(JobResult::Damaged) => {
                up.taking = false;
                up.applier.end_snapshot();
                self.snapshots.became.damaged[0] += 1;
                self.trace_line(|| format!("{at} has finished a snapshot that is damaged"));
                self.follows(at, Event::TakenDamaged);
                Ok(())
            }
            Ok(JobResult::Received { from, snapshot, next, damaged }) => {
                self.snapshots.became.damaged[1] += u64::from(damaged);
                self.follows(at, Event::ChunkStored { from, snapshot, next, damaged });
                Ok(())
            }
            Ok(JobResult::Inspected { snapshot, whole }) => {
                self.snapshots.became.damaged[2] += u64::from(!whole);
                self.trace_line(|| format!("{at} verifies its snapshot of {snapshot}: intact {whole}"));
                self.follows(at, Event::Inspected { snapshot, whole });
                Ok(())
            }
            Ok(JobResult::Complete(snapshot)) => {
                self.is_sound_again(at, snapshot.header().position.index);
                let life = self.hosts[&at].incarnation;
                let delay = Duration::from_micros(self.rng.random_range(10..50_000));
                self.later(delay, SimEvent::RestoreStep { at, life, snapshot: Box::new(snapshot) });
                Ok(())
            }
            Err(fault) => {
                self.stops(at, &fault);
                Ok(())
            }
        }
    }

    /// Restores a received snapshot: replaces the state machine and notifies the node at once.
    pub(super) fn continue_restore(&mut self, at: NodeId, snapshot: Snapshot) -> checks::Result<()> {
        self.applies_all(at)?;
        let Some(up) = &mut self.host(at).up else { return Ok(()) };
        let position = snapshot.header().position;
        let (applier, snapshot, base) = match Restore::begin(&up.applier, snapshot).all(&Meter::default()) {
            Ok(restored) => restored,
            Err(fault) => return Err(format!("{at} cannot restore from an intact snapshot: {fault}")),
        };
        if position.index <= up.applier.applied() {
            return Ok(());
        }
        up.applier = applier;
        let report = up.applier.apply(&[]);
        let (kept, time) = (durable_snapshot(&snapshot), snapshot.header().time);
        if std::mem::take(&mut up.taking) {
            // The frozen state is gone with the old state machine.
            self.job(at, Job::Abort)?;
        }
        self.snapshots.became.received += 1;
        self.snapshots.became.caught_up += u64::from(self.calm);
        self.trace_line(|| format!("{at} restores from a snapshot of {position}"));
        self.checks.check_restored_state(at, position, report.digest)?;
        self.handle(at, Event::Restored { kept, base, time, report })
    }

    /// A snapshot at least as new as a damaged one is durable on this machine.
    fn is_sound_again(&mut self, at: NodeId, index: Index) {
        if self.snapshots.rotten.get(&at).is_some_and(|rotten| *rotten <= index) {
            self.snapshots.rotten.remove(&at);
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
            self.snapshots.rotten.insert(at, position.index);
        }
    }

    /// A node reads the snapshot that it sends from a mapping of the file, so a chunk holds the file's current bytes.
    pub(super) fn reads_mapping(&self, envelope: &mut Envelope) {
        let Envelope { from, message: Message::InstallSnapshot(chunk), .. } = envelope else { return };
        if !self.snapshots.rotten.contains_key(from) {
            return;
        }
        let Some(seen) = self.hosts[from].snapshot_disk.seen(&file_name(chunk.snapshot)) else { return };
        let range = chunk.offset as usize..chunk.offset as usize + chunk.bytes.len();
        if let Some(bytes) = seen.get(range).filter(|_| seen.len() as u64 == chunk.total) {
            chunk.bytes = Bytes::copy_from_slice(bytes);
        }
    }

    /// The log may be discarded up to `upto`, once the journal has a moment.
    pub(super) fn releases(&mut self, at: NodeId, upto: Position) -> checks::Result<()> {
        let store = Store::open(self.hosts[&at].snapshot_disk.durable(), CLUSTER);
        let newest = store.and_then(|store| store.newest()).map_err(|fault| format!("{at}: {fault}"))?;
        let whole = newest.snapshot.map(|snapshot| snapshot.header().position.index);
        // A snapshot that was found whole and damaged later counts as held.
        let holds = whole.max(self.snapshots.rotten.get(&at).copied());
        self.checks.releases(at, upto.index, holds)?;
        if let Some(Process { release, .. }) = &mut self.host(at).up {
            *release = Some(upto);
        }
        Ok(())
    }
}
