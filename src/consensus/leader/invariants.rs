//! Invariants of a leader: its term, the followers that it tracks, its reads and its transfer.

use super::Leader;
use crate::consensus::replica::Replica;
use crate::types::NodeId;

impl Leader {
    /// Panics if an invariant is violated. Called after every step ([`crate::consensus::invariants`]).
    pub(in crate::consensus) fn check(&self, me: &Replica) {
        self.check_term(me);
        self.check_members(me);
        let (last, commit) = (me.log.last().index, me.log.commit());
        for progress in self.progress.values() {
            progress.check(last, commit, me.options.window_appends);
            // A number used twice would let the rejection of an earlier probe prove a loss that did not happen.
            assert!(progress.probe <= self.probes, "every probe has a number of its own");
        }
        self.reads.check(me.round, commit, self.term_start_index);
        debug_assert!(self.reads.waiting() <= me.options.reads_waiting, "reads do not fill the memory");
        // A transfer target may lead, and commit, before this leader learns of it (openraft 1ef3e574).
        assert!(self.transfer.is_none() || self.reads.is_empty(), "no read waits while the leadership is transferred");
        assert!(self.transfer_target() != Some(me.id), "a leader transfers the leadership to another node");
        assert!(self.waits.is_none_or(|(at, _)| at <= commit), "the commit index never goes back");
    }

    /// The first entry of the term, and the vote that this node has given itself.
    fn check_term(&self, me: &Replica) {
        let (log, term) = (&me.log, me.term());
        assert_eq!(me.vote(), Some(me.candidate()), "a leader has voted for itself (§5.2)");
        // A leader appends only, and each of its entries is of its term: a truncation or a replaced log shows here.
        assert_eq!(log.last().term, term, "a leader's log ends with an entry of its term (§5.3, §8)");
        assert!(self.term_start_index <= log.last().index, "the leader's first entry is in its log");
        // Counting copies of an earlier term's entry as if it began this one would commit it (Figure 8).
        let first = log.term(self.term_start_index);
        assert!(first.is_none_or(|first| first == term), "the leader's first entry is of its term (§5.4.2)");
    }

    /// The members of the configuration in force, and the followers that are tracked.
    fn check_members(&self, me: &Replica) {
        let members = &me.configs.current().members;
        // The configuration is in force from its append on (§6), so no step may end between the two.
        assert_eq!(self.arranged, me.configs.since(), "the latest configuration is in force (§6)");
        let tracked = |id: &NodeId| *id == me.id || self.progress.contains_key(id);
        assert!(members.keys().all(tracked), "a leader replicates to every member");
        // Its own copy would count by what it has sent to itself, not by what its disk holds (etcd-io/etcd#14370).
        assert!(!self.progress.contains_key(&me.id), "a leader counts its own copy by its own disk (§5.3)");
        let known = |id: &NodeId| members.contains_key(id) || self.leaving.contains_key(id);
        assert!(self.progress.keys().all(known), "a follower that is tracked is a member, or was one");
        let left = |id: &NodeId| !members.contains_key(id) && self.progress.contains_key(id);
        assert!(self.leaving.keys().all(left), "only former members are notified of their removal");
        // The leader's own changes only: those of an earlier leader came as input.
        let ours = me.configs.since() >= self.term_start_index;
        assert!(!ours || me.configs.overlap(), "quorums of two consecutive configurations share a voter (§6)");
    }
}
