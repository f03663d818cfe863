//! The HTTP gateway over real sockets and with curl: the response of each path, the rejection of unauthenticated
//! requests, and the outcome of requests when nodes die.

mod support;

use rustix::process::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use support::{Cluster, WAIT_TIMEOUT, reserve_ports, run, wait_until};

/// An HTTP response as received, with field names in lower case.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Response {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Response {
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
struct HttpClient {
    stream: BufReader<TcpStream>,
}

impl HttpClient {
    fn dial(address: &str) -> HttpClient {
        HttpClient::try_dial(address).unwrap()
    }

    fn try_dial(address: &str) -> std::io::Result<HttpClient> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WAIT_TIMEOUT))?;
        Ok(HttpClient { stream: BufReader::new(stream) })
    }

    fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    fn read_response(&mut self) -> Response {
        self.try_read_response().unwrap()
    }

    fn try_read_response(&mut self) -> std::io::Result<Response> {
        let (status, fields) = self.try_read_head()?;
        let length = fields.iter().find(|(name, _)| name == "content-length");
        let length = length.map_or(0, |(_, value)| value.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Response { status, fields, body })
    }

    fn try_read_head(&mut self) -> std::io::Result<(u16, Vec<(String, String)>)> {
        let status_line = self.read_line()?;
        let status = status_line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut fields = Vec::new();
        loop {
            let line = self.read_line()?;
            let Some((name, value)) = line.split_once(':') else { return Ok((status, fields)) };
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn read_line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.strip_suffix("\r\n").expect("each line ends in CRLF").to_owned())
    }

    fn send(&mut self, method: &str, target: &str, fields: &str, body: &[u8]) {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        self.send_raw(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{fields}{length}\r\n").as_bytes());
        self.send_raw(body);
    }

    fn request(&mut self, method: &str, target: &str, body: &[u8]) -> Response {
        self.send(method, target, "", body);
        self.read_response()
    }

    fn get(&mut self, target: &str) -> Response {
        self.request("GET", target, b"")
    }

    /// Reads a response, asserts a status in `expected_statuses`, and returns whether the connection closes after it.
    fn closes_after_response(&mut self, expected_statuses: std::ops::Range<u16>, description: &str) -> bool {
        let response = self.read_response();
        assert!(expected_statuses.contains(&response.status), "{description}: {response:?}");
        response.field("connection") == Some("close") && self.is_closed()
    }

    /// Whether the gateway has closed the connection, with nothing left to read.
    fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }
}

/// Starts a cluster with HTTP gateways. Returns their addresses as well.
fn start_http_cluster(nodes: u16, args: &[&str]) -> (Cluster, Vec<String>) {
    let mut cluster = Cluster::prepare(nodes);
    let base_port = reserve_ports(nodes);
    cluster.http_addresses = (base_port..base_port + nodes).map(|port| format!("127.0.0.1:{port}")).collect();
    cluster.extra_args.extend(args.iter().map(|word| (*word).to_owned()));
    (0..nodes.into()).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    let addresses = cluster.http_addresses.clone();
    (cluster, addresses)
}

#[test]
fn keys_are_put_read_and_deleted_through_any_node() {
    let (cluster, addresses) = start_http_cluster(3, &[]);
    for (n, address) in addresses.iter().enumerate() {
        let mut client = HttpClient::dial(address);
        let (key, value) = (format!("/kv/a/b%20{n}"), [0, 255, b'\r', b'\n', n as u8]);
        assert_eq!(client.get(&key).status, 404);
        let put_response = client.request("PUT", &key, &value);
        assert_eq!((put_response.status, put_response.field("content-length")), (204, None), "{}", cluster.logs());
        let get_response = client.get(&key);
        assert_eq!((get_response.status, &get_response.body[..]), (200, &value[..]));
        assert_eq!(get_response.field("content-type"), Some("application/octet-stream"));
        assert_eq!(get_response.field("cache-control"), Some("no-store"));
        client.send("HEAD", &key, "", b"");
        let (status, fields) = client.try_read_head().unwrap();
        assert!(status == 200 && fields.contains(&("content-length".into(), "5".into())), "{fields:?}");
        assert_eq!(cluster.run(&["get", &format!("a/b {n}")]).code, Some(0), "the key is the decoded one");
        assert_eq!(client.request("PUT", &key, b"").status, 204, "a value may be empty");
        assert_eq!((client.get(&key).status, client.get(&key).body), (200, vec![]));
        assert_eq!(client.request("DELETE", &key, b"").status, 204);
        let second_delete_response = client.request("DELETE", &key, b"");
        assert_eq!(
            (second_delete_response.status, second_delete_response.json()["applied"].as_bool()),
            (404, Some(false))
        );
    }
    cluster.wait_for_convergence();
}

