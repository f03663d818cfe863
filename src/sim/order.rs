//! Checks that the commands of ordered sessions take effect in the order of their sequence numbers, each once; and that
//! the replies to pipelined connections agree with the executed commands.
//!
//! The rules are written here a second time, independently of the session table whose outcomes are checked.

use super::violation::Result;
use crate::api::{Op, Outcome};
use crate::machine::commands::{Command, CommandOrQuery};
use crate::types::{Entry, Index, Payload, SessionId};
use std::collections::{BTreeMap, BTreeSet};

/// An ordered session, reconstructed from the log and the outcomes.
#[derive(Debug, Default)]
struct OrderedSession {
    /// The sequence numbers of the executed commands.
    executed_seqs: BTreeSet<u64>,
    /// The lowest sequence number whose answer the client still waits for.
    first_outstanding: u64,
}

impl OrderedSession {
    /// Whether all outstanding commands with lower sequence numbers than `seq` have executed.
    fn is_next(&self, seq: u64) -> bool {
        (self.first_outstanding.max(1)..seq).all(|before| self.executed_seqs.contains(&before))
    }

    /// Describes how the outcome of the command with sequence number `seq` violates the order; `None` if it does not.
    fn find_violation(&mut self, seq: u64, outcome: &Outcome) -> Option<&'static str> {
        let was_executed = self.executed_seqs.contains(&seq);
        match outcome {
            Outcome::Executed { duplicate: false, .. } => {
                let is_next = self.is_next(seq);
                let higher_seq_was_executed = self.executed_seqs.last().is_some_and(|last| *last > seq);
                self.executed_seqs.insert(seq);
                match () {
                    () if was_executed => Some("executes twice"),
                    () if seq < self.first_outstanding => Some("executes after the client has abandoned it"),
                    () if higher_seq_was_executed => Some("executes after a command with a higher number"),
                    () if !is_next => Some("executes before a command with a lower number"),
                    () => None,
                }
            }
            Outcome::Executed { duplicate: true, .. } | Outcome::AnswerTooLong if !was_executed => {
                Some("is answered as executed, but was not executed")
            }
            Outcome::OutOfOrder if was_executed => Some("is rejected as out of order, but was executed"),
            Outcome::OutOfOrder if self.is_next(seq) => Some("is rejected as out of order, but is the next command"),
            Outcome::ResponseDiscarded if seq >= self.first_outstanding => {
                Some("is outstanding, but its response was discarded")
            }
            _ => None,
        }
    }
}

/// The appends of one pipelined connection. Each is identified by the counter that it appends.
#[derive(Debug, Default)]
struct WriterCommands {
    /// The counters of the executed appends, in the order of execution.
    executed_counters: Vec<u64>,
    /// The counters of the appends whose reply said that nothing was applied.
    refused_counters: BTreeSet<u64>,
}

/// The checks of ordered sessions, and of the pipelined connections that use them.
#[derive(Debug, Default)]
pub struct OrderChecks {
    /// The last applied index that was checked. Each index is checked on the node that applies it first.
    checked_upto: Index,
    sessions: BTreeMap<SessionId, OrderedSession>,
    /// The appends of each pipelined connection, by the number of the connection.
    writers: BTreeMap<u64, WriterCommands>,
}

/// The key to which the pipelined connection number `writer` appends.
pub fn writer_key(writer: u64) -> String {
    format!("pipelined/{writer}")
}

/// The text that a pipelined connection appends for the counter `counter`.
pub fn appended_text(counter: u64) -> String {
    format!("{counter},")
}

/// The appends in a command of a pipelined connection, each as the number of the connection and the counter.
fn appended_counters(command: &Command<'_>) -> Vec<(u64, u64)> {
    let appended_counter = |command: &Command<'_>| match command {
        Command::Append { key, tail } => {
            let writer = std::str::from_utf8(key).ok()?.strip_prefix("pipelined/")?.parse().ok()?;
            Some((writer, std::str::from_utf8(tail).ok()?.strip_suffix(',')?.parse().ok()?))
        }
        _ => None,
    };
    match command {
        Command::Block(steps) => {
            let commands = steps.iter().filter_map(|step| match step {
                CommandOrQuery::Command(command) => Some(command),
                CommandOrQuery::Query(_) => None,
            });
            commands.filter_map(appended_counter).collect()
        }
        single => appended_counter(single).into_iter().collect(),
    }
}

