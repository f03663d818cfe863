//! The configuration of a node, and its cross-module checks.
//!
//! Each module has its options, with defaults and reasons, beside the code that uses them. This module checks only the
//! rules that no other module can check alone.

use crate::gateway::password::Password;
use crate::limits::ENTRY_BYTES_MAX;
use crate::net::credentials::CredentialFiles;
use crate::types::address::check_address;
use crate::types::digest::hash;
use crate::types::{ClusterId, DiskId, Membership, NodeId, Versions};
use crate::wal::TailPolicy;
use crate::{consensus, net, node};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The smallest allowed journal segment, in bytes: the entries of one AppendEntries message always fit.
pub const SEGMENT_BYTES_MIN: u64 = 4 << 20;
/// The largest allowed journal segment, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 2 << 30;

/// The default size of the reserve, in bytes: disk space that is freed when the disk is full.
pub const RESERVE_BYTES_DEFAULT: u64 = 64 << 20;

/// The configuration of a node at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's id. A data directory with another id is rejected.
    pub id: NodeId,
    /// The founding members and their addresses. A node with a journal uses the membership in its journal; then these
    /// are only addresses to dial first.
    pub peers: BTreeMap<NodeId, String>,
    /// The cluster to join, if the directory is empty. `None` if this node is one of the founders.
    pub join: Option<JoinTarget>,
    /// The cluster's name, needed if two clusters could have the same founding members. A directory of another cluster
    /// is rejected; without a name, the directory's cluster is accepted.
    pub cluster: Option<String>,
    /// The data directory: log, snapshots and identity. It is created if it does not exist.
    pub data: PathBuf,
    /// The listen address, if it differs from the node's own entry in `peers`.
    pub listen: Option<String>,
    /// Whether writes are synced before they are acknowledged. If not, a power loss may lose acknowledged writes.
    pub fsync: bool,
    /// The size of a journal segment, in bytes, from [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`].
    pub segment_bytes: u64,
    /// How a start handles a damaged last batch of the log.
    pub torn_tail: TailPolicy,
    /// Whether a start repairs a damaged log: it sets the damaged part aside, and gets the lost entries from the other
    /// members. If not, a node with a damaged log does not start.
    pub repair: bool,
    /// The size of the reserve for a full disk, in bytes: at least a segment's size is used. Zero for no reserve.
    pub reserve_bytes: u64,
    /// Whether SIGTERM and SIGINT stop the node, and SIGHUP makes it read its credentials again. An embedding program
    /// may handle these signals itself.
    pub signals: bool,
    /// The versions that the node supports and announces to its peers: those of the program, except in tests.
    pub versions: Versions,
    /// The options of the Raft core: election timeouts, the heartbeat interval, and the limits of an append.
    pub consensus: consensus::Options,
    /// The options of the node: limits of requests in progress, and when snapshots are taken.
    pub node: node::Options,
    /// The options of the sockets: limits of connections and of their memory, timeouts, and TLS keys.
    pub net: net::Options,
    /// The listen address for Redis clients; off by default.
    pub resp: BindAddress,
    /// The options of the Redis gateway. Its address is `resp` and its password is `password`.
    pub redis: crate::gateway::redis::gateway::Options,
    /// The listen address for HTTP clients; off by default.
    pub http: BindAddress,
    /// The password that Redis and HTTP clients must send first; `None` if they need none.
    pub password: Option<Password>,
    /// The files from which keys and password are read again at SIGHUP, if `signals` is set.
    pub credentials: CredentialFiles,
    /// The options of the event loop: how long it busy-polls, and how long a stop may take.
    pub reactor: crate::driver::reactor::Options,
    /// How long the log thread polls for more work before it sleeps, at most. Zero disables polling.
    pub log_busy_poll: Duration,
}

/// An existing cluster that a new node joins, as one of its members reported it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinTarget {
    /// The id of the existing cluster.
    pub cluster: ClusterId,
    /// The id of this node's disk, drawn before the node joins, so that its peers can already know it.
    pub disk: DiskId,
}

/// Where a gateway listens, if it does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BindAddress {
    /// The gateway is off.
    Off,
    /// The gateway listens at this `host:port`. If the address cannot be used, the node does not start.
    At(String),
    /// The gateway listens on the loopback interface, at the native port plus a fixed offset. If that port is taken,
    /// the node logs a warning and starts without the gateway: the operator did not request that port.
    Loopback,
}

/// The error for a configuration that breaks a rule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct ConfigError {
    /// The invalid setting, with its value and the values that would be valid.
    pub reason: String,
}

