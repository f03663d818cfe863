//! A blocking client: session, redirect, retry.

use super::connection::{Connection, Trouble, deadline};
use super::error::{ClientError, Tried};
use super::known::{Known, LOOK_EVERY};
use crate::api::{Consistency, Op, Outcome, Refusal, Reply, Request, Status};
use crate::secure::Keys;
use crate::types::{Change, Index, NodeId, Position, SessionId};
use bytes::Bytes;
use std::io;
use std::time::{Duration, Instant};

/// How patient a client is.
#[derive(Clone, Debug)]
pub struct Options {
    /// After this long a call ends, whatever is known by then.
    pub timeout: Duration,
    /// A node that has not answered for this long is left for another. Longer than nodes let requests
    /// wait for a leader, or a cluster without one would look like one that does not answer.
    pub patience: Duration,
    /// After this long of silence others are asked who leads, again and again. What is waited for stays
    /// with the silent node until somebody else does.
    pub doubt: Duration,
    /// With these, what is said is encrypted, and nodes have to prove who they are.
    pub keys: Option<Keys>,
}

/// A node that takes a connection and does not say hello is left after so many times the doubt, if there
/// are others.
const GREETING: u32 = 3;
/// Others are asked again no more rarely than this.
const AGAIN_MAX: Duration = Duration::from_millis(400);

impl Default for Options {
    fn default() -> Options {
        Options {
            timeout: Duration::from_secs(5),
            patience: Duration::from_millis(3500),
            doubt: Duration::from_millis(100),
            keys: None,
        }
    }
}

/// A command that took effect, once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Executed {
    /// Where in the log the entry is that brought this answer.
    pub position: Position,
    /// The machine's first answer.
    pub answer: Bytes,
    /// Whether an earlier attempt of ours had already taken effect.
    pub duplicate: bool,
}

/// The answer to a query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queried {
    /// The machine had applied everything up to here.
    pub applied: Index,
    /// What it says.
    pub answer: Bytes,
}

/// A blocking client of a cluster, with one thing under way at a time.
///
/// Writes go through a session, opened with the first of them. A write is asked again under the same
/// number until it is known what came of it, or until time is up: it never takes effect twice.
pub struct Client {
    known: Known,
    /// When to ask who the members are.
    look_at: Instant,
    options: Options,
    /// To the node that answered last.
    connection: Option<(String, Connection)>,
    session: Option<Session>,
}

struct Session {
    id: SessionId,
    next: u64,
}

/// What one attempt came to.
enum Attempt {
    Replied(Reply),
    /// Nobody can have taken it on.
    NotSent(String),
    /// It may have been taken on.
    Lost(String),
}

/// A call under way: how long it may last, and what was tried.
struct Call {
    begun: Instant,
    deadline: Instant,
    tried: Tried,
    /// Whether some attempt may have been taken on.
    uncertain: bool,
    /// Where to go next, if a node told us.
    hint: Option<String>,
    attempts: u32,
}

impl Client {
    /// A client of the cluster that answers at those `host:port`s. Dials nobody yet.
    pub fn connect<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Client {
        Client::with(endpoints, Options::default())
    }

    /// The same, with another patience.
    pub fn with<E: Into<String>>(endpoints: impl IntoIterator<Item = E>, options: Options) -> Client {
        let endpoints: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        Client { known: Known::new(endpoints), look_at: deadline(LOOK_EVERY), options, connection: None, session: None }
    }

    /// The endpoints it was given.
    pub fn endpoints(&self) -> &[String] {
        self.known.given()
    }

    /// Executes a command, once.
    pub fn execute(&mut self, command: &[u8]) -> Result<Executed, ClientError> {
        let mut call = Call::new(self.options.timeout);
        loop {
            let (session, seq) = self.number(&mut call)?;
            let command = Bytes::copy_from_slice(command);
            let op = Op::Execute { session, seq, lowest: seq, command }.encode();
            let (position, outcome) = self.propose(&mut call, op)?;
            match outcome {
                Outcome::Executed { answer, duplicate } => return Ok(Executed { position, answer, duplicate }),
                Outcome::Lapsed => {
                    self.session = None;
                    if call.uncertain {
                        return Err(ClientError::Lapsed);
                    }
                    // Never taken on before: as good as new, in a new session.
                }
                other => {
                    self.session = None;
                    return Err(ClientError::Strange(Box::new(other)));
                }
            }
        }
    }

