//! Hostile clients at the port of a real node: it does not crash, its memory stays bounded, and it serves honest
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
use support::{Cluster, until};

mod support;

/// Allowed growth of a node's resident memory after the test, in KiB: freed memory that the allocator keeps.
const MARGIN: u64 = 48 << 10;

/// Connects with timeouts on reads and writes, so that every call returns soon, whatever the node does.
fn dial(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

/// Sends bytes; any outcome is fine.
fn send_bytes(mut stream: &TcpStream, bytes: &[u8]) {
    let _it_may_be_let_go_midway = stream.write_all(bytes);
}

/// Waits until the node has closed the connection or responded: either shows that it has read the input.
fn outcome(mut stream: &TcpStream) {
    let _closed_answered_or_silent = stream.read(&mut [0; 1 << 12]);
}

fn hello() -> BytesMut {
    let mut out = BytesMut::new();
    Hello::client().put(&mut out);
    out
}

/// Requests that a real client might send.
fn requests() -> Vec<Request> {
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

fn random_bytes(rng: &mut StdRng, address: &str) {
    for _ in 0..200 {
        let noise: Vec<u8> = (0..rng.random_range(0..4096)).map(|_| rng.random()).collect();
        let stream = dial(address);
        if rng.random() {
            send_bytes(&stream, &hello());
        }
        send_bytes(&stream, &noise);
    }
}

/// Sends headers with lengths over the limit, and long frames that never end.
fn huge_lengths(rng: &mut StdRng, address: &str) {
    for length in [u32::MAX, u32::MAX - 12, 1 << 31, (64 << 10) + 1, 64 << 10] {
        for kind in 0..=40 {
            let stream = dial(address);
            send_bytes(&stream, &hello());
            let mut header = length.to_le_bytes().to_vec();
            header.extend([kind, rng.random_range(0..4), 0, 0]);
            header.extend(rng.random::<u32>().to_le_bytes());
            send_bytes(&stream, &header);
        }
    }
    let content = vec![b'x'; 4 << 20];
    for _ in 0..4 {
        let mut out = hello();
        let mut sent = 0;
        for _ in 0..63 {
            sent = put_piece(&mut out, FrameKind::Request, &content, sent);
        }
        // Starts again from offset 0: the whole would exceed the maximum length of a frame.
        put_piece(&mut out, FrameKind::Request, &content, 0);
        put_piece(&mut out, FrameKind::Request, &content, 0);
        let stream = dial(address);
        send_bytes(&stream, &out);
    }
}

/// Sends real frames with one byte changed, some of them with the checksum corrected.
fn mutated_frames(rng: &mut StdRng, address: &str) {
    let requests = requests();
    for _ in 0..600 {
        let request = &requests[rng.random_range(0..requests.len())];
        let mut frame = BytesMut::new();
        put_request_frame(&mut frame, rng.random(), rng.random(), request);
        let sealed = rng.random();
        let begin = if sealed { 12 } else { 0 };
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(begin..frame.len());
            frame[at] = rng.random();
        }
        let mut out = hello();
        if sealed {
            let cut = rng.random_range(begin..=frame.len());
            put_frame(&mut out, FrameKind::Request, |out| out.put_slice(&frame[12..cut]));
        } else {
            out.put_slice(&frame);
        }
        if rng.random_ratio(1, 8) {
            let at = rng.random_range(0..out.len().min(60));
            out[at] ^= 1 << rng.random_range(0..8);
        }
        let stream = dial(address);
        send_bytes(&stream, &out);
        if rng.random_ratio(1, 4) {
            let _either_way = stream.shutdown(Shutdown::Write);
            outcome(&stream);
        }
    }
}

/// Sends requests and never reads a response. Returns the open connection, so that the caller keeps it open.
fn connect_without_reading(address: &str) -> TcpStream {
    let stream = dial(address);
    send_bytes(&stream, &hello());
    stream.set_nonblocking(true).unwrap();
    let mut asked = BytesMut::new();
    (0..1000).for_each(|id| put_request_frame(&mut asked, id, false, &Request::Status));
    for _ in 0..200 {
        match (&stream).write(&asked) {
            Ok(n) if n == asked.len() => {}
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => break,
        }
    }
    stream
}

/// Sends a hello at one byte a second on each stream, until `stop` is set.
fn send_slowly(streams: &[TcpStream], stop: &AtomicBool) {
    let words = hello();
    for byte in words.iter().cycle() {
        for stream in streams {
            send_bytes(stream, &[*byte]);
        }
        let next = Instant::now() + Duration::from_secs(1);
        while Instant::now() < next {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Increments a counter until `stop` is set; each increment must be acknowledged. New connections must be accepted as
/// well.
fn run_honest_client(addresses: &[String], stop: &AtomicBool, counted: &AtomicU64) {
    let options = Options { timeout: Duration::from_secs(20), ..Options::default() };
    let mut long = Client::with(addresses.to_vec(), options.clone());
    while !stop.load(Ordering::Relaxed) {
        let mut new = Client::with(addresses.to_vec(), options.clone());
        for client in [&mut long, &mut new] {
            client.execute(&Do::Incr { key: b"honest", by: 1 }.encode()).unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sets the stop flag when dropped.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Resident memory of a node's process, in KiB.
fn resident(cluster: &Cluster, n: usize) -> u64 {
    let path = format!("/proc/{}/status", cluster.pid(n).as_raw_nonzero());
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Raises the limit of open files as far as the system allows. Returns the number of idle connections it permits.
fn raise_open_files() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let idle = maximum.unwrap_or(u64::MAX).saturating_sub(2000).min(5000) as usize;
    if idle < 5000 {
        eprintln!("only {idle} idle connections: the system allows no more open files");
    }
    idle
}

#[test]
fn node_survives_hostile_clients_in_bounded_memory() {
    let mut cluster = Cluster::start(3);
    let idle = raise_open_files();
    let leader = cluster.leader();
    let address = cluster.addresses[leader].clone();
    let mut rng = StdRng::seed_from_u64(33);
    let (stop, counted) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // Sets `stop` however this scope ends; after a failure it would wait for these threads forever otherwise.
        let _told = StopAtEnd(&stop);
        let honest = scope.spawn(|| run_honest_client(&cluster.addresses, &stop, &counted));
        let more = |by| {
            let goal = counted.load(Ordering::Relaxed) + by;
            let why = || cluster.logs();
            until("honest clients are served", || (counted.load(Ordering::Relaxed) >= goal).then_some(()), why);
        };
        more(200);
        let before = resident(&cluster, leader);
        let slow: Vec<TcpStream> = (0..20).map(|_| dial(&address)).collect();
        let dripping = &stop;
        scope.spawn(move || send_slowly(&slow, dripping));
        let deaf: Vec<TcpStream> = (0..8).map(|_| connect_without_reading(&address)).collect();
        random_bytes(&mut rng, &address);
        more(10);
        huge_lengths(&mut rng, &address);
        more(10);
        mutated_frames(&mut rng, &address);
        more(10);
        let silent: Vec<TcpStream> = (0..1000).map(|_| dial(&address)).collect();
        more(10);
        let clients: Vec<TcpStream> = (0..idle).map(|_| dial(&address)).inspect(|c| send_bytes(c, &hello())).collect();
        more(10);
        let most = resident(&cluster, leader);
        drop((deaf, silent, clients));
        // Entries of honest clients stay in the log and in memory, so they stop before the measurement.
        stop.store(true, Ordering::Relaxed);
        let served = honest.join().map(|()| counted.load(Ordering::Relaxed)).unwrap();
        let small = || (resident(&cluster, leader) <= before + MARGIN).then_some(());
        until("the memory of the node shrinks again", small, || {
            format!("{before} KiB before, {most} at most, {} now", resident(&cluster, leader))
        });
        let after = resident(&cluster, leader);
        eprintln!(
            "resident: {before} KiB before, {most} with {idle} idle, {after} after; {served} requests of honest clients"
        );
    });
    cluster.expect_no_deaths();
    cluster.agree();
}
