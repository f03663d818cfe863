//! Nodes and clients with TLS, with wrong certificates, and without TLS.

use drave::secure::{KeyFiles, Keys};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use support::{Cluster, WAIT_TIMEOUT, command_if_installed, drave_command, run, wait_until};
use terminal::Terminal;

mod support;
#[path = "support/terminal.rs"]
mod terminal;

/// A certificate authority. Its certificate and the certificates that it issues are files in `directory`.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
    ca_path: String,
}

impl Authority {
    fn new(directory: &Path, name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // The authority needs a name of its own: a certificate with the same subject as its issuer counts as
        // self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own_directory = directory.join(name);
        std::fs::create_dir(&own_directory).unwrap();
        let ca_path = own_directory.join("ca.pem");
        std::fs::write(&ca_path, params.self_signed(&key).unwrap().pem()).unwrap();
        Authority {
            issuer: Issuer::new(params, key),
            ca_path: ca_path.to_str().unwrap().to_owned(),
            directory: own_directory,
        }
    }

    /// TLS flags of a node at 127.0.0.1.
    fn node_flags(&self) -> Vec<String> {
        self.node_flags_for(&["127.0.0.1", "localhost"])
    }

    /// TLS flags of a node with a certificate for these names.
    fn node_flags_for(&self, names: &[&str]) -> Vec<String> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let write_file = |name: &str, text: String| {
            std::fs::write(self.directory.join(name), text).unwrap();
            self.directory.join(name).to_str().unwrap().to_owned()
        };
        let first_name = names[0];
        let (certificate, key) = (
            write_file(&format!("{first_name}.pem"), certificate.pem()),
            write_file(&format!("{first_name}.key"), key.serialize_pem()),
        );
        ["--tls-ca", &self.ca_path, "--tls-cert", &certificate, "--tls-key", &key].map(str::to_owned).into()
    }
}

/// Three nodes with TLS and a leader, and their authority.
fn start_tls_cluster() -> (Cluster, Authority) {
    let mut cluster = Cluster::prepare(3);
    let authority = Authority::new(cluster.directory.path(), "ours");
    cluster.extra_args.extend(authority.node_flags());
    (0..3).for_each(|n| cluster.spawn(n));
    let put_succeeds =
        || (cluster.run(&["put", "lunch", "noodles", "--tls-ca", &authority.ca_path]).code == Some(0)).then_some(());
    wait_until("a write is acknowledged", put_succeeds, || cluster.logs());
    (cluster, authority)
}

#[test]
fn tls_cluster_survives_leader_crash() {
    let (mut cluster, authority) = start_tls_cluster();
    let ca = authority.ca_path.as_str();
    fn with_ca<'a>(args: &[&'a str], ca: &'a str) -> Vec<&'a str> {
        [args, &["--tls-ca", ca]].concat()
    }
    let bench =
        ["bench", "incr", "--verify", "--clients", "8", "--inflight", "8", "--total", "20000", "--warmup", "0s"];
    let args = with_ca(&[&bench[..], &["--duration", "60s", "--timeout", "20s"]].concat(), ca);
    let mut bench =
        support::BackgroundProgram::start(cluster.directory.path(), "bench", &mut cluster.drave_command(&args));
    let status = |cluster: &Cluster| cluster.run(&with_ca(&["status", "-o", "json"], ca)).json();
    let load_has_started = |cluster: &Cluster| status(cluster)["nodes"][0]["status"]["commit"].as_u64() > Some(500);
    wait_until("the load has started", || load_has_started(&cluster).then_some(()), || cluster.logs());
    let leader = status(&cluster)["leader"].as_u64().unwrap() as usize - 1;
    cluster.kill(leader);
    assert!(bench.is_running(), "the load ended before the leader was killed");
    let output = bench.wait_with_output();
    assert_eq!(output.code, Some(0), "{output:?}\n{}", cluster.logs());
    assert!(output.err.contains("each once"), "{output:?}");
    // With large values, a message is larger than the socket buffer and needs several writes.
    cluster.spawn(leader);
    let large_value = "x".repeat(100_000);
    for n in 0..8 {
        let output = cluster.run(&with_ca(&["put", &format!("large-{n}"), &large_value], ca));
        assert_eq!(output.code, Some(0), "{output:?}");
    }
    let all_applied_same = || {
        let nodes = status(&cluster)["nodes"].as_array().unwrap().clone();
        let applied_indexes: Vec<_> = nodes.iter().map(|node| node["status"]["applied"].as_u64()).collect();
        applied_indexes.iter().all(|applied| applied.is_some() && *applied == applied_of(&nodes[0])).then_some(())
    };
    wait_until("all nodes apply the same entries", all_applied_same, || cluster.logs());
}

