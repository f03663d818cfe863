//! The table of a node's connections, with the queues and counts that are derived from them.

use super::memory::ClientMemory;
use crate::net::conn::Conn;
use crate::net::gateway_connection::GatewayConnection;
use crate::net::memory_pressure::{GUARANTEED_CONN_BYTES, MemoryPressure};
use crate::net::options::Options;
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

/// The low bits of a token are the key of the slab slot, and the high bits a generation number. A late event of a
/// closed connection thus has another token than the connection that reuses the slot.
const SLOT_BITS: u32 = 24;
const SLOT_MASK: usize = (1 << SLOT_BITS) - 1;
/// The interval between sweeps over all connections, while any connection needs a sweep.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// A connection that holds much memory and accepts fewer bytes than this between two sweeps is stalled.
const SWEEP_PROGRESS_BYTES_MIN: u64 = 16 << 10;
/// A connection that was stalled in this many consecutive sweeps may be closed to free memory.
const STALLED_SWEEPS_MAX: u8 = 2;
/// An answer to a read of at most this many bytes is sent even under memory pressure.
const SMALL_ANSWER_BYTES_MAX: usize = GUARANTEED_CONN_BYTES / 16;

/// All connections of a node, by token.
#[derive(Debug)]
pub struct Connections {
    slab: Slab<Conn>,
    /// The number of connections inserted since the start of the process; the high bits of the next token.
    generation: usize,
    index: ConnectionIndex,
    next_sweep_at: Time,
}

/// Queues and counts over all connections, kept up to date with each change: a visit to each of ten thousand
/// connections would take too long.
#[derive(Debug)]
struct ConnectionIndex {
    /// Connections that may have bytes to read, each once.
    read_queue: Vec<Token>,
    /// Connections with pending output, each once.
    write_queue: Vec<Token>,
    /// Inbound connections that have not sent their hello yet, oldest first.
    handshaking: VecDeque<Token>,
    /// The number of native, Redis and HTTP clients, including operators.
    client_count: usize,
    /// The number of operators among the clients.
    operator_count: usize,
    /// The count of the memory of all clients, with its bound.
    client_memory: ClientMemory,
}

/// A connection that is borrowed mutably, with the queues and counts that its changes affect. It dereferences to the
/// [`Conn`].
#[derive(Debug)]
pub struct ConnMut<'a> {
    conn: &'a mut Conn,
    index: &'a mut ConnectionIndex,
}

/// The result of a sweep over all connections.
#[derive(Debug)]
pub struct SweepResult {
    /// The connections whose timeout has expired, for the caller to close.
    pub timed_out: Vec<Token>,
    /// Whether another sweep is needed, because a connection was used or has a running timeout.
    pub needs_another_sweep: bool,
}

impl Connections {
    /// Creates an empty table, whose clients may hold `client_memory_bytes_max` bytes together.
    pub fn new(client_memory_bytes_max: usize) -> Connections {
        let index = ConnectionIndex {
            read_queue: Vec::new(),
            write_queue: Vec::new(),
            handshaking: VecDeque::new(),
            client_count: 0,
            operator_count: 0,
            client_memory: ClientMemory::new(client_memory_bytes_max),
        };
        Connections { slab: Slab::new(), generation: 0, index, next_sweep_at: Time::NEVER }
    }

    /// Adds a connection, registers its socket with the poll, and schedules the next check of the connections for expired
    /// timeouts. Returns the token.
    pub fn insert(
        &mut self,
        registry: &Registry,
        now: Time,
        mut stream: Stream<TcpStream>,
        role: Role,
    ) -> io::Result<Token> {
        let slot = self.slab.vacant_entry();
        self.generation += 1;
        let token = Token(self.generation << SLOT_BITS | slot.key());
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        slot.insert(Conn::new(stream, token, role, now));
        if role == Role::Handshaking {
            self.index.handshaking.push_back(token);
        }
        self.schedule_sweep(now);
        Ok(token)
    }

    /// Removes a connection from the table, and its socket from the poll. Returns `None` if the connection was removed
    /// before.
    pub fn remove(&mut self, registry: &Registry, now: Time, token: Token) -> Option<Conn> {
        self.get(token)?;
        let mut conn = self.slab.remove(token.0 & SLOT_MASK);
        self.schedule_sweep(now);
        let _best_effort = registry.deregister(&mut conn.stream);
        self.index.remove(&conn);
        Some(conn)
    }

    /// The connection with the token `token`; `None` if the connection was closed.
    pub fn get(&self, token: Token) -> Option<&Conn> {
        self.slab.get(token.0 & SLOT_MASK).filter(|conn| conn.token == token)
    }

