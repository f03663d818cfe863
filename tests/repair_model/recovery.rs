//! The rules of repair: what a node concludes from its damaged disk at a restart, and how nodes repair their logs with
//! the entries of their peers.

use super::cluster::{Clause, LOG_LENGTH_MAX, NODE_COUNT, Node, Position, Role, UNKNOWN_END, ZERO_POSITION};

/// The states in which a node may be after a restart on its present disk. Empty if the damage cannot be distinguished
/// from a batch that a power loss has torn: no rule covers this case, so the model leaves it out.
pub fn recover(before: &Node, broken_clause: Option<Clause>) -> Vec<Node> {
    let breaks = |clause: Clause| broken_clause == Some(clause);
    let mut node = Node {
        role: Role::Follower,
        is_damaged: [false; LOG_LENGTH_MAX],
        non_entry_damage: Default::default(),
        ..*before
    };
    let first_lost_index = (1..=before.len).find(|index| before.is_damaged[*index as usize - 1]);
    if breaks(Clause::PromiseIsDurable) {
        node.promised_position = ZERO_POSITION;
    }
    // If an entry is damaged, the record of the vote in the log may be damaged as well.
    let can_read_vote_in_log = !before.non_entry_damage.is_vote_in_log_damaged && first_lost_index.is_none();
    let can_read_vote_in_marker = !before.non_entry_damage.is_vote_in_marker_damaged && !breaks(Clause::VoteFromMarker);
    if !can_read_vote_in_log && !can_read_vote_in_marker {
        node.vote = None;
        if !breaks(Clause::StopWithoutVote) && !breaks(Clause::VoteFromMarker) {
            node.role = Role::Stopped;
        }
    }
    let Some(first_lost_index) = first_lost_index else { return vec![node] };
    if breaks(Clause::AcknowledgeReadable) {
        // The node ignores the damage and continues as if it could still read the damaged entries.
        return vec![Node { is_damaged: before.is_damaged, ..node }];
    }
    let Some(end) = last_acknowledged_position(before, first_lost_index, broken_clause) else { return Vec::new() };
    for index in first_lost_index..=before.len {
        let at = index as usize - 1;
        let is_intact = !before.is_damaged[at];
        node.begins_fragment[at] = is_intact && (at == 0 || before.is_damaged[at - 1]);
        node.salvaged_terms[at] = if is_intact && !breaks(Clause::KeepSalvage) { before.log[at] } else { 0 };
        node.lost_terms[at] = if is_intact { 0 } else { before.log[at] };
    }
    if let Some(begins_fragment) = node.begins_fragment.get_mut(before.len as usize) {
        *begins_fragment = true;
    }
    node.truncate(first_lost_index - 1);
    let node_without_promise = node;
    if !breaks(Clause::RecordPromise) {
        node.promised_position = node.promised_position.max(end);
    }
    // The broken clause truncates the log first. A crash may then happen before the promised position is recorded.
    if breaks(Clause::PromiseBeforeCut) { vec![node, node_without_promise] } else { vec![node] }
}

/// The last position that a damaged node may have acknowledged; `None` if nothing shows that the end of its log was
/// ever synced.
fn last_acknowledged_position(before: &Node, first_lost_index: u8, broken_clause: Option<Clause>) -> Option<Position> {
    let is_marker_usable =
        !before.non_entry_damage.is_log_end_in_marker_damaged && broken_clause != Some(Clause::PromiseFromMarker);
    let last_intact_index = (first_lost_index..=before.len).rev().find(|index| !before.is_damaged[*index as usize - 1]);
    let last_intact_position = last_intact_index.map(|index| before.position(index));
    match last_intact_position {
        _ if is_marker_usable => Some(before.last_position()),
        Some(last_intact_position) if last_intact_position == before.last_position() => Some(last_intact_position),
        _ if broken_clause == Some(Clause::PromiseFromMarker) => {
            Some(last_intact_position.unwrap_or(before.position(first_lost_index - 1)))
        }
        _ if !before.non_entry_damage.is_last_segment_missing => None,
        _ if broken_clause == Some(Clause::UnknownEndCoversTerm) => Some(before.position(first_lost_index - 1)),
        _ => Some((before.term, UNKNOWN_END)),
    }
}

/// Whether a log that ends at `last` reaches the promised position.
pub fn reaches(last: Position, promised_position: Position, broken_clause: Option<Clause>) -> bool {
    match broken_clause {
        Some(Clause::PositionsCompareByTermFirst) => last.1 >= promised_position.1,
        _ => last >= promised_position,
    }
}

