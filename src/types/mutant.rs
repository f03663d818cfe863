//! The switches that break one safety rule each, so that a test can see that breaking it is noticed.
//!
//! They exist in test builds only: without the feature `mutants`, [`Mutants::breaks`] is the
//! constant `false`, and the broken branch is compiled away.

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
    /// Votes leave before they are durable (safety of §5.2).
    VoteBeforeSync = "vote-before-sync",
    /// A candidate asks for votes before its own is durable.
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
    /// A leader counts its own copy before its disk has it.
    CountSelfBeforeSync = "count-self-before-sync",
    /// A follower acknowledges before its disk has the entries.
    AckBeforeSync = "ack-before-sync",
    /// A follower acknowledges its own last index, matched or not.
    AckUnmatched = "ack-unmatched",
    /// A truncation leaves the durable prefix as it was.
    KeepDurableOnTruncate = "keep-durable-on-truncate",
    /// Entries that do not conflict are truncated too.
    TruncateWithoutConflict = "truncate-without-conflict",
    /// A follower does not check the entry before an append (§5.3).
    SkipPrevCheck = "skip-prev-check",
    /// A follower commits what its leader has, matched or not.
    CommitUnmatched = "commit-unmatched",
    /// A minority is enough to commit.
    MinorityCommits = "minority-commits",
    /// Reads are answered without asking a quorum (thesis §6.4).
    ReadWithoutRound = "read-without-round",
    /// A late answer to an earlier round confirms this one.
    ReadAnyRound = "read-any-round",
    /// Reads are answered before the leader's own no-op is committed.
    ReadBeforeNoop = "read-before-noop",
    /// A leader opens its term without a no-op.
    SkipNoop = "skip-noop",
    /// A term that was seen is not written down.
    ForgetTerm = "forget-term",
    /// The journal reports writes as durable without a sync.
    SkipSync = "skip-sync",
    /// A new segment's name is not synced before it is used.
    SkipNameSync = "skip-name-sync",
    /// A failed sync is tried again, and believed.
    RetryFailedSync = "retry-failed-sync",
    /// Damage in the middle is cut off as if it were a torn tail.
    CutDamage = "cut-damage",
    /// A torn tail is noticed but not cut.
    KeepTornTail = "keep-torn-tail",
    /// What recovery read is believed to be on the disk without a sync.
    SkipRecoverySync = "skip-recovery-sync",
    /// A command that was seen before is applied again.
    ApplyTwice = "apply-twice",
    /// A command that was seen before is answered with the present answer, not the first.
    ForgetAnswers = "forget-answers",
    /// A deposed leader answers waiting clients "nothing was applied".
    UnknownAsRefused = "unknown-as-refused",
    /// A restarted process numbers what it passes on as the one before did.
    ReuseNumbers = "reuse-numbers",
    /// A waiting client is answered by whatever entry took its index.
    AnswerByIndex = "answer-by-index",
    /// A log that contradicts an installed snapshot is kept (Figure 13, rule 7).
    KeepConflictingLog = "keep-conflicting-log",
    /// A snapshot is acknowledged before the journal has adopted it.
    AckSnapshotBeforeSync = "ack-snapshot-before-sync",
    /// The log is compacted before the snapshot that replaces it is durable.
    CompactBeforeSnapshot = "compact-before-snapshot",
    /// Of a snapshot that a follower has said it has, all is sent again.
    SendSnapshotsAgain = "send-snapshots-again",
    /// A follower that is far behind never takes in what it is sent.
    IgnoreSnapshots = "ignore-snapshots",
    /// A snapshot takes the place of a log that has committed as much, or more.
    InstallOldSnapshots = "install-old-snapshots",
    /// The log is compacted up to what is committed, applied and in a snapshot or not.
    CompactBeforeApply = "compact-before-apply",
    /// The log is compacted by one entry more than the snapshot holds.
    CompactOneTooMany = "compact-one-too-many",
    /// A follower is sent a snapshot only if it lacks more than the first entry that is gone.
    ShipOneTooLate = "ship-one-too-late",
    /// A damaged snapshot is taken for none: the state is empty.
    DamagedIsEmpty = "damaged-is-empty",
    /// Snapshots come after so many entries, however many bytes they have and however old the last is.
    SnapshotByCount = "snapshot-by-count",
    /// What the log may let go of is kept.
    ReleaseNothing = "release-nothing",
    /// Compaction does not wait for a snapshot that is on its way.
    CompactUnderShip = "compact-under-ship",
    /// What a follower that is silent for good would need is kept for it.
    HoldForTheSilent = "hold-for-the-silent",
    /// An append that begins before the base of the log is refused as if it conflicted.
    CompactedIsConflict = "compacted-is-conflict",
    /// The machine is not deterministic: it mixes in who it is.
    MachineKnowsNode = "machine-knows-node",
    /// Keys end by a clock that each node has for itself, not by the cluster's.
    ExpireByOwnClock = "expire-by-own-clock",
    /// A configuration counts when it is committed, not as soon as it is in the log (§6).
    ConfigAtCommit = "config-at-commit",
    /// Voters change in one step, without a joint configuration (§6).
    ChangeWithoutJoint = "change-without-joint",
    /// A change begins before the leader's own no-op is committed.
    ChangeBeforeNoop = "change-before-noop",
    /// A change begins before the one before it is committed.
    StackChanges = "stack-changes",
    /// A joint configuration is decided by its new half alone.
    JointByNewHalf = "joint-by-new-half",
    /// A dropped entry leaves the configuration it brought in force.
    KeepDroppedConfig = "keep-dropped-config",
    /// A snapshot that takes the log's place leaves the configuration as it was.
    KeepStaleConfig = "keep-stale-config",
    /// Learners have a vote, and their copies count.
    LearnersCount = "learners-count",
    /// Who is asked to take over is elected without a look at its log, or at earlier votes.
    HandoverBypassesVote = "handover-bypasses-vote",
    /// A change whose new voters do not answer is not taken back.
    NeverTakeBack = "never-take-back",
    /// A node outside its latest configuration does not campaign, committed or not.
    CampaignOnlyIfListed = "campaign-only-if-listed",
    /// Who comes back empty under its old id votes and is counted as before.
    NoAmnesiaGuard = "no-amnesia-guard",
    /// A node campaigns, votes and counts itself whose log knows its id by another disk.
    VoteUnnamed = "vote-unnamed",
    /// Votes and acknowledgements count from any disk of a voter's id.
    CountAnyDisk = "count-any-disk",
    /// A copy counts before it holds the entry that names its disk.
    CountBeforeNamed = "count-before-named",
    /// A vote is for an id, on whatever disk.
    VoteForAnyDisk = "vote-for-any-disk",
    /// Nodes of another log are heard.
    HearAnyLog = "hear-any-log",
    /// Followers know the time of the log's entries alone.
    TimeFromEntriesAlone = "time-from-entries-alone",
    /// A new leader begins at the time that it heard itself, and ignores the times that its voters heard.
    IgnoreVotersTime = "ignore-voters-time",
    /// Who leads a log that is not agreed yet does not say which.
    HideUnagreedLog = "hide-unagreed-log",
    /// A leader is not heard that comes with another disk than the one it is known by.
    DeafToLeaders = "deaf-to-leaders",
    /// A learner becomes a voter before it holds the entry that names its disk.
    PromoteUnnamed = "promote-unnamed",
    /// Commands are taken before the log is agreed.
    ServeBeforeAgreed = "serve-before-agreed",
    /// Founders begin a log although one of them holds one already.
    FoundOverHolder = "found-over-holder",
    /// A node forgets the position it is known to have acknowledged.
    ForgetPromised = "forget-promised",
    /// A follower that has lost what it acknowledged is fed again before it has promised.
    FeedBeforePromise = "feed-before-promise",
    /// A leader does not notice that a follower has lost what it acknowledged.
    IgnoreLost = "ignore-lost",
    /// A leader that cannot commit with those that answer leads on.
    NeverYield = "never-yield",
    /// A node that is told of more than it holds does not raise its term and its promise.
    IgnoreReminders = "ignore-reminders",
    /// Leaders never step down for want of a quorum, and pre-vote is skipped.
    NoPreVote = "no-pre-vote",
    /// In an ordered session a command is executed before those with lower numbers.
    ExecuteEarly = "execute-early",
    /// That a command came out of order is stored as the answer to its number.
    StoreOutOfOrder = "store-out-of-order",
    /// A command is executed after its client has given its number up.
    ExecuteGivenUp = "execute-given-up",
    /// A read is answered before that is applied which was committed when it began.
    ReadBeforeApplied = "read-before-applied",
    /// An answer names an entry behind those that were applied when it was read.
    ReadNamesLaterEntry = "read-names-later-entry",
    /// A snapshot is published without being read back from the disk.
    SkipSnapshotVerify = "skip-snapshot-verify",
    /// A leader does not read its snapshot again when a follower received it damaged, and resends it.
    ResendDamagedSnapshot = "resend-damaged-snapshot",
    /// A restored machine's time advances before its digest is compared.
    AdvanceTimeBeforeDigest = "advance-time-before-digest",
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which rule, if any, is broken here. Nothing can be without the feature `mutants`.
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

    /// Breaks that one rule.
    #[cfg(feature = "mutants")]
    pub fn only(mutant: Mutant) -> Mutants {
        Mutants { broken: Some(mutant) }
    }

    /// Whether that rule is broken.
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
