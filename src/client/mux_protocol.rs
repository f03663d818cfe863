//! The protocol of a multiplexed connection, without its socket: it encodes requests, interprets replies, and decides
//! when the client leaves a node and which node it dials next.
//!
//! Nothing here reads a clock or touches a socket. [`Mux`](super::Mux) drives it over TCP, and the simulator over its
//! links. The driver dials the endpoint that [`MuxProtocol::dial`] returns, passes received bytes to
//! [`MuxProtocol::receive`], and reports the end of the connection with [`MuxProtocol::connection_lost`]. Whenever
//! [`MuxProtocol::is_connected`] is false, the driver drops the connection.

use super::in_flight::InFlightRequests;
use super::known::{KnownEndpoints, MEMBERS_REFRESH_INTERVAL};
use super::leader_query_protocol::{LeaderQueryProtocol, LeaderQueryResult};
use crate::api::{Consistency, Op, Outcome, Refusal, Reply, Request};
use crate::secure::Keys;
use crate::types::{Index, NodeId, Position, SessionId, Time};
use crate::wire::WireError;
use crate::wire::client::{STATUS_UPDATE_ID, put_request_frame, read_reply_frame};
use crate::wire::frame::{FrameKind, FrameReader};
use crate::wire::hello::{Hello, Welcome};
use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

/// The timeouts and limits of a multiplexed connection.
#[derive(Clone, Debug)]
pub struct MuxOptions {
    /// If set, traffic is encrypted with these keys, and nodes must prove their identity.
    pub keys: Option<Keys>,
    /// The maximum number of requests in flight.
    pub in_flight_max: usize,
    /// The session's window: the maximum distance between the oldest and the newest write, at most 1,024.
    pub session_window: u32,
    /// The client leaves a node that has been silent for this long while requests are in flight.
    pub node_timeout: Duration,
    /// After a node was silent for this long, the client asks another node which one leads. Requests stay with the
    /// silent node until another leader is named.
    pub leader_query_delay: Duration,
    /// The kind of the state machine whose commands are sent: nodes with another kind reject this client. Empty turns
    /// the check off.
    pub machine_kind: &'static str,
}

/// The client leaves a node that accepts a connection and sends no welcome within this many times
/// `leader_query_delay`.
const WELCOME_TIMEOUT_FACTOR: u32 = 3;
/// The pause before another leader query after a failed one.
const LEADER_QUERY_PAUSE: Duration = Duration::from_millis(20);

impl MuxOptions {
    /// The defaults, for that many requests in flight.
    pub fn new(in_flight_max: usize) -> MuxOptions {
        let session_window = (4 * in_flight_max).clamp(64, 1024) as u32;
        MuxOptions {
            keys: None,
            machine_kind: "",
            in_flight_max: in_flight_max.min(1024),
            session_window,
            node_timeout: Duration::from_secs(2),
            leader_query_delay: Duration::from_millis(100),
        }
    }
}

/// A request that has finished: it is no longer in flight.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The number that the caller gave the request when it started.
    pub tag: u64,
    /// How often the request was sent again, after the first time.
    pub retries: u32,
    /// Whether the request took effect, and its answer.
    pub result: RequestResult,
}

/// The final outcome of a request, after all its attempts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RequestResult {
    /// A command took effect, exactly once.
    Executed {
        /// The position of its entry in the log.
        position: Position,
        /// The state machine's answer when the command was executed.
        answer: Bytes,
    },
    /// A query was answered, and changed nothing.
    Answered {
        /// The index of the last entry that the state machine had applied when it answered.
        applied: Index,
        /// The state machine's answer.
        answer: Bytes,
    },
    /// A command took effect, exactly once, or a query was answered; the answer is too long to be sent.
    AnswerTooLong {
        /// The position of the command's entry, or of the last entry applied before a query.
        position: Position,
    },
    /// The request was not applied, and never will be.
    Refused(Refusal),
    /// The command may have taken effect, or may yet: the session expired, or the command was rejected for good after
    /// an attempt without a reply.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
