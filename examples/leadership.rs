//! Work that only the leader does: a job that runs on one node of the cluster at a time, and moves when that node
//! stops.
//!
//! A thread beside each node waits for its leadership and works while it lasts. A node may believe for a moment that
//! it still leads, so each result goes through the log with the term in which it was produced, and the state machine
//! rejects it if the log has moved on to a later term: two leaders never both record a result.
//!
//!     cargo run --example leadership [PORT]
//!
//! The nodes listen on PORT (7487 by default) and the two ports after it.

use bytes::Bytes;
use drave::{ClusterTime, Config, Context, Handle, Malformed, NodeId, SEGMENT_BYTES_MIN, Server, StateMachine};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// The time limit of each call, and of each wait for a change of leadership.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The number of results that a leader produces before this example stops it.
const RESULTS_PER_LEADER: usize = 3;

/// Counts results. A command is the term of the leader that produced the result.
#[derive(Default)]
struct Results {
    count: u64,
    /// The count at the time of the freeze, until it is returned as a chunk.
    frozen_count: Option<u64>,
}

impl StateMachine for Results {
    /// Counts a result that the leader of `context.term`, the term of the log entry, produced. A result of an earlier
    /// term is not counted, and the answer is empty.
    fn apply(&mut self, context: &Context, command: &[u8]) -> Bytes {
        if command != context.term.0.to_le_bytes() {
            return Bytes::new();
        }
        self.count += 1;
        self.count.to_string().into()
    }

    fn query(&self, _time: ClusterTime, _query: &[u8]) -> Bytes {
        self.count.to_string().into()
    }

    fn digest(&self) -> u64 {
        self.count
    }

    fn freeze(&mut self) {
        self.frozen_count = Some(self.count);
    }

    fn next_chunk(&mut self, _bytes: usize) -> Option<Bytes> {
        self.frozen_count.take().map(|count| Bytes::copy_from_slice(&count.to_le_bytes()))
    }

    fn end_snapshot(&mut self) {
        self.frozen_count = None;
    }

    fn empty(&self) -> Results {
        Results::default()
    }

    fn restore(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
        self.count = u64::from_le_bytes(chunk.try_into().map_err(|_| Malformed("not a count"))?);
        Ok(())
    }
}

/// Runs the job whenever this node leads; sends the node's id for each recorded result. Returns when a call fails.
fn run_job(id: u64, handle: &Handle, leader_ids: &Sender<u64>) {
    let mut leadership = handle.leadership();
    let mut session = handle.session(CALL_TIMEOUT);
    loop {
        while !leadership.leads {
            leadership = handle.wait_for_leadership(&leadership, CALL_TIMEOUT);
        }
        // The job itself would run here. The call fails if the node stops or reaches no majority.
        let Ok(executed) = session.execute(&leadership.term.0.to_le_bytes()) else { return };
        if executed.answer.is_empty() {
            println!("n{id}: the result was rejected, because term {} is over", leadership.term);
        } else {
            println!("n{id} leads term {} and recorded result {:?}", leadership.term, executed.answer);
            let _receiver_may_be_gone = leader_ids.send(id);
        }
        // The next result is due after 100 ms, unless the leadership ends before.
        leadership = handle.wait_for_leadership(&leadership, Duration::from_millis(100));
    }
}

/// Runs the cluster on `port` and the two ports after it; returns the two nodes that led in turn.
pub fn run(port: u16) -> Result<[u64; 2], Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let peers: BTreeMap<_, _> =
        (0..3).filter_map(|n| Some((NodeId::new(n + 1)?, format!("127.0.0.1:{}", port + n as u16)))).collect();
    let (sender, leader_ids) = channel();
    let mut nodes = BTreeMap::new();
    for id in peers.keys() {
        let mut config = Config::new(*id, peers.clone(), directory.path().join(id.to_string()));
        (config.segment_bytes, config.reserve_bytes) = (SEGMENT_BYTES_MIN, 0);
        let server = Server::open(config, Results::default())?;
        let (handle, job_handle, sender, id) = (server.handle(), server.handle(), sender.clone(), id.get());
        std::thread::spawn(move || run_job(id, &job_handle, &sender));
        nodes.insert(id, (handle, std::thread::spawn(move || server.run())));
    }
    let mut leaders = [0; 2];
    for leader in &mut leaders {
        // Ignores results of the node stopped before, which may still be in the channel.
        *leader = leader_ids
            .iter()
            .filter(|id| nodes.contains_key(id))
            .nth(RESULTS_PER_LEADER - 1)
            .ok_or("no result was recorded")?;
        let (handle, thread) = nodes.remove(leader).ok_or("the leader was stopped already")?;
        println!("stopping n{leader}");
        handle.stop();
        thread.join().expect("the node does not panic")?;
    }
    for (handle, thread) in nodes.into_values() {
        handle.stop();
        thread.join().expect("the node does not panic")?;
    }
    Ok(leaders)
}

fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().nth(1).map_or(Ok(7487), |port| port.parse())?;
    run(port).map(drop)
}
