//! The Redis gateway over real sockets: the reply to each command, the order of replies, and the outcome of commands
//! when nodes die.

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use support::{WAIT_TIMEOUT, cluster_with_default_redis_ports, cluster_with_redis, run, wait_until};

/// A parsed RESP reply.
#[derive(Clone, PartialEq, Debug)]
enum Value {
    SimpleString(String),
    Error(String),
    Number(i64),
    Bulk(String),
    Nil,
    Array(Vec<Value>),
    Map(Vec<Value>),
}

use Value::{Array, Bulk, Error, Map, Nil, Number, SimpleString};

fn bulk(text: &str) -> Value {
    Bulk(text.to_owned())
}

fn ok_reply() -> Value {
    SimpleString("OK".to_owned())
}

/// One client connection to a Redis gateway.
struct RedisClient {
    stream: BufReader<TcpStream>,
}

impl RedisClient {
    fn dial(address: &str) -> RedisClient {
        RedisClient::try_dial(address).unwrap()
    }

    fn try_dial(address: &str) -> std::io::Result<RedisClient> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WAIT_TIMEOUT))?;
        Ok(RedisClient { stream: BufReader::new(stream) })
    }

    fn send(&mut self, args: &[&str]) {
        self.try_send(args).unwrap();
    }

    fn try_send(&mut self, args: &[&str]) -> std::io::Result<()> {
        self.send_raw(&encode_command(args))
    }

    fn send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    fn read_reply(&mut self) -> Value {
        self.try_read_reply().unwrap()
    }

    fn try_read_reply(&mut self) -> std::io::Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.strip_suffix("\r\n").expect("each line ends in CRLF");
        let (kind, rest) = line.split_at(1);
        let parse_count = || rest.parse::<i64>().unwrap();
        Ok(match kind {
            "+" => SimpleString(rest.to_owned()),
            "-" => Error(rest.to_owned()),
            ":" => Number(parse_count()),
            "_" => Nil,
            "$" if parse_count() < 0 => Nil,
            "$" => {
                let mut bytes = vec![0; parse_count() as usize + 2];
                self.stream.read_exact(&mut bytes)?;
                assert_eq!(bytes.split_off(bytes.len() - 2), b"\r\n");
                Bulk(String::from_utf8_lossy(&bytes).into_owned())
            }
            "*" => Array((0..parse_count()).map(|_| self.try_read_reply()).collect::<Result<_, _>>()?),
            "%" => Map((0..2 * parse_count()).map(|_| self.try_read_reply()).collect::<Result<_, _>>()?),
            other => panic!("no reply type starts with {other:?}"),
        })
    }

    /// Sends a command given as words separated by single spaces, and reads its reply.
    fn request(&mut self, line: &str) -> Value {
        self.send(&line.split(' ').collect::<Vec<_>>());
        self.read_reply()
    }

    /// Whether the gateway has closed the connection, with nothing left to read.
    fn is_closed(&mut self) -> bool {
        // If the gateway closes with unread input, the client receives a reset instead of an end of file.
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }
}

fn encode_command(args: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len());
    for word in args {
        out += &format!("${}\r\n{word}\r\n", word.len());
    }
    out.into_bytes()
}

