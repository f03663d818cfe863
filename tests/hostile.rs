//! Hostile clients at the port of a real node: the node does not crash, its memory stays bounded, and it serves honest
//! clients.

use bytes::{BufMut, BytesMut};
use drave::api::{Consistency, Op, Request};
use drave::client::{Client, Options};
use drave::machine::{Command as Do, Query};
use drave::types::SessionId;
use drave::wire::client::put_request_frame;
use drave::wire::frame::{FrameKind, put_frame, put_piece};
use drave::wire::hello::Hello;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::{Cluster, wait_until};

mod support;

/// Allowed growth of a node's resident memory after the test, in KiB: freed memory that the allocator keeps.
const MEMORY_GROWTH_MAX: u64 = 48 << 10;

/// Connects, with timeouts on reads and writes, so that no call blocks for longer than five seconds.
fn dial(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

/// Sends bytes. An error is ignored, since the node closes the connection of a hostile client.
fn send_bytes(mut stream: &TcpStream, bytes: &[u8]) {
    let _node_may_close = stream.write_all(bytes);
}

/// Waits until the node has closed the connection or responded: either shows that it has read the input.
fn wait_for_close_or_response(mut stream: &TcpStream) {
    let _any_result = stream.read(&mut [0; 1 << 12]);
}

fn encode_hello() -> BytesMut {
    let mut out = BytesMut::new();
    Hello::client().put(&mut out);
    out
}

/// Requests that a real client might send.
fn valid_requests() -> Vec<Request> {
    let command = Do::Put { key: b"hostile", value: b"value" }.encode();
    vec![
        Request::Status,
        Request::Query { query: Query::Get { key: b"hostile" }.encode(), consistency: Consistency::Linearizable },
        Request::Query {
            query: Query::Scan { prefix: b"", after: None, limit: u32::MAX }.encode(),
            consistency: Consistency::Local,
        },
        Request::Propose { op: Op::Open { window: 7, ordered: false }.encode() },
        Request::Propose { op: Op::Execute { session: SessionId(3), seq: 1, first_outstanding: 1, command }.encode() },
        Request::Propose { op: Op::Close { session: SessionId(3) }.encode() },
    ]
}

fn send_random_bytes(rng: &mut StdRng, address: &str) {
    for _ in 0..200 {
        let random_bytes: Vec<u8> = (0..rng.random_range(0..4096)).map(|_| rng.random()).collect();
        let stream = dial(address);
        if rng.random() {
            send_bytes(&stream, &encode_hello());
        }
        send_bytes(&stream, &random_bytes);
    }
}

/// Sends headers with lengths over the limit, and long frames that never end.
fn send_huge_lengths(rng: &mut StdRng, address: &str) {
    for length in [u32::MAX, u32::MAX - 12, 1 << 31, (64 << 10) + 1, 64 << 10] {
        for kind in 0..=40 {
            let stream = dial(address);
            send_bytes(&stream, &encode_hello());
            let mut header = length.to_le_bytes().to_vec();
            header.extend([kind, rng.random_range(0..4), 0, 0]);
            header.extend(rng.random::<u32>().to_le_bytes());
            send_bytes(&stream, &header);
        }
    }
    let content = vec![b'x'; 4 << 20];
    for _ in 0..4 {
        let mut out = encode_hello();
        let mut sent_bytes = 0;
        for _ in 0..63 {
            sent_bytes = put_piece(&mut out, FrameKind::Request, &content, sent_bytes);
        }
        // Two more pieces make the content longer than the maximum length of a frame. They repeat the start of
        // `content`, since a piece with its end would be marked as the last piece.
        put_piece(&mut out, FrameKind::Request, &content, 0);
        put_piece(&mut out, FrameKind::Request, &content, 0);
        let stream = dial(address);
        send_bytes(&stream, &out);
    }
}

/// Sends real frames with one byte changed, some of them with the checksum corrected.
fn send_mutated_frames(rng: &mut StdRng, address: &str) {
    let requests = valid_requests();
    for _ in 0..600 {
        let request = &requests[rng.random_range(0..requests.len())];
        let mut frame = BytesMut::new();
        put_request_frame(&mut frame, rng.random(), rng.random(), request);
        let has_valid_checksum = rng.random();
        let first_mutable_offset = if has_valid_checksum { 12 } else { 0 };
        for _ in 0..rng.random_range(1..4) {
            let offset = rng.random_range(first_mutable_offset..frame.len());
            frame[offset] = rng.random();
        }
        let mut out = encode_hello();
        if has_valid_checksum {
            let end_of_cut_frame = rng.random_range(first_mutable_offset..=frame.len());
            put_frame(&mut out, FrameKind::Request, |out| out.put_slice(&frame[12..end_of_cut_frame]));
        } else {
            out.put_slice(&frame);
        }
        if rng.random_ratio(1, 8) {
            let offset = rng.random_range(0..out.len().min(60));
            out[offset] ^= 1 << rng.random_range(0..8);
        }
        let stream = dial(address);
        send_bytes(&stream, &out);
        if rng.random_ratio(1, 4) {
            let _may_be_closed = stream.shutdown(Shutdown::Write);
            wait_for_close_or_response(&stream);
        }
    }
}

/// Sends requests and never reads a response. Returns the open connection, so that the caller keeps it open.
fn connect_without_reading(address: &str) -> TcpStream {
    let stream = dial(address);
    send_bytes(&stream, &encode_hello());
    stream.set_nonblocking(true).unwrap();
    let mut requests = BytesMut::new();
    (0..1000).for_each(|id| put_request_frame(&mut requests, id, false, &Request::Status));
    for _ in 0..200 {
        match (&stream).write(&requests) {
            Ok(n) if n == requests.len() => {}
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => break,
        }
    }
    stream
}

/// Sends a hello at one byte a second on each stream, until `stop` is set.
fn send_slowly(streams: &[TcpStream], stop: &AtomicBool) {
    let hello_bytes = encode_hello();
    for byte in hello_bytes.iter().cycle() {
        for stream in streams {
            send_bytes(stream, &[*byte]);
        }
        let next_round = Instant::now() + Duration::from_secs(1);
        while Instant::now() < next_round {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Increments a counter until `stop` is set; each increment must be acknowledged. New connections must be accepted as
/// well.
fn run_honest_client(addresses: &[String], stop: &AtomicBool, increments: &AtomicU64) {
    let options = Options { timeout: Duration::from_secs(20), ..Options::default() };
    let mut old_client = Client::with_options(addresses.to_vec(), options.clone());
    while !stop.load(Ordering::Relaxed) {
        let mut new_client = Client::with_options(addresses.to_vec(), options.clone());
        for client in [&mut old_client, &mut new_client] {
            client.execute(&Do::Incr { key: b"honest", by: 1 }.encode()).unwrap();
            increments.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sets the stop flag when dropped, also if the test panics.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Resident memory of a node's process, in KiB.
fn resident_kib(cluster: &Cluster, n: usize) -> u64 {
    let path = format!("/proc/{}/status", cluster.pid(n).as_raw_nonzero());
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Raises the limit of open files as far as the system allows. Returns how many idle connections this limit permits.
fn raise_open_file_limit() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let idle_count = maximum.unwrap_or(u64::MAX).saturating_sub(2000).min(5000) as usize;
    if idle_count < 5000 {
        eprintln!("only {idle_count} idle connections: the system allows no more open files");
    }
    idle_count
}

#[test]
fn node_survives_hostile_clients_in_bounded_memory() {
    let mut cluster = Cluster::start(3);
    let idle_count = raise_open_file_limit();
    let leader = cluster.wait_for_leader();
    let address = cluster.addresses[leader].clone();
    let mut rng = StdRng::seed_from_u64(33);
    let (stop, increments) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // Sets `stop` even if this scope panics: the scope would otherwise wait forever for the threads in it.
        let _stop_guard = StopAtEnd(&stop);
        let honest_client = scope.spawn(|| run_honest_client(&cluster.addresses, &stop, &increments));
        let wait_for_increments = |by| {
            let target = increments.load(Ordering::Relaxed) + by;
            let logs = || cluster.logs();
            wait_until(
                "honest clients are served",
                || (increments.load(Ordering::Relaxed) >= target).then_some(()),
                logs,
            );
        };
        wait_for_increments(200);
        let before_kib = resident_kib(&cluster, leader);
        let slow_streams: Vec<TcpStream> = (0..20).map(|_| dial(&address)).collect();
        let stop_flag = &stop;
        scope.spawn(move || send_slowly(&slow_streams, stop_flag));
        let unread_streams: Vec<TcpStream> = (0..8).map(|_| connect_without_reading(&address)).collect();
        send_random_bytes(&mut rng, &address);
        wait_for_increments(10);
        send_huge_lengths(&mut rng, &address);
        wait_for_increments(10);
        send_mutated_frames(&mut rng, &address);
        wait_for_increments(10);
        let silent_streams: Vec<TcpStream> = (0..1000).map(|_| dial(&address)).collect();
        wait_for_increments(10);
        let idle_streams: Vec<TcpStream> =
            (0..idle_count).map(|_| dial(&address)).inspect(|c| send_bytes(c, &encode_hello())).collect();
        wait_for_increments(10);
        let peak_kib = resident_kib(&cluster, leader);
        drop((unread_streams, silent_streams, idle_streams));
        // Entries of honest clients stay in the log and in memory, so they stop before the measurement.
        stop.store(true, Ordering::Relaxed);
        let served_count = honest_client.join().map(|()| increments.load(Ordering::Relaxed)).unwrap();
        let has_shrunk = || (resident_kib(&cluster, leader) <= before_kib + MEMORY_GROWTH_MAX).then_some(());
        wait_until("the memory of the node shrinks again", has_shrunk, || {
            format!("{before_kib} KiB before, {peak_kib} at most, {} now", resident_kib(&cluster, leader))
        });
        let after_kib = resident_kib(&cluster, leader);
        eprintln!(
            "resident: {before_kib} KiB before, {peak_kib} with {idle_count} idle, {after_kib} after; {served_count} requests of honest clients"
        );
    });
    cluster.expect_no_deaths();
    cluster.wait_for_convergence();
}