impl Config {
    /// The default configuration of a founder with id `id`: no gateways, no TLS, and each module's default options.
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
            repair: true,
            reserve_bytes: RESERVE_BYTES_DEFAULT,
            signals: false,
            versions: Versions::CURRENT,
            consensus: consensus::Options::default(),
            node: node::Options::default(),
            net: net::Options::default(),
            resp: BindAddress::Off,
            redis: crate::gateway::redis::gateway::Options::default(),
            http: BindAddress::Off,
            password: None,
            credentials: CredentialFiles::default(),
            log_busy_poll: reactor.busy_poll,
            reactor,
        }
    }

    /// The options of the sockets, for a node with that kind of state machine.
    pub fn net_options(&self, machine_kind: &'static str) -> net::Options {
        net::Options { machine_kind, versions: self.versions, ..self.net.clone() }
    }

    /// The size of the reserve that the node creates, in bytes; 0 for none. It is at least a segment's size, because a
    /// reserve that a segment does not fit is of no use to the log.
    pub fn effective_reserve_bytes(&self) -> u64 {
        if self.reserve_bytes == 0 { 0 } else { self.reserve_bytes.max(self.segment_bytes) }
    }

    /// The membership that the founders write at index 0. It is empty for a joining node, which learns the members from
    /// the cluster.
    pub fn founding_membership(&self) -> Membership {
        if self.join.is_some() {
            return Membership::default();
        }
        Membership::founding(self.peers.iter().map(|(id, address)| (*id, address.clone())))
    }

    /// The id of the cluster that the nodes in `peers` found: the same on each of them, and never zero.
    pub fn cluster_id(&self) -> ClusterId {
        Config::cluster_id_of(self.cluster.as_deref(), &self.founding_membership())
    }

    /// The id of the cluster that `founders` found under `name`, if it has a name. Never zero.
    pub fn cluster_id_of(name: Option<&str>, founders: &Membership) -> ClusterId {
        let mut hashed_text = name.unwrap_or_default().to_owned();
        for (id, member) in &founders.members {
            hashed_text.push_str(&format!("\n{} {}", id.get(), member.address));
        }
        ClusterId(hash(0, hashed_text.as_bytes()).max(1))
    }

    /// Checks the addresses of the peers, the election timeout and the heartbeat, and the sizes of segments, reserve
    /// and entries.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_members()?;
        self.check_timeouts()?;
        let valid_segment_bytes = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        if !valid_segment_bytes.contains(&self.segment_bytes) {
            return invalid(format!("the segment size must be 4 MiB to 2 GiB, not {} bytes", self.segment_bytes));
        }
        if (1..SEGMENT_BYTES_MIN).contains(&self.reserve_bytes) {
            return invalid(format!(
                "the reserve must be 0 (none) or at least 4 MiB, the smallest segment; not {} bytes",
                self.reserve_bytes
            ));
        }
        if !(1024..=ENTRY_BYTES_MAX).contains(&self.node.op_bytes_max) {
            return invalid(format!(
                "the entry size limit must be 1 KiB to 1 MiB, not {} bytes",
                self.node.op_bytes_max
            ));
        }
        Ok(())
    }

    /// Checks that this node is one of the founders, unless it joins a cluster. Only for an empty data directory: one
    /// in use records the members, and the configured peers are then only addresses to dial first.
    pub fn check_founding(&self) -> Result<(), ConfigError> {
        if self.join.is_none() && !self.peers.contains_key(&self.id) {
            return invalid(format!("node {} is not in the list of peers", self.id.get()));
        }
        Ok(())
    }

    fn check_members(&self) -> Result<(), ConfigError> {
        let mut addresses: Vec<_> = self.peers.values().collect();
        addresses.sort_unstable();
        if let Some(pair) = addresses.windows(2).find(|pair| pair[0] == pair[1]) {
            return invalid(format!("two peers have the address {}", pair[0]));
        }
        for (id, address) in &self.peers {
            if let Err(error) = check_address(address) {
                return invalid(format!("the address of node {} is {address:?}: {error}", id.get()));
            }
        }
        if self.peers.len() > crate::limits::MEMBERS_MAX {
            return invalid(format!("{} peers; at most {} are possible", self.peers.len(), crate::limits::MEMBERS_MAX));
        }
        Ok(())
    }

    fn check_timeouts(&self) -> Result<(), ConfigError> {
        let consensus = &self.consensus;
        if consensus.election_min > consensus.election_max {
            return invalid("the election timeout's lower bound is above its upper one".into());
        }
        if consensus.heartbeat.is_zero() || consensus.heartbeat * 2 > consensus.election_min {
            return invalid(format!(
                "a heartbeat every {:?} is too rare for an election timeout of {:?}: it must be at most half of that",
                consensus.heartbeat, consensus.election_min
            ));
        }
        Ok(())
    }
}

fn invalid<T>(reason: String) -> Result<T, ConfigError> {
    Err(ConfigError { reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn three_node_config() -> Config {
        let peers = (1..=3).map(|n| (id(n), format!("127.0.0.1:{}", 7400 + n))).collect();
        Config::new(id(1), peers, "data")
    }

    #[test]
    fn founders_compute_the_same_cluster_id() {
        let founder = three_node_config();
        assert_eq!(founder.cluster_id(), Config { id: id(2), ..three_node_config() }.cluster_id());
        assert_ne!(founder.cluster_id(), Config { cluster: Some("other".into()), ..three_node_config() }.cluster_id());
        assert_eq!(founder.check(), Ok(()));
    }

    #[test]
    fn invalid_configuration_is_rejected_with_the_reason() {
        let rejection_reason = |config: Config| config.check().unwrap_err().reason;
        let non_founder_check = Config { id: id(9), ..three_node_config() }.check_founding();
        assert!(non_founder_check.unwrap_err().reason.contains("not in the list"));
        assert_eq!(three_node_config().check_founding(), Ok(()));
        assert!(rejection_reason(Config { segment_bytes: 7, ..three_node_config() }).contains("segment"));
        assert!(rejection_reason(Config { reserve_bytes: 1024, ..three_node_config() }).contains("reserve"));
        assert_eq!(Config { reserve_bytes: 0, ..three_node_config() }.check(), Ok(()));
        let mut slow_heartbeat_config = three_node_config();
        slow_heartbeat_config.consensus.heartbeat = Duration::from_millis(100);
        assert!(rejection_reason(slow_heartbeat_config).contains("heartbeat"));
        let mut duplicate_address_config = three_node_config();
        duplicate_address_config.peers.insert(id(2), "127.0.0.1:7401".into());
        assert!(rejection_reason(duplicate_address_config).contains("two peers"));
        let mut bad_address_config = three_node_config();
        bad_address_config.peers.insert(id(2), "nowhere".into());
        assert!(rejection_reason(bad_address_config).contains("HOST:PORT"));
    }
}