fn applied_of(node: &serde_json::Value) -> Option<u64> {
    node["status"]["applied"].as_u64()
}

#[test]
fn untrusted_and_plain_connections_are_rejected() {
    let (cluster, authority) = start_tls_cluster();
    let other_authority = Authority::new(cluster.directory.path(), "theirs");
    let run_get = |args: &[&str]| cluster.run(&[&["get", "lunch", "--timeout", "1s"], args].concat());
    assert_eq!(run_get(&["--tls-ca", &authority.ca_path]).out, "noodles");
    // A client that does not trust the nodes cannot connect, nor can a client without TLS.
    assert_eq!(run_get(&["--tls-ca", &other_authority.ca_path]).code, Some(3));
    let output = run_get(&[]);
    assert_eq!(output.code, Some(3));
    assert!(output.err.contains("TLS") && output.err.contains("--tls-ca"), "{output:?}");
    let mut plain_cluster = Cluster::prepare(1);
    plain_cluster.spawn(0);
    plain_cluster.wait_for_leader();
    let output = plain_cluster.run(&["get", "lunch", "--timeout", "1s", "--tls-ca", &authority.ca_path]);
    assert_eq!(output.code, Some(3));
    assert!(output.err.contains("does it use TLS?"), "{output:?}");
    // The client trusts the nodes, but presents a certificate that the nodes do not trust.
    let other_flags = other_authority.node_flags();
    assert_eq!(
        run_get(&[
            "--tls-ca",
            &authority.ca_path,
            other_flags[2].as_str(),
            &other_flags[3],
            &other_flags[4],
            &other_flags[5]
        ])
        .code,
        Some(3)
    );
    let output = run(cluster
        .serve_command(0)
        .args(["--id", "9"])
        .env("DRAVE_TLS_CA", &authority.ca_path)
        .env_remove("DRAVE_TLS_CERT"));
    assert_ne!(output.code, Some(0), "{output:?}");
}

/// A node whose native port is bound to loopback alone must still warn of an HTTP gateway that other hosts can reach.
#[test]
fn exposed_gateway_without_tls_causes_a_warning() {
    let mut cluster = Cluster::prepare(1);
    let authority = Authority::new(cluster.directory.path(), "ours");
    let http_address = format!("0.0.0.0:{}", support::reserve_ports(1));
    let warnings_of_run = |cluster: &mut Cluster| -> Vec<String> {
        let count_serving_lines = |cluster: &Cluster| cluster.logs().matches(" serves ").count();
        let serving_lines_before = count_serving_lines(cluster);
        cluster.spawn(0);
        wait_until(
            "the node serves",
            || (count_serving_lines(cluster) > serving_lines_before).then_some(()),
            || cluster.logs(),
        );
        assert_eq!(cluster.stop(0), Some(0), "{}", cluster.logs());
        cluster
            .logs()
            .lines()
            .filter(|line| line.contains("reachable from other hosts without TLS"))
            .map(str::to_owned)
            .collect()
    };
    cluster.http_addresses = vec![format!("127.0.0.1:{}", support::reserve_ports(1))];
    assert_eq!(warnings_of_run(&mut cluster), [""; 0], "loopback addresses cause no warning");
    cluster.http_addresses = vec![http_address.clone()];
    let output = warnings_of_run(&mut cluster);
    let expected_warning = format!("{http_address} (HTTP clients): reachable from other hosts without TLS");
    assert!(
        output.len() == 1 && output[0].contains(&expected_warning) && output[0].contains("--tls-cert"),
        "{output:?}"
    );
    cluster.extra_args.extend(authority.node_flags());
    assert_eq!(warnings_of_run(&mut cluster), output, "with TLS there is no new warning");
}

