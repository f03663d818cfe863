//! The protocol of a blocking client, without its socket and its sleep. It decides where a request is sent, how a reply
//! is interpreted, how long the client waits, and whether the request may have been applied after a timeout.
//!
//! Nothing here reads a clock or touches a socket. The driver executes the step that [`CallProtocol::next_step`]
//! returns, and reports the result. The drivers are [`Client`](super::Client) over TCP, and the simulator over its
//! links. Whenever [`CallProtocol::is_connected`] is false, the driver drops the connection.

use super::error::{ClientError, FailedAttempts};
use super::known::{KnownEndpoints, MEMBERS_REFRESH_INTERVAL};
use crate::api::{Consistency, Op, Outcome, Refusal, Reply, Request, Status};
use crate::secure::Keys;
use crate::types::{NodeId, SessionId, Time};
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;
use std::time::Duration;

/// The timeouts and identity of a blocking client.
#[derive(Clone, Debug)]
pub struct Options {
    /// The maximum duration of a call. The error after the timeout says whether the request may have been applied.
    pub timeout: Duration,
    /// The client leaves a node that has not replied for this long. A node without a leader holds requests back for a
    /// while: with a shorter timeout, the client would leave every node of a cluster that has no leader.
    pub node_timeout: Duration,
    /// After a node was silent for this long, the client repeatedly asks other nodes which one leads. The request stays
    /// with the silent node until another leader is named.
    pub leader_query_delay: Duration,
    /// If set, traffic is encrypted with these keys, and nodes must prove their identity.
    pub keys: Option<Keys>,
    /// The kind of the state machine whose commands are sent, as in
    /// [`StateMachine::kind`](crate::machine::StateMachine::kind): nodes with another kind reject this client. Empty
    /// turns the check off.
    pub machine_kind: &'static str,
    /// Whether to use a connection reserved for operators if a node has its maximum number of clients. Nothing can be
    /// proposed over such a connection.
    pub is_operator: bool,
}

/// With several endpoints, the client leaves a node that accepts a connection and sends no welcome within this many
/// times `leader_query_delay`.
const WELCOME_TIMEOUT_FACTOR: u32 = 3;
/// The longest pause between two rounds of leader queries.
const LEADER_QUERY_PAUSE_MAX: Duration = Duration::from_millis(400);
/// The longest timeout: longer than any call can last.
const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

impl Default for Options {
    fn default() -> Options {
        Options {
            timeout: Duration::from_secs(5),
            node_timeout: Duration::from_millis(3500),
            leader_query_delay: Duration::from_millis(100),
            keys: None,
            machine_kind: "",
            is_operator: false,
        }
    }
}

/// The next action of the driver for a call.
#[derive(Clone, PartialEq, Debug)]
pub enum CallStep {
    /// Dial that endpoint and send hello; then call [`CallProtocol::dial_succeeded`] or [`CallProtocol::dial_failed`].
    Dial {
        /// The `host:port` of the node.
        endpoint: String,
        /// The deadline of the node's welcome.
        until: Time,
    },
    /// Send this request over the current connection; then call [`CallProtocol::request_sent`] or
    /// [`CallProtocol::connection_lost`].
    Send {
        /// The request. If it executes a command, it contains the session and the sequence number.
        request: Request,
        /// The deadline for sending the request.
        until: Time,
    },
    /// Wait for the reply; then call [`CallProtocol::reply_received`], [`CallProtocol::reply_timed_out`] or
    /// [`CallProtocol::connection_lost`].
    Wait {
        /// When to stop waiting: then the client asks other nodes for the leader, or leaves this one.
        until: Time,
    },
    /// Send a request to another node over a separate connection; then call [`CallProtocol::other_node_answered`].
    QueryOtherNode {
        /// The `host:port` of the other node.
        endpoint: String,
        /// An empty read, to which a follower replies with its leader.
        request: Request,
        /// The deadline of dial, handshake and reply together.
        until: Time,
    },
    /// Request the status over the current connection; then call [`CallProtocol::status_received`].
    ReadStatus {
        /// The deadline of the reply with the status.
        until: Time,
    },
    /// Sleep, then take the next step.
    Pause {
        /// When to take the next step.
        until: Time,
    },
    /// Return this result to the caller.
    Done(Result<Reply, ClientError>),
}

