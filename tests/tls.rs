//! Nodes and clients with TLS, with wrong certificates, and without TLS.

use drave::secure::{Files, Keys};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use support::{Cluster, PATIENCE, drave, installed, run, until};
use terminal::Terminal;

mod support;
#[path = "support/terminal.rs"]
mod terminal;

/// A certificate authority; its certificate and those it issues are files.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    place: PathBuf,
    ca: String,
}

impl Authority {
    fn new(directory: &Path, name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // A name of its own: a certificate with the same subject as its issuer counts as self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let place = directory.join(name);
        std::fs::create_dir(&place).unwrap();
        let ca = place.join("ca.pem");
        std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { issuer: Issuer::new(params, key), ca: ca.to_str().unwrap().to_owned(), place }
    }

    /// TLS flags of a node at 127.0.0.1.
    fn node(&self) -> Vec<String> {
        self.node_at(&["127.0.0.1", "localhost"])
    }

    /// TLS flags of a node with a certificate for these names.
    fn node_at(&self, names: &[&str]) -> Vec<String> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |name: &str, text: String| {
            std::fs::write(self.place.join(name), text).unwrap();
            self.place.join(name).to_str().unwrap().to_owned()
        };
        let first = names[0];
        let (certificate, key) =
            (file(&format!("{first}.pem"), certificate.pem()), file(&format!("{first}.key"), key.serialize_pem()));
        ["--tls-ca", &self.ca, "--tls-cert", &certificate, "--tls-key", &key].map(str::to_owned).into()
    }
}

/// Three nodes with TLS and a leader, and their authority.
fn encrypted() -> (Cluster, Authority) {
    let mut cluster = Cluster::prepare(3);
    let authority = Authority::new(cluster.directory.path(), "ours");
    cluster.words.extend(authority.node());
    (0..3).for_each(|n| cluster.spawn(n));
    let put = || (cluster.run(&["put", "lunch", "noodles", "--tls-ca", &authority.ca]).code == Some(0)).then_some(());
    until("a write is acknowledged", put, || cluster.logs());
    (cluster, authority)
}

#[test]
fn tls_cluster_survives_leader_crash() {
    let (mut cluster, authority) = encrypted();
    let ca = authority.ca.as_str();
    fn with<'a>(words: &[&'a str], ca: &'a str) -> Vec<&'a str> {
        [words, &["--tls-ca", ca]].concat()
    }
    let bench =
        ["bench", "incr", "--verify", "--clients", "8", "--inflight", "8", "--total", "20000", "--warmup", "0s"];
    let words = with(&[&bench[..], &["--duration", "60s", "--timeout", "20s"]].concat(), ca);
    let mut bench = support::Beside::start(cluster.directory.path(), "bench", &mut cluster.drave(&words));
    let status = |cluster: &Cluster| cluster.run(&with(&["status", "-o", "json"], ca)).json();
    let begun = |cluster: &Cluster| status(cluster)["nodes"][0]["status"]["commit"].as_u64() > Some(500);
    until("the load has started", || begun(&cluster).then_some(()), || cluster.logs());
    let leader = status(&cluster)["leader"].as_u64().unwrap() as usize - 1;
    cluster.kill(leader);
    assert!(bench.is_running(), "the load ended before the leader was killed");
    let said = bench.end();
    assert_eq!(said.code, Some(0), "{said:?}\n{}", cluster.logs());
    assert!(said.err.contains("each once"), "{said:?}");
    // Large values make the messages long: they go in several writes, through a socket buffer that holds less.
    cluster.spawn(leader);
    let large = "x".repeat(100_000);
    for n in 0..8 {
        let said = cluster.run(&with(&["put", &format!("large-{n}"), &large], ca));
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    let same = || {
        let nodes = status(&cluster)["nodes"].as_array().unwrap().clone();
        let applied: Vec<_> = nodes.iter().map(|node| node["status"]["applied"].as_u64()).collect();
        applied.iter().all(|applied| applied.is_some() && *applied == applied_of(&nodes[0])).then_some(())
    };
    until("all nodes apply the same entries", same, || cluster.logs());
}

fn applied_of(node: &serde_json::Value) -> Option<u64> {
    node["status"]["applied"].as_u64()
}

