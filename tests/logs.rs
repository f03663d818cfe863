//! Tests of log lines and their format, and that a blocked reader of the log does not block the node.

use rustix::process::Signal;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use support::{ChildGuard, Cluster, run, wait_until};

mod support;

/// A cluster of three nodes, none of which is running. Each test starts one of them, without its peers.
fn prepare_three_nodes(args: &[&str]) -> Cluster {
    let mut cluster = Cluster::prepare(3);
    cluster.extra_args.extend(args.iter().map(|arg| (*arg).to_owned()));
    cluster
}

/// Waits until a log line contains `text`, and returns that line.
fn wait_for_log_line(cluster: &Cluster, text: &str) -> String {
    let matching_line = || cluster.logs().lines().find(|line| line.contains(text)).map(str::to_owned);
    wait_until(text, matching_line, || cluster.logs())
}

#[test]
fn unread_log_pipe_does_not_block_the_node() {
    let cluster = prepare_three_nodes(&["--log-level", "trace"]);
    let (read, write) = std::io::pipe().unwrap();
    const PIPE_BYTES: i32 = 4096;
    // SAFETY: the descriptor is open, and F_SETPIPE_SZ takes an integer, not a pointer.
    assert!(unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_BYTES) } >= PIPE_BYTES);
    let mut node = ChildGuard::start(cluster.serve_command(0).stderr(write).stdout(Stdio::null()));
    let status = || cluster.status(0);
    wait_until("the node answers", status, String::new);
    // The pipe need not be quite full: a log line longer than the remaining space does not fit.
    let is_full = || (rustix::io::ioctl_fionread(&read).unwrap() > PIPE_BYTES as u64 - 512).then_some(());
    wait_until("the pipe is full", is_full, String::new);
    for _ in 0..10 {
        node.signal(Signal::HUP);
        wait_until("the node still answers", status, String::new);
    }
    node.signal(Signal::TERM);
    assert_eq!(node.wait(String::new).code(), Some(0), "the node does not wait for its last lines to be read");
}

#[test]
fn missing_leader_warning_lists_unreachable_voters() {
    let mut cluster = prepare_three_nodes(&["--founding-wait", "100ms"]);
    cluster.spawn(0);
    let (second, third) = (cluster.addresses[1].clone(), cluster.addresses[2].clone());
    for (n, address) in [(2, &second), (3, &third)] {
        wait_for_log_line(&cluster, &format!("cannot reach n{n} at {address}: connection refused"));
    }
    let line = wait_for_log_line(&cluster, "no leader for ");
    assert!(line.contains(" WARN "), "{line}");
    assert!(line.contains(" s: not heard n2 (refused), n3 (refused)"), "{line}");
    cluster.spawn(1);
    assert!(wait_for_log_line(&cluster, "requests votes in term 1: ").contains("no leader is known yet"));
    // The node logs the cause of a failed dial once a minute, and by now it has dialed n3 dozens of times.
    let own_log = std::fs::read_to_string(cluster.data_dir(0).with_extension("log")).unwrap();
    assert!(own_log.matches(&format!("cannot reach n3 at {third}")).count() <= 2, "{own_log}");
}

#[test]
fn election_and_step_down_log_the_reason() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    cluster.kill(leader);
    let name = format!("n{}", leader + 1);
    let closed_reason = format!("the connection to leader {name} was closed");
    let silent_reason = format!("nothing was received from leader {name} for ");
    let leader_after_campaign = || {
        let logs = cluster.logs();
        logs.lines().find(|line| {
            line.contains("requests votes") && (line.contains(&closed_reason) || line.contains(&silent_reason))
        })?;
        cluster.leader_among(0..3)
    };
    let next_leader =
        wait_until("another node campaigns and logs the reason", leader_after_campaign, || cluster.logs());
    cluster.spawn(leader);
    let transferred_back = || {
        // The leadership may have been transferred even if the response was lost.
        let _response_may_be_lost = cluster.run(&["transfer", &(leader + 1).to_string()]);
        (cluster.leader_among(0..3) == Some(leader)).then_some(())
    };
    wait_until("the leadership is transferred back", transferred_back, || cluster.logs());
    wait_for_log_line(
        &cluster,
        &format!("leader n{} transfers the leadership to this node (transfer)", next_leader + 1),
    );
    wait_for_log_line(&cluster, &format!(": {name} takes over, as requested"));
}

