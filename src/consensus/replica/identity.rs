//! Node identity by id and disk: whether this node's vote counts, which copies count, and which disks are known.
//!
//! Raft identifies a server by its durable state: a server that has lost its vote or its log counts as another server.
//! A node id is not enough, because operators reuse node ids. So each data directory has a random disk id, and the
//! configuration in the log names the disk of each member. The named disk answers three questions:
//!
//! ```text
//! may this node vote or lead?   its own log names its own disk         vote_weight, promotable
//! does that answer count?       the receiver's log names the sender's  copy_counts_from, voter_weight
//! is that message accepted?     disk, log id and kind of message       classify_origin
//! ```
//!
//! The log names a disk with the first entry, with the change that adds the member, or with a later entry once the
//! member has presented the disk to the leader ([`Replica::name_disks`]).

use super::Replica;
use crate::consensus::claims::DiskClaim;
use crate::consensus::message::{Envelope, Message, Origin};
use crate::consensus::note::Note;
use crate::consensus::peer_class::{LocalView, PeerClass, PeerIdentity, classify_peer};
use crate::consensus::rules::election::{self, VoteWeight};
use crate::consensus::rules::membership;
use crate::types::{DiskId, Index, Membership, Mutant, NodeId, Position, Versions, Vote};

impl Replica {
    /// The id of this node's disk; `None` where disks have no ids, as in some tests.
    pub fn disk(&self) -> Option<DiskId> {
        self.known_disks.get(&self.id).copied()
    }

    /// The vote that this node casts for itself: its node id and its disk.
    pub fn vote_for_itself(&self) -> Vote {
        Vote::new(self.id, self.disk())
    }

    /// The position of the entry with the configuration in force. Where a snapshot has replaced that entry, its term is
    /// not known, and the snapshot's term is used: no other configuration lies between the two.
    pub fn configuration_position(&self) -> Position {
        let configuration_index = self.configs.current_index();
        Position::new(configuration_index, self.log.term(configuration_index).unwrap_or(self.log.base().term))
    }

    /// Classifies a peer by the origin of its message.
    ///
    /// Where the configuration names no disk yet, the disk that the peer presented before is used: a founder that was
    /// emptied must not count as a second founder with the same id.
    pub fn classify_origin(&self, peer: NodeId, origin: Origin) -> PeerClass {
        let local_view =
            LocalView { membership: self.configs.current(), configuration_position: self.configuration_position() };
        classify_peer(
            local_view,
            self.known_disks.get(&peer).copied(),
            &PeerIdentity { node: peer, origin, configuration_position: None },
        )
    }

    /// How this node's own votes and copies count, by the latest configuration that is known to be committed and all
    /// later ones in its log. One configuration that names this disk is enough: the candidate checks whether the voter
    /// is in its own configuration (thesis §4.2.2).
    ///
    /// All later configurations count too, because any of them may be truncated. A stricter rule would be no safer and
    /// could stop the cluster: after an interrupted change no voter might be able to vote (cowsql#150).
    pub fn vote_weight(&self) -> VoteWeight {
        // Without disk ids, as in some tests, every node counts as in the paper.
        let Some(disk) = self.disk() else {
            return if self.has_empty_log() { VoteWeight::Founder } else { VoteWeight::Counted };
        };
        let names_own_disk = |membership: &Membership| membership.disk(self.id) == Some(disk);
        let lists_voter_without_disk =
            |membership: &Membership| membership.is_voter(self.id) && membership.disk(self.id).is_none();
        let commit = self.log.commit();
        if self.configs.since_commit(commit).any(names_own_disk) {
            return VoteWeight::Counted;
        }
        let is_founder = self.is_founder && self.configs.since_commit(commit).any(lists_voter_without_disk);
        election::unnamed_disk_weight(is_founder, self.options.mutants)
    }

    /// Whether this node may become leader: its vote counts, it is a voter, and its log reaches the promised position.
    ///
    /// Checked at the start of each campaign and at a `TimeoutNow`: both may happen long after the configuration has
    /// changed.
    pub fn promotable(&self) -> bool {
        let mutants = self.options.mutants;
        if mutants.breaks(Mutant::CampaignOnlyIfListed) {
            return self.configs.current().is_voter(self.id);
        }
        let disk = self.disk().filter(|_| !mutants.breaks(Mutant::VoteUnnamed));
        self.vote_weight() != VoteWeight::None
            && self.configs.may_be_needed_as_leader(self.id, disk, self.log.commit())
            && election::reaches_promised_position(self.log.last(), self.promised_position(), mutants)
    }

    /// Records the disk that a member presented. Returns whether another disk or none was recorded before.
    ///
    /// A disk that differs from the disk named in the configuration is not recorded: it counts only after an operator
    /// has removed and added the member again.
    pub fn learn_disk_id(&mut self, peer: NodeId, disk: DiskId) -> bool {
        let current = self.configs.current();
        let is_other_disk = current.disk(peer).is_some_and(|known| known != disk);
        current.members.contains_key(&peer) && !is_other_disk && self.known_disks.insert(peer, disk) != Some(disk)
    }

    /// The disk that the peer presented last; `None` if none is known.
    pub fn presented_disk(&self, peer: NodeId) -> Option<DiskId> {
        self.known_disks.get(&peer).copied()
    }

