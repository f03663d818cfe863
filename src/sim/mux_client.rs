//! A simulated client with several requests in progress on one connection.

use super::checks;
use super::workload::TaskClient;
use crate::client::mux_protocol::{Completion, MuxOptions, MuxProtocol};
use crate::types::Time;
use crate::wire::WireError;

pub struct MuxClient {
    pub asker: TaskClient,
    pub(super) protocol: MuxProtocol,
    /// Its connection, and the one for its leader query.
    pub(super) main: Option<u64>,
    pub(super) second: Option<u64>,
    pub(super) done: Vec<Completion>,
}

impl MuxClient {
    /// A client with at most `inflight` requests in progress.
    pub fn new(asker: TaskClient, endpoints: Vec<String>, inflight: usize, seed: u64) -> MuxClient {
        let (begin, options) = (seed as usize % endpoints.len(), MuxOptions::new(inflight));
        let protocol = MuxProtocol::new(endpoints, begin, options, Time::ZERO, seed);
        MuxClient { asker, protocol, main: None, second: None, done: Vec::new() }
    }

    /// Handles bytes received on a connection. The error describes bytes that no correct node sends.
    pub fn receives(&mut self, now: Time, link: u64, bytes: &[u8]) -> checks::Result<()> {
        let taken = if self.main == Some(link) {
            self.protocol.receive(now, bytes, &mut self.done)
        } else if self.second == Some(link) {
            self.protocol.scout_received(now, bytes).map(|_| ())
        } else {
            Ok(())
        };
        match taken {
            Ok(()) | Err(WireError::Refused(_)) => Ok(()),
            Err(error) => Err(format!("client {} cannot decode its input: {error}", self.asker.client)),
        }
    }

    /// Handles the end of a connection.
    pub fn loses(&mut self, now: Time, link: u64, in_order: bool) {
        if self.main == Some(link) {
            self.main = None;
            self.protocol.lost(now, in_order);
        } else if self.second == Some(link) {
            self.second = None;
            self.protocol.scout_lost(now);
        }
    }
}
