//! Checks Raft's five safety properties, and invariants on which they depend, after every step.
//!
//! The checks use what the nodes *do* (write, send, commit and apply), not what the nodes report of themselves.
//! `quorums` derives from a node's log which configuration the node must use. `recovery` checks what a node's disk must
//! hold.

use super::node_history::{DiskClaims, DiskImage, EntryStamp, NodeHistory};
use super::quorums::Configurations;
pub use super::violation::Result;
use crate::consensus::message::{Envelope, Message, VoteKind};
use crate::consensus::quorum::decides;
use crate::types::{DiskId, Entry, Index, Membership, NodeId, Position, Term, Write};
use std::collections::{BTreeMap, BTreeSet};

/// A node's role and commit index, and what its commit index may be at most.
#[derive(Clone, Copy, Debug)]
pub struct CommitState {
    /// The node's current term.
    pub term: Term,
    /// Whether the node is the leader of this term.
    pub is_leader: bool,
    /// The node's commit index.
    pub commit: Index,
    /// The highest index that the node may have committed: on a leader, the commit index computed by Raft's rule
    /// (§5.4.2); or the index of the node's snapshot, if that index is higher. `None` if there is neither.
    pub commit_max: Option<Index>,
}

/// The checks of one world, and the records of disk contents, votes, leaders and commits on which they rely.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// The disk contents and claims of each node that may ever be a member.
    pub(super) histories: BTreeMap<NodeId, NodeHistory>,
    /// The id of each node's disk.
    pub(super) disk_ids: BTreeMap<NodeId, DiskId>,
    /// The leader of each term.
    leaders: BTreeMap<Term, NodeId>,
    /// The vote of each node in each term, over all its restarts.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// For each term and candidate, the voters that granted the candidate their vote, with the ids of their disks.
    vote_grants: BTreeMap<(Term, NodeId), BTreeSet<(NodeId, DiskId)>>,
    /// Every entry ever written, by position: the entry's checksum, and the term and checksum of the entry before it.
    pub(super) written_entries: BTreeMap<Position, (u32, Option<EntryStamp>)>,
    /// The committed entries, in order.
    pub(super) committed_log: Vec<EntryStamp>,
    /// The configurations that the logs of the nodes prescribe.
    pub(super) configurations: Configurations,
    /// The term in which each entry of `committed_log` was committed, which may be later than the term of the entry.
    commit_terms: Vec<Term>,
    /// The digest of the state machine's state at each applied index.
    state_digests: BTreeMap<Index, u64>,
    /// Whether a node on an older copy of its disk voted before a peer had reported the node's earlier claims to it.
    /// Checks after that vote prove nothing.
    pub(super) voted_on_stale_disk: bool,
}

impl Checks {
    /// The checks of a cluster that begins with `founding_configuration`. `nodes` are all nodes that may ever be
    /// members.
    pub fn new(nodes: impl IntoIterator<Item = NodeId>, founding_configuration: Membership) -> Checks {
        let histories = nodes.into_iter().map(|id| (id, NodeHistory::default())).collect();
        Checks { histories, configurations: Configurations::new(founding_configuration), ..Checks::default() }
    }

    /// Records that a node's disk was emptied. The node's votes are forgotten. The entries of its log still count as
    /// held: no other node may be elected as if that log had never existed.
    pub fn record_wipe(&mut self, node: NodeId) {
        let lost_image = std::mem::take(&mut self.history_mut(node).durable_image);
        *self.history_mut(node) = NodeHistory { lost_image: Some(lost_image), ..NodeHistory::default() };
        self.votes.retain(|(voter, _), _| *voter != node);
        self.configurations.replace_log(node, &[]);
    }

    /// Whether the node's disk still lacks entries that it once held.
    pub fn lacks_lost_entries(&self, node: NodeId) -> bool {
        self.histories[&node].lost_image.is_some()
    }

    /// How many entries the node's disk holds, including the entries that a snapshot covers.
    pub fn durable_len(&self, node: NodeId) -> usize {
        self.histories[&node].durable_image.log.len()
    }

