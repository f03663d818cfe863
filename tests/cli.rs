//! The contract of the command line: its output and its exit codes. Scripts rely on both.

use bytes::BytesMut;
use drave::api::{Op, Outcome, Reply, Request};
use drave::machine::commands;
use drave::types::{ClusterId, DiskId, Index, NodeId, Position, SessionId, Term};
use drave::wire::client::{NumberedRequest, put_reply_frame, read_request_frame};
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
use support::{ChildGuard, Cluster, ProgramOutput, drave_command, reserve_ports, run, wait_until};

mod support;

/// Asserts a line like `ok 812@3 (0.9 ms)`.
fn expect_ok_line(output: &ProgramOutput) {
    let position_and_ms = output
        .out
        .strip_prefix("ok ")
        .and_then(|rest| rest.strip_suffix(" ms)\n"))
        .unwrap_or_else(|| panic!("{output:?}"));
    let (position, ms) = position_and_ms.split_once(" (").unwrap();
    let (index, term) = position.split_once('@').unwrap();
    assert!(index.parse::<u64>().is_ok() && term.parse::<u64>().is_ok() && ms.parse::<f64>().is_ok(), "{output:?}");
}

fn expect_output(output: &ProgramOutput, code: i32, out: &str, err: &str) {
    assert_eq!(output.code, Some(code), "{output:?}");
    assert_eq!(output.out, out, "{output:?}");
    assert!(output.err.contains(err) && output.err.is_empty() == err.is_empty(), "{output:?}");
}

/// Flags of a short benchmark whose duration lets all 50 requests complete, however slow the machine is.
const FIFTY_REQUESTS: &[&str] =
    &["--total", "50", "--duration", "60s", "--warmup", "0s", "--clients", "2", "--timeout", "20s"];

/// etcd#11947: a benchmark filled the quota and locked its user out. `drave bench` refuses such a run without
/// confirmation.
#[test]
fn key_commands_print_results_and_exit_codes() {
    let cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let output = cluster.run(&["put", "lunch", "noodles"]);
    expect_ok_line(&output);
    assert_eq!(output.code, Some(0));
    // When standard output is not a terminal, the bare value is printed, without a newline.
    expect_output(&cluster.run(&["get", "lunch"]), 0, "noodles", "");
    expect_output(&cluster.run(&["get", "lunch", "--consistency", "linearizable"]), 0, "noodles", "");
    // A timeout that no clock can represent is accepted.
    expect_output(&cluster.run(&["get", "lunch", "--timeout", "500000000000y"]), 0, "noodles", "");
    expect_output(&cluster.run(&["get", "dinner"]), 1, "", "error: \"dinner\" does not exist");
    expect_ok_line(&cluster.run(&["cas", "lunch", "noodles", "soup"]));
    expect_output(&cluster.run(&["cas", "lunch", "noodles", "rice"]), 1, "", "holds \"soup\"");
    expect_output(&cluster.run(&["cas", "dinner", "x", "y"]), 1, "", "does not exist");
    expect_ok_line(&cluster.run(&["cas", "--absent", "dinner", "", "y"]));
    expect_output(&cluster.run(&["incr", "n"]), 0, "1\n", "");
    expect_output(&cluster.run(&["incr", "n", "-11"]), 0, "-10\n", "");
    expect_output(&cluster.run(&["incr", "lunch"]), 1, "", "no decimal number");
    expect_output(&cluster.run(&["scan"]), 0, "dinner\ty\nlunch\tsoup\nn\t-10\n", "");
    expect_output(&cluster.run(&["scan", "l"]), 0, "lunch\tsoup\n", "");
    expect_ok_line(&cluster.run(&["del", "dinner"]));
    // Values and keys may begin with a hyphen, and need not be UTF-8.
    expect_ok_line(&cluster.run(&["put", "temperature", "-5"]));
    expect_ok_line(&cluster.run(&["cas", "temperature", "-5", "-6"]));
    expect_ok_line(&cluster.run(&["put", "--", "-k", "--ttl"]));
    expect_output(&cluster.run(&["get", "--", "-k"]), 0, "--ttl", "");
    let non_utf8 = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    assert_eq!(run(cluster.drave_command(&["put"]).args([non_utf8, non_utf8])).code, Some(0));
    expect_output(&run(cluster.drave_command(&["scan"]).arg(non_utf8)), 0, "\\xff\\xfe\t\\xff\\xfe\n", "");
    assert_eq!(run(cluster.drave_command(&["del"]).arg(non_utf8)).code, Some(0));
    expect_output(&cluster.run(&["del", "dinner"]), 1, "", "did not exist");
    let missed_slo = cluster.run(&[&["bench", "put", "--slo", "p99=1ns"][..], FIFTY_REQUESTS].concat());
    assert_eq!(missed_slo.code, Some(1), "{missed_slo:?}");
    assert!(missed_slo.err.contains("p99 was "), "{missed_slo:?}");
    let large_bench_args = ["bench", "put", "--keys", "100000000", "--value-size", "1024"];
    expect_output(&cluster.run(&large_bench_args), 2, "", "--large to run anyway");
}

