//! The journal's summary of the log it has written: no entries, only the state that a new segment inherits.
//!
//! The journal updates it on each append; recovery builds the same summary from the segments.

use super::format::Opening;
use crate::types::{ClusterTime, HardState, Index, Membership, Position, SnapshotPoint};

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

impl LogSummary {
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
        self.last = position;
        self.time = self.time.max(time);
    }
}