    /// Whether `other`'s disk holds a log at least as up-to-date as the lost log of `node`. True if `node` lacks no
    /// entries.
    pub fn covers_lost_log(&self, node: NodeId, other: NodeId) -> bool {
        let log_end = |image: &DiskImage| (image.log.last().map(|(term, _)| *term), image.log.len());
        let lost_end = self.histories[&node].lost_image.as_ref().map(log_end);
        lost_end.is_none_or(|lost_end| log_end(&self.histories[&other].durable_image) >= lost_end)
    }

    /// A copy of a node's history, made at the moment when the node's disk is copied.
    pub fn copy_history(&self, node: NodeId) -> NodeHistory {
        self.histories[&node].clone()
    }

    /// Restores an older copy of a node's disk. The entries of the replaced log still count as held: no other node
    /// may be elected as if that log had never existed.
    pub fn restore_copy(&mut self, node: NodeId, copy: &NodeHistory) {
        let history = self.history_mut(node);
        let lost_image = std::mem::take(&mut history.durable_image);
        let claims = history.claims;
        *history = NodeHistory {
            lost_image: Some(lost_image),
            claims,
            relearned_claims: Some(DiskClaims::default()),
            leading_term: None,
            ..copy.clone()
        };
    }

    /// Records the earlier claims of a node that `message` reports back to the node. The sender is a leader that finds
    /// acknowledged entries lost, or a peer that received the claims.
    pub fn record_learned_claims(&mut self, node: NodeId, message: &Message) {
        let Some(relearned_claims) = &mut self.history_mut(node).relearned_claims else { return };
        match message {
            Message::RecordedClaim { term, position } => {
                relearned_claims.term = relearned_claims.term.max(*term);
                relearned_claims.position = relearned_claims.position.max(*position);
            }
            Message::LostAcknowledged { upto } => relearned_claims.position = relearned_claims.position.max(*upto),
            _ => {}
        }
    }

    /// Checks a node that votes or requests votes. A node on an older copy of its disk must first have learned its
    /// earlier claims from its peers. If it has not, the run ends: later violations would only be consequences of that
    /// vote.
    fn check_claims_before_vote(&mut self, node: NodeId) -> Result<()> {
        let history = self.history_mut(node);
        if history.relearned_claims.is_some_and(|relearned_claims| !relearned_claims.covers(&history.claims)) {
            self.voted_on_stale_disk = true;
            return Err(format!(
                "{node} votes on an older copy of its disk before a peer has reported its earlier claims to it"
            ));
        }
        Ok(())
    }

    /// Whether the node's disk holds no entries.
    pub fn has_empty_log(&self, node: NodeId) -> bool {
        self.histories[&node].durable_image.log.is_empty()
    }

    pub(super) fn history_mut(&mut self, node: NodeId) -> &mut NodeHistory {
        self.histories.get_mut(&node).expect("every node has a history")
    }

    /// The number of committed entries, counted over all nodes.
    pub fn committed_len(&self) -> usize {
        self.committed_log.len()
    }

