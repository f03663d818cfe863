//! The outbound link to each peer: its addresses, its state, and when it is dialed.

use super::options::Options;
use crate::types::{NodeId, Time};
use mio::Token;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// The outbound links, one to each peer.
#[derive(Debug)]
pub struct Links {
    me: NodeId,
    links: BTreeMap<NodeId, Link>,
    pause_max: Duration,
}

/// The outbound link to one peer.
#[derive(Debug)]
pub struct Link {
    /// Addresses of the peer, the one to dial next first. A name is resolved again for each attempt. Never empty.
    addresses: VecDeque<String>,
    /// Its state.
    pub state: LinkState,
    /// Failures since it was last up.
    pub failures: u32,
    /// All attempts that failed to connect, ever. The count selects which address of a resolved name is dialed, so
    /// attempts rotate. A link that was up and broke does not count: it is dialed at the same address again.
    missed: usize,
}

/// The state of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// Not connected; to be dialed at that time.
    Down(Time),
    /// Its host name is being resolved.
    Resolving,
    /// Dialed, with no answer to the hello yet.
    Dialed(Token),
    /// Connected.
    Up(Token),
}

impl Links {
    /// No links yet.
    pub fn new(me: NodeId, options: &Options) -> Links {
        Links { me, links: BTreeMap::new(), pause_max: options.dial_pause_max }
    }

    /// Keeps exactly one link to each of these peers, except this node itself. Returns the connections of links that
    /// were removed or have another address.
    pub fn set(&mut self, wanted: BTreeMap<NodeId, Vec<String>>) -> Vec<Token> {
        let mut orphans = Vec::new();
        self.links.retain(|peer, link| match wanted.get(peer) {
            // A link stays, in whatever state, if the address that it uses is still listed.
            Some(addresses) if addresses.contains(link.addresses.front().unwrap_or(&String::new())) => true,
            _ => {
                orphans.extend(link.token());
                false
            }
        });
        for (peer, addresses) in wanted.into_iter().filter(|(peer, all)| *peer != self.me && !all.is_empty()) {
            let fresh = Link { addresses: VecDeque::new(), state: LinkState::Down(Time::ZERO), failures: 0, missed: 0 };
            let link = self.links.entry(peer).or_insert(fresh);
            let current = link.addresses.front().cloned();
            link.addresses = addresses.into();
            if let Some(at) = current.and_then(|current| link.addresses.iter().position(|a| *a == current)) {
                link.addresses.rotate_left(at);
            }
        }
        orphans
    }

    /// The link to a peer, if there is one.
    pub fn get(&self, peer: NodeId) -> Option<&Link> {
        self.links.get(&peer)
    }

    /// The connection to a peer, if its link is up.
    pub fn up(&self, peer: NodeId) -> Option<Token> {
        match self.links.get(&peer)?.state {
            LinkState::Up(token) => Some(token),
            LinkState::Down(_) | LinkState::Resolving | LinkState::Dialed(_) => None,
        }
    }

    /// All links that are up.
    pub fn all_up(&self) -> impl Iterator<Item = (NodeId, Token)> {
        self.links.keys().filter_map(|peer| Some((*peer, self.up(*peer)?)))
    }

    /// A peer whose link is due to be dialed, if there is one.
    pub fn due(&self, now: Time) -> Option<NodeId> {
        self.links
            .iter()
            .find(|(_, link)| matches!(link.state, LinkState::Down(at) if at <= now))
            .map(|(peer, _)| *peer)
    }

    /// When the next link is due to be dialed.
    pub fn deadline(&self) -> Time {
        let at = |link: &Link| match link.state {
            LinkState::Down(at) => Some(at),
            LinkState::Resolving | LinkState::Dialed(_) | LinkState::Up(_) => None,
        };
        self.links.values().filter_map(at).min().unwrap_or(Time::NEVER)
    }

    /// Marks that the peer's name is being resolved.
    pub fn resolving(&mut self, peer: NodeId) {
        self.move_to(peer, LinkState::Resolving);
    }

    /// Marks that the peer was dialed on that connection.
    pub fn dialed(&mut self, peer: NodeId, token: Token) {
        self.move_to(peer, LinkState::Dialed(token));
    }

    /// Marks that the peer accepted the connection.
    pub fn answered(&mut self, peer: NodeId, token: Token) {
        self.move_to(peer, LinkState::Up(token));
        if let Some(link) = self.links.get_mut(&peer) {
            link.failures = 0;
        }
    }

