//! Admission of peers: whether a node accepts a connection from a peer.
//!
//! The decision depends on the first frames of the connection (Hello and Welcome) and on the node's record of its
//! peers. This module has no socket and no clock. The sockets of [`net`](crate::net) and the simulator pass in each
//! Hello or Welcome and act on the decision, so both admit the same peers.

use crate::consensus::message::Origin;
use crate::consensus::peer_class::{LocalView, PeerClass, PeerIdentity, PeerRejection, classify_peer};
use crate::limits::MEMBERS_MAX;
use crate::types::versions::PEER_PROTOCOL_MIN;
use crate::types::{ClusterId, DiskId, LogId, Member, Membership, NodeId, Position, Run, Time, Versions};
use crate::wire::hello::{CallerKind, Hello, PeerLogState, Welcome};
use crate::wire::reason::HelloRejection;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a node stays connected to a former member, which has to learn that it was removed.
const FORMER_MEMBER_GRACE: Duration = Duration::from_secs(10);

/// The identity that a node sends to its peers in a Hello or a Welcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The node's id in its cluster.
    pub node: NodeId,
    /// The id of the cluster, by which nodes of different clusters reject each other.
    pub cluster: ClusterId,
    /// The id of the data directory, drawn at random when the directory was created. A new directory has another id.
    pub disk: DiskId,
    /// The running process. It distinguishes two processes with the same node id and disk id.
    pub run: Run,
}

/// Conditions outside the Hello that decide whether a caller is admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HelloContext {
    /// Whether peers have to prove their identity by a certificate, and this caller did not.
    pub identity_unproven: bool,
    /// Whether this node is stopping. It then rejects every caller.
    pub node_is_stopping: bool,
    /// Whether the limit of client connections is reached. Clients and operators are then rejected.
    pub client_limit_reached: bool,
}

/// Why this node closes its connection to a node that it dialed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WelcomeError {
    /// The node at the peer's address has another node id, or belongs to another cluster.
    WrongNode,
    /// The peer chose a version of the protocol that this node did not offer.
    WrongVersion,
    /// The peer has another disk than the one recorded for its node id.
    DiskChanged,
    /// The peer belongs to another log, or leads or campaigns without this node's log.
    LogDiffers,
}

/// Decides which peers a node exchanges messages with.
#[derive(Clone, Debug)]
pub struct Admission {
    identity: Identity,
    /// The kind of this node's state machine; empty if peers may have any kind.
    machine_kind: &'static str,
    /// The versions that this node supports.
    versions: Versions,
    members: Membership,
    /// Whether this node has no configuration yet. Then `members` are only addresses at which the node looks for a
    /// configuration.
    no_configuration: bool,
    /// The position of the configuration in `members`.
    configuration_position: Position,
    /// The leader that this node follows, if any; this node's own id if it leads.
    leader: Option<NodeId>,
    /// Former members, and until when this node stays connected to them.
    former_members: BTreeMap<NodeId, (Member, Time)>,
    /// Peers that connected to this node and are not, or not yet, in its configuration. Each has the address at which
    /// this node dials it.
    unconfigured_peers: BTreeMap<NodeId, Member>,
    /// The disk of each peer, since this process started. A node whose data directory was replaced under its old id has
    /// forgotten its votes and acknowledgments: accepting its messages would count two nodes as one.
    known_disks: BTreeMap<NodeId, DiskId>,
    /// For each peer with an open inbound connection, the id of the process that opened it.
    inbound_run_ids: BTreeMap<NodeId, u64>,
}

impl Admission {
    /// Creates the admission of a node that knows no members yet.
    pub fn new(identity: Identity) -> Admission {
        Admission {
            identity,
            machine_kind: "",
            versions: Versions::CURRENT,
            members: Membership::default(),
            no_configuration: true,
            configuration_position: Position::ZERO,
            leader: None,
            former_members: BTreeMap::new(),
            unconfigured_peers: BTreeMap::new(),
            known_disks: BTreeMap::new(),
            inbound_run_ids: BTreeMap::new(),
        }
    }

