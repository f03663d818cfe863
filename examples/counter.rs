//! A state machine that is not ours: named counters, exactly once, in a few lines.
//!
//! It knows nothing of sessions, logs or networks; the same bytes in the same order are all it sees.

use bytes::Bytes;
use drave::api::{Op, Outcome};
use drave::apply::Applier;
use drave::codec;
use drave::machine::{Context, StateMachine};
use drave::types::digest::{Digest, hash};
use drave::types::{ClusterTime, Entry, Index, Payload, Position, SessionId, Term};
use std::collections::BTreeMap;

/// A command is a counter's name: it goes up by one.
#[derive(Default)]
struct Counters {
    counts: BTreeMap<Vec<u8>, u64>,
    digest: Digest,
}

impl StateMachine for Counters {
    fn apply(&mut self, _context: &Context, command: &[u8]) -> Bytes {
        let count = self.counts.entry(command.to_vec()).or_default();
        self.digest -= hash(*count, command);
        *count += 1;
        self.digest += hash(*count, command);
        count.to_string().into()
    }

    fn query(&self, query: &[u8]) -> Bytes {
        self.counts.get(query).copied().unwrap_or(0).to_string().into()
    }

    fn digest(&self) -> u64 {
        self.digest.finish(self.counts.len() as u64)
    }
}

fn main() {
    let mut applier = Applier::new(Counters::default());
    let visit = |seq| Op::Execute { session: SessionId(1), seq, lowest: 1, command: Bytes::from_static(b"visits") };
    // The same number twice, as after a lost answer.
    let ops = [Op::Open { window: 8 }, visit(1), visit(2), visit(1)];
    let entries: Vec<Entry> = (1..)
        .zip(&ops)
        .map(|(index, op)| (Position::new(Index(index), Term(1)), op.encode()))
        .map(|(position, bytes)| codec::entry(position, ClusterTime(0), Payload::Opaque(bytes)))
        .collect();
    for (position, outcome) in applier.apply(&entries).outcomes {
        match outcome {
            Outcome::Executed { answer, duplicate } => println!("{position} {answer:?} again={duplicate}"),
            other => println!("{position} {other:?}"),
        }
    }
    println!("visits: {:?}", applier.query(b"visits"));
}
