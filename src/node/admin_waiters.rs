//! Callers that wait for a membership change or a leadership transfer.

use super::event::Caller;
use crate::api::{Refusal, Reply};
use crate::consensus::Raft;
use crate::types::{NodeId, Position, Term, Time};
use std::collections::BTreeSet;
use std::time::Duration;

/// How often a leader without disk room looks for a transfer target that has some.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Callers that wait for a membership change to complete, or for another node to lead.
#[derive(Clone, Debug, Default)]
pub struct AdminWaiters {
    changes: Vec<PendingChange>,
    transfers: Vec<(Caller, u64, NodeId)>,
    next_check: Time,
}

/// A membership change that is not yet complete.
#[derive(Clone, Debug)]
struct PendingChange {
    from: Caller,
    id: u64,
    /// The position of its entry.
    position: Position,
    /// The nodes that it makes voters, and the nodes that cease to be voters.
    entering: BTreeSet<NodeId>,
    leaving: BTreeSet<NodeId>,
}

impl PendingChange {
    /// Whether `voters` are the voters that the change leads to.
    fn is_done(&self, voters: &BTreeSet<NodeId>) -> bool {
        self.entering.is_subset(voters) && self.leaving.is_disjoint(voters)
    }
}

impl AdminWaiters {
    /// Adds a change that was appended at `position`; its configuration is in force.
    pub fn began(&mut self, raft: &Raft, from: Caller, id: u64, position: Position) {
        let now = raft.membership();
        let leaving = now.outgoing.difference(&now.voters).copied().collect();
        let entering = if now.is_joint() { &now.voters - &now.outgoing } else { BTreeSet::new() };
        self.changes.push(PendingChange { from, id, position, entering, leaving });
    }

    /// Adds a leadership transfer to the node `to`.
    pub fn hands_over(&mut self, from: Caller, id: u64, to: NodeId) {
        self.transfers.push((from, id, to));
    }

    /// Number of waiting callers.
    pub fn len(&self) -> usize {
        self.changes.len() + self.transfers.len()
    }

    /// Whether no caller waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops all requests of a caller that is gone.
    pub fn forget(&mut self, caller: Caller) {
        self.changes.retain(|pending| pending.from != caller);
        self.transfers.retain(|(from, ..)| *from != caller);
    }

    /// Whether to look now for a transfer target whose disk has room. At most once per `LOOK_EVERY`.
    pub fn looks_for_room(&mut self, now: Time) -> bool {
        let due = now >= self.next_check;
        if due {
            self.next_check = now + CHECK_INTERVAL;
        }
        due
    }

    /// Answers the requests that are complete or have failed. `led` is the term this node leads.
    pub fn settle(&mut self, raft: &Raft, led: Option<Term>, out: &mut Vec<(Caller, u64, Reply)>) {
        let (since, commit) = (raft.configured(), raft.log().commit());
        let settled = !raft.membership().is_joint() && since <= commit;
        self.changes.retain(|pending| {
            let leads = led == Some(pending.position.term);
            // This holds even when the change has cost this node the leadership, as it does a leader that is removed.
            let ours = leads || (pending.position.index <= commit && raft.log().holds(pending.position));
            let reply = match settled && since >= pending.position.index {
                true if ours && pending.is_done(&raft.membership().voters) => {
                    let term = raft.log().term(since).unwrap_or(pending.position.term);
                    Reply::Changed { position: Position::new(since, term) }
                }
                // The next leader completes the change, or does not know of it.
                _ if !leads => Reply::Unknown,
                true => Reply::Refused(change_aborted(raft)),
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

fn change_aborted(raft: &Raft) -> Refusal {
    let why = format!("the change was aborted; the membership in force is {}", raft.membership());
    Refusal::InvalidChange { why }
}
