//! Which server a node is, by id and disk: what its voice is worth, whose voices count for it, and what it and its
//! peers have said of their disks.

use super::Replica;
use crate::consensus::claims::Claim;
use crate::consensus::message::{Envelope, Message, Origin};
use crate::consensus::note::Note;
use crate::consensus::peer_class::{Introduction, PeerClass, Standpoint, classify_peer};
use crate::types::{DiskId, Index, Membership, Mutant, NodeId, Position, Vote};

/// What the voice of a node is worth, by its own log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Voice {
    /// Its log names its disk: its votes and copies count.
    Counted,
    /// It is a founder, and its log names no disk for it yet: it may hold nothing because nothing began, or because
    /// it was emptied. Its vote counts only where everyone votes, or where the log is to begin.
    Founder,
    /// Its log knows its id by another disk, or not at all: it read the log only up to a time before it was added.
    /// It neither campaigns nor votes, nor counts its own copy, whatever that log says.
    None,
}

impl Replica {
    /// The disk this node is known by, if disks have ids here.
    pub fn disk(&self) -> Option<DiskId> {
        self.disks.get(&self.id).copied()
    }

    /// This node as a candidate.
    pub fn candidate(&self) -> Vote {
        Vote::new(self.id, self.disk())
    }

    /// The position of the entry that brought the configuration in force. Where a snapshot has taken that entry's
    /// place its term is not known, and the snapshot's stands for it: no other configuration lies between the two.
    pub fn configured(&self) -> Position {
        let since = self.configs.since();
        Position::new(since, self.log.term(since).unwrap_or(self.log.base().term))
    }

    /// What the words of a peer are good for.
    pub fn class_of(&self, peer: NodeId, origin: Origin) -> PeerClass {
        let ours = Standpoint { membership: self.configs.current(), configured: self.configured() };
        classify_peer(ours, self.disks.get(&peer).copied(), &Introduction { node: peer, origin, configured: None })
    }

    /// What the voice of this node is worth, by its own log: by the latest configuration that is known to be
    /// committed, and all that follow it. Named once is enough: whether a voter still belongs to the configuration
    /// is for the candidate to judge (thesis §4.2.2).
    pub fn voice(&self) -> Voice {
        if self.options.mutants.breaks(Mutant::NoAmnesiaGuard) {
            return Voice::Counted;
        }
        let Some(disk) = self.disk() else {
            return if self.has_empty_log() { Voice::Founder } else { Voice::Counted };
        };
        let named = |membership: &Membership| membership.disk(self.id) == Some(disk);
        let founds = |membership: &Membership| membership.is_voter(self.id) && membership.disk(self.id).is_none();
        let commit = self.log.commit();
        if self.configs.since_commit(commit).any(named) {
            Voice::Counted
        } else if self.founder && self.configs.since_commit(commit).any(founds) {
            Voice::Founder
        } else if self.options.mutants.breaks(Mutant::VoteUnnamed) {
            Voice::Counted
        } else {
            Voice::None
        }
    }

    /// Whether this node may come to lead: its voice is worth something, it is a voter, and it holds all that it is
    /// known to have acknowledged.
    pub fn promotable(&self) -> bool {
        let mutants = self.options.mutants;
        if mutants.breaks(Mutant::CampaignOnlyIfListed) {
            return self.configs.current().is_voter(self.id);
        }
        let disk = self.disk().filter(|_| !mutants.breaks(Mutant::VoteUnnamed));
        self.voice() != Voice::None
            && self.configs.lists_candidate(self.id, disk, self.log.commit())
            && (self.promised() <= self.log.last() || mutants.breaks(Mutant::ForgetPromised))
    }

    /// That member came with that disk; whether that is news.
    pub fn learn_disk_id(&mut self, peer: NodeId, disk: DiskId) -> bool {
        let current = self.configs.current();
        let other = current.disk(peer).is_some_and(|known| known != disk);
        current.members.contains_key(&peer) && !other && self.disks.insert(peer, disk) != Some(disk)
    }