    /// Asks the machine something.
    pub fn query(&mut self, query: &[u8], consistency: Consistency) -> Result<Queried, ClientError> {
        let query = Bytes::copy_from_slice(query);
        let mut call = Call::new(self.options.timeout);
        let reply = self.ask(&mut call, &Request::Query { query, consistency }).map_err(nothing_applied)?;
        match reply {
            Reply::Answer { applied, answer } => Ok(Queried { applied, answer }),
            _ => Err(ClientError::Strange(Box::new(Outcome::Malformed))),
        }
    }

    /// How that node is: this one only, and once.
    pub fn status(&self, endpoint: &str) -> Result<Status, ClientError> {
        match self.ask_one(endpoint, &Request::Status)? {
            Reply::Status(status) => Ok(*status),
            _ => Err(ClientError::Strange(Box::new(Outcome::Malformed))),
        }
    }

    /// Lets one node take a snapshot, and waits until it is durable: the position it stands for, and how
    /// many bytes it has.
    pub fn snapshot(&self, endpoint: &str) -> Result<(Position, u64), ClientError> {
        match self.ask_one(endpoint, &Request::Snapshot)? {
            Reply::Snapshot { position, bytes } => Ok((position, bytes)),
            _ => Err(ClientError::Strange(Box::new(Outcome::Malformed))),
        }
    }

    /// Changes the members of the cluster; the configuration that holds then. One that is under way is waited for.
    pub fn change(&mut self, change: &Change, force: bool) -> Result<Position, ClientError> {
        let request = Request::Change { change: change.clone(), force };
        let mut call = Call::new(self.options.timeout);
        // One that is to end what is under way need not wait until reads are answered.
        if *change != Change::Abort {
            self.find_leader(&mut call)?;
        }
        let reply = self.ask(&mut call, &request).map_err(|error| match error {
            // It may be our own earlier attempt that leaves nothing to do.
            ClientError::Never(refusal @ Refusal::Unsound { .. }) if call.uncertain => {
                call.tried.refusal = Some(refusal);
                call.give_up()
            }
            error => error,
        });
        match reply? {
            Reply::Changed { position } => Ok(position),
            _ => Err(ClientError::Strange(Box::new(Outcome::Malformed))),
        }
    }

    /// Waits until somebody leads. While nobody does, a node keeps what it is asked until somebody might: who gives up
    /// then does not know whether it was done, and nothing was.
    fn find_leader(&mut self, call: &mut Call) -> Result<(), ClientError> {
        let nothing = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
        self.ask(call, &nothing).map_err(nothing_applied)?;
        call.uncertain = false;
        Ok(())
    }

    /// Lets that node lead, or whoever is best placed; who does then.
    pub fn transfer(&mut self, to: Option<NodeId>) -> Result<NodeId, ClientError> {
        let mut call = Call::new(self.options.timeout);
        match self.ask(&mut call, &Request::Transfer { to }).map_err(nothing_applied)? {
            Reply::Handed { to } => Ok(to),
            _ => Err(ClientError::Strange(Box::new(Outcome::Malformed))),
        }
    }

    /// Asks that node and no other, once, what changes nothing that is replicated.
    fn ask_one(&self, endpoint: &str, request: &Request) -> Result<Reply, ClientError> {
        let mut call = Call::new(self.options.timeout);
        call.tried.endpoints.push(endpoint.to_owned());
        let dialled =
            Connection::dial(endpoint, self.options.keys.as_ref(), call.deadline.min(deadline(self.options.patience)));
        match dialled.and_then(|mut connection| connection.call(request, call.deadline)) {
            Ok(Reply::Refused(refusal)) => call.tried.refusal = Some(refusal),
            Ok(reply) => return Ok(reply),
            Err(trouble) => call.tried.trouble = Some(format!("{endpoint}: {trouble}")),
        }
        Err(nothing_applied(call.give_up()))
    }

    /// The session and the next number in it; opens one if there is none.
    fn number(&mut self, call: &mut Call) -> Result<(SessionId, u64), ClientError> {
        if self.session.is_none() {
            // A session that was opened and never heard of lapses by itself: asking again does no harm,
            // and nothing of the caller's is at stake yet.
            let reply = self.ask(call, &Request::Propose { op: Op::Open { window: 1, ordered: false }.encode() });
            call.uncertain = false;
            match reply.map_err(nothing_applied)? {
                Reply::Done { outcome: Outcome::Opened { session }, .. } => {
                    self.session = Some(Session { id: session, next: 1 });
                }
                Reply::Done { outcome, .. } => return Err(ClientError::Strange(Box::new(outcome))),
                _ => return Err(ClientError::Strange(Box::new(Outcome::Malformed))),
            }
        }
        let session = self.session.as_mut().expect("it was just opened");
        session.next += 1;
        Ok((session.id, session.next - 1))
    }

