//! Clients of the simulated cluster. Each has a session with several outstanding commands, retries them under the same
//! number, and records the results.

use super::history::History;
use super::tasks::{Body, Task};
use super::workload::{Load, Workload};
use crate::api::{Op, Outcome, Refusal, Reply, Request};
use crate::types::{NodeId, SessionId, Time};
use rand::RngExt;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::time::Duration;

/// The window of every session.
const WINDOW: u32 = 8;

/// A command that waits for its answer.
#[derive(Clone, Debug)]
struct WaitingCommand {
    /// Its number in the session; none for a read.
    seq: Option<u64>,
    operations: Vec<usize>,
    task: Task,
    body: Body,
    asked: Time,
    /// How many attempts were not refused: any of them may have taken effect.
    open_attempts: u32,
}

/// A client's next request.
#[derive(Clone, Debug)]
pub struct Asking {
    /// The node to send it to.
    pub to: NodeId,
    /// The client's number for this attempt.
    pub id: u64,
    /// Whether a follower should forward it to the leader.
    pub forward: bool,
    /// Its content.
    pub request: Request,
}

/// A client that sends requests over the simulated network, without connections.
#[derive(Clone, Debug)]
pub struct Client {
    id: u64,
    load: Load,
    nodes: Vec<NodeId>,
    target: NodeId,
    session: Option<SessionId>,
    /// The request that opens the session, and when it was last sent.
    opening: Option<(u64, Time)>,
    next_seq: u64,
    attempts: u64,
    /// The attempts in progress, and the command of each.
    tries: BTreeMap<u64, u64>,
    waiting: BTreeMap<u64, WaitingCommand>,
    tickets: u64,
    next_at: Time,
    workload: Workload,
    /// No new commands: only the outstanding ones are finished.
    pub stopping: bool,
}

impl Client {
    /// A client of these nodes.
    pub fn new(id: u64, load: Load, nodes: Vec<NodeId>) -> Client {
        let target = nodes[id as usize % nodes.len()];
        Client {
            id,
            workload: Workload::new(id, load.clone()),
            load,
            nodes,
            target,
            session: None,
            opening: None,
            next_seq: 1,
            attempts: 0,
            tries: BTreeMap::new(),
            waiting: BTreeMap::new(),
            tickets: 0,
            next_at: Time::ZERO,
            stopping: false,
        }
    }

    /// Whether it waits for no answers.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When it next has something to do.
    pub fn deadline(&self) -> Time {
        if self.stopping && self.is_done() {
            return Time::NEVER;
        }
        let again = self.waiting.values().map(|waiting| waiting.asked + self.load.patience).min();
        let open = self.opening.map(|(_, at)| at + self.load.patience);
        let next = if self.may_begin() || self.session.is_none() { self.next_at } else { Time::NEVER };
        next.min(again.unwrap_or(Time::NEVER)).min(open.unwrap_or(Time::NEVER))
    }

    fn may_begin(&self) -> bool {
        let in_window = self.next_seq < self.lowest() + u64::from(WINDOW);
        !self.stopping && self.session.is_some() && self.waiting.len() < self.load.outstanding && in_window
    }

    /// The lowest outstanding number.
    fn lowest(&self) -> u64 {
        self.waiting.values().filter_map(|waiting| waiting.seq).min().unwrap_or(self.next_seq)
    }

    /// Begins what is due, and retries commands without an answer.
    pub fn wake(&mut self, now: Time, rng: &mut SmallRng, history: &mut History) -> Vec<Asking> {
        let mut out = Vec::new();
        if self.session.is_none() {
            if (self.stopping && self.waiting.is_empty()) || now < self.next_at {
                self.next_at = self.next_at.max(now + Duration::from_millis(1));
                return out;
            }
            if self.opening.is_none_or(|(_, at)| at + self.load.patience <= now) {
                self.look_elsewhere(rng);
                let asking = self.ask(Request::Propose { op: Op::Open { window: WINDOW, ordered: false }.encode() });
                self.opening = Some((asking.id, now));
                out.push(asking);
            }
            self.next_at = now + self.load.patience;
            return out;
        }
        let late: Vec<u64> =
            self.waiting.iter().filter(|(_, w)| w.asked + self.load.patience <= now).map(|(t, _)| *t).collect();
        if !late.is_empty() {
            self.look_elsewhere(rng);
        }
        for ticket in late {
            out.push(self.try_again(now, ticket));
        }
        if self.may_begin() && now >= self.next_at {
            let ticket = self.begin(now, rng, history);
            out.push(self.try_again(now, ticket));
            self.next_at = now + Duration::from_nanos(rng.random_range(0..=self.load.think.as_nanos() as u64));
        }
        out
    }

    fn look_elsewhere(&mut self, rng: &mut SmallRng) {
        self.target = self.nodes[rng.random_range(0..self.nodes.len())];
    }

