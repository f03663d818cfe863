//! A simulated world: virtual time, one event queue and one random generator around the real nodes, journals and state
//! machines.

use super::applier_input::ApplierInput;
use super::applying::ApplyRecords;
use super::checks::{self, Checks, CommitState};
use super::client_link::{ClientLinks, FIRST_LINK_CALLER_ID};
use super::clients::Client;
use super::disk::Crash;
use super::event::SimEvent;
use super::history::History;
use super::host::{Clock, Host, StartResult};
use super::linked_client::LinkedClient;
use super::network::Network;
use super::operator::Operator;
use super::pipelined_connection::{FIRST_PIPELINE_CALLER_ID, Pipelines};
use super::progress::Progress;
use super::scenario::Scenario;
use super::snapshots::Snapshots;
use super::values::ValueHistory;
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

/// Where the trace of a run is written: one line of text for each traced event.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    /// The simulated time from which on events are traced.
    pub from: Time,
    /// Writes one line. The text contains no line break at its end.
    pub write_line: fn(&str),
}

/// The simulated world. Every part of it draws from the one generator and queues its events in the one queue, so that
/// the seed determines the whole history.
pub struct World {
    pub(super) scenario: Scenario,
    pub(super) now: Time,
    pub(super) rng: SmallRng,
    /// The future events, ordered by their time and then by the order in which they were queued.
    pub(super) queue: BTreeMap<(Time, u64), SimEvent>,
    /// The number of the last queued event.
    last_event_number: u64,
    pub(super) hosts: BTreeMap<NodeId, Host>,
    pub(super) network: Network,
    /// The clients without connections, by their numbers.
    pub(super) clients: BTreeMap<u64, Client>,
    /// The clients with connections, by their numbers.
    pub(super) linked_clients: BTreeMap<u64, LinkedClient>,
    pub(super) client_links: ClientLinks,
    pub(super) operator: Operator,
    /// The time of the next scheduled wake-up of each client.
    pub(super) wakeups: BTreeMap<u64, Time>,
    pub(super) history: History,
    pub(super) value_history: ValueHistory,
    pub(super) pipelines: Pipelines,
    pub(super) checks: Checks,
    /// A hash over all that was sent, written and answered.
    pub(super) hash: u64,
    /// How many events were handled.
    pub(super) steps: u64,
    /// How many random faults were injected, plus how many disks were wiped.
    pub(super) faults: u64,
    /// How many log syncs were completed, counted over all machines.
    pub(super) syncs: u64,
    /// How many starts failed for lack of disk space.
    pub(super) disk_full_starts: u64,
    /// How many times the upgrade has asked a leader to raise the feature level.
    pub(super) upgrade_requests: u64,
    /// How many configurations of a raised feature level leaders have written.
    pub(super) raised_levels: u64,
    /// How many times a machine has refused a feature level that its version does not know.
    pub(super) refused_levels: u64,
    /// How many starts recovered less than the disk had reported as synced.
    pub(super) lost_writes: u64,
    /// How many damaged journals were repaired at a start.
    pub(super) repairs: u64,
    /// How often the logs of two machines were damaged at once.
    pub(super) pair_damages: u64,
    /// How often a node got lost entries back without a leader.
    pub(super) leaderless_appends: u64,
    /// How often a node found one of its files damaged when it checked them.
    pub(super) scrub_findings: u64,
    /// How many segments that were damaged beneath a running process were gone at the end of a check.
    pub(super) mended_segments: u64,
    /// How often a disk that an older copy had replaced was swapped back in.
    pub(super) disk_swaps: u64,
    /// How often a machine whose damaged disk kept it from starting was given another disk.
    pub(super) replaced_disks: u64,
    pub(super) snapshots: Snapshots,
    pub(super) progress: Progress,
    /// Whether no more faults are injected, so that the world has to come to rest.
    pub(super) faults_over: bool,
    pub(super) trace: Option<Trace>,
}

