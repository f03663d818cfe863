//! A hash table from a key's hash to its slot number.
//!
//! A lookup costs one or two cache misses, where an ordered map takes a dozen. The table grows a little with each
//! insertion, never all at once: moving a million keys in one go would delay the heartbeats. It shrinks likewise.
//!
//! A walk of all slots orders them by the bits of their hashes, the lowest first (van der Corput's order, which Redis'
//! `SCAN` uses too): a table of twice the size splits each bucket into two that are adjacent in that order. So a
//! position means the same in a table of any size, and on every node.

/// How many places of the old table each insertion moves. Since tables double when they are three quarters full, two
/// would be enough.
const MOVED: usize = 8;
/// How many places each change moves from a table that was four times as large: sixteen would be enough.
const MOVED_DOWN: usize = 32;
/// A table with more than this many places per slot shrinks, so that a walk never has to pass many free ones.
const SPARSE: usize = 8;
/// How many places `guess` reads: one cache line.
const GUESSED: usize = 8;
/// The smallest table.
const SMALLEST: usize = 16;

/// A hash table of slot numbers.
///
/// A place is one word with a slot's number and 32 bits of its hash; zero is a free place. A removal shifts later words
/// back, so that a search ends at the first free place.
#[derive(Clone, Debug, Default)]
pub struct Index {
    table: Table,
    /// The table before the last resize, with the words that are not moved yet.
    old: Table,
    /// All places of `old` below this one have been moved.
    moved: usize,
}

#[derive(Clone, Debug, Default)]
struct Table {
    /// A power of two of them, or none.
    places: Vec<u64>,
    used: usize,
}

impl Index {
    /// The slot with this hash for which `is` returns true.
    pub fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.table.find(hash, &is).or_else(|| self.old.find(hash, &is))
    }

    /// The slot that most likely has that hash, if there is one. Reads a few adjacent places and no key: enough for a
    /// prefetch.
    pub fn guess(&self, hash: u64) -> Option<u32> {
        self.table.guess(hash).or_else(|| self.old.guess(hash))
    }

    /// Moves a few places of the old table. Without it, a map whose values are only overwritten would stay in two
    /// tables forever, and each search would begin in the wrong one.
    pub fn tend(&mut self) {
        self.move_on();
    }

    /// Appends the slots, if any, of the bucket that contains that position. Returns the position where the next bucket
    /// begins, or `None` after the last one. The position of a slot is the upper half of its hash with the bits
    /// reversed.
    pub fn bucket(&self, position: u32, slots: &mut Vec<u32>) -> Option<u32> {
        let places = self.table.places.len().max(self.old.places.len()).max(1);
        let (bits, mask) = (places.trailing_zeros(), (places - 1) as u32);
        let bucket = position.reverse_bits() & mask;
        self.table.collect(bucket, mask, slots);
        self.old.collect(bucket, mask, slots);
        let width = 1u64 << (32 - bits);
        u32::try_from((u64::from(position) & !(width - 1)) + width).ok()
    }

    /// Adds a slot, which must not be in the table.
    pub fn insert(&mut self, hash: u64, slot: u32) {
        self.grow();
        self.table.insert(word(hash, slot));
    }

    /// Removes a slot.
    ///
    /// Panics if it is not in the table.
    pub fn remove(&mut self, hash: u64, slot: u32) {
        let removed = self.table.remove(word(hash, slot)) || self.old.remove(word(hash, slot));
        assert!(removed, "a removed slot is in the index");
        self.move_on();
        let size = self.table.places.len();
        if self.old.used == 0 && size > SMALLEST && self.table.used * SPARSE < size {
            self.old = std::mem::replace(&mut self.table, Table::of((size / 4).max(SMALLEST)));
            self.moved = 0;
        }
    }

    /// Moves a few places of the old table, if it still has any.
    fn move_on(&mut self) {
        if self.old.used > 0 {
            let shrinks = self.old.places.len() > self.table.places.len();
            self.move_some(if shrinks { MOVED_DOWN } else { MOVED });
        } else if !self.old.places.is_empty() {
            self.old = Table::default();
        }
    }

    /// Makes room for one more slot, and moves a few places of the old table.
    fn grow(&mut self) {
        let size = self.table.places.len();
        if self.old.used == 0 {
            self.old = Table::default();
        }
        if (self.table.used + 1) * 4 > size * 3 {
            // The old table is empty by now: it had a quarter of these places and eight were moved at a time.
            self.move_some(usize::MAX);
            self.old = std::mem::replace(&mut self.table, Table::of((size * 2).max(SMALLEST)));
            self.moved = 0;
        }
        self.move_on();
    }

    fn move_some(&mut self, most: usize) {
        let upto = self.old.places.len().min(self.moved.saturating_add(most));
        for at in self.moved..upto {
            // Moves also the words that the removal shifted back into this place.
            while self.old.places[at] != 0 {
                let word = self.old.places[at];
                self.old.vacate(at);
                self.table.insert(word);
            }
        }
        self.moved = upto;
    }
}

/// A slot's number plus one, so that it is never zero, above the upper 32 bits of its hash.
fn word(hash: u64, slot: u32) -> u64 {
    (u64::from(slot) + 1) << 32 | hash >> 32
}

impl Table {
    fn of(size: usize) -> Table {
        Table { places: vec![0; size], used: 0 }
    }

