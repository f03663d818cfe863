//! `drave status`: the status of every node, and the leader's view of each node.

use super::columns::{Column, format_table, number_column, text_column};
use super::upgrade::version_lines;
use crate::output::{out, outln};
use crate::remote::cluster::ClusterArgs;
use crate::remote::failure::CliError;
use crate::remote::poll::{EndpointStatus, poll};
use bytesize::ByteSize;
use clap::Args;
use drave::api::{PeerStatus, RoleName, Status};
use serde_json::json;
use std::io::IsTerminal;
use std::time::{Duration, SystemTime};

/// Shows the status of every node: role, term, commit, applied, match, lag, sync times, last contact; and its log and
/// snapshot on disk.
#[derive(Args, Debug)]
pub struct ShowStatus {
    /// Repeats every second
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// `drave status`: exits with 3 if no node answers, or none leads.
pub fn show(args: &ShowStatus) -> Result<(), CliError> {
    loop {
        let results = poll(&args.cluster);
        if args.watch && std::io::stdout().is_terminal() {
            out!("\x1b[H\x1b[2J");
        }
        if args.cluster.prints_json() {
            outln!("{}", to_json(&results));
        } else {
            print_tables(&results);
        }
        if !args.watch {
            if results.iter().all(|result| result.status.is_err()) {
                return Err(args.cluster.no_answer_error());
            }
            if find_leader(&results).is_none() {
                let message =
                    "no node leads: writes fail, and reads work only with --consistency local\n  see: drave doctor";
                return Err(CliError { message: message.to_owned(), code: 3 });
            }
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The leader of the latest term, if any node that answered leads.
fn find_leader(results: &[EndpointStatus]) -> Option<&Status> {
    let statuses = results.iter().filter_map(|result| result.status.as_ref().ok());
    statuses.filter(|status| status.role == RoleName::Leader).max_by_key(|status| status.term)
}

fn to_json(results: &[EndpointStatus]) -> serde_json::Value {
    let node_json = |result: &EndpointStatus| match &result.status {
        Ok(status) => json!({ "endpoint": result.endpoint, "up": true, "status": status }),
        Err(error) => json!({ "endpoint": result.endpoint, "up": false, "error": error }),
    };
    json!({
        "leader": find_leader(results).map(|status| status.node),
        "term": results.iter().filter_map(|result| result.status.as_ref().ok()).map(|status| status.term).max(),
        "nodes": results.iter().map(node_json).collect::<Vec<_>>(),
    })
}

/// The columns of the first table, which has a row for each endpoint.
const NODE_COLUMNS: [Column; 12] = [
    text_column("node", 5, 0),
    text_column("role", 12, 1),
    number_column("term", 5),
    number_column("commit", 9),
    number_column("applied", 9),
    number_column("match", 9),
    number_column("lag", 6),
    number_column("fsync p99", 9),
    text_column("address", 18, 2),
    text_column("stage", 8, 1),
    number_column("heard", 7),
    text_column("digest", 0, 2),
];

/// The columns of the table of logs and snapshots on disk.
const DISK_COLUMNS: [Column; 7] = [
    text_column("node", 5, 0),
    number_column("log", 10),
    number_column("from", 9),
    number_column("reclaimable", 11),
    number_column("snapshot", 10),
    number_column("up to", 9),
    text_column("kept for", 0, 2),
];

/// Prints the table of nodes, the table of disks, the warnings, and the membership.
fn print_tables(results: &[EndpointStatus]) {
    let leader = find_leader(results);
    let row_of_result = |result: &EndpointStatus| match &result.status {
        Ok(status) => node_row(&result.endpoint, status, leader),
        Err(error) => {
            let mut cells = vec![String::new(); 8];
            (cells[0], cells[1]) = ("?".to_owned(), "down".to_owned());
            cells.extend([result.endpoint.clone(), error.clone()]);
            cells
        }
    };
    format_table(&NODE_COLUMNS, &results.iter().map(row_of_result).collect::<Vec<_>>())
        .iter()
        .for_each(|line| outln!("{line}"));
    let statuses = results.iter().filter_map(|result| result.status.as_ref().ok());
    let disk_rows: Vec<_> = statuses.map(|status| disk_row(status, leader)).collect();
    format_table(&DISK_COLUMNS, &disk_rows).iter().for_each(|line| outln!("{line}"));
    let statuses = results.iter().filter_map(|result| result.status.as_ref().ok());
    statuses.filter_map(repair_line).for_each(|line| outln!("{line}"));
    let statuses = results.iter().filter_map(|result| result.status.as_ref().ok());
    for (status, finding) in statuses.flat_map(|status| status.scrub.findings.iter().map(move |one| (status, one))) {
        if !finding.mended {
            outln!("n{} replaces a damaged file by a snapshot: {}", status.node, finding.text);
        }
    }
    let statuses: Vec<&Status> = results.iter().filter_map(|result| result.status.as_ref().ok()).collect();
    version_lines(&statuses, leader).into_iter().for_each(|line| outln!("{line}"));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let statuses = results.iter().filter_map(|result| result.status.as_ref().ok());
    statuses.filter_map(|status| certificate_warning(status, now)).for_each(|line| outln!("{line}"));
    match leader {
        Some(leader) => {
            outln!("{} · cluster {} · fsync {}", leader.membership, leader.cluster, fsync_text(leader.fsync))
        }
        None => outln!("no node that answers leads"),
    }
}

/// A line about a node in repair; `None` if its log is whole.
fn repair_line(status: &Status) -> Option<String> {
    let repair = status.repair.as_ref()?;
    let damage = match &repair.file[..] {
        "" => String::new(),
        file => format!("{file}: byte {}: {}; lost entries: {} · ", repair.offset, repair.damage, repair.lost),
    };
    let missing = repair.missing.map_or(String::new(), |missing| format!(", {missing} missing"));
    Some(format!(
        "n{} has been in repair for {:.0} s: {damage}it acknowledged all up to {} and holds all up to {} ({} received{missing}): \
         it votes for no candidate with less, does not campaign, and answers no local read",
        status.node,
        repair.age_ms as f64 / 1000.0,
        status.promised,
        status.last,
        repair.received
    ))
}

/// A line about a node's certificate that expires within two weeks; `None` if it is valid for longer. `now` is the time
/// since 1970.
fn certificate_warning(status: &Status, now: Duration) -> Option<String> {
    const EXPIRY_WARNING_TIME: Duration = Duration::from_secs(14 * 24 * 3600);
    let expires_at = Duration::from_secs(status.certificate_expires?);
    if expires_at > now + EXPIRY_WARNING_TIME {
        return None;
    }
    let node = status.node;
    Some(match expires_at.checked_sub(now) {
        None => format!("the certificate of n{node} has expired: replace it, and send SIGHUP"),
        Some(remaining) => {
            let days = remaining.as_secs() / 86_400;
            format!("the certificate of n{node} expires in {days} days: replace it, and send SIGHUP")
        }
    })
}

fn fsync_text(is_on: bool) -> &'static str {
    if is_on { "on" } else { "OFF: a power loss may lose anything" }
}

/// The leader's view of a node; `None` for the leader itself, and without a leader.
fn peer_status<'a>(status: &Status, leader: Option<&'a Status>) -> Option<&'a PeerStatus> {
    leader.and_then(|leader| leader.peers.iter().find(|peer| peer.node == status.node))
}

/// The row of a node's log and snapshot on disk, and why the log is kept.
fn disk_row(status: &Status, leader: Option<&Status>) -> Vec<String> {
    let log = &status.log;
    let size = |bytes: u64| ByteSize(bytes).display().iec().to_string();
    let (snapshot, upto) = match log.snapshot {
        0 => ("-".to_owned(), "-".to_owned()),
        upto => (size(log.snapshot_bytes), upto.to_string()),
    };
    let taking_snapshot_text = log.taking.then(|| "takes a snapshot".to_owned());
    let lacks_room_text = log.lacks_room.then(|| "no room for a snapshot".to_owned());
    let snapshot_transfer = peer_status(status, leader).filter(|peer| peer.snapshot_bytes > 0);
    let snapshot_transfer = snapshot_transfer
        .map(|peer| format!("receives a snapshot: {} of {}", size(peer.snapshot_has), size(peer.snapshot_bytes)));
    let retention_reason = Some(log.kept_for.clone()).filter(|reason| !reason.is_empty());
    let reasons: Vec<String> =
        [retention_reason, taking_snapshot_text, lacks_room_text, snapshot_transfer].into_iter().flatten().collect();
    vec![
        format!("n{}", status.node),
        size(log.bytes),
        log.first.to_string(),
        size(log.reclaimable),
        snapshot,
        upto,
        reasons.join(" · "),
    ]
}

/// The row of a node that answers. Its match index, lag, stage and last contact are what the leader knows; `-` if the
/// leader does not know them.
fn node_row(endpoint: &str, status: &Status, leader: Option<&Status>) -> Vec<String> {
    let peer = peer_status(status, leader);
    let is_leader = leader.is_some_and(|leader| leader.node == status.node);
    let (matched, lag) = match peer {
        Some(peer) if peer.known_lag().is_some() && peer.lost_acknowledged == 0 => {
            (peer.matched.to_string(), peer.lag.to_string())
        }
        None if is_leader => (status.durable.to_string(), (status.last - status.durable).to_string()),
        _ => ("-".to_owned(), "-".to_owned()),
    };
    let stage = peer.map_or("-", |peer| if peer.lost_acknowledged > 0 { "lost" } else { peer.stage.as_str() });
    let last_contact = peer.and_then(|peer| peer.heard_ms).map_or("-".to_owned(), |ms| format!("{ms} ms"));
    vec![
        format!("n{}", status.node),
        status.role.to_string(),
        status.term.to_string(),
        status.commit.to_string(),
        status.applied.to_string(),
        matched,
        lag,
        format!("{:.2} ms", status.disk.sync_p99_us / 1000.0),
        endpoint.to_owned(),
        stage.to_owned(),
        last_contact,
        format!("{}@{}", &status.digest[..8.min(status.digest.len())], status.applied),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_that_expires_soon_is_reported() {
        let now = Duration::from_secs(1_800_000_000);
        let warning =
            |end| certificate_warning(&Status { node: 2, certificate_expires: end, ..Status::default() }, now);
        assert_eq!(warning(None), None, "a node without TLS has no certificate");
        assert_eq!(warning(Some(1_800_000_000 + 15 * 86_400)), None);
        assert!(warning(Some(1_800_000_000 + 3 * 86_400)).unwrap().contains("n2 expires in 3 days"));
        assert!(warning(Some(1_799_999_999)).unwrap().contains("n2 has expired"));
    }
}
