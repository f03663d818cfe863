//! The table of a node's connections, with the queues and counts that are kept in step with them.

use super::memory::Memory;
use crate::net::conn::Conn;
use crate::net::gateway_connection::GatewayConnection;
use crate::net::options::Options;
use crate::net::pressure::{FEW_BYTES, Pressure};
use crate::net::role::Role;
use crate::secure::Stream;
use crate::types::{NodeId, Time};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// A token is a generation number above this many bits of slab key. A late event then names a connection that is
/// closed, and not the connection that reuses its slot.
const KEY_BITS: u32 = 24;
const KEY_MASK: usize = (1 << KEY_BITS) - 1;
/// The interval between sweeps over all connections, while any connection needs one.
const SWEEP: Duration = Duration::from_secs(1);
/// A connection that accepts fewer bytes than this between two sweeps is stalled.
const TAKEN_MIN: u64 = 16 << 10;
/// A connection may be closed after it was stalled in this many sweeps in a row.
const STALLS_MAX: u8 = 2;
/// An answer of at most this size is sent however much memory is used.
const SMALL_ANSWER: usize = FEW_BYTES / 16;

/// All connections of a node, by token.
#[derive(Debug)]
pub struct Connections {
    slab: Slab<Conn>,
    /// How many connections were ever inserted.
    generation: usize,
    index: ConnectionIndex,
    sweep_at: Time,
}

/// The properties of all connections that are known without a visit to each: there may be ten thousand.
#[derive(Debug)]
struct ConnectionIndex {
    /// Connections to be read from.
    read_queue: Vec<Token>,
    /// Connections to be written to.
    write_queue: Vec<Token>,
    /// Connections without a complete handshake, oldest first.
    handshaking: VecDeque<Token>,
    clients: usize,
    /// How many of `clients` are operators.
    operators: usize,
    /// Bytes held for clients.
    memory: Memory,
}

/// One connection, together with the queues and counts that follow its changes. It dereferences to the [`Conn`].
#[derive(Debug)]
pub struct ConnMut<'a> {
    conn: &'a mut Conn,
    index: &'a mut ConnectionIndex,
}

/// The result of a sweep over all connections.
#[derive(Debug)]
pub struct Swept {
    /// Connections that have timed out.
    pub overdue: Vec<Token>,
    /// Whether a connection needs another sweep.
    pub again: bool,
}

impl Connections {
    /// No connections. Their clients may hold `memory_max` bytes together.
    pub fn new(memory_max: usize) -> Connections {
        let index = ConnectionIndex {
            read_queue: Vec::new(),
            write_queue: Vec::new(),
            handshaking: VecDeque::new(),
            clients: 0,
            operators: 0,
            memory: Memory::new(memory_max),
        };
        Connections { slab: Slab::new(), generation: 0, index, sweep_at: Time::NEVER }
    }

    /// Adds a connection, registers its socket, and schedules a sweep. Returns its token, which is never reused.
    pub fn insert(
        &mut self,
        registry: &Registry,
        now: Time,
        mut stream: Stream<TcpStream>,
        role: Role,
    ) -> io::Result<Token> {
        let slot = self.slab.vacant_entry();
        self.generation += 1;
        let token = Token(self.generation << KEY_BITS | slot.key());
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        slot.insert(Conn::new(stream, token, role, now));
        if role == Role::Handshaking {
            self.index.handshaking.push_back(token);
        }
        self.schedule_sweep(now);
        Ok(token)
    }

    /// Removes a connection from the table and its socket from the registry, if it is still there.
    pub fn remove(&mut self, registry: &Registry, now: Time, token: Token) -> Option<Conn> {
        self.get(token)?;
        let mut conn = self.slab.remove(token.0 & KEY_MASK);
        self.schedule_sweep(now);
        let _either_way_it_is_dropped = registry.deregister(&mut conn.stream);
        self.index.forget(&conn);
        Some(conn)
    }

    /// The connection with that token, unless it is closed.
    pub fn get(&self, token: Token) -> Option<&Conn> {
        self.slab.get(token.0 & KEY_MASK).filter(|conn| conn.token == token)
    }

