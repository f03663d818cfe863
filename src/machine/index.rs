//! A hash table from a key's hash to its slot number.
//!
//! A lookup costs one or two cache misses, where an ordered map takes a dozen. The table is resized incrementally, like
//! Redis' dictionary: each change moves a few cells, since moving a million keys in one go would delay the heartbeats.
//!
//! A walk of all slots orders them by the bits of their hashes, the lowest first (van der Corput's order, which Redis'
//! `SCAN` uses too). A bucket is the set of slots whose hashes have the same lowest bits, as many bits as the table's
//! size has: a table of twice the size splits each bucket into two that are adjacent in that order. So a position means
//! the same in a table of any size, and on every node.

/// How many cells each change moves to a larger table from the old one. Since tables double when they are three
/// quarters full, two would be enough.
const CELLS_MOVED_WHEN_GROWING: usize = 8;
/// How many cells each change moves to a smaller table from an old one, which was four times as large: sixteen would be
/// enough.
const CELLS_MOVED_WHEN_SHRINKING: usize = 32;
/// A table with more than this many cells per slot shrinks, so that a walk never has to pass many free cells.
const CELLS_PER_SLOT_MAX: usize = 8;
/// How many cells [`HashIndex::guess`] reads at most: one cache line.
const GUESS_CELLS_MAX: usize = 8;
/// The size of the smallest table, in cells.
const CELLS_MIN: usize = 16;

/// A hash table of slot numbers.
///
/// Open addressing with linear probing: a cell is one word with a slot's number and 32 bits of its hash; zero is a free
/// cell. A removal shifts later words back, so that a search ends at the first free cell.
#[derive(Clone, Debug, Default)]
pub struct HashIndex {
    table: CellTable,
    /// The table before the last resize, with the words that are not moved yet.
    old_table: CellTable,
    /// The first cell of `old_table` that is not moved yet: all cells below it have been moved.
    first_unmoved_cell: usize,
}

#[derive(Clone, Debug, Default)]
struct CellTable {
    /// The word in each cell, 0 in a free one. The number of cells is a power of two, or 0.
    cells: Vec<u64>,
    used_cell_count: usize,
}

impl HashIndex {
    /// The slot with the hash `hash` that `matches` accepts, which compares the key.
    pub fn find(&self, hash: u64, matches: impl Fn(u32) -> bool) -> Option<u32> {
        self.table.find(hash, &matches).or_else(|| self.old_table.find(hash, &matches))
    }

    /// The slot that most likely has the hash `hash`, if there is one. Reads a few adjacent cells and compares no key,
    /// which is enough for a prefetch.
    pub fn guess(&self, hash: u64) -> Option<u32> {
        self.table.guess(hash).or_else(|| self.old_table.guess(hash))
    }

    /// Moves a few cells of the old table. Called for each command: a map whose values are only overwritten would
    /// otherwise stay in two tables forever, and each search would begin in the wrong one.
    pub fn continue_rehash(&mut self) {
        self.rehash_step();
    }

    /// Appends the slots, if any, of the bucket that contains that position. Returns the position where the next bucket
    /// begins, or `None` after the last one. The position of a slot is the upper half of its hash with the bits
    /// reversed.
    pub fn collect_bucket(&self, position: u32, slots: &mut Vec<u32>) -> Option<u32> {
        let cell_count = self.table.cells.len().max(self.old_table.cells.len()).max(1);
        let (bits, mask) = (cell_count.trailing_zeros(), (cell_count - 1) as u32);
        let bucket = position.reverse_bits() & mask;
        self.table.collect_bucket(bucket, mask, slots);
        self.old_table.collect_bucket(bucket, mask, slots);
        let positions_in_bucket = 1u64 << (32 - bits);
        u32::try_from((u64::from(position) & !(positions_in_bucket - 1)) + positions_in_bucket).ok()
    }

    /// Adds a slot, which must not be in the table.
    pub fn insert(&mut self, hash: u64, slot: u32) {
        self.reserve_cell();
        self.table.insert(cell_word(hash, slot));
    }

