//! A node's identity, and its record of the other nodes: who is admitted, at which address, and with which disk.

use crate::admission::{Admission, HelloContext, Identity, WelcomeError};
use crate::codec::Malformed;
use crate::net::disks::Disks;
use crate::net::listening::Listening;
use crate::types::{DiskId, LogId, Membership, NodeId, Position, Run, Time};
use crate::wire::hello::{CallerKind, Hello, Welcome};
use crate::wire::reason::Reason;
use std::collections::BTreeMap;

/// The membership as the sockets of one node see it.
#[derive(Debug)]
pub struct MembershipView {
    me: Identity,
    /// Decides which peers are admitted.
    admission: Admission,
    /// Configured addresses of members, used in addition to those in the membership.
    configured_addresses: BTreeMap<NodeId, String>,
    disks: Disks,
    listening: Listening,
}

impl MembershipView {
    /// A node without known members, which runs the state machine of that name.
    pub fn new(me: Identity, machine: &'static str, configured_addresses: BTreeMap<NodeId, String>) -> MembershipView {
        MembershipView {
            me,
            admission: Admission::new(me).of_machine(machine),
            configured_addresses,
            disks: Disks::default(),
            listening: Listening::default(),
        }
    }

    /// The node's identity.
    pub fn me(&self) -> Identity {
        self.me
    }

    /// The members; without a configuration, the configured addresses.
    pub fn members(&self) -> &Membership {
        self.admission.members()
    }

    /// Sets the members. Returns the peers that were added again: each must send its disk id again before any further
    /// message from it counts.
    pub fn set_members(&mut self, now: Time, membership: &Membership, configured: Position) -> Vec<NodeId> {
        let founding = || Membership::founding(self.configured_addresses.clone());
        let before = self.admission.members().clone();
        let added = self.admission.set_members(now, membership, configured, founding);
        self.disks.forget_but(|id| before.stays(id, self.admission.members()));
        added
    }

    /// The listen address is a default. If the members expect this node elsewhere, a warning is logged.
    pub fn set_inferred_address(&mut self, listens: String) {
        self.listening = Listening::unasked(listens);
    }

    /// Warns if the members expect this node at another address than its default; once for each address.
    pub fn warn_of_address(&mut self, membership: &Membership) {
        if let Some(advice) = self.listening.advice(self.me.node, membership) {
            log::warn!(node = self.me.node.get(); "{advice}");
        }
    }

    /// The leader that this node follows; itself if it leads.
    pub fn leader(&self) -> Option<NodeId> {
        self.admission.leader()
    }

    /// Sets the leader that this node follows; itself if it leads.
    pub fn set_leader(&mut self, leader: Option<NodeId>) {
        self.admission.set_leader(leader);
    }

    /// The address by which the members know this node.
    pub fn own_address(&self) -> Option<&str> {
        let configured = self.configured_addresses.get(&self.me.node).map(String::as_str);
        configured.or_else(|| self.members().address(self.me.node))
    }

    /// The addresses of all peers to dial: members, recent former members and configured addresses.
    pub fn addresses_to_dial(&self) -> BTreeMap<NodeId, Vec<String>> {
        let mut wanted: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
        for (id, member) in self.admission.peers_to_dial() {
            let addresses = self.configured_addresses.get(id).into_iter().chain([&member.address]);
            let all = wanted.entry(*id).or_default();
            for address in addresses.filter(|address| !address.is_empty()) {
                if !all.contains(address) {
                    all.push(address.clone());
                }
            }
        }
        wanted
    }

    /// Why messages of a peer that dials this node are not accepted, in words.
    pub fn why_unheard(&self, now: Time, peer: NodeId) -> Option<&str> {
        self.disks.why_unheard(now, peer)
    }

    /// The hello to a peer that this node dials.
    pub fn hello(&self, peer: NodeId) -> Hello {
        self.admission.hello(peer, self.own_address().unwrap_or_default())
    }

    /// Decides whether a caller is accepted, and with which protocol version. Warns of a peer with another log or disk,
    /// and of a second process with the identity of a peer.
    pub fn check_hello(&mut self, now: Time, hello: &Hello, context: HelloContext) -> Result<u16, Reason> {
        let verdict = self.admission.check_hello(hello, context);
        let CallerKind::Peer { node: peer, disk, .. } = hello.caller else { return verdict };
        if let (Some(theirs), Some(ours)) = (self.other_log(hello), self.members().agreed_log()) {
            self.disks.warn_of_log(now, self.me.node, peer, (ours, theirs));
        }
        match verdict {
            Err(Reason::Disk) => self.warn_of_disk(now, peer, disk),
            Err(Reason::Twin) => self.disks.warn_of_twin(now, self.me.node, peer),
            _ => {}
        }
        verdict
    }

    /// The log id of a caller, if this node has another log or none.
    pub fn other_log(&self, hello: &Hello) -> Option<LogId> {
        self.admission.other_log(hello)
    }

    /// The answer to an accepted caller.
    pub fn welcome(&self, version: u16) -> Welcome {
        self.admission.welcome(version)
    }

    /// Records that a peer was accepted, with its disk and run. Returns its disk id if that is news, and whether the
    /// peers to dial have changed.
    pub fn admit(&mut self, now: Time, hello: &Hello, peer: NodeId, run: (DiskId, Run)) -> (Option<DiskId>, bool) {
        self.disks.met_run(now, self.me.node, peer, run);
        self.admission.admit(hello)
    }

    /// Checks the welcome of a peer that this node dialed. Returns the peer's disk id if that is news.
    pub fn welcomed(&mut self, now: Time, peer: NodeId, welcome: &Welcome) -> Result<Option<DiskId>, Malformed> {
        self.admission.welcomed(peer, welcome).map_err(|error| match error {
            WelcomeError::Stranger => Malformed("another node than the one dialed"),
            WelcomeError::Disk => {
                self.warn_of_disk(now, peer, welcome.disk);
                Malformed("a node with another disk than before")
            }
            WelcomeError::Log => Malformed("a node with another log"),
        })
    }

    /// Records that the inbound connection of a peer is closed. Returns whether the peers to dial have changed.
    pub fn gone(&mut self, peer: NodeId) -> bool {
        self.admission.gone(peer)
    }

    /// Forgets former members that had time to learn of their removal, and returns them.
    pub fn forget_former_members(&mut self, now: Time) -> Vec<NodeId> {
        self.admission.forget_former_members(now)
    }

    /// Whether there are former members that have not been forgotten.
    pub fn has_former_members(&self) -> bool {
        self.admission.has_former_members()
    }

    fn warn_of_disk(&mut self, now: Time, peer: NodeId, disk: DiskId) {
        if let Some(known) = self.admission.known_disk(peer) {
            self.disks.warn(now, self.me.node, peer, known, disk);
        }
    }
}
