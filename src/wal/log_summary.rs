//! What the journal knows of the log it has written: no entries, only what a new segment inherits.
//!
//! The journal keeps one as it appends; recovery makes the same one by reading what was appended.

use super::format::Opening;
use crate::types::{ClusterTime, HardState, Index, Membership, Position, SnapshotPoint};

/// The state of hard state and log behind the last frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outline {
    /// Term and vote.
    pub hard: HardState,
    /// Where the log begins.
    pub base: SnapshotPoint,
    /// The last position in it.
    pub last: Position,
    /// The latest time any entry had.
    pub time: ClusterTime,
    /// Configurations behind the base, by the index that holds them.
    pub configurations: Vec<(Index, Membership)>,
}

impl Outline {
    /// A log that begins there and holds nothing.
    pub fn new(base: SnapshotPoint) -> Outline {
        let last = base.position;
        Outline { hard: HardState::default(), base, last, time: ClusterTime::default(), configurations: Vec::new() }
    }

    /// As a segment inherits it.
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

    /// The log restarts there.
    pub fn restart(&mut self, base: SnapshotPoint) {
        self.last = base.position;
        self.configurations.clear();
        self.base = base;
    }

    /// Everything up to there may go; what follows stays.
    pub fn release(&mut self, base: SnapshotPoint) {
        self.configurations.retain(|(index, _)| *index > base.position.index);
        self.base = base;
    }

    /// The base a release up to there would leave.
    pub fn base_at(&self, position: Position) -> SnapshotPoint {
        let held = self.configurations.iter().rev().find(|(index, _)| *index <= position.index);
        let (configured, membership) =
            held.cloned().unwrap_or_else(|| (self.base.configured, self.base.membership.clone()));
        SnapshotPoint { position, configured, membership }
    }

    /// An entry was appended; all that stood at its index and behind it is gone.
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
