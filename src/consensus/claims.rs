//! Claims of peers about their disks: a peer that comes back with less is on an older copy.
//!
//! A disk cannot tell that it is a copy: everything on it is consistent, only old. Its peers remember in memory what
//! came from it, which is enough while any of them has run for longer than the copy is old. A peer that restarts
//! forgets, and then the copy is detected only by the leader, at the first rejected probe.

use crate::limits::MEMBERS_MAX;
use crate::types::{DiskId, NodeId, Position, Term};
use std::collections::BTreeMap;

/// At most this many peers are remembered.
///
/// Twice the members, because members that are replaced one by one come under new ids. What does not fit is not
/// remembered, and the bound protects the memory from ids that were never members.
const PEERS_MAX: usize = 2 * MEMBERS_MAX;

/// A node's claim about its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Claim {
    /// The highest term of its messages: the term was durable before they left (§5.1).
    pub term: Term,
    /// The highest position that it reported durable.
    pub position: Position,
}

/// Each peer's claim about its disk, since this process started. At most `PEERS_MAX` peers.
#[derive(Clone, Debug, Default)]
pub struct PeerClaims {
    peers: BTreeMap<NodeId, (DiskId, Claim)>,
}

impl PeerClaims {
    /// Records a claim of a peer for that disk, and forgets its claims for another disk.
    pub fn remember(&mut self, peer: NodeId, disk: DiskId, claim: Claim) {
        let full = self.peers.len() >= PEERS_MAX;
        match self.peers.get_mut(&peer) {
            Some((known, before)) if *known == disk => {
                before.term = before.term.max(claim.term);
                before.position = before.position.max(claim.position);
            }
            // Another disk under the id holds nothing that this one has claimed.
            Some(other) => *other = (disk, claim),
            None if full => {}
            None => drop(self.peers.insert(peer, (disk, claim))),
        }
        assert!(self.peers.len() <= PEERS_MAX, "peers of any id do not fill the memory with claims");
    }

    /// The claim of that peer for that disk, if any.
    pub fn of(&self, peer: NodeId, disk: DiskId) -> Option<Claim> {
        self.peers.get(&peer).filter(|(known, _)| *known == disk).map(|(_, claim)| *claim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Index;

    #[test]
    fn claims_only_grow_and_reset_with_a_new_disk() {
        let (peer, claim) = (NodeId::new(2).unwrap(), |term, index| Claim {
            term: Term(term),
            position: Position::new(Index(index), Term(1)),
        });
        let mut claims = PeerClaims::default();
        claims.remember(peer, DiskId(7), claim(3, 10));
        claims.remember(peer, DiskId(7), claim(2, 50));
        assert_eq!(claims.of(peer, DiskId(7)), Some(claim(3, 50)));
        claims.remember(peer, DiskId(8), claim(1, 1));
        assert_eq!((claims.of(peer, DiskId(7)), claims.of(peer, DiskId(8))), (None, Some(claim(1, 1))));
    }
}
