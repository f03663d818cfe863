//! The contract of the command line: its output and its exit codes. Scripts rely on both.

use bytes::BytesMut;
use drave::api::{Op, Outcome, Reply, Request};
use drave::machine::commands;
use drave::types::{ClusterId, DiskId, Index, NodeId, Position, SessionId, Term};
use drave::wire::client::{Numbered, put_reply_frame, read_request_frame};
use drave::wire::frame::{FrameKind, FrameReader};
use drave::wire::hello::{VERSION_MAX, Welcome};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Cluster, Guarded, Said, drave, ports, run, until};

mod support;

/// Asserts a line like `ok 812@3 (0.9 ms)`.
fn expect_ok_line(said: &Said) {
    let text =
        said.out.strip_prefix("ok ").and_then(|rest| rest.strip_suffix(" ms)\n")).unwrap_or_else(|| panic!("{said:?}"));
    let (position, ms) = text.split_once(" (").unwrap();
    let (index, term) = position.split_once('@').unwrap();
    assert!(index.parse::<u64>().is_ok() && term.parse::<u64>().is_ok() && ms.parse::<f64>().is_ok(), "{said:?}");
}

fn expect(said: &Said, code: i32, out: &str, err: &str) {
    assert_eq!(said.code, Some(code), "{said:?}");
    assert_eq!(said.out, out, "{said:?}");
    assert!(said.err.contains(err) && said.err.is_empty() == err.is_empty(), "{said:?}");
}

/// Flags of a short benchmark whose duration lets all 50 requests complete, however slow the machine is.
const FIFTY: &[&str] = &["--total", "50", "--duration", "60s", "--warmup", "0s", "--clients", "2", "--timeout", "20s"];

/// etcd#11947: a benchmark filled the quota and locked its user out. `drave bench` refuses such a run without
/// confirmation.
#[test]
fn key_commands_print_results_and_exit_codes() {
    let cluster = Cluster::start(3);
    cluster.leader();
    let said = cluster.run(&["put", "lunch", "noodles"]);
    expect_ok_line(&said);
    assert_eq!(said.code, Some(0));
    // Output that is not a terminal is raw, without a newline.
    expect(&cluster.run(&["get", "lunch"]), 0, "noodles", "");
    expect(&cluster.run(&["get", "lunch", "--consistency", "linearizable"]), 0, "noodles", "");
    // A timeout beyond the range of any clock is accepted.
    expect(&cluster.run(&["get", "lunch", "--timeout", "500000000000y"]), 0, "noodles", "");
    expect(&cluster.run(&["get", "dinner"]), 1, "", "error: \"dinner\" does not exist");
    expect_ok_line(&cluster.run(&["cas", "lunch", "noodles", "soup"]));
    expect(&cluster.run(&["cas", "lunch", "noodles", "rice"]), 1, "", "holds \"soup\"");
    expect(&cluster.run(&["cas", "dinner", "x", "y"]), 1, "", "does not exist");
    expect_ok_line(&cluster.run(&["cas", "--absent", "dinner", "", "y"]));
    expect(&cluster.run(&["incr", "n"]), 0, "1\n", "");
    expect(&cluster.run(&["incr", "n", "-11"]), 0, "-10\n", "");
    expect(&cluster.run(&["incr", "lunch"]), 1, "", "no decimal number");
    expect(&cluster.run(&["scan"]), 0, "dinner\ty\nlunch\tsoup\nn\t-10\n", "");
    expect(&cluster.run(&["scan", "l"]), 0, "lunch\tsoup\n", "");
    expect_ok_line(&cluster.run(&["del", "dinner"]));
    // Values and keys may be any bytes.
    expect_ok_line(&cluster.run(&["put", "temperature", "-5"]));
    expect_ok_line(&cluster.run(&["cas", "temperature", "-5", "-6"]));
    expect_ok_line(&cluster.run(&["put", "--", "-k", "--ttl"]));
    expect(&cluster.run(&["get", "--", "-k"]), 0, "--ttl", "");
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    assert_eq!(run(cluster.drave(&["put"]).args([odd, odd])).code, Some(0));
    expect(&run(cluster.drave(&["scan"]).arg(odd)), 0, "\\xff\\xfe\t\\xff\\xfe\n", "");
    assert_eq!(run(cluster.drave(&["del"]).arg(odd)).code, Some(0));
    expect(&cluster.run(&["del", "dinner"]), 1, "", "did not exist");
    let slow = cluster.run(&[&["bench", "put", "--slo", "p99=1ns"][..], FIFTY].concat());
    assert_eq!(slow.code, Some(1), "{slow:?}");
    assert!(slow.err.contains("p99 was "), "{slow:?}");
    let large = ["bench", "put", "--keys", "100000000", "--value-size", "1024"];
    expect(&cluster.run(&large), 2, "", "--large to run anyway");
}

