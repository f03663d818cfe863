//! The readable part of the log: the newest segment's entries in memory, older segments mapped.
//!
//! A read touches memory only: no lock, no file, no waiting. An entry from a mapping is checked against its checksum
//! before it is returned.
//!
//! # Why it exists
//!
//! The log thread owns the files, and consensus keeps only terms and sizes. Payloads are needed in two more places: a
//! leader sends entries to followers, and the applier executes committed ones. Both happen on the reactor, which must
//! never wait for a disk. So the reactor has its own picture of the log:
//!
//! ```text
//!   released          mapped segments                         memory
//!      │   ┌───────────────┬───────────────┬───────────────┬─────────────────────────┐
//!      ▼   │ segment 3     │ segment 4     │ segment 5     ┊                         │
//!   ───────┴───────────────┴───────────────┴───────────────┴─────────────────────────┘
//!                                          │◀── fading ───▶│  only in memory
//!                                        first
//! ```
//!
//! The view is *ahead* of the disk: an entry is pushed when it is handed to the log thread, before it is durable. That
//! is safe, because a leader may send entries before its own sync (thesis §10.2.1), and commit counts only durable
//! copies.
//!
//! The view and the journal meet when a sealed segment arrives, possibly long after its entries were replaced. So the
//! segment is compared with memory first ([`View::seal`]), and memory wins: it is what consensus last wrote.

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
    // Oldest first. A deque, since segments come at the back and are released at the front.
    mapped: VecDeque<Mapped>,
    // The index of the first entry in memory, or of the next one if memory is empty.
    first: Index,
    memory: VecDeque<Entry>,
    fading: usize,
}

/// A mapped segment, and the range of its entries that still belongs to the log.
///
/// The segment's own range never changes. The live range shrinks from behind, when a later write replaces entries. The
/// file keeps the replaced ones, since a sealed segment is never written to.
#[derive(Clone, Debug)]
struct Mapped {
    sealed: Sealed,
    // Computed once: each frame that is read needs it for its checksum.
    salted: u32,
    live: (Index, Index),
}

impl View {
    /// An empty view: everything up to `released` was removed.
    pub fn new(released: Index) -> View {
        View { released, mapped: VecDeque::new(), first: released.next(), memory: VecDeque::new(), fading: 0 }
    }

    /// A view of the mapped segments only.
    ///
    /// A copy for another thread: mappings are shared by reference count, while entries in memory would have to be
    /// cloned.
    pub fn mapped(&self) -> View {
        let first = self.mapped.back().map_or(self.first, |mapped| mapped.live.1.next());
        View { mapped: self.mapped.clone(), first, ..View::new(self.released) }
    }