/// The program exits with code 78, as for an unreadable password file.
#[test]
fn invalid_key_files_are_a_configuration_error() {
    let directory = tempfile::tempdir().unwrap();
    let (authority, other_authority) =
        (Authority::new(directory.path(), "ours"), Authority::new(directory.path(), "theirs"));
    let (own_flags, other_flags) = (authority.node_flags(), other_authority.node_flags());
    let empty_path = directory.path().join("empty.pem");
    std::fs::write(&empty_path, "").unwrap();
    let empty_path = empty_path.to_str().unwrap();
    let data = directory.path().join("data");
    let serve_args = ["serve", "--id", "1", "--peers", "1=127.0.0.1:1", "--data", data.to_str().unwrap()];
    for (command_args, tls_args, file_at_fault) in [
        (&["get", "k"][..], &["--tls-ca", "/no/such/file"][..], "/no/such/file"),
        (&["status"], &["--tls-ca", empty_path], empty_path),
        (
            &serve_args,
            &["--tls-ca", &authority.ca_path, "--tls-cert", &own_flags[3], "--tls-key", "/no/such/key"],
            "/no/such/key",
        ),
        (
            &serve_args,
            &["--tls-ca", &authority.ca_path, "--tls-cert", &own_flags[3], "--tls-key", &other_flags[5]],
            &own_flags[3],
        ),
    ] {
        let output = run(&mut drave_command(&[command_args, tls_args].concat()));
        assert_eq!((output.code, output.out.as_str()), (Some(78), ""), "{output:?}");
        assert!(output.err.starts_with(&format!("error: {file_at_fault}: ")), "{output:?}");
        assert_eq!(output.err.lines().count(), 2, "{output:?}");
    }
    assert!(!data.exists());
}

#[test]
fn log_level_command_requires_tls() {
    let (cluster, authority) = start_tls_cluster();
    assert_eq!(cluster.run(&["log-level", "error", "--timeout", "1s"]).code, Some(3));
    let output = cluster.run(&["log-level", "--tls-ca", &authority.ca_path]);
    assert_eq!((output.code, output.out.as_str()), (Some(0), "n1 info\nn2 info\nn3 info\n"), "{output:?}");
}

/// A node without a certificate may connect as a client but not as a peer.
#[test]
fn peer_without_certificate_is_rejected() {
    use drave::wire::hello::Hello;
    let (cluster, authority) = start_tls_cluster();
    let status = cluster.run(&["status", "-o", "json", "--tls-ca", &authority.ca_path]).json();
    let cluster_id_text = status["nodes"][0]["status"]["cluster"].as_str().unwrap().to_owned();
    let node_id = |n| drave::types::NodeId::new(n).unwrap();
    let rejection_of_peer = |files: &KeyFiles| {
        let socket = TcpStream::connect(&cluster.addresses[0]).unwrap();
        socket.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        let mut stream = Keys::read(files).unwrap().dial(socket, &cluster.addresses[0]).unwrap();
        let mut hello = bytes::BytesMut::new();
        let cluster_id = drave::types::ClusterId(u64::from_str_radix(&cluster_id_text, 16).unwrap());
        // A hello with a wrong disk id: with a certificate, the node rejects it for that reason.
        let process_run = drave::types::Run { id: 7, starts: 1 };
        Hello::peer(cluster_id, node_id(2), drave::types::DiskId(7), process_run, node_id(1)).put(&mut hello);
        stream.write_all(&hello).unwrap();
        let mut output = Vec::new();
        let _may_be_reset = stream.read_to_end(&mut output);
        let mut output = bytes::BytesMut::from(&output[..]);
        let frame = drave::wire::frame::FrameReader::default().next(&mut output).unwrap().unwrap();
        drave::wire::hello::Welcome::read(frame).unwrap_err().to_string()
    };
    let node_flags = authority.node_flags();
    let own_certificate = Some((PathBuf::from(&node_flags[3]), PathBuf::from(&node_flags[5])));
    assert!(
        rejection_of_peer(&KeyFiles { certificate_and_key: None, authority: (&authority.ca_path).into() })
            .contains("present a certificate")
    );
    assert!(
        rejection_of_peer(&KeyFiles { certificate_and_key: own_certificate, authority: (&authority.ca_path).into() })
            .contains("another disk")
    );
}

