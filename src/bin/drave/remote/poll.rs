//! Requests the status of all nodes of a cluster.

use super::cluster::Cluster;
use drave::api::{RoleName, Status};
use std::time::Duration;

pub struct EndpointStatus {
    /// The endpoint's address.
    pub endpoint: String,
    /// The node's status, or why it is unknown.
    pub status: Result<Status, String>,
}

/// Requests the status of each endpoint, then of the members that the best-informed answer names and `cluster` does
/// not.
pub fn poll(cluster: &Cluster) -> Vec<EndpointStatus> {
    let mut asked = poll_endpoints(cluster, &cluster.endpoints);
    let answered: Vec<&Status> = asked.iter().filter_map(|asked| asked.status.as_ref().ok()).collect();
    let best = answered.iter().max_by_key(|status| (status.role == RoleName::Leader, status.term, status.commit));
    let places: Vec<String> = best
        .into_iter()
        .flat_map(|best| &best.members)
        .filter(|member| answered.iter().all(|status| status.node != member.node))
        .map(|member| member.address.clone())
        .filter(|address| !cluster.endpoints.contains(address))
        .collect();
    asked.extend(poll_endpoints(cluster, &places));
    asked
}

/// Requests all statuses concurrently: an endpoint that does not answer delays no other.
fn poll_endpoints(cluster: &Cluster, endpoints: &[String]) -> Vec<EndpointStatus> {
    let patience = cluster.timeout.min(Duration::from_secs(1));
    let one = |endpoint: &String| {
        let asking = Cluster { endpoints: vec![endpoint.clone()], timeout: patience, ..cluster.clone() };
        let status = asking.client().status(endpoint).map_err(|error| error.to_string());
        EndpointStatus { endpoint: endpoint.clone(), status }
    };
    std::thread::scope(|scope| {
        let asking: Vec<_> = endpoints.iter().map(|endpoint| scope.spawn(move || one(endpoint))).collect();
        asking.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}