    /// The place where the search for a hash begins.
    fn home(&self, word: u64) -> usize {
        word as u32 as usize & (self.places.len() - 1)
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.places.len() - 1)
    }

    fn find(&self, hash: u64, is: &impl Fn(u32) -> bool) -> Option<u32> {
        if self.used == 0 {
            return None;
        }
        let mut at = self.home(hash >> 32);
        while self.places[at] != 0 {
            let word = self.places[at];
            let slot = (word >> 32) as u32 - 1;
            if word as u32 == (hash >> 32) as u32 && is(slot) {
                return Some(slot);
            }
            at = self.next(at);
        }
        None
    }

    fn guess(&self, hash: u64) -> Option<u32> {
        if self.used == 0 {
            return None;
        }
        let mut at = self.home(hash >> 32);
        for _ in 0..GUESSED {
            let word = self.places[at];
            if word == 0 {
                return None;
            }
            if word as u32 == (hash >> 32) as u32 {
                return Some((word >> 32) as u32 - 1);
            }
            at = self.next(at);
        }
        None
    }

    /// Appends the slots whose hashes have `bucket` as the lowest bits, as many bits as the mask has.
    fn collect(&self, bucket: u32, mask: u32, slots: &mut Vec<u32>) {
        if self.used == 0 {
            return;
        }
        let mut at = self.home(u64::from(bucket));
        while self.places[at] != 0 {
            let word = self.places[at];
            if word as u32 & mask == bucket {
                slots.push((word >> 32) as u32 - 1);
            }
            at = self.next(at);
        }
    }

    fn insert(&mut self, word: u64) {
        let mut at = self.home(word);
        while self.places[at] != 0 {
            at = self.next(at);
        }
        self.places[at] = word;
        self.used += 1;
    }

    fn remove(&mut self, word: u64) -> bool {
        if self.used == 0 {
            return false;
        }
        let mut at = self.home(word);
        while self.places[at] != 0 {
            if self.places[at] == word {
                self.vacate(at);
                return true;
            }
            at = self.next(at);
        }
        false
    }

    /// Frees a place, and shifts back each word that a search could no longer reach past a free place.
    fn vacate(&mut self, mut free: usize) {
        self.used -= 1;
        let mut at = self.next(free);
        while self.places[at] != 0 {
            let home = self.home(self.places[at]);
            // A word may stay if its search begins after the free place (places form a ring).
            let mask = self.places.len() - 1;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(free) & mask) {
                self.places[free] = self.places[at];
                free = at;
            }
            at = self.next(at);
        }
        self.places[free] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn overwrites_alone_complete_the_rehash() {
        let hash = |slot: u32| u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut index = Index::default();
        let full = 12 * 1024;
        (0..=full).for_each(|slot| index.insert(hash(slot), slot));
        assert!(index.old.used > 10_000, "it has just grown");
        assert!((0..=full).all(|slot| index.guess(hash(slot)).is_some()), "guesses include entries still to be moved");
        (0..full / MOVED as u32 * 2).for_each(|_| index.tend());
        assert_eq!(index.old.used, 0);
        assert!((0..=full).all(|slot| index.find(hash(slot), |other| other == slot) == Some(slot)));
    }

    /// The slots that a walk finds, and the number of buckets.
    fn walk(index: &Index) -> (Vec<u32>, usize) {
        let (mut slots, mut buckets, mut at) = (Vec::new(), 0, Some(0));
        while let Some(position) = at {
            at = index.bucket(position, &mut slots);
            buckets += 1;
        }
        slots.sort_unstable();
        (slots, buckets)
    }

    #[test]
    fn emptied_index_shrinks_and_is_walked_in_few_steps() {
        let hash = |slot: u32| u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut index = Index::default();
        (0..50_000).for_each(|slot| index.insert(hash(slot), slot));
        for slot in 0..49_900 {
            index.remove(hash(slot), slot);
            if slot % 997 == 0 {
                let (slots, buckets) = walk(&index);
                assert!(slots.iter().copied().eq(slot + 1..50_000));
                assert!(buckets <= slots.len() * 16 + 64, "{buckets} buckets for {} slots", slots.len());
            }
        }
        assert!(index.table.places.len() <= 2048 && index.old.places.len() <= 2048);
        (0..49_900).for_each(|slot| index.insert(hash(slot), slot));
        assert!(walk(&index).0.into_iter().eq(0..50_000));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn index_matches_a_btree_map(
            steps in prop::collection::vec((any::<bool>(), 0..300u32), 0..1000),
            spread in prop::sample::select(vec![1u64, 3 << 32, 0x9e37_79b9_7f4a_7c15]),
        ) {
            // With a small spread, many hashes are equal: long searches, many shifts.
            let hash = |slot: u32| u64::from(slot / 3).wrapping_mul(spread);
            let (mut index, mut map) = (Index::default(), BTreeMap::new());
            for (add, slot) in steps {
                if add && map.insert(slot, ()).is_none() {
                    index.insert(hash(slot), slot);
                } else if !add && map.remove(&slot).is_some() {
                    index.remove(hash(slot), slot);
                } else {
                    index.tend();
                }
                prop_assert_eq!(index.table.used + index.old.used, map.len());
            }
            prop_assert!(walk(&index).0.into_iter().eq(map.keys().copied()));
            for slot in 0..300 {
                let found = index.find(hash(slot), |other| other == slot);
                prop_assert_eq!(found, map.contains_key(&slot).then_some(slot));
                prop_assert!(map.contains_key(&slot) || index.guess(hash(slot)).is_none_or(|other| other != slot));
            }
        }
    }
}
