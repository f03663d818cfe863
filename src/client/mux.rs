//! One connection with many things under way on it: what a benchmark or a proxy wants.
//!
//! Nothing here blocks but the resolution of names. What is asked gathers in one buffer until
//! [`Mux::work`] sends it with one write; replies come back in any order. Its commands take effect in the order in
//! which they are asked: its session is ordered. Those of two connections have no order. When the connection is
//! lost, or the leader moves, the same things are asked again under the same numbers. A node that
//! falls silent is doubted soon, and left as soon as another says that somebody else leads.

use super::in_flight::InFlight;
use super::known::{Known, LOOK_EVERY};
use super::scout::{Scout, Word};
use crate::api::{Consistency, Op, Outcome, Refusal, Reply, Request};
use crate::secure::{Keys, Stream};
use crate::types::{Index, NodeId, Position, SessionId};
use crate::wire::WireError;
use crate::wire::client::{NEWS, put_request_frame, read_reply_frame};
use crate::wire::frame::{FrameReader, Kind};
use crate::wire::hello::{Hello, Welcome};
use bytes::{Bytes, BytesMut};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{self, Read};
use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

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
    /// Not applied, and never will be.
    Refused(Refusal),
    /// It may have taken effect, or may yet: the session lapsed, or it was refused for good after an attempt that
    /// nobody answered.
    Unknown,
}

enum State {
    /// No connection until then.
    Down(Instant),
    /// Said hello; nothing else is allowed yet.
    Greeting,
    /// Asked for a session.
    Opening,
    /// All is well.
    Up,
}

/// What the poll says of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Heard {
    /// Nothing new.
    #[default]
    Nothing,
    /// There may be something to read.
    Bytes,
    /// There may be something to read, and then nothing ever.
    End,
}

/// The number under which a session is asked for: no slab has that many keys.
const OPENING: u64 = u64::MAX;
/// The number under which the members are asked for: as if a node had said it by itself.
const LOOKING: u64 = NEWS;

/// One connection with many things under way on it.
pub struct Mux {
    known: Known,
    options: MuxOptions,
    token: Token,
    state: State,
    stream: Option<Stream<TcpStream>>,
    /// Who was asked last, of `known`.
    turn: usize,
    hint: Option<String>,
    /// Attempts since somebody last answered well.
    failures: u32,
    session: Option<SessionId>,
    in_flight: InFlight,
    /// Since when it is turned away for want of room, and nothing else.
    full_since: Option<Instant>,
    /// Turned away as busy; asked again then.
    later: Vec<usize>,
    later_at: Option<Instant>,
    /// When to ask who the members are.
    look_at: Instant,
    output: BytesMut,
    input: BytesMut,
    reader: FrameReader,
    heard: Instant,
    /// Where the connection leads to, and to whom, once it is known.
    endpoint: String,
    node: Option<NodeId>,
    scout: Option<Scout>,
    /// Who was asked last for a second opinion, of `known`; and when the next may be.
    scout_turn: usize,
    scout_at: Instant,
    scout_token: Token,
}

impl Mux {
    /// A connection that will look for the leader among those endpoints, beginning with the one of
    /// that number. The first token is the connection's, the second that of who is asked besides.
    pub fn new(endpoints: Vec<String>, begin: usize, tokens: [Token; 2], options: MuxOptions) -> Mux {
        let known = Known::new(endpoints);
        let now = Instant::now();
        Mux {
            turn: begin % known.len(),
            known,
            look_at: now + LOOK_EVERY,
            token: tokens[0],
            state: State::Down(now),
            stream: None,
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
            scout_token: tokens[1],
        }
    }

    /// Whether one more thing may be asked now.
    pub fn has_room(&self) -> bool {
        matches!(self.state, State::Up)
            && self.later.is_empty()
            && self.in_flight.len() < self.options.inflight
            && self.in_flight.window() < self.options.window as usize
    }

    /// How many things are under way.
    pub fn under_way(&self) -> usize {
        self.in_flight.len()
    }

    /// Since when all that it asks is turned away for want of room.
    pub fn full_since(&self) -> Option<Instant> {
        self.full_since
    }

