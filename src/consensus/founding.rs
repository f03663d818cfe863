//! Whether a log may begin: the one moment at which nothing that is held could contradict.
//!
//! A founder that holds nothing cannot tell whether its cluster begins, or whether it was emptied while the others
//! held a log. It asks all founders first:
//!
//! * One that holds a log is a veto, however many others hold nothing. (Counter-example: two of three founders lose
//!   their disks and are started as at first. They are a majority, and would begin a second log over the head of the
//!   third, which holds everything that was acknowledged.)
//! * If all of them hold nothing, the log begins at once.
//! * While some are silent it waits, says for which, and begins only when that has taken too long and a majority
//!   holds nothing. A holder that stays silent all that time is the gap that remains; it keeps its log, and the two
//!   logs never mix (`peer_class`).

use super::note::Note;
use super::options::Options;
use crate::types::{LogId, Mutant, Mutants, NodeId, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// An operator reads of it no more often than this.
const TOLD_EVERY: Duration = Duration::from_secs(2);

/// So many holders are remembered: one is enough.
const VETOES_MAX: usize = 8;

/// Whether a log may begin here.
#[derive(Clone, Debug, Default)]
pub struct Founding {
    /// Those that hold a log.
    vetoes: BTreeMap<NodeId, LogId>,
    /// Until when those that are silent are waited for.
    until: Time,
    anyway: bool,
    told_at: Time,
}

impl Founding {
    /// The process begins.
    pub fn begins(&mut self, now: Time, options: &Options) {
        (self.until, self.anyway) = (now + options.founding_wait, options.found_anyway);
    }

    /// That peer holds a log.
    pub fn veto(&mut self, peer: NodeId, log: LogId) {
        if self.vetoes.len() < VETOES_MAX || self.vetoes.contains_key(&peer) {
            self.vetoes.insert(peer, log);
        }
    }

    /// Whether a founder that holds a log is a veto.
    pub fn minds_holders(&self, mutants: Mutants) -> bool {
        !self.anyway && !mutants.breaks(Mutant::FoundOverHolder)
    }

    /// Whether somebody holds a log, and that is minded.
    pub fn is_vetoed(&self, mutants: Mutants) -> bool {
        !self.vetoes.is_empty() && self.minds_holders(mutants)
    }

    /// Whether the log may begin although not all founders have answered; `enough` of them have, and `silent` have
    /// not. If not, the operator is told why.
    pub fn may_begin(
        &mut self,
        now: Time,
        enough: bool,
        silent: Vec<NodeId>,
        mutants: Mutants,
        notes: &mut Vec<Note>,
    ) -> bool {
        let waited = self.anyway || now >= self.until || mutants.breaks(Mutant::FoundOverHolder);
        if enough && waited && !self.is_vetoed(mutants) {
            return true;
        }
        if self.told_at <= now {
            self.told_at = now + TOLD_EVERY;
            match self.vetoes.first_key_value() {
                Some((holder, log)) => notes.push(Note::FoundingVetoed { holder: *holder, log: *log }),
                None if silent.is_empty() => {}
                None => notes.push(Note::FoundingWaits { silent, left: self.until.since(now) }),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn begun(anyway: bool) -> Founding {
        let mut founding = Founding::default();
        let options = Options { founding_wait: Duration::from_secs(5), found_anyway: anyway, ..Options::default() };
        founding.begins(Time::ZERO, &options);
        founding
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn silent_founders_are_waited_for_and_named() {
        let (mut founding, mut notes) = (begun(false), Vec::new());
        assert!(!founding.may_begin(at(1), true, vec![id(3)], Mutants::NONE, &mut notes));
        assert_eq!(notes, [Note::FoundingWaits { silent: vec![id(3)], left: Duration::from_secs(4) }]);
        assert!(!founding.may_begin(at(2), true, vec![id(3)], Mutants::NONE, &mut notes));
        assert_eq!(notes.len(), 1, "said once in two seconds");
        assert!(!founding.may_begin(at(6), false, vec![id(2), id(3)], Mutants::NONE, &mut notes), "no majority");
        assert!(founding.may_begin(at(6), true, vec![id(3)], Mutants::NONE, &mut notes));
    }

    #[test]
    fn one_holder_is_a_veto_for_good() {
        let (mut founding, mut notes) = (begun(false), Vec::new());
        founding.veto(id(3), LogId(7));
        assert!(!founding.may_begin(at(99), true, vec![], Mutants::NONE, &mut notes));
        assert_eq!(notes, [Note::FoundingVetoed { holder: id(3), log: LogId(7) }]);
        let mut anyway = begun(true);
        anyway.veto(id(3), LogId(7));
        assert!(anyway.may_begin(at(0), true, vec![], Mutants::NONE, &mut notes), "as it was told to");
    }
}