#[test]
fn every_command_prints_json() {
    let cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let run_json = |args: &[&str]| {
        let output = cluster.run(&[args, &["-o", "json"]].concat());
        assert_eq!(output.code, Some(0), "{output:?}");
        assert_eq!(output.out.lines().count(), 1, "{output:?}");
        output.json()
    };
    for args in [&["put", "a", "1"][..], &["cas", "a", "1", "2"], &["incr", "a", "40"], &["del", "a"]] {
        let json = run_json(args);
        assert_eq!(json["ok"], true, "{json}");
        assert!(json["index"].is_u64() && json["term"].is_u64() && json["ms"].is_f64(), "{json}");
    }
    assert_eq!(run_json(&["incr", "a", "42"])["value"], 42);
    assert_eq!(run_json(&["get", "a"])["value"], "42");
    assert_eq!(run_json(&["scan"])["key"], "a");
    let has_one_leader = || {
        let status = run_json(&["status"]);
        assert_eq!(status["nodes"].as_array().unwrap().len(), 3);
        let roles = status["nodes"].as_array().unwrap().iter().map(|node| &node["status"]["role"]);
        // During an election no node leads: then the status is requested again.
        (roles.filter(|role| **role == "leader").count() == 1 && status["leader"].is_u64()).then_some(())
    };
    wait_until("one leader", has_one_leader, || cluster.logs());
    let bench_result = run_json(&[&["bench", "mixed", "--verify"][..], FIFTY_REQUESTS].concat());
    assert_eq!((&bench_result["total"], &bench_result["unfinished"]), (&50.into(), &0.into()), "{bench_result}");
    let config = &bench_result["config"];
    assert_eq!((&config["total"], &config["duration_s"], &config["inflight"]), (&50.into(), &60.0.into(), &1.into()));
    assert!(config["slo"].is_null() && config["in_memory"].is_boolean(), "{config}");
    for name in ["ops_per_s", "p50_us", "p999_us", "max_us", "errors", "unknown", "retries", "total", "duration_s"] {
        assert!(bench_result[name].is_number(), "{name}: {bench_result}");
    }
}

