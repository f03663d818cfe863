//! Which disk each peer came with: one that comes with another has forgotten what it promised.

use crate::types::{DiskId, LogId, NodeId, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// An operator reads of it no more often than this: the peer dials ten times a second.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Which disk each peer came with, since this process started.
///
/// A node whose data directory was replaced under its old id has forgotten its votes and what it
/// confirmed: to hear it would be to count two nodes as one.
#[derive(Debug, Default)]
pub struct Disks {
    known: BTreeMap<NodeId, DiskId>,
    tell_at: Time,
}

impl Disks {
    /// The disk that peer came with.
    pub fn known(&self, peer: NodeId) -> Option<DiskId> {
        self.known.get(&peer).copied()
    }

    /// That peer was let in with that disk: it stays with it.
    pub fn meet(&mut self, peer: NodeId, disk: DiskId) {
        self.known.entry(peer).or_insert(disk);
    }

    /// Warns that the peer comes with another disk than `known`, unless that was just said.
    pub fn warn(&mut self, now: Time, me: NodeId, peer: NodeId, known: DiskId, disk: DiskId) {
        if self.tell_at > now {
            return;
        }
        self.tell_at = now + TOLD_EVERY;
        let id = peer.get();
        log::warn!(
            node = me.get();
            "{peer} comes with disk {disk}, and had disk {known}: it is not heard, and counts for nothing. Bring back \
             the directory it had; or, if that is lost: drave member remove {id}, and: drave member add {id}=HOST:PORT"
        );
    }

    /// Warns that a peer means this node and holds another log, unless that was just said.
    pub fn warn_of_log(&mut self, now: Time, me: NodeId, peer: NodeId, (ours, theirs): (LogId, LogId)) {
        if self.tell_at > now {
            return;
        }
        self.tell_at = now + TOLD_EVERY;
        log::warn!(
            node = me.get();
            "{peer} holds log {theirs} and dials this node, which holds log {ours}: nothing passes between them. One of \
             the two was founded anew, recovered or restored; stop the nodes of the other"
        );
    }

    /// Warns that a second process comes under the identity of one that is there, unless that was just said.
    pub fn warn_of_twin(&mut self, now: Time, me: NodeId, peer: NodeId) {
        if self.tell_at > now {
            return;
        }
        self.tell_at = now + TOLD_EVERY;
        log::warn!(
            node = me.get();
            "a second process comes as {peer}, on a copy of its disk: it is not heard. Stop it, and never start that \
             directory again; a new node needs a new id: drave member add ID=HOST:PORT"
        );
    }

    /// Whoever is no member any more may come with any disk, should it be added again; and so may who was added again.
    pub fn forget_but(&mut self, stays: impl Fn(NodeId) -> bool) {
        self.known.retain(|peer, _| stays(*peer));
    }
}