impl World {
    /// A world of this scenario, with all machines scheduled to start.
    pub fn new(scenario: Scenario) -> World {
        let mut rng = SmallRng::seed_from_u64(scenario.seed);
        let ids: Vec<NodeId> = (1..=scenario.nodes + scenario.spare_machines).filter_map(NodeId::new).collect();
        let drift_ppm_max = i64::from(scenario.drift_permille) * 1000;
        let mut clock = || {
            Clock::new(Duration::from_secs(rng.random_range(1..1000)), rng.random_range(-drift_ppm_max..=drift_ppm_max))
        };
        let mut host = |id: NodeId| (id, Host::new(id, id.get() <= scenario.nodes, clock()));
        let hosts = ids.iter().map(|id| host(*id)).collect();
        let client = |id| (id, Client::new(id, scenario.load.clone(), ids.clone()));
        let mut world = World {
            now: Time(1),
            rng,
            queue: BTreeMap::new(),
            last_event_number: 0,
            hosts,
            network: Network::new(scenario.network.clone()),
            clients: (1..=scenario.load.clients).map(client).collect(),
            linked_clients: BTreeMap::new(),
            client_links: ClientLinks::default(),
            operator: Operator::default(),
            wakeups: BTreeMap::new(),
            history: History::default(),
            value_history: ValueHistory::default(),
            pipelines: Pipelines::default(),
            checks: Checks::new(ids.iter().copied(), scenario.founding_membership()),
            hash: scenario.seed,
            steps: 0,
            faults: 0,
            syncs: 0,
            disk_full_starts: 0,
            upgrade_requests: 0,
            raised_levels: 0,
            refused_levels: 0,
            lost_writes: 0,
            repairs: 0,
            pair_damages: 0,
            leaderless_appends: 0,
            scrub_findings: 0,
            mended_segments: 0,
            disk_swaps: 0,
            replaced_disks: 0,
            snapshots: Snapshots::default(),
            progress: Progress::default(),
            faults_over: false,
            trace: None,
            scenario,
        };
        for at in ids {
            let delay = Duration::from_millis(world.rng.random_range(0..300));
            world.schedule_after(delay, SimEvent::ProcessStart { at });
        }
        for client in 1..=world.scenario.load.clients {
            world.schedule_wakeup(client, Time(client * 1_000_000));
        }
        let node_ids: Vec<NodeId> = world.hosts.keys().copied().collect();
        world.linked_clients =
            LinkedClient::create_all(&world.scenario.load, &node_ids, &mut world.rng).into_iter().collect();
        for (n, client) in world.linked_clients.keys().copied().enumerate().collect::<Vec<_>>() {
            world.schedule_wakeup(client, Time((n as u64 + 1) * 1_500_000));
        }
        world.schedule_after(world.scenario.fault_interval, SimEvent::FaultInjection);
        if world.scenario.operator.interval.is_some() {
            world.schedule_after(Duration::from_millis(500), SimEvent::OperatorTurn);
        }
        if world.mixes_versions() {
            world.schedule_after(Duration::from_millis(300), SimEvent::UpgradeTurn);
        }
        world
    }

    /// Queues an event for `delay` from now.
    pub(super) fn schedule_after(&mut self, delay: Duration, event: SimEvent) {
        self.schedule_at(self.now + delay, event);
    }

    /// Queues an event for that time, or for now if the time has passed.
    pub(super) fn schedule_at(&mut self, when: Time, event: SimEvent) {
        self.last_event_number += 1;
        self.queue.insert((when.max(self.now), self.last_event_number), event);
    }

    /// Writes a line to the trace. `text` is only called if the line is written.
    pub(super) fn trace_line(&self, text: impl FnOnce() -> String) {
        if let Some(trace) = self.trace
            && self.now >= trace.from
        {
            (trace.write_line)(&format!("{:?} {}", self.now, text()));
        }
    }

    /// Adds bytes to the hash of the run.
    pub(super) fn fold_into_hash(&mut self, bytes: &[u8]) {
        self.hash = digest::hash(self.hash, bytes);
    }

