//! The interpreter of trace scripts: runs the commands of a trace on a simulated cluster of Raft cores.
//!
//! No timer fires unless a command fires it, so that no trace depends on random timeouts: `timeout` fires the election
//! timer of one node, `heartbeat` the timer of a leader after an interval, and `wait` lets time pass. `quietly` before
//! a command reduces the output of the command to changes of leaders and their configurations.

use super::cluster::{Cluster, Event, command, id, ms};
use super::trace_text::{entry_text, envelope_text, node_text, note_text, sync_text, vote_text};
use drave::consensus::Raft;
use drave::consensus::message::{Envelope, Message, SnapshotChunk};
use drave::consensus::note::Note;
use drave::types::*;
use std::collections::BTreeSet;

type CommandResult = Result<(), String>;

/// Runs the commands of one script.
pub struct Interpreter {
    cluster: Cluster,
    stalled_disks: BTreeSet<NodeId>,
    mutants: Mutants,
    /// The maximum number of entries in one append; `None` for the default.
    append_entries_max: Option<usize>,
    /// Whether the current command prints only changes of leaders and their configurations.
    is_quiet: bool,
    /// How many of the cluster's sent messages have been checked for a broken link.
    checked_message_count: usize,
    /// The lines of the script so far, each command followed by its output.
    pub output_lines: Vec<String>,
}

/// The log positions and the commit index of a node, taken before it handles an event.
struct LogSummary {
    positions: Vec<Position>,
    commit: Index,
}

impl LogSummary {
    fn new(cluster: &Cluster, node: NodeId) -> LogSummary {
        let host = &cluster.hosts[&node];
        let commit = host.raft.as_ref().map_or(Index::ZERO, |raft| raft.log().commit());
        LogSummary { positions: host.log.iter().map(|entry| entry.position).collect(), commit }
    }
}

impl Interpreter {
    pub fn new(mutants: Mutants) -> Interpreter {
        Interpreter {
            cluster: Cluster::with_logs(&[]),
            stalled_disks: BTreeSet::new(),
            mutants,
            append_entries_max: None,
            is_quiet: false,
            checked_message_count: 0,
            output_lines: Vec::new(),
        }
    }

    /// Executes one command and adds its output to `output_lines`.
    pub fn execute(&mut self, line: &str) -> CommandResult {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.is_quiet = words.first() == Some(&"quietly");
        match &words[usize::from(self.is_quiet)..] {
            ["cluster", nodes @ ..] => self.start_cluster(nodes),
            ["limit", entries] => self.limit_append_entries(entries),
            ["timeout", node] => self.fire_election_timer(self.running_node(node)?),
            ["heartbeat", leader] => self.fire_heartbeat_timer(self.running_node(leader)?),
            ["wait", time] => self.advance_clock(parse_number(time)?),
            ["elect", node] => self.elect(self.running_node(node)?),
            ["deliver"] => self.deliver_all(),
            ["deliver", from, to] => self.deliver_some(self.existing_node(from)?, self.existing_node(to)?, usize::MAX),
            ["deliver", from, to, count] => {
                self.deliver_some(self.existing_node(from)?, self.existing_node(to)?, parse_number(count)? as usize)
            }
            ["drop", from, to] => self.drop_messages(self.existing_node(from)?, self.existing_node(to)?),
            ["flight"] => self.list_messages(),
            ["cut", node] => {
                self.cluster.isolate(self.existing_node(node)?);
                Ok(())
            }
            ["heal"] => {
                self.cluster.heal();
                Ok(())
            }
            ["crash", node] => self.crash(self.running_node(node)?),
            ["restart", node] => self.restart(self.existing_node(node)?),
            ["stall", node] => {
                self.stalled_disks.insert(self.running_node(node)?);
                Ok(())
            }
            ["sync", node] => self.sync(self.running_node(node)?),
            ["propose", node, text] => self.propose(self.running_node(node)?, text),
            ["read", node] => self.read(self.running_node(node)?),
            ["transfer", from, to] => self.transfer(self.running_node(from)?, self.existing_node(to)?),
            ["change", leader, change @ ..] => self.change_membership(self.running_node(leader)?, change),
            ["compact", node, upto] => self.compact(self.running_node(node)?, Index(parse_number(upto)?)),
            ["snapshot", from, to] => self.send_snapshot(self.running_node(from)?, self.running_node(to)?),
            ["state"] => self.list_nodes(),
            _ => Err("no such command".to_owned()),
        }
    }