enum ConnectionState {
    /// There is no connection; the client dials at this time.
    Down(Time),
    /// The hello was sent; nothing else may be sent before the welcome.
    Handshake,
    /// The opening of a session was requested; requests are sent after the reply.
    OpeningSession,
    /// The connection has a session, and is ready for requests.
    Up,
}

/// The request id for opening a session: no slab has that many keys.
const OPEN_SESSION_REQUEST_ID: u64 = u64::MAX;
/// The request id for the status: the same as for a status that a node sends on its own.
const STATUS_REQUEST_ID: u64 = STATUS_UPDATE_ID;

/// One connection with many requests in flight, without its socket.
#[derive(Debug)]
pub struct MuxProtocol {
    known_endpoints: KnownEndpoints,
    options: MuxOptions,
    state: ConnectionState,
    /// The index in `known_endpoints` of the endpoint dialed last.
    last_dialed_index: usize,
    /// The endpoint of the leader that a node has named, which is dialed next; `None` if none was named since.
    leader_hint: Option<String>,
    /// The number of lost connections since the last successful reply.
    failed_connection_count: u32,
    session: Option<SessionId>,
    in_flight: InFlightRequests,
    /// The time of the first rejection for lack of disk space since a request last finished; `None` without one.
    disk_full_since: Option<Time>,
    /// The keys of requests to send again.
    retry_keys: Vec<usize>,
    /// When to send the requests of `retry_keys` again.
    retry_at: Option<Time>,
    /// When to read the list of members next.
    read_members_at: Time,
    output: BytesMut,
    input: BytesMut,
    reader: FrameReader,
    /// When the silence of the node began: at its last bytes, or at a later first request if no request was in flight.
    silent_since: Time,
    /// The endpoint dialed last.
    endpoint: String,
    /// The id in the welcome of the node at `endpoint`; `None` before the welcome.
    endpoint_node: Option<NodeId>,
    leader_query: Option<LeaderQueryProtocol>,
    /// The index in `known_endpoints` of the endpoint last dialed for a leader query.
    leader_query_last_dialed_index: usize,
    /// The earliest time of the next leader query.
    next_leader_query_at: Time,
    rng: SmallRng,
}

