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
const MACHINE_KIND: &str = "seats 1";

/// Seats and the guests that have them. A command is a seat (one byte) and a guest's name; its answer is the name of
/// the guest that has the seat from then on. A query is a seat; its answer is the guest's name, or nothing.
#[derive(Default)]
struct Seats {
    guests: BTreeMap<u8, Bytes>,
    digest: Digest,
    /// A copy of `guests` at the time of the freeze, without those already returned as chunks.
    frozen_guests: Option<BTreeMap<u8, Bytes>>,
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
        MACHINE_KIND
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
        self.frozen_guests = Some(self.guests.clone());
    }

    fn next_chunk(&mut self, _bytes: usize) -> Option<Bytes> {
        let (seat, guest) = self.frozen_guests.as_mut()?.pop_first()?;
        Some([&[seat], &guest[..]].concat().into())
    }

    fn end_snapshot(&mut self) {
        self.frozen_guests = None;
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

/// A typed client: encodes commands and decodes answers.
struct SeatClient(Client);

impl SeatClient {
    /// Reserves a seat for a guest. Returns the guest that has the seat, which is another one if the seat was taken.
    fn reserve(&mut self, seat: u8, guest: &str) -> Result<String, ClientError> {
        let executed = self.0.execute(&[&[seat], guest.as_bytes()].concat())?;
        Ok(String::from_utf8_lossy(&executed.answer).into_owned())
    }

    /// The guest that has a seat; `None` if the seat is free.
    fn guest_of(&mut self, seat: u8) -> Result<Option<String>, ClientError> {
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

    // One endpoint is enough, since the client learns the others. The client repeats a command until it is answered or
    // the timeout ends, and no command takes effect twice.
    let options =
        ClientOptions { machine_kind: MACHINE_KIND, timeout: Duration::from_secs(30), ..ClientOptions::default() };
    let mut seat_client = SeatClient(Client::with_options(peers.into_values(), options));
    for (seat, guest) in [(1, "Ada"), (2, "Grace"), (1, "Edsger")] {
        println!("{guest} asks for seat {seat}, which belongs to {}", seat_client.reserve(seat, guest)?);
    }
    let guests = (1..=3).map(|seat| seat_client.guest_of(seat)).collect::<Result<Vec<_>, _>>()?;
    println!("guests of seats 1 to 3: {guests:?}");
    drop(seat_client);
    handles.iter().for_each(drave::server::Handle::stop);
    threads.into_iter().try_for_each(|thread| thread.join().expect("the node does not panic"))?;
    Ok(guests)
}

fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().nth(1).map_or(Ok(7484), |port| port.parse())?;
    run(port).map(drop)
}
