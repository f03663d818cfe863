//! Commands of one connection take effect in order and once each, through leadership transfers and deaths of leaders. A
//! planned transfer leaves no outcome unknown.
//!
//! `DRAVE_ORDER_CONNECTIONS`, `DRAVE_ORDER_TRANSFERS` and `DRAVE_ORDER_DEATHS` make the test larger; `scripts/order.sh`
//! sets them.

use drave::api::Consistency;
use drave::machine::{Answer, Query};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::{Cluster, PATIENCE, ports, until};

mod support;

/// Number of commands in flight per connection.
const IN_FLIGHT_MAX: usize = 16;
/// Pause after each reply, so that a list stays short.
const PAUSE: Duration = Duration::from_millis(1);
/// Maximum number of commands per list; then the connection closes, and a new one starts another list.
const COMMANDS_MAX: u64 = 5_000;
/// Pause before each transfer or death.
const FAULT_INTERVAL: Duration = Duration::from_millis(400);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The outcomes that a connection received for its commands, by command number.
#[derive(Debug, Default)]
struct List {
    key: String,
    done: Vec<u64>,
    refused: BTreeSet<u64>,
}

/// Stops a load when dropped, even if the test fails meanwhile.
struct StopOnDrop<'a>(&'a Load);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stops.store(true, Ordering::Relaxed);
    }
}

/// State shared by all connections.
#[derive(Default)]
struct Load {
    /// Prefix of the keys, so that two loads share none.
    prefix: &'static str,
    stops: AtomicBool,
    keys: AtomicU64,
    done: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    /// Responses that no order of the commands explains.
    misplaced: AtomicU64,
    lists: Mutex<Vec<List>>,
}

impl Load {
    fn stops(&self) -> bool {
        self.stops.load(Ordering::Relaxed)
    }

