//! The key-value state machine of drave: an ordered map of bytes to bytes.
//!
//! A command is first decided against the current value of its key and then executed. A batch decides each command
//! against the result of those before it, and then executes all of them or none. Keys and values are copied, so a small
//! value never keeps a large read buffer alive.
//!
//! A key may have a deadline. Once an entry with that time or a later one is applied, the key is absent on every node
//! alike; see `expiry.rs` for when its memory is freed.

use super::commands::{self, Answer, AnswerList, Command, PAIRS, Pair, Query, Step, TimeToLive, VALUE, put_option};
use super::decide::{Change, StoredValue, decide, key_of};
use super::expiry::Expiry;
use super::frozen::Frozen;
use super::index::Index;
use super::state_machine::{Context, StateMachine};
use crate::codec::{Malformed, Put};
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
/// Invariants: `order` and `index` map each key to its slot, the one for walking keys in order and the other for
/// lookup; every other slot is in `free`. `expiry` lists the slots that have a deadline. `digest` is the digest of all
/// pairs that are present at `now`; expired pairs may still be in memory.
#[derive(Clone, Debug, Default)]
pub struct Kv {
    slots: Vec<Slot>,
    free: Vec<u32>,
    order: BTreeMap<Box<[u8]>, u32>,
    index: Index,
    digest: Digest,
    /// The time of the last entry.
    now: ClusterTime,
    expiry: Expiry,
    /// The part of the snapshot that is not serialized yet.
    frozen: Option<Frozen>,
}

/// A key, its value, and the hash of the pair. A cache line holds exactly two slots, and no slot spans two lines.
#[derive(Clone, Debug, Default)]
#[repr(align(32))]
struct Slot {
    /// The key, directly followed by the value, so that comparing the key brings the value into the cache. The
    /// deadline, if there is one, follows in eight bytes; a key without a deadline does not pay for it.
    pair: Box<[u8]>,
    key_len: u32,
    has_deadline: bool,
    hash: u64,
}

/// The kind of this state machine, and the version of its commands.
pub const KIND: &str = "kv 1";

const _: () = assert!(size_of::<Slot>() == 32, "a slot has 32 bytes");

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

    /// Whether the key is present at that time.
    fn is_live(&self, now: ClusterTime) -> bool {
        self.deadline().is_none_or(|deadline| deadline > now)
    }
}

/// How many commands' keys are prefetched at once: more than a processor can have outstanding.
const PREFETCH_KEYS: usize = 32;
/// How many expired keys each entry frees: more than an entry that is no batch can add, and cheap compared with the
/// entry itself.
const EXPIRE_PER_ENTRY: usize = 8;
/// How many expired keys an entry without a command frees: about a millisecond's work.
const EXPIRE_PER_TICK: usize = 1024;

/// A key, its hash and its slot, if any: looked up once per command.
struct KeyLookup<'a> {
    key: &'a [u8],
    hash: u64,
    slot: Option<u32>,
}

