//! A simulated client with several requests in progress on one connection.

use super::checks;
use super::workload::TaskClient;
use crate::client::mux_protocol::{Completion, MuxOptions, MuxProtocol};
use crate::types::Time;
use crate::wire::WireError;

/// A client with several requests in progress, like the library's `Mux`.
pub struct MuxClient {
    pub tasks: TaskClient,
    pub(super) protocol: MuxProtocol,
    /// The number of the connection on which the client sends its requests.
    pub(super) main_link: Option<u64>,
    /// The number of the connection on which the client asks another node which node is the leader.
    pub(super) leader_query_link: Option<u64>,
    /// Completed requests whose results are not checked and recorded yet.
    pub(super) unrecorded_completions: Vec<Completion>,
}

impl MuxClient {
    /// A client with at most `requests_max` requests in progress.
    pub fn new(tasks: TaskClient, endpoints: Vec<String>, requests_max: usize, seed: u64) -> MuxClient {
        let (first_endpoint, options) = (seed as usize % endpoints.len(), MuxOptions::new(requests_max));
        let protocol = MuxProtocol::new(endpoints, first_endpoint, options, Time::ZERO, seed);
        MuxClient { tasks, protocol, main_link: None, leader_query_link: None, unrecorded_completions: Vec::new() }
    }

    /// Handles bytes received on a connection. The error describes bytes that no correct node sends.
    pub fn receive(&mut self, now: Time, link: u64, bytes: &[u8]) -> checks::Result<()> {
        let result = if self.main_link == Some(link) {
            self.protocol.receive(now, bytes, &mut self.unrecorded_completions)
        } else if self.leader_query_link == Some(link) {
            self.protocol.leader_response_received(now, bytes).map(|_| ())
        } else {
            Ok(())
        };
        match result {
            Ok(()) | Err(WireError::Refused(_)) => Ok(()),
            Err(error) => {
                Err(format!("client {} cannot decode the bytes that a node sent: {error}", self.tasks.client))
            }
        }
    }

    /// Handles the end of a connection. `closed_by_node` is whether the connection ended without an error.
    pub fn handle_link_end(&mut self, now: Time, link: u64, closed_by_node: bool) {
        if self.main_link == Some(link) {
            self.main_link = None;
            self.protocol.connection_lost(now, closed_by_node);
        } else if self.leader_query_link == Some(link) {
            self.leader_query_link = None;
            self.protocol.leader_query_lost(now);
        }
    }
}
