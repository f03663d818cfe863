//! A cluster of bare Raft cores for scenario tests: no journal, no state machine, a disk with a given delay, a network
//! of single messages, and a clock that only moves on request.

use bytes::Bytes;
use drave::api::Refusal;
use drave::consensus::message::{Envelope, Message, Origin, SnapshotChunk};
use drave::consensus::note::Note;
use drave::consensus::reads::ReadId;
use drave::consensus::ready::EntriesToSend;
use drave::consensus::replica::{Recovered, Replica};
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

/// One core, its disk, and its output.
pub struct Host {
    pub raft: Option<Raft>,
    /// The log including unsynced entries.
    pub log: Vec<Entry>,
    /// The state that survives a crash.
    pub disk: (HardState, Vec<Entry>),
    pub unsynced: Vec<Write>,
    pub notes: Vec<Note>,
    pub reads: Vec<(ReadId, Index)>,
    pub reads_lost: Vec<ReadId>,
    /// Chunks of snapshots received, each with its sender.
    pub chunks: Vec<(NodeId, SnapshotChunk)>,
    pub disk_delay: Duration,
}

/// An event that is scheduled.
pub enum Event {
    Arrives(Envelope),
    /// The disk of that node has synced everything up to that write.
    Synced(NodeId, WriteId),
}

pub struct Cluster {
    pub now: Time,
    pub hosts: BTreeMap<NodeId, Host>,
    /// The nodes that start with the founding membership; the others start with an empty one.
    pub founders: BTreeSet<NodeId>,
    pub options: Options,
    /// The events to come, by their time and then their order.
    pub queue: BTreeMap<(Time, u64), Event>,
    order: u64,
    /// One-way cuts.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// One-way delays, where they are not 1 ms.
    pub delay: BTreeMap<(NodeId, NodeId), Duration>,
    /// How many entries were sent to each node so far.
    pub entries: BTreeMap<NodeId, u64>,
    /// All messages sent.
    pub sent: Vec<(Time, Envelope)>,
}

