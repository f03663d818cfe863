//! Malformed input at every gateway of a real cluster: random bytes, lengths over the limit, and real requests with
//! errors in them. The nodes survive, honest clients are served meanwhile, and no memory, socket or session leaks.
//!
//! `DRAVE_MALFORMED` is the number of requests to each gateway, `DRAVE_MALFORMED_RATE` the maximum per second;
//! `--nocapture` shows the latency of honest writes during the attack and before it. `scripts/malformed.sh` sends a
//! million requests to each gateway.

#[path = "fuzz/inputs.rs"]
mod inputs;
mod support;

use bytes::BytesMut;
use drave::client::{Client, Options};
use drave::machine::Command as Do;
use drave::wire::hello::Hello;
use inputs::{http_input, native_input, redis_input};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{Cluster, WAIT_TIMEOUT, reserve_ports, wait_until};

/// Allowed growth of a node's memory after the test, in KiB: freed memory that the allocator keeps, the log in memory,
/// and the keys that some of the requests have set.
const MEMORY_GROWTH_MAX: u64 = 96 << 10;
/// Time from the start of one write of the honest client to the start of the next write.
const WRITE_INTERVAL: Duration = Duration::from_millis(5);
/// Maximum number of requests per connection: most connections end with their first invalid request.
const CONNECTION_REQUESTS_MAX: usize = 4;

/// A function that generates one malformed request.
type Generator = fn(&mut SmallRng) -> Vec<u8>;

fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Sends `count` malformed requests to the target's addresses in turn, at most `rate` a second. The target also gives
/// the bytes that each connection sends first.
fn attack(name: &str, generate: Generator, target: (&[String], &[u8]), (count, rate): (u64, u64), cluster: &Cluster) {
    let ((addresses, hello), seed) = (target, rand::random());
    let mut rng = SmallRng::seed_from_u64(seed);
    let (started, mut sent_requests, mut connections) = (Instant::now(), 0, 0);
    while sent_requests < count {
        connections += 1;
        let address = &addresses[connections % addresses.len()];
        let Ok(mut stream) = TcpStream::connect(address) else { panic!("seed {seed}: {address}\n{}", cluster.logs()) };
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        let mut bytes = hello.to_vec();
        for _ in 0..rng.random_range(1..=CONNECTION_REQUESTS_MAX) {
            bytes.extend(generate(&mut rng));
            sent_requests += 1;
        }
        // The node may close the connection before it has read all requests.
        if stream.write_all(&bytes).is_ok() && rng.random_bool(0.5) && stream.shutdown(Shutdown::Write).is_ok() {
            let _any_response = stream.read_to_end(&mut Vec::new());
        }
        let due_after_start = Duration::from_secs_f64(sent_requests as f64 / rate as f64);
        std::thread::sleep(due_after_start.saturating_sub(started.elapsed()));
    }
    let elapsed = started.elapsed();
    eprintln!(
        "{name}, seed {seed}: {sent_requests} requests on {connections} connections, {:.0} a second",
        sent_requests as f64 / elapsed.as_secs_f64()
    );
}

/// Writes every [`WRITE_INTERVAL`] until `stop` is set, and records the latency of each write in microseconds.
fn run_honest_client(addresses: &[String], stop: &AtomicBool, latencies: &Mutex<Vec<u64>>) {
    let mut client = Client::with_options(
        addresses.to_vec(),
        Options { timeout: WAIT_TIMEOUT + WAIT_TIMEOUT, ..Options::default() },
    );
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        client.execute(&Do::Incr { key: b"honest", by: 1 }.encode()).unwrap();
        latencies.lock().unwrap().push(started.elapsed().as_micros() as u64);
        std::thread::sleep(WRITE_INTERVAL.saturating_sub(started.elapsed()));
    }
}

/// Sets the stop flag of the honest client when dropped, also if the test panics.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Takes the latencies recorded since the last call.
fn take_latencies(latencies: &Mutex<Vec<u64>>) -> Vec<u64> {
    std::mem::take(&mut *latencies.lock().unwrap())
}

fn describe_percentiles(mut latencies: Vec<u64>) -> String {
    assert!(!latencies.is_empty(), "honest clients are served");
    latencies.sort_unstable();
    let percentile_us = |fraction: f64| latencies[(latencies.len() as f64 * fraction) as usize];
    format!("{} honest writes: p50 {} us, p99 {} us", latencies.len(), percentile_us(0.5), percentile_us(0.99))
}

