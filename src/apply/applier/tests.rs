//! Compares the applier with a model of its sessions that stores every answer and searches all sessions.

use super::*;
use crate::codec;
use crate::types::{ClusterTime, Position, Term};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A machine that counts the commands applied: its answers distinguish a first execution from a second one. The answer
/// to a command of 199 bytes is longer than `ANSWER_BYTES_MAX`.
#[derive(Debug, Default)]
struct Counter {
    count: u64,
    frozen_count: Option<u64>,
}

impl StateMachine for Counter {
    fn apply(&mut self, _context: &Context, command: &[u8]) -> Bytes {
        self.count += 1;
        if command.len() == 199 {
            return Bytes::from_static(&[0; ANSWER_BYTES_MAX as usize + 1]);
        }
        [&self.count.to_le_bytes()[..], command].concat().into()
    }

    fn query(&self, _time: ClusterTime, _query: &[u8]) -> Bytes {
        self.count.to_le_bytes().to_vec().into()
    }

    fn digest(&self) -> u64 {
        self.count
    }

    fn freeze(&mut self) {
        self.frozen_count = Some(self.count);
    }

    fn next_chunk(&mut self, _bytes: usize) -> Option<Bytes> {
        self.frozen_count.take().map(|count| Bytes::copy_from_slice(&count.to_le_bytes()))
    }

    fn end_snapshot(&mut self) {
        self.frozen_count = None;
    }

    fn empty(&self) -> Counter {
        Counter::default()
    }

    fn restore(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
        let count = chunk.try_into().map_err(|_| Malformed("not a count"))?;
        self.count = u64::from_le_bytes(count);
        Ok(())
    }
}

/// The id of no session: tests append fewer entries.
const UNKNOWN_SESSION: u64 = 999;

const OPTIONS: Options = Options { idle_ms_max: 40, session_count_max: 3, answer_bytes_max: 1300 };

/// An action in a random test: an entry to append to the log, or a wait before the next entry.
#[derive(Clone, Debug)]
enum SessionAction {
    /// Opens a session with that window.
    Open(u32),
    /// Opens an ordered session with that window.
    OpenOrdered(u32),
    /// Executes a command: the nth session ever opened, the sequence number, the lowest outstanding number, and the
    /// command's length.
    Execute(usize, u64, u64, u8),
    /// Closes the nth session ever opened.
    Close(usize),
    Noop,
    Tick,
    UndecodableOp,
    /// Advances the cluster time by that many milliseconds, and appends no entry.
    Wait(u64),
}

fn session_action() -> impl Strategy<Value = SessionAction> {
    prop_oneof![
        1 => (1..6u32).prop_map(SessionAction::Open),
        1 => (1..6u32).prop_map(SessionAction::OpenOrdered),
        20 => (0..8usize, 1..10u64, 0..8u64, 0..200u8)
            .prop_map(|(nth, seq, lowest, size)| SessionAction::Execute(nth, seq, lowest.min(seq), size)),
        1 => (0..8usize).prop_map(SessionAction::Close),
        1 => Just(SessionAction::Noop),
        1 => Just(SessionAction::Tick),
        1 => Just(SessionAction::UndecodableOp),
        3 => (0..30u64).prop_map(SessionAction::Wait),
    ]
}

/// The log entries of these actions. The id of a session is known in advance: the index of the entry that opens it.
fn entries(actions: &[SessionAction]) -> Vec<Entry> {
    let (mut entries, mut opened, mut time) = (Vec::new(), Vec::new(), 0);
    for action in actions {
        let index = Index(entries.len() as u64 + 1);
        let session_id = |nth: usize| SessionId(opened.get(nth).copied().unwrap_or(UNKNOWN_SESSION));
        let payload = match action {
            SessionAction::Open(window) => Payload::Opaque(Op::Open { window: *window, ordered: false }.encode()),
            SessionAction::OpenOrdered(window) => Payload::Opaque(Op::Open { window: *window, ordered: true }.encode()),
            SessionAction::Execute(nth, seq, lowest, size) => {
                let command = Bytes::from(vec![*size; usize::from(*size)]);
                Payload::Opaque(
                    Op::Execute { session: session_id(*nth), seq: *seq, first_outstanding: *lowest, command }.encode(),
                )
            }
            SessionAction::Close(nth) => Payload::Opaque(Op::Close { session: session_id(*nth) }.encode()),
            SessionAction::Noop => Payload::Noop,
            SessionAction::Tick => Payload::Opaque(Op::Tick.encode()),
            SessionAction::UndecodableOp => Payload::Opaque(Bytes::from_static(b"\xff")),
            SessionAction::Wait(ms) => {
                time += ms;
                continue;
            }
        };
        if matches!(action, SessionAction::Open(_) | SessionAction::OpenOrdered(_)) {
            opened.push(index.0);
        }
        entries.push(codec::entry(Position::new(index, Term(1)), ClusterTime(time), payload));
    }
    entries
}

