//! Committed entries in, outcomes out.
//!
//! The same whoever drives it: given the same entries, however they are cut into batches, it comes
//! to the same outcomes and the same digest on every node.

use super::report::Report;
use super::restoring::{Piece, Restoring, StateHeader};
use super::session::CommandState;
use super::sessions::{Options, Sessions};
use crate::api::{Op, Outcome};
use crate::codec::Malformed;
use crate::limits::{ANSWER_BYTES_MAX, PIECE_EXCESS_MAX};
use crate::machine::state_machine::{Context, StateMachine};
use crate::types::digest::hash_numbers;
use crate::types::{ClusterTime, Entry, Index, Mutant, Mutants, NodeId, Payload, Position, SessionId};
use bytes::Bytes;

/// A machine is told of so many commands ahead: what it has looked at for them must still be in the
/// processor's cache when their turn comes.
const EXPECTED: usize = 64;

/// A state machine with the sessions around it.
#[derive(Debug)]
pub struct Applier<M> {
    machine: M,
    sessions: Sessions,
    options: Options,
    /// The last entry that was applied, and its time.
    position: Position,
    time: ClusterTime,
    /// Of machine and sessions, as of there.
    digest: u64,
    mutants: Mutants,
    /// Mixed into the digest: zero, unless a mutant says who we are.
    tint: u64,
    /// By how many milliseconds the machine's time differs from the cluster's: zero, unless a mutant says so.
    skew: u64,
}

impl<M: StateMachine> Applier<M> {
    /// That machine, to which nothing has been applied.
    pub fn new(machine: M) -> Applier<M> {
        Applier::with(machine, Options::default())
    }

    /// The same, with sessions that lapse by other limits than every node's.
    pub fn with(machine: M, options: Options) -> Applier<M> {
        let mut applier = Applier {
            machine,
            sessions: Sessions::new(options),
            options,
            position: Position::ZERO,
            time: ClusterTime::default(),
            digest: 0,
            mutants: Mutants::NONE,
            tint: 0,
            skew: 0,
        };
        applier.settle();
        applier
    }

    /// The same on that node, with a rule broken.
    pub fn breaking(mut self, mutants: Mutants, node: NodeId) -> Applier<M> {
        self.mutants = mutants;
        self.skew = if mutants.breaks(Mutant::ExpireByOwnClock) { 100 * node.get() } else { 0 };
        self.tint = if mutants.breaks(Mutant::MachineKnowsNode) { node.get() } else { 0 };
        self.settle();
        self
    }

    /// Applies committed entries, the first of them right behind what was applied before.
    pub fn apply(&mut self, entries: &[Entry]) -> Report {
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut duplicates = 0;
        let mut ops = Vec::with_capacity(EXPECTED.min(entries.len()));
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

    /// The next entry's turn has come.
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

    /// What it came to, if it is anything that somebody may wait for.
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
        let first = match self.sessions.look(index, entry.time, session, seq, lowest) {
            CommandState::Never => None,
            CommandState::Before(answer) => Some(answer),
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
        let answer =
            Some(self.machine.apply(&context, command)).filter(|answer| answer.len() as u64 <= ANSWER_BYTES_MAX);
        self.sessions.remember(session, seq, answer.clone());
        outcome(answer, false)
    }

    /// Asks the machine, as of all that was applied; `time` is what this node knows of the cluster's clock.
    pub fn query(&self, time: ClusterTime, query: &[u8]) -> Bytes {
        self.machine.query(self.skewed(time.max(self.time)), query)
    }

    /// Everything up to here is applied.
    pub fn applied(&self) -> Index {
        self.position.index
    }

    /// The last entry that was applied.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The cluster's time in that entry.
    pub fn time(&self) -> ClusterTime {
        self.time
    }

    /// A digest of machine and sessions: equal on all nodes at equal index.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    fn settle(&mut self) {
        self.digest = hash_numbers([self.machine.digest(), self.sessions.digest(), self.tint]);
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Fixes all as it is now, to be told by [`Applier::piece`] while entries go on being applied. As
    /// quick as the machine's own [`StateMachine::freeze`].
    pub fn freeze(&mut self) -> StateHeader {
        self.sessions.freeze();
        self.machine.freeze();
        StateHeader { position: self.position, time: self.time, digest: self.digest, sessions: self.sessions.count() }
    }

    /// The next piece of what was frozen, about `bytes` long; `None` when all was told.
    pub fn piece(&mut self, bytes: usize) -> Option<Piece> {
        if let Some(piece) = self.sessions.piece(bytes) {
            return Some(Piece::Sessions(piece));
        }
        let piece = self.machine.next_chunk(bytes)?;
        let most = bytes.saturating_add(PIECE_EXCESS_MAX);
        assert!(piece.len() <= most, "a machine's piece is at most PIECE_EXCESS_MAX longer than asked for");
        Some(Piece::Machine(piece))
    }

    /// Forgets what was frozen.
    pub fn thaw(&mut self) {
        self.sessions.thaw();
        self.machine.end_snapshot();
    }

    /// Another applier of this kind, to be made of a snapshot.
    pub fn restoring(&self) -> Restoring<M> {
        let empty = Applier::with(self.machine.empty(), self.options);
        Restoring::new(Applier { mutants: self.mutants, tint: self.tint, skew: self.skew, ..empty })
    }

    /// Takes in the next piece of what another told.
    pub(super) fn restore(&mut self, piece: &Piece) -> Result<(), Malformed> {
        match piece {
            Piece::Sessions(bytes) => self.sessions.restore(bytes),
            Piece::Machine(bytes) => self.machine.restore(bytes),
        }
    }

    /// All has been taken in: is it what the other froze?
    pub(super) fn restored(&mut self, head: &StateHeader) -> Result<(), Malformed> {
        (self.position, self.time) = (head.position, head.time);
        if self.mutants.breaks(Mutant::AdvanceTimeBeforeDigest) {
            self.machine.advance(self.machine_time());
        }
        // Before time goes on: a command may have made what ends at the time of its own entry. It is part of the
        // frozen state, and ends with the next entry, here as on every other node.
        self.settle();
        if self.sessions.used() > head.position.index {
            return Err(Malformed("a session was used after the snapshot was taken"));
        }
        if (self.digest, self.sessions.count()) != (head.digest, head.sessions) {
            return Err(Malformed("what was told is not the state that the snapshot names"));
        }
        self.machine.resume(self.machine_time());
        Ok(())
    }
}

/// What an execution came to; without an answer if that was too long.
fn outcome(answer: Option<Bytes>, duplicate: bool) -> Outcome {
    answer.map_or(Outcome::AnswerTooLong, |answer| Outcome::Executed { answer, duplicate })
}

/// The operation that an entry holds, if it holds any.
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
