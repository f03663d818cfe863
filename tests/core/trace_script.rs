//! The commands of traces, on a cluster of bare cores.
//!
//! No timer fires by itself, so that no trace depends on random timeouts: `timeout` fires the election timer of one
//! node, `heartbeat` the timer of a leader after an interval, and `wait` lets time pass. `quietly` before a command
//! reduces its output to changes of leaders and their configurations.

use super::cluster::{Cluster, Event, command, id, ms};
use super::trace_text::{entry_text, envelope_text, node_text, note_text, sync_text, vote_text};
use drave::consensus::Raft;
use drave::consensus::message::{Envelope, Message, SnapshotChunk};
use drave::consensus::note::Note;
use drave::types::*;
use std::collections::BTreeSet;

type Outcome = Result<(), String>;

/// Runs the commands of one script.
pub struct Interpreter {
    cluster: Cluster,
    stalled: BTreeSet<NodeId>,
    mutants: Mutants,
    append_entries: Option<usize>,
    quiet: bool,
    /// How many of the messages sent were checked for a cut.
    checked: usize,
    /// The script so far, with its output.
    pub out: Vec<String>,
}

/// The log of a node before a step.
struct LogBefore {
    log: Vec<Position>,
    commit: Index,
}

impl LogBefore {
    fn of(cluster: &Cluster, node: NodeId) -> LogBefore {
        let host = &cluster.hosts[&node];
        let commit = host.raft.as_ref().map_or(Index::ZERO, |raft| raft.log().commit());
        LogBefore { log: host.log.iter().map(|entry| entry.position).collect(), commit }
    }
}

impl Interpreter {
    pub fn new(mutants: Mutants) -> Interpreter {
        Interpreter {
            cluster: Cluster::with_logs(&[]),
            stalled: BTreeSet::new(),
            mutants,
            append_entries: None,
            quiet: false,
            checked: 0,
            out: Vec::new(),
        }
    }

    /// Executes a command and adds its output.
    pub fn execute(&mut self, line: &str) -> Outcome {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.quiet = words.first() == Some(&"quietly");
        match &words[usize::from(self.quiet)..] {
            ["cluster", nodes @ ..] => self.start(nodes),
            ["limit", entries] => self.limit(entries),
            ["timeout", node] => self.fire_election_timer(self.running(node)?),
            ["heartbeat", leader] => self.fire_heartbeat_timer(self.running(leader)?),
            ["wait", time] => self.wait(number(time)?),
            ["elect", node] => self.elect(self.running(node)?),
            ["deliver"] => self.deliver_all(),
            ["deliver", from, to] => self.deliver_some(self.node(from)?, self.node(to)?, usize::MAX),
            ["deliver", from, to, count] => {
                self.deliver_some(self.node(from)?, self.node(to)?, number(count)? as usize)
            }
            ["drop", from, to] => self.drop_messages(self.node(from)?, self.node(to)?),
            ["flight"] => self.list_messages(),
            ["cut", node] => {
                self.cluster.isolate(self.node(node)?);
                Ok(())
            }
            ["heal"] => {
                self.cluster.heal();
                Ok(())
            }
            ["crash", node] => self.crash(self.running(node)?),
            ["restart", node] => self.restart(self.node(node)?),
            ["stall", node] => {
                self.stalled.insert(self.running(node)?);
                Ok(())
            }
            ["sync", node] => self.sync(self.running(node)?),
            ["propose", node, text] => self.propose(self.running(node)?, text),
            ["read", node] => self.read(self.running(node)?),
            ["transfer", from, to] => self.transfer(self.running(from)?, self.node(to)?),
            ["change", leader, change @ ..] => self.change(self.running(leader)?, change),
            ["compact", node, upto] => self.compact(self.running(node)?, Index(number(upto)?)),
            ["snapshot", from, to] => self.send_snapshot(self.running(from)?, self.running(to)?),
            ["state"] => self.list_nodes(),
            _ => Err("no such command".to_owned()),
        }
    }

