//! Rebuilds the log, votes and configurations of one journal from its records, in the order written, and collects the
//! violations: records that no healthy node writes.

use super::configs;
use super::log::{Log, StoredEntry};
use super::violation::{Rule, Violations};
use crate::codec::{self, Reader};
use crate::types::{HardState, Index, Membership, NodeId, Payload, Position, SnapshotPoint, Term, Vote};
use crate::wal::format::{self, EntryMetadata, Frame, Opening, RecordKind};
use std::collections::BTreeMap;

/// A record with this index or a higher one is rejected as malformed, since no log is that long.
const INDEX_MAX: u64 = 1 << 60;

/// A cluster configuration in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoggedConfiguration {
    /// The index of the entry that holds the configuration.
    pub index: Index,
    /// The voters and other members as of that entry.
    pub membership: Membership,
}

/// The log, votes and configurations of a journal, rebuilt from its records.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The directory's name in messages.
    directory_name: String,
    /// The node that the journal belongs to, if that is known.
    node: Option<NodeId>,
    /// The entries, without their payloads.
    pub log: Log,
    /// The position up to which the log was released. Those entries are in a snapshot, so they were committed.
    pub base: Position,
    /// The node's last term and vote; `None` before the first record that holds them.
    pub hard_state: Option<HardState>,
    /// The node's votes, by term.
    pub votes: BTreeMap<Term, Vote>,
    /// The configurations in force where the log begins and those in the log, oldest first.
    pub configurations: Vec<LoggedConfiguration>,
    /// Entries that were overwritten by entries of a later leader.
    pub overwritten_entries: Vec<(Index, StoredEntry)>,
    /// The violations of [`Rule`]s that the replayed records show.
    pub violations: Violations,
    /// A line of text for each record whose checksum is right and whose content is invalid.
    pub malformed_records: Vec<String>,
    /// Whether entries may be missing before the next record, since records there are damaged.
    may_follow_gap: bool,
}

impl Replay {
    /// An empty replay of the directory with that name.
    pub fn new(directory_name: &str) -> Replay {
        Replay {
            directory_name: directory_name.to_owned(),
            node: None,
            log: Log::starting_after(Position::ZERO),
            base: Position::ZERO,
            hard_state: None,
            votes: BTreeMap::new(),
            configurations: Vec::new(),
            overwritten_entries: Vec::new(),
            violations: Violations::default(),
            malformed_records: Vec::new(),
            may_follow_gap: false,
        }
    }

    /// Sets the node that the journal belongs to, from a segment header.
    pub fn set_node(&mut self, node: NodeId) {
        self.node = Some(node);
    }

    /// Notes that a record is damaged or a segment is missing: the index of the next entry need not follow the last
    /// one.
    pub fn expect_gap(&mut self) {
        self.may_follow_gap = true;
    }

    /// Replays the next record of a segment. Collects a violation, or a malformed record, and continues.
    pub fn replay_record(&mut self, segment: u64, frame: &Frame) {
        let outcome = match frame.kind {
            RecordKind::Entry => self.replay_entry(segment, frame),
            RecordKind::HardState => format::decode_hard_state(&frame.body)
                .map(|hard| self.replay_hard_state(hard))
                .map_err(|malformed| malformed.0),
            RecordKind::Open => Opening::decode(&frame.body)
                .map_err(|malformed| malformed.0)
                .and_then(|opening| self.replay_opening(opening)),
            RecordKind::Base => format::decode_base(&frame.body)
                .map_err(|malformed| malformed.0)
                .and_then(|base| self.restart_log(base)),
            RecordKind::Release => format::decode_base(&frame.body).map_err(|malformed| malformed.0).and_then(|base| {
                check_index(base.position.index)?;
                self.base = base.position;
                Ok(())
            }),
            RecordKind::Batch | RecordKind::Seal => Ok(()),
        };
        if let Err(reason) = outcome {
            self.malformed_records.push(format!("{}: byte {}: {reason}", format::file_name(segment), frame.offset));
        }
    }

