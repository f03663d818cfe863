//! The HTTP gateway over real sockets and with curl: the response of each path, the rejection of unauthenticated
//! requests, and the outcome of requests when nodes die.

mod support;

use rustix::process::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use support::{Cluster, PATIENCE, ports, run, until};

/// An HTTP response.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Answer {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| &value[..])
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// One client connection to an HTTP gateway.
struct Web {
    stream: BufReader<TcpStream>,
}

impl Web {
    fn dial(address: &str) -> Web {
        Web::try_dial(address).unwrap()
    }

    fn try_dial(address: &str) -> std::io::Result<Web> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Web { stream: BufReader::new(stream) })
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    fn read(&mut self) -> Answer {
        self.try_read().unwrap()
    }

    fn try_read(&mut self) -> std::io::Result<Answer> {
        let (status, fields) = self.try_head()?;
        let length = fields.iter().find(|(name, _)| name == "content-length");
        let length = length.map_or(0, |(_, value)| value.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Answer { status, fields, body })
    }

    fn try_head(&mut self) -> std::io::Result<(u16, Vec<(String, String)>)> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).unwrap().parse().unwrap();
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { return Ok((status, fields)) };
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.strip_suffix("\r\n").expect("each line ends in CRLF").to_owned())
    }

    fn send(&mut self, method: &str, target: &str, fields: &str, body: &[u8]) {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        self.raw(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{fields}{length}\r\n").as_bytes());
        self.raw(body);
    }

    fn ask(&mut self, method: &str, target: &str, body: &[u8]) -> Answer {
        self.send(method, target, "", body);
        self.read()
    }

    fn get(&mut self, target: &str) -> Answer {
        self.ask("GET", target, b"")
    }

    /// Reads a response, asserts a status in `range`, and returns whether the connection closes after it.
    fn is_closed_after(&mut self, range: std::ops::Range<u16>, what: &str) -> bool {
        let answer = self.read();
        assert!(range.contains(&answer.status), "{what}: {answer:?}");
        answer.field("connection") == Some("close") && self.is_closed()
    }

    /// Whether the gateway has closed the connection, with nothing left to read.
    fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }
}

/// Starts a cluster with HTTP gateways. Returns their addresses as well.
fn http_cluster(nodes: u16, words: &[&str]) -> (Cluster, Vec<String>) {
    let mut cluster = Cluster::prepare(nodes);
    let base = ports(nodes);
    cluster.webs = (base..base + nodes).map(|port| format!("127.0.0.1:{port}")).collect();
    cluster.words.extend(words.iter().map(|word| (*word).to_owned()));
    (0..nodes.into()).for_each(|n| cluster.spawn(n));
    cluster.leader();
    let webs = cluster.webs.clone();
    (cluster, webs)
}

#[test]
fn keys_are_put_read_and_deleted_through_any_node() {
    let (cluster, webs) = http_cluster(3, &[]);
    for (n, web) in webs.iter().enumerate() {
        let mut web = Web::dial(web);
        let (key, value) = (format!("/kv/a/b%20{n}"), [0, 255, b'\r', b'\n', n as u8]);
        assert_eq!(web.get(&key).status, 404);
        let put = web.ask("PUT", &key, &value);
        assert_eq!((put.status, put.field("content-length")), (204, None), "{}", cluster.logs());
        let got = web.get(&key);
        assert_eq!((got.status, &got.body[..]), (200, &value[..]));
        assert_eq!(got.field("content-type"), Some("application/octet-stream"));
        assert_eq!(got.field("cache-control"), Some("no-store"));
        web.send("HEAD", &key, "", b"");
        let (status, fields) = web.try_head().unwrap();
        assert!(status == 200 && fields.contains(&("content-length".into(), "5".into())), "{fields:?}");
        assert_eq!(cluster.run(&["get", &format!("a/b {n}")]).code, Some(0), "the key is the decoded one");
        assert_eq!(web.ask("PUT", &key, b"").status, 204, "a value may be empty");
        assert_eq!((web.get(&key).status, web.get(&key).body), (200, vec![]));
        assert_eq!(web.ask("DELETE", &key, b"").status, 204);
        let gone = web.ask("DELETE", &key, b"");
        assert_eq!((gone.status, gone.json()["applied"].as_bool()), (404, Some(false)));
    }
    cluster.agree();
}