#[test]
fn invalid_arguments_are_usage_errors() {
    let invalid_args = [
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
    for args in invalid_args {
        let output = run(&mut drave_command(args));
        assert_eq!(output.code, Some(2), "{args:?}: {output:?}");
        assert!(output.out.is_empty() && !output.err.is_empty(), "{args:?}: {output:?}");
    }
}

/// As in clap-rs/clap#1245 and etcd-io/etcd#5323: an environment variable that is set but empty counts as unset.
#[test]
fn print_config_shows_all_settings_and_skips_empty_variables() {
    let mut command = drave_command(&["serve", "--print-config", "--peers", "1 = a:1, 2=b:1"]);
    command.env("DRAVE_UNSAFE_NO_FSYNC", "").env("DRAVE_LISTEN", "").env("DRAVE_ID", "").env("DRAVE_GRACE", "7s");
    let output = run(&mut command);
    assert_eq!(output.code, Some(0), "{output:?}");
    let find_setting = |name: &str| {
        output
            .out
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
        assert_eq!(find_setting(name).as_deref(), Some(value), "{output:?}");
    }
    assert_eq!(find_setting("print-config"), None);
    let empty_endpoints_output =
        run(drave_command(&["put", "a", "b", "--timeout", "300ms"]).env("DRAVE_ENDPOINTS", ""));
    assert_ne!(empty_endpoints_output.code, Some(2), "{empty_endpoints_output:?}");
    let output =
        run(&mut drave_command(&["serve", "--id", "1", "--data", "n", "--peers", "1=h:1", "--reserve", "1KiB"]));
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(output.err.contains("reserve"), "{output:?}");
}

/// The help text of each verb is the doc comment of its arguments, and must suit users, not readers of the code.
#[test]
fn help_describes_each_command() {
    let help_output = run(&mut drave_command(&["--help"]));
    let verb_lines = help_output.out.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let verbs: Vec<(&str, &str)> = verb_lines.filter_map(|line| line.trim().split_once("  ")).collect();
    assert!(verbs.iter().any(|(verb, _)| *verb == "sim"), "{help_output:?}");
    for (verb, description) in verbs.iter().filter(|(verb, _)| !verb.starts_with(['-', 'h'])) {
        let first_word = description.trim().split(' ').next().unwrap();
        assert!(first_word.ends_with('s') && !description.contains("`drave"), "{verb}: {description}");
        assert_eq!(run(&mut drave_command(&[verb, "--help"])).out.split(' ').next(), Some(first_word), "{verb}");
    }
}

#[test]
fn unreachable_cluster_is_an_error_with_advice() {
    let base_port = reserve_ports(2);
    let endpoints = format!("127.0.0.1:{base_port},127.0.0.1:{}", base_port + 1);
    for args in [&["put", "a", "b"][..], &["get", "a"], &["incr", "a"], &["scan"]] {
        let output = run(drave_command(args).args(["--timeout", "300ms", "--endpoints", &endpoints]));
        assert_eq!(output.code, Some(3), "{output:?}");
        let lines: Vec<&str> = output.err.lines().collect();
        assert_eq!(lines.len(), 2, "{output:?}");
        assert!(lines[0].starts_with("error: "), "{output:?}");
        assert!(lines[1].starts_with("  tried 127.0.0.1:"), "{output:?}");
        assert!(lines[1].ends_with("nothing was applied · see: drave status"), "{output:?}");
    }
    let output = run(drave_command(&["status"]).args(["--endpoints", &endpoints]));
    assert_eq!(output.code, Some(3), "{output:?}");
}

/// Starts a listener that answers the first bytes of each connection with `bytes`. Returns its endpoint.
fn start_fake_server(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _may_be_closed = (stream.read(&mut [0; 4096]), stream.write_all(bytes));
        }
    });
    endpoint
}

#[test]
fn error_names_protocol_that_endpoint_speaks() {
    for (bytes, expected_error) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "the port speaks HTTP"),
        (b"-ERR unknown command\r\n", "the port speaks the Redis protocol"),
        (b"\x15\x03\x03\0\x02\x02\x32\0\0\0\0\0\0", "the port speaks TLS"),
        (b"", "does it use TLS?"),
    ] {
        let endpoint = start_fake_server(bytes);
        let output = run(&mut drave_command(&["put", "a", "b", "--timeout", "1s", "--endpoints", &endpoint]));
        assert_eq!(output.code, Some(3), "{output:?}");
        assert!(output.err.contains(expected_error), "{output:?}");
    }
}

