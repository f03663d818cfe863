//! Admission of peers: decided by the first frames on a connection, and by the node's record of its peers.
//!
//! Nothing here has a socket or a clock. The sockets of [`net`](crate::net) and the simulator pass in each Hello or
//! Welcome and act on the decision: so both admit the same peers.

use crate::consensus::message::Origin;
use crate::consensus::peer_class::{Introduction, PeerClass, Refused, Standpoint, classify_peer};
use crate::limits::MEMBERS_MAX;
use crate::types::{ClusterId, DiskId, LogId, Member, Membership, NodeId, Position, Run, Time};
use crate::wire::hello::{CallerKind, Hello, PeerLogState, Welcome};
use crate::wire::reason::Reason;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a node stays connected to a former member, which has to learn that it was removed.
const FORMER_MEMBER_GRACE: Duration = Duration::from_secs(10);

/// A node's identity, as its peers see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The node's id.
    pub node: NodeId,
    /// The id of its cluster.
    pub cluster: ClusterId,
    /// The id of its disk.
    pub disk: DiskId,
    /// This process.
    pub run: Run,
}

/// Other conditions that decide whether a caller is admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HelloContext {
    /// A peer has to prove its identity, and this caller did not.
    pub unproven: bool,
    /// The node is stopping.
    pub stopping: bool,
    /// The limit of clients is reached.
    pub full: bool,
}

/// Why this node closes its connection to a node that it dialed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WelcomeError {
    /// Another node, or a node of another cluster, answers at the address.
    Stranger,
    /// It comes with another disk than the one it is known by.
    Disk,
    /// It belongs to another log.
    Log,
}

/// Decides which peers a node exchanges messages with.
#[derive(Clone, Debug)]
pub struct Admission {
    me: Identity,
    /// The state machine of this node; empty if it is not to be checked.
    machine: &'static str,
    members: Membership,
    /// Whether `members` is a list of addresses to look for a configuration, and not a configuration.
    no_configuration: bool,
    /// The position of the configuration in `members`.
    configured: Position,
    /// The node that this one follows, if any; itself if it leads.
    leader: Option<NodeId>,
    /// Former members, and until when this node stays connected to them.
    former_members: BTreeMap<NodeId, (Member, Time)>,
    /// Peers that connected to this node and are not in its configuration, or not yet, with the address to dial them
    /// at.
    guests: BTreeMap<NodeId, Member>,
    /// The disk of each peer, since this process started. A node whose data directory was replaced under its old id has
    /// forgotten its votes and acknowledgments: accepting its messages would count two nodes as one.
    known_disks: BTreeMap<NodeId, DiskId>,
    /// The process of each peer with an open inbound connection.
    runs: BTreeMap<NodeId, u64>,
}

impl Admission {
    /// A node without known members.
    pub fn new(me: Identity) -> Admission {
        Admission {
            me,
            machine: "",
            members: Membership::default(),
            no_configuration: true,
            configured: Position::ZERO,
            leader: None,
            former_members: BTreeMap::new(),
            guests: BTreeMap::new(),
            known_disks: BTreeMap::new(),
            runs: BTreeMap::new(),
        }
    }

    /// Sets the state machine of this node.
    pub fn of_machine(self, machine: &'static str) -> Admission {
        Admission { machine, ..self }
    }

    /// This node's identity.
    pub fn me(&self) -> Identity {
        self.me
    }

    /// The members; without a configuration, the addresses to look for one.
    pub fn members(&self) -> &Membership {
        &self.members
    }

    /// The position of the configuration in force.
    pub fn configured(&self) -> Position {
        self.configured
    }

    /// The node that this one follows, if any; itself if it leads.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Sets the leader. A node that follows a leader has the current configuration, or will have it soon; any other
    /// node may be dialed by a leader that it does not know.
    pub fn set_leader(&mut self, leader: Option<NodeId>) {
        self.leader = leader;
    }