    fn propose(&mut self, call: &mut Call, op: Bytes) -> Result<(Position, Outcome), ClientError> {
        match self.ask(call, &Request::Propose { op })? {
            Reply::Done { position, outcome } => Ok((position, outcome)),
            _ => Err(ClientError::Strange(Box::new(Outcome::Malformed))),
        }
    }

    /// Asks until somebody answers, or time is up.
    fn ask(&mut self, call: &mut Call, request: &Request) -> Result<Reply, ClientError> {
        while Instant::now() < call.deadline {
            match self.attempt(call, request) {
                Attempt::Replied(Reply::Refused(refusal)) => self.heed(call, refusal)?,
                Attempt::Replied(Reply::Unknown) => {
                    call.uncertain = true;
                    self.connection = None;
                    call.pause();
                }
                Attempt::Replied(reply) => return Ok(reply),
                Attempt::NotSent(trouble) => {
                    call.tried.trouble = Some(trouble);
                    call.pause();
                }
                Attempt::Lost(trouble) => {
                    call.uncertain = true;
                    call.tried.trouble = Some(trouble);
                    call.pause();
                }
            }
        }
        Err(call.give_up())
    }

    /// Asks one node, over the connection there is or a new one.
    fn attempt(&mut self, call: &mut Call, request: &Request) -> Attempt {
        let patience = call.deadline.min(deadline(self.options.patience));
        let (endpoint, mut connection) = match self.connection.take() {
            Some(there) if call.hint.is_none() => there,
            _ => {
                let endpoint = self.choose(call);
                match Connection::dial(&endpoint, self.options.keys.as_ref(), patience.min(self.greeting(call))) {
                    Ok(connection) => (endpoint, connection),
                    Err(trouble) => return Attempt::NotSent(format!("{endpoint}: {trouble}")),
                }
            }
        };
        call.note(&endpoint);
        let asked = connection.ask(request, patience);
        let answered = asked.and_then(|id| self.wait_for(call, &endpoint, &mut connection, id, patience));
        if let Some(status) = connection.take_news() {
            self.known.learn_members(&status);
        }
        match answered {
            Ok(reply) => {
                if self.look(&mut connection) {
                    self.connection = Some((endpoint, connection));
                }
                Attempt::Replied(reply)
            }
            Err(trouble) => Attempt::Lost(format!("{endpoint}: {trouble}")),
        }
    }

    /// Asks who the members are, from time to time; whether the connection is still of use.
    fn look(&mut self, connection: &mut Connection) -> bool {
        if Instant::now() < self.look_at {
            return true;
        }
        self.look_at = deadline(LOOK_EVERY);
        match connection.call(&Request::Status, deadline(self.options.doubt)) {
            Ok(Reply::Status(status)) => {
                self.known.learn_members(&status);
                true
            }
            _ => false,
        }
    }

    /// When a node must have said hello: later from time to time, in case all of them are slow.
    fn greeting(&self, call: &Call) -> Instant {
        match self.known.len() {
            1 => call.deadline,
            _ => deadline(self.options.doubt * (GREETING << call.attempts.min(6))),
        }
    }

    /// Waits for an answer until then, or until another node says that the one we wait for leads no more.
    fn wait_for(
        &self,
        call: &mut Call,
        endpoint: &str,
        connection: &mut Connection,
        id: u64,
        until: Instant,
    ) -> Result<Reply, Trouble> {
        let mut pause = self.options.doubt;
        loop {
            match connection.answer(id, until.min(deadline(pause))) {
                Err(trouble) if trouble.is_late() && Instant::now() < until => {}
                outcome => return outcome,
            }
            if let Some(leader) = self.elsewhere(endpoint, connection.node()) {
                call.hint = Some(leader);
                let silent = format!("{endpoint} is silent, and leads no more");
                return Err(io::Error::new(io::ErrorKind::TimedOut, silent).into());
            }
            pause = (pause * 2).min(AGAIN_MAX);
        }
    }

