//! The readable part of the log: the newest segment's entries in memory, older segments mapped.
//!
//! A read touches memory only: no lock, no file, no waiting. An entry from a mapping is checked against its checksum
//! before it is returned.

use super::format::{Flaw, Frame, RecordKind, SegmentHeader, file_name, salted};
use super::report::{Fault, Result, Sealed};
use crate::codec::{self, Reader};
use crate::types::{Entry, Index, Write};
use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// Capacity for this many entries is always kept.
const FEW_ENTRIES: usize = 1 << 12;
/// For each byte added to memory, this many bytes of entries that are mapped as well are removed: enough to remove all
/// of a segment's entries before the next segment is full.
const FADE: usize = 2;

/// The readable log.
///
/// Invariants: the entries in memory are consecutive; the live ranges of the mapped segments ascend and, with the
/// entries in memory after them, leave no gap above `released`. The first `fading` entries in memory are mapped as
/// well.
///
/// The entries of a sealed segment are removed from memory a few at a time, as new entries are added: dropping all of
/// them at once would be a pause. So memory holds little more than two segments' entries: the segment being written,
/// and the one that fades.
#[derive(Clone, Debug, Default)]
pub struct View {
    released: Index,
    mapped: VecDeque<Mapped>,
    first: Index,
    memory: VecDeque<Entry>,
    fading: usize,
}

/// A mapped segment, and the range of its entries that still belongs to the log.
#[derive(Clone, Debug)]
struct Mapped {
    sealed: Sealed,
    salted: u32,
    live: (Index, Index),
}

impl View {
    /// An empty view: everything up to `released` was removed.
    pub fn new(released: Index) -> View {
        View { released, mapped: VecDeque::new(), first: released.next(), memory: VecDeque::new(), fading: 0 }
    }

    /// A view of the mapped segments only.
    pub fn mapped(&self) -> View {
        let first = self.mapped.back().map_or(self.first, |mapped| mapped.live.1.next());
        View { mapped: self.mapped.clone(), first, ..View::new(self.released) }
    }

    /// Adds a write that the journal is about to write.
    pub fn push(&mut self, write: &Write) {
        if let Some(base) = &write.base {
            self.restart();
            self.released = base.position.index;
            self.first = self.released.next();
        }
        for entry in &write.entries {
            self.push_entry(entry.clone());
        }
        self.check();
        self.check_gaps();
    }

    /// Adds one entry and removes all entries at its index and after it.
    pub fn push_entry(&mut self, entry: Entry) {
        let index = entry.position.index;
        while self.mapped.back().is_some_and(|mapped| mapped.live.0 >= index) {
            self.mapped.pop_back();
        }
        if let Some(mapped) = self.mapped.back_mut() {
            mapped.live.1 = mapped.live.1.min(index.prev());
        }
        if index < self.first || self.memory.is_empty() {
            self.memory.clear();
            self.first = index;
        }
        self.memory.truncate((index.0 - self.first.0) as usize);
        self.fading = self.fading.min(self.memory.len());
        self.fade(FADE * codec::entry_size(&entry));
        self.memory.push_back(entry);
    }

    /// Removes about `bytes` bytes of entries from memory that are mapped as well.
    fn fade(&mut self, bytes: usize) {
        let mut gone = 0;
        while self.fading > 0
            && gone < bytes
            && let Some(entry) = self.memory.pop_front()
        {
            gone += codec::entry_size(&entry);
            self.fading -= 1;
            self.first = self.first.next();
        }
    }

    /// Adds a sealed segment, whose entries then need not be in memory any more. Returns an error if the segment cannot
    /// be read back: its entries stay in memory then, and the next start would reject the log.
    pub fn seal(&mut self, sealed: Sealed) -> Result<()> {
        let Some(mapped) = Mapped::new(sealed)? else { return Ok(()) };
        let Some(agreed) = self.last_common_index(&mapped)? else { return Ok(()) };
        let live = (mapped.live.0.max(self.released.next()), agreed);
        if live.0 <= live.1 {
            self.fading = (agreed.0 + 1).saturating_sub(self.first.0).min(self.memory.len() as u64) as usize;
            self.push_mapped(mapped, live);
        }
        self.check();
        Ok(())
    }

    /// Removes everything: the log restarts, and no entry here belongs to it any more.
    pub fn restart(&mut self) {
        self.mapped.clear();
        self.memory.clear();
        self.fading = 0;
    }