/// An open session in the cluster, and the number of its next command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct CallSession {
    id: SessionId,
    next_seq: u64,
}

/// The purpose of the current request, which decides how its reply is handled.
#[derive(Clone, Debug)]
enum RequestGoal {
    /// The reply is returned to the caller unchanged.
    ReturnReply,
    /// The request opens a session, in which this command is executed next.
    OpenSession(Bytes),
    /// The request executes this command in the current session.
    Execute(Bytes),
}

/// The progress of a call: an attempt that is scheduled or under way, or the result.
#[derive(Clone, Debug)]
enum AttemptState {
    /// The next attempt begins at this time.
    Scheduled(Time),
    /// An endpoint is being dialed; the client leaves the node at this time.
    Dialing(Time),
    /// The request is to be sent on the current connection; the client leaves the node at this time.
    Sending(Time),
    /// The client waits for the reply until `until`, and asks other nodes for the leader at `query_at`. `pause` is the
    /// pause before this round of leader queries; it doubles for the next round.
    Waiting { until: Time, query_at: Time, pause: Duration },
    /// Other nodes are asked for the leader, one after the other, while the client waits for the reply.
    QueryingOtherNodes { until: Time, pause: Duration, unqueried_endpoints: VecDeque<String> },
    /// The status of the node is requested, to learn the members. Then the enclosed reply, which arrived before, is
    /// handled.
    ReadingStatus(Box<Reply>),
    /// The call has finished with this result.
    Finished(Box<Result<Reply, ClientError>>),
}

/// The current call: its request, its deadline and its attempts.
#[derive(Debug)]
struct Call {
    goal: RequestGoal,
    request: Request,
    state: AttemptState,
    started_at: Time,
    deadline: Time,
    failures: FailedAttempts,
    /// Whether a node may have accepted an earlier attempt.
    outcome_uncertain: bool,
    /// The endpoint of the leader that a node has named, which is dialed next; `None` if none was named since.
    leader_hint: Option<String>,
    attempt_count: u32,
}

/// A blocking client, without its socket and its sleep. It has one call at a time.
#[derive(Debug)]
pub struct CallProtocol {
    known_endpoints: KnownEndpoints,
    /// When to read the list of members from a node next.
    read_members_at: Time,
    options: Options,
    /// The endpoint of the current connection, and the id in its node's welcome; `None` without a connection.
    connection: Option<(String, Option<NodeId>)>,
    session: Option<CallSession>,
    call: Call,
    rng: SmallRng,
}