    fn existing_node(&self, word: &str) -> Result<NodeId, String> {
        let node = parse_node_id(word)?;
        self.cluster.hosts.contains_key(&node).then_some(node).ok_or(format!("there is no {node}"))
    }

    fn running_node(&self, word: &str) -> Result<NodeId, String> {
        let node = self.existing_node(word)?;
        self.cluster.hosts[&node].raft.as_ref().map(|_| node).ok_or(format!("{node} is down"))
    }

    fn print(&mut self, line: String) {
        if !self.is_quiet {
            self.output_lines.push(line);
        }
    }

    /// Starts the cluster. `cluster 3` starts three nodes with empty disks. `cluster n1=1,2 n2=1` gives each node a log
    /// whose entries have these terms. The first entry is the configuration, and every node is in the highest of these
    /// terms.
    fn start_cluster(&mut self, nodes: &[&str]) -> CommandResult {
        let mut logs = Vec::new();
        for (i, word) in nodes.iter().enumerate().filter(|(_, word)| word.contains('=')) {
            let terms = word.strip_prefix(&format!("n{}=", i + 1)).ok_or("logs are listed by node: n1=… n2=…")?;
            logs.push(terms.split(',').map(parse_number).collect::<Result<Vec<u64>, String>>()?);
        }
        let highest_term = logs.iter().flatten().max().copied().unwrap_or_default();
        let node_count = logs.len() as u64;
        self.cluster = match nodes {
            [count] if logs.is_empty() => Cluster::new(parse_number(count)?),
            _ if logs.len() == nodes.len() => Cluster::with_logs(
                &logs.iter().map(|terms| (highest_term, log_with_configuration(node_count, terms))).collect::<Vec<_>>(),
            ),
            _ => return Err("`cluster` takes either a number of nodes, or the log of each node".to_owned()),
        };
        self.cluster.options.mutants = self.mutants;
        self.cluster.options.append_entries_max =
            self.append_entries_max.unwrap_or(self.cluster.options.append_entries_max);
        self.cluster.ids().into_iter().for_each(|node| self.cluster.start(node));
        Ok(())
    }

    /// Limits the number of entries in one append, for clusters that are started after this command.
    fn limit_append_entries(&mut self, entry_count: &str) -> CommandResult {
        self.append_entries_max = Some(parse_number(entry_count)? as usize);
        Ok(())
    }

    /// Runs `action` on a node, and prints the changes of the node's state.
    fn run_on_node<T>(&mut self, node: NodeId, action: impl FnOnce(&mut Cluster) -> T) -> T {
        let summary_before = LogSummary::new(&self.cluster, node);
        let outcome = action(&mut self.cluster);
        self.cluster.process_ready(node);
        self.print_node_changes(node, &summary_before);
        outcome
    }

    fn print_node_changes(&mut self, node: NodeId, summary_before: &LogSummary) {
        let host = self.cluster.hosts.get_mut(&node).unwrap();
        let mut change_lines = Vec::new();
        for note in std::mem::take(&mut host.notes) {
            let sets_leader_configuration =
                matches!(note, Note::ConfigurationInForce { .. }) && host.raft.as_ref().is_some_and(Raft::leads);
            let is_leadership_change =
                sets_leader_configuration || matches!(note, Note::Leads { .. } | Note::StepsDown { .. });
            change_lines.push((is_leadership_change, note_text(&note)));
        }
        let is_new = |(i, entry): &(usize, &Entry)| summary_before.positions.get(*i) != Some(&entry.position);
        let appended_texts: Vec<String> =
            host.log.iter().enumerate().filter(is_new).map(|(_, e)| entry_text(e)).collect();
        if !appended_texts.is_empty() {
            change_lines.push((false, format!("appends {}", appended_texts.join(", "))));
        }
        let commit = host.raft.as_ref().unwrap().log().commit();
        if commit > summary_before.commit {
            change_lines.push((false, format!("commits up to {commit}")));
        }
        for (read, index) in std::mem::take(&mut host.confirmed_reads) {
            change_lines.push((false, format!("read {} is served once {index} is applied", read.0)));
        }
        for read in std::mem::take(&mut host.lost_reads) {
            change_lines.push((false, format!("read {} fails", read.0)));
        }
        let indent =
            if self.output_lines.last().is_some_and(|line| line.starts_with("  ")) && !self.is_quiet { 6 } else { 2 };
        for (_, line) in
            change_lines.into_iter().filter(|(is_leadership_change, _)| *is_leadership_change || !self.is_quiet)
        {
            self.output_lines.push(format!("{:indent$}{node}: {line}", ""));
        }
        let is_on_broken_link = |envelope: &Envelope| self.cluster.broken_links.contains(&(envelope.from, envelope.to));
        let unchecked_messages = &self.cluster.sent_messages[self.checked_message_count..];
        let lost_message_texts: Vec<String> =
            unchecked_messages.iter().map(|(_, e)| e).filter(|e| is_on_broken_link(e)).map(envelope_text).collect();
        self.checked_message_count = self.cluster.sent_messages.len();
        lost_message_texts.into_iter().for_each(|text| self.print(format!("{text}, lost")));
    }