/// Once the log reaches the promised position, clears this position and the salvaged entries.
pub fn clear_reached_promise(node: &mut Node, broken_clause: Option<Clause>) {
    if node.promised_position != ZERO_POSITION && reaches(node.last_position(), node.promised_position, broken_clause) {
        (node.promised_position, node.salvaged_terms, node.lost_terms, node.begins_fragment) =
            (ZERO_POSITION, [0; LOG_LENGTH_MAX], [0; LOG_LENGTH_MAX], [false; LOG_LENGTH_MAX]);
    }
}

/// Consecutive entries of one log: the log of a node, or salvaged entries without damage between them.
struct Fragment {
    /// The position before the first entry. Before salvaged entries it has the term of the first one, because the leader
    /// of that term wrote both: a log that ends there continues with the fragment.
    before: Position,
    /// The terms of the entries.
    terms: Vec<u8>,
}

impl Fragment {
    /// The fragments that a node can read: its log up to the first damaged entry, then the salvaged entries.
    fn all_of(node: &Node) -> Vec<Fragment> {
        let log = (0..node.len as usize).take_while(|at| !node.is_damaged[*at]).map(|at| node.log[at]).collect();
        let mut fragments = vec![Fragment { before: ZERO_POSITION, terms: log }];
        let mut follows_salvaged_entry = false;
        for (at, term) in node.salvaged_terms.into_iter().enumerate() {
            match fragments.last_mut() {
                _ if term == 0 => {}
                Some(fragment) if follows_salvaged_entry && !node.begins_fragment[at] => fragment.terms.push(term),
                _ => fragments.push(Fragment { before: (term, at as u8), terms: vec![term] }),
            }
            follows_salvaged_entry = term != 0;
        }
        fragments
    }

    fn holds(&self, position: Position) -> bool {
        position == self.before
            || (position.1 > self.before.1
                && self.terms.get((position.1 - self.before.1) as usize - 1) == Some(&position.0))
    }

    /// The last index at or below that of `known` at which this fragment has an entry of the same term.
    fn last_index_of_same_term(&self, known: Position) -> Option<u8> {
        let positions = self.terms.iter().zip(self.before.1 + 1..);
        positions.filter(|(term, index)| **term == known.0 && *index <= known.1).map(|(_, index)| index).last()
    }

    /// The entries after an index, up to and including `upto`.
    fn terms_between(&self, after: u8, upto: u8) -> Vec<u8> {
        let upto = (upto - self.before.1).min(self.terms.len() as u8);
        self.terms.get((after - self.before.1) as usize..upto as usize).unwrap_or_default().to_vec()
    }

    /// The entries of this fragment that the requester has lost; empty if it has none for the requester.
    ///
    /// An entry belongs to the requester's former log if it is at or before a position of this log (Log Matching,
    /// §5.3). Such positions are the known ones, and earlier positions of the same terms: the leader of a term appended
    /// all of its entries, and never removes one of its own (Leader Append-Only, §5.3). The requester's present log must
    /// be a part of this fragment too: a leader may have changed it since the damage.
    fn answer(&self, request: &RepairRequest, broken_clause: Option<Clause>) -> Vec<u8> {
        let after = request.after;
        if broken_clause == Some(Clause::AnswerSharesPosition) && after.1 >= self.before.1 {
            return self.terms_between(after.1, self.before.1 + self.terms.len() as u8);
        }
        let shared_index = request.known.iter().filter_map(|known| self.last_index_of_same_term(*known)).max();
        match shared_index {
            Some(upto) if self.holds(after) && upto > after.1 => self.terms_between(after.1, upto),
            _ => Vec::new(),
        }
    }
}

/// A node's request to its peers for the entries after its log.
struct RepairRequest {
    /// The last position of the log.
    after: Position,
    /// Later positions that the log held before the damage: salvaged entries, and the promised position.
    known: Vec<Position>,
}

impl RepairRequest {
    /// The request of a node; `None` if the node lacks no entry.
    fn of(node: &Node, broken_clause: Option<Clause>) -> Option<RepairRequest> {
        let after = node.last_position();
        if reaches(after, node.promised_position, broken_clause) {
            return None;
        }
        let salvaged = node.salvaged_terms.into_iter().zip(1..).filter(|(term, _)| *term != 0);
        let promised = Some(node.promised_position).filter(|position| position.1 != UNKNOWN_END);
        let known = salvaged.chain(promised).filter(|known| known.1 > after.1 && known.0 >= after.0).collect();
        Some(RepairRequest { after, known })
    }
}

