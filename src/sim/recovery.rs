//! Checks that a machine's disk holds everything that was reported as synced, both during a run and when the machine
//! restarts.

use super::checks::Checks;
use super::node_history::{DiskClaims, DiskImage, EntryStamp, FalseSync, NodeHistory};
use super::violation::Result;
use crate::types::{HardState, Index, NodeId, Position, Term, Vote, Write};

/// Whether `found_image` equals `image` with some prefix of `writes` applied in order. `base` is the index after which
/// the log on the disk begins.
fn matches_write_prefix(
    image: &DiskImage,
    writes: &[&Write],
    found_image: &DiskImage,
    base: usize,
    committed_log: &[EntryStamp],
) -> bool {
    let mut image = image.clone();
    // A snapshot on the disk may be newer than the journal. If the log did not contain the snapshot's position,
    // recovery has replaced the log by the snapshot.
    let replaced_entry = base.checked_sub(1).and_then(|at| image.log.get(at).copied());
    let is_log_replaced =
        base > 0 && found_image.log.len() == base && replaced_entry != found_image.log.last().copied();
    let term = found_image.log.last().map_or(Term(0), |(term, _)| *term);
    let with_raised_term = |hard: HardState| HardState { term, vote: None, ..hard };
    let equals_found_state = |hard: HardState| {
        hard == found_image.hard_state || (hard.term < term && found_image.hard_state == with_raised_term(hard))
    };
    let mut is_match = image == *found_image || (is_log_replaced && equals_found_state(image.hard_state));
    for write in writes {
        image.replace_log(write, committed_log);
        is_match |= is_log_replaced && write.hard_state.is_some_and(equals_found_state);
        // Within a write the hard state comes first, then the entries one by one.
        image.hard_state = write.hard_state.unwrap_or(image.hard_state);
        is_match |= image == *found_image;
        for entry in &write.entries {
            image.append(entry);
            is_match |= image == *found_image;
        }
    }
    is_match
}

impl Checks {
    /// Records that the node's disk may from now on falsely report a sync as done.
    pub fn begin_false_sync(&mut self, node: NodeId) {
        let history = self.history_mut(node);
        history.false_sync = Some(FalseSync {
            image_before: history.durable_image.clone(),
            writes_since: Vec::new(),
            power_lost: false,
        });
    }

    /// Records that the node's disk has done all syncs that it has reported.
    pub fn end_false_sync(&mut self, node: NodeId) {
        self.history_mut(node).false_sync = None;
    }

    /// Records that a machine loses power, and so the data that a false sync has not written.
    pub fn record_power_loss(&mut self, node: NodeId) {
        self.history_mut(node).false_sync.iter_mut().for_each(|false_sync| false_sync.power_lost = true);
    }

    /// Whether the machine has lost power after a false sync, and its node has not restarted since.
    pub fn may_lack_writes(&self, node: NodeId) -> bool {
        self.histories[&node].false_sync.as_ref().is_some_and(|false_sync| false_sync.power_lost)
    }

    /// Checks that `found_image`, the disk contents that would survive a power loss, includes everything reported as
    /// synced.
    pub fn check_durable_image(&self, node: NodeId, found_image: DiskImage) -> Result<()> {
        let found_image = self.with_discarded_entries(node, found_image)?;
        let durable_image = &self.histories[&node].durable_image;
        // The disk may hold more entries than were reported as synced, since a large batch is synced in pieces.
        if found_image.log.get(..durable_image.log.len()) != Some(&durable_image.log) {
            let (held, reported) = (found_image.log.len(), durable_image.log.len());
            return Err(format!("the disk of {node} holds {held} entries, but {reported} were reported as synced"));
        }
        let (held_state, reported_state) = (found_image.hard_state, durable_image.hard_state);
        let has_same_vote = held_state.term == reported_state.term
            && (reported_state.vote.is_none() || held_state.vote == reported_state.vote);
        if held_state.term < reported_state.term || (held_state.term == reported_state.term && !has_same_vote) {
            return Err(format!(
                "the disk of {node} holds {held_state:?}, but {reported_state:?} was reported as synced"
            ));
        }
        Ok(())
    }

    /// The image with its discarded entries added again at the front. Discarded entries must have been committed.
    fn with_discarded_entries(&self, node: NodeId, image: DiskImage) -> Result<DiskImage> {
        let DiskImage { hard_state, base, log } = image;
        let Some(discarded) = self.committed_log.get(..base.0 as usize) else {
            return Err(format!(
                "{node} has discarded its log up to index {base}, but not all of these entries are committed"
            ));
        };
        Ok(DiskImage { hard_state, base: Index::ZERO, log: [discarded, &log].concat() })
    }