impl CallProtocol {
    /// Creates a client of the cluster with these endpoints, at least one. `seed` seeds the random pauses and the
    /// random choice of endpoints.
    pub fn new(endpoints: Vec<String>, options: Options, now: Time, seed: u64) -> CallProtocol {
        CallProtocol {
            known_endpoints: KnownEndpoints::new(endpoints),
            read_members_at: now + MEMBERS_REFRESH_INTERVAL,
            options,
            connection: None,
            session: None,
            call: Call::new(RequestGoal::ReturnReply, Request::Status, now, Duration::ZERO),
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// The options that the client was created with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The endpoints of the cluster that the client knows by now.
    pub fn known_endpoints(&self) -> &KnownEndpoints {
        &self.known_endpoints
    }

    /// The id of the client's session; `None` before the first command and after the session expired.
    pub fn session(&self) -> Option<SessionId> {
        self.session.map(|session| session.id)
    }

    /// Whether there is a connection; if not, the driver drops its socket.
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Replaces the learned endpoints with the members in a node's status.
    pub fn learn_members(&mut self, status: &Status) {
        self.known_endpoints.learn_members(status);
    }

    /// Starts a call that executes a command exactly once.
    pub fn start_command(&mut self, now: Time, command: Bytes) {
        self.call = Call::new(RequestGoal::ReturnReply, Request::Status, now, self.options.timeout);
        self.assign_sequence_number(now, command);
    }

    /// Starts a call that returns the reply to a request.
    pub fn start_request(&mut self, now: Time, request: Request) {
        self.call = Call::new(RequestGoal::ReturnReply, request, now, self.options.timeout);
    }

    /// Continues the call with another request, within its timeout. The previous request must have been read-only.
    pub fn continue_with_request(&mut self, now: Time, request: Request) {
        (self.call.request, self.call.state, self.call.outcome_uncertain) =
            (request, AttemptState::Scheduled(now), false);
    }

    /// Whether a node may have accepted an attempt of this call.
    pub fn is_uncertain(&self) -> bool {
        self.call.outcome_uncertain
    }

    /// Returns the error of a call that ends because of a refusal. The error says whether the request may have been
    /// applied.
    pub fn fail_with_refusal(&mut self, now: Time, refusal: Refusal) -> ClientError {
        self.call.failures.refusal = Some(refusal);
        self.call.take_error(now)
    }

    /// Gives the command the next sequence number of the session. Without a session, requests one first.
    fn assign_sequence_number(&mut self, now: Time, command: Bytes) {
        let call = &mut self.call;
        call.state = AttemptState::Scheduled(now);
        match &mut self.session {
            Some(session) => {
                let seq = session.next_seq;
                session.next_seq += 1;
                let op = Op::Execute { session: session.id, seq, first_outstanding: seq, command: command.clone() };
                (call.goal, call.request) = (RequestGoal::Execute(command), Request::Propose { op: op.encode() });
            }
            None => {
                // A session whose opening was never confirmed expires by itself: requesting another does no harm, and
                // the caller's command has not been sent yet.
                let op = Op::<Bytes>::Open { window: 1, ordered: false };
                (call.goal, call.request) = (RequestGoal::OpenSession(command), Request::Propose { op: op.encode() });
            }
        }
    }

    /// Returns the next action of the driver, which then reports the result of that action.
    pub fn next_step(&mut self, now: Time) -> CallStep {
        match &mut self.call.state {
            AttemptState::Scheduled(at) if *at > now => CallStep::Pause { until: *at },
            AttemptState::Scheduled(_) if now >= self.call.deadline => {
                let error = self.call.take_error(now);
                self.end_request(now, Err(error));
                self.next_step(now)
            }
            AttemptState::Scheduled(_) => self.start_attempt(now),
            AttemptState::Dialing(until) | AttemptState::Sending(until) => {
                CallStep::Send { request: self.call.request.clone(), until: *until }
            }
            AttemptState::Waiting { until, query_at, .. } => CallStep::Wait { until: (*until).min(*query_at) },
            AttemptState::QueryingOtherNodes { unqueried_endpoints, .. } => match unqueried_endpoints.front() {
                Some(endpoint) => {
                    let endpoint = endpoint.clone();
                    // A follower names its leader, and a leader answers without an entry in the log.
                    let request = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
                    CallStep::QueryOtherNode { endpoint, request, until: now + self.options.leader_query_delay * 2 }
                }
                None => unreachable!("the list of endpoints to query is not empty during a round of leader queries"),
            },
            AttemptState::ReadingStatus(_) => CallStep::ReadStatus { until: now + self.options.leader_query_delay },
            AttemptState::Finished(result) => CallStep::Done((**result).clone()),
        }
    }

    /// Sends the request to one node, over the current connection or a new one.
    fn start_attempt(&mut self, now: Time) -> CallStep {
        let until = self.call.deadline.min(now + self.options.node_timeout);
        if let Some((endpoint, _)) = &self.connection
            && self.call.leader_hint.is_none()
        {
            self.call.record_attempt(endpoint);
            self.call.state = AttemptState::Sending(until);
            return self.next_step(now);
        }
        self.connection = None;
        let endpoint = self.choose_endpoint();
        self.call.state = AttemptState::Dialing(until);
        CallStep::Dial { endpoint, until: until.min(self.welcome_deadline(now)) }
    }

    /// The deadline of a node's welcome. Each attempt allows more time, in case all nodes are slow.
    fn welcome_deadline(&self, now: Time) -> Time {
        match self.known_endpoints.len() {
            1 => self.call.deadline,
            _ => now + self.options.leader_query_delay * (WELCOME_TIMEOUT_FACTOR << self.call.attempt_count.min(6)),
        }
    }

    /// Chooses the endpoint to dial: the named leader, else a random untried one, else a random one.
    fn choose_endpoint(&mut self) -> String {
        let Self { call, known_endpoints, rng, .. } = self;
        let endpoint = call.leader_hint.take().unwrap_or_else(|| {
            let (first, count) = (rng.random_range(0..known_endpoints.len()), known_endpoints.len());
            let untried_endpoint = (0..count)
                .map(|i| &known_endpoints[(first + i) % count])
                .find(|endpoint| !call.failures.endpoints.contains(endpoint));
            untried_endpoint.unwrap_or(&known_endpoints[first]).clone()
        });
        call.record_attempt(&endpoint);
        endpoint
    }

    /// Reports that a connection to `endpoint` is open; `node` is the id in the node's welcome.
    pub fn dial_succeeded(&mut self, endpoint: String, node: Option<NodeId>) {
        self.call.record_attempt(&endpoint);
        self.connection = Some((endpoint, node));
        if let AttemptState::Dialing(until) = self.call.state {
            self.call.state = AttemptState::Sending(until);
        }
    }

    /// Reports a failed dial: no node has the request.
    pub fn dial_failed(&mut self, now: Time, endpoint: &str, error: &str) {
        // An attempt that the call's deadline has cut short says less than the one before it.
        if now < self.call.deadline || self.call.failures.last_error.is_none() {
            self.call.failures.last_error = Some(format!("{endpoint}: {error}"));
        }
        self.schedule_attempt(now);
    }

    /// Reports that the request was sent: the client waits for the reply.
    pub fn request_sent(&mut self, now: Time) {
        if let AttemptState::Sending(until) = self.call.state {
            let pause = self.options.leader_query_delay;
            self.call.state = AttemptState::Waiting { until, query_at: now + pause, pause };
        }
    }

    /// Reports a lost connection: the node may have the request.
    pub fn connection_lost(&mut self, now: Time, error: &str) {
        let endpoint = self.connection.take().map(|(endpoint, _)| endpoint).unwrap_or_default();
        self.call.outcome_uncertain = true;
        self.call.failures.last_error = Some(format!("{endpoint}: {error}"));
        self.schedule_attempt(now);
    }

    /// Reports that no reply arrived until the deadline of [`CallStep::Wait`]: the client asks other nodes for the
    /// leader, or leaves the node.
    pub fn reply_timed_out(&mut self, now: Time, error: &str) {
        let AttemptState::Waiting { until, pause, .. } = self.call.state else { return };
        if now >= until {
            return self.connection_lost(now, error);
        }
        let silent_endpoint = self.connection.as_ref().map(|(endpoint, _)| endpoint);
        let unqueried_endpoints: VecDeque<String> =
            self.known_endpoints.iter().filter(|other| Some(*other) != silent_endpoint).cloned().collect();
        self.call.state = AttemptState::QueryingOtherNodes { until, pause, unqueried_endpoints };
        self.query_next_node(now);
    }

    /// Reports the reply of another node; `None` if the node did not reply. If the reply names a leader other than the
    /// silent node, the client dials that leader.
    pub fn other_node_answered(&mut self, now: Time, answer: Option<(Option<NodeId>, Reply)>) {
        let silent_node = self.connection.as_ref().and_then(|(_, node)| *node);
        let AttemptState::QueryingOtherNodes { unqueried_endpoints, .. } = &mut self.call.state else { return };
        let Some(endpoint) = unqueried_endpoints.pop_front() else { return };
        let leader = match answer {
            Some((_, Reply::Refused(Refusal::NotLeader { leader, address, .. }))) if leader != silent_node => address,
            Some((node, Reply::Answer { .. })) if node != silent_node => Some(endpoint),
            _ => None,
        };
        if leader.is_none() {
            return self.query_next_node(now);
        }
        self.call.leader_hint = leader;
        let endpoint = self.connection.as_ref().map(|(endpoint, _)| endpoint.clone()).unwrap_or_default();
        self.connection_lost(now, &format!("{endpoint} does not answer, and is no longer the leader"));
    }

    /// Once all other nodes were queried, waits for the reply of the silent node again, until the next round.
    fn query_next_node(&mut self, now: Time) {
        if let AttemptState::QueryingOtherNodes { until, pause, unqueried_endpoints } = &self.call.state
            && unqueried_endpoints.is_empty()
        {
            let pause = (*pause * 2).min(LEADER_QUERY_PAUSE_MAX);
            self.call.state = AttemptState::Waiting { until: *until, query_at: now + pause, pause };
        }
    }

    /// Reports a reply to the request. Once in `MEMBERS_REFRESH_INTERVAL`, the client reads the list of members first.
    pub fn reply_received(&mut self, now: Time, reply: Reply) {
        if now < self.read_members_at {
            return self.handle_reply(now, reply);
        }
        // Before this reply is handled, the client reads the list of members.
        self.read_members_at = now + MEMBERS_REFRESH_INTERVAL;
        self.call.state = AttemptState::ReadingStatus(Box::new(reply));
    }

    /// Reports the node's status. `None` if the node sent none: then the client drops the connection.
    pub fn status_received(&mut self, now: Time, status: Option<&Status>) {
        match status {
            Some(status) => self.known_endpoints.learn_members(status),
            None => self.connection = None,
        }
        if let AttemptState::ReadingStatus(reply) =
            std::mem::replace(&mut self.call.state, AttemptState::Scheduled(now))
        {
            self.handle_reply(now, *reply);
        }
    }

    fn handle_reply(&mut self, now: Time, reply: Reply) {
        self.call.state = AttemptState::Scheduled(now);
        match reply {
            Reply::Refused(refusal) => {
                if let Err(error) = self.handle_refusal(now, refusal) {
                    self.end_request(now, Err(error));
                }
            }
            Reply::Unknown => {
                self.call.outcome_uncertain = true;
                self.connection = None;
                self.schedule_attempt(now);
            }
            reply => self.end_request(now, Ok(reply)),
        }
    }

    /// Handles a refusal: schedules another attempt, at the named leader or after a pause; an error if the refusal is
    /// final.
    fn handle_refusal(&mut self, now: Time, refusal: Refusal) -> Result<(), ClientError> {
        match &refusal {
            Refusal::NotLeader { address: Some(address), .. } => {
                self.known_endpoints.learn_address(address);
                self.call.leader_hint = Some(address.clone());
            }
            Refusal::Busy | Refusal::NoSpace | Refusal::ChangeInProgress { .. } => self.schedule_attempt(now),
            Refusal::NotLeader { address: None, .. } | Refusal::NoLeader | Refusal::Stopping => {
                self.connection = None;
                self.schedule_attempt(now);
            }
            Refusal::NotMember { members, .. } => {
                // The refusal names the members, some of which may be new to this client.
                members.iter().for_each(|address| self.known_endpoints.learn_address(address));
                self.connection = None;
                self.schedule_attempt(now);
            }
            // A node with a higher size limit, or a later leader, may have accepted an earlier attempt.
            rejection if self.call.outcome_uncertain && rejection.rejects_command() => {
                return Err(self.fail_with_refusal(now, refusal));
            }
            Refusal::TooLarge { .. }
            | Refusal::Malformed
            | Refusal::InvalidChange { .. }
            | Refusal::UnsafeChange { .. }
            | Refusal::SnapshotGone
            | Refusal::NotSupported
            | Refusal::NotEnabled { .. }
            | Refusal::TransferTimedOut { .. } => return Err(ClientError::Rejected(refusal)),
        }
        self.call.failures.refusal = Some(refusal);
        if self.call.attempt_count > 2 && self.call.leader_hint.is_some() {
            // Nodes may name each other as leader, or a node that is gone: a pause keeps the client from going in
            // circles.
            self.schedule_attempt(now);
        }
        Ok(())
    }

    /// Schedules the next attempt after a random pause, which grows with the number of attempts up to a limit.
    fn schedule_attempt(&mut self, now: Time) {
        let pause_max_ms = 5 << self.call.attempt_count.min(5);
        let pause = Duration::from_millis(self.rng.random_range(pause_max_ms / 2..=pause_max_ms));
        let earliest_start = if let AttemptState::Scheduled(at) = self.call.state { at.max(now) } else { now };
        self.call.state = AttemptState::Scheduled((earliest_start + pause).min(self.call.deadline.max(now)));
    }

    /// Ends the request. The call ends too, unless the request only opened its session.
    fn end_request(&mut self, now: Time, result: Result<Reply, ClientError>) {
        let unexpected_reply = |outcome| Err(ClientError::UnexpectedReply(Box::new(outcome)));
        let result = match (std::mem::replace(&mut self.call.goal, RequestGoal::ReturnReply), result) {
            (RequestGoal::ReturnReply, result) => result,
            (RequestGoal::OpenSession(command), result) => {
                self.call.outcome_uncertain = false;
                match result.map_err(unknown_as_refused) {
                    Ok(Reply::Done { outcome: Outcome::Opened { session }, .. }) => {
                        self.session = Some(CallSession { id: session, next_seq: 1 });
                        return self.assign_sequence_number(now, command);
                    }
                    Ok(Reply::Done { outcome, .. }) => unexpected_reply(outcome),
                    Ok(_) => unexpected_reply(Outcome::Malformed),
                    Err(error) => Err(error),
                }
            }
            (RequestGoal::Execute(command), Ok(Reply::Done { position, outcome })) => match outcome {
                Outcome::Executed { .. } => Ok(Reply::Done { position, outcome }),
                Outcome::SessionExpired => {
                    self.session = None;
                    if !self.call.outcome_uncertain {
                        // No node accepted the command, so it is sent as a new one, in a new session.
                        return self.assign_sequence_number(now, command);
                    }
                    Err(ClientError::SessionExpired)
                }
                Outcome::AnswerTooLong => Err(ClientError::AnswerTooLong { position }),
                outcome => {
                    self.session = None;
                    unexpected_reply(outcome)
                }
            },
            (RequestGoal::Execute(_), Ok(_)) => unexpected_reply(Outcome::Malformed),
            (RequestGoal::Execute(_), Err(error)) => Err(error),
        };
        self.call.state = AttemptState::Finished(Box::new(result));
    }
}

impl Call {
    fn new(goal: RequestGoal, request: Request, now: Time, timeout: Duration) -> Call {
        Call {
            goal,
            request,
            state: AttemptState::Scheduled(now),
            started_at: now,
            deadline: now + timeout.min(TIMEOUT_MAX),
            failures: FailedAttempts::default(),
            outcome_uncertain: false,
            leader_hint: None,
            attempt_count: 0,
        }
    }

    fn record_attempt(&mut self, endpoint: &str) {
        self.attempt_count += 1;
        if !self.failures.endpoints.iter().any(|tried| tried == endpoint) {
            self.failures.endpoints.push(endpoint.to_owned());
        }
    }

    /// Returns the error of a call that ends now: [`ClientError::Unknown`] if a node may have accepted an attempt,
    /// otherwise [`ClientError::Refused`].
    fn take_error(&mut self, now: Time) -> ClientError {
        let mut failures = std::mem::take(&mut self.failures);
        failures.duration = now - self.started_at;
        if self.outcome_uncertain { ClientError::Unknown(failures) } else { ClientError::Refused(failures) }
    }
}

/// Converts the error of a request that writes nothing: an unknown outcome becomes a refusal, since nothing was
/// applied.
pub fn unknown_as_refused(error: ClientError) -> ClientError {
    match error {
        ClientError::Unknown(failures) => ClientError::Refused(failures),
        error => error,
    }
}

#[cfg(test)]
mod tests;
