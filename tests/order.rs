//! Commands of one connection take effect in order and once each, despite leadership transfers and crashes of leaders.
//! A planned transfer leaves no outcome unknown.
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
use support::{Cluster, WAIT_TIMEOUT, reserve_ports, wait_until};

mod support;

/// Maximum number of commands in flight per connection.
const IN_FLIGHT_MAX: usize = 16;
/// Pause after each reply, so that a list stays short.
const REPLY_PAUSE: Duration = Duration::from_millis(1);
/// Maximum number of commands per list; then the connection closes, and a new one starts another list.
const COMMANDS_PER_LIST_MAX: u64 = 5_000;
/// Pause before each transfer or crash.
const FAULT_INTERVAL: Duration = Duration::from_millis(400);

fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The key to which a connection appends numbers, and the numbers whose append was acknowledged or refused.
#[derive(Debug, Default)]
struct AppendList {
    key: String,
    acknowledged: Vec<u64>,
    refused: BTreeSet<u64>,
}

/// Stops a load when dropped, even if the test fails meanwhile.
struct StopOnDrop<'a>(&'a Load);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.should_stop.store(true, Ordering::Relaxed);
    }
}

/// The number of commands per outcome and the lists, shared by all connections of one load.
#[derive(Default)]
struct Load {
    /// Prefix of the keys, so that two loads share none.
    prefix: &'static str,
    should_stop: AtomicBool,
    /// The number in the name of the next key.
    next_key_number: AtomicU64,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    unknown_outcomes: AtomicU64,
    /// Responses that no order of the commands explains.
    unexplained_responses: AtomicU64,
    lists: Mutex<Vec<AppendList>>,
}

impl Load {
    fn should_stop(&self) -> bool {
        self.should_stop.load(Ordering::Relaxed)
    }

    fn read_counter(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    fn increment(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn new_key(&self) -> String {
        format!("{}-{}", self.prefix, self.next_key_number.fetch_add(1, Ordering::Relaxed))
    }
}

fn dial(address: &str) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(WAIT_TIMEOUT))?;
    Ok(BufReader::new(stream))
}

fn read_line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    match stream.read_line(&mut line)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

/// Runs one Redis connection that appends numbers to one key, until it breaks, reaches `COMMANDS_PER_LIST_MAX`, or the
/// load stops and every reply has arrived.
fn run_append_connection(load: &Load, address: &str) -> Result<()> {
    let mut stream = dial(address)?;
    let mut list = AppendList { key: load.new_key(), ..AppendList::default() };
    let (mut sent, mut answered) = (0, 0);
    let mut exchange = || -> Result<()> {
        let is_finished = |sent| load.should_stop() || sent == COMMANDS_PER_LIST_MAX;
        while !is_finished(sent) || answered < sent {
            while !is_finished(sent) && sent - answered < IN_FLIGHT_MAX as u64 {
                let (key, tail) = (&list.key, format!("{sent},"));
                let command = format!("*3\r\n$6\r\nAPPEND\r\n${}\r\n{key}\r\n${}\r\n{tail}\r\n", key.len(), tail.len());
                stream.get_mut().write_all(command.as_bytes())?;
                sent += 1;
            }
            let reply = read_line(&mut stream)?;
            match reply.split(' ').next() {
                Some(number) if number.starts_with(':') => {
                    list.acknowledged.push(answered);
                    Load::increment(&load.acknowledged);
                }
                Some("-TIMEOUT") => Load::increment(&load.unknown_outcomes),
                Some("-CLUSTERDOWN" | "-BUSY") => {
                    list.refused.insert(answered);
                    Load::increment(&load.refused);
                }
                _ => panic!("{reply}"),
            }
            answered += 1;
            std::thread::sleep(REPLY_PAUSE);
        }
        Ok(())
    };
    let result = exchange();
    load.lists.lock().unwrap().push(list);
    result
}

