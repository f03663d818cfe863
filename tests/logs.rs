//! Log lines and their format, and that a blocked reader of the log does not block the node.

use rustix::process::Signal;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use support::{Cluster, Guarded, run, until};

mod support;

/// One of three nodes, without its peers.
fn one_of_three(words: &[&str]) -> Cluster {
    let mut cluster = Cluster::prepare(3);
    cluster.words.extend(words.iter().map(|word| (*word).to_owned()));
    cluster
}

/// Waits until a log line contains `what`, and returns that line.
fn logged(cluster: &Cluster, what: &str) -> String {
    let found = || cluster.logs().lines().find(|line| line.contains(what)).map(str::to_owned);
    until(what, found, || cluster.logs())
}

#[test]
fn unread_log_pipe_does_not_block_the_node() {
    let cluster = one_of_three(&["--log-level", "trace"]);
    let (read, write) = std::io::pipe().unwrap();
    const ROOM: i32 = 4096;
    // SAFETY: a plain call on an open descriptor.
    assert!(unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, ROOM) } >= ROOM);
    let mut node = Guarded::start(cluster.serve(0).stderr(write).stdout(Stdio::null()));
    let answers = || cluster.status(0);
    until("the node answers", answers, String::new);
    // Nearly full is enough: a line longer than the space left does not fit.
    let is_full = || (rustix::io::ioctl_fionread(&read).unwrap() > ROOM as u64 - 512).then_some(());
    until("the pipe is full", is_full, String::new);
    for _ in 0..10 {
        node.signal(Signal::HUP);
        until("the node still answers", answers, String::new);
    }
    node.signal(Signal::TERM);
    assert_eq!(node.end(String::new).code(), Some(0), "the node does not wait for its last lines to be read");
}

#[test]
fn missing_leader_warning_lists_unreachable_voters() {
    let mut cluster = one_of_three(&["--founding-wait", "100ms"]);
    cluster.spawn(0);
    let (second, third) = (cluster.addresses[1].clone(), cluster.addresses[2].clone());
    for (n, address) in [(2, &second), (3, &third)] {
        logged(&cluster, &format!("cannot reach n{n} at {address}: connection refused"));
    }
    let line = logged(&cluster, "no leader for ");
    assert!(line.contains(" WARN "), "{line}");
    assert!(line.contains(" s: not heard n2 (refused), n3 (refused)"), "{line}");
    cluster.spawn(1);
    assert!(logged(&cluster, "requests votes in term 1: ").contains("no leader is known yet"));
    // The node logs the cause once a minute, and by now it has dialed n3 dozens of times.
    let own = std::fs::read_to_string(cluster.data(0).with_extension("log")).unwrap();
    assert!(own.matches(&format!("cannot reach n3 at {third}")).count() <= 2, "{own}");
}

#[test]
fn election_and_step_down_log_the_reason() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    cluster.kill(leader);
    let name = format!("n{}", leader + 1);
    let ended = format!("the connection to leader {name} was closed");
    let silent = format!("nothing was received from leader {name} for ");
    let found = || {
        let logs = cluster.logs();
        logs.lines()
            .find(|line| line.contains("requests votes") && (line.contains(&ended) || line.contains(&silent)))?;
        cluster.leader_of(0..3)
    };
    let next = until("another node campaigns and logs the reason", found, || cluster.logs());
    cluster.spawn(leader);
    let handed_over = || {
        // The leadership may have been transferred even if the response was lost.
        let _asked = cluster.run(&["transfer", &(leader + 1).to_string()]);
        (cluster.leader_of(0..3) == Some(leader)).then_some(())
    };
    until("the leadership is transferred back", handed_over, || cluster.logs());
    logged(&cluster, &format!("leader n{} transfers the leadership to this node (transfer)", next + 1));
    logged(&cluster, &format!(": {name} takes over, as requested"));
}

#[test]
fn json_log_has_one_object_per_line() {
    let mut cluster = Cluster::prepare(1);
    cluster.words.extend(["--log-format", "json", "--election-timeout", "160ms-320ms"].map(str::to_owned));
    cluster.spawn(0);
    cluster.leader();
    assert_eq!(cluster.stop(0), Some(0), "{}", cluster.logs());
    // An error at the start is logged in the same format.
    let said = run(cluster.serve(0).args(["--heartbeat-interval", "10s"]));
    assert_eq!(said.code, Some(78), "{said:?}");
    let logs = cluster.logs() + &said.err;
    let mut messages = Vec::new();
    for line in logs.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["time", "level", "target", "message"] {
            assert!(object[key].is_string(), "{key} of {line}");
        }
        assert_eq!(object["node"], 1, "{line}");
        messages.push(object["message"].as_str().unwrap().to_owned());
    }
    let has = |what: &str| messages.iter().any(|message| message.contains(what));
    assert!(has(&format!("drave {}", env!("CARGO_PKG_VERSION"))), "{logs}");
    assert!(
        has("--election-timeout 160ms-320ms") && has("serves") && has("is too rare for an election timeout"),
        "{logs}"
    );
    assert!(!has("--grace"), "only options that differ from the defaults\n{logs}");
}