    /// Where somebody leads who is not the silent one, as another node says. A read of nothing is asked:
    /// who follows says whom, and who leads answers it without an entry in the log.
    fn elsewhere(&self, but: &str, silent: Option<NodeId>) -> Option<String> {
        let request = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
        self.known.iter().filter(|endpoint| *endpoint != but).find_map(|endpoint| {
            let soon = deadline(self.options.doubt * 2);
            let mut connection = Connection::dial(endpoint, self.options.keys.as_ref(), soon).ok()?;
            match connection.call(&request, soon).ok()? {
                Reply::Refused(Refusal::NotLeader { leader, address, .. }) if leader != silent => address,
                Reply::Answer { .. } if connection.node() != silent => Some(endpoint.clone()),
                _ => None,
            }
        })
    }

    /// Whom to dial: who was named, else one at random, then round and round.
    fn choose(&self, call: &mut Call) -> String {
        let endpoint = call.hint.take().unwrap_or_else(|| {
            let (first, all) = (rand::random_range(0..self.known.len()), self.known.len());
            let fresh = (0..all)
                .map(|i| &self.known[(first + i) % all])
                .find(|endpoint| !call.tried.endpoints.contains(endpoint));
            fresh.unwrap_or(&self.known[first]).clone()
        });
        call.note(&endpoint);
        endpoint
    }

    /// Turned away: goes where it was told to, or waits a little; an error if it is for good.
    fn heed(&mut self, call: &mut Call, refusal: Refusal) -> Result<(), ClientError> {
        match &refusal {
            Refusal::NotLeader { address: Some(address), .. } => {
                self.known.learn(address);
                call.hint = Some(address.clone());
            }
            Refusal::Busy | Refusal::NoSpace | Refusal::Changing { .. } => call.pause(),
            Refusal::NotLeader { address: None, .. } | Refusal::NoLeader | Refusal::Stopping => {
                self.connection = None;
                call.pause();
            }
            Refusal::Outside { members, .. } => {
                // Whoever is a member may be somebody we have not heard of.
                members.iter().for_each(|address| self.known.learn(address));
                self.connection = None;
                call.pause();
            }
            // A node that takes larger commands may have taken an earlier attempt on.
            Refusal::TooLarge { .. } | Refusal::Malformed if call.uncertain => {
                call.tried.refusal = Some(refusal);
                return Err(call.give_up());
            }
            Refusal::TooLarge { .. }
            | Refusal::Malformed
            | Refusal::Unsound { .. }
            | Refusal::Dangerous { .. }
            | Refusal::KeptLead { .. } => return Err(ClientError::Never(refusal)),
        }
        call.tried.refusal = Some(refusal);
        if call.attempts > 2 && call.hint.is_some() {
            // Nodes that point at one another, or at one that is gone: not in a circle without a pause.
            call.pause();
        }
        Ok(())
    }
}

impl Drop for Client {
    /// Closes the session, if that can be said at once; else it lapses by itself.
    fn drop(&mut self) {
        if let (Some((_, connection)), Some(session)) = (&mut self.connection, &self.session) {
            let op = Op::Close { session: session.id }.encode();
            let soon = Instant::now() + Duration::from_millis(20);
            let _best_effort = connection.tell(&Request::Propose { op }, soon);
        }
    }
}

impl Call {
    fn new(timeout: Duration) -> Call {
        let (begun, deadline) = (Instant::now(), deadline(timeout));
        Call { begun, deadline, tried: Tried::default(), uncertain: false, hint: None, attempts: 0 }
    }

    fn note(&mut self, endpoint: &str) {
        self.attempts += 1;
        if !self.tried.endpoints.iter().any(|known| known == endpoint) {
            self.tried.endpoints.push(endpoint.to_owned());
        }
    }

    /// Waits before the next attempt: longer from time to time, never long, never the same.
    fn pause(&self) {
        let longest = 5 << self.attempts.min(5);
        let pause = Duration::from_millis(rand::random_range(longest / 2..=longest));
        std::thread::sleep(pause.min(self.deadline.saturating_duration_since(Instant::now())));
    }

    fn give_up(&mut self) -> ClientError {
        let mut tried = std::mem::take(&mut self.tried);
        tried.took = self.begun.elapsed();
        if self.uncertain { ClientError::Unknown(tried) } else { ClientError::Refused(tried) }
    }
}

/// Of what changes nothing, nothing was applied, whatever became of it.
fn nothing_applied(error: ClientError) -> ClientError {
    match error {
        ClientError::Unknown(tried) => ClientError::Refused(tried),
        other => other,
    }
}

#[cfg(test)]
mod tests;
