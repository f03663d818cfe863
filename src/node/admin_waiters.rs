//! Callers that wait for a membership change or a leadership transfer.
//!
//! Neither wait ends with the entry that began it. A change of voters takes two entries (§6): the joint configuration,
//! which the caller's request appended, and the new one, which the leader appends by itself when the first is
//! committed. A third entry may also abort the change. A transfer leaves no entry at all: its outcome is the next
//! leader. So the callers of both are answered from the state of the core, which is checked at each call of `turn`, and
//! not when an index is applied.
//!
//! An answer is definite only while this node leads the term in which the change began, or if it has seen the change
//! committed. Otherwise another leader completes the change, or has never received its entry, and the answer is
//! *unknown*.

use super::event::Caller;
use crate::api::{Refusal, Reply};
use crate::consensus::Raft;
use crate::types::{NodeId, Position, Term, Time};
use std::collections::BTreeSet;
use std::time::Duration;

/// The shortest interval between two attempts of a leader without disk space to transfer its leadership to a node with
/// space.
const TRANSFER_FOR_SPACE_INTERVAL: Duration = Duration::from_secs(1);

/// Callers that wait for a membership change to complete, or for another node to lead.
///
/// Both lists are walked at each call of `turn`. The list of changes is short: the core refuses a change while another
/// is under way.
///
/// Invariant: `pending_changes` is in log order.
#[derive(Clone, Debug, Default)]
pub struct AdminWaiters {
    pending_changes: Vec<PendingChange>,
    /// Callers that wait for a leadership transfer: the caller, its id for the request, and the target.
    transfers: Vec<(Caller, u64, NodeId)>,
    next_transfer_for_space_at: Time,
}

/// A membership change that is not yet complete.
#[derive(Clone, Debug)]
struct PendingChange {
    from: Caller,
    id: u64,
    /// The position of the change's entry.
    position: Position,
    /// The nodes that the change makes voters, and the nodes that cease to be voters. The resulting set of voters is
    /// not stored: a later change may have replaced it before the caller is answered.
    entering_voters: BTreeSet<NodeId>,
    leaving_voters: BTreeSet<NodeId>,
}

impl PendingChange {
    /// Whether `voters` reflect the change. Other voters may have been added or removed by a later change.
    fn is_done(&self, voters: &BTreeSet<NodeId>) -> bool {
        self.entering_voters.is_subset(voters) && self.leaving_voters.is_disjoint(voters)
    }
}

impl AdminWaiters {
    /// Adds a caller that waits for the change appended at `position`. The change's configuration is in force already:
    /// a configuration is used as soon as it is in the log, committed or not (§6). A change of learners needs no joint
    /// configuration and changes no voters, so it is complete when it is committed.
    pub fn push_change(&mut self, raft: &Raft, from: Caller, id: u64, position: Position) {
        assert!(
            raft.log().holds(position),
            "the log holds the entry of each membership change whose caller waits (§6)"
        );
        let is_later = self.pending_changes.last().is_none_or(|last| last.position.index < position.index);
        assert!(
            is_later,
            "waiting changes are in log order: those of an earlier leadership were answered when it ended"
        );
        let membership = raft.membership();
        let leaving_voters = membership.outgoing.difference(&membership.voters).copied().collect();
        let entering_voters =
            if membership.is_joint() { &membership.voters - &membership.outgoing } else { BTreeSet::new() };
        self.pending_changes.push(PendingChange { from, id, position, entering_voters, leaving_voters });
    }

    /// Adds a caller that waits for a leadership transfer to the node `to`. A transfer ends without a further event:
    /// the core gives the target a limited time to take over (thesis §3.10), and then continues to lead.
    pub fn push_transfer(&mut self, from: Caller, id: u64, to: NodeId) {
        self.transfers.push((from, id, to));
    }

    /// Number of waiting callers.
    pub fn len(&self) -> usize {
        self.pending_changes.len() + self.transfers.len()
    }

    /// Whether no caller waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops all requests of a caller that is gone. The change or the transfer itself goes on: it is in the log, or
    /// under way between the nodes, and only its answer has no receiver.
    pub fn forget(&mut self, caller: Caller) {
        self.pending_changes.retain(|pending| pending.from != caller);
        self.transfers.retain(|(from, ..)| *from != caller);
    }

    /// Whether to try now to transfer the leadership to a node with disk space. True at most once per
    /// `TRANSFER_FOR_SPACE_INTERVAL`: a transfer stops the cluster's writes while it lasts, so a failing one must not
    /// be repeated at once.
    pub fn should_transfer_for_space(&mut self, now: Time) -> bool {
        let is_due = now >= self.next_transfer_for_space_at;
        if is_due {
            self.next_transfer_for_space_at = now + TRANSFER_FOR_SPACE_INTERVAL;
        }
        is_due
    }

    /// Answers the requests that are complete or have failed. `led_term` is the term that this node leads, if it leads.
    ///
    /// A change is complete when no change is under way, the configuration in force is committed and not older than the
    /// change, and the voters reflect the change. If only the voters differ, the change was aborted.
    ///
    /// A transfer is over when the core names no target any more and knows a leader. If this node is that leader, the
    /// target did not take over in time; any other leader is a success, since the request was to replace this one.
    pub fn answer_finished(&mut self, raft: &Raft, led_term: Option<Term>, out: &mut Vec<(Caller, u64, Reply)>) {
        let (configured, commit) = (raft.configuration_index(), raft.log().commit());
        let is_configuration_settled = !raft.membership().is_joint() && configured <= commit;
        self.pending_changes.retain(|pending| {
            let still_leads = led_term == Some(pending.position.term);
            // The outcome is known even if the change has ended this node's leadership, as the removal of a leader
            // does.
            let is_outcome_known =
                still_leads || (pending.position.index <= commit && raft.log().holds(pending.position));
            let reply = match is_configuration_settled && configured >= pending.position.index {
                true if is_outcome_known && pending.is_done(&raft.membership().voters) => {
                    let term = raft.log().term(configured).unwrap_or(pending.position.term);
                    Reply::Changed { position: Position::new(configured, term) }
                }
                // The next leader completes the change, or does not know of it. This case comes before the refusal
                // below, which only the leader of the change's term may give: only its log shows that the change was
                // aborted.
                _ if !still_leads => Reply::Unknown,
                true => Reply::Refused(change_aborted_refusal(raft)),
                false => return true,
            };
            out.push((pending.from, pending.id, reply));
            false
        });
        self.transfers.retain(|(from, id, to)| {
            let reply = match raft.leader() {
                None => return true,
                Some(_) if raft.transfer_target().is_some() => return true,
                Some(leader) if leader == raft.id() => Reply::Refused(Refusal::TransferTimedOut { to: *to }),
                Some(leader) => Reply::Transferred { to: leader },
            };
            out.push((*from, *id, reply));
            false
        });
    }
}

fn change_aborted_refusal(raft: &Raft) -> Refusal {
    let why = format!("the change was aborted; the membership in force is {}", raft.membership());
    Refusal::InvalidChange { why }
}
