//! Options of the Redis gateway, and the view of the cluster that it presents to clients.

use crate::gateway::password::Password;
use crate::types::{ClusterId, NodeId};

/// How a follower handles a command for the state machine that only the leader can execute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FollowerPolicy {
    /// Forwards the command to the leader.
    #[default]
    Forward,
    /// Redirects the client to the leader with the error `MOVED`, as a Redis cluster does.
    Moved,
}

/// What a follower does with commands, which password clients present, and where they are redirected to.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How this node handles commands for the leader while it is a follower.
    pub follower_policy: FollowerPolicy,
    /// The password that a client has to present with `AUTH` or `HELLO`; `None` if no password is required.
    pub password: Option<Password>,
    /// The address of this node's gateway that clients are redirected to, as `HOST:PORT`. `None` if it is the host of
    /// the native address with the listen port, which is wrong if ports are mapped or clients use another host name.
    pub advertised_address: Option<String>,
}

/// The offset of the default Redis port from the native port.
pub const PORT_OFFSET: u16 = 100;

/// The address of a member's Redis gateway, as presented to clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberAddress {
    /// The id of the member.
    pub node: NodeId,
    /// The host name or IP address, without brackets.
    pub host: String,
    /// The port of the Redis gateway.
    pub port: u16,
    /// The native port, presented as the port of Redis's cluster bus.
    pub bus_port: u16,
}

impl MemberAddress {
    /// The address of a member that has announced its gateway in its hello; `None` if the announced address is empty or
    /// invalid. `native_address` is the member's native address.
    pub fn from_announced(node: NodeId, announced: &str, native_address: &str) -> Option<MemberAddress> {
        let ((host, port), (_, bus_port)) = (split_address(announced)?, split_address(native_address)?);
        Some(MemberAddress { node, host, port, bus_port })
    }

    /// The address of a member that has not connected yet: the default Redis port on the host of its native address.
    pub fn with_default_port(node: NodeId, native_address: &str) -> Option<MemberAddress> {
        let (host, bus_port) = split_address(native_address)?;
        Some(MemberAddress { node, host, port: bus_port.checked_add(PORT_OFFSET)?, bus_port })
    }
}

fn split_address(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
}

/// A node's view of itself and its cluster, for commands such as `CLUSTER`, `HELLO` and `INFO`.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// The id of this node.
    pub node: NodeId,
    /// The id of the cluster.
    pub cluster: ClusterId,
    /// The leader that this node follows, the node itself if it leads; `None` without a leader.
    pub leader: Option<NodeId>,
    /// The gateway addresses of all voters with a gateway, the leader's first.
    pub members: Vec<MemberAddress>,
    /// The number of voters, with and without a gateway.
    pub voter_count: usize,
    /// How this node handles commands for the leader while it is a follower.
    pub follower_policy: FollowerPolicy,
    /// The port that this node's gateway listens on.
    pub port: u16,
    /// The number of connected clients of all protocols.
    pub client_count: usize,
    /// The maximum number of connected clients of all protocols.
    pub clients_max: usize,
    /// The number of connections of Redis clients accepted since the start.
    pub accepted_clients: u64,
    /// The number of commands received from Redis clients since the start.
    pub received_commands: u64,
}

impl ClusterView {
    /// Whether this node presents itself as a master. A follower that forwards commands does too, since clients can
    /// send it any command.
    pub fn is_master(&self) -> bool {
        self.follower_policy == FollowerPolicy::Forward || self.leader == Some(self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateway_address_is_announced_or_derived() {
        let node = NodeId::new(2).unwrap();
        let address_parts =
            |member: Option<MemberAddress>| member.map(|member| (member.host, member.port, member.bus_port));
        let with_default_port = |native_address| address_parts(MemberAddress::with_default_port(node, native_address));
        assert_eq!(with_default_port("a:7401"), Some(("a".into(), 7501, 7401)));
        assert_eq!(with_default_port("[::1]:7401"), Some(("::1".into(), 7501, 7401)));
        assert_eq!((with_default_port("a:65500"), with_default_port("a")), (None, None));
        let from_announced = |announced| address_parts(MemberAddress::from_announced(node, announced, "a:7401"));
        assert_eq!(from_announced("redis.example:6379"), Some(("redis.example".into(), 6379, 7401)));
        assert_eq!((from_announced(""), from_announced("nowhere"), from_announced("a:b")), (None, None, None));
    }
}
