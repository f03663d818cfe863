//! Tools for operators: the doctor, completions, manual pages, and the readiness notification to a service manager.

use drave::types::NodeId;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use support::{ChildGuard, Cluster, ProgramOutput, drave_command, run, wait_until};

mod support;

/// The level and the finding of the doctor's line about `subject`.
fn find_finding<'a>(output: &'a ProgramOutput, subject: &str) -> (&'a str, &'a str) {
    let lines = output.out.lines().filter_map(|line| line.split_once(' '));
    let mut rows = lines.map(|(level, rest)| (level, rest.trim_start()));
    let (level, row) =
        rows.find(|(_, row)| row.starts_with(subject)).unwrap_or_else(|| panic!("{subject}: {output:?}"));
    (level, row[subject.len()..].trim_start())
}

#[test]
fn doctor_checks_each_node_and_the_cluster() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    assert_eq!(cluster.run(&["put", "lunch", "noodles"]).code, Some(0));
    cluster.wait_for_convergence();
    let output = cluster.run(&["doctor", "--measure", "300ms"]);
    for n in 1..=3 {
        assert!(find_finding(&output, &format!("n{n} round trip")).1.starts_with("p50 "), "{output:?}");
        assert!(find_finding(&output, &format!("n{n} fsync")).1.contains(" syncs"), "{output:?}");
        assert_ne!(find_finding(&output, &format!("n{n} file system")), ("", ""), "{output:?}");
        assert_eq!(find_finding(&output, &format!("n{n} room")), ("PASS", "enough"), "{output:?}");
    }
    assert_eq!(find_finding(&output, "voters"), ("PASS", "3 of 3 answer, a quorum is 2"), "{output:?}");
    assert!(find_finding(&output, "leader").1.starts_with(&format!("n{} of term ", leader + 1)), "{output:?}");
    assert!(find_finding(&output, "broadcast ≪ election").1.contains("≪ election 150 ms"), "{output:?}");
    assert!(find_finding(&output, "election ≪ MTBF").1.starts_with("election 300 ms ≪ "), "{output:?}");
    assert_eq!(find_finding(&output, "states").0, "PASS", "{output:?}");

    cluster.kill((leader + 1) % 3);
    let output = cluster.run(&["doctor", "--measure", "300ms"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(find_finding(&output, "voters").1.contains("2 of 3 answer"), "{output:?}");
    assert_eq!(find_finding(&output, "voters").0, "FAIL", "{output:?}");
    let json = cluster.run(&["doctor", "--measure", "300ms", "-o", "json"]);
    let rows: Vec<serde_json::Value> = json.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.iter().any(|row| row["what"] == "voters" && row["level"] == "FAIL"), "{json:?}");
    (0..3).filter(|n| *n != (leader + 1) % 3).for_each(|n| cluster.kill(n));
    assert_eq!(cluster.run(&["doctor", "--timeout", "500ms"]).code, Some(3));
}

#[test]
fn doctor_measures_a_directory_and_leaves_it_empty() {
    let directory = tempfile::tempdir().unwrap();
    let directory_path = directory.path().to_str().unwrap();
    let output = run(&mut drave_command(&["doctor", "--measure", "300ms", "--data", directory_path]));
    assert_eq!(output.code, Some(0), "{output:?}");
    for row_name in ["file system", "disk cache", "fsync", "room"] {
        assert_ne!(find_finding(&output, &format!("{directory_path} {row_name}")).1, "", "{output:?}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    let output = run(&mut drave_command(&["doctor", "--data", "/no/such/place"]));
    assert_eq!((output.code, output.out.as_str()), (Some(74), ""), "{output:?}");
}

#[test]
fn completions_and_manual_pages_list_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&mut drave_command(&["completions", shell]));
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(["serve", "doctor", "election-timeout"].iter().all(|word| output.out.contains(word)), "{shell}");
    }
    let directory = tempfile::tempdir().unwrap();
    let man_directory = directory.path().join("man1");
    let output = run(&mut drave_command(&["man", man_directory.to_str().unwrap()]));
    assert_eq!(output.code, Some(0), "{output:?}");
    for page in ["drave.1", "drave-serve.1", "drave-snapshot-take.1"] {
        let text = std::fs::read_to_string(man_directory.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH"), "{page}");
    }
}

