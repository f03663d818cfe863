//! The readable part of the log: the newest segment's entries in memory, older segments mapped.
//!
//! A read accesses memory only: it takes no lock, makes no system call and never waits. An entry from a mapping is
//! checked against its checksum before it is returned.
//!
//! # Why the view exists
//!
//! The log thread owns the files, and consensus keeps only terms and sizes. Two other parts need payloads: a leader
//! sends entries to followers, and the applier executes committed ones. Both run on the reactor, which must never wait
//! for a disk. So the reactor has its own view of the log:
//!
//! ```text
//! released_upto       mapped segments                         memory
//!      │   ┌───────────────┬───────────────┬───────────────┬─────────────────────────┐
//!      ▼   │ segment 3     │ segment 4     │ segment 5     ┊                         │
//!   ───────┴───────────────┴───────────────┴───────────────┴─────────────────────────┘
//!                                          │◀─ evictable ─▶│  only in memory
//!                                   first_index_in_memory
//! ```
//!
//! The view is *ahead* of the disk: an entry is pushed when it is sent to the log thread, before it is durable. That is
//! safe, because a leader may send entries before its own sync (thesis §10.2.1), and commit counts only durable
//! copies.
//!
//! The log thread sends each sealed segment to the reactor, possibly long after its entries were replaced. So the
//! segment is compared with memory first ([`View::add_sealed`]), and memory has priority: it holds what consensus last
//! wrote.

use super::format::{Flaw, Frame, RecordKind, SegmentHeader, file_name, salt_crc};
use super::report::{Fault, Result, SealedSegment};
use crate::codec::{self, Reader};
use crate::types::{Entry, Index, Write};
use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// The capacity of the memory, in entries, that is kept even if fewer entries are in memory.
const MEMORY_CAPACITY_MIN: usize = 1 << 12;
/// For each byte that is added to memory, this many bytes of evictable entries are removed from memory. With 2, all
/// entries of a segment are removed before the next segment is full.
const EVICTION_RATIO: usize = 2;

/// The readable log.
///
/// Invariants: the entries in memory are consecutive; the live ranges of the mapped segments ascend and, with the
/// entries in memory after them, leave no gap above `released_upto`. The first `evictable_count` entries in memory are
/// mapped as well, and can be removed from memory.
///
/// The entries of a sealed segment are removed from memory a few at a time, as new entries are added: to drop all of
/// them at once would delay other work. So memory holds little more than the entries of two segments: of the one that
/// is being written, and of the one whose entries are removed.
#[derive(Clone, Debug, Default)]
pub struct View {
    released_upto: Index,
    // Oldest first.
    mapped_segments: VecDeque<MappedSegment>,
    // The index of the first entry in memory, or of the next one if memory is empty.
    first_index_in_memory: Index,
    memory: VecDeque<Entry>,
    evictable_count: usize,
    // The number of the newest sealed segment, with or without live entries; 0 before the first.
    sealed_upto: u64,
}

/// A mapped segment, and the range of its entries that still belongs to the log.
///
/// The live range shrinks at its end when a later write replaces entries. The file keeps the replaced entries, since a
/// sealed segment is never written to.
#[derive(Clone, Debug)]
pub(super) struct MappedSegment {
    sealed: SealedSegment,
    // Computed once: the checksum of each frame needs it.
    salt_crc: u32,
    live_range: (Index, Index),
}

impl View {
    /// An empty view of a log whose entries up to `released_upto` were released.
    pub fn new(released_upto: Index) -> View {
        View {
            released_upto,
            mapped_segments: VecDeque::new(),
            first_index_in_memory: released_upto.next(),
            memory: VecDeque::new(),
            evictable_count: 0,
            sealed_upto: 0,
        }
    }

    /// A copy with the mapped segments only, for another thread.
    ///
    /// Mappings are shared by reference count, while the entries in memory would have to be cloned.
    pub fn without_memory(&self) -> View {
        let first_index_in_memory =
            self.mapped_segments.back().map_or(self.first_index_in_memory, |mapped| mapped.live_range.1.next());
        View { mapped_segments: self.mapped_segments.clone(), first_index_in_memory, ..View::new(self.released_upto) }
    }

