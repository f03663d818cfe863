//! A state machine whose leases may expire at the same time at which they are granted. Its snapshots must be
//! restorable, after a restart and on a follower that receives one.

mod support;

use bytes::Bytes;
use drave::api::{Consistency, Reply, Request};
use drave::codec::Malformed;
use drave::config::Config;
use drave::machine::{Context, StateMachine};
use drave::server::Handle;
use drave::server::Server;
use drave::server::ServerError;
use drave::types::digest::hash;
use drave::types::{ClusterTime, NodeId};
use std::collections::BTreeMap;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;
use support::{reserve_ports, wait_until};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A state machine of leases. A command is a duration in milliseconds and a name; a query returns how many leases were
/// ever granted.
#[derive(Default)]
struct Leases {
    granted_count: u64,
    expiry_ms: BTreeMap<Vec<u8>, u64>,
    frozen_chunks: Option<Vec<Bytes>>,
}

impl StateMachine for Leases {
    fn apply(&mut self, context: &Context, command: &[u8]) -> Bytes {
        let Some((ms, name)) = command.split_first_chunk() else { return Bytes::from_static(b"?") };
        self.granted_count += 1;
        self.expiry_ms.insert(name.to_vec(), context.time.0 + u64::from_le_bytes(*ms));
        Bytes::new()
    }

    fn advance(&mut self, time: ClusterTime) {
        self.expiry_ms.retain(|_, end| *end > time.0);
    }

    fn next_deadline(&self) -> Option<ClusterTime> {
        self.expiry_ms.values().min().copied().map(ClusterTime)
    }

    fn query(&self, _time: ClusterTime, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.granted_count.to_le_bytes())
    }

    fn digest(&self) -> u64 {
        self.expiry_ms.iter().fold(self.granted_count, |digest, (name, end)| hash(digest ^ end, name))
    }

    fn freeze(&mut self) {
        let lease_chunks =
            self.expiry_ms.iter().map(|(name, end)| Bytes::from([&end.to_le_bytes()[..], name].concat()));
        self.frozen_chunks =
            Some(lease_chunks.chain([Bytes::copy_from_slice(&self.granted_count.to_le_bytes())]).collect());
    }

    fn next_chunk(&mut self, _bytes: usize) -> Option<Bytes> {
        self.frozen_chunks.as_mut()?.pop()
    }

    fn end_snapshot(&mut self) {
        self.frozen_chunks = None;
    }

    fn empty(&self) -> Leases {
        Leases::default()
    }

    fn restore(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
        let (number, name) = chunk.split_first_chunk().ok_or(Malformed("not a lease"))?;
        match name {
            [] => self.granted_count = u64::from_le_bytes(*number),
            name => _ = self.expiry_ms.insert(name.to_vec(), u64::from_le_bytes(*number)),
        }
        Ok(())
    }
}

/// A node of the test cluster, running in this process.
struct Node {
    handle: Handle,
    thread: JoinHandle<Result<(), ServerError>>,
}

fn start_node(id: u64, port: u16, node_count: u64, directory: &Path) -> Node {
    let id_and_address = |id: u64| (NodeId::new(id).unwrap(), format!("127.0.0.1:{}", port + id as u16 - 1));
    let (node, _) = id_and_address(id);
    let mut config = Config::new(node, (1..=node_count).map(id_and_address).collect(), directory.join(id.to_string()));
    (config.segment_bytes, config.reserve_bytes) = (4 << 20, 0);
    (config.node.trailing_bytes, config.node.log_hold_bytes) = (0, 0);
    let server = Server::open(config, Leases::default()).unwrap();
    Node { handle: server.handle(), thread: std::thread::spawn(move || server.run()) }
}

impl Node {
    /// Grants leases of zero duration, with a snapshot after each.
    fn grant_leases(&self, lease_count: usize) {
        let mut session = self.handle.session(CALL_TIMEOUT);
        for round in 0..lease_count {
            session.execute(&[&0_u64.to_le_bytes()[..], &[round as u8]].concat()).unwrap();
            self.take_snapshot();
        }
    }

    fn take_snapshot(&self) {
        let reply = self.handle.ask(Request::Snapshot, CALL_TIMEOUT);
        assert!(matches!(reply, Some(Reply::Snapshot { .. })), "{reply:?}");
    }

    fn granted_count(&self, consistency: Consistency) -> Option<u64> {
        let answer = self.handle.query(&[], consistency, CALL_TIMEOUT).ok()?.answer;
        Some(u64::from_le_bytes(answer[..].try_into().unwrap()))
    }

    fn stop(self) {
        self.handle.stop();
        self.thread.join().unwrap().unwrap();
    }
}

#[test]
fn snapshot_with_expired_lease_survives_restart() {
    let (directory, port) = (tempfile::tempdir().unwrap(), reserve_ports(1));
    for round in 1..=10 {
        let node = start_node(1, port, 1, directory.path());
        node.grant_leases(5);
        assert_eq!(node.granted_count(Consistency::Linearizable), Some(5 * round));
        node.stop();
    }
}

#[test]
fn snapshot_with_expired_lease_installs_on_follower() {
    let (directory, port) = (tempfile::tempdir().unwrap(), reserve_ports(3));
    let nodes = [1, 2].map(|id| start_node(id, port, 3, directory.path()));
    nodes[0].grant_leases(20);
    // Either node may be the leader. After this snapshot, both nodes release the log before it, so that the third node
    // needs a snapshot.
    nodes[1].take_snapshot();
    let third_node = start_node(3, port, 3, directory.path());
    let third_has_all = || (third_node.granted_count(Consistency::Local) == Some(20)).then_some(());
    wait_until("n3 has the state", third_has_all, || format!("{:?}", third_node.granted_count(Consistency::Local)));
    let snapshot_files = std::fs::read_dir(directory.path().join("3/snapshots")).unwrap();
    assert_eq!(snapshot_files.count(), 1, "n3 was sent a snapshot");
    for node in nodes.into_iter().chain([third_node]) {
        node.stop();
    }
}
