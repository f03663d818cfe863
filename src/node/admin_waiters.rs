//! Callers that wait for a membership change or a leadership transfer.
//!
//! Neither ends with the entry that began it. A change of voters takes two entries (§6): the joint configuration, which
//! the caller's request appended, and the new one, which the leader appends by itself when the first is committed. It
//! may also be aborted by a third. A transfer leaves no entry at all: its outcome is the next leader. So both are
//! answered by a look at the state of the core, at each turn, and not by an index.
//!
//! An answer is definite only while this node leads the term in which the change began, or if it has seen the change
//! committed. Otherwise another leader completes the change, or has never heard of it, and the answer is *unknown*.

use super::event::Caller;
use crate::api::{Refusal, Reply};
use crate::consensus::Raft;
use crate::types::{NodeId, Position, Term, Time};
use std::collections::BTreeSet;
use std::time::Duration;

/// How often a leader without disk room looks for a transfer target that has some.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Callers that wait for a membership change to complete, or for another node to lead.
///
/// The lists are walked at each turn. That of changes is short: the core refuses a change while one is under way.
///
/// Invariant: changes wait in log order.
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
    /// The nodes that it makes voters, and the nodes that cease to be voters. The set of voters itself would not do:
    /// until the caller is answered, a later change may have moved on from it.
    entering: BTreeSet<NodeId>,
    leaving: BTreeSet<NodeId>,
}

impl PendingChange {
    /// Whether `voters` are the voters that the change leads to. Other voters may have come or gone with a later
    /// change.
    fn is_done(&self, voters: &BTreeSet<NodeId>) -> bool {
        self.entering.is_subset(voters) && self.leaving.is_disjoint(voters)
    }
}

impl AdminWaiters {
    /// Adds a change that was appended at `position`; its configuration is in force: a configuration is used as soon as
    /// it is in the log, committed or not (§6). A change of learners needs no joint configuration, and enters and
    /// removes no voter: it is complete when it is committed.
    pub fn began(&mut self, raft: &Raft, from: Caller, id: u64, position: Position) {
        assert!(raft.log().holds(position), "a change waits for an entry that its leader has appended (§6)");
        let follows = self.changes.last().is_none_or(|last| last.position.index < position.index);
        assert!(follows, "changes wait in log order: an earlier leadership's were answered when it ended");
        let now = raft.membership();
        let leaving = now.outgoing.difference(&now.voters).copied().collect();
        let entering = if now.is_joint() { &now.voters - &now.outgoing } else { BTreeSet::new() };
        self.changes.push(PendingChange { from, id, position, entering, leaving });
    }

    /// Adds a leadership transfer to the node `to`. It ends by itself: the core gives a target that does not take over
    /// a limited time (thesis §3.10), and then leads on.
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

    /// Drops all requests of a caller that is gone. The change or the transfer itself goes on: it is in the log, or
    /// under way between the nodes, and only its answer has no receiver.
    pub fn forget(&mut self, caller: Caller) {
        self.changes.retain(|pending| pending.from != caller);
        self.transfers.retain(|(from, ..)| *from != caller);
    }

    /// Whether to look now for a transfer target whose disk has room. At most once per `CHECK_INTERVAL`: if the
    /// transfer fails, each further one would stop the cluster's writes again for as long.
    pub fn looks_for_room(&mut self, now: Time) -> bool {
        let due = now >= self.next_check;
        if due {
            self.next_check = now + CHECK_INTERVAL;
        }
        due
    }

    /// Answers the requests that are complete or have failed. `led` is the term this node leads.
    ///
    /// A change is complete when no change is under way, the configuration in force is committed and not older than the
    /// change, and the voters are those that it leads to. If all but the last holds, the change was aborted.
    ///
    /// A transfer is over when the core names no target any more and knows a leader. If that is this node, the target
    /// did not take over in time; any other leader will do, since the request was to lose this one.
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
                // The next leader completes the change, or does not know of it. This comes before the refusal below,
                // which only the leader of that term may give: its log alone shows what the change became.
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