impl MuxProtocol {
    /// Creates a connection that looks for the leader among these endpoints. It dials the endpoint after the one with
    /// index `start_after` first.
    pub fn new(endpoints: Vec<String>, start_after: usize, options: MuxOptions, now: Time, seed: u64) -> MuxProtocol {
        let known_endpoints = KnownEndpoints::new(endpoints);
        MuxProtocol {
            last_dialed_index: start_after % known_endpoints.len(),
            known_endpoints,
            read_members_at: now + MEMBERS_REFRESH_INTERVAL,
            state: ConnectionState::Down(now),
            leader_hint: None,
            failed_connection_count: 0,
            session: None,
            in_flight: InFlightRequests::with_capacity(options.in_flight_max),
            options,
            disk_full_since: None,
            retry_keys: Vec::new(),
            retry_at: None,
            output: BytesMut::new(),
            input: BytesMut::new(),
            reader: FrameReader::default(),
            silent_since: now,
            endpoint: String::new(),
            endpoint_node: None,
            leader_query: None,
            leader_query_last_dialed_index: start_after,
            next_leader_query_at: now,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// The options that the connection was created with.
    pub fn options(&self) -> &MuxOptions {
        &self.options
    }

    /// The endpoint dialed last.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether another request may be started now: there is a connection, no request waits to be sent again, and
    /// neither the limit of requests in flight nor the session's window is reached.
    pub fn has_room(&self) -> bool {
        matches!(self.state, ConnectionState::Up)
            && self.retry_keys.is_empty()
            && self.in_flight.len() < self.options.in_flight_max
            && self.in_flight.window_len() < self.options.session_window as usize
    }

    /// The number of requests in flight.
    pub fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    /// The time of the first rejection for lack of disk space since a request last finished; `None` without one.
    pub fn disk_full_since(&self) -> Option<Time> {
        self.disk_full_since
    }

    /// Whether there is a connection with a session, so that commands can be sent.
    pub fn is_up(&self) -> bool {
        matches!(self.state, ConnectionState::Up)
    }

    /// Starts a command, whose [`Completion`] will carry `tag`. Panics unless [`MuxProtocol::has_room`].
    pub fn execute(&mut self, now: Time, command: Bytes, tag: u64) {
        assert!(self.has_room(), "a command is started only while the connection has room for another request");
        self.restart_silence_if_idle(now);
        let key = self.in_flight.push_command(tag, command);
        self.send_request(key, false);
    }

    /// Starts a query, whose [`Completion`] will carry `tag`. Panics unless [`MuxProtocol::has_room`].
    pub fn query(&mut self, now: Time, query: Bytes, consistency: Consistency, tag: u64) {
        assert!(self.has_room(), "a query is started only while the connection has room for another request");
        self.restart_silence_if_idle(now);
        let key = self.in_flight.push_query(tag, query, consistency);
        self.send_request(key, false);
    }

    fn restart_silence_if_idle(&mut self, now: Time) {
        if self.in_flight.is_empty() {
            // A node without requests owes no reply: its silence counts from the first request on.
            self.silent_since = now;
        }
    }

    fn send_request(&mut self, key: usize, is_retry: bool) {
        let session = self.session.expect("a connection that sends requests has a session");
        if let Some(request) = self.in_flight.mark_sent(key, session, is_retry) {
            put_request_frame(&mut self.output, key as u64, false, &request);
        }
    }

    /// When [`MuxProtocol::handle_timeout`] is due.
    pub fn deadline(&self) -> Option<Time> {
        let silence_deadline = match self.state {
            ConnectionState::Down(until) => return Some(until),
            ConnectionState::Up if self.in_flight.is_empty() => None,
            ConnectionState::Handshake => Some(self.silent_since + self.welcome_timeout()),
            ConnectionState::OpeningSession | ConnectionState::Up => {
                Some(self.silent_since + self.options.node_timeout)
            }
        };
        let leader_query_deadline = match &self.leader_query {
            Some(leader_query) => leader_query.deadline(),
            None if self.awaits_reply() && self.known_endpoints.len() > 1 => {
                Some((self.silent_since + self.options.leader_query_delay).max(self.next_leader_query_at))
            }
            None => None,
        };
        let members_deadline = self.is_up().then_some(self.read_members_at);
        [silence_deadline, leader_query_deadline, members_deadline, self.retry_at].into_iter().flatten().min()
    }

    /// Whether there is a connection, or one is being dialed. If not, the driver drops the socket.
    pub fn is_connected(&self) -> bool {
        !matches!(self.state, ConnectionState::Down(_))
    }

    /// The endpoint to dial now, if it is time to dial. The connection counts as connected from then on, until it is
    /// [lost](Self::connection_lost).
    pub fn dial(&mut self, now: Time) -> Option<String> {
        if !matches!(self.state, ConnectionState::Down(until) if until <= now) {
            return None;
        }
        let endpoint = match self.leader_hint.take() {
            Some(hint) => hint,
            None => {
                self.last_dialed_index = (self.last_dialed_index + 1) % self.known_endpoints.len();
                self.known_endpoints[self.last_dialed_index].clone()
            }
        };
        (self.endpoint, self.endpoint_node) = (endpoint.clone(), None);
        self.state = ConnectionState::Handshake;
        self.silent_since = now;
        self.output.clear();
        self.input.clear();
        self.reader = FrameReader::default();
        Hello::client().with_machine_kind(self.options.machine_kind).put(&mut self.output);
        Some(endpoint)
    }

    /// Reports that the connection failed or ended; `closed_by_node` if it ended without an error.
    pub fn connection_lost(&mut self, now: Time, closed_by_node: bool) {
        self.disconnect(now, closed_by_node);
    }

    /// The bytes that the driver should send to the node.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Handles bytes received from the node. Finished requests go to `completions`. An error ends the connection.
    pub fn receive(&mut self, now: Time, bytes: &[u8], completions: &mut Vec<Completion>) -> Result<(), WireError> {
        self.silent_since = now;
        self.input.extend_from_slice(bytes);
        let result = self.read_frames(now, completions);
        if result.is_err() {
            self.disconnect(now, false);
        }
        result
    }

    /// Sends retries that are due, reads the list of members, and leaves a silent node. Call it at
    /// [`MuxProtocol::deadline`].
    pub fn handle_timeout(&mut self, now: Time) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.handle_deadlines(now);
        }
    }

