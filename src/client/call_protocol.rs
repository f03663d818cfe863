//! The protocol of a blocking client, without its socket and its sleep: where a request is sent, how a reply is
//! interpreted, how long the client waits, and what is known of the request after a timeout.
//!
//! Nothing here reads a clock or touches a socket. The driver does what [`CallProtocol::step`] returns and reports the
//! result: [`Client`](super::Client) over TCP, and the simulator over its links. Whenever
//! [`CallProtocol::is_connected`] is false, the driver drops the connection.

use super::error::{ClientError, Tried};
use super::known::{KnownEndpoints, REFRESH_INTERVAL};
use crate::api::{Consistency, Op, Outcome, Refusal, Reply, Request, Status};
use crate::secure::Keys;
use crate::types::{NodeId, SessionId, Time};
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;
use std::time::Duration;

/// A client's settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// A call ends after this long, with whatever is known by then.
    pub timeout: Duration,
    /// The client leaves a node that has not replied for this long. Must be longer than nodes let requests wait for a
    /// leader, or a cluster without a leader would look like one that does not respond.
    pub patience: Duration,
    /// After this long of silence the client queries other nodes for the leader, repeatedly. The request stays with the
    /// silent node until another leader is named.
    pub doubt: Duration,
    /// If set, traffic is encrypted with these keys, and nodes must prove their identity.
    pub keys: Option<Keys>,
    /// The kind of the state machine whose commands are sent, as in
    /// [`StateMachine::kind`](crate::machine::StateMachine::kind): nodes with another kind reject this client. Empty
    /// turns the check off.
    pub machine: &'static str,
    /// Whether to use an operator's slot if no client slot is free. Nothing can be proposed from such a slot.
    pub operator: bool,
}

/// With several endpoints, the client leaves a node that accepts a connection and sends no welcome within so many
/// times `doubt`.
const GREETING: u32 = 3;
/// The longest pause between two consultations.
const AGAIN_MAX: Duration = Duration::from_millis(400);
/// The longest timeout: longer than any call can last.
const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

impl Default for Options {
    fn default() -> Options {
        Options {
            timeout: Duration::from_secs(5),
            patience: Duration::from_millis(3500),
            doubt: Duration::from_millis(100),
            keys: None,
            machine: "",
            operator: false,
        }
    }
}

/// The next action of the driver for a call.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Dial that endpoint and send hello; then call [`CallProtocol::dialed`] or [`CallProtocol::not_dialed`].
    Dial {
        /// The endpoint.
        endpoint: String,
        /// The deadline of the welcome.
        until: Time,
    },
    /// Send this request over the current connection; then call [`CallProtocol::sent`] or [`CallProtocol::lost`].
    Send {
        /// The request.
        request: Request,
        /// The deadline for sending.
        until: Time,
    },
    /// Wait for the reply; then call [`CallProtocol::answered`], [`CallProtocol::late`] or [`CallProtocol::lost`].
    Wait {
        /// The end of the wait.
        until: Time,
    },
    /// Send a request to another node over a separate connection; then call [`CallProtocol::consulted`].
    Consult {
        /// The endpoint.
        endpoint: String,
        /// The request.
        request: Request,
        /// The deadline of the reply.
        until: Time,
    },
    /// Request the status over the current connection; then call [`CallProtocol::looked`].
    Look {
        /// The deadline of the status.
        until: Time,
    },
    /// Sleep, then take the next step.
    Pause {
        /// The end of the sleep.
        until: Time,
    },
    /// The call has finished.
    Done(Result<Reply, ClientError>),
}

/// A session, and the number of its next command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct CallSession {
    id: SessionId,
    next: u64,
}

/// The request's purpose.
#[derive(Clone, Debug)]
enum Goal {
    /// The reply itself.
    Answer,
    /// To open a session for this command.
    Open(Bytes),
    /// To execute this command in the current session.
    Execute(Bytes),
}

