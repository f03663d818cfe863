//! `drave snapshot take` and `list`: makes nodes take a snapshot now, and lists a node's snapshots.

use crate::output::outln;
use crate::remote::cluster::{ClusterArgs, Output, ms_since};
use crate::remote::failure::CliError;
use crate::remote::poll::poll;
use bytesize::ByteSize;
use clap::Args;
use drave::api::Refusal;
use drave::client::ClientError;
use drave::inspect::snapshots::snapshots_at;
use drave::types::Position;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// Makes nodes take a snapshot now.
#[derive(Args, Debug)]
pub struct TakeSnapshot {
    /// The id of the only node to take one; default: every node that answers
    #[arg(long, value_name = "ID")]
    node: Option<u64>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Lists the snapshots of a node, and which are intact.
#[derive(Args, Debug)]
pub struct ListSnapshots {
    /// A data directory, or its directory of snapshots
    path: PathBuf,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// The position of the snapshot that a node took and its size in bytes, or why the node took none.
type SnapshotResult = Result<(Position, u64), ClientError>;

/// `drave snapshot take`: exits with 1 if a node has no room for it, 3 if no node answers.
pub fn take(args: &TakeSnapshot) -> Result<(), CliError> {
    let cluster = &args.cluster;
    let nodes_and_endpoints =
        poll(cluster).into_iter().filter_map(|polled| Some((polled.status.ok()?.node, polled.endpoint)));
    let endpoints_by_node: BTreeMap<u64, String> =
        nodes_and_endpoints.filter(|(node, _)| args.node.is_none_or(|wanted| wanted == *node)).collect();
    let began = Instant::now();
    // Nodes take their snapshots one after the other: while one writes, the disks of a majority are not slowed down.
    let mut results = Vec::new();
    for (node, endpoint) in &endpoints_by_node {
        let result: SnapshotResult = cluster.client().snapshot(endpoint);
        match &result {
            _ if cluster.prints_json() => outln!("{}", to_json(*node, endpoint, &result, ms_since(began))),
            Ok((position, bytes)) => outln!("n{node} ok {position} · {}", ByteSize(*bytes).display().iec()),
            Err(error) => outln!("n{node} failed: {error}"),
        }
        results.push((*node, endpoint, result));
    }
    check_results(args, &results)
}

fn to_json(node: u64, endpoint: &str, result: &SnapshotResult, ms: f64) -> serde_json::Value {
    match result {
        Ok((position, bytes)) => json!({
            "ok": true, "node": node, "endpoint": endpoint, "index": position.index.0, "term": position.term.0,
            "bytes": bytes, "ms": ms,
        }),
        Err(error) => json!({ "ok": false, "node": node, "endpoint": endpoint, "error": error.to_string(), "ms": ms }),
    }
}

/// Returns an error if a node lacked the disk space for its snapshot, or if no snapshot was taken.
fn check_results(args: &TakeSnapshot, results: &[(u64, &String, SnapshotResult)]) -> Result<(), CliError> {
    let lacks_space = |result: &SnapshotResult| match result {
        Err(ClientError::Refused(tried)) => tried.refusal == Some(Refusal::NoSpace),
        _ => false,
    };
    let nodes_without_space_count = results.iter().filter(|(.., result)| lacks_space(result)).count();
    if nodes_without_space_count > 0 {
        let message =
            format!("{nodes_without_space_count} of {} nodes lack the disk space for a snapshot", results.len());
        let advice = "earlier snapshots are untouched · free disk space, then run this again";
        return Err(CliError { message: format!("{message}\n  {advice}"), code: 1 });
    }
    if results.iter().any(|(.., result)| result.is_ok()) {
        return Ok(());
    }
    let tried_endpoints = args.cluster.endpoints.join(", ");
    let message = match (results.is_empty(), args.node) {
        (false, _) => "no snapshot was taken".to_owned(),
        (true, Some(node)) => format!("no node {node} answers"),
        (true, None) => return Err(args.cluster.no_answer_error()),
    };
    Err(CliError { message: format!("{message}\n  tried {tried_endpoints} · see: drave status"), code: 3 })
}

/// `drave snapshot list`: exits with 5 if a snapshot is damaged.
pub fn list(args: &ListSnapshots) -> Result<(), CliError> {
    let snapshots = snapshots_at(&args.path)?;
    if snapshots.is_empty() {
        eprintln!("no snapshots in {}", args.path.display());
    }
    let mut damaged_count = 0;
    for snapshot in &snapshots {
        let flaw = snapshot.find_flaw();
        damaged_count += usize::from(flaw.is_some());
        let (name, bytes, position) = (&snapshot.name, snapshot.bytes.len(), snapshot.position);
        if args.output == Output::Json {
            outln!(
                "{}",
                json!({
                    "file": name, "index": position.map(|position| position.index.0),
                    "term": position.map(|position| position.term.0), "bytes": bytes, "whole": flaw.is_none(),
                    "off": flaw.map(|flaw| flaw.at), "what": flaw.map(|flaw| flaw.to_string()),
                })
            );
            continue;
        }
        let position = position.map_or("-".to_owned(), |position| position.to_string());
        let state_text = flaw.map_or("whole".to_owned(), |flaw| format!("DAMAGED at byte {}: {flaw}", flaw.at));
        outln!("{name}  {position:>12}  {:>10}  {state_text}", ByteSize(bytes as u64).display().iec().to_string());
    }
    match damaged_count {
        0 => Ok(()),
        _ => Err(CliError { message: format!("{damaged_count} of {} snapshots damaged", snapshots.len()), code: 5 }),
    }
}