    /// Whether the scenario's step limit is reached.
    pub(super) fn is_out_of_steps(&self) -> bool {
        self.scenario.step_limit.is_some_and(|limit| self.steps >= limit)
    }

    /// Handles the next event if its time is at most `until`. Returns whether there was such an event.
    pub fn step(&mut self, until: Time) -> checks::Result<bool> {
        match self.queue.first_key_value() {
            _ if self.is_out_of_steps() && !self.faults_over => return Ok(false),
            Some(((when, _), _)) if *when <= until => {}
            _ => {
                self.now = self.now.max(until);
                return Ok(false);
            }
        }
        let Some(((when, _), event)) = self.queue.pop_first() else { return Ok(false) };
        self.now = when;
        self.steps += 1;
        self.check_progress()?;
        self.dispatch(event)?;
        Ok(true)
    }

    fn dispatch(&mut self, event: SimEvent) -> checks::Result<()> {
        // Events of a paused process are postponed until it resumes.
        if let Some(at) = event.postponing_machine()
            && self.hosts[&at].paused_until > self.now
        {
            let resume_time = self.hosts[&at].paused_until;
            self.schedule_at(resume_time, event);
            return Ok(());
        }
        if let Some((at, incarnation)) = event.target_process()
            && !self.is_running(at, incarnation)
        {
            return Ok(());
        }
        match event {
            SimEvent::PeerBytes { to, from, disks, generation, bytes } => {
                self.receive_peer_bytes(to, from, disks, generation, &bytes)
            }
            SimEvent::PeerClosed { at, peer, end, generation } => self.handle_close(at, peer, end, generation),
            SimEvent::DialPeer { at, peer, .. } => {
                self.dial_peer(at, peer);
                Ok(())
            }
            SimEvent::PeerWelcome { at, peer, generation, bytes } => self.handle_welcome(at, peer, generation, bytes),
            SimEvent::ClientRequest { to, client, bytes } => self.receive_request(to, client, bytes),
            SimEvent::ClientReply { client, bytes } => self.receive_reply(client, bytes),
            SimEvent::ClientLink { link, event, .. } => self.handle_link_event(link, event),
            SimEvent::SyncDone { at, .. } => self.finish_sync(at),
            SimEvent::LogIdle { at, .. } => self.record_idle_sync(at),
            SimEvent::SpareSegmentReady { at, .. } => self.add_spare_segment(at),
            SimEvent::ApplierInputDone { at, .. } => self.handle_next_applier_inputs(at),
            SimEvent::SpaceCheck { at, .. } => self.check_free_space(at),
            SimEvent::SnapshotStep { at, .. } => self.continue_snapshot(at),
            SimEvent::ScrubStep { at, pass, .. } => self.continue_scrub(at, pass),
            SimEvent::SnapshotRestore { at, snapshot, .. } => self.restore_snapshot(at, *snapshot),
            SimEvent::NodeEvent { at, event, .. } => self.deliver_event(at, *event),
            SimEvent::Deadline { at, when, .. } => self.handle_deadline(at, when),
            SimEvent::ProcessStart { at } => self.start_process(at),
            SimEvent::ClientWakeup { client, when } if self.wakeups.get(&client) == Some(&when) => {
                self.wakeups.remove(&client);
                self.wake_client(client)
            }
            SimEvent::ClientWakeup { .. } => Ok(()),
            SimEvent::FaultInjection => self.inject_random_fault(),
            SimEvent::OperatorTurn => self.run_operator(),
            SimEvent::UpgradeTurn => self.run_upgrade_turn(),
            SimEvent::ProcessEnd { at, .. } => self.end_process(at),
            SimEvent::NodeTurn { at, .. } => self.run_node(at),
            SimEvent::PipelineTurn { at, connection, adds_requests, .. } => {
                self.run_pipeline_turn(at, connection, adds_requests)
            }
        }
    }

