//! The state that the view knows of a cluster: a pure function of observations and their times.

use super::event_log::{self, EventText, Severity};
use super::node::{Node, PollResult, ProcessState};
use drave::api::{RoleName, Status};
use drave::limits::MEMBERS_MAX;
use std::collections::VecDeque;
use std::time::Duration;

/// Maximum number of events; the oldest are dropped.
pub const EVENTS_MAX: usize = 200;
/// Maximum number of commit rates, one per second; the oldest are dropped.
pub const COMMIT_RATES_MAX: usize = 300;
/// The interval at which the commit rate is computed.
const COMMIT_RATE_INTERVAL: Duration = Duration::from_secs(1);

/// An observation of the cluster, a process or the load.
#[derive(Clone, PartialEq, Debug)]
pub enum Observation {
    /// A status request to a node was answered, or failed.
    StatusPolled {
        /// The endpoint that was polled.
        endpoint: String,
        /// The status, or the kind of failure.
        poll_result: PollResult,
    },
    /// The state of a node's process was checked.
    ProcessChecked {
        /// The id of the node, from 1.
        node: u64,
        /// The state that the parent process observed.
        process: ProcessState,
    },
    /// The load was switched on or off, or new measurements of it arrived.
    LoadChanged(LoadState),
    /// An action or a failure that no other observation shows.
    Event(EventText),
}

/// The load that the view itself puts on the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LoadState {
    /// The view puts no load on the cluster.
    #[default]
    Off,
    /// The load is running, with its latest measurements.
    On(LoadSample),
}

/// Measurements of the load over the last 5 seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LoadSample {
    /// Writes answered per second.
    pub writes_per_second: u64,
    /// The number of writes in flight when the measurements were taken.
    pub in_flight: usize,
    /// Median and 99th percentile of latency, in microseconds; `None` if no write was answered.
    pub latency_us: Option<(u64, u64)>,
    /// Writes rejected or with an unknown outcome, since the load was started.
    pub failed_writes: u64,
}

/// An event of the list that the view shows, with its time.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// When the event occurred, since the view was opened.
    pub at: Duration,
    /// What happened, and whether it improves the state of the cluster.
    pub description: EventText,
}

/// The state that the view knows of a cluster.
///
/// The size is bounded by [`EVENTS_MAX`], [`COMMIT_RATES_MAX`], and the number of initial endpoints plus members.
#[derive(Clone, Debug)]
pub struct Model {
    /// The title of the view, such as `drave top`.
    pub title: String,
    /// The data directory or the endpoints of the cluster, as text for the header.
    pub location: String,
    /// The nodes, in order of their ids; nodes with an unknown id are last.
    pub nodes: Vec<Node>,
    /// The events, the newest last.
    pub events: VecDeque<Event>,
    /// The load that the view itself puts on the cluster.
    pub load: LoadState,
    commit_rates: CommitRates,
    /// The last known leader and its term.
    last_leader_node_and_term: Option<(u64, u64)>,
    leader_node_and_term: Option<(u64, u64)>,
    term: u64,
    membership: String,
    now: Duration,
}

/// Commit rates per second, computed from commit indexes and the times of their observation.
#[derive(Clone, Debug, Default)]
struct CommitRates {
    /// Commits in each second, the newest last.
    commits_per_second: VecDeque<u64>,
    /// The highest observed commit index, and when it was observed.
    highest_commit: Option<(Duration, u64)>,
    /// The value of `highest_commit` at the last computation.
    base_commit: Option<(Duration, u64)>,
    /// When the commit rate was last computed, since the view was opened.
    computed_at: Duration,
}

impl CommitRates {
    fn record_commit(&mut self, at: Duration, commit: u64) {
        if self.highest_commit.is_none_or(|(_, highest)| commit >= highest) {
            self.highest_commit = Some((at, commit));
        }
    }

    /// Appends the commit rate since the last computation, at most once a second. Status responses arrive at irregular
    /// times, so that the rate uses the time between two responses, not the time between two ticks.
    fn tick(&mut self, now: Duration) {
        if now < self.computed_at + COMMIT_RATE_INTERVAL {
            return;
        }
        self.computed_at = now;
        let Some((to_at, to)) = self.highest_commit else { return };
        if let Some((from_at, from)) = self.base_commit {
            let seconds = to_at.saturating_sub(from_at).max(COMMIT_RATE_INTERVAL / 10).as_secs_f64();
            self.commits_per_second.push_back(((to - from) as f64 / seconds).round() as u64);
            if self.commits_per_second.len() > COMMIT_RATES_MAX {
                self.commits_per_second.pop_front();
            }
        }
        self.base_commit = self.highest_commit;
    }
}

impl Model {
    /// A model of nodes of which only the endpoints, and perhaps the ids, are known.
    pub fn new(title: &str, location: String, nodes: impl IntoIterator<Item = (Option<u64>, String)>) -> Model {
        let node = |(id, endpoint)| Node {
            endpoint,
            id,
            poll_result: None,
            last_answer: None,
            process: None,
            is_initial_endpoint: true,
        };
        Model {
            title: title.to_owned(),
            location,
            nodes: nodes.into_iter().map(node).collect(),
            events: VecDeque::new(),
            load: LoadState::Off,
            commit_rates: CommitRates::default(),
            last_leader_node_and_term: None,
            leader_node_and_term: None,
            term: 0,
            membership: String::new(),
            now: Duration::ZERO,
        }
    }

