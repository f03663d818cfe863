//! The candidate: pre-vote, then vote.
//!
//! ```text
//! election timeout ─> PreVote, term unchanged ─── majority ───> Vote, term + 1 ─── majority ───> leader
//!                       │ in contact with a leader: no answer     │ own vote counts once it is durable
//!                       └──── timeout: PreVote again ─────────────┘
//! TimeoutNow ────────────────────────────────────────────────> Transfer, term + 1
//! ```
//!
//! Pre-vote costs one more round trip per election, and no disk write. Without it a node that was cut off would raise
//! its term at every timeout, and depose a healthy leader when the network heals (§9.6 of the thesis; etcd#9333,
//! hashicorp/raft#526).
//!
//! While a candidate's log is empty, a majority of pre-votes is not enough: there are no entries yet by which the logs
//! could be compared, and so no voter could notice that the disks of a majority of the founders were emptied. See
//! [`super::founding`].

use super::ballot::Ballot;
use super::message::{Envelope, Message, VoteKind};
use super::next::NextRole;
use super::note::{CampaignReason, Note, StepDownReason};
use super::replica::Replica;
use super::rules::election::{self, VoteWeight};
use crate::types::{DiskId, NodeId, Time, Vote};

/// Counts the candidate's own vote under the same condition as any other vote: the configuration names its disk.
///
/// A node that lost its disk and receives its old log again may be the only voter of an old configuration. If its own
/// vote always counted, the node would elect itself (rule 3 of `docs/voters.md`).
fn count_own_vote(me: &Replica, ballot: &mut Ballot) {
    let is_counted = election::own_vote_counts(me.configs.current().disk(me.id), me.disk(), me.options.mutants);
    match me.vote_weight() {
        VoteWeight::Founder => ballot.record_empty_log_vote(me.id),
        VoteWeight::Counted if is_counted => ballot.record_vote(me.id),
        VoteWeight::Counted | VoteWeight::None => {}
    }
}

/// The state of a node that requests pre-votes or votes.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The kind of vote that this node requests now: a campaign begins with a pre-vote.
    vote_kind: VoteKind,
    ballot: Ballot,
    /// The end of the election timeout: the next campaign starts then.
    election_deadline: Time,
    campaign_reason: CampaignReason,
    /// When the campaign began, including the pre-vote and earlier attempts.
    campaign_start: Time,
}

impl Candidate {
    /// Requests votes from all voters (§5.2). Before a real vote the candidate enters a new term and votes for itself.
    /// A pre-vote changes nothing, so that a node that cannot win never raises another node's term (thesis §9.6).
    pub fn new(
        me: &mut Replica,
        now: Time,
        kind: VoteKind,
        campaign_reason: CampaignReason,
        campaign_start: Time,
    ) -> Candidate {
        if kind.is_real() {
            // `advance_term` clears the vote, so it precedes `record_vote`. One write contains the term and the vote,
            // so that no crash leaves the term without the vote.
            me.advance_term(me.term().next());
            me.record_vote(me.vote_for_itself());
        }
        let last_leader = me.last_leader.map(|(leader, last_contact)| (leader, now.since(last_contact)));
        me.notes.push(Note::Campaigns { kind, term: me.term(), reason: campaign_reason, last_leader });
        let last = me.log.last();
        // Voters of both halves of a joint configuration, but no learners: their votes would not count.
        let voters: Vec<NodeId> = me.configs.current().all_voters().filter(|id| *id != me.id).collect();
        for to in voters {
            match kind {
                // A pre-vote request promises nothing, so it does not wait for the disk. A vote request implies that
                // the candidate has voted for itself, and is sent once that vote is durable (valkey#3887).
                VoteKind::PreVote => me.send(to, Message::RequestVote { last, kind }),
                VoteKind::Vote | VoteKind::Transfer => me.send_when_durable(to, Message::RequestVote { last, kind }),
            }
        }
        let mut ballot = Ballot::default();
        // In a real election, `handle_persisted` counts the candidate's own vote once the vote is durable.
        if kind == VoteKind::PreVote {
            count_own_vote(me, &mut ballot);
        }
        Candidate {
            vote_kind: kind,
            ballot,
            election_deadline: now + me.random_election_timeout(),
            campaign_reason,
            campaign_start,
        }
    }

