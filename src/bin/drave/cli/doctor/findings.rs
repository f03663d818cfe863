//! The checks of `drave doctor` on a cluster. They use only what the nodes answer to status requests.

use drave::api::figures::Buckets;
use drave::api::{RoleName, Status};
use drave::types::Membership;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// A round trip plus a sync should fit this many times into the shortest election timeout: then a few heartbeats may be
/// lost or late.
const BROADCASTS_PER_ELECTION_TIMEOUT_GOOD: f64 = 10.0;
/// With fewer round trips plus syncs in an election timeout, one late heartbeat response deposes a leader.
const BROADCASTS_PER_ELECTION_TIMEOUT_MIN: f64 = 3.0;
/// The minimum ratio of the mean time between elections to the longest election timeout. Below it, elections take a
/// noticeable share of the time.
const TIMEOUTS_BETWEEN_ELECTIONS_MIN: f64 = 1000.0;
/// A follower that lags by more entries is reported.
const LAG_ENTRIES_MAX: u64 = 10_000;
/// Microseconds. A disk that syncs faster than this and has no battery does not keep its data through a power loss.
const IMPLAUSIBLE_SYNC_US: f64 = 20.0;
/// The minimum number of syncs from which a sync time is judged.
const JUDGED_SYNCS_MIN: u64 = 100;
/// A certificate that expires within this time should be replaced.
const EXPIRY_WARNING_TIME: Duration = Duration::from_secs(14 * 24 * 3600);
/// Up to this many elections are normal: the first one, and one for each node that was stopped. Leader transfers are
/// not counted.
const NORMAL_ELECTIONS_MAX: u64 = 5;

/// The severity of a finding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// The check found no problem.
    Pass,
    /// The cluster works now, and may fail later.
    Warn,
    /// The cluster does not work, or acknowledged writes may be lost.
    Fail,
}

impl Level {
    /// The name in the output, such as `PASS`.
    pub fn name(self) -> &'static str {
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
    /// Whether the check found a problem, and how serious it is.
    pub level: Level,
    /// The subject of the check, such as `n2 fsync` or `voters`.
    pub subject: String,
    /// The measured values, and advice if the check did not pass.
    pub result: String,
}

/// The status of one endpoint and the measured round trips to it.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// The address to which the status requests were sent.
    pub endpoint: String,
    /// The last status, or the error if the node did not answer.
    pub status: Result<Status, String>,
    /// Round trips from this machine, in microseconds. They depend on where this machine is, and never cause a warning.
    pub round_trips: Histogram<u64>,
}

pub(super) fn new_finding(level: Level, subject: impl Into<String>, result: impl Into<String>) -> Finding {
    Finding { level, subject: subject.into(), result: result.into() }
}

/// Runs all checks except [`check_certificates`], which needs the current time.
pub fn examine(reports: &[NodeReport]) -> Vec<Finding> {
    let mut out = Vec::new();
    for report in reports {
        match &report.status {
            Ok(status) => check_node(report, status, &mut out),
            Err(error) if is_former_address(&report.endpoint, reports) => {
                let result = format!(
                    "no node answers there, and every member answers elsewhere ({error}) · remove it from --endpoints"
                );
                out.push(new_finding(Level::Warn, &report.endpoint, result));
            }
            Err(error) => out.push(new_finding(Level::Fail, &report.endpoint, format!("does not answer: {error}"))),
        }
    }
    let statuses: Vec<&Status> = reports.iter().filter_map(|report| report.status.as_ref().ok()).collect();
    let is_leader = |status: &&&Status| status.role == RoleName::Leader;
    let leader = statuses.iter().filter(is_leader).max_by_key(|status| status.term).copied();
    match leader {
        Some(leader) => check_leader(leader, &statuses, &mut out),
        None => out.push(new_finding(Level::Fail, "leader", "no node that answers leads")),
    }
    out.push(check_timing(leader, &statuses));
    out.push(check_elections(&statuses));
    out.push(check_digests(&statuses));
    out.push(check_versions(&statuses));
    out
}

/// Whether an endpoint is not the address of a member, while all members answer at other endpoints. The members are
/// those that the leader lists.
fn is_former_address(endpoint: &str, reports: &[NodeReport]) -> bool {
    let statuses = || reports.iter().filter_map(|report| report.status.as_ref().ok());
    let Some(leader) = statuses().filter(|status| status.role == RoleName::Leader).max_by_key(|s| s.term) else {
        return false;
    };
    let members = &leader.members;
    members.iter().all(|member| member.address != endpoint && statuses().any(|status| status.node == member.node))
}

