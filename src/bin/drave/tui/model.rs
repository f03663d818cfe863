//! The state that the view knows of a cluster: a pure function of observations and their times.

use super::event_log::{self, EventText, Severity};
use super::node::{Node, PollResult, Process};
use drave::api::{RoleName, Status};
use drave::limits::MEMBERS_MAX;
use std::collections::VecDeque;
use std::time::Duration;

/// Maximum number of events; the oldest are dropped.
pub const EVENTS_MAX: usize = 200;
/// Maximum number of seconds in the series of commit rates.
pub const SECONDS_MAX: usize = 300;
/// How often the commit rate is computed.
const SECOND: Duration = Duration::from_secs(1);

/// An observation of the cluster, a process or the load.
#[derive(Clone, PartialEq, Debug)]
pub enum Observation {
    /// A node's status was requested.
    Looked {
        /// The endpoint of the node.
        endpoint: String,
        /// The result of the request.
        found: PollResult,
    },
    /// The state of a node's process.
    Process {
        /// The id of the node.
        node: u64,
        /// The state of its process.
        process: Process,
    },
    /// The state of the load.
    Load(Load),
    /// An action or a failure that no other observation shows.
    Told(EventText),
}

/// The load that the view itself puts on the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Load {
    /// No load.
    #[default]
    Off,
    /// The load is writing.
    On(Sample),
}

/// Measurements of the load over the last seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sample {
    /// Writes answered per second.
    pub per_second: u64,
    /// Writes in flight.
    pub under_way: usize,
    /// Median and 99th percentile of latency, in microseconds; `None` if no write was answered.
    pub latency: Option<(u64, u64)>,
    /// Writes rejected or with an unknown outcome, since the load was started.
    pub failed: u64,
}

/// An entry of the event list.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// The time since the view was opened.
    pub at: Duration,
    /// The description of the event.
    pub told: EventText,
}

/// The state that the view knows of a cluster.
///
/// Its size is bounded by [`EVENTS_MAX`], [`SECONDS_MAX`], and the number of given endpoints plus cluster members.
#[derive(Clone, Debug)]
pub struct Model {
    /// The title of the view.
    pub title: String,
    /// The location of the cluster, for display.
    pub place: String,
    /// The nodes, in order of their ids; nodes with an unknown id are last.
    pub nodes: Vec<Node>,
    /// The events, the newest last.
    pub events: VecDeque<Event>,
    /// The load that the view itself puts on the cluster.
    pub load: Load,
    commits: Commits,
    /// The last known leader and its term.
    led: Option<(u64, u64)>,
    leads: Option<(u64, u64)>,
    term: u64,
    membership: String,
    now: Duration,
}

/// Commit rates per second, computed from commit indices and the times of their observation.
#[derive(Clone, Debug, Default)]
struct Commits {
    seconds: VecDeque<u64>,
    newest: Option<(Duration, u64)>,
    /// The value of `newest` at the last computation.
    base: Option<(Duration, u64)>,
    counted: Duration,
}

impl Commits {
    fn saw(&mut self, at: Duration, commit: u64) {
        if self.newest.is_none_or(|(_, known)| commit >= known) {
            self.newest = Some((at, commit));
        }
    }

    /// Appends the commit rate since the last computation, at most once a second. Status responses arrive at irregular
    /// times, so that the rate uses the time between two responses, not the time between two ticks.
    fn tick(&mut self, now: Duration) {
        if now < self.counted + SECOND {
            return;
        }
        self.counted = now;
        let Some((to_at, to)) = self.newest else { return };
        if let Some((from_at, from)) = self.base {
            let seconds = to_at.saturating_sub(from_at).max(SECOND / 10).as_secs_f64();
            self.seconds.push_back(((to - from) as f64 / seconds).round() as u64);
            if self.seconds.len() > SECONDS_MAX {
                self.seconds.pop_front();
            }
        }
        self.base = self.newest;
    }
}

impl Model {
    /// A model of nodes of which only the endpoints, and perhaps the ids, are known.
    pub fn new(title: &str, place: String, nodes: impl IntoIterator<Item = (Option<u64>, String)>) -> Model {
        let node = |(id, endpoint)| Node { endpoint, id, found: None, heard: None, process: None, given: true };
        Model {
            title: title.to_owned(),
            place,
            nodes: nodes.into_iter().map(node).collect(),
            events: VecDeque::new(),
            load: Load::Off,
            commits: Commits::default(),
            led: None,
            leads: None,
            term: 0,
            membership: String::new(),
            now: Duration::ZERO,
        }
    }

