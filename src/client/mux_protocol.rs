//! The protocol of a multiplexed connection, without its socket: requests, replies, and when the client leaves a node
//! for which other.
//!
//! Nothing here reads a clock or touches a socket. [`Mux`](super::Mux) drives it over TCP, and the simulator over its
//! links. The driver dials the endpoint that [`MuxProtocol::dial`] returns, passes received bytes to
//! [`MuxProtocol::receive`], and reports the end of the connection with [`MuxProtocol::lost`]. Whenever
//! [`MuxProtocol::is_connected`] is false, the driver drops the connection.

use super::in_flight::InFlight;
use super::known::{KnownEndpoints, REFRESH_INTERVAL};
use super::scout_protocol::{LeaderAnswer, ScoutProtocol};
use crate::api::{Consistency, Op, Outcome, Refusal, Reply, Request};
use crate::secure::Keys;
use crate::types::{Index, NodeId, Position, SessionId, Time};
use crate::wire::WireError;
use crate::wire::client::{NEWS, put_request_frame, read_reply_frame};
use crate::wire::frame::{FrameKind, FrameReader};
use crate::wire::hello::{Hello, Welcome};
use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

/// The settings of a connection.
#[derive(Clone, Debug)]
pub struct MuxOptions {
    /// If set, traffic is encrypted with these keys, and nodes must prove their identity.
    pub keys: Option<Keys>,
    /// The maximum number of requests in flight.
    pub inflight: usize,
    /// The session's window: the maximum distance between the oldest and the newest write, at most 1,024.
    pub window: u32,
    /// The client leaves a node that has been silent for this long while requests are in flight.
    pub patience: Duration,
    /// After this long of silence the client queries another node for the leader. Requests stay with the silent node
    /// until another leader is named.
    pub doubt: Duration,
    /// The kind of the state machine whose commands are sent: nodes with another kind reject this client. Empty turns
    /// the check off.
    pub machine: &'static str,
}

/// The client leaves a node that accepts a connection and sends no welcome within so many times `doubt`.
const GREETING: u32 = 3;
/// The pause before another leader query after a failed one.
const SCOUT_PAUSE: Duration = Duration::from_millis(20);

impl MuxOptions {
    /// The defaults, for that many requests in flight.
    pub fn new(inflight: usize) -> MuxOptions {
        let window = (4 * inflight).clamp(64, 1024) as u32;
        MuxOptions {
            keys: None,
            machine: "",
            inflight: inflight.min(1024),
            window,
            patience: Duration::from_secs(2),
            doubt: Duration::from_millis(100),
        }
    }
}

/// A finished request.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The caller's number for the request.
    pub tag: u64,
    /// How often the request was sent again.
    pub retries: u32,
    /// The outcome.
    pub result: Result,
}

/// The outcome of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Result {
    /// A command took effect, exactly once.
    Executed {
        /// Its position in the log.
        position: Position,
        /// The machine's first answer.
        answer: Bytes,
    },
    /// A query was answered.
    Answered {
        /// The last applied index.
        applied: Index,
        /// The machine's answer.
        answer: Bytes,
    },
    /// A command took effect, exactly once, or a query was answered; the answer is too long to be sent.
    AnswerTooLong {
        /// The position of the command's entry, or of the last entry applied before a query.
        position: Position,
    },
    /// Not applied, and never will be.
    Refused(Refusal),
    /// It may have taken effect, or may yet: the session expired, or it was rejected for good after an attempt without
    /// a reply.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
enum ConnectionState {
    /// No connection until that time.
    Down(Time),
    /// Hello was sent; nothing else may be sent yet.
    Greeting,
    /// A session was requested.
    Opening,
    /// Ready for requests.
    Up,
}

/// The request id for opening a session: no slab has that many keys.
const OPENING: u64 = u64::MAX;
/// The request id for the status: the same as for news that a node sends on its own.
const LOOKING: u64 = NEWS;

