//! The Redis gateway over real sockets: the reply to each command, the order of replies, and the outcome of commands
//! when nodes die.

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use support::{PATIENCE, cluster_with_default_redis_ports, doors, run, until};

/// A parsed RESP reply.
#[derive(Clone, PartialEq, Debug)]
enum Value {
    Line(String),
    Error(String),
    Number(i64),
    Bulk(String),
    Nil,
    Many(Vec<Value>),
    Map(Vec<Value>),
}

use Value::{Bulk, Error, Line, Many, Map, Nil, Number};

fn bulk(text: &str) -> Value {
    Bulk(text.to_owned())
}

fn ok() -> Value {
    Line("OK".to_owned())
}

/// One client connection to a Redis gateway.
struct Redis {
    stream: BufReader<TcpStream>,
}

impl Redis {
    fn dial(address: &str) -> Redis {
        Redis::try_dial(address).unwrap()
    }

    fn try_dial(address: &str) -> std::io::Result<Redis> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Redis { stream: BufReader::new(stream) })
    }

    fn send(&mut self, words: &[&str]) {
        self.try_send(words).unwrap();
    }

    fn try_send(&mut self, words: &[&str]) -> std::io::Result<()> {
        self.raw(&encoded(words))
    }

    fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    fn read(&mut self) -> Value {
        self.try_read().unwrap()
    }

    fn try_read(&mut self) -> std::io::Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.strip_suffix("\r\n").expect("each line ends in CRLF");
        let (kind, rest) = line.split_at(1);
        let count = || rest.parse::<i64>().unwrap();
        Ok(match kind {
            "+" => Line(rest.to_owned()),
            "-" => Error(rest.to_owned()),
            ":" => Number(count()),
            "_" => Nil,
            "$" if count() < 0 => Nil,
            "$" => {
                let mut bytes = vec![0; count() as usize + 2];
                self.stream.read_exact(&mut bytes)?;
                assert_eq!(bytes.split_off(bytes.len() - 2), b"\r\n");
                Bulk(String::from_utf8_lossy(&bytes).into_owned())
            }
            "*" => Many((0..count()).map(|_| self.try_read()).collect::<Result<_, _>>()?),
            "%" => Map((0..2 * count()).map(|_| self.try_read()).collect::<Result<_, _>>()?),
            other => panic!("no reply type starts with {other:?}"),
        })
    }

    /// Sends a command given as words separated by single spaces, and reads its reply.
    fn ask(&mut self, line: &str) -> Value {
        self.send(&line.split(' ').collect::<Vec<_>>());
        self.read()
    }

    /// Whether the gateway has closed the connection, with nothing left to read.
    fn is_closed(&mut self) -> bool {
        // Unread input on the gateway's side may turn the close into a reset.
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }
}

fn encoded(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len());
    for word in words {
        out += &format!("${}\r\n{word}\r\n", word.len());
    }
    out.into_bytes()
}

