//! One outgoing link to each peer: whom to dial, when, and where it stands.

use super::options::Options;
use crate::types::{NodeId, Time};
use mio::Token;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// The outgoing links, one to each peer.
#[derive(Debug)]
pub struct Links {
    me: NodeId,
    links: BTreeMap<NodeId, Link>,
    pause_max: Duration,
}

/// The outgoing link to one peer.
#[derive(Debug)]
pub struct Link {
    /// Where it may be reached, the one to be dialed next first: resolved again each time. Never empty.
    addresses: VecDeque<String>,
    /// Where it stands.
    pub state: LinkState,
    /// Attempts since it was last up.
    pub failures: u32,
    /// Attempts that did not get it up, ever: by turns, each goes to another address of its name. One that broke is
    /// looked for where it was.
    missed: usize,
}

/// Where a link stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// To be dialed then.
    Down(Time),
    /// Its name is being looked up.
    Resolving,
    /// Dialed, and not answered yet.
    Dialed(Token),
    /// Up.
    Up(Token),
}

impl Links {
    /// No links yet.
    pub fn new(me: NodeId, options: &Options) -> Links {
        Links { me, links: BTreeMap::new(), pause_max: options.dial_pause_max }
    }

    /// Keeps a link to each of those but ourselves, at one of its addresses; says which connections belong
    /// to nobody any more.
    pub fn set(&mut self, wanted: BTreeMap<NodeId, Vec<String>>) -> Vec<Token> {
        let mut orphans = Vec::new();
        self.links.retain(|peer, link| match wanted.get(peer) {
            // Up or not, it is looked for where it is said to be.
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

    /// The link to that peer, if it is one.
    pub fn get(&self, peer: NodeId) -> Option<&Link> {
        self.links.get(&peer)
    }

    /// The connection to that peer, if it is up.
    pub fn up(&self, peer: NodeId) -> Option<Token> {
        match self.links.get(&peer)?.state {
            LinkState::Up(token) => Some(token),
            LinkState::Down(_) | LinkState::Resolving | LinkState::Dialed(_) => None,
        }
    }

    /// All that are up.
    pub fn all_up(&self) -> impl Iterator<Item = (NodeId, Token)> {
        self.links.keys().filter_map(|peer| Some((*peer, self.up(*peer)?)))
    }

    /// The next peer to be dialed by now, if there is one.
    pub fn due(&self, now: Time) -> Option<NodeId> {
        self.links
            .iter()
            .find(|(_, link)| matches!(link.state, LinkState::Down(at) if at <= now))
            .map(|(peer, _)| *peer)
    }

    /// When the next one is to be dialed.
    pub fn deadline(&self) -> Time {
        let at = |link: &Link| match link.state {
            LinkState::Down(at) => Some(at),
            LinkState::Resolving | LinkState::Dialed(_) | LinkState::Up(_) => None,
        };
        self.links.values().filter_map(at).min().unwrap_or(Time::NEVER)
    }

    /// Its name is being looked up.
    pub fn resolving(&mut self, peer: NodeId) {
        self.move_to(peer, LinkState::Resolving);
    }

    /// It was dialed over that connection.
    pub fn dialed(&mut self, peer: NodeId, token: Token) {
        self.move_to(peer, LinkState::Dialed(token));
    }

    /// It answered.
    pub fn answered(&mut self, peer: NodeId, token: Token) {
        self.move_to(peer, LinkState::Up(token));
        if let Some(link) = self.links.get_mut(&peer) {
            link.failures = 0;
        }
    }

    /// It broke, or could not be had: it is dialed again a little later, never at the same moment as others.
    pub fn fell(&mut self, peer: NodeId, now: Time) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.failures = link.failures.saturating_add(1);
        if !matches!(link.state, LinkState::Up(_)) {
            link.missed = link.missed.wrapping_add(1);
        }
        // It may be where it is said to be elsewhere.
        link.addresses.rotate_left(1);
        let longest = (5 << link.failures.min(6)).min(self.pause_max.as_millis() as u64).max(2);
        link.state = LinkState::Down(now + Duration::from_millis(rand::random_range(longest / 2..=longest)));
    }

    /// The peer was heard of: if its link is down, now is the time.
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
    /// Where it is reached, or will be looked for next.
    pub fn address(&self) -> &str {
        self.addresses.front().map_or("", String::as_str)
    }

    /// The one to dial now of the addresses that its name was found to have: a name may have several, and an answer at
    /// one of them alone. None if there are none.
    pub fn pick(&self, found: &[SocketAddr]) -> Option<SocketAddr> {
        let nth = self.missed / self.addresses.len().max(1);
        found.get(nth % found.len().max(1)).copied()
    }

    /// The connection it is dialed over, or up.
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
    fn a_link_is_dialed_again_and_never_later_than_allowed() {
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
        // Moved to another address: the connection to the old one is nobody's.
        assert_eq!(links.set(at(&["c:1"])), vec![Token(8)]);
        assert_eq!(links.due(now), Some(id(2)));
        // Where it is said to be in two places, it is looked for in both, by turns.
        assert!(links.set(at(&["d:1", "c:1"])).is_empty());
        let mut looked = Vec::new();
        for _ in 0..4 {
            looked.push(links.get(id(2)).unwrap().address().to_owned());
            links.dialed(id(2), Token(9));
            links.fell(id(2), now);
        }
        assert_eq!(looked, ["c:1", "d:1", "c:1", "d:1"]);
    }

    /// Of two addresses the first answered nobody, and was tried for ever.
    #[test]
    fn each_address_of_each_name_is_dialed_by_turns() {
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
        // Where it answered it is looked for again when the link breaks.
        links.dialed(id(2), Token(9));
        links.answered(id(2), Token(9));
        let address = links.get(id(2)).unwrap().pick(&found);
        links.fell(id(2), Time::ZERO);
        assert_eq!(links.get(id(2)).unwrap().pick(&found), address);
        assert_eq!(links.get(id(2)).unwrap().pick(&[]), None);
    }
}