/// Repairs the log of `asker` with the entries of `peer`, as far as the peer can answer. Returns whether the log has
/// grown.
///
/// A repair needs neither a leader nor a commit index: it appends only entries that the log held before the damage.
pub fn repair_log(nodes: &mut [Node; NODE_COUNT], asker: usize, peer: usize, broken_clause: Option<Clause>) -> bool {
    let is_one_stopped = nodes[asker].role == Role::Stopped || nodes[peer].role == Role::Stopped;
    let Some(request) = RepairRequest::of(&nodes[asker], broken_clause).filter(|_| asker != peer && !is_one_stopped)
    else {
        return false;
    };
    let answers = Fragment::all_of(&nodes[peer]).into_iter().map(|fragment| fragment.answer(&request, broken_clause));
    let missing_terms = answers.max_by_key(Vec::len).unwrap_or_default();
    let node = &mut nodes[asker];
    let len_before = node.len;
    // An answer whose terms descend is no log.
    let terms_ascend = missing_terms.is_sorted() && missing_terms.first() >= Some(&node.last_position().0);
    missing_terms.into_iter().filter(|_| terms_ascend).for_each(|term| node.push(term));
    append_following_salvage(node);
    clear_reached_promise(node, broken_clause);
    node.len > len_before
}

/// Appends the salvaged entries that follow the log of a node.
fn append_following_salvage(node: &mut Node) {
    let last = node.last_position();
    let following_terms = Fragment::all_of(node).into_iter().skip(1).filter(|fragment| fragment.holds(last));
    let longest =
        following_terms.map(|fragment| fragment.terms_between(last.1, LOG_LENGTH_MAX as u8)).max_by_key(Vec::len);
    longest.unwrap_or_default().into_iter().for_each(|term| node.push(term));
}

/// The outcome for a cluster that suffers no further damage.
pub enum Outcome {
    /// A leader can be elected.
    ElectsLeader,
    /// No leader can be elected, although the nodes still have a copy of every entry.
    Stuck,
    /// An operator must decide: a node stopped, every copy of an entry is damaged, or no node can know which of two
    /// entries was lost.
    NeedsOperator,
}

/// The outcome for a cluster without further damage: each node restarts, and then the nodes repair their logs until no
/// repair changes anything.
pub fn outcome_without_damage(mut nodes: [Node; NODE_COUNT], broken_clause: Option<Clause>) -> Outcome {
    for node in &mut nodes {
        let recovered_states = recover(node, broken_clause);
        let Some(recovered) = recovered_states.first().filter(|node| node.role != Role::Stopped) else {
            return Outcome::NeedsOperator;
        };
        *node = *recovered;
        clear_reached_promise(node, broken_clause);
    }
    while (0..NODE_COUNT).any(|asker| (0..NODE_COUNT).any(|peer| repair_log(&mut nodes, asker, peer, broken_clause))) {}
    let can_elect = nodes.iter().any(|candidate| {
        let last_position = candidate.last_position();
        let vote_count = nodes
            .iter()
            .filter(|voter| {
                last_position >= voter.last_position() && reaches(last_position, voter.promised_position, broken_clause)
            })
            .count();
        reaches(last_position, candidate.promised_position, broken_clause) && vote_count > NODE_COUNT / 2
    });
    // A lost entry is recoverable if a copy is left and the node knows a later position of its term. Otherwise a peer
    // cannot know whether the entry precedes the positions that the node knows.
    let has_copy_left = |term: u8, index: u8| nodes.iter().any(|node| node.has_copy(term, index));
    let knows_term = |node: &Node, term: u8| {
        RepairRequest::of(node, broken_clause).is_none_or(|request| request.known.iter().any(|known| known.0 == term))
    };
    let has_unrecoverable_entry = |node: &Node| {
        (1..)
            .zip(node.lost_terms)
            .any(|(index, term)| term != 0 && !(has_copy_left(term, index) && knows_term(node, term)))
    };
    // No record of a salvaged entry names the entry before it. If that one was damaged and is of an earlier term, nothing
    // shows which log the salvaged entries continue.
    let hides_term_change = |node: &Node| {
        (1..LOG_LENGTH_MAX).any(|at| {
            let term_before = if at <= node.len as usize { node.log[at - 1] } else { node.lost_terms[at - 1] };
            node.salvaged_terms[at] != 0 && node.begins_fragment[at] && term_before != node.salvaged_terms[at]
        })
    };
    match () {
        () if can_elect => Outcome::ElectsLeader,
        () if nodes.iter().any(has_unrecoverable_entry) => Outcome::NeedsOperator,
        () if nodes.iter().any(hides_term_change) => Outcome::NeedsOperator,
        () => Outcome::Stuck,
    }
}
