//! Describes the difference between two observations in sentences.

use super::node::{Node, PollResult, Process};
use bytesize::ByteSize;
use drave::api::Status;

/// A sentence about an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventText {
    /// Whether it is good news.
    pub tone: Severity,
    /// The sentence.
    pub text: String,
}

/// Whether an event is good news.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// An improvement.
    Good,
    /// Neither an improvement nor a deterioration.
    Plain,
    /// A deterioration.
    Bad,
}

impl EventText {
    /// A sentence with its tone.
    pub fn new(tone: Severity, text: impl Into<String>) -> EventText {
        EventText { tone, text: text.into() }
    }
}

/// The changes between the previous status request to a node and the last one.
pub fn describe_poll(node: &Node, before: Option<&PollResult>) -> Vec<EventText> {
    let name = node.name();
    match (before, &node.found) {
        (Some(PollResult::Answer(before)), Some(PollResult::Answer(now))) => of_an_answer(&name, before, now),
        (Some(PollResult::Silence | PollResult::Nobody), Some(PollResult::Answer(_))) => {
            vec![EventText::new(Severity::Good, format!("{name} answers"))]
        }
        // A frozen or dead child process has events of its own.
        (Some(PollResult::Answer(_) | PollResult::Nobody) | None, Some(PollResult::Silence))
            if is_expected_to_answer(node) =>
        {
            vec![EventText::new(Severity::Bad, format!("{name} is silent: frozen, cut off, or very slow"))]
        }
        (Some(PollResult::Answer(_) | PollResult::Silence) | None, Some(PollResult::Nobody))
            if node.process.is_none() =>
        {
            vec![EventText::new(Severity::Bad, format!("{name} is down: nothing listens at {}", node.endpoint))]
        }
        _ => Vec::new(),
    }
}

fn is_expected_to_answer(node: &Node) -> bool {
    matches!(node.process, None | Some(Process::Runs))
}

fn of_an_answer(name: &str, before: &Status, now: &Status) -> Vec<EventText> {
    let mut told = Vec::new();
    if now.uptime_ms < before.uptime_ms {
        told.push(EventText::new(Severity::Plain, format!("{name} was restarted")));
    }
    if now.log.snapshot > before.log.snapshot {
        let size = ByteSize(now.log.snapshot_bytes).display().iec();
        told.push(EventText::new(Severity::Plain, format!("{name} has a snapshot up to {}, {size}", now.log.snapshot)));
    }
    if now.log.lacks_room && !before.log.lacks_room {
        told.push(EventText::new(Severity::Bad, format!("{name} has no disk space for a snapshot")));
    }
    match (before.low_space, now.low_space) {
        (false, true) => told.push(EventText::new(Severity::Bad, format!("{name} is low on disk space"))),
        (true, false) => told.push(EventText::new(Severity::Good, format!("{name} has enough disk space again"))),
        _ => {}
    }
    told
}

/// The change of a child process; `None` if it did not change, or if it was first seen running.
pub fn describe_process(id: u64, before: Option<Process>, now: Process) -> Option<EventText> {
    let (tone, text) = match (before, now) {
        (None | Some(Process::Runs), Process::Runs) => return None,
        (Some(Process::Frozen), Process::Runs) => (Severity::Good, format!("n{id} runs again (SIGCONT)")),
        (Some(Process::Returns { .. } | Process::Away), Process::Runs) => (Severity::Good, format!("n{id} is started")),
        (Some(Process::Frozen), Process::Frozen) => return None,
        (_, Process::Frozen) => (Severity::Bad, format!("n{id} is frozen (SIGSTOP) and does not answer")),
        (Some(Process::Returns { .. }), Process::Returns { .. }) => return None,
        (_, Process::Returns { seconds }) => (Severity::Bad, format!("n{id} died, and restarts in {seconds} s")),
        (Some(Process::Away), Process::Away) => return None,
        (_, Process::Away) => (Severity::Bad, format!("n{id} died; press {id} to start it")),
    };
    Some(EventText::new(tone, text))
}

/// The change of leadership, from the last known leader and its term to the current one.
pub fn describe_leader(led: Option<(u64, u64)>, leads: Option<(u64, u64)>) -> Option<EventText> {
    match (led, leads) {
        (Some((before, _)), Some((now, term))) if before != now => {
            Some(EventText::new(Severity::Good, format!("n{now} leads term {term}, after n{before}")))
        }
        (Some((_, last)), Some((now, term))) if last == term => {
            Some(EventText::new(Severity::Good, format!("n{now} still leads term {term}")))
        }
        (_, Some((now, term))) => Some(EventText::new(Severity::Good, format!("n{now} leads term {term}"))),
        (Some((before, term)), None) => {
            Some(EventText::new(Severity::Bad, format!("no leader; n{before} led term {term}")))
        }
        (None, None) => None,
    }
}
