//! Checks Raft's five safety properties, and the invariants around them, after every step.
//!
//! The checks use what the nodes *do* (write, send, commit and apply), not what they report of themselves. `quorums`
//! derives from a node's log which configuration the node must use. `recovery` checks what must be found on its disk.

use super::node_history::{Claims, Image, NodeHistory, Stamp};
use super::quorums::Configurations;
pub use super::violation::Result;
use crate::consensus::message::{Envelope, Message, VoteKind};
use crate::consensus::quorum::decides;
use crate::types::{DiskId, Entry, Index, Membership, NodeId, Position, Term, Write};
use std::collections::{BTreeMap, BTreeSet};

/// A node's role and commit index, and the commit index by the definition.
#[derive(Clone, Copy, Debug)]
pub struct CommitState {
    /// Its term.
    pub term: Term,
    /// Whether it is the leader of this term.
    pub leads: bool,
    /// Its commit index.
    pub commit: Index,
    /// The commit index by Raft's definition, if it leads.
    pub defined: Option<Index>,
}

/// The checks, and the state that they need.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    pub(super) lives: BTreeMap<NodeId, NodeHistory>,
    /// The id of each node's disk.
    pub(super) disks: BTreeMap<NodeId, DiskId>,
    /// The leader of each term.
    leaders: BTreeMap<Term, NodeId>,
    /// The vote of each node in each term, over all its lives.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// For each term and candidate, the voters that granted it their vote, with their disks.
    grants: BTreeMap<(Term, NodeId), BTreeSet<(NodeId, DiskId)>>,
    /// Every entry ever written, by position: its checksum, and the entry before it.
    entries: BTreeMap<Position, (u32, Option<Stamp>)>,
    /// The committed entries, in order.
    pub(super) ledger: Vec<Stamp>,
    /// The configuration by each node's log.
    pub(super) configurations: Configurations,
    /// The term in which each entry of the ledger was committed.
    committed_in: Vec<Term>,
    /// The digest of the state at each applied index.
    digests: BTreeMap<Index, u64>,
    /// A node on an older copy of its disk voted before it learned its earlier claims: later checks prove nothing.
    pub(super) voted_before_reminder: bool,
}

impl Checks {
    /// Checks for a cluster that `founding` founds, and to which all of `nodes` may ever belong.
    pub fn new(nodes: impl IntoIterator<Item = NodeId>, founding: Membership) -> Checks {
        let lives = nodes.into_iter().map(|id| (id, NodeHistory::default())).collect();
        Checks { lives, configurations: Configurations::new(founding), ..Checks::default() }
    }

    /// Records that a node's disk was emptied. Its votes are lost for good. Its log is gone as well, but still counts:
    /// no other node may be elected as if that log had never existed.
    pub fn wiped(&mut self, node: NodeId) {
        let ghost = std::mem::take(&mut self.life(node).durable);
        *self.life(node) = NodeHistory { ghost: Some(ghost), ..NodeHistory::default() };
        self.votes.retain(|(voter, _), _| *voter != node);
        self.configurations.begins(node, &[]);
    }

    /// Whether that node's disk held more than it does now, and has not got it back.
    pub fn has_ghost(&self, node: NodeId) -> bool {
        self.lives[&node].ghost.is_some()
    }

    /// How many entries that node's disk holds, including those that a snapshot covers.
    pub fn durable(&self, node: NodeId) -> usize {
        self.lives[&node].durable.log.len()
    }

    /// Whether `other`'s disk holds a log at least as up-to-date as the lost log of `node`. True if `node` has no lost
    /// log, or has got it back.
    pub fn covers_ghost(&self, node: NodeId, other: NodeId) -> bool {
        let last = |image: &Image| (image.log.last().map(|(term, _)| *term), image.log.len());
        let held = self.lives[&node].ghost.as_ref().map(last);
        held.is_none_or(|held| last(&self.lives[&other].durable) >= held)
    }

    /// The history of a node, at the moment when its disk is copied.
    pub fn copy(&self, node: NodeId) -> NodeHistory {
        self.lives[&node].clone()
    }

