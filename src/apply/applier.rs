//! Applies committed entries and returns their outcomes.
//!
//! An applier is deterministic: the same entries, in batches of any size, give the same outcomes and the same digest on
//! every node.
//!
//! ```text
//!   entry ──▶ time advances: sessions expire, keys expire ──▶ session: new, repeated or refused? ──▶ machine
//! ```
//!
//! The order of these steps is part of the format of the log. A node with another order would reach another state from
//! the same entries, and no node could tell which state is right; the digests in the reports would only show that they
//! differ. For the same reason the applier depends on nothing that differs between nodes: no clock, no id, no batch
//! boundary, no iteration over a hash map.

use super::frozen_state::{Piece, StateHeader};
use super::report::Report;
use super::session::CommandState;
use super::sessions::{Options, Sessions};
use crate::api::{Op, Outcome};
use crate::codec::Malformed;
use crate::limits::{ANSWER_BYTES_MAX, CHUNK_EXCESS_BYTES_MAX};
use crate::machine::state_machine::{Context, StateMachine};
use crate::types::digest::hash_numbers;
use crate::types::{ClusterTime, Entry, Index, Mutant, Mutants, NodeId, Payload, Position, SessionId};
use bytes::Bytes;

/// The most commands that the machine prefetches at once: the memory that it reads for them must still be in the
/// processor's cache when the commands are applied.
const PREFETCHED_COMMANDS_MAX: usize = 64;

/// A state machine with the sessions around it.
#[derive(Debug)]
pub struct Applier<M> {
    machine: M,
    sessions: Sessions,
    session_options: Options,
    /// The position of the last applied entry; zero before the first.
    applied_position: Position,
    /// The cluster time of the last applied entry; zero before the first.
    applied_time: ClusterTime,
    /// The feature level of the last applied configuration.
    feature_level: u16,
    /// The digest of machine and sessions as of `applied_position`.
    digest: u64,
    /// The safety rules that are broken on purpose: none, outside tests.
    mutants: Mutants,
    /// A number mixed into the digest: zero, unless the mutant `machine-knows-node` sets it to the node's id.
    digest_salt: u64,
    /// How far the machine's time is ahead of the cluster time, in milliseconds: zero, unless a mutant sets it.
    machine_clock_ahead_ms: u64,
}

impl<M: StateMachine> Applier<M> {
    /// Creates an applier of `machine`, to which no entry has been applied.
    pub fn new(machine: M) -> Applier<M> {
        Applier::with_options(machine, Options::default())
    }

    /// Creates an applier whose sessions expire by the limits in `options`, which must be the same on every node.
    pub fn with_options(machine: M, options: Options) -> Applier<M> {
        let mut applier = Applier {
            machine,
            sessions: Sessions::new(options),
            session_options: options,
            applied_position: Position::ZERO,
            applied_time: ClusterTime::default(),
            feature_level: 1,
            digest: 0,
            mutants: Mutants::NONE,
            digest_salt: 0,
            machine_clock_ahead_ms: 0,
        };
        applier.update_digest();
        applier
    }

    /// Breaks the rules that `mutants` names, on the node with id `node`.
    pub fn with_mutants(mut self, mutants: Mutants, node: NodeId) -> Applier<M> {
        self.mutants = mutants;
        self.machine_clock_ahead_ms = if mutants.breaks(Mutant::ExpireByOwnClock) { 100 * node.get() } else { 0 };
        self.digest_salt = if mutants.breaks(Mutant::MachineKnowsNode) { node.get() } else { 0 };
        self.update_digest();
        self
    }

    /// Applies committed entries. The first one must directly follow the last applied entry.
    pub fn apply(&mut self, entries: &[Entry]) -> Report {
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut duplicate_count = 0;
        let mut decoded_ops = Vec::with_capacity(PREFETCHED_COMMANDS_MAX.min(entries.len()));
        // Operations are decoded before they are executed, so that the machine can touch the memory of many commands
        // at once: a large table does not fit the processor's caches, and each single command would wait for memory.
        for batch in entries.chunks(PREFETCHED_COMMANDS_MAX) {
            decoded_ops.extend(batch.iter().map(decode_op));
            self.machine.prefetch(&mut decoded_ops.iter().filter_map(command_of));
            for (entry, op) in batch.iter().zip(decoded_ops.drain(..)) {
                self.advance_to(entry);
                let Some(op) = op else { continue };
                let Some(outcome) = self.apply_op(entry, op) else { continue };
                duplicate_count += u64::from(matches!(outcome, Outcome::Executed { duplicate: true, .. }));
                outcomes.push((entry.position, outcome));
            }
        }
        self.update_digest();
        let (sessions, next_deadline) = (self.sessions.count(), self.machine.next_deadline());
        Report {
            upto: self.applied_position.index,
            time: self.applied_time,
            outcomes,
            digest: self.digest,
            sessions,
            duplicates: duplicate_count,
            next_deadline,
        }
    }

