//! The key-value state machine of drave: an ordered map of bytes to bytes.
//!
//! A command is first decided against the current value of its key and then executed. A batch decides each command
//! against the result of those before it, and then executes all of them or none. Keys and values are copied, so a small
//! value never keeps a large read buffer alive.
//!
//! A key may have a deadline. Once an entry with that time or a later one is applied, the key is absent on every node
//! alike; see `expiry.rs` for when its memory is freed.

use super::commands::{
    self, ANSWER_KIND_PAIRS, ANSWER_KIND_VALUE, Answer, AnswerList, Command, CommandOrQuery, Pair, Query, TimeToLive,
    put_optional_blob,
};
use super::decide::{Change, StoredValue, decide, key_of};
use super::expiry::Expiry;
use super::frozen::FrozenMap;
use super::index::HashIndex;
use super::state_machine::{Context, StateMachine};
use crate::codec::{BufMutExt, Malformed};
use crate::limits::ANSWER_BYTES_MAX;
use crate::types::ClusterTime;
use crate::types::digest::{Digest, hash, hash_numbers};
use bytes::{BufMut, Bytes, BytesMut};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::Bound;

/// An ordered map of bytes to bytes.
///
/// Invariants: `by_key` and `index` both map each key to the number of its slot: `by_key` for iteration in key order,
/// `index` for lookup. `free_slots` has the numbers of all slots without a key. `expiry` lists the slots that have a
/// deadline. `digest` is the digest of all pairs that are present at `now`; expired pairs may still be in memory.
#[derive(Clone, Debug, Default)]
pub struct Kv {
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    by_key: BTreeMap<Box<[u8]>, u32>,
    index: HashIndex,
    digest: Digest,
    /// The cluster time of the last entry: deadlines at or before this time have passed.
    now: ClusterTime,
    expiry: Expiry,
    /// The state at the last freeze, while it is being serialized.
    frozen_map: Option<FrozenMap>,
}

/// A key, its value, and the hash of the pair. A cache line holds exactly two slots, and no slot spans two lines.
#[derive(Clone, Debug, Default)]
#[repr(align(32))]
struct Slot {
    /// The key, directly followed by the value, so that comparing the key brings the value into the cache. The
    /// deadline, if there is one, follows in eight bytes; a key without a deadline needs no bytes for it.
    pair: Box<[u8]>,
    key_len: u32,
    has_deadline: bool,
    /// The hash of key, value and deadline: the pair's part of the digest.
    hash: u64,
}

/// The kind of the key-value machine and the version of its commands, as [`StateMachine::kind`] reports them.
pub const KIND: &str = "kv 1";

const _: () = assert!(size_of::<Slot>() == 32, "a slot has 32 bytes, so that two slots fill a cache line");

impl Slot {
    fn new(key: &[u8], value: &[u8], deadline: Option<ClusterTime>, hash: u64) -> Slot {
        let pair = match deadline {
            None => [key, value].concat(),
            Some(deadline) => [key, value, &deadline.0.to_le_bytes()].concat(),
        };
        Slot { pair: pair.into(), key_len: key.len() as u32, has_deadline: deadline.is_some(), hash }
    }

    fn key(&self) -> &[u8] {
        &self.pair[..self.key_len as usize]
    }

    fn value_end(&self) -> usize {
        self.pair.len() - if self.has_deadline { 8 } else { 0 }
    }

    fn value(&self) -> &[u8] {
        &self.pair[self.key_len as usize..self.value_end()]
    }

    fn deadline(&self) -> Option<ClusterTime> {
        if !self.has_deadline {
            return None;
        }
        self.pair.last_chunk().map(|bytes| ClusterTime(u64::from_le_bytes(*bytes)))
    }

    fn stored_value(&self) -> StoredValue<'_> {
        StoredValue { value: self.value(), deadline: self.deadline() }
    }

    /// Whether the key is present at the time `now`: its deadline, if any, is later.
    fn is_live(&self, now: ClusterTime) -> bool {
        self.deadline().is_none_or(|deadline| deadline > now)
    }
}

