//! A simulated world: virtual time, one event queue and one random generator around the real node, journal and applier.

use super::applier_input::ApplierInput;
use super::applying::ApplyRecords;
use super::checks::{self, Checks, CommitState};
use super::client_link::{FIRST_LINK, Links};
use super::clients::Client;
use super::disk::Crash;
use super::event::SimEvent;
use super::history::History;
use super::host::{Clock, Host};
use super::linked_client::LinkedClient;
use super::network::Network;
use super::operator::Operator;
use super::pipelined_connection::{FIRST_CONNECTION, Pipelines};
use super::progress::Progress;
use super::scenario::Scenario;
use super::snapshots::Snapshots;
use super::values::Values;
use crate::consensus::message::Envelope;
use crate::consensus::note::Note;
use crate::node::{Action, Caller, Event};
use crate::snapshotting::Job;
use crate::types::digest;
use crate::types::{NodeId, Time};
use crate::wal::Fault;
use crate::wire::client::put_reply_frame;
use crate::wire::peer::PeerFrame;
use bytes::BytesMut;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;

/// A receiver of trace lines.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    /// Events before this time are not traced.
    pub from: Time,
    /// Called with one line for each event.
    pub tell: fn(&str),
}

/// The simulated world.
pub struct World {
    pub(super) scenario: Scenario,
    pub(super) now: Time,
    pub(super) rng: SmallRng,
    pub(super) queue: BTreeMap<(Time, u64), SimEvent>,
    order: u64,
    pub(super) hosts: BTreeMap<NodeId, Host>,
    pub(super) network: Network,
    pub(super) clients: BTreeMap<u64, Client>,
    pub(super) linked: BTreeMap<u64, LinkedClient>,
    pub(super) links: Links,
    pub(super) operator: Operator,
    /// The next wake-up of each client.
    pub(super) wakes: BTreeMap<u64, Time>,
    pub(super) history: History,
    pub(super) values: Values,
    pub(super) pipelines: Pipelines,
    pub(super) checks: Checks,
    /// A hash over all that was sent, written and answered.
    pub(super) hash: u64,
    pub(super) steps: u64,
    pub(super) faults: u64,
    pub(super) syncs: u64,
    /// Starts that failed for lack of disk space, and starts that recovered less than the disk had reported as synced.
    pub(super) full_starts: u64,
    pub(super) lost_writes: u64,
    /// How often a disk that an older copy had replaced was swapped back in.
    pub(super) twins: u64,
    /// How often a machine whose damaged disk kept it from starting was given another disk.
    pub(super) replaced: u64,
    pub(super) snapshots: Snapshots,
    pub(super) progress: Progress,
    pub(super) calm: bool,
    pub(super) trace: Option<Trace>,
}

impl World {
    /// A world of this scenario, with all machines scheduled to start.
    pub fn new(scenario: Scenario) -> World {
        let mut rng = SmallRng::seed_from_u64(scenario.seed);
        let ids: Vec<NodeId> = (1..=scenario.nodes + scenario.spares).filter_map(NodeId::new).collect();
        let skew = i64::from(scenario.skew) * 1000;
        let mut clock = || Clock::new(Duration::from_secs(rng.random_range(1..1000)), rng.random_range(-skew..=skew));
        let mut host = |id: NodeId| (id, Host::new(id, id.get() <= scenario.nodes, clock()));
        let hosts = ids.iter().map(|id| host(*id)).collect();
        let client = |id| (id, Client::new(id, scenario.load.clone(), ids.clone()));
        let mut world = World {
            now: Time(1),
            rng,
            queue: BTreeMap::new(),
            order: 0,
            hosts,
            network: Network::new(scenario.weather.clone()),
            clients: (1..=scenario.load.clients).map(client).collect(),
            linked: BTreeMap::new(),
            links: Links::default(),
            operator: Operator::default(),
            wakes: BTreeMap::new(),
            history: History::default(),
            values: Values::default(),
            pipelines: Pipelines::default(),
            checks: Checks::new(ids.iter().copied(), scenario.founding()),
            hash: scenario.seed,
            steps: 0,
            faults: 0,
            syncs: 0,
            full_starts: 0,
            lost_writes: 0,
            twins: 0,
            replaced: 0,
            snapshots: Snapshots::default(),
            progress: Progress::default(),
            calm: false,
            trace: None,
            scenario,
        };
        for at in ids {
            let delay = Duration::from_millis(world.rng.random_range(0..300));
            world.later(delay, SimEvent::Starts { at });
        }
        for client in 1..=world.scenario.load.clients {
            world.wake_at(client, Time(client * 1_000_000));
        }
        let endpoints: Vec<NodeId> = world.hosts.keys().copied().collect();
        world.linked = LinkedClient::all(&world.scenario.load, &endpoints, &mut world.rng).into_iter().collect();
        for (n, client) in world.linked.keys().copied().enumerate().collect::<Vec<_>>() {
            world.wake_at(client, Time((n as u64 + 1) * 1_500_000));
        }
        world.later(world.scenario.every, SimEvent::Trouble);
        if world.scenario.governance.every.is_some() {
            world.later(Duration::from_millis(500), SimEvent::Governs);
        }
        world
    }