    /// Checks and records a write that a node submits to its journal. `leading_term` is the term of which
    /// the node is the leader; `None` if it is no leader.
    pub fn record_write(&mut self, node: NodeId, write: &Write, leading_term: Option<Term>) -> Result<()> {
        if leading_term.is_some() {
            // A node on an older copy of its disk that names it as the only voter becomes leader without requesting
            // votes.
            self.check_claims_before_vote(node)?;
        }
        let history = self.histories.get_mut(&node).expect("every node has a history");
        if let (Some(term), Some(first)) = (leading_term, write.entries.first())
            && history.leading_term == Some(term)
            && first.position.index.0 as usize <= history.written_image.log.len()
        {
            return Err(format!(
                "Leader Append-Only: {node} leads term {term} and overwrites its own entry {}",
                first.position
            ));
        }
        if let Some(base) = &write.base {
            let Position { index, term } = base.position;
            if self.committed_log.get(index.0 as usize - 1).is_none_or(|(committed, _)| *committed != term) {
                return Err(format!(
                    "{node} replaces its log by a snapshot of {}, which is not committed",
                    base.position
                ));
            }
            history.written_image.replace_log(write, &self.committed_log);
            self.configurations.replace_log(node, &history.written_image.log);
        }
        for entry in &write.entries {
            let index = entry.position.index.0 as usize;
            if index > history.written_image.log.len() + 1 {
                return Err(format!(
                    "{node} writes the entry {}, but its log has only {} entries",
                    entry.position,
                    history.written_image.log.len()
                ));
            }
            let previous = index.checked_sub(2).map(|previous| history.written_image.log[previous]);
            let (checksum, recorded_previous) =
                *self.written_entries.entry(entry.position).or_insert((entry.checksum, previous));
            if (checksum, recorded_previous) != (entry.checksum, previous) {
                return Err(format!("Log Matching: two logs differ at {} or just before it ({node})", entry.position));
            }
            history.written_image.append(entry);
            // The first entries of a batch may have been received before this node became leader.
            self.configurations.record_write(node, entry, leading_term == Some(entry.position.term));
        }
        history.written_image.hard_state = write.hard_state.unwrap_or(history.written_image.hard_state);
        history.unsynced_writes.push(write.clone());
        Ok(())
    }

    /// Records that a node's disk reported all writes up to `upto` as synced.
    pub fn record_sync(&mut self, node: NodeId, upto: crate::types::WriteId) {
        let history = self.histories.get_mut(&node).expect("every node has a history");
        let count = history.unsynced_writes.iter().take_while(|write| write.id <= upto).count();
        for write in history.unsynced_writes.drain(..count) {
            history.durable_image.apply(&write, &self.committed_log);
            history.false_sync.iter_mut().for_each(|false_sync| false_sync.writes_since.push(write.clone()));
        }
        if history.lost_image.as_ref().is_some_and(|lost_image| lost_image.log.len() <= history.durable_image.log.len())
        {
            history.lost_image = None;
        }
    }

    /// Checks a message that a node sends: the term, vote and entries that the message promises must be on the node's
    /// disk.
    pub fn check_send(&mut self, envelope: &Envelope) -> Result<()> {
        let Envelope { from, to, term, message, .. } = envelope;
        let durable_image = &self.histories[from].durable_image;
        if durable_image.hard_state.term < *term {
            return Err(format!(
                "{from} sends a message of term {term}, but its disk holds only term {}: {message:?}",
                durable_image.hard_state.term
            ));
        }
        let (from, to) = (*from, *to);
        self.record_claims(from, *term, message)?;
        let durable_image = &self.histories[&from].durable_image;
        let vote = match message {
            Message::RequestVote { kind: VoteKind::Vote | VoteKind::Transfer, .. } => Some(from),
            Message::RequestVoteResponse { kind: VoteKind::Vote | VoteKind::Transfer, granted: true, .. } => Some(to),
            Message::AppendResponse { matched } => {
                let matched_len = matched.0 as usize;
                if durable_image.log.len() < matched_len
                    || durable_image.log[..matched_len].last()
                        != self.histories[&from].written_image.log[..matched_len].last()
                {
                    let durable_len = durable_image.log.len();
                    return Err(format!(
                        "{from} acknowledges index {matched} to {to}, but its disk of {durable_len} entries lacks this \
                         entry"
                    ));
                }
                self.check_acknowledgement(from, to, *term, *matched)?;
                None
            }
            _ => None,
        };
        let Some(vote) = vote else { return Ok(()) };
        let durable_vote = durable_image.hard_state.vote.map(|vote| vote.node);
        if (durable_image.hard_state.term, durable_vote) != (*term, Some(vote)) {
            return Err(format!("{from} votes for {vote} in term {term}, but the vote is not on its disk"));
        }
        let first_vote = *self.votes.entry((from, *term)).or_insert(vote);
        if first_vote != vote {
            return Err(format!("{from} voted for {first_vote} and for {vote} in term {term}"));
        }
        if let (Message::RequestVoteResponse { .. }, Some(disk)) = (message, envelope.origin.disk) {
            self.vote_grants.entry((*term, vote)).or_default().insert((from, disk));
        }
        Ok(())
    }

