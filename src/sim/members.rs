//! Who hears whom: the first words on every link, and machines that forget.

use super::checks;
use super::disk::Crash;
use super::host::Host;
use super::world::{Happens, World};
use crate::consensus::Raft;
use crate::consensus::message::Origin;
use crate::consensus::peer_class::{Introduction, PeerClass, Standpoint, classify_peer};
use crate::consensus::quorum::decides;
use crate::node::Event;
use crate::types::{DiskId, LogId, Membership, Mutant, NodeId, Prospect};
use rand::RngExt;
use std::time::Duration;

/// Whoever was a member is spoken to for so long: it has to learn that it is none any more.
const LEAVERS_FOR: Duration = Duration::from_secs(10);

/// A peer that does not let a node in is dialed again after so long.
const DIALS_EVERY: Duration = Duration::from_millis(100);

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
        self.scenario.mutants.breaks(Mutant::NoAmnesiaGuard)
            || !matches!(self.class_of(at, peer, disk), Some(PeerClass::Refused(_)))
    }

    /// What the words of a peer that comes with that disk are good for, as the handshake judges it.
    fn class_of(&self, at: NodeId, peer: NodeId, disk: DiskId) -> Option<PeerClass> {
        let up = self.hosts[&at].up.as_ref()?;
        let raft = up.node.raft();
        let there = &self.hosts[&peer];
        let introduced = there.up.as_ref().filter(|_| there.disk_id == disk).map(|up| up.node.raft());
        let origin = Origin { disk: Some(disk), log: introduced.and_then(|raft| raft.membership().agreed_log()) };
        let introduction = Introduction { node: peer, origin, configured: introduced.map(Raft::configured_at) };
        let ours = Standpoint { membership: raft.membership(), configured: raft.configured_at() };
        Some(classify_peer(ours, up.met.get(&peer).copied(), &introduction))
    }

    /// Whether a message passes between two nodes: over a connection that is there, or one that would be made.
    pub(super) fn linked(&self, at: NodeId, peer: NodeId, disk: DiskId) -> bool {
        let connected = self.hosts[&at].up.as_ref().and_then(|up| up.connected.get(&peer));
        connected == Some(&disk) || self.hears(at, peer, disk)
    }

    /// Something has come to a node from a peer, of which each had such a disk when it was sent: whether it is
    /// heard. If it is the first thing, it learns who the peer is.
    pub(super) fn meets(&mut self, at: NodeId, peer: NodeId, disks: (DiskId, DiskId)) -> checks::Result<bool> {
        // What was meant for a disk that is gone went to a process that is gone.
        if disks.1 != self.hosts[&at].disk_id || !self.linked(at, peer, disks.0) {
            return Ok(false);
        }
        let is_there = self.hosts[&peer].disk_id == disks.0;
        let full = self.class_of(at, peer, disks.0) == Some(PeerClass::Full);
        let Some(up) = &mut self.host(at).up else { return Ok(false) };
        if up.connected.get(&peer) == Some(&disks.0) {
            return Ok(true);
        }
        if !is_there {
            // It was on its way when that disk was lost: who is left to say hello comes with another.
            return Ok(up.met.get(&peer) == Some(&disks.0));
        }
        up.connected.insert(peer, disks.0);
        let belongs = up.node.membership().members.contains_key(&peer) || up.node.membership().members.is_empty();
        if full {
            if belongs {
                up.met.insert(peer, disks.0);
            }
            self.handle(at, Event::Met { peer, disk: disks.0 })?;
        }
        Ok(true)
    }

    /// Dials a node that is not connected: it learns which log the caller holds, whether or not the two then talk.
    pub(super) fn dials(&mut self, from: NodeId, to: NodeId) {
        let (now, disks) = (self.now, (self.hosts[&from].disk_id, self.hosts[&to].disk_id));
        let Some(up) = &mut self.host(from).up else { return };
        let Some(log) = up.node.membership().agreed_log() else { return };
        if up.connected.contains_key(&to) || up.dialed.get(&to).is_some_and(|at| now.since(*at) < DIALS_EVERY) {
            return;
        }
        up.dialed.insert(to, now);
        if !self.network.is_cut(from, to) {
            let delay = self.network.delay(&mut self.rng);
            self.later(delay, Happens::Dialed { to, from, disks, log });
        }
    }

    /// A node is dialed by one that holds that log.
    pub(super) fn dialed(
        &mut self,
        to: NodeId,
        from: NodeId,
        disks: (DiskId, DiskId),
        log: LogId,
    ) -> checks::Result<()> {
        let same = (self.hosts[&from].disk_id, self.hosts[&to].disk_id) == disks;
        let known = self.hosts[&to].up.as_ref().map(|up| up.node.membership().agreed_log());
        if same && known.is_some_and(|known| known != Some(log)) {
            self.handle(to, Event::OtherLog { peer: from, log })?;
        }
        Ok(())
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
        // Whoever is new, or was seen to go and come back, says anew with which disk it comes.
        up.connected.retain(|id, _| !members.members.contains_key(id) || before.stays(*id, members));
        if !members.members.is_empty() {
            let first = before.members.is_empty();
            up.met.retain(|id, _| if first { members.members.contains_key(id) } else { before.stays(*id, members) });
        }
    }

    /// Whether a machine may be emptied without a loss that nothing could prevent: those who are left, and hold
    /// something, decide by every configuration that may be in use, and by that of the founders, with which
    /// the machine would begin again. (While a log begins, nobody can tell who holds nothing yet from who holds
    /// nothing any more.) One that founded alone does not begin again: it is started as one who joins.
    pub(super) fn may_be_wiped(&self, at: NodeId) -> bool {
        let configurations = &self.checks.configurations;
        let founding = self.scenario.founding();
        let goes_on = |membership: &Membership| self.holds_without(at, membership);
        // Of one that is just being added, nobody could tell under which disk it will be known.
        let belongs = configurations.latest().members.contains_key(&at);
        let comes = configurations.in_use().iter().any(|membership| membership.members.contains_key(&at)) && !belongs;
        let founds = founding.voters.len() == 1 || goes_on(&founding);
        // One that is about to rise may be a voter in the same moment.
        let rises = configurations.latest().members.get(&at).is_some_and(|member| member.prospect != Prospect::Stays);
        !self.hosts[&at].wiped && !comes && !rises && founds && configurations.in_use().into_iter().all(goes_on)
    }

    /// Whether those that are left without that machine, and hold all that they ever held, decide.
    pub(super) fn holds_without(&self, at: NodeId, membership: &Membership) -> bool {
        let is_whole = |id: NodeId| {
            let host = &self.hosts[&id];
            id != at && !host.wiped && !self.is_damaged(id) && !self.checks.is_void(id) && !self.checks.has_ghost(id)
        };
        decides(membership, is_whole)
    }

    /// A machine loses all that is on its disk, and starts again as it was first started.
    pub(super) fn wipe(&mut self, at: NodeId) {
        self.crash(at, Crash::Kill);
        self.say(|| format!("{at} loses its disk"));
        self.host(at).wipe();
        self.checks.wiped(at);
        if self.scenario.nodes == 1 {
            self.checks.configurations.joins(at);
            self.host(at).founder = false;
        }
        self.faults += 1;
        let delay = Duration::from_millis(self.rng.random_range(1..1000));
        self.later(delay, Happens::Starts { at });
    }

    /// Whoever is in no configuration that may be in use is nobody's voter under the disk it had: it may come
    /// back, as somebody of whom nothing is known.
    pub(super) fn forgive(&mut self) {
        let in_use = self.checks.configurations.in_use();
        // A learner whose disk was not named yet may lose it, and be named by the one it has now.
        let named = |(id, host): &(&NodeId, &Host)| {
            let mut known = in_use.iter().filter_map(|membership| membership.members.get(id)).peekable();
            known.peek().is_some() && known.all(|member| member.disk == Some(host.disk_id))
        };
        let named: Vec<NodeId> =
            self.hosts.iter().filter(|(_, host)| host.forgot).filter(named).map(|(id, _)| *id).collect();
        let gone = |id: &NodeId| !in_use.iter().any(|membership| membership.members.contains_key(id));
        let forgiven: Vec<NodeId> =
            self.hosts.iter().filter(|(id, host)| host.forgot && gone(id)).map(|(id, _)| *id).collect();
        named.into_iter().for_each(|id| self.host(id).forgot = false);
        for id in forgiven {
            // What it began on its own it lets go of, and joins anew.
            self.wipe(id);
            self.checks.configurations.joins(id);
            let host = self.host(id);
            (host.founder, host.forgot) = (false, false);
        }
    }
}