    /// Sets the members, by the configuration at that position; `places` gives the addresses to look for one if there
    /// is none. Returns the peers that were added, or added again. The caller closes their connections, so that each
    /// presents its disk again before any of its messages counts.
    pub fn set_members(
        &mut self,
        now: Time,
        membership: &Membership,
        configured: Position,
        places: impl FnOnce() -> Membership,
    ) -> Vec<NodeId> {
        self.configured = configured;
        let no_configuration = membership.members.is_empty();
        let members = if no_configuration { places() } else { membership.clone() };
        let before = std::mem::replace(&mut self.members, members);
        // Places name no disks. (Counter-example: a joiner meets a peer at one of them, and by the time it has the log
        // the peer was added again on another disk, which is not named yet: to the joiner the peer would have stayed
        // the same.)
        let from_places = std::mem::replace(&mut self.no_configuration, no_configuration) && !no_configuration;
        let members = &self.members;
        let stays = |id: NodeId| !from_places && before.stays(id, members);
        let added = members.ids().filter(|id| !stays(*id)).collect();
        self.known_disks.retain(|peer, _| stays(*peer));
        for (id, member) in before.members {
            self.former_members.entry(id).or_insert((member, now + FORMER_MEMBER_GRACE));
        }
        self.former_members.retain(|id, _| !members.members.contains_key(id));
        self.guests.retain(|id, _| !members.members.contains_key(id));
        added
    }

    /// Removes and returns the former members whose time is up; the caller closes their connections in both directions.
    /// A former member that was added again, and leads, dials anew and becomes a guest; any other is refused as a
    /// stranger. (Counter-example: a follower that has not yet received the entry that adds its leader again closes
    /// only its own link. It goes on receiving from the leader and never answers it.)
    pub fn forget_former_members(&mut self, now: Time) -> Vec<NodeId> {
        let due = self.former_members.iter().filter(|(_, (_, until))| *until <= now).map(|(id, _)| *id).collect();
        self.former_members.retain(|_, (_, until)| *until > now);
        due
    }

    /// Whether there are former members to which this node stays connected.
    pub fn has_former_members(&self) -> bool {
        !self.former_members.is_empty()
    }

    /// All peers to connect to, and this node itself: members, former members, guests.
    pub fn peers_to_dial(&self) -> impl Iterator<Item = (&NodeId, &Member)> {
        let leavers = self.former_members.iter().map(|(id, (member, _))| (id, member));
        self.members.members.iter().chain(leavers).chain(&self.guests)
    }

    /// The Hello that this node sends when it dials that peer; `address` is where peers reach this node.
    pub fn hello(&self, peer: NodeId, address: &str) -> Hello {
        let Identity { node, cluster, disk, run } = self.me;
        Hello::peer(cluster, node, disk, run, peer).at(address).holding(self.holds()).of_machine(self.machine)
    }

    /// The Welcome with which this node answers a Hello that it accepts.
    pub fn welcome(&self, version: u16) -> Welcome {
        let Identity { node, cluster, disk, .. } = self.me;
        Welcome { version, cluster, node, disk, holds: self.holds() }
    }

    /// The log and the configuration of this node, as sent to peers.
    fn holds(&self) -> PeerLogState {
        PeerLogState { log: self.members.agreed_log(), configured: self.configured }
    }

