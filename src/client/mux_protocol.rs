//! The protocol of a multiplexed connection, without its socket: what is sent, what an answer means, when a node is
//! left, and for which.
//!
//! Nothing here reads a clock or touches a socket. [`Mux`](super::Mux) drives it over TCP, and the simulator over its
//! links. A connection is dialed where [`MuxProtocol::dial`] says; what it brings goes to [`MuxProtocol::receive`],
//! its end to [`MuxProtocol::lost`]; and whenever [`MuxProtocol::is_connected`] is false, the connection is dropped.

use super::in_flight::InFlight;
use super::known::{KnownEndpoints, LOOK_EVERY};
use super::scout_protocol::{ScoutProtocol, Word};
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

/// How a connection behaves.
#[derive(Clone, Debug)]
pub struct MuxOptions {
    /// With these, what is said is encrypted, and nodes have to prove who they are.
    pub keys: Option<Keys>,
    /// How many things may be under way at once.
    pub inflight: usize,
    /// The session's window: how far ahead of the oldest write the newest may be, at most 1,024.
    pub window: u32,
    /// A node that has not said anything for this long, while something is under way, is left.
    pub patience: Duration,
    /// After this long of silence another node is asked who leads. What is waited for stays with the
    /// silent one until somebody else does.
    pub doubt: Duration,
    /// The state machine whose commands are sent: nodes that run another refuse this client. Empty if that is not to be
    /// checked.
    pub machine: &'static str,
}

/// A node that takes a connection and does not say hello is left after so many times the doubt.
const GREETING: u32 = 3;
/// A second opinion that could not be had is asked for again after this long.
const SCOUT_PAUSE: Duration = Duration::from_millis(20);