#[test]
fn every_command_prints_json() {
    let cluster = Cluster::start(3);
    cluster.leader();
    let json = |words: &[&str]| {
        let said = cluster.run(&[words, &["-o", "json"]].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(said.out.lines().count(), 1, "{said:?}");
        said.json()
    };
    for words in [&["put", "a", "1"][..], &["cas", "a", "1", "2"], &["incr", "a", "40"], &["del", "a"]] {
        let done = json(words);
        assert_eq!(done["ok"], true, "{done}");
        assert!(done["index"].is_u64() && done["term"].is_u64() && done["ms"].is_f64(), "{done}");
    }
    assert_eq!(json(&["incr", "a", "42"])["value"], 42);
    assert_eq!(json(&["get", "a"])["value"], "42");
    assert_eq!(json(&["scan"])["key"], "a");
    let led = || {
        let status = json(&["status"]);
        assert_eq!(status["nodes"].as_array().unwrap().len(), 3);
        let roles = status["nodes"].as_array().unwrap().iter().map(|node| &node["status"]["role"]);
        // An election may be under way.
        (roles.filter(|role| **role == "leader").count() == 1 && status["leader"].is_u64()).then_some(())
    };
    until("one leader", led, || cluster.logs());
    let bench = json(&[&["bench", "mixed", "--verify"][..], FIFTY].concat());
    assert_eq!((&bench["total"], &bench["unfinished"]), (&50.into(), &0.into()), "{bench}");
    let config = &bench["config"];
    assert_eq!((&config["total"], &config["duration_s"], &config["inflight"]), (&50.into(), &60.0.into(), &1.into()));
    assert!(config["slo"].is_null() && config["in_memory"].is_boolean(), "{config}");
    for name in ["ops_per_s", "p50_us", "p999_us", "max_us", "errors", "unknown", "retries", "total", "duration_s"] {
        assert!(bench[name].is_number(), "{name}: {bench}");
    }
}

#[test]
fn invalid_arguments_are_usage_errors() {
    let words = [
        &["put", "a"][..],
        &["put", "a", "b", "--timeout", "5"],
        &["mend"],
        &[],
        &["serve", "--id", "0"],
        &["serve", "--id", "1"],
        &["serve", "--print-config", "--election-timeout", "100ms-50ms"],
        &["dump", "--type", "foo", "."],
        &["dump", "--from", "10", "--to", "5", "."],
        &["demo", "--plain", "--base-port", "65535"],
    ];
    for words in words {
        let said = run(&mut drave(words));
        assert_eq!(said.code, Some(2), "{words:?}: {said:?}");
        assert!(said.out.is_empty() && !said.err.is_empty(), "{words:?}: {said:?}");
    }
}

/// As in clap-rs/clap#1245 and etcd-io/etcd#5323: an environment variable that is set but empty counts as unset.
#[test]
fn print_config_shows_all_settings_and_skips_empty_variables() {
    let mut command = drave(&["serve", "--print-config", "--peers", "1 = a:1, 2=b:1"]);
    command.env("DRAVE_UNSAFE_NO_FSYNC", "").env("DRAVE_LISTEN", "").env("DRAVE_ID", "").env("DRAVE_GRACE", "7s");
    let said = run(&mut command);
    assert_eq!(said.code, Some(0), "{said:?}");
    let find = |name: &str| {
        said.out
            .lines()
            .find(|line| line.split(' ').next() == Some(name))
            .map(|line| line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>().join(" "))
    };
    for (name, value) in [
        ("id", "- unset"),
        ("data", "- unset"),
        ("listen", "- unset"),
        ("tls-cert", "- unset"),
        ("unsafe-no-fsync", "false default"),
        ("grace", "7s environment"),
        ("peers", "1 = a:1, 2=b:1 flag"),
        ("segment-size", "64MiB default"),
    ] {
        assert_eq!(find(name).as_deref(), Some(value), "{said:?}");
    }
    assert_eq!(find("print-config"), None);
    let endpoints = run(drave(&["put", "a", "b", "--timeout", "300ms"]).env("DRAVE_ENDPOINTS", ""));
    assert_ne!(endpoints.code, Some(2), "{endpoints:?}");
    let said = run(&mut drave(&["serve", "--id", "1", "--data", "n", "--peers", "1=h:1", "--reserve", "1KiB"]));
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.err.contains("reserve"), "{said:?}");
}

