//! Classification of peers: *accept by term, count by disk*.
//!
//! An id may belong to several disks in the course of a log: a member is removed, loses its disk, and is added again
//! under its id. To the algorithm a server is therefore an id *and* a disk. It follows:
//!
//! * The parts of a quorum (votes, acknowledgments, answers to a read round) count only from the disk that the
//!   counting node's configuration names for that id. A voter with another disk, or whose disk is not named yet, is a
//!   missing answer: the size of the quorum does not change.
//! * A leader's messages are accepted from any disk of the same log: a quorum voted for that leader in that term, and
//!   the disk that the receiver knows the leader by is no part of the proof. (Counter-example: a follower that was away
//!   while its leader was removed and added again on a new disk could never learn of it, because only the leader could
//!   send it the change.)
//! * A vote is given to an id and a disk: the same id on another disk is another candidate.
//! * Nodes of two logs exchange nothing at all. (Counter-example: a founder that lost its disk and was started as at
//!   first founds a second log; in a higher term it would make the holder of the first truncate committed entries.)

use super::message::Origin;
use crate::types::{DiskId, LogId, Membership, NodeId, Position};
use std::fmt;

/// Which messages of a peer are accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerClass {
    /// All its messages are accepted; they count if the configuration names its disk.
    Full,
    /// The configuration names another disk for its id: its messages as leader and as candidate are accepted, and none
    /// of its messages counts.
    LeaderOnly,
    /// No message is accepted.
    Refused(Refused),
}

/// Why a peer's messages are rejected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It belongs to another log.
    Log {
        /// Its log id.
        theirs: LogId,
    },
    /// It leads, and does not hold the agreed log of this node.
    NoLog,
    /// It comes with another disk than the one it is known by, and without a later configuration that could explain it.
    Disk {
        /// The disk it is known by.
        known: DiskId,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Log { theirs } => write!(f, "it belongs to another log, {theirs}"),
            Refused::NoLog => write!(f, "it leads but does not hold this log"),
            Refused::Disk { known } => write!(f, "its disk is not {known}, the one recorded for it"),
        }
    }
}

/// A node's own state for the classification of its peers.
#[derive(Clone, Copy, Debug)]
pub struct Standpoint<'a> {
    /// The configuration in force.
    pub membership: &'a Membership,
    /// The position of the entry with that configuration.
    pub configured: Position,
}

/// A peer's own account of its identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Introduction {
    /// Its id.
    pub node: NodeId,
    /// Its disk and its log.
    pub origin: Origin,
    /// The position of its configuration; none if only its origin is known, as for a single message.
    pub configured: Option<Position>,
}

/// Classifies a peer by its introduction. `met` is the disk that it presented before, for when the configuration names
/// none.
///
/// Called when a connection is made, and for every message on it.
pub fn classify_peer(ours: Standpoint<'_>, met: Option<DiskId>, peer: &Introduction) -> PeerClass {
    let Origin { disk, log } = peer.origin;
    let our_log = ours.membership.agreed_log();
    if let (Some(ours), Some(theirs)) = (our_log, log)
        && ours != theirs
    {
        return PeerClass::Refused(Refused::Log { theirs });
    }
    let known = ours.membership.disk(peer.node).or(met);
    let (Some(known), Some(disk)) = (known, disk) else { return PeerClass::Full };
    if known == disk {
        return PeerClass::Full;
    }
    // A peer that was emptied has an earlier configuration than this node, or none. A peer that was added again has a
    // later one, which this node has not received yet. Positions are compared within one log only.
    let same_log = our_log.is_none() || our_log == log;
    match peer.configured {
        Some(theirs) if !same_log || theirs <= ours.configured => PeerClass::Refused(Refused::Disk { known }),
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

    fn at(index: u64, term: u64) -> Position {
        Position::new(Index(index), Term(term))
    }

    /// Three voters in log 5. The membership names disk 11 for n1, and no disk for n2.
    fn ours() -> Membership {
        let mut membership = Membership::founding((1..=3).map(|n| (id(n), String::new())));
        membership.members.get_mut(&id(1)).unwrap().disk = Some(DiskId(11));
        (membership.log_id, membership.log_agreed) = (Some(LogId(5)), true);
        membership
    }

    fn class(node: u64, disk: u64, log: Option<u64>, configured: Option<Position>) -> PeerClass {
        let membership = ours();
        let origin = Origin { disk: Some(DiskId(disk)), log: log.map(LogId) };
        let met = (node == 3).then_some(DiskId(33));
        let ours = Standpoint { membership: &membership, configured: at(40, 3) };
        classify_peer(ours, met, &Introduction { node: id(node), origin, configured })
    }

    #[test]
    fn only_the_named_disk_is_classified_full() {
        assert_eq!(class(1, 11, Some(5), Some(at(1, 1))), PeerClass::Full);
        assert_eq!(class(1, 12, Some(5), None), PeerClass::LeaderOnly);
        assert_eq!(class(2, 12, None, Some(at(0, 0))), PeerClass::Full, "no disk is named for it yet");
        assert_eq!(class(3, 34, Some(5), None), PeerClass::LeaderOnly, "its last disk was another one");
    }

    #[test]
    fn peer_with_later_configuration_may_have_another_disk() {
        let refused = PeerClass::Refused(Refused::Disk { known: DiskId(11) });
        assert_eq!(class(1, 12, Some(5), Some(at(41, 3))), PeerClass::LeaderOnly);
        assert_eq!(class(1, 12, Some(5), Some(at(12, 4))), PeerClass::LeaderOnly, "the later term decides (§5.4.1)");
        assert_eq!(class(1, 12, Some(5), Some(at(40, 3))), refused);
        assert_eq!(class(1, 12, None, Some(at(99, 9))), refused, "positions compare within one log only");
    }

    #[test]
    fn peer_of_another_log_is_rejected_on_any_disk() {
        let refused = PeerClass::Refused(Refused::Log { theirs: LogId(6) });
        assert_eq!(class(1, 11, Some(6), None), refused);
        assert_eq!(class(2, 99, Some(6), Some(at(99, 9))), refused);
    }
}