/// The state of an attempt.
#[derive(Clone, Debug)]
enum Phase {
    /// The next attempt begins at that time.
    Begins(Time),
    /// An endpoint is being dialed; the client leaves it at that time.
    Dials(Time),
    /// There is a connection; the client leaves it at that time.
    Sends(Time),
    /// The client waits until the first time; it consults other nodes at the second, then again after that pause.
    Waits(Time, Time, Duration),
    /// Other nodes are consulted, one after the other.
    Consults { until: Time, pause: Duration, rest: VecDeque<String> },
    /// The members are requested, before that reply is handled.
    Looks(Box<Reply>),
    /// The call has finished.
    Ends(Box<Result<Reply, ClientError>>),
}

/// A call in progress: its deadline and its attempts.
#[derive(Debug)]
struct Call {
    goal: Goal,
    request: Request,
    phase: Phase,
    begun: Time,
    deadline: Time,
    tried: Tried,
    /// Whether a node may have accepted an earlier attempt.
    uncertain: bool,
    /// The next endpoint to dial, if a node has named one.
    hint: Option<String>,
    attempts: u32,
}

/// A blocking client, without its socket and its sleep. It has one call at a time.
#[derive(Debug)]
pub struct CallProtocol {
    known: KnownEndpoints,
    /// When to request the members next.
    look_at: Time,
    options: Options,
    /// The endpoint of the connection, if there is one, and its node.
    connection: Option<(String, Option<NodeId>)>,
    session: Option<CallSession>,
    call: Call,
    rng: SmallRng,
}

