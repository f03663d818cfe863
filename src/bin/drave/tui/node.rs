//! What the view knows of one node, and of its process.

use drave::api::Status;
use std::time::Duration;

/// The result of a status request to a node.
#[derive(Clone, PartialEq, Debug)]
pub enum PollResult {
    Answer(Box<Status>),
    /// The node did not answer in time: it is frozen, cut off, or very slow.
    Silence,
    /// Nothing listens at the endpoint.
    Nobody,
}

/// The state of a node's process, as the parent process knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Process {
    /// The process runs.
    Runs,
    /// The process is stopped by SIGSTOP.
    Frozen,
    /// The process died and will be restarted.
    Returns {
        /// Seconds until the restart.
        seconds: u64,
    },
    /// The process was killed, and is down until the user starts it.
    Away,
}

/// A node, as far as the view knows it.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// The endpoint for status requests.
    pub endpoint: String,
    /// The node id, once known.
    pub id: Option<u64>,
    /// The result of the last status request; `None` before the first.
    pub found: Option<PollResult>,
    /// When the node last answered.
    pub heard: Option<Duration>,
    /// Its process, if it is a child of this program.
    pub process: Option<Process>,
    /// Whether the endpoint was given at the start; otherwise it comes from a node's member list.
    pub(super) given: bool,
}

impl Node {
    /// The node's status, if it answered the last request.
    pub fn status(&self) -> Option<&Status> {
        match &self.found {
            Some(PollResult::Answer(status)) => Some(status),
            _ => None,
        }
    }

    /// The name of the node, such as `n1`; its endpoint while its id is unknown.
    pub fn name(&self) -> String {
        self.id.map_or_else(|| self.endpoint.clone(), |id| format!("n{id}"))
    }
}
