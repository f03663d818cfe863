//! The Redis door's sockets: bytes into commands, commands into requests, replies into bytes.

use super::{Net, REST, find, touch};
use crate::api::{Op, Outcome, Reply, Request};
use crate::limits::SESSION_WINDOW_MAX;
use crate::net::conn::Conn;
use crate::net::dialect::Role;
use crate::net::resp::door::{Cursors, Options, Place, Scene};
use crate::net::resp::hearing::{Setting, hear};
use crate::net::resp::small::Guest;
use crate::net::resp::talk::{Talk, Want};
use crate::net::stream;
use crate::node::event::{Caller, Event};
use crate::secure::Stream;
use crate::types::{NodeId, SessionId, Time};
use crate::wire::resp::Bounds;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Token};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;

/// The token of its listener.
pub const REDIS: Token = Token(usize::MAX - 3);
/// The caller that opens and closes sessions, for connections that may be gone before they are open.
pub const DOOR: Caller = Caller::Client(u64::MAX - 1);
/// So many callers are let in before those who are in are heard.
const ACCEPTS: usize = 64;

/// What Redis connections share.
#[derive(Debug, Default)]
pub struct Redis {
    listener: Option<TcpListener>,
    /// Whether someone may be waiting to be accepted.
    pub callers: bool,
    accept_at: Time,
    options: Options,
    cursors: Cursors,
    commands: u64,
    /// Our number for the last session that was opened or closed; and for which connections some are being.
    asked: u64,
    opening: BTreeMap<u64, Token>,
    /// Connections that may have something to say, or to ask.
    pumps: Vec<Token>,
    /// Connections that want to be asked again, and when.
    wakes: BTreeMap<Token, Time>,
}

impl Redis {
    /// When there is something to do even if nothing comes.
    pub fn deadline(&self) -> Time {
        let accept = if self.callers && self.listener.is_some() { self.accept_at } else { Time::NEVER };
        let pump = if self.pumps.is_empty() { Time::NEVER } else { Time::ZERO };
        accept.min(pump).min(self.wakes.values().copied().min().unwrap_or(Time::NEVER))
    }

    /// That connection may have something to say, or to ask.
    pub fn pump_soon(&mut self, token: Token) {
        self.pumps.push(token);
    }
}

impl Net {
    /// Lets Redis clients in too. Says where.
    pub fn open_redis(&mut self, options: Options) -> io::Result<Option<SocketAddr>> {
        let Some(listen) = options.listen else { return Ok(None) };
        let mut listener = stream::listen(listen)?;
        self.poll.registry().register(&mut listener, REDIS, Interest::READABLE)?;
        let address = listener.local_addr()?;
        self.redis = Redis { listener: Some(listener), options, ..Redis::default() };
        Ok(Some(address))
    }

    /// Lets nobody else in.
    pub(super) fn close_redis(&mut self) {
        if let Some(mut listener) = self.redis.listener.take() {
            let _either_way_it_is_dropped = self.poll.registry().deregister(&mut listener);
        }
    }

    pub(super) fn accept_redis(&mut self, now: Time) {
        for _ in 0..ACCEPTS {
            if self.redis.accept_at > now {
                return;
            }
            let Some(listener) = self.redis.listener.as_ref().filter(|_| self.redis.callers) else { return };
            match listener.accept() {
                Ok((stream, _)) => self.admit(now, stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.redis.callers = false,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    log::warn!(node = self.me.node.get(); "cannot accept a Redis client: {error}; resting");
                    self.redis.accept_at = now + REST;
                }
            }
        }
    }

    fn admit(&mut self, now: Time, socket: TcpStream) {
        let _if_not_it_is_slower = stream::tune_caller(&socket);
        let Ok(mut stream) = Stream::accepted(self.options.keys.as_ref(), socket) else { return };
        if self.clients >= self.options.clients_max {
            let _told_or_not = stream.write(b"-ERR max number of clients reached\r\n");
            return;
        }
        let Ok(token) = self.insert(now, stream, Role::Redis(0)) else { return };
        let Some(conn) = find(&mut self.conns, token) else { return };
        conn.role = Role::Redis(token.0 as u64);
        conn.awaits = None;
        let known = self.redis.options.password.is_none();
        conn.talk = Some(Box::new(Talk::new(Guest { id: token.0 as i64, known, ..Guest::default() })));
        self.clients += 1;
    }

    /// Hears the commands that are whole, until it is enough for now.
    pub(super) fn converse(&mut self, now: Time, token: Token) {
        let Some(conn) = find(&mut self.conns, token) else { return };
        let Some(mut talk) = conn.talk.take() else { return };
        let mut out = std::mem::take(conn.lanes.ready());
        let mut goes_on = true;
        while goes_on {
            let Some(conn) = find(&mut self.conns, token) else { return };
            conn.unheard = talk.is_full() || out.len() > self.options.client_bytes_mark;
            if conn.unheard || talk.leaving || conn.farewell {
                break;
            }
            let bounds = if talk.guest.known { Bounds::KNOWN } else { Bounds::UNKNOWN };
            match conn.words(&mut talk.reader, bounds) {
                Ok(None) => {
                    conn.settle_talk(now, talk.reader.is_midway());
                    break;
                }
                Ok(Some(words)) => {
                    self.redis.commands += 1;
                    let Redis { options, cursors, .. } = &self.redis;
                    let setting = Setting { now, options, cursors, scene: &|| self.scene(), stopping: self.stopping };
                    goes_on = hear(&mut talk, &words, &mut out, &setting);
                }
                Err(wrong) => {
                    talk.complain(&mut out, &format!("ERR {wrong}"));
                    talk.leaving = true;
                }
            }
        }
        let Some(conn) = find(&mut self.conns, token) else { return };
        if !out.is_empty() {
            touch(&mut self.touched, conn);
        }
        put_back(conn, talk, out);
        self.look_over(now);
        if goes_on { self.pump(now, token) } else { self.close(now, token) }
    }

