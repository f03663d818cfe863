//! Sends the same commands to a node and to a redis-server, where one is installed. Replies must be equal, including
//! error texts.

mod support;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use redis::{Connection, Value};
use support::{BackgroundProgram, cluster_with_redis, command_if_installed, reserve_ports, wait_until};

/// Starts a redis-server without persistence.
fn start_redis_server(directory: &std::path::Path) -> Option<(BackgroundProgram, Connection)> {
    let port = reserve_ports(1);
    let mut command = command_if_installed("redis-server")?;
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(directory);
    let process = BackgroundProgram::start(directory, "redis-server", &mut command);
    let connection = wait_until("redis-server answers", || connect(&format!("127.0.0.1:{port}")), String::new);
    Some((process, connection))
}

fn connect(address: &str) -> Option<Connection> {
    redis::Client::open(format!("redis://{address}/")).ok()?.get_connection().ok()
}

/// The reply as text. Only the keys of a scan are compared, in order, since cursors differ between servers.
fn reply_text(connection: &mut Connection, line: &str) -> String {
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().unwrap_or_default());
    for word in words {
        command.arg(word);
    }
    match command.query::<Value>(connection) {
        Ok(Value::Array(values)) if line.starts_with("SCAN") => {
            let mut sorted_keys = format!("{:?}", values.last()).split(", ").map(str::to_owned).collect::<Vec<_>>();
            sorted_keys.sort_unstable();
            sorted_keys.join(" ")
        }
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("{error}"),
    }
}

/// Commands whose replies once differed from Redis's, or could easily differ.
const COMMAND_LINES: &[&str] = &[
    "SET k 007",
    "INCR k",
    "GET k",
    "SET k +1",
    "INCR k",
    "SET k -0",
    "INCR k",
    "SET k 00",
    "DECR k",
    "SET k 1.0",
    "INCR k",
    "SET k 5",
    "INCRBY k 01",
    "INCRBY k +1",
    "INCRBY k -0",
    "DECRBY k 01",
    "INCRBY k 9223372036854775807",
    "GET k",
    "SET k v EX 01",
    "SET k v PX +5",
    "EXPIRE k 01",
    "EXPIRE k -0",
    "PEXPIRE k 1.5",
    "SELECT 00",
    "HELLO 02",
    "SET k v EX 1 EX 36000",
    "SET k v PX 1 PX 36000000 XX XX",
    "SET k v KEEPTTL KEEPTTL",
    "PERSIST k",
    "PERSIST k",
    "SET k v EX 10 PX 10",
    "SET k v EX 10 KEEPTTL",
    "SET k v NX XX",
    "SET k v GET GET",
    "SET k v EX",
    "SET k v EX x WHAT",
    "SET k v EX 0",
    "SET k v PX -1",
    "SET k v EX 9223372036854775807",
    "SET k v",
    "PEXPIREAT k -9223372036854775808",
    "EXISTS k",
    "SET k v",
    "EXPIREAT k -9223372036854775808",
    "EXISTS k",
    "PEXPIRE k -9223372036854775808",
    "EXISTS k",
    "SET k v",
    "PEXPIREAT k 9223372036854775807",
    "EXPIREAT k 0",
    "EXISTS k",
    "SET k v",
    "PEXPIREAT k 4102444800000",
    "EXPIREAT k 4102448400 GT",
    "EXPIREAT k 4102444800 LT",
    "EXPIRE k 5 GT LT",
    "EXPIRE k 5 NX XX",
    "EXPIRE k 5 NX NX",
    "PERSIST k",
    "EXPIRE k 36000 GT",
    "EXPIRE k 36000 LT",
    "EXPIRE k 36000 WHAT",
    "EXPIRE k 01 NX WHAT",
    "EXPIRE k x NX XX",
    "EXPIRE k 5 NX XX WHAT",
    "EXPIREAT k 9223372036854775807 GT LT",
    "SCAN 0",
    "SCAN 0 TYPE string",
    "SCAN 0 TYPE STRING COUNT 3",
    "SCAN 0 TYPE hash",
    "SCAN x",
    "SCAN 0 COUNT 0",
    "SCAN 0 COUNT x",
    "SCAN 0 MATCH",
    "SCAN 0 WHAT 1",
    "SCAN 0 MATCH k*",
    "SCAN 0 MATCH [a-]",
    "SCAN 0 MATCH [^k",
    "MULTI",
    "SCAN 0",
    "INCR k",
    "EXEC",
    "MULTI",
    "GET k",
    "EXEC now",
    "GET k",
    "EXEC now",
    "MULTI",
    "NONSENSE a b",
    "EXEC",
    "DISCARD",
    "EXEC",
    "NONSENSE",
    "NONSENSE a b",
    "CONFIG",
    "CONFIG NONSENSE",
    "CLIENT NONSENSE x",
    "CLUSTER",
    "CONFIG GET",
    "CLIENT ID x",
    "CLIENT SETNAME",
    "COMMAND COUNT x",
    "CLUSTER NONSENSE",
    "MULTI",
    "CONFIG GET",
    "SET k 1",
    "EXEC",
    "MULTI",
    "CLIENT NONSENSE",
    "SET k 1",
    "EXEC",
    "CONFIG GET maxmemory",
    "CONFIG GET appendonly-what",
    "APPEND k",
    "GETRANGEX k 0 1",
    "DEL",
    "MSET a",
    "MSET a 1 b",
];

#[test]
fn replies_equal_those_of_a_redis_server() {
    let (cluster, addresses) = cluster_with_redis(1, &[]);
    let Some((_server, mut redis_connection)) = start_redis_server(cluster.directory.path()) else { return };
    let mut drave_connection = connect(&addresses[0]).unwrap();
    let mut command_lines: Vec<String> = COMMAND_LINES.iter().map(|line| (*line).to_owned()).collect();
    let mut rng = SmallRng::seed_from_u64(0x7265_6469);
    let mut pick = |choices: &[&'static str]| choices[rng.random_range(0..choices.len())];
    for _ in 0..1200 {
        let key = pick(&["a", "b", "c"]);
        let number =
            pick(&["1", "-1", "0", "007", "-0", "+3", "10", "9223372036854775807", "-9223372036854775808", "x", "1.5"]);
        command_lines.push(match pick(&["set", "options", "incr", "get", "expire", "del", "append", "mget"]) {
            "set" => format!("SET {key} {number}"),
            "options" => {
                let set_options =
                    ["NX", "XX", "GET", "EX 36000", "EX 72000", "PX 36000000", "KEEPTTL", "EXAT 4102444800"];
                format!("SET {key} {number} {} {}", pick(&set_options), pick(&set_options))
            }
            "incr" => format!("{} {key} {number}", pick(&["INCRBY", "DECRBY"])),
            "get" => format!("{} {key}", pick(&["GET", "INCR", "DECR", "STRLEN", "TYPE", "EXISTS", "PERSIST"])),
            // The times to live are hours, so that no key expires during the test.
            "expire" => format!("EXPIRE {key} {} {}", pick(&["36000", "72000"]), pick(&["NX", "XX", "NX", "XX"])),
            "del" => format!("DEL {key} {key}"),
            "append" => format!("APPEND {key} {number}"),
            _ => "MGET a b c none".to_owned(),
        });
    }
    for line in command_lines {
        assert_eq!(
            reply_text(&mut drave_connection, &line),
            reply_text(&mut redis_connection, &line),
            "{line}\n{}",
            cluster.logs()
        );
    }
}