    pub(super) fn later(&mut self, delay: Duration, happens: SimEvent) {
        self.at(self.now + delay, happens);
    }

    pub(super) fn at(&mut self, when: Time, happens: SimEvent) {
        self.order += 1;
        self.queue.insert((when.max(self.now), self.order), happens);
    }

    pub(super) fn trace_line(&self, text: impl FnOnce() -> String) {
        if let Some(trace) = self.trace
            && self.now >= trace.from
        {
            (trace.tell)(&format!("{:?} {}", self.now, text()));
        }
    }

    pub(super) fn fold(&mut self, bytes: &[u8]) {
        self.hash = digest::hash(self.hash, bytes);
    }

    /// Whether the scenario's step limit is reached.
    pub(super) fn is_out_of_steps(&self) -> bool {
        self.scenario.steps.is_some_and(|most| self.steps >= most)
    }

    /// Handles the next event if it is due by `until`. Returns whether there was one.
    pub fn step(&mut self, until: Time) -> checks::Result<bool> {
        match self.queue.first_key_value() {
            _ if self.is_out_of_steps() && !self.calm => return Ok(false),
            Some(((when, _), _)) if *when <= until => {}
            _ => {
                self.now = self.now.max(until);
                return Ok(false);
            }
        }
        let Some(((when, _), happens)) = self.queue.pop_first() else { return Ok(false) };
        self.now = when;
        self.steps += 1;
        self.watch_progress()?;
        self.happen(happens)?;
        Ok(true)
    }

    fn happen(&mut self, happens: SimEvent) -> checks::Result<()> {
        // Events of a paused process are put off until it resumes.
        if let Some(at) = happens.place()
            && self.hosts[&at].paused > self.now
        {
            let when = self.hosts[&at].paused;
            self.at(when, happens);
            return Ok(());
        }
        match happens {
            SimEvent::Arrives { to, from, disks, run, bytes } => self.arrives(to, from, disks, run, &bytes),
            SimEvent::Closed { at, peer, end, run } => self.closed(at, peer, end, run),
            SimEvent::Dials { at, life, peer } => {
                if self.lives(at, life) {
                    self.dials(at, peer);
                }
                Ok(())
            }
            SimEvent::Welcomed { at, peer, run, bytes } => self.welcomed(at, peer, run, bytes),
            SimEvent::Asked { to, client, bytes } => self.receive_request(to, client, bytes),
            SimEvent::Told { client, bytes } => self.receive_reply(client, bytes),
            SimEvent::Linked { link, what, .. } => self.on_link(link, what),
            SimEvent::Synced { at, life } if self.lives(at, life) => self.synced(at),
            SimEvent::Idle { at, life } if self.lives(at, life) => self.idle(at),
            SimEvent::Spared { at, life } if self.lives(at, life) => self.spared(at),
            SimEvent::Applies { at, life } if self.lives(at, life) => self.process_next_inputs(at),
            SimEvent::Looks { at, life } if self.lives(at, life) => self.looks(at),
            SimEvent::Due { at, life, when } if self.lives(at, life) => self.due(at, when),
            SimEvent::Piece { at, life } if self.lives(at, life) => self.continue_snapshot(at),
            SimEvent::Follows { at, life, event } if self.lives(at, life) => self.handle(at, *event),
            SimEvent::Synced { .. } | SimEvent::Idle { .. } | SimEvent::Spared { .. } | SimEvent::Due { .. } => Ok(()),
            SimEvent::RestoreStep { at, life, snapshot } if self.lives(at, life) => {
                self.restore_snapshot(at, *snapshot)
            }
            SimEvent::Looks { .. }
            | SimEvent::Piece { .. }
            | SimEvent::RestoreStep { .. }
            | SimEvent::Follows { .. } => Ok(()),
            SimEvent::Applies { .. } => Ok(()),
            SimEvent::Starts { at } => self.starts(at),
            SimEvent::Wakes { client, when } if self.wakes.get(&client) == Some(&when) => {
                self.wakes.remove(&client);
                self.wakes(client)
            }
            SimEvent::Wakes { .. } => Ok(()),
            SimEvent::Trouble => self.trouble(),
            SimEvent::Governs => self.run_operator(),
            SimEvent::Ends { at, life } if self.lives(at, life) => self.end_process(at),
            SimEvent::Ends { .. } => Ok(()),
            SimEvent::Turns { at, life } if self.lives(at, life) => self.turn(at),
            SimEvent::Pipelined { at, life, connection, more } if self.lives(at, life) => {
                self.pipelined(at, connection, more)
            }
            SimEvent::Turns { .. } | SimEvent::Pipelined { .. } => Ok(()),
        }
    }

