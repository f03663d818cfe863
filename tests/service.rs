//! Tools for operators: the doctor, completions, manual pages, and the readiness notification to a service manager.

use drave::types::NodeId;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use support::{Cluster, Guarded, Said, drave, run, until};

mod support;

/// The level and the finding of the doctor's line about `what`.
fn finding<'a>(said: &'a Said, what: &str) -> (&'a str, &'a str) {
    let lines = said.out.lines().filter_map(|line| line.split_once(' '));
    let mut rows = lines.map(|(level, rest)| (level, rest.trim_start()));
    let (level, row) = rows.find(|(_, row)| row.starts_with(what)).unwrap_or_else(|| panic!("{what}: {said:?}"));
    (level, row[what.len()..].trim_start())
}

#[test]
fn doctor_checks_each_node_and_the_cluster() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    assert_eq!(cluster.run(&["put", "lunch", "noodles"]).code, Some(0));
    cluster.agree();
    let said = cluster.run(&["doctor", "--measure", "300ms"]);
    for n in 1..=3 {
        assert!(finding(&said, &format!("n{n} round trip")).1.starts_with("p50 "), "{said:?}");
        assert!(finding(&said, &format!("n{n} fsync")).1.contains(" syncs"), "{said:?}");
        assert_ne!(finding(&said, &format!("n{n} file system")), ("", ""), "{said:?}");
        assert_eq!(finding(&said, &format!("n{n} room")), ("PASS", "enough"), "{said:?}");
    }
    assert_eq!(finding(&said, "voters"), ("PASS", "3 of 3 answer, a quorum is 2"), "{said:?}");
    assert!(finding(&said, "leader").1.starts_with(&format!("n{} of term ", leader + 1)), "{said:?}");
    assert!(finding(&said, "broadcast ≪ election").1.contains("≪ election 150 ms"), "{said:?}");
    assert!(finding(&said, "election ≪ MTBF").1.starts_with("election 300 ms ≪ "), "{said:?}");
    assert_eq!(finding(&said, "states").0, "PASS", "{said:?}");

    cluster.kill((leader + 1) % 3);
    let said = cluster.run(&["doctor", "--measure", "300ms"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(finding(&said, "voters").1.contains("2 of 3 answer"), "{said:?}");
    assert_eq!(finding(&said, "voters").0, "FAIL", "{said:?}");
    let json = cluster.run(&["doctor", "--measure", "300ms", "-o", "json"]);
    let rows: Vec<serde_json::Value> = json.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.iter().any(|row| row["what"] == "voters" && row["level"] == "FAIL"), "{json:?}");
    (0..3).filter(|n| *n != (leader + 1) % 3).for_each(|n| cluster.kill(n));
    assert_eq!(cluster.run(&["doctor", "--timeout", "500ms"]).code, Some(3));
}

#[test]
fn doctor_measures_a_directory_and_leaves_it_empty() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    let said = run(&mut drave(&["doctor", "--measure", "300ms", "--data", place]));
    assert_eq!(said.code, Some(0), "{said:?}");
    for what in ["file system", "disk cache", "fsync", "room"] {
        assert_ne!(finding(&said, &format!("{place} {what}")).1, "", "{said:?}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    let said = run(&mut drave(&["doctor", "--data", "/no/such/place"]));
    assert_eq!((said.code, said.out.as_str()), (Some(74), ""), "{said:?}");
}

#[test]
fn completions_and_manual_pages_list_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let said = run(&mut drave(&["completions", shell]));
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(["serve", "doctor", "election-timeout"].iter().all(|word| said.out.contains(word)), "{shell}");
    }
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("man1");
    let said = run(&mut drave(&["man", place.to_str().unwrap()]));
    assert_eq!(said.code, Some(0), "{said:?}");
    for page in ["drave.1", "drave-serve.1", "drave-snapshot-take.1"] {
        let text = std::fs::read_to_string(place.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH"), "{page}");
    }
}

#[test]
fn service_manager_is_notified_once_the_node_listens() {
    let cluster = Cluster::prepare(1);
    let place = cluster.directory.path().join("notify");
    let socket = UnixDatagram::bind(&place).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut node = Guarded::start(cluster.serve(0).env("NOTIFY_SOCKET", &place));
    let mut word = [0; 64];
    let length = socket.recv(&mut word).unwrap_or_else(|error| panic!("{error}: {}", cluster.logs()));
    assert_eq!(std::str::from_utf8(&word[..length]).unwrap().trim_end(), "READY=1");
    // The node listens indeed: it accepts a connection.
    assert!(std::net::TcpStream::connect(&cluster.addresses[0]).is_ok());
    let leads = || cluster.status(0).filter(|status| status.leader == Some(NodeId::new(1).unwrap().get()));
    until("the node leads", leads, || cluster.logs());
    node.signal(rustix::process::Signal::TERM);
    assert_eq!(node.end(|| cluster.logs()).code(), Some(0));
}

