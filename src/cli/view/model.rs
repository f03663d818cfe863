//! What the view knows of a cluster. Pure: it is told what was seen, and when, and is drawn.

use super::story::{self, StoryLine, Tone};
use crate::api::{RoleName, Status};
use crate::limits::MEMBERS_MAX;
use std::collections::VecDeque;
use std::time::Duration;

/// So many events are kept; the oldest are forgotten.
pub const EVENTS_MAX: usize = 200;
/// So many seconds of commits are kept.
pub const SECONDS_MAX: usize = 300;
/// How often commits are counted.
const SECOND: Duration = Duration::from_secs(1);

/// Something that was seen.
#[derive(Clone, PartialEq, Debug)]
pub enum Observation {
    /// A node was asked how it is.
    Looked {
        /// Where.
        endpoint: String,
        /// What came of it.
        found: PollResult,
    },
    /// How the process of a node is.
    Process {
        /// Whose.
        node: u64,
        /// How it is.
        process: Process,
    },
    /// How the load does.
    Load(Load),
    /// Something was done, or failed, that no other observation would tell.
    Told(StoryLine),
}

/// What a look at a node found.
#[derive(Clone, PartialEq, Debug)]
pub enum PollResult {
    /// It says how it is.
    Answer(Box<Status>),
    /// Nothing was heard in time: it is frozen, cut off, or very slow.
    Silence,
    /// Nobody is there.
    Nobody,
}

/// How the process of a node is, as whoever started it knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Process {
    /// It runs.
    Runs,
    /// It is there and gets no time, by SIGSTOP.
    Frozen,
    /// It died, and is started again.
    Returns {
        /// After so many seconds.
        seconds: u64,
    },
    /// It was killed, and stays away until somebody starts it.
    Away,
}

/// The load that the view itself puts on the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Load {
    /// There is none.
    #[default]
    Off,
    /// It writes.
    On(Sample),
}

/// How the load did in the last seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sample {
    /// Writes answered in a second.
    pub per_second: u64,
    /// Writes under way.
    pub under_way: usize,
    /// Microseconds within which half of the writes were answered, and 99 of 100; nothing if none was.
    pub latency: Option<(u64, u64)>,
    /// Writes that were refused, or of which nobody knows what became, since the load was put on.
    pub failed: u64,
}

/// A node, as far as it is known.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// Where it is asked.
    pub endpoint: String,
    /// Who it is, once that is known.
    pub id: Option<u64>,
    /// What the last look at it found; nothing before the first.
    pub found: Option<PollResult>,
    /// When it was heard last.
    pub heard: Option<Duration>,
    /// Its process, if it is ours.
    pub process: Option<Process>,
    /// Whether somebody named it, or else a leader did.
    given: bool,
}

/// Something that happened.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// When, counted from the opening of the view.
    pub at: Duration,
    /// What.
    pub told: StoryLine,
}

/// What the view knows of a cluster.
///
/// Bounded: so many events, so many seconds, and no more nodes than were named and a cluster may have.
#[derive(Clone, Debug)]
pub struct Model {
    /// What is shown, in a word.
    pub title: String,
    /// Where it is, for people.
    pub place: String,
    /// Its nodes, those that are known by name in order.
    pub nodes: Vec<Node>,
    /// What happened, the newest last.
    pub events: VecDeque<Event>,
    /// The load of our own.
    pub load: Load,
    commits: Commits,
    /// Who led last, in which term.
    led: Option<(u64, u64)>,
    leads: Option<(u64, u64)>,
    term: u64,
    membership: String,
    now: Duration,
}

/// Commits a second, from indices that were seen at some time.
#[derive(Clone, Debug, Default)]
struct Commits {
    seconds: VecDeque<u64>,
    newest: Option<(Duration, u64)>,
    /// What `newest` was when the last second was counted.
    base: Option<(Duration, u64)>,
    counted: Duration,
}

impl Commits {
    fn saw(&mut self, at: Duration, commit: u64) {
        if self.newest.is_none_or(|(_, known)| commit >= known) {
            self.newest = Some((at, commit));
        }
    }