    /// The connection with the token `token`, mutably; `None` if the connection was closed.
    pub fn get_mut(&mut self, token: Token) -> Option<ConnMut<'_>> {
        let conn = self.slab.get_mut(token.0 & SLOT_MASK).filter(|conn| conn.token == token)?;
        Some(ConnMut { conn, index: &mut self.index })
    }

    /// The protocol state of the gateway connection with the token `token`; `None` if the connection was closed, or
    /// belongs to no gateway.
    pub fn gateway_mut(&mut self, token: Token) -> Option<&mut GatewayConnection> {
        self.get_mut(token)?.conn.gateway.as_mut()
    }

    /// Iterates over all connections, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Conn> {
        self.slab.iter().map(|(_, conn)| conn)
    }

    /// Calls `visit` with each connection, mutably.
    pub fn for_each(&mut self, mut visit: impl FnMut(ConnMut<'_>)) {
        for (_, conn) in &mut self.slab {
            visit(ConnMut { conn, index: &mut self.index });
        }
    }

    /// The number of open connections, inbound and outbound.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// The number of connections inserted since the start.
    #[cfg(test)]
    pub fn inserted_count(&self) -> usize {
        self.generation
    }

    /// The number of native, Redis and HTTP clients, including operators.
    pub fn client_count(&self) -> usize {
        self.index.client_count
    }

    /// The number of operators among the clients.
    pub fn operator_count(&self) -> usize {
        self.index.operator_count
    }

    /// The number of inbound connections that have not sent their hello yet.
    pub fn handshaking_count(&self) -> usize {
        self.index.handshaking.len()
    }

    /// The connection that has waited longest for its hello; `None` if no connection waits.
    pub fn oldest_handshake(&self) -> Option<Token> {
        self.index.handshaking.front().copied()
    }

    /// The count of the memory of all clients, with its bound.
    pub fn client_memory(&self) -> &ClientMemory {
        &self.index.client_memory
    }

    /// The memory count of all clients, for tests that change its bound.
    #[cfg(test)]
    pub fn client_memory_mut(&mut self) -> &mut ClientMemory {
        &mut self.index.client_memory
    }

    /// Whether the read queue has connections, so that the event loop must not sleep.
    pub fn has_pending_reads(&self) -> bool {
        !self.index.read_queue.is_empty()
    }

    /// Takes the read queue. The caller has to reset `in_read_queue` of each connection in it.
    pub fn take_read_queue(&mut self) -> Vec<Token> {
        std::mem::take(&mut self.index.read_queue)
    }

    /// Takes the write queue. The caller has to reset `in_write_queue` of each connection in it.
    pub fn take_write_queue(&mut self) -> Vec<Token> {
        std::mem::take(&mut self.index.write_queue)
    }

    /// The connections with pending output.
    pub fn write_queue(&self) -> &[Token] {
        &self.index.write_queue
    }

    /// When the next sweep is due; never if no connection needs one.
    pub fn next_sweep_at(&self) -> Time {
        self.next_sweep_at
    }

    /// Schedules a sweep one interval from `now`, unless one is due earlier.
    pub fn schedule_sweep(&mut self, now: Time) {
        self.next_sweep_at = self.next_sweep_at.min(now + SWEEP_INTERVAL);
    }

    /// Schedules the next sweep after a sweep: one interval from `now` if `needs_another_sweep`, else at the next
    /// change of a connection.
    pub fn reschedule_sweep(&mut self, now: Time, needs_another_sweep: bool) {
        self.next_sweep_at = if needs_another_sweep { now + SWEEP_INTERVAL } else { Time::NEVER };
    }

    /// Visits all connections: finds those that have timed out, and frees the buffers of idle ones.
    pub fn sweep(&mut self, now: Time, options: &Options) -> SweepResult {
        let mut sweep_result = SweepResult { timed_out: Vec::new(), needs_another_sweep: false };
        for (_, conn) in &mut self.slab {
            conn.extend_idle_timeout(now, options);
            if conn.is_timed_out(now, options) {
                sweep_result.timed_out.push(conn.token);
            }
            if std::mem::take(&mut conn.used_since_sweep) {
                sweep_result.needs_another_sweep = true;
            } else {
                conn.free_idle_buffers();
            }
            sweep_result.needs_another_sweep |= conn.timeout_started_at.is_some();
        }
        sweep_result
    }

    /// Updates for each connection the number of sweeps without progress. Returns the stalled connections with the
    /// bytes that they hold, in ascending order of bytes.
    pub fn find_stalled_connections(&mut self) -> Vec<(usize, Token)> {
        let mut stalled_connections = Vec::new();
        for (_, conn) in &mut self.slab {
            let sent_since_last_sweep = conn.output.sent_bytes()
                - std::mem::replace(&mut conn.sent_bytes_at_last_sweep, conn.output.sent_bytes());
            let is_stalled =
                conn.counted_memory_bytes > GUARANTEED_CONN_BYTES && sent_since_last_sweep < SWEEP_PROGRESS_BYTES_MIN;
            conn.stalled_sweeps = if is_stalled { conn.stalled_sweeps.saturating_add(1) } else { 0 };
            if conn.stalled_sweeps >= STALLED_SWEEPS_MAX {
                stalled_connections.push((conn.counted_memory_bytes, conn.token));
            }
        }
        stalled_connections.sort_unstable();
        stalled_connections
    }

    /// Lowers the memory pressure if clients hold fewer bytes now. Then schedules reads from the connections whose
    /// reading was suspended, and calls `resume` with each gateway connection, whose requests to the node may have
    /// waited too.
    pub fn resume_suspended_reads(&mut self, options: &Options, mut resume: impl FnMut(Token)) {
        let Some(pressure) = self.index.client_memory.lower_pressure() else { return };
        self.for_each(|mut conn| {
            if conn.has_input() && !conn.is_read_suspended(options, pressure) {
                conn.schedule_read();
            }
            if conn.gateway.is_some() {
                resume(conn.token);
            }
        });
    }

    /// Whether an answer of `size` bytes to a read may be sent to a client. Under memory pressure, a client with much
    /// unread output gets only small answers.
    pub fn may_send_answer(&self, token: Token, size: usize, options: &Options) -> bool {
        let memory = &self.index.client_memory;
        let unread_bytes_max = match memory.pressure() {
            MemoryPressure::None => return true,
            MemoryPressure::High => options.client_output_pause_bytes,
            MemoryPressure::OverBound if memory.fits_small_answers() => GUARANTEED_CONN_BYTES,
            MemoryPressure::OverBound => return size <= SMALL_ANSWER_BYTES_MAX,
        };
        size <= SMALL_ANSWER_BYTES_MAX
            || self.get(token).is_none_or(|conn| conn.output.pending_bytes() <= unread_bytes_max)
    }
}

