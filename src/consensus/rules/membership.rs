//! Configurations: which one decides, how it changes, and which disks and logs count (§6, thesis §4).
//!
//! A change is safe if any two quorums that may be in use at the same time share a voter. A configuration is in use if
//! it may still be the latest one in the log of some node. The rules limit how many configurations are in use (one
//! change at a time, the next only after the commit of the last) and how much two consecutive configurations differ
//! (one of them is joint, or both have the same voters).

use crate::consensus::message::Message;
use crate::consensus::peer_class::{PeerClass, PeerRejection};
use crate::consensus::progress::Progress;
use crate::types::{Index, LogId, Membership, Mutant, Mutants, Position};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// The configuration whose quorums decide: `membership` itself, unless a mutant changes it. Learners do not count, and
/// a joint configuration needs a majority of each half (§6).
///
/// Commits and elections both use this function: a difference between them could give two quorums that share no voter.
pub fn quorum_configuration(membership: &Membership, mutants: Mutants) -> Cow<'_, Membership> {
    if mutants.breaks(Mutant::JointByNewHalf) {
        return Cow::Owned(Membership { outgoing: BTreeSet::new(), ..membership.clone() });
    }
    if mutants.breaks(Mutant::LearnersCount) {
        return Cow::Owned(Membership { voters: membership.members.keys().copied().collect(), ..membership.clone() });
    }
    Cow::Borrowed(membership)
}

/// The configuration that decides commits: the latest in the log, committed or not (§6). With the `previous`
/// configuration, an entry could commit by a majority that no longer decides elections.
pub fn commit_configuration<'a>(
    current: &'a Membership,
    previous: Option<&'a Membership>,
    committed: bool,
    mutants: Mutants,
) -> &'a Membership {
    let uses_previous_configuration = mutants.breaks(Mutant::ConfigAtCommit) && !committed;
    previous.filter(|_| uses_previous_configuration).unwrap_or(current)
}

/// Whether a change may begin: the leader's first entry of its term is committed, and no earlier change is pending: the
/// previous one is committed, and its joint configuration is left. Two leaders that changed the same configuration,
/// each without knowing of the other, could reach disjoint majorities.
pub fn change_may_begin(term_committed: bool, no_change_pending: bool, mutants: Mutants) -> bool {
    (term_committed || mutants.breaks(Mutant::ChangeBeforeNoop))
        && (no_change_pending || mutants.breaks(Mutant::StackChanges))
}

/// The configuration to append for a change to `next`: a joint one stays joint, because the majorities of the old and
/// of the new voters may be disjoint (§6).
///
/// A majority of the voters 1, 2, 3 and one of the voters 3, 4, 5 may be disjoint: 1 and 2 elect one leader, 4 and 5
/// another, in the same term.
pub fn configuration_to_append(next: Membership, mutants: Mutants) -> Membership {
    if mutants.breaks(Mutant::ChangeWithoutJoint) { next.leave_joint() } else { next }
}

/// Whether a leader may raise the feature level: only if every member announces the level. A member that does not know
/// the level stops at the entry that raises it.
pub fn may_raise_feature_level(all_members_announce: bool, mutants: Mutants) -> bool {
    all_members_announce || mutants.breaks(Mutant::RaiseUnannounced)
}

/// Whether a change whose new voters do not respond is reverted. No entry could commit without the new voters, not even
/// another change.
pub fn reverts_stuck_change(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::NeverTakeBack)
}

/// Whether a follower holds the entry that names its disk, so that it may become a voter: otherwise its copy could not
/// be distinguished from that of another disk under its id.
pub fn member_holds_entry_naming_its_disk(follower: Option<&Progress>, mutants: Mutants) -> bool {
    let holds_entry = |progress: &Progress| progress.copy_counts_from.is_some_and(|from| progress.matched >= from);
    mutants.breaks(Mutant::PromoteUnnamed) || follower.is_some_and(holds_entry)
}