    fn node(&self, word: &str) -> Result<NodeId, String> {
        let node = node_id(word)?;
        self.cluster.hosts.contains_key(&node).then_some(node).ok_or(format!("there is no {node}"))
    }

    fn running(&self, word: &str) -> Result<NodeId, String> {
        let node = self.node(word)?;
        self.cluster.hosts[&node].raft.as_ref().map(|_| node).ok_or(format!("{node} is down"))
    }

    fn print(&mut self, line: String) {
        if !self.quiet {
            self.out.push(line);
        }
    }

    /// `cluster 3` has empty disks. `cluster n1=1,2 n2=1` gives each node a log by its terms, whose first entry is the
    /// configuration; all have seen the highest of these terms.
    fn start(&mut self, nodes: &[&str]) -> Outcome {
        let mut logs = Vec::new();
        for (i, word) in nodes.iter().enumerate().filter(|(_, word)| word.contains('=')) {
            let terms = word.strip_prefix(&format!("n{}=", i + 1)).ok_or("nodes are in order: n1=… n2=…")?;
            logs.push(terms.split(',').map(number).collect::<Result<Vec<u64>, String>>()?);
        }
        let term = logs.iter().flatten().max().copied().unwrap_or_default();
        let all = logs.len() as u64;
        self.cluster = match nodes {
            [count] if logs.is_empty() => Cluster::new(number(count)?),
            _ if logs.len() == nodes.len() => {
                Cluster::with_logs(&logs.iter().map(|terms| (term, log_of(all, terms))).collect::<Vec<_>>())
            }
            _ => return Err("either a number of nodes, or the log of each node".to_owned()),
        };
        self.cluster.options.mutants = self.mutants;
        self.cluster.options.append_entries = self.append_entries.unwrap_or(self.cluster.options.append_entries);
        self.cluster.ids().into_iter().for_each(|node| self.cluster.start(node));
        Ok(())
    }

    /// Limits the entries of one append, for the clusters after this command.
    fn limit(&mut self, entries: &str) -> Outcome {
        self.append_entries = Some(number(entries)? as usize);
        Ok(())
    }

    /// Lets a node act, and prints what follows.
    fn step<T>(&mut self, node: NodeId, act: impl FnOnce(&mut Cluster) -> T) -> T {
        let before = LogBefore::of(&self.cluster, node);
        let outcome = act(&mut self.cluster);
        self.cluster.process_ready(node);
        self.report(node, &before);
        outcome
    }

    fn report(&mut self, node: NodeId, before: &LogBefore) {
        let host = self.cluster.hosts.get_mut(&node).unwrap();
        let mut lines = Vec::new();
        for note in std::mem::take(&mut host.notes) {
            let configures = matches!(note, Note::Configured { .. }) && host.raft.as_ref().is_some_and(Raft::leads);
            let leads = configures || matches!(note, Note::Leads { .. } | Note::StepsDown { .. });
            lines.push((leads, note_text(&note)));
        }
        let differs = |(i, entry): &(usize, &Entry)| before.log.get(*i) != Some(&entry.position);
        let appended: Vec<String> = host.log.iter().enumerate().filter(differs).map(|(_, e)| entry_text(e)).collect();
        if !appended.is_empty() {
            lines.push((false, format!("appends {}", appended.join(", "))));
        }
        let commit = host.raft.as_ref().unwrap().log().commit();
        if commit > before.commit {
            lines.push((false, format!("commits up to {commit}")));
        }
        for (read, index) in std::mem::take(&mut host.reads) {
            lines.push((false, format!("read {} is served once {index} is applied", read.0)));
        }
        for read in std::mem::take(&mut host.reads_lost) {
            lines.push((false, format!("read {} fails", read.0)));
        }
        let indent = if self.out.last().is_some_and(|line| line.starts_with("  ")) && !self.quiet { 6 } else { 2 };
        for (_, line) in lines.into_iter().filter(|(leads, _)| *leads || !self.quiet) {
            self.out.push(format!("{:indent$}{node}: {line}", ""));
        }
        let lost = |envelope: &Envelope| self.cluster.cut.contains(&(envelope.from, envelope.to));
        let sent = &self.cluster.sent[self.checked..];
        let lost: Vec<String> = sent.iter().map(|(_, e)| e).filter(|e| lost(e)).map(envelope_text).collect();
        self.checked = self.cluster.sent.len();
        lost.into_iter().for_each(|text| self.print(format!("{text}, lost")));
    }