impl ConnectionIndex {
    /// Subtracts a closed connection from the counts of clients, operators and handshakes, and from the memory count.
    fn remove(&mut self, conn: &Conn) {
        self.client_memory.subtract(conn.counted_memory_bytes);
        match conn.role {
            Role::Handshaking => self.handshaking.retain(|token| *token != conn.token),
            Role::Client(_) | Role::GatewayClient(_) => {
                self.client_count -= 1;
                self.operator_count -= usize::from(conn.is_operator);
            }
            Role::InboundPeer(_) | Role::Connecting(_) | Role::OutboundPeer(_) => {}
        }
    }
}

impl ConnMut<'_> {
    /// Adds the connection to the read queue, unless it is in the queue.
    pub fn schedule_read(&mut self) {
        if !std::mem::replace(&mut self.conn.in_read_queue, true) {
            self.index.read_queue.push(self.conn.token);
        }
    }

    /// Adds the connection to the write queue, unless it is in the queue.
    pub fn schedule_write(&mut self) {
        if !std::mem::replace(&mut self.conn.in_write_queue, true) {
            self.index.write_queue.push(self.conn.token);
        }
    }

    /// Updates the memory of all clients by the change of this connection since the last call. Peers are not counted.
    pub fn count_memory(&mut self) {
        self.index.client_memory.update(self.conn);
    }

    /// The current level of memory use by all clients.
    pub fn pressure(&self) -> MemoryPressure {
        self.index.client_memory.pressure()
    }

    /// Completes the handshake of a native client. The client's number is the token of the connection.
    pub fn become_client(&mut self, is_operator: bool) {
        self.end_handshake();
        self.conn.is_operator = is_operator;
        self.conn.role = Role::Client(self.conn.token.0 as u64);
        self.index.client_count += 1;
        self.index.operator_count += usize::from(is_operator);
    }

    /// Completes the handshake of a peer that has dialed this node.
    pub fn become_inbound_peer(&mut self, peer: NodeId) {
        self.end_handshake();
        self.conn.role = Role::InboundPeer(peer);
    }

    /// Makes the connection that of a Redis or HTTP client, which has no handshake. The client's number is the token of
    /// the connection.
    pub fn become_gateway_client(&mut self) {
        self.conn.role = Role::GatewayClient(self.conn.token.0 as u64);
        self.index.client_count += 1;
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