    /// Checks that a leader was elected by a majority of the configuration that the leader's log prescribes (§6). A
    /// vote counts only if it was sent from the disk that this configuration names for the voter. If the configuration
    /// names no disk for a voter, that voter's vote counts from any disk.
    fn check_elected_by_majority(&self, node: NodeId, term: Term) -> Result<()> {
        let grants = self.vote_grants.get(&(term, node));
        let is_elected_by = |membership: &Membership| {
            let is_recorded_disk = |id: NodeId, disk: DiskId| membership.disk(id).is_none_or(|known| known == disk);
            let has_granted = |id: NodeId| {
                grants.is_some_and(|all| all.iter().any(|(from, disk)| *from == id && is_recorded_disk(id, *disk)))
            };
            let votes_for_itself = || self.disk_ids.get(&node).is_none_or(|disk| is_recorded_disk(node, *disk));
            decides(membership, |id| if id == node { votes_for_itself() } else { has_granted(id) })
        };
        let (previous_membership, membership) =
            (&self.histories[&node].last_configuration.1, self.configurations.membership(node));
        if is_elected_by(previous_membership) || is_elected_by(membership) {
            return Ok(());
        }
        Err(format!("{node} leads term {term} without a majority of {membership}: its votes are {grants:?}"))
    }

    /// Records the term and position that a message claims to be on the sender's disk.
    fn record_claims(&mut self, from: NodeId, term: Term, message: &Message) -> Result<()> {
        if matches!(
            message,
            Message::RequestVote { kind: VoteKind::Vote | VoteKind::Transfer, .. }
                | Message::RequestVoteResponse { granted: true, .. }
        ) {
            self.check_claims_before_vote(from)?;
        }
        let history = self.history_mut(from);
        let claimed_position = match message {
            Message::RequestVote { last, kind } if kind.is_real() => *last,
            Message::AppendResponse { matched } => {
                let held_stamp = (matched.0 as usize).checked_sub(1).and_then(|at| history.durable_image.log.get(at));
                Position::new(*matched, held_stamp.map_or(Term::ZERO, |(term, _)| *term))
            }
            _ => Position::ZERO,
        };
        history.add_claims(DiskClaims { term, position: claimed_position });
        Ok(())
    }

    /// Checks that the logs of a follower and its leader hold the same entry at the index that the follower
    /// acknowledges.
    fn check_acknowledgement(&self, from: NodeId, to: NodeId, term: Term, matched: Index) -> Result<()> {
        let (follower, leader) = (&self.histories[&from].written_image, &self.histories[&to].written_image);
        if self.histories[&to].leading_term != Some(term) || matched == Index::ZERO {
            return Ok(()); // the receiver no longer leads that term, or nothing is acknowledged
        }
        if follower.log.get(matched.0 as usize - 1) != leader.log.get(matched.0 as usize - 1) {
            return Err(format!("{from} acknowledges index {matched} to {to}, but their logs differ at that index"));
        }
        Ok(())
    }

