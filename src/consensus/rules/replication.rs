//! Appends, acknowledgments, commits, snapshots and reads (§5.3, §5.4.2, §7, §8, thesis §6.4).
//!
//! An entry is committed when a majority of disks holds it, and no disk of that majority may lose the entry. So an
//! acknowledgment has three conditions. The entry matches the leader's (§5.3). It is durable, and survives a power
//! failure. And the acknowledgment counts only for the term, the disk and the round for which it was sent (§5.4.2).

use super::membership::quorum_configuration;
use crate::consensus::log::Log;
use crate::consensus::message::Round;
use crate::consensus::progress::Progress;
use crate::consensus::quorum;
use crate::types::{Index, Membership, Mutant, Mutants, NodeId, Position, Term};

/// Whether a follower's log holds the entry before an append, `prev` (§5.3). A compacted entry counts as held: it is
/// committed, and so in the log of every later leader (Leader Completeness, §5.4.3).
pub fn holds_prev(log: &Log, prev: Position, mutants: Mutants) -> bool {
    let is_compacted = prev.index < log.base().index && !mutants.breaks(Mutant::CompactedIsConflict);
    is_compacted || log.holds(prev) || mutants.breaks(Mutant::SkipPrevCheck)
}

/// Whether a follower keeps its own entry, of term `held_term`, at the index of a received entry of term `entry_term`:
/// the terms are equal, so the two are the same entry (Log Matching). Only a conflict truncates (§5.3): the append may
/// be old, and later entries may have been acknowledged since.
pub fn entry_agrees(held_term: Option<Term>, entry_term: Term, mutants: Mutants) -> bool {
    held_term == Some(entry_term) && !mutants.breaks(Mutant::TruncateWithoutConflict)
}

/// Whether a truncation lowers the durable index: yes, because the entries that are appended next are not durable yet.
pub fn truncation_lowers_durable(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::KeepDurableOnTruncate)
}

/// The index up to which a follower may acknowledge entries once they are durable: as far as this leader's appends have
/// shown the logs to match (§5.3). After that index the log may hold another leader's entries.
pub fn verified_index(log: &Log, matched_prefix: Index, mutants: Mutants) -> Index {
    if mutants.breaks(Mutant::AckUnmatched) { log.last().index } else { matched_prefix }
}

/// The index that a follower may acknowledge: up to `verified`, as far as the entries are durable. The leader counts an
/// acknowledged copy as one that cannot be lost. An installed snapshot is acknowledged as the base of the log, once the
/// journal has adopted it.
pub fn ack_index(log: &Log, verified: Index, mutants: Mutants) -> Index {
    let acks_before_sync = mutants.breaks(Mutant::AckBeforeSync)
        || (mutants.breaks(Mutant::AckSnapshotBeforeSync) && verified == log.base().index);
    if acks_before_sync { verified } else { verified.min(log.durable()) }
}

/// A follower's commit index after its leader has reported `leader_commit`: no further than the log is known to match
/// the leader's (§5.3). Another leader's entries may be at the same indexes.
pub fn follower_commit(log: &Log, matched_prefix: Index, leader_commit: Index, mutants: Mutants) -> Index {
    let matched_upto = if mutants.breaks(Mutant::CommitUnmatched) { log.last().index } else { matched_prefix };
    log.commit().max(leader_commit.min(matched_upto))
}

/// The index up to which the leader counts its own copy. Like any other copy it counts as far as it is durable, and
/// only once it includes the entry that names its disk, at `copy_counts_from`.
///
/// A cluster of one node has no follower to wait for, and would otherwise answer before its only sync (etcd#14370).
pub fn own_counted_index(log: &Log, copy_counts_from: Option<Index>, mutants: Mutants) -> Index {
    if mutants.breaks(Mutant::CountSelfBeforeSync) {
        return log.last().index;
    }
    if copy_counts_from.is_some_and(|from| log.durable() >= from) { log.durable() } else { Index::ZERO }
}

/// The highest index that a quorum of the configuration holds, and in a joint one a majority of each half (§5.3, §6).
pub fn quorum_index(
    deciding_configuration: &Membership,
    held_index: impl Fn(NodeId) -> Index,
    mutants: Mutants,
) -> Index {
    if mutants.breaks(Mutant::MinorityCommits) {
        return deciding_configuration.all_voters().map(held_index).max().unwrap_or_default();
    }
    quorum::highest_held_index(&quorum_configuration(deciding_configuration, mutants), held_index)
}

/// Whether an entry commits by counting copies: only an entry of the current term does. A majority may hold an entry of
/// an earlier term, and another leader may still overwrite it (§5.4.2, Figure 8).
///
/// In Figure 8 a leader commits an entry of term 2 by counting copies in term 4, and S5 overwrites it in term 5 with an
/// entry of term 3: the log of S5 ends in a later term, so that a majority could vote for S5.
pub fn may_commit(entry_term: Option<Term>, current_term: Term, mutants: Mutants) -> bool {
    entry_term == Some(current_term) || mutants.breaks(Mutant::CommitEarlierTerms)
}