#[test]
fn query_parameters_are_honored_or_rejected() {
    let (cluster, webs) = http_cluster(1, &[]);
    let mut web = Web::dial(&webs[0]);
    assert_eq!(web.ask("PUT", "/kv/k?ttl=1h", b"v").status, 204);
    let left = cluster.run(&["ttl", "k", "-o", "json"]).json()["ttl_ms"].as_u64().unwrap();
    assert!(left > 0 && left <= 3_600_000, "{left}");
    assert_eq!(web.ask("PUT", "/kv/short?ttl=20ms", b"v").status, 204);
    until("the key has expired", || (web.get("/kv/short").status == 404).then_some(()), || cluster.logs());
    assert_eq!(web.get("/kv/k?consistency=local").text(), "v");
    assert_eq!(web.get("/kv/k?consistency=perhaps").status, 400);
    web.send("PUT", "/kv/k?cas=1", "", b"w");
    assert!(web.is_closed_after(400..401, "the body of a rejected request is not read"));
    let mut web = Web::dial(&webs[0]);
    assert_eq!(web.get("/kv/k").text(), "v", "nothing was applied");
}

#[test]
fn put_can_require_key_presence_or_absence() {
    let (_cluster, webs) = http_cluster(1, &[]);
    let mut web = Web::dial(&webs[0]);
    for (fields, status) in [
        ("If-Match: *\r\n", 412),
        ("If-None-Match: *\r\n", 204),
        ("If-None-Match: *\r\n", 412),
        ("If-Match: *\r\n", 204),
    ] {
        web.send("PUT", "/kv/k", fields, b"v");
        assert_eq!(web.read().status, status, "{fields}");
    }
}