    /// Sets the kind of this node's state machine: peers with another kind are rejected.
    pub fn with_machine_kind(self, machine_kind: &'static str) -> Admission {
        Admission { machine_kind, ..self }
    }

    /// Sets the versions that this node supports and announces to its peers.
    pub fn with_versions(self, versions: Versions) -> Admission {
        Admission { versions, ..self }
    }

    /// The versions that this node supports.
    pub fn versions(&self) -> Versions {
        self.versions
    }

    /// The identity that this node presents to its peers.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The members; without a configuration, the addresses at which this node looks for one.
    pub fn members(&self) -> &Membership {
        &self.members
    }

    /// The position of the log entry that holds the configuration in force.
    pub fn configuration_position(&self) -> Position {
        self.configuration_position
    }

    /// The leader that this node follows, if any; this node's own id if it leads.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Sets the leader that this node follows. Without a leader, this node also admits peers outside its configuration:
    /// one of them may be a leader that it does not know.
    pub fn set_leader(&mut self, leader: Option<NodeId>) {
        self.leader = leader;
    }

    /// Sets the members to those of the configuration at `configuration_position`. If the configuration has no members,
    /// `fallback` gives the addresses at which to look for a configuration. Returns the peers that were added, or added
    /// again. The caller closes their connections, so that each presents its disk again before any of its messages
    /// counts.
    pub fn set_members(
        &mut self,
        now: Time,
        membership: &Membership,
        configuration_position: Position,
        fallback: impl FnOnce() -> Membership,
    ) -> Vec<NodeId> {
        self.configuration_position = configuration_position;
        let no_configuration = membership.members.is_empty();
        let members = if no_configuration { fallback() } else { membership.clone() };
        let old_members = std::mem::replace(&mut self.members, members);
        // The fallback addresses name no disks. (Counter-example: a joining node connects to a peer at one of them. By
        // the time the joining node has the log, the peer was added again on another disk, which is not named yet. The
        // joining node would take the two disks for the same peer.)
        let is_first_configuration =
            std::mem::replace(&mut self.no_configuration, no_configuration) && !no_configuration;
        let members = &self.members;
        let is_unchanged = |id: NodeId| !is_first_configuration && old_members.keeps_member(id, members);
        let added_ids = members.ids().filter(|id| !is_unchanged(*id)).collect();
        self.known_disks.retain(|peer, _| is_unchanged(*peer));
        for (id, member) in old_members.members {
            self.former_members.entry(id).or_insert((member, now + FORMER_MEMBER_GRACE));
        }
        self.former_members.retain(|id, _| !members.members.contains_key(id));
        self.unconfigured_peers.retain(|id, _| !members.members.contains_key(id));
        added_ids
    }

    /// Removes and returns the former members whose grace period has ended. The caller closes their connections in both
    /// directions. A former member that was added again, and leads, dials anew and is admitted as an unconfigured peer;
    /// any other is rejected. (Counter-example: a follower that has not yet received the entry that adds its leader
    /// again closes only its own link. It goes on receiving from the leader and never answers it.)
    pub fn forget_former_members(&mut self, now: Time) -> Vec<NodeId> {
        let expired_member_ids =
            self.former_members.iter().filter(|(_, (_, until))| *until <= now).map(|(id, _)| *id).collect();
        self.former_members.retain(|_, (_, until)| *until > now);
        expired_member_ids
    }

    /// Whether there are former members to which this node stays connected.
    pub fn has_former_members(&self) -> bool {
        !self.former_members.is_empty()
    }

    /// All peers to connect to, and this node itself: members, former members, and unconfigured peers.
    pub fn peers_to_dial(&self) -> impl Iterator<Item = (&NodeId, &Member)> {
        let former_members = self.former_members.iter().map(|(id, (member, _))| (id, member));
        self.members.members.iter().chain(former_members).chain(&self.unconfigured_peers)
    }

