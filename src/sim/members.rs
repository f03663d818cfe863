//! Who hears whom: the first words on every link, and machines that forget.

use super::checks;
use super::disk::Crash;
use super::world::{Happens, World};
use crate::consensus::quorum::decides;
use crate::node::Event;
use crate::types::{DiskId, Membership, Mutant, NodeId};
use rand::RngExt;
use std::time::Duration;

/// Whoever was a member is spoken to for so long: it has to learn that it is none any more.
const LEAVERS_FOR: Duration = Duration::from_secs(10);

impl World {
    /// Whether that node lets in a peer that comes with that disk, as the handshake judges it.
    pub(super) fn hears(&self, at: NodeId, peer: NodeId, disk: DiskId) -> bool {
        let Some(up) = &self.hosts[&at].up else { return false };
        let membership = up.node.membership();
        if membership.members.is_empty() {
            // It was told where to look: anywhere.
            return true;
        }
        let belongs = membership.members.contains_key(&peer);
        // A leader of whom its configuration does not know may look for who follows nobody, and is then followed.
        let follows_another = up.node.raft().leader().is_some_and(|leader| leader != peer);
        if !belongs && follows_another && up.leavers.get(&peer).is_none_or(|until| *until < self.now) {
            return false;
        }
        if self.scenario.mutants.breaks(Mutant::NoAmnesiaGuard) {
            return true;
        }
        // What was met counts where the membership names none.
        membership.disk(peer).or(up.met.get(&peer).copied()).is_none_or(|known| known == disk)
    }

    /// Something has come to a node from a peer, of which each had such a disk when it was sent: whether it is
    /// heard. If it is the first thing, it learns who the peer is.
    pub(super) fn meets(&mut self, at: NodeId, peer: NodeId, disks: (DiskId, DiskId)) -> checks::Result<bool> {
        // What was meant for a disk that is gone went to a process that is gone.
        if disks.1 != self.hosts[&at].disk_id || !self.hears(at, peer, disks.0) {
            return Ok(false);
        }
        let is_there = self.hosts[&peer].disk_id == disks.0;
        let Some(up) = &mut self.host(at).up else { return Ok(false) };
        let belongs = up.node.membership().members.contains_key(&peer) || up.node.membership().members.is_empty();
        if up.met.get(&peer) != Some(&disks.0) {
            if !is_there {
                // It was on its way when that disk was lost: who is left to say hello comes with another.
                return Ok(false);
            }
            if belongs {
                up.met.insert(peer, disks.0);
            }
            self.handle(at, Event::Met { peer, disk: disks.0 })?;
        }
        Ok(true)
    }

    /// Whoever belongs to a node's configuration no more is spoken to for a while yet.
    pub(super) fn arranges(&mut self, at: NodeId) {
        let until = self.now + LEAVERS_FOR;
        let Some(up) = &mut self.host(at).up else { return };
        let membership = up.node.membership();
        if up.members.members == membership.members {
            return;
        }
        let before = std::mem::replace(&mut up.members, membership.clone());
        let members = &up.members;
        for gone in before.ids().filter(|id| !members.members.contains_key(id)) {
            up.leavers.insert(gone, until);
        }
        up.leavers.retain(|id, _| !members.members.contains_key(id));
        if !members.members.is_empty() {
            let first = before.members.is_empty();
            up.met.retain(|id, _| if first { members.members.contains_key(id) } else { before.stays(*id, members) });
        }
    }

    /// Whether a machine may be emptied without a loss that nothing could prevent: those who are left, and hold
    /// something, decide by every configuration that may be in use, and by that of the founders, with which
    /// the machine would begin again. (While a log begins, nobody can tell who holds nothing yet from who holds
    /// nothing any more.)
    pub(super) fn may_be_wiped(&self, at: NodeId) -> bool {
        let configurations = &self.checks.configurations;
        let founding = self.scenario.founding();
        let is_whole = |id: NodeId| id != at && !self.hosts[&id].wiped && !self.checks.is_void(id);
        let goes_on = |membership: &Membership| decides(membership, is_whole);
        // Of one that is just being added, nobody could tell under which disk it will be known.
        let belongs = configurations.latest().members.contains_key(&at);
        let comes = configurations.in_use().iter().any(|membership| membership.members.contains_key(&at)) && !belongs;
        !self.hosts[&at].wiped && !comes && goes_on(&founding) && configurations.in_use().into_iter().all(goes_on)
    }

    /// A machine loses all that is on its disk, and starts again as it was first started.
    pub(super) fn wipe(&mut self, at: NodeId) {
        self.crash(at, Crash::Kill);
        self.say(|| format!("{at} loses its disk"));
        self.host(at).wipe();
        self.checks.wiped(at);
        self.faults += 1;
        let delay = Duration::from_millis(self.rng.random_range(1..1000));
        self.later(delay, Happens::Starts { at });
    }

    /// Whoever is in no configuration that may be in use is nobody's voter under the disk it had: it may come
    /// back, as somebody of whom nothing is known.
    pub(super) fn forgive(&mut self) {
        let in_use = self.checks.configurations.in_use();
        let gone = |id: &NodeId| !in_use.iter().any(|membership| membership.members.contains_key(id));
        let forgiven: Vec<NodeId> =
            self.hosts.iter().filter(|(id, host)| host.forgot && gone(id)).map(|(id, _)| *id).collect();
        for id in forgiven {
            // What it began on its own it lets go of, and joins anew.
            self.wipe(id);
            self.checks.configurations.joins(id);
            let host = self.host(id);
            (host.founder, host.forgot) = (false, false);
        }
    }
}
