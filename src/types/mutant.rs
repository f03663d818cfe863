//! Switches that each break one safety rule, so that tests can show that breaking it is detected.
//!
//! They exist in test builds only: without the feature `mutants`, [`Mutants::breaks`] is the constant `false`, and the
//! broken branch is compiled away.

use std::fmt;

macro_rules! mutants {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// One rule that can be broken on purpose.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Mutant { $($(#[doc = $doc])* $name,)* }

        impl Mutant {
            /// Every one of them.
            pub const ALL: &'static [Mutant] = &[$(Mutant::$name,)*];

            /// The name it has on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Mutant::$name => $text,)* }
            }
        }
    };
}

mutants! {
    /// Votes are sent before they are durable (safety of §5.2).
    VoteBeforeSync = "vote-before-sync",
    /// A candidate requests votes before its own vote is durable.
    AskBeforeSync = "ask-before-sync",
    /// A voter forgets that it has voted in this term.
    VoteTwice = "vote-twice",
    /// A voter does not compare logs (§5.4.1).
    VoteForShorterLog = "vote-for-shorter-log",
    /// Votes are counted, not collected as a set of ids.
    CountVotesTwice = "count-votes-twice",
    /// A vote of an earlier term counts in this one.
    CountStaleVotes = "count-stale-votes",
    /// Entries of earlier terms commit by counting copies (Figure 8).
    CommitEarlierTerms = "commit-earlier-terms",
    /// A leader counts its own copy before it is durable.
    CountSelfBeforeSync = "count-self-before-sync",
    /// A follower acknowledges entries before they are durable.
    AckBeforeSync = "ack-before-sync",
    /// A follower acknowledges its own last index, matched or not.
    AckUnmatched = "ack-unmatched",
    /// A truncation leaves the durable prefix as it was.
    KeepDurableOnTruncate = "keep-durable-on-truncate",
    /// Entries that do not conflict are truncated too.
    TruncateWithoutConflict = "truncate-without-conflict",
    /// A follower does not check the entry before an append (§5.3).
    SkipPrevCheck = "skip-prev-check",
    /// A follower commits up to its leader's commit index, matched or not.
    CommitUnmatched = "commit-unmatched",
    /// A minority is enough to commit.
    MinorityCommits = "minority-commits",
    /// Reads are answered without confirmation by a quorum (thesis §6.4).
    ReadWithoutRound = "read-without-round",
    /// A late response to an earlier round confirms the current one.
    ReadAnyRound = "read-any-round",
    /// Reads are answered before the leader's own no-op is committed.
    ReadBeforeNoop = "read-before-noop",
    /// A leader opens its term without a no-op.
    SkipNoop = "skip-noop",
    /// A newly seen term is not persisted.
    ForgetTerm = "forget-term",
    /// The journal reports writes as durable without a sync.
    SkipSync = "skip-sync",
    /// A new segment's directory entry is not synced before the segment is used.
    SkipNameSync = "skip-name-sync",
    /// A failed sync is retried, and its success is trusted.
    RetryFailedSync = "retry-failed-sync",
    /// Damage in the middle is truncated as if it were a torn tail.
    CutDamage = "cut-damage",
    /// A torn tail is detected but not truncated.
    KeepTornTail = "keep-torn-tail",
    /// Recovered data is assumed to be durable without a sync.
    SkipRecoverySync = "skip-recovery-sync",
    /// A command that was executed before is applied again.
    ApplyTwice = "apply-twice",
    /// A repeated command is answered with the latest answer, not its first.
    ForgetAnswers = "forget-answers",
    /// A deposed leader answers waiting clients "nothing was applied".
    UnknownAsRefused = "unknown-as-refused",
    /// A restarted process numbers forwarded requests like the previous process.
    ReuseNumbers = "reuse-numbers",
    /// A waiting client is answered by whichever entry took its index.
    AnswerByIndex = "answer-by-index",
    /// A log that contradicts an installed snapshot is kept (Figure 13, rule 7).
    KeepConflictingLog = "keep-conflicting-log",
    /// A snapshot is acknowledged before the journal has adopted it.
    AckSnapshotBeforeSync = "ack-snapshot-before-sync",
    /// The log is compacted before the snapshot that replaces it is durable.
    CompactBeforeSnapshot = "compact-before-snapshot",
    /// A snapshot is sent again from the beginning, whatever the follower has acknowledged.
    SendSnapshotsAgain = "send-snapshots-again",
    /// A follower that lags far behind ignores the snapshot chunks that it receives.
    IgnoreSnapshots = "ignore-snapshots",
    /// A snapshot replaces a log that has committed as much, or more.
    InstallOldSnapshots = "install-old-snapshots",
    /// The log is compacted up to the commit index, applied and in a snapshot or not.
    CompactBeforeApply = "compact-before-apply",
    /// The log is compacted by one entry more than the snapshot holds.
    CompactOneTooMany = "compact-one-too-many",
    /// A follower that lacks only the last compacted entry is not sent a snapshot.
    ShipOneTooLate = "ship-one-too-late",
    /// A damaged snapshot is treated as no snapshot: the state is empty.
    DamagedIsEmpty = "damaged-is-empty",
    /// Snapshots are taken after a number of entries, whatever their bytes and the age of the last snapshot.
    SnapshotByCount = "snapshot-by-count",
    /// The log is never compacted.
    ReleaseNothing = "release-nothing",
    /// Compaction does not wait for a snapshot that is being sent.
    CompactUnderShip = "compact-under-ship",
    /// The log is kept for a follower that never responds again.
    HoldForTheSilent = "hold-for-the-silent",
    /// An append that begins before the base of the log is rejected as if it conflicted.
    CompactedIsConflict = "compacted-is-conflict",
    /// The machine is not deterministic: it mixes in its node's id.
    MachineKnowsNode = "machine-knows-node",
    /// Keys expire by each node's own clock, not by the cluster time.
    ExpireByOwnClock = "expire-by-own-clock",
    /// A configuration takes effect when it is committed, not when it is appended (§6).
    ConfigAtCommit = "config-at-commit",
    /// Voters change in one step, without a joint configuration (§6).
    ChangeWithoutJoint = "change-without-joint",
    /// A change begins before the leader's own no-op is committed.
    ChangeBeforeNoop = "change-before-noop",
    /// A change begins before the previous one is committed.
    StackChanges = "stack-changes",
    /// The new half of a joint configuration decides alone.
    JointByNewHalf = "joint-by-new-half",
    /// The configuration of a truncated entry stays in force.
    KeepDroppedConfig = "keep-dropped-config",
    /// A snapshot that replaces the log leaves the configuration as it was.
    KeepStaleConfig = "keep-stale-config",
    /// Learners vote, and their copies count.
    LearnersCount = "learners-count",
    /// A leadership transfer target is elected whatever its log and earlier votes.
    HandoverBypassesVote = "handover-bypasses-vote",
    /// A change whose new voters do not respond is not aborted.
    NeverTakeBack = "never-take-back",
    /// A node outside its latest configuration does not campaign, even if that configuration is not committed.
    CampaignOnlyIfListed = "campaign-only-if-listed",
    /// A node that restarts empty under its old id votes and counts as before.
    NoAmnesiaGuard = "no-amnesia-guard",
    /// A node whose log names another disk for its id campaigns, votes and counts itself.
    VoteUnnamed = "vote-unnamed",
    /// Votes and acknowledgments count from any disk of a voter's id.
    CountAnyDisk = "count-any-disk",
    /// A copy counts before it includes the entry that names its disk.
    CountBeforeNamed = "count-before-named",
    /// A vote is for an id, on whatever disk.
    VoteForAnyDisk = "vote-for-any-disk",
    /// Messages of nodes of another log are accepted.
    HearAnyLog = "hear-any-log",
    /// Followers learn the cluster time from log entries only.
    TimeFromEntriesAlone = "time-from-entries-alone",
    /// A new leader starts from the cluster time that it observed itself, and ignores the times that its voters report.
    IgnoreVotersTime = "ignore-voters-time",
    /// The leader of a log that is not agreed yet does not name the log.
    HideUnagreedLog = "hide-unagreed-log",
    /// A leader's messages are dropped if it has another disk than the one recorded for it.
    DeafToLeaders = "deaf-to-leaders",
    /// A learner becomes a voter before it holds the entry that names its disk.
    PromoteUnnamed = "promote-unnamed",
    /// Commands are accepted before the log is agreed.
    ServeBeforeAgreed = "serve-before-agreed",
    /// Founders begin a log although one of them already holds one.
    FoundOverHolder = "found-over-holder",
    /// A node forgets its promised position, which it is known to have acknowledged.
    ForgetPromised = "forget-promised",
    /// A follower that lost acknowledged entries is sent entries again before it has persisted its promised position.
    FeedBeforePromise = "feed-before-promise",
    /// A leader does not notice that a follower has lost acknowledged entries.
    IgnoreLost = "ignore-lost",
    /// A leader that cannot commit with the nodes that respond does not step down.
    NeverYield = "never-yield",
    /// A node does not raise its term and promised position when a peer reports more than its disk holds.
    IgnoreReminders = "ignore-reminders",
    /// Leaders never step down without a quorum, and pre-vote is skipped.
    NoPreVote = "no-pre-vote",
    /// In an ordered session a command is executed before commands with lower numbers.
    ExecuteEarly = "execute-early",
    /// An out-of-order result is stored as the answer to its number.
    StoreOutOfOrder = "store-out-of-order",
    /// A command is executed after its client has discarded its number.
    ExecuteGivenUp = "execute-given-up",
    /// A read is answered before everything is applied that was committed when it began.
    ReadBeforeApplied = "read-before-applied",
    /// An answer names a later entry than the last one applied when it was read.
    ReadNamesLaterEntry = "read-names-later-entry",
    /// A snapshot is published without reading it back from the disk.
    SkipSnapshotVerify = "skip-snapshot-verify",
    /// A leader resends a snapshot that a follower received damaged, without reading its own file again.
    ResendDamagedSnapshot = "resend-damaged-snapshot",
    /// A restored machine's time advances before its digest is compared.
    AdvanceTimeBeforeDigest = "advance-time-before-digest",
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The rule, if any, that is broken here. Without the feature `mutants` there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mutants {
    #[cfg(feature = "mutants")]
    broken: Option<Mutant>,
}

impl Mutants {
    /// No rule is broken.
    pub const NONE: Mutants = Mutants {
        #[cfg(feature = "mutants")]
        broken: None,
    };

    /// Breaks one rule.
    #[cfg(feature = "mutants")]
    pub fn only(mutant: Mutant) -> Mutants {
        Mutants { broken: Some(mutant) }
    }

    /// Whether `mutant` is the broken rule.
    #[inline(always)]
    pub fn breaks(self, mutant: Mutant) -> bool {
        #[cfg(feature = "mutants")]
        return self.broken == Some(mutant);
        #[cfg(not(feature = "mutants"))]
        {
            let _unused_without_the_feature = mutant;
            false
        }
    }
}
