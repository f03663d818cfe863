//! `drave snapshot take` and `list`: makes nodes take a snapshot now, and lists a node's snapshots.

use crate::output::outln;
use crate::remote::cluster::{Cluster, Output, ms_since};
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
pub struct Take {
    /// The id of the only node to take one; default: every node that answers
    #[arg(long, value_name = "ID")]
    node: Option<u64>,
    #[command(flatten)]
    cluster: Cluster,
}

/// Lists the snapshots of a node, and which are intact.
#[derive(Args, Debug)]
pub struct List {
    /// A data directory, or its directory of snapshots
    path: PathBuf,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// A node's result: the snapshot's position and size in bytes.
type TakenSnapshot = Result<(Position, u64), ClientError>;

/// `drave snapshot take`: exits with 1 if a node has no room for it, 3 if no node answers.
pub fn take(args: &Take) -> Result<(), CliError> {
    let cluster = &args.cluster;
    let answering = poll(cluster).into_iter().filter_map(|asked| Some((asked.status.ok()?.node, asked.endpoint)));
    let nodes: BTreeMap<u64, String> =
        answering.filter(|(node, _)| args.node.is_none_or(|wanted| wanted == *node)).collect();
    let began = Instant::now();
    // Nodes take their snapshots one after the other: while one writes, the other disks are a majority that does not.
    let mut all = Vec::new();
    for (node, endpoint) in &nodes {
        let taken: TakenSnapshot = cluster.client().snapshot(endpoint);
        match &taken {
            _ if cluster.json() => outln!("{}", to_json(*node, endpoint, &taken, ms_since(began))),
            Ok((position, bytes)) => outln!("n{node} ok {position} · {}", ByteSize(*bytes).display().iec()),
            Err(error) => outln!("n{node} no {error}"),
        }
        all.push((*node, endpoint, taken));
    }
    verdict(args, &all)
}

fn to_json(node: u64, endpoint: &str, taken: &TakenSnapshot, ms: f64) -> serde_json::Value {
    match taken {
        Ok((position, bytes)) => json!({
            "ok": true, "node": node, "endpoint": endpoint, "index": position.index.0, "term": position.term.0,
            "bytes": bytes, "ms": ms,
        }),
        Err(error) => json!({ "ok": false, "node": node, "endpoint": endpoint, "error": error.to_string(), "ms": ms }),
    }
}

fn verdict(args: &Take, taken: &[(u64, &String, TakenSnapshot)]) -> Result<(), CliError> {
    let full = |taken: &TakenSnapshot| match taken {
        Err(ClientError::Refused(tried)) => tried.refusal == Some(Refusal::NoSpace),
        _ => false,
    };
    let refused = taken.iter().filter(|(.., taken)| full(taken)).count();
    if refused > 0 {
        let what = format!("{refused} of {} nodes lack the disk space for a snapshot", taken.len());
        let advice = "earlier snapshots are untouched · free disk space, then run this again";
        return Err(CliError { what: format!("{what}\n  {advice}"), code: 1 });
    }
    if taken.iter().any(|(.., taken)| taken.is_ok()) {
        return Ok(());
    }
    let tried = args.cluster.endpoints.join(", ");
    let what = match (taken.is_empty(), args.node) {
        (false, _) => "no snapshot was taken".to_owned(),
        (true, Some(node)) => format!("no node {node} answers"),
        (true, None) => return Err(args.cluster.no_answer_error()),
    };
    Err(CliError { what: format!("{what}\n  tried {tried} · see: drave status"), code: 3 })
}

/// `drave snapshot list`: exits with 5 if a snapshot is damaged.
pub fn list(args: &List) -> Result<(), CliError> {
    let found = snapshots_at(&args.path)?;
    if found.is_empty() {
        eprintln!("no snapshots in {}", args.path.display());
    }
    let mut damaged = 0;
    for found in &found {
        let flaw = found.flaw();
        damaged += usize::from(flaw.is_some());
        let (name, bytes, position) = (&found.name, found.bytes.len(), found.position);
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
        let whole = flaw.map_or("whole".to_owned(), |flaw| format!("DAMAGED at byte {}: {flaw}", flaw.at));
        outln!("{name}  {position:>12}  {:>10}  {whole}", ByteSize(bytes as u64).display().iec().to_string());
    }
    match damaged {
        0 => Ok(()),
        _ => Err(CliError { what: format!("{damaged} of {} snapshots damaged", found.len()), code: 5 }),
    }
}
