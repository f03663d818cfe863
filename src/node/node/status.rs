//! The node's status report.
//!
//! It is read by operators, by metrics and by the simulator's checks, and answered without a round: a node that is cut
//! off must still be able to say so. Every number is this node's own view and may be stale. Where a fact needs a
//! judgment (whether a copy counts, why log is kept) the node gives it in words, since a reader of numbers alone would
//! have to know the rules of the core.

use super::Node;
use crate::api::figures::Counters;
use crate::api::{LogStatus, MemberStatus, PeerStatus, Status, TimingStatus};
use crate::consensus::Raft;
use crate::consensus::progress::Progress;
use crate::node::event::DurableSnapshot;
use crate::types::{DiskId, Index, Membership, NodeId, PendingRole, Time};

impl Node {
    /// The configuration in force.
    pub fn membership(&self) -> &Membership {
        self.raft.membership()
    }

    /// The consensus core, read-only.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The last applied index.
    pub fn applied(&self) -> Index {
        self.applied.upto
    }

    /// The newest durable snapshot.
    pub fn snapshot(&self) -> Option<&DurableSnapshot> {
        self.compaction.kept()
    }

    /// Whether a snapshot is being taken.
    pub fn is_taking(&self) -> bool {
        self.compaction.is_taking()
    }

    /// How many requests wait here for any reason. Callers of snapshots that are being taken do not count.
    pub fn held(&self) -> usize {
        let waiting =
            self.proposals.len() + self.parked.len() + self.linearizable_reads.len() + self.admin_waiters.len();
        waiting + self.forwarded.len() + self.queries.len() + self.snapshot_reads.len()
    }

    /// The node's status. Fields that only the driver knows are left empty.
    pub fn status(&self, now: Time) -> Status {
        let log = self.raft.log();
        Status {
            node: self.raft.id().get(),
            cluster: self.options.cluster.to_string(),
            role: self.raft.role(),
            term: self.raft.term().0,
            leader: self.raft.leader().map(NodeId::get),
            commit: log.commit().0,
            goal: self.raft.goal().0,
            applied: self.applied.upto.0,
            last: log.last().index.0,
            durable: log.durable().0,
            digest: format!("{:016x}", self.applied.digest),
            sessions: self.applied.sessions,
            membership: self.membership().to_string(),
            peers: self.peers(now),
            disk: self.stats.disk(self.raft.disk_age(now)),
            fsync: self.options.fsync,
            in_memory: false,
            file_system: String::new(),
            timing: self.timing(),
            low_space: self.space.is_low(),
            cpu_ns: 0,
            uptime_ms: 0,
            stages: self.stats.stages(),
            version: String::new(),
            elections: self.stats.elections.clone(),
            members: self.members(),
            hands_over: self.raft.transfer_target().map_or(0, NodeId::get),
            log_id: self.membership().agreed_log().map(|log| log.to_string()).unwrap_or_default(),
            promised: self.promised(),
            log: self.log_status(now),
            certificate_expires: None,
            machine: String::new(),
            authority_expires: None,
            timer_ms: self.raft.deadline().since(now).as_millis() as u64,
            figures: self.figures(),
        }
    }

    /// The last position that this node acknowledged, while its log lacks it; empty otherwise. Until the log reaches it
    /// again, the node votes only for candidates that hold it (docs/voters.md, rule 13).
    fn promised(&self) -> String {
        let promised = self.raft.promised();
        let lacks = promised > self.raft.log().last();
        if lacks { promised.to_string() } else { String::new() }
    }

    fn timing(&self) -> TimingStatus {
        let options = self.raft.options();
        let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
        TimingStatus {
            heartbeat_ms: ms(options.heartbeat),
            election_min_ms: ms(options.election_min),
            election_max_ms: ms(options.election_max),
        }
    }

    fn figures(&self) -> Counters {
        let proposals_pending = self.proposals.len() as u64;
        Counters { proposals_pending, ..self.stats.figures.clone() }
    }

    fn log_status(&self, now: Time) -> LogStatus {
        let log = self.raft.log();
        let (base, last) = (log.base().index, log.last().index);
        let reclaimable = log.bytes(base, self.compaction.upto().min(last));
        let kept_for = match self.snapshot_sender.oldest(now) {
            _ if reclaimable == 0 => "",
            Some(_) => "a follower is being sent a snapshot",
            None => "followers that are a little behind",
        };
        LogStatus {
            first: base.next().0,
            bytes: log.bytes(base, last),
            reclaimable,
            kept_for: kept_for.to_owned(),
            snapshot: self.compaction.upto().0,
            snapshot_bytes: self.compaction.kept().map_or(0, |kept| kept.bytes.len() as u64),
            snapshot_age_ms: self.compaction.age(now).as_millis() as u64,
            taking: self.compaction.is_taking(),
            lacks_room: self.compaction.lacks_room(),
            shipped_bytes: self.snapshot_sender.sent(),
            received_bytes: self.stats.received,
        }
    }

    fn peers(&self, now: Time) -> Vec<PeerStatus> {
        let log = self.raft.log();
        let last = log.last().index;
        let shipped = |id| self.snapshot_sender.progress(id).unwrap_or_default();
        let peer = |(id, progress): (NodeId, &Progress)| PeerStatus {
            node: id.get(),
            address: self.membership().address(id).unwrap_or_default().to_owned(),
            stage: progress.stage_name().to_owned(),
            matched: progress.matched.0,
            lag: last.0 - progress.matched.0,
            inflight_bytes: log.bytes(progress.agreed.max(log.base().index), progress.next.prev()),
            heard_ms: Some(now.since(progress.last_contact).as_millis() as u64),
            probes: progress.probes,
            snapshot_has: shipped(id).0,
            snapshot_bytes: shipped(id).1,
            lost_acknowledged: progress.has_lost.map_or(0, |position| position.index.0),
            losses: progress.losses,
            uncounted: uncounted(progress).to_owned(),
        };
        self.raft.progress().map(peer).collect()
    }

    fn members(&self) -> Vec<MemberStatus> {
        let membership = self.membership();
        let kind = |id: &NodeId| match (membership.voters.contains(id), membership.outgoing.contains(id)) {
            (true, false) if membership.is_joint() => "incoming",
            (true, _) => "voter",
            (false, true) => "outgoing",
            (false, false) => "learner",
        };
        let words = |prospect| match prospect {
            PendingRole::Stays => String::new(),
            PendingRole::Promote => "becomes a voter when it has caught up".to_owned(),
            PendingRole::Replace(old) => format!("takes the place of {old} when it has caught up"),
            PendingRole::Remove => "leaves".to_owned(),
        };
        let member = |(id, member): (&NodeId, &crate::types::Member)| MemberStatus {
            node: id.get(),
            kind: kind(id).to_owned(),
            address: member.address.clone(),
            disk: member.disk.as_ref().map(DiskId::to_string).unwrap_or_default(),
            prospect: words(member.pending_role),
        };
        membership.members.iter().map(member).collect()
    }
}

/// Why a follower's copy of the log is not counted, in words; empty if it counts, or if the follower has not responded
/// yet.
fn uncounted(progress: &Progress) -> &'static str {
    match progress.counted_from {
        _ if progress.has_lost.is_some() => "has lost entries that it acknowledged",
        None if progress.disk.is_some() => "the log does not name its disk yet",
        Some(from) if progress.responded_this_term && progress.matched < from => {
            "does not hold the entry yet that names its disk"
        }
        _ => "",
    }
}
