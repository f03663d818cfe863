//! Exactly-once execution: the first answers of each session, and session expiry.
//!
//! The log alone decides everything here: its entries, their order, and the cluster time in them. No clock is read and
//! no hash map is iterated, so every node stores and discards the same (reading a wall clock while applying makes
//! replicas diverge).
//!
//! The table is part of the replicated state, and bounded as such: in sessions, in bytes of answers, and in idle time.
//! Every bound must discard the same on every node. So the least recently used session is known by the log index of its
//! last use, which no two sessions share, and bytes are charged by a fixed formula rather than measured in an
//! allocator.
//!
//! A client whose session is gone is told so, and never executed as new: it cannot know whether its last attempt was
//! executed, and must decide that itself (thesis §6.3).

use super::session::{CommandState, Record, SessionState};
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
    pub count_max: usize,
    /// How many bytes of answers all sessions together may store, including [`super::session::ANSWER_OVERHEAD`] for
    /// each.
    pub answer_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            idle_ms_max: SESSION_IDLE_MS_MAX,
            count_max: SESSIONS_MAX,
            answer_bytes_max: SESSION_ANSWER_BYTES_MAX,
        }
    }
}

/// The sessions of all clients.
///
/// Invariants: `order` lists each session once, under the index of one of its uses, which need not be the last. A
/// lookup of the least recently used session lists a session again if it was used since, so that a use itself costs
/// nothing. `answer_bytes` is the sum charged for all stored answers. `digest` covers the sessions that are not in
/// `touched`.
#[derive(Debug, Default)]
pub struct Sessions {
    options: Options,
    open: BTreeMap<SessionId, SessionState>,
    order: BTreeMap<Index, Listed>,
    answer_bytes: u64,
    digest: Digest,
    /// Sessions changed since the digest was last computed.
    touched: Vec<SessionId>,
    /// The part of the frozen sessions that is not yet serialized.
    frozen: Option<Frozen>,
}

/// The frozen sessions that are not yet serialized.
///
/// Freezing copies nothing. A session is copied when it is about to change, if it existed at the freeze and is not yet
/// serialized. Its answers are shared, so a copy costs tens of microseconds for a full window, once for each session
/// that is still used.
#[derive(Debug)]
struct Frozen {
    /// The last session open at the freeze: later sessions have higher ids.
    upto: SessionId,
    /// The first session that is not completely serialized.
    from: SessionId,
    /// The highest number of that session whose answer is serialized, 0 for none; `None` before its head is.
    told: Option<u64>,
    /// Copies of the sessions that have changed since the freeze.
    before: BTreeMap<SessionId, SessionState>,
}

impl Frozen {
    /// Saves a session as of the freeze, before its first change after it.
    fn preserve(&mut self, id: SessionId, session: &SessionState) {
        if (self.from..=self.upto).contains(&id) && !self.before.contains_key(&id) {
            self.before.insert(id, session.clone());
        }
    }
}

/// A session as of its listing in `order`.
#[derive(Clone, Copy, Debug)]
struct Listed {
    id: SessionId,
    time: ClusterTime,
}

impl Sessions {
    /// Panics if listing, sessions and charges disagree.
    fn check(&self) {
        assert_eq!(self.order.len(), self.open.len(), "each open session is listed once, so that each can expire");
        assert!(!self.open.is_empty() || self.answer_bytes == 0, "answers are charged to open sessions only");
    }

    /// Creates an empty table.
    pub fn new(options: Options) -> Sessions {
        Sessions { options, ..Sessions::default() }
    }

    /// Number of open sessions.
    pub fn count(&self) -> u64 {
        self.open.len() as u64
    }

    /// A digest of all sessions: equal on every node at the same index.
    pub fn digest(&mut self) -> u64 {
        for id in self.touched.drain(..) {
            // It may have expired since.
            if let Some(session) = self.open.get_mut(&id) {
                session.touched = false;
                self.digest += session.hash(id);
            }
        }
        self.digest.finish(self.count())
    }

    /// Takes a session out of the digest until the digest is next computed. A session used many times in a batch is
    /// hashed twice, not at each use.
    fn touch(digest: &mut Digest, touched: &mut Vec<SessionId>, id: SessionId, session: &mut SessionState) {
        if !session.touched {
            *digest -= session.hash(id);
            session.touched = true;
            touched.push(id);
        }
    }

    /// Removes the sessions that were not used for too long. Runs before every other effect of an entry: a command in a
    /// session that expires with its own entry must not execute on one node and be refused on another.
    pub fn advance(&mut self, time: ClusterTime) {
        while let Some((_, oldest)) = self.order.first_key_value() {
            // All other sessions were listed with later uses.
            if oldest.time.0.saturating_add(self.options.idle_ms_max) >= time.0 {
                break;
            }
            if let Some(id) = self.unused_longest()
                && self.open[&id].time.0.saturating_add(self.options.idle_ms_max) < time.0
            {
                self.forget(id);
            }
        }
    }

