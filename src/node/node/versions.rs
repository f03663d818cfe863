//! The versions of the members' programs, in the node's status; and the check that a command's feature level is enabled.

use super::Node;
use crate::api::{MemberVersions, Op, Refusal, UpgradeStatus, VersionStatus};
use crate::types::Time;
use crate::types::versions::PEER_PROTOCOL_MIN;

impl Node {
    /// Refuses a command of a later feature level than the cluster's: before it is in the log, every member's program has
    /// to know it. This node leads.
    pub(super) fn check_enabled(&self, op: &[u8]) -> Result<(), Refusal> {
        let needed = match Op::read(op) {
            Ok(Op::Execute { command, .. }) => (self.options.needed_level)(command),
            _ => 1,
        };
        match (needed > self.raft.feature_level(), self.membership().feature_level) {
            (false, _) => Ok(()),
            (true, level) if needed > level => Err(Refusal::NotEnabled { needed, level }),
            // The level may be committed in a moment, or is, and this new leader does not know it yet.
            (true, _) => Err(Refusal::Busy),
        }
    }

    /// The versions of this node's program and of the cluster, and on a leader what holds an upgrade back.
    pub(super) fn version_status(&self, now: Time) -> VersionStatus {
        let own = self.raft.options().versions;
        let member_versions = |id| {
            let versions = self.raft.announced_versions(id)?;
            let (protocol_max, feature_level_max) = (versions.protocol_max, versions.feature_level_max);
            Some(MemberVersions { node: id.get(), protocol_max, feature_level_max })
        };
        let members: Vec<MemberVersions> = self.membership().ids().filter_map(member_versions).collect();
        let feature_level = self.raft.feature_level();
        let level = members.iter().map(|member| member.feature_level_max).max().unwrap_or_default();
        let obstacles = self.raft.feature_level_obstacles(now, level).filter(|_| level > feature_level);
        VersionStatus {
            protocol_min: PEER_PROTOCOL_MIN,
            protocol_max: own.protocol_max,
            feature_level,
            feature_level_max: own.feature_level_max,
            members,
            upgrade: obstacles.map(|obstacles| UpgradeStatus { level, obstacles }),
        }
    }
}