    /// Whether that incarnation of a machine's process is still running.
    pub(super) fn is_running(&self, at: NodeId, incarnation: u64) -> bool {
        self.hosts[&at].process.is_some() && self.hosts[&at].incarnation == incarnation
    }

    pub(super) fn host(&mut self, id: NodeId) -> &mut Host {
        self.hosts.get_mut(&id).expect("every node has a host")
    }

    /// Starts a machine's process, unless a process is running or the machine has refused to start.
    fn start_process(&mut self, at: NodeId) -> checks::Result<()> {
        let (scenario, now, seed) = (self.scenario.clone(), self.now, self.rng.random());
        if self.hosts[&at].process.is_some() || self.hosts[&at].refused_start {
            return Ok(());
        }
        self.draw_versions(at);
        let image_before = self.image_before_start(at);
        match self.host(at).boot(&scenario, now, seed) {
            Ok(StartResult { image, repair_note, has_no_members }) => {
                if let Some(note) = &repair_note {
                    self.trace_line(|| format!("{at} repairs its journal: {note}"));
                }
                self.trace_line(|| format!("{at} starts with {} entries, {:?}", image.log.len(), image.hard_state));
                match repair_note.is_some() || self.checks.is_raised_by_repair(at, image.hard_state.promised_position) {
                    true => self.check_repair(at, image, has_no_members)?,
                    false => self.check_recovery(at, image)?,
                }
                for other in self.other_nodes(at) {
                    self.reset_connections(at, other);
                }
                self.run_node(at)?;
                self.open_pipelines(at);
                self.check_free_space(at)
            }
            Err(Fault::Foreign(what)) => {
                self.trace_line(|| format!("{at} does not start: {what}"));
                self.handle_version_refusal(at, &what, image_before)
            }
            Err(fault) => self.handle_failed_start(at, fault),
        }
    }

    /// Handles a failed start. Damage is a violation unless the machine's files were damaged. After other failures the
    /// start is retried.
    fn handle_failed_start(&mut self, at: NodeId, fault: Fault) -> checks::Result<()> {
        self.trace_line(|| format!("{at} does not start: {fault}"));
        self.disk_full_starts += u64::from(matches!(fault, Fault::Full { .. }));
        match fault {
            Fault::Corrupt { .. } if self.is_damaged(at) => self.host(at).refused_start = true,
            Fault::Corrupt { .. } => return Err(format!("{at} rejects an undamaged log: {fault}")),
            Fault::Foreign(what) => return Err(format!("{at} rejects its own directory: {what}")),
            Fault::Full { .. } | Fault::Io { .. } => {
                // On a full disk, the start keeps failing until the disk has space again.
                self.crash(at, if self.hosts[&at].disk_has_stopped() { Crash::Power } else { Crash::Kill });
                self.schedule_after(Duration::from_millis(200), SimEvent::ProcessStart { at });
            }
        }
        Ok(())
    }

    pub(super) fn other_nodes(&self, node: NodeId) -> Vec<NodeId> {
        self.hosts.keys().copied().filter(|id| *id != node).collect()
    }

    /// Kills a machine's process, or cuts the machine's power. The machine stays down until it is started.
    pub(super) fn crash(&mut self, at: NodeId, how: Crash) {
        let mut rng = SmallRng::seed_from_u64(self.rng.random());
        self.resolve_false_sync(at, if self.hosts[&at].has_damaged_file { Crash::Kill } else { how });
        let host = self.host(at);
        let was_up = host.process.take().is_some();
        // After damage to the last batch and then a power loss, recovery would find what looks like a batch that the
        // power loss has torn (wal-format.md). A damaged machine therefore writes all data before it restarts.
        let how = if host.has_damaged_file && how == Crash::Power { Crash::Reboot } else { how };
        host.disk.crash(&mut rng, how);
        host.snapshot_disk.crash(&mut rng, how);
        host.identity_disk.crash(&mut rng, how);
        host.paused_until = Time::ZERO;
        self.progress.mark_unhealthy_until(at, self.now);
        self.trace_line(|| format!("{at} crashes: {how:?}"));
        self.end_links(at, how == Crash::Power);
        if was_up && how != Crash::Power {
            self.close_peer_connections(at);
        }
    }

