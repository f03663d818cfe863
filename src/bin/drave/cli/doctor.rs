//! `drave doctor`: finds what would make a cluster fail, before it does.

use crate::output::outln;
mod findings;
mod place;

use self::findings::{Finding, Level, Node, certificates, examine};
use crate::remote::cluster::Cluster;
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
    /// How long to measure, all nodes together
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    measure: Duration,
    #[command(flatten)]
    cluster: Cluster,
}

/// `drave doctor`: exits with 1 if a check fails, 3 if no node answers.
pub fn run(args: &Doctor) -> Result<(), CliError> {
    let findings = match &args.data {
        Some(directory) => place::examine(directory, args.measure)?,
        None => cluster(args)?,
    };
    for finding in &findings {
        let Finding { level, what, found } = finding;
        if args.cluster.json() {
            outln!("{}", json!({ "level": level.word(), "what": what, "found": found }));
        } else {
            outln!("{:<5} {what:<24} {found}", level.word());
        }
    }
    let of = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (fails, warns) = (of(Level::Fail), of(Level::Warn));
    if !args.cluster.json() {
        outln!("{} checks · {fails} FAIL · {warns} WARN", findings.len());
    }
    match fails {
        0 => Ok(()),
        1 => Err(CliError { what: "one check failed, see FAIL".into(), code: 1 }),
        n => Err(CliError { what: format!("{n} checks failed, see FAIL"), code: 1 }),
    }
}

fn cluster(args: &Doctor) -> Result<Vec<Finding>, CliError> {
    let asked = poll(&args.cluster);
    if asked.iter().all(|asked| asked.status.is_err()) {
        return Err(args.cluster.no_answer_error());
    }
    let each = args.measure / asked.len().max(1) as u32;
    let nodes: Vec<Node> = asked.into_iter().map(|asked| measured(&args.cluster, asked, each)).collect();
    let mut findings = examine(&nodes);
    let statuses: Vec<&Status> = nodes.iter().filter_map(|node| node.status.as_ref().ok()).collect();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    findings.extend(certificates(&statuses, now));
    Ok(findings)
}

/// Requests a node's status repeatedly for `span`: measures the round trips, and keeps the last status.
fn measured(cluster: &Cluster, asked: EndpointStatus, span: Duration) -> Node {
    let EndpointStatus { endpoint, status } = asked;
    let mut trips = Histogram::new_with_bounds(1, 60_000_000, 3).expect("the histogram bounds are valid");
    let status = status.and_then(|_| sample(cluster, &endpoint, span, &mut trips));
    Node { endpoint, status, trips }
}

/// Samples over one connection: dialing, the TLS handshake and the hello take several round trips, and are not
/// measured.
fn sample(cluster: &Cluster, endpoint: &str, span: Duration, trips: &mut Histogram<u64>) -> Result<Status, String> {
    let soon = || deadline(cluster.timeout);
    let dialled = Connection::dial_operator(endpoint, cluster.tls.keys.as_ref(), soon());
    let mut connection = dialled.map_err(|trouble| trouble.to_string())?;
    let began = Instant::now();
    loop {
        let sent = Instant::now();
        let reply = connection.call(&Request::Status, soon()).map_err(|trouble| trouble.to_string())?;
        trips.saturating_record(sent.elapsed().as_micros() as u64);
        match reply {
            Reply::Status(status) if began.elapsed() >= span => return Ok(*status),
            Reply::Status(_) => {}
            _ => return Err("unexpected answer to a status request".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