    /// Marks that the link broke or could not connect. It is dialed again after a pause with random jitter.
    pub fn fell(&mut self, peer: NodeId, now: Time) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.failures = link.failures.saturating_add(1);
        if !matches!(link.state, LinkState::Up(_)) {
            link.missed = link.missed.wrapping_add(1);
        }
        // The peer may be at another of its addresses.
        link.addresses.rotate_left(1);
        let longest = (5 << link.failures.min(6)).min(self.pause_max.as_millis() as u64).max(2);
        link.state = LinkState::Down(now + Duration::from_millis(rand::random_range(longest / 2..=longest)));
    }

    /// Dials a peer at once if its link is down, because the peer has just connected.
    pub fn hurry(&mut self, peer: NodeId, now: Time) {
        if let Some(link) = self.links.get_mut(&peer)
            && matches!(link.state, LinkState::Down(_))
        {
            link.state = LinkState::Down(now);
        }
    }

    fn move_to(&mut self, peer: NodeId, state: LinkState) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.state = state;
        }
    }
}

impl Link {
    /// The address that the link uses, or that it dials next.
    pub fn address(&self) -> &str {
        self.addresses.front().map_or("", String::as_str)
    }

    /// Which of the resolved addresses of the peer's name to dial. A name may have several, of which only one answers.
    /// `None` if there are none.
    pub fn pick(&self, found: &[SocketAddr]) -> Option<SocketAddr> {
        let nth = self.missed / self.addresses.len().max(1);
        found.get(nth % found.len().max(1)).copied()
    }

    /// The connection on which the link is dialed or up.
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
        let mut links = Links::new(id(1), &options);
        let at = |all: &[&str]| {
            BTreeMap::from([(id(1), vec!["a:1".into()]), (id(2), all.iter().map(|a| a.to_string()).collect())])
        };
        assert!(links.set(at(&["b:1"])).is_empty());
        let mut now = Time::ZERO;
        for _ in 0..100 {
            assert_eq!(links.due(now), Some(id(2)));
            links.dialed(id(2), Token(7));
            assert_eq!((links.due(now), links.deadline()), (None, Time::NEVER));
            links.fell(id(2), now);
            assert!(links.deadline() <= now + options.dial_pause_max);
            now = links.deadline();
        }
        links.dialed(id(2), Token(8));
        links.answered(id(2), Token(8));
        assert_eq!(links.up(id(2)), Some(Token(8)));
        // The peer has another address: the connection to the old one is closed.
        assert_eq!(links.set(at(&["c:1"])), vec![Token(8)]);
        assert_eq!(links.due(now), Some(id(2)));
        // With two addresses for a peer, each is dialed in turn.
        assert!(links.set(at(&["d:1", "c:1"])).is_empty());
        let mut looked = Vec::new();
        for _ in 0..4 {
            looked.push(links.get(id(2)).unwrap().address().to_owned());
            links.dialed(id(2), Token(9));
            links.fell(id(2), now);
        }
        assert_eq!(looked, ["c:1", "d:1", "c:1", "d:1"]);
    }

    /// Regression: of two addresses, the first never answered and was dialed for ever.
    #[test]
    fn all_resolved_addresses_are_dialed_in_turn() {
        let mut links = Links::new(id(1), &Options::default());
        links.set(BTreeMap::from([(id(2), vec!["b:1".into(), "c:1".into()])]));
        let found: [SocketAddr; 3] = ["[::1]:1", "127.0.0.1:1", "127.0.0.2:1"].map(|address| address.parse().unwrap());
        let mut dialed = Vec::new();
        for _ in 0..6 {
            let link = links.get(id(2)).unwrap();
            dialed.push((link.address().to_owned(), link.pick(&found).unwrap()));
            links.dialed(id(2), Token(9));
            links.fell(id(2), Time::ZERO);
        }
        let each = dialed.iter().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(each.len(), 6, "{dialed:?}");
        // After a link breaks, it is dialed again at the address that answered.
        links.dialed(id(2), Token(9));
        links.answered(id(2), Token(9));
        let address = links.get(id(2)).unwrap().pick(&found);
        links.fell(id(2), Time::ZERO);
        assert_eq!(links.get(id(2)).unwrap().pick(&found), address);
        assert_eq!(links.get(id(2)).unwrap().pick(&[]), None);
    }
}
