//! Clients without connections: each message is delivered separately. Each client has a session with several
//! outstanding commands, retries a command under the same sequence number, and records the results.

use super::history::History;
use super::tasks::{Task, TaskBody};
use super::workload::{Load, Workload};
use crate::api::{Op, Outcome, Refusal, Reply, Request};
use crate::types::{NodeId, SessionId, Time};
use rand::RngExt;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::time::Duration;

/// The window of every session: how many sequence numbers may be outstanding.
const SESSION_WINDOW: u32 = 8;

/// A command or read that waits for its answer.
#[derive(Clone, Debug)]
struct WaitingCommand {
    /// The sequence number of the command in the session; `None` for a read.
    seq: Option<u64>,
    /// The numbers of the task's operations in the history.
    operation_numbers: Vec<usize>,
    task: Task,
    body: TaskBody,
    /// When the latest attempt was sent.
    sent_at: Time,
    /// How many attempts were not refused: each of these may have taken effect, or may do so later.
    unrefused_attempts: u32,
}

/// One attempt to send a request.
#[derive(Clone, Debug)]
pub struct RequestAttempt {
    /// The node that receives the attempt.
    pub to: NodeId,
    /// The client's number for this attempt: a retry gets another number.
    pub id: u64,
    /// Whether a follower should forward the request to the leader.
    pub forward: bool,
    /// The request, which is the same in every attempt.
    pub request: Request,
}

/// A client that sends and receives single messages, which are never lost.
#[derive(Clone, Debug)]
pub struct Client {
    id: u64,
    load: Load,
    nodes: Vec<NodeId>,
    /// The node to which the client sends its next attempt.
    target: NodeId,
    session: Option<SessionId>,
    /// The number of the unanswered attempt to open a session, and when the attempt was sent.
    session_request: Option<(u64, Time)>,
    /// The sequence number of the next command in the session.
    next_seq: u64,
    /// The number of the last attempt.
    last_attempt: u64,
    /// The unanswered attempts by their numbers, and the ticket of the command of each.
    attempt_tickets: BTreeMap<u64, u64>,
    /// The unanswered commands and reads by their tickets.
    waiting_commands: BTreeMap<u64, WaitingCommand>,
    last_ticket: u64,
    /// The earliest time of the next command, or of the next attempt to open a session.
    next_command_at: Time,
    workload: Workload,
    /// Whether the client begins no new commands, and only finishes the outstanding commands.
    pub stopping: bool,
}

impl Client {
    /// A client without a session, which opens one at its first wake-up.
    pub fn new(id: u64, load: Load, nodes: Vec<NodeId>) -> Client {
        let target = nodes[id as usize % nodes.len()];
        Client {
            id,
            workload: Workload::new(id, load.clone()),
            load,
            nodes,
            target,
            session: None,
            session_request: None,
            next_seq: 1,
            last_attempt: 0,
            attempt_tickets: BTreeMap::new(),
            waiting_commands: BTreeMap::new(),
            last_ticket: 0,
            next_command_at: Time::ZERO,
            stopping: false,
        }
    }

    /// Whether all commands and reads of the client are answered.
    pub fn is_done(&self) -> bool {
        self.waiting_commands.is_empty()
    }

    /// When the client next has to be woken; [`Time::NEVER`] if the client is stopping and done.
    pub fn deadline(&self) -> Time {
        if self.stopping && self.is_done() {
            return Time::NEVER;
        }
        let retry_at = self.waiting_commands.values().map(|waiting| waiting.sent_at + self.load.reply_timeout).min();
        let session_retry_at = self.session_request.map(|(_, at)| at + self.load.reply_timeout);
        let next_begin_at =
            if self.may_begin_command() || self.session.is_none() { self.next_command_at } else { Time::NEVER };
        next_begin_at.min(retry_at.unwrap_or(Time::NEVER)).min(session_retry_at.unwrap_or(Time::NEVER))
    }

