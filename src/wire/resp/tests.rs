//! Tests that a command is parsed the same however the input is split, and that invalid input is an error and takes
//! memory at most in proportion to its size.

use super::*;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// The words of each command in `bytes`, and the error at which parsing ends, if any.
fn read(bytes: &[u8], limits: CommandLimits) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
    read_pieces(&[bytes], limits)
}

fn read_pieces(pieces: &[&[u8]], limits: CommandLimits) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
    let (mut reader, mut input, mut commands) = (CommandReader::default(), BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match reader.next(&mut input, limits) {
                Ok(Some(words)) => commands.push(words.args_from(0).map(<[u8]>::to_vec).collect()),
                Ok(None) => break,
                Err(error) => return (commands, Some(error.to_string())),
            }
        }
    }
    (commands, None)
}

fn command(words: &[Vec<u8>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn words(text: &str) -> Vec<Vec<u8>> {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn arrays_and_inline_commands_are_parsed_and_empty_ones_skipped() {
    let (commands, error) =
        read(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n\r\n*0\r\n*-1\r\n  set k  v \r\n", CommandLimits::AUTHENTICATED);
    assert_eq!((commands, error), (vec![words("GET k"), words("PING"), words("set k v")], None));
}

#[test]
fn inline_command_supports_quotes_and_escapes() {
    let (commands, error) = read(b"a \"b c\\x41\\n\\q\" 'd \\' e' \"\"\n", CommandLimits::AUTHENTICATED);
    let expected_words = [&b"a"[..], b"b cA\nq", b"d ' e", b""].map(<[u8]>::to_vec);
    assert_eq!((commands, error), (vec![expected_words.to_vec()], None));
    for unbalanced in ["\"a\n", "'a\n", "\"a\"b\n", "'a'b\n"] {
        let why = read(unbalanced.as_bytes(), CommandLimits::AUTHENTICATED).1;
        assert_eq!(why.as_deref(), Some("Protocol error: unbalanced quotes in request"), "{unbalanced}");
    }
}

#[test]
fn protocol_errors_use_redis_wording() {
    let long_line = "x".repeat(RESP_LINE_BYTES_MAX + 1);
    for (bytes, why) in [
        ("*x\r\n", "invalid multibulk length"),
        ("*1048577\r\n", "invalid multibulk length"),
        ("*99999999999999999999\r\n", "invalid multibulk length"),
        ("*1\r\nGET\r\n", "expected '$', got 'G'"),
        ("*1\r\n*1\r\n$1\r\na\r\n", "expected '$', got '*'"),
        ("*1\r\n$-1\r\n", "invalid bulk length"),
        ("*1\r\n$536870913\r\n", "invalid bulk length"),
        ("*1\r\n$1\r\naXX", "expected CRLF"),
        (&long_line, "too big inline request"),
        (&format!("*{long_line}"), "too big mbulk count string"),
        (&format!("*1\r\n${long_line}"), "too big bulk count string"),
    ] {
        let error = read(bytes.as_bytes(), CommandLimits::AUTHENTICATED).1;
        assert_eq!(error, Some(format!("Protocol error: {why}")), "{:.40}", bytes);
    }
    let error_of = |bytes: &[u8]| read(bytes, CommandLimits::UNAUTHENTICATED).1;
    assert_eq!(error_of(b"*11\r\n").as_deref(), Some("Protocol error: unauthenticated multibulk length"));
    assert_eq!(error_of(b"*1\r\n$16385\r\n").as_deref(), Some("Protocol error: unauthenticated bulk length"));
    assert_eq!(error_of(b"*10\r\n$16384\r\n"), None);
}

#[test]
fn announced_length_allocates_nothing() {
    let (mut reader, mut input) = (CommandReader::default(), BytesMut::new());
    input.extend_from_slice(b"*1048576\r\n$1048576\r\n");
    let capacity = input.capacity();
    assert_eq!(reader.next(&mut input, CommandLimits::AUTHENTICATED), Ok(None));
    assert!(reader.has_partial_command());
    assert_eq!((reader.allocated_bytes(), input.capacity()), (0, capacity));
}

/// Reads an oversized command and `PING` from `bytes`, which arrive in chunks of `chunk_bytes`. Returns the skipped
/// command, its first words, and the maximum memory held.
fn read_oversized(bytes: &[u8], chunk_bytes: usize) -> (CommandArgs, Vec<Vec<u8>>, usize) {
    let (mut reader, mut input, mut held, mut commands) = (CommandReader::default(), BytesMut::new(), 0, Vec::new());
    for chunk in bytes.chunks(chunk_bytes) {
        input.extend_from_slice(chunk);
        while let Some(words) = reader.next(&mut input, CommandLimits::AUTHENTICATED).unwrap() {
            commands.push(words);
        }
        held = held.max(input.len() + reader.allocated_bytes());
    }
    assert_eq!((commands.len(), reader.has_partial_command(), input.len()), (2, false, 0));
    assert_eq!(commands[1].at(0), b"PING", "the next command is parsed");
    let words = commands[0].args_from(0).map(<[u8]>::to_vec).collect();
    (commands.swap_remove(0), words, held)
}

#[test]
fn oversized_command_is_discarded_in_bounded_memory() {
    let key = vec![b'k'; 200];
    let ping = b"*1\r\n$4\r\nPING\r\n";
    let set_words = [&b"SET"[..], &key, &vec![b'\r'; 5 << 20], b"EX", b"10"].map(<[u8]>::to_vec);
    for chunk_bytes in [1 << 10, 100_003, 64 << 20] {
        let (words, first, held) = read_oversized(&[&command(&set_words)[..], ping].concat(), chunk_bytes);
        assert_eq!(words.oversized_part(), Some(OversizedPart::Argument(5 << 20)));
        assert_eq!(first, [b"SET".to_vec(), key[..128].to_vec()]);
        assert!(held <= chunk_bytes.min(1 << 20) + 1024, "{held} bytes were held");
    }
    let mut mset_words = words("MSET");
    (0..9).for_each(|n| mset_words.extend([vec![b'k', n], vec![b'x'; 1 << 20]]));
    let (words, first, held) = read_oversized(&[&command(&mset_words)[..], ping].concat(), 100_003);
    assert_eq!(
        (words.oversized_part(), &first[..]),
        (Some(OversizedPart::Command), &[b"MSET".to_vec(), vec![b'k', 0]][..])
    );
    assert!(held <= RESP_COMMAND_BYTES_MAX + 200_000, "{held} bytes were held");
    let (words, first, _) = read_oversized(&[&command(&[vec![b'x'; 2 << 20]])[..], ping].concat(), 100_003);
    assert_eq!((words.oversized_part(), first.len()), (Some(OversizedPart::Argument(2 << 20)), 0));
}

#[test]
fn replies_are_encoded_as_in_redis() {
    let encode = |version, write: fn(&mut ReplyWriter<'_>)| {
        let mut out = BytesMut::new();
        write(&mut ReplyWriter::new(&mut out, version));
        String::from_utf8(out.to_vec()).unwrap()
    };
    let write_all = |out: &mut ReplyWriter<'_>| {
        out.simple_string("OK");
        out.error("ERR a\r\nb");
        out.integer(i64::MIN);
        out.integer(0);
        out.bulk(b"x\r\n");
        out.array(2);
        out.map(1);
        out.nil();
    };
    let common_replies = "+OK\r\n-ERR a  b\r\n:-9223372036854775808\r\n:0\r\n$3\r\nx\r\n\r\n*2\r\n";
    assert_eq!(encode(RespVersion::Resp2, write_all), format!("{common_replies}*2\r\n$-1\r\n"));
    assert_eq!(encode(RespVersion::Resp3, write_all), format!("{common_replies}%1\r\n_\r\n"));
}

/// Valid commands, as arrays and as inline lines, for a test to corrupt.
fn valid_commands() -> Vec<u8> {
    let mut out = Vec::new();
    for text in ["SET key:000000001 xxx", "GET k", "MSET a 1 b 2 c 3", "INCR n", "HELLO 3 AUTH u p"] {
        out.extend_from_slice(&command(&words(text)));
    }
    out.extend_from_slice(b"PING\r\nset \"a b\" 'c'\r\n*0\r\n");
    out
}

#[test]
fn million_corrupt_requests_use_bounded_memory() {
    let (valid_bytes, mut rng) = (valid_commands(), SmallRng::seed_from_u64(0x7265_7370));
    let (mut accepted, mut rejected) = (0u32, 0u32);
    for _ in 0..1_000_000 {
        let mut bytes: Vec<u8> = if rng.random_range(0..4) == 0 {
            const LIKELY_BYTES: &[u8] = b"*$\r\n0123456789-\"'\\x abc\0\xff";
            (0..rng.random_range(0..40)).map(|_| LIKELY_BYTES[rng.random_range(0..LIKELY_BYTES.len())]).collect()
        } else {
            let from = rng.random_range(0..valid_bytes.len() / 2);
            valid_bytes[from..rng.random_range(from..valid_bytes.len())].to_vec()
        };
        for _ in 0..rng.random_range(0..3) {
            if !bytes.is_empty() {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
        }
        let (mut reader, mut input) = (CommandReader::default(), BytesMut::from(&bytes[..]));
        loop {
            match reader.next(&mut input, CommandLimits::AUTHENTICATED) {
                Ok(Some(words)) => {
                    accepted += 1;
                    assert!(!words.is_empty() && words.memory_bytes() <= 10 * bytes.len(), "{bytes:?}");
                }
                Ok(None) => break,
                Err(_) => {
                    rejected += 1;
                    break;
                }
            }
        }
        assert!(reader.allocated_bytes() <= 64 + 4 * bytes.len() && input.len() <= bytes.len(), "{bytes:?}");
    }
    assert!(
        accepted > 100_000 && rejected > 100_000,
        "{accepted} accepted, {rejected} rejected: the inputs vary too little"
    );
}

proptest! {
    #[test]
    fn commands_split_anywhere_parse_the_same(
        all in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..5), 0..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes: Vec<u8> = all.iter().flat_map(|words| command(words)).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(read_pieces(&pieces, CommandLimits::AUTHENTICATED), (all, None));
    }

    #[test]
    fn any_input_split_anywhere_parses_the_same(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            prop::collection::vec(prop::sample::select(b"*$\r\n012 a\"'\\x".to_vec()), 0..60),
        ],
    ) {
        let single_bytes: Vec<&[u8]> = bytes.chunks(1).collect();
        let limits = CommandLimits::AUTHENTICATED;
        prop_assert_eq!(read_pieces(&single_bytes, limits), read(&bytes, limits));
    }
}
