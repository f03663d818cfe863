//! Entries that this node acknowledged and lost: where it gets them while there is no leader.
//!
//! ```text
//!   own log         ───────────┤ after
//!   kept entries                    ├──────┤    ├───┤              fragments in the damaged files
//!   known positions                        ▲        ▲         ▲    ends of terms, and the promised position
//!   a peer's log    ────────────────────────────┤ ─ ─ ─ ─           answers up to the last position that both held
//! ```
//!
//! A leader sends the lost entries with its appends. Without a leader, this node may be the only one that can become
//! leader: so it asks the other members. It appends each answer, and the kept entries that follow, until its log reaches
//! its promised position. It appends no entry that its log did not hold before the damage, and removes none.

use super::Replica;
use crate::consensus::log::Log;
use crate::consensus::message::Message;
use crate::consensus::note::Note;
use crate::consensus::ready::LostEntriesToSend;
use crate::consensus::rules::{election, lost_entries};
use crate::limits::{KNOWN_POSITIONS_MAX, MEMBERS_MAX};
use crate::types::{Entry, Index, LogId, NodeId, Position, Term};

/// Consecutive intact entries of a damaged log, which the journal found after the damage: the position before the first
/// entry, and term and size in bytes of each one. If no record names that position, it has the term of the first entry:
/// the leader of that term wrote both, so a log that ends there continues with the fragment.
pub type KeptFragment = (Position, Vec<(Term, u64)>);

/// The kept entries of a damaged log. They are on this node's disk, and are not in its log.
#[derive(Clone, Debug, Default)]
pub struct KeptEntries {
    /// Each fragment as a log of its own, whose base is the position before its first entry.
    fragments: Vec<Log>,
}

impl KeptEntries {
    /// The kept entries of these fragments.
    pub fn new(fragments: Vec<KeptFragment>) -> KeptEntries {
        let to_log = |(before, entries): KeptFragment| {
            let mut log = Log::new(before);
            for (term, size) in entries {
                log.append(term, size);
            }
            log
        };
        KeptEntries { fragments: fragments.into_iter().map(to_log).collect() }
    }
}

impl Replica {
    /// Whether this node lacks entries up to its promised position.
    pub fn lacks_promised_entries(&self) -> bool {
        !election::reaches_promised_position(self.log.last(), self.promised_position(), self.options.mutants)
    }

    /// Gets lost entries without a leader: appends kept entries that follow the log, or asks all other members for the
    /// entries before them.
    ///
    /// Positions of two logs cannot be compared, so nobody is asked while this node does not know the id of its log. The
    /// kept entries are those of its own log in any case, and may hold the entry that names the id.
    pub fn request_lost_entries(&mut self) {
        if !self.lacks_promised_entries() {
            return;
        }
        let after = self.log.last();
        // Of several, the one that reaches furthest: the entries of the others were replaced.
        let following_fragments = (0..).zip(&self.kept.fragments);
        let following_fragments = following_fragments.filter(|(_, log)| log.holds(after) && log.last() != after);
        if let Some((fragment, _)) = following_fragments.max_by_key(|(_, log)| log.last()) {
            let log = &self.kept.fragments[fragment];
            let upto = lost_entries::end_before_replaced(log, &self.kept.fragments, after.index)
                .min(self.lost_entries_end(log, after.index));
            let (to, term) = (self.id, self.term());
            self.lost_entries_to_send.push(LostEntriesToSend { to, term, after, upto, fragment: Some(fragment) });
            return;
        }
        let known = self.known_positions(after);
        if known.is_empty() || self.configs.current().agreed_log_id().is_none() {
            return;
        }
        let peers: Vec<_> = self.configs.current().ids().filter(|peer| *peer != self.id).collect();
        for peer in peers {
            self.send(peer, Message::RequestLostEntries { after, known: known.clone() });
        }
    }