    fn value(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    fn increment(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn key(&self) -> String {
        format!("{}-{}", self.prefix, self.keys.fetch_add(1, Ordering::Relaxed))
    }
}

fn dial(address: &str) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

fn line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    match stream.read_line(&mut line)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

/// Runs one Redis connection that appends numbers to one key, until it breaks, reaches `COMMANDS_MAX`, or the load
/// stops and every reply has arrived.
fn append(load: &Load, address: &str) -> Result<()> {
    let mut stream = dial(address)?;
    let mut list = List { key: load.key(), ..List::default() };
    let (mut sent, mut answered) = (0, 0);
    let mut talk = || -> Result<()> {
        let ends = |sent| load.stops() || sent == COMMANDS_MAX;
        while !ends(sent) || answered < sent {
            while !ends(sent) && sent - answered < IN_FLIGHT_MAX as u64 {
                let (key, tail) = (&list.key, format!("{sent},"));
                let words = format!("*3\r\n$6\r\nAPPEND\r\n${}\r\n{key}\r\n${}\r\n{tail}\r\n", key.len(), tail.len());
                stream.get_mut().write_all(words.as_bytes())?;
                sent += 1;
            }
            let said = line(&mut stream)?;
            match said.split(' ').next() {
                Some(number) if number.starts_with(':') => {
                    list.done.push(answered);
                    Load::increment(&load.done);
                }
                Some("-TIMEOUT") => Load::increment(&load.unknown),
                Some("-CLUSTERDOWN" | "-BUSY") => {
                    list.refused.insert(answered);
                    Load::increment(&load.refused);
                }
                _ => panic!("{said}"),
            }
            answered += 1;
            std::thread::sleep(PAUSE);
        }
        Ok(())
    };
    let ended = talk();
    load.lists.lock().unwrap().push(list);
    ended
}

/// Runs one HTTP connection that alternately puts a key that must be absent and deletes it while it must be present. In
/// any other order one of the two fails.
fn alternate(load: &Load, address: &str) -> Result<()> {
    let mut stream = dial(address)?;
    let key = load.key();
    let (mut sent, mut answered) = (0_u64, 0);
    // Whether the key may be absent, and whether it may be present.
    let mut may_be = [true, false];
    while !load.stops() || answered < sent {
        while !load.stops() && sent - answered < IN_FLIGHT_MAX as u64 {
            let head = match sent % 2 {
                0 => format!(
                    "PUT /kv/{key} HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: *\r\nContent-Length: 1\r\n\r\nx"
                ),
                _ => format!("DELETE /kv/{key} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            };
            stream.get_mut().write_all(head.as_bytes())?;
            sent += 1;
        }
        let status = status(&mut stream)?;
        let (needs, leaves) = if answered % 2 == 0 { (0, 1) } else { (1, 0) };
        let becomes = |there: usize| [there == 0, there == 1];
        let (explained, after) = match status {
            204 => (may_be[needs], becomes(leaves)),
            412 | 404 => (may_be[1 - needs], becomes(1 - needs)),
            503 => (true, may_be),
            504 => (true, [may_be[0] || leaves == 0, may_be[1] || leaves == 1]),
            other => panic!("status {other}"),
        };
        may_be = after;
        Load::increment(match status {
            _ if !explained => &load.misplaced,
            503 => &load.refused,
            504 => &load.unknown,
            _ => &load.done,
        });
        answered += 1;
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Reads the next response and returns its status.
fn status(stream: &mut BufReader<TcpStream>) -> Result<u16> {
    let first = line(stream)?;
    let mut length = 0;
    loop {
        let field = line(stream)?.to_ascii_lowercase();
        if let Some(bytes) = field.strip_prefix("content-length:") {
            length = bytes.trim().parse().unwrap();
        }
        if field.is_empty() {
            break;
        }
    }
    stream.read_exact(&mut vec![0; length])?;
    Ok(first.split(' ').nth(1).unwrap().parse().unwrap())
}

/// Runs connections of both kinds while `trouble` acts on the cluster. Returns their results.
fn under_load(
    cluster: &mut Cluster,
    connections: usize,
    prefix: &'static str,
    trouble: impl FnOnce(&mut Cluster, &Load),
) -> Load {
    let load = Load { prefix, ..Load::default() };
    let (doors, webs) = (cluster.doors.clone(), cluster.webs.clone());
    let again = |one: &dyn Fn() -> Result<()>| {
        while !load.stops() {
            // The node has died: reconnect with a new list.
            let _broken = one();
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    std::thread::scope(|scope| {
        for n in 0..connections {
            let (load, again, door, web) = (&load, &again, &doors[n % doors.len()], &webs[n % webs.len()]);
            scope.spawn(move || again(&|| append(load, door)));
            if n % 2 == 0 {
                scope.spawn(move || again(&|| alternate(load, web)));
            }
        }
        let _ends = StopOnDrop(&load);
        trouble(cluster, &load);
    });
    load
}

/// Asserts that each list in the cluster is in order, with every acknowledged command and no rejected one.
fn check(cluster: &Cluster, load: &Load) {
    let mut client = cluster.client();
    let lists = load.lists.lock().unwrap();
    for List { key, done, refused } in lists.iter() {
        let query = Query::Get { key: key.as_bytes() }.encode();
        let answer = client.query(&query, Consistency::Linearizable).unwrap().answer;
        let Ok(Answer::Value(value)) = Answer::decode(answer) else { panic!("{key}: the answer is a value or none") };
        let value = String::from_utf8(value.unwrap_or_default().to_vec()).unwrap();
        let held: Vec<u64> = value.split_terminator(',').map(|number| number.parse().unwrap()).collect();
        let misplaced: Vec<_> = held.windows(2).filter(|pair| pair[0] >= pair[1]).take(9).collect();
        assert!(misplaced.is_empty(), "{key} is out of order: {misplaced:?}");
        let lost: Vec<_> = done.iter().filter(|number| held.binary_search(number).is_err()).collect();
        assert!(lost.is_empty(), "{key} lacks {lost:?}, which were acknowledged");
        let applied: Vec<_> = held.iter().filter(|number| refused.contains(number)).collect();
        assert!(applied.is_empty(), "{key} has {applied:?}, which were rejected as not applied");
    }
    assert_eq!(Load::value(&load.misplaced), 0, "HTTP responses that no command order explains");
}

fn report(what: &str, load: &Load) {
    let counts = Load::value;
    eprintln!(
        "{what}: {} lists, {} commands done, {} refused, {} unknown, {} misplaced",
        load.lists.lock().unwrap().len(),
        counts(&load.done),
        counts(&load.refused),
        counts(&load.unknown),
        counts(&load.misplaced),
    );
}

#[test]
fn commands_keep_their_order_through_leader_transfers_and_crashes() {
    let connections = number("DRAVE_ORDER_CONNECTIONS", 8) as usize;
    let (transfers, deaths) = (number("DRAVE_ORDER_TRANSFERS", 12), number("DRAVE_ORDER_DEATHS", 3));
    let mut cluster = Cluster::prepare(3);
    let base = ports(6);
    cluster.doors = (base..base + 3).map(|port| format!("127.0.0.1:{port}")).collect();
    cluster.webs = (base + 3..base + 6).map(|port| format!("127.0.0.1:{port}")).collect();
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.leader();

    let load = under_load(&mut cluster, connections, "transfers", |cluster, _| {
        for _ in 0..transfers {
            std::thread::sleep(FAULT_INTERVAL);
            let transferred = || (cluster.run(&["transfer", "--timeout", "10s"]).code == Some(0)).then_some(());
            until("the leadership is transferred", transferred, || cluster.logs());
        }
    });
    report(&format!("{transfers} transfers"), &load);
    check(&cluster, &load);
    assert_eq!(Load::value(&load.unknown), 0, "a planned transfer leaves no outcome unknown");
    cluster.expect_no_deaths();

    let load = under_load(&mut cluster, connections, "deaths", |cluster, load| {
        for _ in 0..deaths {
            std::thread::sleep(FAULT_INTERVAL);
            let leader = cluster.leader();
            cluster.kill(leader);
            let done = Load::value(&load.done);
            let goes_on = || (Load::value(&load.done) > done + 100).then_some(());
            until("another node leads", goes_on, || cluster.logs());
            cluster.spawn(leader);
        }
    });
    report(&format!("{deaths} deaths"), &load);
    check(&cluster, &load);
    cluster.agree();
}
