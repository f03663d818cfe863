//! Classification of peers: *accept by term, count by disk*.
//!
//! A node id may belong to several disks in the life of a log: a member is removed, loses its disk, and is added again
//! under its id. For Raft a server is therefore a node id *and* a disk. Four rules follow:
//!
//! * The parts of a quorum (votes, acknowledgments, answers to a read round) count only from the disk that the counting
//!   node's configuration names for that id. A message of a voter with another disk, or whose disk is not named yet,
//!   counts as a missing answer: the size of the quorum does not change.
//! * A leader's messages are accepted from any disk of the same log: a quorum voted for that leader in that term,
//!   whatever disk the receiver has recorded for it. (Counter-example: a follower was disconnected while its leader was
//!   removed and added again on a new disk. It could never learn of this change, because only the leader can send it
//!   the entry.)
//! * A vote is given to an id and a disk: the same id on another disk is another candidate.
//! * Nodes of two logs exchange no Raft messages. (Counter-example: a founder that lost its disk and was started with
//!   the founding configuration again begins a second log. In a higher term it would make the holder of the first log
//!   truncate committed entries.)

use super::message::Origin;
use crate::types::{DiskId, LogId, Membership, NodeId, Position};
use std::fmt;

/// The class of a peer: which of its messages are accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerClass {
    /// All messages are accepted. They count for quorums if the configuration names the peer's disk.
    Accepted,
    /// The configuration names another disk for the peer's id. Its messages as leader and as candidate are accepted,
    /// but none of its messages counts for a quorum.
    LeaderOnly,
    /// No message is accepted, for this reason.
    Rejected(PeerRejection),
}

/// Why a peer's messages are rejected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerRejection {
    /// The peer belongs to another log.
    OtherLog {
        /// The id of the peer's log.
        peer_log: LogId,
    },
    /// The peer leads or campaigns, and does not hold the agreed log of this node.
    LacksLog,
    /// The peer has another disk than the one recorded for it, and no later configuration that could name the new disk.
    OtherDisk {
        /// The disk recorded for the peer's id.
        recorded_disk: DiskId,
    },
}

impl fmt::Display for PeerRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerRejection::OtherLog { peer_log } => write!(f, "it belongs to another log, {peer_log}"),
            PeerRejection::LacksLog => write!(f, "it leads or campaigns, and does not hold this node's log"),
            PeerRejection::OtherDisk { recorded_disk } => {
                write!(f, "its disk is not {recorded_disk}, the one recorded for it")
            }
        }
    }
}

/// This node's configuration, by which it classifies its peers.
#[derive(Clone, Copy, Debug)]
pub struct LocalView<'a> {
    /// The configuration in force on this node.
    pub membership: &'a Membership,
    /// The position of the entry with `membership`.
    pub configuration_position: Position,
}

/// The identity that a peer reports, in its handshake or with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerIdentity {
    /// The node id that the peer claims.
    pub node: NodeId,
    /// The peer's disk and log.
    pub origin: Origin,
    /// The position of the peer's configuration; `None` for a message, which carries only the origin.
    pub configuration_position: Option<Position>,
}

/// Classifies a peer by the identity that it reports. `presented_disk` is the disk that the peer presented before. It
/// is used where the configuration names no disk.
///
/// Called when a connection is made, and for every message on the connection.
pub fn classify_peer(local_view: LocalView<'_>, presented_disk: Option<DiskId>, peer: &PeerIdentity) -> PeerClass {
    let Origin { disk, log } = peer.origin;
    let local_log = local_view.membership.agreed_log_id();
    if let (Some(local_log), Some(peer_log)) = (local_log, log)
        && local_log != peer_log
    {
        return PeerClass::Rejected(PeerRejection::OtherLog { peer_log });
    }
    let recorded_disk = local_view.membership.disk(peer.node).or(presented_disk);
    let (Some(recorded_disk), Some(disk)) = (recorded_disk, disk) else { return PeerClass::Accepted };
    if recorded_disk == disk {
        return PeerClass::Accepted;
    }
    // A peer whose disk was emptied has an earlier configuration than this node, or none. A peer that was added again
    // has a later configuration, which this node has not received yet. Positions are compared within one log only.
    let is_same_log = local_log.is_none() || local_log == log;
    match peer.configuration_position {
        Some(peer_position) if !is_same_log || peer_position <= local_view.configuration_position => {
            PeerClass::Rejected(PeerRejection::OtherDisk { recorded_disk })
        }
        Some(_) | None => PeerClass::LeaderOnly,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Index, Term};

    fn id(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn position(index: u64, term: u64) -> Position {
        Position::new(Index(index), Term(term))
    }

    /// Three voters in log 5. The membership names disk 11 for n1, and no disk for n2.
    fn local_membership() -> Membership {
        let mut membership = Membership::founding((1..=3).map(|n| (id(n), String::new())));
        membership.members.get_mut(&id(1)).unwrap().disk = Some(DiskId(11));
        (membership.log_id, membership.log_agreed) = (Some(LogId(5)), true);
        membership
    }

    fn classify(node: u64, disk: u64, log: Option<u64>, configuration_position: Option<Position>) -> PeerClass {
        let membership = local_membership();
        let origin = Origin { disk: Some(DiskId(disk)), log: log.map(LogId) };
        let presented_disk = (node == 3).then_some(DiskId(33));
        let local_view = LocalView { membership: &membership, configuration_position: position(40, 3) };
        classify_peer(local_view, presented_disk, &PeerIdentity { node: id(node), origin, configuration_position })
    }

    #[test]
    fn peer_on_another_disk_than_the_recorded_one_is_leader_only() {
        assert_eq!(classify(1, 11, Some(5), Some(position(1, 1))), PeerClass::Accepted);
        assert_eq!(classify(1, 12, Some(5), None), PeerClass::LeaderOnly);
        assert_eq!(classify(2, 12, None, Some(position(0, 0))), PeerClass::Accepted, "no disk is named for n2 yet");
        assert_eq!(classify(3, 34, Some(5), None), PeerClass::LeaderOnly, "n3 presented another disk before");
    }

    #[test]
    fn peer_with_later_configuration_may_have_another_disk() {
        let rejected = PeerClass::Rejected(PeerRejection::OtherDisk { recorded_disk: DiskId(11) });
        assert_eq!(classify(1, 12, Some(5), Some(position(41, 3))), PeerClass::LeaderOnly);
        assert_eq!(
            classify(1, 12, Some(5), Some(position(12, 4))),
            PeerClass::LeaderOnly,
            "the position of the later term is higher (§5.4.1)"
        );
        assert_eq!(classify(1, 12, Some(5), Some(position(40, 3))), rejected);
        assert_eq!(
            classify(1, 12, None, Some(position(99, 9))),
            rejected,
            "positions are compared within one log only"
        );
    }

    #[test]
    fn peer_of_another_log_is_rejected_on_any_disk() {
        let rejected = PeerClass::Rejected(PeerRejection::OtherLog { peer_log: LogId(6) });
        assert_eq!(classify(1, 11, Some(6), None), rejected);
        assert_eq!(classify(2, 99, Some(6), Some(position(99, 9))), rejected);
    }
}