pub fn command(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A log of entries with these terms, in order.
pub fn log_of(terms: &[u64]) -> Vec<Entry> {
    let entry = |(i, term): (usize, &u64)| {
        let position = Position::new(Index(i as u64 + 1), Term(*term));
        drave::codec::entry(position, ClusterTime(0), Payload::Opaque(command(&format!("{term}"))))
    };
    terms.iter().enumerate().map(entry).collect()
}

impl Host {
    fn with(disk: (HardState, Vec<Entry>)) -> Host {
        Host {
            raft: None,
            log: Vec::new(),
            disk,
            unsynced: Vec::new(),
            notes: Vec::new(),
            reads: Vec::new(),
            reads_lost: Vec::new(),
            chunks: Vec::new(),
            disk_delay: ms(1),
        }
    }
}

impl Cluster {
    /// Nodes 1 to n with empty logs.
    pub fn new(n: u64) -> Cluster {
        Cluster::with_logs(&vec![(0, Vec::new()); n as usize])
    }

    /// Nodes with these terms and logs.
    pub fn with_logs(logs: &[(u64, Vec<Entry>)]) -> Cluster {
        let mut cluster = Cluster {
            now: Time::ZERO + ms(1000),
            hosts: BTreeMap::new(),
            founders: (1..=logs.len() as u64).map(id).collect(),
            options: Options::default(),
            queue: BTreeMap::new(),
            order: 0,
            cut: BTreeSet::new(),
            delay: BTreeMap::new(),
            entries: BTreeMap::new(),
            sent: Vec::new(),
        };
        for (i, (term, log)) in logs.iter().enumerate() {
            let hard_state = HardState { term: Term(*term), ..HardState::default() };
            cluster.hosts.insert(id(i as u64 + 1), Host::with((hard_state, log.clone())));
        }
        for n in 1..=logs.len() as u64 {
            cluster.start(id(n));
        }
        cluster
    }

    pub fn start(&mut self, node: NodeId) {
        let founds = self.founders.contains(&node);
        let members = self.founders.iter().filter(|_| founds).map(|id| (*id, String::new()));
        let base = SnapshotPoint {
            position: Position::ZERO,
            configured: Index::ZERO,
            membership: Membership::founding(members),
        };
        let seed = node.get() * 7919 + self.now.0;
        let host = self.hosts.get_mut(&node).unwrap();
        let (hard_state, log) = host.disk.clone();
        let size = |entry: &Entry| (entry.position.term, drave::codec::entry_size(entry) as u64);
        let configuration = |entry: &Entry| match &entry.payload {
            Payload::Membership(membership) => Some((entry.position.index, (**membership).clone())),
            _ => None,
        };
        let recovered = Recovered {
            disk: None,
            hard_state,
            base,
            entries: log.iter().map(size).collect(),
            configurations: log.iter().filter_map(configuration).collect(),
            time: ClusterTime(0),
            applied: Index::ZERO,
        };
        let replica = Replica::recover(node, self.options.clone(), recovered, seed);
        host.log = log;
        host.raft = Some(Raft::new(replica, self.now));
    }

    /// A node with an empty disk that is in no cluster yet.
    pub fn join(&mut self, n: u64) -> NodeId {
        self.hosts.insert(id(n), Host::with((HardState::default(), Vec::new())));
        self.start(id(n));
        id(n)
    }

    /// A message to that node from a peer that holds the same log.
    pub fn envelope(&self, from: NodeId, to: NodeId, term: Term, message: Message) -> Envelope {
        let origin = Origin { disk: None, log: self.raft(to).membership().agreed_log() };
        Envelope { from, to, term, origin, message }
    }

    /// Empties a node's disk; it starts as it did at first.
    pub fn wipe(&mut self, node: NodeId) {
        self.crash(node);
        self.hosts.get_mut(&node).unwrap().disk = (HardState::default(), Vec::new());
        self.start(node);
    }

    pub fn change(&mut self, node: NodeId, change: Change) -> Result<Position, Refusal> {
        self.force(node, change, false)
    }

    pub fn force(&mut self, node: NodeId, change: Change, force: bool) -> Result<Position, Refusal> {
        let now = self.now;
        let outcome = self.core(node).reconfigure(now, &change, force);
        self.process_ready(node);
        outcome
    }

    pub fn transfer(&mut self, node: NodeId, to: Option<NodeId>) -> Result<NodeId, Refusal> {
        let now = self.now;
        let outcome = self.core(node).transfer(now, to);
        self.process_ready(node);
        outcome
    }

    pub fn core(&mut self, node: NodeId) -> &mut Raft {
        self.hosts.get_mut(&node).unwrap().raft.as_mut().unwrap()
    }

    /// Power loss: unsynced writes are lost.
    pub fn crash(&mut self, node: NodeId) {
        let host = self.hosts.get_mut(&node).unwrap();
        host.raft = None;
        host.unsynced.clear();
    }

    pub fn isolate(&mut self, node: NodeId) {
        for other in self.ids() {
            self.cut.insert((node, other));
            self.cut.insert((other, node));
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
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

    pub fn term(&self) -> u64 {
        self.hosts.values().filter_map(|host| host.raft.as_ref()).map(|raft| raft.term().0).max().unwrap()
    }

    pub fn propose(&mut self, node: NodeId, text: &str) -> Position {
        self.until("the log is agreed", |c| c.raft(node).accepts_commands() || !c.raft(node).leads());
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

    pub fn lost(&mut self, node: NodeId, peer: NodeId) {
        let now = self.now;
        if let Some(raft) = &mut self.hosts.get_mut(&node).unwrap().raft {
            raft.lost(now, peer);
        }
        self.process_ready(node);
    }

    /// Executes the output of a node.
    pub fn process_ready(&mut self, node: NodeId) {
        let now = self.now;
        let host = self.hosts.get_mut(&node).unwrap();
        let Some(raft) = &mut host.raft else { return };
        let ready = raft.ready(now);
        let delay = host.disk_delay;
        if let Some(write) = ready.write {
            let first = write.entries.first().map(|entry| entry.position.index);
            if let Some(first) = first {
                host.log.truncate(first.0 as usize - 1);
                host.log.extend(write.entries.iter().cloned());
            }
            let id = write.id;
            host.unsynced.push(write);
            self.schedule(delay, Event::Synced(node, id));
        }
        let host = self.hosts.get_mut(&node).unwrap();
        host.notes.extend(ready.notes);
        host.reads.extend(ready.reads);
        host.reads_lost.extend(ready.reads_lost);
        host.chunks.extend(ready.chunks);
        let raft = host.raft.as_ref().unwrap();
        let fill = |order: EntriesToSend| {
            let entries = host.log[order.prev.index.0 as usize..order.upto.0 as usize].to_vec();
            let message =
                Message::AppendEntries { prev: order.prev, commit: order.commit, probe: order.probe, entries };
            raft.envelope(order.to, order.term, message)
        };
        let appends: Vec<Envelope> = ready.appends.into_iter().map(fill).collect();
        for envelope in &appends {
            if let Message::AppendEntries { entries, .. } = &envelope.message {
                *self.entries.entry(envelope.to).or_default() += entries.len() as u64;
            }
        }
        for envelope in ready.messages.into_iter().chain(appends) {
            let pair = (envelope.from, envelope.to);
            self.sent.push((now, envelope.clone()));
            if !self.cut.contains(&pair) && self.hosts.contains_key(&envelope.to) {
                let delay = self.delay.get(&pair).copied().unwrap_or(ms(1));
                self.schedule(delay, Event::Arrives(envelope));
            }
        }
    }

    /// Adds an event that occurs after `delay`.
    pub fn schedule(&mut self, delay: Duration, event: Event) {
        self.order += 1;
        self.queue.insert((self.now + delay, self.order), event);
    }

    /// Runs for that much time.
    pub fn run(&mut self, span: Duration) {
        let until = self.now + span;
        loop {
            let deadline = |host: &Host| host.raft.as_ref().map(Raft::deadline);
            let tick = self.hosts.values().filter_map(deadline).min().unwrap_or(Time::NEVER);
            let next = self.queue.first_key_value().map_or(Time::NEVER, |((at, _), _)| *at);
            if tick.min(next) > until {
                break;
            }
            self.now = self.now.max(tick.min(next));
            if next <= tick {
                let (_, event) = self.queue.pop_first().unwrap();
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
            Event::Arrives(envelope) => {
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
                let synced = host.unsynced.iter().take_while(|unsynced| unsynced.id <= write).count();
                if synced == 0 {
                    return; // written before a crash
                }
                for write in host.unsynced.drain(..synced) {
                    host.disk.0 = write.hard_state.unwrap_or(host.disk.0);
                    if let Some(first) = write.entries.first() {
                        host.disk.1.truncate(first.position.index.0 as usize - 1);
                        host.disk.1.extend(write.entries);
                    }
                }
                raft.persisted(now, write);
                node
            }
        };
        self.process_ready(node);
    }

    /// Runs until the condition holds; panics if it takes longer than ten seconds.
    pub fn until(&mut self, what: &str, so: impl Fn(&Cluster) -> bool) {
        for _ in 0..10_000 {
            if so(self) {
                return;
            }
            self.run(ms(1));
        }
        panic!("not within ten seconds: {what}");
    }

    pub fn elect(&mut self) -> NodeId {
        self.until("all reachable nodes follow a leader", |cluster| {
            let Some(leader) = cluster.leader() else { return false };
            let reachable = |node: &NodeId| !cluster.cut.contains(&(leader, *node));
            let follows = |node: &NodeId| match &cluster.hosts[node].raft {
                Some(raft) => raft.leader() == Some(leader) && raft.term() == cluster.raft(leader).term(),
                None => true,
            };
            cluster.ids().iter().filter(|node| reachable(node)).all(follows)
        });
        self.leader().unwrap()
    }

    /// The leader, once all members follow it.
    pub fn elect_among_members(&mut self) -> NodeId {
        self.until("all members follow a leader", |cluster| {
            let Some(leader) = cluster.leader() else { return false };
            let mut members = cluster.raft(leader).membership().ids();
            members.all(|node| cluster.hosts[&node].raft.as_ref().is_none_or(|raft| raft.leader() == Some(leader)))
        });
        self.leader().unwrap()
    }
}