    /// Panics if an invariant of the candidate is violated. Called after every step ([`super::invariants`]).
    pub(super) fn check_invariants(&self, me: &Replica) {
        self.ballot.check_invariants();
        if self.vote_kind.is_real() {
            // A candidate may vote for no other node in this term, not even after it has lost the election.
            assert_eq!(me.vote(), Some(me.vote_for_itself()), "a candidate has voted for itself (§5.2)");
        }
    }

    /// The kind of vote that the candidate requests: at first a pre-vote, then a vote in its new term.
    pub fn vote_kind(&self) -> VoteKind {
        self.vote_kind
    }

    /// When the campaign began. A retry keeps the time of the first attempt.
    pub fn campaign_start(&self) -> Time {
        self.campaign_start
    }

    /// The voters that granted their vote so far, including this node once its own vote counts.
    pub fn votes(&self) -> Vec<NodeId> {
        self.ballot.granting_voters()
    }

    /// The end of the election timeout, when [`Candidate::tick`] campaigns again.
    pub fn election_deadline(&self) -> Time {
        self.election_deadline
    }

    /// Handles a report that writes are durable: the candidate's own vote, like any other, counts once it is durable.
    pub fn handle_persisted(&mut self, me: &Replica) -> NextRole {
        if self.vote_kind.is_real() && me.vote_is_durable() {
            count_own_vote(me, &mut self.ballot);
        }
        self.tally(me)
    }

    /// Adds a granted vote to the ballot, weighted by the voter's disk.
    ///
    /// The configuration of this candidate and the disk on the envelope decide, not the voter's own view: the voter may
    /// not know yet that the log names another disk for it.
    fn count_vote(&mut self, me: &Replica, from: NodeId, disk: Option<DiskId>, maybe_emptied: bool) {
        let named_disk = me.configs.current().disk(from);
        match election::voter_weight(named_disk, disk, maybe_emptied, me.options.mutants) {
            VoteWeight::Founder => self.ballot.record_empty_log_vote(from),
            VoteWeight::Counted => self.ballot.record_vote(from),
            VoteWeight::None => {}
        }
    }

    /// Decides whether the candidate has won, and returns the next role.
    ///
    /// Also called before any answer arrives: in a cluster with a single voter, the candidate's own vote is enough.
    pub fn tally(&self, me: &Replica) -> NextRole {
        let (membership, mutants) = (me.configs.current(), me.options.mutants);
        let is_won = match self.vote_kind {
            // A second log must not begin: a candidate with an empty log first needs the pre-votes of all voters.
            // If some of them do not respond, `tick` decides whether the log begins without them.
            VoteKind::PreVote if me.has_empty_log() => {
                !me.founding.is_vetoed(mutants) && self.ballot.is_unanimous(membership)
            }
            VoteKind::Vote | VoteKind::Transfer if me.has_empty_log() => {
                !me.founding.is_vetoed(mutants) && self.ballot.is_won_counting_empty_logs(membership, mutants)
            }
            VoteKind::PreVote | VoteKind::Vote | VoteKind::Transfer => self.ballot.is_won(membership, mutants),
        };
        match self.vote_kind {
            _ if !is_won => NextRole::Stay,
            VoteKind::PreVote => NextRole::Campaign(VoteKind::Vote, self.campaign_reason),
            VoteKind::Vote | VoteKind::Transfer => NextRole::Lead,
        }
    }

