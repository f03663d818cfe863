//! The value that each key of the simulated clients had at each index of the log. The node that is the first to apply
//! an index determines the values at this index.
//!
//! A read reports up to which index its node had applied the log. The read's answer must be the value that the key had
//! at that index. `history` checks whether that index is recent enough for a linearizable read. A local read may be
//! arbitrarily old.

use crate::api::Op;
use crate::machine::commands::{Answer, Command, CommandOrQuery, Query};
use crate::types::{Entry, Index, Payload};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// The values that each key has held, with the indexes from which the key held them.
#[derive(Debug, Default)]
pub struct ValueHistory {
    /// The last index that any state machine has applied.
    applied_upto: Index,
    /// The values of each key in order, each with the index from which the key held it; `None` while the key did not
    /// exist.
    values_by_key: BTreeMap<Bytes, Vec<(Index, Option<Bytes>)>>,
    /// Keys with a deadline, which may expire at any index.
    expiring_keys: BTreeSet<Bytes>,
}

impl ValueHistory {
    /// Records the values after an entry, if no state machine has applied the entry before. `read` queries the state
    /// machine that has just applied the entry.
    pub fn record_applied(&mut self, entry: &Entry, read: impl Fn(&[u8]) -> Bytes) {
        if entry.position.index <= self.applied_upto {
            return;
        }
        self.applied_upto = entry.position.index;
        let mut changed_keys = self.expiring_keys.clone();
        if let Payload::Opaque(op) = &entry.payload
            && let Ok(Op::Execute { command, .. }) = Op::read(op)
            && let Ok(command) = Command::decode(command)
        {
            for_each_changed_key(&command, &mut |key, expiring| {
                if matches!(key.first(), Some(b'k' | b'g')) {
                    let key = Bytes::copy_from_slice(key);
                    if expiring {
                        self.expiring_keys.insert(key.clone());
                    }
                    changed_keys.insert(key);
                }
            });
        }
        for key in changed_keys {
            let Ok(Answer::Value(value)) = Answer::decode(read(&Query::Get { key: &key }.encode())) else { continue };
            if value.is_none() {
                self.expiring_keys.remove(&key);
            }
            let values = self.values_by_key.entry(key).or_default();
            if values.last().is_none_or(|(_, last)| *last != value) {
                values.push((self.applied_upto, value));
            }
        }
    }

    /// Checks the answer to a read of a key: the key must have held the value in `answer` when the log was applied up
    /// to `applied_index`.
    pub fn check(&self, key: &Bytes, applied_index: Index, answer: &Answer) -> Result<(), String> {
        let Answer::Value(value) = answer else { return Ok(()) };
        if applied_index > self.applied_upto {
            return Err(format!(
                "a read of {key:?} reports applied index {applied_index}, but no node has applied the log beyond \
                 index {}",
                self.applied_upto
            ));
        }
        let values = self.values_by_key.get(key).map_or(&[][..], Vec::as_slice);
        let expected = values[..values.partition_point(|(since, _)| *since <= applied_index)].last();
        let expected = expected.and_then(|(_, value)| value.as_ref());
        if expected == value.as_ref() {
            return Ok(());
        }
        Err(format!(
            "a read of {key:?} at applied index {applied_index} answers {value:?}, but the key held {expected:?} there"
        ))
    }
}

/// Calls `visit` with each key that a command may change, and with whether the command may give the key a deadline.
fn for_each_changed_key(command: &Command<'_>, visit: &mut impl FnMut(&[u8], bool)) {
    match command {
        Command::Put { key, .. } | Command::Del { key } | Command::Cas { key, .. } | Command::Incr { key, .. } => {
            visit(key, false);
        }
        Command::Append { key, .. } | Command::Persist { key } => visit(key, false),
        Command::Set { key, .. } | Command::Expire { key, .. } => visit(key, true),
        Command::Batch(commands) => commands.iter().for_each(|command| for_each_changed_key(command, visit)),
        Command::DelKeys(keys) => keys.iter().for_each(|key| visit(key, false)),
        Command::PutAll(pairs) => pairs.iter().for_each(|(key, _)| visit(key, false)),
        Command::Block(steps) => {
            for step in steps {
                if let CommandOrQuery::Command(command) = step {
                    for_each_changed_key(command, visit);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClusterTime, Position, SessionId, Term};

    fn put_entry(index: u64, value: &'static str) -> (Entry, Bytes) {
        let command = Command::Put { key: b"k0", value: value.as_bytes() }.encode();
        let op = Op::Execute { session: SessionId(1), seq: 1, first_outstanding: 1, command };
        let position = Position::new(Index(index), Term(1));
        let entry = Entry { position, time: ClusterTime(0), payload: Payload::Opaque(op.encode()), checksum: 0 };
        (entry, Bytes::from_static(value.as_bytes()))
    }

    #[test]
    fn read_of_value_from_another_index_is_detected() {
        let mut values = ValueHistory::default();
        for (entry, value) in [put_entry(3, "a"), put_entry(5, "b")] {
            values.record_applied(&entry, |_| Answer::Value(Some(value.clone())).encode());
        }
        let check = |applied_index, value: Option<&'static str>| {
            let value = value.map(|value| Bytes::from_static(value.as_bytes()));
            values.check(&Bytes::from_static(b"k0"), Index(applied_index), &Answer::Value(value))
        };
        assert!(check(2, None).is_ok() && check(3, Some("a")).is_ok() && check(4, Some("a")).is_ok());
        assert!(check(5, Some("b")).is_ok());
        assert!(check(4, Some("b")).is_err(), "the value was not written yet");
        assert!(check(5, Some("a")).is_err(), "the value was already overwritten");
        assert!(check(6, Some("b")).is_err(), "no node has applied that index");
    }
}