    /// Applies an observation made at time `at`, and appends an event for each change.
    pub fn update(&mut self, at: Duration, observation: Observation) {
        self.now = self.now.max(at);
        match observation {
            Observation::Looked { endpoint, found } => self.looked(at, &endpoint, found),
            Observation::Process { node, process } => self.record_process(at, node, process),
            Observation::Load(load) => self.load = load,
            Observation::Told(told) => self.append_event(at, told),
        }
    }

    /// Advances the clock, and computes the commit rate if a second has passed.
    pub fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.commits.tick(self.now);
    }

    /// The time since the view was opened.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Commits per second, the newest last.
    pub fn commits(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.commits.seconds.iter().copied()
    }

    /// The leader with the highest term among the nodes that answer.
    pub fn leader(&self) -> Option<&Status> {
        self.answered().filter(|status| status.role == RoleName::Leader).max_by_key(|status| status.term)
    }

    /// The status of each node that answers.
    pub fn answered(&self) -> impl Iterator<Item = &Status> {
        self.nodes.iter().filter_map(Node::status)
    }

    /// The endpoints to poll: the given ones, and those of members that were not given.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.endpoint.clone()).collect()
    }

    fn looked(&mut self, at: Duration, endpoint: &str, found: PollResult) {
        // The node may have left the cluster since the request.
        let Some(node) = self.nodes.iter_mut().find(|node| node.endpoint == endpoint) else { return };
        if let PollResult::Answer(status) = &found {
            (node.id, node.heard) = (Some(status.node), Some(at));
            self.commits.saw(at, status.commit);
        }
        let before = node.found.replace(found);
        let sentences = event_log::describe_poll(node, before.as_ref());
        sentences.into_iter().for_each(|told| self.append_event(at, told));
        self.of_the_cluster(at);
        self.follow_the_members();
    }

    /// Records the state of a node's process, and a line if it changed.
    fn record_process(&mut self, at: Duration, id: u64, process: Process) {
        let Some(node) = self.nodes.iter_mut().find(|node| node.id == Some(id)) else { return };
        let before = node.process.replace(process);
        if let Some(told) = event_log::describe_process(id, before, process) {
            self.append_event(at, told);
        }
    }

    /// Updates leader, term and membership, which result from the statuses of all nodes together.
    fn of_the_cluster(&mut self, at: Duration) {
        let term = self.answered().map(|status| status.term).max().unwrap_or_default();
        let leads = self.leader().map(|leader| (leader.node, leader.term));
        let membership = self.leader().map(|leader| leader.membership.clone());
        if leads != self.leads {
            if let Some(told) = event_log::describe_leader(self.led, leads) {
                self.append_event(at, told);
            }
            self.led = leads.or(self.led);
            self.leads = leads;
        }
        // The event for a new leader names its term already.
        if term > self.term {
            if self.term > 0 && leads.is_none_or(|(_, led)| led < term) {
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

    /// Adds members that were not among the given endpoints, and drops those that are no longer members. The member
    /// list is the leader's; without a leader, that of the node with the highest term and commit index.
    fn follow_the_members(&mut self) {
        let rank = |status: &&Status| (status.role == RoleName::Leader, status.term, status.commit);
        let Some(best) = self.answered().max_by_key(rank) else { return };
        let members = best.members.clone();
        if members.is_empty() {
            return;
        }
        self.nodes.retain(|node| node.given || members.iter().any(|member| member.address == node.endpoint));
        for member in members.into_iter().take(MEMBERS_MAX) {
            let known = |node: &Node| node.id == Some(member.node) || node.endpoint == member.address;
            if !self.nodes.iter().any(known) {
                let (id, endpoint) = (Some(member.node), member.address);
                self.nodes.push(Node { endpoint, id, found: None, heard: None, process: None, given: false });
            }
        }
        self.nodes.sort_by_key(|node| node.id.unwrap_or(u64::MAX));
    }

    fn append_event(&mut self, at: Duration, told: EventText) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event { at, told });
    }
}

#[cfg(test)]
pub(super) mod tests;