#[test]
fn error_without_quorum_names_silent_voters() {
    let mut cluster = Cluster::start(3);
    cluster.wait_for_leader();
    cluster.kill(1);
    cluster.kill(2);
    // Until the remaining node notices the loss of its quorum, it may still lead.
    let try_put = || Some(cluster.run(&["put", "a", "b", "--timeout", "1s"]));
    let names_silent_voters = |output: &ProgramOutput| output.code == Some(3) && output.err.contains("do not answer");
    let output = wait_until(
        "the node knows that there is no leader",
        || try_put().filter(names_silent_voters),
        || cluster.logs(),
    );
    let lines: Vec<&str> = output.err.lines().collect();
    assert_eq!(lines[0], "error: no leader: nodes 2 and 3 of 3 do not answer (a quorum is 2)", "{output:?}");
    assert!(lines[1].starts_with("  tried ") && lines[1].ends_with("see: drave status"), "{output:?}");
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
            let log_state = Default::default();
            Welcome { version: VERSION_MAX, cluster: ClusterId(7), node: NodeId::new(1)?, disk: DiskId(1), log_state }
                .put(&mut out);
        } else {
            let NumberedRequest { id, request, .. } = read_request_frame(frame).ok()?;
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
    // The timeout suffices for a connection, a hello and a session, even on a busy machine.
    let output = run(&mut drave_command(&["put", "a", "b", "--timeout", "3s", "--endpoints", &endpoint]));
    assert_eq!(output.code, Some(4), "{output:?}");
    assert!(output.err.starts_with("error: outcome unknown: "), "{output:?}");
    assert!(output.err.contains("check before you repeat it"), "{output:?}");
}

#[test]
fn node_rejects_foreign_or_damaged_directory() {
    let mut cluster = Cluster::start(1);
    cluster.wait_for_leader();
    for n in 0..50 {
        assert_eq!(cluster.run(&["put", "key", &n.to_string()]).code, Some(0));
    }
    // A second node must not start in the same directory, nor on the same port.
    let output = run(&mut cluster.serve_command(0));
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(output.err.contains("in use"), "{output:?}");
    let other_data_dir = cluster.directory.path().join("elsewhere");
    let peers = cluster.peers();
    let output = run(drave_command(&["serve", "--id", "1", "--peers", &peers, "--data"]).arg(&other_data_dir));
    assert_eq!(output.code, Some(75), "{output:?}");
    assert!(
        output.err.contains(&format!("cannot listen on {}: Address already in use", cluster.addresses[0])),
        "{output:?}"
    );
    assert_eq!(cluster.stop(0), Some(0), "{}", cluster.logs());

    let other_peers = format!("{peers},2=127.0.0.1:1");
    let output =
        run(drave_command(&["serve", "--id", "2", "--peers", &other_peers, "--data"]).arg(cluster.data_dir(0)));
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(output.err.contains("belongs to node 1") && output.err.contains("Nothing was changed."), "{output:?}");
    // A directory of another cluster name is rejected, whatever `--peers` contains. Without a name, a change of
    // `--peers` is allowed, since addresses may change.
    let output = run(cluster.serve_command(0).args(["--cluster", "other"]));
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(
        output.err.contains("belongs to node 1 of cluster ") && output.err.contains("--cluster other"),
        "{output:?}"
    );
    let output = run(drave_command(&["serve", "--id", "1", "--peers", &peers, "--data", "/dev/null/no"])
        .args(["--segment-size", "4MiB"]));
    assert_eq!(output.code, Some(74), "{output:?}");

    flip_bit(&cluster.data_dir(0).join("wal/0000000001.wal"));
    let output = run(&mut cluster.serve_command(0));
    assert_eq!(output.code, Some(5), "{output:?}");
    assert!(output.err.contains("0000000001.wal: byte "), "{output:?}");
    // The error has two lines: the fault with its position, and advice.
    let error_lines: Vec<&str> = output.err.lines().skip_while(|line| !line.starts_with("error: ")).collect();
    assert!(
        error_lines.len() == 2 && error_lines[1].starts_with("  ") && error_lines[1].contains("Leave the node down"),
        "{output:?}"
    );
    let output = cluster.run(&["dump", "--check", cluster.data_dir(0).to_str().unwrap()]);
    assert_eq!(output.code, Some(5), "{output:?}");
    assert!(output.out.contains('!'), "{output:?}");
}