/// The values of keys after a batch; `None`: removed.
type Staged<'a> = BTreeMap<&'a [u8], Option<(Cow<'a, [u8]>, Option<ClusterTime>)>>;

impl Kv {
    /// An empty map.
    pub fn new() -> Kv {
        Kv::default()
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.stored_value(&self.place(key)).map(|held| held.value)
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.order.len() - self.expiry.overdue()
    }

    /// Whether the map is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All pairs in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.range(Bound::Unbounded).map(|(key, slot)| (key, slot.value()))
    }

    /// The live pairs from that key on.
    fn range<'a>(&'a self, from: Bound<&[u8]>) -> impl Iterator<Item = (&'a [u8], &'a Slot)> {
        let all = self.order.range::<[u8], _>((from, Bound::Unbounded));
        all.map(|(key, slot)| (&**key, &self.slots[*slot as usize])).filter(|(_, slot)| slot.is_live(self.now))
    }

    fn place<'a>(&self, key: &'a [u8]) -> KeyLookup<'a> {
        let hash = hash(0, key);
        let slot = self.index.find(hash, |slot| self.slots[slot as usize].key() == key);
        KeyLookup { key, hash, slot }
    }

    fn stored_value(&self, place: &KeyLookup<'_>) -> Option<StoredValue<'_>> {
        let slot = &self.slots[place.slot? as usize];
        slot.is_live(self.now).then(|| slot.stored_value())
    }

    /// Reads the pairs of up to [`EXPECTED`] keys into the processor's cache, ahead of their commands. Returns whether
    /// there were any keys.
    fn look_ahead(&self, keys: &mut dyn Iterator<Item = &[u8]>) -> bool {
        let mut hashes = [0; PREFETCH_KEYS];
        let mut count = 0;
        for (expected, key) in hashes.iter_mut().zip(keys) {
            *expected = hash(0, key);
            count += 1;
        }
        // Three short loops: no access within one depends on another.
        let slots = hashes.map(|hash| self.index.guess(hash));
        let pairs = slots.map(|slot| slot.map_or(&[][..], |slot| &*self.slots[slot as usize].pair));
        for pair in &pairs[..count] {
            if let [first, .., last] = pair {
                black_box(first ^ pair[pair.len() / 2] ^ last);
            }
        }
        count > 0
    }

    fn execute(&mut self, command: &Command<'_>) -> Answer {
        self.index.tend();
        match command {
            Command::Batch(commands) => return self.execute_all(commands),
            Command::Block(steps) => return self.execute_each(steps),
            Command::Forget(keys) => return Answer::Number(keys.iter().filter(|key| self.forget(key)).count() as i64),
            Command::PutAll(pairs) => {
                for (key, value) in pairs {
                    self.apply_change(&self.place(key), Change::Set(Cow::Borrowed(value), None));
                }
                return Answer::Done;
            }
            _ => {}
        }
        let place = self.place(key_of(command));
        match decide(command, self.stored_value(&place), self.now) {
            Ok((change, answer)) => {
                self.apply_change(&place, change);
                answer
            }
            Err(answer) => answer,
        }
    }

    /// Removes a key; returns whether it was present.
    fn forget(&mut self, key: &[u8]) -> bool {
        let place = self.place(key);
        let existed = self.stored_value(&place).is_some();
        if existed {
            self.apply_change(&place, Change::Remove);
        }
        existed
    }

    /// Decides each command against the result of those before it, then executes all of them or none.
    fn execute_all(&mut self, commands: &[Command<'_>]) -> Answer {
        let mut staged = Staged::new();
        let mut answers = AnswerList::of(commands.len());
        for (at, command) in commands.iter().enumerate() {
            if at % PREFETCH_KEYS == 0 {
                self.look_ahead(&mut commands[at..].iter().map(key_of));
            }
            let key = key_of(command);
            let held = match staged.get(key) {
                Some(staged) => staged.as_ref().map(|(value, deadline)| StoredValue { value, deadline: *deadline }),
                None => self.stored_value(&self.place(key)),
            };
            match decide(command, held, self.now) {
                Ok((change, answer)) => {
                    match change {
                        Change::Keep => {}
                        Change::Set(value, deadline) => drop(staged.insert(key, Some((value, deadline)))),
                        Change::Remove => drop(staged.insert(key, None)),
                    }
                    answers.push(answer);
                }
                Err(why) => return Answer::None { at: at as u32, why: Box::new(why) },
            }
        }
        for (key, staged) in staged {
            let change = staged.map_or(Change::Remove, |(value, deadline)| Change::Set(value, deadline));
            self.apply_change(&self.place(key), change);
        }
        Answer::All(answers.end())
    }

    /// Executes each step, whether or not those before it failed.
    fn execute_each(&mut self, steps: &[Step<'_>]) -> Answer {
        let mut answers = AnswerList::of(steps.len());
        for step in steps {
            answers.push(match step {
                Step::Do(Command::Batch(_) | Command::Block(_)) => Answer::Malformed,
                Step::Do(command) => self.execute(command),
                Step::Ask(query) => self.answer(query, self.now),
            });
        }
        Answer::Each(answers.end())
    }

    fn apply_change(&mut self, place: &KeyLookup<'_>, change: Change<'_>) {
        if let Some(frozen) = &mut self.frozen
            && !matches!(change, Change::Keep)
        {
            frozen.keep(place.key, place.slot.map(|slot| self.slots[slot as usize].stored_value()));
        }
        match change {
            Change::Keep => {}
            Change::Set(value, deadline) => self.set(place, &value, deadline),
            Change::Remove => self.remove(place),
        }
    }

    fn remove(&mut self, place: &KeyLookup<'_>) {
        let Some(slot) = place.slot else { return };
        self.remove_from_digest(slot);
        self.index.remove(place.hash, slot);
        self.order.remove(place.key);
        self.slots[slot as usize] = Slot::default();
        self.free.push(slot);
    }

    /// Removes a slot's hash from the digest and its deadline from `expiry`.
    fn remove_from_digest(&mut self, number: u32) {
        let slot = &self.slots[number as usize];
        match slot.deadline() {
            Some(deadline) if !self.expiry.remove(deadline, number, slot.hash) => {}
            _ => self.digest -= slot.hash,
        }
    }

    fn set(&mut self, place: &KeyLookup<'_>, value: &[u8], deadline: Option<ClusterTime>) {
        let hash = pair_hash(place.hash, value, deadline);
        self.digest += hash;
        let number = match place.slot {
            None => self.insert(place, Slot::new(place.key, value, deadline, hash)),
            Some(found) => {
                self.remove_from_digest(found);
                let slot = &mut self.slots[found as usize];
                if deadline.is_none() && !slot.has_deadline && slot.value().len() == value.len() {
                    slot.pair[place.key.len()..].copy_from_slice(value);
                    slot.hash = hash;
                } else {
                    *slot = Slot::new(place.key, value, deadline, hash);
                }
                found
            }
        };
        if let Some(deadline) = deadline {
            self.expiry.insert(deadline, number, hash);
        }
    }

    fn insert(&mut self, place: &KeyLookup<'_>, new: Slot) -> u32 {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = new;
                slot
            }
            None => {
                let slot = u32::try_from(self.slots.len()).expect("four billion keys do not fit in memory");
                self.slots.push(new);
                slot
            }
        };
        self.order.insert(place.key.into(), slot);
        self.index.insert(place.hash, slot);
        slot
    }

    /// Frees up to that many expired keys.
    fn sweep(&mut self, count: usize) {
        for _ in 0..count {
            let Some(slot) = self.expiry.first_overdue() else { return };
            let key = self.slots[slot as usize].key().to_vec();
            let place = KeyLookup { key: &key, hash: hash(0, &key), slot: Some(slot) };
            self.apply_change(&place, Change::Remove);
        }
    }

    fn answer(&self, query: &Query<'_>, now: ClusterTime) -> Answer {
        match query {
            Query::Get { key } => Answer::Value(self.get(key).map(Bytes::copy_from_slice)),
            // Encoded while it is walked, since it must stop where an answer is full.
            Query::Scan { prefix, after, limit } => {
                Answer::decode(self.scan(prefix, *after, *limit)).expect("an answer of the machine decodes")
            }
            Query::Count => Answer::Count(self.len() as u64),
            Query::Keyspace => Answer::Each([self.len(), self.expiry.coming()].map(|n| Answer::Count(n as u64)).into()),
            Query::Values(keys) => self.values(keys),
            Query::Present(keys) => Answer::Number(keys.iter().filter(|key| self.get(key).is_some()).count() as i64),
            Query::Length { key } => Answer::Number(self.get(key).map_or(0, <[u8]>::len) as i64),
            Query::Left { key } => Answer::Left(match self.stored_value(&self.place(key)) {
                None => TimeToLive::Absent,
                Some(StoredValue { deadline: None, .. }) => TimeToLive::Endless,
                Some(StoredValue { deadline: Some(deadline), .. }) => TimeToLive::Ms(deadline.0.saturating_sub(now.0)),
            }),
            Query::Walk { prefix, from, limit } => self.walk(prefix, *from, *limit),
        }
    }

    fn values(&self, keys: &[&[u8]]) -> Answer {
        let mut left = ANSWER_BYTES_MAX as usize - 5;
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            let held = self.get(key);
            let Some(rest) = left.checked_sub(1 + held.map_or(0, |held| 4 + held.len())) else {
                return Answer::Omitted;
            };
            left = rest;
            values.push(held.map(Bytes::copy_from_slice));
        }
        Answer::Values(values)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: u32) -> Bytes {
        let mut out = BytesMut::with_capacity(256);
        out.put_u8(PAIRS);
        out.put_u8(0);
        out.put_u32_le(0);
        let mut count: u32 = 0;
        for (key, slot) in self.range(beyond(prefix, after)).take_while(|(key, _)| key.starts_with(prefix)) {
            let value = slot.value();
            let size = 8 + key.len() + value.len();
            if count == limit || (out.len() + size) as u64 > ANSWER_BYTES_MAX {
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

    fn apply(&mut self, _context: &Context, command: &[u8]) -> Bytes {
        match Command::decode(command) {
            Ok(command) => self.execute(&command).encode(),
            Err(_) => Answer::Malformed.encode(),
        }
    }

    fn frees(command: &[u8]) -> bool {
        match Command::decode(command) {
            Ok(Command::Del { .. } | Command::Forget(_)) => true,
            Ok(Command::Batch(commands)) => commands.iter().all(|one| matches!(one, Command::Del { .. })),
            Ok(_) | Err(_) => false,
        }
    }

    fn advance(&mut self, time: ClusterTime) {
        self.now = self.now.max(time);
        self.expiry.advance(self.now, &mut self.digest);
        self.sweep(EXPIRE_PER_ENTRY);
    }

    fn resume(&mut self, time: ClusterTime) {
        self.now = self.now.max(time);
    }

    fn expire_due(&mut self) {
        self.sweep(EXPIRE_PER_TICK);
    }

    fn due(&self) -> Option<ClusterTime> {
        self.expiry.due()
    }

    fn query(&self, time: ClusterTime, query: &[u8]) -> Bytes {
        match Query::decode(query) {
            Ok(Query::Get { key }) => {
                // The most frequent query by far: copies once.
                let held = self.get(key);
                let mut out = BytesMut::with_capacity(6 + held.map_or(0, <[u8]>::len));
                out.put_u8(VALUE);
                put_option(&mut out, held);
                out.freeze()
            }
            Ok(Query::Scan { prefix, after, limit }) => self.scan(prefix, after, limit),
            Ok(query) => self.answer(&query, time.max(self.now)).encode(),
            Err(_) => Answer::Malformed.encode(),
        }
    }

    fn prefetch(&self, commands: &mut dyn Iterator<Item = &[u8]>) {
        // A batch prefetches its own keys.
        let mut keys = commands.map(|command| commands::key(command).unwrap_or_default());
        while self.look_ahead(&mut keys) {}
    }

    fn digest(&self) -> u64 {
        self.digest.finish(self.len() as u64)
    }

    fn freeze(&mut self) {
        self.frozen = Some(Frozen::at(self.now));
    }

    fn next_chunk(&mut self, bytes: usize) -> Option<Bytes> {
        let frozen = self.frozen.as_mut()?;
        let unserialized = self.order.range::<[u8], _>((frozen.unserialized_from(), Bound::Unbounded));
        let now = unserialized.map(|(key, slot)| (&**key, self.slots[*slot as usize].stored_value()));
        let piece = frozen.next_chunk(bytes, now);
        if piece.is_none() {
            self.end_snapshot();
        }
        piece
    }

    fn end_snapshot(&mut self) {
        self.frozen = None;
    }

    fn empty(&self) -> Kv {
        Kv::new()
    }

    fn restore(&mut self, mut piece: &[u8]) -> Result<(), Malformed> {
        while !piece.is_empty() {
            let Pair { key, value, deadline } = commands::read_pair(&mut piece)?;
            if self.order.last_key_value().is_some_and(|(last, _)| **last >= *key) {
                return Err(Malformed("keys out of order"));
            }
            self.set(&KeyLookup { key, hash: hash(0, key), slot: None }, value, deadline);
        }
        Ok(())
    }
}

/// The lower bound of the keys with that prefix that are after `after`.
fn beyond<'a>(prefix: &'a [u8], after: Option<&'a [u8]>) -> Bound<&'a [u8]> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    }
}

/// A pair's contribution to the digest.
fn pair_hash(key: u64, value: &[u8], deadline: Option<ClusterTime>) -> u64 {
    let lasting = hash(key, value);
    deadline.map_or(lasting, |deadline| hash_numbers([lasting, deadline.0]))
}

mod walk;

#[cfg(test)]
mod tests;