/// One connection with many requests in flight, without its socket.
#[derive(Debug)]
pub struct MuxProtocol {
    known: KnownEndpoints,
    options: MuxOptions,
    state: ConnectionState,
    /// The index in `known` of the endpoint dialed last.
    last_dialed: usize,
    hint: Option<String>,
    /// Attempts since the last successful reply.
    failures: u32,
    session: Option<SessionId>,
    in_flight: InFlight,
    /// Since when every write has been rejected for lack of disk space.
    full_since: Option<Time>,
    /// Requests to send again, and when.
    later: Vec<usize>,
    later_at: Option<Time>,
    /// When to request the members next.
    look_at: Time,
    output: BytesMut,
    input: BytesMut,
    reader: FrameReader,
    /// When the last bytes of the node arrived, or a request began to wait.
    heard: Time,
    /// The endpoint of the connection, and its node once it is known.
    endpoint: String,
    node: Option<NodeId>,
    scout: Option<ScoutProtocol>,
    /// The index in `known` of the endpoint last dialed for a leader query, and when the next may be.
    scout_last_dialed: usize,
    scout_at: Time,
    rng: SmallRng,
}

impl MuxProtocol {
    /// Creates a connection that looks for the leader among those endpoints, starting after the one with index `begin`.
    pub fn new(endpoints: Vec<String>, begin: usize, options: MuxOptions, now: Time, seed: u64) -> MuxProtocol {
        let known = KnownEndpoints::new(endpoints);
        MuxProtocol {
            last_dialed: begin % known.len(),
            known,
            look_at: now + REFRESH_INTERVAL,
            state: ConnectionState::Down(now),
            hint: None,
            failures: 0,
            session: None,
            in_flight: InFlight::with_capacity(options.inflight),
            options,
            full_since: None,
            later: Vec::new(),
            later_at: None,
            output: BytesMut::new(),
            input: BytesMut::new(),
            reader: FrameReader::default(),
            heard: now,
            endpoint: String::new(),
            node: None,
            scout: None,
            scout_last_dialed: begin,
            scout_at: now,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// Its settings.
    pub fn options(&self) -> &MuxOptions {
        &self.options
    }

    /// The endpoint dialed last.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether another request may be started now.
    pub fn has_room(&self) -> bool {
        matches!(self.state, ConnectionState::Up)
            && self.later.is_empty()
            && self.in_flight.len() < self.options.inflight
            && self.in_flight.window() < self.options.window as usize
    }

    /// The number of requests in flight.
    pub fn under_way(&self) -> usize {
        self.in_flight.len()
    }

    /// Since when every write has been rejected for lack of disk space.
    pub fn full_since(&self) -> Option<Time> {
        self.full_since
    }

    /// Whether commands can be sent.
    pub fn is_up(&self) -> bool {
        matches!(self.state, ConnectionState::Up)
    }

    /// Starts a command. Panics if there is no room.
    pub fn execute(&mut self, now: Time, command: Bytes, tag: u64) {
        assert!(self.has_room(), "the caller checks has_room before each request");
        self.begins(now);
        let key = self.in_flight.push_command(tag, command);
        self.send(key, false);
    }

    /// Starts a query. Panics if there is no room.
    pub fn query(&mut self, now: Time, query: Bytes, consistency: Consistency, tag: u64) {
        assert!(self.has_room(), "the caller checks has_room before each request");
        self.begins(now);
        let key = self.in_flight.push_query(tag, query, consistency);
        self.send(key, false);
    }

    fn begins(&mut self, now: Time) {
        if self.in_flight.is_empty() {
            // Silence is counted from the first request that waits.
            self.heard = now;
        }
    }

    fn send(&mut self, key: usize, again: bool) {
        let session = self.session.expect("commands are sent in a session");
        if let Some(request) = self.in_flight.send(key, session, again) {
            put_request_frame(&mut self.output, key as u64, false, &request);
        }
    }

    /// When [`MuxProtocol::wake`] is due.
    pub fn deadline(&self) -> Option<Time> {
        let silence = match self.state {
            ConnectionState::Down(until) => return Some(until),
            ConnectionState::Up if self.in_flight.is_empty() => None,
            ConnectionState::Greeting => Some(self.heard + self.greeting()),
            ConnectionState::Opening | ConnectionState::Up => Some(self.heard + self.options.patience),
        };
        let doubt = match &self.scout {
            Some(scout) => scout.deadline(),
            None if self.waits() && self.known.len() > 1 => Some((self.heard + self.options.doubt).max(self.scout_at)),
            None => None,
        };
        let look = self.is_up().then_some(self.look_at);
        [silence, doubt, look, self.later_at].into_iter().flatten().min()
    }

    /// Whether there is a connection or an attempt at one. If not, the driver drops the socket.
    pub fn is_connected(&self) -> bool {
        !matches!(self.state, ConnectionState::Down(_))
    }

    /// The endpoint to dial now, if one is due. It counts as connected from then on, until it is [lost](Self::lost).
    pub fn dial(&mut self, now: Time) -> Option<String> {
        if !matches!(self.state, ConnectionState::Down(until) if until <= now) {
            return None;
        }
        let endpoint = match self.hint.take() {
            Some(hint) => hint,
            None => {
                self.last_dialed = (self.last_dialed + 1) % self.known.len();
                self.known[self.last_dialed].clone()
            }
        };
        (self.endpoint, self.node) = (endpoint.clone(), None);
        self.state = ConnectionState::Greeting;
        self.heard = now;
        self.output.clear();
        self.input.clear();
        self.reader = FrameReader::default();
        Hello::client().of_machine(self.options.machine).put(&mut self.output);
        Some(endpoint)
    }

    /// Reports that the connection failed or ended; `in_order` if the node closed it.
    pub fn lost(&mut self, now: Time, in_order: bool) {
        self.fall(now, in_order);
    }

    /// The bytes to send to the node.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Handles bytes of the node. Finished requests go to `done`. An error ends the connection.
    pub fn receive(
        &mut self,
        now: Time,
        bytes: &[u8],
        done: &mut Vec<Completion>,
    ) -> std::result::Result<(), WireError> {
        self.heard = now;
        self.input.extend_from_slice(bytes);
        let taken = self.take_in(now, done);
        if taken.is_err() {
            self.fall(now, false);
        }
        taken
    }

    /// Does what is due by now.
    pub fn wake(&mut self, now: Time) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.overdue(now);
        }
    }