    /// Adds a write that is being sent to the journal.
    ///
    /// Must be called in the order in which writes are sent. Otherwise the truncation of one write could remove entries
    /// of a later one.
    pub fn push(&mut self, write: &Write) {
        if let Some(base) = &write.base {
            // The old log is dropped even if it contains the snapshot's index: if the terms had matched there,
            // consensus would have kept the log and sent no base (§7).
            self.restart();
            self.released_upto = base.position.index;
            self.first_index_in_memory = self.released_upto.next();
        }
        for entry in &write.entries {
            self.push_entry(entry.clone());
        }
        self.check_invariants();
        self.check_gaps();
    }

    /// Adds one entry and removes all entries at its index and after it, as the journal does (§5.3).
    pub fn push_entry(&mut self, entry: Entry) {
        let index = entry.position.index;
        // All entries of these segments were replaced. Their mappings are dropped, and without readers their files may
        // be recycled.
        while self.mapped_segments.back().is_some_and(|mapped| mapped.live_range.0 >= index) {
            self.mapped_segments.pop_back();
        }
        if let Some(mapped) = self.mapped_segments.back_mut() {
            mapped.live_range.1 = mapped.live_range.1.min(index.prev());
        }
        // A truncation that reaches into a mapped segment removes all entries in memory. An empty memory begins at the
        // next entry.
        if index < self.first_index_in_memory || self.memory.is_empty() {
            self.memory.clear();
            self.first_index_in_memory = index;
        }
        self.memory.truncate((index.0 - self.first_index_in_memory.0) as usize);
        self.evictable_count = self.evictable_count.min(self.memory.len());
        // Entries are evicted before the new entry is added, to keep memory small.
        self.evict(EVICTION_RATIO * codec::entry_size(&entry));
        self.memory.push_back(entry);
    }

    /// Removes about `bytes` bytes of evictable entries from memory: entries that are mapped as well.
    ///
    /// The caller removes bytes in proportion to those it adds, so that memory is freed as fast as the node writes. At
    /// least one entry is removed, if any is evictable: otherwise entries larger than the new ones would stay.
    fn evict(&mut self, bytes: usize) {
        let mut evicted_bytes = 0;
        while self.evictable_count > 0
            && evicted_bytes < bytes
            && let Some(entry) = self.memory.pop_front()
        {
            evicted_bytes += codec::entry_size(&entry);
            self.evictable_count -= 1;
            self.first_index_in_memory = self.first_index_in_memory.next();
        }
    }

    /// Adds a sealed segment, whose entries then need not stay in memory. Returns an error if the segment cannot be
    /// read back: its entries stay in memory then, and the next start would reject the log.
    ///
    /// The segment is read here for the first time since it was written. A lost or misdirected write is detected while
    /// the entries are still in memory.
    pub fn add_sealed(&mut self, sealed: SealedSegment) -> Result<()> {
        self.sealed_upto = self.sealed_upto.max(sealed.segment);
        let Some(mapped) = MappedSegment::new(sealed)? else { return Ok(()) };
        // `None`: all entries of the segment were replaced meanwhile, and memory has the new ones. Recovery still needs
        // the file, but readers do not.
        let Some(last_common) = self.last_common_index(&mapped)? else { return Ok(()) };
        // Some entries may have been released before the sealed segment arrived.
        let live_range = (mapped.live_range.0.max(self.released_upto.next()), last_common);
        if live_range.0 <= live_range.1 {
            self.evictable_count =
                (last_common.0 + 1).saturating_sub(self.first_index_in_memory.0).min(self.memory.len() as u64) as usize;
            self.push_mapped(mapped, live_range);
        }
        self.check_invariants();
        Ok(())
    }

    /// Removes everything: the log restarts, and no earlier entry belongs to the log any more.
    ///
    /// The caller then sets `released_upto` and `first_index_in_memory`, or pushes the next entry.
    pub fn restart(&mut self) {
        self.mapped_segments.clear();
        self.memory.clear();
        self.evictable_count = 0;
    }

