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
//! its term at every timeout, and depose a healthy leader when it comes back (§9.6 of the thesis; etcd#9333,
//! hashicorp/raft#526).
//!
//! A log that has never held anything is the exception to majorities: there are no entries yet by which the logs could
//! be compared, and so no voter could notice that a majority of the founders was emptied. See [`super::founding`].

use super::ballot::Ballot;
use super::message::{Envelope, Message, VoteKind};
use super::next::Next;
use super::note::{Note, Reason, StepDown};
use super::replica::Replica;
use super::rules::election::{self, VoteWeight};
use crate::types::{DiskId, NodeId, Time, Vote};

/// Counts the candidate's own vote, by its disk like any other.
///
/// Its own vote has no privilege. A node that lost its disk and reads its old log may find itself to be the only voter
/// of a configuration that is long gone, and would elect itself (rule 3 of `docs/voters.md`).
fn own_vote(me: &Replica, ballot: &mut Ballot) {
    let counts = election::own_vote_counts(me.configs.current().disk(me.id), me.disk(), me.options.mutants);
    match me.vote_weight() {
        VoteWeight::Founder => ballot.record_empty_log_vote(me.id),
        VoteWeight::Counted if counts => ballot.record_vote(me.id),
        VoteWeight::Counted | VoteWeight::None => {}
    }
}

/// The state of a node that requests pre-votes or votes.
#[derive(Clone, Debug)]
pub struct Candidate {
    ask: VoteKind,
    ballot: Ballot,
    deadline: Time,
    reason: Reason,
    /// When the campaign began, pre-vote included.
    since: Time,
}

impl Candidate {
    /// Requests votes from all voters (§5.2). Before a real vote the candidate enters a new term and votes for itself.
    /// A pre-vote changes nothing, so that a node that cannot win never raises another node's term (thesis §9.6).
    pub fn new(me: &mut Replica, now: Time, ask: VoteKind, reason: Reason, since: Time) -> Candidate {
        if ask.is_real() {
            // In this order: the new term has no vote yet. Both go into one write, so that no crash leaves the term
            // without the vote.
            me.advance_term(me.term().next());
            me.record_vote(me.candidate());
        }
        let last_leader = me.last_leader.map(|(leader, heard)| (leader, now.since(heard)));
        me.notes.push(Note::Campaigns { ask, term: me.term(), reason, last_leader });
        let last = me.log.last();
        // Both halves of a joint configuration, and learners not at all: their votes would not count.
        let voters: Vec<NodeId> = me.configs.current().all_voters().filter(|id| *id != me.id).collect();
        for to in voters {
            match ask {
                // It promises nothing, so it does not wait for the disk. The request for a vote implies the own vote in
                // that term, and leaves after it is durable (valkey#3887).
                VoteKind::PreVote => me.send(to, Message::RequestVote { last, ask }),
                VoteKind::Vote | VoteKind::Transfer => me.promise(to, Message::RequestVote { last, ask }),
            }
        }
        let mut ballot = Ballot::default();
        // A real vote of its own is counted in `persisted`, once the disk has it.
        if ask == VoteKind::PreVote {
            own_vote(me, &mut ballot);
        }
        Candidate { ask, ballot, deadline: now + me.random_election_timeout(), reason, since }
    }

    /// Panics if an invariant is violated. Called after every step ([`super::invariants`]).
    pub(super) fn check(&self, me: &Replica) {
        self.ballot.check();
        if self.ask.is_real() {
            // It may vote for no other node in this term, not even after it has lost the election.
            assert_eq!(me.vote(), Some(me.candidate()), "a candidate votes for itself (§5.2)");
        }
    }

    /// The kind of vote it requests.
    pub fn ask(&self) -> VoteKind {
        self.ask
    }

    /// When the campaign began.
    pub fn since(&self) -> Time {
        self.since
    }

    /// The voters that granted their vote.
    pub fn votes(&self) -> Vec<NodeId> {
        self.ballot.voters()
    }

    /// When `tick` next has something to do.
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// Handles a report that writes are durable: the candidate's own vote, like any other, counts once it is durable.
    pub fn persisted(&mut self, me: &Replica) -> Next {
        if self.ask.is_real() && me.vote_is_durable() {
            own_vote(me, &mut self.ballot);
        }
        self.tally(me)
    }

    /// Counts a vote by the voter's disk.
    ///
    /// By the configuration of this candidate and the disk on the envelope, whatever the voter says of itself: the
    /// voter may not know that its disk was replaced in the log.
    fn count(&mut self, me: &Replica, from: NodeId, disk: Option<DiskId>, void: bool) {
        let named = me.configs.current().disk(from);
        match election::voter_weight(named, disk, void, me.options.mutants) {
            VoteWeight::Founder => self.ballot.record_empty_log_vote(from),
            VoteWeight::Counted => self.ballot.record_vote(from),
            VoteWeight::None => {}
        }
    }

