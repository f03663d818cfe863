//! Upgrades of the simulated cluster: machines restart with the present or the next version of the program, in both
//! directions, and at some moment the feature level is raised. Only in a build with the feature `next-version`.
//!
//! After the level is raised, a machine that starts with the present version on a log of the new level must refuse to
//! start and change nothing, and a node that was away must stop at the configuration that raises the level. The machine
//! then starts with the next version, as an operator would do.

use super::checks;
use super::disk::{Crash, SimDisk};
use super::event::SimEvent;
use super::host::Host;
use super::network::LinkKind;
use super::world::World;
use crate::api::Request;
use crate::disk::Disk;
use crate::node::{Caller, Event};
use crate::types::{Change, Membership, NodeId, Payload, Versions, Write};
use crate::wal::Fault;
use rand::RngExt;
use std::collections::BTreeMap;
use std::time::Duration;

/// The number under which nodes know the caller that raises the feature level. Nothing waits for its replies.
pub(super) const UPGRADE_CLIENT: u64 = u64::MAX >> 32;

/// The contents of all files of a machine's directory, by directory and name.
pub(super) type DirectoryImage = BTreeMap<(usize, String), Vec<u8>>;

impl World {
    /// Restarts a random machine with another version, or asks the leader to raise the feature level; schedules the next
    /// turn.
    pub(super) fn run_upgrade_turn(&mut self) -> checks::Result<()> {
        let interval = Duration::from_millis(self.rng.random_range(100..800));
        self.schedule_after(interval, SimEvent::UpgradeTurn);
        if self.rng.random_range(0..3) == 0 {
            return self.request_next_level();
        }
        // After the faults only the upgrade goes on, so that the cluster reaches one version and comes to rest.
        let may_restart = |host: &&Host| host.process.is_some() && !(self.faults_over && host.is_upgraded());
        let ids: Vec<NodeId> = self.hosts.values().filter(may_restart).map(|host| host.id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let at = ids[self.rng.random_range(0..ids.len())];
        self.trace_line(|| format!("{at} is restarted with another version"));
        self.crash(at, Crash::Kill);
        let delay = Duration::from_millis(self.rng.random_range(1..300));
        self.schedule_after(delay, SimEvent::ProcessStart { at });
        Ok(())
    }

    /// Asks the leader to raise the feature level. It refuses unless every member announces the level.
    fn request_next_level(&mut self) -> checks::Result<()> {
        let leader =
            self.hosts.values().find(|host| host.process.as_ref().is_some_and(|process| process.node.raft().leads()));
        let Some(at) = leader.map(|host| host.id) else { return Ok(()) };
        self.upgrade_requests += 1;
        let change = Change::RaiseFeatureLevel(Versions::COMPILED.feature_level_max);
        let request = Request::Change { change, force: false };
        let from = Caller::Client(UPGRADE_CLIENT);
        let level_before = self.proposed_level(at);
        let unannounced = self.member_without_next_level(at);
        self.deliver_event(at, Event::Request { from, id: self.upgrade_requests, forward: false, request })?;
        match unannounced {
            Some(id) if self.proposed_level(at) > level_before => {
                Err(format!("{at} raises the feature level, although {id} does not announce it"))
            }
            _ => Ok(()),
        }
    }

    /// The feature level of the latest configuration in a node's log, committed or not.
    fn proposed_level(&self, at: NodeId) -> u16 {
        self.hosts[&at].process.as_ref().map_or(0, |process| process.node.membership().feature_level)
    }

    /// A member of a node's cluster that has no connection to the node on which it announced the next level.
    fn member_without_next_level(&self, at: NodeId) -> Option<NodeId> {
        let process = self.hosts[&at].process.as_ref()?;
        let announces = |id: &NodeId| {
            let level = process.inbound_connections.get(id).map(|inbound| inbound.feature_level_max);
            *id == at || level.is_some_and(|level| level >= Versions::COMPILED.feature_level_max)
        };
        process.node.membership().ids().find(|id| !announces(id))
    }

    /// Whether machines run two versions.
    pub(super) fn mixes_versions(&self) -> bool {
        self.scenario.mixes_versions && self.network.link_kind() == LinkKind::Stream
    }

    /// Whether all running machines have the next version and, if every member runs, its feature level is raised.
    pub(super) fn upgrade_is_finished(&self) -> bool {
        let membership = self.checks.configurations.latest_committed();
        let all_members_run = membership.ids().all(|id| self.hosts.get(&id).is_some_and(|host| host.process.is_some()));
        let level_is_raised = membership.feature_level >= Versions::COMPILED.feature_level_max;
        !self.mixes_versions()
            || (self.hosts.values().all(|host| host.process.is_none() || host.is_upgraded())
                && (level_is_raised || !all_members_run))
    }

    /// Draws the version with which a machine starts. A machine that has met the next level starts with the next version.
    pub(super) fn draw_versions(&mut self, at: NodeId) {
        if !self.mixes_versions() {
            return;
        }
        let starts_next = self.hosts[&at].needs_next_version || self.faults_over || self.rng.random_range(0..100) < 60;
        self.host(at).versions = if starts_next { Versions::COMPILED } else { Versions::CURRENT };
    }

    /// The files of a machine before it starts with the present version, where versions are mixed.
    pub(super) fn image_before_start(&self, at: NodeId) -> Option<DirectoryImage> {
        let is_present_version = self.hosts[&at].versions != Versions::COMPILED;
        (self.mixes_versions() && is_present_version).then(|| self.directory_image(at))
    }

    fn directory_image(&self, at: NodeId) -> DirectoryImage {
        let host = &self.hosts[&at];
        let directories: [&SimDisk; 3] = [&host.disk, &host.snapshot_disk, &host.identity_disk];
        let files = directories.into_iter().enumerate().flat_map(|(nth, disk)| {
            let names = disk.list().unwrap_or_default();
            names.into_iter().filter_map(move |name| Some(((nth, name.clone()), disk.read_file(&name)?)))
        });
        files.collect()
    }

    /// Handles a refusal because of a later version. It is right only if the machine runs the present version where the
    /// level was raised, and it must leave the files as they were, `before` the start. The machine starts again with the
    /// next version.
    pub(super) fn handle_version_refusal(
        &mut self,
        at: NodeId,
        what: &str,
        before: Option<DirectoryImage>,
    ) -> checks::Result<()> {
        if !self.may_meet_unknown_level(at) {
            return Err(format!("{at} rejects its own directory: {what}"));
        }
        if before.is_some_and(|before| before != self.directory_image(at)) {
            return Err(format!("{at} changes its directory although it refuses it: {what}"));
        }
        self.refused_levels += 1;
        self.host(at).needs_next_version = true;
        self.schedule_after(Duration::from_millis(100), SimEvent::ProcessStart { at });
        Ok(())
    }

    /// Records that a process stops because of a feature level that only the next version knows.
    pub(super) fn record_refused_level(&mut self, at: NodeId, fault: &Fault) {
        if matches!(fault, Fault::Foreign(_)) && self.may_meet_unknown_level(at) {
            self.refused_levels += 1;
            self.host(at).needs_next_version = true;
        }
    }

    /// Whether a machine runs the present version while the cluster may have the next feature level.
    pub(super) fn may_meet_unknown_level(&self, at: NodeId) -> bool {
        self.mixes_versions() && self.raised_levels > 0 && self.hosts[&at].versions != Versions::COMPILED
    }

    /// Counts a write in which a leader raises the feature level.
    pub(super) fn count_raised_level(&mut self, at: NodeId, write: &Write) {
        let Some(process) = self.hosts[&at].process.as_ref().filter(|process| process.node.raft().leads()) else {
            return;
        };
        let raised = write.entries.iter().filter_map(raised_configuration).next();
        let is_raised = raised.is_some_and(|membership| process.node.raft().feature_level() < membership.feature_level);
        self.raised_levels += u64::from(is_raised && self.mixes_versions());
    }

    /// Checks that a node writes no configuration of a feature level that its version does not know. Called after its
    /// journal has accepted the writes.
    pub(super) fn check_written_level(&self, at: NodeId, level: u16) -> checks::Result<()> {
        match self.hosts[&at].versions.feature_level_max {
            known if level > known => {
                Err(format!("{at} writes a configuration of level {level}, and knows up to {known}"))
            }
            _ => Ok(()),
        }
    }
}

/// The highest feature level of a configuration in these writes; 0 if they have none.
pub(super) fn highest_level(writes: &[Write]) -> u16 {
    let entries = writes.iter().flat_map(|write| &write.entries);
    let levels = entries.filter_map(raised_configuration).map(|membership| membership.feature_level);
    let bases = writes.iter().filter_map(|write| write.base.as_ref()).map(|base| base.membership.feature_level);
    levels.chain(bases).max().unwrap_or_default()
}

/// The membership in an entry of a feature level above the first.
fn raised_configuration(entry: &crate::types::Entry) -> Option<&Membership> {
    match &entry.payload {
        Payload::Membership(membership) if membership.feature_level > 1 => Some(membership),
        _ => None,
    }
}