    /// The other side has said its last. A Redis client may still listen: what it asked is answered.
    pub(super) fn ended(&mut self, now: Time, token: Token) {
        let Some(conn) = find(&mut self.conns, token) else { return };
        match &mut conn.talk {
            Some(talk) if talk.waiting() > 0 => {
                talk.leaving = true;
                conn.readable = false;
            }
            _ => self.close(now, token),
        }
    }

    /// Says what is due on the connections that were answered, and asks what they want.
    pub fn pump_all(&mut self, now: Time) {
        if self.redis.wakes.values().any(|at| *at <= now) {
            let due = self.redis.wakes.extract_if(.., |_, at| *at <= now);
            let due: Vec<Token> = due.map(|(token, _)| token).collect();
            self.redis.pumps.extend(due);
        }
        let mut pumps = std::mem::take(&mut self.redis.pumps);
        pumps.sort_unstable();
        pumps.dedup();
        pumps.drain(..).for_each(|token| self.pump(now, token));
        // What was pumped asks for no more of it but through its own answers.
        if self.redis.pumps.is_empty() {
            self.redis.pumps = pumps;
        }
    }

    fn pump(&mut self, now: Time, token: Token) {
        let Some(conn) = find(&mut self.conns, token) else { return };
        let Some(mut talk) = conn.talk.take() else { return };
        let rests = conn.lanes.size() > self.options.client_bytes_mark;
        let mut out = std::mem::take(conn.lanes.ready());
        let before = out.len();
        let mut wants = Vec::new();
        talk.pump(now, &mut out, rests, &mut wants);
        match talk.deadline() {
            Time::NEVER => drop(self.redis.wakes.remove(&token)),
            at => drop(self.redis.wakes.insert(token, at)),
        }
        let leaves = talk.leaving && talk.waiting() == 0;
        let says = out.len() > before;
        put_back(conn, talk, out);
        conn.farewell |= leaves;
        if leaves || says {
            touch(&mut self.touched, conn);
        }
        let from = Caller::Client(token.0 as u64);
        for want in wants {
            let event = match want {
                Want::Answer(id, request) => Event::Request { from, id, forward: true, request },
                Want::Session => {
                    let event = self.door(&Op::Open { window: SESSION_WINDOW_MAX });
                    self.redis.opening.insert(self.redis.asked, token);
                    event
                }
            };
            self.events.push(event);
        }
    }

    /// Something that concerns a session and no command in it.
    fn door(&mut self, op: &Op) -> Event {
        self.redis.asked += 1;
        Event::Request {
            from: DOOR,
            id: self.redis.asked,
            forward: true,
            request: Request::Propose { op: op.encode() },
        }
    }

    /// The session of a connection that is gone is of no more use to anybody.
    pub(super) fn close_session(&mut self, session: SessionId) {
        let event = self.door(&Op::Close { session });
        self.events.push(event);
    }

    /// An answer to what the door asked for itself.
    pub(super) fn door_heard(&mut self, now: Time, id: u64, reply: Reply) {
        let Some(token) = self.redis.opening.remove(&id) else { return };
        let opened = match reply {
            Reply::Done { outcome: Outcome::Opened { session }, .. } => Ok(session),
            Reply::Refused(refusal) => Err(Some(refusal)),
            // One that was opened and never heard of lapses by itself.
            _ => Err(None),
        };
        match (find(&mut self.conns, token).and_then(|conn| conn.talk.as_mut()), opened) {
            (Some(talk), opened) => {
                talk.opened(now, opened);
                self.redis.pump_soon(token);
            }
            (None, Ok(session)) => self.close_session(session),
            (None, Err(_)) => {}
        }
    }

    /// An answer to a command, if whoever asked is there and comes through this door.
    pub(super) fn redis_heard(&mut self, token: Token, id: u64, reply: Reply) -> Option<Reply> {
        let Some(talk) = find(&mut self.conns, token).and_then(|conn| conn.talk.as_mut()) else { return Some(reply) };
        talk.hear(id, reply, &mut self.redis.cursors);
        self.redis.pump_soon(token);
        None
    }

    /// What the node knows of itself and its cluster.
    fn scene(&self) -> Scene {
        let place = |id: NodeId| self.place(id).and_then(|address| Place::of(id, address));
        let mut places: Vec<Place> = self.members.voters.iter().filter_map(|id| place(*id)).collect();
        let own = self.redis.listener.as_ref().and_then(|listener| listener.local_addr().ok());
        for place in places.iter_mut().filter(|place| place.node == self.me.node) {
            place.port = own.map_or(place.port, |own| own.port());
        }
        places.sort_by_key(|place| (self.leader != Some(place.node), place.node));
        Scene {
            node: self.me.node,
            cluster: self.me.cluster,
            leader: self.leader,
            places,
            clients: self.clients,
            commands: self.redis.commands,
        }
    }
}

fn put_back(conn: &mut Conn, talk: Box<Talk>, out: bytes::BytesMut) {
    conn.asked = talk.waiting();
    conn.talk = Some(talk);
    *conn.lanes.ready() = out;
}
