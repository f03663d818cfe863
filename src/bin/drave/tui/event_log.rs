//! Describes the difference between two observations as events, one sentence each.

use super::node::{Node, PollResult, ProcessState};
use bytesize::ByteSize;
use drave::api::Status;

/// An event of the list that the view shows, without its time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventText {
    /// The severity, which determines the color.
    pub severity: Severity,
    /// One sentence, such as `n2 leads term 3, after n1`.
    pub text: String,
}

/// Whether an event improves the state of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// An improvement, such as a silent node that answers again.
    Good,
    /// Neither an improvement nor a deterioration, such as a new snapshot.
    Plain,
    /// A deterioration, such as a node that becomes silent.
    Bad,
}

impl EventText {
    /// Describes an event without its time, which the model adds.
    pub fn new(severity: Severity, text: impl Into<String>) -> EventText {
        EventText { severity, text: text.into() }
    }
}

/// The events for the changes from `before`, the previous status request to a node, to the last one.
pub fn describe_poll_change(node: &Node, before: Option<&PollResult>) -> Vec<EventText> {
    let name = node.name();
    match (before, &node.poll_result) {
        (Some(PollResult::Answer(before)), Some(PollResult::Answer(now))) => describe_status_change(&name, before, now),
        (Some(PollResult::NoAnswer | PollResult::NotListening), Some(PollResult::Answer(_))) => {
            vec![EventText::new(Severity::Good, format!("{name} answers"))]
        }
        // The silence of a frozen or dead child process is no event: `describe_process_change` has reported its cause.
        (Some(PollResult::Answer(_) | PollResult::NotListening) | None, Some(PollResult::NoAnswer))
            if is_expected_to_answer(node) =>
        {
            vec![EventText::new(Severity::Bad, format!("{name} is silent: frozen, cut off, or very slow"))]
        }
        (Some(PollResult::Answer(_) | PollResult::NoAnswer) | None, Some(PollResult::NotListening))
            if node.process.is_none() =>
        {
            vec![EventText::new(Severity::Bad, format!("{name} is down: nothing listens at {}", node.endpoint))]
        }
        _ => Vec::new(),
    }
}

/// Whether the node answers unless a fault prevents it: a frozen or dead child process does not.
fn is_expected_to_answer(node: &Node) -> bool {
    matches!(node.process, None | Some(ProcessState::Running))
}

fn describe_status_change(name: &str, before: &Status, now: &Status) -> Vec<EventText> {
    let mut events = Vec::new();
    if now.uptime_ms < before.uptime_ms {
        events.push(EventText::new(Severity::Plain, format!("{name} was restarted")));
    }
    if now.log.snapshot > before.log.snapshot {
        let size = ByteSize(now.log.snapshot_bytes).display().iec();
        events
            .push(EventText::new(Severity::Plain, format!("{name} has a snapshot up to {}, {size}", now.log.snapshot)));
    }
    if now.log.lacks_room && !before.log.lacks_room {
        events.push(EventText::new(Severity::Bad, format!("{name} has no disk space for a snapshot")));
    }
    match (before.low_space, now.low_space) {
        (false, true) => events.push(EventText::new(Severity::Bad, format!("{name} is low on disk space"))),
        (true, false) => events.push(EventText::new(Severity::Good, format!("{name} has enough disk space again"))),
        _ => {}
    }
    events
}

/// The event for the change of a child process; `None` if the state is the same, or if the process is running when
/// first observed.
pub fn describe_process_change(id: u64, before: Option<ProcessState>, now: ProcessState) -> Option<EventText> {
    let (severity, text) = match (before, now) {
        (None | Some(ProcessState::Running), ProcessState::Running) => return None,
        (Some(ProcessState::Frozen), ProcessState::Running) => (Severity::Good, format!("n{id} runs again (SIGCONT)")),
        (Some(ProcessState::Restarting { .. } | ProcessState::Down), ProcessState::Running) => {
            (Severity::Good, format!("n{id} is started"))
        }
        (Some(ProcessState::Frozen), ProcessState::Frozen) => return None,
        (_, ProcessState::Frozen) => (Severity::Bad, format!("n{id} is frozen (SIGSTOP) and does not answer")),
        (Some(ProcessState::Restarting { .. }), ProcessState::Restarting { .. }) => return None,
        (_, ProcessState::Restarting { seconds }) => {
            (Severity::Bad, format!("n{id} died, and restarts in {seconds} s"))
        }
        (Some(ProcessState::Down), ProcessState::Down) => return None,
        (_, ProcessState::Down) => (Severity::Bad, format!("n{id} died; press {id} to start it")),
    };
    Some(EventText::new(severity, text))
}

/// The event for the change of leadership, from the last known leader and its term to the current one; `None` if there
/// was no leader and is none.
pub fn describe_leader_change(before: Option<(u64, u64)>, now: Option<(u64, u64)>) -> Option<EventText> {
    match (before, now) {
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