impl CallProtocol {
    /// A client of the cluster with those endpoints.
    pub fn new(endpoints: Vec<String>, options: Options, now: Time, seed: u64) -> CallProtocol {
        CallProtocol {
            known: KnownEndpoints::new(endpoints),
            look_at: now + REFRESH_INTERVAL,
            options,
            connection: None,
            session: None,
            call: Call::new(Goal::Answer, Request::Status, now, Duration::ZERO),
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// Its settings.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The known endpoints of the cluster.
    pub fn known(&self) -> &KnownEndpoints {
        &self.known
    }

    /// Its session, if one is open.
    pub fn session(&self) -> Option<SessionId> {
        self.session.map(|session| session.id)
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Learns the members from a node's status.
    pub fn learn_members(&mut self, status: &Status) {
        self.known.learn_members(status);
    }

    /// Starts a call that executes a command exactly once.
    pub fn execute(&mut self, now: Time, command: Bytes) {
        self.call = Call::new(Goal::Answer, Request::Status, now, self.options.timeout);
        self.number(now, command);
    }

    /// Starts a call for the reply to a request.
    pub fn ask(&mut self, now: Time, request: Request) {
        self.call = Call::new(Goal::Answer, request, now, self.options.timeout);
    }

    /// Continues the call with another request, within its timeout. The previous request must have been read-only.
    pub fn ask_next(&mut self, now: Time, request: Request) {
        (self.call.request, self.call.phase, self.call.uncertain) = (request, Phase::Begins(now), false);
    }

    /// Whether a node may have accepted an attempt of this call.
    pub fn is_uncertain(&self) -> bool {
        self.call.uncertain
    }

    /// Ends the call because of that refusal, with what is known of the request.
    pub fn give_up_for(&mut self, now: Time, refusal: Refusal) -> ClientError {
        self.call.tried.refusal = Some(refusal);
        self.call.give_up(now)
    }

    /// Gives the command the next number in the session; opens a session first if there is none.
    fn number(&mut self, now: Time, command: Bytes) {
        let call = &mut self.call;
        call.phase = Phase::Begins(now);
        match &mut self.session {
            Some(session) => {
                let seq = session.next;
                session.next += 1;
                let op = Op::Execute { session: session.id, seq, first_outstanding: seq, command: command.clone() };
                (call.goal, call.request) = (Goal::Execute(command), Request::Propose { op: op.encode() });
            }
            None => {
                // A session whose opening was never confirmed expires by itself: requesting another does no harm, and
                // the caller's command has not been sent yet.
                let op = Op::<Bytes>::Open { window: 1, ordered: false };
                (call.goal, call.request) = (Goal::Open(command), Request::Propose { op: op.encode() });
            }
        }
    }

    /// The driver's next action.
    pub fn step(&mut self, now: Time) -> Step {
        match &mut self.call.phase {
            Phase::Begins(at) if *at > now => Step::Pause { until: *at },
            Phase::Begins(_) if now >= self.call.deadline => {
                let error = self.call.give_up(now);
                self.ended(now, Err(error));
                self.step(now)
            }
            Phase::Begins(_) => self.attempt(now),
            Phase::Dials(until) | Phase::Sends(until) => {
                Step::Send { request: self.call.request.clone(), until: *until }
            }
            Phase::Waits(until, doubt_at, _) => Step::Wait { until: (*until).min(*doubt_at) },
            Phase::Consults { rest, .. } => match rest.front() {
                Some(endpoint) => {
                    let endpoint = endpoint.clone();
                    // A follower names its leader, and a leader answers without an entry in the log.
                    let request = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
                    Step::Consult { endpoint, request, until: now + self.options.doubt * 2 }
                }
                None => unreachable!("an endpoint is left to consult"),
            },
            Phase::Looks(_) => Step::Look { until: now + self.options.doubt },
            Phase::Ends(result) => Step::Done((**result).clone()),
        }
    }

    /// Sends the request to one node, over the current connection or a new one.
    fn attempt(&mut self, now: Time) -> Step {
        let until = self.call.deadline.min(now + self.options.patience);
        if let Some((endpoint, _)) = &self.connection
            && self.call.hint.is_none()
        {
            self.call.note(endpoint);
            self.call.phase = Phase::Sends(until);
            return self.step(now);
        }
        self.connection = None;
        let endpoint = self.choose();
        self.call.phase = Phase::Dials(until);
        Step::Dial { endpoint, until: until.min(self.greeting(now)) }
    }

    /// The deadline of a node's welcome: later with each attempt, in case all nodes are slow.
    fn greeting(&self, now: Time) -> Time {
        match self.known.len() {
            1 => self.call.deadline,
            _ => now + self.options.doubt * (GREETING << self.call.attempts.min(6)),
        }
    }

    /// The endpoint to dial: the named leader, else a random untried one, else a random one.
    fn choose(&mut self) -> String {
        let Self { call, known, rng, .. } = self;
        let endpoint = call.hint.take().unwrap_or_else(|| {
            let (first, all) = (rng.random_range(0..known.len()), known.len());
            let fresh =
                (0..all).map(|i| &known[(first + i) % all]).find(|endpoint| !call.tried.endpoints.contains(endpoint));
            fresh.unwrap_or(&known[first]).clone()
        });
        call.note(&endpoint);
        endpoint
    }

    /// Reports a connection to that endpoint, and the node that welcomed the client.
    pub fn dialed(&mut self, endpoint: String, node: Option<NodeId>) {
        self.call.note(&endpoint);
        self.connection = Some((endpoint, node));
        if let Phase::Dials(until) = self.call.phase {
            self.call.phase = Phase::Sends(until);
        }
    }

    /// Reports a failed dial: no node has the request.
    pub fn not_dialed(&mut self, now: Time, endpoint: &str, trouble: &str) {
        self.call.tried.last_error = Some(format!("{endpoint}: {trouble}"));
        self.pause(now);
    }

    /// Reports that the request was sent.
    pub fn sent(&mut self, now: Time) {
        if let Phase::Sends(until) = self.call.phase {
            self.call.phase = Phase::Waits(until, now + self.options.doubt, self.options.doubt);
        }
    }

    /// Reports a lost connection: the node may have the request.
    pub fn lost(&mut self, now: Time, trouble: &str) {
        let endpoint = self.connection.take().map(|(endpoint, _)| endpoint).unwrap_or_default();
        self.call.uncertain = true;
        self.call.tried.last_error = Some(format!("{endpoint}: {trouble}"));
        self.pause(now);
    }

    /// Reports that no reply arrived in time.
    pub fn late(&mut self, now: Time, trouble: &str) {
        let Phase::Waits(until, _, pause) = self.call.phase else { return };
        if now >= until {
            return self.lost(now, trouble);
        }
        let silent = self.connection.as_ref().map(|(endpoint, _)| endpoint);
        let rest: VecDeque<String> = self.known.iter().filter(|other| Some(*other) != silent).cloned().collect();
        self.call.phase = Phase::Consults { until, pause, rest };
        self.consult_next(now);
    }

    /// Reports a consulted node's reply, if any: if it names a leader other than the silent node, the client dials that
    /// one.
    pub fn consulted(&mut self, now: Time, answer: Option<(Option<NodeId>, Reply)>) {
        let silent = self.connection.as_ref().and_then(|(_, node)| *node);
        let Phase::Consults { rest, .. } = &mut self.call.phase else { return };
        let Some(endpoint) = rest.pop_front() else { return };
        let leader = match answer {
            Some((_, Reply::Refused(Refusal::NotLeader { leader, address, .. }))) if leader != silent => address,
            Some((node, Reply::Answer { .. })) if node != silent => Some(endpoint),
            _ => None,
        };
        if leader.is_none() {
            return self.consult_next(now);
        }
        self.call.hint = leader;
        let endpoint = self.connection.as_ref().map(|(endpoint, _)| endpoint.clone()).unwrap_or_default();
        self.lost(now, &format!("{endpoint} does not answer, and is no longer the leader"));
    }

    /// Once all other nodes are consulted, waits for the reply again, for longer.
    fn consult_next(&mut self, now: Time) {
        if let Phase::Consults { until, pause, rest } = &self.call.phase
            && rest.is_empty()
        {
            let pause = (*pause * 2).min(AGAIN_MAX);
            self.call.phase = Phase::Waits(*until, now + pause, pause);
        }
    }

    /// Reports a reply.
    pub fn answered(&mut self, now: Time, reply: Reply) {
        if now < self.look_at {
            return self.replied(now, reply);
        }
        // Requests the members from time to time.
        self.look_at = now + REFRESH_INTERVAL;
        self.call.phase = Phase::Looks(Box::new(reply));
    }

    /// Reports the status; without one, the client drops the connection.
    pub fn looked(&mut self, now: Time, status: Option<&Status>) {
        match status {
            Some(status) => self.known.learn_members(status),
            None => self.connection = None,
        }
        if let Phase::Looks(reply) = std::mem::replace(&mut self.call.phase, Phase::Begins(now)) {
            self.replied(now, *reply);
        }
    }

    fn replied(&mut self, now: Time, reply: Reply) {
        self.call.phase = Phase::Begins(now);
        match reply {
            Reply::Refused(refusal) => {
                if let Err(error) = self.heed(now, refusal) {
                    self.ended(now, Err(error));
                }
            }
            Reply::Unknown => {
                self.call.uncertain = true;
                self.connection = None;
                self.pause(now);
            }
            reply => self.ended(now, Ok(reply)),
        }
    }

    /// Handles a refusal: dials the named leader or pauses; an error if it is final.
    fn heed(&mut self, now: Time, refusal: Refusal) -> Result<(), ClientError> {
        match &refusal {
            Refusal::NotLeader { address: Some(address), .. } => {
                self.known.learn(address);
                self.call.hint = Some(address.clone());
            }
            Refusal::Busy | Refusal::NoSpace | Refusal::Changing { .. } => self.pause(now),
            Refusal::NotLeader { address: None, .. } | Refusal::NoLeader | Refusal::Stopping => {
                self.connection = None;
                self.pause(now);
            }
            Refusal::NotMember { members, .. } => {
                // A member may be an endpoint that is not known yet.
                members.iter().for_each(|address| self.known.learn(address));
                self.connection = None;
                self.pause(now);
            }
            // A node with a higher limit may have accepted an earlier attempt.
            Refusal::TooLarge { .. } | Refusal::Malformed if self.call.uncertain => {
                return Err(self.give_up_for(now, refusal));
            }
            Refusal::TooLarge { .. }
            | Refusal::Malformed
            | Refusal::InvalidChange { .. }
            | Refusal::UnsafeChange { .. }
            | Refusal::SnapshotGone
            | Refusal::NotOffered
            | Refusal::TransferTimedOut { .. } => return Err(ClientError::Rejected(refusal)),
        }
        self.call.tried.refusal = Some(refusal);
        if self.call.attempts > 2 && self.call.hint.is_some() {
            // Nodes that name each other, or a node that is gone, as leader: no endless circle without a pause.
            self.pause(now);
        }
        Ok(())
    }

    /// Schedules the next attempt a little later: growing with the number of attempts, bounded, and random.
    fn pause(&mut self, now: Time) {
        let longest = 5 << self.call.attempts.min(5);
        let pause = Duration::from_millis(self.rng.random_range(longest / 2..=longest));
        let begins = if let Phase::Begins(at) = self.call.phase { at.max(now) } else { now };
        self.call.phase = Phase::Begins((begins + pause).min(self.call.deadline.max(now)));
    }

    /// Ends the request, and the call too, unless the request only opened its session.
    fn ended(&mut self, now: Time, result: Result<Reply, ClientError>) {
        let strange = |outcome| Err(ClientError::UnexpectedReply(Box::new(outcome)));
        let result = match (std::mem::replace(&mut self.call.goal, Goal::Answer), result) {
            (Goal::Answer, result) => result,
            (Goal::Open(command), result) => {
                self.call.uncertain = false;
                match result.map_err(nothing_applied) {
                    Ok(Reply::Done { outcome: Outcome::Opened { session }, .. }) => {
                        self.session = Some(CallSession { id: session, next: 1 });
                        return self.number(now, command);
                    }
                    Ok(Reply::Done { outcome, .. }) => strange(outcome),
                    Ok(_) => strange(Outcome::Malformed),
                    Err(error) => Err(error),
                }
            }
            (Goal::Execute(command), Ok(Reply::Done { position, outcome })) => match outcome {
                Outcome::Executed { .. } => Ok(Reply::Done { position, outcome }),
                Outcome::SessionExpired => {
                    self.session = None;
                    if !self.call.uncertain {
                        // No node accepted it: it is sent as new, in a new session.
                        return self.number(now, command);
                    }
                    Err(ClientError::SessionExpired)
                }
                Outcome::AnswerTooLong => Err(ClientError::AnswerTooLong { position }),
                other => {
                    self.session = None;
                    strange(other)
                }
            },
            (Goal::Execute(_), Ok(_)) => strange(Outcome::Malformed),
            (Goal::Execute(_), Err(error)) => Err(error),
        };
        self.call.phase = Phase::Ends(Box::new(result));
    }
}

impl Call {
    fn new(goal: Goal, request: Request, now: Time, timeout: Duration) -> Call {
        Call {
            goal,
            request,
            phase: Phase::Begins(now),
            begun: now,
            deadline: now + timeout.min(TIMEOUT_MAX),
            tried: Tried::default(),
            uncertain: false,
            hint: None,
            attempts: 0,
        }
    }

    fn note(&mut self, endpoint: &str) {
        self.attempts += 1;
        if !self.tried.endpoints.iter().any(|known| known == endpoint) {
            self.tried.endpoints.push(endpoint.to_owned());
        }
    }

    fn give_up(&mut self, now: Time) -> ClientError {
        let mut tried = std::mem::take(&mut self.tried);
        tried.took = now - self.begun;
        if self.uncertain { ClientError::Unknown(tried) } else { ClientError::Refused(tried) }
    }
}

/// Converts the error of a read-only request: certainly nothing was applied.
pub fn nothing_applied(error: ClientError) -> ClientError {
    match error {
        ClientError::Unknown(tried) => ClientError::Refused(tried),
        other => other,
    }
}

#[cfg(test)]
mod tests;
