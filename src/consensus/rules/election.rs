//! Votes, terms, and when a node campaigns or steps down (§5.1, §5.2, §5.4.1, thesis §4.2.3, §6.2, §9.6).
//!
//! Two promises make a leader unique and complete. A voter votes once in a term, so that no two candidates of a term
//! have a majority. And a voter does not vote for a log behind its own, so that a candidate with a majority holds every
//! committed entry: one of its voters holds it. Each rule below keeps a process or a disk from breaking one of these
//! promises, or keeps the cluster from changing leaders without a reason.

use crate::consensus::message::{Message, VoteKind};
use crate::types::{DiskId, Mutant, Mutants, Position, Term, Time, Vote};

/// How a vote counts, by whether a log names the disk that it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VoteWeight {
    /// The log names the node's disk: its votes and copies count.
    Counted,
    /// The node is a founder, and its log does not name its disk yet. Its log may be empty because no log has begun, or
    /// because the disk was emptied. Its vote counts only if every voter grants its vote, or in the election that
    /// begins a log.
    Founder,
    /// The log names another disk for the node's id, or does not know the id, perhaps because the node has not received
    /// the entry that adds it. The node neither campaigns nor votes, nor counts its own copy.
    None,
}

/// Whether the candidate's log is at least as up to date as the voter's: its last term is later, or the same and its
/// log is at least as long (§5.4.1). So a leader holds every committed entry: one of the voters of any quorum holds the
/// entry.
///
/// The voter compares all entries of its log, durable or not: a longer log only rejects more candidates. The
/// candidate's log is durable before it requests votes.
pub fn log_up_to_date(kind: VoteKind, candidate: Position, own: Position, mutants: Mutants) -> bool {
    candidate >= own || mutants.breaks(Mutant::VoteForShorterLog) || transfer_lifts_voting_rules(kind, mutants)
}

/// Whether a log reaches the position that this node acknowledged and then lost, if there is one. The acknowledgment
/// may have committed the lost entries, so every later leader must hold them.
///
/// The position is compared like the end of a log, by term first: without the loss, this node's log would end at that
/// position or later.
pub fn reaches_promised_position(last: Position, promised: Position, mutants: Mutants) -> bool {
    promised <= last || mutants.breaks(Mutant::ForgetPromised)
}

/// Whether this term's vote may go to the candidate: the node has not voted yet, or for the same candidate (§5.2). The
/// same id on another disk is another candidate.
///
/// A pre-vote is for the next term, in which the node has not voted yet: the caller ignores the result then.
pub fn vote_is_free(kind: VoteKind, recorded: Option<Vote>, candidate: Vote, mutants: Mutants) -> bool {
    let is_same_candidate =
        |vote: Vote| vote == candidate || (vote.node == candidate.node && mutants.breaks(Mutant::VoteForAnyDisk));
    recorded.is_none_or(is_same_candidate)
        || mutants.breaks(Mutant::VoteTwice)
        || transfer_lifts_voting_rules(kind, mutants)
}

/// Whether a vote agrees with the one recorded before: a node has one vote a term (§5.2). The caller asserts this,
/// unless a test breaks one of the rules that ensure the agreement.
pub fn agrees_with_recorded_vote(recorded: Option<Vote>, candidate: Vote, mutants: Mutants) -> bool {
    let mutant_allows_second_vote = mutants.breaks(Mutant::VoteTwice)
        || mutants.breaks(Mutant::HandoverBypassesVote)
        || mutants.breaks(Mutant::VoteForAnyDisk);
    mutant_allows_second_vote || recorded.is_none_or(|vote| vote == candidate)
}

/// Whether a leadership transfer lifts the rules of voting. It never does: the leader that requested the transfer may
/// be deposed by the time of the vote (thesis §3.10).
fn transfer_lifts_voting_rules(kind: VoteKind, mutants: Mutants) -> bool {
    kind == VoteKind::Transfer && mutants.breaks(Mutant::HandoverBypassesVote)
}

/// Whether a new term is written to disk before a message is sent in it (§5.1). A node that lost the term in a crash
/// could vote in it again.
///
/// A restarted node would also accept a leader of a term that it has already left.
pub fn persists_term(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::ForgetTerm)
}

/// Whether a message that makes a promise waits until all state changed before it is durable. A vote does, because a
/// restarted voter must not vote again in that term (§5.2). A vote request does, because it states the end of the
/// candidate's log and implies the candidate's own vote.
pub fn waits_for_disk(message: &Message, mutants: Mutants) -> bool {
    match message {
        Message::RequestVoteResponse { .. } => !mutants.breaks(Mutant::VoteBeforeSync),
        Message::RequestVote { .. } => !mutants.breaks(Mutant::AskBeforeSync),
        _ => true,
    }
}

/// The kind of vote that a campaign requests first: a pre-vote, so that a node that cannot win does not raise the term
/// of other nodes and depose their leader (thesis §9.6).
pub fn first_vote_kind(mutants: Mutants) -> VoteKind {
    if mutants.breaks(Mutant::NoPreVote) { VoteKind::Vote } else { VoteKind::PreVote }
}