    pub(super) fn lives(&self, at: NodeId, life: u64) -> bool {
        self.hosts[&at].up.is_some() && self.hosts[&at].incarnation == life
    }

    pub(super) fn host(&mut self, id: NodeId) -> &mut Host {
        self.hosts.get_mut(&id).expect("every node has a host")
    }

    /// Starts a machine, unless it is already running.
    fn starts(&mut self, at: NodeId) -> checks::Result<()> {
        let (scenario, now, seed) = (self.scenario.clone(), self.now, self.rng.random());
        let host = self.host(at);
        if host.up.is_some() || host.refused_start {
            return Ok(());
        }
        match host.boot(&scenario, now, seed) {
            Ok(image) => {
                self.trace_line(|| format!("{at} starts with {} entries, {:?}", image.log.len(), image.hard_state));
                self.recovers(at, image)?;
                for other in self.others(at) {
                    self.relink(at, other);
                }
                self.turn(at)?;
                self.open_connections(at);
                self.looks(at)
            }
            Err(fault) => self.refuses(at, fault),
        }
    }

    /// Handles a failed start of a machine.
    fn refuses(&mut self, at: NodeId, fault: Fault) -> checks::Result<()> {
        self.trace_line(|| format!("{at} does not start: {fault}"));
        self.full_starts += u64::from(matches!(fault, Fault::Full { .. }));
        match fault {
            Fault::Corrupt { .. } if self.is_damaged(at) => self.host(at).refused_start = true,
            Fault::Corrupt { .. } => return Err(format!("{at} rejects an undamaged log: {fault}")),
            Fault::Foreign(what) => return Err(format!("{at} rejects its own directory: {what}")),
            Fault::Full { .. } | Fault::Io { .. } => {
                // Without free space the start fails again, until the fault injector frees some.
                self.crash(at, if self.hosts[&at].has_stopped() { Crash::Power } else { Crash::Kill });
                self.later(Duration::from_millis(200), SimEvent::Starts { at });
            }
        }
        Ok(())
    }

    pub(super) fn others(&self, than: NodeId) -> Vec<NodeId> {
        self.hosts.keys().copied().filter(|id| *id != than).collect()
    }

    /// Ends a process, or cuts the power of its machine.
    pub(super) fn crash(&mut self, at: NodeId, how: Crash) {
        let mut rng = SmallRng::seed_from_u64(self.rng.random());
        self.lies_no_more(at, if self.hosts[&at].damaged { Crash::Kill } else { how });
        let host = self.host(at);
        let was_up = host.up.take().is_some();
        // Damage to the last batch *and* a power loss look like a batch torn by the power loss (wal-format.md). A
        // machine with such damage is only ever killed.
        let how = if host.damaged { Crash::Kill } else { how };
        host.disk.crash(&mut rng, how);
        host.snapshot_disk.crash(&mut rng, how);
        host.root.crash(&mut rng, how);
        host.paused = Time::ZERO;
        self.progress.unfit_until(at, self.now);
        self.trace_line(|| format!("{at} crashes: {how:?}"));
        self.links_end(at, how == Crash::Power);
        if was_up && how == Crash::Kill {
            self.close_all(at);
        }
    }

    /// A process stops itself because of a disk fault.
    pub(super) fn stops(&mut self, at: NodeId, fault: &Fault) {
        self.trace_line(|| format!("{at} stops: {fault}"));
        let how = if self.hosts[&at].has_stopped() { Crash::Power } else { Crash::Kill };
        self.crash(at, how);
        let delay = Duration::from_millis(self.rng.random_range(50..2000));
        self.later(delay, SimEvent::Starts { at });
    }