    /// Removes a slot, and starts a smaller table if this one is nearly empty.
    ///
    /// Panics if the slot is not in the table.
    pub fn remove(&mut self, hash: u64, slot: u32) {
        let removed = self.table.remove(cell_word(hash, slot)) || self.old_table.remove(cell_word(hash, slot));
        assert!(removed, "a slot is in the index until it is removed");
        self.rehash_step();
        let size = self.table.cells.len();
        if self.old_table.used_cell_count == 0
            && size > CELLS_MIN
            && self.table.used_cell_count * CELLS_PER_SLOT_MAX < size
        {
            self.old_table = std::mem::replace(&mut self.table, CellTable::with_cells((size / 4).max(CELLS_MIN)));
            self.first_unmoved_cell = 0;
        }
    }

    /// Moves a few cells of the old table; frees it once it is empty.
    fn rehash_step(&mut self) {
        if self.old_table.used_cell_count > 0 {
            let shrinks = self.old_table.cells.len() > self.table.cells.len();
            self.move_cells(if shrinks { CELLS_MOVED_WHEN_SHRINKING } else { CELLS_MOVED_WHEN_GROWING });
        } else if !self.old_table.cells.is_empty() {
            self.old_table = CellTable::default();
        }
    }

    /// Makes room for one more slot: starts a table of twice the size if this one is three quarters full.
    fn reserve_cell(&mut self) {
        let size = self.table.cells.len();
        if self.old_table.used_cell_count == 0 {
            self.old_table = CellTable::default();
        }
        if (self.table.used_cell_count + 1) * 4 > size * 3 {
            // The old table is empty by now: it had half as many cells, and each insertion moved eight of them.
            self.move_cells(usize::MAX);
            self.old_table = std::mem::replace(&mut self.table, CellTable::with_cells((size * 2).max(CELLS_MIN)));
            self.first_unmoved_cell = 0;
        }
        self.rehash_step();
    }

    fn move_cells(&mut self, cell_count_max: usize) {
        let end_cell = self.old_table.cells.len().min(self.first_unmoved_cell.saturating_add(cell_count_max));
        for at in self.first_unmoved_cell..end_cell {
            // A removal may shift a later word back into this cell, so words are moved from the cell until it stays
            // free.
            while self.old_table.cells[at] != 0 {
                let word = self.old_table.cells[at];
                self.old_table.free_cell(at);
                self.table.insert(word);
            }
        }
        self.first_unmoved_cell = end_cell;
    }
}

/// The word in a slot's cell: the slot's number plus one, so that it is never zero, above the upper 32 bits of its
/// hash.
fn cell_word(hash: u64, slot: u32) -> u64 {
    (u64::from(slot) + 1) << 32 | hash >> 32
}

impl CellTable {
    fn with_cells(size: usize) -> CellTable {
        CellTable { cells: vec![0; size], used_cell_count: 0 }
    }

    /// The cell where the search for a word begins: the lowest bits of its hash.
    fn home_cell(&self, word: u64) -> usize {
        word as u32 as usize & (self.cells.len() - 1)
    }

    fn next_cell(&self, at: usize) -> usize {
        (at + 1) & (self.cells.len() - 1)
    }

    fn find(&self, hash: u64, matches: &impl Fn(u32) -> bool) -> Option<u32> {
        if self.used_cell_count == 0 {
            return None;
        }
        let mut at = self.home_cell(hash >> 32);
        while self.cells[at] != 0 {
            let word = self.cells[at];
            let slot = (word >> 32) as u32 - 1;
            if word as u32 == (hash >> 32) as u32 && matches(slot) {
                return Some(slot);
            }
            at = self.next_cell(at);
        }
        None
    }

    fn guess(&self, hash: u64) -> Option<u32> {
        if self.used_cell_count == 0 {
            return None;
        }
        let mut at = self.home_cell(hash >> 32);
        for _ in 0..GUESS_CELLS_MAX {
            let word = self.cells[at];
            if word == 0 {
                return None;
            }
            if word as u32 == (hash >> 32) as u32 {
                return Some((word >> 32) as u32 - 1);
            }
            at = self.next_cell(at);
        }
        None
    }

    /// Appends the slots whose hashes have `bucket` as the lowest bits, as many bits as the mask has.
    fn collect_bucket(&self, bucket: u32, mask: u32, slots: &mut Vec<u32>) {
        if self.used_cell_count == 0 {
            return;
        }
        let mut at = self.home_cell(u64::from(bucket));
        while self.cells[at] != 0 {
            let word = self.cells[at];
            if word as u32 & mask == bucket {
                slots.push((word >> 32) as u32 - 1);
            }
            at = self.next_cell(at);
        }
    }

