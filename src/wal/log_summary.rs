//! The journal's summary of the log it has written: no entries, only the state that a new segment inherits.
//!
//! The journal updates it on each append; recovery builds the same summary from the segments.

use super::format::{self, EntryHead, Frame, Opening, RecordKind, Seal};
use crate::codec::{self, Malformed, Reader};
use crate::types::{ClusterTime, HardState, Index, Membership, Payload, Position, SnapshotPoint};

/// Hard state and log state after the last frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSummary {
    /// Term and vote.
    pub hard: HardState,
    /// Where the log begins.
    pub base: SnapshotPoint,
    /// The last position in it.
    pub last: Position,
    /// The latest time of any entry.
    pub time: ClusterTime,
    /// The configurations after the base, by the index of their entry.
    pub configurations: Vec<(Index, Membership)>,
}

/// What a record changed in the log.
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
    /// Applies the next record of a journal; `log` is `None` before the first opening record. An error says how the record
    /// contradicts the log before it.
    pub fn apply(log: &mut Option<LogSummary>, frame: &Frame) -> Result<Effect, &'static str> {
        let text = |malformed: Malformed| malformed.0;
        let opened = log.as_mut().ok_or("a segment that does not begin with an opening record");
        match frame.kind {
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
            RecordKind::Seal => _ = Seal::read(&frame.body).map_err(text)?,
        }
        Ok(Effect::Summary)
    }

    /// Begins with the first opening record; each other one must state the log that its segment continues.
    fn open(log: &mut Option<LogSummary>, opening: Opening) -> Result<Effect, &'static str> {
        let Some(log) = log else {
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
        if index == Index::ZERO || index > self.last.index.next() {
            return Err("an entry that does not follow the one before it");
        }
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
    pub fn restart(&mut self, base: SnapshotPoint) {
        self.last = base.position;
        self.configurations.clear();
        self.base = base;
    }

    /// Releases the log up to `base`; the entries after it stay.
    pub fn release(&mut self, base: SnapshotPoint) {
        self.configurations.retain(|(index, _)| *index > base.position.index);
        self.base = base;
    }

    /// The base after a release up to `position`.
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
        self.time = self.time.max(time);
    }
}
