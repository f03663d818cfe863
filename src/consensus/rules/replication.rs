//! Appends, acknowledgments, commits, snapshots and reads (§5.3, §5.4.2, §7, §8, thesis §6.4).
//!
//! An entry is committed when a majority of disks holds it, and nothing may ever take it from that majority again. So
//! the rules ask three things of an acknowledgment: that the entry is the leader's (matched, §5.3), that a power
//! failure leaves it there (durable), and that it is counted for the entry it was given for (the term of §5.4.2, the
//! disk, the round).

use super::membership::counted;
use crate::consensus::log::Log;
use crate::consensus::message::Round;
use crate::consensus::progress::Progress;
use crate::consensus::quorum;
use crate::types::{Index, Membership, Mutant, Mutants, NodeId, Position, Term};

/// Whether a follower's log holds the entry before an append, `prev` (§5.3). A compacted entry is held too: it is
/// committed, and so in the log of every later leader (Leader Completeness, §5.4.3).
pub fn holds_prev(log: &Log, prev: Position, mutants: Mutants) -> bool {
    let compacted = prev.index < log.base().index && !mutants.breaks(Mutant::CompactedIsConflict);
    compacted || log.holds(prev) || mutants.breaks(Mutant::SkipPrevCheck)
}

/// Whether a follower keeps its own entry, of term `own`, at the index of a received entry of term `term`: they are the
/// same entry (Log Matching). Only a conflict truncates (§5.3): an append may be old, and the entries after it
/// acknowledged since.
pub fn entry_agrees(own: Option<Term>, term: Term, mutants: Mutants) -> bool {
    own == Some(term) && !mutants.breaks(Mutant::TruncateWithoutConflict)
}

/// Whether a truncation lowers the durable index. The entries that follow it are not written yet.
pub fn truncation_lowers_durable(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::KeepDurableOnTruncate)
}

/// The index up to which a follower may acknowledge entries once they are durable: as far as this leader's appends have
/// shown the logs to match (§5.3). The log may continue with another leader's entries.
pub fn verified_index(log: &Log, matched_prefix: Index, mutants: Mutants) -> Index {
    if mutants.breaks(Mutant::AckUnmatched) { log.last().index } else { matched_prefix }
}

/// The index that a follower may acknowledge: of the `verified` entries those that are durable. The leader counts the
/// copy as if it could not be lost. An installed snapshot is acknowledged as the base of the log, once the journal has
/// adopted it.
pub fn ack_index(log: &Log, verified: Index, mutants: Mutants) -> Index {
    let eager = mutants.breaks(Mutant::AckBeforeSync)
        || (mutants.breaks(Mutant::AckSnapshotBeforeSync) && verified == log.base().index);
    if eager { verified } else { verified.min(log.durable()) }
}

/// A follower's commit index after its leader has reported `leader_commit`: no further than the log is known to match
/// the leader's (§5.3). Another leader's entries may be at the same indexes.
pub fn follower_commit(log: &Log, matched_prefix: Index, leader_commit: Index, mutants: Mutants) -> Index {
    let reach = if mutants.breaks(Mutant::CommitUnmatched) { log.last().index } else { matched_prefix };
    log.commit().max(leader_commit.min(reach))
}

/// The index up to which the leader counts its own copy. It counts like any other: what is durable, and only once that
/// includes the entry that names its disk, at `counted_from`.
///
/// The driver of a cluster of one node has no follower to wait for, and would otherwise answer before its only sync
/// (etcd#14370).
pub fn own_copy(log: &Log, counted_from: Option<Index>, mutants: Mutants) -> Index {
    if mutants.breaks(Mutant::CountSelfBeforeSync) {
        return log.last().index;
    }
    if counted_from.is_some_and(|from| log.durable() >= from) { log.durable() } else { Index::ZERO }
}

/// The highest index that a quorum of the configuration holds, and in a joint one a majority of each half (§5.3, §6).
pub fn quorum_index(deciding: &Membership, by: impl Fn(NodeId) -> Index, mutants: Mutants) -> Index {
    if mutants.breaks(Mutant::MinorityCommits) {
        return deciding.all_voters().map(by).max().unwrap_or_default();
    }
    quorum::held(&counted(deciding, mutants), by)
}