    /// Whether a reply of the node is outstanding.
    fn awaits_reply(&self) -> bool {
        match self.state {
            ConnectionState::Up => !self.in_flight.is_empty(),
            ConnectionState::OpeningSession => true,
            ConnectionState::Down(_) | ConnectionState::Handshake => false,
        }
    }

    /// How long a node may take to send its welcome. The time grows with each lost connection, in case all nodes are
    /// slow.
    fn welcome_timeout(&self) -> Duration {
        if self.known_endpoints.len() < 2 {
            return self.options.node_timeout;
        }
        (self.options.leader_query_delay * (WELCOME_TIMEOUT_FACTOR << self.failed_connection_count.min(4)))
            .min(self.options.node_timeout)
    }

    /// The endpoint of another node to dial for a leader query, if the connected node is silent and a query is due.
    /// Whenever [`MuxProtocol::leader_query`] is `None`, the driver drops the connection for leader queries.
    pub fn dial_leader_query(&mut self, now: Time) -> Option<String> {
        if !self.awaits_reply() || now < self.silent_since + self.options.leader_query_delay {
            self.leader_query = None;
            return None;
        }
        if let Some(leader_query) = &mut self.leader_query {
            leader_query.handle_timeout(now);
            if leader_query.is_overdue(now) {
                self.leader_query_lost(now);
            }
            return None;
        }
        if self.next_leader_query_at > now || self.known_endpoints.len() < 2 {
            return None;
        }
        self.leader_query_last_dialed_index = (self.leader_query_last_dialed_index + 1) % self.known_endpoints.len();
        if self.known_endpoints[self.leader_query_last_dialed_index] == self.endpoint {
            self.leader_query_last_dialed_index =
                (self.leader_query_last_dialed_index + 1) % self.known_endpoints.len();
        }
        let endpoint = self.known_endpoints[self.leader_query_last_dialed_index].clone();
        self.leader_query = Some(LeaderQueryProtocol::new(
            endpoint.clone(),
            now + self.options.leader_query_delay * WELCOME_TIMEOUT_FACTOR,
        ));
        Some(endpoint)
    }

    /// The connection for a leader query, if there is one.
    pub fn leader_query(&mut self) -> Option<&mut LeaderQueryProtocol> {
        self.leader_query.as_mut()
    }

    /// Reports that the connection for a leader query failed or ended.
    pub fn leader_query_lost(&mut self, now: Time) {
        self.leader_query = None;
        self.next_leader_query_at = now + LEADER_QUERY_PAUSE;
    }

    /// Handles bytes received over the connection for a leader query. If another node leads by now, the client dials
    /// that leader next, and its id is returned.
    pub fn leader_response_received(&mut self, now: Time, bytes: &[u8]) -> Result<Option<NodeId>, WireError> {
        let Some(leader_query) = &mut self.leader_query else { return Ok(None) };
        match leader_query.receive(bytes) {
            Ok(LeaderQueryResult::Pending) => {}
            Ok(LeaderQueryResult::Leader(leader, _)) if Some(leader) == self.endpoint_node => {
                leader_query.schedule_retry(now)
            }
            Ok(LeaderQueryResult::Leader(leader, address)) => {
                self.redirect_to(now, address);
                return Ok(Some(leader));
            }
            Ok(LeaderQueryResult::NoLeaderNamed) => self.leader_query_lost(now),
            Err(error) => {
                self.leader_query_lost(now);
                return Err(error);
            }
        }
        Ok(None)
    }

