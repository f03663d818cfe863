//! Malformed input at every gateway of a real cluster: random bytes, lengths over the limit, and real requests with
//! errors in them. The nodes survive, honest clients are served meanwhile, and no memory, socket or session leaks.
//!
//! `DRAVE_MALFORMED` is the number of requests to each gateway, `DRAVE_MALFORMED_RATE` the maximum per second;
//! `--nocapture` shows the latency of honest writes during the attack and before it. `scripts/malformed.sh` runs enough
//! of them to prove something.

mod support;

use bytes::{BufMut, BytesMut};
use drave::api::{Consistency, Op, Request};
use drave::client::{Client, Options};
use drave::machine::{Command as Do, Query};
use drave::types::SessionId;
use drave::wire::client::put_request_frame;
use drave::wire::frame::{FrameKind, put_frame};
use drave::wire::hello::Hello;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{Cluster, PATIENCE, ports, until};

/// Allowed growth of a node's memory after the test, in KiB: freed memory that the allocator keeps, the log in memory,
/// and the keys that some of the requests have set.
const MARGIN: u64 = 96 << 10;
/// Interval between the writes of the honest client.
const WRITE_INTERVAL: Duration = Duration::from_millis(5);
/// Maximum number of requests per connection: most connections end with their first invalid request.
const CONNECTION_REQUESTS_MAX: usize = 4;

/// A generator of malformed input.
type Generator = fn(&mut SmallRng) -> Vec<u8>;

fn env_number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

fn noise(chance: &mut SmallRng, most: usize) -> Vec<u8> {
    (0..chance.random_range(1..most)).map(|_| chance.random()).collect()
}

/// Changes a few bytes: replaces, removes, inserts or repeats some, or truncates.
fn mutate(bytes: &mut Vec<u8>, chance: &mut SmallRng) {
    for _ in 0..chance.random_range(1..4) {
        let at = chance.random_range(0..=bytes.len());
        match chance.random_range(0..5) {
            0 if at < bytes.len() => bytes[at] = chance.random(),
            1 => bytes.truncate(at),
            2 => bytes.insert(at, *b"\r\n\0 :%0*$-9\xff".choose(chance).unwrap()),
            3 => bytes.extend_from_within(at..),
            _ if at < bytes.len() => drop(bytes.remove(at)),
            _ => {}
        }
    }
}

/// Malformed input in the native protocol, derived from requests that a real client might send, and from ones over the
/// limits.
fn native(chance: &mut SmallRng) -> Vec<u8> {
    // An unused session id: session ids are no secret, and the honest client's session must not be closed.
    let session = SessionId(chance.random_range(1 << 40..1 << 41));
    let command = Do::Put { key: b"malformed", value: b"value" }.encode();
    let requests = [
        Request::Status,
        Request::Query { query: Query::Get { key: b"malformed" }.encode(), consistency: Consistency::Linearizable },
        Request::Query {
            query: Query::Scan { prefix: b"", after: None, limit: u32::MAX }.encode(),
            consistency: Consistency::Local,
        },
        Request::Propose { op: Op::Open { window: 7, ordered: false }.encode() },
        Request::Propose { op: Op::Execute { session, seq: 1, first_outstanding: 1, command }.encode() },
        Request::Propose { op: Op::Close { session }.encode() },
    ];
    let mut out = BytesMut::new();
    match chance.random_range(0..4) {
        0 => out.put_slice(&noise(chance, 400)),
        1 => {
            let length = [u32::MAX, u32::MAX - 12, 1 << 31, (64 << 10) + 1, 64 << 10].choose(chance).unwrap();
            out.put_u32_le(*length);
            out.put_slice(&[chance.random(), chance.random_range(0..4), 0, 0]);
            out.put_u32_le(chance.random());
        }
        sealed => {
            let mut frame = BytesMut::new();
            put_request_frame(&mut frame, chance.random(), chance.random(), requests.choose(chance).unwrap());
            let mut bytes = frame[if sealed == 2 { 12 } else { 0 }..].to_vec();
            mutate(&mut bytes, chance);
            // With the checksum corrected, the frame passes further checks.
            if sealed == 2 {
                put_frame(&mut out, FrameKind::Request, |out| out.put_slice(&bytes))
            } else {
                out.put_slice(&bytes)
            }
        }
    }
    out.to_vec()
}

