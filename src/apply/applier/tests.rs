//! Compares sessions around a machine with a model that stores everything and searches naively.

use super::*;
use crate::codec;
use crate::types::{ClusterTime, Position, Term};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Counts the commands applied: its answers distinguish a first execution from any other. The answer to a command of
/// 199 bytes is too long.
#[derive(Debug, Default)]
struct Counter(u64, Option<u64>);

impl StateMachine for Counter {
    fn apply(&mut self, _context: &Context, command: &[u8]) -> Bytes {
        self.0 += 1;
        if command.len() == 199 {
            return Bytes::from_static(&[0; ANSWER_BYTES_MAX as usize + 1]);
        }
        [&self.0.to_le_bytes()[..], command].concat().into()
    }

    fn query(&self, _time: ClusterTime, _query: &[u8]) -> Bytes {
        self.0.to_le_bytes().to_vec().into()
    }

    fn digest(&self) -> u64 {
        self.0
    }

    fn freeze(&mut self) {
        self.1 = Some(self.0);
    }

    fn next_chunk(&mut self, _bytes: usize) -> Option<Bytes> {
        self.1.take().map(|count| Bytes::copy_from_slice(&count.to_le_bytes()))
    }

    fn end_snapshot(&mut self) {
        self.1 = None;
    }

    fn empty(&self) -> Counter {
        Counter::default()
    }

    fn restore(&mut self, piece: &[u8]) -> Result<(), Malformed> {
        let count = piece.try_into().map_err(|_| Malformed("not a count"))?;
        self.0 = u64::from_le_bytes(count);
        Ok(())
    }
}

const OPTIONS: Options = Options { idle_ms_max: 40, count_max: 3, answer_bytes_max: 1300 };

#[derive(Clone, Debug)]
enum Step {
    Open(u32),
    OpenOrdered(u32),
    /// In the nth session ever opened.
    Execute(usize, u64, u64, u8),
    Close(usize),
    Noop,
    Tick,
    Garbage,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (1..6u32).prop_map(Step::Open),
        1 => (1..6u32).prop_map(Step::OpenOrdered),
        20 => (0..8usize, 1..10u64, 0..8u64, 0..200u8)
            .prop_map(|(nth, seq, lowest, size)| Step::Execute(nth, seq, lowest.min(seq), size)),
        1 => (0..8usize).prop_map(Step::Close),
        1 => Just(Step::Noop),
        1 => Just(Step::Tick),
        1 => Just(Step::Garbage),
        3 => (0..30u64).prop_map(Step::Wait),
    ]
}

/// The entries of these steps. A session's id is known beforehand: the index of its entry.
fn entries(steps: &[Step]) -> Vec<Entry> {
    let (mut entries, mut opened, mut time) = (Vec::new(), Vec::new(), 0);
    for step in steps {
        let index = Index(entries.len() as u64 + 1);
        let session = |nth: usize| SessionId(opened.get(nth).copied().unwrap_or(999));
        let payload = match step {
            Step::Open(window) => Payload::Opaque(Op::Open { window: *window, ordered: false }.encode()),
            Step::OpenOrdered(window) => Payload::Opaque(Op::Open { window: *window, ordered: true }.encode()),
            Step::Execute(nth, seq, lowest, size) => {
                let command = Bytes::from(vec![*size; usize::from(*size)]);
                Payload::Opaque(
                    Op::Execute { session: session(*nth), seq: *seq, first_outstanding: *lowest, command }.encode(),
                )
            }
            Step::Close(nth) => Payload::Opaque(Op::Close { session: session(*nth) }.encode()),
            Step::Noop => Payload::Noop,
            Step::Tick => Payload::Opaque(Op::Tick.encode()),
            Step::Garbage => Payload::Opaque(Bytes::from_static(b"\xff")),
            Step::Wait(ms) => {
                time += ms;
                continue;
            }
        };
        if matches!(step, Step::Open(_) | Step::OpenOrdered(_)) {
            opened.push(index.0);
        }
        entries.push(codec::entry(Position::new(index, Term(1)), ClusterTime(time), payload));
    }
    entries
}

/// A session in the model.
#[derive(Debug)]
struct Known {
    window: u64,
    ordered: bool,
    /// The highest number executed.
    executed: u64,
    lowest: u64,
    used: u64,
    time: u64,
    answers: BTreeMap<u64, Option<Bytes>>,
}

/// A naive implementation of the rules.
#[derive(Debug, Default)]
struct Model {
    counter: Counter,
    known: BTreeMap<u64, Known>,
}

