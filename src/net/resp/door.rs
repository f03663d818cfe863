//! What all Redis connections of a node share: how the door is set, cursors, and counts.

use crate::net::password::Password;
use crate::types::{ClusterId, NodeId};
use bytes::Bytes;
use std::collections::VecDeque;

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
}

/// A node's Redis port lies so much above its native one, unless it is told otherwise.
pub const PORT_ABOVE: u16 = 100;

/// So many scans may be under way on a node, with so many bytes of keys; the oldest are forgotten.
const CURSORS_MAX: usize = 1024;
const CURSOR_BYTES_MAX: usize = 4 << 20;

/// Where scans go on: a cursor is a number to a client, and a key to us. Shared by all connections, since
/// clients that keep a pool of them go on at another.
#[derive(Debug, Default)]
pub struct Cursors {
    given: u64,
    kept: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

impl Cursors {
    /// A cursor behind that key; never zero, which begins a scan and ends it.
    pub fn keep(&mut self, key: Bytes) -> u64 {
        // Begins elsewhere in each process: one of an earlier or another node is not taken for ours.
        if self.given == 0 {
            self.given = u64::from(rand::random::<u32>()) << 20;
        }
        self.given += 1;
        self.bytes += key.len();
        // Its own memory: an answer that is as long as may be would be kept alive by one key.
        self.kept.push_back((self.given, Bytes::copy_from_slice(&key)));
        while self.kept.len() > CURSORS_MAX || self.bytes > CURSOR_BYTES_MAX {
            let Some((_, oldest)) = self.kept.pop_front() else { break };
            self.bytes -= oldest.len();
        }
        self.given
    }

    /// The key behind which that cursor goes on, if it is known. It stays known: a client may ask again.
    pub fn find(&self, cursor: u64) -> Option<&Bytes> {
        let at = self.kept.binary_search_by_key(&cursor, |(known, _)| *known).ok()?;
        Some(&self.kept[at].1)
    }
}

/// A member, as clients are told of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Who.
    pub node: NodeId,
    /// Where its Redis door is.
    pub host: String,
    /// At which port.
    pub port: u16,
}

impl Place {
    /// The door of the member whose native address is that.
    pub fn of(node: NodeId, address: &str) -> Option<Place> {
        let (host, port) = address.rsplit_once(':')?;
        let port = port.parse::<u16>().ok()?.checked_add(PORT_ABOVE)?;
        Some(Place { node, host: host.trim_matches(['[', ']']).to_owned(), port })
    }
}

/// What a node knows of itself and its cluster, for those who ask about that.
#[derive(Clone, Debug)]
pub struct Scene {
    /// This node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The voters and where their doors are, the leader first.
    pub places: Vec<Place>,
    /// How many clients there are.
    pub clients: usize,
    /// How many commands were asked.
    pub commands: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_kept_within_bounds_and_asked_again() {
        let mut cursors = Cursors::default();
        let first = cursors.keep(Bytes::from_static(b"a"));
        let second = cursors.keep(Bytes::from_static(b"b"));
        assert!(first > 0 && second > first);
        for _ in 0..2 {
            assert_eq!(cursors.find(first).map(|key| &key[..]), Some(&b"a"[..]));
        }
        for _ in 0..CURSORS_MAX {
            cursors.keep(Bytes::from_static(b"c"));
        }
        assert_eq!((cursors.find(first), cursors.find(0)), (None, None));
        for _ in 0..100 {
            cursors.keep(Bytes::from(vec![0; 64 << 10]));
        }
        assert!(cursors.bytes <= CURSOR_BYTES_MAX && cursors.kept.len() < 100);
    }

    #[test]
    fn doors_stand_beside_native_ports() {
        let node = NodeId::new(2).unwrap();
        let place = |address| Place::of(node, address).map(|place| (place.host, place.port));
        assert_eq!(place("a:7401"), Some(("a".into(), 7501)));
        assert_eq!(place("[::1]:7401"), Some(("::1".into(), 7501)));
        assert_eq!((place("a:65500"), place("a")), (None, None));
    }
}
