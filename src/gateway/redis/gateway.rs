//! State shared by all Redis connections of a node: options, and its view of the cluster.

use crate::gateway::password::Password;
use crate::types::{ClusterId, NodeId};

/// How a follower handles a command that only the leader can.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Follower {
    /// Forwards it to the leader.
    #[default]
    Forward,
    /// Redirects the client to the leader, as a Redis cluster does.
    Moved,
}

/// Options of the gateway.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How a follower handles commands for the leader.
    pub follower: Follower,
    /// The password that a client has to present first.
    pub password: Option<Password>,
    /// The advertised address of this node's gateway, as `HOST:PORT`, if it differs from where the gateway listens, as
    /// with mapped ports or names.
    pub advertised: Option<String>,
}

/// The default Redis port is this much above the native port.
pub const PORT_ABOVE: u16 = 100;

/// A member's address, as presented to clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberAddress {
    /// The member.
    pub node: NodeId,
    /// The host of its Redis gateway.
    pub host: String,
    /// The port of its Redis gateway.
    pub port: u16,
    /// Its native port, presented as the port of Redis's cluster bus.
    pub bus: u16,
}

impl MemberAddress {
    /// The address of a member that has announced its gateway; `None` if the announced address is empty or invalid.
    /// `native` is its native address.
    pub fn at(node: NodeId, announced: &str, native: &str) -> Option<MemberAddress> {
        let ((host, port), (_, bus)) = (split(announced)?, split(native)?);
        Some(MemberAddress { node, host, port, bus })
    }

    /// The address of a member that has announced nothing yet: the default port above its native address.
    pub fn beside(node: NodeId, native: &str) -> Option<MemberAddress> {
        let (host, bus) = split(native)?;
        Some(MemberAddress { node, host, port: bus.checked_add(PORT_ABOVE)?, bus })
    }
}

fn split(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
}

/// What a node knows of itself and its cluster.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// This node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The leader, if the node knows it.
    pub leader: Option<NodeId>,
    /// The gateway addresses of the voters that have one, the leader first.
    pub places: Vec<MemberAddress>,
    /// The number of voters.
    pub voters: usize,
    /// How this node handles commands for the leader.
    pub follower: Follower,
    /// The port of this node's gateway.
    pub port: u16,
    /// The number of connected clients.
    pub clients: usize,
    /// The maximum number of clients.
    pub clients_max: usize,
    /// How many connections of Redis clients were accepted.
    pub accepted: u64,
    /// How many commands were received.
    pub commands: u64,
}

impl ClusterView {
    /// Whether this node presents itself as a master. A follower that forwards commands serves clients as well as the
    /// leader.
    pub fn is_master(&self) -> bool {
        self.follower == Follower::Forward || self.leader == Some(self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateway_address_is_announced_or_derived() {
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