#[test]
fn every_command_replies_like_redis() {
    let (cluster, addresses) = cluster_with_redis(1, &[]);
    let mut redis = RedisClient::dial(&addresses[0]);
    let error = |text: &str| Error(text.to_owned());
    let array = |all: &[&str]| Array(all.iter().map(|text| bulk(text)).collect());
    for (command, reply) in [
        ("PING", SimpleString("PONG".into())),
        ("ping hello", bulk("hello")),
        ("ECHO hello", bulk("hello")),
        ("SELECT 0", ok_reply()),
        ("SELECT 1", error("ERR DB index is out of range")),
        ("GET k", Nil),
        ("SET k v", ok_reply()),
        ("GET k", bulk("v")),
        ("SET k w NX", Nil),
        ("SET k w XX GET", bulk("v")),
        ("SET other w XX", Nil),
        ("SET k v NX XX", error("ERR syntax error")),
        ("SET k v EX 0", error("ERR invalid expire time in 'set' command")),
        ("SET k v EX x", error("ERR value is not an integer or out of range")),
        ("SET k v EX 10 PX 10", error("ERR syntax error")),
        ("SET k v EX 10 KEEPTTL", error("ERR syntax error")),
        ("SET k v EX x WHAT", error("ERR syntax error")),
        ("SET k v EX 1 EX 100 XX XX", ok_reply()),
        ("TTL k", Number(100)),
        ("SET k v KEEPTTL KEEPTTL", ok_reply()),
        ("TTL k", Number(100)),
        ("SET k w", ok_reply()),
        ("STRLEN k", Number(1)),
        ("APPEND k xyz", Number(4)),
        ("GET k", bulk("wxyz")),
        ("TYPE k", SimpleString("string".into())),
        ("TYPE none", SimpleString("none".into())),
        ("INCR k", error("ERR value is not an integer or out of range")),
        ("INCR n", Number(1)),
        ("INCRBY n 10", Number(11)),
        ("DECR n", Number(10)),
        ("DECRBY n 20", Number(-10)),
        ("INCRBY n x", error("ERR value is not an integer or out of range")),
        ("INCRBY n 01", error("ERR value is not an integer or out of range")),
        ("SET k v EX 01", error("ERR value is not an integer or out of range")),
        ("EXPIRE k -0", error("ERR value is not an integer or out of range")),
        ("SET zeros 007", ok_reply()),
        ("INCR zeros", error("ERR value is not an integer or out of range")),
        ("GET zeros", bulk("007")),
        ("DEL zeros", Number(1)),
        ("SET n 9223372036854775807", ok_reply()),
        ("INCR n", error("ERR increment or decrement would overflow")),
        ("DECRBY n -9223372036854775808", error("ERR decrement would overflow")),
        ("MSET a 1 b 2", ok_reply()),
        ("MSET a 1 b", error("ERR wrong number of arguments for 'mset' command")),
        ("MGET a none b", Array(vec![bulk("1"), Nil, bulk("2")])),
        ("EXISTS a b none a", Number(3)),
        ("DBSIZE", Number(4)),
        ("DEL a", Number(1)),
        ("UNLINK a b none", Number(1)),
        ("TTL none", Number(-2)),
        ("TTL k", Number(-1)),
        ("EXPIRE k 100", Number(1)),
        ("TTL k", Number(100)),
        ("EXPIRE k 50 GT", Number(0)),
        ("EXPIRE k 50 NX GT", error("ERR NX and XX, GT or LT options at the same time are not compatible")),
        ("EXPIRE k 50 GT LT", error("ERR GT and LT options at the same time are not compatible")),
        ("EXPIRE k 50 what", error("ERR Unsupported option what")),
        ("EXPIRE k x NX XX what", error("ERR Unsupported option what")),
        ("EXPIRE k x GT LT", error("ERR GT and LT options at the same time are not compatible")),
        ("EXPIRE k 9223372036854775807", error("ERR invalid expire time in 'expire' command")),
        ("SET k v KEEPTTL", ok_reply()),
        ("TTL k", Number(100)),
        ("PERSIST k", Number(1)),
        ("PTTL k", Number(-1)),
        ("PEXPIRE k -1", Number(1)),
        ("EXISTS k", Number(0)),
        ("SET k v EXAT 1", ok_reply()),
        ("EXISTS k", Number(0)),
        ("SET k v", ok_reply()),
        ("EXPIREAT k 1", Number(1)),
        ("EXISTS k", Number(0)),
        ("EXPIRE none 10", Number(0)),
        ("EXPIRE k -9223372036854775808", error("ERR invalid expire time in 'expire' command")),
        ("SET k v", ok_reply()),
        ("PEXPIREAT k -9223372036854775808", Number(1)),
        ("EXISTS k", Number(0)),
        ("SET k v", ok_reply()),
        ("PEXPIRE k -9223372036854775808", Number(1)),
        ("EXISTS k", Number(0)),
        ("SCAN 0", Array(vec![bulk("0"), array(&["n"])])),
        ("SCAN 0 MATCH m*", Array(vec![bulk("0"), array(&[])])),
        ("SCAN 0 COUNT 0", error("ERR syntax error")),
        ("SCAN 0 TYPE string", Array(vec![bulk("0"), array(&["n"])])),
        ("SCAN 0 TYPE hash COUNT 5", Array(vec![bulk("0"), array(&[])])),
        ("SCAN 0 TYPE", error("ERR syntax error")),
        ("SCAN 18446744073709551615", Array(vec![bulk("0"), array(&[])])),
        ("SCAN -1", error("ERR invalid cursor")),
        ("SCAN x", error("ERR invalid cursor")),
        ("CONFIG GET save", array(&["save", ""])),
        ("CONFIG GET appendonly", array(&["appendonly", "yes"])),
        ("CONFIG GET maxmemory", array(&["maxmemory", "0"])),
        ("CONFIG GET what", array(&[])),
        ("CONFIG SET save x", error("ERR unknown subcommand 'SET'. Try CONFIG HELP.")),
        ("CLIENT SETINFO LIB-NAME x", ok_reply()),
        ("CLIENT GETNAME", Nil),
        ("CLIENT SETNAME me", ok_reply()),
        ("CLIENT GETNAME", bulk("me")),
        ("CLIENT LIST", error("ERR unknown subcommand 'LIST'. Try CLIENT HELP.")),
        ("COMMAND DOCS", error("ERR unknown subcommand 'DOCS'. Try COMMAND HELP.")),
        ("CLUSTER KEYSLOT foo", Number(12182)),
        ("CONFIG GET", error("ERR wrong number of arguments for 'config|get' command")),
        ("CLIENT ID x", error("ERR wrong number of arguments for 'client|id' command")),
        ("COMMAND count x", error("ERR wrong number of arguments for 'command|count' command")),
        ("CLUSTER KEYSLOT", error("ERR wrong number of arguments for 'cluster|keyslot' command")),
        ("CLUSTER RESET", error("ERR unknown subcommand 'RESET'. Try CLUSTER HELP.")),
        ("READONLY", ok_reply()),
        ("READWRITE", ok_reply()),
        ("ASKING", ok_reply()),
        ("WATCH k", error("ERR WATCH is not supported")),
        ("EXEC", error("ERR EXEC without MULTI")),
        ("DISCARD", error("ERR DISCARD without MULTI")),
        ("EXEC now", error("EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command")),
        ("FLUSHALL", error("ERR unknown command 'FLUSHALL', with args beginning with: ")),
        ("LPUSH k a b", error("ERR unknown command 'LPUSH', with args beginning with: 'k' 'a' 'b' ")),
        (
            "EVAL return 0",
            error(
                "NOAUTH EVAL is not supported: there are no scripts here, whatever the password. Nothing was applied",
            ),
        ),
        ("GET", error("ERR wrong number of arguments for 'get' command")),
        (
            "AUTH x",
            error(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
            ),
        ),
        ("HELLO 4", error("NOPROTO unsupported protocol version")),
        ("HELLO x", error("ERR Protocol version is not an integer or out of range")),
        ("QUIT", ok_reply()),
    ] {
        assert_eq!(redis.request(command), reply, "{command}\n{}", cluster.logs());
    }
    assert!(redis.is_closed());
}