    /// Restores an older copy of a node's disk. The replaced log still counts as held: no other node may be elected as
    /// if it had never existed.
    pub fn restore_copy(&mut self, node: NodeId, copy: &NodeHistory) {
        let life = self.life(node);
        let ghost = std::mem::take(&mut life.durable);
        let claims = life.claims;
        *life = NodeHistory { ghost: Some(ghost), claims, told: Some(Claims::default()), leads: None, ..copy.clone() };
    }

    /// A node learns its earlier claims: from a leader that finds entries lost, or from a peer that received the
    /// claims.
    pub fn record_reminder(&mut self, node: NodeId, message: &Message) {
        let Some(told) = &mut self.life(node).told else { return };
        match message {
            Message::Reminder { term, position } => {
                told.term = told.term.max(*term);
                told.position = told.position.max(*position);
            }
            Message::LostAcknowledged { upto } => told.position = told.position.max(*upto),
            _ => {}
        }
    }

    /// Checks a node that votes or requests votes. On an older copy of its disk, it must first have learned its earlier
    /// claims. If it has not, the rest of the run proves nothing against it (`untold`).
    fn check_claims_before_vote(&mut self, node: NodeId) -> Result<()> {
        let life = self.life(node);
        if life.told.is_some_and(|told| !told.covers(&life.claims)) {
            self.voted_before_reminder = true;
            return Err(format!("{node} votes on an older copy of its disk before it has learned its earlier claims"));
        }
        Ok(())
    }

    /// Whether that node's disk holds no entries.
    pub fn has_empty_log(&self, node: NodeId) -> bool {
        self.lives[&node].durable.log.is_empty()
    }

    pub(super) fn life(&mut self, node: NodeId) -> &mut NodeHistory {
        self.lives.get_mut(&node).expect("every node has a history")
    }

    /// The number of committed entries.
    pub fn committed(&self) -> usize {
        self.ledger.len()
    }

    /// A node hands a write to its journal.
    pub fn writes(&mut self, node: NodeId, write: &Write, leads: Option<Term>) -> Result<()> {
        if leads.is_some() {
            // A node that is the only voter by its older copy requests no votes.
            self.check_claims_before_vote(node)?;
        }
        let life = self.lives.get_mut(&node).expect("every node has a history");
        if let (Some(term), Some(first)) = (leads, write.entries.first())
            && life.leads == Some(term)
            && first.position.index.0 as usize <= life.seen.log.len()
        {
            return Err(format!("Leader Append-Only: {node}, leading term {term}, overwrites {}", first.position));
        }
        if let Some(base) = &write.base {
            let Position { index, term } = base.position;
            if self.ledger.get(index.0 as usize - 1).is_none_or(|(committed, _)| *committed != term) {
                return Err(format!("{node} begins its log after {}, which is not committed", base.position));
            }
            life.seen.restart(write, &self.ledger);
            self.configurations.begins(node, &life.seen.log);
        }
        for entry in &write.entries {
            let at = entry.position.index.0 as usize;
            if at > life.seen.log.len() + 1 {
                return Err(format!("{node} writes {} after only {} entries", entry.position, life.seen.log.len()));
            }
            let before = at.checked_sub(2).map(|before| life.seen.log[before]);
            let (checksum, stood) = *self.entries.entry(entry.position).or_insert((entry.checksum, before));
            if (checksum, stood) != (entry.checksum, before) {
                return Err(format!("Log Matching: two logs differ at {} or just before it ({node})", entry.position));
            }
            life.seen.put(entry);
            // The first entries of a batch may have been received before this node became leader.
            self.configurations.writes(node, entry, leads == Some(entry.position.term));
        }
        life.seen.hard_state = write.hard_state.unwrap_or(life.seen.hard_state);
        life.unsynced.push(write.clone());
        Ok(())
    }