    /// Adds a write that the journal is about to write.
    ///
    /// Called in the order in which writes are sent to the journal. A different order would let a truncation of one
    /// write remove entries of a later one.
    pub fn push(&mut self, write: &Write) {
        if let Some(base) = &write.base {
            // The old log is dropped even where the snapshot's index lies within it: if terms had matched there,
            // consensus would have kept the log and sent no base (§7).
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
    ///
    /// An entry at an index that is already there replaces it and everything after it, as in the journal (§5.3). A
    /// follower has no separate message for a truncation, so neither has the view.
    pub fn push_entry(&mut self, entry: Entry) {
        let index = entry.position.index;
        // Nothing of these segments is left. Their mappings go, and with the last reader their files may be recycled.
        while self.mapped.back().is_some_and(|mapped| mapped.live.0 >= index) {
            self.mapped.pop_back();
        }
        if let Some(mapped) = self.mapped.back_mut() {
            mapped.live.1 = mapped.live.1.min(index.prev());
        }
        // A truncation that reaches into a mapped segment leaves nothing in memory that could stay. An empty memory
        // begins wherever the next entry is.
        if index < self.first || self.memory.is_empty() {
            self.memory.clear();
            self.first = index;
        }
        self.memory.truncate((index.0 - self.first.0) as usize);
        self.fading = self.fading.min(self.memory.len());
        // Before the new entry is added, so that memory never holds more than it must.
        self.fade(FADE * codec::entry_size(&entry));
        self.memory.push_back(entry);
    }

    /// Removes about `bytes` bytes of entries from memory that are mapped as well.
    ///
    /// It pays per byte added, so that a node that writes quickly also frees quickly, and an idle one does no work. At
    /// least one entry goes if any may, or entries larger than the new one would never fade.
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
    ///
    /// The segment is read here for the first time since it was written. A disk that lost or misdirected the write is
    /// found out while the entries are still in memory, before anything depends on the file.
    pub fn seal(&mut self, sealed: Sealed) -> Result<()> {
        let Some(mapped) = Mapped::new(sealed)? else { return Ok(()) };
        // `None`: all of it was replaced meanwhile, and memory has the new entries. The file is still needed for
        // recovery, but not for reading.
        let Some(agreed) = self.last_common_index(&mapped)? else { return Ok(()) };
        // A release may have overtaken the seal on its way from the log thread.
        let live = (mapped.live.0.max(self.released.next()), agreed);
        if live.0 <= live.1 {
            self.fading = (agreed.0 + 1).saturating_sub(self.first.0).min(self.memory.len() as u64) as usize;
            self.push_mapped(mapped, live);
        }
        self.check();
        Ok(())
    }

    /// Removes everything: the log restarts, and no entry here belongs to it any more.
    ///
    /// `released` and `first` are left alone: the caller knows where the log begins anew, or pushes the next entry.
    pub fn restart(&mut self) {
        self.mapped.clear();
        self.memory.clear();
        self.fading = 0;
    }

    /// Adds a segment found at startup; `live` is the range of its entries that belongs to the log.
    ///
    /// Recovery has compared all segments with each other, so there is no memory to compare with, and the log is not
    /// read twice.
    pub fn add_recovered(&mut self, sealed: Sealed, live: (Index, Index)) -> Result<()> {
        if let Some(mapped) = Mapped::new(sealed)?
            && live.0 <= live.1
        {
            self.push_mapped(mapped, live);
            self.first = live.1.next();
        }
        Ok(())
    }

    /// The newer segment has the last word about its indexes. Older ranges give way, so that each index is read from
    /// exactly one segment and a binary search finds it.
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
    ///
    /// A plain comparison of the last entries is the usual case and costs one read. The search is for the rare segment
    /// that was sealed while a new leader replaced its end: without it, a late seal would bring back truncated entries.
    fn last_common_index(&self, mapped: &Mapped) -> Result<Option<Index>> {
        // Below `first`, memory has nothing to compare with: those entries have faded or were released.
        let from = mapped.live.0.max(self.first);
        // Above memory's end, the log was truncated since: what the segment has there was replaced.
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
        // Everything below `low` is the same, and the entry at `high` differs.
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
    ///
    /// A mapping that is released partly stays whole: its file stays too. Entries in memory go one by one, because they
    /// are many and each holds its payload.
    pub fn release(&mut self, upto: Index) {
        // Releases never go back: a later one with a lower index would show entries whose file may be gone.
        self.released = self.released.max(upto);
        while self.mapped.front().is_some_and(|mapped| mapped.live.1 <= upto) {
            self.mapped.pop_front();
        }
        while self.first <= upto && self.memory.pop_front().is_some() {
            self.first = self.first.next();
            self.fading = self.fading.saturating_sub(1);
        }
        // An empty view begins after what was released, so that `held` does not name an index that no reader can get.
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
    ///
    /// At least one entry, whatever its size: otherwise an entry larger than the limit would be sent to no follower,
    /// ever. An answer that is short is no error, since the caller asks again from where it ends; a *wrong* entry would
    /// be, so a mapped one is checked against its checksum before it is used.
    pub fn entries(&self, range: RangeInclusive<Index>, bytes_max: u64) -> Result<Vec<Entry>> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        let mut take = |entry: Entry| {
            bytes += codec::entry_size(&entry) as u64;
            // Counted with headers, as the entry is sent: the limit is one of a message's size.
            let fits = taken.is_empty() || bytes <= bytes_max;
            if fits {
                taken.push(entry);
            }
            fits
        };
        let (mut next, to) = (*range.start(), *range.end());
        // A released entry may still be in a mapping. To return it would let a leader send what the log no longer
        // contains.
        if next <= self.released {
            return Ok(Vec::new());
        }
        // Live ranges ascend, so the first one that may hold the index is found by a binary search.
        let from = self.mapped.partition_point(|mapped| mapped.live.1 < next);
        for mapped in self.mapped.iter().skip(from) {
            // An entry that is in memory as well is cheaper to read there: nothing to check, nothing to decode.
            if next > to || next >= self.first || next < mapped.live.0 {
                break;
            }
            // From `first` on, memory has the entry as well.
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
    ///
    /// A front segment that was released partly counts from the first index after `released`: older entries are
    /// readable in the file, but a reader must not see them, as the journal may remove the file at any time.
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
        // For example a segment with a vote and nothing else, or one whose entries a snapshot replaced.
        if live.0 > live.1 || sealed.marks.is_empty() {
            return Ok(None);
        }
        // The header is read from the file and not passed on from the journal, so that a write to the wrong file is
        // noticed: the salt of another segment fits none of these frames.
        match SegmentHeader::decode(&sealed.bytes) {
            Ok(header) => Ok(Some(Mapped { salted: salted(header.salt()), sealed, live })),
            Err(malformed) => {
                let unread = Mapped { salted: 0, sealed, live };
                Err(unread.damage(0, Flaw::Wrong(malformed.0), live.0))
            }
        }
    }

    /// Visits the entries of a range in order until the visitor returns `false`. Returns whether it never did.
    ///
    /// It begins at the last mark at or before `from` and walks frames from there. The frame's header is checked at
    /// once; the body's checksum is checked by `codec::read_entry`, which every entry passes wherever it comes from.
    fn read(&self, from: Index, to: Index, visit: &mut dyn FnMut(Entry) -> bool) -> Result<bool> {
        let marks = &self.sealed.marks;
        // The last mark at or before `from`.
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
            // Votes, releases and batch headers lie between entries.
            if frame.kind != RecordKind::Entry {
                continue;
            }
            if index >= from {
                let entry = codec::read_entry(&mut Reader::new(frame.body))
                    .map_err(|malformed| self.damage(here, Flaw::Wrong(malformed.0), index))?;
                // An intact frame with another index means that marks and file disagree. An entry under a wrong index
                // would be applied by this node alone, so it is damage, never a shift.
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