#[test]
fn query_parameters_are_honored_or_rejected() {
    let (cluster, addresses) = start_http_cluster(1, &[]);
    let mut client = HttpClient::dial(&addresses[0]);
    assert_eq!(client.request("PUT", "/kv/k?ttl=1h", b"v").status, 204);
    let ttl_ms = cluster.run(&["ttl", "k", "-o", "json"]).json()["ttl_ms"].as_u64().unwrap();
    assert!(ttl_ms > 0 && ttl_ms <= 3_600_000, "{ttl_ms}");
    assert_eq!(client.request("PUT", "/kv/short?ttl=20ms", b"v").status, 204);
    wait_until("the key has expired", || (client.get("/kv/short").status == 404).then_some(()), || cluster.logs());
    assert_eq!(client.get("/kv/k?consistency=local").text(), "v");
    assert_eq!(client.get("/kv/k?consistency=perhaps").status, 400);
    client.send("PUT", "/kv/k?cas=1", "", b"w");
    assert!(client.closes_after_response(400..401, "the body of a rejected request is not read"));
    let mut client = HttpClient::dial(&addresses[0]);
    assert_eq!(client.get("/kv/k").text(), "v", "nothing was applied");
}

#[test]
fn put_can_require_key_presence_or_absence() {
    let (_cluster, addresses) = start_http_cluster(1, &[]);
    let mut client = HttpClient::dial(&addresses[0]);
    for (fields, status) in [
        ("If-Match: *\r\n", 412),
        ("If-None-Match: *\r\n", 204),
        ("If-None-Match: *\r\n", 412),
        ("If-Match: *\r\n", 204),
    ] {
        client.send("PUT", "/kv/k", fields, b"v");
        assert_eq!(client.read_response().status, status, "{fields}");
    }
}

