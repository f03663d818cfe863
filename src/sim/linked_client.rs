//! A simulated client over connections, of either kind.

use super::call_client::CallClient;
use super::mux_client::MuxClient;
use super::workload::{Load, TaskClient};
use crate::types::NodeId;
use rand::RngExt;
use rand::rngs::SmallRng;

/// Client numbers from here on are clients over connections.
pub const FIRST_LINKED: u64 = 1 << 20;

/// A client over connections.
pub enum LinkedClient {
    /// With several requests in progress, like `Mux`.
    Mux(MuxClient),
    /// With one request in progress, like `Client`.
    Call(CallClient),
}

impl LinkedClient {
    /// All such clients of a world, with their numbers.
    pub fn all(load: &Load, nodes: &[NodeId], rng: &mut SmallRng) -> Vec<(u64, LinkedClient)> {
        let endpoints: Vec<String> = nodes.iter().map(|id| format!("{id}:1")).collect();
        let mut all = Vec::new();
        for n in 0..load.muxes + load.callers {
            let (client, seed) = (FIRST_LINKED + n, rng.random());
            let asker = TaskClient::new(client, load.clone());
            let one = if n < load.muxes {
                LinkedClient::Mux(MuxClient::new(asker, endpoints.clone(), load.outstanding, seed))
            } else {
                LinkedClient::Call(CallClient::new(asker, endpoints.clone(), seed))
            };
            all.push((client, one));
        }
        all
    }

    fn asker(&self) -> &TaskClient {
        match self {
            LinkedClient::Mux(mux) => &mux.asker,
            LinkedClient::Call(call) => &call.asker,
        }
    }

    /// Whether it waits for no answers.
    pub fn is_done(&self) -> bool {
        self.asker().is_done()
    }

    /// It begins nothing new.
    pub fn stop(&mut self) {
        match self {
            LinkedClient::Mux(mux) => mux.asker.stopping = true,
            LinkedClient::Call(call) => call.asker.stopping = true,
        }
    }
}