    /// Checks a node's role, commit index and configuration after a step. `configuration` is the configuration
    /// that the node uses, with the index of its entry.
    pub fn check_role_and_commit(
        &mut self,
        node: NodeId,
        state: CommitState,
        configuration: (Index, &Membership),
    ) -> Result<()> {
        let CommitState { term, is_leader, commit, commit_max } = state;
        let leading_term = is_leader.then_some(term);
        let history = self.histories.get_mut(&node).expect("every node has a history");
        if commit < history.commit {
            return Err(format!("{node} moves its commit index back from {} to {commit}", history.commit));
        }
        if commit.0 as usize > history.written_image.log.len() {
            return Err(format!(
                "{node} commits index {commit}, but its log has only {} entries",
                history.written_image.log.len()
            ));
        }
        if let Some(term) = leading_term
            && history.leading_term == Some(term)
            && commit > history.commit
            && history.last_configuration.0 == configuration.0
            && commit_max.is_none_or(|commit_max| commit > commit_max)
        {
            return Err(format!("{node} commits index {commit}, but Raft's rule allows at most {commit_max:?}"));
        }
        let mut new_commit_count = 0;
        for index in history.commit.0..commit.0 {
            let stamp = history.written_image.log[index as usize];
            match self.committed_log.get(index as usize) {
                None => {
                    self.committed_log.push(stamp);
                    self.configurations.record_commit(Index(index + 1), stamp.0);
                    self.commit_terms.push(term);
                    new_commit_count += 1;
                }
                Some(first) if *first == stamp => {}
                Some(first) => {
                    let log_index = index + 1;
                    return Err(format!(
                        "State Machine Safety: {node} commits {stamp:?} at index {log_index}, where {first:?} was \
                         committed"
                    ));
                }
            }
        }
        if let (Some(_), Some((entry_term, _))) =
            (leading_term, commit.0.checked_sub(1).and_then(|at| history.written_image.log.get(at as usize)))
        {
            // A leader counts its own log towards the majority, so its commit index claims that its disk holds these
            // entries.
            history.add_claims(DiskClaims { term: Term::ZERO, position: Position::new(commit, *entry_term) });
        }
        history.commit = commit;
        let is_new_leader = leading_term.is_some() && history.leading_term != leading_term;
        self.check_commits_held_by_majority(node, new_commit_count)?;
        let term_has_commit = commit.0.checked_sub(1).is_some_and(|at| self.committed_log[at as usize].0 == term);
        if self.configurations.has_changed() {
            self.configurations.set_contradicting_nodes(self.find_nodes_contradicting_commits());
        }
        self.configurations.check_configuration(node, term_has_commit, configuration)?;
        if is_new_leader {
            self.check_new_leader(node, leading_term)?;
        }
        let history = self.history_mut(node);
        history.leading_term = leading_term;
        if history.last_configuration.0 != configuration.0 || history.last_configuration.1 != *configuration.1 {
            history.last_configuration = (configuration.0, configuration.1.clone());
        }
        Ok(())
    }

    /// The nodes whose logs contradict a committed entry. Two logs agree up to the first entry in which they differ,
    /// and nowhere behind it (§5.3).
    fn find_nodes_contradicting_commits(&self) -> BTreeSet<NodeId> {
        let contradicts_commits = |history: &NodeHistory| {
            let last_common_position = history.written_image.log.len().min(self.committed_log.len()).checked_sub(1);
            last_common_position.is_some_and(|last| history.written_image.log[last] != self.committed_log[last])
        };
        self.histories.iter().filter(|(_, history)| contradicts_commits(history)).map(|(id, _)| *id).collect()
    }

    /// Checks that the last `new_commit_count` committed entries, which this node was the first to commit, are on the
    /// disks of a majority of the configuration that the node's log prescribes (§6). Only disks that this configuration
    /// names count.
    fn check_commits_held_by_majority(&self, node: NodeId, new_commit_count: usize) -> Result<()> {
        for nth in self.committed_log.len() - new_commit_count..self.committed_log.len() {
            let image_holds_entry = |image: &DiskImage| image.log.get(nth) == Some(&self.committed_log[nth]);
            let is_entry_holder = |history: &NodeHistory| {
                image_holds_entry(&history.durable_image) || history.lost_image.as_ref().is_some_and(image_holds_entry)
            };
            let lost_image_holds_entry = |id: NodeId| {
                self.histories
                    .get(&id)
                    .is_some_and(|history| history.lost_image.as_ref().is_some_and(image_holds_entry))
            };
            let membership = self.configurations.membership(node);
            let previous_membership = &self.histories[&node].last_configuration.1;
            let is_recorded_disk =
                |membership: &Membership, id: NodeId| membership.disk(id) == self.disk_ids.get(&id).copied();
            let is_counted_holder = |membership: &Membership, id: NodeId| {
                lost_image_holds_entry(id)
                    || (is_recorded_disk(membership, id) && self.histories.get(&id).is_some_and(is_entry_holder))
            };
            let is_held_by = |membership: &Membership| decides(membership, |id| is_counted_holder(membership, id));
            if !is_held_by(previous_membership) && !is_held_by(membership) {
                let holders: Vec<String> = self
                    .histories
                    .iter()
                    .filter(|(_, history)| is_entry_holder(history))
                    .map(|(id, _)| id.to_string())
                    .collect();
                let holders = holders.join(", ");
                return Err(format!(
                    "{node} commits index {} in {membership}, but only {holders} hold that entry",
                    nth + 1
                ));
            }
        }
        Ok(())
    }

