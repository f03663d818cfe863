//! Node identity by id and disk: whether this node's vote counts, whose copies it counts, and which disks are known.
//!
//! Raft identifies a server by its durable state: a server that forgets its vote or its log is another server. Ids do
//! not say that, because operators reuse them. So each directory has a random disk id, the configuration in the log
//! names the disk of each member, and three questions are answered by it:
//!
//! ```text
//! may this node vote or lead?   its own log names its own disk        vote_weight, promotable
//! does that answer count?       the counter's log names the sender's  counted_from, voter_weight
//! is that message accepted?     disk, log id and kind of message      class_of
//! ```
//!
//! A name comes into the log with the first entry, with the change that adds the member, or with a later entry once the
//! leader has met the disk ([`Replica::name_disks`]).

use super::Replica;
use crate::consensus::claims::Claim;
use crate::consensus::message::{Envelope, Message, Origin};
use crate::consensus::note::Note;
use crate::consensus::peer_class::{Introduction, PeerClass, Standpoint, classify_peer};
use crate::consensus::rules::election::{self, VoteWeight};
use crate::consensus::rules::membership;
use crate::types::{DiskId, Index, Membership, Mutant, NodeId, Position, Vote};

impl Replica {
    /// The id of this node's disk, if disks have ids here.
    pub fn disk(&self) -> Option<DiskId> {
        self.disks.get(&self.id).copied()
    }

    /// This node as a candidate: its id and disk.
    pub fn candidate(&self) -> Vote {
        Vote::new(self.id, self.disk())
    }

    /// The position of the entry with the configuration in force. Where a snapshot has replaced that entry its term is
    /// not known, and the snapshot's term stands in: no other configuration lies between the two.
    pub fn configured(&self) -> Position {
        let since = self.configs.since();
        Position::new(since, self.log.term(since).unwrap_or(self.log.base().term))
    }

    /// Classifies a peer by the origin of its message.
    ///
    /// The disk that the peer presented before stands in for the configuration where that names none yet: a founder
    /// that was emptied must not count as a second one of the same id.
    pub fn class_of(&self, peer: NodeId, origin: Origin) -> PeerClass {
        let ours = Standpoint { membership: self.configs.current(), configured: self.configured() };
        classify_peer(ours, self.disks.get(&peer).copied(), &Introduction { node: peer, origin, configured: None })
    }

    /// Whether this node's own votes and copies count, by the latest configuration that is known to be committed and
    /// all later ones in its log. One configuration that names its disk is enough: whether a voter is still in the
    /// configuration is for the candidate to judge (thesis §4.2.2).
    ///
    /// Both the committed configuration and all later ones, because this node cannot know which of the later ones will
    /// stay. Too strict a rule would be no safer and could stop the cluster: if every voter judged by its own view
    /// alone, none might vote after an interrupted change (cowsql#150).
    pub fn vote_weight(&self) -> VoteWeight {
        let Some(disk) = self.disk() else {
            return if self.has_empty_log() { VoteWeight::Founder } else { VoteWeight::Counted };
        };
        // Without disk ids, as in some tests, there is nothing to compare, and every node counts as in the paper.
        let named = |membership: &Membership| membership.disk(self.id) == Some(disk);
        let founds = |membership: &Membership| membership.is_voter(self.id) && membership.disk(self.id).is_none();
        let commit = self.log.commit();
        if self.configs.since_commit(commit).any(named) {
            return VoteWeight::Counted;
        }
        let founds = self.founder && self.configs.since_commit(commit).any(founds);
        election::unnamed_weight(founds, self.options.mutants)
    }

    /// Whether this node may become leader: its vote counts, it is a voter, and it holds everything that it is known to
    /// have acknowledged.
    ///
    /// It is checked at the start of each campaign and at a `TimeoutNow`: either may come long after the configuration
    /// has changed.
    pub fn promotable(&self) -> bool {
        let mutants = self.options.mutants;
        if mutants.breaks(Mutant::CampaignOnlyIfListed) {
            return self.configs.current().is_voter(self.id);
        }
        let disk = self.disk().filter(|_| !mutants.breaks(Mutant::VoteUnnamed));
        self.vote_weight() != VoteWeight::None
            && self.configs.lists_candidate(self.id, disk, self.log.commit())
            && election::reaches_promised(self.log.last(), self.promised(), mutants)
    }

