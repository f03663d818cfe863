//! The state of one node and of its process, as the view knows it.

use drave::api::Status;
use std::time::Duration;

/// The result of a status request to one endpoint.
#[derive(Clone, PartialEq, Debug)]
pub enum PollResult {
    /// The node answered with its status.
    Answer(Box<Status>),
    /// The node did not answer in time: it is frozen, cut off, or very slow.
    NoAnswer,
    /// Nothing listens at the endpoint.
    NotListening,
}

/// The state of a node's process, as the parent process knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProcessState {
    /// The process exists and is not stopped.
    Running,
    /// The process is stopped by SIGSTOP.
    Frozen,
    /// The process died and will be restarted.
    Restarting {
        /// Seconds until the restart.
        seconds: u64,
    },
    /// The process was killed, and is down until the user starts it.
    Down,
}

/// A node, as far as the view knows it.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// The address to which status requests are sent.
    pub endpoint: String,
    /// The id of the node; `None` until the node answers, unless the id is known from the start.
    pub id: Option<u64>,
    /// The result of the last status request; `None` before the first.
    pub poll_result: Option<PollResult>,
    /// When the node last answered, since the view was opened; `None` if the node never answered.
    pub last_answer: Option<Duration>,
    /// The state of the process, if the node is a child process of this program.
    pub process: Option<ProcessState>,
    /// Whether the view was opened with this endpoint; otherwise the endpoint comes from a node's member list.
    pub(super) is_initial_endpoint: bool,
}

impl Node {
    /// The node's status, if it answered the last request.
    pub fn status(&self) -> Option<&Status> {
        match &self.poll_result {
            Some(PollResult::Answer(status)) => Some(status),
            _ => None,
        }
    }

    /// The name of the node, such as `n1`; its endpoint while its id is unknown.
    pub fn name(&self) -> String {
        self.id.map_or_else(|| self.endpoint.clone(), |id| format!("n{id}"))
    }
}