    /// Whether a caller is admitted: the protocol version to use, or the reason for the refusal.
    pub fn check_hello(&self, hello: &Hello, circumstances: HelloContext) -> Result<u16, Reason> {
        let version = hello.version().ok_or(Reason::Version)?;
        if hello.cluster.is_some_and(|cluster| cluster != self.me.cluster) {
            return Err(Reason::Cluster);
        }
        if hello.target.is_some_and(|target| target != self.me.node) {
            return Err(Reason::Target);
        }
        if circumstances.stopping {
            return Err(Reason::Stopping);
        }
        if !hello.machine.is_empty() && !self.machine.is_empty() && hello.machine != self.machine {
            return Err(Reason::Machine);
        }
        match hello.caller {
            CallerKind::Peer { .. } if circumstances.unproven => Err(Reason::Unproven),
            CallerKind::Peer { node, .. } if node == self.me.node => Err(Reason::Double),
            CallerKind::Peer { node, .. } if !self.is_spoken_to(node) && !self.accepts_guest(node) => {
                Err(Reason::Stranger)
            }
            CallerKind::Peer { .. } if hello.cluster.is_none() => Err(Reason::Cluster),
            CallerKind::Peer { node, disk, run, holds } => match self.class_of(node, disk, holds) {
                PeerClass::Refused(Refused::Disk { .. }) => Err(Reason::Disk),
                PeerClass::Refused(Refused::Log { .. } | Refused::NoLog) => Err(Reason::Log),
                // The peer has an open connection, and another process claims to be that peer.
                PeerClass::Full | PeerClass::LeaderOnly
                    if self.runs.get(&node).is_some_and(|known| *known != run.id) =>
                {
                    Err(Reason::Twin)
                }
                PeerClass::Full | PeerClass::LeaderOnly => Ok(version),
            },
            CallerKind::Client | CallerKind::Operator if circumstances.full => Err(Reason::Full),
            CallerKind::Client | CallerKind::Operator => Ok(version),
        }
    }

    /// Whether that peer is a member, or was one until recently. Messages of a former member are accepted as long as
    /// this node stays connected to it: it may need entries, or a snapshot, before it learns that it was removed, and
    /// the next are sent only when it has acknowledged the last.
    fn is_spoken_to(&self, peer: NodeId) -> bool {
        self.members.members.contains_key(&peer) || self.former_members.contains_key(&peer)
    }

    /// Whether to admit a stranger of this cluster: this node's configuration may be old, and a leader of a newer one
    /// must be able to reach it (votes and entries go by the sender's configuration, §6). Not while this node follows
    /// another leader: then the stranger was removed, and the refusal informs it.
    fn accepts_guest(&self, peer: NodeId) -> bool {
        self.leader.is_none_or(|leader| leader == peer) && self.guests.len() < MEMBERS_MAX
    }

    /// The log of a peer that dialed this node by id, if it differs from this node's log, or this node has none.
    pub fn other_log(&self, hello: &Hello) -> Option<LogId> {
        let CallerKind::Peer { holds: PeerLogState { log: Some(log), .. }, .. } = hello.caller else { return None };
        (hello.target == Some(self.me.node) && self.members.agreed_log() != Some(log)).then_some(log)
    }

    /// Records a peer that was admitted with that Hello. Returns the disk it is met with, if its messages count from
    /// now on, and whether it is a guest that has to be dialed.
    pub fn admit(&mut self, hello: &Hello) -> (Option<DiskId>, bool) {
        let CallerKind::Peer { node, disk, run, holds } = hello.caller else { return (None, false) };
        self.runs.insert(node, run.id);
        let met = self.record_disk(node, disk, holds);
        let is_guest = !self.is_spoken_to(node);
        if is_guest {
            self.guests.insert(node, Member::at(hello.address.clone()));
        }
        (met, is_guest)
    }

    /// Handles the end of a peer's inbound connection. Returns whether it was a guest, which need not be dialed
    /// any longer.
    pub fn gone(&mut self, peer: NodeId) -> bool {
        self.runs.remove(&peer);
        self.guests.remove(&peer).is_some()
    }

    /// Handles the Welcome of a peer that this node dialed. Returns the disk it is met with, if its messages count from
    /// now on; or why to close the connection.
    pub fn welcomed(&mut self, peer: NodeId, welcome: &Welcome) -> Result<Option<DiskId>, WelcomeError> {
        if welcome.node != peer || welcome.cluster != self.me.cluster {
            return Err(WelcomeError::Stranger);
        }
        match self.class_of(peer, welcome.disk, welcome.holds) {
            PeerClass::Full | PeerClass::LeaderOnly => Ok(self.record_disk(peer, welcome.disk, welcome.holds)),
            PeerClass::Refused(Refused::Disk { .. }) => Err(WelcomeError::Disk),
            PeerClass::Refused(Refused::Log { .. } | Refused::NoLog) => Err(WelcomeError::Log),
        }
    }

