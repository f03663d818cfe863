//! `drave scrub`: makes running nodes check all their files now, and reports what they find.

use crate::output::outln;
use crate::remote::cluster::{ClusterArgs, ms_since};
use crate::remote::failure::CliError;
use crate::remote::poll::poll;
use bytesize::ByteSize;
use clap::Args;
use drave::api::{ScrubFinding, ScrubStatus};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The interval between two requests for the status of a node that is checking its files.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Makes nodes check all their files now: the log and the newest snapshot.
#[derive(Args, Debug)]
pub struct Scrub {
    /// The id of the only node to check its files; default: every node that answers
    #[arg(long, value_name = "ID")]
    node: Option<u64>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What a node's pass has found.
struct PassResult {
    checked_bytes: u64,
    /// How many files could not be checked.
    unchecked_files: u64,
    /// The damaged files of this pass, and earlier ones that are not mended yet.
    findings: Vec<ScrubFinding>,
}

/// `drave scrub`: exits with 5 if a node finds damage, with 3 if none answers.
///
/// Nodes check their files one after the other: while one reads, the disks of a majority are not slowed down.
pub fn run(args: &Scrub) -> Result<(), CliError> {
    let cluster = &args.cluster;
    let nodes_and_endpoints =
        poll(cluster).into_iter().filter_map(|polled| Some((polled.status.ok()?.node, polled.endpoint)));
    let endpoints_by_node: BTreeMap<u64, String> =
        nodes_and_endpoints.filter(|(node, _)| args.node.is_none_or(|wanted| wanted == *node)).collect();
    let (mut checked_count, mut damaged_count, mut failed_count) = (0, 0, 0);
    for (node, endpoint) in &endpoints_by_node {
        let began = Instant::now();
        let result = scrub_node(cluster, *node, endpoint);
        clear_progress();
        match &result {
            Ok(pass) => {
                checked_count += 1;
                damaged_count += pass.findings.len();
            }
            Err(_) => failed_count += 1,
        }
        match &result {
            _ if cluster.prints_json() => outln!("{}", to_json(*node, endpoint, &result, ms_since(began))),
            Ok(pass) => print_result(*node, pass),
            Err(error) => outln!("n{node} failed: {error}"),
        }
    }
    if damaged_count > 0 {
        let message = format!("damaged files: {damaged_count}");
        let advice = "the nodes replace them by snapshots of their state · check the disks · see: drave status";
        return Err(CliError { message: format!("{message}\n  {advice}"), code: 5 });
    }
    if failed_count == 0 && checked_count > 0 {
        return Ok(());
    }
    let tried_endpoints = cluster.endpoints.join(", ");
    let message = match (failed_count, args.node) {
        (1.., _) => format!("{failed_count} of {} nodes did not complete the check", endpoints_by_node.len()),
        (_, Some(node)) => format!("no node {node} answers"),
        (_, None) => return Err(cluster.no_answer_error()),
    };
    Err(CliError { message: format!("{message}\n  tried {tried_endpoints} · see: drave status"), code: 3 })
}

/// Starts a pass at a node and waits for its end. Fails if the node does not answer for as long as `--timeout`.
fn scrub_node(cluster: &ClusterArgs, node: u64, endpoint: &str) -> Result<PassResult, String> {
    let client = cluster.client();
    let before = client.scrub(endpoint).map_err(|error| error.to_string())?.scrub;
    let mut last_answer_at = Instant::now();
    loop {
        std::thread::sleep(POLL_INTERVAL);
        match client.status(endpoint) {
            Ok(status) if status.scrub.ended >= before.pass => {
                let result = pass_result(&before, status.scrub);
                return match result.unchecked_files {
                    1.. if result.findings.is_empty() => {
                        Err(format!("{} files could not be read; see its log", result.unchecked_files))
                    }
                    _ => Ok(result),
                };
            }
            Ok(status) if status.scrub.pass < before.pass => {
                return Err("the node was started again during the check; see its log".to_owned());
            }
            Ok(status) => {
                last_answer_at = Instant::now();
                print_progress(node, &status.scrub);
            }
            Err(error) if last_answer_at.elapsed() >= cluster.timeout => return Err(error.to_string()),
            Err(_) => {}
        }
    }
}

/// The result of a pass, from the node's status before and after it. Older findings that are mended are left out.
fn pass_result(before: &ScrubStatus, after: ScrubStatus) -> PassResult {
    let new_count = usize::try_from(after.found.saturating_sub(before.found)).unwrap_or(usize::MAX);
    let old_count = after.findings.len().saturating_sub(new_count);
    let is_reported = |(nth, finding): &(usize, ScrubFinding)| *nth >= old_count || !finding.mended;
    PassResult {
        unchecked_files: after.unchecked_files,
        checked_bytes: after.checked_bytes.saturating_sub(before.checked_bytes),
        findings: after.findings.into_iter().enumerate().filter(is_reported).map(|(_, finding)| finding).collect(),
    }
}

fn treatment(finding: &ScrubFinding) -> &'static str {
    if finding.mended { "mended: a snapshot has replaced it" } else { "a snapshot will replace it" }
}

fn print_result(node: u64, pass: &PassResult) {
    let bytes = ByteSize(pass.checked_bytes).display().iec();
    let unchecked = match pass.unchecked_files {
        0 => String::new(),
        count => format!(" · {count} files could not be read"),
    };
    match pass.findings.len() {
        0 => outln!("n{node} ok · {bytes} checked"),
        count => outln!("n{node} {count} damaged · {bytes} checked{unchecked}"),
    }
    pass.findings.iter().for_each(|finding| outln!("  {} · {}", finding.text, treatment(finding)));
}

fn to_json(node: u64, endpoint: &str, result: &Result<PassResult, String>, ms: f64) -> serde_json::Value {
    match result {
        Ok(pass) => json!({
            "ok": pass.findings.is_empty(), "node": node, "endpoint": endpoint, "bytes": pass.checked_bytes,
            "damaged": pass.findings, "unchecked": pass.unchecked_files, "ms": ms,
        }),
        Err(error) => json!({ "ok": false, "node": node, "endpoint": endpoint, "error": error, "ms": ms }),
    }
}

/// Shows how far a pass is, if standard error is a terminal.
fn print_progress(node: u64, scrub: &ScrubStatus) {
    let mut stderr = std::io::stderr();
    if let Some(total_bytes) = scrub.total_bytes.filter(|_| stderr.is_terminal()) {
        let size = |bytes: u64| ByteSize(bytes).display().iec().to_string();
        let _terminal_may_be_gone =
            write!(stderr, "\r\x1b[Kn{node} has checked {} of {}", size(scrub.pass_bytes), size(total_bytes));
    }
}

fn clear_progress() {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let _terminal_may_be_gone = write!(stderr, "\r\x1b[K");
    }
}
