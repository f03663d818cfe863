//! `drave doctor`: finds problems of a cluster before they cause a failure.

use crate::output::outln;
mod findings;
mod local_directory;

use self::findings::{Finding, Level, NodeReport, check_certificates, examine};
use crate::remote::cluster::ClusterArgs;
use crate::remote::failure::CliError;
use crate::remote::poll::{EndpointStatus, poll};
use clap::Args;
use drave::api::{Reply, Request, Status};
use drave::client::{Connection, deadline};
use hdrhistogram::Histogram;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// Checks a cluster, or a directory on this machine, for problems before they cause a failure: disk and network times
/// against the timeouts, votes, versions, disk space, file systems and caches.
#[derive(Args, Debug)]
pub struct Doctor {
    /// A directory on this machine to check instead of a cluster: a data directory, or a place for one
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How long to measure in all: the nodes share this time
    #[arg(long = "measure", value_name = "MEASURE", default_value = "2s", value_parser = humantime::parse_duration)]
    measure_duration: Duration,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// `drave doctor`: exits with 1 if a check fails, 3 if no node answers.
pub fn run(args: &Doctor) -> Result<(), CliError> {
    let findings = match &args.data {
        Some(directory) => local_directory::examine(directory, args.measure_duration)?,
        None => examine_cluster(args)?,
    };
    for finding in &findings {
        let Finding { level, subject, result } = finding;
        if args.cluster.prints_json() {
            outln!("{}", json!({ "level": level.name(), "what": subject, "found": result }));
        } else {
            outln!("{:<5} {subject:<24} {result}", level.name());
        }
    }
    let count_findings = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (fails, warns) = (count_findings(Level::Fail), count_findings(Level::Warn));
    if !args.cluster.prints_json() {
        outln!("{} checks · {fails} FAIL · {warns} WARN", findings.len());
    }
    match fails {
        0 => Ok(()),
        1 => Err(CliError { message: "one check failed, see FAIL".into(), code: 1 }),
        n => Err(CliError { message: format!("{n} checks failed, see FAIL"), code: 1 }),
    }
}

fn examine_cluster(args: &Doctor) -> Result<Vec<Finding>, CliError> {
    let endpoint_statuses = poll(&args.cluster);
    if endpoint_statuses.iter().all(|result| result.status.is_err()) {
        return Err(args.cluster.no_answer_error());
    }
    let span_per_node = args.measure_duration / endpoint_statuses.len().max(1) as u32;
    let node_reports: Vec<NodeReport> =
        endpoint_statuses.into_iter().map(|result| measure_node(&args.cluster, result, span_per_node)).collect();
    let mut findings = examine(&node_reports);
    let statuses: Vec<&Status> = node_reports.iter().filter_map(|node| node.status.as_ref().ok()).collect();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    findings.extend(check_certificates(&statuses, now));
    Ok(findings)
}

/// Measures the round trips to a node for `span`. A node that did not answer the poll is not measured.
fn measure_node(cluster: &ClusterArgs, endpoint_status: EndpointStatus, span: Duration) -> NodeReport {
    let EndpointStatus { endpoint, status } = endpoint_status;
    let mut round_trips = Histogram::new_with_bounds(1, 60_000_000, 3).expect("the histogram bounds are valid");
    let status = status.and_then(|_| measure_round_trips(cluster, &endpoint, span, &mut round_trips));
    NodeReport { endpoint, status, round_trips }
}

/// Requests the status over one connection for `span`, and records each round trip in microseconds. Returns the last
/// status. Dialing, the TLS handshake and the hello take several round trips, and are not measured.
fn measure_round_trips(
    cluster: &ClusterArgs,
    endpoint: &str,
    span: Duration,
    round_trips: &mut Histogram<u64>,
) -> Result<Status, String> {
    let request_deadline = || deadline(cluster.timeout);
    let connection = Connection::dial_operator(endpoint, cluster.tls.keys.as_ref(), request_deadline());
    let mut connection = connection.map_err(|error| error.to_string())?;
    let began_at = Instant::now();
    loop {
        let sent_at = Instant::now();
        let reply = connection.call(&Request::Status, request_deadline()).map_err(|error| error.to_string())?;
        round_trips.saturating_record(sent_at.elapsed().as_micros() as u64);
        match reply {
            Reply::Status(status) if began_at.elapsed() >= span => return Ok(*status),
            Reply::Status(_) => {}
            _ => return Err("unexpected answer to a status request".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
