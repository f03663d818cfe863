//! What all Redis connections of a node share: how the door is set, and counts.

use crate::net::password::Password;
use crate::types::{ClusterId, NodeId};

/// What a follower does with what only its leader can.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Follower {
    /// Passes it on.
    #[default]
    Forward,
    /// Says where the leader is, as clients of a Redis cluster expect.
    Moved,
}

/// How the door is set.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What a follower does.
    pub follower: Follower,
    /// What a client has to say before anything else.
    pub password: Option<Password>,
    /// Where clients reach this node's gateway, as `HOST:PORT`, if not where it listens: behind a mapping of ports or
    /// names.
    pub advertised: Option<String>,
}

/// A node's Redis port lies so much above its native one, unless it is told otherwise.
pub const PORT_ABOVE: u16 = 100;

/// A member, as clients are told of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberAddress {
    /// Who.
    pub node: NodeId,
    /// Where its Redis door is.
    pub host: String,
    /// At which port.
    pub port: u16,
    /// Its native port: what Redis has a bus of the cluster for.
    pub bus: u16,
}

impl MemberAddress {
    /// The gateway of a member that has announced it there; `None` if that is no address, or empty. Its native address
    /// is `native`.
    pub fn at(node: NodeId, announced: &str, native: &str) -> Option<MemberAddress> {
        let ((host, port), (_, bus)) = (split(announced)?, split(native)?);
        Some(MemberAddress { node, host, port, bus })
    }

    /// The gateway of a member that has announced nothing yet: beside its native address, where it is unless it was told
    /// otherwise.
    pub fn beside(node: NodeId, native: &str) -> Option<MemberAddress> {
        let (host, bus) = split(native)?;
        Some(MemberAddress { node, host, port: bus.checked_add(PORT_ABOVE)?, bus })
    }
}

fn split(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
}

/// What a node knows of itself and its cluster, for those who ask about that.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// This node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The voters that have a gateway, and where it is; the leader first.
    pub places: Vec<MemberAddress>,
    /// How many voters there are.
    pub voters: usize,
    /// What this node does with what only the leader can.
    pub follower: Follower,
    /// The port of this node's gateway.
    pub port: u16,
    /// How many clients there are.
    pub clients: usize,
    /// How many there may be.
    pub clients_max: usize,
    /// How many connections Redis clients have made.
    pub accepted: u64,
    /// How many commands were asked.
    pub commands: u64,
}

impl ClusterView {
    /// Whether clients take this node for one that others replicate. A follower that passes on what only the leader can
    /// is as good as the leader to them.
    pub fn is_master(&self) -> bool {
        self.follower == Follower::Forward || self.leader == Some(self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_where_they_were_announced_or_beside_native_ports() {
        let node = NodeId::new(2).unwrap();
        let words = |place: Option<MemberAddress>| place.map(|place| (place.host, place.port, place.bus));
        let beside = |native| words(MemberAddress::beside(node, native));
        assert_eq!(beside("a:7401"), Some(("a".into(), 7501, 7401)));
        assert_eq!(beside("[::1]:7401"), Some(("::1".into(), 7501, 7401)));
        assert_eq!((beside("a:65500"), beside("a")), (None, None));
        let at = |announced| words(MemberAddress::at(node, announced, "a:7401"));
        assert_eq!(at("redis.example:6379"), Some(("redis.example".into(), 6379, 7401)));
        assert_eq!((at(""), at("nowhere"), at("a:b")), (None, None, None));
    }
}