    /// A node's disk has really synced everything up to this write.
    pub fn synced(&mut self, node: NodeId, upto: crate::types::WriteId) {
        let life = self.lives.get_mut(&node).expect("every node has a history");
        let count = life.unsynced.iter().take_while(|write| write.id <= upto).count();
        for write in life.unsynced.drain(..count) {
            life.durable.apply(&write, &self.ledger);
            life.lie.iter_mut().for_each(|lie| lie.since.push(write.clone()));
        }
        if life.ghost.as_ref().is_some_and(|ghost| ghost.log.len() <= life.durable.log.len()) {
            life.ghost = None;
        }
    }

    /// A message leaves a node: all that it promises must be on the node's disk.
    pub fn sends(&mut self, envelope: &Envelope) -> Result<()> {
        let Envelope { from, to, term, message, .. } = envelope;
        let durable = &self.lives[from].durable;
        if durable.hard_state.term < *term {
            return Err(format!(
                "{from} sends in term {term}, and its disk holds {}: {message:?}",
                durable.hard_state.term
            ));
        }
        let (from, to) = (*from, *to);
        self.claims(from, *term, message)?;
        let durable = &self.lives[&from].durable;
        let vote = match message {
            Message::RequestVote { ask: VoteKind::Vote | VoteKind::Transfer, .. } => Some(from),
            Message::RequestVoteResponse { ask: VoteKind::Vote | VoteKind::Transfer, granted: true, .. } => Some(to),
            Message::AppendResponse { matched } => {
                let upto = matched.0 as usize;
                if durable.log.len() < upto || durable.log[..upto].last() != self.lives[&from].seen.log[..upto].last() {
                    let held = durable.log.len();
                    return Err(format!("{from} acknowledges {matched} to {to}, and its disk holds {held}"));
                }
                self.acknowledges(from, to, *term, *matched)?;
                None
            }
            _ => None,
        };
        let Some(vote) = vote else { return Ok(()) };
        let voted = durable.hard_state.vote.map(|vote| vote.node);
        if (durable.hard_state.term, voted) != (*term, Some(vote)) {
            return Err(format!("{from} votes for {vote} in term {term}, and the vote is not on its disk"));
        }
        let first = *self.votes.entry((from, *term)).or_insert(vote);
        if first != vote {
            return Err(format!("{from} voted for {first} and for {vote} in term {term}"));
        }
        if let (Message::RequestVoteResponse { .. }, Some(disk)) = (message, envelope.origin.disk) {
            self.grants.entry((*term, vote)).or_default().insert((from, disk));
        }
        Ok(())
    }

    /// Checks that a leader was elected by a majority of the configuration that its log prescribes (§6), with votes
    /// from the disks that this configuration names. If it names no disk for a voter, that voter's vote counts from any
    /// disk.
    fn elected_by_most(&self, node: NodeId, term: Term) -> Result<()> {
        let grants = self.grants.get(&(term, node));
        let by = |membership: &Membership| {
            let named = |id: NodeId, disk: DiskId| membership.disk(id).is_none_or(|known| known == disk);
            let granted =
                |id: NodeId| grants.is_some_and(|all| all.iter().any(|(from, disk)| *from == id && named(id, *disk)));
            let own = || self.disks.get(&node).is_none_or(|disk| named(node, *disk));
            decides(membership, |id| if id == node { own() } else { granted(id) })
        };
        let (before, membership) = (&self.lives[&node].used.1, self.configurations.of(node));
        if by(before) || by(membership) {
            return Ok(());
        }
        Err(format!("{node} leads term {term} by {membership}, elected by {grants:?} alone"))
    }

    /// Records what a message claims of the sender's disk.
    fn claims(&mut self, from: NodeId, term: Term, message: &Message) -> Result<()> {
        if matches!(
            message,
            Message::RequestVote { ask: VoteKind::Vote | VoteKind::Transfer, .. }
                | Message::RequestVoteResponse { granted: true, .. }
        ) {
            self.check_claims_before_vote(from)?;
        }
        let life = self.life(from);
        let position = match message {
            Message::RequestVote { last, ask } if ask.is_real() => *last,
            Message::AppendResponse { matched } => {
                let held = (matched.0 as usize).checked_sub(1).and_then(|at| life.durable.log.get(at));
                Position::new(*matched, held.map_or(Term::ZERO, |(term, _)| *term))
            }
            _ => Position::ZERO,
        };
        let claims = &mut life.claims;
        (claims.term, claims.position) = (claims.term.max(term), claims.position.max(position));
        Ok(())
    }