#[test]
fn oversized_or_chunked_body_receives_an_error_response() {
    let (_cluster, addresses) = start_http_cluster(1, &["--max-entry", "64KiB"]);
    let mut client = HttpClient::dial(&addresses[0]);
    let rejection_response = client.request("PUT", "/kv/k", &vec![7; 65 << 10]);
    assert_eq!(
        (rejection_response.status, rejection_response.json()["applied"].as_bool()),
        (413, Some(false)),
        "rejected by the node"
    );
    assert_eq!(client.request("PUT", "/kv/k", &vec![7; 63 << 10]).status, 204, "the connection stays open");
    // The gateway responds before it has received the whole body. The client sends the rest of the body and still
    // receives the response.
    let mut client = HttpClient::dial(&addresses[0]);
    client.send("PUT", "/kv/k", "", &vec![7; 8 << 20]);
    assert!(client.closes_after_response(413..414, "a body of 8 MiB"));
    let mut client = HttpClient::dial(&addresses[0]);
    client.send_raw(b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18446744073709551615\r\n\r\n");
    assert!(client.closes_after_response(413..414, "a content length of u64::MAX"));
    let mut client = HttpClient::dial(&addresses[0]);
    client.send_raw(b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n");
    assert!(client.closes_after_response(411..412, "a chunked body"));
    let mut client = HttpClient::dial(&addresses[0]);
    client.send_raw(format!("GET /{} HTTP/1.1\r\n", "x".repeat(20 << 10)).as_bytes());
    assert!(client.closes_after_response(414..415, "a long target"));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (cluster, addresses) = start_http_cluster(3, &[]);
    for address in &addresses {
        let mut client = HttpClient::dial(address);
        for n in 0..100 {
            client.send("PUT", "/kv/k", "", n.to_string().as_bytes());
            client.send("GET", "/kv/k", "", b"");
            client.send("GET", "/livez", "", b"");
            client.send("GET", "/nothing", "", b"");
        }
        // The last request has `Connection: close`; the gateway does not wait for the rest of the incomplete request
        // after it.
        client.send("DELETE", "/kv/k", "Connection: close\r\n", b"");
        client.send_raw(b"PUT /kv/k HTTP/1.1\r\nHo");
        for n in 0..100 {
            assert_eq!(client.read_response().status, 204, "{}", cluster.logs());
            assert_eq!(client.read_response().text(), n.to_string());
            assert_eq!(client.read_response().text(), "alive\n");
            assert_eq!(client.read_response().status, 404);
        }
        assert!(client.closes_after_response(204..205, "the last pipelined request"));
    }
}

#[test]
fn keep_alive_follows_version_and_headers() {
    let (_cluster, addresses) = start_http_cluster(1, &[]);
    let mut client = HttpClient::dial(&addresses[0]);
    client.send_raw(b"GET /livez HTTP/1.0\r\n\r\n");
    assert!(client.closes_after_response(200..201, "a request of HTTP/1.0"));
    let mut client = HttpClient::dial(&addresses[0]);
    client.send_raw(b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.read_response().field("connection"), Some("keep-alive"));
    assert_eq!(client.get("/livez").status, 200);
    // The gateway waits for the rest of a request that arrives one byte at a time.
    for byte in b"PUT /kv/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nvw\r\n" {
        client.send_raw(&[*byte]);
    }
    assert_eq!((client.read_response().status, client.get("/kv/slow").text()), (204, "vw".into()));
    // A client that shuts down its sending side still receives its responses.
    client.send("PUT", "/kv/last", "", b"v");
    client.send("GET", "/kv/last", "", b"");
    client.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(
        (client.read_response().status, client.read_response().text(), client.is_closed()),
        (204, "v".into(), true)
    );
}

#[test]
fn expect_continue_is_answered_unless_body_is_too_large() {
    let (_cluster, addresses) = start_http_cluster(1, &[]);
    let mut client = HttpClient::dial(&addresses[0]);
    client.send_raw(b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.try_read_head().unwrap().0, 100);
    client.send_raw(b"v");
    assert_eq!(client.read_response().status, 204);
    client
        .send_raw(b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\nExpect: 100-continue\r\n\r\n");
    assert!(client.closes_after_response(413..414, "too large for 100 Continue"));
}

#[test]
fn ambiguous_request_framing_is_rejected() {
    let (_cluster, addresses) = start_http_cluster(1, &[]);
    let smuggled_request = "GET /kv/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
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
        let mut client = HttpClient::dial(&addresses[0]);
        client.send_raw(format!("PUT /kv/k HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{smuggled_request}").as_bytes());
        assert!(client.closes_after_response(400..412, fields), "{fields:?}: the smuggled request was answered");
    }
}

#[test]
fn cross_site_writes_and_foreign_host_are_rejected() {
    let (_cluster, addresses) = start_http_cluster(1, &[]);
    let request = |method: &str, host: &str, fields: &str| {
        let mut client = HttpClient::dial(&addresses[0]);
        client.send_raw(format!("{method} /kv/k HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n").as_bytes());
        client.read_response().status
    };
    assert_eq!(request("DELETE", &addresses[0], "Origin: http://evil.example\r\n"), 403);
    assert_eq!(request("DELETE", &addresses[0], "Sec-Fetch-Site: same-site\r\n"), 403);
    let own_origin = format!("Origin: http://{}\r\nSec-Fetch-Site: same-origin\r\n", addresses[0]);
    assert_eq!(request("DELETE", &addresses[0], &own_origin), 404);
    assert_eq!(request("GET", "evil.example", ""), 421);
    assert_eq!(request("POST", "localhost", ""), 405);
}

#[test]
fn only_health_is_served_without_the_password() {
    let directory = tempfile::tempdir().unwrap();
    let password_path = directory.path().join("password");
    std::fs::write(&password_path, "secret\n").unwrap();
    let (_cluster, addresses) = start_http_cluster(1, &["--password-file", password_path.to_str().unwrap()]);
    let mut client = HttpClient::dial(&addresses[0]);
    for path in ["/", "/livez", "/readyz", "/leader"] {
        assert_eq!(client.get(path).status, 200, "{path}");
    }
    for path in ["/kv/k", "/status.json", "/metrics", "/version"] {
        let response = client.get(path);
        assert_eq!(
            (response.status, response.field("www-authenticate")),
            (401, Some("Bearer realm=\"drave\"")),
            "{path}"
        );
    }
    client.send("GET", "/kv/k", "Authorization: Bearer secre\r\n", b"");
    assert_eq!(client.read_response().status, 401);
    client.send("PUT", "/kv/k", "Authorization: Bearer secret\r\n", b"v");
    assert_eq!(client.read_response().status, 204);
    // The gateway does not read the body of an unauthenticated request.
    client.send("PUT", "/kv/k", "", &[7; 100_000]);
    assert!(client.closes_after_response(401..402, "the body of an unauthenticated request"));
}

#[test]
fn every_node_names_the_leader() {
    let (mut cluster, addresses) = start_http_cluster(3, &[]);
    let leader_response = |n: usize| HttpClient::dial(&addresses[n]).get("/leader");
    let leader = cluster.wait_for_leader();
    let all_know_leader = || {
        let responses: Vec<Response> = (0..3).map(leader_response).collect();
        let has_expected_status =
            |(n, response): (usize, &Response)| response.status == if n == leader { 200 } else { 503 };
        let names_leader =
            responses.iter().all(|response| response.field("x-drave-leader") == Some(&cluster.addresses[leader]));
        (responses.iter().enumerate().all(has_expected_status) && names_leader).then_some(responses)
    };
    let responses = wait_until("all nodes know the leader", all_know_leader, || cluster.logs());
    assert_eq!(responses[leader].json()["leads"], true);
    assert_eq!(responses[0].json()["leader"], leader as u64 + 1);
    assert_eq!(HttpClient::dial(&addresses[leader]).get("/readyz").text(), "ready\n");
    // A node without its peers is alive and not ready.
    let survivor = (leader + 1) % 3;
    (0..3).filter(|n| *n != survivor).for_each(|n| cluster.kill(n));
    let is_not_ready = || {
        Some(HttpClient::dial(&addresses[survivor]).get("/readyz?verbose")).filter(|response| response.status == 503)
    };
    let unready_text = wait_until("a node without its peers is not ready", is_not_ready, || cluster.logs()).text();
    assert!(unready_text.contains("[-] leader: it sees no leader\n"), "{unready_text}");
    assert!(unready_text.contains("[+] disk\n"), "{unready_text}");
    assert_eq!(HttpClient::dial(&addresses[survivor]).get("/livez").status, 200);
    assert_eq!(HttpClient::dial(&addresses[survivor]).get("/leader").status, 503);
}

#[test]
fn requests_without_leader_wait_then_fail_unapplied() {
    let (mut cluster, addresses) = start_http_cluster(3, &[]);
    assert_eq!(HttpClient::dial(&addresses[0]).request("PUT", "/kv/k", b"v").status, 204);
    cluster.wait_for_convergence();
    cluster.kill(1);
    cluster.kill(2);
    let mut client = HttpClient::dial(&addresses[0]);
    let is_not_ready = || (client.get("/readyz").status == 503).then_some(());
    wait_until("the node has no leader", is_not_ready, || cluster.logs());
    let rejection = client.request("PUT", "/kv/k", b"w");
    assert_eq!((rejection.status, rejection.field("retry-after")), (503, Some("1")), "{rejection:?}");
    assert_eq!(rejection.json()["applied"], false);
    assert_eq!(client.get("/kv/k").status, 503, "a linearizable read fails without a leader");
    assert_eq!(client.get("/kv/k?consistency=local").text(), "v");
    // A request that waits for a leader succeeds once there is one.
    client.send("PUT", "/kv/k", "", b"x");
    cluster.spawn(1);
    assert_eq!(client.read_response().status, 204, "{}", cluster.logs());
    assert_eq!(client.get("/kv/k").text(), "x");
}

#[test]
fn write_at_isolated_leader_has_unknown_outcome() {
    let (mut cluster, addresses) = start_http_cluster(3, &[]);
    let leader = cluster.wait_for_leader();
    let mut client = HttpClient::dial(&addresses[leader]);
    assert_eq!(client.request("PUT", "/kv/k", b"v").status, 204);
    // The outcome is unknown: the entry is in the leader's log alone, and may still be committed.
    (0..3).filter(|n| *n != leader).for_each(|n| cluster.signal(n, Signal::STOP));
    let response = client.request("PUT", "/kv/k", b"w");
    assert_eq!((response.status, &response.json()["applied"]), (504, &Value::Null), "{response:?}");
    assert!(response.json()["error"].as_str().unwrap().starts_with("outcome unknown"), "{response:?}");
    (0..3).filter(|n| *n != leader).for_each(|n| cluster.signal(n, Signal::CONT));
    wait_until("the leader serves again", || (client.get("/kv/k").status == 200).then_some(()), || cluster.logs());
    cluster.expect_no_deaths();
}

#[test]
fn conditional_put_applies_once_despite_leader_crash() {
    let (mut cluster, addresses) = start_http_cluster(3, &[]);
    let leader = cluster.wait_for_leader();
    const KEYS_PER_WRITER: usize = 200;
    let survivors = (0..3).filter(|n| *n != leader);
    let writers: Vec<_> = survivors
        .map(|n| {
            let address = addresses[n].clone();
            std::thread::spawn(move || {
                let mut client = HttpClient::dial(&address);
                let mut unknown_outcomes = 0;
                for key_index in 0..KEYS_PER_WRITER {
                    // A retry that took effect a second time would find the key present.
                    client.send("PUT", &format!("/kv/{n}/{key_index}"), "If-None-Match: *\r\n", b"v");
                    match client.read_response().status {
                        204 => {}
                        504 => unknown_outcomes += 1,
                        status => panic!("status {status} for {n}/{key_index}"),
                    }
                }
                unknown_outcomes
            })
        })
        .collect();
    let half_are_written = || (cluster.status(leader)?.commit > KEYS_PER_WRITER as u64 / 2).then_some(());
    wait_until("some keys are written", half_are_written, || cluster.logs());
    cluster.kill(leader);
    let unknown_outcomes: usize = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    let scan_output = cluster.run(&["scan", "", "--limit", "1000", "-o", "json"]);
    assert!(unknown_outcomes <= 2, "only requests in flight have an unknown outcome: {unknown_outcomes}");
    assert_eq!(scan_output.code, Some(0), "{scan_output:?}");
    let key_count = scan_output.out.matches("\"key\"").count();
    assert!(
        key_count >= 2 * KEYS_PER_WRITER - unknown_outcomes && key_count <= 2 * KEYS_PER_WRITER,
        "{key_count} keys, with {unknown_outcomes} outcomes unknown"
    );
}

#[test]
fn put_is_one_entry_in_the_session_of_its_connection() {
    let (cluster, addresses) = start_http_cluster(3, &[]);
    let mut client = HttpClient::dial(&addresses[0]);
    assert_eq!(client.request("PUT", "/kv/k", b"0").status, 204);
    let status_before = cluster.status(cluster.wait_for_leader()).unwrap();
    for n in 1..=10 {
        assert_eq!(client.request("PUT", "/kv/k", n.to_string().as_bytes()).status, 204);
    }
    let status_after = cluster.status(cluster.wait_for_leader()).unwrap();
    assert_eq!((status_after.last - status_before.last, status_before.sessions, status_after.sessions), (10, 1, 1));
    drop(client);
    wait_until("the session is closed", || (cluster.status(0)?.sessions == 0).then_some(()), || cluster.logs());
}

#[test]
fn status_is_of_the_asked_node_and_page_loads_no_resources() {
    let (cluster, addresses) = start_http_cluster(3, &[]);
    let leader = cluster.wait_for_leader();
    let mut client = HttpClient::dial(&addresses[leader]);
    client.request("PUT", "/kv/k", b"v");
    let status: drave::api::Status = serde_json::from_slice(&client.get("/status.json").body).unwrap();
    assert_eq!((status.node, status.peers.len()), (leader as u64 + 1, 2));
    assert!(status.figures.commit_ns.count() > 0 && status.figures.connections["http"] == 1, "{status:?}");
    assert_eq!(client.get("/version").json()["version"], env!("CARGO_PKG_VERSION"));
    let page = client.get("/");
    let policy = page.field("content-security-policy").unwrap().to_owned();
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    let page_text = page.text();
    assert_eq!(nonce.len(), 32);
    assert!(page_text.contains(&format!("<script nonce=\"{nonce}\">")) && !page_text.contains("@NONCE@"));
    for marker in ["src=", "http://", "https://", "@import", "url(", " style=\"", " onclick", " onload"] {
        assert!(!page_text.contains(marker), "{marker}");
    }
    assert_ne!(client.get("/").field("content-security-policy").unwrap(), policy, "each response has its own nonce");
}

#[test]
fn slow_reader_is_throttled_and_loses_nothing() {
    let (_cluster, addresses) = start_http_cluster(1, &[]);
    let mut client = HttpClient::dial(&addresses[0]);
    const VALUE_BYTES: usize = 1_000_000;
    const REQUESTS: usize = 200;
    assert_eq!(client.request("PUT", "/kv/k", &vec![7; VALUE_BYTES]).status, 204);
    let mut writer = client.stream.get_ref().try_clone().unwrap();
    let all_requests = "GET /kv/k HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(REQUESTS);
    let writer_thread = std::thread::spawn(move || writer.write_all(all_requests.as_bytes()));
    // Other connections are served while this client does not read.
    assert_eq!(HttpClient::dial(&addresses[0]).request("PUT", "/kv/other", b"v").status, 204);
    for _ in 0..REQUESTS {
        assert_eq!(client.read_response().body.len(), VALUE_BYTES);
    }
    writer_thread.join().unwrap().unwrap();
}

/// Runs curl, or returns `None` if curl is not installed. With `DRAVE_MUST_HAVE_CLIENTS=1` a missing curl is a failure.
fn curl(args: &[&str]) -> Option<support::ProgramOutput> {
    let is_installed = Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_installed {
        assert_ne!(
            std::env::var("DRAVE_MUST_HAVE_CLIENTS").as_deref(),
            Ok("1"),
            "curl is required (DRAVE_MUST_HAVE_CLIENTS=1) and not installed"
        );
        eprintln!("curl is not installed: its test is skipped");
        return None;
    }
    let common_args = ["--silent", "--show-error", "--max-time", "30", "--noproxy", "*", "--write-out", "%{http_code}"];
    Some(run(Command::new("curl").args(common_args).args(args)))
}

#[test]
fn curl_puts_gets_and_deletes() {
    let (cluster, addresses) = start_http_cluster(3, &[]);
    let url = |n: usize, path: &str| format!("http://{}{path}", addresses[n]);
    let file = cluster.directory.path().join("value");
    // The file is large enough for curl to send `Expect: 100-continue` first.
    std::fs::write(&file, vec![b'x'; 1_040_000]).unwrap();
    let file = file.to_str().unwrap();
    let Some(put) = curl(&["--upload-file", file, &url(0, "/kv/big")]) else { return };
    assert_eq!((put.code, &put.out[..]), (Some(0), "204"), "{put:?}");
    let get_response = curl(&[&url(1, "/kv/big")]).unwrap();
    assert!(get_response.out.len() == 1_040_003 && get_response.out.ends_with("x200"), "{}", get_response.err);
    for (args, out) in [
        (vec!["--request", "PUT", "--data-binary", "noodles"], "204"),
        (vec![], "noodles200"),
        (vec!["--head", "--output", "/dev/null"], "200"),
        (vec!["--request", "DELETE"], "204"),
        (vec!["--output", "/dev/null"], "404"),
        (vec!["--output", "/dev/null", "--header", "Transfer-Encoding: chunked", "--upload-file", file], "411"),
        (vec!["--output", "/dev/null", "--data", "x"], "405"),
    ] {
        let target = url(2, "/kv/lunch");
        let output = curl(&[&args[..], &[&target]].concat()).unwrap();
        assert_eq!(output.out, out, "{args:?} {output:?}");
    }
}
