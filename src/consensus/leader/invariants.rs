//! Invariants of a leader: its term, the followers that it tracks, its reads and its transfer.

use super::Leader;
use crate::consensus::replica::Replica;
use crate::types::NodeId;

impl Leader {
    /// Panics if an invariant of the leader is violated. Called after every step ([`crate::consensus::invariants`]).
    pub(in crate::consensus) fn check_invariants(&self, me: &Replica) {
        self.check_term(me);
        self.check_members(me);
        let (last, commit) = (me.log.last().index, me.log.commit());
        for progress in self.progress.values() {
            progress.check_invariants(last, commit, me.options.window_appends_max);
            // If a probe number were used twice, a rejection of the earlier probe could prove a loss that did not
            // happen.
            assert!(
                progress.probe_number <= self.probe_count,
                "a follower's last probe number is at most the number of probes sent in this term"
            );
        }
        self.reads.check_invariants(me.latest_round, commit, self.term_start_index);
        debug_assert!(
            self.reads.waiting_count() <= me.options.waiting_reads_max,
            "at most waiting_reads_max reads wait on the leader"
        );
        // A transfer target may lead, and commit, before this leader learns of it (openraft 1ef3e574).
        assert!(self.transfer.is_none() || self.reads.is_empty(), "no read waits during a leadership transfer");
        assert!(self.transfer_target() != Some(me.id), "the target of a leadership transfer is another node");
        assert!(
            self.stalled_commit.is_none_or(|(commit_then, _)| commit_then <= commit),
            "the index of a stalled commit is at most the commit index"
        );
    }

    /// Checks the first entry of the term, and the leader's vote for itself.
    fn check_term(&self, me: &Replica) {
        let (log, term) = (&me.log, me.term());
        assert_eq!(me.vote(), Some(me.vote_for_itself()), "a leader has voted for itself (§5.2)");
        // A leader only appends entries of its own term. A truncated or replaced log would end with another term.
        assert_eq!(log.last().term, term, "a leader's log ends with an entry of its term (§5.3, §8)");
        assert!(self.term_start_index <= log.last().index, "the leader's first entry is in its log");
        // If this index held an entry of an earlier term, counting copies would commit that entry (Figure 8).
        let first_entry_term = log.term(self.term_start_index);
        assert!(first_entry_term.is_none_or(|first| first == term), "the leader's first entry is of its term (§5.4.2)");
    }

    /// Checks the tracked followers against the members of the configuration in force.
    fn check_members(&self, me: &Replica) {
        let members = &me.configs.current().members;
        // A configuration is in force from its append on (§6), so the leader has to apply it before it handles another
        // event.
        assert_eq!(
            self.applied_configuration_index,
            me.configs.current_index(),
            "the leader tracks the members of the configuration in force (§6)"
        );
        let is_tracked = |id: &NodeId| *id == me.id || self.progress.contains_key(id);
        assert!(members.keys().all(is_tracked), "a leader replicates to every member");
        // With progress for itself, a leader would count its own copy before its disk holds the entries
        // (etcd-io/etcd#14370).
        assert!(!self.progress.contains_key(&me.id), "a leader tracks no replication progress for itself (§5.3)");
        let is_or_was_member = |id: &NodeId| members.contains_key(id) || self.removed_members.contains_key(id);
        assert!(self.progress.keys().all(is_or_was_member), "every tracked follower is a member or a former member");
        let is_former_member = |id: &NodeId| !members.contains_key(id) && self.progress.contains_key(id);
        assert!(self.removed_members.keys().all(is_former_member), "only former members are notified of their removal");
        // Only the leader's own changes are checked: changes of an earlier leader are input, which is validated and not
        // asserted.
        let is_own_change = me.configs.current_index() >= self.term_start_index;
        assert!(
            !is_own_change || me.configs.quorums_overlap(),
            "quorums of two consecutive configurations share a voter (§6)"
        );
    }
}
