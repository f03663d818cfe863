//! Exactly once: each session's first answers, and when it lapses.
//!
//! Everything here is decided by the log alone: which entries there were, in which order, and the
//! cluster's time in them. No clock is read and no hash map iterated, so every node remembers and
//! forgets the same (a wall clock read while applying is how replicas part).

use crate::limits::{SESSION_ANSWER_BYTES_MAX, SESSION_IDLE_MS_MAX, SESSIONS_MAX};
use crate::types::digest::{Digest, hash, hash_numbers};
use crate::types::{ClusterTime, Index, SessionId};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// When sessions lapse. Must be the same on every node of a cluster, for ever: it decides what is
/// applied.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A session lapses when nothing was asked in it for this long, by the cluster's clock.
    pub idle_ms_max: u64,
    /// How many sessions there may be; the one unused for longest lapses first.
    pub count_max: usize,
    /// How many bytes of answers all sessions together may hold, [`ANSWER_OVERHEAD`] for each counted in.
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

/// What a stored answer is said to cost beside its own bytes.
pub const ANSWER_OVERHEAD: u64 = 64;

/// The sessions of all clients.
///
/// Invariants: `order` holds each session once, under the index of a use of it that need not be its
/// last: whoever wants the one unused for longest lists it anew if it was used since, so that a use
/// costs nothing. `answer_bytes` is what all stored answers cost. `digest` is that of the sessions
/// that are not in `touched`.
#[derive(Debug, Default)]
pub struct Sessions {
    options: Options,
    open: BTreeMap<SessionId, Session>,
    order: BTreeMap<Index, Listed>,
    answer_bytes: u64,
    digest: Digest,
    /// Changed since the digest was last asked.
    touched: Vec<SessionId>,
}

/// A session as it was when it was listed.
#[derive(Clone, Copy, Debug)]
struct Listed {
    id: SessionId,
    time: ClusterTime,
}

/// One client's session.
#[derive(Debug)]
struct Session {
    window: u32,
    /// The lowest number the client still waits for: what lies below is forgotten.
    lowest: u64,
    /// From `lowest` on, at most `window` of them: the first answer to each number, once there is one.
    answers: VecDeque<Option<Stored>>,
    used: Index,
    time: ClusterTime,
    /// The index it is listed under.
    listed: Index,
    touched: bool,
    /// The digest of the stored answers.
    digest: Digest,
    stored: u64,
}

#[derive(Debug)]
struct Stored {
    answer: Bytes,
    hash: u64,
}

/// What is known of a command before it is executed.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is new: execute it, then [`Sessions::remember`] the answer.
    Never,
    /// It was executed, and this was the answer.
    Before(Bytes),
    /// The session is not known.
    Lapsed,
    /// Its answer was forgotten, as the client allowed.
    Forgotten,
    /// It lies beyond the session's window.
    Overrun,
}

impl Sessions {
    /// No sessions yet, lapsing by those options.
    pub fn new(options: Options) -> Sessions {
        Sessions { options, ..Sessions::default() }
    }

    /// How many sessions are open.
    pub fn count(&self) -> u64 {
        self.open.len() as u64
    }

    /// Equal, at the same index, on every node.
    pub fn digest(&mut self) -> u64 {
        for id in self.touched.drain(..) {
            // It may have lapsed since.
            if let Some(session) = self.open.get_mut(&id) {
                session.touched = false;
                self.digest += session.hash(id);
            }
        }
        self.digest.finish(self.count())
    }

    /// Takes a session out of the digest until that is asked again.
    fn touch(digest: &mut Digest, touched: &mut Vec<SessionId>, id: SessionId, session: &mut Session) {
        if !session.touched {
            *digest -= session.hash(id);
            session.touched = true;
            touched.push(id);
        }
    }

    /// Forgets the sessions that were not used for too long. Comes before everything else an entry does.
    pub fn advance(&mut self, time: ClusterTime) {
        while let Some((_, oldest)) = self.order.first_key_value() {
            // All others were used, and listed, later.
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

    /// The session unused for longest; from then on listed under its last use.
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
            self.order.insert(session.used, anew);
        }
    }

