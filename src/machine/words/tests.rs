//! Words come back as they were, or not at all.

use super::*;
use proptest::prelude::*;

#[test]
fn commands_come_back_as_they_were() {
    let commands = vec![
        Command::Put { key: b"k", value: b"v" },
        Command::Del { key: b"" },
        Command::Cas { key: b"k", expected: None, new: b"n" },
        Command::Cas { key: b"k", expected: Some(b""), new: b"" },
        Command::Incr { key: b"k", by: i64::MIN },
    ];
    for command in commands.iter().chain([&Command::Batch(commands.clone()), &Command::Batch(vec![])]) {
        let bytes = command.encode();
        assert_eq!(Command::decode(&bytes).as_ref(), Ok(command));
        for cut in 0..bytes.len() {
            assert!(Command::decode(&bytes[..cut]).is_err(), "cut at {cut}: {command:?}");
        }
    }
}

#[test]
fn queries_come_back_as_they_were() {
    for query in [
        Query::Get { key: b"k" },
        Query::Scan { prefix: b"p", after: None, limit: 7 },
        Query::Scan { prefix: b"", after: Some(b"a"), limit: u32::MAX },
        Query::Count,
    ] {
        assert_eq!(Query::decode(&query.encode()), Ok(query));
    }
}

#[test]
fn answers_come_back_as_they_were() {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    let singles = vec![
        Answer::Done,
        Answer::Deleted { existed: true },
        Answer::Kept { actual: None },
        Answer::Kept { actual: Some(bytes("a")) },
        Answer::Number(-7),
        Answer::NotANumber,
        Answer::Overflow,
        Answer::Value(None),
        Answer::Value(Some(bytes(""))),
        Answer::Pairs { pairs: vec![(bytes("a"), bytes("1")), (bytes("b"), bytes("2"))], more: true },
        Answer::Count(9),
        Answer::Malformed,
    ];
    let none = Answer::None { at: 3, why: Box::new(Answer::Overflow) };
    for answer in singles.iter().chain([&Answer::All(singles.clone()), &none]) {
        assert_eq!(Answer::decode(answer.encode()).as_ref(), Ok(answer));
    }
}

#[test]
fn a_batch_in_a_batch_and_an_endless_key_are_not_read() {
    let nested = Command::Batch(vec![Command::Batch(vec![])]);
    assert!(Command::decode(&nested.encode()).is_err());
    let long = vec![0; KEY_BYTES_MAX + 1];
    assert!(Command::decode(&Command::Del { key: &long }.encode()).is_err());
    // Four thousand million commands in nine bytes.
    assert!(Command::decode(&[BATCH, 255, 255, 255, 255, DEL, 0, 0, 0]).is_err());
}

proptest! {
    #[test]
    fn garbage_is_an_error_and_nothing_worse(bytes: Vec<u8>) {
        let _either = Command::decode(&bytes);
        let _either = Query::decode(&bytes);
        let _either = Answer::decode(bytes.into());
    }
}