/// Checks when the certificates of the nodes and of their authorities expire. `now` is the time since 1970.
pub fn check_certificates(statuses: &[&Status], now: Duration) -> Vec<Finding> {
    let mut out = Vec::new();
    for status in statuses {
        let expiries = [("certificate", status.certificate_expires), ("authority", status.authority_expires)];
        for (kind, expiry) in expiries.into_iter().filter_map(|(kind, expiry)| Some((kind, expiry?))) {
            let subject = format!("n{} {kind}", status.node);
            out.push(match Duration::from_secs(expiry).checked_sub(now) {
                None => new_finding(Level::Fail, subject, "has expired · replace it, and send SIGHUP"),
                Some(remaining) => {
                    let days = remaining.as_secs() / 86_400;
                    let level = if remaining < EXPIRY_WARNING_TIME { Level::Warn } else { Level::Pass };
                    let advice = if remaining < EXPIRY_WARNING_TIME { " · replace it, and send SIGHUP" } else { "" };
                    new_finding(level, subject, format!("expires in {days} days{advice}"))
                }
            });
        }
    }
    out
}

/// Checks the round trips, fsync, file system and disk space of one node.
fn check_node(node: &NodeReport, status: &Status, out: &mut Vec<Finding>) {
    let subject = |kind: &str| format!("n{} {kind}", status.node);
    let round_trip_ms = |quantile| node.round_trips.value_at_quantile(quantile) as f64 / 1000.0;
    out.push(new_finding(
        Level::Pass,
        subject("round trip"),
        format!(
            "p50 {:.2} · p99 {:.2} · max {:.2} ms from here",
            round_trip_ms(0.5),
            round_trip_ms(0.99),
            round_trip_ms(1.0)
        ),
    ));
    let disk = &status.disk;
    let (p50, p99, max) = (disk.sync_p50_us / 1000.0, disk.sync_p99_us / 1000.0, disk.sync_max_us / 1000.0);
    let latencies = format!("p50 {p50:.2} · p99 {p99:.2} · max {max:.2} ms of {} syncs", disk.syncs);
    out.push(match () {
        () if !status.fsync => new_finding(
            Level::Fail,
            subject("fsync"),
            "OFF: a power loss may lose anything · start it without --unsafe-no-fsync",
        ),
        () if disk.syncs >= JUDGED_SYNCS_MIN && disk.sync_p50_us < IMPLAUSIBLE_SYNC_US && !status.in_memory => {
            let advice = "faster than a disk without a battery can be: check that synced data survives a power loss";
            new_finding(Level::Warn, subject("fsync"), format!("{latencies} · {advice}"))
        }
        () => new_finding(Level::Pass, subject("fsync"), latencies),
    });
    out.push(check_file_system(subject("file system"), &status.file_system));
    if status.repair.is_some() {
        let text = format!("its log lacks entries up to {} · the leader sends them", status.promised);
        out.push(new_finding(Level::Warn, subject("repair"), text));
    }
    check_damaged_files(status, out);
    let (is_low, lacks_snapshot_space) = (status.low_space, status.log.lacks_room);
    out.push(match (is_low, lacks_snapshot_space) {
        (true, _) => {
            new_finding(Level::Fail, subject("room"), "too little disk space: as leader it rejects writes · free some")
        }
        (false, true) => {
            new_finding(Level::Warn, subject("room"), "too little disk space for a snapshot: its log grows · free some")
        }
        (false, false) => new_finding(Level::Pass, subject("room"), "enough"),
    });
}

/// Warns of damaged files that the node found while it ran: also of mended ones, because such a disk damages others.
fn check_damaged_files(status: &Status, out: &mut Vec<Finding>) {
    let scrub = &status.scrub;
    if scrub.found == 0 {
        return;
    }
    let unmended_texts = scrub.findings.iter().filter(|finding| !finding.mended).map(|finding| &finding.text);
    let mending_text =
        unmended_texts.map(|text| format!(" · being replaced by a snapshot: {text}")).collect::<String>();
    let text = format!("{} files found damaged since its start{mending_text} · check the disk", scrub.found);
    out.push(new_finding(Level::Warn, format!("n{} files", status.node), text));
}

/// Checks that the file system of this name keeps synced data through a power loss.
pub(super) fn check_file_system(subject: String, name: &str) -> Finding {
    let warning = |reason: &str| (Level::Warn, format!("{name}: {reason}"));
    let (level, result) = match name {
        "tmpfs" | "ramfs" => warning("in memory: a power loss loses everything · use a disk"),
        "nfs" | "cifs" | "9p" | "fuse" => {
            warning("a sync is only as durable as the file server makes it · use a local disk")
        }
        "overlay" => warning("the upper layer of a container, removed with it · mount a volume"),
        "" => warning("unknown"),
        name => (Level::Pass, name.to_owned()),
    };
    new_finding(level, subject, result)
}