fn redis(chance: &mut SmallRng) -> Vec<u8> {
    let real: [&[u8]; 9] = [
        b"*3\r\n$3\r\nSET\r\n$9\r\nmalformed\r\n$5\r\nvalue\r\n",
        b"*2\r\n$3\r\nGET\r\n$9\r\nmalformed\r\n",
        b"*5\r\n$3\r\nSET\r\n$1\r\nt\r\n$1\r\nv\r\n$2\r\nPX\r\n$4\r\n1000\r\n",
        b"*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n*1\r\n$4\r\nEXEC\r\n",
        b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n",
        b"SET inline \"a \\x41 b\"\r\n",
        b"*4\r\n$4\r\nSCAN\r\n$1\r\n0\r\n$5\r\nCOUNT\r\n$2\r\n10\r\n",
        b"*1\r\n$4\r\nINFO\r\n",
        b"*5\r\n$4\r\nMSET\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n",
    ];
    let bombs: [&[u8]; 7] = [
        b"*2147483647\r\n",
        b"*1048576\r\n$1\r\na\r\n",
        b"$2147483647\r\n",
        b"*2\r\n$3\r\nGET\r\n$1073741824\r\nabc\r\n",
        b"*-9223372036854775808\r\n",
        b"*99999999999999999999\r\n",
        b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
    ];
    pick_input(chance, &real, &bombs)
}

