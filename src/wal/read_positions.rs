//! The positions of the entries that were read from a journal, as a log: a later entry replaces the one of its index, and
//! all after it.

use super::log_summary::RecordEffect;
use crate::types::{Index, Position, Term};

/// The positions of the entries that were read, as a log of consecutive indexes.
#[derive(Default)]
pub struct ReadPositions {
    /// The position before the first entry. Its term is 0 if it is not known.
    before_first: Position,
    terms: Vec<Term>,
}

impl ReadPositions {
    /// Applies the effect of the next record.
    pub fn apply(&mut self, effect: RecordEffect) {
        match effect {
            RecordEffect::SummaryOnly => {}
            RecordEffect::LogBegan(last) | RecordEffect::LogRestarted(last) => {
                *self = ReadPositions { before_first: last, terms: Vec::new() };
            }
            RecordEffect::EntryAppended(metadata) => {
                let Position { index, term } = metadata.position;
                if index < self.first_index() {
                    let before_first = Position::new(index.prev(), Term::ZERO);
                    *self = ReadPositions { before_first, terms: Vec::new() };
                }
                self.terms.truncate((index.0 - self.first_index().0) as usize);
                self.terms.push(term);
            }
        }
    }

    /// No entries yet, after that position.
    pub fn after(before_first: Position) -> ReadPositions {
        ReadPositions { before_first, terms: Vec::new() }
    }

    /// The position of an entry that was read and not replaced, or the one before the first; `None` if it is not known.
    pub fn position(&self, index: Index) -> Option<Position> {
        match index.0.checked_sub(self.first_index().0) {
            Some(nth) => self.terms.get(nth as usize).map(|term| Position::new(index, *term)),
            None => Some(self.before_first)
                .filter(|before| before.index == index && (before.term != Term::ZERO || index == Index::ZERO)),
        }
    }

    /// The last position.
    pub fn last(&self) -> Position {
        let last_index = Index(self.before_first.index.0 + self.terms.len() as u64);
        self.terms.last().map_or(self.before_first, |term| Position::new(last_index, *term))
    }

    /// The index of the first entry.
    pub fn first_index(&self) -> Index {
        self.before_first.index.next()
    }

    /// Whether an entry that was read and not replaced has the position, or the log begins after it.
    pub fn holds(&self, position: Position) -> bool {
        match position.index.0.checked_sub(self.first_index().0) {
            Some(nth) => self.terms.get(nth as usize) == Some(&position.term),
            None => position == self.before_first,
        }
    }
}