#[test]
fn every_command_replies_like_redis() {
    let (cluster, doors) = doors(1, &[]);
    let mut redis = Redis::dial(&doors[0]);
    let error = |text: &str| Error(text.to_owned());
    let many = |all: &[&str]| Many(all.iter().map(|text| bulk(text)).collect());
    for (command, reply) in [
        ("PING", Line("PONG".into())),
        ("ping hello", bulk("hello")),
        ("ECHO hello", bulk("hello")),
        ("SELECT 0", ok()),
        ("SELECT 1", error("ERR DB index is out of range")),
        ("GET k", Nil),
        ("SET k v", ok()),
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
        ("SET k v EX 1 EX 100 XX XX", ok()),
        ("TTL k", Number(100)),
        ("SET k v KEEPTTL KEEPTTL", ok()),
        ("TTL k", Number(100)),
        ("SET k w", ok()),
        ("STRLEN k", Number(1)),
        ("APPEND k xyz", Number(4)),
        ("GET k", bulk("wxyz")),
        ("TYPE k", Line("string".into())),
        ("TYPE none", Line("none".into())),
        ("INCR k", error("ERR value is not an integer or out of range")),
        ("INCR n", Number(1)),
        ("INCRBY n 10", Number(11)),
        ("DECR n", Number(10)),
        ("DECRBY n 20", Number(-10)),
        ("INCRBY n x", error("ERR value is not an integer or out of range")),
        ("INCRBY n 01", error("ERR value is not an integer or out of range")),
        ("SET k v EX 01", error("ERR value is not an integer or out of range")),
        ("EXPIRE k -0", error("ERR value is not an integer or out of range")),
        ("SET zeros 007", ok()),
        ("INCR zeros", error("ERR value is not an integer or out of range")),
        ("GET zeros", bulk("007")),
        ("DEL zeros", Number(1)),
        ("SET n 9223372036854775807", ok()),
        ("INCR n", error("ERR increment or decrement would overflow")),
        ("DECRBY n -9223372036854775808", error("ERR decrement would overflow")),
        ("MSET a 1 b 2", ok()),
        ("MSET a 1 b", error("ERR wrong number of arguments for 'mset' command")),
        ("MGET a none b", Many(vec![bulk("1"), Nil, bulk("2")])),
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
        ("SET k v KEEPTTL", ok()),
        ("TTL k", Number(100)),
        ("PERSIST k", Number(1)),
        ("PTTL k", Number(-1)),
        ("PEXPIRE k -1", Number(1)),
        ("EXISTS k", Number(0)),
        ("SET k v EXAT 1", ok()),
        ("EXISTS k", Number(0)),
        ("SET k v", ok()),
        ("EXPIREAT k 1", Number(1)),
        ("EXISTS k", Number(0)),
        ("EXPIRE none 10", Number(0)),
        ("EXPIRE k -9223372036854775808", error("ERR invalid expire time in 'expire' command")),
        ("SET k v", ok()),
        ("PEXPIREAT k -9223372036854775808", Number(1)),
        ("EXISTS k", Number(0)),
        ("SET k v", ok()),
        ("PEXPIRE k -9223372036854775808", Number(1)),
        ("EXISTS k", Number(0)),
        ("SCAN 0", Many(vec![bulk("0"), many(&["n"])])),
        ("SCAN 0 MATCH m*", Many(vec![bulk("0"), many(&[])])),
        ("SCAN 0 COUNT 0", error("ERR syntax error")),
        ("SCAN 0 TYPE string", Many(vec![bulk("0"), many(&["n"])])),
        ("SCAN 0 TYPE hash COUNT 5", Many(vec![bulk("0"), many(&[])])),
        ("SCAN 0 TYPE", error("ERR syntax error")),
        ("SCAN 18446744073709551615", Many(vec![bulk("0"), many(&[])])),
        ("SCAN -1", error("ERR invalid cursor")),
        ("SCAN x", error("ERR invalid cursor")),
        ("CONFIG GET save", many(&["save", ""])),
        ("CONFIG GET appendonly", many(&["appendonly", "yes"])),
        ("CONFIG GET maxmemory", many(&["maxmemory", "0"])),
        ("CONFIG GET what", many(&[])),
        ("CONFIG SET save x", error("ERR unknown subcommand 'SET'. Try CONFIG HELP.")),
        ("CLIENT SETINFO LIB-NAME x", ok()),
        ("CLIENT GETNAME", Nil),
        ("CLIENT SETNAME me", ok()),
        ("CLIENT GETNAME", bulk("me")),
        ("CLIENT LIST", error("ERR unknown subcommand 'LIST'. Try CLIENT HELP.")),
        ("COMMAND DOCS", error("ERR unknown subcommand 'DOCS'. Try COMMAND HELP.")),
        ("CLUSTER KEYSLOT foo", Number(12182)),
        ("CONFIG GET", error("ERR wrong number of arguments for 'config|get' command")),
        ("CLIENT ID x", error("ERR wrong number of arguments for 'client|id' command")),
        ("COMMAND count x", error("ERR wrong number of arguments for 'command|count' command")),
        ("CLUSTER KEYSLOT", error("ERR wrong number of arguments for 'cluster|keyslot' command")),
        ("CLUSTER RESET", error("ERR unknown subcommand 'RESET'. Try CLUSTER HELP.")),
        ("READONLY", ok()),
        ("READWRITE", ok()),
        ("ASKING", ok()),
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
        ("QUIT", ok()),
    ] {
        assert_eq!(redis.ask(command), reply, "{command}\n{}", cluster.logs());
    }
    assert!(redis.is_closed());
}

