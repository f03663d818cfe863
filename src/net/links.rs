//! The outbound link to each peer: its addresses, its state, and the time of its next dial.

use super::options::Options;
use crate::types::{NodeId, Time};
use mio::Token;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// The outbound links of a node, one to each peer.
#[derive(Debug)]
pub struct OutboundLinks {
    me: NodeId,
    links: BTreeMap<NodeId, OutboundLink>,
    redial_pause_max: Duration,
}

/// The outbound link to one peer.
#[derive(Debug)]
pub struct OutboundLink {
    /// The addresses of the peer, in the order in which they are dialed; the first is in use or next. A host name is
    /// resolved again for each attempt. Never empty.
    addresses: VecDeque<String>,
    /// Whether the link is down, waits for a host name, is being dialed, or is up.
    pub state: LinkState,
    /// The number of failures since the link was last up. It sets the pause before the next dial.
    pub failures_since_up: u32,
    /// The number of all attempts that failed to connect. It selects which address of a resolved name is dialed, so the
    /// attempts rotate. The loss of a link that was up does not count: the same address is dialed again.
    connect_failures: usize,
}

/// The state of an outbound link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// Not connected; the time of the next dial.
    Down(Time),
    /// The host name is being resolved on another thread.
    Resolving,
    /// The peer was dialed on the connection with this token, and has not answered the hello yet.
    Dialed(Token),
    /// The peer accepted the connection with this token. Messages are sent on it.
    Up(Token),
}

impl OutboundLinks {
    /// Creates the links of node `me`, without a peer yet.
    pub fn new(me: NodeId, options: &Options) -> OutboundLinks {
        OutboundLinks { me, links: BTreeMap::new(), redial_pause_max: options.redial_pause_max }
    }

    /// Sets the peers and their addresses: each peer, except this node itself, has exactly one link. Returns the
    /// connections of removed links, and of links whose address is no longer listed, for the caller to close.
    pub fn set_peers(&mut self, addresses_by_peer: BTreeMap<NodeId, Vec<String>>) -> Vec<Token> {
        let mut orphan_connections = Vec::new();
        self.links.retain(|peer, link| match addresses_by_peer.get(peer) {
            // A link is kept, whatever its state, if the address that it uses is still listed.
            Some(addresses) if addresses.contains(link.addresses.front().unwrap_or(&String::new())) => true,
            _ => {
                orphan_connections.extend(link.token());
                false
            }
        });
        for (peer, addresses) in addresses_by_peer.into_iter().filter(|(peer, all)| *peer != self.me && !all.is_empty())
        {
            let new_link = OutboundLink {
                addresses: VecDeque::new(),
                state: LinkState::Down(Time::ZERO),
                failures_since_up: 0,
                connect_failures: 0,
            };
            let link = self.links.entry(peer).or_insert(new_link);
            let current_address = link.addresses.front().cloned();
            link.addresses = addresses.into();
            if let Some(at) =
                current_address.and_then(|current_address| link.addresses.iter().position(|a| *a == current_address))
            {
                link.addresses.rotate_left(at);
            }
        }
        orphan_connections
    }

    /// The link to a peer; `None` if the peer has no known address.
    pub fn get(&self, peer: NodeId) -> Option<&OutboundLink> {
        self.links.get(&peer)
    }

    /// The connection to a peer; `None` unless the link is up.
    pub fn connection(&self, peer: NodeId) -> Option<Token> {
        match self.links.get(&peer)?.state {
            LinkState::Up(token) => Some(token),
            LinkState::Down(_) | LinkState::Resolving | LinkState::Dialed(_) => None,
        }
    }

    /// The connections of all links that are up.
    pub fn connections(&self) -> impl Iterator<Item = (NodeId, Token)> {
        self.links.keys().filter_map(|peer| Some((*peer, self.connection(*peer)?)))
    }

    /// A peer whose link is due to be dialed; `None` if no dial is due.
    pub fn next_peer_to_dial(&self, now: Time) -> Option<NodeId> {
        self.links
            .iter()
            .find(|(_, link)| matches!(link.state, LinkState::Down(at) if at <= now))
            .map(|(peer, _)| *peer)
    }

    /// When the next link is due to be dialed; never if no link is down.
    pub fn next_dial_at(&self) -> Time {
        let redial_at = |link: &OutboundLink| match link.state {
            LinkState::Down(at) => Some(at),
            LinkState::Resolving | LinkState::Dialed(_) | LinkState::Up(_) => None,
        };
        self.links.values().filter_map(redial_at).min().unwrap_or(Time::NEVER)
    }

    /// Records that the peer's host name is being resolved.
    pub fn mark_resolving(&mut self, peer: NodeId) {
        self.set_state(peer, LinkState::Resolving);
    }

    /// Records that the peer was dialed on the connection with the token `token`.
    pub fn mark_dialed(&mut self, peer: NodeId, token: Token) {
        self.set_state(peer, LinkState::Dialed(token));
    }

    /// Records that the peer accepted the connection: the link is up.
    pub fn mark_up(&mut self, peer: NodeId, token: Token) {
        self.set_state(peer, LinkState::Up(token));
        if let Some(link) = self.links.get_mut(&peer) {
            link.failures_since_up = 0;
        }
    }

