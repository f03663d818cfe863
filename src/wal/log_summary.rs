//! The summary of a log: no entries, only the state that a new segment inherits.
//!
//! The journal updates the summary on each append; recovery computes the same summary from the segments.
//!
//! Both use this type for one reason: a segment's opening record must equal the summary of all records before it. With
//! two implementations, a difference between them would make a good log look corrupt, or worse, hide a lost segment.

use super::format::{self, EntryMetadata, Frame, Opening, RecordKind, Seal};
use crate::codec::{self, Malformed, Reader};
use crate::types::{ClusterTime, HardState, Index, Membership, Payload, Position, SnapshotPoint};

/// The hard state and the state of a log after all frames that were applied to it, or written to it, so far.
///
/// All configurations after the base are kept, since a truncation may restore an earlier one (§6: a server uses the
/// latest configuration in its log, committed or not). The configuration in force at the base is part of the base.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSummary {
    /// The latest term, vote and promised position.
    pub hard_state: HardState,
    /// The position after which the log begins, and the configuration there.
    pub base: SnapshotPoint,
    /// The position of the last entry; of the base if the log is empty.
    // The position may go back: a truncation replaces entries at the end, and a snapshot may restart the log at a lower
    // index.
    pub last_position: Position,
    /// The latest cluster time of any entry so far.
    // The time never goes back, not even when that entry is truncated: otherwise expired keys would exist again.
    pub time: ClusterTime,
    /// The configurations after the base, by the index of their entry.
    pub configurations: Vec<(Index, Membership)>,
}

/// The change that a record made to the log.
///
/// [`LogSummary::apply`] returns it for recovery, which also keeps a summary of each entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordEffect {
    /// The record changed no entry, and at most the summary.
    SummaryOnly,
    /// The log began with this record, its first opening record. The position is that of the last entry before the
    /// record's segment.
    LogBegan(Position),
    /// The log restarted after this position, without entries.
    LogRestarted(Position),
    /// An entry was appended, and replaced all entries at its index and after it.
    EntryAppended(EntryMetadata),
}

