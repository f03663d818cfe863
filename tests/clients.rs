//! Unmodified Redis clients at the Redis gateways: redis-cli, redis-benchmark and redis-py, with all nodes running and
//! after a crash of the leader.

use std::path::Path;
use support::{
    BackgroundProgram, Cluster, ProgramOutput, cluster_with_default_redis_ports, cluster_with_redis,
    command_if_installed, run, wait_until,
};

mod support;

/// Runs redis-cli against a gateway. Returns `None` if redis-cli is not installed.
fn run_redis_cli(address: &str, args: &[&str]) -> Option<ProgramOutput> {
    let (host, port) = address.split_once(':').unwrap();
    Some(run(command_if_installed("redis-cli")?.args(["-h", host, "-p", port]).args(args)))
}

#[test]
fn redis_cli_talks_to_leader_and_followers() {
    let (cluster, addresses) = cluster_with_redis(3, &[]);
    for (n, address) in addresses.iter().enumerate() {
        let key = format!("of-{n}");
        let run_command =
            |args: &[&str]| run_redis_cli(address, args).map(|output| (output.out.trim_end().to_owned(), output.code));
        let Some(output) = run_command(&["SET", &key, "noodles", "EX", "100"]) else { return };
        assert_eq!(output, ("OK".to_owned(), Some(0)), "{}", cluster.logs());
        let reply = |args: &[&str]| run_command(args).unwrap().0;
        assert_eq!(reply(&["GET", &key]), "noodles");
        assert_eq!(reply(&["-3", "GET", &key]), "noodles");
        assert_eq!(reply(&["--no-raw", "GET", "none"]), "(nil)");
        assert_eq!(reply(&["APPEND", &key, "!"]), "8");
        assert!((1..=100).contains(&reply(&["TTL", &key]).parse::<i64>().unwrap()));
        assert_eq!(reply(&["INCRBY", "n", "5"]).parse::<i64>().unwrap(), 5 * (n as i64 + 1));
        assert_eq!(reply(&["-3", "--json", "MGET", &key, "none"]), "[\"noodles!\",null]");
        assert_eq!(reply(&["PING", "hello"]), "hello");
        assert!(reply(&["INFO"]).contains("redis_mode:standalone"));
        assert!(reply(&["NOSUCH"]).starts_with("ERR unknown command 'NOSUCH'"));
    }
    // redis-cli can list all keys of a cluster by scanning.
    let output = run_redis_cli(&addresses[0], &["--scan"]).unwrap();
    let mut keys: Vec<&str> = output.out.lines().collect();
    keys.sort_unstable();
    assert_eq!(keys, ["n", "of-0", "of-1", "of-2"]);
}

/// Starts redis-benchmark with 20 connections that send `requests` requests in each test. Returns `None` if
/// redis-benchmark is not installed.
fn start_benchmark(directory: &Path, address: &str, requests: &str) -> Option<BackgroundProgram> {
    let (host, port) = address.split_once(':').unwrap();
    let mut command = command_if_installed("redis-benchmark")?;
    command.args(["-h", host, "-p", port, "-t", "ping,set,get,incr,mset", "-n", requests, "-c", "20", "-r", "1000"]);
    Some(BackgroundProgram::start(directory, "redis-benchmark", command.args(["--csv"])))
}

/// Asserts that redis-benchmark reports each of its tests, and no error.
fn expect_all_benchmark_results(output: &ProgramOutput) {
    assert_eq!(output.code, Some(0), "{output:?}");
    for test in ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"] {
        assert!(output.out.contains(&format!("\"{test}\",")), "{test}: {output:?}");
    }
    assert!(!output.out.contains("rror") && !output.err.contains("rror"), "{output:?}");
}

#[test]
fn redis_benchmark_runs_at_leader_and_follower() {
    let (cluster, addresses) = cluster_with_redis(3, &[]);
    let leader = cluster.wait_for_leader();
    for n in [leader, (leader + 1) % 3] {
        let Some(benchmark) = start_benchmark(cluster.directory.path(), &addresses[n], "2000") else { return };
        expect_all_benchmark_results(&benchmark.wait_with_output());
    }
}

#[test]
fn redis_benchmark_at_follower_survives_leader_failure() {
    let (mut cluster, addresses) = cluster_with_redis(3, &[]);
    let leader = cluster.wait_for_leader();
    let follower = (leader + 1) % 3;
    let Some(mut benchmark) = start_benchmark(cluster.directory.path(), &addresses[follower], "20000") else { return };
    // The leader must be killed while the benchmark writes.
    let commit_before = cluster.status(follower).unwrap().commit;
    let benchmark_has_written =
        || cluster.status(follower).filter(|status| status.commit > commit_before + 100).map(|_| ());
    wait_until("the benchmark writes", benchmark_has_written, || cluster.logs());
    cluster.kill(leader);
    assert!(benchmark.is_running(), "the client ends before the leader is killed");
    wait_until("another node leads", || cluster.leader_among(0..3).filter(|now| *now != leader), || cluster.logs());
    expect_all_benchmark_results(&benchmark.wait_with_output());
}