    /// A follower acknowledges to a leader that their logs match up to `matched`: they must.
    fn acknowledges(&self, from: NodeId, to: NodeId, term: Term, matched: Index) -> Result<()> {
        let (follower, leader) = (&self.lives[&from].seen, &self.lives[&to].seen);
        if self.lives[&to].leads != Some(term) || matched == Index::ZERO {
            return Ok(()); // it no longer leads
        }
        if follower.log.get(matched.0 as usize - 1) != leader.log.get(matched.0 as usize - 1) {
            return Err(format!("{from} acknowledges {matched} to {to}, and their logs differ there"));
        }
        Ok(())
    }

    /// Checks a node's role and commit index after a step.
    pub fn check_role_and_commit(
        &mut self,
        node: NodeId,
        standing: CommitState,
        uses: (Index, &Membership),
    ) -> Result<()> {
        let CommitState { term, leads, commit, defined } = standing;
        let leads = leads.then_some(term);
        let life = self.lives.get_mut(&node).expect("every node has a history");
        if commit < life.commit {
            return Err(format!("{node} moves its commit index back from {} to {commit}", life.commit));
        }
        if commit.0 as usize > life.seen.log.len() {
            return Err(format!("{node} commits {commit}, and its log has {} entries", life.seen.log.len()));
        }
        if let Some(term) = leads
            && life.leads == Some(term)
            && commit > life.commit
            && life.used.0 == uses.0
            && defined.is_none_or(|defined| commit > defined)
        {
            return Err(format!("{node} commits {commit}, and by definition only {defined:?} is committed"));
        }
        let mut new = 0;
        for index in life.commit.0..commit.0 {
            let stamp = life.seen.log[index as usize];
            match self.ledger.get(index as usize) {
                None => {
                    self.ledger.push(stamp);
                    self.configurations.commits(Index(index + 1), stamp.0);
                    self.committed_in.push(term);
                    new += 1;
                }
                Some(first) if *first == stamp => {}
                Some(first) => {
                    let at = index + 1;
                    return Err(format!(
                        "State Machine Safety: {node} commits {stamp:?} at {at}, where {first:?} was committed"
                    ));
                }
            }
        }
        if let (Some(_), Some((led, _))) =
            (leads, commit.0.checked_sub(1).and_then(|at| life.seen.log.get(at as usize)))
        {
            // A leader counts its own copy: by its commit index it claims to hold these entries.
            life.claims.position = life.claims.position.max(Position::new(commit, *led));
        }
        life.commit = commit;
        let rises = leads.is_some() && life.leads != leads;
        self.held_by_most(node, new)?;
        let open = commit.0.checked_sub(1).is_some_and(|at| self.ledger[at as usize].0 == term);
        if self.configurations.has_changed() {
            self.configurations.contradicted_by(self.contradicting());
        }
        self.configurations.check_configuration(node, open, uses)?;
        if rises {
            self.check_new_leader(node, leads)?;
        }
        let life = self.life(node);
        life.leads = leads;
        if life.used.0 != uses.0 || life.used.1 != *uses.1 {
            life.used = (uses.0, uses.1.clone());
        }
        Ok(())
    }

    /// The nodes whose logs contradict a committed entry. Two logs agree up to the first entry in which they differ,
    /// and nowhere behind it (§5.3).
    fn contradicting(&self) -> BTreeSet<NodeId> {
        let differs = |life: &NodeHistory| {
            let last = life.seen.log.len().min(self.ledger.len()).checked_sub(1);
            last.is_some_and(|last| life.seen.log[last] != self.ledger[last])
        };
        self.lives.iter().filter(|(_, life)| differs(life)).map(|(id, _)| *id).collect()
    }