/// A session in the model, with every answer that its client may still request.
#[derive(Debug)]
struct ModelSession {
    window: u64,
    ordered: bool,
    /// The highest command number executed.
    highest_executed: u64,
    first_outstanding: u64,
    last_used: u64,
    last_used_time: u64,
    answers: BTreeMap<u64, Option<Bytes>>,
}

/// A naive implementation of the rules for sessions: it searches all sessions at each entry.
#[derive(Debug, Default)]
struct Model {
    counter: Counter,
    sessions: BTreeMap<u64, ModelSession>,
}

impl Model {
    fn apply(&mut self, entry: &Entry) -> Option<Outcome> {
        let (index, now) = (entry.position.index.0, entry.time.0);
        self.sessions.retain(|_, state| state.last_used_time + OPTIONS.idle_ms_max >= now);
        let Payload::Opaque(bytes) = &entry.payload else { return None };
        Some(match Op::decode(bytes.clone()) {
            Err(_) => Outcome::Malformed,
            Ok(Op::Tick) => return None,
            Ok(Op::Open { window, ordered }) => {
                self.expire_while(|sessions| sessions.len() >= OPTIONS.session_count_max);
                let window = u64::from(window);
                let state = ModelSession {
                    window,
                    ordered,
                    highest_executed: 0,
                    first_outstanding: 1,
                    last_used: index,
                    last_used_time: now,
                    answers: BTreeMap::new(),
                };
                self.sessions.insert(index, state);
                Outcome::Opened { session: SessionId(index) }
            }
            Ok(Op::Close { session }) => {
                self.sessions.remove(&session.0);
                Outcome::Closed
            }
            Ok(Op::Execute { session, seq, first_outstanding, command }) => {
                let context = Context {
                    index: entry.position.index,
                    term: entry.position.term,
                    time: entry.time,
                    feature_level: 1,
                };
                let Some(state) = self.sessions.get_mut(&session.0) else { return Some(Outcome::SessionExpired) };
                (state.last_used, state.last_used_time) = (index, now);
                let first_outstanding = state.first_outstanding.max(first_outstanding);
                state.first_outstanding = first_outstanding;
                state.answers.retain(|seq, _| *seq >= first_outstanding);
                if seq < first_outstanding {
                    Outcome::ResponseDiscarded
                } else if seq >= first_outstanding + state.window {
                    Outcome::WindowExceeded
                } else if let Some(answer) = state.answers.get(&seq) {
                    super::outcome_of(answer.clone(), true)
                } else if state.ordered && (state.highest_executed + 1..seq).any(|before| before >= first_outstanding) {
                    Outcome::OutOfOrder
                } else {
                    let answer = Some(self.counter.apply(&context, &command)).filter(|answer| answer.len() < 1000);
                    state.answers.insert(seq, answer.clone());
                    state.highest_executed = state.highest_executed.max(seq);
                    self.expire_while(|sessions| charged_bytes(sessions) > OPTIONS.answer_bytes_max);
                    super::outcome_of(answer, false)
                }
            }
        })
    }

    fn expire_while(&mut self, limit_exceeded: impl Fn(&BTreeMap<u64, ModelSession>) -> bool) {
        while limit_exceeded(&self.sessions) {
            let oldest = *self.sessions.iter().min_by_key(|(_, state)| state.last_used).unwrap().0;
            self.sessions.remove(&oldest);
        }
    }
}