    /// Stops a process because of a disk fault, and starts it again within two seconds.
    pub(super) fn stop_process(&mut self, at: NodeId, fault: &Fault) {
        self.trace_line(|| format!("{at} stops: {fault}"));
        self.record_refused_level(at, fault);
        let how = if self.hosts[&at].disk_has_stopped() { Crash::Power } else { Crash::Kill };
        self.crash(at, how);
        let delay = Duration::from_millis(self.rng.random_range(50..2000));
        self.schedule_after(delay, SimEvent::ProcessStart { at });
    }

    /// Runs the turn of a node whose deadline passes, unless another deadline has replaced this one.
    fn handle_deadline(&mut self, at: NodeId, when: Time) -> checks::Result<()> {
        match &mut self.host(at).process {
            Some(process) if process.queued_deadline == Some(when) => process.queued_deadline = None,
            _ => return Ok(()),
        }
        self.run_node(at)
    }

    /// Delivers an event to a node, and runs the node's turn now or, together with later events, a moment later.
    pub(super) fn deliver_event(&mut self, at: NodeId, event: Event) -> checks::Result<()> {
        let now = self.now;
        let host = self.host(at);
        let local_time = host.clock.local_time(now);
        let Some(process) = &mut host.process else { return Ok(()) };
        process.node.handle(local_time, event);
        if self.scenario.batching_percent > 0 && self.rng.random_range(0..100) < self.scenario.batching_percent {
            // Other events may follow before the scheduled turn, as when a real process wakes up for several events at
            // once.
            let incarnation = self.hosts[&at].incarnation;
            let delay = Duration::from_micros(self.rng.random_range(0..300));
            self.schedule_after(delay, SimEvent::NodeTurn { at, incarnation });
            return Ok(());
        }
        self.run_node(at)
    }

    /// Schedules the delivery of an event to a node a moment from now, such as the completion of a background job.
    pub(super) fn schedule_node_event(&mut self, at: NodeId, event: Event) {
        let incarnation = self.hosts[&at].incarnation;
        let delay = Duration::from_micros(self.rng.random_range(1..500));
        self.schedule_after(delay, SimEvent::NodeEvent { at, incarnation, event: Box::new(event) });
    }

    /// Runs the node's turn and executes its actions, until none causes another turn.
    pub(super) fn run_node(&mut self, at: NodeId) -> checks::Result<()> {
        let mut actions = Vec::new();
        loop {
            let now = self.now;
            let host = self.host(at);
            let local_time = host.clock.local_time(now);
            let Some(process) = &mut host.process else { return Ok(()) };
            process.node.turn(local_time, &mut actions);
            // Writes are executed first, since all other actions are checked against the contents of the log.
            let (writes, other_actions): (Vec<_>, Vec<_>) =
                actions.drain(..).partition(|action| matches!(action, Action::Write(_)));
            let mut needs_another_turn = false;
            for action in writes {
                needs_another_turn |= self.execute_action(at, action)?;
            }
            let refuses_write = other_actions.iter().any(|action| matches!(action, Action::Stop(Fault::Foreign(_))));
            if !refuses_write {
                self.check_commit_state(at)?;
            }
            for action in other_actions {
                needs_another_turn |= self.execute_action(at, action)?;
            }
            if !needs_another_turn {
                break;
            }
        }
        self.start_sync(at)?;
        self.update_peer_links(at);
        self.schedule_deadline(at);
        Ok(())
    }