/// Flips one bit near the start of a file, so that intact data follows the damage.
fn flip_bit(path: &Path) {
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
    cluster.wait_for_leader();
    let value = "x".repeat(1000);
    for n in 0..10 {
        assert_eq!(cluster.run(&["put", &n.to_string(), &value]).code, Some(0));
    }
    let data_dir = cluster.data_dir(0);
    let dump_args = ["dump", "--full", data_dir.to_str().unwrap()];
    let jsonl_args = ["dump", "-o", "jsonl", "--full", data_dir.to_str().unwrap()];
    for args in [
        &["scan"][..],
        &["status"],
        &["status", "-o", "json"],
        &["get", "1"],
        &dump_args,
        &jsonl_args,
        &["put", "1", "2"],
        &["--help"],
    ] {
        let mut child = cluster.drave_command(args);
        let mut child = ChildGuard::start(child.stdout(closed_output()).stderr(Stdio::piped()));
        let status = child.wait(String::new);
        let mut stderr = String::new();
        child.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        // The program exits as if SIGPIPE had killed it; `--help` exits with 0.
        let expected_code = if args == ["--help"] { 0 } else { 128 + 13 };
        assert_eq!((status.code(), stderr.as_str()), (Some(expected_code), ""), "{args:?}");
    }
}

/// As in svix/diom#1285: the program panicked, or reported no error, when its output could not be written.
#[test]
fn output_that_cannot_be_written_is_an_error() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    assert_eq!(cluster.run(&["put", "1", "x"]).code, Some(0));
    let data = cluster.data_dir(0);
    let (dump, check) = (["dump", data.to_str().unwrap()], ["check", data.to_str().unwrap()]);
    for args in [
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
        let full_device = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut child = ChildGuard::start(cluster.drave_command(args).stdout(full_device).stderr(Stdio::piped()));
        let code = child.wait(String::new).code();
        let mut stderr = String::new();
        child.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert!(code == Some(74) && stderr.contains("No space left"), "{args:?}: {code:?} {stderr}");
    }
}

/// As in StackStorm/st2#3708: a list was silently truncated.
#[test]
fn scan_prints_all_keys_or_reports_that_more_exist() {
    let cluster = Cluster::start(1);
    let mut client = cluster.client();
    for n in 0..2100 {
        let key = format!("k{n:04}");
        client.execute(&commands::Command::Put { key: key.as_bytes(), value: b"v" }.encode()).unwrap();
    }
    let unlimited_scan = cluster.run(&["scan", "k"]);
    assert_eq!((unlimited_scan.out.lines().count(), unlimited_scan.err.as_str()), (2100, ""));
    let limited_scan = cluster.run(&["scan", "k", "--limit", "1500"]);
    assert_eq!(limited_scan.out.lines().count(), 1500);
    assert!(limited_scan.err.contains("there are more"), "{limited_scan:?}");
    let exact_scan = cluster.run(&["scan", "k", "--limit", "2100"]);
    assert_eq!((exact_scan.out.lines().count(), exact_scan.err.as_str()), (2100, ""));
}