    /// Replays a segment's opening record, which states the log that the segment continues. The log restarts from that
    /// record in the first segment, after damage, and if its last index differs from the log so far; otherwise the log
    /// is unchanged.
    fn replay_opening(&mut self, opening: Opening) -> Result<(), &'static str> {
        check_index(opening.last_position.index)?;
        check_index(opening.base.position.index)?;
        let is_first_opening = self.hard_state.is_none() && self.log.is_empty();
        if is_first_opening || self.may_follow_gap || opening.last_position.index != self.log.last() {
            self.may_follow_gap = false;
            self.log = Log::starting_after(opening.last_position);
            self.configurations.clear();
            let base = &opening.base;
            self.add_configuration(base.configured, &base.membership, false);
            if opening.configuration.0 > base.configured {
                // The configurations between the base and the current one are no longer in the log.
                self.add_configuration(opening.configuration.0, &opening.configuration.1, false);
            }
        }
        self.base = opening.base.position;
        self.replay_hard_state(opening.hard_state);
        Ok(())
    }

    /// Restarts the log after `base`, where the node installed a snapshot.
    fn restart_log(&mut self, base: SnapshotPoint) -> Result<(), &'static str> {
        check_index(base.position.index)?;
        self.may_follow_gap = false;
        self.log = Log::starting_after(base.position);
        self.base = base.position;
        self.configurations.clear();
        self.add_configuration(base.configured, &base.membership, false);
        Ok(())
    }

    fn replay_hard_state(&mut self, hard: HardState) {
        if let Some(before) = self.hard_state.replace(hard)
            && hard.term < before.term
        {
            let description = format!("the node went from term {} back to term {}", before.term, hard.term);
            self.violations.add(Rule::Terms, &[&self.directory_name], description);
        }
        let Some(vote) = hard.vote else { return };
        if let Some(other) = self.votes.insert(hard.term, vote)
            && other != vote
        {
            let description = format!("it voted for {} and for {} in term {}", other.node, vote.node, hard.term);
            self.violations.add(Rule::ElectionSafety, &[&self.directory_name], description);
        }
    }

    fn replay_entry(&mut self, segment: u64, frame: &Frame) -> Result<(), &'static str> {
        let EntryMetadata { position, time, is_membership } =
            EntryMetadata::decode(&frame.body).map_err(|malformed| malformed.0)?;
        let (index, term) = (position.index, position.term);
        check_index(index)?;
        if index == Index::ZERO {
            return Err("an entry at index 0");
        }
        // Reads the whole entry, so that its own checksum is verified too.
        let entry = codec::read_entry(&mut Reader::new(frame.body.clone())).map_err(|malformed| malformed.0)?;
        self.check_position(position);
        let to_u32 = |number: u64| u32::try_from(number).map_err(|_| "beyond what a segment can hold");
        let stored_entry = StoredEntry {
            term,
            time,
            checksum: entry.checksum,
            segment_number: to_u32(segment)?,
            offset: to_u32(frame.offset)?,
        };
        let removed_entries = self.log.write(index, stored_entry);
        self.configurations.retain(|configured| configured.index < index || configured.index <= self.base.index);
        self.overwritten_entries.extend(removed_entries);
        self.check_terms_and_times(position, &stored_entry);
        if let (true, Payload::Membership(membership)) = (is_membership, &entry.payload) {
            self.add_configuration(index, membership, true);
        }
        Ok(())
    }

    /// Checks that a correct node writes an entry at that position after the records so far.
    fn check_position(&mut self, position: Position) {
        let Position { index, term } = position;
        let name = self.directory_name.clone();
        let seen_term = self.hard_state.map(|hard| hard.term);
        if let Some(seen_term) = seen_term.filter(|seen_term| *seen_term < term) {
            let description = format!("{position} was written while the node knew of no term above {seen_term}");
            self.violations.add(Rule::Terms, &[&name], description);
        }
        let last = self.log.last();
        if index > last.next() && !self.may_follow_gap {
            let description = format!("{position} follows {last}: what is between them was never written");
            self.violations.add(Rule::LogMatching, &[&name], description);
        }
        self.may_follow_gap = false;
        if index <= last && self.log.last_term().is_some() && self.log.last_term() == seen_term {
            let seen_term = seen_term.unwrap_or_default();
            let leader_text = match self.hard_state.and_then(|hard| hard.vote) {
                Some(vote) if Some(vote.node) == self.node => ", which it voted for itself in",
                _ => "",
            };
            let old_position = self.log.position(index).unwrap_or(Position::new(index, Term::ZERO));
            let description = format!("{old_position} gave way to {position} within term {seen_term}{leader_text}");
            self.violations.add(Rule::LeaderAppendOnly, &[&name], description);
        }
    }

    /// Checks that the term and the time of an entry are not lower than those of the entry before.
    fn check_terms_and_times(&mut self, position: Position, stored: &StoredEntry) {
        let previous_index = position.index.prev();
        if self.log.position_before().index < previous_index || self.log.position_before().term > Term::ZERO {
            let term = self.log.term(previous_index);
            if let Some(term) = term.filter(|term| *term > stored.term) {
                let description = format!("{position} follows {previous_index}@{term}");
                self.violations.add(Rule::Terms, &[&self.directory_name], description);
            }
        }
        if let Some(previous) = self.log.get(previous_index)
            && previous.time > stored.time
        {
            let description =
                format!("{position} is of {:?}, and the entry before it of {:?}", stored.time, previous.time);
            self.violations.add(Rule::Time, &[&self.directory_name], description);
        }
    }

    /// Adds the configuration in force from `index` on. If `check_transition` is set, checks that the configuration is
    /// a valid successor of the previous one.
    fn add_configuration(&mut self, index: Index, membership: &Membership, check_transition: bool) {
        // A node that joined starts with an empty membership, and learns the members from the log.
        let has_no_members_yet = index == Index::ZERO && membership.members.is_empty();
        let previous =
            self.configurations.last().filter(|last| check_transition && !last.membership.members.is_empty());
        let invalid_transition =
            previous.and_then(|previous| configs::invalid_transition(&previous.membership, membership));
        for explanation in
            [configs::invalid_configuration(membership).filter(|_| !has_no_members_yet), invalid_transition]
                .into_iter()
                .flatten()
        {
            self.violations.add(Rule::Configurations, &[&self.directory_name], format!("at {index}: {explanation}"));
        }
        self.configurations.push(LoggedConfiguration { index, membership: membership.clone() });
    }
}

