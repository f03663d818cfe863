//! Malformed input at every gateway of a real cluster: random bytes, lengths over the limit, and real requests with
//! errors in them. The nodes survive, honest clients are served meanwhile, and no memory, socket or session leaks.
//!
//! `DRAVE_MALFORMED` is the number of requests to each gateway, `DRAVE_MALFORMED_RATE` the maximum per second;
//! `--nocapture` shows the latency of honest writes during the attack and before it. `scripts/malformed.sh` runs enough
//! of them to prove something.

#[path = "fuzz/inputs.rs"]
mod inputs;
mod support;

use bytes::BytesMut;
use drave::client::{Client, Options};
use drave::machine::Command as Do;
use drave::wire::hello::Hello;
use inputs::{http, native, redis};
use rand::rngs::SmallRng;
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
