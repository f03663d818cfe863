//! A simulated client with connections, with one request in progress or several.

use super::call_client::CallClient;
use super::mux_client::MuxClient;
use super::workload::{Load, TaskClient};
use crate::types::NodeId;
use rand::RngExt;
use rand::rngs::SmallRng;

/// The number of the first client with connections. Clients without connections have lower numbers.
pub const FIRST_LINKED_CLIENT: u64 = 1 << 20;

/// A client with connections to nodes, on which it has one request in progress or several.
pub enum LinkedClient {
    /// A client with several requests in progress, like the library's `Mux`.
    Mux(MuxClient),
    /// A client with one request in progress, like the library's blocking `Client`.
    Call(CallClient),
}

impl LinkedClient {
    /// Creates a world's clients with connections, each with its number.
    pub fn create_all(load: &Load, nodes: &[NodeId], rng: &mut SmallRng) -> Vec<(u64, LinkedClient)> {
        let endpoints: Vec<String> = nodes.iter().map(|id| format!("{id}:1")).collect();
        let mut clients = Vec::new();
        for n in 0..load.mux_clients + load.call_clients {
            let (client, seed) = (FIRST_LINKED_CLIENT + n, rng.random());
            let tasks = TaskClient::new(client, load.clone());
            let linked_client = if n < load.mux_clients {
                LinkedClient::Mux(MuxClient::new(tasks, endpoints.clone(), load.outstanding_max, seed))
            } else {
                LinkedClient::Call(CallClient::new(tasks, endpoints.clone(), seed))
            };
            clients.push((client, linked_client));
        }
        clients
    }

    fn tasks(&self) -> &TaskClient {
        match self {
            LinkedClient::Mux(mux) => &mux.tasks,
            LinkedClient::Call(call) => &call.tasks,
        }
    }

    /// Whether all tasks of the client have ended.
    pub fn is_done(&self) -> bool {
        self.tasks().is_done()
    }

    /// Lets the client finish its tasks in progress and begin no others.
    pub fn stop(&mut self) {
        match self {
            LinkedClient::Mux(mux) => mux.tasks.stopping = true,
            LinkedClient::Call(call) => call.tasks.stopping = true,
        }
    }
}