impl OrderChecks {
    /// How many appends of pipelined connections were executed.
    pub fn executed_append_count(&self) -> u64 {
        self.writers.values().map(|writer| writer.executed_counters.len() as u64).sum()
    }

    /// Checks the outcome of an applied entry, unless another node has applied the entry before.
    pub fn check_applied(&mut self, entry: &Entry, outcome: Option<&Outcome>) -> Result<()> {
        let index = entry.position.index;
        let (Some(outcome), Payload::Opaque(bytes)) = (outcome, &entry.payload) else { return Ok(()) };
        if index <= self.checked_upto {
            return Ok(());
        }
        self.checked_upto = index;
        match (Op::read(bytes), outcome) {
            (Ok(Op::Open { ordered: true, .. }), Outcome::Opened { session }) => {
                self.sessions.insert(*session, OrderedSession::default());
            }
            (Ok(Op::Execute { session, .. }), Outcome::SessionExpired) => drop(self.sessions.remove(&session)),
            (Ok(Op::Execute { session, seq, first_outstanding, command }), outcome) => {
                let Some(ordered_session) = self.sessions.get_mut(&session) else { return Ok(()) };
                ordered_session.first_outstanding = ordered_session.first_outstanding.max(first_outstanding);
                if let Some(violation) = ordered_session.find_violation(seq, outcome) {
                    return Err(format!(
                        "Order: command {seq} of the ordered session {session} {violation}, at index {index}"
                    ));
                }
                if let (Outcome::Executed { duplicate: false, .. }, Ok(command)) = (outcome, Command::decode(command)) {
                    appended_counters(&command)
                        .into_iter()
                        .try_for_each(|(writer, counter)| self.record_executed_append(writer, counter))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Records that an append took effect, and checks its order among the appends of its connection.
    fn record_executed_append(&mut self, writer: u64, counter: u64) -> Result<()> {
        let commands = self.writers.entry(writer).or_default();
        if let Some(last) = commands.executed_counters.last().filter(|last| **last >= counter) {
            return Err(format!("Order: append {counter} of connection {writer} takes effect after append {last}"));
        }
        if commands.refused_counters.contains(&counter) {
            return Err(format!("Order: append {counter} of connection {writer} takes effect, but was refused"));
        }
        commands.executed_counters.push(counter);
        Ok(())
    }

    /// Checks a reply that says that an append took effect.
    pub fn check_acknowledged_append(&mut self, writer: u64, counter: u64) -> Result<()> {
        let commands = self.writers.entry(writer).or_default();
        match commands.executed_counters.binary_search(&counter) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("append {counter} of connection {writer} is acknowledged, but was not executed")),
        }
    }

    /// Checks a reply that says that an append did not take effect and never will.
    pub fn check_refused_append(&mut self, writer: u64, counter: u64) -> Result<()> {
        let commands = self.writers.entry(writer).or_default();
        commands.refused_counters.insert(counter);
        match commands.executed_counters.binary_search(&counter) {
            Ok(_) => Err(format!("append {counter} of connection {writer} is refused, but was executed")),
            Err(_) => Ok(()),
        }
    }

    /// Checks a read of a connection's key: the key must have held `value` at some time. Returns how many appends
    /// `value` contains.
    pub fn check_read(&self, writer: u64, value: &[u8]) -> Result<usize> {
        let executed_counters = self.writers.get(&writer).map_or(&[][..], |writer| &writer.executed_counters);
        let shown_append_count = value.iter().filter(|byte| **byte == b',').count();
        let expected_value: String =
            executed_counters.iter().take(shown_append_count).map(|counter| appended_text(*counter)).collect();
        if expected_value.as_bytes() == value {
            return Ok(shown_append_count);
        }
        let value = String::from_utf8_lossy(value);
        Err(format!(
            "connection {writer} reads {value:?}, but its key never held this value: executed are {executed_counters:?}"
        ))
    }

    /// How many appends of a connection with counters up to `counter` were executed.
    pub fn count_executed_upto(&self, writer: u64, counter: u64) -> usize {
        self.writers.get(&writer).map_or(0, |writer| writer.executed_counters.partition_point(|one| *one <= counter))
    }
}
