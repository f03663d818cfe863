//! The journal's summary of the log it has written: no entries, only the state that a new segment inherits.
//!
//! The journal updates it on each append; recovery builds the same summary from the segments.
//!
//! Writer and recovery share this type for one reason: a segment's opening record must equal the summary that recovery
//! has computed from the records before it. With two implementations, a difference between them would make a good log
//! look corrupt, or worse, hide a lost segment.

use super::format::{self, EntryHead, Frame, Opening, RecordKind, Seal};
use crate::codec::{self, Malformed, Reader};
use crate::types::{ClusterTime, HardState, Index, Membership, Payload, Position, SnapshotPoint};

/// Hard state and log state after the last frame.
///
/// Only configurations after the base are kept, since a truncation may restore an earlier one (§6: a server uses the
/// latest configuration in its log, committed or not). The one that holds at the base is part of the base.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSummary {
    /// Term and vote.
    pub hard: HardState,
    /// Where the log begins.
    pub base: SnapshotPoint,
    /// The last position in it.
    // It may go back: a truncation replaces entries at the end, and a snapshot may restart the log at a lower index.
    pub last: Position,
    /// The latest time of any entry.
    // It never goes back, also when its entry is truncated: a clock that went back would revive expired keys.
    pub time: ClusterTime,
    /// The configurations after the base, by the index of their entry.
    pub configurations: Vec<(Index, Membership)>,
}

/// What a record changed in the log.
///
/// The summary keeps no entries, and recovery needs one line for each. So `apply` returns what happened instead of a
/// second pass over the records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing that recovery keeps besides the summary.
    Summary,
    /// The summary began, with the first opening record: the last position before it.
    Began(Position),
    /// The log restarted after this position, without entries.
    Restarted(Position),
    /// An entry was appended in place of all entries at its index and after it.
    Appended(EntryHead),
}

impl LogSummary {
    /// Applies the next record of a journal; `log` is `None` before the first opening record. An error says how the
    /// record contradicts the log before it.
    ///
    /// Everything is validated here and nothing asserted: the record is intact, but a program with an error may have
    /// written it.
    pub fn apply(log: &mut Option<LogSummary>, frame: &Frame) -> Result<Effect, &'static str> {
        let text = |malformed: Malformed| malformed.0;
        let opened = log.as_mut().ok_or("a segment that does not begin with an opening record");
        match frame.kind {
            // The reader takes headers off first, so one that comes here was inside of a batch.
            RecordKind::Batch => return Err("a batch within a batch"),
            RecordKind::Open => return LogSummary::open(log, Opening::read(&frame.body).map_err(text)?),
            RecordKind::Entry => return opened?.entry(frame).map(Effect::Appended),
            RecordKind::Base => {
                let base = format::read_base(&frame.body).map_err(text)?;
                let position = base.position;
                opened?.restart(base);
                return Ok(Effect::Restarted(position));
            }
            RecordKind::Release => opened?.release(format::read_base(&frame.body).map_err(text)?),
            RecordKind::Hard => opened?.hard = format::read_hard(&frame.body).map_err(text)?,
            // It changes nothing, but must be readable: a tool shows its successor.
            RecordKind::Seal => _ = Seal::read(&frame.body).map_err(text)?,
        }
        Ok(Effect::Summary)
    }

    /// Begins with the first opening record; each other one must state the log that its segment continues.
    ///
    /// Without the comparison, a segment restored from an older backup would be accepted in the middle of a log,
    /// although entries between the two are missing.
    fn open(log: &mut Option<LogSummary>, opening: Opening) -> Result<Effect, &'static str> {
        let Some(log) = log else {
            // At or before the base, the base itself has this configuration.
            let configurations = Some(opening.current).filter(|(index, _)| *index > opening.base.position.index);
            *log = Some(LogSummary {
                hard: opening.hard,
                base: opening.base,
                last: opening.last,
                time: opening.time,
                configurations: configurations.into_iter().collect(),
            });
            return Ok(Effect::Began(opening.last));
        };
        // The configuration is not compared: a truncation may have restored one whose entry is in a segment released
        // since, which is not known here. All configurations after the base are known.
        let same =
            (log.hard, log.last, log.time, &log.base) == (opening.hard, opening.last, opening.time, &opening.base);
        if same { Ok(Effect::Summary) } else { Err("the opening record differs from the end of the segment before it") }
    }

    fn entry(&mut self, frame: &Frame) -> Result<EntryHead, &'static str> {
        let head = EntryHead::read(&frame.body).map_err(|malformed| malformed.0)?;
        let index = head.position.index;
        // The same rule that the journal asserts for its own writes (§5.3, log matching): here the record comes from a
        // disk and is refused.
        if index == Index::ZERO || index > self.last.index.next() {
            return Err("an entry that does not follow the one before it");
        }
        // Only a membership is decoded. The payload of a command is none of the journal's business, and to decode all
        // of them would make a start as slow as applying the log.
        let membership = match head.membership {
            true => {
                let entry = codec::read_entry(&mut Reader::new(frame.body.clone())).map_err(|malformed| malformed.0)?;
                if let Payload::Membership(membership) = entry.payload { Some(membership) } else { None }
            }
            false => None,
        };
        self.append(head.position, head.time, membership.as_deref());
        Ok(head)
    }

    /// An empty log that begins at `base`.
    pub fn new(base: SnapshotPoint) -> LogSummary {
        let last = base.position;
        LogSummary { hard: HardState::default(), base, last, time: ClusterTime::default(), configurations: Vec::new() }
    }

    /// The opening record of a segment that inherits this state.
    ///
    /// One configuration is enough: earlier ones can only be restored by a truncation, and their entries are in older
    /// segments or released.
    pub fn opening(&self) -> Opening {
        let current = self.configurations.last().cloned();
        Opening {
            hard: self.hard,
            last: self.last,
            time: self.time,
            base: self.base.clone(),
            current: current.unwrap_or_else(|| (self.base.configured, self.base.membership.clone())),
        }
    }

    /// Restarts the log at `base`.
    ///
    /// Term, vote and time stay: a snapshot replaces entries and takes back no promise.
    pub fn restart(&mut self, base: SnapshotPoint) {
        self.last = base.position;
        self.configurations.clear();
        self.base = base;
    }

    /// Releases the log up to `base`; the entries after it stay.
    ///
    /// Nothing of the log's end changes: a release is about room, not about contents.
    pub fn release(&mut self, base: SnapshotPoint) {
        self.configurations.retain(|(index, _)| *index > base.position.index);
        self.base = base;
    }

    /// The base after a release up to `position`.
    ///
    /// The configuration *as of* that position, and not the current one: a later entry may still be truncated, and the
    /// base must not remember a membership that was never committed.
    pub fn base_at(&self, position: Position) -> SnapshotPoint {
        assert!(
            self.base.position.index <= position.index && position.index <= self.last.index,
            "a release moves the base forward, within the log"
        );
        let held = self.configurations.iter().rev().find(|(index, _)| *index <= position.index);
        let (configured, membership) =
            held.cloned().unwrap_or_else(|| (self.base.configured, self.base.membership.clone()));
        SnapshotPoint { position, configured, membership }
    }

    /// Records an appended entry: all entries at its index and after it are gone.
    pub fn append(&mut self, position: Position, time: ClusterTime, membership: Option<&Membership>) {
        // From the back, where the removed ones are. There are few.
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
        self.last = position;
        // A new leader's clock may be behind that of an entry which it replaces.
        self.time = self.time.max(time);
    }
}