#[test]
fn node_commands_describe_the_node() {
    let (cluster, doors) = doors(1, &[]);
    let mut redis = Redis::dial(&doors[0]);
    redis.ask("SET k v");
    redis.ask("SET ends v EX 1000");
    let Bulk(info) = redis.ask("INFO") else { panic!("INFO is text") };
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
    let mut names: Vec<&str> = info.lines().filter_map(|line| Some(line.split_once(':')?.0)).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|two| two[0] != two[1]), "{info}: each field name occurs once");
    assert!(info.contains("\r\nrole:master\r\n"), "{info}");
    let Bulk(raft) = redis.ask("INFO raft") else { panic!("INFO is text") };
    assert!(raft.starts_with("# Raft\r\nnode_id:1\r\nraft_role:leader\r\n"), "{raft}");
    let Number(count) = redis.ask("COMMAND COUNT") else { panic!("a count") };
    let Many(table) = redis.ask("COMMAND") else { panic!("a table") };
    assert_eq!(table.len() as i64, count);
    let flags = Many(["readonly", "fast"].map(|flag| Line(flag.into())).into());
    assert!(table.contains(&Many(vec![bulk("get"), Number(2), flags, Number(1), Number(1), Number(1)])));
    let port = doors[0].rsplit_once(':').unwrap().1.parse().unwrap();
    let id = redis.ask("CLUSTER MYID");
    let place = Many(vec![bulk("127.0.0.1"), Number(port), id]);
    assert_eq!(redis.ask("CLUSTER SLOTS"), Many(vec![Many(vec![Number(0), Number(16383), place])]));
    let Map(hello) = redis.ask("HELLO 3") else { panic!("RESP3 has maps") };
    assert_eq!(hello.len(), 14);
    assert_eq!(hello[4..6], [bulk("proto"), Number(3)]);
    assert_eq!(redis.ask("GET none"), Nil);
    assert_eq!(redis.ask("CONFIG GET save"), Map(vec![bulk("save"), bulk("")]));
    drop(redis);
    // Closing the connection closes its session.
    until("the session is closed", || (cluster.status(0)?.sessions == 0).then_some(()), || cluster.logs());
}

#[test]
fn pipelined_replies_keep_order_and_see_earlier_writes() {
    let (_cluster, doors) = doors(3, &[]);
    for door in &doors {
        let mut redis = Redis::dial(door);
        let mut all = Vec::new();
        for n in 0..300 {
            all.extend(encoded(&["SET", "k", &n.to_string()]));
            all.extend(encoded(&["GET", "k"]));
            all.extend(encoded(&["PING", &n.to_string()]));
            all.extend_from_slice(format!("INCRBY sum {n}\r\n").as_bytes());
            all.extend(encoded(&["NONSENSE"]));
        }
        all.extend(encoded(&["DEL", "sum"]));
        redis.raw(&all).unwrap();
        let mut sum = 0;
        for n in 0..300 {
            assert_eq!(redis.read(), ok());
            assert_eq!(redis.read(), bulk(&n.to_string()));
            assert_eq!(redis.read(), bulk(&n.to_string()));
            sum += n;
            assert_eq!(redis.read(), Number(sum));
            assert_eq!(redis.read(), Error("ERR unknown command 'NONSENSE', with args beginning with: ".into()));
        }
        assert_eq!(redis.read(), Number(1));
    }
}

#[test]
fn transaction_is_one_entry_and_continues_after_errors() {
    let (cluster, doors) = doors(1, &[]);
    let mut redis = Redis::dial(&doors[0]);
    redis.ask("SET text x");
    let before = cluster.status(0).unwrap().last;
    assert_eq!(redis.ask("MULTI"), ok());
    let queued = Line("QUEUED".into());
    for command in
        ["SET a 1", "INCR text", "GET a", "SET a 2 EX x", "PING", "INCRBY a 5", "DEL text none", "MGET a text"]
    {
        assert_eq!(redis.ask(command), queued, "{command}");
    }
    assert_eq!(redis.ask("MULTI"), Error("ERR MULTI calls can not be nested".into()));
    let integer = || Error("ERR value is not an integer or out of range".into());
    let last = Many(vec![bulk("6"), Nil]);
    let pong = Line("PONG".into());
    let answers = vec![ok(), integer(), bulk("1"), integer(), pong, Number(6), Number(1), last];
    assert_eq!(redis.ask("EXEC"), Many(answers));
    assert_eq!(cluster.status(0).unwrap().last, before + 1, "a transaction is one log entry");

    redis.ask("MULTI");
    assert_eq!(redis.ask("NONSENSE"), Error("ERR unknown command 'NONSENSE', with args beginning with: ".into()));
    redis.ask("SET a 9");
    let aborted = Error("EXECABORT Transaction discarded because of previous errors.".into());
    assert_eq!(redis.ask("EXEC"), aborted);
    for wrong in ["CONFIG SET save x", "CONFIG GET", "CLIENT LIST", "COMMAND COUNT x", "CLUSTER SLOTS x"] {
        redis.ask("MULTI");
        assert!(matches!(redis.ask(wrong), Error(_)), "{wrong}: an invalid command fails when it is queued");
        redis.ask("SET a 9");
        assert_eq!(redis.ask("EXEC"), aborted, "{wrong}");
    }
    redis.ask("MULTI");
    redis.ask("SET a 9");
    assert_eq!(redis.ask("DISCARD"), ok());
    assert_eq!(redis.ask("GET a"), bulk("6"));
    redis.ask("MULTI");
    assert_eq!(redis.ask("EXEC"), Many(vec![]));
    redis.ask("MULTI");
    assert_eq!(redis.ask("SCAN 0 COUNT 100"), queued);
    let keys = Many(vec![bulk("0"), Many(vec![bulk("a")])]);
    assert_eq!(redis.ask("EXEC"), Many(vec![keys]));
    redis.ask("MULTI");
    redis.ask("SET a 9");
    let ended =
        Error("EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command".into());
    assert_eq!(redis.ask("EXEC now"), ended);
    assert_eq!(redis.ask("GET a"), bulk("6"), "the aborted transaction changed nothing");
}