    /// Whether a reply of the node is outstanding.
    fn waits(&self) -> bool {
        match self.state {
            ConnectionState::Up => !self.in_flight.is_empty(),
            ConnectionState::Opening => true,
            ConnectionState::Down(_) | ConnectionState::Greeting => false,
        }
    }

    /// The time that a node has for its welcome: longer after each failure, in case all nodes are slow.
    fn greeting(&self) -> Duration {
        if self.known.len() < 2 {
            return self.options.patience;
        }
        (self.options.doubt * (GREETING << self.failures.min(4))).min(self.options.patience)
    }

    /// While the node is silent, returns the endpoint of another one to query for the leader, if one is due. Whenever
    /// [`MuxProtocol::scout`] is `None`, the driver drops that connection.
    pub fn second_opinion(&mut self, now: Time) -> Option<String> {
        if !self.waits() || now < self.heard + self.options.doubt {
            self.scout = None;
            return None;
        }
        if let Some(scout) = &mut self.scout {
            scout.wake(now);
            if scout.is_overdue(now) {
                self.scout_lost(now);
            }
            return None;
        }
        if self.scout_at > now || self.known.len() < 2 {
            return None;
        }
        self.scout_last_dialed = (self.scout_last_dialed + 1) % self.known.len();
        if self.known[self.scout_last_dialed] == self.endpoint {
            self.scout_last_dialed = (self.scout_last_dialed + 1) % self.known.len();
        }
        let endpoint = self.known[self.scout_last_dialed].clone();
        self.scout = Some(ScoutProtocol::new(endpoint.clone(), now + self.options.doubt * GREETING));
        Some(endpoint)
    }

