//! Checks that the commands of ordered sessions take effect in the order of their numbers, each once, where they are
//! applied; and that the replies to connections agree with it.
//!
//! The rules are written here a second time, independent of the session table that they check.

use super::violation::Result;
use crate::api::{Op, Outcome};
use crate::machine::commands::{Command, Step};
use crate::types::{Entry, Index, Payload, SessionId};
use std::collections::{BTreeMap, BTreeSet};

/// An ordered session, reconstructed from the log and the outcomes.
#[derive(Debug, Default)]
struct OrderedSession {
    executed: BTreeSet<u64>,
    /// The lowest outstanding number of its client.
    lowest: u64,
}

impl OrderedSession {
    /// Whether each number from the lowest outstanding one to the one before `seq` has executed.
    fn is_next(&self, seq: u64) -> bool {
        (self.lowest.max(1)..seq).all(|before| self.executed.contains(&before))
    }

    /// Describes what is wrong with an outcome of that number, if anything is.
    fn judge(&mut self, seq: u64, outcome: &Outcome) -> Option<&'static str> {
        let before = self.executed.contains(&seq);
        match outcome {
            Outcome::Executed { duplicate: false, .. } => {
                let next = self.is_next(seq);
                let behind = self.executed.last().is_some_and(|last| *last > seq);
                self.executed.insert(seq);
                match () {
                    () if before => Some("executes twice"),
                    () if seq < self.lowest => Some("executes after the client abandoned it"),
                    () if behind => Some("executes after a higher one"),
                    () if !next => Some("executes before a lower one"),
                    () => None,
                }
            }
            Outcome::Executed { duplicate: true, .. } | Outcome::AnswerTooLong if !before => {
                Some("is answered as executed, and was not executed")
            }
            Outcome::OutOfOrder if before => Some("is rejected as out of order, and was executed"),
            Outcome::OutOfOrder if self.is_next(seq) => Some("is rejected as out of order, and is next"),
            Outcome::ResponseDiscarded if seq >= self.lowest => Some("is outstanding, and its response was discarded"),
            _ => None,
        }
    }
}

/// The commands of one connection, by their counters.
#[derive(Debug, Default)]
struct Writer {
    /// The executed commands, in order.
    executed: Vec<u64>,
    /// The commands answered "nothing was applied".
    refused: BTreeSet<u64>,
}

/// The ordered sessions, and the connections that use them.
#[derive(Debug, Default)]
pub struct Order {
    upto: Index,
    sessions: BTreeMap<SessionId, OrderedSession>,
    writers: BTreeMap<u64, Writer>,
}

/// The key that a connection appends to.
pub fn key(writer: u64) -> String {
    format!("pipelined/{writer}")
}

/// The text that it appends.
pub fn tail(counter: u64) -> String {
    format!("{counter},")
}

/// The connections and counters that a command appends.
fn appended(command: &Command<'_>) -> Vec<(u64, u64)> {
    let one = |command: &Command<'_>| match command {
        Command::Append { key, tail } => {
            let writer = std::str::from_utf8(key).ok()?.strip_prefix("pipelined/")?.parse().ok()?;
            Some((writer, std::str::from_utf8(tail).ok()?.strip_suffix(',')?.parse().ok()?))
        }
        _ => None,
    };
    match command {
        Command::Block(steps) => {
            let commands = steps.iter().filter_map(|step| match step {
                Step::Do(command) => Some(command),
                Step::Ask(_) => None,
            });
            commands.filter_map(one).collect()
        }
        single => one(single).into_iter().collect(),
    }
}

impl Order {
    /// How many commands of connections were executed.
    pub fn executed(&self) -> u64 {
        self.writers.values().map(|writer| writer.executed.len() as u64).sum()
    }

    /// An entry was applied with this outcome, for the first time or on another node.
    pub fn applied(&mut self, entry: &Entry, outcome: Option<&Outcome>) -> Result<()> {
        let index = entry.position.index;
        let (Some(outcome), Payload::Opaque(bytes)) = (outcome, &entry.payload) else { return Ok(()) };
        if index <= self.upto {
            return Ok(());
        }
        self.upto = index;
        match (Op::read(bytes), outcome) {
            (Ok(Op::Open { ordered: true, .. }), Outcome::Opened { session }) => {
                self.sessions.insert(*session, OrderedSession::default());
            }
            (Ok(Op::Execute { session, .. }), Outcome::SessionExpired) => drop(self.sessions.remove(&session)),
            (Ok(Op::Execute { session, seq, first_outstanding: lowest, command }), outcome) => {
                let Some(known) = self.sessions.get_mut(&session) else { return Ok(()) };
                known.lowest = known.lowest.max(lowest);
                if let Some(wrong) = known.judge(seq, outcome) {
                    return Err(format!("Order: number {seq} of the ordered session {session} {wrong}, at {index}"));
                }
                if let (Outcome::Executed { duplicate: false, .. }, Ok(command)) = (outcome, Command::decode(command)) {
                    appended(&command).into_iter().try_for_each(|(writer, counter)| self.executes(writer, counter))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn executes(&mut self, writer: u64, counter: u64) -> Result<()> {
        let known = self.writers.entry(writer).or_default();
        if let Some(last) = known.executed.last().filter(|last| **last >= counter) {
            return Err(format!("Order: command {counter} of connection {writer} takes effect after its {last}"));
        }
        if known.refused.contains(&counter) {
            return Err(format!("Order: command {counter} of connection {writer} takes effect, and was refused"));
        }
        known.executed.push(counter);
        Ok(())
    }

    /// A connection received the reply that its command took effect.
    pub fn acknowledged(&mut self, writer: u64, counter: u64) -> Result<()> {
        let known = self.writers.entry(writer).or_default();
        match known.executed.binary_search(&counter) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("command {counter} of connection {writer} is answered, and was not executed")),
        }
    }

    /// A connection received the reply that its command did not take effect and never will.
    pub fn refused(&mut self, writer: u64, counter: u64) -> Result<()> {
        let known = self.writers.entry(writer).or_default();
        known.refused.insert(counter);
        match known.executed.binary_search(&counter) {
            Ok(_) => Err(format!("command {counter} of connection {writer} is refused, and was executed")),
            Err(_) => Ok(()),
        }
    }

    /// How many commands of that connection a read of its key shows. An error if the key never held that value.
    pub fn shown(&self, writer: u64, value: &[u8]) -> Result<usize> {
        let executed = self.writers.get(&writer).map_or(&[][..], |writer| &writer.executed);
        let shown = value.iter().filter(|byte| **byte == b',').count();
        let known: String = executed.iter().take(shown).map(|counter| tail(*counter)).collect();
        if known.as_bytes() == value {
            return Ok(shown);
        }
        let value = String::from_utf8_lossy(value);
        Err(format!("connection {writer} reads {value:?}, and its key never held that: {executed:?}"))
    }

    /// How many commands of that connection, up to that counter, were executed.
    pub fn executed_upto(&self, writer: u64, counter: u64) -> usize {
        self.writers.get(&writer).map_or(0, |writer| writer.executed.partition_point(|one| *one <= counter))
    }
}