    /// Adds a segment found at startup; `live` is the range of its entries that belongs to the log.
    pub fn add_recovered(&mut self, sealed: Sealed, live: (Index, Index)) -> Result<()> {
        if let Some(mapped) = Mapped::new(sealed)?
            && live.0 <= live.1
        {
            self.push_mapped(mapped, live);
            self.first = live.1.next();
        }
        Ok(())
    }

    fn push_mapped(&mut self, mut mapped: Mapped, live: (Index, Index)) {
        mapped.live = live;
        while self.mapped.back().is_some_and(|older| older.live.0 >= live.0) {
            self.mapped.pop_back();
        }
        if let Some(older) = self.mapped.back_mut() {
            older.live.1 = older.live.1.min(live.0.prev());
        }
        self.mapped.push_back(mapped);
    }

    /// The last index up to which the segment and memory hold the same entries. Memory may have changed while the
    /// journal wrote: an entry that was replaced meanwhile does not belong to the log. Two logs that agree at a
    /// position agree before it (§5.3), so this is a binary search.
    fn last_common_index(&self, mapped: &Mapped) -> Result<Option<Index>> {
        let from = mapped.live.0.max(self.first);
        let to = Index(mapped.live.1.0.min((self.first.0 + self.memory.len() as u64).saturating_sub(1)));
        let same = |index: Index| {
            let mut found = None;
            mapped.read(index, index, &mut |entry| {
                found = Some(entry.position);
                false
            })?;
            Ok(found.is_some() && self.in_memory(index).map(|entry| entry.position) == found)
        };
        if from > to {
            return Ok(None);
        }
        if same(to)? {
            return Ok(Some(to));
        }
        let (mut low, mut high) = (from.0, to.0);
        while low < high {
            let middle = low + (high - low) / 2;
            if same(Index(middle))? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok((low > from.0).then(|| Index(low - 1)))
    }

    fn in_memory(&self, index: Index) -> Option<&Entry> {
        self.memory.get(usize::try_from(index.0.checked_sub(self.first.0)?).ok()?)
    }

    /// Releases the log up to and including `upto`.
    pub fn release(&mut self, upto: Index) {
        self.released = self.released.max(upto);
        while self.mapped.front().is_some_and(|mapped| mapped.live.1 <= upto) {
            self.mapped.pop_front();
        }
        while self.first <= upto && self.memory.pop_front().is_some() {
            self.first = self.first.next();
            self.fading = self.fading.saturating_sub(1);
        }
        if self.memory.is_empty() && self.mapped.is_empty() {
            self.first = self.first.max(self.released.next());
        }
        // A segment can hold a million small entries: without this, their capacity would be kept for a few.
        if self.memory.capacity() > FEW_ENTRIES.max(4 * self.memory.len()) {
            self.memory.shrink_to(2 * self.memory.len());
        }
        self.check();
    }

    /// Panics if an invariant is violated: a read would return an entry that does not belong to the log, or none where
    /// there is one.
    fn check(&self) {
        assert!(self.fading <= self.memory.len(), "only entries in memory fade");
        if let Some(newest) = self.mapped.back() {
            assert!(newest.live.0 <= newest.live.1, "a mapped segment without a live entry is dropped");
            if let Some(before) = self.mapped.len().checked_sub(2).and_then(|at| self.mapped.get(at)) {
                assert!(before.live.1 < newest.live.0, "each index is read from the newest segment that holds it");
            }
        }
    }

    /// Like [`View::check`], for laws of logs that this process has written: [`View::push_entry`] is also called for
    /// entries that were read from a disk.
    fn check_gaps(&self) {
        let ends = (self.memory.front(), self.memory.back());
        if let (Some(front), Some(back)) = ends {
            let last = self.first.0 + self.memory.len() as u64 - 1;
            debug_assert!(front.position.index == self.first, "the first entry in memory is at the first index");
            debug_assert!(back.position.index.0 == last, "the entries in memory are consecutive");
        }
        debug_assert!(
            self.mapped.back().is_none_or(|newest| self.first <= newest.live.1.next()),
            "no entry is missing between the mapped ones and those in memory"
        );
    }

    /// Returns the entries of a range, up to `bytes_max` bytes and at least one entry. Returns fewer where the log
    /// ends, and none if the first of them is not held.
    pub fn entries(&self, range: RangeInclusive<Index>, bytes_max: u64) -> Result<Vec<Entry>> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        let mut take = |entry: Entry| {
            bytes += codec::entry_size(&entry) as u64;
            let fits = taken.is_empty() || bytes <= bytes_max;
            if fits {
                taken.push(entry);
            }
            fits
        };
        let (mut next, to) = (*range.start(), *range.end());
        if next <= self.released {
            return Ok(Vec::new());
        }
        let from = self.mapped.partition_point(|mapped| mapped.live.1 < next);
        for mapped in self.mapped.iter().skip(from) {
            // An entry that is in memory as well is cheaper to read there: nothing to check, nothing to decode.
            if next > to || next >= self.first || next < mapped.live.0 {
                break;
            }
            let end = to.min(mapped.live.1).min(self.first.prev());
            if !mapped.read(next, end, &mut take)? {
                return Ok(taken);
            }
            next = end.next();
        }
        while next <= to {
            match self.in_memory(next) {
                Some(entry) if take(entry.clone()) => next = next.next(),
                _ => break,
            }
        }
        Ok(taken)
    }

