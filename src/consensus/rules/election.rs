//! Votes, terms, and when a node campaigns or steps down (§5.1, §5.2, §5.4.1, thesis §4.2.3, §6.2, §9.6).
//!
//! Two promises make a leader unique and complete. A voter votes once in a term, so that no two candidates of a term
//! have a majority. And it votes for no log behind its own, so that a candidate with a majority holds every committed
//! entry: one of its voters has it. Each rule below protects one of these promises from a way in which a process or a
//! disk can forget it, or keeps the cluster from changing leaders without a reason.

use crate::consensus::message::{Message, VoteKind};
use crate::types::{DiskId, Mutant, Mutants, Position, Term, Time, Vote};

/// How a vote counts, by whether a log names the disk that it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VoteWeight {
    /// The log names its disk: its votes and copies count.
    Counted,
    /// The node is a founder, and its log does not name its disk yet. Its log may be empty because no log has begun, or
    /// because the disk was emptied. Its vote counts only where every voter grants its vote, or where the log is to
    /// begin.
    Founder,
    /// The log names another disk for its id, or does not know the id: it was read only up to a point before the node
    /// was added. The node neither campaigns nor votes, nor counts its own copy, whatever that log says.
    None,
}

/// Whether the candidate's log is at least as up to date as the voter's: its last term is later, or the same and its
/// log is at least as long (§5.4.1). A leader then holds every committed entry, because one of the voters of any quorum
/// does.
///
/// The log counts as it is in memory, durable or not. A candidate waits for its disk before it asks, and a voter that
/// compares with more than its disk holds only rejects more candidates.
pub fn log_up_to_date(ask: VoteKind, candidate: Position, own: Position, mutants: Mutants) -> bool {
    candidate >= own || mutants.breaks(Mutant::VoteForShorterLog) || transfer_bypasses_vote(ask, mutants)
}

/// Whether a log reaches the position that this node acknowledged and then lost, if there is one. The acknowledgment
/// may have committed the entries, so a leader needs them, and so does this node to become leader.
///
/// Compared like two logs, by term first: it stands for the end of the log that this node would have if its disk had
/// kept it.
pub fn reaches_promised(last: Position, promised: Position, mutants: Mutants) -> bool {
    promised <= last || mutants.breaks(Mutant::ForgetPromised)
}

/// Whether this term's vote may go to the candidate: it was not given yet, or to the same candidate (§5.2). The same id
/// on another disk is another candidate.
///
/// A pre-vote asks for the next term, in which no vote is given yet; the caller does not look at this answer then.
pub fn vote_is_free(ask: VoteKind, given: Option<Vote>, candidate: Vote, mutants: Mutants) -> bool {
    let same =
        |vote: Vote| vote == candidate || (vote.node == candidate.node && mutants.breaks(Mutant::VoteForAnyDisk));
    given.is_none_or(same) || mutants.breaks(Mutant::VoteTwice) || transfer_bypasses_vote(ask, mutants)
}

/// Whether a vote agrees with the one recorded before: a node has one vote a term (§5.2). It is asserted, unless a test
/// breaks one of the rules that it follows from.
pub fn is_only_vote(given: Option<Vote>, candidate: Vote, mutants: Mutants) -> bool {
    let broken = mutants.breaks(Mutant::VoteTwice)
        || mutants.breaks(Mutant::HandoverBypassesVote)
        || mutants.breaks(Mutant::VoteForAnyDisk);
    broken || given.is_none_or(|vote| vote == candidate)
}

/// Whether a leadership transfer lifts the rules of voting. It never does: the leader that requested it may be deposed
/// by the time of the vote (thesis §3.10).
fn transfer_bypasses_vote(ask: VoteKind, mutants: Mutants) -> bool {
    ask == VoteKind::Transfer && mutants.breaks(Mutant::HandoverBypassesVote)
}

/// Whether a new term is written to disk before a message is sent in it (§5.1). A node that forgot the term could vote
/// in it again.
///
/// (A restarted node would also be in an earlier term than its own messages, and accept a leader that it has rejected.)
pub fn persists_term(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::ForgetTerm)
}

/// Whether a promise waits until everything written before it is durable. A vote does, because a restarted voter must
/// not vote again in that term (§5.2). A vote request does, because it states the end of the candidate's log and
/// implies the candidate's own vote.
pub fn waits_for_disk(promise: &Message, mutants: Mutants) -> bool {
    match promise {
        Message::RequestVoteResponse { .. } => !mutants.breaks(Mutant::VoteBeforeSync),
        Message::RequestVote { .. } => !mutants.breaks(Mutant::AskBeforeSync),
        _ => true,
    }
}

/// The kind of vote that a campaign requests first: a pre-vote, so that a node that cannot win does not raise the term
/// of the others and depose their leader (thesis §9.6).
pub fn first_vote_kind(mutants: Mutants) -> VoteKind {
    if mutants.breaks(Mutant::NoPreVote) { VoteKind::Vote } else { VoteKind::PreVote }
}