    fn may_begin_command(&self) -> bool {
        let in_window = self.next_seq < self.first_outstanding() + u64::from(SESSION_WINDOW);
        !self.stopping && self.session.is_some() && self.waiting_commands.len() < self.load.outstanding_max && in_window
    }

    /// The lowest outstanding sequence number, or the next one if none is outstanding.
    fn first_outstanding(&self) -> u64 {
        self.waiting_commands.values().filter_map(|waiting| waiting.seq).min().unwrap_or(self.next_seq)
    }

    /// Opens a session if there is none; otherwise retries the overdue commands and begins a new command if one is due.
    /// Returns the attempts to send.
    pub fn wake(&mut self, now: Time, rng: &mut SmallRng, history: &mut History) -> Vec<RequestAttempt> {
        let mut attempts = Vec::new();
        if self.session.is_none() {
            if (self.stopping && self.waiting_commands.is_empty()) || now < self.next_command_at {
                self.next_command_at = self.next_command_at.max(now + Duration::from_millis(1));
                return attempts;
            }
            if self.session_request.is_none_or(|(_, at)| at + self.load.reply_timeout <= now) {
                self.draw_target(rng);
                let attempt = self
                    .new_attempt(Request::Propose { op: Op::Open { window: SESSION_WINDOW, ordered: false }.encode() });
                self.session_request = Some((attempt.id, now));
                attempts.push(attempt);
            }
            self.next_command_at = now + self.load.reply_timeout;
            return attempts;
        }
        let overdue_tickets: Vec<u64> = self
            .waiting_commands
            .iter()
            .filter(|(_, waiting)| waiting.sent_at + self.load.reply_timeout <= now)
            .map(|(ticket, _)| *ticket)
            .collect();
        if !overdue_tickets.is_empty() {
            self.draw_target(rng);
        }
        for ticket in overdue_tickets {
            attempts.push(self.next_attempt(now, ticket));
        }
        if self.may_begin_command() && now >= self.next_command_at {
            let ticket = self.begin_command(now, rng, history);
            attempts.push(self.next_attempt(now, ticket));
            self.next_command_at =
                now + Duration::from_nanos(rng.random_range(0..=self.load.think_time_max.as_nanos() as u64));
        }
        attempts
    }

    /// Draws the node to which the client sends its next attempt.
    fn draw_target(&mut self, rng: &mut SmallRng) {
        self.target = self.nodes[rng.random_range(0..self.nodes.len())];
    }

    fn new_attempt(&mut self, request: Request) -> RequestAttempt {
        self.last_attempt += 1;
        RequestAttempt { to: self.target, id: self.last_attempt, forward: self.load.followers_forward, request }
    }

    /// Draws a task and records its operations as invoked. Returns its ticket.
    fn begin_command(&mut self, now: Time, rng: &mut SmallRng, history: &mut History) -> u64 {
        let task = self.workload.draw(rng, history, false);
        let body = task.encode(rng);
        let is_read = matches!(body, TaskBody::Query(..));
        let seq = (!is_read).then_some(self.next_seq);
        self.next_seq += u64::from(!is_read);
        let operation_numbers = task.record_requests(self.id, now, history);
        self.last_ticket += 1;
        self.waiting_commands.insert(
            self.last_ticket,
            WaitingCommand { seq, operation_numbers, task, body, sent_at: now, unrefused_attempts: 0 },
        );
        self.last_ticket
    }