    /// Adds a sealed segment that recovery has read; `live_range` is the range of its entries that belongs to the log.
    ///
    /// Unlike [`View::add_sealed`], this function compares nothing with memory: recovery has already compared all
    /// segments with each other.
    pub fn add_recovered(&mut self, sealed: SealedSegment, live_range: (Index, Index)) -> Result<()> {
        self.sealed_upto = self.sealed_upto.max(sealed.segment);
        if let Some(mapped) = MappedSegment::new(sealed)?
            && live_range.0 <= live_range.1
        {
            self.push_mapped(mapped, live_range);
            self.first_index_in_memory = live_range.1.next();
        }
        Ok(())
    }

    /// Adds a mapped segment and shortens older live ranges, so that each index is in exactly one live range and a
    /// binary search finds it.
    fn push_mapped(&mut self, mut mapped: MappedSegment, live_range: (Index, Index)) {
        mapped.live_range = live_range;
        while self.mapped_segments.back().is_some_and(|older| older.live_range.0 >= live_range.0) {
            self.mapped_segments.pop_back();
        }
        if let Some(older) = self.mapped_segments.back_mut() {
            older.live_range.1 = older.live_range.1.min(live_range.0.prev());
        }
        self.mapped_segments.push_back(mapped);
    }

    /// The last index up to which the segment and memory hold the same entries; `None` if all of them differ. A new
    /// leader may have replaced entries while the journal sealed the segment: those of the segment must not come back.
    ///
    /// Two logs that agree at a position agree before it (§5.3), so a binary search finds the index. Usually the last
    /// entries are the same, which costs one read.
    fn last_common_index(&self, mapped: &MappedSegment) -> Result<Option<Index>> {
        // Memory has no entry below `first_index_in_memory` to compare with.
        let from = mapped.live_range.0.max(self.first_index_in_memory);
        // The segment's entries after the last entry in memory were truncated.
        let to = Index(
            mapped.live_range.1.0.min((self.first_index_in_memory.0 + self.memory.len() as u64).saturating_sub(1)),
        );
        let is_same_entry = |index: Index| {
            let mut found_position = None;
            mapped.visit_entries(index, index, &mut |entry| {
                found_position = Some(entry.position);
                false
            })?;
            Ok(found_position.is_some() && self.memory_entry(index).map(|entry| entry.position) == found_position)
        };
        if from > to {
            return Ok(None);
        }
        if is_same_entry(to)? {
            return Ok(Some(to));
        }
        // All entries below index `low` are the same in the sealed segment and in memory; those at index `high` differ.
        let (mut low, mut high) = (from.0, to.0);
        while low < high {
            let middle = low + (high - low) / 2;
            if is_same_entry(Index(middle))? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok((low > from.0).then(|| Index(low - 1)))
    }

    fn memory_entry(&self, index: Index) -> Option<&Entry> {
        self.memory.get(usize::try_from(index.0.checked_sub(self.first_index_in_memory.0)?).ok()?)
    }

    /// Releases the log up to and including `upto`.
    ///
    /// A segment that is released partly stays mapped. Entries in memory are removed up to `upto`.
    pub fn release(&mut self, upto: Index) {
        // `released_upto` never goes back: the files of released entries may be gone.
        self.released_upto = self.released_upto.max(upto);
        while self.mapped_segments.front().is_some_and(|mapped| mapped.live_range.1 <= upto) {
            self.mapped_segments.pop_front();
        }
        while self.first_index_in_memory <= upto && self.memory.pop_front().is_some() {
            self.first_index_in_memory = self.first_index_in_memory.next();
            self.evictable_count = self.evictable_count.saturating_sub(1);
        }
        // An empty view begins after the released entries.
        if self.memory.is_empty() && self.mapped_segments.is_empty() {
            self.first_index_in_memory = self.first_index_in_memory.max(self.released_upto.next());
        }
        // A segment can hold a million small entries. The memory for released entries is freed.
        if self.memory.capacity() > MEMORY_CAPACITY_MIN.max(4 * self.memory.len()) {
            self.memory.shrink_to(2 * self.memory.len());
        }
        self.check_invariants();
    }

    /// Panics if an invariant is violated: a read would return an entry that does not belong to the log, or none where
    /// there is one.
    fn check_invariants(&self) {
        assert!(
            self.evictable_count <= self.memory.len(),
            "the count of evictable entries is at most the count of entries in memory"
        );
        if let Some(newest) = self.mapped_segments.back() {
            assert!(
                newest.live_range.0 <= newest.live_range.1,
                "each mapped segment has an entry that still belongs to the log"
            );
            if let Some(before) = self.mapped_segments.len().checked_sub(2).and_then(|at| self.mapped_segments.get(at))
            {
                assert!(
                    before.live_range.1 < newest.live_range.0,
                    "the live ranges of mapped segments ascend and do not overlap"
                );
            }
        }
    }

    /// Panics if the view has a gap. Not a part of [`View::check_invariants`], because entries that were read from a
    /// disk may have gaps.
    fn check_gaps(&self) {
        let first_and_last = (self.memory.front(), self.memory.back());
        if let (Some(front), Some(back)) = first_and_last {
            let last_index = self.first_index_in_memory.0 + self.memory.len() as u64 - 1;
            debug_assert!(
                front.position.index == self.first_index_in_memory,
                "the first entry in memory has the index `first_index_in_memory`"
            );
            debug_assert!(back.position.index.0 == last_index, "the entries in memory are consecutive");
        }
        debug_assert!(
            self.mapped_segments.back().is_none_or(|newest| self.first_index_in_memory <= newest.live_range.1.next()),
            "no index is missing between the mapped entries and the entries in memory"
        );
    }

    /// Returns the entries of a range, up to `bytes_max` bytes and at least one entry. Returns fewer if the log ends
    /// earlier, and none if the first of them is not in the view.
    ///
    /// The first entry is returned whatever its size: otherwise an entry larger than the limit would never be sent to a
    /// follower. The caller requests the rest again after a short result.
    pub fn entries(&self, range: RangeInclusive<Index>, bytes_max: u64) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut add_if_fits = |entry: Entry| {
            bytes += codec::entry_size(&entry) as u64;
            // The headers of the entries count too: the limit is the size of a message.
            let fits = entries.is_empty() || bytes <= bytes_max;
            if fits {
                entries.push(entry);
            }
            fits
        };
        let (mut next, to) = (*range.start(), *range.end());
        // A released entry may still be in a mapping, but no longer belongs to the log.
        if next <= self.released_upto {
            return Ok(Vec::new());
        }
        // Live ranges ascend, so the first one that may hold the index is found by a binary search.
        let from = self.mapped_segments.partition_point(|mapped| mapped.live_range.1 < next);
        for mapped in self.mapped_segments.iter().skip(from) {
            // An entry that is in memory as well is cheaper to read there: it needs no check and no decoding.
            if next > to || next >= self.first_index_in_memory || next < mapped.live_range.0 {
                break;
            }
            // From `first_index_in_memory` on, entries are read from memory.
            let end = to.min(mapped.live_range.1).min(self.first_index_in_memory.prev());
            if !mapped.visit_entries(next, end, &mut add_if_fits)? {
                return Ok(entries);
            }
            next = end.next();
        }
        while next <= to {
            match self.memory_entry(next) {
                Some(entry) if add_if_fits(entry.clone()) => next = next.next(),
                _ => break,
            }
        }
        Ok(entries)
    }