/// Whether contact with a leader makes a voter ignore a candidate (thesis §4.2.3). Otherwise a removed server, which
/// receives no heartbeats, would depose one leader after another.
///
/// It applies to terms that are higher than the voter's, and must come before the term is adopted: the term alone would
/// depose the leader.
pub fn contact_shields_leader(has_recent_leader: bool, mutants: Mutants) -> bool {
    has_recent_leader && !mutants.breaks(Mutant::NoPreVote)
}

/// Whether a vote of an earlier term counts. It never does: the voter may have voted for another candidate in this term
/// (§5.2).
pub fn stale_vote_counts(mutants: Mutants) -> bool {
    mutants.breaks(Mutant::CountStaleVotes)
}

/// Whether a candidate counts its own vote, by its disk like any other: the configuration names this disk for it, or
/// disks have no ids.
///
/// In contrast to [`unnamed_weight`] this looks at the configuration in force only, as for every other voter.
pub fn own_vote_counts(named: Option<DiskId>, disk: Option<DiskId>, mutants: Mutants) -> bool {
    disk.is_none() || named == disk || mutants.breaks(Mutant::VoteUnnamed)
}

/// How a candidate counts a voter's vote, by the voter's disk. If the configuration names the disk, the voter was not
/// emptied since, and everything that it acknowledged before is in this log before the entry that names it. If the
/// configuration names no disk, the voter is a founder that may have been emptied. `void` is its own report that it
/// may.
pub fn voter_weight(named: Option<DiskId>, disk: Option<DiskId>, void: bool, mutants: Mutants) -> VoteWeight {
    match (named, disk) {
        _ if super::membership::any_disk_counts(mutants) => VoteWeight::Counted,
        (Some(named), Some(disk)) if named == disk => VoteWeight::Counted,
        (Some(_), Some(_)) => VoteWeight::None,
        (None, Some(_)) => VoteWeight::Founder,
        (_, None) if void => VoteWeight::Founder,
        (_, None) => VoteWeight::Counted,
    }
}

/// How a node's own vote counts if no configuration in its log names its disk. `founds` is whether it is a founder that
/// the log knows as a voter without a disk. Any other node may have lost the entries that it acknowledged under its id.
pub fn unnamed_weight(founds: bool, mutants: Mutants) -> VoteWeight {
    match founds {
        _ if mutants.breaks(Mutant::NoAmnesiaGuard) => VoteWeight::Counted,
        true => VoteWeight::Founder,
        false if mutants.breaks(Mutant::VoteUnnamed) => VoteWeight::Counted,
        false => VoteWeight::None,
    }
}

/// Whether a log has never held anything: its node is new, or has lost everything.
///
/// Not the same as a log without entries: a log that was compacted up to its end has a base.
pub fn log_is_empty(last: Position, mutants: Mutants) -> bool {
    last == Position::ZERO && !mutants.breaks(Mutant::NoAmnesiaGuard)
}

/// Whether a peer's reminder binds this node: it adopts the term and the position that its disk is known to have
/// promised. A disk that holds less is an older copy, whose node would break promises that others rely on.
pub fn reminder_binds(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::IgnoreReminders)
}

/// Whether a candidate adopts the cluster time that a voter reports: it comes from an earlier term. A majority received
/// the time of each round of reads, and one node of that majority votes, so that the clock of a new leader does not
/// fall behind any such round.
///
/// A pre-candidate is still in the term of the last leader: it adopts that leader's time with the votes of the next
/// term.
pub fn adopts_voter_time(reported: Term, current: Term, mutants: Mutants) -> bool {
    reported < current && !mutants.breaks(Mutant::IgnoreVotersTime)
}

/// Whether a leader keeps leading: a quorum responds (thesis §6.2). Otherwise its clients would wait for a leader that
/// cannot commit, while another one may be elected.
pub fn keeps_leadership(quorum_responds: bool, mutants: Mutants) -> bool {
    quorum_responds || mutants.breaks(Mutant::NoPreVote)
}

/// Whether a leader yields: it could not commit with the nodes that respond, and another leader may be able to.
pub fn yields_leadership(cannot_commit: bool, mutants: Mutants) -> bool {
    cannot_commit && !mutants.breaks(Mutant::NeverYield)
}

/// Whether a founder that holds a log vetoes the beginning of another, unless the operator forces it: the first log may
/// hold acknowledged entries.
pub fn holder_vetoes(forced: bool, mutants: Mutants) -> bool {
    !forced && !mutants.breaks(Mutant::FoundOverHolder)
}

/// Whether silent founders have been waited for long enough, each of which may hold a log: until `until`, unless the
/// operator forces the beginning.
pub fn founding_wait_is_over(forced: bool, now: Time, until: Time, mutants: Mutants) -> bool {
    forced || now >= until || mutants.breaks(Mutant::FoundOverHolder)
}