#[test]
fn untrusted_and_plain_connections_are_rejected() {
    let (cluster, ours) = encrypted();
    let theirs = Authority::new(cluster.directory.path(), "theirs");
    let get = |words: &[&str]| cluster.run(&[&["get", "lunch", "--timeout", "1s"], words].concat());
    assert_eq!(get(&["--tls-ca", &ours.ca]).out, "noodles");
    // The client does not trust the nodes, or does not use TLS.
    assert_eq!(get(&["--tls-ca", &theirs.ca]).code, Some(3));
    let said = get(&[]);
    assert_eq!(said.code, Some(3));
    assert!(said.err.contains("TLS") && said.err.contains("--tls-ca"), "{said:?}");
    let mut plain = Cluster::prepare(1);
    plain.spawn(0);
    plain.leader();
    let said = plain.run(&["get", "lunch", "--timeout", "1s", "--tls-ca", &ours.ca]);
    assert_eq!(said.code, Some(3));
    assert!(said.err.contains("does it use TLS?"), "{said:?}");
    // The client trusts the nodes and shows a certificate that they do not trust.
    let shown = theirs.node();
    assert_eq!(get(&["--tls-ca", &ours.ca, shown[2].as_str(), &shown[3], &shown[4], &shown[5]]).code, Some(3));
    let said = run(cluster.serve(0).args(["--id", "9"]).env("DRAVE_TLS_CA", &ours.ca).env_remove("DRAVE_TLS_CERT"));
    assert_ne!(said.code, Some(0), "{said:?}");
}

/// The native port may be bound to loopback alone while an HTTP gateway is reachable from everywhere.
#[test]
fn exposed_gateway_without_tls_causes_a_warning() {
    let mut cluster = Cluster::prepare(1);
    let authority = Authority::new(cluster.directory.path(), "ours");
    let door = format!("0.0.0.0:{}", support::ports(1));
    let warned = |cluster: &mut Cluster| -> Vec<String> {
        let served = |cluster: &Cluster| cluster.logs().matches(" serves ").count();
        let before = served(cluster);
        cluster.spawn(0);
        until("the node serves", || (served(cluster) > before).then_some(()), || cluster.logs());
        assert_eq!(cluster.stop(0), Some(0), "{}", cluster.logs());
        cluster
            .logs()
            .lines()
            .filter(|line| line.contains("reachable from other hosts without TLS"))
            .map(str::to_owned)
            .collect()
    };
    cluster.webs = vec![format!("127.0.0.1:{}", support::ports(1))];
    assert_eq!(warned(&mut cluster), [""; 0], "loopback addresses cause no warning");
    cluster.webs = vec![door.clone()];
    let said = warned(&mut cluster);
    let expected = format!("{door} (HTTP clients): reachable from other hosts without TLS");
    assert!(said.len() == 1 && said[0].contains(&expected) && said[0].contains("--tls-cert"), "{said:?}");
    cluster.words.extend(authority.node());
    assert_eq!(warned(&mut cluster), said, "with TLS there is no new warning");
}

/// Exit code 78, as for an unreadable password file.
#[test]
fn invalid_key_files_are_a_configuration_error() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(directory.path(), "ours"), Authority::new(directory.path(), "theirs"));
    let (shown, other) = (ours.node(), theirs.node());
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let empty = empty.to_str().unwrap();
    let data = directory.path().join("data");
    let serve = ["serve", "--id", "1", "--peers", "1=127.0.0.1:1", "--data", data.to_str().unwrap()];
    for (verb, keys, at_fault) in [
        (&["get", "k"][..], &["--tls-ca", "/no/such/file"][..], "/no/such/file"),
        (&["status"], &["--tls-ca", empty], empty),
        (&serve, &["--tls-ca", &ours.ca, "--tls-cert", &shown[3], "--tls-key", "/no/such/key"], "/no/such/key"),
        (&serve, &["--tls-ca", &ours.ca, "--tls-cert", &shown[3], "--tls-key", &other[5]], &shown[3]),
    ] {
        let said = run(&mut drave(&[verb, keys].concat()));
        assert_eq!((said.code, said.out.as_str()), (Some(78), ""), "{said:?}");
        assert!(said.err.starts_with(&format!("error: {at_fault}: ")), "{said:?}");
        assert_eq!(said.err.lines().count(), 2, "{said:?}");
    }
    assert!(!data.exists());
}

#[test]
fn log_level_command_requires_tls() {
    let (cluster, ours) = encrypted();
    assert_eq!(cluster.run(&["log-level", "error", "--timeout", "1s"]).code, Some(3));
    let said = cluster.run(&["log-level", "--tls-ca", &ours.ca]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "n1 info\nn2 info\nn3 info\n"), "{said:?}");
}

