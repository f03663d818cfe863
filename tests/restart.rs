//! A node that is killed with all its data in the log reads that log, applies it, and serves again as before.
//!
//! `DRAVE_RESTART_ENTRIES` is the number of entries of 128 bytes in the log, `DRAVE_RESTART_NODES` the number of nodes
//! that are killed and restarted at once; `--nocapture` shows the times. `scripts/restart.sh` uses realistic sizes.

use drave::api::Consistency;
use drave::client::{Client, Options};
use drave::machine::{Answer, Command as Do, Query};
use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Cluster, WAIT_TIMEOUT, wait_until};

mod support;

/// Number of restarts: in the first one, the files may have to be read from disk.
const ROUNDS: usize = 3;

fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Starts nodes that take no snapshots, and fills their logs.
fn prepare_filled_cluster(nodes: u64, entries: u64) -> Cluster {
    let mut cluster = Cluster::prepare(nodes as u16);
    let segment_size = if entries < 100_000 { "4MiB" } else { "64MiB" };
    let args = ["--segment-size", segment_size, "--reserve", "4MiB", "--snapshot-log-bytes", "1TiB"];
    cluster.extra_args = args.into_iter().chain(["--snapshot-max-age", "1000days"]).map(str::to_owned).collect();
    (0..cluster.len()).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    let (total, keys) = (entries.to_string(), (entries / 10).clamp(100, 100_000).to_string());
    let args = ["bench", "put", "--clients", "8", "--inflight", "256", "--total", &total, "--keys", &keys];
    let output =
        cluster.run(&[&args[..], &["--warmup", "0s", "--duration", "1h", "--timeout", "60s", "--keep"]].concat());
    assert_eq!(output.code, Some(0), "{output:?}\n{}", cluster.logs());
    cluster
}

/// Reads all files of a directory as fast as possible. Returns the number of bytes and the time it took.
fn read_all_files(directory: &Path) -> (u64, Duration) {
    let mut buffer = vec![0; 1 << 20];
    let (mut bytes, started) = (0, Instant::now());
    for entry in std::fs::read_dir(directory).unwrap() {
        let mut file = std::fs::File::open(entry.unwrap().path()).unwrap();
        loop {
            match file.read(&mut buffer).unwrap() {
                0 => break,
                n => bytes += n as u64,
            }
        }
    }
    (bytes, started.elapsed())
}

fn put_lunch(client: &mut Client, value: &[u8]) {
    let executed = client.execute(&Do::Put { key: b"lunch", value }.encode()).unwrap();
    assert!(matches!(Answer::decode(executed.answer), Ok(Answer::Done)));
}

fn get_lunch(client: &mut Client) -> Vec<u8> {
    let queried = client.query(&Query::Get { key: b"lunch" }.encode(), Consistency::Linearizable).unwrap();
    let Ok(Answer::Value(Some(value))) = Answer::decode(queried.answer) else { panic!("no value") };
    value.to_vec()
}

/// Starts all nodes. Returns the time until the first read, and until the first write after it.
fn restart(cluster: &mut Cluster, round: usize) -> (Duration, Duration) {
    let started = Instant::now();
    (0..cluster.len()).for_each(|n| cluster.spawn(n));
    let node_listens = || TcpStream::connect(&cluster.addresses[0]).ok();
    wait_until("the node listens", node_listens, || cluster.logs());
    let timeout = WAIT_TIMEOUT + Duration::from_secs(60);
    let mut client = Client::with_options(cluster.addresses.clone(), Options { timeout, ..Options::default() });
    assert_eq!(get_lunch(&mut client), format!("noodles {round}").as_bytes(), "{}", cluster.logs());
    let time_to_first_read = started.elapsed();
    put_lunch(&mut client, format!("noodles {}", round + 1).as_bytes());
    (time_to_first_read, started.elapsed())
}

#[test]
fn killed_node_serves_its_log_after_restart() {
    let (entries, nodes) = (env_number("DRAVE_RESTART_ENTRIES", 40_000), env_number("DRAVE_RESTART_NODES", 1));
    let mut cluster = prepare_filled_cluster(nodes, entries);
    put_lunch(&mut cluster.client(), b"noodles 0");
    for round in 0..ROUNDS {
        let log_length_before = cluster.logs().len();
        (0..cluster.len()).for_each(|n| cluster.kill(n));
        let (bytes, plain_read) = read_all_files(&cluster.data_dir(0).join("wal"));
        let (time_to_first_read, time_to_write) = restart(&mut cluster, round);
        let status = wait_until("the node answers", || cluster.status(0), || cluster.logs());
        assert_eq!((status.log.first, status.log.snapshot), (1, 0), "all entries are in the log");
        assert!(status.applied >= entries, "{status:?}");
        let logs = cluster.logs();
        let count_log_lines = |text: &str| logs.lines().filter(|line| line.contains(text)).count();
        assert_eq!(count_log_lines("recovered in "), (round + 1) * cluster.len(), "{logs}");
        let gb_per_second = bytes as f64 / 1e9 / plain_read.as_secs_f64();
        eprintln!(
            "{entries} entries on {nodes} nodes: read after {time_to_first_read:.2?}, write after {time_to_write:.2?}"
        );
        eprintln!("  a plain read of {} MB: {plain_read:.2?}, {gb_per_second:.2} GB/s", bytes.div_ceil(1_000_000));
        let phase_texts = ["recovered in ", "applied the log: "];
        let lines = logs[log_length_before..].lines().filter(|line| phase_texts.iter().any(|text| line.contains(text)));
        lines.for_each(|line| eprintln!("  {}", line.split("] ").last().unwrap()));
    }
    cluster.expect_no_deaths();
    cluster.wait_for_convergence();
}
