//! Rate-limited warnings about peers that connect with an unexpected disk id or log id, or from a copy of a data
//! directory.

use crate::types::Run;
use crate::types::{DiskId, LogId, NodeId, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// The shortest interval between two warnings. Without the limit a rejected peer, which dials ten times a second, would
/// fill the log.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Records of rejected and suspicious peers, for warnings and for the status.
#[derive(Debug, Default)]
pub struct PeerWarnings {
    /// For each peer, the latest run (one start of its process) that is known, and the id of the disk it ran on.
    latest_runs: BTreeMap<NodeId, (DiskId, Run)>,
    /// The reason why each rejected peer is rejected, and the time of its last attempt.
    rejections: BTreeMap<NodeId, (Time, String)>,
    /// No warning is logged before this time.
    next_warning_at: Time,
}

impl PeerWarnings {
    /// Records that a peer was rejected because its disk id is not `known_disk`, and warns unless a warning was logged
    /// within the last ten seconds.
    pub fn warn_of_disk(&mut self, now: Time, me: NodeId, peer: NodeId, known_disk: DiskId, disk: DiskId) {
        self.rejections.insert(peer, (now, format!("comes with disk {disk}, and had disk {known_disk}")));
        if self.next_warning_at > now {
            return;
        }
        self.next_warning_at = now + WARN_INTERVAL;
        let id = peer.get();
        log::warn!(
            node = me.get();
            "{peer} connects with disk {disk} and had disk {known_disk}: its messages are rejected, and it counts for \
             no quorum. Bring back the directory it had; or, if that is lost: drave member remove {id}, and: drave \
             member add {id}=HOST:PORT"
        );
    }

    /// Records that a peer dials this node and holds a log other than this node's, and warns unless a warning was
    /// logged within the last ten seconds.
    pub fn warn_of_log(&mut self, now: Time, me: NodeId, peer: NodeId, (own_log, peer_log): (LogId, LogId)) {
        self.rejections.insert(peer, (now, format!("holds another log, {peer_log}")));
        if self.next_warning_at > now {
            return;
        }
        self.next_warning_at = now + WARN_INTERVAL;
        log::warn!(
            node = me.get();
            "{peer} holds log {peer_log} and connects to this node, which holds log {own_log}: the two exchange \
             no messages. One of the two logs was founded anew, recovered or restored; stop the nodes of the other"
        );
    }

    /// Records the disk and the run of an accepted peer. Warns if a later run of the same disk is known: the peer's
    /// data directory is then an older copy. Entries that an older copy lacks are not detected here.
    pub fn record_run(&mut self, now: Time, me: NodeId, peer: NodeId, (disk, run): (DiskId, Run)) {
        self.rejections.remove(&peer);
        if run.starts == 0 {
            return;
        }
        let latest_run = self.latest_runs.get(&peer).filter(|(known, _)| *known == disk).map(|(_, run)| *run);
        let Some(latest_run) = latest_run.filter(|latest| latest.reveals_copied_directory(run)) else {
            self.latest_runs.insert(peer, (disk, run));
            return;
        };
        if self.next_warning_at > now {
            return;
        }
        self.next_warning_at = now + WARN_INTERVAL;
        log::warn!(
            node = me.get();
            "the directory of {peer} is an older copy, or one of two copies: it was started {} times, and a copy that \
             was started {} times connected before. Never run two copies of a directory, and never put an old one \
             back under a node",
            run.starts, latest_run.starts
        );
    }

    /// Warns that a second process connects with the identity of a connected peer, unless a warning was logged within
    /// the last ten seconds.
    pub fn warn_of_duplicate(&mut self, now: Time, me: NodeId, peer: NodeId) {
        if self.next_warning_at > now {
            return;
        }
        self.next_warning_at = now + WARN_INTERVAL;
        log::warn!(
            node = me.get();
            "a second process connects as {peer}, with a copy of its disk: it is rejected. Stop it, and never start \
             that directory again; a new node needs a new id: drave member add ID=HOST:PORT"
        );
    }

    /// The reason why a peer that dials this node is rejected; `None` if the peer was accepted, or has not dialed for
    /// ten seconds.
    pub fn rejection_reason(&self, now: Time, peer: NodeId) -> Option<&str> {
        let (rejected_at, reason) = self.rejections.get(&peer)?;
        (now.since(*rejected_at) < WARN_INTERVAL).then_some(reason)
    }

    /// Forgets all peers for which `is_peer` is false. A peer that was removed, or added again, may have any disk.
    pub fn retain_peers(&mut self, is_peer: impl Fn(NodeId) -> bool) {
        self.latest_runs.retain(|peer, _| is_peer(*peer));
        self.rejections.retain(|peer, _| is_peer(*peer));
    }
}

impl Run {
    /// Whether a peer that ran as `self` and now connects as `next`, with the same disk id, has a copied directory:
    /// `next` is another process, and its directory counts no more starts than that of `self`.
    fn reveals_copied_directory(self, next: Run) -> bool {
        self.id != next.id && self.starts >= next.starts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_run_after_a_later_one_reveals_a_copied_directory() {
        let run = |id, starts| Run { id, starts };
        assert!(!run(1, 5).reveals_copied_directory(run(1, 5)), "the same run connects again");
        assert!(!run(1, 5).reveals_copied_directory(run(2, 6)), "the node was restarted");
        assert!(run(1, 5).reveals_copied_directory(run(2, 4)), "an older copy");
        assert!(run(1, 5).reveals_copied_directory(run(2, 5)), "two copies, both started");
    }

    #[test]
    fn rejection_reason_is_kept_until_acceptance_or_silence() {
        let node = |n| NodeId::new(n).unwrap();
        let mut warnings = PeerWarnings::default();
        let after_interval = Time(1) + WARN_INTERVAL;
        for _ in 0..2 {
            warnings.warn_of_disk(Time(1), node(1), node(2), DiskId(7), DiskId(8));
            assert!(warnings.rejection_reason(Time(1), node(2)).is_some_and(|reason| reason.contains("had disk")));
            assert_eq!(warnings.rejection_reason(after_interval, node(2)), None);
            assert_eq!(warnings.rejection_reason(Time(1), node(3)), None);
        }
        warnings.record_run(Time(2), node(1), node(2), (DiskId(7), Run { id: 1, starts: 1 }));
        assert_eq!(warnings.rejection_reason(Time(2), node(2)), None);
        warnings.warn_of_log(Time(3), node(1), node(2), (LogId(1), LogId(2)));
        warnings.retain_peers(|_| false);
        assert_eq!(warnings.rejection_reason(Time(3), node(2)), None, "the peer is no longer a member");
    }

    #[test]
    fn older_copy_of_directory_causes_a_warning() {
        let node = |n| NodeId::new(n).unwrap();
        let mut warnings = PeerWarnings::default();
        let mut record_run_at = |at: u64, disk, starts| {
            warnings.record_run(Time(at), node(1), node(2), (DiskId(disk), Run { id: at, starts }));
            warnings.next_warning_at
        };
        assert_eq!(record_run_at(1, 7, 5), Time::ZERO);
        assert_ne!(record_run_at(2, 7, 4), Time::ZERO);
        let next_warning_at = record_run_at(3, 7, 5);
        assert_eq!(record_run_at(u64::MAX / 2, 7, 6), next_warning_at, "a higher count of starts is no older copy");
        assert_eq!(
            record_run_at(u64::MAX / 2 + 1, 7, 0),
            next_warning_at,
            "no warning about a peer that does not count its starts"
        );
        assert_eq!(
            record_run_at(u64::MAX / 2 + 2, 8, 1),
            next_warning_at,
            "counts of starts on different disks are not compared"
        );
    }
}