    /// Positions after `after` that this node's log held, of the latest terms first. An end that is not known exactly
    /// (`u64::MAX`) is no position.
    fn known_positions(&self, after: Position) -> Vec<Position> {
        let promised_position = Some(self.promised_position()).filter(|position| position.index != Index(u64::MAX));
        let mut known: Vec<Position> =
            self.kept.fragments.iter().flat_map(Log::term_ends).chain(promised_position).collect();
        known.retain(|position| position.index > after.index && position.term >= after.term);
        known.sort_unstable_by(|one, other| other.cmp(one));
        // A later position of the same term says more.
        known.dedup_by_key(|position| position.term);
        known.truncate(KNOWN_POSITIONS_MAX);
        known
    }

    /// The end of an answer that begins after `after`: as much as fits one message.
    fn lost_entries_end(&self, log: &Log, after: Index) -> Index {
        log.append_end(after, self.options.append_bytes_max, self.options.append_entries_max)
    }

    /// Whether `log`, which a peer names as its log, is the log of this node. Positions of two logs cannot be compared.
    pub fn is_own_log(&self, log: Option<LogId>) -> bool {
        log.is_some() && log == self.configs.current().agreed_log_id()
    }

    /// Records a peer's request for entries that it has lost; `log` is the id of the peer's log. Only the latest request
    /// of each peer is answered, and those of at most [`MEMBERS_MAX`] peers.
    pub fn record_lost_entries_request(
        &mut self,
        peer: NodeId,
        log: Option<LogId>,
        after: Position,
        known: Vec<Position>,
    ) {
        let has_room = self.lost_entries_requests.len() < MEMBERS_MAX;
        if self.is_own_log(log) && (has_room || self.lost_entries_requests.contains_key(&peer)) {
            self.lost_entries_requests.insert(peer, (after, known));
        }
    }

    /// Answers the recorded requests from this node's log or its kept entries, if one of them has the next entry of the
    /// peer's log. A peer repeats its request, so it needs no answer otherwise.
    ///
    /// Called with the state that the driver will read the entries from: a leader may have replaced entries since the
    /// request arrived.
    pub(super) fn answer_lost_entries_requests(&mut self) {
        let (term, is_term_durable) = (self.term(), self.term_is_durable());
        for (to, (after, known)) in std::mem::take(&mut self.lost_entries_requests) {
            let is_readable = after.index >= self.unreadable_upto;
            let histories = std::iter::once((None, &self.log))
                .filter(|_| is_readable)
                .chain(self.kept.fragments.iter().enumerate().map(|(fragment, log)| (Some(fragment), log)));
            let answer = histories.into_iter().find_map(|(fragment, log)| {
                let shared_end = lost_entries::shared_end(log, after, &known, self.options.mutants)?;
                Some((fragment, shared_end.min(self.lost_entries_end(log, after.index))))
            });
            if let Some((fragment, upto)) = answer.filter(|_| is_term_durable) {
                self.lost_entries_to_send.push(LostEntriesToSend { to, term, after, upto, fragment });
            }
        }
    }

    /// Forgets a fragment of the kept entries: its file can be read no longer.
    pub fn discard_kept_fragment(&mut self, fragment: usize) {
        if let Some(log) = self.kept.fragments.get_mut(fragment) {
            *log = Log::new(Position::ZERO);
        }
    }

    /// Appends lost entries after `after`, from a peer with the same log ([`Replica::is_own_log`]) or from this node's
    /// kept entries. Returns whether the log has grown.
    ///
    /// A late answer, which does not begin at the end of the log, changes nothing.
    pub fn append_lost_entries(&mut self, after: Position, entries: Vec<Entry>) -> bool {
        if after != self.log.last() || !self.lacks_promised_entries() {
            return false;
        }
        let term_max = self.promised_position().term.min(self.term());
        for entry in entries {
            let last = self.log.last();
            let Position { index, term } = entry.position;
            if index != last.index.next() || term < last.term || term > term_max {
                break;
            }
            self.append_entry(entry);
        }
        let end = self.log.last();
        if end != after {
            self.notes.push(Note::LostEntriesAppended { after, end, promised: self.promised_position() });
        }
        end != after
    }
}
