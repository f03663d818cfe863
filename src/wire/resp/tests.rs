//! Commands are parsed the same however the input is split; anything else is an error, and costs only its size.

use super::*;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// The commands in those bytes, and the final error.
fn read(bytes: &[u8], bounds: Bounds) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
    read_in_pieces(&[bytes], bounds)
}

fn read_in_pieces(pieces: &[&[u8]], bounds: Bounds) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
    let (mut reader, mut input, mut said) = (Reader::default(), BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match reader.next(&mut input, bounds) {
                Ok(Some(words)) => said.push(words.from(0).map(<[u8]>::to_vec).collect()),
                Ok(None) => break,
                Err(wrong) => return (said, Some(wrong.to_string())),
            }
        }
    }
    (said, None)
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
    let (said, end) = read(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n\r\n*0\r\n*-1\r\n  set k  v \r\n", Bounds::KNOWN);
    assert_eq!((said, end), (vec![words("GET k"), words("PING"), words("set k v")], None));
}

#[test]
fn inline_command_supports_quotes_and_escapes() {
    let (said, end) = read(b"a \"b c\\x41\\n\\q\" 'd \\' e' \"\"\n", Bounds::KNOWN);
    let all = [&b"a"[..], b"b cA\nq", b"d ' e", b""].map(<[u8]>::to_vec);
    assert_eq!((said, end), (vec![all.to_vec()], None));
    for unbalanced in ["\"a\n", "'a\n", "\"a\"b\n", "'a'b\n"] {
        let why = read(unbalanced.as_bytes(), Bounds::KNOWN).1;
        assert_eq!(why.as_deref(), Some("Protocol error: unbalanced quotes in request"), "{unbalanced}");
    }
}

#[test]
fn protocol_errors_use_redis_wording() {
    let long = "x".repeat(RESP_LINE_BYTES_MAX + 1);
    for (bytes, why) in [
        ("*x\r\n", "invalid multibulk length"),
        ("*1048577\r\n", "invalid multibulk length"),
        ("*99999999999999999999\r\n", "invalid multibulk length"),
        ("*1\r\nGET\r\n", "expected '$', got 'G'"),
        ("*1\r\n*1\r\n$1\r\na\r\n", "expected '$', got '*'"),
        ("*1\r\n$-1\r\n", "invalid bulk length"),
        ("*1\r\n$536870913\r\n", "invalid bulk length"),
        ("*1\r\n$1\r\naXX", "expected CRLF"),
        (&long, "too big inline request"),
        (&format!("*{long}"), "too big mbulk count string"),
        (&format!("*1\r\n${long}"), "too big bulk count string"),
    ] {
        let said = read(bytes.as_bytes(), Bounds::KNOWN).1;
        assert_eq!(said, Some(format!("Protocol error: {why}")), "{:.40}", bytes);
    }
    let said = |bytes: &[u8]| read(bytes, Bounds::UNKNOWN).1;
    assert_eq!(said(b"*11\r\n").as_deref(), Some("Protocol error: unauthenticated multibulk length"));
    assert_eq!(said(b"*1\r\n$16385\r\n").as_deref(), Some("Protocol error: unauthenticated bulk length"));
    assert_eq!(said(b"*10\r\n$16384\r\n"), None);
}

#[test]
fn announced_length_allocates_nothing() {
    let (mut reader, mut input) = (Reader::default(), BytesMut::new());
    input.extend_from_slice(b"*1048576\r\n$1048576\r\n");
    let room = input.capacity();
    assert_eq!(reader.next(&mut input, Bounds::KNOWN), Ok(None));
    assert!(reader.is_midway());
    assert_eq!((reader.held(), input.capacity()), (0, room));
}

/// What is too large about the first command in those bytes, with its first words, and the maximum memory held. The
/// bytes arrive in pieces of that length.
fn discard_oversized(bytes: &[u8], piece: usize) -> (CommandArgs, Vec<Vec<u8>>, usize) {
    let (mut reader, mut input, mut held, mut said) = (Reader::default(), BytesMut::new(), 0, Vec::new());
    for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        while let Some(words) = reader.next(&mut input, Bounds::KNOWN).unwrap() {
            said.push(words);
        }
        held = held.max(input.len() + reader.held());
    }
    assert_eq!((said.len(), reader.is_midway(), input.len()), (2, false, 0));
    assert_eq!(said[1].at(0), b"PING", "the next command is parsed");
    let words = said[0].from(0).map(<[u8]>::to_vec).collect();
    (said.swap_remove(0), words, held)
}

