//! The checks of `drave doctor` on a cluster, made from the nodes' statuses alone.

use drave::api::figures::Buckets;
use drave::api::{RoleName, Status};
use drave::types::Membership;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// A round trip plus a sync must fit this many times into the shortest election timeout: a few may be lost or late.
const WELL_WITHIN: f64 = 10.0;
/// Below this many times, one late answer deposes a leader.
const BARELY_WITHIN: f64 = 3.0;
/// Elections must be this many of the longest timeouts apart: otherwise the cluster does more electing than work.
const FAR_APART: f64 = 1000.0;
/// A follower that is more than this many entries behind is out of step.
const LAGS: u64 = 10_000;
/// Microseconds. A disk that syncs faster than this and has no battery does not keep its data through a power loss.
const TOO_QUICK_US: f64 = 20.0;
/// The fewest syncs from which anything is concluded.
const SYNCS_MIN: u64 = 100;
/// A certificate that expires within this time is to be replaced.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// Up to this many elections nothing is concluded: the first one, and one for each node that was stopped. Transfers are
/// not counted.
const ELECTIONS_MIN: u64 = 5;

/// The severity of a finding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// The check passed.
    Pass,
    /// It works now, and may not always.
    Warn,
    /// It does not work, or acknowledged writes may be lost.
    Fail,
}

impl Level {
    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Level::Pass => "PASS",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        }
    }
}

/// The result of one check.
#[derive(Clone, PartialEq, Debug)]
pub struct Finding {
    /// Its severity.
    pub level: Level,
    /// The subject of the check.
    pub what: String,
    /// The result in numbers, and what to do about it.
    pub found: String,
}

/// One node's endpoint, status and round trips.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its address.
    pub endpoint: String,
    /// Its status, or why it is unknown.
    pub status: Result<Status, String>,
    /// Round trips from this machine, in microseconds. They show how far away the node is, and never cause a warning.
    pub trips: Histogram<u64>,
}

pub(super) fn finding(level: Level, what: impl Into<String>, found: impl Into<String>) -> Finding {
    Finding { level, what: what.into(), found: found.into() }
}

/// Runs every check that needs the nodes' statuses alone.
pub fn examine(nodes: &[Node]) -> Vec<Finding> {
    let mut out = Vec::new();
    for node in nodes {
        match &node.status {
            Ok(status) => of_node(node, status, &mut out),
            Err(why) if is_nobodys(&node.endpoint, nodes) => {
                let found = format!(
                    "no node answers there, and every member answers elsewhere ({why}) · remove it from --endpoints"
                );
                out.push(finding(Level::Warn, &node.endpoint, found));
            }
            Err(why) => out.push(finding(Level::Fail, &node.endpoint, format!("does not answer: {why}"))),
        }
    }
    let statuses: Vec<&Status> = nodes.iter().filter_map(|node| node.status.as_ref().ok()).collect();
    let leads = |status: &&&Status| status.role == RoleName::Leader;
    let leader = statuses.iter().filter(leads).max_by_key(|status| status.term).copied();
    match leader {
        Some(leader) => of_leader(leader, &statuses, &mut out),
        None => out.push(finding(Level::Fail, "leader", "no node that answers leads")),
    }
    out.push(timing(leader, &statuses));
    out.push(elections(&statuses));
    out.push(compare_digests(&statuses));
    out.push(versions(&statuses));
    out
}

/// Whether an endpoint is no member's address, by the leader's list, while all members answer.
fn is_nobodys(endpoint: &str, nodes: &[Node]) -> bool {
    let answering = || nodes.iter().filter_map(|node| node.status.as_ref().ok());
    let Some(leader) = answering().filter(|status| status.role == RoleName::Leader).max_by_key(|s| s.term) else {
        return false;
    };
    let members = &leader.members;
    members.iter().all(|member| member.address != endpoint && answering().any(|status| status.node == member.node))
}