    /// Records that the link was lost or could not connect. The next dial follows after a pause with random jitter,
    /// which doubles with each failure up to the maximum.
    pub fn mark_down(&mut self, peer: NodeId, now: Time) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.failures_since_up = link.failures_since_up.saturating_add(1);
        if !matches!(link.state, LinkState::Up(_)) {
            link.connect_failures = link.connect_failures.wrapping_add(1);
        }
        // The peer may be reachable at its next address.
        link.addresses.rotate_left(1);
        let pause_max_ms = (5 << link.failures_since_up.min(6)).min(self.redial_pause_max.as_millis() as u64).max(2);
        link.state = LinkState::Down(now + Duration::from_millis(rand::random_range(pause_max_ms / 2..=pause_max_ms)));
    }

    /// Schedules the next dial for now if the link is down. Called when the peer has just connected, and so is
    /// reachable.
    pub fn dial_now(&mut self, peer: NodeId, now: Time) {
        if let Some(link) = self.links.get_mut(&peer)
            && matches!(link.state, LinkState::Down(_))
        {
            link.state = LinkState::Down(now);
        }
    }

    fn set_state(&mut self, peer: NodeId, state: LinkState) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.state = state;
        }
    }
}

impl OutboundLink {
    /// The address, as `HOST:PORT`, that the link uses or dials next.
    pub fn address(&self) -> &str {
        self.addresses.front().map_or("", String::as_str)
    }

    /// Selects one of the resolved addresses of the peer's host name, the next one after each failed attempt: only one
    /// of several may answer. `None` if `resolved` is empty.
    pub fn select_address(&self, resolved: &[SocketAddr]) -> Option<SocketAddr> {
        let address_index = self.connect_failures / self.addresses.len().max(1);
        resolved.get(address_index % resolved.len().max(1)).copied()
    }

    /// The connection on which the link is dialed or up; `None` if the link has none.
    pub fn token(&self) -> Option<Token> {
        match self.state {
            LinkState::Dialed(token) | LinkState::Up(token) => Some(token),
            LinkState::Down(_) | LinkState::Resolving => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    #[test]
    fn broken_link_is_redialed_within_the_maximum_pause() {
        let options = Options::default();
        let mut links = OutboundLinks::new(id(1), &options);
        let peers_at = |addresses: &[&str]| {
            BTreeMap::from([
                (id(1), vec!["a:1".into()]),
                (id(2), addresses.iter().map(|address| address.to_string()).collect()),
            ])
        };
        assert!(links.set_peers(peers_at(&["b:1"])).is_empty());
        let mut now = Time::ZERO;
        for _ in 0..100 {
            assert_eq!(links.next_peer_to_dial(now), Some(id(2)));
            links.mark_dialed(id(2), Token(7));
            assert_eq!((links.next_peer_to_dial(now), links.next_dial_at()), (None, Time::NEVER));
            links.mark_down(id(2), now);
            assert!(links.next_dial_at() <= now + options.redial_pause_max);
            now = links.next_dial_at();
        }
        links.mark_dialed(id(2), Token(8));
        links.mark_up(id(2), Token(8));
        assert_eq!(links.connection(id(2)), Some(Token(8)));
        // The peer has another address: the connection to the old one is closed.
        assert_eq!(links.set_peers(peers_at(&["c:1"])), vec![Token(8)]);
        assert_eq!(links.next_peer_to_dial(now), Some(id(2)));
        // With two addresses for a peer, each is dialed in turn.
        assert!(links.set_peers(peers_at(&["d:1", "c:1"])).is_empty());
        let mut dialed = Vec::new();
        for _ in 0..4 {
            dialed.push(links.get(id(2)).unwrap().address().to_owned());
            links.mark_dialed(id(2), Token(9));
            links.mark_down(id(2), now);
        }
        assert_eq!(dialed, ["c:1", "d:1", "c:1", "d:1"]);
    }

    /// Regression: of two addresses, the first never answered and was dialed for ever.
    #[test]
    fn all_resolved_addresses_are_dialed_in_turn() {
        let mut links = OutboundLinks::new(id(1), &Options::default());
        links.set_peers(BTreeMap::from([(id(2), vec!["b:1".into(), "c:1".into()])]));
        let resolved: [SocketAddr; 3] =
            ["[::1]:1", "127.0.0.1:1", "127.0.0.2:1"].map(|address| address.parse().unwrap());
        let mut dialed = Vec::new();
        for _ in 0..6 {
            let link = links.get(id(2)).unwrap();
            dialed.push((link.address().to_owned(), link.select_address(&resolved).unwrap()));
            links.mark_dialed(id(2), Token(9));
            links.mark_down(id(2), Time::ZERO);
        }
        let distinct = dialed.iter().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(distinct.len(), 6, "{dialed:?}");
        // After a link breaks, it is dialed again at the address that answered.
        links.mark_dialed(id(2), Token(9));
        links.mark_up(id(2), Token(9));
        let address = links.get(id(2)).unwrap().select_address(&resolved);
        links.mark_down(id(2), Time::ZERO);
        assert_eq!(links.get(id(2)).unwrap().select_address(&resolved), address);
        assert_eq!(links.get(id(2)).unwrap().select_address(&[]), None);
    }
}
