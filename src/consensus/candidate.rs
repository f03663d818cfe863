//! How a candidate campaigns: pre-vote, then vote.

use super::ballot::Ballot;
use super::message::{Ask, Envelope, Message};
use super::next::Next;
use super::note::{Note, Reason};
use super::replica::Replica;
use crate::types::{Mutant, NodeId, Time};

/// A node that asks whether it would be elected, or to be elected.
#[derive(Clone, Debug)]
pub struct Candidate {
    ask: Ask,
    ballot: Ballot,
    deadline: Time,
    reason: Reason,
    /// When the campaign began, pre-vote included.
    since: Time,
}

impl Candidate {
    /// Asks all voters (§5.2). A real candidate has entered a new term and voted for itself; one
    /// that only asks around has changed nothing, so that a node nobody would elect never moves
    /// anybody's term (thesis §9.6).
    pub fn new(me: &mut Replica, now: Time, ask: Ask, reason: Reason, since: Time) -> Candidate {
        if ask.is_real() {
            me.advance_term(me.term().next());
            me.cast(me.id);
        }
        me.notes.push(Note::Campaigns { ask, term: me.term(), reason });
        let last = me.log.last();
        let voters: Vec<NodeId> = me.configs.current().all_voters().filter(|id| *id != me.id).collect();
        for to in voters {
            match ask {
                Ask::Pre => me.send(to, Message::AskVote { last, ask }),
                Ask::Real | Ask::Handover => me.promise(to, Message::AskVote { last, ask }),
            }
        }
        let mut ballot = Ballot::default();
        if ask == Ask::Pre {
            ballot.yes(me.id);
        }
        Candidate { ask, ballot, deadline: now + me.draw_patience(), reason, since }
    }

    /// What it asks for.
    pub fn ask(&self) -> Ask {
        self.ask
    }

    /// When the campaign began.
    pub fn since(&self) -> Time {
        self.since
    }

    /// Those who said yes.
    pub fn votes(&self) -> Vec<NodeId> {
        self.ballot.voters()
    }

    /// When `tick` next has something to do.
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// The disk has moved on: our own vote counts, like any other, once it is durable.
    pub fn persisted(&mut self, me: &Replica) -> Next {
        if self.ask.is_real() && me.vote_is_durable() {
            self.ballot.yes(me.id);
        }
        self.tally(me)
    }

    /// Whether enough have said yes; a candidate that is its own majority need ask nobody.
    pub fn tally(&self, me: &Replica) -> Next {
        let (membership, mutants) = (me.configs.current(), me.options.mutants);
        let won = match self.ask {
            // A log that begins here must not begin a second time: who holds nothing asks everyone first, as far
            // as they are there.
            Ask::Pre if me.is_void() => self.ballot.is_unanimous(membership),
            Ask::Real | Ask::Handover if me.is_void() => self.ballot.is_won_among_void(membership, mutants),
            Ask::Pre | Ask::Real | Ask::Handover => self.ballot.is_won(membership, mutants),
        };
        match self.ask {
            _ if !won => Next::Stay,
            Ask::Pre => Next::Campaign(Ask::Real, self.reason),
            Ask::Real | Ask::Handover => Next::Lead,
        }
    }

    /// Time has passed: the votes were split, or lost (§5.2).
    pub fn tick(&self, me: &Replica, now: Time) -> Next {
        if now < self.deadline {
            return Next::Stay;
        }
        if me.disk_stands(now) {
            return Next::StepDown("the disk stands still");
        }
        let begins = self.ask == Ask::Pre && me.is_void() && !self.ballot.is_denied();
        if begins && self.ballot.is_won_among_void(me.configs.current(), me.options.mutants) {
            return Next::Campaign(Ask::Real, self.reason);
        }
        let ask = if me.options.mutants.breaks(Mutant::NoPreVote) { Ask::Real } else { Ask::Pre };
        Next::Campaign(ask, Reason::Again)
    }

    /// A message of our own term.
    pub fn receive(&mut self, me: &mut Replica, envelope: Envelope) -> Next {
        let from = envelope.from;
        match envelope.message {
            Message::AskVote { last, ask } => {
                if me.answer_ask(from, last, ask) {
                    // Possible only while asking around: we had not voted in this term.
                    return Next::StepDown("voted for another");
                }
                Next::Stay
            }
            Message::Vote { granted: true, void, ask } if ask == self.ask => {
                // Its disk stands in our configuration, and whoever comes with another is not heard: it was not
                // emptied since, and all it may have confirmed before stands in our log before that.
                let named = me.configs.current().members.get(&from).is_some_and(|member| member.disk.is_some());
                if void && !named {
                    self.ballot.void_yes(from);
                } else {
                    self.ballot.yes(from);
                }
                self.tally(me)
            }
            Message::Vote { granted: false, ask, .. } if ask == self.ask => {
                self.ballot.no(from);
                Next::Stay
            }
            // An answer to an earlier question, or to another role of ours. Appends and
            // beats do not come here: the spine has recognised their sender as leader.
            Message::Vote { .. }
            | Message::Append { .. }
            | Message::Appended { .. }
            | Message::Conflict { .. }
            | Message::Beat { .. }
            | Message::Heard { .. }
            | Message::Committed { .. }
            | Message::Chunk(_)
            | Message::Chunked { .. }
            | Message::StepUp
            | Message::AskIndex { .. }
            | Message::ReadIndex { .. }
            | Message::Outdated => Next::Stay,
        }
    }
}
