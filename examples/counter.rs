//! A user-defined state machine: replicated named counters, each command applied exactly once.
//!
//! The machine knows nothing of sessions, logs or networks: on each node it receives the same commands in the same
//! order. Here one node is the whole cluster; with more `peers`, each node runs this program with its own id.

use bytes::Bytes;
use drave::{ClusterTime, Config, Consistency, Context, Digest, Handle, Malformed, NodeId, Server, StateMachine, hash};
use std::collections::BTreeMap;
use std::time::Duration;

/// Named counters. A command is the name of a counter and increments it. A query is a name as well and reads it.
#[derive(Default)]
struct Counters {
    counts: BTreeMap<Vec<u8>, u64>,
    digest: Digest,
    /// A copy of the counters at the time of the freeze, without those already returned as chunks. A copy is
    /// simple, but expensive with many counters: `machine::Kv` copies nothing at the freeze.
    frozen_counts: Option<BTreeMap<Vec<u8>, u64>>,
}

impl StateMachine for Counters {
    fn apply(&mut self, _context: &Context, command: &[u8]) -> Bytes {
        let count = self.counts.entry(command.to_vec()).or_default();
        self.digest -= if *count == 0 { 0 } else { hash(*count, command) };
        *count += 1;
        self.digest += hash(*count, command);
        count.to_string().into()
    }

    fn query(&self, _time: ClusterTime, query: &[u8]) -> Bytes {
        self.counts.get(query).copied().unwrap_or(0).to_string().into()
    }

    fn digest(&self) -> u64 {
        self.digest.finish(self.counts.len() as u64)
    }

    fn freeze(&mut self) {
        self.frozen_counts = Some(self.counts.clone());
    }

    fn next_chunk(&mut self, _bytes: usize) -> Option<Bytes> {
        let (name, count) = self.frozen_counts.as_mut()?.pop_first()?;
        Some([&count.to_le_bytes()[..], &name].concat().into())
    }

    fn end_snapshot(&mut self) {
        self.frozen_counts = None;
    }

    fn empty(&self) -> Counters {
        Counters::default()
    }

    fn restore(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
        let (count, name) = chunk.split_first_chunk().ok_or(Malformed("too short for a counter"))?;
        let count = u64::from_le_bytes(*count);
        self.digest += hash(count, name);
        self.counts.insert(name.to_vec(), count);
        Ok(())
    }
}

/// Increments the counter `visits` three times and reads it, through the node in this process.
fn count_visits(handle: &Handle) -> Result<(), drave::client::ClientError> {
    let call_timeout = Duration::from_secs(5);
    let mut session = handle.session(call_timeout);
    for _ in 0..3 {
        let executed = session.execute(b"visits")?;
        println!("{}: {:?} visits", executed.position, executed.answer);
    }
    let queried = handle.query(b"visits", Consistency::Linearizable, call_timeout)?;
    println!("state at index {}: {:?} visits", queried.applied, queried.answer);
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let id = NodeId::new(1).expect("the node id is not zero");
    let data_dir = std::env::args().nth(1).unwrap_or_else(|| "counter-data".into());
    let config = Config::new(id, BTreeMap::from([(id, "127.0.0.1:7471".to_owned())]), data_dir);
    let server = Server::open(config, Counters::default())?;
    let handle = server.handle();
    let visitor_thread = std::thread::spawn(move || {
        let result = count_visits(&handle);
        handle.stop();
        result
    });
    server.run()?;
    visitor_thread.join().expect("the thread that counts visits does not panic")?;
    Ok(())
}
