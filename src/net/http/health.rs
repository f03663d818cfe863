//! Whether a node is fit to serve, and whether it leads: for load balancers and whoever restarts processes.

use crate::api::{RoleName, Status};

/// A node that has to apply more than so many entries is behind.
const LAG_MAX: u64 = 10_000;
/// A write that is not on the disk after so many milliseconds means that the disk stands still.
const UNSYNCED_MS_MAX: u64 = 1_000;

/// What must hold of a node that is fit to serve: its name, and what is wrong if it does not.
pub fn checks(status: &Status) -> [(&'static str, Option<String>); 5] {
    let outside = (status.role == RoleName::Outside).then(|| "it belongs to no cluster".to_owned());
    let leader = status.leader.is_none().then(|| "it sees no leader".to_owned());
    // What it holds may be all applied, and still be far from what its leader has.
    let lag = status.goal.max(status.commit).saturating_sub(status.applied);
    let behind = (lag > LAG_MAX).then(|| format!("{lag} entries are to be applied"));
    let unsynced = status.disk.oldest_unsynced_ms;
    let disk = match status.low_space {
        true => Some("it has too little room".to_owned()),
        false => (unsynced > UNSYNCED_MS_MAX).then(|| format!("a write has not been synced for {unsynced} ms")),
    };
    let lost = (!status.promised.is_empty())
        .then(|| format!("it acknowledged everything up to {} and does not hold it", status.promised));
    [("member", outside), ("leader", leader), ("applied", behind), ("disk", disk), ("acknowledged", lost)]
}

/// Whether all of it holds, and what is said of it: everything, or only what does not hold.
pub fn ready(status: &Status, verbose: bool) -> (bool, String) {
    let checks = checks(status);
    let fit = checks.iter().all(|(_, wrong)| wrong.is_none());
    let line = |(name, wrong): &(&str, Option<String>)| match wrong {
        Some(wrong) => format!("[-] {name}: {wrong}\n"),
        None => format!("[+] {name}\n"),
    };
    let told = checks.iter().filter(|(_, wrong)| verbose || wrong.is_some()).map(line).collect::<String>();
    (fit, told + if fit { "ready\n" } else { "not ready\n" })
}

/// Whether it leads and means to go on; and where whoever does is reached by native clients, if that is known.
pub fn leader(status: &Status) -> (bool, Option<&str>) {
    let leads = status.role == RoleName::Leader && status.hands_over == 0;
    let member = status.members.iter().find(|member| Some(member.node) == status.leader);
    // It goes into a header field, and came from whoever changed the members.
    let address = member
        .map(|member| &member.address[..])
        .filter(|address| !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_graphic()));
    (leads, address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::figures::Figures;
    use crate::api::{DiskStatus, LogStatus, MemberStatus, StageStatus};

    /// A follower of node 2 that is well.
    fn well() -> Status {
        Status {
            log_id: String::new(),
            promised: String::new(),
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
            elections: Default::default(),
            members: vec![MemberStatus { node: 2, address: "b:2".into(), ..MemberStatus::default() }],
            hands_over: 0,
            log: LogStatus::default(),
            certificate_expires: None,
            machine: String::new(),
            authority_expires: None,
            timer_ms: 0,
            figures: Figures::default(),
        }
    }

    #[test]
    fn a_node_is_ready_while_nothing_is_wrong_and_says_what_is() {
        assert_eq!(ready(&well(), false), (true, "ready\n".into()));
        let all = "[+] member\n[+] leader\n[+] applied\n[+] disk\n[+] acknowledged\nready\n";
        assert_eq!(ready(&well(), true), (true, all.into()));
        let unsynced = DiskStatus { oldest_unsynced_ms: 1001, ..DiskStatus::default() };
        for (status, wrong) in [
            (Status { leader: None, ..well() }, "leader: it sees no leader"),
            (Status { role: RoleName::Outside, ..well() }, "member: it belongs to no cluster"),
            (Status { applied: 9_999, ..well() }, "applied: 10001 entries are to be applied"),
            (Status { goal: 30_001, ..well() }, "applied: 10001 entries are to be applied"),
            (Status { low_space: true, ..well() }, "disk: it has too little room"),
            (Status { disk: unsynced, ..well() }, "disk: a write has not been synced for 1001 ms"),
        ] {
            assert_eq!(ready(&status, false), (false, format!("[-] {wrong}\nnot ready\n")));
        }
    }

    #[test]
    fn a_leader_that_hands_over_leads_no_more_and_an_address_is_one_line() {
        assert_eq!(leader(&well()), (false, Some("b:2")));
        let leads = Status { role: RoleName::Leader, ..well() };
        assert!(leader(&leads).0 && !leader(&Status { hands_over: 3, ..leads.clone() }).0);
        let mut odd = well();
        odd.members[0].address = "b:2\r\nSet-Cookie: x".into();
        assert_eq!(leader(&odd).1, None);
        assert_eq!(leader(&Status { leader: None, ..well() }).1, None);
    }
}