    fn ask(&mut self, request: Request) -> Asking {
        self.attempts += 1;
        Asking { to: self.target, id: self.attempts, forward: self.load.forward, request }
    }

    fn begin(&mut self, now: Time, rng: &mut SmallRng, history: &mut History) -> u64 {
        let task = self.workload.draw(rng, history, false);
        let body = task.body(rng);
        let is_read = matches!(body, Body::Query(..));
        let seq = (!is_read).then_some(self.next_seq);
        self.next_seq += u64::from(!is_read);
        let operations = task.invoke(self.id, now, history);
        self.tickets += 1;
        self.waiting.insert(self.tickets, WaitingCommand { seq, operations, task, body, asked: now, open_attempts: 0 });
        self.tickets
    }

    fn try_again(&mut self, now: Time, ticket: u64) -> Asking {
        let lowest = self.lowest();
        let session = self.session.expect("commands are sent in a session");
        let waiting = self.waiting.get_mut(&ticket).expect("a request that is retried is outstanding");
        waiting.asked = now;
        waiting.open_attempts += 1;
        let request = match waiting.body.clone() {
            Body::Query(query, consistency) => Request::Query { query, consistency },
            Body::Command(command) => {
                let seq = waiting.seq.expect("a command has a number");
                Request::Propose { op: Op::Execute { session, seq, first_outstanding: lowest, command }.encode() }
            }
        };
        let asking = self.ask(request);
        self.tries.insert(asking.id, ticket);
        asking
    }

    /// Handles a reply. The error describes a reply that no correct node sends.
    pub fn receive(
        &mut self,
        now: Time,
        id: u64,
        reply: Reply,
        rng: &mut SmallRng,
        history: &mut History,
    ) -> Result<(), String> {
        if self.opening.is_some_and(|(opening, _)| opening == id) {
            self.opened(now, reply, rng);
            return Ok(());
        }
        let Some(ticket) = self.tries.remove(&id) else { return Ok(()) };
        let Some(waiting) = self.waiting.get(&ticket).cloned() else { return Ok(()) };
        let answer = match reply {
            Reply::Answer { answer, .. } if waiting.seq.is_none() => answer,
            Reply::Done { outcome: Outcome::Executed { answer, .. }, .. } if waiting.seq.is_some() => answer,
            Reply::Done { outcome: Outcome::SessionExpired, .. } => {
                self.replace_session(now, history);
                return Ok(());
            }
            Reply::Refused(refusal) => {
                self.refused(now, ticket, refusal, rng);
                return Ok(());
            }
            Reply::Unknown => {
                self.soon(now, ticket);
                return Ok(());
            }
            other => return Err(format!("client {} received {other:?} for {:?}", self.id, waiting.task)),
        };
        let answers = waiting.task.split(answer)?;
        waiting.operations.iter().zip(answers).for_each(|(operation, answer)| history.answer(*operation, now, answer));
        self.waiting.remove(&ticket);
        Ok(())
    }

    fn opened(&mut self, now: Time, reply: Reply, rng: &mut SmallRng) {
        self.opening = None;
        match reply {
            Reply::Done { outcome: Outcome::Opened { session }, .. } => {
                self.session = Some(session);
                self.next_at = now;
            }
            Reply::Refused(Refusal::NotLeader { leader: Some(leader), .. }) => self.target = leader,
            _ => self.look_elsewhere(rng),
        }
        if self.session.is_none() {
            self.next_at = now + Duration::from_millis(10);
        }
    }

    fn refused(&mut self, now: Time, ticket: u64, refusal: Refusal, rng: &mut SmallRng) {
        match refusal {
            Refusal::NotLeader { leader: Some(leader), .. } => self.target = leader,
            _ => self.look_elsewhere(rng),
        }
        let in_window = self.next_seq < self.lowest() + u64::from(WINDOW);
        if let Some(waiting) = self.waiting.get_mut(&ticket) {
            waiting.open_attempts -= 1;
            if waiting.open_attempts == 0 && waiting.seq.is_some() && in_window {
                // A refusal means that nothing was applied, so the command gets a new number.
                waiting.seq = Some(self.next_seq);
                self.next_seq += 1;
            }
        }
        self.soon(now, ticket);
    }

    /// Retries the command in a moment.
    fn soon(&mut self, now: Time, ticket: u64) {
        let ago = self.load.patience.saturating_sub(Duration::from_millis(10));
        if let Some(waiting) = self.waiting.get_mut(&ticket) {
            waiting.asked = Time(now.0.saturating_sub(ago.as_nanos() as u64));
        }
    }

    /// The session has expired: the outcome of its outstanding commands will never be known. Continues in another
    /// session.
    fn replace_session(&mut self, now: Time, history: &mut History) {
        for waiting in std::mem::take(&mut self.waiting).into_values() {
            waiting.operations.into_iter().for_each(|operation| history.record_unknown(operation));
        }
        self.tries.clear();
        (self.session, self.opening, self.next_seq, self.next_at) = (None, None, 1, now);
    }
}
