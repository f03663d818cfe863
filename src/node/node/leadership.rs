//! The node's reaction to a change of leader: requests that wait for a former leader fail, requests that wait for any
//! leader are retried.
//!
//! The consensus core reports no event for a change of leader. The node compares the core's state with the last one,
//! because several changes may happen between two calls of `turn` and only their net effect matters: a leader that was
//! lost and found again needs no reaction. Two things are compared. The *leader* decides where requests are forwarded.
//! The *term that this node leads* decides what becomes of its own proposals: a node may lose its leadership and lead
//! again in a later term, with the same leader id before and after, and without the entries of its first term.

use super::Node;
use crate::api::{Refusal, Reply};
use crate::types::{Mutant, Term, Time};

impl Node {
    /// Whether the leader, or the term that this node leads, has changed since the last check, or parked requests can
    /// be handled now.
    ///
    /// The last condition needs no change of leader: parked requests also wait for the end of a failed leadership
    /// transfer, and until this log is confirmed as the cluster's log. The condition is the negation of the reasons to
    /// park in `handle_request`. If a reason were missing here, the node would unpark and park the same requests at
    /// each event.
    pub(super) fn leadership_changed(&self) -> bool {
        let can_unpark = !self.parked_requests.is_empty()
            && self.handled_leader.is_some()
            && self.raft.transfer_target().is_none()
            && !self.log_not_agreed();
        self.handled_leader != self.raft.leader() || self.led_term != self.led_term() || can_unpark
    }

    /// The term that this node leads, if it leads.
    pub(super) fn led_term(&self) -> Option<Term> {
        self.raft.leads().then(|| self.raft.term())
    }

    /// Reacts to a possible change of leader: fails requests that wait for a former leader, and retries requests that
    /// were parked for one.
    ///
    /// The order matters. Proposals of the former term are answered first: a parked request may be proposed below, at
    /// an index that such a proposal still claims. Misrouted requests come before parked ones, because they are older,
    /// and may be parked themselves. Callers of administrative requests are answered between the two: their answers
    /// depend on the term alone.
    pub(super) fn handle_leadership_change(&mut self, now: Time) {
        // A leader on a full disk blocks all writes of the cluster; the same node as a follower blocks only itself.
        if self.raft.leads() && self.disk_space.is_low() && self.admin_waiters.should_transfer_for_space(now) {
            self.raft.transfer_to_node_with_room(now);
        }
        let new_led_term = self.led_term();
        if self.led_term != new_led_term {
            self.led_term = new_led_term;
            // The sampled entries may have been replaced by another leader: their durations would be meaningless.
            self.stats.reset_samples();
            let reply = if self.options.mutants.breaks(Mutant::UnknownAsRefused) {
                Reply::Refused(self.raft.not_leader())
            } else {
                Reply::Unknown
            };
            // Committed proposals stay: whatever the leader, this node applies them, and knows their outcomes.
            if !self.options.mutants.breaks(Mutant::AnswerByIndex) {
                self.proposals.answer_uncommitted(self.raft.log().commit(), new_led_term, &reply, &mut self.replies);
            }
        }
        let leader = self.raft.leader();
        if self.handled_leader != leader {
            // Recorded before requests are retried, because `leadership_changed` compares the current leader with it.
            self.stats.record_leader(leader);
            self.handled_leader = leader;
            // Requests forwarded to the former leader fail even if there is no new leader: the former one may never
            // answer.
            let misrouted_requests = self.forwarded_requests.take_misrouted(leader);
            self.fail_in_flight(now, misrouted_requests);
        }
        self.admin_waiters.answer_finished(&self.raft, self.led_term, &mut self.replies);
        if self.parked_requests.is_empty() {
            return;
        }
        // The same conditions as in `leadership_changed`.
        if leader.is_some() && self.raft.transfer_target().is_none() && !self.log_not_agreed() {
            // Requests are handled in the order of their arrival, which a client that pipelines its writes relies on.
            for client_request in self.parked_requests.take_all() {
                self.handle_request(now, client_request);
            }
        } else if let Some(refusal) = self.not_member_refusal() {
            // The requests were parked for a leader, and this node has just been removed. No leader will send to it, so
            // waiting for the deadline would gain nothing; the refusal names the members that the client should try.
            self.parked_requests.take_all().for_each(|client_request| self.refuse(client_request, refusal.clone()));
        } else if self.parked_requests.deadline() <= now {
            for client_request in self.parked_requests.take_expired(now) {
                self.refuse(client_request, Refusal::NoLeader);
            }
        }
    }
}