    /// Checks Election Safety and Leader Completeness for a node that has just become leader.
    fn check_new_leader(&mut self, node: NodeId, leading_term: Option<Term>) -> Result<()> {
        let Some(term) = leading_term else { return Ok(()) };
        // A node on an older copy of its disk that names it as the only voter becomes leader without requesting votes.
        self.check_claims_before_vote(node)?;
        self.check_elected_by_majority(node, term)?;
        let first_leader = *self.leaders.entry(term).or_insert(node);
        if first_leader != node {
            return Err(format!("Election Safety: {first_leader} and {node} both lead term {term}"));
        }
        // Only entries committed in earlier terms count: a node that was elected and then paused may become
        // leader late, and lack the entries that later leaders committed.
        let earlier_commit_count = self.commit_terms.partition_point(|committed| *committed < term);
        let log = &self.histories[&node].written_image.log;
        match (0..earlier_commit_count).find(|at| log.get(*at) != Some(&self.committed_log[*at])) {
            None => Ok(()),
            Some(at) => {
                let index = at + 1;
                Err(format!(
                    "Leader Completeness: {node} leads term {term} and lacks the committed entry at index {index}"
                ))
            }
        }
    }

    /// Checks an entry that a node's state machine has applied, and the digest of the state after this entry.
    pub fn check_applied(&mut self, node: NodeId, entry: &Entry, digest: u64) -> Result<()> {
        let index = entry.position.index;
        match self.committed_log.get(index.0 as usize - 1) {
            None => return Err(format!("{node} applies index {index}, which is not committed")),
            Some(stamp) if *stamp != (entry.position.term, entry.checksum) => {
                return Err(format!(
                    "State Machine Safety: {node} applies an entry at {index} that differs from the committed one"
                ));
            }
            Some(_) => {}
        }
        let first_digest = *self.state_digests.entry(index).or_insert(digest);
        if first_digest != digest {
            return Err(format!(
                "State Machine Safety: the state of {node} at index {index} differs from the state of another node"
            ));
        }
        Ok(())
    }

    /// Checks a node that discards its log up to `upto`: a durable snapshot on the node's disk must cover these
    /// entries.
    pub fn check_compaction(&self, node: NodeId, upto: Index, snapshot_index: Option<Index>) -> Result<()> {
        if snapshot_index.is_none_or(|snapshot_index| snapshot_index < upto) {
            return Err(format!(
                "{node} discards its log up to {upto}, but the snapshot on its disk covers {snapshot_index:?}"
            ));
        }
        Ok(())
    }

    /// Checks that a state restored from a snapshot equals the state that other nodes had at the snapshot's position.
    pub fn check_restored_state(&mut self, node: NodeId, position: Position, digest: u64) -> Result<()> {
        let committed_stamp = self.committed_log.get((position.index.0 as usize).wrapping_sub(1));
        if committed_stamp.is_none_or(|(term, _)| *term != position.term) {
            return Err(format!("{node} restores from a snapshot of {position}, which is not committed"));
        }
        match self.state_digests.get(&position.index) {
            Some(first) if *first != digest => {
                Err(format!("State Machine Safety: {node} restores a different state at {position}"))
            }
            _ => Ok(()),
        }
    }
}
