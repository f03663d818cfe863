//! Requests the status of all nodes of a cluster.

use super::cluster::ClusterArgs;
use drave::api::{RoleName, Status};
use std::time::Duration;

/// The result of a status request to one endpoint.
pub struct EndpointStatus {
    /// The address that was polled.
    pub endpoint: String,
    /// The status, or the error if the node did not answer.
    pub status: Result<Status, String>,
}

/// Requests the status of each endpoint, then of the members that did not answer and whose address is not among the
/// endpoints. The members are those of the leader; without a leader, those of the node with the latest term and commit
/// index.
pub fn poll(cluster: &ClusterArgs) -> Vec<EndpointStatus> {
    let mut results = poll_endpoints(cluster, &cluster.endpoints);
    let statuses: Vec<&Status> = results.iter().filter_map(|result| result.status.as_ref().ok()).collect();
    let best_status =
        statuses.iter().max_by_key(|status| (status.role == RoleName::Leader, status.term, status.commit));
    let addresses: Vec<String> = best_status
        .into_iter()
        .flat_map(|status| &status.members)
        .filter(|member| statuses.iter().all(|status| status.node != member.node))
        .map(|member| member.address.clone())
        .filter(|address| !cluster.endpoints.contains(address))
        .collect();
    results.extend(poll_endpoints(cluster, &addresses));
    results
}

/// Requests all statuses concurrently: an endpoint that does not answer delays no other.
fn poll_endpoints(cluster: &ClusterArgs, endpoints: &[String]) -> Vec<EndpointStatus> {
    let timeout = cluster.timeout.min(Duration::from_secs(1));
    let poll_endpoint = |endpoint: &String| {
        let single_endpoint_args = ClusterArgs { endpoints: vec![endpoint.clone()], timeout, ..cluster.clone() };
        let status = single_endpoint_args.client().status(endpoint).map_err(|error| error.to_string());
        EndpointStatus { endpoint: endpoint.clone(), status }
    };
    std::thread::scope(|scope| {
        let poll_threads: Vec<_> =
            endpoints.iter().map(|endpoint| scope.spawn(move || poll_endpoint(endpoint))).collect();
        poll_threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}