    /// Fires the election timer of one node. The clock of the cluster does not advance.
    fn fire_election_timer(&mut self, node: NodeId) -> CommandResult {
        if self.cluster.raft(node).leads() {
            return Err(format!("{node} leads"));
        }
        self.run_on_node(node, |cluster| {
            let deadline = cluster.raft(node).deadline().max(cluster.now);
            cluster.raft_mut(node).tick(deadline);
        });
        Ok(())
    }

    fn fire_heartbeat_timer(&mut self, node: NodeId) -> CommandResult {
        if !self.cluster.raft(node).leads() {
            return Err(format!("{node} does not lead"));
        }
        self.cluster.now = self.cluster.now + self.cluster.options.heartbeat;
        self.run_on_node(node, |cluster| {
            let now = cluster.now;
            cluster.raft_mut(node).tick(now);
        });
        Ok(())
    }

    fn advance_clock(&mut self, milliseconds: u64) -> CommandResult {
        self.cluster.now = self.cluster.now + ms(milliseconds);
        Ok(())
    }

    /// Fires a node's election timer, and delivers messages until it leads.
    fn elect(&mut self, node: NodeId) -> CommandResult {
        self.is_quiet = true;
        self.fire_election_timer(node)?;
        while !self.cluster.raft(node).leads() {
            let key = self.next_event_key().ok_or(format!("{node} does not win"))?;
            self.handle_event(key);
        }
        Ok(())
    }

    /// The next event, unless it is a sync of a stalled disk.
    fn next_event_key(&self) -> Option<(Time, u64)> {
        let is_stalled_sync =
            |event: &Event| matches!(event, Event::Synced(node, _) if self.stalled_disks.contains(node));
        self.cluster.event_queue.iter().find(|(_, event)| !is_stalled_sync(event)).map(|(key, _)| *key)
    }

    fn event_keys(&self, matches: impl Fn(&Event) -> bool) -> Vec<(Time, u64)> {
        self.cluster.event_queue.iter().filter(|(_, event)| matches(event)).map(|(key, _)| *key).collect()
    }

    fn messages_in_flight(&self, from: NodeId, to: NodeId) -> Result<Vec<(Time, u64)>, String> {
        let keys = self.event_keys(|event| matches!(event, Event::MessageArrives(e) if (e.from, e.to) == (from, to)));
        if keys.is_empty() { Err(format!("nothing is in flight from {from} to {to}")) } else { Ok(keys) }
    }

    fn handle_event(&mut self, key: (Time, u64)) {
        self.cluster.now = self.cluster.now.max(key.0);
        let event = self.cluster.event_queue.remove(&key).unwrap();
        let (node, text) = match &event {
            Event::MessageArrives(envelope) => (envelope.to, envelope_text(envelope)),
            Event::Synced(node, upto) => (*node, sync_text(&self.cluster, *node, *upto)),
        };
        if self.cluster.hosts[&node].raft.is_none() {
            return self.print(format!("{text}, lost: {node} is down"));
        }
        self.print(text);
        self.run_on_node(node, |cluster| cluster.handle_event(event));
        let chunks = std::mem::take(&mut self.cluster.hosts.get_mut(&node).unwrap().snapshot_chunks);
        chunks.into_iter().for_each(|(from, chunk)| self.install_snapshot(node, from, &chunk));
    }

