//! Whether a log may begin: the one moment at which no entry held could contradict another log.
//!
//! A founder with an empty log cannot tell whether its cluster begins, or whether it was emptied while the other
//! founders held a log. It requests pre-votes from all founders first:
//!
//! * A founder that holds a log is a veto, however many other founders hold nothing. (Counter-example: two of three
//!   founders lose their disks and are started as at first. They are a majority, and would begin a second log without
//!   the third, which holds everything that was acknowledged.)
//! * If all founders hold nothing, the log begins at once.
//! * While some founders are silent it waits and logs their ids. It begins only when the wait is over and a majority
//!   holds nothing. A holder that stays silent all that time is the gap that remains; it keeps its log, and the two
//!   logs never mix (`peer_class`).

use super::note::Note;
use super::options::Options;
use super::rules::election;
use crate::types::{LogId, Mutants, NodeId, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// The shortest interval between two notes to the operator.
const TOLD_EVERY: Duration = Duration::from_secs(2);

/// At most this many holders are remembered: one is enough.
///
/// More would tell the operator nothing new, and the ids come from messages.
const VETOES_MAX: usize = 8;

/// Whether a log may begin here.
#[derive(Clone, Debug, Default)]
pub struct Founding {
    /// The founders that hold a log, and its id.
    vetoes: BTreeMap<NodeId, LogId>,
    /// How long silent founders are waited for.
    until: Time,
    forced: bool,
    told_at: Time,
}

impl Founding {
    /// Starts the wait for silent founders, at the start of the process.
    pub fn begins(&mut self, now: Time, options: &Options) {
        (self.until, self.forced) = (now + options.founding_wait, options.force_founding);
    }

    /// Records that a peer holds a log.
    ///
    /// It is never taken back while the process runs: that a holder is silent now does not mean that its log is gone.
    pub fn veto(&mut self, peer: NodeId, log: LogId) {
        if self.vetoes.len() < VETOES_MAX || self.vetoes.contains_key(&peer) {
            self.vetoes.insert(peer, log);
        }
        assert!(self.vetoes.len() <= VETOES_MAX, "peers of any id do not fill the memory with vetoes");
    }

    /// Whether a founder that holds a log is a veto.
    pub fn minds_holders(&self, mutants: Mutants) -> bool {
        election::holder_vetoes(self.forced, mutants)
    }

    /// Whether a founder holds a log, and that is a veto.
    pub fn is_vetoed(&self, mutants: Mutants) -> bool {
        !self.vetoes.is_empty() && self.minds_holders(mutants)
    }

    /// Whether the log may begin although not all founders have answered: `enough` is whether a majority granted its
    /// vote, and `silent` lists the founders that have not answered. If it may not, a note gives the operator the
    /// reason.
    ///
    /// It is asked at each timeout of the pre-vote, not once, so that a founder which starts late is still heard.
    pub fn may_begin(
        &mut self,
        now: Time,
        enough: bool,
        silent: Vec<NodeId>,
        mutants: Mutants,
        notes: &mut Vec<Note>,
    ) -> bool {
        let waited = election::founding_wait_is_over(self.forced, now, self.until, mutants);
        if enough && waited && !self.is_vetoed(mutants) {
            return true;
        }
        // The question comes with every election timeout, and the operator needs the answer once.
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
        let options = Options { founding_wait: Duration::from_secs(5), force_founding: anyway, ..Options::default() };
        founding.begins(Time::ZERO, &options);
        founding
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn founding_waits_for_silent_founders_and_names_them() {
        let (mut founding, mut notes) = (begun(false), Vec::new());
        assert!(!founding.may_begin(at(1), true, vec![id(3)], Mutants::NONE, &mut notes));
        assert_eq!(notes, [Note::FoundingWaits { silent: vec![id(3)], left: Duration::from_secs(4) }]);
        assert!(!founding.may_begin(at(2), true, vec![id(3)], Mutants::NONE, &mut notes));
        assert_eq!(notes.len(), 1, "one note in two seconds");
        assert!(!founding.may_begin(at(6), false, vec![id(2), id(3)], Mutants::NONE, &mut notes), "no majority");
        assert!(founding.may_begin(at(6), true, vec![id(3)], Mutants::NONE, &mut notes));
    }

    #[test]
    fn founder_with_a_log_vetoes_founding_permanently() {
        let (mut founding, mut notes) = (begun(false), Vec::new());
        founding.veto(id(3), LogId(7));
        assert!(!founding.may_begin(at(99), true, vec![], Mutants::NONE, &mut notes));
        assert_eq!(notes, [Note::FoundingVetoed { holder: id(3), log: LogId(7) }]);
        let mut anyway = begun(true);
        anyway.veto(id(3), LogId(7));
        assert!(anyway.may_begin(at(0), true, vec![], Mutants::NONE, &mut notes), "forced to");
    }
}
