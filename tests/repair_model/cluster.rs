//! The state of the modeled cluster.

use super::replication::Step;

/// The number of voters.
pub const NODE_COUNT: usize = 3;
/// The maximum number of entries in a log.
pub const LOG_LENGTH_MAX: usize = 3;
/// The number of terms, from 0, the term before any election, to the maximum term.
pub const TERM_COUNT: usize = 4;

/// A position in a log: the term of an entry first, so that positions compare as logs do (§5.4.1).
pub type Position = (u8, u8);
/// The position before the first entry.
pub const ZERO_POSITION: Position = (0, 0);
/// The index of a promised position whose true index is not known: it is after every entry of its term.
pub const UNKNOWN_END: u8 = u8::MAX;

/// A clause of the repair rule. A test breaks each clause and checks that a violation follows, so that every clause is
/// needed. The *promised position* of a node is the last position that it may have acknowledged before damage destroyed
/// entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clause {
    /// A node that lost entries records its promised position.
    RecordPromise,
    /// The recorded promised position survives the next restart.
    PromiseIsDurable,
    /// The promised position is recorded before the log is truncated at the damage.
    PromiseBeforeCut,
    /// The promised position is at least the end of the log that the sync marker records.
    PromiseFromMarker,
    /// If the end of the log is not known, the promised position is after every entry of the current term.
    UnknownEndCoversTerm,
    /// A node votes only for a candidate whose log reaches the voter's promised position.
    VoteNeedsPromise,
    /// A node campaigns only if its own log reaches its promised position.
    CampaignNeedsPromise,
    /// Whether a log reaches a promised position is decided by term first, then by index.
    PositionsCompareByTermFirst,
    /// If the copy of the vote in the log is damaged, a restart restores the vote from the copy in the sync marker.
    VoteFromMarker,
    /// A node that lost both copies of its vote stops for good.
    StopWithoutVote,
    /// A node acknowledges only entries before its first damaged entry.
    AcknowledgeReadable,
    /// A peer answers a repair request only with entries up to a position that the requester's log also had.
    AnswerSharesPosition,
    /// Intact entries after the damage are kept until the repaired log reaches their indexes.
    KeepSalvage,
}

impl Clause {
    /// Every clause once.
    pub const ALL: [Clause; 13] = [
        Clause::RecordPromise,
        Clause::PromiseIsDurable,
        Clause::PromiseBeforeCut,
        Clause::PromiseFromMarker,
        Clause::UnknownEndCoversTerm,
        Clause::VoteNeedsPromise,
        Clause::CampaignNeedsPromise,
        Clause::PositionsCompareByTermFirst,
        Clause::VoteFromMarker,
        Clause::StopWithoutVote,
        Clause::AcknowledgeReadable,
        Clause::AnswerSharesPosition,
        Clause::KeepSalvage,
    ];
}

impl Clause {
    /// The first steps of every random walk in which this clause is broken: steps that a violation needs, and that a
    /// random walk seldom takes.
    pub fn first_steps(self) -> &'static [Step] {
        use Step::{Append, Campaign, Propose, Vote, Win};
        match self {
            // Node 0 appends an entry that only node 0 has. Node 1 then leads the next term, and replaces this entry.
            Clause::PositionsCompareByTermFirst => {
                &[Campaign(0), Vote(1, 0), Win(0), Propose(0), Campaign(1), Vote(2, 1), Win(1), Append(1, 0)]
            }
            // Nodes 0 and 1 have the same two entries, so that each copy can be damaged at another index.
            Clause::KeepSalvage => {
                &[Campaign(0), Vote(1, 0), Win(0), Propose(0), Propose(0), Append(0, 1), Append(0, 1)]
            }
            _ => &[],
        }
    }
}

/// The role of a node in its current term.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Votes and accepts entries.
    Follower,
    /// Collects votes.
    Candidate,
    /// Proposes entries.
    Leader,
    /// Stopped for good: the node needs an operator.
    Stopped,
}

/// Which parts of a disk other than entries are damaged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct NonEntryDamage {
    /// The copy of the term and the vote in the log is damaged.
    pub is_vote_in_log_damaged: bool,
    /// The copy of the term and the vote in the sync marker is damaged.
    pub is_vote_in_marker_damaged: bool,
    /// The end of the log as recorded in the sync marker is damaged.
    pub is_log_end_in_marker_damaged: bool,
    /// The last segment of the log is missing, so that the log does not show where it ended.
    pub is_last_segment_missing: bool,
}

/// A node of the model. Every write to its log is durable at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// The role of the node in its current term.
    pub role: Role,
    /// The current term of the node.
    pub term: u8,
    /// The candidate for which the node voted in its current term.
    pub vote: Option<u8>,
    /// The number of entries in the log.
    pub len: u8,
    /// The term of each entry in the log, from index 1 on.
    pub log: [u8; LOG_LENGTH_MAX],
    /// Whether each entry of the log is damaged on the disk, from index 1 on. The node notices damage only at a
    /// restart.
    pub is_damaged: [bool; LOG_LENGTH_MAX],
    /// Which parts of the disk other than entries are damaged. The node notices this damage only at a restart, too.
    pub non_entry_damage: NonEntryDamage,
    /// The last position that the node may have acknowledged and no longer holds; [`ZERO_POSITION`] if it lost no
    /// entry.
    pub promised_position: Position,
    /// The terms of the intact entries after the first damage, from index 1 on; 0 where there is none.
    pub salvaged_terms: [u8; LOG_LENGTH_MAX],
    /// Whether the salvaged entry at each index, from 1 on, may not follow the entry before it: the latter was damaged,
    /// or was salvaged from another damage.
    pub begins_fragment: [bool; LOG_LENGTH_MAX],
    /// The terms of the entries that were lost, from index 1 on; 0 where none was. Only the checks read this field, to
    /// decide whether another node has a copy.
    pub lost_terms: [u8; LOG_LENGTH_MAX],
}