    /// Fires the election timer of one node. The clock of the others does not move.
    fn fire_election_timer(&mut self, node: NodeId) -> Outcome {
        if self.cluster.raft(node).leads() {
            return Err(format!("{node} leads"));
        }
        self.step(node, |cluster| {
            let at = cluster.raft(node).deadline().max(cluster.now);
            cluster.core(node).tick(at);
        });
        Ok(())
    }

    fn fire_heartbeat_timer(&mut self, node: NodeId) -> Outcome {
        if !self.cluster.raft(node).leads() {
            return Err(format!("{node} does not lead"));
        }
        self.cluster.now = self.cluster.now + self.cluster.options.heartbeat;
        self.step(node, |cluster| {
            let now = cluster.now;
            cluster.core(node).tick(now);
        });
        Ok(())
    }

    fn wait(&mut self, time: u64) -> Outcome {
        self.cluster.now = self.cluster.now + ms(time);
        Ok(())
    }

    /// Fires a node's election timer, and delivers messages until it leads.
    fn elect(&mut self, node: NodeId) -> Outcome {
        self.quiet = true;
        self.fire_election_timer(node)?;
        while !self.cluster.raft(node).leads() {
            let key = self.next_event().ok_or(format!("{node} does not win"))?;
            self.handle(key);
        }
        Ok(())
    }

    /// The next event, unless it is a sync of a stalled disk.
    fn next_event(&self) -> Option<(Time, u64)> {
        let stalled = |event: &Event| matches!(event, Event::Synced(node, _) if self.stalled.contains(node));
        self.cluster.queue.iter().find(|(_, event)| !stalled(event)).map(|(key, _)| *key)
    }

    fn select(&self, matches: impl Fn(&Event) -> bool) -> Vec<(Time, u64)> {
        self.cluster.queue.iter().filter(|(_, event)| matches(event)).map(|(key, _)| *key).collect()
    }

    fn messages(&self, from: NodeId, to: NodeId) -> Result<Vec<(Time, u64)>, String> {
        let keys = self.select(|event| matches!(event, Event::Arrives(e) if (e.from, e.to) == (from, to)));
        if keys.is_empty() { Err(format!("nothing is in flight from {from} to {to}")) } else { Ok(keys) }
    }

    fn handle(&mut self, key: (Time, u64)) {
        self.cluster.now = self.cluster.now.max(key.0);
        let event = self.cluster.queue.remove(&key).unwrap();
        let (node, text) = match &event {
            Event::Arrives(envelope) => (envelope.to, envelope_text(envelope)),
            Event::Synced(node, upto) => (*node, sync_text(&self.cluster, *node, *upto)),
        };
        if self.cluster.hosts[&node].raft.is_none() {
            return self.print(format!("{text}, lost: {node} is down"));
        }
        self.print(text);
        self.step(node, |cluster| cluster.handle_event(event));
        let chunks = std::mem::take(&mut self.cluster.hosts.get_mut(&node).unwrap().chunks);
        chunks.into_iter().for_each(|(from, chunk)| self.install(node, from, &chunk));
    }