#[test]
fn json_log_has_one_object_per_line() {
    let mut cluster = Cluster::prepare(1);
    cluster.extra_args.extend(["--log-format", "json", "--election-timeout", "160ms-320ms"].map(str::to_owned));
    cluster.spawn(0);
    cluster.wait_for_leader();
    assert_eq!(cluster.stop(0), Some(0), "{}", cluster.logs());
    // An error at the start is logged as JSON, too.
    let output = run(cluster.serve_command(0).args(["--heartbeat-interval", "10s"]));
    assert_eq!(output.code, Some(78), "{output:?}");
    let logs = cluster.logs() + &output.err;
    let mut messages = Vec::new();
    for line in logs.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["time", "level", "target", "message"] {
            assert!(object[key].is_string(), "{key} of {line}");
        }
        assert_eq!(object["node"], 1, "{line}");
        messages.push(object["message"].as_str().unwrap().to_owned());
    }
    let has_message = |text: &str| messages.iter().any(|message| message.contains(text));
    assert!(has_message(&format!("drave {}", env!("CARGO_PKG_VERSION"))), "{logs}");
    assert!(
        has_message("--election-timeout 160ms-320ms")
            && has_message("serves")
            && has_message("is too rare for an election timeout"),
        "{logs}"
    );
    assert!(!has_message("--grace"), "only options that differ from the defaults\n{logs}");
}

#[test]
fn sigusr1_toggles_the_debug_log_level() {
    let mut cluster = prepare_three_nodes(&[]);
    cluster.spawn(0);
    wait_for_log_line(&cluster, "cannot reach n2");
    assert!(!cluster.logs().contains(" DEBUG "), "{}", cluster.logs());
    cluster.signal(0, Signal::USR1);
    wait_for_log_line(&cluster, "the log level is debug");
    wait_for_log_line(&cluster, " DEBUG ");
    cluster.signal(0, Signal::USR1);
    wait_for_log_line(&cluster, "the log level is that of the start");
    assert!(cluster.status(0).is_some());
}

#[test]
fn log_level_is_read_and_changed_on_running_nodes() {
    let mut cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let log_level_output = |args: &[&str]| {
        let output = cluster.run(&[&["log-level"], args].concat());
        assert_eq!(output.code, Some(0), "{output:?}");
        output.out
    };
    assert_eq!(log_level_output(&[]), "n1 info\nn2 info\nn3 info\n");
    let expected_levels =
        "n1 debug (changed since the start)\nn2 debug (changed since the start)\nn3 debug (changed since the start)\n";
    assert_eq!(log_level_output(&["debug"]), expected_levels);
    assert_eq!(log_level_output(&["error", "--node", "2"]), "n2 error (changed since the start)\n");
    assert!(log_level_output(&[]).contains("n2 error"));
    for n in 0..3 {
        let read_log = || std::fs::read_to_string(cluster.data_dir(n).with_extension("log")).unwrap();
        wait_until("the change is logged", || read_log().contains("the log level is debug").then_some(()), read_log);
    }
    assert_eq!(log_level_output(&["reset"]), "n1 info\nn2 info\nn3 info\n");
    let output = cluster.run(&["log-level", "loud"]);
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.err.contains("off, error, warn, info, debug, trace or reset"), "{output:?}");
    cluster.kill(2);
    let output = cluster.run(&["log-level", "-o", "json", "warn"]);
    assert_eq!(output.code, Some(3), "the member that does not answer is reported: {output:?}");
    assert_eq!(output.out.matches(r#""level":"warn""#).count(), 2, "{output:?}");
}

#[test]
fn stored_files_are_accessible_to_the_owner_only() {
    let cluster = Cluster::prepare(1);
    let data_dir = cluster.data_dir(0);
    let log = std::fs::File::create(cluster.data_dir(0).with_extension("log")).unwrap();
    let mut command = cluster.serve_command(0);
    // SAFETY: between fork and exec only one async-signal-safe system call is made.
    unsafe {
        command.pre_exec(|| {
            libc::umask(0);
            Ok(())
        });
    }
    let mut node = ChildGuard::start(command.stderr(log).stdout(Stdio::null()));
    wait_until("a write", || (cluster.run(&["put", "k", "v"]).code == Some(0)).then_some(()), || cluster.logs());
    assert_eq!(cluster.run(&["snapshot", "take"]).code, Some(0), "{}", cluster.logs());
    node.signal(Signal::TERM);
    assert_eq!(node.wait(|| cluster.logs()).code(), Some(0));
    let mut paths_and_modes = Vec::new();
    collect_modes(&cluster.data_dir(0), &mut paths_and_modes);
    assert!(paths_and_modes.iter().any(|(name, _)| name.ends_with(".snap")), "{paths_and_modes:?}");
    let paths_open_to_others: Vec<_> = paths_and_modes.iter().filter(|(_, mode)| mode & 0o077 != 0).collect();
    assert!(paths_open_to_others.is_empty(), "{paths_open_to_others:?}");
    assert!(!cluster.logs().contains("other users"), "{}", cluster.logs());
    // The node does not change the mode of a directory that existed before, or whose mode the operator has changed. It
    // only warns.
    let (mut cluster, data) = (cluster, data_dir);
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    cluster.spawn(0);
    let line = wait_for_log_line(&cluster, "other users of this machine can access the data");
    assert!(line.contains(" WARN ") && line.contains("has mode 755") && line.contains("chmod 700"), "{line}");
}

/// Collects the mode of every path at and below `path`.
fn collect_modes(path: &Path, modes: &mut Vec<(String, u32)>) {
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    modes.push((path.display().to_string(), mode));
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            collect_modes(&entry.unwrap().path(), modes);
        }
    }
}