#[test]
fn top_controls_a_cluster_over_tls() {
    let (cluster, authority) = start_tls_cluster();
    let mut terminal = Terminal::start(&mut cluster.drave_command(&["top", "--tls-ca", &authority.ca_path]), 120, 40);
    for node in 1..=3 {
        let shows_answer = |line: &str| line.starts_with(&format!("n{node} ")) && line.ends_with("answers");
        terminal.wait_for_line("a node that answers", shows_answer);
    }
    // Each of these actions opens connections of its own to the nodes.
    terminal.press("bb");
    terminal.wait_for_line("a load with latencies", |line| line.starts_with("load ") && line.contains(" · p99 "));
    terminal.press("ss");
    terminal.wait_for_line("a snapshot", |line| line.contains(" has a snapshot up to "));
    terminal.press("tt");
    terminal.wait_for_line("another leads", |line| line.contains(" leads term ") && line.contains(", after n"));
    terminal.press("bb");
    terminal.wait_for_line("the load is off", |line| line.starts_with("load off: "));
    let scan_output = cluster.run(&["scan", "demo/", "--tls-ca", &authority.ca_path]);
    assert_eq!(
        (scan_output.code, scan_output.out.as_str()),
        (Some(0), ""),
        "the load deletes its counters when it ends: {scan_output:?}"
    );
    terminal.press("q");
    assert_eq!(terminal.wait_for_exit(), Some(0));
}

#[test]
fn http_gateway_uses_tls() {
    let mut cluster = Cluster::prepare(1);
    let authority = Authority::new(cluster.directory.path(), "ours");
    cluster.extra_args.extend(authority.node_flags());
    let http_address = format!("127.0.0.1:{}", support::reserve_ports(1));
    cluster.http_addresses = vec![http_address.clone()];
    cluster.spawn(0);
    let Some(_) = command_if_installed("curl") else { return };
    let run_curl = |args: &[&str]| {
        let common_args = ["-s", "-m", "20", "--cacert", &authority.ca_path];
        run(command_if_installed("curl")
            .unwrap()
            .args(common_args)
            .args(args)
            .arg(format!("https://{http_address}/kv/lunch")))
    };
    let large_value = "x".repeat(100_000);
    let put_args = ["-f", "-X", "PUT", "--data-binary", &large_value];
    wait_until("the value is put", || (run_curl(&put_args).code == Some(0)).then_some(()), || cluster.logs());
    assert!(run_curl(&[]).out == large_value);
    let metrics_args = ["-s", "-m", "20", "--cacert", &authority.ca_path];
    let metrics =
        run(command_if_installed("curl").unwrap().args(metrics_args).arg(format!("https://{http_address}/metrics")))
            .out;
    for certificate in ["own", "authority"] {
        let expiry_metric = format!("drave_certificate_expiry_timestamp_seconds{{certificate=\"{certificate}\"}} ");
        assert!(metrics.contains(&expiry_metric), "{metrics}");
    }
    let plain_request = run(command_if_installed("curl")
        .unwrap()
        .args(["-s", "-m", "20"])
        .arg(format!("http://{http_address}/kv/lunch")));
    assert!(plain_request.code != Some(0) && plain_request.out.is_empty(), "{plain_request:?}");
}

#[test]
fn redis_gateway_uses_tls() {
    let mut cluster = Cluster::prepare(1);
    let authority = Authority::new(cluster.directory.path(), "ours");
    cluster.extra_args.extend(authority.node_flags());
    let port = support::reserve_ports(1);
    cluster.redis_addresses = vec![format!("127.0.0.1:{port}")];
    cluster.spawn(0);
    let Some(_) = command_if_installed("redis-cli") else { return };
    let run_redis_cli = |args: &[&str]| {
        let common_args = ["-p", &port.to_string(), "--tls", "--cacert", &authority.ca_path];
        run(command_if_installed("redis-cli").unwrap().args(common_args).args(args)).out.trim_end().to_owned()
    };
    wait_until(
        "the value is set",
        || (run_redis_cli(&["SET", "lunch", "noodles"]) == "OK").then_some(()),
        || cluster.logs(),
    );
    assert_eq!(run_redis_cli(&["GET", "lunch"]), "noodles");
    let large_value = "x".repeat(100_000);
    assert_eq!(run_redis_cli(&["SET", "large", &large_value]), "OK");
    assert_eq!(run_redis_cli(&["GET", "large"]), large_value);
    let plain_request = run(command_if_installed("redis-cli").unwrap().args(["-p", &port.to_string(), "GET", "lunch"]));
    assert!(!plain_request.out.contains("noodles"), "{plain_request:?}");
}

/// Waits until the log of node `n` contains `text`.
fn wait_for_log(cluster: &Cluster, n: usize, text: &str) {
    let log = || std::fs::read_to_string(cluster.data_dir(n).with_extension("log")).unwrap_or_default();
    wait_until(text, || log().contains(text).then_some(()), || cluster.logs());
}