    /// Checks a node after the writes of its turn: the order of its indexes, its role, commit index and configuration.
    fn check_commit_state(&mut self, at: NodeId) -> checks::Result<()> {
        let Some(process) = &self.hosts[&at].process else { return Ok(()) };
        let raft = process.node.raft();
        let (term, is_leader) = (raft.term(), raft.leads());
        // Entries that a snapshot covers are committed too: a snapshot from a former leader may arrive at a new leader.
        let snapshot_index = process.node.snapshot().map(|durable| durable.position.index);
        let (commit, commit_max) = (raft.log().commit(), raft.commit_by_definition().max(snapshot_index));
        let configuration = (raft.configuration_index(), raft.membership());
        let is_request_count_bounded = process.node.waiting_requests() <= HELD_REQUESTS_MAX;
        if !is_request_count_bounded {
            return Err(format!(
                "{at} holds {} unanswered requests, more than {HELD_REQUESTS_MAX}",
                process.node.waiting_requests()
            ));
        }
        process.check_index_order(at)?;
        self.checks.check_role_and_commit(at, CommitState { term, is_leader, commit, commit_max }, configuration)
    }

    /// Queues an event for the node's deadline, unless one is queued for an earlier time.
    pub(super) fn schedule_deadline(&mut self, at: NodeId) {
        let now = self.now;
        let host = self.host(at);
        let Some(process) = &mut host.process else { return };
        let deadline = process.node.deadline();
        if deadline == Time::NEVER {
            return;
        }
        let when = host.clock.world_time(deadline).max(Time(now.0 + 1));
        if process.queued_deadline.is_none_or(|tick| when < tick) {
            process.queued_deadline = Some(when);
            let incarnation = host.incarnation;
            self.schedule_at(when, SimEvent::Deadline { at, incarnation, when });
        }
    }

    /// Executes one action of a node. Returns whether the node must run another turn at once because of it.
    fn execute_action(&mut self, at: NodeId, action: Action) -> checks::Result<bool> {
        match action {
            Action::Send(mut envelope) => {
                self.snapshots.replace_damaged_chunk_bytes(&self.hosts[&at].snapshot_disk, &mut envelope);
                self.checks.check_send(&envelope)?;
                self.trace_line(|| format!("{at} → {}: {}", envelope.to, summarize(&envelope)));
                self.send_frame(at, envelope.to, &PeerFrame::Raft(envelope))?;
            }
            Action::Forward { to, id, request } => self.send_frame(at, to, &PeerFrame::Forward { id, request })?,
            Action::Reply { to: Caller::Peer(peer), id, reply } => {
                self.send_frame(at, peer, &PeerFrame::Answer { id, reply })?;
            }
            Action::Reply { to: Caller::Client(link), id, reply } if link >= FIRST_LINK_CALLER_ID => {
                self.reply_on_link(at, link, id, &reply);
            }
            Action::Reply { to: Caller::Client(client), id, reply } if client >= FIRST_PIPELINE_CALLER_ID => {
                self.receive_pipeline_reply(at, client, id, reply)?;
            }
            Action::Reply { to: Caller::Client(client), id, reply } => {
                self.trace_line(|| format!("{at} answers client {client}: {reply:?}"));
                let mut bytes = BytesMut::new();
                put_reply_frame(&mut bytes, id, &reply);
                self.fold_into_hash(&bytes);
                let delay = self.network.delay(&mut self.rng);
                self.schedule_after(delay, SimEvent::ClientReply { client, bytes: bytes.freeze() });
            }
            Action::Write(write) => self.queue_write(at, write)?,
            Action::TakeSnapshot { configured, membership } => self.begin_snapshot(at, configured, membership)?,
            Action::StoreChunk { from, chunk } => self.store_chunk(at, from, chunk)?,
            Action::InspectSnapshot { follower, snapshot, damaged_count } => {
                self.run_snapshot_job(at, Job::InspectSnapshot { follower, snapshot, damaged_count })?;
            }
            Action::CompactJournal { upto, reuses_files } => self.compact_log(at, upto, reuses_files)?,
            Action::Apply(entries) => return self.submit_input(at, ApplierInput::Entries(entries)),
            Action::Query { ticket, query, time } => {
                return self.submit_input(at, ApplierInput::Query(ticket, query, time));
            }
            Action::Note(note) => {
                self.trace_line(|| format!("{at} {note}"));
                self.leaderless_appends += u64::from(matches!(note, Note::LostEntriesAppended { .. }));
                if let Note::InvalidMessage { peer, error } = note {
                    return Err(format!("{at} received an invalid message from {peer}: {error}"));
                }
            }
            Action::Warn(line) => self.trace_line(|| format!("{at} warns: {line}")),
            Action::Scrub(order) => self.begin_scrub(at, order),
            Action::Stop(fault) => self.stop_process(at, &fault),
        }
        Ok(false)
    }