#[test]
fn simulation_repeats_bit_for_bit() {
    let sim_outputs: Vec<_> =
        (0..2).map(|_| run(&mut drave_command(&["sim", "--seed", "7", "--duration", "5s"]))).collect();
    assert_eq!(sim_outputs[0].code, Some(0), "{sim_outputs:?}");
    assert_eq!(sim_outputs[0].out, sim_outputs[1].out);
    let summary = sim_outputs[0].out.lines().last().unwrap();
    let summary_parts: Vec<&str> = summary.split(" · ").collect();
    assert_eq!(summary_parts[0], "seed 7 ok", "{summary}");
    let units = [" s simulated", " steps", " faults", " operations"];
    assert!(summary_parts[1..5].iter().zip(units).all(|(part, unit)| part.ends_with(unit)), "{summary}");
    let hash = summary_parts[5].strip_prefix("hash ").unwrap();
    assert!(hash.len() == 16 && hash.chars().all(|digit| digit.is_ascii_hexdigit()), "{summary}");
}

/// Starts a demo with a state file of its own. Returns the demo's process and base port.
fn start_demo(directory: &Path) -> (ChildGuard, u16) {
    start_demo_with_variables(directory, &[])
}

/// Like [`start_demo`], with these environment variables set.
fn start_demo_with_variables(directory: &Path, variables: &[(&str, &str)]) -> (ChildGuard, u16) {
    let base_port = reserve_ports(3);
    let log_file = std::fs::File::create(directory.join("log")).unwrap();
    let mut command = drave_command(&["demo", "--plain", "--base-port", &base_port.to_string(), "--dir"]);
    command.arg(directory.join("data")).env("TMPDIR", directory).stdout(Stdio::null()).stderr(log_file);
    command.envs(variables.iter().copied());
    (ChildGuard::start(&mut command), base_port)
}

fn run_against_demo(directory: &Path, base_port: u16, args: &[&str]) -> ProgramOutput {
    let endpoints: Vec<String> = (base_port..base_port + 3).map(|port| format!("127.0.0.1:{port}")).collect();
    run(drave_command(args).env("TMPDIR", directory).env("DRAVE_ENDPOINTS", endpoints.join(",")))
}

/// The process ids of all nodes that the demo ever started, from its state file.
fn read_node_pids(directory: &Path, base_port: u16) -> Vec<i64> {
    let state_text = std::fs::read(directory.join(format!("drave-demo-{base_port}.json"))).unwrap();
    let state_file: serde_json::Value = serde_json::from_slice(&state_text).unwrap();
    state_file["pids"].as_object().unwrap().values().map(|pid| pid.as_i64().unwrap()).collect()
}

/// Whether a process is running and not a zombie.
fn is_alive(pid: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

fn expect_no_processes(pids: &[i64], log: &Path) {
    let no_process_is_alive = || (!pids.iter().any(|pid| is_alive(*pid))).then_some(());
    wait_until("the demo's nodes are gone", no_process_is_alive, || std::fs::read_to_string(log).unwrap_or_default());
}

#[test]
fn demo_restarts_killed_node_and_leaves_no_process() {
    let directory = tempfile::tempdir().unwrap();
    let (directory, log) = (directory.path(), directory.path().join("log"));
    let (mut demo, base_port) = start_demo(directory);
    let demo_log = || std::fs::read_to_string(&log).unwrap_or_default();
    let try_put = || {
        Some(run_against_demo(directory, base_port, &["put", "lunch", "noodles"]))
            .filter(|output| output.code == Some(0))
    };
    expect_ok_line(&wait_until("the demo acknowledges a write", try_put, demo_log));
    let pids_before = read_node_pids(directory, base_port);
    assert_eq!(pids_before.len(), 3);
    // An election may be under way, and then the command kills no node.
    let try_kill =
        || Some(run_against_demo(directory, base_port, &["kill", "leader", "--base-port", &base_port.to_string()]));
    let output = wait_until("a leader is killed", || try_kill().filter(|output| output.code != Some(3)), demo_log);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.out.starts_with("killed n") && output.out.contains("(was leader of term "), "{output:?}");
    let output = run_against_demo(directory, base_port, &["get", "lunch", "--timeout", "20s"]);
    expect_output(&output, 0, "noodles", "");
    // The demo restarts the killed node by itself.
    let all_nodes_are_up = || {
        let status = run_against_demo(directory, base_port, &["status", "-o", "json"]).json();
        status["nodes"].as_array()?.iter().all(|node| node["up"] == true).then_some(())
    };
    wait_until("the killed node is back", all_nodes_are_up, demo_log);
    let node_pids = [pids_before, read_node_pids(directory, base_port)].concat();
    demo.signal(Signal::INT);
    assert_eq!(demo.wait(demo_log).code(), Some(0), "{}", demo_log());
    expect_no_processes(&node_pids, &log);
    let output = run_against_demo(directory, base_port, &["kill", "leader", "--base-port", &base_port.to_string()]);
    assert_eq!(output.code, Some(3), "{output:?}");
}