#[test]
fn sigusr1_toggles_the_debug_log_level() {
    let mut cluster = one_of_three(&[]);
    cluster.spawn(0);
    logged(&cluster, "cannot reach n2");
    assert!(!cluster.logs().contains(" DEBUG "), "{}", cluster.logs());
    cluster.signal(0, Signal::USR1);
    logged(&cluster, "the log level is debug");
    logged(&cluster, " DEBUG ");
    cluster.signal(0, Signal::USR1);
    logged(&cluster, "the log level is as at the start");
    assert!(cluster.status(0).is_some());
}

#[test]
fn log_level_is_read_and_changed_on_running_nodes() {
    let mut cluster = Cluster::start(3);
    cluster.leader();
    let levels = |words: &[&str]| {
        let said = cluster.run(&[&["log-level"], words].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
        said.out
    };
    assert_eq!(levels(&[]), "n1 info\nn2 info\nn3 info\n");
    let changed =
        "n1 debug (changed since the start)\nn2 debug (changed since the start)\nn3 debug (changed since the start)\n";
    assert_eq!(levels(&["debug"]), changed);
    assert_eq!(levels(&["error", "--node", "2"]), "n2 error (changed since the start)\n");
    assert!(levels(&[]).contains("n2 error"));
    for n in 0..3 {
        let log = || std::fs::read_to_string(cluster.data(n).with_extension("log")).unwrap();
        until("the change is logged", || log().contains("the log level is debug").then_some(()), log);
    }
    assert_eq!(levels(&["reset"]), "n1 info\nn2 info\nn3 info\n");
    let said = cluster.run(&["log-level", "loud"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("off, error, warn, info, debug, trace or reset"), "{said:?}");
    cluster.kill(2);
    let said = cluster.run(&["log-level", "-o", "json", "warn"]);
    assert_eq!(said.code, Some(3), "the member that does not answer is reported: {said:?}");
    assert_eq!(said.out.matches(r#""level":"warn""#).count(), 2, "{said:?}");
}

#[test]
fn stored_files_are_accessible_to_the_owner_only() {
    let cluster = Cluster::prepare(1);
    let cluster_data = cluster.data(0);
    let log = std::fs::File::create(cluster.data(0).with_extension("log")).unwrap();
    let mut command = cluster.serve(0);
    // SAFETY: between fork and exec only one async-signal-safe system call is made.
    unsafe {
        command.pre_exec(|| {
            libc::umask(0);
            Ok(())
        });
    }
    let mut node = Guarded::start(command.stderr(log).stdout(Stdio::null()));
    until("a write", || (cluster.run(&["put", "k", "v"]).code == Some(0)).then_some(()), || cluster.logs());
    assert_eq!(cluster.run(&["snapshot", "take"]).code, Some(0), "{}", cluster.logs());
    node.signal(Signal::TERM);
    assert_eq!(node.end(|| cluster.logs()).code(), Some(0));
    let mut files = Vec::new();
    walk(&cluster.data(0), &mut files);
    assert!(files.iter().any(|(name, _)| name.ends_with(".snap")), "{files:?}");
    let open: Vec<_> = files.iter().filter(|(_, mode)| mode & 0o077 != 0).collect();
    assert!(open.is_empty(), "{open:?}");
    assert!(!cluster.logs().contains("other users"), "{}", cluster.logs());
    // A directory that existed before, or whose mode was changed by hand, belongs to the operator: the node warns and
    // leaves the mode as it is.
    let (mut cluster, data) = (cluster, cluster_data);
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    cluster.spawn(0);
    let line = logged(&cluster, "other users of this machine can access the data");
    assert!(line.contains(" WARN ") && line.contains("has mode 755") && line.contains("chmod 700"), "{line}");
}

/// Collects the mode of every path at and below `place`.
fn walk(place: &Path, into: &mut Vec<(String, u32)>) {
    let mode = std::fs::metadata(place).unwrap().permissions().mode();
    into.push((place.display().to_string(), mode));
    if place.is_dir() {
        for entry in std::fs::read_dir(place).unwrap() {
            walk(&entry.unwrap().path(), into);
        }
    }
}