    /// The range of readable entries; `None` if there are none.
    ///
    /// A segment that was released partly counts from the first index after `released_upto`.
    pub fn readable_range(&self) -> Option<RangeInclusive<Index>> {
        let first = self
            .mapped_segments
            .front()
            .map_or(self.first_index_in_memory, |mapped| mapped.live_range.0)
            .max(self.released_upto.next());
        let last = match self.memory.len() {
            0 => self.mapped_segments.back()?.live_range.1,
            n => Index(self.first_index_in_memory.0 + n as u64 - 1),
        };
        (first <= last).then_some(first..=last)
    }

    /// The number of the newest sealed segment that this view was given; 0 if there was none. That segment and all earlier
    /// ones never change again.
    pub fn sealed_upto(&self) -> u64 {
        self.sealed_upto
    }

    /// The last index that a release must cover so that the journal discards the sealed segment with this number, and all
    /// segments before it.
    ///
    /// A segment without live entries counts like the live entries before it: the journal discards the oldest segments
    /// first, and never one in the middle.
    pub fn last_index_through(&self, segment: u64) -> Index {
        let mapped_count = self.mapped_segments.partition_point(|mapped| mapped.sealed.segment <= segment);
        let last_live_index = mapped_count.checked_sub(1).map(|last| self.mapped_segments[last].live_range.1);
        last_live_index.unwrap_or(Index::ZERO).max(self.released_upto)
    }

