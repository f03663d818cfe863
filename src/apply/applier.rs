//! Applies committed entries and returns their outcomes.
//!
//! Deterministic: the same entries, in batches of any size, give the same outcomes and the same digest on every node.
//!
//! ```text
//!   entry ──▶ time advances: sessions expire, keys expire ──▶ session: new, repeated or refused? ──▶ machine
//! ```
//!
//! The order of these steps is part of the format of the log. A node of another order would apply the same entries to
//! another state, and no node could tell which one is right; the digest of each report would only show that they
//! differ. For the same reason nothing here depends on the node: no clock, no id, no batch boundary, no iteration over
//! a hash map.

use super::frozen_state::{Piece, StateHeader};
use super::report::Report;
use super::session::CommandState;
use super::sessions::{Options, Sessions};
use crate::api::{Op, Outcome};
use crate::codec::Malformed;
use crate::limits::{ANSWER_BYTES_MAX, PIECE_EXCESS_MAX};
use crate::machine::state_machine::{Context, StateMachine};
use crate::types::digest::hash_numbers;
use crate::types::{ClusterTime, Entry, Index, Mutant, Mutants, NodeId, Payload, Position, SessionId};
use bytes::Bytes;

/// How many commands are announced to the machine at once by a prefetch: the memory that it touches for them must still
/// be in the processor's cache when they are applied.
const EXPECTED: usize = 64;

/// A state machine with the sessions around it.
#[derive(Debug)]
pub struct Applier<M> {
    machine: M,
    sessions: Sessions,
    options: Options,
    /// The position of the last applied entry, and its time.
    position: Position,
    time: ClusterTime,
    /// Digest of machine and sessions as of `position`.
    digest: u64,
    mutants: Mutants,
    /// Mixed into the digest: zero, unless a mutant makes it the node's id.
    digest_salt: u64,
    /// By how many milliseconds the machine's time is ahead of the cluster time: zero, unless a mutant sets it.
    skew: u64,
}

impl<M: StateMachine> Applier<M> {
    /// Creates an applier of `machine`, to which nothing has been applied.
    pub fn new(machine: M) -> Applier<M> {
        Applier::with(machine, Options::default())
    }

    /// Creates an applier whose sessions expire by other limits than the default ones.
    pub fn with(machine: M, options: Options) -> Applier<M> {
        let mut applier = Applier {
            machine,
            sessions: Sessions::new(options),
            options,
            position: Position::ZERO,
            time: ClusterTime::default(),
            digest: 0,
            mutants: Mutants::NONE,
            digest_salt: 0,
            skew: 0,
        };
        applier.settle();
        applier
    }

    /// Sets the broken rule, for the node with id `node`.
    pub fn breaking(mut self, mutants: Mutants, node: NodeId) -> Applier<M> {
        self.mutants = mutants;
        self.skew = if mutants.breaks(Mutant::ExpireByOwnClock) { 100 * node.get() } else { 0 };
        self.digest_salt = if mutants.breaks(Mutant::MachineKnowsNode) { node.get() } else { 0 };
        self.settle();
        self
    }

    /// Applies committed entries. The first one must directly follow the last applied entry.
    pub fn apply(&mut self, entries: &[Entry]) -> Report {
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut duplicates = 0;
        let mut ops = Vec::with_capacity(EXPECTED.min(entries.len()));
        // Decoded ahead of execution, so that the machine can touch the memory of many commands at once: a large table
        // does not fit the processor's caches, and commands one by one would each wait for it.
        for next in entries.chunks(EXPECTED) {
            ops.extend(next.iter().map(read));
            self.machine.prefetch(&mut ops.iter().filter_map(command));
            for (entry, op) in next.iter().zip(ops.drain(..)) {
                self.advance(entry);
                let Some(op) = op else { continue };
                let Some(outcome) = self.carry_out(entry, op) else { continue };
                duplicates += u64::from(matches!(outcome, Outcome::Executed { duplicate: true, .. }));
                outcomes.push((entry.position, outcome));
            }
        }
        self.settle();
        let (sessions, due) = (self.sessions.count(), self.machine.due());
        Report { upto: self.position.index, time: self.time, outcomes, digest: self.digest, sessions, duplicates, due }
    }

    /// Advances position and time to those of the next entry.
    fn advance(&mut self, entry: &Entry) {
        let next = self.position.index.next();
        assert_eq!(entry.position.index, next, "entries are applied in order, each once (§5.3)");
        (self.position, self.time) = (entry.position, entry.time);
        self.sessions.advance(entry.time);
        self.machine.advance(self.machine_time());
    }

    fn machine_time(&self) -> ClusterTime {
        self.skewed(self.time)
    }

    fn skewed(&self, time: ClusterTime) -> ClusterTime {
        ClusterTime(time.0 + self.skew)
    }

    /// Applies an operation, and returns its outcome if a caller may wait for one.
    fn carry_out(&mut self, entry: &Entry, op: Result<Op<&[u8]>, Malformed>) -> Option<Outcome> {
        Some(match op {
            Ok(Op::Tick) => {
                self.machine.expire_due();
                return None;
            }
            Ok(Op::Open { window, ordered }) => {
                Outcome::Opened { session: self.sessions.open(entry.position.index, entry.time, window, ordered) }
            }
            Ok(Op::Execute { session, seq, first_outstanding: lowest, command }) => {
                self.execute(entry, session, seq, lowest, command)
            }
            Ok(Op::Close { session }) => {
                self.sessions.close(session);
                Outcome::Closed
            }
            Err(_) => Outcome::Malformed,
        })
    }