#[test]
fn service_manager_is_notified_once_the_node_listens() {
    let cluster = Cluster::prepare(1);
    let socket_path = cluster.directory.path().join("notify");
    let socket = UnixDatagram::bind(&socket_path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut node = ChildGuard::start(cluster.serve_command(0).env("NOTIFY_SOCKET", &socket_path));
    let mut message = [0; 64];
    let length = socket.recv(&mut message).unwrap_or_else(|error| panic!("{error}: {}", cluster.logs()));
    assert_eq!(std::str::from_utf8(&message[..length]).unwrap().trim_end(), "READY=1");
    // The node must accept connections by the time of this notification.
    assert!(std::net::TcpStream::connect(&cluster.addresses[0]).is_ok());
    let leader_status = || cluster.status(0).filter(|status| status.leader == Some(NodeId::new(1).unwrap().get()));
    wait_until("the node leads", leader_status, || cluster.logs());
    node.signal(rustix::process::Signal::TERM);
    assert_eq!(node.wait(|| cluster.logs()).code(), Some(0));
}

/// systemd kills a service that is not ready within 90 seconds by default, and reading a large log takes longer.
#[test]
fn systemd_unit_sets_no_start_timeout() {
    let unit_path = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/drave@.service");
    let unit = std::fs::read_to_string(unit_path).unwrap();
    let unit_has_line = |line: &str| unit.lines().any(|known| known == line);
    assert!(unit_has_line("Type=notify") && unit_has_line("TimeoutStartSec=infinity"), "{unit}");
}

/// Flags of a short benchmark whose duration lets all 300 requests complete, however slow the machine is.
const SHORT_BENCH: &[&str] = &["--total", "300", "--duration", "60s", "--warmup", "0s", "--timeout", "20s"];

#[test]
fn bench_report_has_charts_of_run_comparison_and_sweep() {
    let cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let file_path = |name: &str| cluster.directory.path().join(name).to_str().unwrap().to_owned();
    let read_report =
        |name: &str| std::fs::read_to_string(file_path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let bench = |args: &[&str]| cluster.run(&[&["bench", "put"], args, SHORT_BENCH].concat());

    let output = bench(&["--clients", "2", "--report", &file_path("one.html"), "-o", "json"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    // Three charts, each in a wide and a narrow version.
    assert_eq!(read_report("one.html").matches("<svg").count(), 2 * 3);
    let json: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    assert!(
        json["curve"].as_array().unwrap().len() > 5 && json["machine"]["processors"].as_u64() > Some(0),
        "{output:?}"
    );

    // Compares the result with itself, from a file; no benchmark runs.
    std::fs::write(file_path("a.json"), &output.out).unwrap();
    let args = ["bench", "--results", &file_path("a.json"), &file_path("a.json"), "--report", &file_path("two.html")];
    let output = run(&mut drave_command(&args));
    assert_eq!((output.code, output.out.as_str()), (Some(0), ""), "{output:?}");
    assert!(read_report("two.html").contains("× 1.00"));
    std::fs::write(file_path("b.json"), "{").unwrap();
    let output =
        run(&mut drave_command(&["bench", "--results", &file_path("b.json"), "--report", &file_path("two.html")]));
    assert_eq!(output.code, Some(2), "{output:?}");

    let output = bench(&["--sweep", "1,4", "--report", &file_path("sweep.html")]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(read_report("sweep.html").matches("<tr>").count(), 3);
    let rows: Vec<&str> =
        output.out.lines().rev().take(2).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(rows, ["4", "1"], "{output:?}");
}

#[test]
fn sweep_that_misses_its_slo_still_writes_the_report() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let report_path = cluster.directory.path().join("sweep.html");
    let args = ["bench", "put", "--sweep", "1,4", "--slo", "p99=1ns", "--report", report_path.to_str().unwrap()];
    let output = cluster.run(&[&args[..], SHORT_BENCH].concat());
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.err.contains("warning: --clients 4: p99 was "), "{output:?}");
    assert!(output.err.contains("error: --clients 1: p99 was "), "the command ends with the first error: {output:?}");
    let rows: Vec<&str> =
        output.out.lines().rev().take(2).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(rows, ["4", "1"], "{output:?}");
    assert_eq!(std::fs::read_to_string(report_path).unwrap().matches("<tr>").count(), 3);
}

#[test]
fn bench_without_charts_rejects_report_and_sweep() {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("never.html");
    let report = report.to_str().unwrap();
    for bench_args in [&["disk"][..], &["net"], &["--scenario", "failover"]] {
        for chart_args in [&["--report", report][..], &["--sweep", "1,4"]] {
            let output = run(&mut drave_command(&[&["bench"], bench_args, chart_args].concat()));
            assert_eq!((output.code, output.out.as_str()), (Some(2), ""), "{output:?}");
            assert!(output.err.contains(&format!("omit {}", chart_args[0])), "{output:?}");
        }
    }
    let output = run(&mut drave_command(&["bench", "disk", "--results", "a.json", "--report", report]));
    assert_eq!(output.code, Some(2), "{output:?}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn bench_given_only_a_follower_reaches_the_leader() {
    let cluster = Cluster::start(3);
    let follower_address = &cluster.addresses[(cluster.wait_for_leader() + 1) % 3];
    let args = [&["bench", "put", "--endpoints", follower_address, "--clients", "2"], SHORT_BENCH].concat();
    let output = run(&mut drave_command(&args));
    assert_eq!(output.code, Some(0), "{output:?}\n{}", cluster.logs());
}
