//! The key-value machine we ship: an ordered map of bytes to bytes.
//!
//! What a command does is decided from what its key holds and carried out afterwards, so that a
//! batch is the same decisions made against what it would leave, and carried out all or not at all.
//! Keys and values are copied: a small value never keeps a large read buffer alive.

use super::frozen::Frozen;
use super::index::Index;
use super::seam::{Context, StateMachine};
use super::words::{self, Answer, Command, PAIRS, Query, VALUE, put_option};
use crate::codec::{Malformed, Put};
use crate::limits::ANSWER_BYTES_MAX;
use crate::types::digest::{Digest, hash};
use bytes::{BufMut, Bytes, BytesMut};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::Bound;

/// An ordered map of bytes to bytes.
///
/// Invariants: `order` and `index` lead each key to its slot, the one to walk keys in order and the
/// other to find one; every other slot is in `free`. `digest` is that of all pairs.
#[derive(Clone, Debug, Default)]
pub struct Kv {
    slots: Vec<Slot>,
    free: Vec<u32>,
    order: BTreeMap<Box<[u8]>, u32>,
    index: Index,
    digest: Digest,
    /// What was frozen, as far as it is not told yet.
    frozen: Option<Frozen>,
}

/// A key, what it holds, and the hash of the pair.
#[derive(Clone, Debug, Default)]
struct Slot {
    /// The key, and right behind it the value: whoever compares the one has the other in the cache.
    pair: Box<[u8]>,
    key_len: u32,
    hash: u64,
}

impl Slot {
    fn new(key: &[u8], value: &[u8], hash: u64) -> Slot {
        Slot { pair: [key, value].concat().into(), key_len: key.len() as u32, hash }
    }

    fn key(&self) -> &[u8] {
        &self.pair[..self.key_len as usize]
    }

    fn value(&self) -> &[u8] {
        &self.pair[self.key_len as usize..]
    }
}

/// How many commands' keys are looked for at once: more than a processor can wait for.
const EXPECTED: usize = 32;

/// Where a key is, or would be: looked up once for each command.
struct Place<'a> {
    key: &'a [u8],
    hash: u64,
    slot: Option<u32>,
}

/// What a command does to its key.
enum Change<'a> {
    Keep,
    Set(Cow<'a, [u8]>),
    Remove,
}

impl Kv {
    /// An empty map.
    pub fn new() -> Kv {
        Kv::default()
    }