/// When the certificates of the nodes, and of the authorities that they trust, expire. `now` is the time since 1970.
pub fn certificates(statuses: &[&Status], now: Duration) -> Vec<Finding> {
    let mut out = Vec::new();
    for status in statuses {
        let ends = [("certificate", status.certificate_expires), ("authority", status.authority_expires)];
        for (what, end) in ends.into_iter().filter_map(|(what, end)| Some((what, end?))) {
            let name = format!("n{} {what}", status.node);
            out.push(match Duration::from_secs(end).checked_sub(now) {
                None => finding(Level::Fail, name, "has expired · replace it, and send SIGHUP"),
                Some(left) => {
                    let days = left.as_secs() / 86_400;
                    let level = if left < EXPIRES_SOON { Level::Warn } else { Level::Pass };
                    let advice = if left < EXPIRES_SOON { " · replace it, and send SIGHUP" } else { "" };
                    finding(level, name, format!("expires in {days} days{advice}"))
                }
            });
        }
    }
    out
}

/// The checks of one node's own status.
fn of_node(node: &Node, status: &Status, out: &mut Vec<Finding>) {
    let name = |what: &str| format!("n{} {what}", status.node);
    let trip = |quantile| node.trips.value_at_quantile(quantile) as f64 / 1000.0;
    out.push(finding(
        Level::Pass,
        name("round trip"),
        format!("p50 {:.2} · p99 {:.2} · max {:.2} ms from here", trip(0.5), trip(0.99), trip(1.0)),
    ));
    let disk = &status.disk;
    let (p50, p99, max) = (disk.sync_p50_us / 1000.0, disk.sync_p99_us / 1000.0, disk.sync_max_us / 1000.0);
    let figures = format!("p50 {p50:.2} · p99 {p99:.2} · max {max:.2} ms of {} syncs", disk.syncs);
    out.push(match () {
        () if !status.fsync => finding(
            Level::Fail,
            name("fsync"),
            "OFF: a power loss may lose anything · start it without --unsafe-no-fsync",
        ),
        () if disk.syncs >= SYNCS_MIN && disk.sync_p50_us < TOO_QUICK_US && !status.in_memory => {
            let advice = "faster than a disk without a battery can be: check that synced data survives a power loss";
            finding(Level::Warn, name("fsync"), format!("{figures} · {advice}"))
        }
        () => finding(Level::Pass, name("fsync"), figures),
    });
    out.push(file_system(name("file system"), &status.file_system));
    let (low, lacks) = (status.low_space, status.log.lacks_room);
    out.push(match (low, lacks) {
        (true, _) => {
            finding(Level::Fail, name("room"), "too little disk space: as leader it rejects writes · free some")
        }
        (false, true) => {
            finding(Level::Warn, name("room"), "too little disk space for a snapshot: its log grows · free some")
        }
        (false, false) => finding(Level::Pass, name("room"), "enough"),
    });
}

/// Whether a file system keeps synced data.
pub(super) fn file_system(what: String, name: &str) -> Finding {
    let warn = |why: &str| (Level::Warn, format!("{name}: {why}"));
    let (level, found) = match name {
        "tmpfs" | "ramfs" => warn("in memory: a power loss loses everything · use a disk"),
        "nfs" | "cifs" | "9p" | "fuse" => {
            warn("a sync is only as durable as the file server makes it · use a local disk")
        }
        "overlay" => warn("the upper layer of a container, removed with it · mount a volume"),
        "" => warn("unknown"),
        name => (Level::Pass, name.to_owned()),
    };
    finding(level, what, found)
}

