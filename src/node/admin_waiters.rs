//! Who waits for a change of members, or for another to lead.

use super::event::Caller;
use crate::api::{Refusal, Reply};
use crate::consensus::Raft;
use crate::types::{NodeId, Position, Term, Time};
use std::collections::BTreeSet;
use std::time::Duration;

/// A leader without room looks this often for one that has some.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Callers that wait for the membership to be as they asked, or for the leadership to be another's.
#[derive(Clone, Debug, Default)]
pub struct AdminWaiters {
    changes: Vec<PendingChange>,
    transfers: Vec<(Caller, u64, NodeId)>,
    look_at: Time,
}

/// A change that is on its way.
#[derive(Clone, Debug)]
struct PendingChange {
    from: Caller,
    id: u64,
    /// Where it was put.
    position: Position,
    /// Whom it is to make a voter, and who is to be none any more.
    entering: BTreeSet<NodeId>,
    leaving: BTreeSet<NodeId>,
}

impl PendingChange {
    /// Whether those are the voters it was to lead to.
    fn is_done(&self, voters: &BTreeSet<NodeId>) -> bool {
        self.entering.is_subset(voters) && self.leaving.is_disjoint(voters)
    }
}

impl AdminWaiters {
    /// A change has its place in the log; the configuration it brought is in force.
    pub fn began(&mut self, raft: &Raft, from: Caller, id: u64, position: Position) {
        let now = raft.membership();
        let leaving = now.outgoing.difference(&now.voters).copied().collect();
        let entering = if now.is_joint() { &now.voters - &now.outgoing } else { BTreeSet::new() };
        self.changes.push(PendingChange { from, id, position, entering, leaving });
    }

    /// The leadership is on its way to that node.
    pub fn hands_over(&mut self, from: Caller, id: u64, to: NodeId) {
        self.transfers.push((from, id, to));
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.changes.len() + self.transfers.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nobody waits for that caller's answers any more.
    pub fn forget(&mut self, caller: Caller) {
        self.changes.retain(|pending| pending.from != caller);
        self.transfers.retain(|(from, ..)| *from != caller);
    }

    /// Whether to look now for somebody whose disk has room.
    pub fn looks_for_room(&mut self, now: Time) -> bool {
        let due = now >= self.look_at;
        if due {
            self.look_at = now + LOOK_EVERY;
        }
        due
    }

    /// Answers whoever need not wait any longer. `led` is the term this node led when they asked.
    pub fn settle(&mut self, raft: &Raft, led: Option<Term>, out: &mut Vec<(Caller, u64, Reply)>) {
        let (since, commit) = (raft.configured(), raft.log().commit());
        let settled = !raft.membership().is_joint() && since <= commit;
        self.changes.retain(|pending| {
            let leads = led == Some(pending.position.term);
            // Also when it has cost us the lead, as it does a leader that was removed.
            let ours = leads || (pending.position.index <= commit && raft.log().holds(pending.position));
            let reply = match settled && since >= pending.position.index {
                true if ours && pending.is_done(&raft.membership().voters) => {
                    let term = raft.log().term(since).unwrap_or(pending.position.term);
                    Reply::Changed { position: Position::new(since, term) }
                }
                // Whoever leads next goes on with it, or does not know of it.
                _ if !leads => Reply::Unknown,
                true => Reply::Refused(taken_back(raft)),
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

fn taken_back(raft: &Raft) -> Refusal {
    let why = format!("the change was taken back; what holds is {}", raft.membership());
    Refusal::InvalidChange { why }
}
