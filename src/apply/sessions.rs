//! All client sessions: the first answer to each command, for exactly-once execution, and the expiry of sessions.
//!
//! The log alone decides which sessions and answers are stored: its entries, their order, and the cluster time in them.
//! No clock is read and no hash map is iterated, so every node stores and discards the same sessions and answers.
//! (Reading a wall clock while applying makes replicas diverge.)
//!
//! The table is part of the replicated state, and bounded: in sessions, in bytes of answers, and in idle time. Each
//! bound must discard the same sessions on every node. So the least recently used session is determined by the log
//! index of its last use, which no two sessions share, and bytes are charged by a fixed formula rather than measured in
//! an allocator.
//!
//! A command in an expired session is never executed as a new one; its client receives an error. The client cannot know
//! whether its last attempt was executed, and has to decide what to do (thesis §6.3).

use super::session::{CommandState, SessionRecord, SessionState};
use crate::codec::{Malformed, Reader, Result};
use crate::limits::{SESSION_ANSWER_BYTES_MAX, SESSION_IDLE_MS_MAX, SESSIONS_MAX};
use crate::types::digest::Digest;
use crate::types::{ClusterTime, Index, SessionId};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

/// When sessions expire. The options must be the same on every node of a cluster, forever: they decide what is applied.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A session expires after this long without a command, in cluster time.
    pub idle_ms_max: u64,
    /// How many sessions may be open; the least recently used one expires first.
    pub session_count_max: usize,
    /// How many bytes of answers all sessions together may store, including
    /// [`super::session::ANSWER_OVERHEAD_BYTES`] for each answer.
    pub answer_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            idle_ms_max: SESSION_IDLE_MS_MAX,
            session_count_max: SESSIONS_MAX,
            answer_bytes_max: SESSION_ANSWER_BYTES_MAX,
        }
    }
}

/// The open sessions of all clients.
///
/// Invariants: `listings` lists each session once, under the index of one of its uses, which need not be the last. A
/// lookup of the least recently used session lists a session again if it was used since, so that a use itself costs
/// nothing. `charged_bytes` is the sum charged for all stored answers. `clean_digest` covers the sessions that are
/// not in `dirty_ids`.
#[derive(Debug, Default)]
pub struct Sessions {
    options: Options,
    sessions: BTreeMap<SessionId, SessionState>,
    listings: BTreeMap<Index, SessionListing>,
    charged_bytes: u64,
    clean_digest: Digest,
    /// The ids of sessions that have changed since the digest of all sessions was last computed.
    dirty_ids: Vec<SessionId>,
    /// The part of the frozen sessions that is not yet serialized.
    frozen_sessions: Option<FrozenSessions>,
}

/// The frozen sessions that are not yet serialized.
///
/// Freezing copies nothing. A session is copied when it is about to change, if it existed at the freeze and is not yet
/// serialized. Its answers are shared, so a copy costs tens of microseconds for a full window, once for each session
/// that is still used.
#[derive(Debug)]
struct FrozenSessions {
    /// The last session open at the freeze: later sessions have higher ids.
    last_frozen_id: SessionId,
    /// The first session that is not completely serialized.
    next_id: SessionId,
    /// The highest command number of the session `next_id` whose answer is serialized, 0 for none; `None` before that
    /// session's own record is serialized.
    last_serialized_seq: Option<u64>,
    /// Copies of the sessions that have changed since the freeze.
    copies: BTreeMap<SessionId, SessionState>,
}

impl FrozenSessions {
    /// Copies a session that is about to change, unless it was opened after the freeze, serialized or copied before.
    fn copy_before_change(&mut self, id: SessionId, session: &SessionState) {
        if (self.next_id..=self.last_frozen_id).contains(&id) && !self.copies.contains_key(&id) {
            self.copies.insert(id, session.clone());
        }
    }
}

/// An element of `listings`: a session, and the time of its last use when it was put there.
#[derive(Clone, Copy, Debug)]
struct SessionListing {
    id: SessionId,
    time: ClusterTime,
}

impl Sessions {
    /// Panics if `listings`, `sessions` and `charged_bytes` contradict each other.
    fn assert_consistent(&self) {
        assert_eq!(
            self.listings.len(),
            self.sessions.len(),
            "each open session is listed exactly once, in the order of last use: a session that is not listed would never expire"
        );
        assert!(
            !self.sessions.is_empty() || self.charged_bytes == 0,
            "no bytes are charged for stored answers when no session is open"
        );
    }

    /// Creates a table without sessions, which expire by the limits in `options`.
    pub fn new(options: Options) -> Sessions {
        Sessions { options, ..Sessions::default() }
    }