/// The checks of the leader's view of the other nodes.
fn of_leader(leader: &Status, statuses: &[&Status], out: &mut Vec<Finding>) {
    out.push(finding(Level::Pass, "leader", format!("n{} of term {}", leader.node, leader.term)));
    let of = |kinds: &[&str]| {
        let voters: Vec<u64> =
            leader.members.iter().filter(|m| kinds.contains(&m.kind.as_str())).map(|m| m.node).collect();
        let answer = voters.iter().filter(|voter| statuses.iter().any(|status| status.node == **voter)).count();
        (answer, voters.len())
    };
    let joint = leader.members.iter().any(|member| matches!(member.kind.as_str(), "incoming" | "outgoing"));
    if joint {
        // Each half needs a majority of its own, and an entry commits only with both (§6).
        out.push(majority("new voters", of(&["voter", "incoming"])));
        out.push(majority("old voters", of(&["voter", "outgoing"])));
    } else {
        out.push(majority("voters", of(&["voter"])));
    }
    if leader.membership.contains("outgoing") {
        out.push(finding(Level::Warn, "membership", format!("{}: a change is under way", leader.membership)));
    }
    for peer in &leader.peers {
        let what = format!("n{} in step", peer.node);
        let lag = peer.known_lag();
        let found = match lag {
            _ if peer.lost_acknowledged > 0 => {
                format!("has lost entries up to {}, which it acknowledged · check its disk", peer.lost_acknowledged)
            }
            Some(lag) if peer.losses > 0 => {
                format!(
                    "{lag} entries behind, {} · had lost acknowledged entries, and got them again · check its disk",
                    peer.stage
                )
            }
            Some(lag) => format!("{lag} entries behind, {}", peer.stage),
            None => "its match index is unknown yet".to_owned(),
        };
        let level = if peer.losses > 0 || lag.is_none_or(|lag| lag > LAGS) { Level::Warn } else { Level::Pass };
        out.push(finding(level, what, found));
    }
}

/// The finding that `answer` of `n` voters answer.
fn majority(what: &str, (answer, n): (usize, usize)) -> Finding {
    let quorum = Membership::majority_of(n);
    let found = format!("{answer} of {n} answer, a quorum is {quorum}");
    match n {
        _ if answer < quorum => finding(Level::Fail, what, format!("{found} · start the other voters")),
        _ if answer == quorum && answer < n => {
            finding(Level::Fail, what, format!("{found}: one more failure stops all writes"))
        }
        1 => finding(Level::Warn, what, "one voter: no other node has its data · drave member add"),
        2 => finding(Level::Warn, what, format!("{found} · 2 tolerate no more failures than 1 does")),
        n if n.is_multiple_of(2) => {
            finding(Level::Warn, what, format!("{found} · {n} tolerate no more failures than {} do", n - 1))
        }
        _ => finding(Level::Pass, what, found),
    }
}

/// broadcast time ≪ election timeout (§5.6). The broadcast time is the round trip from the leader to its slowest voter,
/// by the leader's own heartbeats, plus a sync of the slowest disk. The distance between the nodes and this machine
/// does not count.
fn timing(leader: Option<&Status>, statuses: &[&Status]) -> Finding {
    let trip = leader.and_then(slowest_trip);
    let sync = statuses.iter().map(|status| status.disk.sync_p99_us / 1000.0).fold(0.0, f64::max);
    let broadcast = trip.unwrap_or_default() + sync;
    let election = statuses.iter().map(|status| status.timing.election_min_ms).fold(f64::INFINITY, f64::min);
    let heartbeat = statuses.iter().map(|status| status.timing.heartbeat_ms).fold(0.0, f64::max);
    let times = election / broadcast.max(0.001);
    let counted = trip.map_or("no round trip counted".to_owned(), |trip| format!("round trip of the leader {trip:.1}"));
    let found = format!(
        "broadcast {broadcast:.1} ms (p99: {counted}, sync {sync:.1}) ≪ election {election:.0} ms: {times:.0} times · \
         a heartbeat each {heartbeat:.0} ms"
    );
    let (slow, at_fault) = if trip > Some(sync) { ("network", "links") } else { ("disk", "disks") };
    let what = "broadcast ≪ election";
    match times {
        t if t >= WELL_WITHIN => finding(Level::Pass, what, found),
        t if t >= BARELY_WITHIN => {
            finding(Level::Warn, what, format!("{found} · use a longer --election-timeout, or a faster {slow}"))
        }
        _ => finding(Level::Fail, what, format!("{found} · leaders lose leadership because of their {at_fault}")),
    }
}