    /// The range of readable entries; `None` if there are none.
    pub fn held(&self) -> Option<RangeInclusive<Index>> {
        let first = self.mapped.front().map_or(self.first, |mapped| mapped.live.0).max(self.released.next());
        let last = match self.memory.len() {
            0 => self.mapped.back()?.live.1,
            n => Index(self.first.0 + n as u64 - 1),
        };
        (first <= last).then_some(first..=last)
    }

    /// How many entries are in memory.
    pub fn in_memory_len(&self) -> usize {
        self.memory.len()
    }
}

impl Mapped {
    /// Returns `None` if the segment holds no entry.
    fn new(sealed: Sealed) -> Result<Option<Mapped>> {
        let live = (*sealed.entries.start(), *sealed.entries.end());
        if live.0 > live.1 || sealed.marks.is_empty() {
            return Ok(None);
        }
        match SegmentHeader::decode(&sealed.bytes) {
            Ok(header) => Ok(Some(Mapped { salted: salted(header.salt()), sealed, live })),
            Err(malformed) => {
                let unread = Mapped { salted: 0, sealed, live };
                Err(unread.damage(0, Flaw::Wrong(malformed.0), live.0))
            }
        }
    }

    /// Visits the entries of a range in order until the visitor returns `false`. Returns whether it never did.
    fn read(&self, from: Index, to: Index, visit: &mut dyn FnMut(Entry) -> bool) -> Result<bool> {
        let marks = &self.sealed.marks;
        let mut mark = marks.partition_point(|(index, _)| *index <= from).saturating_sub(1);
        let (mut index, mut at) = marks[mark];
        while index <= to {
            if let Some((_, offset)) = marks.get(mark + 1).filter(|(next, _)| *next == index) {
                // Any frames between the last entry and this mark were replaced.
                at = *offset;
                mark += 1;
            }
            let frame =
                Frame::peek(&self.sealed.bytes, self.salted, at).map_err(|flaw| self.damage(at, flaw, index))?;
            let here = at;
            at = frame.end();
            if frame.kind != RecordKind::Entry {
                continue;
            }
            if index >= from {
                let entry = codec::read_entry(&mut Reader::new(frame.body))
                    .map_err(|malformed| self.damage(here, Flaw::Wrong(malformed.0), index))?;
                if entry.position.index != index {
                    return Err(self.damage(here, Flaw::Wrong("an entry with another index than expected"), index));
                }
                if !visit(entry) {
                    return Ok(false);
                }
            }
            index = index.next();
        }
        Ok(true)
    }

    fn damage(&self, offset: u64, flaw: Flaw, index: Index) -> Fault {
        Fault::Corrupt {
            file: file_name(self.sealed.segment),
            offset,
            what: flaw.to_string(),
            lost: format!("{index} to {}", self.live.1),
            advice: super::report::ADVICE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClusterTime, Payload, Position, Term};

    #[test]
    fn release_frees_memory_of_entries() {
        let mut view = View::new(Index::ZERO);
        for index in 1..=100_000 {
            view.push_entry(codec::entry(Position::new(Index(index), Term(1)), ClusterTime(0), Payload::Noop));
        }
        assert!(view.memory.capacity() >= 100_000);
        view.release(Index(99_990));
        assert_eq!(view.in_memory_len(), 10);
        assert!(view.memory.capacity() <= FEW_ENTRIES, "{}", view.memory.capacity());
    }
}