    /// The Hello that this node sends when it dials `peer`. `address` is the address at which peers dial this node.
    pub fn build_hello(&self, peer: NodeId, address: &str) -> Hello {
        let Identity { node, cluster, disk, run } = self.identity;
        Hello::peer(cluster, node, disk, run, peer)
            .with_address(address)
            .with_log_state(self.log_state())
            .with_machine_kind(self.machine_kind)
            .with_versions(self.versions)
    }

    /// The Welcome with which this node answers a Hello that it accepts.
    pub fn build_welcome(&self, version: u16) -> Welcome {
        let Identity { node, cluster, disk, .. } = self.identity;
        Welcome { version, cluster, node, disk, log_state: self.log_state() }
    }

    /// The log and the configuration of this node, as sent to peers.
    fn log_state(&self) -> PeerLogState {
        PeerLogState { log: self.members.agreed_log_id(), config_position: self.configuration_position }
    }

    /// Decides whether a caller is admitted. Returns the protocol version to use, or the reason for the rejection.
    pub fn check_hello(&self, hello: &Hello, context: HelloContext) -> Result<u16, HelloRejection> {
        let version = hello.common_version(self.versions.protocol_max).ok_or(HelloRejection::Version)?;
        if hello.cluster.is_some_and(|cluster| cluster != self.identity.cluster) {
            return Err(HelloRejection::Cluster);
        }
        if hello.target.is_some_and(|target| target != self.identity.node) {
            return Err(HelloRejection::WrongNode);
        }
        if context.node_is_stopping {
            return Err(HelloRejection::Stopping);
        }
        if !hello.machine_kind.is_empty() && !self.machine_kind.is_empty() && hello.machine_kind != self.machine_kind {
            return Err(HelloRejection::Machine);
        }
        match hello.caller {
            CallerKind::Peer { .. } if context.identity_unproven => Err(HelloRejection::NoCertificate),
            CallerKind::Peer { node, .. } if node == self.identity.node => Err(HelloRejection::SameNodeId),
            CallerKind::Peer { node, .. }
                if !self.is_current_or_former_member(node) && !self.accepts_unconfigured(node) =>
            {
                Err(HelloRejection::NotMember)
            }
            CallerKind::Peer { .. } if hello.cluster.is_none() => Err(HelloRejection::Cluster),
            CallerKind::Peer { node, disk, run, log_state, .. } => match self.classify_by_disk(node, disk, log_state) {
                PeerClass::Rejected(PeerRejection::OtherDisk { .. }) => Err(HelloRejection::UnknownDisk),
                PeerClass::Rejected(PeerRejection::OtherLog { .. } | PeerRejection::LacksLog) => {
                    Err(HelloRejection::Log)
                }
                // The peer has an open connection, and the caller is another process with the same node id.
                PeerClass::Accepted | PeerClass::LeaderOnly
                    if self.inbound_run_ids.get(&node).is_some_and(|known| *known != run.id) =>
                {
                    Err(HelloRejection::CopiedDisk)
                }
                PeerClass::Accepted | PeerClass::LeaderOnly => Ok(version),
            },
            CallerKind::Client | CallerKind::Operator if context.client_limit_reached => {
                Err(HelloRejection::TooManyConnections)
            }
            CallerKind::Client | CallerKind::Operator => Ok(version),
        }
    }

    /// Whether `peer` is a member, or was a member within the grace period. Messages of a former member are accepted
    /// as long as this node stays connected to it. The former member may need entries or a snapshot before it learns of
    /// its removal, and the leader sends more of them only when the former member has acknowledged the last ones.
    fn is_current_or_former_member(&self, peer: NodeId) -> bool {
        self.members.members.contains_key(&peer) || self.former_members.contains_key(&peer)
    }