    /// Number of open sessions.
    pub fn count(&self) -> u64 {
        self.sessions.len() as u64
    }

    /// A digest of all sessions: equal on every node at the same index.
    pub fn digest(&mut self) -> u64 {
        for id in self.dirty_ids.drain(..) {
            // The session may have expired after its id was added to `dirty_ids`.
            if let Some(session) = self.sessions.get_mut(&id) {
                session.dirty = false;
                self.clean_digest += session.hash(id);
            }
        }
        self.clean_digest.finish(self.count())
    }

    /// Takes a session out of the digest until the digest is next computed: a session that is used many times in a
    /// batch is hashed twice, and not at each use.
    fn mark_dirty(digest: &mut Digest, dirty_ids: &mut Vec<SessionId>, id: SessionId, session: &mut SessionState) {
        if !session.dirty {
            *digest -= session.hash(id);
            session.dirty = true;
            dirty_ids.push(id);
        }
    }

    /// Removes the sessions that were not used for too long. Runs before every other effect of an entry: a command in a
    /// session that expires with its own entry must not execute on one node and be refused on another.
    pub fn expire_idle(&mut self, time: ClusterTime) {
        while let Some((_, oldest)) = self.listings.first_key_value() {
            // All other sessions are listed under later uses, so none of them has been idle for longer.
            if oldest.time.0.saturating_add(self.options.idle_ms_max) >= time.0 {
                break;
            }
            if let Some(id) = self.least_recently_used()
                && self.sessions[&id].last_used_time.0.saturating_add(self.options.idle_ms_max) < time.0
            {
                self.remove_session(id);
            }
        }
    }

    /// The least recently used session. As long as the first listed session was used after the listed use, the loop
    /// lists that session again under its last use. So over time there are no more passes of the loop than uses.
    fn least_recently_used(&mut self) -> Option<SessionId> {
        loop {
            let (&listing_index, &SessionListing { id, .. }) = self.listings.first_key_value()?;
            let session = self.sessions.get_mut(&id).expect("only open sessions are listed");
            if session.last_used == listing_index {
                return Some(id);
            }
            session.listing_index = session.last_used;
            let listing = SessionListing { id, time: session.last_used_time };
            self.listings.remove(&listing_index);
            let replaced = self.listings.insert(session.last_used, listing);
            assert!(
                replaced.is_none(),
                "no two sessions are listed under one index: an entry is the use of one session"
            );
        }
    }

    /// Opens a session, whose id is the index of its entry.
    pub fn open(&mut self, index: Index, time: ClusterTime, window: u32, ordered: bool) -> SessionId {
        while self.sessions.len() >= self.options.session_count_max {
            self.remove_least_recently_used();
        }
        let id = SessionId(index.0);
        self.dirty_ids.push(id);
        self.listings.insert(index, SessionListing { id, time });
        let replaced_session = self.sessions.insert(id, SessionState::new(index, time, window, ordered));
        assert!(replaced_session.is_none(), "an index is applied once, so no session is opened twice");
        self.assert_consistent();
        id
    }

    /// Looks up the command `seq` of a session. Records the use of the session, and the lowest number whose answer its
    /// client still waits for.
    pub fn lookup(
        &mut self,
        index: Index,
        time: ClusterTime,
        id: SessionId,
        seq: u64,
        first_outstanding: u64,
    ) -> CommandState {
        let Some(session) = self.sessions.get_mut(&id) else { return CommandState::SessionExpired };
        if let Some(frozen) = &mut self.frozen_sessions {
            frozen.copy_before_change(id, session);
        }
        Sessions::mark_dirty(&mut self.clean_digest, &mut self.dirty_ids, id, session);
        assert!(session.last_used < index, "entries are applied in order: a use is later than the one before (§5.3)");
        session.last_used = index;
        session.last_used_time = time;
        self.charged_bytes -= session.discard_below(first_outstanding);
        session.command_state(seq)
    }

    /// Stores the answer to the command `seq`, which [`Sessions::lookup`] reported as new; `None` if it was too long.
    pub fn store_answer(&mut self, id: SessionId, seq: u64, answer: Option<Bytes>) {
        let session = self.sessions.get_mut(&id).expect("a session that was just looked up is open");
        assert!(
            session.dirty,
            "a session is marked as changed by the lookup of a command, before the command's answer is stored"
        );
        self.charged_bytes += session.store(seq, answer);
        // The session of this command is the most recently used one, so it is removed last: only if it alone exceeds
        // the limit.
        while self.charged_bytes > self.options.answer_bytes_max {
            self.remove_least_recently_used();
        }
    }