/// A node without a certificate may connect as a client but not as a peer.
#[test]
fn peer_without_certificate_is_rejected() {
    use drave::wire::hello::Hello;
    let (cluster, ours) = encrypted();
    let status = cluster.run(&["status", "-o", "json", "--tls-ca", &ours.ca]).json();
    let name = status["nodes"][0]["status"]["cluster"].as_str().unwrap().to_owned();
    let id = |n| drave::types::NodeId::new(n).unwrap();
    let greets = |files: &Files| {
        let socket = TcpStream::connect(&cluster.addresses[0]).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = Keys::read(files).unwrap().dial(socket, &cluster.addresses[0]).unwrap();
        let mut hello = bytes::BytesMut::new();
        let named = drave::types::ClusterId(u64::from_str_radix(&name, 16).unwrap());
        // A hello with a wrong disk id: with a certificate, the node rejects it for that reason.
        let run = drave::types::Run { id: 7, starts: 1 };
        Hello::peer(named, id(2), drave::types::DiskId(7), run, id(1)).put(&mut hello);
        stream.write_all(&hello).unwrap();
        let mut said = Vec::new();
        let _either_way_it_ends = stream.read_to_end(&mut said);
        let mut said = bytes::BytesMut::from(&said[..]);
        let frame = drave::wire::frame::FrameReader::default().next(&mut said).unwrap().unwrap();
        drave::wire::hello::Welcome::read(frame).unwrap_err().to_string()
    };
    let shown = ours.node();
    let own = Some((PathBuf::from(&shown[3]), PathBuf::from(&shown[5])));
    assert!(greets(&Files { own: None, authority: (&ours.ca).into() }).contains("present a certificate"));
    assert!(greets(&Files { own, authority: (&ours.ca).into() }).contains("another disk"));
}

