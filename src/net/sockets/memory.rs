//! Memory of all clients together: what they have not read, what they wait for, and what has not come whole.
//!
//! Each connection has bounds of its own, and there may be ten thousand. So the bytes that all of them hold are counted.
//! From half of the bound on, a connection that has something to read is neither read from nor asked for: it reads
//! first. An answer to a read for such a connection is dropped, and the read counts as refused: busy; a gateway asks
//! again until its patience is over. Above the bound, connections that hold much and take next to nothing are closed,
//! those that hold most first. A client that reads is served all the while.

use super::{Net, find, find_in, list};
use crate::api::{Refusal, Reply};
use crate::net::conn::Conn;
use crate::net::dialect::Role;
use crate::net::pressure::{FEW_BYTES, Pressure};
use crate::types::Time;
use mio::Token;

/// A connection that takes fewer bytes than this between two sweeps is stalled.
const TAKEN_MIN: u64 = 16 << 10;
/// After so many sweeps in which it was stalled, a connection may be closed.
const STALLS_MAX: u8 = 2;

/// When so many bytes came and went, free memory is given back once they have ceased to.
const LOAD_BYTES: u64 = 16 << 20;
/// As long as more than this comes and goes between two sweeps, they have not. Heartbeats are less.
const QUIET_BYTES: u64 = 64 << 10;
/// After so many quiet sweeps a load is over. What is given back and asked for again costs a fault for each page: a
/// load that pauses for some seconds keeps its memory.
const QUIET_SWEEPS: u8 = 10;

/// How many bytes all clients hold.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    held: usize,
    max: usize,
    pressure: Pressure,
    /// How many bytes came and went since the last sweep, and since free memory was last given back.
    lately: u64,
    moved: u64,
    /// How many sweeps in a row found quiet.
    quiet: u8,
}

impl Memory {
    /// Nothing is held, and that much may be.
    pub fn new(max: usize) -> Memory {
        Memory { held: 0, max, pressure: Pressure::None, lately: 0, moved: 0, quiet: 0 }
    }

