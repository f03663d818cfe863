//! The versions of the members' programs, and the feature level of the cluster.

use super::Raft;
use crate::consensus::role::Role;
use crate::types::{NodeId, Time, Versions};

impl Raft {
    /// Records the versions that a peer announced on a new connection.
    pub fn learn_versions(&mut self, peer: NodeId, versions: Versions) {
        self.me.record_versions(peer, versions);
    }

    /// Forgets the versions of a peer whose connection has ended: it may come back with another program.
    pub fn forget_versions(&mut self, peer: NodeId) {
        self.me.forget_versions(peer);
    }

    /// The versions that a member announced on its present connection; `None` if it has none.
    pub fn announced_versions(&self, id: NodeId) -> Option<Versions> {
        self.me.announced_versions(id)
    }

    /// The feature level of the latest committed configuration. Only entries, commands and snapshots of this level may be
    /// made: an uncommitted configuration may be replaced by one of a lower level.
    pub fn feature_level(&self) -> u16 {
        let committed = self.me.configs.configuration_at(self.me.log.commit());
        committed.map_or(1, |(_, membership)| membership.feature_level.max(1))
    }

    /// What keeps this leader from raising the feature level to `level`, a text for each member concerned; `None` if this
    /// node does not lead.
    pub fn feature_level_obstacles(&self, now: Time, level: u16) -> Option<Vec<String>> {
        match &self.role {
            Role::Leader(leader) => Some(leader.feature_level_obstacles(&self.me, now, level)),
            Role::Follower(_) | Role::Candidate(_) => None,
        }
    }
}