#[test]
fn top_works_over_tls() {
    let (cluster, authority) = encrypted();
    let mut terminal = Terminal::start(&mut cluster.drave(&["top", "--tls-ca", &authority.ca]), 120, 40);
    for node in 1..=3 {
        let answers = |line: &str| line.starts_with(&format!("n{node} ")) && line.ends_with("answers");
        terminal.line("a node that answers", answers);
    }
    // Each of these actions opens connections of its own to the nodes.
    terminal.press("bb");
    terminal.line("a load with latencies", |line| line.starts_with("load ") && line.contains(" · p99 "));
    terminal.press("ss");
    terminal.line("a snapshot", |line| line.contains(" has a snapshot up to "));
    terminal.press("tt");
    terminal.line("another leads", |line| line.contains(" leads term ") && line.contains(", after n"));
    terminal.press("bb");
    terminal.line("the load is off", |line| line.starts_with("load off: "));
    let left = cluster.run(&["scan", "demo/", "--tls-ca", &authority.ca]);
    assert_eq!((left.code, left.out.as_str()), (Some(0), ""), "the load deletes its counters when it ends: {left:?}");
    terminal.press("q");
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn http_gateway_uses_tls() {
    let mut cluster = Cluster::prepare(1);
    let authority = Authority::new(cluster.directory.path(), "ours");
    cluster.words.extend(authority.node());
    let web = format!("127.0.0.1:{}", support::ports(1));
    cluster.webs = vec![web.clone()];
    cluster.spawn(0);
    let Some(_) = installed("curl") else { return };
    let ask = |words: &[&str]| {
        let always = ["-s", "-m", "20", "--cacert", &authority.ca];
        run(installed("curl").unwrap().args(always).args(words).arg(format!("https://{web}/kv/lunch")))
    };
    let large = "x".repeat(100_000);
    let put = ["-f", "-X", "PUT", "--data-binary", &large];
    until("the value is put", || (ask(&put).code == Some(0)).then_some(()), || cluster.logs());
    assert!(ask(&[]).out == large);
    let metrics = ["-s", "-m", "20", "--cacert", &authority.ca];
    let metrics = run(installed("curl").unwrap().args(metrics).arg(format!("https://{web}/metrics"))).out;
    for which in ["own", "authority"] {
        let expiry = format!("drave_certificate_expiry_timestamp_seconds{{certificate=\"{which}\"}} ");
        assert!(metrics.contains(&expiry), "{metrics}");
    }
    let plain = run(installed("curl").unwrap().args(["-s", "-m", "20"]).arg(format!("http://{web}/kv/lunch")));
    assert!(plain.code != Some(0) && plain.out.is_empty(), "{plain:?}");
}

#[test]
fn redis_gateway_uses_tls() {
    let mut cluster = Cluster::prepare(1);
    let authority = Authority::new(cluster.directory.path(), "ours");
    cluster.words.extend(authority.node());
    let port = support::ports(1);
    cluster.doors = vec![format!("127.0.0.1:{port}")];
    cluster.spawn(0);
    let Some(_) = installed("redis-cli") else { return };
    let ask = |words: &[&str]| {
        let always = ["-p", &port.to_string(), "--tls", "--cacert", &authority.ca];
        run(installed("redis-cli").unwrap().args(always).args(words)).out.trim_end().to_owned()
    };
    until("the value is set", || (ask(&["SET", "lunch", "noodles"]) == "OK").then_some(()), || cluster.logs());
    assert_eq!(ask(&["GET", "lunch"]), "noodles");
    let large = "x".repeat(100_000);
    assert_eq!(ask(&["SET", "large", &large]), "OK");
    assert_eq!(ask(&["GET", "large"]), large);
    let plain = run(installed("redis-cli").unwrap().args(["-p", &port.to_string(), "GET", "lunch"]));
    assert!(!plain.out.contains("noodles"), "{plain:?}");
}

/// Waits until the log of node `n` contains `what`.
fn logged(cluster: &Cluster, n: usize, what: &str) {
    let log = || std::fs::read_to_string(cluster.data(n).with_extension("log")).unwrap_or_default();
    until(what, || log().contains(what).then_some(()), || cluster.logs());
}

#[test]
fn sighup_reloads_certificates_unless_invalid() {
    let mut cluster = Cluster::prepare(1);
    let ours = Authority::new(cluster.directory.path(), "ours");
    let theirs = Authority::new(cluster.directory.path(), "theirs");
    let (words, next) = (ours.node(), theirs.node());
    // A copy that the node does not read: the files it reads are replaced below.
    let kept = ours.place.join("kept.pem");
    std::fs::copy(&ours.ca, &kept).unwrap();
    let kept = kept.to_str().unwrap();
    cluster.words.extend(words.clone());
    cluster.spawn(0);
    let works = |ca: &str| cluster.run(&["put", "lunch", "noodles", "--tls-ca", ca]).code == Some(0);
    until("a write is acknowledged", || works(kept).then_some(()), || cluster.logs());
    logged(&cluster, 0, "this node's certificate is valid until ");
    let status = cluster.run(&["status", "-o", "json", "--tls-ca", kept]).json();
    let expires = status["nodes"][0]["status"]["certificate_expires"].as_u64();
    assert!(expires > Some(1_700_000_000), "{status}");
    std::fs::write(&words[3], "no certificate").unwrap();
    cluster.signal(0, rustix::process::Signal::HUP);
    logged(&cluster, 0, "the former credentials stay in use");
    assert!(works(kept), "{}", cluster.logs());
    for (at, file) in [(1, &theirs.ca), (3, &next[3]), (5, &next[5])] {
        std::fs::copy(file, &words[at]).unwrap();
    }
    cluster.signal(0, rustix::process::Signal::HUP);
    logged(&cluster, 0, "certificates were reloaded");
    until("the new certificate is in use", || works(&theirs.ca).then_some(()), || cluster.logs());
    let old = cluster.run(&["get", "lunch", "--timeout", "1s", "--tls-ca", kept]);
    assert_eq!(old.code, Some(3), "the old certificate is no longer in use: {old:?}");
    cluster.expect_no_deaths();
}

/// Both sides log the cause, or the one side that can know it.
#[test]
fn tls_failure_between_peers_is_logged() {
    let mut cluster = Cluster::prepare(3);
    let authority = Authority::new(cluster.directory.path(), "ours");
    let (right, wrong) = (authority.node(), authority.node_at(&["elsewhere.example"]));
    cluster.words.extend(right.clone());
    cluster.spawn(0);
    // The second node shows a certificate for another name; the third does not use TLS.
    let common = cluster.words.len() - right.len();
    cluster.words.truncate(common);
    cluster.words.extend(wrong);
    cluster.spawn(1);
    cluster.words.truncate(common);
    cluster.spawn(2);
    let at = |n: usize| format!("cannot reach n{} at {}: ", n + 1, cluster.addresses[n]);
    logged(
        &cluster,
        0,
        &format!("{}TLS: invalid peer certificate: certificate not valid for name \"127.0.0.1\"", at(1)),
    );
    let log = std::fs::read_to_string(cluster.data(0).with_extension("log")).unwrap();
    assert!(log.lines().any(|line| line.contains(&at(1)) && line.contains("elsewhere.example")), "{log}");
    logged(&cluster, 1, "a connection from 127.0.0.1 failed: TLS: ");
    logged(&cluster, 0, &format!("{}the peer closed the connection before it answered; does it use TLS", at(2)));
    logged(&cluster, 0, "a connection from 127.0.0.1 failed: TLS: ");
    logged(&cluster, 2, &at(0));
    logged(&cluster, 0, "no leader for ");
    logged(&cluster, 0, "s: heard n2 (cannot be reached: TLS), not n3 (closed)");
}