#[test]
fn node_commands_describe_the_node() {
    let (cluster, addresses) = cluster_with_redis(1, &[]);
    let mut redis = RedisClient::dial(&addresses[0]);
    redis.request("SET k v");
    redis.request("SET ends v EX 1000");
    let Bulk(info) = redis.request("INFO") else { panic!("INFO is text") };
    for line in [
        "redis_mode:standalone",
        "loading:0",
        "connected_clients:",
        "db0:keys=2,expires=1",
        "leader_id:1",
        "num_sessions:1",
    ] {
        assert!(info.contains(line), "{line} in {info}");
    }
    for name in ["blocked_clients", "total_connections_received", "used_cpu_user", "used_memory", "master_repl_offset"]
    {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        assert!(value.is_some_and(|value| value.parse::<f64>().is_ok()), "{name} in {info}");
    }
    let mut field_names: Vec<&str> = info.lines().filter_map(|line| Some(line.split_once(':')?.0)).collect();
    field_names.sort_unstable();
    assert!(field_names.windows(2).all(|two| two[0] != two[1]), "{info}: each field name occurs once");
    assert!(info.contains("\r\nrole:master\r\n"), "{info}");
    let Bulk(raft) = redis.request("INFO raft") else { panic!("INFO is text") };
    assert!(raft.starts_with("# Raft\r\nnode_id:1\r\nraft_role:leader\r\n"), "{raft}");
    let Number(count) = redis.request("COMMAND COUNT") else { panic!("a count") };
    let Array(table) = redis.request("COMMAND") else { panic!("a table") };
    assert_eq!(table.len() as i64, count);
    let flags = Array(["readonly", "fast"].map(|flag| SimpleString(flag.into())).into());
    assert!(table.contains(&Array(vec![bulk("get"), Number(2), flags, Number(1), Number(1), Number(1)])));
    let port = addresses[0].rsplit_once(':').unwrap().1.parse().unwrap();
    let id = redis.request("CLUSTER MYID");
    let address_reply = Array(vec![bulk("127.0.0.1"), Number(port), id]);
    assert_eq!(redis.request("CLUSTER SLOTS"), Array(vec![Array(vec![Number(0), Number(16383), address_reply])]));
    let Map(hello) = redis.request("HELLO 3") else { panic!("RESP3 has maps") };
    assert_eq!(hello.len(), 14);
    assert_eq!(hello[4..6], [bulk("proto"), Number(3)]);
    assert_eq!(redis.request("GET none"), Nil);
    assert_eq!(redis.request("CONFIG GET save"), Map(vec![bulk("save"), bulk("")]));
    drop(redis);
    // The node closes the session of a connection when the client closes the connection.
    wait_until("the session is closed", || (cluster.status(0)?.sessions == 0).then_some(()), || cluster.logs());
}

#[test]
fn pipelined_replies_keep_order_and_see_earlier_writes() {
    let (_cluster, addresses) = cluster_with_redis(3, &[]);
    for address in &addresses {
        let mut redis = RedisClient::dial(address);
        let mut requests = Vec::new();
        for n in 0..300 {
            requests.extend(encode_command(&["SET", "k", &n.to_string()]));
            requests.extend(encode_command(&["GET", "k"]));
            requests.extend(encode_command(&["PING", &n.to_string()]));
            requests.extend_from_slice(format!("INCRBY sum {n}\r\n").as_bytes());
            requests.extend(encode_command(&["NONSENSE"]));
        }
        requests.extend(encode_command(&["DEL", "sum"]));
        redis.send_raw(&requests).unwrap();
        let mut sum = 0;
        for n in 0..300 {
            assert_eq!(redis.read_reply(), ok_reply());
            assert_eq!(redis.read_reply(), bulk(&n.to_string()));
            assert_eq!(redis.read_reply(), bulk(&n.to_string()));
            sum += n;
            assert_eq!(redis.read_reply(), Number(sum));
            assert_eq!(redis.read_reply(), Error("ERR unknown command 'NONSENSE', with args beginning with: ".into()));
        }
        assert_eq!(redis.read_reply(), Number(1));
    }
}

