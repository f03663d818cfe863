//! Claims of peers about their disks. A peer that returns with a lower term or a shorter log than it claimed runs on an
//! older copy of its disk.
//!
//! Nothing on a disk shows that the disk is a copy: all of its state is consistent, only old. So each node keeps the
//! claims of its peers in memory. The copy is detected if at least one peer has run since before the copy was made. A
//! restarted node has no claims. Then only the leader detects the copy, when the copy rejects a probe at an
//! acknowledged position.

use crate::limits::MEMBERS_MAX;
use crate::types::{DiskId, NodeId, Position, Term};
use std::collections::BTreeMap;

/// The claims of at most this many peers are kept.
///
/// Twice the number of members, because a replaced member gets a new id. Claims of further peers are not recorded. The
/// bound protects the memory from messages with ids that were never members.
const RECORDED_PEERS_MAX: usize = 2 * MEMBERS_MAX;

/// What a peer's messages prove about its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskClaim {
    /// The highest term of the peer's messages: a term is durable before a message is sent in it (§5.1).
    pub term: Term,
    /// The highest position that the peer reported durable.
    pub position: Position,
}

/// The claim of each peer about its disk, collected since this process started. At most `RECORDED_PEERS_MAX` peers.
#[derive(Clone, Debug, Default)]
pub struct PeerClaims {
    claim_by_peer: BTreeMap<NodeId, (DiskId, DiskClaim)>,
}

impl PeerClaims {
    /// Raises the claim recorded for that peer and disk. A claim for another disk of the peer is dropped.
    pub fn record(&mut self, peer: NodeId, disk: DiskId, claim: DiskClaim) {
        let is_full = self.claim_by_peer.len() >= RECORDED_PEERS_MAX;
        match self.claim_by_peer.get_mut(&peer) {
            Some((recorded_disk, recorded)) if *recorded_disk == disk => {
                recorded.term = recorded.term.max(claim.term);
                recorded.position = recorded.position.max(claim.position);
            }
            // The claims of the replaced disk prove nothing about another disk under the same node id.
            Some(replaced) => *replaced = (disk, claim),
            None if is_full => {}
            None => drop(self.claim_by_peer.insert(peer, (disk, claim))),
        }
        assert!(
            self.claim_by_peer.len() <= RECORDED_PEERS_MAX,
            "claims of at most RECORDED_PEERS_MAX peers are recorded"
        );
    }

    /// The claim of that peer for that disk; `None` if no claim of the peer is recorded, or one for another disk.
    pub fn get(&self, peer: NodeId, disk: DiskId) -> Option<DiskClaim> {
        self.claim_by_peer.get(&peer).filter(|(recorded_disk, _)| *recorded_disk == disk).map(|(_, claim)| *claim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Index;

    #[test]
    fn claim_never_decreases_and_is_replaced_with_a_new_disk() {
        let (peer, claim) = (NodeId::new(2).unwrap(), |term, index| DiskClaim {
            term: Term(term),
            position: Position::new(Index(index), Term(1)),
        });
        let mut claims = PeerClaims::default();
        claims.record(peer, DiskId(7), claim(3, 10));
        claims.record(peer, DiskId(7), claim(2, 50));
        assert_eq!(claims.get(peer, DiskId(7)), Some(claim(3, 50)));
        claims.record(peer, DiskId(8), claim(1, 1));
        assert_eq!((claims.get(peer, DiskId(7)), claims.get(peer, DiskId(8))), (None, Some(claim(1, 1))));
    }
}