    /// Delivers messages and syncs disks until no event is left. The leader also sends its delayed messages with the
    /// commit index.
    fn deliver_all(&mut self) -> CommandResult {
        for _ in 0..1000 {
            if let Some(key) = self.next_event_key() {
                self.handle_event(key);
                continue;
            }
            self.cluster.now = self.cluster.now + self.cluster.options.commit_delay_max;
            self.cluster.ids().into_iter().for_each(|node| self.cluster.process_ready(node));
            if self.next_event_key().is_none() {
                return Ok(());
            }
        }
        Err("events are still pending after 1,000 events".to_owned())
    }

    /// Delivers at most `count` of the messages in flight from one node to another, but not the messages that are sent
    /// in response.
    fn deliver_some(&mut self, from: NodeId, to: NodeId, count: usize) -> CommandResult {
        self.messages_in_flight(from, to)?.into_iter().take(count).for_each(|key| self.handle_event(key));
        Ok(())
    }

    fn drop_messages(&mut self, from: NodeId, to: NodeId) -> CommandResult {
        self.messages_in_flight(from, to)?.into_iter().for_each(|key| self.drop_event(key));
        Ok(())
    }

    /// Removes an event, and prints it if it is a message.
    fn drop_event(&mut self, key: (Time, u64)) {
        if let Some(Event::MessageArrives(envelope)) = self.cluster.event_queue.remove(&key) {
            self.print(format!("{}, lost", envelope_text(&envelope)));
        }
    }

    fn list_messages(&mut self) -> CommandResult {
        let message_text = |event: &Event| match event {
            Event::MessageArrives(envelope) => Some(envelope_text(envelope)),
            Event::Synced(..) => None,
        };
        let texts: Vec<String> = self.cluster.event_queue.values().filter_map(message_text).collect();
        texts.into_iter().for_each(|text| self.print(text));
        Ok(())
    }

    fn crash(&mut self, node: NodeId) -> CommandResult {
        self.cluster.crash(node);
        self.stalled_disks.remove(&node);
        let involves_node = |event: &Event| match event {
            Event::MessageArrives(envelope) => envelope.from == node || envelope.to == node,
            Event::Synced(of, _) => *of == node,
        };
        self.event_keys(involves_node).into_iter().for_each(|key| self.drop_event(key));
        Ok(())
    }

    fn restart(&mut self, node: NodeId) -> CommandResult {
        if self.running_node(&node.to_string()).is_ok() {
            return Err(format!("{node} is not down"));
        }
        self.cluster.start(node);
        let raft = self.cluster.raft(node);
        let text = format!("  {node}: restarts with term {}{}", raft.term(), vote_text(raft.vote()));
        self.print(format!("{text}, log up to {}", self.cluster.raft(node).log().last()));
        Ok(())
    }

    /// Syncs all writes of a node so far, and ends a stall of its disk.
    fn sync(&mut self, node: NodeId) -> CommandResult {
        self.stalled_disks.remove(&node);
        let sync_keys = self.event_keys(|event| matches!(event, Event::Synced(of, _) if *of == node));
        sync_keys.iter().for_each(|key| self.handle_event(*key));
        if sync_keys.is_empty() { Err(format!("{node} has nothing to sync")) } else { Ok(()) }
    }

    /// Prints the reason if a request was refused.
    fn print_refusal<T, E: std::fmt::Display>(&mut self, node: NodeId, outcome: Result<T, E>) -> CommandResult {
        if let Err(refusal) = outcome {
            self.print(format!("  {node}: refuses: {refusal}"));
        }
        Ok(())
    }

    fn propose(&mut self, node: NodeId, text: &str) -> CommandResult {
        let outcome = self.run_on_node(node, |cluster| {
            let now = cluster.now;
            cluster.raft_mut(node).propose(now, command(text))
        });
        self.print_refusal(node, outcome)
    }

    fn read(&mut self, node: NodeId) -> CommandResult {
        let outcome = self.run_on_node(node, |cluster| cluster.raft_mut(node).read());
        if let Ok(read) = &outcome {
            self.print(format!("  {node}: read {} waits", read.0));
        }
        self.print_refusal(node, outcome)
    }

