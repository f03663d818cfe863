//! Sessions around a machine, held against a model that remembers everything and searches naively.

use super::*;
use crate::codec;
use crate::types::{ClusterTime, Position, Term};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Counts what it is told: its answers tell the first execution from any other.
#[derive(Debug, Default)]
struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, _context: &Context, command: &[u8]) -> Bytes {
        self.0 += 1;
        [&self.0.to_le_bytes()[..], command].concat().into()
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        self.0.to_le_bytes().to_vec().into()
    }

    fn digest(&self) -> u64 {
        self.0
    }
}

const OPTIONS: Options = Options { idle_ms_max: 40, count_max: 3, answer_bytes_max: 800 };

#[derive(Clone, Debug)]
enum Step {
    Open(u32),
    /// In the nth session ever opened.
    Execute(usize, u64, u64, u8),
    Close(usize),
    Noop,
    Garbage,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1..6u32).prop_map(Step::Open),
        20 => (0..8usize, 1..10u64, 0..8u64, 0..200u8)
            .prop_map(|(nth, seq, lowest, size)| Step::Execute(nth, seq, lowest.min(seq), size)),
        1 => (0..8usize).prop_map(Step::Close),
        1 => Just(Step::Noop),
        1 => Just(Step::Garbage),
        3 => (0..30u64).prop_map(Step::Wait),
    ]
}

/// The entries those steps make. A session's id is known beforehand: the index of its entry.
fn entries(steps: &[Step]) -> Vec<Entry> {
    let (mut entries, mut opened, mut time) = (Vec::new(), Vec::new(), 0);
    for step in steps {
        let index = Index(entries.len() as u64 + 1);
        let session = |nth: usize| SessionId(opened.get(nth).copied().unwrap_or(999));
        let payload = match step {
            Step::Open(window) => Payload::Opaque(Op::Open { window: *window }.encode()),
            Step::Execute(nth, seq, lowest, size) => {
                let command = Bytes::from(vec![*size; usize::from(*size)]);
                Payload::Opaque(Op::Execute { session: session(*nth), seq: *seq, lowest: *lowest, command }.encode())
            }
            Step::Close(nth) => Payload::Opaque(Op::Close { session: session(*nth) }.encode()),
            Step::Noop => Payload::Noop,
            Step::Garbage => Payload::Opaque(Bytes::from_static(b"\xff")),
            Step::Wait(ms) => {
                time += ms;
                continue;
            }
        };
        if matches!(step, Step::Open(_)) {
            opened.push(index.0);
        }
        entries.push(codec::entry(Position::new(index, Term(1)), ClusterTime(time), payload));
    }
    entries
}

/// One session as the model knows it.
#[derive(Debug)]
struct Known {
    window: u64,
    lowest: u64,
    used: u64,
    time: u64,
    answers: BTreeMap<u64, Bytes>,
}

/// What a patient reader of the rules would do.
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
            Ok(Op::Open { window }) => {
                self.lapse_while(|known| known.len() >= OPTIONS.count_max);
                let window = u64::from(window);
                self.known.insert(index, Known { window, lowest: 1, used: index, time: now, answers: BTreeMap::new() });
                Outcome::Opened { session: SessionId(index) }
            }
            Ok(Op::Close { session }) => {
                self.known.remove(&session.0);
                Outcome::Closed
            }
            Ok(Op::Execute { session, seq, lowest, command }) => {
                let context = Context { index: entry.position.index, time: entry.time };
                let Some(known) = self.known.get_mut(&session.0) else { return Some(Outcome::Lapsed) };
                (known.used, known.time, known.lowest) = (index, now, known.lowest.max(lowest));
                let floor = known.lowest;
                known.answers.retain(|seq, _| *seq >= floor);
                if seq < floor {
                    Outcome::Forgotten
                } else if seq >= floor + known.window {
                    Outcome::Overrun
                } else if let Some(answer) = known.answers.get(&seq) {
                    Outcome::Executed { answer: answer.clone(), duplicate: true }
                } else {
                    let answer = self.counter.apply(&context, &command);
                    known.answers.insert(seq, answer.clone());
                    self.lapse_while(|known| cost(known) > OPTIONS.answer_bytes_max);
                    Outcome::Executed { answer, duplicate: false }
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
    answers.map(|answer| super::super::sessions::ANSWER_OVERHEAD + answer.len() as u64).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn it_does_what_the_rules_say(steps in prop::collection::vec(step(), 0..120), cut in 1..7usize) {
        let entries = entries(&steps);
        let mut model = Model::default();
        let expected: Vec<_> = entries.iter().filter_map(|entry| Some((entry.position, model.apply(entry)?))).collect();

        // At once, and in pieces: batches are of no consequence.
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
fn a_number_seen_before_gets_the_first_answer() {
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
fn broken_rules_are_seen() {
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

#[test]
#[should_panic(expected = "in order")]
fn a_gap_is_never_applied() {
    let entries = entries(&[Step::Noop, Step::Noop]);
    Applier::new(Counter::default()).apply(&entries[1..]);
}