/// Resident memory in KiB and the number of open sockets of a node's process.
fn resident_kib_and_sockets(cluster: &Cluster, n: usize) -> (u64, usize) {
    let process_dir = format!("/proc/{}", cluster.pid(n).as_raw_nonzero());
    let text = std::fs::read_to_string(format!("{process_dir}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let resident_kib = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    let open_files =
        std::fs::read_dir(format!("{process_dir}/fd")).unwrap().filter_map(|file| file.ok()?.path().read_link().ok());
    (resident_kib, open_files.filter(|file| file.to_string_lossy().starts_with("socket:")).count())
}

/// Starts three nodes, each with a native, a Redis and an HTTP gateway, and waits for a leader.
fn start_cluster_with_gateways() -> Cluster {
    let mut cluster = Cluster::prepare(3);
    let addresses_from =
        |first_port: u16| (first_port..first_port + 3).map(|port| format!("127.0.0.1:{port}")).collect();
    (cluster.redis_addresses, cluster.http_addresses) =
        (addresses_from(reserve_ports(3)), addresses_from(reserve_ports(3)));
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    cluster
}

#[test]
fn cluster_survives_malformed_input_without_leaks() {
    let mut cluster = start_cluster_with_gateways();
    let (count, rate) = (env_number("DRAVE_MALFORMED", 20_000), env_number("DRAVE_MALFORMED_RATE", u64::MAX));
    let mut hello = BytesMut::new();
    Hello::client().put(&mut hello);
    let gateways: [(&str, &[String], &[u8], Generator); 3] = [
        ("native", &cluster.addresses, &hello, native_input),
        ("Redis", &cluster.redis_addresses, b"", redis_input),
        ("HTTP", &cluster.http_addresses, b"", http_input),
    ];
    let (stop, latencies) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    // Intervals with and without an attack alternate, since the speed of a disk varies from minute to minute.
    let rounds = (count / 50_000).max(1);
    let wait_for_honest_writes = || {
        wait_until(
            "the honest client has written 200 times",
            || (latencies.lock().unwrap().len() >= 200).then_some(()),
            || cluster.logs(),
        )
    };
    let usage_before: Vec<_> = std::thread::scope(|scope| {
        let _stop_guard = StopAtEnd(&stop);
        scope.spawn(|| run_honest_client(&cluster.addresses, &stop, &latencies));
        wait_for_honest_writes();
        let usage_before = (0..3).map(|n| resident_kib_and_sockets(&cluster, n)).collect();
        for (name, addresses, hello, generate) in gateways {
            // Requests that native clients sent before they disconnected may still open sessions, which no client
            // closes.
            let session_count = || cluster.status(0).map(|status| status.sessions);
            let stable_session_count = || {
                let sessions_before = session_count()?;
                take_latencies(&latencies);
                wait_for_honest_writes();
                (session_count()? == sessions_before).then_some(sessions_before)
            };
            let session_count_before =
                wait_until("the number of sessions is stable", stable_session_count, || cluster.logs());
            let (mut quiet_latencies, mut attack_latencies) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                take_latencies(&latencies);
                wait_for_honest_writes();
                quiet_latencies.extend(take_latencies(&latencies));
                attack(name, generate, (addresses, hello), (count / rounds, rate), &cluster);
                attack_latencies.extend(take_latencies(&latencies));
            }
            eprintln!("{name}, without attack: {}", describe_percentiles(quiet_latencies));
            eprintln!("{name}, during {count} malformed requests: {}", describe_percentiles(attack_latencies));
            // A native session outlives its connection; a session of the other gateways ends with it.
            let sessions_are_closed = || (name == "native" || session_count()? <= session_count_before).then_some(());
            wait_until("all sessions are closed", sessions_are_closed, || {
                format!("{:?} sessions, {session_count_before} before\n{}", session_count(), cluster.logs())
            });
        }
        usage_before
    });
    for (n, (resident_kib, sockets)) in usage_before.into_iter().enumerate() {
        let usage_has_shrunk = || {
            let usage_now = resident_kib_and_sockets(&cluster, n);
            (usage_now.0 <= resident_kib + MEMORY_GROWTH_MAX && usage_now.1 <= sockets).then_some(usage_now)
        };
        let usage_now = wait_until("memory and sockets are released", usage_has_shrunk, || {
            format!(
                "n{}: {resident_kib} KiB and {sockets} sockets before, {:?} now",
                n + 1,
                resident_kib_and_sockets(&cluster, n)
            )
        });
        eprintln!("n{}: {resident_kib} KiB and {sockets} sockets before, {usage_now:?} after", n + 1);
    }
    for n in 0..3 {
        let no_gateway_clients = || {
            let connections = cluster.status(n)?.figures.connections;
            (connections["redis"] == 0 && connections["http"] == 0).then_some(())
        };
        wait_until("no gateway client is counted as connected", no_gateway_clients, || {
            format!("{:?}", cluster.status(n))
        });
        let put_response = send_and_read(
            &cluster.http_addresses[n],
            b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nv",
        );
        assert!(put_response.starts_with("HTTP/1.1 204 "), "{put_response}");
        let get_response = send_and_read(&cluster.http_addresses[n], b"GET /kv/k HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(get_response.starts_with("HTTP/1.1 200 ") && get_response.ends_with("\r\n\r\nv"), "{get_response}");
        assert_eq!(send_and_read(&cluster.redis_addresses[n], b"GET k\r\n"), "$1\r\nv\r\n");
    }
    cluster.expect_no_deaths();
    cluster.wait_for_convergence();
}

/// Sends these bytes, shuts down the sending side, and returns the response.
fn send_and_read(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    stream.write_all(request).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}