    /// Whether commands can be taken.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up)
    }

    /// Asks for a command to be executed. There must be room.
    pub fn execute(&mut self, command: Bytes, tag: u64) {
        assert!(self.has_room(), "who asks looks first whether there is room");
        self.begins();
        let key = self.in_flight.push_command(tag, command);
        self.send(key, false);
    }

    /// Asks the machine something. There must be room.
    pub fn query(&mut self, query: Bytes, consistency: Consistency, tag: u64) {
        assert!(self.has_room(), "who asks looks first whether there is room");
        self.begins();
        let key = self.in_flight.push_query(tag, query, consistency);
        self.send(key, false);
    }

    fn begins(&mut self) {
        if self.in_flight.is_empty() {
            // Silence counts from the first thing that is waited for.
            self.heard = Instant::now();
        }
    }

    fn send(&mut self, key: usize, again: bool) {
        let session = self.session.expect("commands are sent in a session");
        if let Some(request) = self.in_flight.send(key, session, again) {
            put_request_frame(&mut self.output, key as u64, false, &request);
        }
    }

    /// When [`Mux::work`] next has something to do by itself.
    pub fn deadline(&self) -> Option<Instant> {
        let silence = match self.state {
            State::Down(until) => return Some(until),
            State::Up if self.in_flight.is_empty() => None,
            State::Greeting => Some(self.heard + self.greeting()),
            State::Opening | State::Up => Some(self.heard + self.options.patience),
        };
        let doubt = match &self.scout {
            Some(scout) => scout.deadline(),
            None if self.waits() && self.known.len() > 1 => Some((self.heard + self.options.doubt).max(self.scout_at)),
            None => None,
        };
        let look = self.is_up().then_some(self.look_at);
        [silence, doubt, look, self.later_at].into_iter().flatten().min()
    }

    /// Does what is due: dials, reads if there may be something, writes what has gathered. What is
    /// finished goes to `done`.
    pub fn work(
        &mut self,
        now: Instant,
        heard: Heard,
        scratch: &mut [u8],
        registry: &Registry,
        done: &mut Vec<Completion>,
    ) {
        if matches!(self.state, State::Down(until) if until <= now)
            && let Err(error) = self.dial(now, registry)
        {
            log::debug!("cannot dial: {error}");
            self.fall(now, registry, false);
        }
        if heard > Heard::Nothing && self.stream.is_some() {
            self.read(now, heard, scratch, registry, done);
        }
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.overdue(now, registry);
        }
        self.doubt(now, scratch, registry);
        if self.write().is_err() {
            self.fall(now, registry, false);
        }
    }

    /// Whether an answer of the node is waited for.
    fn waits(&self) -> bool {
        match self.state {
            State::Up => !self.in_flight.is_empty(),
            State::Opening => true,
            State::Down(_) | State::Greeting => false,
        }
    }

    /// How long a node may take to say hello: longer from time to time, in case all of them are slow.
    fn greeting(&self) -> Duration {
        if self.known.len() < 2 {
            return self.options.patience;
        }
        (self.options.doubt * (GREETING << self.failures.min(4))).min(self.options.patience)
    }

    /// Asks another node who leads, as long as this one is silent; goes there if it is somebody else.
    fn doubt(&mut self, now: Instant, scratch: &mut [u8], registry: &Registry) {
        if !self.waits() || now < self.heard + self.options.doubt {
            return self.recall(registry);
        }
        if self.scout.is_none() && self.scout_at <= now && self.known.len() > 1 {
            self.send_scout(now, registry);
        }
        let Some(scout) = &mut self.scout else { return };
        match scout.work(now, scratch) {
            Word::Nothing => {}
            Word::Leads(leader, _) if Some(leader) == self.node => scout.ask_again(now),
            Word::Leads(leader, address) => {
                log::debug!("{} is silent, and {leader} leads by now", self.endpoint);
                self.go_to(now, registry, address);
            }
            Word::Gone => {
                self.recall(registry);
                self.scout_at = now + SCOUT_PAUSE;
            }
        }
    }

    fn send_scout(&mut self, now: Instant, registry: &Registry) {
        self.scout_turn = (self.scout_turn + 1) % self.known.len();
        if self.known[self.scout_turn] == self.endpoint {
            self.scout_turn = (self.scout_turn + 1) % self.known.len();
        }
        let (endpoint, patience) = (&self.known[self.scout_turn], self.options.doubt * GREETING);
        match Scout::dial(endpoint, self.options.keys.as_ref(), self.scout_token, registry, now, patience) {
            Ok(scout) => self.scout = Some(scout),
            Err(error) => {
                log::debug!("cannot dial {endpoint}: {error}");
                self.scout_at = now + SCOUT_PAUSE;
            }
        }
    }

    fn recall(&mut self, registry: &Registry) {
        if let Some(scout) = self.scout.take() {
            scout.recall(registry);
        }
    }

    fn dial(&mut self, now: Instant, registry: &Registry) -> io::Result<()> {
        let endpoint = match self.hint.take() {
            Some(hint) => hint,
            None => {
                self.turn = (self.turn + 1) % self.known.len();
                self.known[self.turn].clone()
            }
        };
        let address = endpoint.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
        let socket = TcpStream::connect(address)?;
        let _if_not_it_is_slower = socket.set_nodelay(true);
        let mut stream = Stream::dialed(self.options.keys.as_ref(), socket, &endpoint)?;
        registry.register(&mut stream, self.token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        (self.endpoint, self.node) = (endpoint, None);
        self.state = State::Greeting;
        self.heard = now;
        self.output.clear();
        self.input.clear();
        self.reader = FrameReader::default();
        Hello::client().put(&mut self.output);
        Ok(())
    }

    /// Leaves the connection, if there is one, and dials another a little later.
    fn fall(&mut self, now: Instant, registry: &Registry, at_once: bool) {
        if let Some(mut stream) = self.stream.take() {
            let _either_way_it_is_dropped = registry.deregister(&mut stream);
        }
        self.recall(registry);
        self.failures = self.failures.saturating_add(1);
        let longest = 2 << self.failures.min(6);
        let pause = if at_once && self.failures < 4 { 0 } else { rand::random_range(longest / 2..=longest) };
        self.state = State::Down(now + Duration::from_millis(pause));
        self.in_flight.lost();
        self.later.clear();
        self.later_at = None;
        self.output.clear();
    }

    fn overdue(&mut self, now: Instant, registry: &Registry) {
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
            State::Down(_) => false,
            State::Greeting => self.heard + self.greeting() <= now,
            State::Opening | State::Up => self.waits() && self.heard + self.options.patience <= now,
        };
        if silent {
            self.fall(now, registry, true);
        }
    }

    fn read(
        &mut self,
        now: Instant,
        heard: Heard,
        scratch: &mut [u8],
        registry: &Registry,
        done: &mut Vec<Completion>,
    ) {
        loop {
            let Some(stream) = &mut self.stream else { return };
            let n = match stream.read(scratch) {
                Ok(0) => return self.fall(now, registry, true),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return self.fall(now, registry, false),
            };
            self.heard = now;
            self.input.extend_from_slice(&scratch[..n]);
            if let Err(error) = self.take_in(now, registry, done) {
                log::debug!("a node that breaks the protocol or refuses us: {error}");
                return self.fall(now, registry, false);
            }
            let dry = self.stream.as_ref().is_none_or(Stream::tells_when_dry);
            if n < scratch.len() && heard == Heard::Bytes && dry {
                // Less than asked for: all there was has been read, and what comes now is a new event.
                // Not so for an end that was announced already: it is there to be read.
                return;
            }
        }
    }

    fn take_in(
        &mut self,
        now: Instant,
        registry: &Registry,
        done: &mut Vec<Completion>,
    ) -> std::result::Result<(), WireError> {
        while self.stream.is_some()
            && let Some(frame) = self.reader.next(&mut self.input)?
        {
            if matches!(self.state, State::Greeting) {
                self.node = Some(Welcome::read(frame)?.node);
                self.welcome();
                continue;
            }
            if frame.kind != Kind::Reply {
                return Err(WireError::Kind(frame.kind as u8));
            }
            match read_reply_frame(frame)? {
                (OPENING, reply) => self.opened(now, registry, reply),
                (LOOKING, Reply::Status(status)) => self.known.learn_members(&status),
                (id, reply) => self.replied(now, registry, id, reply, done),
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
            self.state = State::Up;
            self.in_flight.all().into_iter().for_each(|key| self.send(key, true));
        } else {
            self.state = State::Opening;
            let request = Request::Propose { op: Op::Open { window: self.options.window, ordered: true }.encode() };
            put_request_frame(&mut self.output, OPENING, false, &request);
        }
    }

    fn opened(&mut self, now: Instant, registry: &Registry, reply: Reply) {
        match reply {
            Reply::Done { outcome: Outcome::Opened { session }, .. } => {
                self.session = Some(session);
                self.in_flight.renumber();
                self.failures = 0;
                self.welcome();
            }
            Reply::Refused(Refusal::NotLeader { address: Some(address), .. }) => self.go_to(now, registry, address),
            Reply::Refused(Refusal::Outside { members, .. }) => self.leave(now, registry, &members),
            _ => self.fall(now, registry, false),
        }
    }

    fn go_to(&mut self, now: Instant, registry: &Registry, address: String) {
        self.known.learn(&address);
        self.hint = Some(address);
        self.fall(now, registry, true);
    }

    /// The node is no member: another is, perhaps one that we have not heard of.
    fn leave(&mut self, now: Instant, registry: &Registry, members: &[String]) {
        members.iter().for_each(|address| self.known.learn(address));
        self.fall(now, registry, true);
    }

    fn replied(&mut self, now: Instant, registry: &Registry, id: u64, reply: Reply, done: &mut Vec<Completion>) {
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
            Reply::Done { outcome: Outcome::Lapsed, .. } => return self.lapsed(now, registry, done),
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
                return self.go_to(now, registry, address);
            }
            Reply::Refused(Refusal::Outside { members, .. }) => return self.leave(now, registry, &members),
            // The node knows no better: somebody else may.
            Reply::Refused(_) | Reply::Unknown => return self.fall(now, registry, false),
            Reply::Status(_)
            | Reply::Snapshot { .. }
            | Reply::Changed { .. }
            | Reply::Handed { .. }
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

    fn send_later(&mut self, now: Instant, key: usize, pause_ms: u64) {
        self.later.push(key);
        self.later_at.get_or_insert(now + Duration::from_millis(pause_ms));
    }

    /// The session is gone, and with it what we could know of its commands.
    fn lapsed(&mut self, now: Instant, registry: &Registry, done: &mut Vec<Completion>) {
        self.in_flight.commands().into_iter().for_each(|key| self.finish(key, Result::Unknown, done));
        self.session = None;
        self.fall(now, registry, true);
    }

    fn write(&mut self) -> io::Result<()> {
        self.stream.as_mut().map_or(Ok(()), |stream| stream.pour(&mut self.output))
    }
}