    /// Submits an input to a state machine, which processes the input at once or after a delay. Returns whether the
    /// input was processed at once.
    fn submit_input(&mut self, at: NodeId, input: ApplierInput) -> checks::Result<bool> {
        let delay_max_nanos = self.scenario.apply_delay_max.as_nanos() as u64;
        let delay =
            Duration::from_nanos(if delay_max_nanos == 0 { 0 } else { self.rng.random_range(0..=delay_max_nanos) });
        let Some(process) = &mut self.host(at).process else { return Ok(false) };
        if delay == Duration::ZERO && process.applier_inputs.is_empty() {
            self.handle_applier_inputs(at, [input])?;
            return Ok(true);
        }
        process.applier_inputs.push(input);
        if process.applier_inputs.len() == 1 {
            let incarnation = self.hosts[&at].incarnation;
            self.schedule_after(delay, SimEvent::ApplierInputDone { at, incarnation });
        }
        Ok(false)
    }

    /// Lets a state machine process its first queued input, and the queries right behind this input.
    fn handle_next_applier_inputs(&mut self, at: NodeId) -> checks::Result<()> {
        let inputs = self.host(at).process.as_mut().map(|process| process.applier_inputs.take_first_with_queries());
        self.handle_applier_inputs(at, inputs.unwrap_or_default())?;
        if self.hosts[&at].process.as_ref().is_some_and(|process| !process.applier_inputs.is_empty()) {
            let incarnation = self.hosts[&at].incarnation;
            let delay =
                Duration::from_nanos(self.rng.random_range(0..=self.scenario.apply_delay_max.as_nanos() as u64));
            self.schedule_after(delay, SimEvent::ApplierInputDone { at, incarnation });
        }
        self.run_node(at)
    }

    /// Lets a state machine process all queued inputs, before a snapshot replaces the state machine.
    pub(super) fn handle_all_applier_inputs(&mut self, at: NodeId) -> checks::Result<()> {
        let inputs = self.host(at).process.as_mut().map(|process| process.applier_inputs.take_all());
        self.handle_applier_inputs(at, inputs.unwrap_or_default())
    }

    /// Lets a state machine process these inputs now.
    fn handle_applier_inputs(
        &mut self,
        at: NodeId,
        inputs: impl IntoIterator<Item = ApplierInput>,
    ) -> checks::Result<()> {
        let host = self.hosts.get_mut(&at).expect("every node has a host");
        let local_time = host.clock.local_time(self.now);
        let Some(process) = &mut host.process else { return Ok(()) };
        let (checks, value_history, order_checks) =
            (&mut self.checks, &mut self.value_history, &mut self.pipelines.order_checks);
        process.handle_applier_inputs(at, local_time, inputs, ApplyRecords { checks, value_history, order_checks })
    }

    /// The history of the clients' operations.
    pub(super) fn history(&self) -> &History {
        &self.history
    }
}

/// The largest number of requests that a node may hold: more than the clients of any scenario can have in progress.
const HELD_REQUESTS_MAX: usize = 4096;

/// The term and the message of an envelope, for the trace: at most 200 characters.
fn summarize(envelope: &Envelope) -> String {
    let text = format!("@{} {:?}", envelope.term, envelope.message);
    text.chars().take(200).collect()
}