/// The p99 round trip of heartbeats to the leader's farthest voter, in milliseconds; `None` if no heartbeat was
/// answered yet. Learners do not count: a learner deposes no leader.
fn slowest_trip(leader: &Status) -> Option<f64> {
    let learns = |node: u64| leader.members.iter().any(|member| member.node == node && member.kind == "learner");
    let voters = leader.figures.round_trip_ns.iter().filter(|(node, _)| !learns(**node));
    voters.filter_map(|(_, trips)| quantile(trips, 0.99)).map(|ns| ns / 1e6).max_by(f64::total_cmp)
}

/// The quantile `part` of the samples, interpolated within its bucket as if that were evenly filled, since bounds are
/// far apart. `None` if there are no samples.
fn quantile(of: &Buckets, part: f64) -> Option<f64> {
    let wanted = part * of.count() as f64;
    let (mut below, mut from) = (0.0, 0.0);
    for (bound, count) in of.bounds.iter().zip(&of.counts) {
        let (bound, count) = (*bound as f64, *count as f64);
        if count > 0.0 && below + count >= wanted {
            return Some(from + (bound - from) * (wanted - below) / count);
        }
        (below, from) = (below + count, bound);
    }
    // A sample above all bounds is at least the last bound.
    (of.count() > 0).then_some(from)
}

/// election timeout ≪ mean time between failures (§5.6): counts the failures that led to an election.
fn elections(statuses: &[&Status]) -> Finding {
    // A transfer that an operator requested is no failure.
    let chosen = |reason: &str| reason == "transfer";
    let counted = statuses.iter().flat_map(|status| &status.elections).filter(|(reason, _)| !chosen(reason));
    let begun: u64 = counted.map(|(_, count)| count).sum();
    let uptime = statuses.iter().map(|status| status.uptime_ms).max().unwrap_or_default() as f64;
    let election = statuses.iter().map(|status| status.timing.election_max_ms).fold(0.0, f64::max);
    let apart = uptime / begun.max(1) as f64;
    let found = format!(
        "election {election:.0} ms ≪ {:.0} s between elections ({begun} in {:.0} s)",
        apart / 1000.0,
        uptime / 1000.0
    );
    match apart / election.max(0.001) {
        times if times >= FAR_APART => finding(Level::Pass, "election ≪ MTBF", found),
        _ if begun <= ELECTIONS_MIN => finding(Level::Pass, "election ≪ MTBF", format!("{found}, too few to judge")),
        _ => finding(Level::Warn, "election ≪ MTBF", format!("{found} · see drave status --watch, and the logs")),
    }
}

/// Nodes at the same applied index have equal digests: anything else is a bug, or a disk that returns wrong data.
fn compare_digests(statuses: &[&Status]) -> Finding {
    let mut digests: BTreeMap<u64, Vec<&Status>> = BTreeMap::new();
    statuses.iter().for_each(|status| digests.entry(status.applied).or_default().push(status));
    let differs = |of: &&Vec<&Status>| of.iter().any(|status| status.digest != of[0].digest);
    match digests.values().find(differs) {
        Some(of) => {
            let who: Vec<String> = of.iter().map(|status| format!("n{} {}", status.node, status.digest)).collect();
            let found = format!("at {} the digests differ: {} · see drave diff", of[0].applied, who.join(", "));
            finding(Level::Fail, "states", found)
        }
        None => match digests.values().map(Vec::len).max() {
            Some(n) if n > 1 => finding(Level::Pass, "states", format!("{n} nodes at one index have equal digests")),
            _ => finding(Level::Pass, "states", "no two nodes are at one index now: nothing to compare"),
        },
    }
}

fn versions(statuses: &[&Status]) -> Finding {
    let mut versions: Vec<&str> = statuses.iter().map(|status| status.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    match versions[..] {
        [one] if one.contains("debug") => finding(Level::Warn, "version", format!("{one}: several times slower")),
        [one] => finding(Level::Pass, "version", one),
        _ => finding(Level::Warn, "version", format!("{} · run one version on all nodes", versions.join(", "))),
    }
}

#[cfg(test)]
mod tests;