    /// Campaigns again after the election timeout: the votes were split, or lost (§5.2).
    ///
    /// The next attempt begins with a pre-vote again. If a leader was elected meanwhile, its followers answer no
    /// pre-vote, and the leader's next heartbeat ends this campaign.
    pub fn tick(&self, me: &mut Replica, now: Time) -> NextRole {
        if now < self.election_deadline {
            return NextRole::Stay;
        }
        if me.disk_stalled(now) {
            return NextRole::StepDown(StepDownReason::DiskStalled);
        }
        if self.vote_kind == VoteKind::PreVote && me.has_empty_log() {
            let (membership, mutants) = (me.configs.current(), me.options.mutants);
            // A founder that holds a log rejects the pre-vote: the candidate's empty log is behind that log.
            let is_vetoed = self.ballot.has_rejection() && me.founding.honors_vetoes(mutants);
            let has_majority = !is_vetoed && self.ballot.is_won_counting_empty_logs(membership, mutants);
            let silent_voters = membership.all_voters().filter(|id| !self.ballot.has_answered(*id)).collect();
            if me.founding.may_begin_log(now, has_majority, silent_voters, me.options.mutants, &mut me.notes) {
                return NextRole::Campaign(VoteKind::Vote, self.campaign_reason);
            }
        }
        NextRole::Campaign(election::first_vote_kind(me.options.mutants), CampaignReason::Retry)
    }

    /// Handles a message of this term: a vote request, or the answer to a vote request of this candidate. Other
    /// messages have no effect.
    pub fn receive(&mut self, me: &mut Replica, envelope: Envelope) -> NextRole {
        let from = envelope.from;
        match envelope.message {
            Message::RequestVote { last, kind } => {
                if me.handle_request_vote(Vote::new(from, envelope.origin.disk), last, kind) {
                    // Only a pre-candidate votes for another node: a candidate has voted for itself in this term.
                    return NextRole::StepDown(StepDownReason::VotedForAnother);
                }
                NextRole::Stay
            }
            // The kind must match: a late pre-vote would otherwise count as a vote, and a voter grants any number of
            // pre-votes.
            Message::RequestVoteResponse { granted: true, maybe_emptied, kind, leader_time }
                if kind == self.vote_kind =>
            {
                if election::adopts_voter_time(leader_time.term, me.term(), me.options.mutants) {
                    me.clock.observe_leader_time(leader_time);
                }
                if let Some(disk) = envelope.origin.disk {
                    // If this node becomes leader, its first entry names the voter's disk.
                    me.learn_disk_id(from, disk);
                }
                self.count_vote(me, from, envelope.origin.disk, maybe_emptied);
                self.tally(me)
            }
            Message::RequestVoteResponse { granted: false, kind, .. } if kind == self.vote_kind => {
                self.ballot.record_rejection(from);
                // A voter's response contains a log id only if the voter's log is agreed. If the candidate holds that
                // log too, the veto has no effect: `founding` is consulted only while the log is empty.
                if let Some(log) = envelope.origin.log {
                    me.founding.record_veto(from, log);
                }
                NextRole::Stay
            }
            // Responses to an earlier request of this node, or to one that it sent in another role. Appends and
            // heartbeats do not arrive here: `Raft` has made this node a follower of their sender.
            Message::RequestVoteResponse { .. }
            | Message::AppendEntries { .. }
            | Message::AppendResponse { .. }
            | Message::AppendRejected { .. }
            | Message::LostAcknowledged { .. }
            | Message::LostAcknowledgedResponse { .. }
            | Message::RecordedClaim { .. }
            | Message::RequestLostEntries { .. }
            | Message::LostEntries { .. }
            | Message::Heartbeat { .. }
            | Message::HeartbeatResponse { .. }
            | Message::Committed { .. }
            | Message::InstallSnapshot(_)
            | Message::InstallSnapshotResponse { .. }
            | Message::TimeoutNow
            | Message::ReadIndexRequest { .. }
            | Message::ReadIndexResponse { .. }
            | Message::StaleTerm => NextRole::Stay,
            #[cfg(feature = "next-version")]
            Message::NextVersionNotice => NextRole::Stay,
        }
    }
}