    /// Delivers messages and syncs disks until all is quiet, and sends the commit index that still waits to be sent.
    fn deliver_all(&mut self) -> Outcome {
        for _ in 0..1000 {
            if let Some(key) = self.next_event() {
                self.handle(key);
                continue;
            }
            self.cluster.now = self.cluster.now + self.cluster.options.commit_told_within;
            self.cluster.ids().into_iter().for_each(|node| self.cluster.process_ready(node));
            if self.next_event().is_none() {
                return Ok(());
            }
        }
        Err("the cluster is not quiet after 1,000 events".to_owned())
    }

    /// Delivers the messages in flight between two nodes, and nothing that follows from them.
    fn deliver_some(&mut self, from: NodeId, to: NodeId, count: usize) -> Outcome {
        self.messages(from, to)?.into_iter().take(count).for_each(|key| self.handle(key));
        Ok(())
    }

    fn drop_messages(&mut self, from: NodeId, to: NodeId) -> Outcome {
        self.messages(from, to)?.into_iter().for_each(|key| self.lose(key));
        Ok(())
    }

    /// Removes an event, and prints it if it is a message.
    fn lose(&mut self, key: (Time, u64)) {
        if let Some(Event::Arrives(envelope)) = self.cluster.queue.remove(&key) {
            self.print(format!("{}, lost", envelope_text(&envelope)));
        }
    }

    fn list_messages(&mut self) -> Outcome {
        let text = |event: &Event| match event {
            Event::Arrives(envelope) => Some(envelope_text(envelope)),
            Event::Synced(..) => None,
        };
        let texts: Vec<String> = self.cluster.queue.values().filter_map(text).collect();
        texts.into_iter().for_each(|text| self.print(text));
        Ok(())
    }

    fn crash(&mut self, node: NodeId) -> Outcome {
        self.cluster.crash(node);
        self.stalled.remove(&node);
        let of_node = |event: &Event| match event {
            Event::Arrives(envelope) => envelope.from == node || envelope.to == node,
            Event::Synced(of, _) => *of == node,
        };
        self.select(of_node).into_iter().for_each(|key| self.lose(key));
        Ok(())
    }

    fn restart(&mut self, node: NodeId) -> Outcome {
        if self.running(&node.to_string()).is_ok() {
            return Err(format!("{node} is not down"));
        }
        self.cluster.start(node);
        let raft = self.cluster.raft(node);
        let text = format!("  {node}: restarts with term {}{}", raft.term(), vote_text(raft.vote()));
        self.print(format!("{text}, log up to {}", self.cluster.raft(node).log().last()));
        Ok(())
    }

    /// Syncs what was written so far, and ends a stall.
    fn sync(&mut self, node: NodeId) -> Outcome {
        self.stalled.remove(&node);
        let keys = self.select(|event| matches!(event, Event::Synced(of, _) if *of == node));
        keys.iter().for_each(|key| self.handle(*key));
        if keys.is_empty() { Err(format!("{node} has nothing to sync")) } else { Ok(()) }
    }

    /// Prints why a request was refused.
    fn answer<T, E: std::fmt::Display>(&mut self, node: NodeId, outcome: Result<T, E>) -> Outcome {
        if let Err(refusal) = outcome {
            self.print(format!("  {node}: refuses: {refusal}"));
        }
        Ok(())
    }

    fn propose(&mut self, node: NodeId, text: &str) -> Outcome {
        let outcome = self.step(node, |cluster| {
            let now = cluster.now;
            cluster.core(node).propose(now, command(text))
        });
        self.answer(node, outcome)
    }

    fn read(&mut self, node: NodeId) -> Outcome {
        let outcome = self.step(node, |cluster| cluster.core(node).read());
        if let Ok(read) = &outcome {
            self.print(format!("  {node}: read {} waits", read.0));
        }
        self.answer(node, outcome)
    }

    fn transfer(&mut self, node: NodeId, to: NodeId) -> Outcome {
        let outcome = self.step(node, |cluster| cluster.transfer(node, Some(to)));
        self.answer(node, outcome)
    }

