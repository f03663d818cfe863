//! Replays one journal, record by record in the order written, and notes each violation: a record that no healthy node
//! writes.

use super::configs;
use super::log::{Log, StoredEntry};
use super::violation::{Rule, Violations};
use crate::codec::{self, Reader};
use crate::types::{HardState, Index, Membership, NodeId, Payload, Position, SnapshotPoint, Term, Vote};
use crate::wal::format::{self, EntryHead, Frame, Opening, RecordKind};
use std::collections::BTreeMap;

/// No log is that long: a record with an index from here on is rejected.
const INDEX_MAX: u64 = 1 << 60;

/// A configuration in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoggedConfiguration {
    /// The index of its entry.
    pub index: Index,
    /// The configuration itself.
    pub membership: Membership,
}

/// The state that a journal's records add up to.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The directory's name.
    place: String,
    /// The node that the journal belongs to, if that is known.
    node: Option<NodeId>,
    /// The entries, without their payloads.
    pub log: Log,
    /// The log up to here is in a snapshot, so it was committed.
    pub base: Position,
    /// Term and vote, once a record holds them.
    pub hard: Option<HardState>,
    /// The node's votes, by term.
    pub votes: BTreeMap<Term, Vote>,
    /// The configurations in force where the log begins and those in the log, oldest first.
    pub configurations: Vec<LoggedConfiguration>,
    /// Entries that were overwritten by others.
    pub overwritten: Vec<(Index, StoredEntry)>,
    /// The violations so far.
    pub violations: Violations,
    /// Records that are intact but invalid.
    pub odd: Vec<String>,
    /// Whether a record before the next one is damaged, so that entries may be missing.
    broken: bool,
}

impl Replay {
    /// An empty replay of the directory named `place`.
    pub fn new(place: &str) -> Replay {
        Replay {
            place: place.to_owned(),
            node: None,
            log: Log::behind(Position::ZERO),
            base: Position::ZERO,
            hard: None,
            votes: BTreeMap::new(),
            configurations: Vec::new(),
            overwritten: Vec::new(),
            violations: Violations::default(),
            odd: Vec::new(),
            broken: false,
        }
    }

    /// Sets the node that the journal belongs to.
    pub fn belongs_to(&mut self, node: NodeId) {
        self.node = Some(node);
    }

    /// Notes that a record is damaged or a segment missing: the next entry need not follow the last one.
    pub fn breaks(&mut self) {
        self.broken = true;
    }

    /// Replays the next record of a segment.
    pub fn take(&mut self, segment: u64, frame: &Frame) {
        let sense = match frame.kind {
            RecordKind::Entry => self.entry(segment, frame),
            RecordKind::Hard => format::read_hard(&frame.body).map(|hard| self.hard(hard)).map_err(|odd| odd.0),
            RecordKind::Open => Opening::read(&frame.body).map_err(|odd| odd.0).and_then(|opening| self.open(opening)),
            RecordKind::Base => format::read_base(&frame.body).map_err(|odd| odd.0).and_then(|base| self.restart(base)),
            RecordKind::Release => format::read_base(&frame.body).map_err(|odd| odd.0).and_then(|base| {
                believed(base.position.index)?;
                self.base = base.position;
                Ok(())
            }),
            RecordKind::Batch | RecordKind::Seal => Ok(()),
        };
        if let Err(what) = sense {
            self.odd.push(format!("{}: byte {}: {what}", format::file_name(segment), frame.at));
        }
    }