fn charged_bytes(sessions: &BTreeMap<u64, ModelSession>) -> u64 {
    let answers = sessions.values().flat_map(|state| state.answers.values());
    answers
        .map(|answer| {
            super::super::session::ANSWER_OVERHEAD_BYTES + answer.as_ref().map_or(0, |answer| answer.len() as u64)
        })
        .sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn applier_matches_the_model(actions in prop::collection::vec(session_action(), 0..120), batch_size in 1..7usize) {
        let entries = entries(&actions);
        let mut model = Model::default();
        let expected_outcomes: Vec<_> =
            entries.iter().filter_map(|entry| Some((entry.position, model.apply(entry)?))).collect();

        // One applier gets all entries at once, the other in batches: the outcomes must be the same.
        let mut unbatched_applier = Applier::with_options(Counter::default(), OPTIONS);
        let unbatched_report = unbatched_applier.apply(&entries);
        let mut batched_applier = Applier::with_options(Counter::default(), OPTIONS);
        let batched_outcomes: Vec<_> =
            entries.chunks(batch_size).flat_map(|chunk| batched_applier.apply(chunk).outcomes).collect();

        prop_assert_eq!(&unbatched_report.outcomes, &expected_outcomes);
        prop_assert_eq!(&batched_outcomes, &expected_outcomes);
        prop_assert_eq!(unbatched_applier.digest(), batched_applier.digest());
        prop_assert_eq!(unbatched_report.upto, Index(entries.len() as u64));
        prop_assert_eq!(unbatched_report.sessions, model.sessions.len() as u64);
        prop_assert_eq!(unbatched_applier.machine().count, model.counter.count);
    }
}

fn execute_two_and_repeat_one(applier: &mut Applier<Counter>) -> Vec<Outcome> {
    let execute = |seq| SessionAction::Execute(0, seq, 1, 3);
    let report = applier.apply(&entries(&[SessionAction::Open(8), execute(1), execute(2), execute(1)]));
    report.outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

#[test]
fn duplicate_command_gets_the_first_answer() {
    let mut applier = Applier::new(Counter::default());
    let outcomes = execute_two_and_repeat_one(&mut applier);
    let (Outcome::Executed { answer: first, .. }, Outcome::Executed { answer: again, duplicate: true }) =
        (&outcomes[1], &outcomes[3])
    else {
        panic!("{outcomes:?}")
    };
    assert_eq!(first, again);
    assert_eq!(applier.machine().count, 2);
}

#[test]
fn mutants_change_outcomes_or_digest() {
    let node = NodeId::new(7).unwrap();
    let apply_with_mutant = |mutant| {
        let mut applier = Applier::new(Counter::default()).with_mutants(Mutants::only(mutant), node);
        let outcomes = execute_two_and_repeat_one(&mut applier);
        (outcomes, applier.machine().count, applier.digest())
    };
    let mut uninterrupted_applier = Applier::new(Counter::default());
    let outcomes = execute_two_and_repeat_one(&mut uninterrupted_applier);
    assert_eq!(apply_with_mutant(Mutant::ApplyTwice).1, 3);
    assert_ne!(apply_with_mutant(Mutant::ForgetAnswers).0, outcomes);
    assert_ne!(apply_with_mutant(Mutant::MachineKnowsNode).2, uninterrupted_applier.digest());
    assert_eq!(apply_with_mutant(Mutant::VoteTwice), (outcomes, 2, uninterrupted_applier.digest()));
}

/// Executes commands in an ordered session: each has a sequence number and the first outstanding number. Returns the
/// outcomes as words.
fn execute_in_ordered_session(numbers: &[(u64, u64)]) -> Vec<&'static str> {
    let execute = |(seq, lowest): &(u64, u64)| SessionAction::Execute(0, *seq, *lowest, 3);
    let actions: Vec<SessionAction> =
        [SessionAction::OpenOrdered(8)].into_iter().chain(numbers.iter().map(execute)).collect();
    let report = Applier::new(Counter::default()).apply(&entries(&actions));
    let outcome_word = |(_, outcome): &(Position, Outcome)| match outcome {
        Outcome::Executed { duplicate: false, .. } => "executed",
        Outcome::Executed { duplicate: true, .. } => "repeated",
        Outcome::OutOfOrder => "out of order",
        Outcome::ResponseDiscarded => "discarded",
        Outcome::WindowExceeded => "beyond the window",
        other => panic!("{other:?}"),
    };
    report.outcomes[1..].iter().map(outcome_word).collect()
}