    /// The connection with that token, unless it is closed, to be changed.
    pub fn get_mut(&mut self, token: Token) -> Option<ConnMut<'_>> {
        let conn = self.slab.get_mut(token.0 & KEY_MASK).filter(|conn| conn.token == token)?;
        Some(ConnMut { conn, index: &mut self.index })
    }

    /// The protocol state of the gateway connection with that token, unless it is closed or no gateway connection.
    pub fn gateway_mut(&mut self, token: Token) -> Option<&mut GatewayConnection> {
        self.get_mut(token)?.conn.gateway.as_mut()
    }

    /// All connections.
    pub fn iter(&self) -> impl Iterator<Item = &Conn> {
        self.slab.iter().map(|(_, conn)| conn)
    }

    /// Calls `act` with each connection.
    pub fn for_each(&mut self, mut act: impl FnMut(ConnMut<'_>)) {
        for (_, conn) in &mut self.slab {
            act(ConnMut { conn, index: &mut self.index });
        }
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// How many connections there ever were.
    #[cfg(test)]
    pub fn inserted(&self) -> usize {
        self.generation
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.index.clients
    }

    /// How many clients are operators.
    pub fn operators(&self) -> usize {
        self.index.operators
    }

    /// How many inbound connections have no complete handshake.
    pub fn handshaking(&self) -> usize {
        self.index.handshaking.len()
    }

    /// The connection whose handshake takes longest.
    pub fn longest_handshake(&self) -> Option<Token> {
        self.index.handshaking.front().copied()
    }

    /// The bytes that all clients hold together.
    pub fn memory(&self) -> &Memory {
        &self.index.memory
    }

    /// The bytes that all clients hold together, to be changed.
    #[cfg(test)]
    pub fn memory_mut(&mut self) -> &mut Memory {
        &mut self.index.memory
    }

    /// Whether any connection is to be read from.
    pub fn has_unread(&self) -> bool {
        !self.index.read_queue.is_empty()
    }

    /// Takes the queue of connections to be read from. The caller has to reset the mark of each connection in it.
    pub fn take_read_queue(&mut self) -> Vec<Token> {
        std::mem::take(&mut self.index.read_queue)
    }

    /// Takes the queue of connections to be written to. The caller has to reset the mark of each connection in it.
    pub fn take_write_queue(&mut self) -> Vec<Token> {
        std::mem::take(&mut self.index.write_queue)
    }

    /// The queue of connections to be written to.
    pub fn write_queue(&self) -> &[Token] {
        &self.index.write_queue
    }

    /// When a sweep is due.
    pub fn sweep_at(&self) -> Time {
        self.sweep_at
    }

    /// Schedules a sweep over the connections.
    pub fn schedule_sweep(&mut self, now: Time) {
        self.sweep_at = self.sweep_at.min(now + SWEEP);
    }

    /// Replaces the schedule after a sweep: the next one is due after the usual interval, or at the next change.
    pub fn reschedule_sweep(&mut self, now: Time, again: bool) {
        self.sweep_at = if again { now + SWEEP } else { Time::NEVER };
    }

    /// Finds connections that have timed out, and frees the buffers of idle ones.
    pub fn sweep(&mut self, now: Time, options: &Options) -> Swept {
        let mut swept = Swept { overdue: Vec::new(), again: false };
        for (_, conn) in &mut self.slab {
            conn.extend_timeout(now, options);
            if conn.is_overdue(now, options) {
                swept.overdue.push(conn.token);
            }
            if std::mem::take(&mut conn.used) {
                swept.again = true;
            } else {
                conn.free_idle_buffers();
            }
            swept.again |= conn.waiting_since.is_some();
        }
        swept
    }

    /// Updates how long each connection has accepted almost nothing. Returns the stalled connections, with the bytes
    /// that they hold, those that hold most last.
    pub fn find_stalled(&mut self) -> Vec<(usize, Token)> {
        let mut stalled = Vec::new();
        for (_, conn) in &mut self.slab {
            let taken = conn.lanes.sent() - std::mem::replace(&mut conn.sent_before, conn.lanes.sent());
            let stalls = conn.held > FEW_BYTES && taken < TAKEN_MIN;
            conn.stalls = if stalls { conn.stalls.saturating_add(1) } else { 0 };
            if conn.stalls >= STALLS_MAX {
                stalled.push((conn.held, conn.token));
            }
        }
        stalled.sort_unstable();
        stalled
    }

    /// Lowers the pressure if fewer bytes are held, and schedules reads from the connections that waited for that.
    /// `resume` is called with each gateway connection: its requests to the node may have waited too.
    pub fn relieve(&mut self, options: &Options, mut resume: impl FnMut(Token)) {
        let Some(pressure) = self.index.memory.lower_pressure() else { return };
        self.for_each(|mut conn| {
            if conn.has_more() && !conn.is_read_suspended(options, pressure) {
                conn.schedule_read();
            }
            if conn.gateway.is_some() {
                resume(conn.token);
            }
        });
    }

    /// Whether an answer of that size to a read may be sent to a client, which may have too much unread output already.
    pub fn has_room(&self, token: Token, size: usize, options: &Options) -> bool {
        let memory = &self.index.memory;
        let unread_max = match memory.pressure() {
            Pressure::None => return true,
            Pressure::High => options.client_bytes_mark,
            Pressure::Over if memory.has_spare() => FEW_BYTES,
            Pressure::Over => return size <= SMALL_ANSWER,
        };
        size <= SMALL_ANSWER || self.get(token).is_none_or(|conn| conn.lanes.size() <= unread_max)
    }
}

impl ConnectionIndex {
    /// Removes a connection that was closed.
    fn forget(&mut self, conn: &Conn) {
        self.memory.forget(conn.held);
        match conn.role {
            Role::Handshaking => self.handshaking.retain(|token| *token != conn.token),
            Role::Client(_) | Role::GatewayClient(_) => {
                self.clients -= 1;
                self.operators -= usize::from(conn.is_operator);
            }
            Role::InboundPeer(_) | Role::Connecting(_) | Role::OutboundPeer(_) => {}
        }
    }
}

impl ConnMut<'_> {
    /// Adds the connection to the queue of those to be read from, once.
    pub fn schedule_read(&mut self) {
        if !std::mem::replace(&mut self.conn.in_read_queue, true) {
            self.index.read_queue.push(self.conn.token);
        }
    }

    /// Adds the connection to the queue of those to be written to, once.
    pub fn schedule_write(&mut self) {
        if !std::mem::replace(&mut self.conn.in_write_queue, true) {
            self.index.write_queue.push(self.conn.token);
        }
    }

    /// Updates the count of the bytes that the connection holds.
    pub fn count_memory(&mut self) {
        self.index.memory.count(self.conn);
    }

    /// How much is used of the memory of all clients.
    pub fn pressure(&self) -> Pressure {
        self.index.memory.pressure()
    }

    /// The handshake is complete: the connection is that of a native client, whose number is the token.
    pub fn become_client(&mut self, is_operator: bool) {
        self.end_handshake();
        self.conn.is_operator = is_operator;
        self.conn.role = Role::Client(self.conn.token.0 as u64);
        self.index.clients += 1;
        self.index.operators += usize::from(is_operator);
    }

    /// The handshake is complete: the connection is that of a peer.
    pub fn become_inbound_peer(&mut self, peer: NodeId) {
        self.end_handshake();
        self.conn.role = Role::InboundPeer(peer);
    }

    /// The connection is that of a gateway client, whose number is the token. It needs no handshake.
    pub fn become_gateway_client(&mut self) {
        self.conn.role = Role::GatewayClient(self.conn.token.0 as u64);
        self.index.clients += 1;
    }

    fn end_handshake(&mut self) {
        self.index.handshaking.retain(|token| *token != self.conn.token);
    }
}

impl Deref for ConnMut<'_> {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        self.conn
    }
}

impl DerefMut for ConnMut<'_> {
    fn deref_mut(&mut self) -> &mut Conn {
        self.conn
    }
}
