//! Entries that a node acknowledged and lost, and gets back without a leader (`docs/repair.md`, clause 6).
//!
//! A node that lost entries still knows positions that its log held: those of intact entries after the damage, and often
//! the end of the log. The leader of term `t` wrote all entries of term `t` into one log and removed none of them
//! (Leader Append-Only, §5.3). So if two logs each held some entry of term `t`, they were the same up to the lower one of
//! the two (Log Matching, §5.3). This needs no leader and no commit index.

use crate::consensus::log::Log;
use crate::types::{Index, Mutant, Mutants, Position};

/// The last index up to which `log` is the log that the requester had before the damage; `None` if `log` has no entry
/// for the requester.
///
/// `after` is the end of the requester's log, and `known` are positions that its log held. `log` must hold `after` too:
/// the requester's log may have changed since the damage, and the result continues only the same log.
pub fn shared_end(log: &Log, after: Position, known: &[Position], mutants: Mutants) -> Option<Index> {
    if mutants.breaks(Mutant::AnswerWithAnyEntries) {
        return Some(log.last().index).filter(|last| *last > after.index && after.index >= log.base().index);
    }
    let shared_positions = known.iter().filter_map(|known| {
        let position = log.last_at_or_below(*known);
        (position.term == known.term).then_some(position.index)
    });
    shared_positions.max().filter(|end| log.holds(after) && *end > after.index)
}

/// The last index of a fragment's entries after `after` that no other fragment of the same damaged log has replaced.
///
/// A fragment that begins within this one, and ends later, was written by a later leader: its records replaced the rest of
/// this one. With the rest, the log would end where that fragment does not continue it.
pub fn end_before_replaced(fragment: &Log, fragments: &[Log], after: Index) -> Index {
    let replaces_rest =
        |other: &&Log| other.last() > fragment.last() && other.base().index > after && fragment.holds(other.base());
    let replaced_from = fragments.iter().filter(replaces_rest).map(|other| other.base().index).min();
    replaced_from.unwrap_or(fragment.last().index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Term;

    fn position(index: u64, term: u64) -> Position {
        Position::new(Index(index), Term(term))
    }

    /// A log after `base`, with an entry of each of these terms.
    fn log(base: Position, terms: &[u64]) -> Log {
        let mut log = Log::new(base);
        for term in terms {
            log.append(Term(*term), 1);
        }
        log
    }

    #[test]
    fn log_is_shared_up_to_the_last_entry_of_a_known_term() {
        let log = log(Position::ZERO, &[1, 1, 2, 2, 2, 4]);
        let end = |after: (u64, u64), known: &[(u64, u64)]| {
            let known: Vec<Position> = known.iter().map(|(index, term)| position(*index, *term)).collect();
            shared_end(&log, position(after.0, after.1), &known, Mutants::NONE).map(|index| index.0)
        };
        assert_eq!(end((2, 1), &[(5, 2)]), Some(5), "both logs hold 5@2");
        assert_eq!(end((2, 1), &[(4, 2)]), Some(4), "the requester's log may have continued otherwise after 4@2");
        assert_eq!(end((2, 1), &[(9, 2)]), Some(5), "both logs have an entry of term 2, up to 5@2");
        assert_eq!(end((2, 1), &[(9, 3)]), None, "the entries of term 2 may have been replaced in term 3");
        assert_eq!(end((2, 1), &[(9, 3), (5, 2)]), Some(5));
        assert_eq!(end((0, 0), &[(6, 4)]), Some(6));
        assert_eq!(end((3, 1), &[(6, 4)]), None, "the requester's log has another entry 3");
        assert_eq!(end((5, 2), &[(5, 2)]), None, "there is no further entry");
    }

    #[test]
    fn entries_of_a_fragment_end_where_a_later_one_replaced_them() {
        let fragments =
            [log(position(2, 1), &[1, 1, 2, 2, 2]), log(position(5, 2), &[3, 3]), log(position(9, 4), &[4])];
        let end = |fragment: usize, after| end_before_replaced(&fragments[fragment], &fragments, Index(after)).0;
        assert_eq!(end(0, 2), 5, "the second fragment continues 5@2");
        assert_eq!(end(0, 5), 7, "the log is beyond that position");
        assert_eq!((end(1, 5), end(2, 9)), (7, 10));
        let other_term = [log(position(2, 1), &[1, 1, 2, 2, 2]), log(position(5, 3), &[3, 3])];
        assert_eq!(end_before_replaced(&other_term[0], &other_term, Index(2)).0, 7, "5@3 is another entry than 5@2");
    }

    #[test]
    fn compacted_log_has_entries_only_after_its_base() {
        let log = log(position(4, 2), &[2, 3]);
        let known = [position(6, 3)];
        assert_eq!(shared_end(&log, position(3, 2), &known, Mutants::NONE), None);
        assert_eq!(shared_end(&log, position(4, 2), &known, Mutants::NONE), Some(Index(6)));
    }
}
