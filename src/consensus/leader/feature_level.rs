//! The feature level: when a leader may raise it.
//!
//! An operator asks for a higher level ([`Change::RaiseFeatureLevel`](crate::types::Change)) once every node runs the
//! newer program. Until then every node can go back to the older program; after it, none can. So the level is never
//! raised by itself.
//!
//! The level is raised by one configuration entry, alone in its change. A node whose program does not know the level does
//! not write that entry, and stops. If one member's program did not know the level, the cluster would lose that member,
//! and with a majority of such members it could commit nothing. So every member, voter or learner, has to announce the
//! level on its present connection.

use super::Leader;
use crate::api::Refusal;
use crate::consensus::replica::Replica;
use crate::consensus::rules::membership;
use crate::types::{Membership, Time};

impl Leader {
    /// What keeps this leader from raising the feature level to `level`: a text for each member concerned. Empty if
    /// every member has responded in this term and announces the level.
    pub fn feature_level_obstacles(&self, me: &Replica, now: Time, level: u16) -> Vec<String> {
        let obstacle_of = |id| match me.announced_versions(id) {
            _ if !self.has_responded(me, now, id) => Some(format!("{id} does not answer")),
            None => Some(format!("{id} has not announced its versions yet")),
            Some(versions) if versions.feature_level_max < level => {
                Some(format!("{id} runs a program that knows up to level {}", versions.feature_level_max))
            }
            Some(_) => None,
        };
        me.configs.current().ids().filter_map(obstacle_of).collect()
    }

    /// Rejects a configuration that raises the feature level, forced or not, if any member does not announce the level.
    pub(super) fn check_feature_level(&self, me: &Replica, now: Time, next: &Membership) -> Result<(), Refusal> {
        let level = next.feature_level;
        if level <= me.configs.current().feature_level {
            return Ok(());
        }
        let obstacles = self.feature_level_obstacles(me, now, level);
        if membership::may_raise_feature_level(obstacles.is_empty(), me.options.mutants) {
            return Ok(());
        }
        let why = format!("the feature level cannot be raised to {level} yet: {}", obstacles.join("; "));
        Err(Refusal::InvalidChange { why })
    }
}
