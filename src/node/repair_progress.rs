//! The repair of a node: the time in which its log lacks entries that the node has acknowledged.
//!
//! A node is in repair as long as its log ends before its promised position (`docs/repair.md`). The consensus core keeps
//! the rules for votes; this module records what the operator sees. The promised position is durable, the damage is not:
//! after a second start during a repair, the node knows how much it lacks, and no longer which file was damaged.

use crate::api::RepairStatus;
use crate::consensus::note::Note;
use crate::types::{NodeId, Position, Time};
use crate::wal::report::RepairedDamage;

/// The repair that is under way, and the damage that caused it.
#[derive(Debug, Default)]
pub struct RepairProgress {
    /// The damage that this process has found; `None` if it found none.
    damage: Option<RepairedDamage>,
    /// When this process saw the repair begin, and the end of the log at that time; `None` if no repair is under way.
    beginning: Option<(Time, Position)>,
}

impl RepairProgress {
    /// The progress of a process that found this damage at its start.
    pub fn new(damage: Option<RepairedDamage>) -> RepairProgress {
        RepairProgress { damage, beginning: None }
    }

    /// Compares the end of the log with the promised position. Returns a note when a repair ends; `leader` is the node
    /// that sent the last entries.
    pub fn update(&mut self, now: Time, promised: Position, last: Position, leader: Option<NodeId>) -> Option<Note> {
        match (self.beginning, promised > last) {
            (None, true) => {
                self.beginning = Some((now, last));
                None
            }
            (Some((since, first)), false) => {
                *self = RepairProgress::default();
                let entry_count = last.index.0.saturating_sub(first.index.0);
                Some(Note::RepairFinished { last, entry_count, from: leader, duration: now.since(since) })
            }
            _ => None,
        }
    }

    /// The status of the repair; `None` if the log reaches the promised position.
    pub fn status(&self, now: Time, promised: Position, last: Position) -> Option<RepairStatus> {
        if promised <= last {
            return None;
        }
        let damage = self.damage.clone().unwrap_or_default();
        let (since, first) = self.beginning.unwrap_or((now, last));
        Some(RepairStatus {
            file: damage.file,
            offset: damage.offset,
            damage: damage.description,
            lost: damage.lost,
            received: last.index.0.saturating_sub(first.index.0),
            // A promise after every index of a term shows only that all of that term may be missing.
            missing: (promised.index.0 != u64::MAX).then(|| promised.index.0.saturating_sub(last.index.0)),
            age_ms: now.since(since).as_millis() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Index, Term};
    use std::time::Duration;

    fn position(index: u64, term: u64) -> Position {
        Position::new(Index(index), Term(term))
    }

    #[test]
    fn repair_lasts_until_the_log_reaches_the_promised_position() {
        let damage = RepairedDamage { file: "0000000001.wal".to_owned(), offset: 812, ..RepairedDamage::default() };
        let mut progress = RepairProgress::new(Some(damage));
        let (start, later) = (Time::ZERO, Time::ZERO + Duration::from_millis(30));
        let (promised, leader) = (position(20, 3), NodeId::new(2));
        assert_eq!(progress.update(start, promised, position(5, 2), None), None);
        assert_eq!(progress.update(later, promised, position(12, 2), leader), None);
        let status = progress.status(later, promised, position(12, 2)).unwrap();
        assert_eq!((&status.file[..], status.offset, status.age_ms), ("0000000001.wal", 812, 30));
        assert_eq!((status.received, status.missing), (7, Some(8)));
        let note = progress.update(later, promised, position(21, 3), leader).unwrap();
        let expected = "repair finished: the log reaches 21@3 again, after 0.0 s; 16 entries from n2";
        assert_eq!(note.to_string(), expected);
        assert_eq!(progress.status(later, promised, position(21, 3)), None);
        assert_eq!(progress.update(later, promised, position(22, 3), leader), None);
    }

    #[test]
    fn later_repair_does_not_name_the_damage_of_the_first() {
        let damage = RepairedDamage { file: "0000000001.wal".to_owned(), ..RepairedDamage::default() };
        let mut progress = RepairProgress::new(Some(damage));
        progress.update(Time::ZERO, position(2, 1), position(1, 1), None);
        progress.update(Time::ZERO, position(2, 1), position(2, 1), None);
        // The promise after every entry of a term ends in the next term.
        let promised = position(u64::MAX, 3);
        progress.update(Time::ZERO, promised, position(2, 1), None);
        let status = progress.status(Time::ZERO, promised, position(2, 1)).unwrap();
        assert_eq!((&status.file[..], status.missing), ("", None));
        assert!(progress.status(Time::ZERO, promised, position(9, 4)).is_none());
    }
}