#[test]
fn ordered_session_executes_commands_in_sequence() {
    let (early, late) = ("out of order", "executed");
    assert_eq!(execute_in_ordered_session(&[(2, 1), (1, 1), (3, 1), (2, 1), (3, 1)]), [early, late, early, late, late]);
    assert_eq!(
        execute_in_ordered_session(&[(1, 1), (2, 1), (1, 1), (9, 1)]),
        [late, late, "repeated", "beyond the window"]
    );
}

#[test]
fn abandoned_command_is_skipped_and_never_executed() {
    assert_eq!(
        execute_in_ordered_session(&[(1, 1), (4, 1), (4, 4), (2, 1), (3, 3)])[1..],
        ["out of order", "executed", "discarded", "discarded"]
    );
    // An out-of-order command still raises the first outstanding number of its session.
    assert_eq!(
        execute_in_ordered_session(&[(5, 3), (2, 1), (3, 3), (4, 3)]),
        ["out of order", "discarded", "executed", "executed"]
    );
}

#[test]
#[should_panic(expected = "in order")]
fn applier_panics_on_a_gap() {
    let entries = entries(&[SessionAction::Noop, SessionAction::Noop]);
    Applier::new(Counter::default()).apply(&entries[1..]);
}

/// The remaining chunks of the frozen state, each of about `bytes` bytes.
fn remaining_chunks(applier: &mut Applier<Counter>, bytes: usize) -> Vec<Piece> {
    std::iter::from_fn(|| applier.next_chunk(bytes)).collect()
}

fn restore_all(
    original: &Applier<Counter>,
    header: &StateHeader,
    chunks: &[Piece],
) -> Result<Applier<Counter>, Malformed> {
    let mut applier_restore = original.begin_restore();
    chunks.iter().try_for_each(|chunk| applier_restore.add(chunk))?;
    applier_restore.finish(header)
}

/// The concatenated chunks of the sessions, and those of the machine.
fn concatenate(chunks: &[Piece]) -> (Vec<u8>, Vec<u8>) {
    let (mut sessions, mut machine) = (Vec::new(), Vec::new());
    for chunk in chunks {
        match chunk {
            Piece::Sessions(bytes) => sessions.extend_from_slice(bytes),
            Piece::Machine(bytes) => machine.extend_from_slice(bytes),
        }
    }
    (sessions, machine)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn restored_applier_continues_like_the_original(
        actions in prop::collection::vec(session_action(), 0..150),
        at in any::<prop::sample::Index>(),
        between in prop::collection::vec((0..4usize, 1..300usize), 0..80),
        bytes in 1..400usize,
    ) {
        let entries = entries(&actions);
        let (before, after) = entries.split_at(at.index(entries.len() + 1));
        let mut applier = Applier::with_options(Counter::default(), OPTIONS);
        applier.apply(before);
        let mut undisturbed_applier = Applier::with_options(Counter::default(), OPTIONS);
        undisturbed_applier.apply(before);

        // The frozen state is serialized while more entries are applied.
        let header = applier.freeze();
        let (mut chunks, mut outcomes, mut rest) = (Vec::new(), Vec::new(), after);
        for (count, bytes) in between {
            let (now, later) = rest.split_at(count.min(rest.len()));
            outcomes.extend(applier.apply(now).outcomes);
            chunks.extend(applier.next_chunk(bytes));
            rest = later;
        }
        outcomes.extend(applier.apply(rest).outcomes);
        chunks.extend(remaining_chunks(&mut applier, bytes));

        // The serialized bytes are the same as if no entry had been applied meanwhile.
        prop_assert_eq!(undisturbed_applier.freeze(), header);
        prop_assert_eq!(concatenate(&remaining_chunks(&mut undisturbed_applier, 1)), concatenate(&chunks));

        let mut restored_applier = restore_all(&applier, &header, &chunks).unwrap();
        prop_assert_eq!(restored_applier.position(), undisturbed_applier.position());
        prop_assert_eq!(restored_applier.time(), undisturbed_applier.time());
        prop_assert_eq!(restored_applier.digest(), undisturbed_applier.digest());
        prop_assert_eq!(restored_applier.apply(after).outcomes, outcomes);
        prop_assert_eq!(restored_applier.digest(), applier.digest());
        let (restored_header, header) = (restored_applier.freeze(), applier.freeze());
        prop_assert_eq!(restored_header, header);
        let restored_chunks = remaining_chunks(&mut restored_applier, 50);
        prop_assert_eq!(concatenate(&restored_chunks), concatenate(&remaining_chunks(&mut applier, 50)));
    }

    #[test]
    fn restore_rejects_state_with_wrong_digest(
        actions in prop::collection::vec(session_action(), 1..60), at: prop::sample::Index, bit in 0..8u8,
    ) {
        let mut applier = Applier::with_options(Counter::default(), OPTIONS);
        applier.apply(&entries(&actions));
        let header = applier.freeze();
        let chunks = remaining_chunks(&mut applier, 30);
        let flip_offset = at.index(concatenate(&chunks).0.len() + concatenate(&chunks).1.len());
        let mut bytes_before_chunk = 0;
        let flipped_chunks: Vec<Piece> = chunks.iter().map(|chunk| {
            let flip_bit_at_offset = |bytes: &Bytes| {
                let mut bytes = bytes.to_vec();
                if (bytes_before_chunk..bytes_before_chunk + bytes.len()).contains(&flip_offset) {
                    bytes[flip_offset - bytes_before_chunk] ^= 1 << bit;
                }
                Bytes::from(bytes)
            };
            let (flipped_chunk, length) = match chunk {
                Piece::Sessions(bytes) => (Piece::Sessions(flip_bit_at_offset(bytes)), bytes.len()),
                Piece::Machine(bytes) => (Piece::Machine(flip_bit_at_offset(bytes)), bytes.len()),
            };
            bytes_before_chunk += length;
            flipped_chunk
        }).collect();
        prop_assert!(restore_all(&applier, &header, &flipped_chunks).is_err());
        let wrong_header = StateHeader { digest: header.digest ^ 1, ..header };
        prop_assert!(restore_all(&applier, &wrong_header, &chunks).is_err());
        let restored_without_last_chunk = restore_all(&applier, &header, &chunks[..chunks.len() - 1]);
        prop_assert!(restored_without_last_chunk.is_err() || applier.machine().count == 0);
    }

    #[test]
    fn restore_of_garbage_sessions_does_not_panic(bytes: Vec<u8>, kind in 1..4u8) {
        let chunk = Piece::Sessions([vec![kind], bytes].concat().into());
        let _any_result = Applier::new(Counter::default()).begin_restore().add(&chunk);
    }
}