    /// Counts what was committed since the last count, if that was a second ago. Looks come when they come: the
    /// time between them is what counts, not ours.
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

impl Node {
    /// What it says of itself, if it answered last.
    pub fn status(&self) -> Option<&Status> {
        match &self.found {
            Some(PollResult::Answer(status)) => Some(status),
            _ => None,
        }
    }

    /// Its name; where it is asked, as long as that is not known.
    pub fn name(&self) -> String {
        self.id.map_or_else(|| self.endpoint.clone(), |id| format!("n{id}"))
    }
}

impl Model {
    /// Of the nodes at those endpoints nothing is known yet, but perhaps who they are.
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

    /// Takes in what was seen at that time, and tells what is new about it.
    pub fn update(&mut self, at: Duration, observation: Observation) {
        self.now = self.now.max(at);
        match observation {
            Observation::Looked { endpoint, found } => self.looked(at, &endpoint, found),
            Observation::Process { node, process } => self.process(at, node, process),
            Observation::Load(load) => self.load = load,
            Observation::Told(told) => self.tell(at, told),
        }
    }

    /// Time goes on.
    pub fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.commits.tick(self.now);
    }

    /// The time, counted from the opening of the view.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Commits a second, the newest last.
    pub fn commits(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.commits.seconds.iter().copied()
    }

    /// Who leads the latest term, of those that answer.
    pub fn leader(&self) -> Option<&Status> {
        self.answered().filter(|status| status.role == RoleName::Leader).max_by_key(|status| status.term)
    }

    /// What each node that answers says of itself.
    pub fn answered(&self) -> impl Iterator<Item = &Status> {
        self.nodes.iter().filter_map(Node::status)
    }

    /// Where to ask: what was given, and where the members are whom nobody named.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.endpoint.clone()).collect()
    }

    fn looked(&mut self, at: Duration, endpoint: &str, found: PollResult) {
        // It may be of one that has left meanwhile.
        let Some(node) = self.nodes.iter_mut().find(|node| node.endpoint == endpoint) else { return };
        if let PollResult::Answer(status) = &found {
            (node.id, node.heard) = (Some(status.node), Some(at));
            self.commits.saw(at, status.commit);
        }
        let before = node.found.replace(found);
        let sentences = story::of_a_look(node, before.as_ref());
        sentences.into_iter().for_each(|told| self.tell(at, told));
        self.of_the_cluster(at);
        self.follow_the_members();
    }

    fn process(&mut self, at: Duration, id: u64, process: Process) {
        let Some(node) = self.nodes.iter_mut().find(|node| node.id == Some(id)) else { return };
        let before = node.process.replace(process);
        if let Some(told) = story::of_a_process(id, before, process) {
            self.tell(at, told);
        }
    }

    /// Who leads, in which term, which members: what no node says alone.
    fn of_the_cluster(&mut self, at: Duration) {
        let term = self.answered().map(|status| status.term).max().unwrap_or_default();
        let leads = self.leader().map(|leader| (leader.node, leader.term));
        let membership = self.leader().map(|leader| leader.membership.clone());
        if leads != self.leads {
            if let Some(told) = story::of_a_leader(self.led, leads) {
                self.tell(at, told);
            }
            self.led = leads.or(self.led);
            self.leads = leads;
        }
        // Who leads a term tells of the term as well.
        if term > self.term {
            if self.term > 0 && leads.is_none_or(|(_, led)| led < term) {
                self.tell(at, StoryLine::new(Tone::Plain, format!("term {term} begins")));
            }
            self.term = term;
        }
        if let Some(membership) = membership.filter(|membership| *membership != self.membership) {
            if !self.membership.is_empty() {
                self.tell(at, StoryLine::new(Tone::Plain, format!("the members are now {membership}")));
            }
            self.membership = membership;
        }
    }

    /// Members that nobody named are asked as well, as long as they are members: as the leader has them, or else
    /// whoever knows most.
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

    fn tell(&mut self, at: Duration, told: StoryLine) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event { at, told });
    }
}

#[cfg(test)]
pub(super) mod tests;