    /// The stored answer to the highest number executed in a session. The mutant `forget-answers` returns
    /// this answer to every repeated command, as a session would that stored only its client's last answer.
    pub fn latest_answer(&self, id: SessionId) -> Option<Bytes> {
        self.sessions.get(&id)?.latest_answer()
    }

    /// Closes a session and drops its answers; nothing happens if it has expired.
    pub fn close(&mut self, id: SessionId) {
        if self.sessions.contains_key(&id) {
            self.remove_session(id);
        }
    }

    fn remove_least_recently_used(&mut self) {
        let oldest = self.least_recently_used().expect("a limit on sessions is exceeded only while a session is open");
        self.remove_session(oldest);
    }

    fn remove_session(&mut self, id: SessionId) {
        let session = self.sessions.remove(&id).expect("a session is open until it is removed");
        if let Some(frozen) = &mut self.frozen_sessions {
            frozen.copy_before_change(id, &session);
        }
        let removed_listing = self.listings.remove(&session.listing_index);
        assert!(
            removed_listing.is_some_and(|listing| listing.id == id),
            "an open session is listed under the index in `listing_index`"
        );
        if !session.dirty {
            self.clean_digest -= session.hash(id);
        }
        self.charged_bytes -= session.charged_bytes();
        self.assert_consistent();
    }

    /// Freezes the sessions as they are now. Takes constant time (apart from a check in debug builds).
    pub fn freeze(&mut self) {
        let charged_bytes_sum = || self.sessions.values().map(SessionState::charged_bytes).sum::<u64>();
        debug_assert_eq!(
            self.charged_bytes,
            charged_bytes_sum(),
            "the counter of charged bytes equals the sum over all stored answers"
        );
        let last_frozen_id = self.sessions.last_key_value().map_or(SessionId(0), |(id, _)| *id);
        self.frozen_sessions = Some(FrozenSessions {
            last_frozen_id,
            next_id: SessionId(0),
            last_serialized_seq: None,
            copies: BTreeMap::new(),
        });
    }

    /// Drops the frozen sessions, whether or not all of them were serialized.
    pub fn end_snapshot(&mut self) {
        self.frozen_sessions = None;
    }

    /// The next chunk of the serialized frozen sessions, at most one record longer than `bytes`; `None` after the last
    /// one, which also drops the frozen sessions. The concatenated chunks are the same on every node.
    pub fn next_chunk(&mut self, bytes: usize) -> Option<Bytes> {
        let frozen = self.frozen_sessions.as_mut()?;
        let mut out = BytesMut::with_capacity(bytes + bytes / 8);
        while out.len() < bytes.max(1) {
            let next_copy = frozen.copies.range(frozen.next_id..).next();
            let next_unchanged =
                self.sessions.range(frozen.next_id..).next().filter(|(id, _)| **id <= frozen.last_frozen_id);
            let next = match (next_copy, next_unchanged) {
                (Some(copied), Some(unchanged)) => Some(if copied.0 <= unchanged.0 { copied } else { unchanged }),
                (copied, unchanged) => copied.or(unchanged),
            };
            let Some((&id, session)) = next else { break };
            if id != frozen.next_id || frozen.last_serialized_seq.is_none() {
                session.put_session(&mut out, id);
                (frozen.next_id, frozen.last_serialized_seq) = (id, Some(0));
            }
            frozen.last_serialized_seq = session.put_answers(&mut out, frozen.last_serialized_seq.unwrap_or(0), bytes);
            if frozen.last_serialized_seq.is_none() {
                frozen.copies.remove(&id);
                frozen.next_id = SessionId(id.0 + 1);
            }
        }
        if out.is_empty() {
            self.end_snapshot();
            return None;
        }
        Some(out.freeze())
    }

    /// Adds the sessions and answers of the next chunk. The chunks must come in the order of [`Sessions::next_chunk`].
    pub fn restore(&mut self, chunk: &Bytes) -> Result<()> {
        let mut reader = Reader::new(chunk.clone());
        while reader.remaining() > 0 {
            match SessionRecord::read(&mut reader)? {
                SessionRecord::Session(id, session) => {
                    let is_ascending = self.sessions.last_key_value().is_none_or(|(last, _)| *last < id);
                    let listing = SessionListing { id, time: session.last_used_time };
                    if !is_ascending || self.listings.insert(session.last_used, listing).is_some() {
                        return Err(Malformed("sessions not in the order of their ids"));
                    }
                    self.dirty_ids.push(id);
                    self.sessions.insert(id, session);
                }
                SessionRecord::Answer(seq, answer) => {
                    let Some(mut last) = self.sessions.last_entry() else {
                        return Err(Malformed("an answer without a session"));
                    };
                    self.charged_bytes += last.get_mut().restore(seq, answer)?;
                }
            }
        }
        Ok(())
    }

