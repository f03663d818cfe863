//! How a leader sees another member.

use serde::{Deserialize, Serialize};

/// One member as its leader sees it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The member.
    pub node: u64,
    /// Where it is reached.
    pub address: String,
    /// `probe` or `stream`; `snapshot` while it is sent one.
    pub stage: String,
    /// The last index it is known to hold durably, in agreement with the leader.
    pub matched: u64,
    /// Entries between the leader's last and `matched`.
    pub lag: u64,
    /// Bytes sent and not yet acknowledged.
    pub inflight_bytes: u64,
    /// Milliseconds since it was last heard.
    pub heard_ms: Option<u64>,
    /// Appends sent to find where the logs agree, since this node leads.
    pub probes: u64,
    /// Of the snapshot that it is sent, how many bytes it has; 0 if it is sent none.
    #[serde(default)]
    pub snapshot_has: u64,
    /// How many bytes that snapshot has.
    #[serde(default)]
    pub snapshot_bytes: u64,
    /// It acknowledged everything up to this index and holds it no more; 0 if that is not known of it.
    #[serde(default)]
    pub lost_acknowledged: u64,
    /// How often that was seen since this node leads.
    #[serde(default)]
    pub losses: u64,
    /// Why it is not heard, or why its copy counts for nothing, in words; empty if that is not so, or not known.
    #[serde(default)]
    pub uncounted: String,
}

impl PeerStatus {
    /// How many entries it lacks, once it has told this leader how far it is: before that, `lag` is all there are.
    pub fn known_lag(&self) -> Option<u64> {
        (self.matched > 0 || self.stage != "probe").then_some(self.lag)
    }
}