#[test]
fn transaction_is_one_entry_and_continues_after_errors() {
    let (cluster, addresses) = cluster_with_redis(1, &[]);
    let mut redis = RedisClient::dial(&addresses[0]);
    redis.request("SET text x");
    let last_index_before = cluster.status(0).unwrap().last;
    assert_eq!(redis.request("MULTI"), ok_reply());
    let queued = SimpleString("QUEUED".into());
    for command in
        ["SET a 1", "INCR text", "GET a", "SET a 2 EX x", "PING", "INCRBY a 5", "DEL text none", "MGET a text"]
    {
        assert_eq!(redis.request(command), queued, "{command}");
    }
    assert_eq!(redis.request("MULTI"), Error("ERR MULTI calls can not be nested".into()));
    let not_an_integer = || Error("ERR value is not an integer or out of range".into());
    let last_reply = Array(vec![bulk("6"), Nil]);
    let pong = SimpleString("PONG".into());
    let exec_replies =
        vec![ok_reply(), not_an_integer(), bulk("1"), not_an_integer(), pong, Number(6), Number(1), last_reply];
    assert_eq!(redis.request("EXEC"), Array(exec_replies));
    assert_eq!(cluster.status(0).unwrap().last, last_index_before + 1, "a transaction is one log entry");

    redis.request("MULTI");
    assert_eq!(redis.request("NONSENSE"), Error("ERR unknown command 'NONSENSE', with args beginning with: ".into()));
    redis.request("SET a 9");
    let exec_aborted = Error("EXECABORT Transaction discarded because of previous errors.".into());
    assert_eq!(redis.request("EXEC"), exec_aborted);
    for invalid_command in ["CONFIG SET save x", "CONFIG GET", "CLIENT LIST", "COMMAND COUNT x", "CLUSTER SLOTS x"] {
        redis.request("MULTI");
        assert!(
            matches!(redis.request(invalid_command), Error(_)),
            "{invalid_command}: an invalid command fails when it is queued"
        );
        redis.request("SET a 9");
        assert_eq!(redis.request("EXEC"), exec_aborted, "{invalid_command}");
    }
    redis.request("MULTI");
    redis.request("SET a 9");
    assert_eq!(redis.request("DISCARD"), ok_reply());
    assert_eq!(redis.request("GET a"), bulk("6"));
    redis.request("MULTI");
    assert_eq!(redis.request("EXEC"), Array(vec![]));
    redis.request("MULTI");
    assert_eq!(redis.request("SCAN 0 COUNT 100"), queued);
    let scan_reply = Array(vec![bulk("0"), Array(vec![bulk("a")])]);
    assert_eq!(redis.request("EXEC"), Array(vec![scan_reply]));
    redis.request("MULTI");
    redis.request("SET a 9");
    let abort_error =
        Error("EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command".into());
    assert_eq!(redis.request("EXEC now"), abort_error);
    assert_eq!(redis.request("GET a"), bulk("6"), "the aborted transaction changed nothing");
}

#[test]
fn oversized_value_is_rejected_and_connection_stays_open() {
    let (cluster, addresses) = cluster_with_redis(1, &[]);
    let mut redis = RedisClient::dial(&addresses[0]);
    let large_value = "x".repeat(9 << 20);
    for args in [
        &["SET", "big", &large_value][..],
        &["MSET", "big", "v", "other", &large_value],
        &["APPEND", "big", &large_value],
    ] {
        redis.send(args);
        let Error(error) = redis.read_reply() else { panic!("the command is over the limit") };
        assert!(
            error.starts_with(&format!("ERR {} 'big': ", args[0])) && error.contains("limit of 1048576 bytes"),
            "{error}"
        );
        assert_eq!(redis.request("GET big"), Nil);
    }
    let half_megabyte = &large_value[..1 << 19];
    let mset_args: Vec<&str> = std::iter::once("MSET").chain((0..20).map(|_| half_megabyte)).collect();
    redis.send(&mset_args);
    let Error(error) = redis.read_reply() else { panic!("the command is over the limit") };
    assert!(error.contains("limit of 4194304 bytes"), "{error}");
    redis.request("MULTI");
    redis.send(&["SET", "big", &large_value]);
    assert!(matches!(redis.read_reply(), Error(_)));
    assert_eq!(redis.request("EXEC"), Error("EXECABORT Transaction discarded because of previous errors.".into()));
    assert_eq!(redis.request("SET big v"), ok_reply(), "{}", cluster.logs());
    // A client that keeps sending still receives the error that ends the connection.
    redis.send_raw(format!("*1\r\n$999999999\r\n{large_value}").as_bytes()).unwrap();
    assert_eq!(redis.read_reply(), Error("ERR Protocol error: invalid bulk length".into()));
}

#[test]
fn oversized_reply_error_says_whether_command_ran() {
    let (_cluster, addresses) = cluster_with_redis(1, &[]);
    let mut redis = RedisClient::dial(&addresses[0]);
    let large_value = "x".repeat(700 << 10);
    for key in ["a", "b", "c"] {
        redis.send(&["SET", key, &large_value]);
        assert_eq!(redis.read_reply(), ok_reply());
    }
    let answer_bytes_max = drave::limits::ANSWER_BYTES_MAX;
    let unexecuted_error =
        format!("ERR the answer is over the limit of {answer_bytes_max} bytes; ask for less at a time");
    assert_eq!(redis.request("MGET a b c"), Error(unexecuted_error));
    for command in ["MULTI", "INCR n", "GET a", "GET b", "GET c"] {
        redis.request(command);
    }
    let Array(answers) = redis.request("EXEC") else { panic!("each command has a reply") };
    assert_eq!((&answers[0], answers.len()), (&Number(1), 4));
    assert_eq!(answers[1..3], [bulk(&large_value), bulk(&large_value)]);
    let executed_error =
        format!("ERR the answer is over the limit of {answer_bytes_max} bytes; what was asked is done");
    assert_eq!(answers[3], Error(executed_error));
    assert_eq!(redis.request("GET n"), bulk("1"));
}