    /// Applies an observation made at time `at`, and appends an event for each change.
    pub fn update(&mut self, at: Duration, observation: Observation) {
        self.now = self.now.max(at);
        match observation {
            Observation::StatusPolled { endpoint, poll_result } => self.record_poll(at, &endpoint, poll_result),
            Observation::ProcessChecked { node, process } => self.record_process(at, node, process),
            Observation::LoadChanged(load) => self.load = load,
            Observation::Event(description) => self.append_event(at, description),
        }
    }

    /// Advances the clock, and computes the commit rate if a second has passed.
    pub fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.commit_rates.tick(self.now);
    }

    /// The time since the view was opened.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Commits in each second, the newest last.
    pub fn commit_rates(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.commit_rates.commits_per_second.iter().copied()
    }

    /// The leader with the highest term among the nodes that answer.
    pub fn leader(&self) -> Option<&Status> {
        self.statuses().filter(|status| status.role == RoleName::Leader).max_by_key(|status| status.term)
    }

    /// The status of each node that answers.
    pub fn statuses(&self) -> impl Iterator<Item = &Status> {
        self.nodes.iter().filter_map(Node::status)
    }

    /// The endpoints to poll: the initial ones, and those of the other cluster members.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.endpoint.clone()).collect()
    }

    fn record_poll(&mut self, at: Duration, endpoint: &str, poll_result: PollResult) {
        // The node may have left the cluster since the request.
        let Some(node) = self.nodes.iter_mut().find(|node| node.endpoint == endpoint) else { return };
        if let PollResult::Answer(status) = &poll_result {
            (node.id, node.last_answer) = (Some(status.node), Some(at));
            self.commit_rates.record_commit(at, status.commit);
        }
        let before = node.poll_result.replace(poll_result);
        let events = event_log::describe_poll_change(node, before.as_ref());
        events.into_iter().for_each(|description| self.append_event(at, description));
        self.update_cluster_state(at);
        self.update_members();
    }

    /// Records the state of a node's process, and an event if the state changed.
    fn record_process(&mut self, at: Duration, id: u64, process: ProcessState) {
        let Some(node) = self.nodes.iter_mut().find(|node| node.id == Some(id)) else { return };
        let before = node.process.replace(process);
        if let Some(description) = event_log::describe_process_change(id, before, process) {
            self.append_event(at, description);
        }
    }

    /// Updates leader, term and membership, which result from the statuses of all nodes together.
    fn update_cluster_state(&mut self, at: Duration) {
        let term = self.statuses().map(|status| status.term).max().unwrap_or_default();
        let leader_node_and_term = self.leader().map(|leader| (leader.node, leader.term));
        let membership = self.leader().map(|leader| leader.membership.clone());
        if leader_node_and_term != self.leader_node_and_term {
            if let Some(description) =
                event_log::describe_leader_change(self.last_leader_node_and_term, leader_node_and_term)
            {
                self.append_event(at, description);
            }
            self.last_leader_node_and_term = leader_node_and_term.or(self.last_leader_node_and_term);
            self.leader_node_and_term = leader_node_and_term;
        }
        // The new term has an event of its own only while it has no leader: the event of a new leader names the term.
        if term > self.term {
            if self.term > 0 && leader_node_and_term.is_none_or(|(_, leader_term)| leader_term < term) {
                self.append_event(at, EventText::new(Severity::Plain, format!("term {term} begins")));
            }
            self.term = term;
        }
        if let Some(membership) = membership.filter(|membership| *membership != self.membership) {
            if !self.membership.is_empty() {
                self.append_event(at, EventText::new(Severity::Plain, format!("the members are now {membership}")));
            }
            self.membership = membership;
        }
    }

    /// Adds members that are not among the initial endpoints, and removes such nodes once they are no longer members.
    /// The member list is the leader's; without a leader, that of the node with the highest term and commit index.
    fn update_members(&mut self) {
        let rank = |status: &&Status| (status.role == RoleName::Leader, status.term, status.commit);
        let Some(best_status) = self.statuses().max_by_key(rank) else { return };
        let members = best_status.members.clone();
        if members.is_empty() {
            return;
        }
        self.nodes
            .retain(|node| node.is_initial_endpoint || members.iter().any(|member| member.address == node.endpoint));
        for member in members.into_iter().take(MEMBERS_MAX) {
            let is_known = |node: &Node| node.id == Some(member.node) || node.endpoint == member.address;
            if !self.nodes.iter().any(is_known) {
                let (id, endpoint) = (Some(member.node), member.address);
                self.nodes.push(Node {
                    endpoint,
                    id,
                    poll_result: None,
                    last_answer: None,
                    process: None,
                    is_initial_endpoint: false,
                });
            }
        }
        self.nodes.sort_by_key(|node| node.id.unwrap_or(u64::MAX));
    }

    fn append_event(&mut self, at: Duration, description: EventText) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event { at, description });
    }
}

#[cfg(test)]
pub(super) mod tests;
