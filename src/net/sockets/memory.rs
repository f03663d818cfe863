//! Bounds the memory of all clients together: unread replies, queued requests, and incomplete requests.
//!
//! Each connection has bounds of its own, but there may be ten thousand connections, so their bytes are counted
//! together. Above half of the bound, a connection with unread replies is not read from, and none of its requests are
//! sent to the node, until the client reads. An answer to a read for such a connection is dropped, and the read is
//! refused as busy; a gateway retries the read until its time limit. Above the bound, connections that hold much and
//! accept almost no bytes are closed, beginning with those that hold most. A client that reads its replies is served
//! throughout.

use crate::net::conn::Conn;
use crate::net::memory_pressure::MemoryPressure;
use crate::net::role::Role;

/// The memory of all clients together, its bound, and the resulting pressure.
#[derive(Clone, Copy, Debug)]
pub struct ClientMemory {
    held_bytes: usize,
    max_bytes: usize,
    pressure: MemoryPressure,
}

impl ClientMemory {
    /// Creates a count of 0 bytes with the bound `max_bytes`.
    pub fn new(max_bytes: usize) -> ClientMemory {
        ClientMemory { held_bytes: 0, max_bytes, pressure: MemoryPressure::None }
    }

    /// Changes the bound, and raises the pressure if necessary.
    #[cfg(test)]
    pub fn set_max_bytes(&mut self, max_bytes: usize) {
        self.max_bytes = max_bytes;
        self.pressure = self.pressure.max(self.pressure_at(self.held_bytes));
    }

    /// The level of memory use. It rises at once, and falls only in [`ClientMemory::lower_pressure`], whose caller
    /// resumes the waiting connections.
    pub fn pressure(&self) -> MemoryPressure {
        self.pressure
    }

    /// The bytes of all clients together, as last counted.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Adds the change of a client's memory since its last count. Peers are ignored.
    pub fn update(&mut self, conn: &mut Conn) {
        if matches!(conn.role, Role::Client(_) | Role::GatewayClient(_)) {
            let held_bytes = conn.memory_bytes();
            self.held_bytes =
                self.held_bytes + held_bytes - std::mem::replace(&mut conn.counted_memory_bytes, held_bytes);
            self.pressure = self.pressure.max(self.pressure_at(self.held_bytes));
        }
    }

    /// Subtracts the bytes of a connection that was closed.
    pub fn subtract(&mut self, held_bytes: usize) {
        self.held_bytes -= held_bytes;
    }

    /// The bytes that all clients together may hold. Above this bound, stalled clients are disconnected.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Whether at most 1.25 times the bound is held, so that small answers are still sent.
    pub fn fits_small_answers(&self) -> bool {
        self.held_bytes <= self.max_bytes + self.max_bytes / 4
    }

    /// Lowers the pressure if fewer bytes are held now. Returns the new pressure; `None` if it is not lower.
    pub fn lower_pressure(&mut self) -> Option<MemoryPressure> {
        // The threshold for falling is a little lower than that for rising, so that a single connection does not make
        // the pressure oscillate.
        let pressure = self.pressure_at(self.held_bytes + self.max_bytes / 16);
        let is_lower = pressure < self.pressure;
        self.pressure = self.pressure.min(pressure);
        is_lower.then_some(pressure)
    }

    fn pressure_at(&self, held_bytes: usize) -> MemoryPressure {
        match held_bytes {
            held_bytes if held_bytes > self.max_bytes => MemoryPressure::OverBound,
            held_bytes if held_bytes > self.max_bytes / 2 => MemoryPressure::High,
            _ => MemoryPressure::None,
        }
    }
}