    /// The next attempt for a command, which may be the first.
    fn next_attempt(&mut self, now: Time, ticket: u64) -> RequestAttempt {
        let first_outstanding = self.first_outstanding();
        let session = self.session.expect("a client without a session sends no commands");
        let waiting = self.waiting_commands.get_mut(&ticket).expect("a retried request is outstanding");
        waiting.sent_at = now;
        waiting.unrefused_attempts += 1;
        let request = match waiting.body.clone() {
            TaskBody::Query(query, consistency) => Request::Query { query, consistency },
            TaskBody::Command(command) => {
                let seq = waiting.seq.expect("a command has a sequence number");
                Request::Propose { op: Op::Execute { session, seq, first_outstanding, command }.encode() }
            }
        };
        let attempt = self.new_attempt(request);
        self.attempt_tickets.insert(attempt.id, ticket);
        attempt
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
        if self.session_request.is_some_and(|(request, _)| request == id) {
            self.handle_session_reply(now, reply, rng);
            return Ok(());
        }
        let Some(ticket) = self.attempt_tickets.remove(&id) else { return Ok(()) };
        let Some(waiting) = self.waiting_commands.get(&ticket).cloned() else { return Ok(()) };
        let answer = match reply {
            Reply::Answer { answer, .. } if waiting.seq.is_none() => answer,
            Reply::Done { outcome: Outcome::Executed { answer, .. }, .. } if waiting.seq.is_some() => answer,
            Reply::Done { outcome: Outcome::SessionExpired, .. } => {
                self.replace_session(now, history);
                return Ok(());
            }
            Reply::Refused(refusal) => {
                self.handle_refusal(now, ticket, refusal, rng);
                return Ok(());
            }
            Reply::Unknown => {
                self.retry_soon(now, ticket);
                return Ok(());
            }
            other => {
                return Err(format!(
                    "client {} received the unexpected reply {other:?} to {:?}",
                    self.id, waiting.task
                ));
            }
        };
        let answers = waiting.task.split_answer(answer)?;
        waiting
            .operation_numbers
            .iter()
            .zip(answers)
            .for_each(|(operation, answer)| history.record_answer(*operation, now, answer));
        self.waiting_commands.remove(&ticket);
        Ok(())
    }

    fn handle_session_reply(&mut self, now: Time, reply: Reply, rng: &mut SmallRng) {
        self.session_request = None;
        match reply {
            Reply::Done { outcome: Outcome::Opened { session }, .. } => {
                self.session = Some(session);
                self.next_command_at = now;
            }
            Reply::Refused(Refusal::NotLeader { leader: Some(leader), .. }) => self.target = leader,
            _ => self.draw_target(rng),
        }
        if self.session.is_none() {
            self.next_command_at = now + Duration::from_millis(10);
        }
    }

    fn handle_refusal(&mut self, now: Time, ticket: u64, refusal: Refusal, rng: &mut SmallRng) {
        match refusal {
            Refusal::NotLeader { leader: Some(leader), .. } => self.target = leader,
            _ => self.draw_target(rng),
        }
        let in_window = self.next_seq < self.first_outstanding() + u64::from(SESSION_WINDOW);
        if let Some(waiting) = self.waiting_commands.get_mut(&ticket) {
            waiting.unrefused_attempts -= 1;
            if waiting.unrefused_attempts == 0 && waiting.seq.is_some() && in_window {
                // A refused attempt was not applied. Since all attempts were refused, the command gets a new sequence
                // number.
                waiting.seq = Some(self.next_seq);
                self.next_seq += 1;
            }
        }
        self.retry_soon(now, ticket);
    }

    /// Moves the time of the last attempt back, so that the command is retried in ten milliseconds.
    fn retry_soon(&mut self, now: Time, ticket: u64) {
        let time_since_attempt = self.load.reply_timeout.saturating_sub(Duration::from_millis(10));
        if let Some(waiting) = self.waiting_commands.get_mut(&ticket) {
            waiting.sent_at = Time(now.0.saturating_sub(time_since_attempt.as_nanos() as u64));
        }
    }

    /// Abandons an expired session: the outcome of its outstanding commands will never be known. The next command opens
    /// another session.
    fn replace_session(&mut self, now: Time, history: &mut History) {
        for waiting in std::mem::take(&mut self.waiting_commands).into_values() {
            waiting.operation_numbers.into_iter().for_each(|operation| history.record_unknown_outcome(operation));
        }
        self.attempt_tickets.clear();
        (self.session, self.session_request, self.next_seq, self.next_command_at) = (None, None, 1, now);
    }
}
