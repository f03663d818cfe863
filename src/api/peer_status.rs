//! The replication progress of each member, as the leader sees it.

use serde::{Deserialize, Serialize};

/// The replication progress of one member, as the leader sees it: a part of the leader's status.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The member's id.
    pub node: u64,
    /// The member's address, as `host:port`; empty if it is not known.
    pub address: String,
    /// `probe` while the leader searches for the last index that both logs hold, `stream` while it sends entries,
    /// `snapshot` while it sends a snapshot.
    pub stage: String,
    /// The last index that is known to match the leader's log and to be durable on the member.
    pub matched: u64,
    /// Number of entries between `matched` and the leader's last index.
    pub lag: u64,
    /// Bytes of entries sent and not yet acknowledged.
    pub inflight_bytes: u64,
    /// Milliseconds since the leader last received a message of the member.
    pub heard_ms: Option<u64>,
    /// Probes sent to the member since this node became leader.
    pub probes: u64,
    /// How many bytes of the snapshot that is being sent the member has stored; 0 if none is being sent.
    #[serde(default)]
    pub snapshot_has: u64,
    /// The size in bytes of the snapshot that is being sent; 0 if none is being sent.
    #[serde(default)]
    pub snapshot_bytes: u64,
    /// The member acknowledged everything up to this index and no longer holds it; 0 if no such loss of entries is
    /// known.
    #[serde(default)]
    pub lost_acknowledged: u64,
    /// How often the leader found that the member had lost acknowledged entries, since this node became leader.
    #[serde(default)]
    pub losses: u64,
    /// Why the leader rejects the member's messages, or why its copy of the log counts for no majority, in words; empty
    /// if neither is known to be the case.
    #[serde(default)]
    pub uncounted: String,
}

impl PeerStatus {
    /// How many entries the member lacks; `None` until it has reported its position. Until then, `lag` is the length
    /// of the whole log.
    pub fn known_lag(&self) -> Option<u64> {
        (self.matched > 0 || self.stage != "probe").then_some(self.lag)
    }
}