    fn due(&mut self, at: NodeId, when: Time) -> checks::Result<()> {
        match &mut self.host(at).up {
            Some(up) if up.tick_at == Some(when) => up.tick_at = None,
            _ => return Ok(()),
        }
        self.turn(at)
    }

    pub(super) fn handle(&mut self, at: NodeId, event: Event) -> checks::Result<()> {
        let now = self.now;
        let host = self.host(at);
        let local = host.clock.local(now);
        let Some(up) = &mut host.up else { return Ok(()) };
        up.node.handle(local, event);
        if self.scenario.batching > 0 && self.rng.random_range(0..100) < self.scenario.batching {
            // The same wake-up brings more events, and one turn follows them all.
            let life = self.hosts[&at].incarnation;
            let delay = Duration::from_micros(self.rng.random_range(0..300));
            self.later(delay, SimEvent::Turns { at, life });
            return Ok(());
        }
        self.turn(at)
    }

    /// Schedules the event with which a background job reports to its node, a moment from now.
    pub(super) fn follows(&mut self, at: NodeId, event: Event) {
        let life = self.hosts[&at].incarnation;
        let delay = Duration::from_micros(self.rng.random_range(1..500));
        self.later(delay, SimEvent::Follows { at, life, event: Box::new(event) });
    }

    /// Runs the node's turn and executes its actions, until none causes another turn.
    pub(super) fn turn(&mut self, at: NodeId) -> checks::Result<()> {
        let mut actions = Vec::new();
        loop {
            let now = self.now;
            let host = self.host(at);
            let local = host.clock.local(now);
            let Some(up) = &mut host.up else { return Ok(()) };
            up.node.turn(local, &mut actions);
            // Writes first: all other actions are checked against the contents of the log.
            let (writes, rest): (Vec<_>, Vec<_>) =
                actions.drain(..).partition(|action| matches!(action, Action::Write(_)));
            let mut again = false;
            for action in writes {
                again |= self.execute(at, action)?;
            }
            self.check_commit_state(at)?;
            for action in rest {
                again |= self.execute(at, action)?;
            }
            if !again {
                break;
            }
        }
        self.write_on(at)?;
        self.arranges(at);
        self.schedule(at);
        Ok(())
    }

    fn check_commit_state(&mut self, at: NodeId) -> checks::Result<()> {
        let Some(up) = &self.hosts[&at].up else { return Ok(()) };
        let raft = up.node.raft();
        let (term, leads) = (raft.term(), raft.leads());
        // Entries that a snapshot covers are committed too: a snapshot from a former leader may arrive at the new
        // leader.
        let snapshot = up.node.snapshot().map(|kept| kept.position.index);
        let (commit, defined) = (raft.log().commit(), raft.commit_by_definition().max(snapshot));
        let uses = (raft.configured(), raft.membership());
        let bounded = up.node.held() <= HELD_MAX;
        if !bounded {
            return Err(format!("{at} holds {} requests, more than {HELD_MAX}", up.node.held()));
        }
        up.check_index_order(at)?;
        self.checks.check_role_and_commit(at, CommitState { term, leads, commit, defined }, uses)
    }

    pub(super) fn schedule(&mut self, at: NodeId) {
        let now = self.now;
        let host = self.host(at);
        let Some(up) = &mut host.up else { return };
        let deadline = up.node.deadline();
        if deadline == Time::NEVER {
            return;
        }
        let when = host.clock.world(deadline).max(Time(now.0 + 1));
        if up.tick_at.is_none_or(|tick| when < tick) {
            up.tick_at = Some(when);
            let life = host.incarnation;
            self.at(when, SimEvent::Due { at, life, when });
        }
    }