/// The help text of each verb is the doc comment of its arguments, and must suit users, not readers of the code.
#[test]
fn help_describes_each_command() {
    let help = run(&mut drave(&["--help"]));
    let verbs = help.out.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let verbs: Vec<(&str, &str)> = verbs.filter_map(|line| line.trim().split_once("  ")).collect();
    assert!(verbs.iter().any(|(verb, _)| *verb == "sim"), "{help:?}");
    for (verb, does) in verbs.iter().filter(|(verb, _)| !verb.starts_with(['-', 'h'])) {
        let first = does.trim().split(' ').next().unwrap();
        assert!(first.ends_with('s') && !does.contains("`drave"), "{verb}: {does}");
        assert_eq!(run(&mut drave(&[verb, "--help"])).out.split(' ').next(), Some(first), "{verb}");
    }
}

#[test]
fn unreachable_cluster_is_an_error_with_advice() {
    let base = ports(2);
    let endpoints = format!("127.0.0.1:{base},127.0.0.1:{}", base + 1);
    for words in [&["put", "a", "b"][..], &["get", "a"], &["incr", "a"], &["scan"]] {
        let said = run(drave(words).args(["--timeout", "300ms", "--endpoints", &endpoints]));
        assert_eq!(said.code, Some(3), "{said:?}");
        let lines: Vec<&str> = said.err.lines().collect();
        assert_eq!(lines.len(), 2, "{said:?}");
        assert!(lines[0].starts_with("error: "), "{said:?}");
        assert!(lines[1].starts_with("  tried 127.0.0.1:"), "{said:?}");
        assert!(lines[1].ends_with("nothing was applied · see: drave status"), "{said:?}");
    }
    let said = run(drave(&["status"]).args(["--endpoints", &endpoints]));
    assert_eq!(said.code, Some(3), "{said:?}");
}

/// Starts a listener that answers the first bytes of each connection with `bytes`. Returns its endpoint.
fn start_fake_server(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _gone_or_not = (stream.read(&mut [0; 4096]), stream.write_all(bytes));
        }
    });
    endpoint
}

#[test]
fn error_names_the_other_protocol_at_an_endpoint() {
    for (bytes, words) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "the port speaks HTTP"),
        (b"-ERR unknown command\r\n", "the port speaks the Redis protocol"),
        (b"\x15\x03\x03\0\x02\x02\x32\0\0\0\0\0\0", "the port speaks TLS"),
        (b"", "does it use TLS?"),
    ] {
        let endpoint = start_fake_server(bytes);
        let said = run(&mut drave(&["put", "a", "b", "--timeout", "1s", "--endpoints", &endpoint]));
        assert_eq!(said.code, Some(3), "{said:?}");
        assert!(said.err.contains(words), "{said:?}");
    }
}

