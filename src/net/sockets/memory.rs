//! Bounds the memory of all clients together: unread replies, requests waiting for answers, and incomplete requests.
//!
//! Each connection has bounds of its own, but there may be ten thousand, so the bytes that all of them hold are
//! counted. Above half of the bound, a connection with unread replies is not read from, and none of its requests are
//! sent, until the client reads. An answer to a read for such a connection is dropped, and the read is refused as busy;
//! a gateway retries it until its patience runs out. Above the bound, connections that hold much and accept almost no
//! bytes are closed, those that hold most first. A client that reads is served throughout.

use super::{Net, find, find_in, list};
use crate::api::{Refusal, Reply};
use crate::net::conn::Conn;
use crate::net::dialect::Role;
use crate::net::pressure::{FEW_BYTES, Pressure};
use crate::types::Time;
use mio::Token;

/// A connection that accepts fewer bytes than this between two sweeps is stalled.
const TAKEN_MIN: u64 = 16 << 10;
/// A connection may be closed after it was stalled in this many sweeps in a row.
const STALLS_MAX: u8 = 2;

/// Counts the bytes that all clients hold.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    held: usize,
    max: usize,
    pressure: Pressure,
}

impl Memory {
    /// No bytes are held, and at most `max` may be.
    pub fn new(max: usize) -> Memory {
        Memory { held: 0, max, pressure: Pressure::None }
    }

    /// Changes the bound.
    #[cfg(test)]
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
        self.pressure = self.pressure.max(self.level(self.held));
    }

    /// How much of the bound is used. It falls only in `Net::relieve`, which resumes the waiting connections.
    pub fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// How many bytes are held.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Updates the count of what a connection holds.
    pub fn count(&mut self, conn: &mut Conn) {
        if matches!(conn.role, Role::Client(_) | Role::GatewayClient(_)) {
            let held = conn.memory_use();
            self.held = self.held + held - std::mem::replace(&mut conn.held, held);
            self.pressure = self.pressure.max(self.level(self.held));
        }
    }

    /// Subtracts the bytes of a connection that was closed.
    pub fn forget(&mut self, held: usize) {
        self.held -= held;
    }

    fn level(&self, held: usize) -> Pressure {
        match held {
            held if held > self.max => Pressure::Over,
            held if held > self.max / 2 => Pressure::High,
            _ => Pressure::None,
        }
    }
}

impl Net {
    /// Updates the count of what a connection holds.
    pub(super) fn weigh(&mut self, token: Token) {
        if let Some(conn) = find(&mut self.conns, token) {
            self.memory.count(conn);
        }
    }

    /// Returns the reply to a client, or, if it is the answer to a read and the client has too much unread output
    /// already, a refusal.
    pub(super) fn bounded(&self, token: Token, reply: Reply) -> Reply {
        let pressure = self.memory.pressure();
        // Any other reply reports an effect, and must not be dropped.
        let (Reply::Answer { answer: bytes, .. } | Reply::SnapshotChunk { bytes, .. }) = &reply else { return reply };
        let Some(conn) = find_in(&self.conns, token).filter(|_| pressure > Pressure::None) else { return reply };
        let spare = self.memory.max / 4;
        let fits = match pressure {
            Pressure::None => true,
            Pressure::High => conn.lanes.size() <= self.options.client_bytes_mark,
            Pressure::Over => conn.lanes.size() <= FEW_BYTES && self.memory.held <= self.memory.max + spare,
        };
        if fits || bytes.len() <= FEW_BYTES / 16 { reply } else { Reply::Refused(Refusal::Busy) }
    }

    /// Lowers the pressure if fewer bytes are held, and resumes the connections that waited for that.
    pub(super) fn relieve(&mut self) {
        // The threshold is a little lower than that for rising, so that one connection does not make it oscillate.
        let pressure = self.memory.level(self.memory.held + self.memory.max / 16);
        if pressure >= self.memory.pressure {
            return;
        }
        self.memory.pressure = pressure;
        for (_, conn) in &mut self.conns {
            if conn.has_more() && !conn.is_read_suspended(&self.options, pressure) {
                list(&mut self.unread, conn);
            }
            if conn.gateway.is_some() {
                self.gateways.pump_soon(conn.token);
            }
        }
    }

    /// Notes which connections are stalled. Above the bound, closes stalled connections, those that hold most first,
    /// until at most half of the bound is held.
    pub(super) fn sweep_memory(&mut self, now: Time) {
        let mut stalled = Vec::new();
        for (_, conn) in &mut self.conns {
            let taken = conn.lanes.sent() - std::mem::replace(&mut conn.sent_before, conn.lanes.sent());
            let stalls = conn.held > FEW_BYTES && taken < TAKEN_MIN;
            conn.stalls = if stalls { conn.stalls.saturating_add(1) } else { 0 };
            if conn.stalls >= STALLS_MAX {
                stalled.push((conn.held, conn.token));
            }
        }
        if self.memory.pressure < Pressure::Over {
            return;
        }
        let (before, mut closed) = (self.memory.held, 0);
        stalled.sort_unstable();
        while self.memory.held > self.memory.max / 2
            && let Some((_, token)) = stalled.pop()
        {
            self.close(now, token);
            closed += 1;
        }
        if closed > 0 {
            let [before, after, max] = [before, self.memory.held, self.memory.max].map(|bytes| bytes >> 20);
            log::warn!(
                node = self.me.node.get();
                "clients held {before} MiB of this node's memory, mostly replies that they do not read; at most {max} \
                 MiB are allowed: {closed} stalled connections were closed, and {after} MiB are held now"
            );
        }
        self.relieve();
    }
}