/// A Python script that increments a counter and prints the number of acknowledged increments. It checks that the
/// counter exceeds that number at most by the increments of unknown outcome.
const COUNTING_SCRIPT: &str = r#"
import sys, time, redis
ports = [int(port) for port in sys.argv[2:]]
if sys.argv[1] == "cluster":
    nodes = [redis.cluster.ClusterNode("127.0.0.1", port) for port in ports]
    connect = lambda: redis.cluster.RedisCluster(startup_nodes=nodes, socket_timeout=5)
else:
    connect = lambda: redis.Redis(port=ports[0], socket_timeout=5)
client, sure, perhaps, until = None, 0, 0, time.monotonic() + 60
print("begins", flush=True)
while sure < 3000 and time.monotonic() < until:
    try:
        client = client or connect()
    except Exception as error:
        time.sleep(0.05)
        continue
    try:
        client.incr("n")
        sure += 1
    except Exception as error:
        client, perhaps = None, perhaps + 1
        time.sleep(0.05)
holds = int(connect().get("n"))
assert sure <= holds <= sure + perhaps, (sure, holds, perhaps)
client = connect()
assert client.set("lunch", "noodles", px=60000) and client.get("lunch") == b"noodles" and 0 < client.ttl("lunch") <= 60
if sys.argv[1] != "cluster":
    assert client.mget("lunch", "none") == [b"noodles", None]
    pipe = client.pipeline(transaction=True)
    assert pipe.set("a", 1).incr("a").get("a").execute() == [True, 2, b"2"]
    assert sorted(client.scan_iter("*")) == [b"a", b"lunch", b"n"]
assert client.exists("lunch") == 1 and client.delete("lunch") == 1
print(sure)
"#;

/// Runs [`COUNTING_SCRIPT`] against the gateways of `nodes`, and kills the leader while the script runs.
fn count_during_leader_failure(redis_py_class: &str, cluster: &mut Cluster, addresses: &[String], nodes: &[usize]) {
    let leader = cluster.wait_for_leader();
    let Some(mut command) = command_if_installed("python3") else { return };
    let ports = nodes.iter().map(|n| addresses[*n].split_once(':').unwrap().1);
    command.args(["-c", COUNTING_SCRIPT, redis_py_class]).args(ports).env("PATH", "/usr/bin:/bin");
    let mut script = BackgroundProgram::start(cluster.directory.path(), "script", &mut command);
    let counter_reaches = |minimum: i64| {
        let output = cluster.run(&["get", "n"]);
        output.out.trim().parse::<i64>().ok().filter(|n| *n >= minimum).map(|_| ())
    };
    wait_until("the script increments the counter", || counter_reaches(100), || cluster.logs());
    cluster.kill(leader);
    assert!(script.is_running(), "the client ends before the leader is killed");
    let output = script.wait_with_output();
    assert_eq!((output.code, output.out.as_str()), (Some(0), "begins\n3000\n"), "{output:?}\n{}", cluster.logs());
    cluster.spawn(leader);
    cluster.wait_for_convergence();
}

/// Whether Debian's Python has redis-py. Debian's comes first in `PATH`, since other Pythons may lack it.
fn has_redis_py() -> bool {
    let Some(mut command) = command_if_installed("python3") else { return false };
    let has_module = run(command.args(["-c", "import redis"]).env("PATH", "/usr/bin:/bin")).code == Some(0);
    let is_required = std::env::var("DRAVE_MUST_HAVE_CLIENTS").is_ok_and(|set| set == "1");
    assert!(has_module || !is_required, "redis-py is not installed");
    if !has_module {
        eprintln!("not run: redis-py is not installed");
    }
    has_module
}

#[test]
fn redis_py_at_follower_survives_leader_failure() {
    if !has_redis_py() {
        return;
    }
    let (mut cluster, addresses) = cluster_with_redis(3, &[]);
    let follower = (cluster.wait_for_leader() + 1) % 3;
    count_during_leader_failure("plain", &mut cluster, &addresses, &[follower]);
}

#[test]
fn redis_py_cluster_client_survives_leader_failure() {
    if !has_redis_py() {
        return;
    }
    let mut cluster = cluster_with_default_redis_ports(&["--resp-follower", "moved"]);
    let addresses = cluster.redis_addresses.clone();
    count_during_leader_failure("cluster", &mut cluster, &addresses, &[0, 1, 2]);
}
