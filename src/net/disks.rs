//! Warnings about peers with another disk or another log.

use crate::types::Run;
use crate::types::{DiskId, LogId, NodeId, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// The shortest interval between two warnings: a peer dials ten times a second.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// State for warnings about rejected or suspicious peers, at a limited rate.
#[derive(Debug, Default)]
pub struct Disks {
    /// The latest run of each peer, with its disk.
    runs: BTreeMap<NodeId, (DiskId, Run)>,
    /// Why peers are rejected, and when that was last seen.
    unheard: BTreeMap<NodeId, (Time, String)>,
    tell_at: Time,
}

impl Disks {
    /// Warns that a peer has another disk than `known`, unless a warning was logged just now.
    pub fn warn(&mut self, now: Time, me: NodeId, peer: NodeId, known: DiskId, disk: DiskId) {
        self.unheard.insert(peer, (now, format!("comes with disk {disk}, and had disk {known}")));
        if self.tell_at > now {
            return;
        }
        self.tell_at = now + TOLD_EVERY;
        let id = peer.get();
        log::warn!(
            node = me.get();
            "{peer} connects with disk {disk} and had disk {known}: its messages are rejected, and it counts for no \
             quorum. Bring back the directory it had; or, if that is lost: drave member remove {id}, and: drave member \
             add {id}=HOST:PORT"
        );
    }

    /// Warns that a peer dials this node and holds another log, unless a warning was logged just now.
    pub fn warn_of_log(&mut self, now: Time, me: NodeId, peer: NodeId, (ours, theirs): (LogId, LogId)) {
        self.unheard.insert(peer, (now, format!("holds another log, {theirs}")));
        if self.tell_at > now {
            return;
        }
        self.tell_at = now + TOLD_EVERY;
        log::warn!(
            node = me.get();
            "{peer} holds log {theirs} and connects to this node, which holds log {ours}: the two exchange no \
             messages. One of the two logs was founded anew, recovered or restored; stop the nodes of the other"
        );
    }

    /// Records the disk and the run of a peer. Warns if a later run is known, which shows that the directory is an
    /// older copy. Entries that the peer lost are detected by other means.
    pub fn met_run(&mut self, now: Time, me: NodeId, peer: NodeId, (disk, run): (DiskId, Run)) {
        self.unheard.remove(&peer);
        if run.starts == 0 {
            return;
        }
        let before = self.runs.get(&peer).filter(|(known, _)| *known == disk).map(|(_, run)| *run);
        let Some(before) = before.filter(|before| before.is_later_than(run)) else {
            self.runs.insert(peer, (disk, run));
            return;
        };
        if self.tell_at > now {
            return;
        }
        self.tell_at = now + TOLD_EVERY;
        log::warn!(
            node = me.get();
            "the directory of {peer} is an older copy, or one of two copies: it was started {} times, and a copy that \
             was started {} times connected before. Never run two copies of a directory, and never put an old one \
             back under a node",
            run.starts, before.starts
        );
    }

    /// Warns that a second process has the identity of a connected peer, unless a warning was logged just now.
    pub fn warn_of_twin(&mut self, now: Time, me: NodeId, peer: NodeId) {
        if self.tell_at > now {
            return;
        }
        self.tell_at = now + TOLD_EVERY;
        log::warn!(
            node = me.get();
            "a second process connects as {peer}, with a copy of its disk: it is rejected. Stop it, and never start \
             that directory again; a new node needs a new id: drave member add ID=HOST:PORT"
        );
    }

    /// Why a peer that dials this node is rejected; `None` if it is accepted or has not dialed for a while.
    pub fn why_unheard(&self, now: Time, peer: NodeId) -> Option<&str> {
        let (seen, why) = self.unheard.get(&peer)?;
        (now.since(*seen) < TOLD_EVERY).then_some(why)
    }

    /// Forgets all peers except those that stay. A peer that was removed, or added again, may have any disk.
    pub fn forget_but(&mut self, stays: impl Fn(NodeId) -> bool) {
        self.runs.retain(|peer, _| stays(*peer));
        self.unheard.retain(|peer, _| stays(*peer));
    }
}

impl Run {
    /// Whether this run is of a later state of the same disk than `other`, or of a copy that was started as often.
    fn is_later_than(self, other: Run) -> bool {
        self.id != other.id && self.starts >= other.starts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_run_after_a_later_one_reveals_a_copy() {
        let run = |id, starts| Run { id, starts };
        assert!(!run(1, 5).is_later_than(run(1, 5)), "the same run connects again");
        assert!(!run(1, 5).is_later_than(run(2, 6)), "the node was restarted");
        assert!(run(1, 5).is_later_than(run(2, 4)), "an older copy");
        assert!(run(1, 5).is_later_than(run(2, 5)), "two copies, both started");
    }

    #[test]
    fn rejection_reason_is_kept_until_acceptance_or_silence() {
        let node = |n| NodeId::new(n).unwrap();
        let mut disks = Disks::default();
        let later = Time(1) + TOLD_EVERY;
        for _ in 0..2 {
            disks.warn(Time(1), node(1), node(2), DiskId(7), DiskId(8));
            assert!(disks.why_unheard(Time(1), node(2)).is_some_and(|why| why.contains("had disk")));
            assert_eq!(disks.why_unheard(later, node(2)), None);
            assert_eq!(disks.why_unheard(Time(1), node(3)), None);
        }
        disks.met_run(Time(2), node(1), node(2), (DiskId(7), Run { id: 1, starts: 1 }));
        assert_eq!(disks.why_unheard(Time(2), node(2)), None);
        disks.warn_of_log(Time(3), node(1), node(2), (LogId(1), LogId(2)));
        disks.forget_but(|_| false);
        assert_eq!(disks.why_unheard(Time(3), node(2)), None, "the peer is no longer a member");
    }

    #[test]
    fn older_copy_of_directory_causes_a_warning() {
        let node = |n| NodeId::new(n).unwrap();
        let mut disks = Disks::default();
        let mut meet = |at: u64, disk, starts| {
            disks.met_run(Time(at), node(1), node(2), (DiskId(disk), Run { id: at, starts }));
            disks.tell_at
        };
        assert_eq!(meet(1, 7, 5), Time::ZERO);
        assert_ne!(meet(2, 7, 4), Time::ZERO);
        let told = meet(3, 7, 5);
        assert_eq!(meet(u64::MAX / 2, 7, 6), told, "the directory was started more often since");
        assert_eq!(meet(u64::MAX / 2 + 1, 7, 0), told, "a peer that does not count its starts");
        assert_eq!(meet(u64::MAX / 2 + 2, 8, 1), told, "another disk");
    }
}