/// systemd kills a service that is not ready within 90 seconds by default, and reading a large log takes longer.
#[test]
fn systemd_unit_sets_no_start_timeout() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/drave@.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let has = |line: &str| unit.lines().any(|known| known == line);
    assert!(has("Type=notify") && has("TimeoutStartSec=infinity"), "{unit}");
}

/// Flags of a short benchmark whose duration lets all 300 requests complete, however slow the machine is.
const SHORT: &[&str] = &["--total", "300", "--duration", "60s", "--warmup", "0s", "--timeout", "20s"];

#[test]
fn bench_report_charts_a_run_a_comparison_and_a_sweep() {
    let cluster = Cluster::start(3);
    cluster.leader();
    let place = |name: &str| cluster.directory.path().join(name).to_str().unwrap().to_owned();
    let page = |name: &str| std::fs::read_to_string(place(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let bench = |words: &[&str]| cluster.run(&[&["bench", "put"], words, SHORT].concat());

    let said = bench(&["--clients", "2", "--report", &place("one.html"), "-o", "json"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    // Three charts, each in a wide and a narrow version.
    assert_eq!(page("one.html").matches("<svg").count(), 2 * 3);
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert!(
        json["curve"].as_array().unwrap().len() > 5 && json["machine"]["processors"].as_u64() > Some(0),
        "{said:?}"
    );

    // Compares the result with itself, from a file; no benchmark runs.
    std::fs::write(place("a.json"), &said.out).unwrap();
    let words = ["bench", "--results", &place("a.json"), &place("a.json"), "--report", &place("two.html")];
    let said = run(&mut drave(&words));
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{said:?}");
    assert!(page("two.html").contains("× 1.00"));
    std::fs::write(place("b.json"), "{").unwrap();
    let said = run(&mut drave(&["bench", "--results", &place("b.json"), "--report", &place("two.html")]));
    assert_eq!(said.code, Some(2), "{said:?}");

    let said = bench(&["--sweep", "1,4", "--report", &place("sweep.html")]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(page("sweep.html").matches("<tr>").count(), 3);
    let rows: Vec<&str> = said.out.lines().rev().take(2).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(rows, ["4", "1"], "{said:?}");
}

#[test]
fn sweep_that_misses_its_slo_still_writes_the_report() {
    let cluster = Cluster::start(1);
    cluster.leader();
    let report = cluster.directory.path().join("sweep.html");
    let words = ["bench", "put", "--sweep", "1,4", "--slo", "p99=1ns", "--report", report.to_str().unwrap()];
    let said = cluster.run(&[&words[..], SHORT].concat());
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("warning: --clients 4: p99 was "), "{said:?}");
    assert!(said.err.contains("error: --clients 1: p99 was "), "the command ends with the first error: {said:?}");
    let rows: Vec<&str> = said.out.lines().rev().take(2).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(rows, ["4", "1"], "{said:?}");
    assert_eq!(std::fs::read_to_string(report).unwrap().matches("<tr>").count(), 3);
}

#[test]
fn bench_without_charts_rejects_report_and_sweep() {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("never.html");
    let report = report.to_str().unwrap();
    for what in [&["disk"][..], &["net"], &["--scenario", "failover"]] {
        for asked in [&["--report", report][..], &["--sweep", "1,4"]] {
            let said = run(&mut drave(&[&["bench"], what, asked].concat()));
            assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:?}");
            assert!(said.err.contains(&format!("omit {}", asked[0])), "{said:?}");
        }
    }
    let said = run(&mut drave(&["bench", "disk", "--results", "a.json", "--report", report]));
    assert_eq!(said.code, Some(2), "{said:?}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn bench_given_only_a_follower_reaches_the_leader() {
    let cluster = Cluster::start(3);
    let follower = &cluster.addresses[(cluster.leader() + 1) % 3];
    let words = [&["bench", "put", "--endpoints", follower, "--clients", "2"], SHORT].concat();
    let said = run(&mut drave(&words));
    assert_eq!(said.code, Some(0), "{said:?}\n{}", cluster.logs());
}
