//! The configuration of a node, and its cross-module checks.
//!
//! Each module has its options, with defaults and reasons, beside the code that uses them. This module checks only the
//! rules that no other module can check alone.

use crate::gateway::password::Password;
use crate::limits::ENTRY_BYTES_MAX;
use crate::net::credentials::CredentialFiles;
use crate::types::address::check_address;
use crate::types::digest::hash;
use crate::types::{ClusterId, DiskId, Membership, NodeId};
use crate::wal::TailPolicy;
use crate::{consensus, net, node};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The smallest segment, in bytes: one append always fits.
pub const SEGMENT_BYTES_MIN: u64 = 4 << 20;
/// The largest segment, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 2 << 30;

/// The default size of the reserve, in bytes.
pub const RESERVE_BYTES: u64 = 64 << 20;

/// The configuration of a node at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's id.
    pub id: NodeId,
    /// The founding members and their addresses. A node with a journal uses the membership in its journal; then these
    /// are only addresses to dial first.
    pub peers: BTreeMap<NodeId, String>,
    /// The cluster to join, if the directory is empty: one that was founded without this node.
    pub join: Option<Joined>,
    /// The cluster's name, needed if two clusters could have the same founding members. A directory of another cluster
    /// is rejected; without a name, the directory's cluster is accepted.
    pub cluster: Option<String>,
    /// The data directory.
    pub data: PathBuf,
    /// The listen address, if it differs from the node's own entry in `peers`.
    pub listen: Option<String>,
    /// Whether writes are synced before they are acknowledged. Without it a power loss may lose any of them.
    pub fsync: bool,
    /// The size of a journal segment, in bytes.
    pub segment_bytes: u64,
    /// How a start handles a damaged last batch of the log.
    pub torn_tail: TailPolicy,
    /// The size of the reserve for a full disk, in bytes: at least a segment's size is used. Zero for no reserve.
    pub reserve_bytes: u64,
    /// Whether SIGTERM and SIGINT stop the node, and SIGHUP makes it read its credentials again. An embedding program
    /// may handle these signals itself.
    pub signals: bool,
    /// The options of consensus.
    pub consensus: consensus::Options,
    /// The options of the node.
    pub node: node::Options,
    /// The options of the sockets.
    pub net: net::Options,
    /// The listen address for Redis clients.
    pub resp: BindAddress,
    /// The options of the Redis gateway; its address and password are set beside it.
    pub redis: crate::gateway::redis::gateway::Options,
    /// The listen address for HTTP clients.
    pub http: BindAddress,
    /// The password that gateway clients must send first; none is required if unset.
    pub password: Option<Password>,
    /// The files from which keys and password are read again at SIGHUP, if `signals` is set.
    pub credentials: CredentialFiles,
    /// The options of the event loop.
    pub reactor: crate::driver::reactor::Options,
    /// How long the log thread polls for more work before it sleeps, at most.
    pub log_busy_poll: Duration,
}

/// A cluster that a new node joins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joined {
    /// The cluster's id.
    pub cluster: ClusterId,
    /// This node's disk id: the cluster may already know it.
    pub disk: DiskId,
}

/// The listen address of a gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BindAddress {
    /// The gateway is off.
    Off,
    /// This `host:port`.
    At(String),
    /// On the loopback interface, at a port that follows from the native one. If that port is taken, the node starts
    /// without the gateway and logs it: the operator did not request that port.
    Loopback,
}

/// An invalid configuration.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what}")]
pub struct ConfigError {
    /// What is wrong, and what would be right.
    pub what: String,
}

impl Config {
    /// The default configuration of a node.
    pub fn new(id: NodeId, peers: BTreeMap<NodeId, String>, data: impl Into<PathBuf>) -> Config {
        let reactor = crate::driver::reactor::Options::default();
        Config {
            id,
            peers,
            join: None,
            cluster: None,
            data: data.into(),
            listen: None,
            fsync: true,
            segment_bytes: crate::wal::Options::SEGMENT_BYTES,
            torn_tail: TailPolicy::default(),
            reserve_bytes: RESERVE_BYTES,
            signals: false,
            consensus: consensus::Options::default(),
            node: node::Options::default(),
            net: net::Options::default(),
            resp: BindAddress::Off,
            redis: crate::gateway::redis::gateway::Options::default(),
            http: BindAddress::Off,
            password: None,
            credentials: CredentialFiles::default(),
            log_busy_poll: reactor.look,
            reactor,
        }
    }

    /// The size of the reserve in bytes: it is useless if a segment does not fit.
    pub fn reserve(&self) -> u64 {
        if self.reserve_bytes == 0 { 0 } else { self.reserve_bytes.max(self.segment_bytes) }
    }

