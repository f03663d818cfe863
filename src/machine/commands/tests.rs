//! The codec of commands, queries and answers: each value decodes as encoded, and invalid bytes are rejected.

use super::*;
use crate::limits::KEY_BYTES_MAX;
use proptest::prelude::*;

#[test]
fn commands_decode_as_encoded() {
    let commands = vec![
        Command::Put { key: b"k", value: b"v" },
        Command::Del { key: b"" },
        Command::Cas { key: b"k", expected: None, new: b"n" },
        Command::Cas { key: b"k", expected: Some(b""), new: b"" },
        Command::Incr { key: b"k", by: i64::MIN },
    ];
    let commands: Vec<_> = commands.into_iter().chain(expiring_commands()).collect();
    let steps = commands
        .iter()
        .cloned()
        .map(CommandOrQuery::Command)
        .chain(queries().into_iter().map(CommandOrQuery::Query))
        .collect();
    for command in
        commands.iter().chain([&Command::Batch(commands.clone()), &Command::Batch(vec![]), &Command::Block(steps)])
    {
        let bytes = command.encode();
        assert_eq!(Command::decode(&bytes).as_ref(), Ok(command));
        for cut in 0..bytes.len() {
            assert!(Command::decode(&bytes[..cut]).is_err(), "cut at {cut}: {command:?}");
        }
    }
}

fn expiring_commands() -> Vec<Command<'static>> {
    let expirations = [
        Expiration::Endless,
        Expiration::KeepTtl,
        Expiration::Until(Deadline::InMs(7)),
        Expiration::Until(Deadline::At(ClusterTime(u64::MAX))),
    ];
    let set_conditions = [SetCondition::Always, SetCondition::Absent, SetCondition::Present];
    let optional_flags = [None, Some(false), Some(true)];
    let set = |(expiration, only_if)| Command::Set {
        key: b"k",
        value: b"v",
        only_if,
        expiration,
        returns_previous: expiration == Expiration::KeepTtl,
    };
    let expire = |(must_have_deadline, must_be_later): (Option<bool>, Option<bool>)| {
        let condition = ExpireCondition {
            must_have_deadline,
            must_be_later,
            from_date: must_be_later.is_some() && must_have_deadline.is_none(),
        };
        Command::Expire { key: b"k", deadline: Deadline::InMs(9), condition }
    };
    expirations
        .iter()
        .flat_map(|expiration| set_conditions.map(|only_if| set((*expiration, only_if))))
        .chain(
            optional_flags.iter().flat_map(|has_deadline| optional_flags.map(|later| expire((*has_deadline, later)))),
        )
        .chain([
            Command::Append { key: b"k", tail: b"t" },
            Command::Persist { key: b"k" },
            Command::DelKeys(vec![b"a", b""]),
            Command::PutAll(vec![(b"a", b"1"), (b"b", b"")]),
        ])
        .collect()
}

fn queries() -> Vec<Query<'static>> {
    vec![
        Query::Values(vec![b"a", b"b"]),
        Query::CountPresent(vec![]),
        Query::Length { key: b"k" },
        Query::TimeToLive { key: b"k" },
        Query::Walk { prefix: b"p", from: 1 << 51, limit: 3 },
        Query::Get { key: b"k" },
        Query::Scan { prefix: b"p", after: None, limit: 7 },
        Query::Scan { prefix: b"", after: Some(b"a"), limit: u32::MAX },
        Query::Count,
        Query::Keyspace,
    ]
}

#[test]
fn queries_decode_as_encoded() {
    for query in queries() {
        assert_eq!(Query::decode(&query.encode()), Ok(query));
    }
}

#[test]
fn answers_decode_as_encoded() {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    let single_answers = vec![
        Answer::Done,
        Answer::Deleted { existed: true },
        Answer::CasMismatch { actual: None },
        Answer::CasMismatch { actual: Some(bytes("a")) },
        Answer::Number(-7),
        Answer::NotANumber,
        Answer::Overflow,
        Answer::Value(None),
        Answer::Value(Some(bytes(""))),
        Answer::Pairs { pairs: vec![(bytes("a"), bytes("1")), (bytes("b"), bytes("2"))], has_more: true },
        Answer::Count(9),
        Answer::Malformed,
        Answer::ConditionUnmet,
        Answer::Values(vec![None, Some(bytes("v"))]),
        Answer::WalkPage { keys: vec![bytes("a")], next: 7 },
        Answer::TimeToLive(TimeToLive::Absent),
        Answer::TimeToLive(TimeToLive::Endless),
        Answer::TimeToLive(TimeToLive::Ms(7)),
        Answer::TooLong,
        Answer::Omitted,
    ];
    let failed_batch = Answer::BatchFailed { index: 3, why: Box::new(Answer::Overflow) };
    for answer in single_answers.iter().chain([
        &Answer::Batch(single_answers.clone()),
        &Answer::List(single_answers.clone()),
        &failed_batch,
    ]) {
        assert_eq!(answer.encode().len(), answer.size());
        assert_eq!(Answer::decode(answer.encode()).as_ref(), Ok(answer));
    }
}

#[test]
fn nested_batch_and_oversized_key_are_rejected() {
    let nested_batch = Command::Batch(vec![Command::Batch(vec![])]);
    assert!(Command::decode(&nested_batch.encode()).is_err());
    let nested_block = Command::Block(vec![CommandOrQuery::Command(Command::Block(vec![]))]);
    assert!(Command::decode(&nested_block.encode()).is_err());
    let long_key = vec![0; KEY_BYTES_MAX + 1];
    assert!(Command::decode(&Command::Del { key: &long_key }.encode()).is_err());
    // The count states four thousand million commands, and four bytes follow.
    for kind in [request::COMMAND_KIND_BATCH, request::COMMAND_KIND_BLOCK] {
        assert!(Command::decode(&[kind, 255, 255, 255, 255, request::COMMAND_KIND_DEL, 0, 0, 0]).is_err());
    }
}

proptest! {
    #[test]
    fn garbage_input_does_not_panic(bytes: Vec<u8>) {
        let _any_result = Command::decode(&bytes);
        let _any_result = Query::decode(&bytes);
        let _any_result = Answer::decode(bytes.into());
    }
}