/// How many keys are prefetched at once, at most: more than the memory reads that a processor can have outstanding.
const PREFETCHED_KEYS_MAX: usize = 32;
/// How many expired keys are freed at each entry, at most. That is more than an entry adds, unless it is a batch, and
/// cheap compared with the entry itself.
const FREED_KEYS_PER_ENTRY_MAX: usize = 8;
/// How many expired keys are freed at a tick (an entry without a command), at most: that takes about a millisecond.
const FREED_KEYS_PER_TICK_MAX: usize = 1024;

/// The result of looking up a key, done once per command: its hash, and its slot number if it is in memory.
struct KeyLookup<'a> {
    key: &'a [u8],
    hash: u64,
    slot: Option<u32>,
}

/// The keys that a batch changes, with their values and deadlines after it; `None`: the key is removed.
type StagedChanges<'a> = BTreeMap<&'a [u8], Option<(Cow<'a, [u8]>, Option<ClusterTime>)>>;

impl Kv {
    /// An empty map, whose clock is at zero.
    pub fn new() -> Kv {
        Kv::default()
    }

    /// The value of a key; `None` if the key is absent or has expired.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.stored_value(&self.lookup(key)).map(|stored| stored.value)
    }

    /// The number of keys, without expired ones that are still in memory.
    pub fn len(&self) -> usize {
        self.by_key.len() - self.expiry.overdue_count()
    }

    /// Whether no key is present; expired keys may still be in memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pairs of key and value that are present, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.range(Bound::Unbounded).map(|(key, slot)| (key, slot.value()))
    }

    /// The keys that are present, with their slots, in key order from that bound on.
    fn range<'a>(&'a self, from: Bound<&[u8]>) -> impl Iterator<Item = (&'a [u8], &'a Slot)> {
        let entries = self.by_key.range::<[u8], _>((from, Bound::Unbounded));
        entries.map(|(key, slot)| (&**key, &self.slots[*slot as usize])).filter(|(_, slot)| slot.is_live(self.now))
    }

    fn lookup<'a>(&self, key: &'a [u8]) -> KeyLookup<'a> {
        let hash = hash(0, key);
        let slot = self.index.find(hash, |slot| self.slots[slot as usize].key() == key);
        KeyLookup { key, hash, slot }
    }

    fn stored_value(&self, lookup: &KeyLookup<'_>) -> Option<StoredValue<'_>> {
        let slot = &self.slots[lookup.slot? as usize];
        slot.is_live(self.now).then(|| slot.stored_value())
    }

    /// Reads the pairs of up to [`PREFETCHED_KEYS_MAX`] keys into the processor's cache, ahead of their commands.
    /// Returns whether there were any keys.
    fn prefetch_keys(&self, keys: &mut dyn Iterator<Item = &[u8]>) -> bool {
        let mut hashes = [0; PREFETCHED_KEYS_MAX];
        let mut key_count = 0;
        for (key_hash, key) in hashes.iter_mut().zip(keys) {
            *key_hash = hash(0, key);
            key_count += 1;
        }
        // Three short loops: the memory accesses within one loop do not depend on each other and can overlap.
        let slots = hashes.map(|hash| self.index.guess(hash));
        let pairs = slots.map(|slot| slot.map_or(&[][..], |slot| &*self.slots[slot as usize].pair));
        for pair in &pairs[..key_count] {
            if let [first, .., last] = pair {
                black_box(first ^ pair[pair.len() / 2] ^ last);
            }
        }
        key_count > 0
    }

    fn execute(&mut self, command: &Command<'_>) -> Answer {
        self.index.continue_rehash();
        match command {
            Command::Batch(commands) => return self.execute_batch(commands),
            Command::Block(steps) => return self.execute_block(steps),
            Command::DelKeys(keys) => {
                return Answer::Number(keys.iter().filter(|key| self.remove_if_present(key)).count() as i64);
            }
            Command::PutAll(pairs) => {
                for (key, value) in pairs {
                    self.apply_change(&self.lookup(key), Change::Set(Cow::Borrowed(value), None));
                }
                return Answer::Done;
            }
            _ => {}
        }
        let lookup = self.lookup(key_of(command));
        match decide(command, self.stored_value(&lookup), self.now) {
            Ok((change, answer)) => {
                self.apply_change(&lookup, change);
                answer
            }
            Err(answer) => answer,
        }
    }

    /// Removes a key, and returns whether it was present; a key that had expired was not.
    fn remove_if_present(&mut self, key: &[u8]) -> bool {
        let lookup = self.lookup(key);
        let existed = self.stored_value(&lookup).is_some();
        if existed {
            self.apply_change(&lookup, Change::Remove);
        }
        existed
    }

    /// Decides each command against the result of the commands before it, then executes all of them or none.
    fn execute_batch(&mut self, commands: &[Command<'_>]) -> Answer {
        let mut staged_changes = StagedChanges::new();
        let mut answers = AnswerList::with_capacity(commands.len());
        for (index, command) in commands.iter().enumerate() {
            if index % PREFETCHED_KEYS_MAX == 0 {
                self.prefetch_keys(&mut commands[index..].iter().map(key_of));
            }
            let key = key_of(command);
            let current = match staged_changes.get(key) {
                Some(change) => change.as_ref().map(|(value, deadline)| StoredValue { value, deadline: *deadline }),
                None => self.stored_value(&self.lookup(key)),
            };
            match decide(command, current, self.now) {
                Ok((change, answer)) => {
                    match change {
                        Change::Keep => {}
                        Change::Set(value, deadline) => drop(staged_changes.insert(key, Some((value, deadline)))),
                        Change::Remove => drop(staged_changes.insert(key, None)),
                    }
                    answers.push(answer);
                }
                Err(why) => return Answer::BatchFailed { index: index as u32, why: Box::new(why) },
            }
        }
        for (key, value) in staged_changes {
            let change = value.map_or(Change::Remove, |(value, deadline)| Change::Set(value, deadline));
            self.apply_change(&self.lookup(key), change);
        }
        Answer::Batch(answers.into_answers())
    }

    /// Executes each command or query of a block, whether or not the ones before it failed.
    fn execute_block(&mut self, steps: &[CommandOrQuery<'_>]) -> Answer {
        let mut answers = AnswerList::with_capacity(steps.len());
        for step in steps {
            answers.push(match step {
                CommandOrQuery::Command(Command::Batch(_) | Command::Block(_)) => Answer::Malformed,
                CommandOrQuery::Command(command) => self.execute(command),
                CommandOrQuery::Query(query) => self.answer_query(query, self.now),
            });
        }
        Answer::List(answers.into_answers())
    }

    fn apply_change(&mut self, lookup: &KeyLookup<'_>, change: Change<'_>) {
        if let Some(frozen) = &mut self.frozen_map
            && !matches!(change, Change::Keep)
        {
            frozen.save_old_value(lookup.key, lookup.slot.map(|slot| self.slots[slot as usize].stored_value()));
        }
        match change {
            Change::Keep => {}
            Change::Set(value, deadline) => self.set(lookup, &value, deadline),
            Change::Remove => self.remove(lookup),
        }
    }

    fn remove(&mut self, lookup: &KeyLookup<'_>) {
        let Some(slot) = lookup.slot else { return };
        self.remove_from_digest(slot);
        self.index.remove(lookup.hash, slot);
        self.by_key.remove(lookup.key);
        self.slots[slot as usize] = Slot::default();
        self.free_slots.push(slot);
    }

    /// Removes a slot's hash from the digest and its deadline from `expiry`.
    fn remove_from_digest(&mut self, slot_number: u32) {
        let slot = &self.slots[slot_number as usize];
        match slot.deadline() {
            Some(deadline) if !self.expiry.remove(deadline, slot_number, slot.hash) => {}
            _ => self.digest -= slot.hash,
        }
    }

    fn set(&mut self, lookup: &KeyLookup<'_>, value: &[u8], deadline: Option<ClusterTime>) {
        let hash = pair_hash(lookup.hash, value, deadline);
        self.digest += hash;
        let slot_number = match lookup.slot {
            None => self.insert(lookup, Slot::new(lookup.key, value, deadline, hash)),
            Some(slot_number) => {
                self.remove_from_digest(slot_number);
                let slot = &mut self.slots[slot_number as usize];
                if deadline.is_none() && !slot.has_deadline && slot.value().len() == value.len() {
                    slot.pair[lookup.key.len()..].copy_from_slice(value);
                    slot.hash = hash;
                } else {
                    *slot = Slot::new(lookup.key, value, deadline, hash);
                }
                slot_number
            }
        };
        if let Some(deadline) = deadline {
            self.expiry.insert(deadline, slot_number, hash);
        }
    }

    fn insert(&mut self, lookup: &KeyLookup<'_>, new_slot: Slot) -> u32 {
        let slot = match self.free_slots.pop() {
            Some(slot) => {
                self.slots[slot as usize] = new_slot;
                slot
            }
            None => {
                let slot = u32::try_from(self.slots.len()).expect("four billion keys do not fit in memory");
                self.slots.push(new_slot);
                slot
            }
        };
        self.by_key.insert(lookup.key.into(), slot);
        self.index.insert(lookup.hash, slot);
        slot
    }

    /// Frees the memory of up to `count` expired keys, the one that expired first before the others.
    fn free_expired_keys(&mut self, count: usize) {
        for _ in 0..count {
            let Some(slot) = self.expiry.first_overdue() else { return };
            let key = self.slots[slot as usize].key().to_vec();
            let lookup = KeyLookup { key: &key, hash: hash(0, &key), slot: Some(slot) };
            self.apply_change(&lookup, Change::Remove);
        }
    }

    fn answer_query(&self, query: &Query<'_>, now: ClusterTime) -> Answer {
        match query {
            Query::Get { key } => Answer::Value(self.get(key).map(Bytes::copy_from_slice)),
            // A scan encodes its pairs as it goes, since it must stop where the answer is full.
            Query::Scan { prefix, after, limit } => Answer::decode(self.scan(prefix, *after, *limit))
                .expect("the machine can decode the answers that it encodes"),
            Query::Count => Answer::Count(self.len() as u64),
            Query::Keyspace => {
                Answer::List([self.len(), self.expiry.pending_count()].map(|n| Answer::Count(n as u64)).into())
            }
            Query::Values(keys) => self.get_values(keys),
            Query::CountPresent(keys) => {
                Answer::Number(keys.iter().filter(|key| self.get(key).is_some()).count() as i64)
            }
            Query::Length { key } => Answer::Number(self.get(key).map_or(0, <[u8]>::len) as i64),
            Query::TimeToLive { key } => Answer::TimeToLive(match self.stored_value(&self.lookup(key)) {
                None => TimeToLive::Absent,
                Some(StoredValue { deadline: None, .. }) => TimeToLive::Endless,
                Some(StoredValue { deadline: Some(deadline), .. }) => TimeToLive::Ms(deadline.0.saturating_sub(now.0)),
            }),
            Query::Walk { prefix, from, limit } => self.walk(prefix, *from, *limit),
        }
    }

    fn get_values(&self, keys: &[&[u8]]) -> Answer {
        // The answer begins with its kind (1 byte) and the number of values (4 bytes).
        let mut bytes_left = ANSWER_BYTES_MAX as usize - 5;
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            let value = self.get(key);
            let Some(bytes_after) = bytes_left.checked_sub(1 + value.map_or(0, |value| 4 + value.len())) else {
                return Answer::Omitted;
            };
            bytes_left = bytes_after;
            values.push(value.map(Bytes::copy_from_slice));
        }
        Answer::Values(values)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: u32) -> Bytes {
        let mut out = BytesMut::with_capacity(256);
        out.put_u8(ANSWER_KIND_PAIRS);
        out.put_u8(0);
        out.put_u32_le(0);
        let mut count: u32 = 0;
        for (key, slot) in self.range(scan_start(prefix, after)).take_while(|(key, _)| key.starts_with(prefix)) {
            let value = slot.value();
            let encoded_pair_bytes = 8 + key.len() + value.len();
            if count == limit || (out.len() + encoded_pair_bytes) as u64 > ANSWER_BYTES_MAX {
                out[1] = 1;
                break;
            }
            out.put_blob(key);
            out.put_blob(value);
            count += 1;
        }
        out[2..6].copy_from_slice(&count.to_le_bytes());
        out.freeze()
    }
}

impl StateMachine for Kv {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn apply(&mut self, context: &Context, command: &[u8]) -> Bytes {
        // An older program on another node does not know the command.
        if Kv::needed_level(command) > context.feature_level {
            return Answer::Malformed.encode();
        }
        match Command::decode(command) {
            Ok(command) => self.execute(&command).encode(),
            Err(_) => Answer::Malformed.encode(),
        }
    }

    fn needed_level(command: &[u8]) -> u16 {
        commands::needed_level(command)
    }

    fn frees_space(command: &[u8]) -> bool {
        match Command::decode(command) {
            Ok(Command::Del { .. } | Command::DelKeys(_)) => true,
            Ok(Command::Batch(commands)) => commands.iter().all(|command| matches!(command, Command::Del { .. })),
            Ok(_) | Err(_) => false,
        }
    }

    fn advance(&mut self, time: ClusterTime) {
        self.now = self.now.max(time);
        self.expiry.advance(self.now, &mut self.digest);
        self.free_expired_keys(FREED_KEYS_PER_ENTRY_MAX);
    }

    fn finish_restore(&mut self, time: ClusterTime) {
        self.now = self.now.max(time);
    }

    fn expire_due(&mut self) {
        self.free_expired_keys(FREED_KEYS_PER_TICK_MAX);
    }

    fn next_deadline(&self) -> Option<ClusterTime> {
        self.expiry.earliest_deadline()
    }

    fn query(&self, time: ClusterTime, query: &[u8]) -> Bytes {
        match Query::decode(query) {
            Ok(Query::Get { key }) => {
                // `Get` is by far the most frequent query: its value is copied only once.
                let value = self.get(key);
                let mut out = BytesMut::with_capacity(6 + value.map_or(0, <[u8]>::len));
                out.put_u8(ANSWER_KIND_VALUE);
                put_optional_blob(&mut out, value);
                out.freeze()
            }
            Ok(Query::Scan { prefix, after, limit }) => self.scan(prefix, after, limit),
            Ok(query) => self.answer_query(&query, time.max(self.now)).encode(),
            Err(_) => Answer::Malformed.encode(),
        }
    }

    fn prefetch(&self, commands: &mut dyn Iterator<Item = &[u8]>) {
        // A batch prefetches its own keys.
        let mut keys = commands.map(|command| commands::read_key(command).unwrap_or_default());
        while self.prefetch_keys(&mut keys) {}
    }

    fn digest(&self) -> u64 {
        self.digest.finish(self.len() as u64)
    }

    fn freeze(&mut self) {
        self.frozen_map = Some(FrozenMap::at(self.now));
    }

    fn next_chunk(&mut self, bytes: usize) -> Option<Bytes> {
        let frozen = self.frozen_map.as_mut()?;
        let unserialized_keys = self.by_key.range::<[u8], _>((frozen.unserialized_from(), Bound::Unbounded));
        let current = unserialized_keys.map(|(key, slot)| (&**key, self.slots[*slot as usize].stored_value()));
        let chunk = frozen.next_chunk(bytes, current);
        if chunk.is_none() {
            self.end_snapshot();
        }
        chunk
    }

    fn end_snapshot(&mut self) {
        self.frozen_map = None;
    }

    fn empty(&self) -> Kv {
        Kv::new()
    }

    fn restore(&mut self, mut chunk: &[u8]) -> Result<(), Malformed> {
        while !chunk.is_empty() {
            let Pair { key, value, deadline } = commands::read_pair(&mut chunk)?;
            if self.by_key.last_key_value().is_some_and(|(last, _)| **last >= *key) {
                return Err(Malformed("keys out of order"));
            }
            self.set(&KeyLookup { key, hash: hash(0, key), slot: None }, value, deadline);
        }
        Ok(())
    }
}

/// The lower bound of a scan: of the keys with that prefix that are greater than `after`.
fn scan_start<'a>(prefix: &'a [u8], after: Option<&'a [u8]>) -> Bound<&'a [u8]> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    }
}

/// A pair's part of the digest; `key_hash` is the hash of its key.
fn pair_hash(key_hash: u64, value: &[u8], deadline: Option<ClusterTime>) -> u64 {
    let hash_without_deadline = hash(key_hash, value);
    deadline.map_or(hash_without_deadline, |deadline| hash_numbers([hash_without_deadline, deadline.0]))
}

mod walk;

#[cfg(test)]
mod tests;