    fn transfer(&mut self, node: NodeId, to: NodeId) -> CommandResult {
        let outcome = self.run_on_node(node, |cluster| cluster.transfer(node, Some(to)));
        self.print_refusal(node, outcome)
    }

    fn change_membership(&mut self, leader: NodeId, words: &[&str]) -> CommandResult {
        let add_change =
            |n: NodeId, pending_role| Change::Add { id: n, address: format!("h{n}:1"), disk: None, pending_role };
        let change = match words {
            ["add", node] => add_change(parse_node_id(node)?, PendingRole::Promote),
            ["learner", node] => add_change(parse_node_id(node)?, PendingRole::Unchanged),
            ["promote", node] => Change::Promote(parse_node_id(node)?),
            ["remove", node] => Change::Remove(parse_node_id(node)?),
            ["voters", nodes @ ..] => {
                Change::SetVoters(nodes.iter().map(|n| parse_node_id(n)).collect::<Result<_, _>>()?)
            }
            _ => return Err("no such change".to_owned()),
        };
        if let Change::Add { id, .. } = &change
            && !self.cluster.hosts.contains_key(id)
        {
            self.cluster.start_new_node(id.get());
        }
        let outcome = self.run_on_node(leader, |cluster| cluster.change_membership(leader, change));
        self.print_refusal(leader, outcome)
    }

    fn compact(&mut self, node: NodeId, upto: Index) -> CommandResult {
        if upto > self.cluster.raft(node).log().commit() {
            return Err(format!("{upto} is not committed on {node}"));
        }
        self.cluster.raft_mut(node).compact(upto);
        let base = self.cluster.raft(node).log().base();
        self.print(format!("  {node}: a snapshot replaces the log up to {base}"));
        Ok(())
    }

    /// Sends the snapshot that a follower needs, as the driver of a leader does.
    fn send_snapshot(&mut self, from: NodeId, to: NodeId) -> CommandResult {
        let raft = self.cluster.raft(from);
        if !raft.is_sending_snapshot(to) {
            return Err(format!("{to} needs no snapshot of {from}"));
        }
        let chunk = SnapshotChunk { snapshot: raft.log().base(), total_bytes: 4, offset: 0, bytes: command("data") };
        let envelope = raft.envelope(to, raft.term(), Message::InstallSnapshot(chunk));
        self.cluster.schedule(ms(1), Event::MessageArrives(envelope));
        Ok(())
    }

    /// Installs a snapshot that has arrived, as the driver of a follower does. The entries that the snapshot covers
    /// serve as its data.
    fn install_snapshot(&mut self, node: NodeId, from: NodeId, chunk: &SnapshotChunk) {
        let position = chunk.snapshot;
        let (configured, membership) = self.cluster.raft(from).membership_at(position.index).unwrap().clone();
        let covered_entries = self.cluster.hosts[&from].log[..position.index.0 as usize].to_vec();
        let host = self.cluster.hosts.get_mut(&node).unwrap();
        (host.log, host.synced_state.1) = (covered_entries.clone(), covered_entries);
        self.run_on_node(node, |cluster| {
            let now = cluster.now;
            cluster.raft_mut(node).ack_chunk(from, position, chunk.total_bytes, false);
            cluster.raft_mut(node).install_snapshot(
                now,
                SnapshotPoint { position, configured, membership },
                ClusterTime(0),
            );
        });
    }

    /// Prints the role and the log of each node.
    fn list_nodes(&mut self) -> CommandResult {
        for node in self.cluster.ids() {
            let text = self.cluster.hosts[&node].raft.as_ref().map_or("down".to_owned(), node_text);
            self.print(format!("  {node}  {text}"));
        }
        Ok(())
    }
}

fn parse_number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn parse_node_id(word: &str) -> Result<NodeId, String> {
    let n = parse_number(word.strip_prefix('n').ok_or(format!("{word} is no node"))?)?;
    NodeId::new(n).ok_or(format!("{word} is no node"))
}

/// A log with one entry for each of `terms`. The first entry is the configuration.
fn log_with_configuration(voters: u64, terms: &[u64]) -> Vec<Entry> {
    let founding_membership = Membership::founding((1..=voters).map(|n| (id(n), String::new())));
    let membership = Membership { log_id: Some(LogId(1)), log_agreed: true, ..founding_membership };
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