    /// Records the versions that a member announced on a new connection. They hold as long as the connection.
    pub fn record_versions(&mut self, peer: NodeId, versions: Versions) {
        let members = &self.configs.current().members;
        self.announced_versions.retain(|known, _| members.contains_key(known));
        if members.contains_key(&peer) {
            self.announced_versions.insert(peer, versions);
        }
    }

    /// Forgets the versions of a peer whose connection has ended.
    pub fn forget_versions(&mut self, peer: NodeId) {
        self.announced_versions.remove(&peer);
    }

    /// The versions that a member announced on its present connection, or those of this node itself; `None` if the member
    /// is not connected.
    pub fn announced_versions(&self, id: NodeId) -> Option<Versions> {
        if id == self.id { Some(self.options.versions) } else { self.announced_versions.get(&id).copied() }
    }

    /// The index from which that node's copy on that disk counts: the entry that names the disk. `None` if the
    /// configuration names another disk, or none.
    ///
    /// Earlier acknowledgments under the same node id may be of another disk.
    pub fn copy_counts_from(&self, node: NodeId, disk: Option<DiskId>) -> Option<Index> {
        let named_since_index = disk.and_then(|disk| self.configs.disk_named_since(node, disk));
        membership::copy_counts_from(named_since_index, self.disk().is_some(), self.options.mutants)
    }

    /// Adds the known disks to `membership` where it names none yet. Returns whether a disk was added.
    ///
    /// A disk that is named is never replaced here: an emptied disk must not become a member without a decision of the
    /// operator.
    pub fn name_disks(&self, membership: &mut Membership) -> bool {
        let mut has_named_disk = false;
        for (id, member) in &mut membership.members {
            if member.disk.is_none() {
                member.disk = self.known_disks.get(id).copied();
                has_named_disk |= member.disk.is_some();
            }
        }
        has_named_disk
    }

    /// Whether this node's log has never held an entry: the node is new, or has lost everything.
    pub fn has_empty_log(&self) -> bool {
        election::log_is_empty(self.log.last(), self.options.mutants)
    }

    /// Handles a proof that this node acknowledged the entries up to `upto`. If its log ends before that position, the
    /// node records the position durably ([`crate::types::HardState::promised_position`]).
    ///
    /// The log does not change, because its remaining entries are valid. Only the node's votes change: it votes as if
    /// its log still ended at `upto`.
    pub fn promise_lost_position(&mut self, upto: Position) {
        if self.log.last() < upto && self.promised_position() < upto {
            let log_end = self.log.last();
            self.notes.push(Note::LossDetected { log_end, acknowledged: upto });
            self.hard_state.promised_position = upto;
            self.hard_state_changed = true;
        }
    }

    /// Records what a message proves about its sender's disk, in case the sender returns with an older copy of that
    /// disk.
    ///
    /// Claims are kept in memory only, because no promise of this node depends on them. After a restart of this node,
    /// other nodes still send their claims to the peer.
    pub fn record_claim(&mut self, envelope: &Envelope) {
        let Envelope { from, term, origin, message, .. } = envelope;
        let Some(disk) = origin.disk else { return };
        let position = match message {
            Message::AppendResponse { matched } if *term == self.term() => {
                self.log.term(*matched).map(|term| Position::new(*matched, term))
            }
            // The candidate requested votes only once all of its log was durable.
            Message::RequestVote { last, kind } if kind.is_real() => Some(*last),
            _ => None,
        };
        self.claims.record(*from, disk, DiskClaim { term: *term, position: position.unwrap_or_default() });
    }

    /// Records that a leader holds the entries up to the commit index. A leader sends no message that states the end of
    /// its log.
    pub fn record_leader_claim(&mut self, leader: NodeId, disk: DiskId) {
        let commit = self.log.commit();
        if let Some(term) = self.log.term(commit) {
            let claim = DiskClaim { term: self.term(), position: Position::new(commit, term) };
            self.claims.record(leader, disk, claim);
        }
    }

    /// Sends a newly connected peer the claims that were recorded for its disk.
    pub fn send_recorded_claim(&mut self, peer: NodeId, disk: DiskId) {
        if let Some(DiskClaim { term, position }) = self.claims.get(peer, disk) {
            self.send(peer, Message::RecordedClaim { term, position });
        }
    }

    /// Whether this node is still in the term that its disk had at the start, without a vote. If the disk is an older
    /// copy, the node may have voted in that term before.
    pub fn may_have_forgotten_vote(&self) -> bool {
        self.term() == self.recovered_term && self.vote().is_none()
    }

    /// Uses up the vote of this term without a candidate: the node may have voted in this term before, and does not
    /// know for which candidate.
    ///
    /// The recorded vote is for this node's id without a disk, which matches no candidate, not even this node itself.
    pub fn forfeit_vote(&mut self) {
        if self.vote().is_none() {
            self.record_vote(Vote::new(self.id, None));
        }
    }

    /// Whether this node founded its log alone, and the log never had another member.
    pub fn is_sole_founder(&self) -> bool {
        let has_one_member = |membership: &Membership| membership.members.len() == 1;
        self.is_founder
            && self.log.base() == Position::ZERO
            && self.configs.since_commit(Index::ZERO).all(has_one_member)
    }
}