impl Node {
    /// A node with an empty log.
    pub fn new() -> Node {
        Node {
            role: Role::Follower,
            term: 0,
            vote: None,
            len: 0,
            log: [0; LOG_LENGTH_MAX],
            is_damaged: [false; LOG_LENGTH_MAX],
            non_entry_damage: NonEntryDamage::default(),
            promised_position: ZERO_POSITION,
            salvaged_terms: [0; LOG_LENGTH_MAX],
            begins_fragment: [false; LOG_LENGTH_MAX],
            lost_terms: [0; LOG_LENGTH_MAX],
        }
    }

    /// The position of the last entry.
    pub fn last_position(&self) -> Position {
        self.position(self.len)
    }

    /// The position of the entry at an index that is in the log.
    pub fn position(&self, index: u8) -> Position {
        if index == 0 { ZERO_POSITION } else { (self.log[index as usize - 1], index) }
    }

    /// Whether the log has an entry at `position`.
    pub fn holds(&self, position: Position) -> bool {
        position.1 <= self.len && self.position(position.1) == position
    }

    /// The terms of all entries up to the index `upto`, encoded as one number, by which two logs are compared.
    pub fn history_number(&self, upto: u8) -> u8 {
        self.log[..upto as usize].iter().fold(0, |number, term| number * TERM_COUNT as u8 + term)
    }

    /// Appends an entry of `term`.
    pub fn push(&mut self, term: u8) {
        let entry_slot = self.len as usize;
        (self.log[entry_slot], self.is_damaged[entry_slot], self.lost_terms[entry_slot]) = (term, false, 0);
        self.len += 1;
    }

    /// Removes all entries after the index `len`.
    pub fn truncate(&mut self, len: u8) {
        for at in len as usize..LOG_LENGTH_MAX {
            (self.log[at], self.is_damaged[at]) = (0, false);
        }
        self.len = self.len.min(len);
    }

    /// Whether the node has an intact copy of the entry, in its log or among the salvaged entries.
    pub fn has_copy(&self, term: u8, index: u8) -> bool {
        let at = index as usize - 1;
        (index <= self.len && self.log[at] == term && !self.is_damaged[at]) || self.salvaged_terms[at] == term
    }
}

/// Three nodes, and all votes and acknowledgments that they ever sent: each may arrive at any later time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cluster {
    /// The nodes by their numbers.
    pub nodes: [Node; NODE_COUNT],
    /// The voters that granted a vote, by term and candidate: one bit for each voter.
    pub granted_votes: [[u8; NODE_COUNT]; TERM_COUNT],
    /// The highest index that a follower acknowledged to the leader of a term, by term and follower.
    pub acknowledged_indexes: [[u8; NODE_COUNT]; TERM_COUNT],
    /// The node that became the leader of each term.
    pub leaders: [Option<u8>; TERM_COUNT],
    /// The terms of the committed entries, from index 1 on; 0 after the last committed entry.
    pub committed_terms: [u8; LOG_LENGTH_MAX],
    /// The term of the leader that committed each entry, from index 1 on.
    pub commit_terms: [u8; LOG_LENGTH_MAX],
    /// The log of a leader up to an entry that it appended, as [`Node::history_number`], by term and index of the
    /// entry.
    pub written_histories: [[u8; LOG_LENGTH_MAX]; TERM_COUNT],
    /// How many parts of disks were damaged so far.
    pub damage_count: u8,
}

impl Cluster {
    /// A cluster before its first step: three nodes with empty logs.
    pub fn new() -> Cluster {
        Cluster {
            nodes: [Node::new(); NODE_COUNT],
            granted_votes: [[0; NODE_COUNT]; TERM_COUNT],
            acknowledged_indexes: [[0; NODE_COUNT]; TERM_COUNT],
            leaders: [None; TERM_COUNT],
            committed_terms: [0; LOG_LENGTH_MAX],
            commit_terms: [0; LOG_LENGTH_MAX],
            written_histories: [[0; LOG_LENGTH_MAX]; TERM_COUNT],
            damage_count: 0,
        }
    }

    /// The number of committed entries.
    pub fn committed_count(&self) -> u8 {
        self.committed_terms.iter().take_while(|term| **term != 0).count() as u8
    }

    /// The position of a committed entry of which no node has an intact copy, if there is one.
    pub fn committed_entry_without_copy(&self) -> Option<Position> {
        let committed_positions =
            (1..=self.committed_count()).map(|index| (self.committed_terms[index as usize - 1], index));
        committed_positions
            .into_iter()
            .find(|(term, index)| !self.nodes.iter().any(|node| node.has_copy(*term, *index)))
    }
}
