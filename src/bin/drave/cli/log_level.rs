//! `drave log-level`: prints or changes the log level of running nodes.

use crate::output::outln;
use crate::remote::cluster::ClusterArgs;
use crate::remote::failure::CliError;
use crate::remote::poll::poll;
use clap::Args;
use drave::api::{LogLevelInForce, LogLevelRequest};
use serde_json::json;

/// Prints the log level of every node that answers, or changes it until it is changed again or the node ends.
#[derive(Args, Debug)]
pub struct SetLevel {
    /// The new level: off, error, warn, info, debug or trace, or reset for the level at the start; default: only print
    #[arg(value_name = "LEVEL")]
    level: Option<LogLevelRequest>,
    /// The id of the only node; default: every member
    #[arg(long, value_name = "ID")]
    node: Option<u64>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// `drave log-level`: exits with 3 if a node does not answer, or refuses.
pub fn run(args: &SetLevel) -> Result<(), CliError> {
    let cluster = &args.cluster;
    let request = args.level.unwrap_or(LogLevelRequest::Read);
    let (mut answered, mut failed) = (0, 0);
    for result in poll(cluster) {
        let node = result.status.as_ref().ok().map(|status| status.node);
        if args.node.is_some_and(|wanted| node != Some(wanted)) {
            continue;
        }
        let level_result = result
            .status
            .and_then(|_| cluster.client().log_level(&result.endpoint, request).map_err(|error| error.to_string()));
        match &level_result {
            Ok(_) => answered += 1,
            Err(_) => failed += 1,
        }
        print_level(cluster, node, &result.endpoint, &level_result);
    }
    match (answered, failed, args.node) {
        (0, 0, Some(node)) => Err(unavailable_error(cluster, &format!("no node {node} answers"))),
        (0, _, None) => Err(cluster.no_answer_error()),
        (_, 0, _) => Ok(()),
        _ => Err(unavailable_error(
            cluster,
            &format!("{failed} of {} nodes did not answer, or refused", answered + failed),
        )),
    }
}

/// The error for nodes that did not answer, with the endpoints that were tried.
fn unavailable_error(cluster: &ClusterArgs, message: &str) -> CliError {
    CliError { message: format!("{message}\n  tried {} · see: drave status", cluster.endpoints.join(", ")), code: 3 }
}

fn print_level(
    cluster: &ClusterArgs,
    node: Option<u64>,
    endpoint: &str,
    level_result: &Result<LogLevelInForce, String>,
) {
    let node_name = node.map_or("?".to_owned(), |node| format!("n{node}"));
    match level_result {
        Ok(LogLevelInForce { level, changed }) if cluster.prints_json() => {
            outln!(
                "{}",
                json!({ "ok": true, "node": node, "endpoint": endpoint, "level": level.to_string(), "changed": changed })
            );
        }
        Err(error) if cluster.prints_json() => {
            outln!("{}", json!({ "ok": false, "node": node, "endpoint": endpoint, "error": error }));
        }
        Ok(LogLevelInForce { level, changed: true }) => outln!("{node_name} {level} (changed since the start)"),
        Ok(LogLevelInForce { level, changed: false }) => outln!("{node_name} {level}"),
        Err(error) => {
            // Some errors begin with the endpoint already.
            let error = error.strip_prefix(&format!("{endpoint}: ")).unwrap_or(error);
            outln!("{node_name} error: {endpoint}: {error}");
        }
    }
}