fn check_index(index: Index) -> Result<(), &'static str> {
    if index.0 < INDEX_MAX { Ok(()) } else { Err("no log is that long") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ClusterTime;
    use bytes::Bytes;

    fn frame(kind: RecordKind, body: Vec<u8>) -> Frame {
        Frame { offset: 64, checksum: 0, previous_checksum: 0, batch_number_low: 1, kind, body: Bytes::from(body) }
    }

    fn entry_frame(index: u64, term: u64) -> Frame {
        let entry = codec::entry(Position::new(Index(index), Term(term)), ClusterTime(1), Payload::Noop);
        let mut body = Vec::new();
        codec::put_entry(&mut body, &entry);
        frame(RecordKind::Entry, body)
    }

    #[test]
    fn gap_without_damage_violates_log_matching() {
        let mut replay = Replay::new("d");
        [entry_frame(1, 1), entry_frame(2, 1)].iter().for_each(|frame| replay.replay_record(1, frame));
        assert_eq!(replay.violations.count(), 0);
        replay.replay_record(1, &entry_frame(5, 1));
        assert_eq!(replay.violations.listed[0].rule, Rule::LogMatching);
        // Where records are damaged, any number of entries may be missing.
        replay.expect_gap();
        replay.replay_record(1, &entry_frame(9, 1));
        assert_eq!((replay.violations.count(), replay.log.last()), (1, Index(9)));
    }

    #[test]
    fn malformed_records_are_reported_and_skipped() {
        let mut replay = Replay::new("d");
        for record in [
            entry_frame(0, 1),
            entry_frame(u64::MAX, 1),
            frame(RecordKind::HardState, vec![0; 5]),
            frame(RecordKind::Open, vec![0; 9]),
        ] {
            replay.replay_record(1, &record);
        }
        assert_eq!((replay.malformed_records.len(), replay.log.is_empty()), (4, true));
        replay.replay_record(1, &entry_frame(1, 1));
        assert_eq!(replay.log.last(), Index(1));
    }
}