fn http(chance: &mut SmallRng) -> Vec<u8> {
    let real: [&[u8]; 7] = [
        b"GET /kv/k HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PUT /kv/k?ttl=1h HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nvalue",
        b"PUT /kv/a%20b HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        b"DELETE /kv/k HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: [::1]:80\r\nAuthorization: Bearer x\r\n\r\n",
        b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"GET http://localhost/readyz?verbose HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ];
    let bombs: [&[u8]; 5] = [
        b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18446744073709551615\r\n\r\nx",
        b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\nx",
        b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048576\r\n\r\nx",
        b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nvalue",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-18446744073709551615\r\n\r\n",
    ];
    pick_input(chance, &real, &bombs)
}

fn pick_input(chance: &mut SmallRng, real: &[&[u8]], bombs: &[&[u8]]) -> Vec<u8> {
    match chance.random_range(0..8) {
        0 => noise(chance, 400),
        1 => bombs.choose(chance).unwrap().to_vec(),
        _ => {
            let mut bytes = real.choose(chance).unwrap().to_vec();
            mutate(&mut bytes, chance);
            bytes
        }
    }
}

/// Sends `count` malformed requests to these addresses in turn, at most `rate` a second.
fn attack(name: &str, says: Generator, whom: (&[String], &[u8]), (count, rate): (u64, u64), cluster: &Cluster) {
    let ((addresses, hello), seed) = (whom, rand::random());
    let mut chance = SmallRng::seed_from_u64(seed);
    let (begun, mut said, mut calls) = (Instant::now(), 0, 0);
    while said < count {
        calls += 1;
        let address = &addresses[calls % addresses.len()];
        let Ok(mut stream) = TcpStream::connect(address) else { panic!("seed {seed}: {address}\n{}", cluster.logs()) };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = hello.to_vec();
        for _ in 0..chance.random_range(1..=CONNECTION_REQUESTS_MAX) {
            bytes.extend(says(&mut chance));
            said += 1;
        }
        // The node may close the connection midway; requests it has not read have no effect.
        if stream.write_all(&bytes).is_ok() && chance.random_bool(0.5) && stream.shutdown(Shutdown::Write).is_ok() {
            let _whatever_it_says = stream.read_to_end(&mut Vec::new());
        }
        let due = Duration::from_secs_f64(said as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    let took = begun.elapsed();
    eprintln!(
        "{name}, seed {seed}: {said} requests on {calls} connections, {:.0} a second",
        said as f64 / took.as_secs_f64()
    );
}

/// Writes at its interval until `stop` is set, and records the latency of each write in microseconds.
fn run_honest_client(addresses: &[String], stop: &AtomicBool, took: &Mutex<Vec<u64>>) {
    let mut client = Client::with(addresses.to_vec(), Options { timeout: PATIENCE + PATIENCE, ..Options::default() });
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        client.execute(&Do::Incr { key: b"honest", by: 1 }.encode()).unwrap();
        took.lock().unwrap().push(begun.elapsed().as_micros() as u64);
        std::thread::sleep(WRITE_INTERVAL.saturating_sub(begun.elapsed()));
    }
}

/// Sets the stop flag of the honest client when dropped, on every path.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Takes the latencies recorded since the last call.
fn take_latencies(took: &Mutex<Vec<u64>>) -> Vec<u64> {
    std::mem::take(&mut *took.lock().unwrap())
}

fn percentiles(mut taken: Vec<u64>) -> String {
    assert!(!taken.is_empty(), "honest clients are served");
    taken.sort_unstable();
    let at = |share: f64| taken[(taken.len() as f64 * share) as usize];
    format!("{} honest writes: p50 {} us, p99 {} us", taken.len(), at(0.5), at(0.99))
}

/// Resident memory in KiB and the number of open sockets of a node's process.
fn memory_and_sockets(cluster: &Cluster, n: usize) -> (u64, usize) {
    let of = format!("/proc/{}", cluster.pid(n).as_raw_nonzero());
    let text = std::fs::read_to_string(format!("{of}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let resident = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    let files = std::fs::read_dir(format!("{of}/fd")).unwrap().filter_map(|file| file.ok()?.path().read_link().ok());
    (resident, files.filter(|file| file.to_string_lossy().starts_with("socket:")).count())
}

/// Three nodes with all gateways.
fn cluster() -> Cluster {
    let mut cluster = Cluster::prepare(3);
    let at = |base: u16| (base..base + 3).map(|port| format!("127.0.0.1:{port}")).collect();
    (cluster.doors, cluster.webs) = (at(ports(3)), at(ports(3)));
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.leader();
    cluster
}

#[test]
fn cluster_survives_malformed_input_without_leaks() {
    let mut cluster = cluster();
    let (count, rate) = (env_number("DRAVE_MALFORMED", 20_000), env_number("DRAVE_MALFORMED_RATE", u64::MAX));
    let mut hello = BytesMut::new();
    Hello::client().put(&mut hello);
    let doors: [(&str, &[String], &[u8], Generator); 3] = [
        ("native", &cluster.addresses, &hello, native),
        ("Redis", &cluster.doors, b"", redis),
        ("HTTP", &cluster.webs, b"", http),
    ];
    let (stop, took) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    // Alternates quiet and attacked intervals, since the speed of a disk varies from minute to minute.
    let turns = (count / 50_000).max(1);
    let quiet = || until("honest writes", || (took.lock().unwrap().len() >= 200).then_some(()), || cluster.logs());
    let before: Vec<_> = std::thread::scope(|scope| {
        let _told = StopAtEnd(&stop);
        scope.spawn(|| run_honest_client(&cluster.addresses, &stop, &took));
        quiet();
        let before = (0..3).map(|n| memory_and_sockets(&cluster, n)).collect();
        for (name, addresses, hello, says) in doors {
            // Requests that native clients sent before they disconnected may still open sessions, which no client
            // closes.
            let sessions = || cluster.status(0).map(|status| status.sessions);
            let settled = || {
                let before = sessions()?;
                take_latencies(&took);
                quiet();
                (sessions()? == before).then_some(before)
            };
            let open = until("the number of sessions is stable", settled, || cluster.logs());
            let (mut between, mut during) = (Vec::new(), Vec::new());
            for _ in 0..turns {
                take_latencies(&took);
                quiet();
                between.extend(take_latencies(&took));
                attack(name, says, (addresses, hello), (count / turns, rate), &cluster);
                during.extend(take_latencies(&took));
            }
            eprintln!("{name}, without attack: {}", percentiles(between));
            eprintln!("{name}, during {count} malformed requests: {}", percentiles(during));
            // A native session outlives its connection; a session of the other gateways ends with it.
            let closed = || (name == "native" || sessions()? <= open).then_some(());
            until("all sessions are closed", closed, || {
                format!("{:?} sessions, {open} before\n{}", sessions(), cluster.logs())
            });
        }
        before
    });
    for (n, (resident, sockets)) in before.into_iter().enumerate() {
        let small = || {
            let now = memory_and_sockets(&cluster, n);
            (now.0 <= resident + MARGIN && now.1 <= sockets).then_some(now)
        };
        let now = until("memory and sockets are released", small, || {
            format!(
                "n{}: {resident} KiB and {sockets} sockets before, {:?} now",
                n + 1,
                memory_and_sockets(&cluster, n)
            )
        });
        eprintln!("n{}: {resident} KiB and {sockets} sockets before, {now:?} after", n + 1);
    }
    for n in 0..3 {
        let empty = || {
            let inside = cluster.status(n)?.figures.connections;
            (inside["redis"] == 0 && inside["http"] == 0).then_some(())
        };
        until("no gateway client is counted as connected", empty, || format!("{:?}", cluster.status(n)));
        let put = ask(&cluster.webs[n], b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nv");
        assert!(put.starts_with("HTTP/1.1 204 "), "{put}");
        let got = ask(&cluster.webs[n], b"GET /kv/k HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(got.starts_with("HTTP/1.1 200 ") && got.ends_with("\r\n\r\nv"), "{got}");
        assert_eq!(ask(&cluster.doors[n], b"GET k\r\n"), "$1\r\nv\r\n");
    }
    cluster.expect_no_deaths();
    cluster.agree();
}

/// Sends these bytes, shuts down the sending side, and returns the response.
fn ask(address: &str, words: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(words).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