#[test]
fn oversized_command_is_discarded_in_bounded_memory() {
    let key = vec![b'k'; 200];
    let behind = b"*1\r\n$4\r\nPING\r\n";
    let long = [&b"SET"[..], &key, &vec![b'\r'; 5 << 20], b"EX", b"10"].map(<[u8]>::to_vec);
    for piece in [1 << 10, 100_003, 64 << 20] {
        let (words, first, held) = discard_oversized(&[&command(&long)[..], behind].concat(), piece);
        assert_eq!(words.excess(), Some(Excess::Argument(5 << 20)));
        assert_eq!(first, [b"SET".to_vec(), key[..128].to_vec()]);
        assert!(held <= piece.min(1 << 20) + 1024, "{held} bytes were held");
    }
    let mut many = words("MSET");
    (0..9).for_each(|n| many.extend([vec![b'k', n], vec![b'x'; 1 << 20]]));
    let (words, first, held) = discard_oversized(&[&command(&many)[..], behind].concat(), 100_003);
    assert_eq!((words.excess(), &first[..]), (Some(Excess::Command), &[b"MSET".to_vec(), vec![b'k', 0]][..]));
    assert!(held <= RESP_COMMAND_BYTES_MAX + 200_000, "{held} bytes were held");
    let (words, first, _) = discard_oversized(&[&command(&[vec![b'x'; 2 << 20]])[..], behind].concat(), 100_003);
    assert_eq!((words.excess(), first.len()), (Some(Excess::Argument(2 << 20)), 0));
}

#[test]
fn replies_are_encoded_as_in_redis() {
    let said = |version, say: fn(&mut Writer<'_>)| {
        let mut out = BytesMut::new();
        say(&mut Writer::new(&mut out, version));
        String::from_utf8(out.to_vec()).unwrap()
    };
    let all = |out: &mut Writer<'_>| {
        out.line("OK");
        out.error("ERR a\r\nb");
        out.integer(i64::MIN);
        out.integer(0);
        out.bulk(b"x\r\n");
        out.array(2);
        out.map(1);
        out.nil();
    };
    let both = "+OK\r\n-ERR a  b\r\n:-9223372036854775808\r\n:0\r\n$3\r\nx\r\n\r\n*2\r\n";
    assert_eq!(said(Version::Two, all), format!("{both}*2\r\n$-1\r\n"));
    assert_eq!(said(Version::Three, all), format!("{both}%1\r\n_\r\n"));
}

/// Realistic traffic, to be corrupted.
fn traffic() -> Vec<u8> {
    let mut out = Vec::new();
    for text in ["SET key:000000001 xxx", "GET k", "MSET a 1 b 2 c 3", "INCR n", "HELLO 3 AUTH u p"] {
        out.extend_from_slice(&command(&words(text)));
    }
    out.extend_from_slice(b"PING\r\nset \"a b\" 'c'\r\n*0\r\n");
    out
}

#[test]
fn million_corrupt_requests_use_bounded_memory() {
    let (real, mut rng) = (traffic(), SmallRng::seed_from_u64(0x7265_7370));
    let (mut read, mut refused) = (0u32, 0u32);
    for _ in 0..1_000_000 {
        let mut bytes: Vec<u8> = if rng.random_range(0..4) == 0 {
            const LIKELY: &[u8] = b"*$\r\n0123456789-\"'\\x abc\0\xff";
            (0..rng.random_range(0..40)).map(|_| LIKELY[rng.random_range(0..LIKELY.len())]).collect()
        } else {
            let from = rng.random_range(0..real.len() / 2);
            real[from..rng.random_range(from..real.len())].to_vec()
        };
        for _ in 0..rng.random_range(0..3) {
            if !bytes.is_empty() {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
        }
        let (mut reader, mut input) = (Reader::default(), BytesMut::from(&bytes[..]));
        loop {
            match reader.next(&mut input, Bounds::KNOWN) {
                Ok(Some(words)) => {
                    read += 1;
                    assert!(!words.is_empty() && words.size() <= 10 * bytes.len(), "{bytes:?}");
                }
                Ok(None) => break,
                Err(_) => {
                    refused += 1;
                    break;
                }
            }
        }
        assert!(reader.held() <= 64 + 4 * bytes.len() && input.len() <= bytes.len(), "{bytes:?}");
    }
    assert!(read > 100_000 && refused > 100_000, "read {read}, refused {refused}: the inputs vary too little");
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
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|two| &bytes[two[0]..two[1]]).collect();
        prop_assert_eq!(read_in_pieces(&pieces, Bounds::KNOWN), (all, None));
    }

    #[test]
    fn any_input_split_anywhere_parses_the_same(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            prop::collection::vec(prop::sample::select(b"*$\r\n012 a\"'\\x".to_vec()), 0..60),
        ],
    ) {
        let ones: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(read_in_pieces(&ones, Bounds::KNOWN), read(&bytes, Bounds::KNOWN));
    }
}
