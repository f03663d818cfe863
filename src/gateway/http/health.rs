//! Readiness and leadership of a node, for load balancers and process supervisors.

use crate::api::{RoleName, Status};

/// A node whose applied index is more than this many entries behind its leader is not ready.
const LAG_ENTRIES_MAX: u64 = 10_000;
/// A node whose oldest unsynced write is older than this many milliseconds is not ready: the disk is stalled.
const UNSYNCED_MS_MAX: u64 = 1_000;

/// The readiness checks: the name of each, and a description of the problem if the check fails.
pub fn readiness_checks(status: &Status) -> [(&'static str, Option<String>); 5] {
    let not_member = (status.role == RoleName::Outside).then(|| "it belongs to no cluster".to_owned());
    let no_leader = status.leader.is_none().then(|| "it sees no leader".to_owned());
    // A node may have applied all entries that it holds, and still be far behind its leader (`goal`).
    let lag = status.goal.max(status.commit).saturating_sub(status.applied);
    let lagging = (lag > LAG_ENTRIES_MAX).then(|| format!("{lag} entries are to be applied"));
    let oldest_unsynced_ms = status.disk.oldest_unsynced_ms;
    let disk_problem = match status.low_space {
        true => Some("it has too little free space".to_owned()),
        false => (oldest_unsynced_ms > UNSYNCED_MS_MAX)
            .then(|| format!("a write has not been synced for {oldest_unsynced_ms} ms")),
    };
    let lost_entries = (!status.promised.is_empty())
        .then(|| format!("it acknowledged everything up to {} and does not hold it", status.promised));
    [
        ("member", not_member),
        ("leader", no_leader),
        ("applied", lagging),
        ("disk", disk_problem),
        ("acknowledged", lost_entries),
    ]
}

/// Whether all checks pass, and a report with one line for each check; without `verbose` only for each failed check.
pub fn readiness(status: &Status, verbose: bool) -> (bool, String) {
    let checks = readiness_checks(status);
    let is_ready = checks.iter().all(|(_, problem)| problem.is_none());
    let line_of = |(name, problem): &(&str, Option<String>)| match problem {
        Some(problem) => format!("[-] {name}: {problem}\n"),
        None => format!("[+] {name}\n"),
    };
    let report = checks.iter().filter(|(_, problem)| verbose || problem.is_some()).map(line_of).collect::<String>();
    (is_ready, report + if is_ready { "ready\n" } else { "not ready\n" })
}

/// Whether the node leads and is not transferring its leadership, and the native address of the leader, if it is known.
pub fn leadership(status: &Status) -> (bool, Option<&str>) {
    let leads = status.role == RoleName::Leader && status.hands_over == 0;
    let member = status.members.iter().find(|member| Some(member.node) == status.leader);
    // The address comes from the request that changed the membership, and is sent in a header field. Control characters
    // would inject other fields.
    let address = member
        .map(|member| &member.address[..])
        .filter(|address| !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_graphic()));
    (leads, address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::figures::Counters;
    use crate::api::{DiskStatus, LogStatus, MemberStatus, ScrubStatus, StageStatus};

    /// A healthy follower of node 2.
    fn healthy() -> Status {
        Status {
            log_id: String::new(),
            promised: String::new(),
            repair: None,
            node: 1,
            cluster: String::new(),
            role: RoleName::Follower,
            term: 3,
            leader: Some(2),
            commit: 20_000,
            goal: 20_000,
            applied: 20_000,
            last: 20_000,
            durable: 20_000,
            digest: String::new(),
            sessions: 0,
            membership: String::new(),
            peers: Vec::new(),
            disk: DiskStatus::default(),
            fsync: true,
            in_memory: false,
            file_system: String::new(),
            timing: Default::default(),
            low_space: false,
            cpu_ns: 0,
            uptime_ms: 0,
            stages: StageStatus::default(),
            version: String::new(),
            versions: Default::default(),
            elections: Default::default(),
            members: vec![MemberStatus { node: 2, address: "b:2".into(), ..MemberStatus::default() }],
            hands_over: 0,
            log: LogStatus::default(),
            certificate_expires: None,
            machine: String::new(),
            authority_expires: None,
            timer_ms: 0,
            figures: Counters::default(),
            scrub: ScrubStatus::default(),
        }
    }

    #[test]
    fn readiness_report_names_failed_checks() {
        assert_eq!(readiness(&healthy(), false), (true, "ready\n".into()));
        let verbose_report = "[+] member\n[+] leader\n[+] applied\n[+] disk\n[+] acknowledged\nready\n";
        assert_eq!(readiness(&healthy(), true), (true, verbose_report.into()));
        let unsynced = DiskStatus { oldest_unsynced_ms: 1001, ..DiskStatus::default() };
        for (status, problem) in [
            (Status { leader: None, ..healthy() }, "leader: it sees no leader"),
            (Status { role: RoleName::Outside, ..healthy() }, "member: it belongs to no cluster"),
            (Status { applied: 9_999, ..healthy() }, "applied: 10001 entries are to be applied"),
            (Status { goal: 30_001, ..healthy() }, "applied: 10001 entries are to be applied"),
            (Status { low_space: true, ..healthy() }, "disk: it has too little free space"),
            (Status { disk: unsynced, ..healthy() }, "disk: a write has not been synced for 1001 ms"),
        ] {
            assert_eq!(readiness(&status, false), (false, format!("[-] {problem}\nnot ready\n")));
        }
    }

    #[test]
    fn transferring_leader_and_invalid_address_are_not_reported() {
        assert_eq!(leadership(&healthy()), (false, Some("b:2")));
        let leads = Status { role: RoleName::Leader, ..healthy() };
        assert!(leadership(&leads).0 && !leadership(&Status { hands_over: 3, ..leads.clone() }).0);
        let mut invalid_address = healthy();
        invalid_address.members[0].address = "b:2\r\nSet-Cookie: x".into();
        assert_eq!(leadership(&invalid_address).1, None);
        assert_eq!(leadership(&Status { leader: None, ..healthy() }).1, None);
    }
}