#[test]
fn answer_that_is_too_long_ends_no_session() {
    let execute = |seq| SessionAction::Execute(0, seq, 1, 199);
    let mut applier = Applier::new(Counter::default());
    let report =
        applier.apply(&entries(&[SessionAction::Open(8), execute(1), execute(1), SessionAction::Execute(0, 2, 1, 3)]));
    let outcomes: Vec<_> = report.outcomes.iter().map(|(_, outcome)| outcome).collect();
    assert_eq!(outcomes[1..3], [&Outcome::AnswerTooLong; 2]);
    assert!(matches!(outcomes[3], Outcome::Executed { duplicate: false, .. }));
    assert_eq!(applier.machine().count, 2, "the command was executed once");
}

/// In rqlite/rqlite#1228 and #1798 the whole serialized state was in memory at once while a snapshot was written or
/// restored.
#[test]
fn large_session_is_serialized_in_several_chunks() {
    let actions: Vec<SessionAction> = [SessionAction::Open(1000)]
        .into_iter()
        .chain((1..500).map(|seq| SessionAction::Execute(0, seq, 1, 150)))
        .collect();
    let mut applier = Applier::new(Counter::default());
    applier.apply(&entries(&actions));
    let header = applier.freeze();
    let chunks = remaining_chunks(&mut applier, 4096);
    assert!(chunks.len() > 15, "{}", chunks.len());
    assert_eq!(restore_all(&applier, &header, &chunks).unwrap().digest(), applier.digest());
    assert_eq!(applier.next_chunk(1), None, "all chunks were serialized");
    let chunks_in_wrong_order = [chunks[chunks.len() - 1].clone(), chunks[0].clone()];
    assert_eq!(
        restore_all(&applier, &header, &chunks_in_wrong_order).err(),
        Some(Malformed("sessions after the machine's state"))
    );
}