#[test]
fn oversized_or_chunked_body_receives_an_error_response() {
    let (_cluster, webs) = http_cluster(1, &["--max-entry", "64KiB"]);
    let mut web = Web::dial(&webs[0]);
    let refused = web.ask("PUT", "/kv/k", &vec![7; 65 << 10]);
    assert_eq!((refused.status, refused.json()["applied"].as_bool()), (413, Some(false)), "rejected by the node");
    assert_eq!(web.ask("PUT", "/kv/k", &vec![7; 63 << 10]).status, 204, "the connection stays open");
    // The gateway responds before it has the whole body. The client sends the rest and still receives the response.
    let mut web = Web::dial(&webs[0]);
    web.send("PUT", "/kv/k", "", &vec![7; 8 << 20]);
    assert!(web.is_closed_after(413..414, "8 MiB"));
    let mut web = Web::dial(&webs[0]);
    web.raw(b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18446744073709551615\r\n\r\n");
    assert!(web.is_closed_after(413..414, "a content length of u64::MAX"));
    let mut web = Web::dial(&webs[0]);
    web.raw(b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n");
    assert!(web.is_closed_after(411..412, "chunked"));
    let mut web = Web::dial(&webs[0]);
    web.raw(format!("GET /{} HTTP/1.1\r\n", "x".repeat(20 << 10)).as_bytes());
    assert!(web.is_closed_after(414..415, "a long target"));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (cluster, webs) = http_cluster(3, &[]);
    for web in &webs {
        let mut web = Web::dial(web);
        for n in 0..100 {
            web.send("PUT", "/kv/k", "", n.to_string().as_bytes());
            web.send("GET", "/kv/k", "", b"");
            web.send("GET", "/livez", "", b"");
            web.send("GET", "/nothing", "", b"");
        }
        // The last request has `Connection: close`; the gateway does not wait for the rest of the incomplete request
        // after it.
        web.send("DELETE", "/kv/k", "Connection: close\r\n", b"");
        web.raw(b"PUT /kv/k HTTP/1.1\r\nHo");
        for n in 0..100 {
            assert_eq!(web.read().status, 204, "{}", cluster.logs());
            assert_eq!(web.read().text(), n.to_string());
            assert_eq!(web.read().text(), "alive\n");
            assert_eq!(web.read().status, 404);
        }
        assert!(web.is_closed_after(204..205, "the last"));
    }
}

#[test]
fn keep_alive_follows_version_and_headers() {
    let (_cluster, webs) = http_cluster(1, &[]);
    let mut web = Web::dial(&webs[0]);
    web.raw(b"GET /livez HTTP/1.0\r\n\r\n");
    assert!(web.is_closed_after(200..201, "HTTP/1.0"));
    let mut web = Web::dial(&webs[0]);
    web.raw(b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(web.read().field("connection"), Some("keep-alive"));
    assert_eq!(web.get("/livez").status, 200);
    // Sends one byte at a time.
    for byte in b"PUT /kv/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nvw\r\n" {
        web.raw(&[*byte]);
    }
    assert_eq!((web.read().status, web.get("/kv/slow").text()), (204, "vw".into()));
    // A client that shuts down its sending side still receives its responses.
    web.send("PUT", "/kv/last", "", b"v");
    web.send("GET", "/kv/last", "", b"");
    web.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!((web.read().status, web.read().text(), web.is_closed()), (204, "v".into(), true));
}

#[test]
fn expect_continue_is_answered_unless_body_is_too_large() {
    let (_cluster, webs) = http_cluster(1, &[]);
    let mut web = Web::dial(&webs[0]);
    web.raw(b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(web.try_head().unwrap().0, 100);
    web.raw(b"v");
    assert_eq!(web.read().status, 204);
    web.raw(b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\nExpect: 100-continue\r\n\r\n");
    assert!(web.is_closed_after(413..414, "too large for 100 Continue"));
}

#[test]
fn ambiguous_request_framing_is_rejected() {
    let (_cluster, webs) = http_cluster(1, &[]);
    let smuggled = "GET /kv/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for fields in [
        "Content-Length: 0\r\nContent-Length: 48\r\n",
        "Content-Length: 48\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Content-Length: 0, 0\r\n",
        "Content-Length: +0\r\n",
        "Content-Length : 0\r\n",
        "X: y\nContent-Length: 48\r\n",
        "Host: other\r\n",
    ] {
        let mut web = Web::dial(&webs[0]);
        web.raw(format!("PUT /kv/k HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{smuggled}").as_bytes());
        assert!(web.is_closed_after(400..412, fields), "{fields:?}: the smuggled request was answered");
    }
}

#[test]
fn cross_site_writes_and_foreign_host_are_rejected() {
    let (_cluster, webs) = http_cluster(1, &[]);
    let ask = |method: &str, host: &str, fields: &str| {
        let mut web = Web::dial(&webs[0]);
        web.raw(format!("{method} /kv/k HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n").as_bytes());
        web.read().status
    };
    assert_eq!(ask("DELETE", &webs[0], "Origin: http://evil.example\r\n"), 403);
    assert_eq!(ask("DELETE", &webs[0], "Sec-Fetch-Site: same-site\r\n"), 403);
    let ours = format!("Origin: http://{}\r\nSec-Fetch-Site: same-origin\r\n", webs[0]);
    assert_eq!(ask("DELETE", &webs[0], &ours), 404);
    assert_eq!(ask("GET", "evil.example", ""), 421);
    assert_eq!(ask("POST", "localhost", ""), 405);
}

#[test]
fn only_health_is_served_without_the_password() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    let (_cluster, webs) = http_cluster(1, &["--password-file", file.to_str().unwrap()]);
    let mut web = Web::dial(&webs[0]);
    for path in ["/", "/livez", "/readyz", "/leader"] {
        assert_eq!(web.get(path).status, 200, "{path}");
    }
    for path in ["/kv/k", "/status.json", "/metrics", "/version"] {
        let told = web.get(path);
        assert_eq!((told.status, told.field("www-authenticate")), (401, Some("Bearer realm=\"drave\"")), "{path}");
    }
    web.send("GET", "/kv/k", "Authorization: Bearer secre\r\n", b"");
    assert_eq!(web.read().status, 401);
    web.send("PUT", "/kv/k", "Authorization: Bearer secret\r\n", b"v");
    assert_eq!(web.read().status, 204);
    // The gateway does not read the body of an unauthenticated request.
    web.send("PUT", "/kv/k", "", &[7; 100_000]);
    assert!(web.is_closed_after(401..402, "the body of an unauthenticated request"));
}

#[test]
fn every_node_names_the_leader() {
    let (mut cluster, webs) = http_cluster(3, &[]);
    let told = |n: usize| Web::dial(&webs[n]).get("/leader");
    let leader = cluster.leader();
    let agreed = || {
        let all: Vec<Answer> = (0..3).map(told).collect();
        let right = |(n, answer): (usize, &Answer)| answer.status == if n == leader { 200 } else { 503 };
        let known = all.iter().all(|answer| answer.field("x-drave-leader") == Some(&cluster.addresses[leader]));
        (all.iter().enumerate().all(right) && known).then_some(all)
    };
    let all = until("all nodes know the leader", agreed, || cluster.logs());
    assert_eq!(all[leader].json()["leads"], true);
    assert_eq!(all[0].json()["leader"], leader as u64 + 1);
    assert_eq!(Web::dial(&webs[leader]).get("/readyz").text(), "ready\n");
    // A node without its peers is alive and not ready.
    let last = (leader + 1) % 3;
    (0..3).filter(|n| *n != last).for_each(|n| cluster.kill(n));
    let unready = || Some(Web::dial(&webs[last]).get("/readyz?verbose")).filter(|answer| answer.status == 503);
    let unready = until("a node without its peers is not ready", unready, || cluster.logs()).text();
    assert!(unready.contains("[-] leader: it sees no leader\n") && unready.contains("[+] disk\n"), "{unready}");
    assert_eq!(Web::dial(&webs[last]).get("/livez").status, 200);
    assert_eq!(Web::dial(&webs[last]).get("/leader").status, 503);
}

#[test]
fn requests_without_leader_wait_then_fail_unapplied() {
    let (mut cluster, webs) = http_cluster(3, &[]);
    assert_eq!(Web::dial(&webs[0]).ask("PUT", "/kv/k", b"v").status, 204);
    cluster.agree();
    cluster.kill(1);
    cluster.kill(2);
    let mut web = Web::dial(&webs[0]);
    let alone = || (web.get("/readyz").status == 503).then_some(());
    until("the node has no leader", alone, || cluster.logs());
    let refused = web.ask("PUT", "/kv/k", b"w");
    assert_eq!((refused.status, refused.field("retry-after")), (503, Some("1")), "{refused:?}");
    assert_eq!(refused.json()["applied"], false);
    assert_eq!(web.get("/kv/k").status, 503, "a linearizable read fails without a leader");
    assert_eq!(web.get("/kv/k?consistency=local").text(), "v");
    // A request that waits for a leader succeeds once there is one.
    web.send("PUT", "/kv/k", "", b"x");
    cluster.spawn(1);
    assert_eq!(web.read().status, 204, "{}", cluster.logs());
    assert_eq!(web.get("/kv/k").text(), "x");
}

#[test]
fn write_at_isolated_leader_has_unknown_outcome() {
    let (mut cluster, webs) = http_cluster(3, &[]);
    let leader = cluster.leader();
    let mut web = Web::dial(&webs[leader]);
    assert_eq!(web.ask("PUT", "/kv/k", b"v").status, 204);
    // The outcome is unknown: the entry is in the leader's log alone, and may still be committed.
    (0..3).filter(|n| *n != leader).for_each(|n| cluster.signal(n, Signal::STOP));
    let told = web.ask("PUT", "/kv/k", b"w");
    assert_eq!((told.status, &told.json()["applied"]), (504, &Value::Null), "{told:?}");
    assert!(told.json()["error"].as_str().unwrap().starts_with("outcome unknown"), "{told:?}");
    (0..3).filter(|n| *n != leader).for_each(|n| cluster.signal(n, Signal::CONT));
    until("the leader serves again", || (web.get("/kv/k").status == 200).then_some(()), || cluster.logs());
    cluster.expect_no_deaths();
}

#[test]
fn conditional_put_applies_once_despite_leader_crash() {
    let (mut cluster, webs) = http_cluster(3, &[]);
    let leader = cluster.leader();
    const EACH: usize = 200;
    let survivors = (0..3).filter(|n| *n != leader);
    let writers: Vec<_> = survivors
        .map(|n| {
            let web = webs[n].clone();
            std::thread::spawn(move || {
                let mut web = Web::dial(&web);
                let mut unknown = 0;
                for at in 0..EACH {
                    // A retry that took effect a second time would find the key present.
                    web.send("PUT", &format!("/kv/{n}/{at}"), "If-None-Match: *\r\n", b"v");
                    match web.read().status {
                        204 => {}
                        504 => unknown += 1,
                        other => panic!("status {other} for {n}/{at}"),
                    }
                }
                unknown
            })
        })
        .collect();
    let some = || (cluster.status(leader)?.commit > EACH as u64 / 2).then_some(());
    until("some keys are written", some, || cluster.logs());
    cluster.kill(leader);
    let unknown: usize = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    let found = cluster.run(&["scan", "", "--limit", "1000", "-o", "json"]);
    assert!(unknown <= 2, "only requests in flight have an unknown outcome: {unknown}");
    assert_eq!(found.code, Some(0), "{found:?}");
    let there = found.out.matches("\"key\"").count();
    assert!(there >= 2 * EACH - unknown && there <= 2 * EACH, "{there} keys, with {unknown} outcomes unknown");
}

#[test]
fn put_is_one_entry_in_the_session_of_its_connection() {
    let (cluster, webs) = http_cluster(3, &[]);
    let mut web = Web::dial(&webs[0]);
    assert_eq!(web.ask("PUT", "/kv/k", b"0").status, 204);
    let before = cluster.status(cluster.leader()).unwrap();
    for n in 1..=10 {
        assert_eq!(web.ask("PUT", "/kv/k", n.to_string().as_bytes()).status, 204);
    }
    let after = cluster.status(cluster.leader()).unwrap();
    assert_eq!((after.last - before.last, before.sessions, after.sessions), (10, 1, 1));
    drop(web);
    until("the session is closed", || (cluster.status(0)?.sessions == 0).then_some(()), || cluster.logs());
}

#[test]
fn status_is_local_and_page_loads_no_resources() {
    let (cluster, webs) = http_cluster(3, &[]);
    let leader = cluster.leader();
    let mut web = Web::dial(&webs[leader]);
    web.ask("PUT", "/kv/k", b"v");
    let status: drave::api::Status = serde_json::from_slice(&web.get("/status.json").body).unwrap();
    assert_eq!((status.node, status.peers.len()), (leader as u64 + 1, 2));
    assert!(status.figures.commit_ns.count() > 0 && status.figures.connections["http"] == 1, "{status:?}");
    assert_eq!(web.get("/version").json()["version"], env!("CARGO_PKG_VERSION"));
    let page = web.get("/");
    let policy = page.field("content-security-policy").unwrap().to_owned();
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    let text = page.text();
    assert_eq!(nonce.len(), 32);
    assert!(text.contains(&format!("<script nonce=\"{nonce}\">")) && !text.contains("@NONCE@"));
    for loads in ["src=", "http://", "https://", "@import", "url(", " style=\"", " onclick", " onload"] {
        assert!(!text.contains(loads), "{loads}");
    }
    assert_ne!(web.get("/").field("content-security-policy").unwrap(), policy, "each response has its own nonce");
}

#[test]
fn slow_reader_is_throttled_and_loses_nothing() {
    let (_cluster, webs) = http_cluster(1, &[]);
    let mut web = Web::dial(&webs[0]);
    const SIZE: usize = 1_000_000;
    const REQUESTS: usize = 200;
    assert_eq!(web.ask("PUT", "/kv/k", &vec![7; SIZE]).status, 204);
    let mut writer = web.stream.get_ref().try_clone().unwrap();
    let all = "GET /kv/k HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(REQUESTS);
    let writes = std::thread::spawn(move || writer.write_all(all.as_bytes()));
    // Other connections are served meanwhile.
    assert_eq!(Web::dial(&webs[0]).ask("PUT", "/kv/other", b"v").status, 204);
    for _ in 0..REQUESTS {
        assert_eq!(web.read().body.len(), SIZE);
    }
    writes.join().unwrap().unwrap();
}

/// Runs curl, or returns `None` where it is not installed. Where curl is mandatory, its absence is a failure.
fn curl(words: &[&str]) -> Option<support::Said> {
    let found = Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        assert_ne!(
            std::env::var("DRAVE_MUST_HAVE_CLIENTS").as_deref(),
            Ok("1"),
            "curl is required (DRAVE_MUST_HAVE_CLIENTS=1) and not installed"
        );
        eprintln!("curl is not installed: its test is skipped");
        return None;
    }
    let common = ["--silent", "--show-error", "--max-time", "30", "--noproxy", "*", "--write-out", "%{http_code}"];
    Some(run(Command::new("curl").args(common).args(words)))
}

#[test]
fn curl_puts_gets_and_deletes() {
    let (cluster, webs) = http_cluster(3, &[]);
    let url = |n: usize, path: &str| format!("http://{}{path}", webs[n]);
    let file = cluster.directory.path().join("value");
    // Large enough for curl to send `Expect: 100-continue` first.
    std::fs::write(&file, vec![b'x'; 1_040_000]).unwrap();
    let file = file.to_str().unwrap();
    let Some(put) = curl(&["--upload-file", file, &url(0, "/kv/big")]) else { return };
    assert_eq!((put.code, &put.out[..]), (Some(0), "204"), "{put:?}");
    let got = curl(&[&url(1, "/kv/big")]).unwrap();
    assert!(got.out.len() == 1_040_003 && got.out.ends_with("x200"), "{}", got.err);
    for (words, out) in [
        (vec!["--request", "PUT", "--data-binary", "noodles"], "204"),
        (vec![], "noodles200"),
        (vec!["--head", "--output", "/dev/null"], "200"),
        (vec!["--request", "DELETE"], "204"),
        (vec!["--output", "/dev/null"], "404"),
        (vec!["--output", "/dev/null", "--header", "Transfer-Encoding: chunked", "--upload-file", file], "411"),
        (vec!["--output", "/dev/null", "--data", "x"], "405"),
    ] {
        let target = url(2, "/kv/lunch");
        let said = curl(&[&words[..], &[&target]].concat()).unwrap();
        assert_eq!(said.out, out, "{words:?} {said:?}");
    }
}
