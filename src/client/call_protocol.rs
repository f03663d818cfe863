//! The protocol of a blocking client, without its socket and its sleep: where a request is sent, what an answer means,
//! how long it is waited for, and what is known of the request when time is up.
//!
//! Nothing here reads a clock or touches a socket. Whoever drives it does what [`CallProtocol::step`] says and reports
//! what came of it: [`Client`](super::Client) does over TCP, and the simulator over its links. Whenever
//! [`CallProtocol::is_connected`] is false, the connection is dropped.

use super::error::{ClientError, Tried};
use super::known::{KnownEndpoints, LOOK_EVERY};
use crate::api::{Consistency, Op, Outcome, Refusal, Reply, Request, Status};
use crate::secure::Keys;
use crate::types::{NodeId, SessionId, Time};
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;
use std::time::Duration;

/// How patient a client is.
#[derive(Clone, Debug)]
pub struct Options {
    /// After this long a call ends, whatever is known by then.
    pub timeout: Duration,
    /// A node that has not answered for this long is left for another. Longer than nodes let requests
    /// wait for a leader, or a cluster without one would look like one that does not answer.
    pub patience: Duration,
    /// After this long of silence others are asked who leads, again and again. What is waited for stays
    /// with the silent node until somebody else does.
    pub doubt: Duration,
    /// With these, what is said is encrypted, and nodes have to prove who they are.
    pub keys: Option<Keys>,
    /// The state machine whose commands are sent, as [`StateMachine::kind`](crate::machine::StateMachine::kind) names it:
    /// nodes that run another refuse this client. Empty if that is not to be checked.
    pub machine: &'static str,
    /// Whether it asks for an operator's seat where none is left for clients. With such a seat nothing can be proposed.
    pub operator: bool,
}

/// A node that takes a connection and does not say hello is left after so many times the doubt, if there
/// are others.
const GREETING: u32 = 3;
/// Others are asked again no more rarely than this.
const AGAIN_MAX: Duration = Duration::from_millis(400);
/// The longest timeout: no clock runs for longer.
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

/// What is to be done next for a call.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Dial that endpoint and say hello; [`CallProtocol::dialed`] or [`CallProtocol::not_dialed`] follows.
    Dial {
        /// Which.
        endpoint: String,
        /// It must have welcomed the client by then.
        until: Time,
    },
    /// Send this over the connection there is; [`CallProtocol::sent`] or [`CallProtocol::lost`] follows.
    Send {
        /// What.
        request: Request,
        /// It must have been sent by then.
        until: Time,
    },
    /// Wait for the answer; [`CallProtocol::answered`], [`CallProtocol::late`] or [`CallProtocol::lost`] follows.
    Wait {
        /// Until then.
        until: Time,
    },
    /// Ask another node, over a connection of its own; [`CallProtocol::consulted`] follows.
    Consult {
        /// Which.
        endpoint: String,
        /// What.
        request: Request,
        /// It must have answered by then.
        until: Time,
    },
    /// Ask for the status over the connection there is; [`CallProtocol::looked`] follows.
    Look {
        /// It must have come by then.
        until: Time,
    },
    /// Wait, and go on.
    Pause {
        /// Until then.
        until: Time,
    },
    /// The call is over.
    Done(Result<Reply, ClientError>),
}

/// A session, and the number of its next command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct CallSession {
    id: SessionId,
    next: u64,
}

/// What a call is for.
#[derive(Clone, Debug)]
enum Goal {
    /// The answer to one request.
    Answer,
    /// That command takes effect; a session is being opened for it.
    Open(Bytes),
    /// That command takes effect, in the session there is.
    Execute(Bytes),
}

/// How far an attempt is.
#[derive(Clone, Debug)]
enum Phase {
    /// The next attempt begins, not before then.
    Begins(Time),
    /// An endpoint is being dialed; it is left at that time.
    Dials(Time),
    /// There is a connection; it is left at that time.
    Sends(Time),
    /// An answer is waited for until the first time; others are consulted at the second, and then after that long.
    Waits(Time, Time, Duration),
    /// Others are consulted: those, one after the other.
    Consults { until: Time, pause: Duration, rest: VecDeque<String> },
    /// The members are asked for, after that reply.
    Looks(Box<Reply>),
    /// The call is over.
    Ends(Box<Result<Reply, ClientError>>),
}