    /// The least recently used session, which is then listed under its last use. Each pass of the loop lists one
    /// session later than before, so the work is paid for by the uses since its last listing.
    fn unused_longest(&mut self) -> Option<SessionId> {
        loop {
            let (&listed, &Listed { id, .. }) = self.order.first_key_value()?;
            let session = self.open.get_mut(&id).expect("only open sessions are listed");
            if session.used == listed {
                return Some(id);
            }
            session.listed = session.used;
            let anew = Listed { id, time: session.time };
            self.order.remove(&listed);
            let other = self.order.insert(session.used, anew);
            assert!(other.is_none(), "an entry is the use of one session: no two are listed under its index");
        }
    }

    /// Opens a session, whose id is the index of its entry.
    pub fn open(&mut self, index: Index, time: ClusterTime, window: u32, ordered: bool) -> SessionId {
        while self.open.len() >= self.options.count_max {
            self.forget_oldest();
        }
        let id = SessionId(index.0);
        self.touched.push(id);
        self.order.insert(index, Listed { id, time });
        let before = self.open.insert(id, SessionState::new(index, time, window, ordered));
        assert!(before.is_none(), "an index is applied once, so no session is opened twice");
        self.check();
        id
    }

    /// Looks up a number of a session, and records the use and the lowest number its client still waits for.
    pub fn lookup(&mut self, index: Index, time: ClusterTime, id: SessionId, seq: u64, lowest: u64) -> CommandState {
        let Some(session) = self.open.get_mut(&id) else { return CommandState::SessionExpired };
        if let Some(frozen) = &mut self.frozen {
            frozen.preserve(id, session);
        }
        Sessions::touch(&mut self.digest, &mut self.touched, id, session);
        assert!(session.used < index, "entries are applied in order: a use is later than the one before (§5.3)");
        session.used = index;
        session.time = time;
        self.answer_bytes -= session.trim(lowest);
        session.find(seq)
    }

    /// Stores the first answer to a number, which [`Sessions::lookup`] reported as new; `None` if it was too long.
    pub fn remember(&mut self, id: SessionId, seq: u64, answer: Option<Bytes>) {
        let session = self.open.get_mut(&id).expect("a session that was just looked up is open");
        assert!(session.touched, "a number was looked up before its answer is stored");
        self.answer_bytes += session.store(seq, answer);
        // The command's own session is removed last, and is removed too if it alone exceeds the limit.
        while self.answer_bytes > self.options.answer_bytes_max {
            self.forget_oldest();
        }
    }

    /// The answer to the highest number executed in a session: all that would be known of it if only a client's last
    /// answer were stored.
    pub fn latest(&self, id: SessionId) -> Option<Bytes> {
        self.open.get(&id)?.latest()
    }

    /// Closes a session, if it is open.
    pub fn close(&mut self, id: SessionId) {
        if self.open.contains_key(&id) {
            self.forget(id);
        }
    }

    fn forget_oldest(&mut self) {
        let oldest = self.unused_longest().expect("sessions over a limit are not empty");
        self.forget(oldest);
    }

    fn forget(&mut self, id: SessionId) {
        let session = self.open.remove(&id).expect("only open sessions are removed");
        if let Some(frozen) = &mut self.frozen {
            frozen.preserve(id, &session);
        }
        let listed = self.order.remove(&session.listed);
        assert!(listed.is_some_and(|listed| listed.id == id), "an open session is listed");
        if !session.touched {
            self.digest -= session.hash(id);
        }
        self.answer_bytes -= session.cost();
        self.check();
    }

    /// Freezes the sessions as they are now. Takes constant time (apart from a check in debug builds).
    pub fn freeze(&mut self) {
        let charged = || self.open.values().map(SessionState::cost).sum::<u64>();
        debug_assert_eq!(self.answer_bytes, charged(), "the bytes charged are those of the stored answers");
        let upto = self.open.last_key_value().map_or(SessionId(0), |(id, _)| *id);
        self.frozen = Some(Frozen { upto, from: SessionId(0), told: None, before: BTreeMap::new() });
    }

    /// Drops the frozen sessions.
    pub fn end_snapshot(&mut self) {
        self.frozen = None;
    }

    /// The next piece of the frozen sessions, at most one record longer than `bytes`; `None` after the last one, which
    /// also drops the frozen sessions. The pieces together are the same on every node.
    pub fn next_chunk(&mut self, bytes: usize) -> Option<Bytes> {
        let frozen = self.frozen.as_mut()?;
        let mut out = BytesMut::with_capacity(bytes + bytes / 8);
        while out.len() < bytes.max(1) {
            let kept = frozen.before.range(frozen.from..).next();
            let same = self.open.range(frozen.from..).next().filter(|(id, _)| **id <= frozen.upto);
            let next = match (kept, same) {
                (Some(kept), Some(same)) => Some(if kept.0 <= same.0 { kept } else { same }),
                (kept, same) => kept.or(same),
            };
            let Some((&id, session)) = next else { break };
            if id != frozen.from || frozen.told.is_none() {
                session.put_head(&mut out, id);
                (frozen.from, frozen.told) = (id, Some(0));
            }
            frozen.told = session.put_answers(&mut out, frozen.told.unwrap_or(0), bytes);
            if frozen.told.is_none() {
                frozen.before.remove(&id);
                frozen.from = SessionId(id.0 + 1);
            }
        }
        if out.is_empty() {
            self.end_snapshot();
            return None;
        }
        Some(out.freeze())
    }

