//! Bounds the memory of all clients together: unread replies, requests waiting for answers, and incomplete requests.
//!
//! Each connection has bounds of its own, but there may be ten thousand, so the bytes that all of them hold are
//! counted. Above half of the bound, a connection with unread replies is not read from, and none of its requests are
//! sent, until the client reads. An answer to a read for such a connection is dropped, and the read is refused as busy;
//! a gateway retries it until its patience runs out. Above the bound, connections that hold much and accept almost no
//! bytes are closed, those that hold most first. A client that reads is served throughout.

use crate::net::conn::Conn;
use crate::net::pressure::Pressure;
use crate::net::role::Role;

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

    /// How much of the bound is used. It falls only in `lower_pressure`, whose caller resumes the waiting
    /// connections.
    pub fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// How many bytes are held.
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

    /// How many bytes may be held.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Whether small answers still fit, although more is held than may be.
    pub fn has_spare(&self) -> bool {
        self.held <= self.max + self.max / 4
    }

    /// Lowers the pressure if fewer bytes are held. Returns the new pressure, if it is lower.
    pub fn lower_pressure(&mut self) -> Option<Pressure> {
        // The threshold is a little lower than that for rising, so that one connection does not make it oscillate.
        let pressure = self.level(self.held + self.max / 16);
        let is_lower = pressure < self.pressure;
        self.pressure = self.pressure.min(pressure);
        is_lower.then_some(pressure)
    }

    fn level(&self, held: usize) -> Pressure {
        match held {
            held if held > self.max => Pressure::Over,
            held if held > self.max / 2 => Pressure::High,
            _ => Pressure::None,
        }
    }
}
