//! A leader's view of another member.

use serde::{Deserialize, Serialize};

/// A leader's view of one member.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The member's id.
    pub node: u64,
    /// Its address.
    pub address: String,
    /// `probe` or `stream`; `snapshot` while a snapshot is sent to it.
    pub stage: String,
    /// The last index known to match the leader's log and to be durable on it.
    pub matched: u64,
    /// Number of entries between `matched` and the leader's last index.
    pub lag: u64,
    /// Bytes sent and not yet acknowledged.
    pub inflight_bytes: u64,
    /// Milliseconds since its last message.
    pub heard_ms: Option<u64>,
    /// Probes sent to it since this node became leader.
    pub probes: u64,
    /// How many bytes of the snapshot sent to it the member has; 0 if none is sent.
    #[serde(default)]
    pub snapshot_has: u64,
    /// The size of that snapshot in bytes.
    #[serde(default)]
    pub snapshot_bytes: u64,
    /// It acknowledged everything up to this index and no longer holds it; 0 if no such loss is known.
    #[serde(default)]
    pub lost_acknowledged: u64,
    /// How often a loss was detected since this node became leader.
    #[serde(default)]
    pub losses: u64,
    /// Why its messages are rejected, or why its copy does not count, in words; empty if that is not so, or not known.
    #[serde(default)]
    pub uncounted: String,
}

impl PeerStatus {
    /// How many entries it lacks, once it has reported its position: before that, `lag` is the length of the whole log.
    pub fn known_lag(&self) -> Option<u64> {
        (self.matched > 0 || self.stage != "probe").then_some(self.lag)
    }
}