    /// Entries that this node was the first to commit must be on the disks of a majority, by the configuration that the
    /// node's log prescribes (§6), counting only the disks that this configuration names.
    fn held_by_most(&self, node: NodeId, new: usize) -> Result<()> {
        for at in self.ledger.len() - new..self.ledger.len() {
            let holds = |image: &Image| image.log.get(at) == Some(&self.ledger[at]);
            let held = |life: &NodeHistory| holds(&life.durable) || life.ghost.as_ref().is_some_and(holds);
            let ghost = |id: NodeId| self.lives.get(&id).is_some_and(|life| life.ghost.as_ref().is_some_and(holds));
            let membership = self.configurations.of(node);
            let before = &self.lives[&node].used.1;
            let named = |membership: &Membership, id: NodeId| membership.disk(id) == self.disks.get(&id).copied();
            let counts = |membership: &Membership, id: NodeId| {
                ghost(id) || (named(membership, id) && self.lives.get(&id).is_some_and(held))
            };
            let by = |membership: &Membership| decides(membership, |id| counts(membership, id));
            if !by(before) && !by(membership) {
                let holders: Vec<String> =
                    self.lives.iter().filter(|(_, life)| held(life)).map(|(id, _)| id.to_string()).collect();
                let holders = holders.join(", ");
                return Err(format!("{node} commits {} by {membership}, and only {holders} hold that entry", at + 1));
            }
        }
        Ok(())
    }

    fn check_new_leader(&mut self, node: NodeId, leads: Option<Term>) -> Result<()> {
        let Some(term) = leads else { return Ok(()) };
        // A node that is the only voter by its older copy requests no votes.
        self.check_claims_before_vote(node)?;
        self.elected_by_most(node, term)?;
        let first = *self.leaders.entry(term).or_insert(node);
        if first != node {
            return Err(format!("Election Safety: {first} and {node} both lead term {term}"));
        }
        // Only entries committed in earlier terms count: a node that was elected long ago and then paused may take the
        // lead late, and lack the entries that later leaders committed.
        let earlier = self.committed_in.partition_point(|committed| *committed < term);
        let log = &self.lives[&node].seen.log;
        match (0..earlier).find(|at| log.get(*at) != Some(&self.ledger[*at])) {
            None => Ok(()),
            Some(at) => {
                let what = at + 1;
                Err(format!("Leader Completeness: {node} leads term {term} and lacks the entry committed at {what}"))
            }
        }
    }

    /// A node's state machine has applied an entry.
    pub fn applied(&mut self, node: NodeId, entry: &Entry, digest: u64) -> Result<()> {
        let index = entry.position.index;
        match self.ledger.get(index.0 as usize - 1) {
            None => return Err(format!("{node} applies {index}, which is not committed")),
            Some(stamp) if *stamp != (entry.position.term, entry.checksum) => {
                return Err(format!(
                    "State Machine Safety: {node} applies an entry at {index} that differs from the committed one"
                ));
            }
            Some(_) => {}
        }
        let first = *self.digests.entry(index).or_insert(digest);
        if first != digest {
            return Err(format!("State Machine Safety: the state of {node} at {index} differs"));
        }
        Ok(())
    }

    /// A node discards its log up to `upto`: a durable snapshot on its disk must cover as much.
    pub fn releases(&self, node: NodeId, upto: Index, snapshot: Option<Index>) -> Result<()> {
        if snapshot.is_none_or(|snapshot| snapshot < upto) {
            return Err(format!("{node} discards its log up to {upto}, and its disk holds a snapshot of {snapshot:?}"));
        }
        Ok(())
    }

    /// A node's state machine was restored from a snapshot.
    pub fn check_restored_state(&mut self, node: NodeId, position: Position, digest: u64) -> Result<()> {
        let committed = self.ledger.get((position.index.0 as usize).wrapping_sub(1));
        if committed.is_none_or(|(term, _)| *term != position.term) {
            return Err(format!("{node} restores from a snapshot of {position}, which is not committed"));
        }
        match self.digests.get(&position.index) {
            Some(first) if *first != digest => {
                Err(format!("State Machine Safety: {node} restores a different state at {position}"))
            }
            _ => Ok(()),
        }
    }
}
