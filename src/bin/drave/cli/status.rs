//! `drave status`: every node's own status, and the leader's view of it.

use super::columns::{Column, lines, number, words};
use crate::output::{out, outln};
use crate::remote::cluster::Cluster;
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
pub struct Show {
    /// Repeats every second
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    cluster: Cluster,
}

/// `drave status`: exits with 3 if no node answers, or none leads.
pub fn show(args: &Show) -> Result<(), CliError> {
    loop {
        let asked = poll(&args.cluster);
        if args.watch && std::io::stdout().is_terminal() {
            out!("\x1b[H\x1b[2J");
        }
        if args.cluster.json() {
            outln!("{}", to_json(&asked));
        } else {
            print(&asked);
        }
        if !args.watch {
            if asked.iter().all(|asked| asked.status.is_err()) {
                return Err(args.cluster.no_answer_error());
            }
            if leader(&asked).is_none() {
                let what =
                    "no node leads: writes fail, and reads work only with --consistency local\n  see: drave doctor";
                return Err(CliError { what: what.to_owned(), code: 3 });
            }
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The leader of the latest term, if any node that answered leads.
fn leader(asked: &[EndpointStatus]) -> Option<&Status> {
    let answered = asked.iter().filter_map(|asked| asked.status.as_ref().ok());
    answered.filter(|status| status.role == RoleName::Leader).max_by_key(|status| status.term)
}

fn to_json(asked: &[EndpointStatus]) -> serde_json::Value {
    let node = |asked: &EndpointStatus| match &asked.status {
        Ok(status) => json!({ "endpoint": asked.endpoint, "up": true, "status": status }),
        Err(error) => json!({ "endpoint": asked.endpoint, "up": false, "error": error }),
    };
    json!({
        "leader": leader(asked).map(|status| status.node),
        "term": asked.iter().filter_map(|asked| asked.status.as_ref().ok()).map(|status| status.term).max(),
        "nodes": asked.iter().map(node).collect::<Vec<_>>(),
    })
}

/// The columns of the table of nodes.
const NODES: [Column; 12] = [
    words("node", 5, 0),
    words("role", 12, 1),
    number("term", 5),
    number("commit", 9),
    number("applied", 9),
    number("match", 9),
    number("lag", 6),
    number("fsync p99", 9),
    words("address", 18, 2),
    words("stage", 8, 1),
    number("heard", 7),
    words("digest", 0, 2),
];

/// The columns of the table of logs and snapshots on disk.
const DISK_COLUMNS: [Column; 7] = [
    words("node", 5, 0),
    number("log", 10),
    number("from", 9),
    number("reclaimable", 11),
    number("snapshot", 10),
    number("up to", 9),
    words("kept for", 0, 2),
];

fn print(asked: &[EndpointStatus]) {
    let leader = leader(asked);
    let node = |asked: &EndpointStatus| match &asked.status {
        Ok(status) => row(&asked.endpoint, status, leader),
        Err(error) => {
            let mut cells = vec![String::new(); 8];
            (cells[0], cells[1]) = ("?".to_owned(), "down".to_owned());
            cells.extend([asked.endpoint.clone(), error.clone()]);
            cells
        }
    };
    lines(&NODES, &asked.iter().map(node).collect::<Vec<_>>()).iter().for_each(|line| outln!("{line}"));
    let answered = asked.iter().filter_map(|asked| asked.status.as_ref().ok());
    let kept: Vec<_> = answered.map(|status| kept_row(status, leader)).collect();
    lines(&DISK_COLUMNS, &kept).iter().for_each(|line| outln!("{line}"));
    for status in
        asked.iter().filter_map(|asked| asked.status.as_ref().ok()).filter(|status| !status.promised.is_empty())
    {
        outln!(
            "n{} has lost acknowledged entries up to {}: it votes for no candidate with less, and does not campaign",
            status.node,
            status.promised
        );
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let answered = asked.iter().filter_map(|asked| asked.status.as_ref().ok());
    answered.filter_map(|status| expiry(status, now)).for_each(|line| outln!("{line}"));
    match leader {
        Some(leader) => outln!("{} · cluster {} · fsync {}", leader.membership, leader.cluster, on_off(leader.fsync)),
        None => outln!("no node that answers leads"),
    }
}

/// A line about a node's certificate that expires within two weeks; `None` if it is valid for longer. `now` is the time
/// since 1970.
fn expiry(status: &Status, now: Duration) -> Option<String> {
    const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
    let end = Duration::from_secs(status.certificate_expires?);
    if end > now + SOON {
        return None;
    }
    let node = status.node;
    Some(match end.checked_sub(now) {
        None => format!("the certificate of n{node} has expired: replace it, and send SIGHUP"),
        Some(left) => {
            let days = left.as_secs() / 86_400;
            format!("the certificate of n{node} expires in {days} days: replace it, and send SIGHUP")
        }
    })
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "OFF: a power loss may lose anything" }
}

/// The leader's view of that node.
fn leaders_view<'a>(status: &Status, leader: Option<&'a Status>) -> Option<&'a PeerStatus> {
    leader.and_then(|leader| leader.peers.iter().find(|peer| peer.node == status.node))
}

/// The row of a node's log and snapshot on disk, and why the log is kept.
fn kept_row(status: &Status, leader: Option<&Status>) -> Vec<String> {
    let log = &status.log;
    let size = |bytes: u64| ByteSize(bytes).display().iec().to_string();
    let (snapshot, upto) = match log.snapshot {
        0 => ("-".to_owned(), "-".to_owned()),
        upto => (size(log.snapshot_bytes), upto.to_string()),
    };
    let taking = log.taking.then(|| "takes a snapshot".to_owned());
    let lacks_room = log.lacks_room.then(|| "no room for a snapshot".to_owned());
    let receives = leaders_view(status, leader).filter(|peer| peer.snapshot_bytes > 0);
    let receives = receives
        .map(|peer| format!("receives a snapshot: {} of {}", size(peer.snapshot_has), size(peer.snapshot_bytes)));
    let kept_for = Some(log.kept_for.clone()).filter(|why| !why.is_empty());
    let why: Vec<String> = [kept_for, taking, lacks_room, receives].into_iter().flatten().collect();
    vec![
        format!("n{}", status.node),
        size(log.bytes),
        log.first.to_string(),
        size(log.reclaimable),
        snapshot,
        upto,
        why.join(" · "),
    ]
}

fn row(endpoint: &str, status: &Status, leader: Option<&Status>) -> Vec<String> {
    let seen = leaders_view(status, leader);
    let leads = leader.is_some_and(|leader| leader.node == status.node);
    let (matched, lag) = match seen {
        Some(peer) if peer.known_lag().is_some() && peer.lost_acknowledged == 0 => {
            (peer.matched.to_string(), peer.lag.to_string())
        }
        None if leads => (status.durable.to_string(), (status.last - status.durable).to_string()),
        _ => ("-".to_owned(), "-".to_owned()),
    };
    let stage = seen.map_or("-", |peer| if peer.lost_acknowledged > 0 { "lost" } else { peer.stage.as_str() });
    let heard = seen.and_then(|peer| peer.heard_ms).map_or("-".to_owned(), |ms| format!("{ms} ms"));
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
        heard,
        format!("{}@{}", &status.digest[..8.min(status.digest.len())], status.applied),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_that_expires_soon_is_reported() {
        let now = Duration::from_secs(1_800_000_000);
        let says = |end| expiry(&Status { node: 2, certificate_expires: end, ..Status::default() }, now);
        assert_eq!(says(None), None, "nothing is encrypted");
        assert_eq!(says(Some(1_800_000_000 + 15 * 86_400)), None);
        assert!(says(Some(1_800_000_000 + 3 * 86_400)).unwrap().contains("n2 expires in 3 days"));
        assert!(says(Some(1_799_999_999)).unwrap().contains("n2 has expired"));
    }
}