#[test]
fn oversized_value_is_rejected_connection_stays_open() {
    let (cluster, doors) = doors(1, &[]);
    let mut redis = Redis::dial(&doors[0]);
    let large = "x".repeat(9 << 20);
    for words in [&["SET", "big", &large][..], &["MSET", "big", "v", "other", &large], &["APPEND", "big", &large]] {
        redis.send(words);
        let Error(why) = redis.read() else { panic!("the command is over the limit") };
        assert!(
            why.starts_with(&format!("ERR {} 'big': ", words[0])) && why.contains("limit of 1048576 bytes"),
            "{why}"
        );
        assert_eq!(redis.ask("GET big"), Nil);
    }
    let half = &large[..1 << 19];
    let all: Vec<&str> = std::iter::once("MSET").chain((0..20).map(|_| half)).collect();
    redis.send(&all);
    let Error(why) = redis.read() else { panic!("the command is over the limit") };
    assert!(why.contains("limit of 4194304 bytes"), "{why}");
    redis.ask("MULTI");
    redis.send(&["SET", "big", &large]);
    assert!(matches!(redis.read(), Error(_)));
    assert_eq!(redis.ask("EXEC"), Error("EXECABORT Transaction discarded because of previous errors.".into()));
    assert_eq!(redis.ask("SET big v"), ok(), "{}", cluster.logs());
    // A client that keeps sending still receives the error that ends the connection.
    redis.raw(format!("*1\r\n$999999999\r\n{large}").as_bytes()).unwrap();
    assert_eq!(redis.read(), Error("ERR Protocol error: invalid bulk length".into()));
}

#[test]
fn oversized_reply_error_says_whether_command_ran() {
    let (_cluster, doors) = doors(1, &[]);
    let mut redis = Redis::dial(&doors[0]);
    let large = "x".repeat(700 << 10);
    for key in ["a", "b", "c"] {
        redis.send(&["SET", key, &large]);
        assert_eq!(redis.read(), ok());
    }
    let limit = drave::limits::ANSWER_BYTES_MAX;
    let to_read = format!("ERR the answer is over the limit of {limit} bytes; ask for less at a time");
    assert_eq!(redis.ask("MGET a b c"), Error(to_read));
    for command in ["MULTI", "INCR n", "GET a", "GET b", "GET c"] {
        redis.ask(command);
    }
    let Many(answers) = redis.ask("EXEC") else { panic!("each command has a reply") };
    assert_eq!((&answers[0], answers.len()), (&Number(1), 4));
    assert_eq!(answers[1..3], [bulk(&large), bulk(&large)]);
    let done = format!("ERR the answer is over the limit of {limit} bytes; what was asked is done");
    assert_eq!(answers[3], Error(done));
    assert_eq!(redis.ask("GET n"), bulk("1"));
}