#[test]
fn error_without_quorum_names_silent_voters() {
    let mut cluster = Cluster::start(3);
    cluster.leader();
    cluster.kill(1);
    cluster.kill(2);
    // Until the remaining node notices the loss of its quorum, it may still lead.
    let put = || Some(cluster.run(&["put", "a", "b", "--timeout", "1s"]));
    let led = |said: &Said| said.code == Some(3) && said.err.contains("do not answer");
    let said = until("the node knows that there is no leader", || put().filter(led), || cluster.logs());
    let lines: Vec<&str> = said.err.lines().collect();
    assert_eq!(lines[0], "error: no leader: nodes 2 and 3 of 3 do not answer (a quorum is 2)", "{said:?}");
    assert!(lines[1].starts_with("  tried ") && lines[1].ends_with("see: drave status"), "{said:?}");
}

/// Opens a session for the client, and closes the connection at its first command.
fn close_on_first_command(mut stream: TcpStream) -> Option<()> {
    let (mut reader, mut input, mut scratch) = (FrameReader::default(), BytesMut::new(), [0; 4096]);
    loop {
        let Some(frame) = reader.next(&mut input).ok()? else {
            let n = stream.read(&mut scratch).ok().filter(|n| *n > 0)?;
            input.extend_from_slice(&scratch[..n]);
            continue;
        };
        let mut out = BytesMut::new();
        if frame.kind == FrameKind::Hello {
            let holds = Default::default();
            Welcome { version: VERSION_MAX, cluster: ClusterId(7), node: NodeId::new(1)?, disk: DiskId(1), holds }
                .put(&mut out);
        } else {
            let Numbered { id, request, .. } = read_request_frame(frame).ok()?;
            let Request::Propose { op } = request else { return None };
            let Ok(Op::Open { .. }) = Op::decode(op) else { return None };
            let outcome = Outcome::Opened { session: SessionId(3) };
            put_reply_frame(
                &mut out,
                id,
                &Reply::Done { position: Position { index: Index(3), term: Term(1) }, outcome },
            );
        }
        stream.write_all(&out).ok()?;
    }
}

#[test]
fn write_whose_reply_is_lost_has_unknown_outcome() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| _ = close_on_first_command(stream)));
    // Long enough for a dial, a hello and a session, even on a busy machine.
    let said = run(&mut drave(&["put", "a", "b", "--timeout", "3s", "--endpoints", &endpoint]));
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(said.err.starts_with("error: outcome unknown: "), "{said:?}");
    assert!(said.err.contains("check before you repeat it"), "{said:?}");
}

#[test]
fn node_rejects_foreign_or_damaged_directory() {
    let mut cluster = Cluster::start(1);
    cluster.leader();
    for n in 0..50 {
        assert_eq!(cluster.run(&["put", "key", &n.to_string()]).code, Some(0));
    }
    // A second node in the same directory, and a second node on the same port.
    let said = run(&mut cluster.serve(0));
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.err.contains("in use"), "{said:?}");
    let elsewhere = cluster.directory.path().join("elsewhere");
    let peers = cluster.peers();
    let said = run(drave(&["serve", "--id", "1", "--peers", &peers, "--data"]).arg(&elsewhere));
    assert_eq!(said.code, Some(75), "{said:?}");
    assert!(
        said.err.contains(&format!("cannot listen on {}: Address already in use", cluster.addresses[0])),
        "{said:?}"
    );
    assert_eq!(cluster.stop(0), Some(0), "{}", cluster.logs());

    let other = format!("{peers},2=127.0.0.1:1");
    let said = run(drave(&["serve", "--id", "2", "--peers", &other, "--data"]).arg(cluster.data(0)));
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.err.contains("belongs to node 1") && said.err.contains("Nothing was changed."), "{said:?}");
    // A directory of another cluster name is rejected, whatever `--peers` contains. Without a name, a change of
    // `--peers` is allowed, since addresses may change.
    let said = run(cluster.serve(0).args(["--cluster", "other"]));
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.err.contains("belongs to node 1 of cluster ") && said.err.contains("--cluster other"), "{said:?}");
    let said =
        run(drave(&["serve", "--id", "1", "--peers", &peers, "--data", "/dev/null/no"])
            .args(["--segment-size", "4MiB"]));
    assert_eq!(said.code, Some(74), "{said:?}");

    damage(&cluster.data(0).join("wal/0000000001.wal"));
    let said = run(&mut cluster.serve(0));
    assert_eq!(said.code, Some(5), "{said:?}");
    assert!(said.err.contains("0000000001.wal: byte "), "{said:?}");
    // One line with the fault and its place, and one with advice.
    let told: Vec<&str> = said.err.lines().skip_while(|line| !line.starts_with("error: ")).collect();
    assert!(told.len() == 2 && told[1].starts_with("  ") && told[1].contains("Leave the node down"), "{said:?}");
    let said = cluster.run(&["dump", "--check", cluster.data(0).to_str().unwrap()]);
    assert_eq!(said.code, Some(5), "{said:?}");
    assert!(said.out.contains('!'), "{said:?}");
}