    /// Records the disk a member presented. Returns whether it is new.
    ///
    /// A disk that differs from the named one is not learned: it counts only after an operator has removed and added
    /// the member.
    pub fn learn_disk_id(&mut self, peer: NodeId, disk: DiskId) -> bool {
        let current = self.configs.current();
        let other = current.disk(peer).is_some_and(|known| known != disk);
        current.members.contains_key(&peer) && !other && self.disks.insert(peer, disk) != Some(disk)
    }

    /// The disk that member presented last, if any.
    pub fn met(&self, peer: NodeId) -> Option<DiskId> {
        self.disks.get(&peer).copied()
    }

    /// The index from which that node's copy on that disk counts: the entry that names the disk. None if the
    /// configuration names another disk, or none.
    ///
    /// A disk that holds its own name has received the log since it was named. What was acknowledged under its id
    /// before that was perhaps on another disk.
    pub fn counted_from(&self, node: NodeId, disk: Option<DiskId>) -> Option<Index> {
        let named = disk.and_then(|disk| self.configs.named_since(node, disk));
        membership::counted_from(named, self.disk().is_some(), self.options.mutants)
    }

    /// Fills in the known disks where the configuration names none yet. Returns whether there were any.
    ///
    /// A disk that is named once is never replaced here. That would turn an emptied disk into a member without a
    /// decision of the operator.
    pub fn name_disks(&self, membership: &mut Membership) -> bool {
        let mut changed = false;
        for (id, member) in &mut membership.members {
            if member.disk.is_none() {
                member.disk = self.disks.get(id).copied();
                changed |= member.disk.is_some();
            }
        }
        changed
    }

    /// Whether its log has never held anything: a new node, or a node that lost everything.
    pub fn has_empty_log(&self) -> bool {
        election::log_is_empty(self.log.last(), self.options.mutants)
    }

    /// Handles a proof that this node acknowledged `upto`. If it no longer holds that position, it records it durably
    /// ([`crate::types::HardState::promised`]).
    ///
    /// The log is not marked or truncated: the entries that are left are as good as any. Only the vote changes, as if
    /// the log still ended there.
    pub fn promise_lost(&mut self, upto: Position) {
        if self.log.last() < upto && self.promised() < upto {
            let held = self.log.last();
            self.notes.push(Note::LossDetected { held, promised: upto });
            self.hard_state.promised = upto;
            self.hard_state_changed = true;
        }
    }

    /// Remembers what a peer claims of its disk, in case it comes back with less.
    ///
    /// In memory only. It is a service to others and nothing that this node promises: after a restart, the peer is
    /// reminded by the rest.
    pub fn remember(&mut self, envelope: &Envelope) {
        let Envelope { from, term, origin, message, .. } = envelope;
        let Some(disk) = origin.disk else { return };
        let position = match message {
            Message::AppendResponse { matched } if *term == self.term() => {
                self.log.term(*matched).map(|term| Position::new(*matched, term))
            }
            // The candidate requested votes only once all of its log was durable.
            Message::RequestVote { last, ask } if ask.is_real() => Some(*last),
            _ => None,
        };
        self.claims.remember(*from, disk, Claim { term: *term, position: position.unwrap_or_default() });
    }

    /// Remembers that a leader held everything committed: it counted its own copy, and reports its disk in no other
    /// message.
    pub fn remember_leader(&mut self, leader: NodeId, disk: DiskId) {
        let commit = self.log.commit();
        if let Some(term) = self.log.term(commit) {
            let claim = Claim { term: self.term(), position: Position::new(commit, term) };
            self.claims.remember(leader, disk, claim);
        }
    }

    /// Sends a newly connected peer what was received from its disk before.
    pub fn remind(&mut self, peer: NodeId, disk: DiskId) {
        if let Some(Claim { term, position }) = self.claims.of(peer, disk) {
            self.send(peer, Message::Reminder { term, position });
        }
    }

    /// Whether this node is still in the term that its disk had at the start, without a vote. An older copy of the disk
    /// would not contain what the node did in that term before.
    pub fn is_as_recovered(&self) -> bool {
        self.term() == self.recovered_term && self.vote().is_none()
    }

    /// Records that this term's vote may have been given, to a candidate no longer known. No candidate gets it then.
    ///
    /// A vote for this id on no disk matches no candidate, not even this node itself.
    pub fn forfeit_vote(&mut self) {
        if self.vote().is_none() {
            self.record_vote(Vote::new(self.id, None));
        }
    }

    /// Whether this node founded its log alone, and the log never had another member.
    pub fn is_sole_founder(&self) -> bool {
        let alone = |membership: &Membership| membership.members.len() == 1;
        self.founder && self.log.base() == Position::ZERO && self.configs.since_commit(Index::ZERO).all(alone)
    }
}