    /// Advances position and time to those of the next entry.
    fn advance_to(&mut self, entry: &Entry) {
        let next_index = self.applied_position.index.next();
        assert_eq!(entry.position.index, next_index, "entries are applied in order, each once (§5.3)");
        (self.applied_position, self.applied_time) = (entry.position, entry.time);
        if let Payload::Membership(membership) = &entry.payload {
            self.feature_level = membership.feature_level;
        }
        self.sessions.expire_idle(entry.time);
        self.machine.advance(self.machine_time());
    }

    fn machine_time(&self) -> ClusterTime {
        self.skew_time(self.applied_time)
    }

    fn skew_time(&self, time: ClusterTime) -> ClusterTime {
        ClusterTime(time.0 + self.machine_clock_ahead_ms)
    }

    /// Applies an operation. Returns its outcome, or `None` for a tick, for which no caller waits.
    fn apply_op(&mut self, entry: &Entry, op: Result<Op<&[u8]>, Malformed>) -> Option<Outcome> {
        Some(match op {
            Ok(Op::Tick) => {
                self.machine.expire_due();
                return None;
            }
            Ok(Op::Open { window, ordered }) => {
                Outcome::Opened { session: self.sessions.open(entry.position.index, entry.time, window, ordered) }
            }
            Ok(Op::Execute { session, seq, first_outstanding, command }) => {
                self.execute(entry, session, seq, first_outstanding, command)
            }
            Ok(Op::Close { session }) => {
                self.sessions.close(session);
                Outcome::Closed
            }
            Err(_) => Outcome::Malformed,
        })
    }

    fn execute(
        &mut self,
        entry: &Entry,
        session: SessionId,
        seq: u64,
        first_outstanding: u64,
        command: &[u8],
    ) -> Outcome {
        let Position { index, term } = entry.position;
        let context = Context { index, term, time: self.machine_time(), feature_level: self.feature_level };
        let first_answer = match self.sessions.lookup(index, entry.time, session, seq, first_outstanding) {
            CommandState::New => None,
            CommandState::Executed(answer) => Some(answer),
            CommandState::SessionExpired => return Outcome::SessionExpired,
            CommandState::ResponseDiscarded if self.mutants.breaks(Mutant::ExecuteGivenUp) => {
                return outcome_of(Some(self.machine.apply(&context, command)), false);
            }
            CommandState::ResponseDiscarded => return Outcome::ResponseDiscarded,
            CommandState::WindowExceeded => return Outcome::WindowExceeded,
            CommandState::OutOfOrder if self.mutants.breaks(Mutant::ExecuteEarly) => None,
            CommandState::OutOfOrder => {
                if self.mutants.breaks(Mutant::StoreOutOfOrder) {
                    self.sessions.store_answer(session, seq, None);
                }
                return Outcome::OutOfOrder;
            }
        };
        if let Some(first_answer) = first_answer
            && !self.mutants.breaks(Mutant::ApplyTwice)
        {
            let latest_answer =
                self.mutants.breaks(Mutant::ForgetAnswers).then(|| self.sessions.latest_answer(session)).flatten();
            return outcome_of(latest_answer.or(first_answer), true);
        }
        // An answer that is too long for a frame is not stored. The command counts as executed all the same.
        let answer =
            Some(self.machine.apply(&context, command)).filter(|answer| answer.len() as u64 <= ANSWER_BYTES_MAX);
        self.sessions.store_answer(session, seq, answer.clone());
        outcome_of(answer, false)
    }

    /// Queries the machine's state as of the last applied entry. `time` is the cluster time as far as this node knows.
    pub fn query(&self, time: ClusterTime, query: &[u8]) -> Bytes {
        self.machine.query(self.skew_time(time.max(self.applied_time)), query)
    }

    /// The last applied index.
    pub fn applied(&self) -> Index {
        self.applied_position.index
    }

    /// The position of the last applied entry.
    pub fn position(&self) -> Position {
        self.applied_position
    }