#[test]
fn sighup_reloads_certificates_unless_invalid() {
    let mut cluster = Cluster::prepare(1);
    let authority = Authority::new(cluster.directory.path(), "ours");
    let other_authority = Authority::new(cluster.directory.path(), "theirs");
    let (flags, new_flags) = (authority.node_flags(), other_authority.node_flags());
    // A copy for the client, since the files that the node reads are replaced below.
    let old_ca = authority.directory.join("kept.pem");
    std::fs::copy(&authority.ca_path, &old_ca).unwrap();
    let old_ca = old_ca.to_str().unwrap();
    cluster.extra_args.extend(flags.clone());
    cluster.spawn(0);
    let put_succeeds = |ca: &str| cluster.run(&["put", "lunch", "noodles", "--tls-ca", ca]).code == Some(0);
    wait_until("a write is acknowledged", || put_succeeds(old_ca).then_some(()), || cluster.logs());
    wait_for_log(&cluster, 0, "this node's certificate is valid until ");
    let status = cluster.run(&["status", "-o", "json", "--tls-ca", old_ca]).json();
    let expires_at = status["nodes"][0]["status"]["certificate_expires"].as_u64();
    assert!(expires_at > Some(1_700_000_000), "{status}");
    std::fs::write(&flags[3], "no certificate").unwrap();
    cluster.signal(0, rustix::process::Signal::HUP);
    wait_for_log(&cluster, 0, "the former credentials stay in use");
    assert!(put_succeeds(old_ca), "{}", cluster.logs());
    for (flag_index, file) in [(1, &other_authority.ca_path), (3, &new_flags[3]), (5, &new_flags[5])] {
        std::fs::copy(file, &flags[flag_index]).unwrap();
    }
    cluster.signal(0, rustix::process::Signal::HUP);
    wait_for_log(&cluster, 0, "certificates were reloaded");
    wait_until(
        "the new certificate is in use",
        || put_succeeds(&other_authority.ca_path).then_some(()),
        || cluster.logs(),
    );
    let output_with_old_ca = cluster.run(&["get", "lunch", "--timeout", "1s", "--tls-ca", old_ca]);
    assert_eq!(output_with_old_ca.code, Some(3), "the old certificate is no longer in use: {output_with_old_ca:?}");
    cluster.expect_no_deaths();
}

/// Each side of a failed connection that can know the cause logs it.
#[test]
fn tls_failure_between_peers_is_logged() {
    let mut cluster = Cluster::prepare(3);
    let authority = Authority::new(cluster.directory.path(), "ours");
    let (valid_flags, invalid_flags) = (authority.node_flags(), authority.node_flags_for(&["elsewhere.example"]));
    cluster.extra_args.extend(valid_flags.clone());
    cluster.spawn(0);
    // The second node presents a certificate for another name; the third node does not use TLS.
    let common_arg_count = cluster.extra_args.len() - valid_flags.len();
    cluster.extra_args.truncate(common_arg_count);
    cluster.extra_args.extend(invalid_flags);
    cluster.spawn(1);
    cluster.extra_args.truncate(common_arg_count);
    cluster.spawn(2);
    let unreachable_text = |n: usize| format!("cannot reach n{} at {}: ", n + 1, cluster.addresses[n]);
    wait_for_log(
        &cluster,
        0,
        &format!("{}TLS: invalid peer certificate: certificate not valid for name \"127.0.0.1\"", unreachable_text(1)),
    );
    let log = std::fs::read_to_string(cluster.data_dir(0).with_extension("log")).unwrap();
    assert!(log.lines().any(|line| line.contains(&unreachable_text(1)) && line.contains("elsewhere.example")), "{log}");
    wait_for_log(&cluster, 1, "a connection from 127.0.0.1 failed: TLS: ");
    wait_for_log(
        &cluster,
        0,
        &format!("{}the peer closed the connection before it answered; does it use TLS", unreachable_text(2)),
    );
    wait_for_log(&cluster, 0, "a connection from 127.0.0.1 failed: TLS: ");
    wait_for_log(&cluster, 2, &unreachable_text(0));
    wait_for_log(&cluster, 0, "no leader for ");
    wait_for_log(&cluster, 0, "s: heard n2 (cannot be reached: TLS), not n3 (closed)");
}
