//! Existing clients, unmodified: redis-cli, redis-benchmark and redis-py at the Redis gateways, with all nodes up and
//! with nodes dying.

use std::path::Path;
use support::{Beside, Cluster, Said, cluster_with_default_redis_ports, doors, installed, run, until};

mod support;

/// Runs redis-cli against a gateway.
fn cli(door: &str, words: &[&str]) -> Option<Said> {
    let (host, port) = door.split_once(':').unwrap();
    Some(run(installed("redis-cli")?.args(["-h", host, "-p", port]).args(words)))
}

#[test]
fn redis_cli_talks_to_leader_and_followers() {
    let (cluster, doors) = doors(3, &[]);
    for (n, door) in doors.iter().enumerate() {
        let key = format!("of-{n}");
        let say = |words: &[&str]| cli(door, words).map(|said| (said.out.trim_end().to_owned(), said.code));
        let Some(said) = say(&["SET", &key, "noodles", "EX", "100"]) else { return };
        assert_eq!(said, ("OK".to_owned(), Some(0)), "{}", cluster.logs());
        let ask = |words: &[&str]| say(words).unwrap().0;
        assert_eq!(ask(&["GET", &key]), "noodles");
        assert_eq!(ask(&["-3", "GET", &key]), "noodles");
        assert_eq!(ask(&["--no-raw", "GET", "none"]), "(nil)");
        assert_eq!(ask(&["APPEND", &key, "!"]), "8");
        assert!((1..=100).contains(&ask(&["TTL", &key]).parse::<i64>().unwrap()));
        assert_eq!(ask(&["INCRBY", "n", "5"]).parse::<i64>().unwrap(), 5 * (n as i64 + 1));
        assert_eq!(ask(&["-3", "--json", "MGET", &key, "none"]), "[\"noodles!\",null]");
        assert_eq!(ask(&["PING", "hello"]), "hello");
        assert!(ask(&["INFO"]).contains("redis_mode:standalone"));
        assert!(ask(&["NOSUCH"]).starts_with("ERR unknown command 'NOSUCH'"));
    }
    // redis-cli can list all keys of a cluster by scanning.
    let said = cli(&doors[0], &["--scan"]).unwrap();
    let mut keys: Vec<&str> = said.out.lines().collect();
    keys.sort_unstable();
    assert_eq!(keys, ["n", "of-0", "of-1", "of-2"]);
}

/// Starts redis-benchmark in the background.
fn benchmark(directory: &Path, door: &str, requests: &str) -> Option<Beside> {
    let (host, port) = door.split_once(':').unwrap();
    let mut command = installed("redis-benchmark")?;
    command.args(["-h", host, "-p", port, "-t", "ping,set,get,incr,mset", "-n", requests, "-c", "20", "-r", "1000"]);
    Some(Beside::start(directory, "redis-benchmark", command.args(["--csv"])))
}

/// Asserts that redis-benchmark reports each of its tests, and no error.
fn expect_all_benchmarks(said: &Said) {
    assert_eq!(said.code, Some(0), "{said:?}");
    for test in ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"] {
        assert!(said.out.contains(&format!("\"{test}\",")), "{test}: {said:?}");
    }
    assert!(!said.out.contains("rror") && !said.err.contains("rror"), "{said:?}");
}

#[test]
fn redis_benchmark_runs_at_leader_and_follower() {
    let (cluster, doors) = doors(3, &[]);
    let leader = cluster.leader();
    for n in [leader, (leader + 1) % 3] {
        let Some(bench) = benchmark(cluster.directory.path(), &doors[n], "2000") else { return };
        expect_all_benchmarks(&bench.end());
    }
}

#[test]
fn redis_benchmark_at_follower_survives_leader_failure() {
    let (mut cluster, doors) = doors(3, &[]);
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let Some(mut bench) = benchmark(cluster.directory.path(), &doors[follower], "20000") else { return };
    // Wait until the benchmark writes.
    let before = cluster.status(follower).unwrap().commit;
    let writes = || cluster.status(follower).filter(|status| status.commit > before + 100).map(|_| ());
    until("the benchmark writes", writes, || cluster.logs());
    cluster.kill(leader);
    assert!(bench.is_running(), "the client ends before the leader is killed");
    until("another node leads", || cluster.leader_of(0..3).filter(|now| *now != leader), || cluster.logs());
    expect_all_benchmarks(&bench.end());
}

/// A Python script that increments a counter and prints the number of acknowledged increments; those of unknown outcome
/// are counted as well.
const COUNTS: &str = r#"
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

/// Runs the script against a cluster whose leader is killed meanwhile.
fn count_during_leader_failure(how: &str, cluster: &mut Cluster, doors: &[String], asked: &[usize]) {
    let leader = cluster.leader();
    let Some(mut command) = installed("python3") else { return };
    let ports = asked.iter().map(|n| doors[*n].split_once(':').unwrap().1);
    command.args(["-c", COUNTS, how]).args(ports).env("PATH", "/usr/bin:/bin");
    let mut script = Beside::start(cluster.directory.path(), "script", &mut command);
    let counts = |least: i64| {
        let said = cluster.run(&["get", "n"]);
        said.out.trim().parse::<i64>().ok().filter(|n| *n >= least).map(|_| ())
    };
    until("the script increments the counter", || counts(100), || cluster.logs());
    cluster.kill(leader);
    assert!(script.is_running(), "the client ends before the leader is killed");
    let said = script.end();
    assert_eq!((said.code, said.out.as_str()), (Some(0), "begins\n3000\n"), "{said:?}\n{}", cluster.logs());
    cluster.spawn(leader);
    cluster.agree();
}

/// Whether Debian's Python has redis-py. Debian's comes first in `PATH`, since other Pythons may lack it.
fn has_redis_py() -> bool {
    let Some(mut command) = installed("python3") else { return false };
    let has = run(command.args(["-c", "import redis"]).env("PATH", "/usr/bin:/bin")).code == Some(0);
    let must = std::env::var("DRAVE_MUST_HAVE_CLIENTS").is_ok_and(|set| set == "1");
    assert!(has || !must, "redis-py is not installed");
    if !has {
        eprintln!("not run: redis-py is not installed");
    }
    has
}

#[test]
fn redis_py_at_follower_survives_leader_failure() {
    if !has_redis_py() {
        return;
    }
    let (mut cluster, doors) = doors(3, &[]);
    let follower = (cluster.leader() + 1) % 3;
    count_during_leader_failure("plain", &mut cluster, &doors, &[follower]);
}

#[test]
fn redis_py_cluster_client_survives_leader_failure() {
    if !has_redis_py() {
        return;
    }
    let mut cluster = cluster_with_default_redis_ports(&["--resp-follower", "moved"]);
    let doors = cluster.doors.clone();
    count_during_leader_failure("cluster", &mut cluster, &doors, &[0, 1, 2]);
}