    /// Whether the candidate has won. A single voter needs no answers.
    ///
    /// Called once before any answer arrives: the only voter has won by then, or wins when its disk reports.
    pub fn tally(&self, me: &Replica) -> Next {
        let (membership, mutants) = (me.configs.current(), me.options.mutants);
        let won = match self.ask {
            // A log must not begin twice: a candidate with an empty log first needs the pre-votes of all voters, as far
            // as they respond.
            VoteKind::PreVote if me.has_empty_log() => {
                !me.founding.is_vetoed(mutants) && self.ballot.is_unanimous(membership)
            }
            VoteKind::Vote | VoteKind::Transfer if me.has_empty_log() => {
                !me.founding.is_vetoed(mutants) && self.ballot.is_won_among_void(membership, mutants)
            }
            VoteKind::PreVote | VoteKind::Vote | VoteKind::Transfer => self.ballot.is_won(membership, mutants),
        };
        match self.ask {
            _ if !won => Next::Stay,
            VoteKind::PreVote => Next::Campaign(VoteKind::Vote, self.reason),
            VoteKind::Vote | VoteKind::Transfer => Next::Lead,
        }
    }

    /// Campaigns again after the election timeout: the votes were split, or lost (§5.2).
    ///
    /// It begins with a pre-vote again. Its term may have lost its point: if a leader was elected meanwhile, its
    /// followers answer no pre-vote, and the leader's next heartbeat ends this campaign.
    pub fn tick(&self, me: &mut Replica, now: Time) -> Next {
        if now < self.deadline {
            return Next::Stay;
        }
        if me.disk_stalled(now) {
            return Next::StepDown(StepDown::DiskStalled);
        }
        if self.ask == VoteKind::PreVote && me.has_empty_log() {
            let (membership, mutants) = (me.configs.current(), me.options.mutants);
            // A founder that holds a log denies the pre-vote, because an empty log is behind its own.
            let denied = self.ballot.is_denied() && me.founding.minds_holders(mutants);
            let enough = !denied && self.ballot.is_won_among_void(membership, mutants);
            let silent = membership.all_voters().filter(|id| !self.ballot.has_answered(*id)).collect();
            if me.founding.may_begin(now, enough, silent, me.options.mutants, &mut me.notes) {
                return Next::Campaign(VoteKind::Vote, self.reason);
            }
        }
        Next::Campaign(election::first_vote_kind(me.options.mutants), Reason::Retry)
    }

    /// Handles a message of this term.
    pub fn receive(&mut self, me: &mut Replica, envelope: Envelope) -> Next {
        let from = envelope.from;
        match envelope.message {
            Message::RequestVote { last, ask } => {
                if me.handle_request_vote(Vote::new(from, envelope.origin.disk), last, ask) {
                    // Possible only during pre-vote: this node had not voted in this term.
                    return Next::StepDown(StepDown::VotedForAnother);
                }
                Next::Stay
            }
            // The kind must match: a pre-vote of the round before would otherwise count as a vote, and a voter may give
            // any number of those.
            Message::RequestVoteResponse { granted: true, void, ask, heard } if ask == self.ask => {
                if election::adopts_voter_time(heard.term, me.term(), me.options.mutants) {
                    me.clock.observe(heard);
                }
                if let Some(disk) = envelope.origin.disk {
                    // The disk is named with this node's first entry, if it becomes leader.
                    me.learn_disk_id(from, disk);
                }
                self.count(me, from, envelope.origin.disk, void);
                self.tally(me)
            }
            Message::RequestVoteResponse { granted: false, ask, .. } if ask == self.ask => {
                self.ballot.record_rejection(from);
                // Only a voter of an agreed log names one. To a candidate that holds this log too it is no news, and
                // `founding` is asked only while the log is empty.
                if let Some(log) = envelope.origin.log {
                    me.founding.veto(from, log);
                }
                Next::Stay
            }
            // Answers to an earlier request, or to another role of this node. Appends and heartbeats do not arrive
            // here: `Raft` has recognized their sender as leader.
            Message::RequestVoteResponse { .. }
            | Message::AppendEntries { .. }
            | Message::AppendResponse { .. }
            | Message::AppendRejected { .. }
            | Message::LostAcknowledged { .. }
            | Message::Promised { .. }
            | Message::Reminder { .. }
            | Message::Heartbeat { .. }
            | Message::HeartbeatResponse { .. }
            | Message::Committed { .. }
            | Message::InstallSnapshot(_)
            | Message::InstallSnapshotResponse { .. }
            | Message::TimeoutNow
            | Message::ReadIndexRequest { .. }
            | Message::ReadIndexResponse { .. }
            | Message::StaleTerm => Next::Stay,
        }
    }
}
