//! The node's reaction to a change of leader: what waits for a former leader fails, what waits for any leader goes on.
//!
//! The consensus core reports no event for it. The node compares what the core says now with what it said last, because
//! several changes may happen between two turns and only the sum of them matters: a leader that was lost and found
//! again needs nothing. Two things are compared. The *leader* decides where requests are forwarded. The *term that this
//! node leads* decides what becomes of its own proposals: a node may lose its leadership and lead again in a later
//! term, with the same leader id before and after, and without the entries of its first term.

use super::Node;
use crate::api::{Refusal, Reply};
use crate::types::{Mutant, Term, Time};

impl Node {
    /// Whether the leader, or the term that this node leads, differs from the last turn, or parked requests can be
    /// handled now.
    ///
    /// The last condition needs no change of leader: parked requests also wait for the end of a transfer that failed,
    /// and for the agreement on the log. It is the negation of the reasons to park in `handle_request`; a
    /// reason that is missing here would unpark and park the same requests at each event.
    pub(super) fn leadership_changed(&self) -> bool {
        let unparks = !self.parked.is_empty()
            && self.leader.is_some()
            && self.raft.transfer_target().is_none()
            && !self.log_not_agreed();
        self.leader != self.raft.leader() || self.led_term != self.led_term() || unparks
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
    /// and may be parked themselves. Administrators are answered between: their answers depend on the term alone.
    pub(super) fn follow_leadership(&mut self, now: Time) {
        // A leader on a full disk blocks all writes of the cluster; the same node as a follower blocks only itself.
        if self.raft.leads() && self.space.is_low() && self.admin_waiters.looks_for_room(now) {
            self.raft.make_room(now);
        }
        let leads = self.led_term();
        if self.led_term != leads {
            self.led_term = leads;
            // Samples of entries that another leader may have replaced would measure nothing.
            self.stats.reset_sent();
            let reply = if self.options.mutants.breaks(Mutant::UnknownAsRefused) {
                Reply::Refused(self.raft.not_leader())
            } else {
                Reply::Unknown
            };
            // Committed proposals stay: whatever the leader, this node applies them, and knows their outcomes.
            if !self.options.mutants.breaks(Mutant::AnswerByIndex) {
                self.proposals.abandon(self.raft.log().commit(), leads, &reply, &mut self.replies);
            }
        }
        let leader = self.raft.leader();
        if self.leader != leader {
            // Remembered before the requests are handled: a retried one is forwarded to the leader that is known now.
            self.stats.led_by(leader);
            self.leader = leader;
            // Also if there is no leader now: the former one may be deposed or cut off, and may never answer.
            let astray = self.forwarded.misrouted(leader);
            self.fail_in_flight(now, astray);
        }
        self.admin_waiters.settle(&self.raft, self.led_term, &mut self.replies);
        if self.parked.is_empty() {
            return;
        }
        // The same conditions as in `leadership_changed`.
        if leader.is_some() && self.raft.transfer_target().is_none() && !self.log_not_agreed() {
            // In the order of their arrival: the requests of one caller take effect in that order, as a client that
            // pipelines its writes expects.
            for asked in self.parked.take() {
                self.handle_request(now, asked);
            }
        } else if let Some(refusal) = self.not_member_refusal() {
            // The requests were parked for a leader, and this node has just been removed. No leader will send to it, so
            // waiting for the deadline would gain nothing; the refusal names members that have one.
            self.parked.take().for_each(|asked| self.refuse(asked, refusal.clone()));
        } else if self.parked.deadline() <= now {
            for asked in self.parked.expired(now) {
                self.refuse(asked, Refusal::NoLeader);
            }
        }
    }
}