    /// Whether to admit a peer of this cluster that is not in this node's configuration. The configuration may be old,
    /// and the leader of a newer configuration must be able to reach this node (a receiver uses the sender's vote
    /// requests and entries whatever its own configuration, §6). Such a peer is rejected while this node follows
    /// another leader: then the peer was removed, and the rejection informs it of the removal.
    fn accepts_unconfigured(&self, peer: NodeId) -> bool {
        self.leader.is_none_or(|leader| leader == peer) && self.unconfigured_peers.len() < MEMBERS_MAX
    }

    /// The id of the caller's log, if the caller is a peer that expects this node at this address, and this node has
    /// another log or none.
    pub fn differing_log(&self, hello: &Hello) -> Option<LogId> {
        let CallerKind::Peer { log_state: PeerLogState { log: Some(log), .. }, .. } = hello.caller else { return None };
        (hello.target == Some(self.identity.node) && self.members.agreed_log_id() != Some(log)).then_some(log)
    }

    /// Records a peer that was admitted with `hello`. Returns the peer's disk if its messages count for quorums from
    /// now on, and whether the peer is outside the configuration, so that this node has to dial it now.
    pub fn admit(&mut self, hello: &Hello) -> (Option<DiskId>, bool) {
        let CallerKind::Peer { node, disk, run, log_state, .. } = hello.caller else { return (None, false) };
        self.inbound_run_ids.insert(node, run.id);
        let recorded_disk = self.record_disk(node, disk, log_state);
        let is_unconfigured = !self.is_current_or_former_member(node);
        if is_unconfigured {
            self.unconfigured_peers.insert(node, Member::with_address(hello.address.clone()));
        }
        (recorded_disk, is_unconfigured)
    }

    /// Handles the end of a peer's inbound connection. Returns whether the peer was outside the configuration: this
    /// node then stops dialing it.
    pub fn handle_disconnect(&mut self, peer: NodeId) -> bool {
        self.inbound_run_ids.remove(&peer);
        self.unconfigured_peers.remove(&peer).is_some()
    }

    /// Handles the Welcome of a peer that this node dialed. Returns the peer's disk if its messages count for quorums
    /// from now on. An error is the reason to close the connection.
    pub fn handle_welcome(&mut self, peer: NodeId, welcome: &Welcome) -> Result<Option<DiskId>, WelcomeError> {
        if welcome.node != peer || welcome.cluster != self.identity.cluster {
            return Err(WelcomeError::WrongNode);
        }
        if !(PEER_PROTOCOL_MIN..=self.versions.protocol_max).contains(&welcome.version) {
            return Err(WelcomeError::WrongVersion);
        }
        match self.classify_by_disk(peer, welcome.disk, welcome.log_state) {
            PeerClass::Accepted | PeerClass::LeaderOnly => Ok(self.record_disk(peer, welcome.disk, welcome.log_state)),
            PeerClass::Rejected(PeerRejection::OtherDisk { .. }) => Err(WelcomeError::DiskChanged),
            PeerClass::Rejected(PeerRejection::OtherLog { .. } | PeerRejection::LacksLog) => {
                Err(WelcomeError::LogDiffers)
            }
        }
    }

    /// Records and returns a peer's disk. Returns `None` if another disk is recorded for the peer, which is then
    /// accepted as leader only.
    fn record_disk(&mut self, peer: NodeId, disk: DiskId, log_state: PeerLogState) -> Option<DiskId> {
        if self.classify_by_disk(peer, disk, log_state) != PeerClass::Accepted {
            return None;
        }
        if self.members.members.contains_key(&peer) {
            self.known_disks.entry(peer).or_insert(disk);
        }
        Some(disk)
    }

    /// The disk recorded for the peer: the disk in the configuration, otherwise the first disk that the peer presented.
    pub fn known_disk(&self, peer: NodeId) -> Option<DiskId> {
        self.members.disk(peer).or(self.known_disks.get(&peer).copied())
    }