impl MuxOptions {
    /// With that many things under way.
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

/// What became of one thing that was asked.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The caller's own number for it.
    pub tag: u64,
    /// How often it was asked again.
    pub retries: u32,
    /// What became of it.
    pub result: Result,
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Result {
    /// A command took effect, once.
    Executed {
        /// Where in the log.
        position: Position,
        /// The machine's first answer.
        answer: Bytes,
    },
    /// A query was answered.
    Answered {
        /// As of here.
        applied: Index,
        /// The machine's answer.
        answer: Bytes,
    },
    /// A command took effect, once, or a query was answered; the answer is too long to be told.
    AnswerTooLong {
        /// The position of the command's entry; of the last entry applied, for a query.
        position: Position,
    },
    /// Not applied, and never will be.
    Refused(Refusal),
    /// It may have taken effect, or may yet: the session lapsed, or it was refused for good after an attempt that
    /// nobody answered.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
enum ConnectionState {
    /// No connection until then.
    Down(Time),
    /// Hello was sent; nothing else is allowed yet.
    Greeting,
    /// A session was asked for.
    Opening,
    /// All is well.
    Up,
}

/// The number under which a session is asked for: no slab has that many keys.
const OPENING: u64 = u64::MAX;
/// The number under which the members are asked for: as if a node had said it by itself.
const LOOKING: u64 = NEWS;

/// One connection with many things under way on it, without its socket.
#[derive(Debug)]
pub struct MuxProtocol {
    known: KnownEndpoints,
    options: MuxOptions,
    state: ConnectionState,
    /// The endpoint dialed last, of `known`.
    turn: usize,
    hint: Option<String>,
    /// Attempts since the last good answer.
    failures: u32,
    session: Option<SessionId>,
    in_flight: InFlight,
    /// Since when it is turned away for want of room, and nothing else.
    full_since: Option<Time>,
    /// Turned away as busy; asked again then.
    later: Vec<usize>,
    later_at: Option<Time>,
    /// When to ask who the members are.
    look_at: Time,
    output: BytesMut,
    input: BytesMut,
    reader: FrameReader,
    /// When the node was last heard, or a request began to wait.
    heard: Time,
    /// Where the connection leads to, and to which node, once it is known.
    endpoint: String,
    node: Option<NodeId>,
    scout: Option<ScoutProtocol>,
    /// The endpoint last dialed for a second opinion, of `known`; and when the next may be.
    scout_turn: usize,
    scout_at: Time,
    rng: SmallRng,
}

impl MuxProtocol {
    /// A connection that will look for the leader among those endpoints, beginning with the one of that number.
    pub fn new(endpoints: Vec<String>, begin: usize, options: MuxOptions, now: Time, seed: u64) -> MuxProtocol {
        let known = KnownEndpoints::new(endpoints);
        MuxProtocol {
            turn: begin % known.len(),
            known,
            look_at: now + LOOK_EVERY,
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
            scout_turn: begin,
            scout_at: now,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// How it behaves.
    pub fn options(&self) -> &MuxOptions {
        &self.options
    }

    /// Where it leads to.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether one more thing may be asked now.
    pub fn has_room(&self) -> bool {
        matches!(self.state, ConnectionState::Up)
            && self.later.is_empty()
            && self.in_flight.len() < self.options.inflight
            && self.in_flight.window() < self.options.window as usize
    }

    /// How many things are under way.
    pub fn under_way(&self) -> usize {
        self.in_flight.len()
    }

    /// Since when all that it asks is turned away for want of room.
    pub fn full_since(&self) -> Option<Time> {
        self.full_since
    }

    /// Whether commands can be taken.
    pub fn is_up(&self) -> bool {
        matches!(self.state, ConnectionState::Up)
    }

    /// Asks for a command to be executed. There must be room.
    pub fn execute(&mut self, now: Time, command: Bytes, tag: u64) {
        assert!(self.has_room(), "who asks looks first whether there is room");
        self.begins(now);
        let key = self.in_flight.push_command(tag, command);
        self.send(key, false);
    }

    /// Asks the machine something. There must be room.
    pub fn query(&mut self, now: Time, query: Bytes, consistency: Consistency, tag: u64) {
        assert!(self.has_room(), "who asks looks first whether there is room");
        self.begins(now);
        let key = self.in_flight.push_query(tag, query, consistency);
        self.send(key, false);
    }

    fn begins(&mut self, now: Time) {
        if self.in_flight.is_empty() {
            // Silence counts from the first thing that is waited for.
            self.heard = now;
        }
    }

    fn send(&mut self, key: usize, again: bool) {
        let session = self.session.expect("commands are sent in a session");
        if let Some(request) = self.in_flight.send(key, session, again) {
            put_request_frame(&mut self.output, key as u64, false, &request);
        }
    }

    /// When it next has something to do even if nothing comes.
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

    /// Whether there is a connection, or one is being made. When there is none any more, the socket is dropped.
    pub fn is_connected(&self) -> bool {
        !matches!(self.state, ConnectionState::Down(_))
    }

    /// The endpoint to dial now, if one is due: from then on there is a connection, until it is [lost](Self::lost).
    pub fn dial(&mut self, now: Time) -> Option<String> {
        if !matches!(self.state, ConnectionState::Down(until) if until <= now) {
            return None;
        }
        let endpoint = match self.hint.take() {
            Some(hint) => hint,
            None => {
                self.turn = (self.turn + 1) % self.known.len();
                self.known[self.turn].clone()
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

    /// The connection could not be made, or has ended: in order, if the node closed it.
    pub fn lost(&mut self, now: Time, in_order: bool) {
        self.fall(now, in_order);
    }

    /// The bytes to be sent to the node.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Bytes of the node have come. What is finished goes to `done`. After an error the connection is lost.
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

    /// Whether an answer of the node is waited for.
    fn waits(&self) -> bool {
        match self.state {
            ConnectionState::Up => !self.in_flight.is_empty(),
            ConnectionState::Opening => true,
            ConnectionState::Down(_) | ConnectionState::Greeting => false,
        }
    }

    /// How long a node may take to say hello: longer from time to time, in case all of them are slow.
    fn greeting(&self) -> Duration {
        if self.known.len() < 2 {
            return self.options.patience;
        }
        (self.options.doubt * (GREETING << self.failures.min(4))).min(self.options.patience)
    }

    /// As long as the node is silent, another one is asked who leads: the endpoint to dial for that, if one is due.
    /// Whenever [`MuxProtocol::scout`] is none, that connection is dropped.
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
        self.scout_turn = (self.scout_turn + 1) % self.known.len();
        if self.known[self.scout_turn] == self.endpoint {
            self.scout_turn = (self.scout_turn + 1) % self.known.len();
        }
        let endpoint = self.known[self.scout_turn].clone();
        self.scout = Some(ScoutProtocol::new(endpoint.clone(), now + self.options.doubt * GREETING));
        Some(endpoint)
    }

    /// The connection that asks for a second opinion, if there is one.
    pub fn scout(&mut self) -> Option<&mut ScoutProtocol> {
        self.scout.as_mut()
    }

    /// That connection could not be made, or has ended.
    pub fn scout_lost(&mut self, now: Time) {
        self.scout = None;
        self.scout_at = now + SCOUT_PAUSE;
    }

    /// Bytes have come on that connection. If another node leads by now, that one is dialed: it is returned.
    pub fn scout_received(&mut self, now: Time, bytes: &[u8]) -> std::result::Result<Option<NodeId>, WireError> {
        let Some(scout) = &mut self.scout else { return Ok(None) };
        match scout.receive(bytes) {
            Ok(Word::Nothing) => {}
            Ok(Word::Leads(leader, _)) if Some(leader) == self.node => scout.ask_again(now),
            Ok(Word::Leads(leader, address)) => {
                self.go_to(now, address);
                return Ok(Some(leader));
            }
            Ok(Word::Gone) => self.scout_lost(now),
            Err(error) => {
                self.scout_lost(now);
                return Err(error);
            }
        }
        Ok(None)
    }

    /// Leaves the connection, if there is one, and dials another a little later.
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
            self.look_at = now + LOOK_EVERY;
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

    /// The node takes us: goes on where the last connection ended.
    fn welcome(&mut self) {
        if self.session.is_some() {
            if self.failures > 0 {
                // Something has happened: perhaps to the members.
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

    /// The node is no member: another is, perhaps one that we have not heard of.
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
            // A node that takes larger ones may have taken it on.
            Reply::Refused(Refusal::TooLarge { .. } | Refusal::Malformed) if doubt => Result::Unknown,
            Reply::Refused(refusal @ (Refusal::TooLarge { .. } | Refusal::Malformed)) => Result::Refused(refusal),
            // One before it is to be sent again, and comes first.
            Reply::Done { outcome: Outcome::OutOfOrder, .. } => return self.send_later(now, key, 2),
            Reply::Refused(refusal @ (Refusal::Busy | Refusal::NoSpace)) => {
                // Others make room within moments, or hours.
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
            // The node knows no better: somebody else may.
            Reply::Refused(_) | Reply::Unknown => return self.fall(now, false),
            Reply::Status(_)
            | Reply::Snapshot { .. }
            | Reply::SnapshotPiece { .. }
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

    /// The session is gone, and with it what we could know of its commands.
    fn lapsed(&mut self, now: Time, done: &mut Vec<Completion>) {
        self.in_flight.commands().into_iter().for_each(|key| self.finish(key, Result::Unknown, done));
        self.session = None;
        self.fall(now, true);
    }
}