    /// The number of entries in memory.
    pub fn entries_in_memory(&self) -> usize {
        self.memory.len()
    }
}

impl MappedSegment {
    /// Decodes the segment's header. Returns `None` if the segment holds no entry.
    fn new(sealed: SealedSegment) -> Result<Option<MappedSegment>> {
        let live_range = (*sealed.index_range.start(), *sealed.index_range.end());
        // A segment may hold no entry that belongs to the log: only a vote, or only entries that a snapshot replaced.
        if live_range.0 > live_range.1 || sealed.sparse_index.is_empty() {
            return Ok(None);
        }
        // The header is read from the file, so that a write to the wrong file is detected: no frame matches the salt of
        // another segment.
        match SegmentHeader::decode(&sealed.bytes) {
            Ok(header) => Ok(Some(MappedSegment { salt_crc: salt_crc(header.salt()), sealed, live_range })),
            Err(malformed) => {
                let segment_without_salt = MappedSegment { salt_crc: 0, sealed, live_range };
                Err(segment_without_salt.damage_fault(0, Flaw::Invalid(malformed.0), live_range.0))
            }
        }
    }

    /// A segment whose header may be damaged, and whose salt is known otherwise. It holds at least one entry.
    pub(super) fn with_salt(sealed: SealedSegment, salt: u64) -> MappedSegment {
        let live_range = (*sealed.index_range.start(), *sealed.index_range.end());
        MappedSegment { salt_crc: salt_crc(salt), sealed, live_range }
    }

    /// Visits the entries of a range in order until the visitor returns `false`. Returns `true` if it never did.
    ///
    /// The read begins at the last indexed entry at or before `from`. Each frame's header is checked here, and the
    /// body's checksum by `codec::read_entry`.
    pub(super) fn visit_entries(&self, from: Index, to: Index, visit: &mut dyn FnMut(Entry) -> bool) -> Result<bool> {
        let sparse_index = &self.sealed.sparse_index;
        // The place in `sparse_index` of the last indexed entry at or before `from`.
        let mut sparse_position = sparse_index.partition_point(|(index, _)| *index <= from).saturating_sub(1);
        let (mut index, mut at) = sparse_index[sparse_position];
        while index <= to {
            if let Some((_, offset)) = sparse_index.get(sparse_position + 1).filter(|(next, _)| *next == index) {
                // The frames between the last entry and this indexed entry were replaced.
                at = *offset;
                sparse_position += 1;
            }
            let frame = Frame::read_without_body_check(&self.sealed.bytes, self.salt_crc, at)
                .map_err(|flaw| self.damage_fault(at, flaw, index))?;
            let frame_offset = at;
            at = frame.end();
            // Votes, releases and batch headers are between entries.
            if frame.kind != RecordKind::Entry {
                continue;
            }
            if index >= from {
                let entry = codec::read_entry(&mut Reader::new(frame.body))
                    .map_err(|malformed| self.damage_fault(frame_offset, Flaw::Invalid(malformed.0), index))?;
                // An intact frame with another index than expected is damage. Otherwise this node alone would apply the
                // entry at a wrong index.
                if entry.position.index != index {
                    return Err(self.damage_fault(
                        frame_offset,
                        Flaw::Invalid("an entry with another index than expected"),
                        index,
                    ));
                }
                if !visit(entry) {
                    return Ok(false);
                }
            }
            index = index.next();
        }
        Ok(true)
    }

    fn damage_fault(&self, offset: u64, flaw: Flaw, index: Index) -> Fault {
        Fault::Corrupt {
            file: file_name(self.sealed.segment),
            offset,
            description: flaw.to_string(),
            lost: format!("{index} to {}", self.live_range.1),
            advice: super::report::DAMAGE_ADVICE,
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
        assert_eq!(view.entries_in_memory(), 10);
        assert!(view.memory.capacity() <= MEMORY_CAPACITY_MIN, "{}", view.memory.capacity());
    }
}