    /// The connection for a leader query, if there is one.
    pub fn scout(&mut self) -> Option<&mut ScoutProtocol> {
        self.scout.as_mut()
    }

    /// Reports that this connection failed or ended.
    pub fn scout_lost(&mut self, now: Time) {
        self.scout = None;
        self.scout_at = now + SCOUT_PAUSE;
    }

    /// Handles bytes of this connection. If another node leads by now, the client leaves for it; its id is returned.
    pub fn scout_received(&mut self, now: Time, bytes: &[u8]) -> std::result::Result<Option<NodeId>, WireError> {
        let Some(scout) = &mut self.scout else { return Ok(None) };
        match scout.receive(bytes) {
            Ok(LeaderAnswer::Pending) => {}
            Ok(LeaderAnswer::Leader(leader, _)) if Some(leader) == self.node => scout.ask_again(now),
            Ok(LeaderAnswer::Leader(leader, address)) => {
                self.go_to(now, address);
                return Ok(Some(leader));
            }
            Ok(LeaderAnswer::Useless) => self.scout_lost(now),
            Err(error) => {
                self.scout_lost(now);
                return Err(error);
            }
        }
        Ok(None)
    }

    /// Drops the connection, if there is one, and schedules another attempt.
    fn fall(&mut self, now: Time, at_once: bool) {
        self.scout = None;
        self.failures = self.failures.saturating_add(1);
        let longest = 2 << self.failures.min(6);
        let pause = if at_once && self.failures < 4 { 0 } else { self.rng.random_range(longest / 2..=longest) };
        self.state = ConnectionState::Down(now + Duration::from_millis(pause));
        self.in_flight.lost();
        self.later.clear();
        self.later_at = None;
        self.output.clear();
    }

    fn overdue(&mut self, now: Time) {
        if self.later_at.is_some_and(|at| at <= now) {
            self.later_at = None;
            let later = std::mem::take(&mut self.later);
            self.in_flight.in_order(later).into_iter().for_each(|key| self.send(key, true));
        }
        if self.is_up() && self.look_at <= now {
            self.look_at = now + REFRESH_INTERVAL;
            put_request_frame(&mut self.output, LOOKING, false, &Request::Status);
        }
        let silent = match self.state {
            ConnectionState::Down(_) => false,
            ConnectionState::Greeting => self.heard + self.greeting() <= now,
            ConnectionState::Opening | ConnectionState::Up => self.waits() && self.heard + self.options.patience <= now,
        };
        if silent {
            self.fall(now, true);
        }
    }

    fn take_in(&mut self, now: Time, done: &mut Vec<Completion>) -> std::result::Result<(), WireError> {
        while self.is_connected()
            && let Some(frame) = self.reader.next(&mut self.input)?
        {
            if matches!(self.state, ConnectionState::Greeting) {
                self.node = Some(Welcome::read(frame)?.node);
                self.welcome();
                continue;
            }
            if frame.kind != FrameKind::Reply {
                return Err(WireError::Kind(frame.kind as u8));
            }
            match read_reply_frame(frame)? {
                (OPENING, reply) => self.opened(now, reply),
                (LOOKING, Reply::Status(status)) => self.known.learn_members(&status),
                (id, reply) => self.replied(now, id, reply, done),
            }
        }
        Ok(())
    }

    /// Welcomed: continues where the last connection ended.
    fn welcome(&mut self) {
        if self.session.is_some() {
            if self.failures > 0 {
                // There was a failure: the members may have changed.
                self.look_at = self.heard;
            }
            self.state = ConnectionState::Up;
            self.in_flight.all().into_iter().for_each(|key| self.send(key, true));
        } else {
            self.state = ConnectionState::Opening;
            let request = Request::Propose { op: Op::Open { window: self.options.window, ordered: true }.encode() };
            put_request_frame(&mut self.output, OPENING, false, &request);
        }
    }