    /// The disk that member came with, if it was met.
    pub fn met(&self, peer: NodeId) -> Option<DiskId> {
        self.disks.get(&peer).copied()
    }

    /// Whether what another disk of a voter's id says is counted: only where a rule is broken on purpose.
    pub fn counts_any_disk(&self) -> bool {
        let mutants = self.options.mutants;
        mutants.breaks(Mutant::CountAnyDisk) || mutants.breaks(Mutant::NoAmnesiaGuard)
    }

    /// From which index on the copy of that node on that disk counts: it holds then the entry that names the disk.
    /// None if the configuration names another disk, or none.
    pub fn counted_from(&self, node: NodeId, disk: Option<DiskId>) -> Option<Index> {
        let mutants = self.options.mutants;
        let named = disk.and_then(|disk| self.configs.named_since(node, disk));
        if self.disk().is_none() || self.counts_any_disk() {
            return Some(Index::ZERO);
        }
        named.map(|index| if mutants.breaks(Mutant::CountBeforeNamed) { Index::ZERO } else { index })
    }

    /// Writes the disks that we have met where none is named yet; whether there were any.
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

    /// Whether it has never held anything: as it was made, or as it came back when all was lost.
    pub fn has_empty_log(&self) -> bool {
        self.log.last() == Position::ZERO && !self.options.mutants.breaks(Mutant::NoAmnesiaGuard)
    }

    /// A leader has proved that this node acknowledged that position; if it is not held, the node durably keeps
    /// to it ([`crate::types::HardState::promised`]).
    pub fn promise_lost(&mut self, upto: Position) {
        if self.log.last() < upto && self.promised() < upto {
            let held = self.log.last();
            self.notes.push(Note::HasLost { held, promised: upto });
            self.hard_state.promised = upto;
            self.hard_state_changed = true;
        }
    }

    /// Remembers what a peer says of its disk, should it come back with less.
    pub fn remember(&mut self, envelope: &Envelope) {
        let Envelope { from, term, origin, message, .. } = envelope;
        let Some(disk) = origin.disk else { return };
        let position = match message {
            Message::AppendResponse { matched } if *term == self.term() => {
                self.log.term(*matched).map(|term| Position::new(*matched, term))
            }
            // It was asked for only once all of the candidate's log was durable.
            Message::RequestVote { last, ask } if ask.is_real() => Some(*last),
            _ => None,
        };
        self.claims.remember(*from, disk, Claim { term: *term, position: position.unwrap_or_default() });
    }

    /// Remembers of a leader what is committed: it counted its own copy, and says so by nothing else.
    pub fn remember_leader(&mut self, leader: NodeId, disk: DiskId) {
        let commit = self.log.commit();
        if let Some(term) = self.log.term(commit) {
            let claim = Claim { term: self.term(), position: Position::new(commit, term) };
            self.claims.remember(leader, disk, claim);
        }
    }

    /// Tells a peer that has just connected what was heard from its disk before.
    pub fn remind(&mut self, peer: NodeId, disk: DiskId) {
        if let Some(Claim { term, position }) = self.claims.of(peer, disk) {
            self.send(peer, Message::Reminder { term, position });
        }
    }

    /// Whether this node is in the term its disk remembered, and its vote there as well: what it did in that term
    /// before, an older copy of the disk would not know.
    pub fn is_as_recovered(&self) -> bool {
        self.term() == self.recovered_term && self.vote().is_none()
    }

    /// The vote of this term may have been given, to a candidate that is not known any more: it is given to no other.
    pub fn spend_vote(&mut self) {
        if self.vote().is_none() {
            self.record_vote(Vote::new(self.id, None));
        }
    }

    /// Whether this node founded its log alone, and nobody else ever belonged to it.
    pub fn founds_alone(&self) -> bool {
        let alone = |membership: &Membership| membership.members.len() == 1;
        self.founder && self.log.base() == Position::ZERO && self.configs.since_commit(Index::ZERO).all(alone)
    }
}