    /// Checks the contents with which a node restarts: everything reported as synced, then a prefix of the unsynced
    /// writes in order, and nothing else. Returns whether data reported as synced is missing.
    ///
    /// After a false sync and a power loss, entries written since the false sync may be missing. These entries still
    /// count as held until the node has them again, as after the restore of an older copy of its disk. Term and vote
    /// are stored in two files, so a single false sync loses neither.
    pub fn check_recovered_image(&mut self, node: NodeId, recovered_image: DiskImage) -> Result<bool> {
        let base = recovered_image.base.0 as usize;
        let recovered_image = self.with_discarded_entries(node, recovered_image)?;
        let history = &self.histories[&node];
        let writes: Vec<&Write> = history.unsynced_writes.iter().collect();
        let holds_synced_writes =
            matches_write_prefix(&history.durable_image, &writes, &recovered_image, base, &self.committed_log);
        let (recovered_state, synced_state) = (recovered_image.hard_state, history.durable_image.hard_state);
        let has_lost_writes = !holds_synced_writes
            && history.false_sync.as_ref().filter(|false_sync| false_sync.power_lost).is_some_and(|false_sync| {
                let writes: Vec<&Write> = false_sync.writes_since.iter().chain(&history.unsynced_writes).collect();
                let keeps_vote = recovered_state.term > synced_state.term
                    || (recovered_state.term, recovered_state.vote) == (synced_state.term, synced_state.vote);
                keeps_vote
                    && matches_write_prefix(
                        &false_sync.image_before,
                        &writes,
                        &recovered_image,
                        base,
                        &self.committed_log,
                    )
            });
        if !holds_synced_writes && !has_lost_writes {
            let (recovered_len, synced_len) = (recovered_image.log.len(), history.durable_image.log.len());
            return Err(format!(
                "the journal of {node} recovered {recovered_len} entries and {recovered_state:?}; \
                 {synced_len} entries and {synced_state:?} were synced, and no prefix of the unsynced writes explains \
                 the difference"
            ));
        }
        self.configurations.replace_log(node, &recovered_image.log);
        // A false sync loses only entries: the node still knows its term.
        let relearned_claims = DiskClaims { term: recovered_image.hard_state.term, ..DiskClaims::default() };
        self.begin_incarnation(node, recovered_image, has_lost_writes.then_some(relearned_claims));
        Ok(has_lost_writes)
    }

    /// Whether a repair has raised the promised position on the disk: it is higher than in everything that the node
    /// wrote. So the last start was interrupted after its repair, or the present one has repaired the journal.
    pub fn is_raised_by_repair(&self, node: NodeId, promised_position: Position) -> bool {
        let history = &self.histories[&node];
        let written_states = history.unsynced_writes.iter().filter_map(|write| write.hard_state);
        written_states
            .chain([history.durable_image.hard_state])
            .all(|written| written.promised_position < promised_position)
    }

    /// Checks the contents with which a node restarts after a repair of its journal (`docs/repair.md`): term and vote
    /// are those that were synced, or newer; every entry is from the log of a leader; and the log or the promised
    /// position reaches the end of everything that was reported as synced, and what was promised before. A promise that
    /// names an index names one that the node has written.
    pub fn check_repaired_image(&mut self, node: NodeId, recovered_image: DiskImage) -> Result<()> {
        let recovered_image = self.with_discarded_entries(node, recovered_image)?;
        let history = &self.histories[&node];
        let hard_state = recovered_image.hard_state;
        let unsynced_states = history.unsynced_writes.iter().filter_map(|write| write.hard_state);
        // A snapshot may be of a newer term than the journal, and the node has not voted in that term.
        let keeps_written_state = |written_state: HardState| {
            (hard_state.term, hard_state.vote) == (written_state.term, written_state.vote)
                || (hard_state.term > written_state.term && hard_state.vote.is_none())
                // An entry proves a term of which both copies are lost.
                || (hard_state.term >= written_state.term && hard_state.vote == Some(Vote::new(node, None)))
        };
        if !unsynced_states.chain([history.durable_image.hard_state]).any(keeps_written_state) {
            let synced_state = history.durable_image.hard_state;
            return Err(format!("{node} repairs its journal to {hard_state:?}, but {synced_state:?} was synced"));
        }
        let mut stamp_before = None;
        for (index, stamp) in (1..).zip(&recovered_image.log) {
            let position = Position::new(Index(index), stamp.0);
            if self.written_entries.get(&position) != Some(&(stamp.1, stamp_before)) {
                return Err(format!("{node} repairs its journal to a log that no leader wrote: {position}"));
            }
            stamp_before = Some(*stamp);
        }
        let (synced_end, log_end) = (history.durable_image.last_position(), recovered_image.last_position());
        let reached_position = log_end.max(hard_state.promised_position);
        let synced_end = synced_end.max(history.durable_image.hard_state.promised_position);
        let written_end = synced_end.max(history.written_image.last_position());
        if hard_state.promised_position.index != Index(u64::MAX) && hard_state.promised_position > written_end {
            return Err(format!(
                "{node} promises {}, but wrote only up to {written_end}",
                hard_state.promised_position
            ));
        }
        if reached_position < synced_end {
            return Err(format!(
                "{node} repairs its journal up to {log_end} and promises {}, but {synced_end} was synced",
                hard_state.promised_position
            ));
        }
        let lacks_entries = !recovered_image.log.starts_with(&history.durable_image.log);
        let relearned_claims = DiskClaims { term: hard_state.term, position: reached_position };
        self.configurations.replace_log(node, &recovered_image.log);
        self.begin_incarnation(node, recovered_image, lacks_entries.then_some(relearned_claims));
        Ok(())
    }

    /// Begins the history of the node's next process with the recovered contents. `relearned_claims` are the claims
    /// that the node still knows; `None` if the recovered contents lack nothing that was synced.
    fn begin_incarnation(&mut self, node: NodeId, recovered_image: DiskImage, relearned_claims: Option<DiskClaims>) {
        let history = self.history_mut(node);
        let former_history = std::mem::take(history);
        let false_sync = former_history.false_sync.filter(|false_sync| !false_sync.power_lost).map(|mut false_sync| {
            false_sync.writes_since.extend(former_history.unsynced_writes);
            false_sync
        });
        *history = NodeHistory {
            lost_image: former_history.lost_image.or(relearned_claims.map(|_| former_history.durable_image)),
            claims: former_history.claims,
            relearned_claims: former_history.relearned_claims.or(relearned_claims),
            false_sync,
            durable_image: recovered_image.clone(),
            written_image: recovered_image,
            ..NodeHistory::default()
        };
    }
}