    fn execute(&mut self, entry: &Entry, session: SessionId, seq: u64, lowest: u64, command: &[u8]) -> Outcome {
        let Position { index, term } = entry.position;
        let context = Context { index, term, time: self.machine_time() };
        let first = match self.sessions.lookup(index, entry.time, session, seq, lowest) {
            CommandState::New => None,
            CommandState::Executed(answer) => Some(answer),
            CommandState::SessionExpired => return Outcome::SessionExpired,
            CommandState::ResponseDiscarded if self.mutants.breaks(Mutant::ExecuteGivenUp) => {
                return outcome(Some(self.machine.apply(&context, command)), false);
            }
            CommandState::ResponseDiscarded => return Outcome::ResponseDiscarded,
            CommandState::WindowExceeded => return Outcome::WindowExceeded,
            CommandState::OutOfOrder if self.mutants.breaks(Mutant::ExecuteEarly) => None,
            CommandState::OutOfOrder => {
                if self.mutants.breaks(Mutant::StoreOutOfOrder) {
                    self.sessions.remember(session, seq, None);
                }
                return Outcome::OutOfOrder;
            }
        };
        if let Some(first) = first
            && !self.mutants.breaks(Mutant::ApplyTwice)
        {
            let forgot = self.mutants.breaks(Mutant::ForgetAnswers).then(|| self.sessions.latest(session)).flatten();
            return outcome(forgot.or(first), true);
        }
        // An answer that no frame could carry is not stored. The command stays executed.
        let answer =
            Some(self.machine.apply(&context, command)).filter(|answer| answer.len() as u64 <= ANSWER_BYTES_MAX);
        self.sessions.remember(session, seq, answer.clone());
        outcome(answer, false)
    }

    /// Queries the machine as of the last applied entry. `time` is the cluster time as far as this node knows.
    pub fn query(&self, time: ClusterTime, query: &[u8]) -> Bytes {
        self.machine.query(self.skewed(time.max(self.time)), query)
    }

    /// The last applied index.
    pub fn applied(&self) -> Index {
        self.position.index
    }

    /// The position of the last applied entry.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The cluster time of the last applied entry.
    pub fn time(&self) -> ClusterTime {
        self.time
    }

    /// A digest of machine and sessions: equal on all nodes at equal index.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    fn settle(&mut self) {
        self.digest = hash_numbers([self.machine.digest(), self.sessions.digest(), self.digest_salt]);
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Freezes machine and sessions at the same entry: a snapshot with a command's effect but without its answer would
    /// execute a repeated attempt again. [`Applier::next_chunk`] serializes them while entries are still applied. As
    /// quick as the machine's own [`StateMachine::freeze`].
    pub fn freeze(&mut self) -> StateHeader {
        self.sessions.freeze();
        self.machine.freeze();
        StateHeader { position: self.position, time: self.time, digest: self.digest, sessions: self.sessions.count() }
    }

    /// The next piece of the frozen state, about `bytes` long; `None` after the last one.
    pub fn next_chunk(&mut self, bytes: usize) -> Option<Piece> {
        if let Some(piece) = self.sessions.next_chunk(bytes) {
            return Some(Piece::Sessions(piece));
        }
        let piece = self.machine.next_chunk(bytes)?;
        let most = bytes.saturating_add(PIECE_EXCESS_MAX);
        assert!(piece.len() <= most, "a machine's chunk is at most PIECE_EXCESS_MAX longer than requested");
        Some(Piece::Machine(piece))
    }

    /// Drops the frozen state.
    pub fn end_snapshot(&mut self) {
        self.sessions.end_snapshot();
        self.machine.end_snapshot();
    }

    /// Creates an applier of the same kind that has applied nothing.
    pub(super) fn empty(&self) -> Applier<M> {
        let empty = Applier::with(self.machine.empty(), self.options);
        Applier { mutants: self.mutants, digest_salt: self.digest_salt, skew: self.skew, ..empty }
    }

    /// Adds the next piece of another applier's state.
    pub(super) fn restore(&mut self, piece: &Piece) -> Result<(), Malformed> {
        match piece {
            Piece::Sessions(bytes) => self.sessions.restore(bytes),
            Piece::Machine(bytes) => self.machine.restore(bytes),
        }
    }

    /// Completes a restore: sets position and time, and checks sessions and digest against `head`.
    pub(super) fn restored(&mut self, head: &StateHeader) -> Result<(), Malformed> {
        (self.position, self.time) = (head.position, head.time);
        if self.mutants.breaks(Mutant::AdvanceTimeBeforeDigest) {
            self.machine.advance(self.machine_time());
        }
        // The digest is compared before time advances: a command may have created a key that expires at the time of its
        // own entry. That key is part of the frozen state, and expires with the next entry, here as on every other
        // node.
        self.settle();
        if self.sessions.used() > head.position.index {
            return Err(Malformed("a session was used after the snapshot was taken"));
        }
        if (self.digest, self.sessions.count()) != (head.digest, head.sessions) {
            return Err(Malformed("the restored state is not the one that the snapshot names"));
        }
        self.machine.resume(self.machine_time());
        Ok(())
    }
}

/// The outcome of an execution. `None` stands for an answer that was too long.
fn outcome(answer: Option<Bytes>, duplicate: bool) -> Outcome {
    answer.map_or(Outcome::AnswerTooLong, |answer| Outcome::Executed { answer, duplicate })
}

/// The operation that an entry holds, if any.
fn read(entry: &Entry) -> Option<Result<Op<&[u8]>, Malformed>> {
    match &entry.payload {
        Payload::Opaque(bytes) => Some(Op::read(bytes)),
        Payload::Noop | Payload::Membership(_) => None,
    }
}

fn command<'a>(op: &Option<Result<Op<&'a [u8]>, Malformed>>) -> Option<&'a [u8]> {
    match op {
        Some(Ok(Op::Execute { command, .. })) => Some(command),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