/// Flips one bit near the start of a file, with intact data behind it.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[1000] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

/// A standard output whose reader has closed. A pipe would be unreliable: a process that another test forks at that
/// moment holds the reading end until it executes. A socket is shut down for every holder at once.
fn closed_output() -> Stdio {
    let (reader, writer) = UnixStream::pair().unwrap();
    reader.shutdown(Shutdown::Both).unwrap();
    Stdio::from(OwnedFd::from(writer))
}

#[test]
fn closed_output_ends_command_silently() {
    let cluster = Cluster::start(3);
    cluster.leader();
    let value = "x".repeat(1000);
    for n in 0..10 {
        assert_eq!(cluster.run(&["put", &n.to_string(), &value]).code, Some(0));
    }
    let data = cluster.data(0);
    let dump = ["dump", "--full", data.to_str().unwrap()];
    let jsonl = ["dump", "-o", "jsonl", "--full", data.to_str().unwrap()];
    for words in [
        &["scan"][..],
        &["status"],
        &["status", "-o", "json"],
        &["get", "1"],
        &dump,
        &jsonl,
        &["put", "1", "2"],
        &["--help"],
    ] {
        let mut child = cluster.drave(words);
        let mut child = Guarded::start(child.stdout(closed_output()).stderr(Stdio::piped()));
        let status = child.end(String::new);
        let mut err = String::new();
        child.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        // Exits as any program killed by SIGPIPE does; for `--help` the exit code is 0.
        let code = if words == ["--help"] { 0 } else { 128 + 13 };
        assert_eq!((status.code(), err.as_str()), (Some(code), ""), "{words:?}");
    }
}

/// As in svix/diom#1285: a panic, or no error at all, when the output could not be written.
#[test]
fn output_that_cannot_be_written_is_an_error() {
    let cluster = Cluster::start(1);
    cluster.leader();
    assert_eq!(cluster.run(&["put", "1", "x"]).code, Some(0));
    let data = cluster.data(0);
    let (dump, check) = (["dump", data.to_str().unwrap()], ["check", data.to_str().unwrap()]);
    for words in [
        &["scan"][..],
        &["status"],
        &["status", "-o", "json"],
        &["get", "1"],
        &["put", "1", "2"],
        &["incr", "n"],
        &["ttl", "1"],
        &["member", "list"],
        &["doctor"],
        &["completions", "bash"],
        &dump,
        &check,
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut child = Guarded::start(cluster.drave(words).stdout(full).stderr(Stdio::piped()));
        let code = child.end(String::new).code();
        let mut err = String::new();
        child.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert!(code == Some(74) && err.contains("No space left"), "{words:?}: {code:?} {err}");
    }
}

