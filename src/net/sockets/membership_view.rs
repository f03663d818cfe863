//! A node's identity, and its view of its peers: which are admitted, at which address, and with which disk.

use crate::admission::{Admission, HelloContext, Identity, WelcomeError};
use crate::codec::Malformed;
use crate::net::listen_address::ListenAddressCheck;
use crate::net::peer_warnings::PeerWarnings;
use crate::types::{DiskId, LogId, Membership, NodeId, Position, Run, Time, Versions};
use crate::wire::hello::{CallerKind, Hello, Welcome};
use crate::wire::reason::HelloRejection;
use std::collections::BTreeMap;

/// The membership as the network layer of one node uses it: to admit peers, to dial them, and to warn about them.
#[derive(Debug)]
pub struct MembershipView {
    me: Identity,
    /// Decides which peers are admitted, and knows the members.
    admission: Admission,
    /// Configured addresses of members, used in addition to those in the membership.
    configured_addresses: BTreeMap<NodeId, String>,
    peer_warnings: PeerWarnings,
    address_check: ListenAddressCheck,
}

impl MembershipView {
    /// Creates the view of a node that knows no members yet. `machine_kind` is the name of its state machine,
    /// and `versions` are those that it announces to its peers.
    pub fn new(
        me: Identity,
        (machine_kind, versions): (&'static str, Versions),
        configured_addresses: BTreeMap<NodeId, String>,
    ) -> MembershipView {
        MembershipView {
            me,
            admission: Admission::new(me).with_machine_kind(machine_kind).with_versions(versions),
            configured_addresses,
            peer_warnings: PeerWarnings::default(),
            address_check: ListenAddressCheck::default(),
        }
    }

    /// The ids of this node, its cluster and its disk, and its run.
    pub fn me(&self) -> Identity {
        self.me
    }

    /// The current members; before the node has a configuration, those with configured addresses.
    pub fn members(&self) -> &Membership {
        self.admission.members()
    }

    /// Sets the members, by the configuration at position `config_position`. Returns the peers that were added, or
    /// added again: each must send its disk id again before any further message of the peer counts for quorums.
    pub fn set_members(&mut self, now: Time, membership: &Membership, config_position: Position) -> Vec<NodeId> {
        let founding = || Membership::founding(self.configured_addresses.clone());
        let old_members = self.admission.members().clone();
        let added_peers = self.admission.set_members(now, membership, config_position, founding);
        self.peer_warnings.retain_peers(|id| old_members.keeps_member(id, self.admission.members()));
        added_peers
    }

    /// Sets the default listen address, for a node whose listen address was not configured.
    pub fn set_default_listen_address(&mut self, default_address: String) {
        self.address_check = ListenAddressCheck::of_default_address(default_address);
    }

    /// Warns if the membership lists this node at another address than its default; once for each address.
    pub fn warn_of_listed_address(&mut self, membership: &Membership) {
        if let Some(advice) = self.address_check.advise(self.me.node, membership) {
            log::warn!(node = self.me.node.get(); "{advice}");
        }
    }

    /// The leader that this node follows; the node itself if it leads.
    pub fn leader(&self) -> Option<NodeId> {
        self.admission.leader()
    }

    /// Sets the leader that this node follows; the node itself if it leads.
    pub fn set_leader(&mut self, leader: Option<NodeId>) {
        self.admission.set_leader(leader);
    }

    /// This node's address as `HOST:PORT`: the configured one, or else that in the membership.
    pub fn own_address(&self) -> Option<&str> {
        let configured_address = self.configured_addresses.get(&self.me.node).map(String::as_str);
        configured_address.or_else(|| self.members().address(self.me.node))
    }

    /// The addresses of all peers to dial: members, recent former members, and connected peers outside the
    /// configuration. A configured address of a peer comes before that in the membership.
    pub fn addresses_to_dial(&self) -> BTreeMap<NodeId, Vec<String>> {
        let mut addresses_by_peer: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
        for (id, member) in self.admission.peers_to_dial() {
            let addresses = self.configured_addresses.get(id).into_iter().chain([&member.address]);
            let known_addresses = addresses_by_peer.entry(*id).or_default();
            for address in addresses.filter(|address| !address.is_empty()) {
                if !known_addresses.contains(address) {
                    known_addresses.push(address.clone());
                }
            }
        }
        addresses_by_peer
    }

    /// The reason why a peer that dials this node is rejected, as part of a sentence; `None` if the peer is not
    /// rejected.
    pub fn rejection_reason(&self, now: Time, peer: NodeId) -> Option<&str> {
        self.peer_warnings.rejection_reason(now, peer)
    }

    /// The hello that this node sends to a peer it dials.
    pub fn build_hello_to(&self, peer: NodeId) -> Hello {
        self.admission.build_hello(peer, self.own_address().unwrap_or_default())
    }

    /// Decides whether the peer or client that sent a hello is accepted, and with which protocol version. Warns of a
    /// peer with an unexpected log id or disk id, and of a second process with the identity of a connected peer.
    pub fn check_hello(&mut self, now: Time, hello: &Hello, context: HelloContext) -> Result<u16, HelloRejection> {
        let verdict = self.admission.check_hello(hello, context);
        let CallerKind::Peer { node: peer, disk, .. } = hello.caller else { return verdict };
        if let (Some(peer_log), Some(own_log)) = (self.differing_log_id(hello), self.members().agreed_log_id()) {
            self.peer_warnings.warn_of_log(now, self.me.node, peer, (own_log, peer_log));
        }
        match verdict {
            Err(HelloRejection::UnknownDisk) => self.warn_of_unexpected_disk(now, peer, disk),
            Err(HelloRejection::CopiedDisk) => self.peer_warnings.warn_of_duplicate(now, self.me.node, peer),
            _ => {}
        }
        verdict
    }

    /// The log id in the hello of a peer, if this node holds another log or none.
    pub fn differing_log_id(&self, hello: &Hello) -> Option<LogId> {
        self.admission.differing_log(hello)
    }

    /// The welcome with which this node answers an accepted hello.
    pub fn build_welcome(&self, version: u16) -> Welcome {
        self.admission.build_welcome(version)
    }

    /// Records that a peer was accepted, with its disk and run. Returns the disk id if the peer's messages count for
    /// quorums from now on, and whether the peers to dial have changed.
    pub fn admit(&mut self, now: Time, hello: &Hello, peer: NodeId, run: (DiskId, Run)) -> (Option<DiskId>, bool) {
        self.peer_warnings.record_run(now, self.me.node, peer, run);
        self.admission.admit(hello)
    }

    /// Checks the welcome of a peer that this node dialed. Returns the disk id if the peer's messages count for
    /// quorums from now on.
    ///
    /// # Errors
    ///
    /// Another node answered, or the peer has another disk or log than before.
    pub fn check_welcome(&mut self, now: Time, peer: NodeId, welcome: &Welcome) -> Result<Option<DiskId>, Malformed> {
        self.admission.handle_welcome(peer, welcome).map_err(|error| match error {
            WelcomeError::WrongNode => Malformed("another node than the one dialed"),
            WelcomeError::WrongVersion => Malformed("a version of the protocol that this node did not offer"),
            WelcomeError::DiskChanged => {
                self.warn_of_unexpected_disk(now, peer, welcome.disk);
                Malformed("a node with another disk than before")
            }
            WelcomeError::LogDiffers => Malformed("a node with another log"),
        })
    }

    /// Records that the inbound connection of a peer is closed. Returns whether the peers to dial have changed.
    pub fn record_disconnected(&mut self, peer: NodeId) -> bool {
        self.admission.handle_disconnect(peer)
    }

    /// Removes and returns the former members that have had time to learn of their removal.
    pub fn forget_former_members(&mut self, now: Time) -> Vec<NodeId> {
        self.admission.forget_former_members(now)
    }

    /// Whether this node still keeps links to former members.
    pub fn has_former_members(&self) -> bool {
        self.admission.has_former_members()
    }

    fn warn_of_unexpected_disk(&mut self, now: Time, peer: NodeId, disk: DiskId) {
        if let Some(known_disk) = self.admission.known_disk(peer) {
            self.peer_warnings.warn_of_disk(now, self.me.node, peer, known_disk, disk);
        }
    }
}