    /// Records the disk of a member, unless it is known by another one and is accepted as leader only.
    fn record_disk(&mut self, peer: NodeId, disk: DiskId, holds: PeerLogState) -> Option<DiskId> {
        if self.class_of(peer, disk, holds) != PeerClass::Full {
            return None;
        }
        if self.members.members.contains_key(&peer) {
            self.known_disks.entry(peer).or_insert(disk);
        }
        Some(disk)
    }

    /// The disk that peer is known by, if any.
    pub fn known_disk(&self, peer: NodeId) -> Option<DiskId> {
        self.members.disk(peer).or(self.known_disks.get(&peer).copied())
    }

    /// Classifies a peer by its disk, log and configuration. If the membership names no disk for it, it is known by the
    /// disk that it presented first.
    fn class_of(&self, peer: NodeId, disk: DiskId, holds: PeerLogState) -> PeerClass {
        let ours = Standpoint { membership: &self.members, configured: self.configured };
        let origin = Origin { disk: Some(disk), log: holds.log };
        let introduction = Introduction { node: peer, origin, configured: Some(holds.configured) };
        classify_peer(ours, self.known_disks.get(&peer).copied(), &introduction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn admission(node: u64, members: u64) -> Admission {
        let me =
            Identity { node: id(node), cluster: ClusterId(9), disk: DiskId(node), run: Run { id: node, starts: 1 } };
        let mut admission = Admission::new(me);
        let membership = Membership::founding((1..=members).map(|n| (id(n), format!("n{n}:1"))));
        admission.set_members(Time::ZERO, &membership, Position::ZERO, Membership::default);
        admission
    }

    #[test]
    fn peer_is_bound_to_the_disk_it_first_presented() {
        let (mut one, two) = (admission(1, 3), admission(2, 3));
        let hello = two.hello(id(1), "n2:1");
        assert!(one.check_hello(&hello, HelloContext::default()).is_ok());
        assert_eq!(one.admit(&hello), (Some(DiskId(2)), false));
        let mut emptied = two.clone();
        emptied.me.disk = DiskId(1002);
        assert_eq!(one.check_hello(&emptied.hello(id(1), ""), HelloContext::default()), Err(Reason::Disk));
        assert_eq!(one.welcomed(id(2), &emptied.welcome(4)), Err(WelcomeError::Disk));
        assert_eq!(one.welcomed(id(2), &two.welcome(4)), Ok(Some(DiskId(2))));
        assert_eq!(one.welcomed(id(3), &two.welcome(4)), Err(WelcomeError::Stranger));
    }

    /// Seed 2199025001226 with `--members`: a joiner that became leader refused a learner's disk for good.
    #[test]
    fn disk_learned_before_a_configuration_may_change() {
        let (mut joiner, two) = (admission(1, 0), admission(2, 3));
        let members = two.members().clone();
        joiner.set_members(Time::ZERO, &Membership::default(), Position::ZERO, || members.clone());
        assert_eq!(joiner.admit(&two.hello(id(1), "n2:1")), (Some(DiskId(2)), false));
        let mut emptied = two.clone();
        emptied.me.disk = DiskId(1002);
        let judges = |joiner: &Admission| joiner.check_hello(&emptied.hello(id(1), ""), HelloContext::default());
        assert_eq!(judges(&joiner), Err(Reason::Disk));
        let added = joiner.set_members(Time::ZERO, &members, Position::ZERO, Membership::default);
        assert_eq!(added, [id(1), id(2), id(3)], "each peer introduces its disk again");
        assert!(judges(&joiner).is_ok());
    }

    #[test]
    fn second_process_of_a_peer_is_refused_until_the_first_ends() {
        let (mut one, two) = (admission(1, 3), admission(2, 3));
        one.admit(&two.hello(id(1), ""));
        let mut twin = two.clone();
        twin.me.run.id = 77;
        assert_eq!(one.check_hello(&twin.hello(id(1), ""), HelloContext::default()), Err(Reason::Twin));
        assert!(one.check_hello(&two.hello(id(1), ""), HelloContext::default()).is_ok(), "the same process redials");
        assert!(!one.gone(id(2)));
        assert!(one.check_hello(&twin.hello(id(1), ""), HelloContext::default()).is_ok());
    }

    #[test]
    fn peer_with_another_state_machine_is_refused() {
        let (one, two) = (admission(1, 3).of_machine("kv 1"), admission(2, 3));
        let judges =
            |machine| one.check_hello(&two.clone().of_machine(machine).hello(id(1), ""), HelloContext::default());
        assert_eq!(judges("kv 2"), Err(Reason::Machine));
        assert!(judges("kv 1").is_ok() && judges("").is_ok());
        assert!(admission(1, 3).check_hello(&two.of_machine("kv 1").hello(id(1), ""), HelloContext::default()).is_ok());
    }

    #[test]
    fn stranger_is_admitted_as_guest_only_without_a_leader() {
        let (mut one, nine) = (admission(1, 3), admission(9, 9));
        let hello = nine.hello(id(1), "n9:1");
        one.set_leader(Some(id(2)));
        assert_eq!(one.check_hello(&hello, HelloContext::default()), Err(Reason::Stranger));
        one.set_leader(None);
        assert!(one.check_hello(&hello, HelloContext::default()).is_ok());
        assert!(one.admit(&hello).1);
        assert!(one.peers_to_dial().any(|(peer, member)| *peer == id(9) && member.address == "n9:1"));
        assert!(one.gone(id(9)));
    }

    #[test]
    fn removed_member_stays_connected_for_a_while() {
        let mut one = admission(1, 3);
        let fewer = Membership::founding((1..=2).map(|n| (id(n), format!("n{n}:1"))));
        assert!(one.set_members(Time(5), &fewer, Position::ZERO, Membership::default).is_empty());
        assert!(one.peers_to_dial().any(|(peer, _)| *peer == id(3)));
        // Its messages are accepted for as long, also on a new connection: it may need a snapshot to learn of its
        // removal.
        one.set_leader(Some(id(1)));
        let hello = admission(3, 3).hello(id(1), "n3:1");
        assert!(one.check_hello(&hello, HelloContext::default()).is_ok());
        assert!(!one.admit(&hello).1, "the peer is dialed already");
        assert_eq!(one.forget_former_members(Time(6)), []);
        assert_eq!(one.forget_former_members(Time(5) + FORMER_MEMBER_GRACE), [id(3)], "its connections are closed");
        assert!(one.peers_to_dial().all(|(peer, _)| *peer != id(3)));
        assert_eq!(one.check_hello(&hello, HelloContext::default()), Err(Reason::Stranger));
    }

    /// Seed 2199023300540 of ten seconds: messages of the peer were accepted forever, and never answered again.
    #[test]
    fn former_member_that_leads_is_admitted_as_guest() {
        let mut one = admission(1, 3);
        let fewer = Membership::founding((1..=2).map(|n| (id(n), format!("n{n}:1"))));
        one.set_members(Time(5), &fewer, Position::ZERO, Membership::default);
        let hello = admission(3, 3).hello(id(1), "n3:1");
        assert!(!one.admit(&hello).1, "the peer is dialed as a former member");
        // Its connections are closed then, so it dials anew.
        one.forget_former_members(Time(5) + FORMER_MEMBER_GRACE);
        one.gone(id(3));
        one.set_leader(Some(id(3)));
        assert!(one.check_hello(&hello, HelloContext::default()).is_ok());
        assert!(one.admit(&hello).1);
        assert!(one.peers_to_dial().any(|(peer, _)| *peer == id(3)));
    }
}