/// A call under way: how long it may last, and what was tried.
#[derive(Debug)]
struct Call {
    goal: Goal,
    request: Request,
    phase: Phase,
    begun: Time,
    deadline: Time,
    tried: Tried,
    /// Whether some attempt may have been taken on.
    uncertain: bool,
    /// Where to go next, if a node told us.
    hint: Option<String>,
    attempts: u32,
}

/// A blocking client, without its socket and its sleep. One call at a time is under way.
#[derive(Debug)]
pub struct CallProtocol {
    known: KnownEndpoints,
    /// When to ask who the members are.
    look_at: Time,
    options: Options,
    /// The endpoint that the connection leads to, if there is one, and the node.
    connection: Option<(String, Option<NodeId>)>,
    session: Option<CallSession>,
    call: Call,
    rng: SmallRng,
}

impl CallProtocol {
    /// A client of the cluster that answers at those endpoints.
    pub fn new(endpoints: Vec<String>, options: Options, now: Time, seed: u64) -> CallProtocol {
        CallProtocol {
            known: KnownEndpoints::new(endpoints),
            look_at: now + LOOK_EVERY,
            options,
            connection: None,
            session: None,
            call: Call::new(Goal::Answer, Request::Status, now, Duration::ZERO),
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// How patient it is.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Where a cluster is asked.
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

    /// A node has said who the members are.
    pub fn learn_members(&mut self, status: &Status) {
        self.known.learn_members(status);
    }

    /// A call begins: that command is to take effect, once.
    pub fn execute(&mut self, now: Time, command: Bytes) {
        self.call = Call::new(Goal::Answer, Request::Status, now, self.options.timeout);
        self.number(now, command);
    }

    /// A call begins: that request is to be answered.
    pub fn ask(&mut self, now: Time, request: Request) {
        self.call = Call::new(Goal::Answer, request, now, self.options.timeout);
    }

    /// The call goes on with another request, and what time is left. What was asked before changed nothing.
    pub fn ask_next(&mut self, now: Time, request: Request) {
        (self.call.request, self.call.phase, self.call.uncertain) = (request, Phase::Begins(now), false);
    }

    /// Whether some attempt of the call may have been taken on.
    pub fn is_uncertain(&self) -> bool {
        self.call.uncertain
    }

    /// What is known of the call when it is given up because of that refusal.
    pub fn give_up_for(&mut self, now: Time, refusal: Refusal) -> ClientError {
        self.call.tried.refusal = Some(refusal);
        self.call.give_up(now)
    }

    /// The command gets the next number in the session; one is opened if there is none.
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
                // A session that was opened and never heard of lapses by itself: asking again does no harm,
                // and nothing of the caller's is at stake yet.
                let op = Op::<Bytes>::Open { window: 1, ordered: false };
                (call.goal, call.request) = (Goal::Open(command), Request::Propose { op: op.encode() });
            }
        }
    }

    /// What is to be done next.
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
                    // A follower says whom it follows, and a leader answers without an entry in the log.
                    let request = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
                    Step::Consult { endpoint, request, until: now + self.options.doubt * 2 }
                }
                None => unreachable!("somebody is left to be consulted"),
            },
            Phase::Looks(_) => Step::Look { until: now + self.options.doubt },
            Phase::Ends(result) => Step::Done((**result).clone()),
        }
    }

    /// Asks one node, over the connection there is or a new one.
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

    /// When a node must have said hello: later from time to time, in case all of them are slow.
    fn greeting(&self, now: Time) -> Time {
        match self.known.len() {
            1 => self.call.deadline,
            _ => now + self.options.doubt * (GREETING << self.call.attempts.min(6)),
        }
    }

    /// Whom to dial: who was named, else one at random, then round and round.
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

    /// There is a connection to that endpoint, and that node has welcomed the client.
    pub fn dialed(&mut self, endpoint: String, node: Option<NodeId>) {
        self.call.note(&endpoint);
        self.connection = Some((endpoint, node));
        if let Phase::Dials(until) = self.call.phase {
            self.call.phase = Phase::Sends(until);
        }
    }

    /// There is none: nothing can have been taken on.
    pub fn not_dialed(&mut self, now: Time, endpoint: &str, trouble: &str) {
        self.call.tried.trouble = Some(format!("{endpoint}: {trouble}"));
        self.pause(now);
    }

    /// The request was sent: its answer is waited for.
    pub fn sent(&mut self, now: Time) {
        if let Phase::Sends(until) = self.call.phase {
            self.call.phase = Phase::Waits(until, now + self.options.doubt, self.options.doubt);
        }
    }

    /// The connection is lost: the request may have been taken on.
    pub fn lost(&mut self, now: Time, trouble: &str) {
        let endpoint = self.connection.take().map(|(endpoint, _)| endpoint).unwrap_or_default();
        self.call.uncertain = true;
        self.call.tried.trouble = Some(format!("{endpoint}: {trouble}"));
        self.pause(now);
    }

    /// No answer has come in the time that it was waited for.
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

    /// Another node has answered, or not: if it says that a node leads that is not the silent one, that one is asked.
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
        self.lost(now, &format!("{endpoint} is silent, and leads no more"));
    }

    /// If all others were consulted, the answer is waited for again, for longer.
    fn consult_next(&mut self, now: Time) {
        if let Phase::Consults { until, pause, rest } = &self.call.phase
            && rest.is_empty()
        {
            let pause = (*pause * 2).min(AGAIN_MAX);
            self.call.phase = Phase::Waits(*until, now + pause, pause);
        }
    }

    /// An answer has come.
    pub fn answered(&mut self, now: Time, reply: Reply) {
        if now < self.look_at {
            return self.replied(now, reply);
        }
        // Who the members are is asked from time to time.
        self.look_at = now + LOOK_EVERY;
        self.call.phase = Phase::Looks(Box::new(reply));
    }

    /// The members were asked for: with no answer, the connection is of no use.
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

    /// Turned away: goes where it was told to, or waits a little; an error if it is for good.
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
                // Whoever is a member may be somebody we have not heard of.
                members.iter().for_each(|address| self.known.learn(address));
                self.connection = None;
                self.pause(now);
            }
            // A node that takes larger commands may have taken an earlier attempt on.
            Refusal::TooLarge { .. } | Refusal::Malformed if self.call.uncertain => {
                return Err(self.give_up_for(now, refusal));
            }
            Refusal::TooLarge { .. }
            | Refusal::Malformed
            | Refusal::InvalidChange { .. }
            | Refusal::UnsafeChange { .. }
            | Refusal::SnapshotGone
            | Refusal::NotOffered
            | Refusal::TransferTimedOut { .. } => return Err(ClientError::Never(refusal)),
        }
        self.call.tried.refusal = Some(refusal);
        if self.call.attempts > 2 && self.call.hint.is_some() {
            // Nodes that point at one another, or at one that is gone: not in a circle without a pause.
            self.pause(now);
        }
        Ok(())
    }

    /// The next attempt begins a little later: longer from time to time, never long, never the same.
    fn pause(&mut self, now: Time) {
        let longest = 5 << self.call.attempts.min(5);
        let pause = Duration::from_millis(self.rng.random_range(longest / 2..=longest));
        let begins = if let Phase::Begins(at) = self.call.phase { at.max(now) } else { now };
        self.call.phase = Phase::Begins((begins + pause).min(self.call.deadline.max(now)));
    }

    /// The request has come to an end, and with it the call, unless it was only a step on its way.
    fn ended(&mut self, now: Time, result: Result<Reply, ClientError>) {
        let strange = |outcome| Err(ClientError::Strange(Box::new(outcome)));
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
                        // Never taken on before: as good as new, in a new session.
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

/// Of what changes nothing, nothing was applied, whatever became of it.
pub fn nothing_applied(error: ClientError) -> ClientError {
    match error {
        ClientError::Unknown(tried) => ClientError::Refused(tried),
        other => other,
    }
}

#[cfg(test)]
mod tests;