/// Checks whether a quorum answers, and how far each follower lags according to the leader.
fn check_leader(leader: &Status, statuses: &[&Status], out: &mut Vec<Finding>) {
    out.push(new_finding(Level::Pass, "leader", format!("n{} of term {}", leader.node, leader.term)));
    let count_answering_and_all = |kinds: &[&str]| {
        let voters: Vec<u64> =
            leader.members.iter().filter(|m| kinds.contains(&m.kind.as_str())).map(|m| m.node).collect();
        let answering_count =
            voters.iter().filter(|voter| statuses.iter().any(|status| status.node == **voter)).count();
        (answering_count, voters.len())
    };
    let is_joint = leader.members.iter().any(|member| matches!(member.kind.as_str(), "incoming" | "outgoing"));
    if is_joint {
        // During a membership change an entry commits only with a majority of the old voters and one of the new (§6).
        out.push(check_majority("new voters", count_answering_and_all(&["voter", "incoming"])));
        out.push(check_majority("old voters", count_answering_and_all(&["voter", "outgoing"])));
    } else {
        out.push(check_majority("voters", count_answering_and_all(&["voter"])));
    }
    if leader.membership.contains("outgoing") {
        out.push(new_finding(Level::Warn, "membership", format!("{}: a change is under way", leader.membership)));
    }
    for peer in &leader.peers {
        let subject = format!("n{} in step", peer.node);
        let lag = peer.known_lag();
        let result = match lag {
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
            None => "its match index is not known yet".to_owned(),
        };
        let level =
            if peer.losses > 0 || lag.is_none_or(|lag| lag > LAG_ENTRIES_MAX) { Level::Warn } else { Level::Pass };
        out.push(new_finding(level, subject, result));
    }
}

/// Checks that `answering` of `voter_count` voters are a quorum, also after one more failure.
fn check_majority(subject: &str, (answering, voter_count): (usize, usize)) -> Finding {
    let quorum = Membership::majority_of(voter_count);
    let result = format!("{answering} of {voter_count} answer, a quorum is {quorum}");
    match voter_count {
        _ if answering < quorum => new_finding(Level::Fail, subject, format!("{result} · start the other voters")),
        _ if answering == quorum && answering < voter_count => {
            new_finding(Level::Fail, subject, format!("{result}: one more failure stops all writes"))
        }
        1 => new_finding(Level::Warn, subject, "one voter: no other node has its data · drave member add"),
        2 => new_finding(Level::Warn, subject, format!("{result} · 2 tolerate no more failures than 1 does")),
        voter_count if voter_count.is_multiple_of(2) => new_finding(
            Level::Warn,
            subject,
            format!("{result} · {voter_count} tolerate no more failures than {} do", voter_count - 1),
        ),
        _ => new_finding(Level::Pass, subject, result),
    }
}

/// Checks broadcast time ≪ election timeout (§5.6). The broadcast time is the p99 round trip of the leader's heartbeats
/// to its slowest voter, plus the p99 sync of the slowest disk. Round trips from this machine do not count.
fn check_timing(leader: Option<&Status>, statuses: &[&Status]) -> Finding {
    let round_trip_ms = leader.and_then(slowest_round_trip);
    let sync_p99_ms = statuses.iter().map(|status| status.disk.sync_p99_us / 1000.0).fold(0.0, f64::max);
    let broadcast_ms = round_trip_ms.unwrap_or_default() + sync_p99_ms;
    let election_timeout_ms = statuses.iter().map(|status| status.timing.election_min_ms).fold(f64::INFINITY, f64::min);
    let heartbeat_interval_ms = statuses.iter().map(|status| status.timing.heartbeat_ms).fold(0.0, f64::max);
    let ratio = election_timeout_ms / broadcast_ms.max(0.001);
    let round_trip_text = round_trip_ms.map_or("no round trip counted".to_owned(), |round_trip_ms| {
        format!("round trip of the leader {round_trip_ms:.1}")
    });
    let result = format!(
        "broadcast {broadcast_ms:.1} ms (p99: {round_trip_text}, sync {sync_p99_ms:.1}) ≪ election \
         {election_timeout_ms:.0} ms: {ratio:.0} times · a heartbeat each {heartbeat_interval_ms:.0} ms"
    );
    let (slow_part, at_fault) =
        if round_trip_ms > Some(sync_p99_ms) { ("network", "links") } else { ("disk", "disks") };
    let subject = "broadcast ≪ election";
    match ratio {
        ratio if ratio >= BROADCASTS_PER_ELECTION_TIMEOUT_GOOD => new_finding(Level::Pass, subject, result),
        ratio if ratio >= BROADCASTS_PER_ELECTION_TIMEOUT_MIN => new_finding(
            Level::Warn,
            subject,
            format!("{result} · use a longer --election-timeout, or a faster {slow_part}"),
        ),
        _ => {
            new_finding(Level::Fail, subject, format!("{result} · leaders lose leadership because of their {at_fault}"))
        }
    }
}