impl Model {
    fn apply(&mut self, entry: &Entry) -> Option<Outcome> {
        let (index, now) = (entry.position.index.0, entry.time.0);
        self.known.retain(|_, known| known.time + OPTIONS.idle_ms_max >= now);
        let Payload::Opaque(bytes) = &entry.payload else { return None };
        Some(match Op::decode(bytes.clone()) {
            Err(_) => Outcome::Malformed,
            Ok(Op::Tick) => return None,
            Ok(Op::Open { window, ordered }) => {
                self.lapse_while(|known| known.len() >= OPTIONS.count_max);
                let window = u64::from(window);
                let (executed, answers) = (0, BTreeMap::new());
                let known = Known { window, ordered, executed, lowest: 1, used: index, time: now, answers };
                self.known.insert(index, known);
                Outcome::Opened { session: SessionId(index) }
            }
            Ok(Op::Close { session }) => {
                self.known.remove(&session.0);
                Outcome::Closed
            }
            Ok(Op::Execute { session, seq, first_outstanding: lowest, command }) => {
                let context = Context { index: entry.position.index, term: entry.position.term, time: entry.time };
                let Some(known) = self.known.get_mut(&session.0) else { return Some(Outcome::SessionExpired) };
                (known.used, known.time, known.lowest) = (index, now, known.lowest.max(lowest));
                let floor = known.lowest;
                known.answers.retain(|seq, _| *seq >= floor);
                if seq < floor {
                    Outcome::ResponseDiscarded
                } else if seq >= floor + known.window {
                    Outcome::WindowExceeded
                } else if let Some(answer) = known.answers.get(&seq) {
                    super::outcome(answer.clone(), true)
                } else if known.ordered && (known.executed + 1..seq).any(|before| before >= floor) {
                    Outcome::OutOfOrder
                } else {
                    let answer = Some(self.counter.apply(&context, &command)).filter(|answer| answer.len() < 1000);
                    known.answers.insert(seq, answer.clone());
                    known.executed = known.executed.max(seq);
                    self.lapse_while(|known| cost(known) > OPTIONS.answer_bytes_max);
                    super::outcome(answer, false)
                }
            }
        })
    }

    fn lapse_while(&mut self, too_much: impl Fn(&BTreeMap<u64, Known>) -> bool) {
        while too_much(&self.known) {
            let oldest = *self.known.iter().min_by_key(|(_, known)| known.used).unwrap().0;
            self.known.remove(&oldest);
        }
    }
}

fn cost(known: &BTreeMap<u64, Known>) -> u64 {
    let answers = known.values().flat_map(|known| known.answers.values());
    answers
        .map(|answer| super::super::session::ANSWER_OVERHEAD + answer.as_ref().map_or(0, |answer| answer.len() as u64))
        .sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn applier_matches_the_model(steps in prop::collection::vec(step(), 0..120), cut in 1..7usize) {
        let entries = entries(&steps);
        let mut model = Model::default();
        let expected: Vec<_> = entries.iter().filter_map(|entry| Some((entry.position, model.apply(entry)?))).collect();

        // All at once, and in parts: the cut into batches must make no difference.
        let mut whole = Applier::with(Counter::default(), OPTIONS);
        let report = whole.apply(&entries);
        let mut pieces = Applier::with(Counter::default(), OPTIONS);
        let outcomes: Vec<_> = entries.chunks(cut).flat_map(|chunk| pieces.apply(chunk).outcomes).collect();

        prop_assert_eq!(&report.outcomes, &expected);
        prop_assert_eq!(&outcomes, &expected);
        prop_assert_eq!(whole.digest(), pieces.digest());
        prop_assert_eq!(report.upto, Index(entries.len() as u64));
        prop_assert_eq!(report.sessions, model.known.len() as u64);
        prop_assert_eq!(whole.machine().0, model.counter.0);
    }
}