    /// Ends the connection, if there is one, and schedules another attempt: without a pause if `at_once` is set and
    /// only a few attempts have failed.
    fn disconnect(&mut self, now: Time, at_once: bool) {
        self.leader_query = None;
        self.failed_connection_count = self.failed_connection_count.saturating_add(1);
        let pause_max_ms = 2 << self.failed_connection_count.min(6);
        let pause_ms = if at_once && self.failed_connection_count < 4 {
            0
        } else {
            self.rng.random_range(pause_max_ms / 2..=pause_max_ms)
        };
        self.state = ConnectionState::Down(now + Duration::from_millis(pause_ms));
        self.in_flight.record_lost_connection();
        self.retry_keys.clear();
        self.retry_at = None;
        self.output.clear();
    }

    fn handle_deadlines(&mut self, now: Time) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            let due_keys = std::mem::take(&mut self.retry_keys);
            self.in_flight.in_order(due_keys).into_iter().for_each(|key| self.send_request(key, true));
        }
        if self.is_up() && self.read_members_at <= now {
            self.read_members_at = now + MEMBERS_REFRESH_INTERVAL;
            put_request_frame(&mut self.output, STATUS_REQUEST_ID, false, &Request::Status);
        }
        let is_silent = match self.state {
            ConnectionState::Down(_) => false,
            ConnectionState::Handshake => self.silent_since + self.welcome_timeout() <= now,
            ConnectionState::OpeningSession | ConnectionState::Up => {
                self.awaits_reply() && self.silent_since + self.options.node_timeout <= now
            }
        };
        if is_silent {
            self.disconnect(now, true);
        }
    }

    fn read_frames(&mut self, now: Time, completions: &mut Vec<Completion>) -> Result<(), WireError> {
        while self.is_connected()
            && let Some(frame) = self.reader.next(&mut self.input)?
        {
            if matches!(self.state, ConnectionState::Handshake) {
                self.endpoint_node = Some(Welcome::read(frame)?.node);
                self.resend_requests();
                continue;
            }
            if frame.kind != FrameKind::Reply {
                return Err(WireError::UnexpectedFrameKind(frame.kind as u8));
            }
            match read_reply_frame(frame)? {
                (OPEN_SESSION_REQUEST_ID, reply) => self.handle_session_reply(now, reply),
                (STATUS_REQUEST_ID, Reply::Status(status)) => self.known_endpoints.learn_members(&status),
                (id, reply) => self.handle_reply(now, id, reply, completions),
            }
        }
        Ok(())
    }

    /// Sends the requests in flight again after a welcome; opens a session first if there is none.
    fn resend_requests(&mut self) {
        if self.session.is_some() {
            if self.failed_connection_count > 0 {
                // After a failure, the members may have changed.
                self.read_members_at = self.silent_since;
            }
            self.state = ConnectionState::Up;
            self.in_flight.all_in_order().into_iter().for_each(|key| self.send_request(key, true));
        } else {
            self.state = ConnectionState::OpeningSession;
            let request =
                Request::Propose { op: Op::Open { window: self.options.session_window, ordered: true }.encode() };
            put_request_frame(&mut self.output, OPEN_SESSION_REQUEST_ID, false, &request);
        }
    }

    fn handle_session_reply(&mut self, now: Time, reply: Reply) {
        match reply {
            Reply::Done { outcome: Outcome::Opened { session }, .. } => {
                self.session = Some(session);
                self.in_flight.restart_numbering();
                self.failed_connection_count = 0;
                self.resend_requests();
            }
            Reply::Refused(Refusal::NotLeader { address: Some(address), .. }) => self.redirect_to(now, address),
            Reply::Refused(Refusal::NotMember { members, .. }) => self.leave_nonmember(now, &members),
            _ => self.disconnect(now, false),
        }
    }

    fn redirect_to(&mut self, now: Time, address: String) {
        self.known_endpoints.learn_address(&address);
        self.leader_hint = Some(address);
        self.disconnect(now, true);
    }

    /// Leaves a node that is not a member, and learns the members that it named.
    fn leave_nonmember(&mut self, now: Time, members: &[String]) {
        members.iter().for_each(|address| self.known_endpoints.learn_address(address));
        self.disconnect(now, true);
    }

    fn handle_reply(&mut self, now: Time, id: u64, reply: Reply, completions: &mut Vec<Completion>) {
        let key = id as usize;
        if !self.in_flight.contains(key) {
            return;
        }
        let may_be_in_log = self.in_flight.record_reply(key, reply == Reply::Unknown);
        let result = match reply {
            Reply::Done { position, outcome: Outcome::Executed { answer, .. } } => {
                RequestResult::Executed { position, answer }
            }
            Reply::Answer { applied, answer } => RequestResult::Answered { applied, answer },
            Reply::Done { position, outcome: Outcome::AnswerTooLong } => RequestResult::AnswerTooLong { position },
            Reply::Done { outcome: Outcome::SessionExpired, .. } => {
                return self.handle_expired_session(now, completions);
            }
            // A node with a higher size limit, or a later leader, may have accepted an earlier attempt.
            Reply::Refused(refusal) if refusal.rejects_command() => {
                if may_be_in_log {
                    RequestResult::Unknown
                } else {
                    RequestResult::Refused(refusal)
                }
            }
            // An earlier command must be sent again first.
            Reply::Done { outcome: Outcome::OutOfOrder, .. } => return self.retry_later(now, key, 2),
            Reply::Refused(refusal @ (Refusal::Busy | Refusal::NoSpace)) => {
                // A busy node recovers within moments, a full disk within hours.
                let pause_ms = if refusal == Refusal::Busy { 2 } else { 100 };
                if refusal == Refusal::NoSpace {
                    self.disk_full_since.get_or_insert(now);
                }
                return self.retry_later(now, key, pause_ms);
            }
            Reply::Refused(Refusal::NotLeader { address: Some(address), .. }) => {
                return self.redirect_to(now, address);
            }
            Reply::Refused(Refusal::NotMember { members, .. }) => return self.leave_nonmember(now, &members),
            // Another node may accept the request.
            Reply::Refused(_) | Reply::Unknown => return self.disconnect(now, false),
            Reply::Status(_)
            | Reply::Snapshot { .. }
            | Reply::SnapshotChunk { .. }
            | Reply::Changed { .. }
            | Reply::Transferred { .. }
            | Reply::LogLevel(_)
            | Reply::Done { .. } => RequestResult::Unknown,
        };
        self.failed_connection_count = 0;
        self.disk_full_since = None;
        self.finish_request(key, result, completions);
    }

    fn finish_request(&mut self, key: usize, result: RequestResult, completions: &mut Vec<Completion>) {
        let (tag, retries) = self.in_flight.finish(key);
        completions.push(Completion { tag, retries, result });
    }

    fn retry_later(&mut self, now: Time, key: usize, pause_ms: u64) {
        self.retry_keys.push(key);
        self.retry_at.get_or_insert(now + Duration::from_millis(pause_ms));
    }

    /// Finishes the commands of an expired session, whose outcomes are unknown, and connects again for a new session.
    fn handle_expired_session(&mut self, now: Time, completions: &mut Vec<Completion>) {
        self.in_flight
            .command_keys()
            .into_iter()
            .for_each(|key| self.finish_request(key, RequestResult::Unknown, completions));
        self.session = None;
        self.disconnect(now, true);
    }
}
