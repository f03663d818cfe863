//! The versions of a cluster's programs, and what holds an upgrade back.

use serde::{Deserialize, Serialize};

/// The versions that a node's program supports, and the versions of the cluster as the node knows them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VersionStatus {
    /// The oldest version of the protocol that this node accepts from other nodes.
    pub protocol_min: u16,
    /// The newest version of the protocol that this node's program supports.
    pub protocol_max: u16,
    /// The feature level of the cluster, as far as this node knows it to be committed.
    pub feature_level: u16,
    /// The highest feature level that this node's program knows.
    pub feature_level_max: u16,
    /// The versions that the members have announced to this node; members that have not are left out.
    pub members: Vec<MemberVersions>,
    /// The next upgrade of the feature level. Only on a leader, and only if some member knows a later level.
    pub upgrade: Option<UpgradeStatus>,
}

/// The versions that a member has announced.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MemberVersions {
    /// The member's id.
    pub node: u64,
    /// The newest version of the protocol that the member's program supports.
    pub protocol_max: u16,
    /// The highest feature level that the member's program knows.
    pub feature_level_max: u16,
}

/// An upgrade of the feature level.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UpgradeStatus {
    /// The highest feature level that any member knows.
    pub level: u16,
    /// What keeps the leader from raising the level, a text for each member concerned; empty if nothing does.
    pub obstacles: Vec<String>,
}