    /// The membership that the founders write at index 0. It is empty for a joining node, which learns the members from
    /// the cluster.
    pub fn founding(&self) -> Membership {
        if self.join.is_some() {
            return Membership::default();
        }
        Membership::founding(self.peers.iter().map(|(id, address)| (*id, address.clone())))
    }

    /// The id of the cluster that these founders make: the same on each of them, and never zero.
    pub fn cluster_id(&self) -> ClusterId {
        Config::cluster_of(self.cluster.as_deref(), &self.founding())
    }

    /// The id of the cluster with this name, if any, and these founders.
    pub fn cluster_of(name: Option<&str>, founders: &Membership) -> ClusterId {
        let mut words = name.unwrap_or_default().to_owned();
        for (id, member) in &founders.members {
            words.push_str(&format!("\n{} {}", id.get(), member.address));
        }
        ClusterId(hash(0, words.as_bytes()).max(1))
    }

    /// Checks the rules that no other module can check alone.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_members()?;
        self.check_times()?;
        let sizes = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        if !sizes.contains(&self.segment_bytes) {
            return wrong(format!("the segment size must be 4 MiB to 2 GiB, not {} bytes", self.segment_bytes));
        }
        if (1..SEGMENT_BYTES_MIN).contains(&self.reserve_bytes) {
            return wrong(format!(
                "the reserve must be 0 (none) or at least 4 MiB, the smallest segment; not {} bytes",
                self.reserve_bytes
            ));
        }
        if !(1024..=ENTRY_BYTES_MAX).contains(&self.node.entry_bytes) {
            return wrong(format!("the entry size limit must be 1 KiB to 1 MiB, not {} bytes", self.node.entry_bytes));
        }
        Ok(())
    }

    /// Checks that this node is one of the founders, unless it joins a cluster. A directory in use has its own members:
    /// for it the peers are only addresses to dial first.
    pub fn check_founding(&self) -> Result<(), ConfigError> {
        if self.join.is_none() && !self.peers.contains_key(&self.id) {
            return wrong(format!("node {} is not in the list of peers", self.id.get()));
        }
        Ok(())
    }

    fn check_members(&self) -> Result<(), ConfigError> {
        let mut addresses: Vec<_> = self.peers.values().collect();
        addresses.sort_unstable();
        if let Some(twice) = addresses.windows(2).find(|two| two[0] == two[1]) {
            return wrong(format!("two peers have the address {}", twice[0]));
        }
        for (id, address) in &self.peers {
            if let Err(error) = check_address(address) {
                return wrong(format!("the address of node {} is {address:?}: {error}", id.get()));
            }
        }
        if self.peers.len() > crate::limits::MEMBERS_MAX {
            return wrong(format!("{} peers; at most {} are possible", self.peers.len(), crate::limits::MEMBERS_MAX));
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        let raft = &self.consensus;
        if raft.election_min > raft.election_max {
            return wrong("the election timeout's lower bound is above its upper one".into());
        }
        if raft.heartbeat.is_zero() || raft.heartbeat * 2 > raft.election_min {
            return wrong(format!(
                "a heartbeat every {:?} is too rare for an election timeout of {:?}: it must be at most half of that",
                raft.heartbeat, raft.election_min
            ));
        }
        Ok(())
    }
}

fn wrong<T>(what: String) -> Result<T, ConfigError> {
    Err(ConfigError { what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn three() -> Config {
        let peers = (1..=3).map(|n| (id(n), format!("127.0.0.1:{}", 7400 + n))).collect();
        Config::new(id(1), peers, "data")
    }

    #[test]
    fn founders_compute_the_same_cluster_id() {
        let one = three();
        assert_eq!(one.cluster_id(), Config { id: id(2), ..three() }.cluster_id());
        assert_ne!(one.cluster_id(), Config { cluster: Some("other".into()), ..three() }.cluster_id());
        assert_eq!(one.check(), Ok(()));
    }

    #[test]
    fn invalid_configuration_is_rejected_with_the_reason() {
        let says = |config: Config| config.check().unwrap_err().what;
        let founding = Config { id: id(9), ..three() }.check_founding();
        assert!(founding.unwrap_err().what.contains("not in the list"));
        assert_eq!(three().check_founding(), Ok(()));
        assert!(says(Config { segment_bytes: 7, ..three() }).contains("segment"));
        assert!(says(Config { reserve_bytes: 1024, ..three() }).contains("reserve"));
        assert_eq!(Config { reserve_bytes: 0, ..three() }.check(), Ok(()));
        let mut slow = three();
        slow.consensus.heartbeat = Duration::from_millis(100);
        assert!(says(slow).contains("heartbeat"));
        let mut same = three();
        same.peers.insert(id(2), "127.0.0.1:7401".into());
        assert!(says(same).contains("two peers"));
        let mut odd = three();
        odd.peers.insert(id(2), "nowhere".into());
        assert!(says(odd).contains("HOST:PORT"));
    }
}