    /// Opens a session, named by the index of its entry.
    pub fn open(&mut self, index: Index, time: ClusterTime, window: u32) -> SessionId {
        while self.open.len() >= self.options.count_max {
            self.forget_oldest();
        }
        let id = SessionId(index.0);
        let session = Session {
            window,
            lowest: 1,
            answers: VecDeque::new(),
            used: index,
            time,
            listed: index,
            touched: true,
            digest: Digest::default(),
            stored: 0,
        };
        self.touched.push(id);
        self.order.insert(index, Listed { id, time });
        let before = self.open.insert(id, session);
        assert!(before.is_none(), "an index is applied once, so no session is opened twice");
        id
    }

    /// Looks up a number of a session, and notes that it is in use and what its client waits for.
    pub fn look(&mut self, index: Index, time: ClusterTime, id: SessionId, seq: u64, lowest: u64) -> Seen {
        let Some(session) = self.open.get_mut(&id) else { return Seen::Lapsed };
        Sessions::touch(&mut self.digest, &mut self.touched, id, session);
        session.used = index;
        session.time = time;
        self.answer_bytes -= session.trim(lowest);
        session.find(seq)
    }

    /// Keeps the first answer to a number, which [`Sessions::look`] said was new.
    pub fn remember(&mut self, id: SessionId, seq: u64, answer: Bytes) {
        let session = self.open.get_mut(&id).expect("a session that was just looked up is open");
        assert!(session.touched, "a number was looked up before its answer is stored");
        self.answer_bytes += session.store(seq, answer);
        // Its own session is the last to go, and goes too if it alone holds too much.
        while self.answer_bytes > self.options.answer_bytes_max {
            self.forget_oldest();
        }
    }

    /// The answer to the highest number executed in that session: all that would be known of it if
    /// only a client's last answer were kept.
    pub fn latest(&self, id: SessionId) -> Option<Bytes> {
        self.open.get(&id)?.answers.iter().rev().flatten().next().map(|stored| stored.answer.clone())
    }

    /// Closes a session, if it is open.
    pub fn close(&mut self, id: SessionId) {
        if self.open.contains_key(&id) {
            self.forget(id);
        }
    }

    fn forget_oldest(&mut self) {
        let oldest = self.unused_longest().expect("what is over a limit is not empty");
        self.forget(oldest);
    }

    fn forget(&mut self, id: SessionId) {
        let mut session = self.open.remove(&id).expect("only open sessions are forgotten");
        let listed = self.order.remove(&session.listed);
        assert!(listed.is_some_and(|listed| listed.id == id), "an open session is listed");
        if !session.touched {
            self.digest -= session.hash(id);
        }
        self.answer_bytes -= session.trim(u64::MAX);
    }
}

impl Session {
    /// The part of the digest that this session is.
    fn hash(&self, id: SessionId) -> u64 {
        let answers = self.digest.finish(self.stored);
        hash_numbers([id.0, u64::from(self.window), self.lowest, self.used.0, self.time.0, answers])
    }

    /// Drops the answers below `lowest`; says what they cost.
    fn trim(&mut self, lowest: u64) -> u64 {
        let mut freed = 0;
        while self.lowest < lowest {
            let Some(first) = self.answers.pop_front() else {
                self.lowest = lowest;
                break;
            };
            self.lowest += 1;
            if let Some(stored) = first {
                freed += stored.cost();
                self.digest -= stored.hash;
                self.stored -= 1;
            }
        }
        freed
    }

    fn find(&self, seq: u64) -> Seen {
        let Some(at) = seq.checked_sub(self.lowest) else { return Seen::Forgotten };
        if at >= u64::from(self.window) {
            return Seen::Overrun;
        }
        match self.answers.get(at as usize) {
            Some(Some(stored)) => Seen::Before(stored.answer.clone()),
            Some(None) | None => Seen::Never,
        }
    }

