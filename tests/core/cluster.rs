//! A simulated cluster of Raft cores for scenario tests, without journals and state machines. Disks sync after a given
//! delay, the network delivers single messages, and only a test advances the clock.

use bytes::Bytes;
use drave::api::Refusal;
use drave::consensus::message::{Envelope, Message, Origin, SnapshotChunk};
use drave::consensus::note::Note;
use drave::consensus::reads::ReadId;
use drave::consensus::ready::EntriesToSend;
use drave::consensus::replica::{RecoveredState, Replica};
use drave::consensus::{Options, Raft};
use drave::types::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub fn id(n: u64) -> NodeId {
    NodeId::new(n).unwrap()
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// One Raft core with its disk and the output of the core; `raft` is `None` while the node is crashed.
pub struct Host {
    pub raft: Option<Raft>,
    /// The log, including entries that are not synced yet.
    pub log: Vec<Entry>,
    /// The hard state and the log that are synced to the disk and survive a crash.
    pub synced_state: (HardState, Vec<Entry>),
    pub unsynced_writes: Vec<Write>,
    pub notes: Vec<Note>,
    pub confirmed_reads: Vec<(ReadId, Index)>,
    pub lost_reads: Vec<ReadId>,
    /// Chunks of snapshots received, each with its sender.
    pub snapshot_chunks: Vec<(NodeId, SnapshotChunk)>,
    /// How long each sync of the disk takes.
    pub sync_delay: Duration,
}

/// An event that the cluster will handle at a scheduled time.
pub enum Event {
    MessageArrives(Envelope),
    /// The disk of a node has synced every write up to this one.
    Synced(NodeId, WriteId),
}

/// Raft cores with their disks, the network between them, and the clock that all of them share.
pub struct Cluster {
    pub now: Time,
    pub hosts: BTreeMap<NodeId, Host>,
    /// The nodes that start with the founding membership. Other nodes start with an empty membership.
    pub founders: BTreeSet<NodeId>,
    pub options: Options,
    /// The scheduled events, by time and then by the order in which they were scheduled.
    pub event_queue: BTreeMap<(Time, u64), Event>,
    event_count: u64,
    /// Broken links, each in one direction: sender and receiver.
    pub broken_links: BTreeSet<(NodeId, NodeId)>,
    /// The delays of links whose delay is not 1 ms, each in one direction.
    pub link_delays: BTreeMap<(NodeId, NodeId), Duration>,
    /// How many entries have been sent to each node.
    pub entries_sent: BTreeMap<NodeId, u64>,
    /// All messages sent, including lost ones, each with its time.
    pub sent_messages: Vec<(Time, Envelope)>,
}

pub fn command(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A log with one entry for each of `terms`, in order.
pub fn log_of(terms: &[u64]) -> Vec<Entry> {
    let numbered_entry = |(i, term): (usize, &u64)| {
        let position = Position::new(Index(i as u64 + 1), Term(*term));
        drave::codec::entry(position, ClusterTime(0), Payload::Opaque(command(&format!("{term}"))))
    };
    terms.iter().enumerate().map(numbered_entry).collect()
}

impl Host {
    fn with_synced_state(synced_state: (HardState, Vec<Entry>)) -> Host {
        Host {
            raft: None,
            log: Vec::new(),
            synced_state,
            unsynced_writes: Vec::new(),
            notes: Vec::new(),
            confirmed_reads: Vec::new(),
            lost_reads: Vec::new(),
            snapshot_chunks: Vec::new(),
            sync_delay: ms(1),
        }
    }
}

impl Cluster {
    /// Creates a cluster of nodes 1 to n with empty logs, and starts them.
    pub fn new(n: u64) -> Cluster {
        Cluster::with_logs(&vec![(0, Vec::new()); n as usize])
    }

    /// Creates a cluster with one node for each of `logs`, from node 1 on: its term and its log. Starts all nodes.
    pub fn with_logs(logs: &[(u64, Vec<Entry>)]) -> Cluster {
        let mut cluster = Cluster {
            now: Time::ZERO + ms(1000),
            hosts: BTreeMap::new(),
            founders: (1..=logs.len() as u64).map(id).collect(),
            options: Options::default(),
            event_queue: BTreeMap::new(),
            event_count: 0,
            broken_links: BTreeSet::new(),
            link_delays: BTreeMap::new(),
            entries_sent: BTreeMap::new(),
            sent_messages: Vec::new(),
        };
        for (i, (term, log)) in logs.iter().enumerate() {
            let hard_state = HardState { term: Term(*term), ..HardState::default() };
            cluster.hosts.insert(id(i as u64 + 1), Host::with_synced_state((hard_state, log.clone())));
        }
        for n in 1..=logs.len() as u64 {
            cluster.start(id(n));
        }
        cluster
    }

    pub fn start(&mut self, node: NodeId) {
        let is_founder = self.founders.contains(&node);
        let members = self.founders.iter().filter(|_| is_founder).map(|id| (*id, String::new()));
        let base = SnapshotPoint {
            position: Position::ZERO,
            configured: Index::ZERO,
            membership: Membership::founding(members),
        };
        let seed = node.get() * 7919 + self.now.0;
        let host = self.hosts.get_mut(&node).unwrap();
        let (hard_state, log) = host.synced_state.clone();
        let term_and_size = |entry: &Entry| (entry.position.term, drave::codec::entry_size(entry) as u64);
        let configuration = |entry: &Entry| match &entry.payload {
            Payload::Membership(membership) => Some((entry.position.index, (**membership).clone())),
            _ => None,
        };
        let recovered = RecoveredState {
            disk: None,
            hard_state,
            base,
            entries: log.iter().map(term_and_size).collect(),
            configurations: log.iter().filter_map(configuration).collect(),
            time: ClusterTime(0),
            applied_index: Index::ZERO,
            kept_fragments: Vec::new(),
        };
        let replica = Replica::recover(node, self.options.clone(), recovered, seed);
        host.log = log;
        host.raft = Some(Raft::new(replica, self.now));
    }

    /// Starts a node with an empty disk that is no member yet.
    pub fn start_new_node(&mut self, n: u64) -> NodeId {
        self.hosts.insert(id(n), Host::with_synced_state((HardState::default(), Vec::new())));
        self.start(id(n));
        id(n)
    }

    /// Creates a message to node `to` from a peer that holds the same log as `to`.
    pub fn envelope(&self, from: NodeId, to: NodeId, term: Term, message: Message) -> Envelope {
        let origin = Origin { disk: None, log: self.raft(to).membership().agreed_log_id() };
        Envelope { from, to, term, origin, message }
    }

    /// Crashes a node, empties its disk, and starts it again.
    pub fn wipe(&mut self, node: NodeId) {
        self.crash(node);
        self.hosts.get_mut(&node).unwrap().synced_state = (HardState::default(), Vec::new());
        self.start(node);
    }

    pub fn change_membership(&mut self, node: NodeId, change: Change) -> Result<Position, Refusal> {
        self.reconfigure(node, change, false)
    }

    pub fn reconfigure(&mut self, node: NodeId, change: Change, force: bool) -> Result<Position, Refusal> {
        let now = self.now;
        let reconfigure_result = self.raft_mut(node).reconfigure(now, &change, force);
        self.process_ready(node);
        reconfigure_result
    }

    pub fn transfer(&mut self, node: NodeId, to: Option<NodeId>) -> Result<NodeId, Refusal> {
        let now = self.now;
        let transfer_result = self.raft_mut(node).transfer(now, to);
        self.process_ready(node);
        transfer_result
    }

    pub fn raft_mut(&mut self, node: NodeId) -> &mut Raft {
        self.hosts.get_mut(&node).unwrap().raft.as_mut().unwrap()
    }

    /// Crashes a node as by a power failure: its unsynced writes are lost.
    pub fn crash(&mut self, node: NodeId) {
        let host = self.hosts.get_mut(&node).unwrap();
        host.raft = None;
        host.unsynced_writes.clear();
    }

    pub fn isolate(&mut self, node: NodeId) {
        for other in self.ids() {
            self.broken_links.insert((node, other));
            self.broken_links.insert((other, node));
        }
    }

    pub fn heal(&mut self) {
        self.broken_links.clear();
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.hosts.keys().copied().collect()
    }

    pub fn raft(&self, node: NodeId) -> &Raft {
        self.hosts[&node].raft.as_ref().unwrap()
    }

    pub fn leader(&self) -> Option<NodeId> {
        let leads = |node: &NodeId| self.hosts[node].raft.as_ref().is_some_and(Raft::leads);
        self.ids().into_iter().filter(leads).max_by_key(|node| self.raft(*node).term())
    }

    pub fn highest_term(&self) -> u64 {
        self.hosts.values().filter_map(|host| host.raft.as_ref()).map(|raft| raft.term().0).max().unwrap()
    }

    pub fn propose(&mut self, node: NodeId, text: &str) -> Position {
        self.run_until("the log is agreed", |c| c.raft(node).accepts_commands() || !c.raft(node).leads());
        let now = self.now;
        let host = self.hosts.get_mut(&node).unwrap();
        let position = host.raft.as_mut().unwrap().propose(now, command(text)).unwrap();
        self.process_ready(node);
        position
    }

    pub fn read(&mut self, node: NodeId) -> ReadId {
        let host = self.hosts.get_mut(&node).unwrap();
        let read = host.raft.as_mut().unwrap().read().unwrap();
        self.process_ready(node);
        read
    }

    pub fn report_lost_link(&mut self, node: NodeId, peer: NodeId) {
        let now = self.now;
        if let Some(raft) = &mut self.hosts.get_mut(&node).unwrap().raft {
            raft.handle_lost_link(now, peer);
        }
        self.process_ready(node);
    }

    /// Collects the output of a node, and schedules its syncs and messages.
    pub fn process_ready(&mut self, node: NodeId) {
        let now = self.now;
        let host = self.hosts.get_mut(&node).unwrap();
        let Some(raft) = &mut host.raft else { return };
        let ready = raft.ready(now);
        let sync_delay = host.sync_delay;
        if let Some(write) = ready.write {
            let first_index = write.entries.first().map(|entry| entry.position.index);
            if let Some(first) = first_index {
                host.log.truncate(first.0 as usize - 1);
                host.log.extend(write.entries.iter().cloned());
            }
            let write_id = write.id;
            host.unsynced_writes.push(write);
            self.schedule(sync_delay, Event::Synced(node, write_id));
        }
        let host = self.hosts.get_mut(&node).unwrap();
        host.notes.extend(ready.notes);
        host.confirmed_reads.extend(ready.confirmed_reads);
        host.lost_reads.extend(ready.lost_reads);
        host.snapshot_chunks.extend(ready.snapshot_chunks);
        let raft = host.raft.as_ref().unwrap();
        let fill_entries = |append: EntriesToSend| {
            let entries = host.log[append.prev.index.0 as usize..append.upto.0 as usize].to_vec();
            let message = Message::AppendEntries {
                prev: append.prev,
                commit: append.commit,
                probe_number: append.probe_number,
                entries,
            };
            raft.envelope(append.to, append.term, message)
        };
        let appends: Vec<Envelope> = ready.appends.into_iter().map(fill_entries).collect();
        for envelope in &appends {
            if let Message::AppendEntries { entries, .. } = &envelope.message {
                *self.entries_sent.entry(envelope.to).or_default() += entries.len() as u64;
            }
        }
        for envelope in ready.messages.into_iter().chain(appends) {
            let link = (envelope.from, envelope.to);
            self.sent_messages.push((now, envelope.clone()));
            if !self.broken_links.contains(&link) && self.hosts.contains_key(&envelope.to) {
                let delay = self.link_delays.get(&link).copied().unwrap_or(ms(1));
                self.schedule(delay, Event::MessageArrives(envelope));
            }
        }
    }

    /// Adds an event that occurs after `delay`.
    pub fn schedule(&mut self, delay: Duration, event: Event) {
        self.event_count += 1;
        self.event_queue.insert((self.now + delay, self.event_count), event);
    }

    /// Handles events and timers until `span` has passed.
    pub fn run(&mut self, span: Duration) {
        let until = self.now + span;
        loop {
            let deadline = |host: &Host| host.raft.as_ref().map(Raft::deadline);
            let next_tick = self.hosts.values().filter_map(deadline).min().unwrap_or(Time::NEVER);
            let next_event = self.event_queue.first_key_value().map_or(Time::NEVER, |((at, _), _)| *at);
            if next_tick.min(next_event) > until {
                break;
            }
            self.now = self.now.max(next_tick.min(next_event));
            if next_event <= next_tick {
                let (_, event) = self.event_queue.pop_first().unwrap();
                self.handle_event(event);
            } else {
                for node in self.ids() {
                    let now = self.now;
                    match &mut self.hosts.get_mut(&node).unwrap().raft {
                        Some(raft) if raft.deadline() <= now => raft.tick(now),
                        _ => continue,
                    }
                    self.process_ready(node);
                }
            }
        }
        self.now = until;
    }

    /// Handles an event that was taken from the queue.
    pub fn handle_event(&mut self, event: Event) {
        let now = self.now;
        let node = match event {
            Event::MessageArrives(envelope) => {
                let to = envelope.to;
                match &mut self.hosts.get_mut(&to).unwrap().raft {
                    Some(raft) => raft.receive(now, envelope),
                    None => return,
                }
                to
            }
            Event::Synced(node, write) => {
                let host = self.hosts.get_mut(&node).unwrap();
                let Some(raft) = &mut host.raft else { return };
                let synced_count = host.unsynced_writes.iter().take_while(|unsynced| unsynced.id <= write).count();
                if synced_count == 0 {
                    return; // the write was issued before a crash and is lost
                }
                for write in host.unsynced_writes.drain(..synced_count) {
                    host.synced_state.0 = write.hard_state.unwrap_or(host.synced_state.0);
                    if let Some(first) = write.entries.first() {
                        host.synced_state.1.truncate(first.position.index.0 as usize - 1);
                        host.synced_state.1.extend(write.entries);
                    }
                }
                raft.handle_persisted(now, write);
                node
            }
        };
        self.process_ready(node);
    }

    /// Runs until the condition holds; panics if it takes longer than ten seconds.
    pub fn run_until(&mut self, expectation: &str, condition: impl Fn(&Cluster) -> bool) {
        for _ in 0..10_000 {
            if condition(self) {
                return;
            }
            self.run(ms(1));
        }
        panic!("{expectation}: not reached within ten seconds");
    }

    /// Runs until all nodes that the leader reaches follow it. Returns the leader.
    pub fn elect(&mut self) -> NodeId {
        self.run_until("all reachable nodes follow a leader", |cluster| {
            let Some(leader) = cluster.leader() else { return false };
            let is_reachable = |node: &NodeId| !cluster.broken_links.contains(&(leader, *node));
            let follows_leader = |node: &NodeId| match &cluster.hosts[node].raft {
                Some(raft) => raft.leader() == Some(leader) && raft.term() == cluster.raft(leader).term(),
                None => true,
            };
            cluster.ids().iter().filter(|node| is_reachable(node)).all(follows_leader)
        });
        self.leader().unwrap()
    }

    /// Runs until all members follow a leader. Returns the leader.
    pub fn elect_among_members(&mut self) -> NodeId {
        self.run_until("all members follow a leader", |cluster| {
            let Some(leader) = cluster.leader() else { return false };
            let mut members = cluster.raft(leader).membership().ids();
            members.all(|node| cluster.hosts[&node].raft.as_ref().is_none_or(|raft| raft.leader() == Some(leader)))
        });
        self.leader().unwrap()
    }
}