fn session_of_two(applier: &mut Applier<Counter>) -> Vec<Outcome> {
    let execute = |seq| Step::Execute(0, seq, 1, 3);
    let report = applier.apply(&entries(&[Step::Open(8), execute(1), execute(2), execute(1)]));
    report.outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

#[test]
fn duplicate_command_gets_the_first_response() {
    let mut applier = Applier::new(Counter::default());
    let outcomes = session_of_two(&mut applier);
    let (Outcome::Executed { answer: first, .. }, Outcome::Executed { answer: again, duplicate: true }) =
        (&outcomes[1], &outcomes[3])
    else {
        panic!("{outcomes:?}")
    };
    assert_eq!(first, again);
    assert_eq!(applier.machine().0, 2);
}

#[test]
fn mutants_change_outcomes_or_digest() {
    let node = NodeId::new(7).unwrap();
    let run = |mutant| {
        let mut applier = Applier::new(Counter::default()).breaking(Mutants::only(mutant), node);
        let outcomes = session_of_two(&mut applier);
        (outcomes, applier.machine().0, applier.digest())
    };
    let mut sound = Applier::new(Counter::default());
    let outcomes = session_of_two(&mut sound);
    assert_eq!(run(Mutant::ApplyTwice).1, 3);
    assert_ne!(run(Mutant::ForgetAnswers).0, outcomes);
    assert_ne!(run(Mutant::MachineKnowsNode).2, sound.digest());
    assert_eq!(run(Mutant::VoteTwice), (outcomes, 2, sound.digest()));
}

/// Executes numbers of an ordered session, each with its lowest outstanding number, and returns the outcomes.
fn run_ordered(numbers: &[(u64, u64)]) -> Vec<&'static str> {
    let execute = |(seq, lowest): &(u64, u64)| Step::Execute(0, *seq, *lowest, 3);
    let steps: Vec<Step> = [Step::OpenOrdered(8)].into_iter().chain(numbers.iter().map(execute)).collect();
    let report = Applier::new(Counter::default()).apply(&entries(&steps));
    let word = |(_, outcome): &(Position, Outcome)| match outcome {
        Outcome::Executed { duplicate: false, .. } => "executed",
        Outcome::Executed { duplicate: true, .. } => "again",
        Outcome::OutOfOrder => "out of order",
        Outcome::ResponseDiscarded => "forgotten",
        Outcome::WindowExceeded => "overrun",
        other => panic!("{other:?}"),
    };
    report.outcomes[1..].iter().map(word).collect()
}

#[test]
fn ordered_session_executes_commands_in_sequence() {
    let (early, late) = ("out of order", "executed");
    assert_eq!(run_ordered(&[(2, 1), (1, 1), (3, 1), (2, 1), (3, 1)]), [early, late, early, late, late]);
    assert_eq!(run_ordered(&[(1, 1), (2, 1), (1, 1), (9, 1)]), [late, late, "again", "overrun"]);
}

#[test]
fn abandoned_command_is_skipped_and_never_executed() {
    assert_eq!(
        run_ordered(&[(1, 1), (4, 1), (4, 4), (2, 1), (3, 3)])[1..],
        ["out of order", "executed", "forgotten", "forgotten"]
    );
    // An out-of-order command still raises the lowest number.
    assert_eq!(run_ordered(&[(5, 3), (2, 1), (3, 3), (4, 3)]), ["out of order", "forgotten", "executed", "executed"]);
}

#[test]
#[should_panic(expected = "in order")]
fn applier_panics_on_a_gap() {
    let entries = entries(&[Step::Noop, Step::Noop]);
    Applier::new(Counter::default()).apply(&entries[1..]);
}

/// The remaining pieces of the frozen state, each of about `bytes` bytes.
fn chunks_left(applier: &mut Applier<Counter>, bytes: usize) -> Vec<Piece> {
    std::iter::from_fn(|| applier.next_chunk(bytes)).collect()
}

fn restored(from: &Applier<Counter>, head: &StateHeader, pieces: &[Piece]) -> Result<Applier<Counter>, Malformed> {
    let mut restoring = from.restoring();
    pieces.iter().try_for_each(|piece| restoring.take(piece))?;
    restoring.finish(head)
}