    /// Executes one action. Returns whether the node may have something to do at once because of it.
    fn execute(&mut self, at: NodeId, action: Action) -> checks::Result<bool> {
        match action {
            Action::Send(mut envelope) => {
                self.snapshots.read_mapping(&self.hosts[&at].snapshot_disk, &mut envelope);
                self.checks.sends(&envelope)?;
                self.trace_line(|| format!("{at} → {}: {}", envelope.to, brief(&envelope)));
                self.send(at, envelope.to, &PeerFrame::Raft(envelope))?;
            }
            Action::Forward { to, id, request } => self.send(at, to, &PeerFrame::Forward { id, request })?,
            Action::Reply { to: Caller::Peer(peer), id, reply } => {
                self.send(at, peer, &PeerFrame::Answer { id, reply })?;
            }
            Action::Reply { to: Caller::Client(link), id, reply } if link >= FIRST_LINK => {
                self.answers_link(at, link, id, &reply);
            }
            Action::Reply { to: Caller::Client(client), id, reply } if client >= FIRST_CONNECTION => {
                self.answers_connection(at, client, id, reply)?;
            }
            Action::Reply { to: Caller::Client(client), id, reply } => {
                self.trace_line(|| format!("{at} answers client {client}: {reply:?}"));
                let mut bytes = BytesMut::new();
                put_reply_frame(&mut bytes, id, &reply);
                self.fold(&bytes);
                let delay = self.network.delay(&mut self.rng);
                self.later(delay, SimEvent::Told { client, bytes: bytes.freeze() });
            }
            Action::Write(write) => self.writes(at, write)?,
            Action::TakeSnapshot { configured, membership } => self.begin_snapshot(at, configured, membership)?,
            Action::StoreChunk { from, chunk } => self.store_chunk(at, from, chunk)?,
            Action::Inspect { follower, snapshot, times } => {
                self.run_snapshot_job(at, Job::Inspect { follower, snapshot, times })?;
            }
            Action::CompactJournal(upto) => self.compact_log(at, upto)?,
            Action::Apply(entries) => return self.submit_input(at, ApplierInput::Entries(entries)),
            Action::Query { ticket, query, time } => {
                return self.submit_input(at, ApplierInput::Query(ticket, query, time));
            }
            Action::Note(note) => {
                self.trace_line(|| format!("{at} {note}"));
                if let Note::InvalidMessage { peer, what } = note {
                    return Err(format!("{at} received an invalid message from {peer}: {what}"));
                }
            }
            Action::Stop(fault) => self.stops(at, &fault),
        }
        Ok(false)
    }

    /// Submits an input to a state machine, which processes it at once or after a delay. Returns whether it has.
    fn submit_input(&mut self, at: NodeId, input: ApplierInput) -> checks::Result<bool> {
        let most = self.scenario.apply.as_nanos() as u64;
        let delay = Duration::from_nanos(if most == 0 { 0 } else { self.rng.random_range(0..=most) });
        let Some(up) = &mut self.host(at).up else { return Ok(false) };
        if delay == Duration::ZERO && up.inputs.is_empty() {
            self.process_inputs(at, [input])?;
            return Ok(true);
        }
        up.inputs.push(input);
        if up.inputs.len() == 1 {
            let life = self.hosts[&at].incarnation;
            self.later(delay, SimEvent::Applies { at, life });
        }
        Ok(false)
    }

    /// Lets a state machine finish its first pending input, and the queries right behind it.
    fn process_next_inputs(&mut self, at: NodeId) -> checks::Result<()> {
        let inputs = self.host(at).up.as_mut().map(|up| up.inputs.take_first());
        self.process_inputs(at, inputs.unwrap_or_default())?;
        if self.hosts[&at].up.as_ref().is_some_and(|up| !up.inputs.is_empty()) {
            let life = self.hosts[&at].incarnation;
            let delay = Duration::from_nanos(self.rng.random_range(0..=self.scenario.apply.as_nanos() as u64));
            self.later(delay, SimEvent::Applies { at, life });
        }
        self.turn(at)
    }

    /// Lets a state machine process all pending inputs, before a snapshot replaces it.
    pub(super) fn process_all_inputs(&mut self, at: NodeId) -> checks::Result<()> {
        let inputs = self.host(at).up.as_mut().map(|up| up.inputs.take_all());
        self.process_inputs(at, inputs.unwrap_or_default())
    }

    fn process_inputs(&mut self, at: NodeId, inputs: impl IntoIterator<Item = ApplierInput>) -> checks::Result<()> {
        let host = self.hosts.get_mut(&at).expect("every node has a host");
        let local = host.clock.local(self.now);
        let Some(up) = &mut host.up else { return Ok(()) };
        let (checks, values, order) = (&mut self.checks, &mut self.values, &mut self.pipelines.order);
        up.process_inputs(at, local, inputs, ApplyRecords { checks, values, order })
    }

    /// The history of the clients' operations.
    pub(super) fn history(&self) -> &History {
        &self.history
    }
}

/// More requests than the clients of any scenario can have in progress.
const HELD_MAX: usize = 4096;

/// A message as a short trace text.
fn brief(envelope: &Envelope) -> String {
    let text = format!("@{} {:?}", envelope.term, envelope.message);
    text.chars().take(200).collect()
}