/// As in StackStorm/st2#3708: a list that was silently truncated.
#[test]
fn scan_prints_all_keys_or_reports_more() {
    let cluster = Cluster::start(1);
    let mut client = cluster.client();
    for n in 0..2100 {
        let key = format!("k{n:04}");
        client.execute(&commands::Command::Put { key: key.as_bytes(), value: b"v" }.encode()).unwrap();
    }
    let all = cluster.run(&["scan", "k"]);
    assert_eq!((all.out.lines().count(), all.err.as_str()), (2100, ""));
    let some = cluster.run(&["scan", "k", "--limit", "1500"]);
    assert_eq!(some.out.lines().count(), 1500);
    assert!(some.err.contains("there are more"), "{some:?}");
    let just = cluster.run(&["scan", "k", "--limit", "2100"]);
    assert_eq!((just.out.lines().count(), just.err.as_str()), (2100, ""));
}

#[test]
fn simulation_repeats_bit_for_bit() {
    let worlds: Vec<_> = (0..2).map(|_| run(&mut drave(&["sim", "--seed", "7", "--duration", "5s"]))).collect();
    assert_eq!(worlds[0].code, Some(0), "{worlds:?}");
    assert_eq!(worlds[0].out, worlds[1].out);
    let last = worlds[0].out.lines().last().unwrap();
    let parts: Vec<&str> = last.split(" · ").collect();
    assert_eq!(parts[0], "seed 7 ok", "{last}");
    let units = [" s simulated", " steps", " faults", " operations"];
    assert!(parts[1..5].iter().zip(units).all(|(part, unit)| part.ends_with(unit)), "{last}");
    let hash = parts[5].strip_prefix("hash ").unwrap();
    assert!(hash.len() == 16 && hash.chars().all(|digit| digit.is_ascii_hexdigit()), "{last}");
}

/// Starts a demo with its own state file. Returns its process and its base port.
fn demo(directory: &Path) -> (Guarded, u16) {
    demo_with_variables(directory, &[])
}

/// Like [`demo`], with these environment variables set.
fn demo_with_variables(directory: &Path, variables: &[(&str, &str)]) -> (Guarded, u16) {
    let base = ports(3);
    let log = std::fs::File::create(directory.join("log")).unwrap();
    let mut command = drave(&["demo", "--plain", "--base-port", &base.to_string(), "--dir"]);
    command.arg(directory.join("data")).env("TMPDIR", directory).stdout(Stdio::null()).stderr(log);
    command.envs(variables.iter().copied());
    (Guarded::start(&mut command), base)
}

fn at_demo(directory: &Path, base: u16, words: &[&str]) -> Said {
    let endpoints: Vec<String> = (base..base + 3).map(|port| format!("127.0.0.1:{port}")).collect();
    run(drave(words).env("TMPDIR", directory).env("DRAVE_ENDPOINTS", endpoints.join(",")))
}

/// The process ids of all nodes that the demo ever started, from its state file.
fn nodes(directory: &Path, base: u16) -> Vec<i64> {
    let text = std::fs::read(directory.join(format!("drave-demo-{base}.json"))).unwrap();
    let register: serde_json::Value = serde_json::from_slice(&text).unwrap();
    register["pids"].as_object().unwrap().values().map(|pid| pid.as_i64().unwrap()).collect()
}

