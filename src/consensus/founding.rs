//! Founding of a log: whether this node may begin a new log.
//!
//! A founder is a node in the founding configuration. A founder with an empty log does not know whether the cluster is
//! new, or whether its own disk was emptied while other founders hold a log. So it requests pre-votes from all founders
//! first:
//!
//! * A founder that holds a log vetoes a new one, however many other founders hold no log. (Counter-example: two of
//!   three founders lose their disks and are started with the founding configuration again. They are a majority, and
//!   would begin a second log without the third founder, which holds all acknowledged entries.)
//! * If all founders have empty logs, the log begins at once.
//! * While some founders are silent, the candidate waits and logs their ids. The log begins only when the wait is over
//!   and a majority has empty logs. One risk remains: a founder that holds a log may be silent for the whole wait. That
//!   founder keeps its log, and nodes of different logs exchange no entries (`peer_class`).

use super::note::Note;
use super::options::Options;
use super::rules::election;
use crate::types::{LogId, Mutants, NodeId, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// The shortest interval between two notes that tell the operator why no log begins.
const FOUNDING_NOTE_INTERVAL: Duration = Duration::from_secs(2);

/// The maximum number of founders whose vetoes are recorded. One veto is enough to prevent a log. The ids come from
/// messages, so without a bound they could fill the memory.
const VETOES_MAX: usize = 8;

/// What this node knows about logs of the other founders, and how long it still waits for them.
#[derive(Clone, Debug, Default)]
pub struct Founding {
    /// The founders that hold a log, each with the log's id.
    vetoes: BTreeMap<NodeId, LogId>,
    /// The end of the wait for silent founders.
    wait_until: Time,
    /// Whether the operator forces the founding: no veto counts, and there is no wait.
    is_forced: bool,
    /// The earliest time of the next note to the operator.
    next_note_at: Time,
}

impl Founding {
    /// Starts the wait for silent founders, at the start of the process.
    pub fn start_wait(&mut self, now: Time, options: &Options) {
        (self.wait_until, self.is_forced) = (now + options.founding_wait, options.force_founding);
    }

    /// Records that a peer holds a log.
    ///
    /// A veto is never removed while the process runs: a founder that is silent now may still hold its log.
    pub fn record_veto(&mut self, peer: NodeId, log: LogId) {
        if self.vetoes.len() < VETOES_MAX || self.vetoes.contains_key(&peer) {
            self.vetoes.insert(peer, log);
        }
        assert!(self.vetoes.len() <= VETOES_MAX, "at most VETOES_MAX vetoes are recorded");
    }

    /// Whether vetoes count: a founder that holds a log prevents a new log, unless the operator forces the founding.
    pub fn honors_vetoes(&self, mutants: Mutants) -> bool {
        election::log_holder_vetoes(self.is_forced, mutants)
    }

    /// Whether a recorded veto prevents a new log.
    pub fn is_vetoed(&self, mutants: Mutants) -> bool {
        !self.vetoes.is_empty() && self.honors_vetoes(mutants)
    }

    /// Whether the log may begin although not all founders have answered: `has_majority` is whether a majority granted
    /// its vote, and `silent` lists the founders that have not answered. If the log may not begin, a note gives the
    /// operator the reason.
    ///
    /// Called at each timeout of the pre-vote, so that the answer of a founder that starts late still counts.
    pub fn may_begin_log(
        &mut self,
        now: Time,
        has_majority: bool,
        silent: Vec<NodeId>,
        mutants: Mutants,
        notes: &mut Vec<Note>,
    ) -> bool {
        let wait_is_over = election::founding_wait_is_over(self.is_forced, now, self.wait_until, mutants);
        if has_majority && wait_is_over && !self.is_vetoed(mutants) {
            return true;
        }
        // This code runs at every election timeout, and the operator needs a note only every few seconds.
        if self.next_note_at <= now {
            self.next_note_at = now + FOUNDING_NOTE_INTERVAL;
            match self.vetoes.first_key_value() {
                Some((holder, log)) => notes.push(Note::FoundingVetoed { holder: *holder, log: *log }),
                None if silent.is_empty() => {}
                None => {
                    notes.push(Note::FoundingWaits { silent_founders: silent, wait_left: self.wait_until.since(now) })
                }
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

    fn founding_at_start(force_founding: bool) -> Founding {
        let mut founding = Founding::default();
        let options = Options { founding_wait: Duration::from_secs(5), force_founding, ..Options::default() };
        founding.start_wait(Time::ZERO, &options);
        founding
    }

    fn at_second(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn founding_waits_for_silent_founders_and_names_them() {
        let (mut founding, mut notes) = (founding_at_start(false), Vec::new());
        assert!(!founding.may_begin_log(at_second(1), true, vec![id(3)], Mutants::NONE, &mut notes));
        assert_eq!(notes, [Note::FoundingWaits { silent_founders: vec![id(3)], wait_left: Duration::from_secs(4) }]);
        assert!(!founding.may_begin_log(at_second(2), true, vec![id(3)], Mutants::NONE, &mut notes));
        assert_eq!(notes.len(), 1, "at most one note is written in two seconds");
        assert!(
            !founding.may_begin_log(at_second(6), false, vec![id(2), id(3)], Mutants::NONE, &mut notes),
            "without a majority no log begins"
        );
        assert!(founding.may_begin_log(at_second(6), true, vec![id(3)], Mutants::NONE, &mut notes));
    }

    #[test]
    fn founder_with_a_log_vetoes_founding_permanently() {
        let (mut founding, mut notes) = (founding_at_start(false), Vec::new());
        founding.record_veto(id(3), LogId(7));
        assert!(!founding.may_begin_log(at_second(99), true, vec![], Mutants::NONE, &mut notes));
        assert_eq!(notes, [Note::FoundingVetoed { holder: id(3), log: LogId(7) }]);
        let mut forced_founding = founding_at_start(true);
        forced_founding.record_veto(id(3), LogId(7));
        assert!(
            forced_founding.may_begin_log(at_second(0), true, vec![], Mutants::NONE, &mut notes),
            "a forced founding ignores vetoes"
        );
    }
}