/// The p99 round trip of heartbeats to the leader's farthest voter, in milliseconds; `None` if no heartbeat was
/// answered yet. Learners do not count: a learner deposes no leader.
fn slowest_round_trip(leader: &Status) -> Option<f64> {
    let is_learner = |node: u64| leader.members.iter().any(|member| member.node == node && member.kind == "learner");
    let voters = leader.figures.round_trip_ns.iter().filter(|(node, _)| !is_learner(**node));
    voters.filter_map(|(_, buckets)| quantile(buckets, 0.99)).map(|ns| ns / 1e6).max_by(f64::total_cmp)
}

/// The quantile `q` of the samples; `None` if there are no samples. The value is interpolated within its bucket, as if
/// the bucket were evenly filled, because the bounds are far apart.
fn quantile(buckets: &Buckets, q: f64) -> Option<f64> {
    let rank = q * buckets.count() as f64;
    let (mut count_below, mut lower_bound) = (0.0, 0.0);
    for (bound, count) in buckets.bounds.iter().zip(&buckets.counts) {
        let (bound, count) = (*bound as f64, *count as f64);
        if count > 0.0 && count_below + count >= rank {
            return Some(lower_bound + (bound - lower_bound) * (rank - count_below) / count);
        }
        (count_below, lower_bound) = (count_below + count, bound);
    }
    // The quantile lies above the last bound, which is the best known lower limit.
    (buckets.count() > 0).then_some(lower_bound)
}

/// Checks election timeout ≪ mean time between failures (§5.6). A failure is counted if it led to an election.
fn check_elections(statuses: &[&Status]) -> Finding {
    // A transfer that an operator requested is no failure.
    let is_transfer = |reason: &str| reason == "transfer";
    let elections_without_transfers =
        statuses.iter().flat_map(|status| &status.elections).filter(|(reason, _)| !is_transfer(reason));
    let election_count: u64 = elections_without_transfers.map(|(_, count)| count).sum();
    let uptime_ms = statuses.iter().map(|status| status.uptime_ms).max().unwrap_or_default() as f64;
    let election_timeout_ms = statuses.iter().map(|status| status.timing.election_max_ms).fold(0.0, f64::max);
    let ms_between_elections = uptime_ms / election_count.max(1) as f64;
    let result = format!(
        "election {election_timeout_ms:.0} ms ≪ {:.0} s between elections ({election_count} in {:.0} s)",
        ms_between_elections / 1000.0,
        uptime_ms / 1000.0
    );
    match ms_between_elections / election_timeout_ms.max(0.001) {
        times if times >= TIMEOUTS_BETWEEN_ELECTIONS_MIN => new_finding(Level::Pass, "election ≪ MTBF", result),
        _ if election_count <= NORMAL_ELECTIONS_MAX => {
            new_finding(Level::Pass, "election ≪ MTBF", format!("{result}, too few to judge"))
        }
        _ => new_finding(Level::Warn, "election ≪ MTBF", format!("{result} · see drave status --watch, and the logs")),
    }
}

/// Checks that nodes at the same applied index have equal digests. Different digests mean a bug, or a disk that returns
/// wrong data.
fn check_digests(statuses: &[&Status]) -> Finding {
    let mut statuses_by_applied_index: BTreeMap<u64, Vec<&Status>> = BTreeMap::new();
    statuses.iter().for_each(|status| statuses_by_applied_index.entry(status.applied).or_default().push(status));
    let has_difference = |group: &&Vec<&Status>| group.iter().any(|status| status.digest != group[0].digest);
    match statuses_by_applied_index.values().find(has_difference) {
        Some(group) => {
            let node_digests: Vec<String> =
                group.iter().map(|status| format!("n{} {}", status.node, status.digest)).collect();
            let result =
                format!("at {} the digests differ: {} · see drave diff", group[0].applied, node_digests.join(", "));
            new_finding(Level::Fail, "states", result)
        }
        None => match statuses_by_applied_index.values().map(Vec::len).max() {
            Some(n) if n > 1 => {
                new_finding(Level::Pass, "states", format!("{n} nodes at one index have equal digests"))
            }
            _ => new_finding(Level::Pass, "states", "no two nodes are at one index now: nothing to compare"),
        },
    }
}

/// Checks that all nodes run the same version, and a release build.
fn check_versions(statuses: &[&Status]) -> Finding {
    let mut versions: Vec<&str> = statuses.iter().map(|status| status.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    match versions[..] {
        [version] if version.contains("debug") => {
            new_finding(Level::Warn, "version", format!("{version}: several times slower than a release build"))
        }
        [version] => new_finding(Level::Pass, "version", version),
        _ => new_finding(Level::Warn, "version", format!("{} · run one version on all nodes", versions.join(", "))),
    }
}

#[cfg(test)]
mod tests;