    fn change(&mut self, leader: NodeId, words: &[&str]) -> Outcome {
        let add = |n: NodeId, prospect| Change::Add { id: n, address: format!("h{n}:1"), disk: None, prospect };
        let change = match words {
            ["add", node] => add(node_id(node)?, PendingRole::Promote),
            ["learner", node] => add(node_id(node)?, PendingRole::Stays),
            ["promote", node] => Change::Promote(node_id(node)?),
            ["remove", node] => Change::Remove(node_id(node)?),
            ["voters", nodes @ ..] => Change::Voters(nodes.iter().map(|n| node_id(n)).collect::<Result<_, _>>()?),
            _ => return Err("no such change".to_owned()),
        };
        if let Change::Add { id, .. } = &change
            && !self.cluster.hosts.contains_key(id)
        {
            self.cluster.join(id.get());
        }
        let outcome = self.step(leader, |cluster| cluster.change(leader, change));
        self.answer(leader, outcome)
    }

    fn compact(&mut self, node: NodeId, upto: Index) -> Outcome {
        if upto > self.cluster.raft(node).log().commit() {
            return Err(format!("{upto} is not committed on {node}"));
        }
        self.cluster.core(node).compact(upto);
        let base = self.cluster.raft(node).log().base();
        self.print(format!("  {node}: a snapshot replaces the log up to {base}"));
        Ok(())
    }

    /// Sends the snapshot that a follower needs, as the driver of a leader does.
    fn send_snapshot(&mut self, from: NodeId, to: NodeId) -> Outcome {
        let raft = self.cluster.raft(from);
        if !raft.needs_snapshot(to) {
            return Err(format!("{to} needs no snapshot of {from}"));
        }
        let chunk = SnapshotChunk { snapshot: raft.log().base(), total: 4, offset: 0, bytes: command("data") };
        let envelope = raft.envelope(to, raft.term(), Message::InstallSnapshot(chunk));
        self.cluster.schedule(ms(1), Event::Arrives(envelope));
        Ok(())
    }

    /// Installs a snapshot that has arrived, as the driver of a follower does. The log before it stands for its data.
    fn install(&mut self, node: NodeId, from: NodeId, chunk: &SnapshotChunk) {
        let position = chunk.snapshot;
        let (configured, membership) = self.cluster.raft(from).membership_at(position.index).unwrap().clone();
        let data = self.cluster.hosts[&from].log[..position.index.0 as usize].to_vec();
        let host = self.cluster.hosts.get_mut(&node).unwrap();
        (host.log, host.disk.1) = (data.clone(), data);
        self.step(node, |cluster| {
            let now = cluster.now;
            cluster.core(node).chunked(from, position, chunk.total, false);
            cluster.core(node).restored(now, SnapshotPoint { position, configured, membership }, ClusterTime(0));
        });
    }

    /// Prints the role and the log of each node.
    fn list_nodes(&mut self) -> Outcome {
        for node in self.cluster.ids() {
            let text = self.cluster.hosts[&node].raft.as_ref().map_or("down".to_owned(), node_text);
            self.print(format!("  {node}  {text}"));
        }
        Ok(())
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn node_id(word: &str) -> Result<NodeId, String> {
    let n = number(word.strip_prefix('n').ok_or(format!("{word} is no node"))?)?;
    NodeId::new(n).ok_or(format!("{word} is no node"))
}

/// A log of entries with these terms, the first of which is the configuration.
fn log_of(voters: u64, terms: &[u64]) -> Vec<Entry> {
    let founding = Membership::founding((1..=voters).map(|n| (id(n), String::new())));
    let membership = Membership { log_id: Some(LogId(1)), log_agreed: true, ..founding };
    let mut log = super::cluster::log_of(terms);
    for (i, entry) in log.iter_mut().enumerate() {
        let payload = match i {
            0 => Payload::Membership(Box::new(membership.clone())),
            _ => Payload::Opaque(command(&format!("old{}", i + 1))),
        };
        *entry = drave::codec::entry(entry.position, ClusterTime(0), payload);
    }
    log
}
