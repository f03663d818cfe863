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
        node.salvaged_terms[at] = if is_intact && !breaks(Clause::KeepSalvage) { before.log[at] } else { 0 };
        node.lost_terms[at] = if is_intact { 0 } else { before.log[at] };
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
        (node.promised_position, node.salvaged_terms, node.lost_terms, node.log_changed) =
            (ZERO_POSITION, [0; LOG_LENGTH_MAX], [0; LOG_LENGTH_MAX], false);
    }
}

/// The positions of one log that a node knows, including positions whose entries it cannot read.
struct KnownHistory {
    /// The term at each index from 1 on, 0 where the term is not known.
    terms: [u8; LOG_LENGTH_MAX],
    /// Whether the node can read the entry at each index from 1 on.
    is_readable: [bool; LOG_LENGTH_MAX],
}

impl KnownHistory {
    /// The histories that a node knows. A node that found damage also knows the positions of its salvaged entries and
    /// its promised position. These belong to the same history as the log, until a leader changes the log.
    fn of(node: &Node) -> Vec<KnownHistory> {
        let is_readable_in_log = |at: usize| at < node.len as usize && !node.is_damaged[at];
        let log = KnownHistory { terms: node.log, is_readable: std::array::from_fn(is_readable_in_log) };
        if node.promised_position == ZERO_POSITION {
            return vec![log];
        }
        let mut salvaged_history =
            KnownHistory { terms: node.salvaged_terms, is_readable: node.salvaged_terms.map(|term| term != 0) };
        if let Some(end) = salvaged_history.terms.get_mut(node.promised_position.1 as usize - 1) {
            *end = node.promised_position.0;
        }
        if node.log_changed {
            return vec![log, salvaged_history];
        }
        for at in 0..node.len as usize {
            (salvaged_history.terms[at], salvaged_history.is_readable[at]) = (log.terms[at], log.is_readable[at]);
        }
        vec![salvaged_history]
    }

    /// The terms of the requested entries, from the first requested entry to the last one before an unreadable entry.
    /// `None` if this history may differ from that of the requester.
    ///
    /// An entry belongs to the requester's former log if it is at or before a position of this log (Log Matching,
    /// §5.3). Such positions are `until`, and earlier positions of the same term: the leader of this term appended
    /// them all, and never removes an entry of its own (Leader Append-Only, §5.3).
    fn answer(&self, request: &RepairRequest, broken_clause: Option<Clause>) -> Option<Vec<u8>> {
        let RepairRequest { after, until, .. } = *request;
        let shared_index = (1..=until.1).rev().find(|index| self.terms[*index as usize - 1] == until.0).unwrap_or(0);
        let shares_after_position = !request.log_changed || after.1 == 0 || self.terms[after.1 as usize - 1] == after.0;
        let shares_position = shared_index > 0 && shares_after_position;
        let upto = match broken_clause {
            Some(Clause::AnswerSharesPosition) => request.last_requested,
            _ => request.last_requested.min(shared_index),
        };
        let requested_range = after.1 as usize..upto as usize;
        let readable_terms = requested_range.take_while(|at| self.is_readable[*at]).map(|at| self.terms[at]).collect();
        (shares_position || broken_clause == Some(Clause::AnswerSharesPosition)).then_some(readable_terms)
    }
}

/// A node's request to its peers for the entries of its first damaged range.
#[derive(Clone, Copy)]
struct RepairRequest {
    /// The last position before the damaged range.
    after: Position,
    /// The first position after the damaged range that the node knows: that of a salvaged entry, or the promised
    /// position.
    until: Position,
    /// The last requested index: the one before `until`, or that of `until` if the node has no salvaged entry.
    last_requested: u8,
    /// Whether a leader has changed the log since the damage was found. Then `after` and `until` may belong to
    /// different histories.
    log_changed: bool,
}

impl RepairRequest {
    /// The request of a node; `None` if the node lacks no entry, or does not know how many entries it lacks.
    fn of(node: &Node, broken_clause: Option<Clause>) -> Option<RepairRequest> {
        if reaches(node.last_position(), node.promised_position, broken_clause) {
            return None;
        }
        let first_salvaged_index =
            (node.len + 1..=LOG_LENGTH_MAX as u8).find(|index| node.salvaged_terms[*index as usize - 1] != 0);
        let (until, last_requested) = match first_salvaged_index {
            Some(index) => ((node.salvaged_terms[index as usize - 1], index), index - 1),
            None if node.promised_position.1 == UNKNOWN_END => return None,
            None => (node.promised_position, node.promised_position.1),
        };
        Some(RepairRequest { after: node.last_position(), until, last_requested, log_changed: node.log_changed })
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
    let histories = KnownHistory::of(&nodes[peer]);
    let answers = histories.iter().filter_map(|history| history.answer(&request, broken_clause));
    let Some(missing_terms) = answers.max_by_key(Vec::len) else { return false };
    let node = &mut nodes[asker];
    let len_before = node.len;
    missing_terms.into_iter().for_each(|term| node.push(term));
    // The salvaged entries after the damaged range follow, up to the next damaged range.
    while node.len >= request.last_requested
        && (node.len as usize) < LOG_LENGTH_MAX
        && node.salvaged_terms[node.len as usize] != 0
    {
        node.push(node.salvaged_terms[node.len as usize]);
    }
    clear_reached_promise(node, broken_clause);
    node.len > len_before
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
    // A lost entry is recoverable if a copy is left and the entry has the term of `until`. If the terms differ, a peer
    // that lacks the entry at `until` cannot know which entries precede it.
    let has_copy_left = |term: u8, index: u8| nodes.iter().any(|node| node.has_copy(term, index));
    let knows_term =
        |node: &Node, term: u8| RepairRequest::of(node, broken_clause).is_none_or(|request| request.until.0 == term);
    let has_unrecoverable_entry = |node: &Node| {
        (1..)
            .zip(node.lost_terms)
            .any(|(index, term)| term != 0 && !(has_copy_left(term, index) && knows_term(node, term)))
    };
    match () {
        () if can_elect => Outcome::ElectsLeader,
        () if nodes.iter().any(has_unrecoverable_entry) => Outcome::NeedsOperator,
        () => Outcome::Stuck,
    }
}