    /// Replays a segment's opening record, which states the log that the segment continues. The log restarts from it at
    /// the first segment, after damage, and where it does not match the log so far; otherwise the log goes on.
    fn open(&mut self, opening: Opening) -> Result<(), &'static str> {
        believed(opening.last.index)?;
        believed(opening.base.position.index)?;
        let fresh = self.hard.is_none() && self.log.is_empty();
        if fresh || self.broken || opening.last.index != self.log.last() {
            self.broken = false;
            self.log = Log::behind(opening.last);
            self.configurations.clear();
            let base = &opening.base;
            self.configure(base.configured, &base.membership, false);
            if opening.current.0 > base.configured {
                // Configurations between the two are no longer in the log.
                self.configure(opening.current.0, &opening.current.1, false);
            }
        }
        self.base = opening.base.position;
        self.hard(opening.hard);
        Ok(())
    }

    /// The log restarts after a snapshot, or begins for the first time.
    fn restart(&mut self, base: SnapshotPoint) -> Result<(), &'static str> {
        believed(base.position.index)?;
        self.broken = false;
        self.log = Log::behind(base.position);
        self.base = base.position;
        self.configurations.clear();
        self.configure(base.configured, &base.membership, false);
        Ok(())
    }

    fn hard(&mut self, hard: HardState) {
        if let Some(before) = self.hard.replace(hard)
            && hard.term < before.term
        {
            let what = format!("the node went from term {} back to term {}", before.term, hard.term);
            self.violations.add(Rule::Terms, &[&self.place], what);
        }
        let Some(vote) = hard.vote else { return };
        if let Some(other) = self.votes.insert(hard.term, vote)
            && other != vote
        {
            let what = format!("it voted for {} and for {} in term {}", other.node, vote.node, hard.term);
            self.violations.add(Rule::ElectionSafety, &[&self.place], what);
        }
    }

    fn entry(&mut self, segment: u64, frame: &Frame) -> Result<(), &'static str> {
        let EntryHead { position, time, membership } = EntryHead::read(&frame.body).map_err(|odd| odd.0)?;
        let (index, term) = (position.index, position.term);
        believed(index)?;
        if index == Index::ZERO {
            return Err("an entry at index 0");
        }
        // Reads the whole entry, so that its own checksum is verified too.
        let entry = codec::read_entry(&mut Reader::new(frame.body.clone())).map_err(|odd| odd.0)?;
        self.judge_place(position);
        let place = |what: u64| u32::try_from(what).map_err(|_| "beyond what a segment can hold");
        let head = StoredEntry { term, time, checksum: entry.checksum, segment: place(segment)?, at: place(frame.at)? };
        let gone = self.log.put(index, head);
        self.configurations.retain(|configured| configured.index < index || configured.index <= self.base.index);
        self.overwritten.extend(gone);
        self.judge_order(position, &head);
        if let (true, Payload::Membership(membership)) = (membership, &entry.payload) {
            self.configure(index, membership, true);
        }
        Ok(())
    }

    /// Checks that the entry may be written now, at its index.
    fn judge_place(&mut self, position: Position) {
        let Position { index, term } = position;
        let place = self.place.clone();
        let seen = self.hard.map(|hard| hard.term);
        if let Some(seen) = seen.filter(|seen| *seen < term) {
            let what = format!("{position} was written while the node knew of no term above {seen}");
            self.violations.add(Rule::Terms, &[&place], what);
        }
        let last = self.log.last();
        if index > last.next() && !self.broken {
            let what = format!("{position} follows {last}: what is between them was never written");
            self.violations.add(Rule::LogMatching, &[&place], what);
        }
        self.broken = false;
        if index <= last && self.log.last_term().is_some() && self.log.last_term() == seen {
            let seen = seen.unwrap_or_default();
            let leader = match self.hard.and_then(|hard| hard.vote) {
                Some(vote) if Some(vote.node) == self.node => ", which it voted for itself in",
                _ => "",
            };
            let old = self.log.position(index).unwrap_or(Position::new(index, Term::ZERO));
            let what = format!("{old} gave way to {position} within term {seen}{leader}");
            self.violations.add(Rule::LeaderAppendOnly, &[&place], what);
        }
    }

    /// Checks that terms and times never fall along the log.
    fn judge_order(&mut self, position: Position, head: &StoredEntry) {
        let before = position.index.prev();
        if self.log.before().index < before || self.log.before().term > Term::ZERO {
            let term = self.log.term(before);
            if let Some(term) = term.filter(|term| *term > head.term) {
                let what = format!("{position} follows {before}@{term}");
                self.violations.add(Rule::Terms, &[&self.place], what);
            }
        }
        if let Some(before) = self.log.get(before)
            && before.time > head.time
        {
            let what = format!("{position} is of {:?}, and the entry before it of {:?}", head.time, before.time);
            self.violations.add(Rule::Time, &[&self.place], what);
        }
    }

    /// Adds the configuration in force from `index` on. With `follows` it must be a valid successor of the one before.
    fn configure(&mut self, index: Index, membership: &Membership, follows: bool) {
        // A node that joined starts with an empty membership, and learns the members from the log.
        let nobody = index == Index::ZERO && membership.members.is_empty();
        let before = self.configurations.last().filter(|before| follows && !before.membership.members.is_empty());
        let invalid_transition = before.and_then(|before| configs::invalid_transition(&before.membership, membership));
        for what in
            [configs::invalid_configuration(membership).filter(|_| !nobody), invalid_transition].into_iter().flatten()
        {
            self.violations.add(Rule::Configurations, &[&self.place], format!("at {index}: {what}"));
        }
        self.configurations.push(LoggedConfiguration { index, membership: membership.clone() });
    }
}

fn believed(index: Index) -> Result<(), &'static str> {
    if index.0 < INDEX_MAX { Ok(()) } else { Err("no log is that long") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ClusterTime;
    use bytes::Bytes;

    fn frame(kind: RecordKind, body: Vec<u8>) -> Frame {
        Frame { at: 64, checksum: 0, previous: 0, batch: 1, kind, body: Bytes::from(body) }
    }

    fn entry(index: u64, term: u64) -> Frame {
        let entry = codec::entry(Position::new(Index(index), Term(term)), ClusterTime(1), Payload::Noop);
        let mut body = Vec::new();
        codec::put_entry(&mut body, &entry);
        frame(RecordKind::Entry, body)
    }

    #[test]
    fn gap_without_damage_violates_log_matching() {
        let mut replay = Replay::new("d");
        [entry(1, 1), entry(2, 1)].iter().for_each(|frame| replay.take(1, frame));
        assert_eq!(replay.violations.count(), 0);
        replay.take(1, &entry(5, 1));
        assert_eq!(replay.violations.kept[0].rule, Rule::LogMatching);
        // Where records are damaged, any entries may be missing.
        replay.breaks();
        replay.take(1, &entry(9, 1));
        assert_eq!((replay.violations.count(), replay.log.last()), (1, Index(9)));
    }

    #[test]
    fn malformed_records_are_reported_and_skipped() {
        let mut replay = Replay::new("d");
        for odd in
            [entry(0, 1), entry(u64::MAX, 1), frame(RecordKind::Hard, vec![0; 5]), frame(RecordKind::Open, vec![0; 9])]
        {
            replay.take(1, &odd);
        }
        assert_eq!((replay.odd.len(), replay.log.is_empty()), (4, true));
        replay.take(1, &entry(1, 1));
        assert_eq!(replay.log.last(), Index(1));
    }
}