/// Runs one HTTP connection that alternately puts a key, on the condition that the key is absent, and deletes the key,
/// which must be present. In any other order of the requests, one of them fails.
fn run_put_delete_connection(load: &Load, address: &str) -> Result<()> {
    let mut stream = dial(address)?;
    let key = load.new_key();
    let (mut sent, mut answered) = (0_u64, 0);
    // Whether the key may be absent, and whether it may be present.
    let mut possible_states = [true, false];
    while !load.should_stop() || answered < sent {
        while !load.should_stop() && sent - answered < IN_FLIGHT_MAX as u64 {
            let request_head = match sent % 2 {
                0 => format!(
                    "PUT /kv/{key} HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: *\r\nContent-Length: 1\r\n\r\nx"
                ),
                _ => format!("DELETE /kv/{key} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            };
            stream.get_mut().write_all(request_head.as_bytes())?;
            sent += 1;
        }
        let status = read_status(&mut stream)?;
        let (needs, leaves) = if answered % 2 == 0 { (0, 1) } else { (1, 0) };
        let certain_state = |state: usize| [state == 0, state == 1];
        let (explained, after) = match status {
            204 => (possible_states[needs], certain_state(leaves)),
            412 | 404 => (possible_states[1 - needs], certain_state(1 - needs)),
            503 => (true, possible_states),
            504 => (true, [possible_states[0] || leaves == 0, possible_states[1] || leaves == 1]),
            other => panic!("status {other}"),
        };
        possible_states = after;
        Load::increment(match status {
            _ if !explained => &load.unexplained_responses,
            503 => &load.refused,
            504 => &load.unknown_outcomes,
            _ => &load.acknowledged,
        });
        answered += 1;
        std::thread::sleep(REPLY_PAUSE);
    }
    Ok(())
}

/// Reads the next response and returns its status.
fn read_status(stream: &mut BufReader<TcpStream>) -> Result<u16> {
    let status_line = read_line(stream)?;
    let mut length = 0;
    loop {
        let field = read_line(stream)?.to_ascii_lowercase();
        if let Some(bytes) = field.strip_prefix("content-length:") {
            length = bytes.trim().parse().unwrap();
        }
        if field.is_empty() {
            break;
        }
    }
    stream.read_exact(&mut vec![0; length])?;
    Ok(status_line.split(' ').nth(1).unwrap().parse().unwrap())
}

/// Runs append connections and put-delete connections while `inject_faults` acts on the cluster. Returns the load with
/// the lists and counters of all connections.
fn run_under_load(
    cluster: &mut Cluster,
    connections: usize,
    prefix: &'static str,
    inject_faults: impl FnOnce(&mut Cluster, &Load),
) -> Load {
    let load = Load { prefix, ..Load::default() };
    let (redis_addresses, http_addresses) = (cluster.redis_addresses.clone(), cluster.http_addresses.clone());
    let repeat_until_stopped = |run_connection: &dyn Fn() -> Result<()>| {
        while !load.should_stop() {
            // An error means that the node has crashed. The next connection uses a new list.
            let _connection_error = run_connection();
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    std::thread::scope(|scope| {
        for n in 0..connections {
            let (load, repeat_until_stopped, redis_address, http_address) = (
                &load,
                &repeat_until_stopped,
                &redis_addresses[n % redis_addresses.len()],
                &http_addresses[n % http_addresses.len()],
            );
            scope.spawn(move || repeat_until_stopped(&|| run_append_connection(load, redis_address)));
            if n % 2 == 0 {
                scope.spawn(move || repeat_until_stopped(&|| run_put_delete_connection(load, http_address)));
            }
        }
        let _stop_guard = StopOnDrop(&load);
        inject_faults(cluster, &load);
    });
    load
}

/// Asserts that each stored list is in order, with every acknowledged number and no refused number.
fn check_lists(cluster: &Cluster, load: &Load) {
    let mut client = cluster.client();
    let lists = load.lists.lock().unwrap();
    for AppendList { key, acknowledged, refused } in lists.iter() {
        let query = Query::Get { key: key.as_bytes() }.encode();
        let answer = client.query(&query, Consistency::Linearizable).unwrap().answer;
        let Ok(Answer::Value(value)) = Answer::decode(answer) else {
            panic!("the answer to a read of {key} is a value or none")
        };
        let value = String::from_utf8(value.unwrap_or_default().to_vec()).unwrap();
        let stored_numbers: Vec<u64> = value.split_terminator(',').map(|number| number.parse().unwrap()).collect();
        let misplaced_pairs: Vec<_> = stored_numbers.windows(2).filter(|pair| pair[0] >= pair[1]).take(9).collect();
        assert!(misplaced_pairs.is_empty(), "{key} is out of order: {misplaced_pairs:?}");
        let missing_numbers: Vec<_> =
            acknowledged.iter().filter(|number| stored_numbers.binary_search(number).is_err()).collect();
        assert!(missing_numbers.is_empty(), "{key} lacks {missing_numbers:?}, which were acknowledged");
        let applied_but_refused: Vec<_> = stored_numbers.iter().filter(|number| refused.contains(number)).collect();
        assert!(
            applied_but_refused.is_empty(),
            "{key} has {applied_but_refused:?}, which were rejected as not applied"
        );
    }
    assert_eq!(Load::read_counter(&load.unexplained_responses), 0, "HTTP responses that no command order explains");
}

fn print_report(title: &str, load: &Load) {
    let value_of = Load::read_counter;
    eprintln!(
        "{title}: {} lists, {} commands done, {} refused, {} unknown, {} misplaced",
        load.lists.lock().unwrap().len(),
        value_of(&load.acknowledged),
        value_of(&load.refused),
        value_of(&load.unknown_outcomes),
        value_of(&load.unexplained_responses),
    );
}

#[test]
fn commands_keep_their_order_through_leader_transfers_and_crashes() {
    let connections = env_number("DRAVE_ORDER_CONNECTIONS", 8) as usize;
    let (transfers, crashes) = (env_number("DRAVE_ORDER_TRANSFERS", 12), env_number("DRAVE_ORDER_DEATHS", 3));
    let mut cluster = Cluster::prepare(3);
    let base_port = reserve_ports(6);
    cluster.redis_addresses = (base_port..base_port + 3).map(|port| format!("127.0.0.1:{port}")).collect();
    cluster.http_addresses = (base_port + 3..base_port + 6).map(|port| format!("127.0.0.1:{port}")).collect();
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();

    let load = run_under_load(&mut cluster, connections, "transfers", |cluster, _| {
        for _ in 0..transfers {
            std::thread::sleep(FAULT_INTERVAL);
            let transfer_succeeds = || (cluster.run(&["transfer", "--timeout", "10s"]).code == Some(0)).then_some(());
            wait_until("the leadership is transferred", transfer_succeeds, || cluster.logs());
        }
    });
    print_report(&format!("{transfers} transfers"), &load);
    check_lists(&cluster, &load);
    assert_eq!(Load::read_counter(&load.unknown_outcomes), 0, "a planned transfer leaves no outcome unknown");
    cluster.expect_no_deaths();

    let load = run_under_load(&mut cluster, connections, "deaths", |cluster, load| {
        for _ in 0..crashes {
            std::thread::sleep(FAULT_INTERVAL);
            let leader = cluster.wait_for_leader();
            cluster.kill(leader);
            let acknowledged_before = Load::read_counter(&load.acknowledged);
            let load_continues = || (Load::read_counter(&load.acknowledged) > acknowledged_before + 100).then_some(());
            wait_until("another node leads", load_continues, || cluster.logs());
            cluster.spawn(leader);
        }
    });
    print_report(&format!("{crashes} deaths"), &load);
    check_lists(&cluster, &load);
    cluster.wait_for_convergence();
}