/// Whether an entry commits by counting copies: only one of the current term does. A majority may hold an entry of an
/// earlier term, and another leader may still overwrite it (§5.4.2, Figure 8).
///
/// In Figure 8 a leader commits an entry of term 2 by counting copies in term 4, and S5 overwrites it in term 5 with an
/// entry of term 3: its last term was the later one, so that a majority could vote for it.
pub fn may_commit(entry: Option<Term>, current: Term, mutants: Mutants) -> bool {
    entry == Some(current) || mutants.breaks(Mutant::CommitEarlierTerms)
}

/// Whether a new leader appends a no-op: entries of earlier terms commit with it (§5.4.2, §8). The configuration that
/// begins an empty log takes its place.
///
/// Without it a leader without clients would never commit what its predecessor left, and could serve no read.
pub fn needs_noop(last: Position, mutants: Mutants) -> bool {
    last != Position::ZERO && !mutants.breaks(Mutant::SkipNoop)
}

/// Whether the leader's first entry of its term is committed. Before that it cannot tell what is committed, so it
/// neither confirms reads nor changes the membership (§8, thesis §6.4).
pub fn term_start_committed(commit: Index, term_start: Index, mutants: Mutants) -> bool {
    commit >= term_start || mutants.breaks(Mutant::SkipNoop) || mutants.breaks(Mutant::ReadBeforeNoop)
}

/// Whether a follower's answer to the round `answered` confirms the leader for the reads of `round`: not if the round
/// began before the reads (thesis §6.4).
pub fn round_confirms(answered: Round, round: Round, mutants: Mutants) -> bool {
    answered >= round || (mutants.breaks(Mutant::ReadAnyRound) && answered.0 > 0)
}

/// Whether the reads of a round may be answered: a quorum has confirmed this leader since they began (thesis §6.4).
/// Another leader may have been elected unseen, and have committed writes.
pub fn reads_confirmed(membership: &Membership, confirms: impl Fn(NodeId) -> bool, mutants: Mutants) -> bool {
    mutants.breaks(Mutant::ReadWithoutRound) || quorum::decides(membership, confirms)
}

/// Whether a rejection proves that the follower has lost acknowledged entries: the `prev` of the probe was the last
/// position acknowledged by then, and nothing was acknowledged since. A late rejection belongs to an earlier probe, or
/// lies below the last position acknowledged now.
///
/// A rejection alone shows nothing. Only the number of the probe ties it to a moment after the acknowledgment.
pub fn shows_loss(progress: &Progress, refused: Index, probe: u64, mutants: Mutants) -> bool {
    let current = probe != 0 && probe == progress.probe && progress.has_lost.is_none();
    let acknowledged = refused == progress.matched && progress.matched > Index::ZERO;
    current && acknowledged && !mutants.breaks(Mutant::IgnoreLost)
}

/// Whether a follower that lost acknowledged entries is sent entries only once it has durably promised to vote as if it
/// held them. Otherwise it could elect a leader without them: they may be committed by its acknowledgment.
pub fn promise_precedes_entries(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::FeedBeforePromise)
}

/// Whether a follower is sent a snapshot: the entry before the `next` one to send is compacted, so that no append can
/// begin after it (§7).
pub fn needs_snapshot(next: Index, base: Index, mutants: Mutants) -> bool {
    let late = u64::from(mutants.breaks(Mutant::ShipOneTooLate));
    next.prev().0 + late < base.0
}

/// Whether a follower accepts the chunks of its leader's snapshot: without them it would lag behind forever (§7).
pub fn accepts_chunks(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::IgnoreSnapshots)
}

/// Whether a snapshot up to `index` is old: the log has committed as much, and entries after it would be lost.
pub fn snapshot_is_old(index: Index, commit: Index, mutants: Mutants) -> bool {
    index <= commit && !mutants.breaks(Mutant::InstallOldSnapshots)
}

/// Whether a log stays when a snapshot up to `base` is installed: it holds that position, and keeps the entries after
/// it (Figure 13, rule 6). Any other log is replaced as a whole (rule 7): its entry at that index was never committed.
///
/// The entries after the snapshot may be acknowledged and counted, so that a node must not drop them. A conflicting log
/// must not stay, or the leader would send the snapshot again and again (hashicorp/raft#697).
pub fn snapshot_keeps_log(log: &Log, base: Position, mutants: Mutants) -> bool {
    let broken = mutants.breaks(Mutant::KeepConflictingLog) && base.index <= log.last().index;
    log.holds(base) || broken
}

/// Whether a follower adopts the cluster time of a heartbeat, not only that of an entry: a majority then knows the time
/// of each round of reads, and the next leader's clock does not fall behind it.
pub fn heartbeat_sets_time(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::TimeFromEntriesAlone)
}