    /// Classifies a peer by its disk, log and configuration. If the membership names no disk for the peer, the first
    /// disk that it presented is used.
    fn classify_by_disk(&self, peer: NodeId, disk: DiskId, log_state: PeerLogState) -> PeerClass {
        let local_view = LocalView { membership: &self.members, configuration_position: self.configuration_position };
        let origin = Origin { disk: Some(disk), log: log_state.log };
        let peer_identity =
            PeerIdentity { node: peer, origin, configuration_position: Some(log_state.config_position) };
        classify_peer(local_view, self.known_disks.get(&peer).copied(), &peer_identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn admission_of_node(node: u64, member_count: u64) -> Admission {
        let identity =
            Identity { node: id(node), cluster: ClusterId(9), disk: DiskId(node), run: Run { id: node, starts: 1 } };
        let mut admission = Admission::new(identity);
        let membership = Membership::founding((1..=member_count).map(|n| (id(n), format!("n{n}:1"))));
        admission.set_members(Time::ZERO, &membership, Position::ZERO, Membership::default);
        admission
    }

    #[test]
    fn peer_is_bound_to_the_disk_it_first_presented() {
        let (mut n1, n2) = (admission_of_node(1, 3), admission_of_node(2, 3));
        let hello = n2.build_hello(id(1), "n2:1");
        assert!(n1.check_hello(&hello, HelloContext::default()).is_ok());
        assert_eq!(n1.admit(&hello), (Some(DiskId(2)), false));
        let mut n2_with_new_disk = n2.clone();
        n2_with_new_disk.identity.disk = DiskId(1002);
        assert_eq!(
            n1.check_hello(&n2_with_new_disk.build_hello(id(1), ""), HelloContext::default()),
            Err(HelloRejection::UnknownDisk)
        );
        assert_eq!(n1.handle_welcome(id(2), &n2_with_new_disk.build_welcome(8)), Err(WelcomeError::DiskChanged));
        assert_eq!(n1.handle_welcome(id(2), &n2.build_welcome(8)), Ok(Some(DiskId(2))));
        assert_eq!(n1.handle_welcome(id(3), &n2.build_welcome(8)), Err(WelcomeError::WrongNode));
    }

    /// Simulator seed 2199025001226 with `--members`: a joining node that became leader rejected a learner's disk for
    /// good.
    #[test]
    fn disk_recorded_before_first_configuration_may_be_replaced() {
        let (mut joiner, n2) = (admission_of_node(1, 0), admission_of_node(2, 3));
        let members = n2.members().clone();
        joiner.set_members(Time::ZERO, &Membership::default(), Position::ZERO, || members.clone());
        assert_eq!(joiner.admit(&n2.build_hello(id(1), "n2:1")), (Some(DiskId(2)), false));
        let mut n2_with_new_disk = n2.clone();
        n2_with_new_disk.identity.disk = DiskId(1002);
        let check_new_disk =
            |joiner: &Admission| joiner.check_hello(&n2_with_new_disk.build_hello(id(1), ""), HelloContext::default());
        assert_eq!(check_new_disk(&joiner), Err(HelloRejection::UnknownDisk));
        let added_peers = joiner.set_members(Time::ZERO, &members, Position::ZERO, Membership::default);
        assert_eq!(added_peers, [id(1), id(2), id(3)], "each peer has to present its disk again");
        assert!(check_new_disk(&joiner).is_ok());
    }

    #[test]
    fn second_process_of_a_peer_is_rejected_until_the_first_ends() {
        let (mut n1, n2) = (admission_of_node(1, 3), admission_of_node(2, 3));
        n1.admit(&n2.build_hello(id(1), ""));
        let mut second_n2_process = n2.clone();
        second_n2_process.identity.run.id = 77;
        assert_eq!(
            n1.check_hello(&second_n2_process.build_hello(id(1), ""), HelloContext::default()),
            Err(HelloRejection::CopiedDisk)
        );
        assert!(
            n1.check_hello(&n2.build_hello(id(1), ""), HelloContext::default()).is_ok(),
            "the same process redials"
        );
        assert!(!n1.handle_disconnect(id(2)));
        assert!(n1.check_hello(&second_n2_process.build_hello(id(1), ""), HelloContext::default()).is_ok());
    }

    #[test]
    fn peer_with_another_state_machine_is_rejected() {
        let (n1, n2) = (admission_of_node(1, 3).with_machine_kind("kv 1"), admission_of_node(2, 3));
        let check_hello_of_machine = |machine| {
            n1.check_hello(&n2.clone().with_machine_kind(machine).build_hello(id(1), ""), HelloContext::default())
        };
        assert_eq!(check_hello_of_machine("kv 2"), Err(HelloRejection::Machine));
        assert!(check_hello_of_machine("kv 1").is_ok() && check_hello_of_machine("").is_ok());
        assert!(
            admission_of_node(1, 3)
                .check_hello(&n2.with_machine_kind("kv 1").build_hello(id(1), ""), HelloContext::default())
                .is_ok()
        );
    }

    #[test]
    fn unconfigured_peer_is_admitted_only_without_a_leader() {
        let (mut n1, n9) = (admission_of_node(1, 3), admission_of_node(9, 9));
        let hello = n9.build_hello(id(1), "n9:1");
        n1.set_leader(Some(id(2)));
        assert_eq!(n1.check_hello(&hello, HelloContext::default()), Err(HelloRejection::NotMember));
        n1.set_leader(None);
        assert!(n1.check_hello(&hello, HelloContext::default()).is_ok());
        assert!(n1.admit(&hello).1);
        assert!(n1.peers_to_dial().any(|(peer, member)| *peer == id(9) && member.address == "n9:1"));
        assert!(n1.handle_disconnect(id(9)));
    }

    #[test]
    fn removed_member_stays_connected_for_the_grace_period() {
        let mut n1 = admission_of_node(1, 3);
        let without_n3 = Membership::founding((1..=2).map(|n| (id(n), format!("n{n}:1"))));
        assert!(n1.set_members(Time(5), &without_n3, Position::ZERO, Membership::default).is_empty());
        assert!(n1.peers_to_dial().any(|(peer, _)| *peer == id(3)));
        // In the grace period the removed member's messages are accepted, also on a new connection: the member may need
        // a snapshot to learn of its removal.
        n1.set_leader(Some(id(1)));
        let hello = admission_of_node(3, 3).build_hello(id(1), "n3:1");
        assert!(n1.check_hello(&hello, HelloContext::default()).is_ok());
        assert!(!n1.admit(&hello).1, "the peer is dialed already");
        assert_eq!(n1.forget_former_members(Time(6)), []);
        assert_eq!(
            n1.forget_former_members(Time(5) + FORMER_MEMBER_GRACE),
            [id(3)],
            "the connections of the removed member are closed after the grace period"
        );
        assert!(n1.peers_to_dial().all(|(peer, _)| *peer != id(3)));
        assert_eq!(n1.check_hello(&hello, HelloContext::default()), Err(HelloRejection::NotMember));
    }

    /// Simulator seed 2199023300540, a run of ten seconds: messages of the former member were accepted and never
    /// answered.
    #[test]
    fn former_member_that_leads_is_admitted_again() {
        let mut n1 = admission_of_node(1, 3);
        let without_n3 = Membership::founding((1..=2).map(|n| (id(n), format!("n{n}:1"))));
        n1.set_members(Time(5), &without_n3, Position::ZERO, Membership::default);
        let hello = admission_of_node(3, 3).build_hello(id(1), "n3:1");
        assert!(!n1.admit(&hello).1, "the peer is dialed as a former member");
        // The connections of the former member are closed after the grace period, so it dials anew.
        n1.forget_former_members(Time(5) + FORMER_MEMBER_GRACE);
        n1.handle_disconnect(id(3));
        n1.set_leader(Some(id(3)));
        assert!(n1.check_hello(&hello, HelloContext::default()).is_ok());
        assert!(n1.admit(&hello).1);
        assert!(n1.peers_to_dial().any(|(peer, _)| *peer == id(3)));
    }
}
