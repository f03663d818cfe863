//! A client of a state machine of one's own, over the network: seats that are reserved at most once.
//!
//! Server and client agree on the bytes of commands and answers; drave carries them. Three nodes run in this process
//! for the sake of the example: the client knows only their addresses and could as well run on another machine.
//!
//!     cargo run --example own_client [PORT]
//!
//! The nodes listen on PORT (7484 by default) and the two ports after it.

use bytes::Bytes;
use drave::{
    Client, ClientError, ClientOptions, ClusterTime, Config, Consistency, Context, Digest, Malformed, NodeId,
    SEGMENT_BYTES_MIN, Server, StateMachine, hash,
};
use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

/// The kind of the state machine, which each client names: a node with another kind rejects it.
const KIND: &str = "seats 1";

/// Seats and the guests that have them. A command is a seat (one byte) and a guest's name; its answer is the name of
/// the guest that has the seat from then on. A query is a seat; its answer is the guest's name, or nothing.
#[derive(Default)]
struct Seats {
    guests: BTreeMap<u8, Bytes>,
    digest: Digest,
    frozen: Option<BTreeMap<u8, Bytes>>,
}

impl Seats {
    fn reserve(&mut self, seat: u8, guest: &[u8]) -> Bytes {
        if !self.guests.contains_key(&seat) {
            self.digest += hash(u64::from(seat), guest);
            self.guests.insert(seat, Bytes::copy_from_slice(guest));
        }
        self.guests[&seat].clone()
    }
}

impl StateMachine for Seats {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn apply(&mut self, _context: &Context, command: &[u8]) -> Bytes {
        command.split_first().map_or_else(Bytes::new, |(seat, guest)| self.reserve(*seat, guest))
    }

    fn query(&self, _time: ClusterTime, query: &[u8]) -> Bytes {
        query.first().and_then(|seat| self.guests.get(seat)).cloned().unwrap_or_default()
    }

    fn digest(&self) -> u64 {
        self.digest.finish(self.guests.len() as u64)
    }

    fn freeze(&mut self) {
        self.frozen = Some(self.guests.clone());
    }

    fn next_chunk(&mut self, _bytes: usize) -> Option<Bytes> {
        let (seat, guest) = self.frozen.as_mut()?.pop_first()?;
        Some([&[seat], &guest[..]].concat().into())
    }

    fn end_snapshot(&mut self) {
        self.frozen = None;
    }

    fn empty(&self) -> Seats {
        Seats::default()
    }

    fn restore(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
        let (seat, guest) = chunk.split_first().ok_or(Malformed("too short for a seat"))?;
        self.reserve(*seat, guest);
        Ok(())
    }
}

/// The client's side: commands and answers as types of its own.
struct Office(Client);

impl Office {
    /// Reserves a seat; returns the guest that has it, which is another one if that guest was first.
    fn reserve(&mut self, seat: u8, guest: &str) -> Result<String, ClientError> {
        let executed = self.0.execute(&[&[seat], guest.as_bytes()].concat())?;
        Ok(String::from_utf8_lossy(&executed.answer).into_owned())
    }

    fn guest(&mut self, seat: u8) -> Result<Option<String>, ClientError> {
        let answer = self.0.query(&[seat], Consistency::Linearizable)?.answer;
        Ok((!answer.is_empty()).then(|| String::from_utf8_lossy(&answer).into_owned()))
    }
}

/// Runs cluster and client on `port` and the two ports after it; returns the guests of seats 1 to 3.
pub fn run(port: u16) -> Result<Vec<Option<String>>, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let peers: BTreeMap<_, _> =
        (0..3).filter_map(|n| Some((NodeId::new(n + 1)?, format!("127.0.0.1:{}", port + n as u16)))).collect();
    let (mut handles, mut threads) = (Vec::new(), Vec::new());
    for id in peers.keys() {
        let mut config = Config::new(*id, peers.clone(), directory.path().join(id.to_string()));
        (config.segment_bytes, config.reserve_bytes) = (SEGMENT_BYTES_MIN, 0);
        let server = Server::open(config, Seats::default())?;
        handles.push(server.handle());
        threads.push(std::thread::spawn(move || server.run()));
    }

    // One endpoint would do: the client learns the others. It retries until the timeout, and never reserves twice.
    let options = ClientOptions { machine: KIND, timeout: Duration::from_secs(30), ..ClientOptions::default() };
    let mut office = Office(Client::with(peers.into_values(), options));
    for (seat, guest) in [(1, "Ada"), (2, "Grace"), (1, "Edsger")] {
        println!("{guest} asks for seat {seat}: it is {}'s", office.reserve(seat, guest)?);
    }
    let guests = (1..=3).map(|seat| office.guest(seat)).collect::<Result<Vec<_>, _>>()?;
    println!("seats 1 to 3: {guests:?}");
    drop(office);
    handles.iter().for_each(drave::server::Handle::stop);
    threads.into_iter().try_for_each(|thread| thread.join().expect("the node does not panic"))?;
    Ok(guests)
}

fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().nth(1).map_or(Ok(7484), |port| port.parse())?;
    run(port).map(drop)
}
