//! The value of each key of the simulated clients at each index of the log, by the state machine that applied it first.
//!
//! A read reports up to which index its node had applied the log: it must show the value that the key had there.
//! (Whether that is recent enough for a linearizable read is checked by the history; a local read may be arbitrarily
//! old.)

use crate::api::Op;
use crate::machine::commands::{Answer, Command, Query, Step};
use crate::types::{Entry, Index, Payload};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// The values of each key, each with the index since which the key held it.
#[derive(Debug, Default)]
pub struct Values {
    upto: Index,
    held: BTreeMap<Bytes, Vec<(Index, Option<Bytes>)>>,
    /// Keys with a deadline, which may be gone at any index.
    mortal: BTreeSet<Bytes>,
}

impl Values {
    /// A state machine has applied an entry; `read` queries it.
    pub fn applied(&mut self, entry: &Entry, read: impl Fn(&[u8]) -> Bytes) {
        if entry.position.index <= self.upto {
            return;
        }
        self.upto = entry.position.index;
        let mut touched = self.mortal.clone();
        if let Payload::Opaque(op) = &entry.payload
            && let Ok(Op::Execute { command, .. }) = Op::read(op)
            && let Ok(command) = Command::decode(command)
        {
            touches(&command, &mut |key, mortal| {
                if matches!(key.first(), Some(b'k' | b'g')) {
                    let key = Bytes::copy_from_slice(key);
                    if mortal {
                        self.mortal.insert(key.clone());
                    }
                    touched.insert(key);
                }
            });
        }
        for key in touched {
            let Ok(Answer::Value(value)) = Answer::decode(read(&Query::Get { key: &key }.encode())) else { continue };
            if value.is_none() {
                self.mortal.remove(&key);
            }
            let held = self.held.entry(key).or_default();
            if held.last().is_none_or(|(_, last)| *last != value) {
                held.push((self.upto, value));
            }
        }
    }

    /// Checks that a key held this value when the log was applied up to `applied`.
    pub fn check(&self, key: &Bytes, applied: Index, answer: &Answer) -> Result<(), String> {
        let Answer::Value(value) = answer else { return Ok(()) };
        if applied > self.upto {
            return Err(format!("a read as of {applied} of {key:?}, and no node has applied more than {}", self.upto));
        }
        let held = self.held.get(key).map_or(&[][..], Vec::as_slice);
        let then = held[..held.partition_point(|(since, _)| *since <= applied)].last();
        let then = then.and_then(|(_, value)| value.as_ref());
        if then == value.as_ref() {
            return Ok(());
        }
        Err(format!("a read as of {applied} shows {value:?} of {key:?}, which held {then:?} there"))
    }
}

/// Names the keys that a command may change, and whether it may give them a deadline.
fn touches(command: &Command<'_>, name: &mut impl FnMut(&[u8], bool)) {
    match command {
        Command::Put { key, .. } | Command::Del { key } | Command::Cas { key, .. } | Command::Incr { key, .. } => {
            name(key, false);
        }
        Command::Append { key, .. } | Command::Persist { key } => name(key, false),
        Command::Set { key, .. } | Command::Expire { key, .. } => name(key, true),
        Command::Batch(commands) => commands.iter().for_each(|command| touches(command, name)),
        Command::Forget(keys) => keys.iter().for_each(|key| name(key, false)),
        Command::PutAll(pairs) => pairs.iter().for_each(|(key, _)| name(key, false)),
        Command::Block(steps) => {
            for step in steps {
                if let Step::Do(command) = step {
                    touches(command, name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClusterTime, Position, SessionId, Term};

    fn put(index: u64, value: &'static str) -> (Entry, Bytes) {
        let command = Command::Put { key: b"k0", value: value.as_bytes() }.encode();
        let op = Op::Execute { session: SessionId(1), seq: 1, first_outstanding: 1, command };
        let position = Position::new(Index(index), Term(1));
        let entry = Entry { position, time: ClusterTime(0), payload: Payload::Opaque(op.encode()), checksum: 0 };
        (entry, Bytes::from_static(value.as_bytes()))
    }

    #[test]
    fn read_of_another_index_is_detected() {
        let mut values = Values::default();
        for (entry, value) in [put(3, "a"), put(5, "b")] {
            values.applied(&entry, |_| Answer::Value(Some(value.clone())).encode());
        }
        let check = |applied, value: Option<&'static str>| {
            let value = value.map(|value| Bytes::from_static(value.as_bytes()));
            values.check(&Bytes::from_static(b"k0"), Index(applied), &Answer::Value(value))
        };
        assert!(check(2, None).is_ok() && check(3, Some("a")).is_ok() && check(4, Some("a")).is_ok());
        assert!(check(5, Some("b")).is_ok());
        assert!(check(4, Some("b")).is_err(), "the value was not written yet");
        assert!(check(5, Some("a")).is_err(), "the value was already overwritten");
        assert!(check(6, Some("b")).is_err(), "no node has applied that index");
    }
}