/// A machine of leases: a command is a name and a length in milliseconds, and a lease expires when time has advanced
/// that far. A lease with a length of zero or less exists until the next entry.
#[derive(Debug, Default)]
struct Leases {
    lease_ends: BTreeMap<Vec<u8>, u64>,
    now: u64,
    frozen_lease_ends: Option<BTreeMap<Vec<u8>, u64>>,
}

impl StateMachine for Leases {
    fn apply(&mut self, context: &Context, command: &[u8]) -> Bytes {
        let (ms, name) = command.split_first_chunk().expect("eight bytes and a name");
        self.lease_ends.insert(name.to_vec(), context.time.0.saturating_add_signed(i64::from_le_bytes(*ms)));
        Bytes::new()
    }

    fn advance(&mut self, time: ClusterTime) {
        self.now = time.0;
        self.lease_ends.retain(|_, end| *end > time.0);
    }

    fn next_deadline(&self) -> Option<ClusterTime> {
        self.lease_ends.values().min().copied().map(ClusterTime)
    }

    fn query(&self, _time: ClusterTime, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.now.to_le_bytes())
    }

    fn digest(&self) -> u64 {
        self.lease_ends.iter().fold(1, |digest, (name, end)| crate::types::digest::hash(digest ^ end, name))
    }

    fn freeze(&mut self) {
        self.frozen_lease_ends = Some(self.lease_ends.clone());
    }

    fn next_chunk(&mut self, _bytes: usize) -> Option<Bytes> {
        let (name, end) = self.frozen_lease_ends.as_mut()?.pop_first()?;
        Some([&end.to_le_bytes()[..], &name].concat().into())
    }

    fn end_snapshot(&mut self) {
        self.frozen_lease_ends = None;
    }

    fn empty(&self) -> Leases {
        Leases::default()
    }

    fn restore(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
        let (end, name) = chunk.split_first_chunk().ok_or(Malformed("not a lease"))?;
        self.lease_ends.insert(name.to_vec(), u64::from_le_bytes(*end));
        Ok(())
    }

    fn finish_restore(&mut self, time: ClusterTime) {
        self.now = time.0;
    }
}

/// Compares two nodes: one froze its state, the other restored that state.
#[test]
fn lease_that_expires_in_its_own_entry_is_restored() {
    let entry = |index: u64, op: Op| {
        codec::entry(Position::new(Index(index), Term(1)), ClusterTime(1000 + index), Payload::Opaque(op.encode()))
    };
    let session = SessionId(1);
    let lease_entry = |index: u64, ms: i64| {
        let command = [&ms.to_le_bytes()[..], &[index as u8]].concat().into();
        entry(index, Op::Execute { session, seq: index - 1, first_outstanding: index - 1, command })
    };
    for ms in [0, -500, 3] {
        let mut original = Applier::new(Leases::default());
        original.apply(&[
            entry(1, Op::Open { window: 8, ordered: false }),
            lease_entry(2, 1_000_000),
            lease_entry(3, ms),
        ]);
        let header = original.freeze();
        let chunks: Vec<Piece> = std::iter::from_fn(|| original.next_chunk(1)).collect();
        let restore = |applier: &Applier<Leases>| {
            let mut applier_restore = applier.begin_restore();
            chunks.iter().for_each(|chunk| applier_restore.add(chunk).unwrap());
            applier_restore.finish(&header)
        };
        let mut restored_applier = restore(&original).unwrap();
        assert_eq!(
            (restored_applier.digest(), restored_applier.machine().next_deadline()),
            (original.digest(), original.machine().next_deadline())
        );
        assert_eq!(
            restored_applier.query(ClusterTime(0), &[]),
            original.query(ClusterTime(0), &[]),
            "the machine's time is restored"
        );
        // Leases that are due expire with the next entry, in the original applier and in the restored one.
        for index in 4..8 {
            let next_tick = [entry(index, Op::Tick)];
            assert_eq!(restored_applier.apply(&next_tick).digest, original.apply(&next_tick).digest);
        }
        assert_eq!(restored_applier.machine().lease_ends.len(), 1);
        let mutant_applier = Applier::new(Leases::default());
        let mutant_applier =
            mutant_applier.with_mutants(Mutants::only(Mutant::AdvanceTimeBeforeDigest), NodeId::new(1).unwrap());
        assert_eq!(restore(&mutant_applier).is_err(), ms <= 0, "the mutant expires the lease too early");
    }
}