    /// The cluster time of the last applied entry.
    pub fn time(&self) -> ClusterTime {
        self.applied_time
    }

    /// A digest of machine and sessions: equal on all nodes at equal index.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    fn update_digest(&mut self) {
        self.digest = hash_numbers([self.machine.digest(), self.sessions.digest(), self.digest_salt]);
    }

    /// The state machine, to which all entries up to [`Applier::applied`] are applied.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Freezes machine and sessions at the same entry: a node restored from a snapshot with a command's effect but
    /// without its answer would execute a repeated attempt again. [`Applier::next_chunk`] serializes the frozen state
    /// while more entries are applied. Takes as long as the machine's own [`StateMachine::freeze`].
    pub fn freeze(&mut self) -> StateHeader {
        self.sessions.freeze();
        self.machine.freeze();
        StateHeader {
            position: self.applied_position,
            time: self.applied_time,
            digest: self.digest,
            sessions: self.sessions.count(),
            feature_level: self.feature_level,
        }
    }

    /// The next chunk of the serialized frozen state, about `bytes` long; `None` after the last one.
    pub fn next_chunk(&mut self, bytes: usize) -> Option<Piece> {
        if let Some(chunk) = self.sessions.next_chunk(bytes) {
            return Some(Piece::Sessions(chunk));
        }
        let chunk = self.machine.next_chunk(bytes)?;
        let chunk_bytes_max = bytes.saturating_add(CHUNK_EXCESS_BYTES_MAX);
        assert!(
            chunk.len() <= chunk_bytes_max,
            "a machine's chunk is at most CHUNK_EXCESS_BYTES_MAX bytes longer than requested"
        );
        Some(Piece::Machine(chunk))
    }

    /// Drops the frozen state, whether or not all of it was serialized.
    pub fn end_snapshot(&mut self) {
        self.sessions.end_snapshot();
        self.machine.end_snapshot();
    }

    /// Creates an empty applier with the same kind of machine and the same options.
    pub(super) fn empty(&self) -> Applier<M> {
        let empty_applier = Applier::with_options(self.machine.empty(), self.session_options);
        Applier {
            mutants: self.mutants,
            digest_salt: self.digest_salt,
            machine_clock_ahead_ms: self.machine_clock_ahead_ms,
            ..empty_applier
        }
    }

    /// Restores the next chunk of another applier's serialized state: first all chunks of the sessions.
    pub(super) fn restore(&mut self, chunk: &Piece) -> Result<(), Malformed> {
        match chunk {
            Piece::Sessions(bytes) => self.sessions.restore(bytes),
            Piece::Machine(bytes) => self.machine.restore(bytes),
        }
    }

    /// Completes a restore: sets position and time, and checks sessions and digest against `header`.
    pub(super) fn finish_restore(&mut self, header: &StateHeader) -> Result<(), Malformed> {
        (self.applied_position, self.applied_time) = (header.position, header.time);
        self.feature_level = header.feature_level;
        if self.mutants.breaks(Mutant::AdvanceTimeBeforeDigest) {
            self.machine.advance(self.machine_time());
        }
        // The digest is compared before time advances: a command may have created a key that expires at the time of the
        // command's own entry. That key is part of the frozen state, and expires with the next entry, as on every other
        // node.
        self.update_digest();
        if self.sessions.latest_use() > header.position.index {
            return Err(Malformed("a session was used after the snapshot was taken"));
        }
        if (self.digest, self.sessions.count()) != (header.digest, header.sessions) {
            return Err(Malformed("the restored state's digest or session count is not that of the snapshot's header"));
        }
        self.machine.finish_restore(self.machine_time());
        Ok(())
    }
}

/// The outcome of an execution. `None` stands for an answer that was too long.
fn outcome_of(answer: Option<Bytes>, duplicate: bool) -> Outcome {
    answer.map_or(Outcome::AnswerTooLong, |answer| Outcome::Executed { answer, duplicate })
}

/// The decoded operation of an entry; `None` for a no-op or a membership.
fn decode_op(entry: &Entry) -> Option<Result<Op<&[u8]>, Malformed>> {
    match &entry.payload {
        Payload::Opaque(bytes) => Some(Op::read(bytes)),
        Payload::Noop | Payload::Membership(_) => None,
    }
}

fn command_of<'a>(op: &Option<Result<Op<&'a [u8]>, Malformed>>) -> Option<&'a [u8]> {
    match op {
        Some(Ok(Op::Execute { command, .. })) => Some(command),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
