//! Configurations: which one decides, how it changes, and which disks and logs count (§6, thesis §4).
//!
//! Safety of a change comes down to one sentence: any two quorums that may be in use at the same time share a voter. In
//! use is not only the latest configuration, but each one that some node may still have as the latest in its log. The
//! rules bound how many of these there are (one change at a time, the next only after the commit of the last) and how
//! far apart two neighbors can be (joint, or the same voters).

use crate::consensus::message::Message;
use crate::consensus::peer_class::{PeerClass, Refused};
use crate::consensus::progress::Progress;
use crate::types::{Index, LogId, Membership, Mutant, Mutants, Position};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// The configuration whose quorums decide: `membership` itself. Learners are not counted, and a joint configuration
/// needs a majority of each half (§6).
///
/// Commits and elections go through this one function: a difference between the two would be a quorum that does not
/// meet another.
pub fn counted(membership: &Membership, mutants: Mutants) -> Cow<'_, Membership> {
    if mutants.breaks(Mutant::JointByNewHalf) {
        return Cow::Owned(Membership { outgoing: BTreeSet::new(), ..membership.clone() });
    }
    if mutants.breaks(Mutant::LearnersCount) {
        return Cow::Owned(Membership { voters: membership.members.keys().copied().collect(), ..membership.clone() });
    }
    Cow::Borrowed(membership)
}

/// The configuration that decides commits: the latest in the log, committed or not (§6). The one `before` it would let
/// an entry commit by a majority that no longer decides elections.
pub fn deciding<'a>(
    current: &'a Membership,
    before: Option<&'a Membership>,
    committed: bool,
    mutants: Mutants,
) -> &'a Membership {
    let late = mutants.breaks(Mutant::ConfigAtCommit) && !committed;
    before.filter(|_| late).unwrap_or(current)
}

/// Whether a change may begin: the leader's first entry of its term is committed, and so is the previous change, with
/// its joint configuration left. Two leaders that changed the same configuration, each without knowing of the other,
/// could reach disjoint majorities.
pub fn change_may_begin(term_committed: bool, settled: bool, mutants: Mutants) -> bool {
    (term_committed || mutants.breaks(Mutant::ChangeBeforeNoop)) && (settled || mutants.breaks(Mutant::StackChanges))
}

/// The configuration to append for a change to `next`: a joint one stays joint, because the majorities of the old and
/// of the new voters may be disjoint (§6).
///
/// Two majorities of 1, 2, 3 and of 3, 4, 5 need not meet: 1 and 2 elect one leader, 4 and 5 another, in the same term.
pub fn transition(next: Membership, mutants: Mutants) -> Membership {
    if mutants.breaks(Mutant::ChangeWithoutJoint) { next.settled() } else { next }
}

/// Whether a change whose new voters do not respond is reverted. Nothing could commit without them, not even another
/// change.
pub fn reverts_stuck_change(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::NeverTakeBack)
}

/// Whether a follower holds the entry that names its disk, so that it may become a voter: otherwise it would count in
/// the quorum with a disk that could not be told from another.
pub fn holds_name_of_disk(follower: Option<&Progress>, mutants: Mutants) -> bool {
    let holds = |progress: &Progress| progress.counted_from.is_some_and(|from| progress.matched >= from);
    mutants.breaks(Mutant::PromoteUnnamed) || follower.is_some_and(holds)
}

/// The index from which a node's copy counts: the entry that names its disk, at `named`. A disk that does not hold that
/// entry may have been emptied after an earlier acknowledgment. Where disks have no ids, every copy counts.
///
/// For a disk that the configuration has always named, the index is that of the first entry, and the rule costs
/// nothing.
pub fn counted_from(named: Option<Index>, disks_have_ids: bool, mutants: Mutants) -> Option<Index> {
    if !disks_have_ids || any_disk_counts(mutants) {
        return Some(Index::ZERO);
    }
    named.map(|index| if mutants.breaks(Mutant::CountBeforeNamed) { Index::ZERO } else { index })
}

/// Whether votes and acknowledgments count from any disk under a voter's id. They never do: a disk counts only for what
/// it holds itself.
pub fn any_disk_counts(mutants: Mutants) -> bool {
    mutants.breaks(Mutant::CountAnyDisk) || mutants.breaks(Mutant::NoAmnesiaGuard)
}

/// Whether a message is accepted, by its sender's class and log; an error if the operator is to learn why not.
///
/// A message that counts for a quorum is accepted only from the disk that the configuration names, any other message
/// from any disk of the same log ([`crate::consensus::peer_class`]). A candidate with an empty log asks whether a log
/// may begin, and is answered that one has. A candidate with an entry has another log, or is in the first moments of
/// this one and does not need this node's vote.
pub fn accepts(class: PeerClass, message: &Message, same_log: bool, mutants: Mutants) -> Result<bool, Refused> {
    let leads = match message {
        Message::RequestVote { last, .. } => *last > Position::ZERO,
        message => message.is_leaders(),
    };
    let why = match class {
        PeerClass::Refused(why) => why,
        _ if leads && !same_log => Refused::NoLog,
        PeerClass::LeaderOnly if message.is_counted() && !any_disk_counts(mutants) => return Ok(false),
        PeerClass::LeaderOnly if mutants.breaks(Mutant::DeafToLeaders) => return Ok(false),
        PeerClass::Full | PeerClass::LeaderOnly => return Ok(true),
    };
    if mutants.breaks(Mutant::HearAnyLog) { Ok(true) } else { Err(why) }
}

/// The log that a message names as its sender's: the agreed one. A leader, and a candidate that holds entries, name
/// their log before it is agreed ([`crate::consensus::message::Origin::log`]).
pub fn named_log(current: &Membership, message: &Message, mutants: Mutants) -> Option<LogId> {
    let speaks_for_log = message.speaks_for_log() && !mutants.breaks(Mutant::HideUnagreedLog);
    if speaks_for_log { current.log_id } else { current.agreed_log() }
}

/// Whether a leader accepts commands: its log is agreed to be the cluster's. Before that another log may win, and the
/// commands would be lost with this one.
pub fn log_takes_commands(agreed: bool, mutants: Mutants) -> bool {
    agreed || mutants.breaks(Mutant::ServeBeforeAgreed)
}

/// Whether a configuration in an appended entry takes effect, `since` being the index of the one in force: always, as
/// soon as it is in the log (§6). Only where a test keeps a configuration that is no longer in the log may the index be
/// lower than `since`.
pub fn takes_effect(index: Index, since: Index, mutants: Mutants) -> bool {
    let keeps = mutants.breaks(Mutant::KeepDroppedConfig) || mutants.breaks(Mutant::KeepStaleConfig);
    !keeps || index > since
}

/// Whether the configurations of truncated entries are dropped with them, so that an earlier one is in force again
/// (§6).
pub fn truncation_drops_configs(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::KeepDroppedConfig)
}

/// Whether a snapshot that replaces the log brings its configuration into force (§7). The one before belongs to the
/// replaced log.
pub fn snapshot_sets_config(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::KeepStaleConfig)
}
