//! Committed entries in, outcomes out.
//!
//! The same whoever drives it: given the same entries, however they are cut into batches, it comes
//! to the same outcomes and the same digest on every node.

use super::report::Report;
use super::sessions::{Options, Seen, Sessions};
use crate::api::{Op, Outcome};
use crate::codec::Malformed;
use crate::machine::seam::{Context, StateMachine};
use crate::types::digest::hash_numbers;
use crate::types::{Entry, Index, Mutant, Mutants, NodeId, Payload, SessionId};
use bytes::Bytes;

/// A state machine with the sessions around it.
#[derive(Debug)]
pub struct Applier<M> {
    machine: M,
    sessions: Sessions,
    applied: Index,
    /// Of machine and sessions, as of `applied`.
    digest: u64,
    mutants: Mutants,
    /// Mixed into the digest: zero, unless a mutant says who we are.
    tint: u64,
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
            applied: Index::ZERO,
            digest: 0,
            mutants: Mutants::NONE,
            tint: 0,
        };
        applier.settle();
        applier
    }

    /// The same on that node, with a rule broken.
    pub fn breaking(mut self, mutants: Mutants, node: NodeId) -> Applier<M> {
        self.mutants = mutants;
        self.tint = if mutants.breaks(Mutant::MachineKnowsNode) { node.get() } else { 0 };
        self.settle();
        self
    }

    /// Applies committed entries, the first of them right behind what was applied before.
    pub fn apply(&mut self, entries: &[Entry]) -> Report {
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut duplicates = 0;
        let ops: Vec<_> = entries.iter().map(read).collect();
        self.machine.expect(&mut ops.iter().filter_map(command));
        for (entry, op) in entries.iter().zip(ops) {
            assert_eq!(entry.position.index, self.applied.next(), "entries are applied in order, each once (§5.3)");
            self.applied = entry.position.index;
            self.sessions.advance(entry.time);
            let Some(op) = op else { continue };
            let outcome = self.carry_out(entry, op);
            duplicates += u64::from(matches!(outcome, Outcome::Executed { duplicate: true, .. }));
            outcomes.push((entry.position, outcome));
        }
        self.settle();
        let sessions = self.sessions.count();
        Report { upto: self.applied, outcomes, digest: self.digest, sessions, duplicates }
    }

    fn carry_out(&mut self, entry: &Entry, op: Result<Op, Malformed>) -> Outcome {
        match op {
            Ok(Op::Open { window }) => {
                Outcome::Opened { session: self.sessions.open(entry.position.index, entry.time, window) }
            }
            Ok(Op::Execute { session, seq, lowest, command }) => self.execute(entry, session, seq, lowest, &command),
            Ok(Op::Close { session }) => {
                self.sessions.close(session);
                Outcome::Closed
            }
            Err(_) => Outcome::Malformed,
        }
    }

    fn execute(&mut self, entry: &Entry, session: SessionId, seq: u64, lowest: u64, command: &Bytes) -> Outcome {
        let index = entry.position.index;
        let first = match self.sessions.look(index, entry.time, session, seq, lowest) {
            Seen::Never => None,
            Seen::Before(answer) => Some(answer),
            Seen::Lapsed => return Outcome::Lapsed,
            Seen::Forgotten => return Outcome::Forgotten,
            Seen::Overrun => return Outcome::Overrun,
        };
        if let Some(first) = first
            && !self.mutants.breaks(Mutant::ApplyTwice)
        {
            let forgot = self.mutants.breaks(Mutant::ForgetAnswers).then(|| self.sessions.latest(session)).flatten();
            return Outcome::Executed { answer: forgot.unwrap_or(first), duplicate: true };
        }
        let context = Context { index, time: entry.time };
        let answer = self.machine.apply(&context, command);
        self.sessions.remember(session, seq, answer.clone());
        Outcome::Executed { answer, duplicate: false }
    }

    /// Asks the machine, as of all that was applied.
    pub fn query(&self, query: &[u8]) -> Bytes {
        self.machine.query(query)
    }

    /// Everything up to here is applied.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// A digest of machine and sessions: equal on all nodes at equal index.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    fn settle(&mut self) {
        self.digest = hash_numbers([self.machine.digest(), self.sessions.digest(), self.tint]);
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> u64 {
        self.sessions.count()
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }
}

/// The operation that an entry holds, if it holds any.
fn read(entry: &Entry) -> Option<Result<Op, Malformed>> {
    match &entry.payload {
        Payload::Opaque(bytes) => Some(Op::decode(bytes.clone())),
        Payload::Noop | Payload::Membership(_) => None,
    }
}

fn command(op: &Option<Result<Op, Malformed>>) -> Option<&[u8]> {
    match op {
        Some(Ok(Op::Execute { command, .. })) => Some(command),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