impl LogSummary {
    /// Applies the next record of a journal; `log` is `None` before the first opening record. An error says how the
    /// record contradicts the log before it.
    ///
    /// The record is validated, and nothing is asserted: it is intact, but a faulty program may have written it.
    pub fn apply(log: &mut Option<LogSummary>, frame: &Frame) -> Result<RecordEffect, &'static str> {
        let to_text = |malformed: Malformed| malformed.0;
        let summary = log.as_mut().ok_or("a segment that does not begin with an opening record");
        match frame.kind {
            // The reader does not apply the header that begins a batch, so this header is inside of another batch.
            RecordKind::Batch => return Err("a batch within a batch"),
            RecordKind::Open => return LogSummary::apply_opening(log, Opening::decode(&frame.body).map_err(to_text)?),
            RecordKind::Entry => return summary?.append_entry(frame).map(RecordEffect::EntryAppended),
            RecordKind::Base => {
                let base = format::decode_base(&frame.body).map_err(to_text)?;
                let position = base.position;
                summary?.restart(base);
                return Ok(RecordEffect::LogRestarted(position));
            }
            RecordKind::Release => summary?.release(format::decode_base(&frame.body).map_err(to_text)?),
            RecordKind::HardState => summary?.hard_state = format::decode_hard_state(&frame.body).map_err(to_text)?,
            // A seal changes nothing, but must be valid: tools show its successor.
            RecordKind::Seal => _ = Seal::decode(&frame.body).map_err(to_text)?,
        }
        Ok(RecordEffect::SummaryOnly)
    }

    /// Creates the summary from the first opening record. Each later opening record must equal the summary so far.
    ///
    /// Without the comparison, a segment restored from an older backup would be accepted in the middle of a log,
    /// although entries before it are missing.
    fn apply_opening(log: &mut Option<LogSummary>, opening: Opening) -> Result<RecordEffect, &'static str> {
        let Some(log) = log else {
            // A configuration at or before the base is part of the base.
            let configurations = Some(opening.configuration).filter(|(index, _)| *index > opening.base.position.index);
            *log = Some(LogSummary {
                hard_state: opening.hard_state,
                base: opening.base,
                last_position: opening.last_position,
                time: opening.time,
                configurations: configurations.into_iter().collect(),
            });
            return Ok(RecordEffect::LogBegan(opening.last_position));
        };
        // The configuration is not compared: a truncation may have restored one whose entry is in a segment that was
        // released since. All configurations after the base are known.
        let matches_summary = (log.hard_state, log.last_position, log.time, &log.base)
            == (opening.hard_state, opening.last_position, opening.time, &opening.base);
        if matches_summary {
            Ok(RecordEffect::SummaryOnly)
        } else {
            Err("the opening record differs from the end of the segment before it")
        }
    }

    /// Records the entry that a frame holds, after a check of its index.
    fn append_entry(&mut self, frame: &Frame) -> Result<EntryMetadata, &'static str> {
        let metadata = EntryMetadata::decode(&frame.body).map_err(|malformed| malformed.0)?;
        let index = metadata.position.index;
        // The journal asserts the same rule for its own writes (§5.3, log matching). This record comes from a disk, so
        // it is rejected instead.
        if index == Index::ZERO || index > self.last_position.index.next() {
            return Err("an entry that does not follow the one before it");
        }
        // Only a membership is decoded: to decode every command would make a start as slow as applying the log.
        let membership = match metadata.is_membership {
            true => {
                let entry = codec::read_entry(&mut Reader::new(frame.body.clone())).map_err(|malformed| malformed.0)?;
                if let Payload::Membership(membership) = entry.payload { Some(membership) } else { None }
            }
            false => None,
        };
        self.append(metadata.position, metadata.time, membership.as_deref());
        Ok(metadata)
    }

    /// An empty log that begins at `base`.
    pub fn new(base: SnapshotPoint) -> LogSummary {
        let last_position = base.position;
        LogSummary {
            hard_state: HardState::default(),
            base,
            last_position,
            time: ClusterTime::default(),
            configurations: Vec::new(),
        }
    }

    /// The opening record of a segment that inherits this summary.
    ///
    /// The latest configuration is enough: only a truncation can restore an earlier one, whose entry is in an older
    /// segment or released.
    pub fn opening(&self) -> Opening {
        let configuration = self.configurations.last().cloned();
        Opening {
            hard_state: self.hard_state,
            last_position: self.last_position,
            time: self.time,
            base: self.base.clone(),
            configuration: configuration.unwrap_or_else(|| (self.base.configured, self.base.membership.clone())),
        }
    }

    /// Restarts the log at `base`.
    ///
    /// Term, vote and time are kept: a snapshot replaces only entries.
    pub fn restart(&mut self, base: SnapshotPoint) {
        self.last_position = base.position;
        self.configurations.clear();
        self.base = base;
    }

    /// Releases the log up to `base`; the entries after it stay.
    pub fn release(&mut self, base: SnapshotPoint) {
        self.configurations.retain(|(index, _)| *index > base.position.index);
        self.base = base;
    }

    /// The base after a release up to `position`.
    ///
    /// The base has the configuration *as of* that position, and not the current configuration: a later entry may still
    /// be truncated, and the base must not contain a membership that was never committed.
    pub fn base_at(&self, position: Position) -> SnapshotPoint {
        assert!(
            self.base.position.index <= position.index && position.index <= self.last_position.index,
            "a release moves the base forward, within the log"
        );
        let latest_configuration = self.configurations.iter().rev().find(|(index, _)| *index <= position.index);
        let (configured, membership) =
            latest_configuration.cloned().unwrap_or_else(|| (self.base.configured, self.base.membership.clone()));
        SnapshotPoint { position, configured, membership }
    }

    /// Records an appended entry, which replaces all entries at its index and after it.
    pub fn append(&mut self, position: Position, time: ClusterTime, membership: Option<&Membership>) {
        while self.configurations.last().is_some_and(|(index, _)| *index >= position.index) {
            self.configurations.pop();
        }
        if let Some(membership) = membership {
            self.configurations.push((position.index, membership.clone()));
        }
        assert!(
            self.configurations.last().is_none_or(|(index, _)| *index <= position.index),
            "no configuration of a truncated entry stays in force (§6)"
        );
        self.last_position = position;
        // The clock of a new leader may be behind the time of an entry that it replaces.
        self.time = self.time.max(time);
    }
}