#[test]
fn demo_ignores_environment_variables_of_nodes() {
    let directory = tempfile::tempdir().unwrap();
    let (directory, log) = (directory.path(), directory.path().join("log"));
    let variables = [
        ("DRAVE_TLS_CA", "/no/such/file"),
        ("DRAVE_JOIN", "127.0.0.1:1"),
        ("DRAVE_LISTEN", "127.0.0.1:1"),
        ("DRAVE_RESP", "127.0.0.1:1"),
        ("DRAVE_HEARTBEAT_INTERVAL", "1h"),
        ("DRAVE_LOG_LEVEL", "warn"),
    ];
    let (mut demo, base_port) = start_demo_with_variables(directory, &variables);
    let demo_log = || std::fs::read_to_string(&log).unwrap_or_default();
    let try_put = || {
        Some(run_against_demo(directory, base_port, &["put", "lunch", "noodles"]))
            .filter(|output| output.code == Some(0))
    };
    expect_ok_line(&wait_until("the demo acknowledges a write", try_put, demo_log));
    assert!(!demo_log().contains(" INFO "), "DRAVE_LOG_LEVEL is inherited: {}", demo_log());
    demo.signal(Signal::INT);
    assert_eq!(demo.wait(demo_log).code(), Some(0), "{}", demo_log());
}

#[test]
fn killed_demo_leaves_no_process() {
    let directory = tempfile::tempdir().unwrap();
    let (directory, log) = (directory.path(), directory.path().join("log"));
    let (demo, base_port) = start_demo(directory);
    let demo_log = || std::fs::read_to_string(&log).unwrap_or_default();
    let try_put = || {
        Some(run_against_demo(directory, base_port, &["put", "lunch", "noodles"]))
            .filter(|output| output.code == Some(0))
    };
    wait_until("the demo acknowledges a write", try_put, demo_log);
    let node_pids = read_node_pids(directory, base_port);
    assert!(node_pids.len() == 3 && node_pids.iter().all(|pid| is_alive(*pid)));
    drop(demo);
    expect_no_processes(&node_pids, &log);
}

#[test]
fn demo_names_the_port_that_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let base_port = reserve_ports(3);
    let _port_holder = TcpListener::bind(("127.0.0.1", base_port + 1)).unwrap();
    let args = ["demo", "--plain", "--base-port", &base_port.to_string(), "--dir"];
    let output = run(drave_command(&args).arg(directory.path().join("data")).env("TMPDIR", directory.path()));
    assert_eq!(output.code, Some(75), "{output:?}");
    assert!(
        output.err.contains(&format!("cannot listen on 127.0.0.1:{}: Address already in use", base_port + 1)),
        "{output:?}"
    );
}

#[test]
fn signals_stop_node_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let cluster = Cluster::prepare(1);
        let mut serve_command: Command = cluster.serve_command(0);
        let mut node = ChildGuard::start(serve_command.stdout(Stdio::null()).stderr(Stdio::null()));
        wait_until("the node answers", || cluster.status(0), String::new);
        node.signal(signal);
        assert_eq!(node.wait(String::new).code(), Some(0));
    }
}
