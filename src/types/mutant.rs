//! Mutants: switches that each break one safety rule, so that tests show that a broken rule is detected.
//!
//! The switches exist in test builds only: without the feature `mutants`, [`Mutants::breaks`] is the constant `false`,
//! and the broken branch is compiled away.

use std::fmt;

macro_rules! mutants {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// One rule that a test can break on purpose.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Mutant { $($(#[doc = $doc])* $name,)* }

        impl Mutant {
            /// All mutants, in the order of their declaration.
            pub const ALL: &'static [Mutant] = &[$(Mutant::$name,)*];

            /// The name of the mutant on the command line.
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
    /// A vote that arrives twice counts twice.
    CountVotesTwice = "count-votes-twice",
    /// A vote of an earlier term counts in the current term.
    CountStaleVotes = "count-stale-votes",
    /// Entries of earlier terms commit by counting copies (Figure 8).
    CommitEarlierTerms = "commit-earlier-terms",
    /// A leader counts its own copy before it is durable.
    CountSelfBeforeSync = "count-self-before-sync",
    /// A follower acknowledges entries before they are durable.
    AckBeforeSync = "ack-before-sync",
    /// A follower acknowledges the end of its log, even where the log is not known to match the leader's.
    AckUnmatched = "ack-unmatched",
    /// A truncation does not lower the durable index of the log.
    KeepDurableOnTruncate = "keep-durable-on-truncate",
    /// Entries that do not conflict are truncated too.
    TruncateWithoutConflict = "truncate-without-conflict",
    /// A follower does not check the entry before the appended entries (§5.3).
    SkipPrevCheck = "skip-prev-check",
    /// A follower commits up to its leader's commit index, even where its log is not known to match the leader's.
    CommitUnmatched = "commit-unmatched",
    /// A minority is enough to commit.
    MinorityCommits = "minority-commits",
    /// Reads are answered without confirmation by a quorum (thesis §6.4).
    ReadWithoutRound = "read-without-round",
    /// A late response to an earlier round of messages confirms the reads of the current round.
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
    /// Damage in the middle of a journal segment is truncated as if it were a torn tail.
    CutDamage = "cut-damage",
    /// A torn tail of the journal is detected but not truncated.
    KeepTornTail = "keep-torn-tail",
    /// Data that the journal reads at a restart is assumed to be durable without a sync.
    SkipRecoverySync = "skip-recovery-sync",
    /// A repeated command is applied again, although its session shows that it was executed.
    ApplyTwice = "apply-twice",
    /// A repeated command is answered with the latest answer of its session, not with its own first answer.
    ForgetAnswers = "forget-answers",
    /// A deposed leader answers waiting clients "nothing was applied", although the outcome is unknown.
    UnknownAsRefused = "unknown-as-refused",
    /// A restarted process uses the same numbers for forwarded requests as the previous process.
    ReuseNumbers = "reuse-numbers",
    /// A waiting client is answered when any entry at its command's index is applied, whatever the term of that entry.
    AnswerByIndex = "answer-by-index",
    /// A log that conflicts with an installed snapshot is kept (Figure 13, rule 7).
    KeepConflictingLog = "keep-conflicting-log",
    /// A snapshot is acknowledged before the journal has adopted it.
    AckSnapshotBeforeSync = "ack-snapshot-before-sync",
    /// The log is compacted before the snapshot that replaces it is durable.
    CompactBeforeSnapshot = "compact-before-snapshot",
    /// A snapshot is sent again from the beginning, although the follower has acknowledged a part of it.
    SendSnapshotsAgain = "send-snapshots-again",
    /// A follower that lags far behind ignores the snapshot chunks that it receives.
    IgnoreSnapshots = "ignore-snapshots",
    /// A snapshot replaces a log that has committed at least as many entries as the snapshot covers.
    InstallOldSnapshots = "install-old-snapshots",
    /// The log is compacted up to the commit index, even where entries are not applied or not in a snapshot.
    CompactBeforeApply = "compact-before-apply",
    /// The log is compacted by one entry more than the snapshot holds.
    CompactOneTooMany = "compact-one-too-many",
    /// A follower that lacks only the last compacted entry is not sent a snapshot.
    ShipOneTooLate = "ship-one-too-late",
    /// A damaged snapshot is treated as no snapshot: the state is empty.
    DamagedIsEmpty = "damaged-is-empty",
    /// Snapshots are taken after a fixed number of entries, not by the bytes of the log and the age of the last
    /// snapshot.
    SnapshotByCount = "snapshot-by-count",
    /// The log is never compacted.
    ReleaseNothing = "release-nothing",
    /// A part of the log that was found damaged is kept like any other, although a snapshot covers it.
    KeepDamagedLog = "keep-damaged-log",
    /// A part of the log that was found damaged is discarded before a snapshot covers it.
    MendBeforeSnapshot = "mend-before-snapshot",
    /// Compaction does not wait for a snapshot that is being sent.
    CompactUnderShip = "compact-under-ship",
    /// The log is kept for a follower that never responds again.
    HoldForTheSilent = "hold-for-the-silent",
    /// An append that begins before the base of the log is rejected as if it conflicted.
    CompactedIsConflict = "compacted-is-conflict",
    /// The state machine is not deterministic: its state depends on the node id.
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
    /// Votes of learners and copies on learners count.
    LearnersCount = "learners-count",
    /// A leadership transfer target is elected whatever its log and earlier votes.
    HandoverBypassesVote = "handover-bypasses-vote",
    /// A change whose new voters do not respond is not aborted.
    NeverTakeBack = "never-take-back",
    /// A node that its latest configuration does not list does not campaign, even if that configuration is not
    /// committed.
    CampaignOnlyIfListed = "campaign-only-if-listed",
    /// A node that restarts with an empty disk under its old id votes, and its acknowledgments count, as before.
    NoAmnesiaGuard = "no-amnesia-guard",
    /// A node whose log names another disk for its id campaigns, votes and counts itself.
    VoteUnnamed = "vote-unnamed",
    /// Votes and acknowledgments count from any disk of a voter's id.
    CountAnyDisk = "count-any-disk",
    /// A voter's copy of the log counts before it includes the entry that names the voter's disk.
    CountBeforeNamed = "count-before-named",
    /// A vote is for a node id, whatever disk the candidate has.
    VoteForAnyDisk = "vote-for-any-disk",
    /// Messages of nodes of another log are accepted.
    HearAnyLog = "hear-any-log",
    /// Followers learn the cluster time from log entries only.
    TimeFromEntriesAlone = "time-from-entries-alone",
    /// A new leader starts from the cluster time that it observed itself, and ignores the times that its voters report.
    IgnoreVotersTime = "ignore-voters-time",
    /// The leader of a log that is not agreed yet does not send the log id.
    HideUnagreedLog = "hide-unagreed-log",
    /// A leader's messages are dropped if it has another disk than the one recorded for it.
    DeafToLeaders = "deaf-to-leaders",
    /// A learner becomes a voter before it holds the entry that names its disk.
    PromoteUnnamed = "promote-unnamed",
    /// Commands are accepted before the log is agreed.
    ServeBeforeAgreed = "serve-before-agreed",
    /// Founders begin a log although one of them already holds a log.
    FoundOverHolder = "found-over-holder",
    /// A node votes and campaigns without regard to its promised position, up to which it acknowledged entries that it
    /// lost.
    ForgetPromised = "forget-promised",
    /// A node answers a request for lost entries from its log although nothing shows that the requester had the same log.
    AnswerWithAnyEntries = "answer-with-any-entries",
    /// A follower that lost acknowledged entries is sent entries again before it has persisted its promised position.
    FeedBeforePromise = "feed-before-promise",
    /// A leader does not notice that a follower has lost acknowledged entries.
    IgnoreLost = "ignore-lost",
    /// A leader that cannot commit with the nodes that respond does not step down.
    NeverYield = "never-yield",
    /// A node does not raise its term and promised position when a peer reports that the disk once held a later term or
    /// position.
    IgnoreReminders = "ignore-reminders",
    /// Leaders never step down without a quorum, and pre-vote is skipped.
    NoPreVote = "no-pre-vote",
    /// In an ordered session a command is executed before commands with lower numbers.
    ExecuteEarly = "execute-early",
    /// The rejection of an out-of-order command is stored as the answer to the command's number.
    StoreOutOfOrder = "store-out-of-order",
    /// A command is executed although its client has discarded the command's number.
    ExecuteGivenUp = "execute-given-up",
    /// A read is answered before everything is applied that was committed when it began.
    ReadBeforeApplied = "read-before-applied",
    /// The answer to a read names a later entry than the last one applied when the value was read.
    ReadNamesLaterEntry = "read-names-later-entry",
    /// A snapshot is published without reading it back from the disk.
    SkipSnapshotVerify = "skip-snapshot-verify",
    /// A leader resends a snapshot that a follower received damaged, without reading its own file again.
    ResendDamagedSnapshot = "resend-damaged-snapshot",
    /// A restored machine's time advances before its digest is compared.
    AdvanceTimeBeforeDigest = "advance-time-before-digest",
    /// A leader raises the feature level although a member does not announce that level.
    RaiseUnannounced = "raise-unannounced",
    /// A message of a later version of the protocol is sent on a connection of an earlier version.
    SendUnnegotiated = "send-unnegotiated",
    /// A node writes a configuration of a feature level that its program does not know.
    WriteUnknownLevel = "write-unknown-level",
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The rule that a test breaks, if any. Without the feature `mutants` no rule can be broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mutants {
    #[cfg(feature = "mutants")]
    broken_rule: Option<Mutant>,
}

impl Mutants {
    /// No rule is broken.
    pub const NONE: Mutants = Mutants {
        #[cfg(feature = "mutants")]
        broken_rule: None,
    };

    /// Breaks the rule of `mutant` and no other rule.
    #[cfg(feature = "mutants")]
    pub fn only(mutant: Mutant) -> Mutants {
        Mutants { broken_rule: Some(mutant) }
    }

    /// Whether `mutant` is the broken rule.
    #[inline(always)]
    pub fn breaks(self, mutant: Mutant) -> bool {
        #[cfg(feature = "mutants")]
        return self.broken_rule == Some(mutant);
        #[cfg(not(feature = "mutants"))]
        {
            let _unused_without_the_feature = mutant;
            false
        }
    }
}