#[test]
fn keys_expire_without_requests() {
    let (cluster, doors) = doors(3, &[]);
    let mut redis = Redis::dial(&doors[0]);
    for n in 0..20 {
        assert_eq!(redis.ask(&format!("SET k{n} v PX {}", 100 + n)), ok());
    }
    redis.ask("SET stays v");
    // A local read appends no entry: only the leader's own tick entries can expire these keys.
    for door in &doors {
        let mut redis = Redis::dial(door);
        redis.ask("READONLY");
        let gone = || (redis.ask("DBSIZE") == Number(1)).then_some(());
        until("all keys but one have expired", gone, || cluster.logs());
    }
    cluster.agree();
    let said = cluster.run(&["put", "native", "v", "--ttl", "1h"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let left = cluster.run(&["ttl", "native", "-o", "json"]).json()["ttl_ms"].as_u64().unwrap();
    assert!(left <= 3_600_000 && left > 0, "{left}");
    assert_eq!(cluster.run(&["ttl", "stays"]).out, "none\n");
    // The time to live also counts down without writes, on every node.
    for door in &doors {
        let mut redis = Redis::dial(door);
        redis.ask("READONLY");
        let Number(first) = redis.ask("PTTL native") else { panic!("a number") };
        let fewer = || match redis.ask("PTTL native") {
            Number(left) if left < first - 100 => Some(()),
            _ => None,
        };
        until("the time to live counts down", fewer, || cluster.logs());
    }
    assert_eq!(cluster.run(&["ttl", "k0"]).code, Some(1));
    cluster.agree();
    let dump = run(support::drave(&["dump", "--tail", "60"]).arg(cluster.data(0)));
    assert!(dump.out.contains(" tick ") && dump.out.contains("\"native\" = \"v\" for 3600000ms"), "{}", dump.out);
}

#[test]
fn scan_continues_at_any_node_while_keys_change() {
    let (_cluster, doors) = doors(3, &[]);
    let mut redis = Redis::dial(&doors[0]);
    for from in (0..3000).step_by(500) {
        let words: Vec<String> = (from..from + 500).flat_map(|n| [format!("user:{n}"), "v".into()]).collect();
        redis.send(&std::iter::once("MSET").chain(words.iter().map(String::as_str)).collect::<Vec<_>>());
        assert_eq!(redis.read(), ok());
    }
    redis.ask("SET other v");
    let step = |redis: &mut Redis, cursor: &str| {
        let Many(reply) = redis.ask(&format!("SCAN {cursor} MATCH user:*[0-8] COUNT 100")) else { panic!("an array") };
        let [Bulk(next), Many(keys)] = &reply[..] else { panic!("{reply:?}") };
        (next.clone(), keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>())
    };
    // One scan is slow and changes its node with each step, as clients with a pool behind a balancer do. Another scan
    // overtakes it many times.
    let (mut cursor, mut quick, mut seen, mut steps) = ("0".to_owned(), "0".to_owned(), BTreeSet::new(), 0);
    loop {
        steps += 1;
        let mut other = Redis::dial(&doors[steps % 3]);
        let (next, keys) = step(&mut other, &cursor);
        for key in keys {
            assert!(seen.insert(key), "a scan returns each key once");
        }
        redis.ask(&format!("SET user:new{cursor} v"));
        (0..40).for_each(|_| quick = step(&mut redis, &quick).0);
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    assert!(steps > 1, "the scan took one step, so its cursor was not tested");
    let mut there = (0..3000).filter(|n| n % 10 != 9).map(|n| format!("{:?}", bulk(&format!("user:{n}"))));
    assert!(there.all(|key| seen.contains(&key)), "{seen:?}");
    assert!(!seen.contains(&format!("{:?}", bulk("other"))));
}

#[test]
fn protocol_error_is_replied_and_closes() {
    let (_cluster, doors) = doors(1, &[]);
    for (bytes, reply) in [
        ("*x\r\n", "ERR Protocol error: invalid multibulk length"),
        ("*1\r\n:1\r\n", "ERR Protocol error: expected '$', got ':'"),
        ("*1\r\n$999999999\r\n", "ERR Protocol error: invalid bulk length"),
        ("set \"a\r\n", "ERR Protocol error: unbalanced quotes in request"),
    ] {
        let mut redis = Redis::dial(&doors[0]);
        redis.raw(format!("SET k v\r\n{bytes}PING\r\n").as_bytes()).unwrap();
        assert_eq!((redis.read(), redis.read()), (ok(), Error(reply.into())));
        assert!(redis.is_closed(), "{bytes}");
    }
    for intruder in ["POST / HTTP/1.1\r\nHost: x\r\n\r\nSET k evil\r\n", "Host: x\r\nSET k evil\r\n"] {
        let mut redis = Redis::dial(&doors[0]);
        redis.raw(intruder.as_bytes()).unwrap();
        assert!(redis.is_closed());
    }
    // A client that shuts down its sending side still receives its replies.
    let mut redis = Redis::dial(&doors[0]);
    redis.raw(b"GET k\r\nSET k w\r\nGET k\r\n").unwrap();
    redis.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!((redis.read(), redis.read(), redis.read()), (bulk("v"), ok(), bulk("w")));
    assert!(redis.is_closed());
}

#[test]
fn commands_require_authentication() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    let (_cluster, doors) = doors(1, &["--password-file", file.to_str().unwrap()]);
    let mut redis = Redis::dial(&doors[0]);
    let error = |text: &str| Error(text.to_owned());
    let wrong = || error("WRONGPASS invalid username-password pair or user is disabled.");
    assert_eq!(redis.ask("GET k"), error("NOAUTH Authentication required."));
    assert_eq!(redis.ask("NONSENSE"), error("NOAUTH Authentication required."));
    assert!(matches!(redis.ask("HELLO 3"), Error(text) if text.starts_with("NOAUTH HELLO must")));
    assert_eq!(redis.ask("AUTH wrong"), wrong());
    assert_eq!(redis.ask("AUTH nobody secret"), wrong());
    assert_eq!(redis.ask("AUTH secret"), ok());
    assert_eq!(redis.ask("SET k v"), ok());
    let mut redis = Redis::dial(&doors[0]);
    assert!(matches!(redis.ask("HELLO 3 AUTH default secret"), Map(_)));
    assert_eq!(redis.ask("GET k"), bulk("v"));
    let mut redis = Redis::dial(&doors[0]);
    redis.raw(b"*11\r\n").unwrap();
    assert_eq!(redis.read(), error("ERR Protocol error: unauthenticated multibulk length"));
}

#[test]
fn slow_reader_is_throttled_and_loses_nothing() {
    let (cluster, doors) = doors(1, &[]);
    let mut redis = Redis::dial(&doors[0]);
    let large = "x".repeat(1 << 20);
    // An entry is a little larger than its value.
    redis.send(&["SET", "k", &large[..1_000_000]]);
    assert_eq!(redis.read(), ok());
    const REQUESTS: usize = 400;
    let mut writer = redis.stream.get_ref().try_clone().unwrap();
    let all: Vec<u8> = (0..REQUESTS).flat_map(|_| encoded(&["GET", "k"])).collect();
    let writes = std::thread::spawn(move || writer.write_all(&all));
    // Other connections are served meanwhile.
    let mut other = Redis::dial(&doors[0]);
    assert_eq!(other.ask("SET other v"), ok());
    for _ in 0..REQUESTS {
        let Bulk(value) = redis.read() else { panic!("a value") };
        assert_eq!(value.len(), 1_000_000);
    }
    writes.join().unwrap().unwrap();
    assert_eq!(redis.ask("STRLEN k"), Number(1_000_000));
    drop(cluster);
}

#[test]
fn followers_reply_moved_to_the_leader() {
    let (cluster, doors) = doors(3, &["--resp-follower", "moved"]);
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let port: i64 = doors[leader].rsplit_once(':').unwrap().1.parse().unwrap();
    let mut redis = Redis::dial(&doors[follower]);
    let moved = |slot: u16| Error(format!("MOVED {slot} {}", doors[leader]));
    let told = || (redis.ask("SET foo v") == moved(12182)).then_some(());
    until("a follower knows its leader", told, || cluster.logs());
    assert_eq!(redis.ask("GET bar"), moved(5061));
    let Many(slots) = redis.ask("CLUSTER SLOTS") else { panic!("an array") };
    let Many(range) = &slots[0] else { panic!("an array") };
    let Many(first) = &range[2] else { panic!("an array") };
    assert_eq!((range.len(), &first[1]), (5, &Number(port)), "the leader is the master of the range");
    let mut redis_leader = Redis::dial(&doors[leader]);
    assert_eq!(redis_leader.ask("SET foo v"), ok());
    for (redis, role, hello) in
        [(&mut redis_leader, "role:master\r\n", "master"), (&mut redis, "role:slave\r\n", "replica")]
    {
        let Bulk(info) = redis.ask("INFO replication") else { panic!("INFO is text") };
        assert!(info.contains(role) && info.matches("role:").count() == 1, "{info}");
        let Many(all) = redis.ask("HELLO 2") else { panic!("an array") };
        assert!(all.contains(&bulk(hello)), "{all:?}");
    }
    redis.ask("READONLY");
    let mut held = || (redis.ask("GET foo") == bulk("v")).then_some(());
    until("a follower answers reads after READONLY", &mut held, || cluster.logs());
}

#[test]
fn cluster_slots_lists_advertised_addresses() {
    let mut cluster = support::Cluster::prepare(3);
    let base = support::ports(3);
    cluster.doors = (base..base + 3).map(|port| format!("127.0.0.1:{port}")).collect();
    let places = ["redis-1.example:6379", "redis-2.example:6380", ""];
    let usual = cluster.words.clone();
    for (n, place) in places.iter().enumerate() {
        cluster.words.clone_from(&usual);
        cluster.words.extend(["--resp-follower", "moved"].map(str::to_owned));
        if place.is_empty() {
            cluster.doors[n] = "off".into();
        } else {
            cluster.words.extend(["--advertise-resp".to_owned(), (*place).to_owned()]);
        }
        cluster.spawn(n);
    }
    cluster.leader();
    let told = |node: usize| {
        let mut redis = Redis::dial(&cluster.doors[node]);
        let Many(slots) = redis.ask("CLUSTER SLOTS") else { panic!("an array") };
        let Many(range) = &slots[0] else { panic!("an array") };
        let place = |place: &Value| match place {
            Many(words) => match &words[..] {
                [Bulk(host), Number(port), ..] => format!("{host}:{port}"),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        range[2..].iter().map(place).collect::<BTreeSet<String>>()
    };
    let announced: BTreeSet<String> = places[..2].iter().map(|place| (*place).to_owned()).collect();
    for node in 0..2 {
        until(
            "all nodes have announced their addresses",
            || (told(node) == announced).then_some(()),
            || cluster.logs(),
        );
    }
}

#[test]
fn counters_add_up_after_a_leader_crash() {
    let (mut cluster, doors) = doors(3, &[]);
    const EACH: usize = 60;
    let leader = cluster.leader();
    let survivors: Vec<String> = (0..3).filter(|n| *n != leader).map(|n| doors[n].clone()).collect();
    let count = |door: String| {
        move || {
            let mut redis = Redis::dial(&door);
            let (mut done, mut unknown) = (0, 0);
            let mut last = 0;
            for _ in 0..EACH {
                // Pipelines several commands, so that some are always in flight.
                (0..5).for_each(|_| redis.send(&["INCR", "n"]));
                for _ in 0..5 {
                    match redis.read() {
                        Number(n) => {
                            assert!(n > last, "{n} after {last}: the commands of a connection keep their order");
                            (last, done) = (n, done + 1);
                        }
                        Error(text) if text == "TIMEOUT outcome unknown" => unknown += 1,
                        Error(text) if text.starts_with("CLUSTERDOWN") => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
            (done, unknown)
        }
    };
    let counting: Vec<_> =
        survivors.iter().cycle().take(6).map(|door| std::thread::spawn(count(door.clone()))).collect();
    let mut redis = Redis::dial(&survivors[0]);
    let begun = |redis: &mut Redis| match redis.ask("GET n") {
        Bulk(n) => n.parse::<i64>().ok().filter(|n| *n > 100),
        _ => None,
    };
    let before = until("counting has begun", || begun(&mut redis), || cluster.logs());
    cluster.kill(leader);
    let (mut done, mut unknown) = (0, 0);
    for thread in counting {
        let (d, u) = thread.join().unwrap();
        (done, unknown) = (done + d, unknown + u);
    }
    let Bulk(n) = redis.ask("GET n") else { panic!("the counter exists") };
    let n: i64 = n.parse().unwrap();
    assert!((done..=done + unknown).contains(&n), "the counter is {n}, not {done} to {}", done + unknown);
    assert!(n > before, "counting continues under another leader: {before} and then {n}");
}

#[test]
fn commands_without_quorum_reply_clusterdown() {
    let (mut cluster, doors) = doors(3, &[]);
    let leader = cluster.leader();
    let other = (leader + 1) % 3;
    let last = (leader + 2) % 3;
    cluster.kill(leader);
    cluster.kill(other);
    let mut redis = Redis::dial(&doors[last]);
    assert_eq!(redis.ask("PING"), Line("PONG".into()));
    // While the leader may still be believed alive, commands are sent to it; later they are parked as well.
    let down = Error("CLUSTERDOWN No Raft leader".into());
    until("no leader is known", || (redis.ask("SET k v") == down).then_some(()), || cluster.logs());
    assert_eq!(redis.ask("GET k"), down);
    redis.ask("READONLY");
    assert_eq!(redis.ask("GET k"), Nil);
    cluster.spawn(leader);
    redis.ask("READWRITE");
    until("a leader is found", || (redis.ask("SET k v") == ok()).then_some(()), || cluster.logs());
    assert_eq!(redis.ask("GET k"), bulk("v"));
}

#[test]
fn redis_rs_client_works() {
    let (_cluster, doors) = doors(3, &[]);
    for (door, protocol) in doors.iter().zip(["resp2", "resp3", "resp3"]) {
        let client = redis::Client::open(format!("redis://{door}/?protocol={protocol}")).unwrap();
        let mut redis = client.get_connection().unwrap();
        let key = format!("of {door}");
        redis::cmd("SET").arg(&key).arg(7).arg("PX").arg(60_000).exec(&mut redis).unwrap();
        assert_eq!(redis::cmd("GET").arg(&key).query(&mut redis), Ok(Some(7)));
        assert_eq!(redis::cmd("GET").arg("none").query(&mut redis), Ok(None::<u8>));
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("INCR").arg(&key).cmd("INCRBY").arg(&key).arg(10).cmd("TTL").arg(&key);
        let (one, ten, left): (i64, i64, i64) = pipe.query(&mut redis).unwrap();
        assert_eq!((one, ten), (8, 18));
        assert!((1..=60).contains(&left), "{left}");
        let values: Vec<Option<String>> = redis::cmd("MGET").arg(&key).arg("none").query(&mut redis).unwrap();
        assert_eq!(values, [Some("18".to_owned()), None]);
        let wrong = redis::cmd("INCR").arg(&key).arg("more").exec(&mut redis).unwrap_err();
        assert!(wrong.to_string().contains("wrong number of arguments"), "{wrong}");
    }
}

#[test]
fn redis_rs_cluster_client_finds_the_leader() {
    let mut cluster = cluster_with_default_redis_ports(&["--resp-follower", "moved"]);
    let leader = cluster.leader();
    let seeds: Vec<String> = cluster.doors.iter().map(|door| format!("redis://{door}")).collect();
    let connect = || redis::cluster::ClusterClient::new(seeds.clone()).ok()?.get_connection().ok();
    let mut redis = until("a connection", connect, || cluster.logs());
    redis::cmd("SET").arg("k").arg(1).exec(&mut redis).unwrap();
    assert_eq!(redis::cmd("INCR").arg("k").query(&mut redis), Ok(2));
    cluster.kill(leader);
    // A new connection finds the new leader. Where an older connection sends its commands is left to the client.
    let again = || {
        let mut redis = connect()?;
        redis::cmd("SET").arg("k").arg(5).exec(&mut redis).ok().map(|()| redis)
    };
    let mut redis = until("the client finds the new leader", again, || cluster.logs());
    assert_eq!(redis::cmd("GET").arg("k").query(&mut redis), Ok(5));
}

#[test]
fn malformed_redis_input_leaks_nothing() {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};
    let (mut cluster, doors) = doors(1, &[]);
    let mut honest = Redis::dial(&doors[0]);
    assert_eq!(honest.ask("SET k v"), ok());
    let mut rng = SmallRng::seed_from_u64(0x6472_6176);
    let real: Vec<u8> = [&["SET", "k", "v"][..], &["GET", "k"], &["MULTI"], &["EXEC"], &["HELLO", "3"]]
        .iter()
        .flat_map(|words| encoded(words))
        .collect();
    for _ in 0..500 {
        let mut bytes: Vec<u8> = (0..20).flat_map(|_| real.clone()).collect();
        for _ in 0..rng.random_range(0..6) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        let Ok(mut redis) = Redis::try_dial(&doors[0]) else { continue };
        let _it_may_be_closed = redis.raw(&bytes);
        let _it_may_be_closed = redis.stream.get_ref().shutdown(Shutdown::Write);
        let mut all = Vec::new();
        let _it_may_be_reset = redis.stream.read_to_end(&mut all);
    }
    assert!(matches!(honest.ask("PING"), Line(_)));
    cluster.expect_no_deaths();
    let alone = || (cluster.status(0)?.sessions == 1).then_some(());
    until("the sessions of disconnected clients are closed", alone, || cluster.logs());
    let Bulk(info) = honest.ask("INFO clients") else { panic!("INFO is text") };
    assert!(info.contains("connected_clients:1\r\n"), "{info}");
}