    /// That much may be held from now on.
    #[cfg(test)]
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
        self.pressure = self.pressure.max(self.level(self.held));
    }

    /// How much of the bound is used. It falls only in `Net::relieve`, where those that waited go on.
    pub fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// How many bytes are held.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Counts anew what that connection holds.
    pub fn count(&mut self, conn: &mut Conn) {
        if matches!(conn.role, Role::Client(_) | Role::Guest(_)) {
            let held = conn.weigh();
            self.held = self.held + held - std::mem::replace(&mut conn.held, held);
            self.pressure = self.pressure.max(self.level(self.held));
        }
    }

    /// A connection that held that much is gone.
    pub fn forget(&mut self, held: usize) {
        self.held -= held;
        self.moves(held as u64);
    }

    /// Much was freed elsewhere: the allocator keeps it, as after a load.
    pub fn load_went(&mut self) {
        self.moves(LOAD_BYTES);
    }

    /// So many bytes came, or went.
    pub fn moves(&mut self, bytes: u64) {
        self.lately += bytes;
    }

    /// At a sweep: whether a load is over, after which the allocator keeps much that is free. Once for each load.
    pub fn load_ends(&mut self) -> bool {
        let lately = std::mem::take(&mut self.lately);
        self.moved += lately;
        self.quiet = if lately < QUIET_BYTES { self.quiet.saturating_add(1) } else { 0 };
        let ends = self.is_loaded() && self.quiet >= QUIET_SWEEPS;
        if ends {
            self.moved = 0;
        }
        ends
    }

    /// Whether there was so much load that its end has to be noticed.
    pub fn is_loaded(&self) -> bool {
        self.moved >= LOAD_BYTES
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
    /// Counts anew what that connection holds.
    pub(super) fn weigh(&mut self, token: Token) {
        if let Some(conn) = find(&mut self.conns, token) {
            self.memory.count(conn);
        }
    }

    /// The answer to a client, or, where it asked for something to read and has enough of that already, a refusal.
    pub(super) fn bounded(&self, token: Token, reply: Reply) -> Reply {
        let pressure = self.memory.pressure();
        // Whatever else is answered tells of something that has happened.
        let (Reply::Answer { answer: bytes, .. } | Reply::SnapshotPiece { bytes, .. }) = &reply else { return reply };
        let Some(conn) = find_in(&self.conns, token).filter(|_| pressure > Pressure::None) else { return reply };
        let spare = self.memory.max / 4;
        let fits = match pressure {
            Pressure::None => true,
            Pressure::High => conn.lanes.size() <= self.options.client_bytes_mark,
            Pressure::Over => conn.lanes.size() <= FEW_BYTES && self.memory.held <= self.memory.max + spare,
        };
        if fits || bytes.len() <= FEW_BYTES / 16 { reply } else { Reply::Refused(Refusal::Busy) }
    }

    /// The log, or the state, has become much smaller: what is free is given back once there is quiet.
    pub fn frees_much(&mut self, now: Time) {
        self.memory.load_went();
        self.look_over(now);
    }

    /// Where less is held than before, connections that waited for that go on.
    pub(super) fn relieve(&mut self) {
        // A little below, lest one connection more or less turn it to and fro.
        let pressure = self.memory.level(self.memory.held + self.memory.max / 16);
        if pressure >= self.memory.pressure {
            return;
        }
        self.memory.pressure = pressure;
        for (_, conn) in &mut self.conns {
            if conn.has_more() && !conn.rests(&self.options, pressure) {
                list(&mut self.unread, conn);
            }
            if conn.speech.is_some() {
                self.doors.pump_soon(conn.token);
            }
        }
    }

    /// Notes which connections take nothing; where all hold too much, closes those of them that hold most.
    pub(super) fn sweep_memory(&mut self, now: Time) {
        let mut stalled = Vec::new();
        for (_, conn) in &mut self.conns {
            let taken = conn.lanes.sent() - std::mem::replace(&mut conn.sent_before, conn.lanes.sent());
            self.memory.lately += taken;
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
                "clients held {before} MiB of this node's memory, mostly answers that they do not read; at most {max} MiB \
                 are allowed: {closed} connections that took nothing were closed, and {after} MiB are held now"
            );
        }
        self.relieve();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sweep after so many bytes moved: whether a load is over, and whether one goes on.
    fn sweep(memory: &mut Memory, bytes: u64) -> (bool, bool) {
        memory.moves(bytes);
        (memory.load_ends(), memory.is_loaded())
    }

    #[test]
    fn load_ends_once_when_it_was_large_and_nothing_moves_for_a_while() {
        let mut memory = Memory::new(1 << 20);
        assert_eq!(sweep(&mut memory, LOAD_BYTES - 1), (false, false));
        assert_eq!(sweep(&mut memory, QUIET_BYTES), (false, true), "it goes on");
        for _ in 1..QUIET_SWEEPS {
            assert_eq!(sweep(&mut memory, QUIET_BYTES - 1), (false, true), "it may have paused");
        }
        assert_eq!(sweep(&mut memory, QUIET_BYTES - 1), (true, false));
        assert_eq!(sweep(&mut memory, 0), (false, false), "once");
        assert_eq!(sweep(&mut memory, LOAD_BYTES - 1), (false, false));
    }

    #[test]
    fn load_that_pauses_keeps_its_memory() {
        let mut memory = Memory::new(1 << 20);
        for _ in 0..3 {
            assert_eq!(sweep(&mut memory, LOAD_BYTES), (false, true));
            for _ in 1..QUIET_SWEEPS {
                assert_eq!(sweep(&mut memory, 0), (false, true));
            }
        }
        assert_eq!(sweep(&mut memory, QUIET_BYTES), (false, true), "it goes on");
        assert_eq!(sweep(&mut memory, 0), (false, true));
    }
}