/// All bytes of each kind.
fn joined(pieces: &[Piece]) -> (Vec<u8>, Vec<u8>) {
    let mut all = (Vec::new(), Vec::new());
    for piece in pieces {
        match piece {
            Piece::Sessions(bytes) => all.0.extend_from_slice(bytes),
            Piece::Machine(bytes) => all.1.extend_from_slice(bytes),
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn restored_applier_continues_like_the_original(
        steps in prop::collection::vec(step(), 0..150),
        at in any::<prop::sample::Index>(),
        between in prop::collection::vec((0..4usize, 1..300usize), 0..80),
        bytes in 1..400usize,
    ) {
        let entries = entries(&steps);
        let (before, after) = entries.split_at(at.index(entries.len() + 1));
        let mut applier = Applier::with(Counter::default(), OPTIONS);
        applier.apply(before);
        let mut undisturbed = Applier::with(Counter::default(), OPTIONS);
        undisturbed.apply(before);

        // Serialized while more entries are applied.
        let head = applier.freeze();
        let (mut pieces, mut outcomes, mut rest) = (Vec::new(), Vec::new(), after);
        for (count, bytes) in between {
            let (now, later) = rest.split_at(count.min(rest.len()));
            outcomes.extend(applier.apply(now).outcomes);
            pieces.extend(applier.next_chunk(bytes));
            rest = later;
        }
        outcomes.extend(applier.apply(rest).outcomes);
        pieces.extend(chunks_left(&mut applier, bytes));

        // The same bytes as if nothing had been applied meanwhile.
        prop_assert_eq!(undisturbed.freeze(), head);
        prop_assert_eq!(joined(&chunks_left(&mut undisturbed, 1)), joined(&pieces));

        let mut restored = restored(&applier, &head, &pieces).unwrap();
        prop_assert_eq!((restored.position(), restored.time()), (undisturbed.position(), undisturbed.time()));
        prop_assert_eq!(restored.digest(), undisturbed.digest());
        prop_assert_eq!(restored.apply(after).outcomes, outcomes);
        prop_assert_eq!(restored.digest(), applier.digest());
        let (again, head) = (restored.freeze(), applier.freeze());
        prop_assert_eq!(again, head);
        prop_assert_eq!(joined(&chunks_left(&mut restored, 50)), joined(&chunks_left(&mut applier, 50)));
    }

    #[test]
    fn restore_rejects_state_with_wrong_digest(
        steps in prop::collection::vec(step(), 1..60), at: prop::sample::Index, bit in 0..8u8,
    ) {
        let mut applier = Applier::with(Counter::default(), OPTIONS);
        applier.apply(&entries(&steps));
        let head = applier.freeze();
        let pieces = chunks_left(&mut applier, 30);
        let at = at.index(joined(&pieces).0.len() + joined(&pieces).1.len());
        let mut passed = 0;
        let flipped: Vec<Piece> = pieces.iter().map(|piece| {
            let flip = |bytes: &Bytes| {
                let mut bytes = bytes.to_vec();
                if (passed..passed + bytes.len()).contains(&at) { bytes[at - passed] ^= 1 << bit }
                Bytes::from(bytes)
            };
            let (flipped, length) = match piece {
                Piece::Sessions(bytes) => (Piece::Sessions(flip(bytes)), bytes.len()),
                Piece::Machine(bytes) => (Piece::Machine(flip(bytes)), bytes.len()),
            };
            passed += length;
            flipped
        }).collect();
        prop_assert!(restored(&applier, &head, &flipped).is_err());
        let other = StateHeader { digest: head.digest ^ 1, ..head };
        prop_assert!(restored(&applier, &other, &pieces).is_err());
        prop_assert!(restored(&applier, &head, &pieces[..pieces.len() - 1]).is_err() || applier.machine().0 == 0);
    }

    #[test]
    fn restore_of_garbage_sessions_does_not_panic(bytes: Vec<u8>, mark in 1..4u8) {
        let piece = Piece::Sessions([vec![mark], bytes].concat().into());
        let _either = Applier::new(Counter::default()).restoring().take(&piece);
    }
}

#[test]
fn response_that_is_too_long_ends_no_session() {
    let execute = |seq| Step::Execute(0, seq, 1, 199);
    let mut applier = Applier::new(Counter::default());
    let report = applier.apply(&entries(&[Step::Open(8), execute(1), execute(1), Step::Execute(0, 2, 1, 3)]));
    let outcomes: Vec<_> = report.outcomes.iter().map(|(_, outcome)| outcome).collect();
    assert_eq!(outcomes[1..3], [&Outcome::AnswerTooLong; 2]);
    assert!(matches!(outcomes[3], Outcome::Executed { duplicate: false, .. }));
    assert_eq!(applier.machine().0, 2, "the command was executed once");
}

/// rqlite/rqlite#1228, #1798: they hold the whole state in memory at once, to write or to restore it.
#[test]
fn large_session_is_serialized_in_several_chunks() {
    let steps: Vec<Step> =
        [Step::Open(1000)].into_iter().chain((1..500).map(|seq| Step::Execute(0, seq, 1, 150))).collect();
    let mut applier = Applier::new(Counter::default());
    applier.apply(&entries(&steps));
    let head = applier.freeze();
    let pieces = chunks_left(&mut applier, 4096);
    assert!(pieces.len() > 15, "{}", pieces.len());
    assert_eq!(restored(&applier, &head, &pieces).unwrap().digest(), applier.digest());
    assert_eq!(applier.next_chunk(1), None, "all chunks were serialized");
    let backwards = [pieces[pieces.len() - 1].clone(), pieces[0].clone()];
    assert_eq!(restored(&applier, &head, &backwards).err(), Some(Malformed("sessions after the machine's state")));
}

/// A machine of leases: a command is a name and a length in milliseconds, and a lease expires when time has advanced
/// that far. A lease with a length of zero or less exists until the next entry.
#[derive(Debug, Default)]
struct Leases {
    ends: BTreeMap<Vec<u8>, u64>,
    now: u64,
    frozen: Option<BTreeMap<Vec<u8>, u64>>,
}

impl StateMachine for Leases {
    fn apply(&mut self, context: &Context, command: &[u8]) -> Bytes {
        let (ms, name) = command.split_first_chunk().expect("eight bytes and a name");
        self.ends.insert(name.to_vec(), context.time.0.saturating_add_signed(i64::from_le_bytes(*ms)));
        Bytes::new()
    }

    fn advance(&mut self, time: ClusterTime) {
        self.now = time.0;
        self.ends.retain(|_, end| *end > time.0);
    }

    fn due(&self) -> Option<ClusterTime> {
        self.ends.values().min().copied().map(ClusterTime)
    }

    fn query(&self, _time: ClusterTime, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.now.to_le_bytes())
    }

    fn digest(&self) -> u64 {
        self.ends.iter().fold(1, |digest, (name, end)| crate::types::digest::hash(digest ^ end, name))
    }

    fn freeze(&mut self) {
        self.frozen = Some(self.ends.clone());
    }

    fn next_chunk(&mut self, _bytes: usize) -> Option<Bytes> {
        let (name, end) = self.frozen.as_mut()?.pop_first()?;
        Some([&end.to_le_bytes()[..], &name].concat().into())
    }

    fn end_snapshot(&mut self) {
        self.frozen = None;
    }

    fn empty(&self) -> Leases {
        Leases::default()
    }

    fn restore(&mut self, piece: &[u8]) -> Result<(), Malformed> {
        let (end, name) = piece.split_first_chunk().ok_or(Malformed("not a lease"))?;
        self.ends.insert(name.to_vec(), u64::from_le_bytes(*end));
        Ok(())
    }

    fn resume(&mut self, time: ClusterTime) {
        self.now = time.0;
    }
}

/// A machine and a snapshot of it: two nodes, of which one restored the state that the other froze.
#[test]
fn lease_that_expires_in_its_own_entry_is_restored() {
    let entry = |index: u64, op: Op| {
        codec::entry(Position::new(Index(index), Term(1)), ClusterTime(1000 + index), Payload::Opaque(op.encode()))
    };
    let session = SessionId(1);
    let lease = |index: u64, ms: i64| {
        let command = [&ms.to_le_bytes()[..], &[index as u8]].concat().into();
        entry(index, Op::Execute { session, seq: index - 1, first_outstanding: index - 1, command })
    };
    for ms in [0, -500, 3] {
        let mut original = Applier::new(Leases::default());
        original.apply(&[entry(1, Op::Open { window: 8, ordered: false }), lease(2, 1_000_000), lease(3, ms)]);
        let head = original.freeze();
        let pieces: Vec<Piece> = std::iter::from_fn(|| original.next_chunk(1)).collect();
        let restore = |like: &Applier<Leases>| {
            let mut restoring = like.restoring();
            pieces.iter().for_each(|piece| restoring.take(piece).unwrap());
            restoring.finish(&head)
        };
        let mut restored = restore(&original).unwrap();
        assert_eq!((restored.digest(), restored.machine().due()), (original.digest(), original.machine().due()));
        assert_eq!(
            restored.query(ClusterTime(0), &[]),
            original.query(ClusterTime(0), &[]),
            "the machine's time is restored"
        );
        // Due leases expire with the next entry, on both.
        for index in 4..8 {
            let next = [entry(index, Op::Tick)];
            assert_eq!(restored.apply(&next).digest, original.apply(&next).digest);
        }
        assert_eq!(restored.machine().ends.len(), 1);
        let broken = Applier::new(Leases::default());
        let broken = broken.breaking(Mutants::only(Mutant::AdvanceTimeBeforeDigest), NodeId::new(1).unwrap());
        assert_eq!(restore(&broken).is_err(), ms <= 0, "the mutant breaks the rule");
    }
}
