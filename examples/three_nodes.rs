//! Three nodes in one process: a cluster of a small state machine survives the loss of its leader.
//!
//! Each node has its own event loop, on its own thread, and its own data directory; they communicate over
//! loopback. The program adds numbers through one node, stops the leader, and adds more through a remaining node.
//!
//!     cargo run --example three_nodes [PORT]
//!
//! The nodes listen on PORT (7481 by default) and the two ports after it.

use bytes::Bytes;
use drave::{
    ClusterTime, Config, Consistency, Context, Handle, Malformed, NodeId, SEGMENT_BYTES_MIN, Server, ServerError,
    StateMachine,
};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

/// The time limit of each call. An election takes a second or two.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A state machine that adds numbers. A command is a number in decimal; any query reads the sum.
#[derive(Default)]
struct Sum {
    sum: u64,
    /// The sum at the time of the freeze, until it is returned as a chunk.
    frozen_sum: Option<u64>,
}

impl StateMachine for Sum {
    /// Rejects a command that is not a number. All nodes reject the same commands, so that their states stay equal.
    fn apply(&mut self, _context: &Context, command: &[u8]) -> Bytes {
        let number = std::str::from_utf8(command).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        self.sum = self.sum.wrapping_add(number);
        self.sum.to_string().into()
    }

    fn query(&self, _time: ClusterTime, _query: &[u8]) -> Bytes {
        self.sum.to_string().into()
    }

    fn digest(&self) -> u64 {
        self.sum
    }

    fn freeze(&mut self) {
        self.frozen_sum = Some(self.sum);
    }

    fn next_chunk(&mut self, _bytes: usize) -> Option<Bytes> {
        self.frozen_sum.take().map(|sum| Bytes::copy_from_slice(&sum.to_le_bytes()))
    }

    fn end_snapshot(&mut self) {
        self.frozen_sum = None;
    }

    fn empty(&self) -> Sum {
        Sum::default()
    }

    fn restore(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
        self.sum = u64::from_le_bytes(chunk.try_into().map_err(|_| Malformed("not a sum"))?);
        Ok(())
    }
}

/// A node of the cluster, which runs in a thread of its own.
struct Node {
    id: u64,
    handle: Handle,
    thread: JoinHandle<Result<(), ServerError>>,
}

impl Node {
    fn start(id: u64, port: u16, directory: &Path) -> Result<Node, Box<dyn Error>> {
        let node_id = |id: u64| NodeId::new(id).expect("the node id is not zero");
        let peers: BTreeMap<_, _> =
            (1..=3).map(|id| (node_id(id), format!("127.0.0.1:{}", port + id as u16 - 1))).collect();
        let mut config = Config::new(node_id(id), peers, directory.join(format!("n{id}")));
        // Small segments save disk space here. A server keeps the larger default, and a reserve for a full disk.
        (config.segment_bytes, config.reserve_bytes) = (SEGMENT_BYTES_MIN, 0);
        let server = Server::open(config, Sum::default())?;
        Ok(Node { id, handle: server.handle(), thread: spawn(move || server.run()) })
    }

    fn stop(self) -> Result<(), ServerError> {
        self.handle.stop();
        self.thread.join().expect("the node does not panic")
    }
}

/// Runs the cluster on `port` and the two ports after it; returns the final sum.
pub fn run(port: u16) -> Result<Bytes, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let mut nodes = (1..=3).map(|id| Node::start(id, port, directory.path())).collect::<Result<Vec<_>, _>>()?;

    // Any node accepts commands: a follower forwards them to the leader.
    let mut session = nodes[0].handle.session(CALL_TIMEOUT);
    for number in ["1", "2", "3"] {
        let executed = session.execute(number.as_bytes())?;
        println!("{}: added {number}, the sum is {:?}", executed.position, executed.answer);
    }
    drop(session);

    let leader = loop {
        match nodes.iter().position(|node| node.handle.leadership().leads) {
            Some(leader) => break nodes.remove(leader),
            None => sleep(Duration::from_millis(10)),
        }
    };
    println!("stopping the leader, n{}", leader.id);
    leader.stop()?;

    let executed = nodes[0].handle.session(CALL_TIMEOUT).execute(b"4")?;
    println!("{}: added 4, the sum is {:?}", executed.position, executed.answer);
    let queried = nodes[1].handle.query(b"", Consistency::Linearizable, CALL_TIMEOUT)?;
    println!("n{} reads the state at index {}: the sum is {:?}", nodes[1].id, queried.applied, queried.answer);
    for node in nodes {
        node.stop()?;
    }
    Ok(queried.answer)
}

fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().nth(1).map_or(Ok(7481), |port| port.parse())?;
    run(port).map(drop)
}