    fn opened(&mut self, now: Time, reply: Reply) {
        match reply {
            Reply::Done { outcome: Outcome::Opened { session }, .. } => {
                self.session = Some(session);
                self.in_flight.renumber();
                self.failures = 0;
                self.welcome();
            }
            Reply::Refused(Refusal::NotLeader { address: Some(address), .. }) => self.go_to(now, address),
            Reply::Refused(Refusal::NotMember { members, .. }) => self.leave(now, &members),
            _ => self.fall(now, false),
        }
    }

    fn go_to(&mut self, now: Time, address: String) {
        self.known.learn(&address);
        self.hint = Some(address);
        self.fall(now, true);
    }

    /// The node is not a member: leaves it for another member, possibly a new one.
    fn leave(&mut self, now: Time, members: &[String]) {
        members.iter().for_each(|address| self.known.learn(address));
        self.fall(now, true);
    }

    fn replied(&mut self, now: Time, id: u64, reply: Reply, done: &mut Vec<Completion>) {
        let key = id as usize;
        if !self.in_flight.contains(key) {
            return;
        }
        let doubt = self.in_flight.answered(key, reply == Reply::Unknown);
        let result = match reply {
            Reply::Done { position, outcome: Outcome::Executed { answer, .. } } => {
                Result::Executed { position, answer }
            }
            Reply::Answer { applied, answer } => Result::Answered { applied, answer },
            Reply::Done { position, outcome: Outcome::AnswerTooLong } => Result::AnswerTooLong { position },
            Reply::Done { outcome: Outcome::SessionExpired, .. } => return self.lapsed(now, done),
            // A node with a higher limit may have accepted an earlier attempt.
            Reply::Refused(Refusal::TooLarge { .. } | Refusal::Malformed) if doubt => Result::Unknown,
            Reply::Refused(refusal @ (Refusal::TooLarge { .. } | Refusal::Malformed)) => Result::Refused(refusal),
            // An earlier command must be sent again first.
            Reply::Done { outcome: Outcome::OutOfOrder, .. } => return self.send_later(now, key, 2),
            Reply::Refused(refusal @ (Refusal::Busy | Refusal::NoSpace)) => {
                // A busy node recovers within moments, a full disk within hours.
                let pause = if refusal == Refusal::Busy { 2 } else { 100 };
                if refusal == Refusal::NoSpace {
                    self.full_since.get_or_insert(now);
                }
                return self.send_later(now, key, pause);
            }
            Reply::Refused(Refusal::NotLeader { address: Some(address), .. }) => {
                return self.go_to(now, address);
            }
            Reply::Refused(Refusal::NotMember { members, .. }) => return self.leave(now, &members),
            // This node cannot help; another one may.
            Reply::Refused(_) | Reply::Unknown => return self.fall(now, false),
            Reply::Status(_)
            | Reply::Snapshot { .. }
            | Reply::SnapshotChunk { .. }
            | Reply::Changed { .. }
            | Reply::Transferred { .. }
            | Reply::LogLevel(_)
            | Reply::Done { .. } => Result::Unknown,
        };
        self.failures = 0;
        self.full_since = None;
        self.finish(key, result, done);
    }

    fn finish(&mut self, key: usize, result: Result, done: &mut Vec<Completion>) {
        let (tag, retries) = self.in_flight.finish(key);
        done.push(Completion { tag, retries, result });
    }

    fn send_later(&mut self, now: Time, key: usize, pause_ms: u64) {
        self.later.push(key);
        self.later_at.get_or_insert(now + Duration::from_millis(pause_ms));
    }

    /// The session has expired, and the outcome of its commands is unknown.
    fn lapsed(&mut self, now: Time, done: &mut Vec<Completion>) {
        self.in_flight.commands().into_iter().for_each(|key| self.finish(key, Result::Unknown, done));
        self.session = None;
        self.fall(now, true);
    }
}