/// Whether a new leader appends a no-op: entries of earlier terms commit with it (§5.4.2, §8). In an empty log, the
/// first configuration replaces the no-op.
///
/// Without a no-op, a leader without clients would never commit the entries of its predecessor, and could serve no
/// read.
pub fn needs_noop(last: Position, mutants: Mutants) -> bool {
    last != Position::ZERO && !mutants.breaks(Mutant::SkipNoop)
}

/// Whether the leader's first entry of its term is committed. Before that the leader cannot know the commit index, so
/// it neither confirms reads nor changes the membership (§8, thesis §6.4).
pub fn term_start_committed(commit: Index, term_start: Index, mutants: Mutants) -> bool {
    commit >= term_start || mutants.breaks(Mutant::SkipNoop) || mutants.breaks(Mutant::ReadBeforeNoop)
}

/// Whether a follower's answer to `answered_round` confirms the leader for the reads of `round`: not if it answers an
/// earlier round, which began before the reads (thesis §6.4).
pub fn round_confirms(answered_round: Round, round: Round, mutants: Mutants) -> bool {
    answered_round >= round || (mutants.breaks(Mutant::ReadAnyRound) && answered_round.0 > 0)
}

/// Whether the reads of a round may be answered: a quorum has confirmed this leader since the reads began (thesis
/// §6.4). Otherwise another leader, unknown to this one, may have been elected and have committed writes.
pub fn reads_confirmed(membership: &Membership, confirms: impl Fn(NodeId) -> bool, mutants: Mutants) -> bool {
    mutants.breaks(Mutant::ReadWithoutRound) || quorum::decides(membership, confirms)
}

/// Whether a rejection proves that the follower has lost acknowledged entries: the `prev` of the probe was the last
/// position acknowledged by then, and nothing was acknowledged since. A late rejection belongs to an earlier probe, or
/// is below the last acknowledged position.
///
/// A rejection alone proves nothing: only the number of the probe shows that it was sent after the acknowledgment.
pub fn rejection_shows_loss(progress: &Progress, rejected_index: Index, probe_number: u64, mutants: Mutants) -> bool {
    let is_current_probe = probe_number != 0 && probe_number == progress.probe_number && progress.lost_upto.is_none();
    let was_acknowledged = rejected_index == progress.matched && progress.matched > Index::ZERO;
    is_current_probe && was_acknowledged && !mutants.breaks(Mutant::IgnoreLost)
}

/// Whether a follower that lost acknowledged entries is sent entries only once it has durably promised to vote as if it
/// held them. Otherwise it could elect a leader without these entries, which may be committed by its acknowledgment.
pub fn promise_precedes_entries(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::FeedBeforePromise)
}

/// Whether a follower is sent a snapshot: the entry before the `next` one to send is compacted, so that no append can
/// start there (§7).
pub fn needs_snapshot(next: Index, base: Index, mutants: Mutants) -> bool {
    let ignored_missing_entries = u64::from(mutants.breaks(Mutant::ShipOneTooLate));
    next.prev().0 + ignored_missing_entries < base.0
}

/// Whether a follower accepts the chunks of its leader's snapshot: yes, because it would otherwise lag behind forever
/// (§7).
pub fn accepts_snapshot_chunks(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::IgnoreSnapshots)
}

/// Whether a snapshot up to `index` is old: the log has committed at least as many entries, and installing the snapshot
/// could lose entries.
pub fn snapshot_is_old(index: Index, commit: Index, mutants: Mutants) -> bool {
    index <= commit && !mutants.breaks(Mutant::InstallOldSnapshots)
}

/// Whether a log is kept when a snapshot up to `base` is installed: a log that holds that position keeps the entries
/// after it (Figure 13, rule 6). Any other log is replaced as a whole (rule 7): its entry at that index was never
/// committed.
///
/// A node must not drop the entries after the snapshot, which may be acknowledged and counted. A conflicting log must
/// not be kept, or the leader would send the snapshot again and again (hashicorp/raft#697).
pub fn snapshot_keeps_log(log: &Log, base: Position, mutants: Mutants) -> bool {
    let keeps_conflicting_log = mutants.breaks(Mutant::KeepConflictingLog) && base.index <= log.last().index;
    log.holds(base) || keeps_conflicting_log
}

/// Whether a follower adopts the cluster time of a heartbeat, not only that of an entry: a majority then knows the time
/// of each round of reads, and the next leader's clock does not fall behind that time.
pub fn heartbeat_sets_time(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::TimeFromEntriesAlone)
}