/// Whether a process is running and not a zombie.
fn is_alive(pid: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

fn expect_no_processes(pids: &[i64], log: &Path) {
    let gone = || (!pids.iter().any(|pid| is_alive(*pid))).then_some(());
    until("the demo's nodes are gone", gone, || std::fs::read_to_string(log).unwrap_or_default());
}

#[test]
fn demo_survives_a_kill_and_leaves_no_process() {
    let directory = tempfile::tempdir().unwrap();
    let (directory, log) = (directory.path(), directory.path().join("log"));
    let (mut demo, base) = demo(directory);
    let why = || std::fs::read_to_string(&log).unwrap_or_default();
    let put = || Some(at_demo(directory, base, &["put", "lunch", "noodles"])).filter(|said| said.code == Some(0));
    expect_ok_line(&until("the demo acknowledges a write", put, why));
    let before = nodes(directory, base);
    assert_eq!(before.len(), 3);
    // An election may be under way, and then the command kills no node.
    let kill = || Some(at_demo(directory, base, &["kill", "leader", "--base-port", &base.to_string()]));
    let said = until("a leader is killed", || kill().filter(|said| said.code != Some(3)), why);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.starts_with("killed n") && said.out.contains("(was leader of term "), "{said:?}");
    let said = at_demo(directory, base, &["get", "lunch", "--timeout", "20s"]);
    expect(&said, 0, "noodles", "");
    // The demo restarts the killed node by itself.
    let back = || {
        let status = at_demo(directory, base, &["status", "-o", "json"]).json();
        status["nodes"].as_array()?.iter().all(|node| node["up"] == true).then_some(())
    };
    until("the killed node is back", back, why);
    let all = [before, nodes(directory, base)].concat();
    demo.signal(Signal::INT);
    assert_eq!(demo.end(why).code(), Some(0), "{}", why());
    expect_no_processes(&all, &log);
    let said = at_demo(directory, base, &["kill", "leader", "--base-port", &base.to_string()]);
    assert_eq!(said.code, Some(3), "{said:?}");
}

#[test]
fn demo_ignores_environment_variables_of_nodes() {
    let directory = tempfile::tempdir().unwrap();
    let (directory, log) = (directory.path(), directory.path().join("log"));
    let set = [
        ("DRAVE_TLS_CA", "/no/such/file"),
        ("DRAVE_JOIN", "127.0.0.1:1"),
        ("DRAVE_LISTEN", "127.0.0.1:1"),
        ("DRAVE_RESP", "127.0.0.1:1"),
        ("DRAVE_HEARTBEAT_INTERVAL", "1h"),
        ("DRAVE_LOG_LEVEL", "warn"),
    ];
    let (mut demo, base) = demo_with_variables(directory, &set);
    let why = || std::fs::read_to_string(&log).unwrap_or_default();
    let put = || Some(at_demo(directory, base, &["put", "lunch", "noodles"])).filter(|said| said.code == Some(0));
    expect_ok_line(&until("the demo acknowledges a write", put, why));
    assert!(!why().contains(" INFO "), "DRAVE_LOG_LEVEL is inherited: {}", why());
    demo.signal(Signal::INT);
    assert_eq!(demo.end(why).code(), Some(0), "{}", why());
}

#[test]
fn killed_demo_leaves_no_process() {
    let directory = tempfile::tempdir().unwrap();
    let (directory, log) = (directory.path(), directory.path().join("log"));
    let (demo, base) = demo(directory);
    let why = || std::fs::read_to_string(&log).unwrap_or_default();
    let put = || Some(at_demo(directory, base, &["put", "lunch", "noodles"])).filter(|said| said.code == Some(0));
    until("the demo acknowledges a write", put, why);
    let all = nodes(directory, base);
    assert!(all.len() == 3 && all.iter().all(|pid| is_alive(*pid)));
    drop(demo);
    expect_no_processes(&all, &log);
}

#[test]
fn demo_names_the_port_that_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let base = ports(3);
    let _taken = TcpListener::bind(("127.0.0.1", base + 1)).unwrap();
    let words = ["demo", "--plain", "--base-port", &base.to_string(), "--dir"];
    let said = run(drave(&words).arg(directory.path().join("data")).env("TMPDIR", directory.path()));
    assert_eq!(said.code, Some(75), "{said:?}");
    assert!(said.err.contains(&format!("cannot listen on 127.0.0.1:{}: Address already in use", base + 1)), "{said:?}");
}

#[test]
fn signals_stop_node_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let cluster = Cluster::prepare(1);
        let mut node: Command = cluster.serve(0);
        let mut node = Guarded::start(node.stdout(Stdio::null()).stderr(Stdio::null()));
        until("the node answers", || cluster.status(0), String::new);
        node.signal(signal);
        assert_eq!(node.end(String::new).code(), Some(0));
    }
}