/// Whether contact with a leader makes a voter ignore a candidate (thesis §4.2.3). Otherwise a removed server, which
/// receives no heartbeats, would depose one leader after another.
///
/// The check applies to terms higher than the voter's, and must precede the adoption of the term: a higher term alone
/// would depose the leader.
pub fn contact_shields_leader(has_recent_leader: bool, mutants: Mutants) -> bool {
    has_recent_leader && !mutants.breaks(Mutant::NoPreVote)
}

/// Whether a vote of an earlier term counts: never, because the voter may have voted for another candidate in this term
/// (§5.2).
pub fn stale_vote_counts(mutants: Mutants) -> bool {
    mutants.breaks(Mutant::CountStaleVotes)
}

/// Whether a candidate counts its own vote, by its disk like any other: the configuration names this disk for it, or
/// disks have no ids.
///
/// Only the configuration in force matters, as for every other voter; [`unnamed_disk_weight`] uses earlier
/// configurations too.
pub fn own_vote_counts(named_disk: Option<DiskId>, disk: Option<DiskId>, mutants: Mutants) -> bool {
    disk.is_none() || named_disk == disk || mutants.breaks(Mutant::VoteUnnamed)
}

/// How a candidate counts a voter's vote, by the voter's disk. If the configuration names the disk, the disk was not
/// emptied since then. If the configuration names no disk, the voter is a founder whose disk may have been emptied.
/// `maybe_emptied` is the voter's own report.
pub fn voter_weight(
    named_disk: Option<DiskId>,
    disk: Option<DiskId>,
    maybe_emptied: bool,
    mutants: Mutants,
) -> VoteWeight {
    match (named_disk, disk) {
        _ if super::membership::any_disk_counts(mutants) => VoteWeight::Counted,
        (Some(named), Some(disk)) if named == disk => VoteWeight::Counted,
        (Some(_), Some(_)) => VoteWeight::None,
        (None, Some(_)) => VoteWeight::Founder,
        (_, None) if maybe_emptied => VoteWeight::Founder,
        (_, None) => VoteWeight::Counted,
    }
}

/// How a node's own vote counts if no configuration in its log names its disk. `is_founder` is whether the node is a
/// founder that the log lists as a voter without a disk. The disk of any other node may have been emptied after the
/// node acknowledged entries.
pub fn unnamed_disk_weight(is_founder: bool, mutants: Mutants) -> VoteWeight {
    match is_founder {
        _ if mutants.breaks(Mutant::NoAmnesiaGuard) => VoteWeight::Counted,
        true => VoteWeight::Founder,
        false if mutants.breaks(Mutant::VoteUnnamed) => VoteWeight::Counted,
        false => VoteWeight::None,
    }
}

/// Whether a log has never held an entry: its node is new, or its disk was emptied.
///
/// A log that was compacted up to its end has no entries either, but has a base.
pub fn log_is_empty(last: Position, mutants: Mutants) -> bool {
    last == Position::ZERO && !mutants.breaks(Mutant::NoAmnesiaGuard)
}

/// Whether a node adopts the term and the position that a peer has recorded for its disk ([`Message::RecordedClaim`]).
/// A disk that holds less is an older copy, and its node would break promises that other nodes rely on.
pub fn adopts_recorded_claim(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::IgnoreReminders)
}

/// Whether a candidate adopts the cluster time that a voter reports: only if a leader of an earlier term counted that
/// time. A majority received the time of each round of reads, and one node of that majority votes, so that the clock of
/// a new leader does not fall behind any such round.
///
/// A pre-candidate may still be in the term of the last leader: it adopts that leader's time with the votes of the next
/// term.
pub fn adopts_voter_time(reported_term: Term, current_term: Term, mutants: Mutants) -> bool {
    reported_term < current_term && !mutants.breaks(Mutant::IgnoreVotersTime)
}

/// Whether a leader remains leader: a quorum responds (thesis §6.2). Otherwise its clients would wait for a leader that
/// cannot commit, while another one may be elected.
pub fn keeps_leadership(quorum_responds: bool, mutants: Mutants) -> bool {
    quorum_responds || mutants.breaks(Mutant::NoPreVote)
}

/// Whether a leader steps down because the nodes that respond are not enough to commit: another leader may reach other
/// nodes.
pub fn yields_leadership(is_commit_stalled: bool, mutants: Mutants) -> bool {
    is_commit_stalled && !mutants.breaks(Mutant::NeverYield)
}

/// Whether a founder that holds a log prevents another log from beginning: yes, because its log may hold acknowledged
/// entries, unless the operator forces the founding.
pub fn log_holder_vetoes(is_forced: bool, mutants: Mutants) -> bool {
    !is_forced && !mutants.breaks(Mutant::FoundOverHolder)
}

/// Whether the wait for silent founders is over, each of which may hold a log: from `wait_until` on, or if the operator
/// forces the founding.
pub fn founding_wait_is_over(is_forced: bool, now: Time, wait_until: Time, mutants: Mutants) -> bool {
    is_forced || now >= wait_until || mutants.breaks(Mutant::FoundOverHolder)
}