#[test]
fn keys_expire_without_requests() {
    let (cluster, addresses) = cluster_with_redis(3, &[]);
    let mut redis = RedisClient::dial(&addresses[0]);
    for n in 0..20 {
        assert_eq!(redis.request(&format!("SET k{n} v PX {}", 100 + n)), ok_reply());
    }
    redis.request("SET stays v");
    // A local read appends no entry: only the leader's own tick entries can expire these keys.
    for address in &addresses {
        let mut redis = RedisClient::dial(address);
        redis.request("READONLY");
        let others_expired = || (redis.request("DBSIZE") == Number(1)).then_some(());
        wait_until("all keys but one have expired", others_expired, || cluster.logs());
    }
    cluster.wait_for_convergence();
    let output = cluster.run(&["put", "native", "v", "--ttl", "1h"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    let ttl = cluster.run(&["ttl", "native", "-o", "json"]).json()["ttl_ms"].as_u64().unwrap();
    assert!(ttl <= 3_600_000 && ttl > 0, "{ttl}");
    assert_eq!(cluster.run(&["ttl", "stays"]).out, "none\n");
    // The time to live also counts down without writes, on every node.
    for address in &addresses {
        let mut redis = RedisClient::dial(address);
        redis.request("READONLY");
        let Number(first) = redis.request("PTTL native") else { panic!("a number") };
        let counts_down = || match redis.request("PTTL native") {
            Number(ttl) if ttl < first - 100 => Some(()),
            _ => None,
        };
        wait_until("the time to live counts down", counts_down, || cluster.logs());
    }
    assert_eq!(cluster.run(&["ttl", "k0"]).code, Some(1));
    cluster.wait_for_convergence();
    let dump_output = run(support::drave_command(&["dump", "--tail", "60"]).arg(cluster.data_dir(0)));
    assert!(
        dump_output.out.contains(" tick ") && dump_output.out.contains("\"native\" = \"v\" for 3600000ms"),
        "{}",
        dump_output.out
    );
}

#[test]
fn scan_continues_at_any_node_while_keys_change() {
    let (_cluster, addresses) = cluster_with_redis(3, &[]);
    let mut redis = RedisClient::dial(&addresses[0]);
    for from in (0..3000).step_by(500) {
        let args: Vec<String> = (from..from + 500).flat_map(|n| [format!("user:{n}"), "v".into()]).collect();
        redis.send(&std::iter::once("MSET").chain(args.iter().map(String::as_str)).collect::<Vec<_>>());
        assert_eq!(redis.read_reply(), ok_reply());
    }
    redis.request("SET other v");
    let scan_step = |redis: &mut RedisClient, cursor: &str| {
        let Array(reply) = redis.request(&format!("SCAN {cursor} MATCH user:*[0-8] COUNT 100")) else {
            panic!("an array")
        };
        let [Bulk(next), Array(keys)] = &reply[..] else { panic!("{reply:?}") };
        (next.clone(), keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>())
    };
    // One scan is slow and sends each step to another node, as clients with a connection pool behind a load balancer
    // do. Other scans start and finish between its steps.
    let (mut cursor, mut fast_cursor, mut seen, mut steps) = ("0".to_owned(), "0".to_owned(), BTreeSet::new(), 0);
    loop {
        steps += 1;
        let mut other_client = RedisClient::dial(&addresses[steps % 3]);
        let (next, keys) = scan_step(&mut other_client, &cursor);
        for key in keys {
            assert!(seen.insert(key), "a scan returns each key once");
        }
        redis.request(&format!("SET user:new{cursor} v"));
        (0..40).for_each(|_| fast_cursor = scan_step(&mut redis, &fast_cursor).0);
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    assert!(steps > 1, "the scan took one step, so its cursor was not tested");
    let mut expected_keys = (0..3000).filter(|n| n % 10 != 9).map(|n| format!("{:?}", bulk(&format!("user:{n}"))));
    assert!(expected_keys.all(|key| seen.contains(&key)), "{seen:?}");
    assert!(!seen.contains(&format!("{:?}", bulk("other"))));
}

#[test]
fn protocol_error_is_replied_and_closes_connection() {
    let (_cluster, addresses) = cluster_with_redis(1, &[]);
    for (bytes, reply) in [
        ("*x\r\n", "ERR Protocol error: invalid multibulk length"),
        ("*1\r\n:1\r\n", "ERR Protocol error: expected '$', got ':'"),
        ("*1\r\n$999999999\r\n", "ERR Protocol error: invalid bulk length"),
        ("set \"a\r\n", "ERR Protocol error: unbalanced quotes in request"),
    ] {
        let mut redis = RedisClient::dial(&addresses[0]);
        redis.send_raw(format!("SET k v\r\n{bytes}PING\r\n").as_bytes()).unwrap();
        assert_eq!((redis.read_reply(), redis.read_reply()), (ok_reply(), Error(reply.into())));
        assert!(redis.is_closed(), "{bytes}");
    }
    for intruder in ["POST / HTTP/1.1\r\nHost: x\r\n\r\nSET k evil\r\n", "Host: x\r\nSET k evil\r\n"] {
        let mut redis = RedisClient::dial(&addresses[0]);
        redis.send_raw(intruder.as_bytes()).unwrap();
        assert!(redis.is_closed());
    }
    // A client that shuts down its sending side still receives its replies.
    let mut redis = RedisClient::dial(&addresses[0]);
    redis.send_raw(b"GET k\r\nSET k w\r\nGET k\r\n").unwrap();
    redis.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!((redis.read_reply(), redis.read_reply(), redis.read_reply()), (bulk("v"), ok_reply(), bulk("w")));
    assert!(redis.is_closed());
}

#[test]
fn commands_require_authentication() {
    let directory = tempfile::tempdir().unwrap();
    let password_path = directory.path().join("password");
    std::fs::write(&password_path, "secret\n").unwrap();
    let (_cluster, addresses) = cluster_with_redis(1, &["--password-file", password_path.to_str().unwrap()]);
    let mut redis = RedisClient::dial(&addresses[0]);
    let error = |text: &str| Error(text.to_owned());
    let wrong_password = || error("WRONGPASS invalid username-password pair or user is disabled.");
    assert_eq!(redis.request("GET k"), error("NOAUTH Authentication required."));
    assert_eq!(redis.request("NONSENSE"), error("NOAUTH Authentication required."));
    assert!(matches!(redis.request("HELLO 3"), Error(text) if text.starts_with("NOAUTH HELLO must")));
    assert_eq!(redis.request("AUTH wrong"), wrong_password());
    assert_eq!(redis.request("AUTH nobody secret"), wrong_password());
    assert_eq!(redis.request("AUTH secret"), ok_reply());
    assert_eq!(redis.request("SET k v"), ok_reply());
    let mut redis = RedisClient::dial(&addresses[0]);
    assert!(matches!(redis.request("HELLO 3 AUTH default secret"), Map(_)));
    assert_eq!(redis.request("GET k"), bulk("v"));
    let mut redis = RedisClient::dial(&addresses[0]);
    redis.send_raw(b"*11\r\n").unwrap();
    assert_eq!(redis.read_reply(), error("ERR Protocol error: unauthenticated multibulk length"));
}

#[test]
fn slow_reader_is_throttled_and_loses_nothing() {
    let (cluster, addresses) = cluster_with_redis(1, &[]);
    let mut redis = RedisClient::dial(&addresses[0]);
    let large_value = "x".repeat(1 << 20);
    // The value is smaller than 1 MiB, since its entry is a little larger and must not exceed the maximum.
    redis.send(&["SET", "k", &large_value[..1_000_000]]);
    assert_eq!(redis.read_reply(), ok_reply());
    const REQUESTS: usize = 400;
    let mut writer = redis.stream.get_ref().try_clone().unwrap();
    let all_requests: Vec<u8> = (0..REQUESTS).flat_map(|_| encode_command(&["GET", "k"])).collect();
    let writer_thread = std::thread::spawn(move || writer.write_all(&all_requests));
    // Other connections are served while this client does not read.
    let mut other_client = RedisClient::dial(&addresses[0]);
    assert_eq!(other_client.request("SET other v"), ok_reply());
    for _ in 0..REQUESTS {
        let Bulk(value) = redis.read_reply() else { panic!("a value") };
        assert_eq!(value.len(), 1_000_000);
    }
    writer_thread.join().unwrap().unwrap();
    assert_eq!(redis.request("STRLEN k"), Number(1_000_000));
    drop(cluster);
}

#[test]
fn followers_reply_moved_to_the_leader() {
    let (cluster, addresses) = cluster_with_redis(3, &["--resp-follower", "moved"]);
    let leader = cluster.wait_for_leader();
    let follower = (leader + 1) % 3;
    let port: i64 = addresses[leader].rsplit_once(':').unwrap().1.parse().unwrap();
    let mut redis = RedisClient::dial(&addresses[follower]);
    let moved_to_leader = |slot: u16| Error(format!("MOVED {slot} {}", addresses[leader]));
    let knows_leader = || (redis.request("SET foo v") == moved_to_leader(12182)).then_some(());
    wait_until("a follower knows its leader", knows_leader, || cluster.logs());
    assert_eq!(redis.request("GET bar"), moved_to_leader(5061));
    let Array(slots) = redis.request("CLUSTER SLOTS") else { panic!("an array") };
    let Array(range) = &slots[0] else { panic!("an array") };
    let Array(first) = &range[2] else { panic!("an array") };
    assert_eq!((range.len(), &first[1]), (5, &Number(port)), "the leader is the master of the range");
    let mut redis_leader = RedisClient::dial(&addresses[leader]);
    assert_eq!(redis_leader.request("SET foo v"), ok_reply());
    for (redis, role, hello) in
        [(&mut redis_leader, "role:master\r\n", "master"), (&mut redis, "role:slave\r\n", "replica")]
    {
        let Bulk(info) = redis.request("INFO replication") else { panic!("INFO is text") };
        assert!(info.contains(role) && info.matches("role:").count() == 1, "{info}");
        let Array(all) = redis.request("HELLO 2") else { panic!("an array") };
        assert!(all.contains(&bulk(hello)), "{all:?}");
    }
    redis.request("READONLY");
    let mut has_value = || (redis.request("GET foo") == bulk("v")).then_some(());
    wait_until("a follower answers reads after READONLY", &mut has_value, || cluster.logs());
}

#[test]
fn cluster_slots_lists_advertised_addresses() {
    let mut cluster = support::Cluster::prepare(3);
    let base_port = support::reserve_ports(3);
    cluster.redis_addresses = (base_port..base_port + 3).map(|port| format!("127.0.0.1:{port}")).collect();
    let advertised_addresses = ["redis-1.example:6379", "redis-2.example:6380", ""];
    let common_args = cluster.extra_args.clone();
    for (n, advertised) in advertised_addresses.iter().enumerate() {
        cluster.extra_args.clone_from(&common_args);
        cluster.extra_args.extend(["--resp-follower", "moved"].map(str::to_owned));
        if advertised.is_empty() {
            cluster.redis_addresses[n] = "off".into();
        } else {
            cluster.extra_args.extend(["--advertise-resp".to_owned(), (*advertised).to_owned()]);
        }
        cluster.spawn(n);
    }
    cluster.wait_for_leader();
    let slot_addresses = |node: usize| {
        let mut redis = RedisClient::dial(&cluster.redis_addresses[node]);
        let Array(slots) = redis.request("CLUSTER SLOTS") else { panic!("an array") };
        let Array(range) = &slots[0] else { panic!("an array") };
        let address_of = |entry: &Value| match entry {
            Array(words) => match &words[..] {
                [Bulk(host), Number(port), ..] => format!("{host}:{port}"),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        range[2..].iter().map(address_of).collect::<BTreeSet<String>>()
    };
    let expected_addresses: BTreeSet<String> =
        advertised_addresses[..2].iter().map(|advertised| (*advertised).to_owned()).collect();
    for node in 0..2 {
        wait_until(
            "all nodes have announced their addresses",
            || (slot_addresses(node) == expected_addresses).then_some(()),
            || cluster.logs(),
        );
    }
}

#[test]
fn counters_add_up_after_a_leader_crash() {
    let (mut cluster, addresses) = cluster_with_redis(3, &[]);
    const PIPELINES_PER_CLIENT: usize = 60;
    let leader = cluster.wait_for_leader();
    let survivors: Vec<String> = (0..3).filter(|n| *n != leader).map(|n| addresses[n].clone()).collect();
    let count_increments = |address: String| {
        move || {
            let mut redis = RedisClient::dial(&address);
            let (mut acknowledged, mut unknown) = (0, 0);
            let mut last_value = 0;
            for _ in 0..PIPELINES_PER_CLIENT {
                // Pipelines several commands, so that some are always in flight.
                (0..5).for_each(|_| redis.send(&["INCR", "n"]));
                for _ in 0..5 {
                    match redis.read_reply() {
                        Number(n) => {
                            assert!(
                                n > last_value,
                                "{n} after {last_value}: the commands of a connection keep their order"
                            );
                            (last_value, acknowledged) = (n, acknowledged + 1);
                        }
                        Error(text) if text == "TIMEOUT outcome unknown" => unknown += 1,
                        Error(text) if text.starts_with("CLUSTERDOWN") => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
            (acknowledged, unknown)
        }
    };
    let counting_threads: Vec<_> =
        survivors.iter().cycle().take(6).map(|address| std::thread::spawn(count_increments(address.clone()))).collect();
    let mut redis = RedisClient::dial(&survivors[0]);
    let counting_has_begun = |redis: &mut RedisClient| match redis.request("GET n") {
        Bulk(n) => n.parse::<i64>().ok().filter(|n| *n > 100),
        _ => None,
    };
    let count_before = wait_until("counting has begun", || counting_has_begun(&mut redis), || cluster.logs());
    cluster.kill(leader);
    let (mut acknowledged, mut unknown) = (0, 0);
    for thread in counting_threads {
        let (d, u) = thread.join().unwrap();
        (acknowledged, unknown) = (acknowledged + d, unknown + u);
    }
    let Bulk(n) = redis.request("GET n") else { panic!("the counter exists") };
    let n: i64 = n.parse().unwrap();
    assert!(
        (acknowledged..=acknowledged + unknown).contains(&n),
        "the counter is {n}, but must be from {acknowledged} to {}",
        acknowledged + unknown
    );
    assert!(n > count_before, "counting continues under another leader: {count_before} and then {n}");
}

#[test]
fn commands_without_quorum_reply_clusterdown() {
    let (mut cluster, addresses) = cluster_with_redis(3, &[]);
    let leader = cluster.wait_for_leader();
    let follower = (leader + 1) % 3;
    let remaining_node = (leader + 2) % 3;
    cluster.kill(leader);
    cluster.kill(follower);
    let mut redis = RedisClient::dial(&addresses[remaining_node]);
    assert_eq!(redis.request("PING"), SimpleString("PONG".into()));
    // At first the node may still believe that the leader is alive, and forwards commands to the leader. Later,
    // commands wait for a leader.
    let no_leader_error = Error("CLUSTERDOWN No Raft leader".into());
    wait_until("no leader is known", || (redis.request("SET k v") == no_leader_error).then_some(()), || cluster.logs());
    assert_eq!(redis.request("GET k"), no_leader_error);
    redis.request("READONLY");
    assert_eq!(redis.request("GET k"), Nil);
    cluster.spawn(leader);
    redis.request("READWRITE");
    wait_until("a leader is found", || (redis.request("SET k v") == ok_reply()).then_some(()), || cluster.logs());
    assert_eq!(redis.request("GET k"), bulk("v"));
}

#[test]
fn redis_rs_client_runs_commands_at_every_node() {
    let (_cluster, addresses) = cluster_with_redis(3, &[]);
    for (address, protocol) in addresses.iter().zip(["resp2", "resp3", "resp3"]) {
        let client = redis::Client::open(format!("redis://{address}/?protocol={protocol}")).unwrap();
        let mut redis = client.get_connection().unwrap();
        let key = format!("of {address}");
        redis::cmd("SET").arg(&key).arg(7).arg("PX").arg(60_000).exec(&mut redis).unwrap();
        assert_eq!(redis::cmd("GET").arg(&key).query(&mut redis), Ok(Some(7)));
        assert_eq!(redis::cmd("GET").arg("none").query(&mut redis), Ok(None::<u8>));
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("INCR").arg(&key).cmd("INCRBY").arg(&key).arg(10).cmd("TTL").arg(&key);
        let (one, ten, ttl): (i64, i64, i64) = pipe.query(&mut redis).unwrap();
        assert_eq!((one, ten), (8, 18));
        assert!((1..=60).contains(&ttl), "{ttl}");
        let values: Vec<Option<String>> = redis::cmd("MGET").arg(&key).arg("none").query(&mut redis).unwrap();
        assert_eq!(values, [Some("18".to_owned()), None]);
        let arity_error = redis::cmd("INCR").arg(&key).arg("more").exec(&mut redis).unwrap_err();
        assert!(arity_error.to_string().contains("wrong number of arguments"), "{arity_error}");
    }
}

#[test]
fn redis_rs_cluster_client_finds_the_leader() {
    let mut cluster = cluster_with_default_redis_ports(&["--resp-follower", "moved"]);
    let leader = cluster.wait_for_leader();
    let seeds: Vec<String> = cluster.redis_addresses.iter().map(|address| format!("redis://{address}")).collect();
    let connect = || redis::cluster::ClusterClient::new(seeds.clone()).ok()?.get_connection().ok();
    let mut redis = wait_until("the cluster client connects", connect, || cluster.logs());
    redis::cmd("SET").arg("k").arg(1).exec(&mut redis).unwrap();
    assert_eq!(redis::cmd("INCR").arg("k").query(&mut redis), Ok(2));
    cluster.kill(leader);
    // A new connection finds the new leader. The test does not require that an older connection finds it.
    let reconnect = || {
        let mut redis = connect()?;
        redis::cmd("SET").arg("k").arg(5).exec(&mut redis).ok().map(|()| redis)
    };
    let mut redis = wait_until("the client finds the new leader", reconnect, || cluster.logs());
    assert_eq!(redis::cmd("GET").arg("k").query(&mut redis), Ok(5));
}

#[test]
fn malformed_redis_input_leaks_nothing() {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};
    let (mut cluster, addresses) = cluster_with_redis(1, &[]);
    let mut honest_client = RedisClient::dial(&addresses[0]);
    assert_eq!(honest_client.request("SET k v"), ok_reply());
    let mut rng = SmallRng::seed_from_u64(0x6472_6176);
    let valid_commands: Vec<u8> = [&["SET", "k", "v"][..], &["GET", "k"], &["MULTI"], &["EXEC"], &["HELLO", "3"]]
        .iter()
        .flat_map(|words| encode_command(words))
        .collect();
    for _ in 0..500 {
        let mut bytes: Vec<u8> = (0..20).flat_map(|_| valid_commands.clone()).collect();
        for _ in 0..rng.random_range(0..6) {
            let offset = rng.random_range(0..bytes.len());
            bytes[offset] = rng.random();
        }
        let Ok(mut redis) = RedisClient::try_dial(&addresses[0]) else { continue };
        let _may_be_closed = redis.send_raw(&bytes);
        let _may_be_closed = redis.stream.get_ref().shutdown(Shutdown::Write);
        let mut replies = Vec::new();
        let _may_be_reset = redis.stream.read_to_end(&mut replies);
    }
    assert!(matches!(honest_client.request("PING"), SimpleString(_)));
    cluster.expect_no_deaths();
    let one_session = || (cluster.status(0)?.sessions == 1).then_some(());
    wait_until("the sessions of disconnected clients are closed", one_session, || cluster.logs());
    let Bulk(info) = honest_client.request("INFO clients") else { panic!("INFO is text") };
    assert!(info.contains("connected_clients:1\r\n"), "{info}");
}