    /// Adds the next piece of serialized sessions.
    pub fn restore(&mut self, piece: &Bytes) -> Result<()> {
        let mut reader = Reader::new(piece.clone());
        while reader.left() > 0 {
            match Record::read(&mut reader)? {
                Record::Head(id, session) => {
                    let ascends = self.open.last_key_value().is_none_or(|(last, _)| *last < id);
                    let anew = Listed { id, time: session.time };
                    if !ascends || self.order.insert(session.used, anew).is_some() {
                        return Err(Malformed("sessions out of order"));
                    }
                    self.touched.push(id);
                    self.open.insert(id, session);
                }
                Record::Answer(seq, answer) => {
                    let Some(mut last) = self.open.last_entry() else {
                        return Err(Malformed("an answer without a session"));
                    };
                    self.answer_bytes += last.get_mut().restore(seq, answer)?;
                }
            }
        }
        Ok(())
    }

    /// The index of the latest use of any session.
    pub fn used(&self) -> Index {
        self.open.values().map(|session| session.used).max().unwrap_or(Index::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::ANSWER_OVERHEAD;
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
        sessions.remember(id, 3, answer("three"));
        assert_eq!(sessions.lookup(Index(3), NOW, id, 1, 1), CommandState::New);
        sessions.remember(id, 1, answer("one"));
        assert_eq!(sessions.lookup(Index(4), NOW, id, 3, 1), CommandState::Executed(answer("three")));
        assert_eq!(sessions.lookup(Index(5), NOW, id, 4, 1), CommandState::WindowExceeded);
        assert_eq!(sessions.lookup(Index(6), NOW, id, 4, 2), CommandState::New);
        assert_eq!(sessions.lookup(Index(7), NOW, id, 1, 1), CommandState::ResponseDiscarded);
        assert_eq!(sessions.lookup(Index(8), NOW, id, u64::MAX, u64::MAX), CommandState::New);
    }

    #[test]
    fn least_recently_used_session_expires_first() {
        let mut sessions = Sessions::new(Options { count_max: 2, ..Options::default() });
        let one = sessions.open(Index(1), NOW, 1, false);
        let two = sessions.open(Index(2), NOW, 1, false);
        assert_eq!(sessions.lookup(Index(3), NOW, one, 1, 1), CommandState::New);
        let three = sessions.open(Index(4), NOW, 1, false);
        assert_eq!(sessions.lookup(Index(5), NOW, two, 1, 1), CommandState::SessionExpired);
        assert_eq!(sessions.lookup(Index(6), NOW, one, 1, 1), CommandState::New);
        assert_eq!(sessions.lookup(Index(7), NOW, three, 1, 1), CommandState::New);
    }

    #[test]
    fn sessions_expire_by_cluster_time() {
        let mut sessions = Sessions::new(Options { idle_ms_max: 10, ..Options::default() });
        let id = sessions.open(Index(1), ClusterTime(100), 1, false);
        sessions.advance(ClusterTime(110));
        assert_eq!(sessions.lookup(Index(2), ClusterTime(110), id, 1, 1), CommandState::New);
        sessions.advance(ClusterTime(120));
        assert_eq!(sessions.count(), 1);
        sessions.advance(ClusterTime(121));
        assert_eq!(sessions.count(), 0);
        assert_eq!(sessions.digest(), Sessions::default().digest());
    }

    #[test]
    fn total_size_of_stored_responses_is_bounded() {
        let options = Options { answer_bytes_max: 2 * ANSWER_OVERHEAD + 6, ..Options::default() };
        let mut sessions = Sessions::new(options);
        let (one, two) = (sessions.open(Index(1), NOW, 9, false), sessions.open(Index(2), NOW, 9, false));
        for (index, id, seq) in [(3, one, 1), (4, two, 1), (5, two, 2)] {
            assert_eq!(sessions.lookup(Index(index), NOW, id, seq, 1), CommandState::New);
            sessions.remember(id, seq, answer("abc"));
        }
        assert_eq!(sessions.lookup(Index(6), NOW, one, 1, 1), CommandState::SessionExpired);
        assert_eq!(sessions.lookup(Index(7), NOW, two, 1, 1), CommandState::Executed(answer("abc")));
        // A session that alone exceeds the limit expires too, once its command is executed.
        sessions.lookup(Index(8), NOW, two, 3, 1);
        sessions.remember(two, 3, Some(Bytes::from(vec![0; 999])));
        assert_eq!((sessions.count(), sessions.answer_bytes), (0, 0));
    }

    #[test]
    fn highest_sequence_number_is_released_on_close() {
        let mut sessions = Sessions::default();
        let id = sessions.open(Index(1), NOW, 1024, false);
        assert_eq!(sessions.lookup(Index(2), NOW, id, u64::MAX, u64::MAX), CommandState::New);
        sessions.remember(id, u64::MAX, answer("abc"));
        sessions.close(id);
        assert_eq!((sessions.count(), sessions.answer_bytes), (0, 0));
    }
}