    /// The index of the latest use of any session.
    pub fn latest_use(&self) -> Index {
        self.sessions.values().map(|session| session.last_used).max().unwrap_or(Index::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::ANSWER_OVERHEAD_BYTES;
    use super::*;

    const NOW: ClusterTime = ClusterTime(0);

    fn answer(text: &'static str) -> Option<Bytes> {
        Some(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn commands_arrive_in_any_order_within_the_window() {
        let mut sessions = Sessions::default();
        let id = sessions.open(Index(1), NOW, 3, false);
        assert_eq!(sessions.lookup(Index(2), NOW, id, 3, 1), CommandState::New);
        sessions.store_answer(id, 3, answer("three"));
        assert_eq!(sessions.lookup(Index(3), NOW, id, 1, 1), CommandState::New);
        sessions.store_answer(id, 1, answer("one"));
        assert_eq!(sessions.lookup(Index(4), NOW, id, 3, 1), CommandState::Executed(answer("three")));
        assert_eq!(sessions.lookup(Index(5), NOW, id, 4, 1), CommandState::WindowExceeded);
        assert_eq!(sessions.lookup(Index(6), NOW, id, 4, 2), CommandState::New);
        assert_eq!(sessions.lookup(Index(7), NOW, id, 1, 1), CommandState::ResponseDiscarded);
        assert_eq!(sessions.lookup(Index(8), NOW, id, u64::MAX, u64::MAX), CommandState::New);
    }

    #[test]
    fn least_recently_used_session_expires_first() {
        let mut sessions = Sessions::new(Options { session_count_max: 2, ..Options::default() });
        let first_session = sessions.open(Index(1), NOW, 1, false);
        let second_session = sessions.open(Index(2), NOW, 1, false);
        assert_eq!(sessions.lookup(Index(3), NOW, first_session, 1, 1), CommandState::New);
        let third_session = sessions.open(Index(4), NOW, 1, false);
        assert_eq!(sessions.lookup(Index(5), NOW, second_session, 1, 1), CommandState::SessionExpired);
        assert_eq!(sessions.lookup(Index(6), NOW, first_session, 1, 1), CommandState::New);
        assert_eq!(sessions.lookup(Index(7), NOW, third_session, 1, 1), CommandState::New);
    }

    #[test]
    fn sessions_expire_by_cluster_time() {
        let mut sessions = Sessions::new(Options { idle_ms_max: 10, ..Options::default() });
        let id = sessions.open(Index(1), ClusterTime(100), 1, false);
        sessions.expire_idle(ClusterTime(110));
        assert_eq!(sessions.lookup(Index(2), ClusterTime(110), id, 1, 1), CommandState::New);
        sessions.expire_idle(ClusterTime(120));
        assert_eq!(sessions.count(), 1);
        sessions.expire_idle(ClusterTime(121));
        assert_eq!(sessions.count(), 0);
        assert_eq!(sessions.digest(), Sessions::default().digest());
    }

    #[test]
    fn total_size_of_stored_answers_is_bounded() {
        let options = Options { answer_bytes_max: 2 * ANSWER_OVERHEAD_BYTES + 6, ..Options::default() };
        let mut sessions = Sessions::new(options);
        let (first_session, second_session) =
            (sessions.open(Index(1), NOW, 9, false), sessions.open(Index(2), NOW, 9, false));
        for (index, id, seq) in [(3, first_session, 1), (4, second_session, 1), (5, second_session, 2)] {
            assert_eq!(sessions.lookup(Index(index), NOW, id, seq, 1), CommandState::New);
            sessions.store_answer(id, seq, answer("abc"));
        }
        assert_eq!(sessions.lookup(Index(6), NOW, first_session, 1, 1), CommandState::SessionExpired);
        assert_eq!(sessions.lookup(Index(7), NOW, second_session, 1, 1), CommandState::Executed(answer("abc")));
        // A session whose answers alone exceed the limit of bytes expires too, once its command is executed.
        sessions.lookup(Index(8), NOW, second_session, 3, 1);
        sessions.store_answer(second_session, 3, Some(Bytes::from(vec![0; 999])));
        assert_eq!((sessions.count(), sessions.charged_bytes), (0, 0));
    }

    #[test]
    fn closed_session_frees_answer_to_highest_sequence_number() {
        let mut sessions = Sessions::default();
        let id = sessions.open(Index(1), NOW, 1024, false);
        assert_eq!(sessions.lookup(Index(2), NOW, id, u64::MAX, u64::MAX), CommandState::New);
        sessions.store_answer(id, u64::MAX, answer("abc"));
        sessions.close(id);
        assert_eq!((sessions.count(), sessions.charged_bytes), (0, 0));
    }
}