    /// Keeps an answer, the first one if there is one already; says what it costs.
    fn store(&mut self, seq: u64, answer: Bytes) -> u64 {
        let at = (seq - self.lowest) as usize;
        assert!(at < self.window as usize, "a number was looked up before its answer is stored");
        if self.answers.len() <= at {
            self.answers.resize_with(at + 1, || None);
        }
        if self.answers[at].is_some() {
            return 0;
        }
        let stored = Stored { hash: hash(seq, &answer), answer };
        let cost = stored.cost();
        self.digest += stored.hash;
        self.stored += 1;
        self.answers[at] = Some(stored);
        cost
    }
}

impl Stored {
    fn cost(&self) -> u64 {
        ANSWER_OVERHEAD + self.answer.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: ClusterTime = ClusterTime(0);

    fn answer(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn numbers_may_come_in_any_order_within_the_window() {
        let mut sessions = Sessions::default();
        let id = sessions.open(Index(1), NOW, 3);
        assert_eq!(sessions.look(Index(2), NOW, id, 3, 1), Seen::Never);
        sessions.remember(id, 3, answer("three"));
        assert_eq!(sessions.look(Index(3), NOW, id, 1, 1), Seen::Never);
        sessions.remember(id, 1, answer("one"));
        assert_eq!(sessions.look(Index(4), NOW, id, 3, 1), Seen::Before(answer("three")));
        assert_eq!(sessions.look(Index(5), NOW, id, 4, 1), Seen::Overrun);
        assert_eq!(sessions.look(Index(6), NOW, id, 4, 2), Seen::Never);
        assert_eq!(sessions.look(Index(7), NOW, id, 1, 1), Seen::Forgotten);
        assert_eq!(sessions.look(Index(8), NOW, id, u64::MAX, u64::MAX), Seen::Never);
    }

    #[test]
    fn the_session_unused_for_longest_lapses_first() {
        let mut sessions = Sessions::new(Options { count_max: 2, ..Options::default() });
        let one = sessions.open(Index(1), NOW, 1);
        let two = sessions.open(Index(2), NOW, 1);
        assert_eq!(sessions.look(Index(3), NOW, one, 1, 1), Seen::Never);
        let three = sessions.open(Index(4), NOW, 1);
        assert_eq!(sessions.look(Index(5), NOW, two, 1, 1), Seen::Lapsed);
        assert_eq!(sessions.look(Index(6), NOW, one, 1, 1), Seen::Never);
        assert_eq!(sessions.look(Index(7), NOW, three, 1, 1), Seen::Never);
    }

    #[test]
    fn sessions_lapse_by_the_clusters_clock() {
        let mut sessions = Sessions::new(Options { idle_ms_max: 10, ..Options::default() });
        let id = sessions.open(Index(1), ClusterTime(100), 1);
        sessions.advance(ClusterTime(110));
        assert_eq!(sessions.look(Index(2), ClusterTime(110), id, 1, 1), Seen::Never);
        sessions.advance(ClusterTime(120));
        assert_eq!(sessions.count(), 1);
        sessions.advance(ClusterTime(121));
        assert_eq!(sessions.count(), 0);
        assert_eq!(sessions.digest(), Sessions::default().digest());
    }

    #[test]
    fn answers_are_bounded_all_together() {
        let options = Options { answer_bytes_max: 2 * ANSWER_OVERHEAD + 6, ..Options::default() };
        let mut sessions = Sessions::new(options);
        let (one, two) = (sessions.open(Index(1), NOW, 9), sessions.open(Index(2), NOW, 9));
        for (index, id, seq) in [(3, one, 1), (4, two, 1), (5, two, 2)] {
            assert_eq!(sessions.look(Index(index), NOW, id, seq, 1), Seen::Never);
            sessions.remember(id, seq, answer("abc"));
        }
        assert_eq!(sessions.look(Index(6), NOW, one, 1, 1), Seen::Lapsed);
        assert_eq!(sessions.look(Index(7), NOW, two, 1, 1), Seen::Before(answer("abc")));
        // What alone is too much lapses too, once it is executed.
        sessions.look(Index(8), NOW, two, 3, 1);
        sessions.remember(two, 3, Bytes::from(vec![0; 999]));
        assert_eq!((sessions.count(), sessions.answer_bytes), (0, 0));
    }
}