    /// What a key holds.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.held(&self.place(key))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// All pairs in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.order.iter().map(|(key, slot)| (&**key, self.slots[*slot as usize].value()))
    }

    fn place<'a>(&self, key: &'a [u8]) -> Place<'a> {
        let hash = hash(0, key);
        let slot = self.index.find(hash, |slot| self.slots[slot as usize].key() == key);
        Place { key, hash, slot }
    }

    fn held(&self, place: &Place<'_>) -> Option<&[u8]> {
        Some(self.slots[place.slot? as usize].value())
    }

    /// Looks at what up to [`EXPECTED`] keys hold, so that the processor has it when their commands' turn
    /// comes; whether there were any.
    fn look_ahead<'a>(&self, keys: &mut dyn Iterator<Item = &'a [u8]>) -> bool {
        let mut hashes = [0; EXPECTED];
        let mut count = 0;
        for (expected, key) in hashes.iter_mut().zip(keys) {
            *expected = hash(0, key);
            count += 1;
        }
        // Three short loops: in each, no access waits for another.
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
        if let Command::Batch(commands) = command {
            return self.execute_all(commands);
        }
        let place = self.place(key_of(command));
        match decide(command, self.held(&place)) {
            Ok((change, answer)) => {
                self.carry_out(&place, change);
                answer
            }
            Err(answer) => answer,
        }
    }

    /// Decides each command against what those before it would leave, and carries all out or none.
    fn execute_all(&mut self, commands: &[Command<'_>]) -> Answer {
        let mut staged: BTreeMap<&[u8], Change<'_>> = BTreeMap::new();
        let mut answers = Vec::with_capacity(commands.len());
        for (at, command) in commands.iter().enumerate() {
            if at % EXPECTED == 0 {
                self.look_ahead(&mut commands[at..].iter().map(key_of));
            }
            let key = key_of(command);
            let held = match staged.get(key) {
                Some(Change::Set(value)) => Some(&**value),
                Some(Change::Remove) => None,
                Some(Change::Keep) | None => self.get(key),
            };
            match decide(command, held) {
                Ok((Change::Keep, answer)) => answers.push(answer),
                Ok((change, answer)) => {
                    staged.insert(key, change);
                    answers.push(answer);
                }
                Err(why) => return Answer::None { at: at as u32, why: Box::new(why) },
            }
        }
        for (key, change) in staged {
            self.carry_out(&self.place(key), change);
        }
        Answer::All(answers)
    }

    fn carry_out(&mut self, place: &Place<'_>, change: Change<'_>) {
        if let Some(frozen) = &mut self.frozen
            && !matches!(change, Change::Keep)
        {
            frozen.keep(place.key, place.slot.map(|slot| self.slots[slot as usize].value()));
        }
        match change {
            Change::Keep => {}
            Change::Set(value) => self.set(place, &value),
            Change::Remove => self.remove(place),
        }
    }

    fn remove(&mut self, place: &Place<'_>) {
        let Some(slot) = place.slot else { return };
        self.index.remove(place.hash, slot);
        self.order.remove(place.key);
        let gone = std::mem::take(&mut self.slots[slot as usize]);
        self.digest -= gone.hash;
        self.free.push(slot);
    }

    fn set(&mut self, place: &Place<'_>, value: &[u8]) {
        // The part of the digest that the pair is.
        let hash = hash(place.hash, value);
        self.digest += hash;
        let Some(found) = place.slot else {
            return self.insert(place, Slot::new(place.key, value, hash));
        };
        let slot = &mut self.slots[found as usize];
        self.digest -= slot.hash;
        if slot.value().len() == value.len() {
            slot.pair[place.key.len()..].copy_from_slice(value);
            slot.hash = hash;
        } else {
            *slot = Slot::new(place.key, value, hash);
        }
    }

    fn insert(&mut self, place: &Place<'_>, new: Slot) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = new;
                slot
            }
            None => {
                let slot = u32::try_from(self.slots.len()).expect("four thousand million keys do not fit memory");
                self.slots.push(new);
                slot
            }
        };
        self.order.insert(place.key.into(), slot);
        self.index.insert(place.hash, slot);
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: u32) -> Bytes {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut out = BytesMut::with_capacity(256);
        out.put_u8(PAIRS);
        out.put_u8(0);
        out.put_u32_le(0);
        let mut count: u32 = 0;
        let range = self.order.range::<[u8], _>((from, Bound::Unbounded));
        for (key, slot) in range.take_while(|(key, _)| key.starts_with(prefix)) {
            let value = self.slots[*slot as usize].value();
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
    fn apply(&mut self, _context: &Context, command: &[u8]) -> Bytes {
        match Command::decode(command) {
            Ok(command) => self.execute(&command).encode(),
            Err(_) => Answer::Malformed.encode(),
        }
    }

    fn frees(command: &[u8]) -> bool {
        match Command::decode(command) {
            Ok(Command::Del { .. }) => true,
            Ok(Command::Batch(commands)) => commands.iter().all(|one| matches!(one, Command::Del { .. })),
            Ok(_) | Err(_) => false,
        }
    }

    fn query(&self, query: &[u8]) -> Bytes {
        match Query::decode(query) {
            Ok(Query::Get { key }) => {
                let held = self.get(key);
                let mut out = BytesMut::with_capacity(6 + held.map_or(0, <[u8]>::len));
                out.put_u8(VALUE);
                put_option(&mut out, held);
                out.freeze()
            }
            Ok(Query::Scan { prefix, after, limit }) => self.scan(prefix, after, limit),
            Ok(Query::Count) => Answer::Count(self.len() as u64).encode(),
            Err(_) => Answer::Malformed.encode(),
        }
    }

    fn expect(&self, commands: &mut dyn Iterator<Item = &[u8]>) {
        // A batch looks ahead for itself.
        let mut keys = commands.map(|command| words::key(command).unwrap_or_default());
        while self.look_ahead(&mut keys) {}
    }

    fn digest(&self) -> u64 {
        self.digest.finish(self.len() as u64)
    }

    fn freeze(&mut self) {
        self.frozen = Some(Frozen::default());
    }

    fn piece(&mut self, bytes: usize) -> Option<Bytes> {
        let frozen = self.frozen.as_mut()?;
        let untold = self.order.range::<[u8], _>((frozen.told(), Bound::Unbounded));
        let now = untold.map(|(key, slot)| (&**key, self.slots[*slot as usize].value()));
        let piece = frozen.piece(bytes, now);
        if piece.is_none() {
            self.thaw();
        }
        piece
    }

    fn thaw(&mut self) {
        self.frozen = None;
    }

    fn empty(&self) -> Kv {
        Kv::new()
    }

    fn restore(&mut self, mut piece: &[u8]) -> Result<(), Malformed> {
        while !piece.is_empty() {
            let (key, value) = words::read_pair(&mut piece)?;
            if self.order.last_key_value().is_some_and(|(last, _)| **last >= *key) {
                return Err(Malformed("keys out of order"));
            }
            self.set(&Place { key, hash: hash(0, key), slot: None }, value);
        }
        Ok(())
    }
}

/// Which key a command concerns; a batch concerns none of its own.
fn key_of<'a>(command: &Command<'a>) -> &'a [u8] {
    match command {
        Command::Put { key, .. } | Command::Del { key } | Command::Cas { key, .. } | Command::Incr { key, .. } => key,
        Command::Batch(_) => &[],
    }
}

/// What a command does to its key, given what that holds, and the answer; or why it does nothing.
fn decide<'a>(command: &Command<'a>, held: Option<&[u8]>) -> Result<(Change<'a>, Answer), Answer> {
    match command {
        Command::Put { value, .. } => Ok((Change::Set(Cow::Borrowed(value)), Answer::Done)),
        Command::Del { .. } => match held {
            Some(_) => Ok((Change::Remove, Answer::Deleted { existed: true })),
            None => Ok((Change::Keep, Answer::Deleted { existed: false })),
        },
        Command::Cas { expected, new, .. } if held == *expected => Ok((Change::Set(Cow::Borrowed(new)), Answer::Done)),
        Command::Cas { .. } => Err(Answer::Kept { actual: held.map(Bytes::copy_from_slice) }),
        Command::Incr { by, .. } => {
            let number = held.map_or(Some(0), number).ok_or(Answer::NotANumber)?;
            let sum = number.checked_add(*by).ok_or(Answer::Overflow)?;
            Ok((Change::Set(Cow::Owned(sum.to_string().into_bytes())), Answer::Number(sum)))
        }
        // The decoder lets none through; whoever builds one by hand is told so.
        Command::Batch(_) => Err(Answer::Malformed),
    }
}

/// The decimal number those bytes spell, if they do.
fn number(bytes: &[u8]) -> Option<i64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