/// The index from which a node's copy counts: the entry that names its disk, at `named_since`. A disk that does not
/// hold that entry may have been emptied after an earlier acknowledgment. Where disks have no ids, every copy counts.
///
/// For a disk that every configuration has named, this is the index of the first entry.
pub fn copy_counts_from(named_since: Option<Index>, disks_have_ids: bool, mutants: Mutants) -> Option<Index> {
    if !disks_have_ids || any_disk_counts(mutants) {
        return Some(Index::ZERO);
    }
    named_since.map(|index| if mutants.breaks(Mutant::CountBeforeNamed) { Index::ZERO } else { index })
}

/// Whether votes and acknowledgments count from any disk under a voter's id: never, because a disk proves nothing about
/// entries on another disk.
pub fn any_disk_counts(mutants: Mutants) -> bool {
    mutants.breaks(Mutant::CountAnyDisk) || mutants.breaks(Mutant::NoAmnesiaGuard)
}

/// Whether a message is accepted, by its sender's class and log. An error is a rejection that is logged.
///
/// A message that counts for a quorum is accepted only from the disk that the configuration names, any other message
/// from any disk of the same log ([`crate::consensus::peer_class`]). The vote request of a candidate with an empty log
/// is accepted, so that the candidate learns from the response that a log exists. The vote request of a candidate that
/// holds entries, but not this node's agreed log, is rejected.
pub fn accepts_message(
    class: PeerClass,
    message: &Message,
    is_same_log: bool,
    mutants: Mutants,
) -> Result<bool, PeerRejection> {
    let is_from_leader = match message {
        Message::RequestVote { last, .. } => *last > Position::ZERO,
        message => message.is_from_leader(),
    };
    let rejection = match class {
        PeerClass::Rejected(rejection) => rejection,
        _ if is_from_leader && !is_same_log => PeerRejection::LacksLog,
        PeerClass::LeaderOnly if message.counts_for_quorum() && !any_disk_counts(mutants) => return Ok(false),
        PeerClass::LeaderOnly if mutants.breaks(Mutant::DeafToLeaders) => return Ok(false),
        PeerClass::Accepted | PeerClass::LeaderOnly => return Ok(true),
    };
    if mutants.breaks(Mutant::HearAnyLog) { Ok(true) } else { Err(rejection) }
}

/// The id of the sender's log on a message: `None` before the log is agreed. Only a leader, and a candidate that
/// holds entries, send their log id before that ([`crate::consensus::message::Origin::log`]).
pub fn sender_log_id(current: &Membership, message: &Message, mutants: Mutants) -> Option<LogId> {
    let names_unagreed_log = message.is_from_leader_or_candidate() && !mutants.breaks(Mutant::HideUnagreedLog);
    if names_unagreed_log { current.log_id } else { current.agreed_log_id() }
}

/// Whether a leader accepts commands: only once its log is agreed. Before that, another log may replace this log
/// together with the commands.
pub fn log_accepts_commands(agreed: bool, mutants: Mutants) -> bool {
    agreed || mutants.breaks(Mutant::ServeBeforeAgreed)
}

/// Whether a configuration in an appended entry takes effect, `since` being the index of the one in force: always, as
/// soon as it is in the log (§6). `index` is below `since` only if a mutant keeps a configuration that is no longer in
/// the log.
pub fn configuration_takes_effect(index: Index, since: Index, mutants: Mutants) -> bool {
    let keeps_stale_configuration =
        mutants.breaks(Mutant::KeepDroppedConfig) || mutants.breaks(Mutant::KeepStaleConfig);
    !keeps_stale_configuration || index > since
}

/// Whether the configurations of truncated entries are dropped with them, so that an earlier one is in force again
/// (§6).
pub fn truncation_drops_configs(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::KeepDroppedConfig)
}

/// Whether a snapshot that replaces the log brings its configuration into force (§7). The previous configuration
/// belongs to the replaced log.
pub fn snapshot_sets_config(mutants: Mutants) -> bool {
    !mutants.breaks(Mutant::KeepStaleConfig)
}