    fn insert(&mut self, word: u64) {
        let mut at = self.home_cell(word);
        while self.cells[at] != 0 {
            at = self.next_cell(at);
        }
        self.cells[at] = word;
        self.used_cell_count += 1;
    }

    fn remove(&mut self, word: u64) -> bool {
        if self.used_cell_count == 0 {
            return false;
        }
        let mut at = self.home_cell(word);
        while self.cells[at] != 0 {
            if self.cells[at] == word {
                self.free_cell(at);
                return true;
            }
            at = self.next_cell(at);
        }
        false
    }

    /// Frees a cell, and shifts back each later word that a search would no longer reach, since it ends at a free cell.
    fn free_cell(&mut self, mut free: usize) {
        self.used_cell_count -= 1;
        let mut at = self.next_cell(free);
        while self.cells[at] != 0 {
            let home = self.home_cell(self.cells[at]);
            // A word stays if its search begins after the free cell (the cells form a ring).
            let mask = self.cells.len() - 1;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(free) & mask) {
                self.cells[free] = self.cells[at];
                free = at;
            }
            at = self.next_cell(at);
        }
        self.cells[free] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn rehash_completes_without_insertions_or_removals() {
        let hash = |slot: u32| u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut index = HashIndex::default();
        // One slot more than three quarters of 16,384 cells makes the table grow.
        let three_quarters_of_cells = 12 * 1024;
        (0..=three_quarters_of_cells).for_each(|slot| index.insert(hash(slot), slot));
        assert!(index.old_table.used_cell_count > 10_000, "the table has just grown");
        assert!(
            (0..=three_quarters_of_cells).all(|slot| index.guess(hash(slot)).is_some()),
            "guesses include entries still to be moved"
        );
        (0..three_quarters_of_cells / CELLS_MOVED_WHEN_GROWING as u32 * 2).for_each(|_| index.continue_rehash());
        assert_eq!(index.old_table.used_cell_count, 0);
        assert!((0..=three_quarters_of_cells).all(|slot| index.find(hash(slot), |found| found == slot) == Some(slot)));
    }

    /// The slots that a walk finds, and the number of buckets.
    fn walk(index: &HashIndex) -> (Vec<u32>, usize) {
        let (mut slots, mut buckets, mut at) = (Vec::new(), 0, Some(0));
        while let Some(position) = at {
            at = index.collect_bucket(position, &mut slots);
            buckets += 1;
        }
        slots.sort_unstable();
        (slots, buckets)
    }

    #[test]
    fn emptied_index_shrinks_and_is_walked_in_few_buckets() {
        let hash = |slot: u32| u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut index = HashIndex::default();
        (0..50_000).for_each(|slot| index.insert(hash(slot), slot));
        for slot in 0..49_900 {
            index.remove(hash(slot), slot);
            if slot % 997 == 0 {
                let (slots, buckets) = walk(&index);
                assert!(slots.iter().copied().eq(slot + 1..50_000));
                assert!(buckets <= slots.len() * 16 + 64, "{buckets} buckets for {} slots", slots.len());
            }
        }
        assert!(index.table.cells.len() <= 2048 && index.old_table.cells.len() <= 2048);
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
            let (mut index, mut map) = (HashIndex::default(), BTreeMap::new());
            for (add, slot) in steps {
                if add && map.insert(slot, ()).is_none() {
                    index.insert(hash(slot), slot);
                } else if !add && map.remove(&slot).is_some() {
                    index.remove(hash(slot), slot);
                } else {
                    index.continue_rehash();
                }
                prop_assert_eq!(index.table.used_cell_count + index.old_table.used_cell_count, map.len());
            }
            prop_assert!(walk(&index).0.into_iter().eq(map.keys().copied()));
            for slot in 0..300 {
                let found = index.find(hash(slot), |found| found == slot);
                prop_assert_eq!(found, map.contains_key(&slot).then_some(slot));
                prop_assert!(map.contains_key(&slot) || index.guess(hash(slot)).is_none_or(|found| found != slot));
            }
        }
    }
}
