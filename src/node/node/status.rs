//! The node's status report.
//!
//! The status is read by operators, by metrics and by the simulator's checks, and answered without a heartbeat round: a
//! node that is partitioned must still be able to report that. Every number is this node's own view and may be stale.
//! Where a fact needs a judgment (whether a copy counts, why log is kept) the node gives it in words, since a reader of
//! numbers alone would have to know the rules of the core.

use super::Node;
use crate::api::figures::Counters;
use crate::api::{LogStatus, MemberStatus, PeerStatus, ScrubFinding, ScrubStatus, Status, TimingStatus};
use crate::consensus::Raft;
use crate::consensus::progress::Progress;
use crate::node::event::DurableSnapshot;
use crate::types::{DiskId, Index, Membership, NodeId, PendingRole, Time};

impl Node {
    /// The membership in the configuration in force, committed or not (§6).
    pub fn membership(&self) -> &Membership {
        self.raft.membership()
    }

    /// The consensus core, read-only. Only the node advances it: an input that bypassed the node would change what the
    /// waiting requests rely on.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The last applied index, as far as the applier has reported.
    pub fn applied(&self) -> Index {
        self.applier_report.upto
    }

    /// The newest durable snapshot, even if its file was found damaged since: it tells how far back the log can begin.
    pub fn snapshot(&self) -> Option<&DurableSnapshot> {
        self.compaction.newest()
    }

    /// Whether a snapshot is being taken, as far as this node knows: it learns of the end by an event.
    pub fn is_taking_snapshot(&self) -> bool {
        self.compaction.is_taking_snapshot()
    }

    /// How many requests wait here for any reason. Callers of snapshots that are being taken do not count.
    pub fn waiting_requests(&self) -> usize {
        let waiting = self.proposals.len()
            + self.parked_requests.len()
            + self.linearizable_reads.len()
            + self.admin_waiters.len();
        waiting + self.forwarded_requests.len() + self.queries.len() + self.snapshot_reads.len()
    }

    /// The node's status. Fields that only the driver knows are left empty: certificates, processor time and file
    /// systems need I/O, which the node never performs. The driver fills them in before it sends the reply.
    pub fn status(&self, now: Time) -> Status {
        let log = self.raft.log();
        Status {
            node: self.raft.id().get(),
            cluster: self.options.cluster.to_string(),
            role: self.raft.role(),
            term: self.raft.term().0,
            leader: self.raft.leader().map(NodeId::get),
            commit: log.commit().0,
            // The leader's commit index. Without it a follower that lags would look complete, because it has applied
            // all entries that it holds.
            goal: self.raft.known_commit().0,
            applied: self.applier_report.upto.0,
            last: log.last().index.0,
            durable: log.durable().0,
            // As of `applied`: digests of two nodes are comparable only at the same index.
            digest: format!("{:016x}", self.applier_report.digest),
            sessions: self.applier_report.sessions,
            membership: self.membership().to_string(),
            // Computed for each status by a walk over the members: a status is requested too rarely to keep this up to
            // date.
            peers: self.peer_statuses(now),
            // The age of the oldest write that is not durable: a disk that hangs completes nothing, and shows only
            // here.
            disk: self.stats.disk_status(self.raft.oldest_write_age(now)),
            fsync: self.options.fsync,
            in_memory: false,
            file_system: String::new(),
            timing: self.timing(),
            low_space: self.disk_space.is_low(),
            cpu_ns: 0,
            uptime_ms: 0,
            stages: self.stats.stage_status(),
            version: String::new(),
            versions: self.version_status(now),
            elections: self.stats.elections.clone(),
            members: self.member_statuses(),
            hands_over: self.raft.transfer_target().map_or(0, NodeId::get),
            log_id: self.membership().agreed_log_id().map(|log| log.to_string()).unwrap_or_default(),
            promised: self.promised_text(),
            repair: self.repair.status(now, self.raft.promised_position(), log.last()),
            log: self.log_status(now),
            certificate_expires: None,
            machine: String::new(),
            authority_expires: None,
            timer_ms: self.raft.deadline().since(now).as_millis() as u64,
            figures: self.counters(),
            scrub: self.scrub_status(now),
        }
    }

    fn scrub_status(&self, now: Time) -> ScrubStatus {
        let figures = self.scrub_schedule.figures(now);
        let findings = self.scrub_schedule.findings();
        ScrubStatus {
            pass: figures.pass,
            ended: figures.ended,
            ended_ago_ms: figures.ended_ago.map(|ago| ago.as_millis() as u64),
            total_bytes: figures.running.map(|(total, _)| total),
            pass_bytes: figures.running.map_or(0, |(_, checked)| checked),
            unchecked_files: figures.unchecked_files,
            checked_bytes: figures.checked_bytes,
            found: figures.found,
            mended: figures.mended,
            damaged_upto: self.damaged_log_upto().0,
            findings: findings.map(|one| ScrubFinding { text: one.text.clone(), mended: one.mended }).collect(),
        }
    }

    /// The last position that this node acknowledged, while its log lacks it; empty otherwise. Until the log reaches it
    /// again, the node votes only for candidates that hold it (docs/voters.md, rule 13).
    fn promised_text(&self) -> String {
        if self.lacks_promised() { self.raft.promised_position().to_string() } else { String::new() }
    }

    /// Whether the log ends before the promised position.
    pub(super) fn lacks_promised(&self) -> bool {
        self.raft.promised_position() > self.raft.log().last()
    }

    /// The heartbeat interval and the election timeouts, so that a reader can judge the other times of the status.
    fn timing(&self) -> TimingStatus {
        let options = self.raft.options();
        let to_ms = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
        TimingStatus {
            heartbeat_ms: to_ms(options.heartbeat),
            election_min_ms: to_ms(options.election_min),
            election_max_ms: to_ms(options.election_max),
        }
    }

    /// The counters, with the number of pending proposals, which is the length of a table and not counted.
    fn counters(&self) -> Counters {
        let proposals_pending = self.proposals.len() as u64;
        Counters { proposals_pending, ..self.stats.counters.clone() }
    }

    /// The log on this node's disk, and why it is as long as it is: an operator whose disk fills must know whether a
    /// snapshot, a follower or the configuration holds it.
    fn log_status(&self, now: Time) -> LogStatus {
        let log = self.raft.log();
        let (base, last) = (log.base().index, log.last().index);
        let reclaimable_bytes = log.bytes(base, self.compaction.snapshot_index().min(last));
        // A snapshot transfer is named in preference to the other reason: it is temporary, while some entries are
        // always kept for followers a little behind.
        let kept_for = match self.snapshot_sender.oldest_snapshot(now) {
            _ if reclaimable_bytes == 0 => "",
            Some(_) => "a follower is being sent a snapshot",
            None => "followers that are a little behind",
        };
        LogStatus {
            first: base.next().0,
            bytes: log.bytes(base, last),
            reclaimable: reclaimable_bytes,
            kept_for: kept_for.to_owned(),
            snapshot: self.compaction.snapshot_index().0,
            snapshot_bytes: self.compaction.newest().map_or(0, |newest| newest.bytes.len() as u64),
            snapshot_age_ms: self.compaction.newest_age(now).as_millis() as u64,
            taking: self.compaction.is_taking_snapshot(),
            // With `taking`, this shows why a requested snapshot does not exist yet.
            lacks_room: self.compaction.lacks_room(),
            shipped_bytes: self.snapshot_sender.sent_bytes(),
            received_bytes: self.stats.received_snapshot_bytes,
        }
    }

    /// The followers as this leader sees them; none on any other node. The leader's view is the one that commits,
    /// whatever a follower reports of itself.
    fn peer_statuses(&self, now: Time) -> Vec<PeerStatus> {
        let log = self.raft.log();
        let last = log.last().index;
        let transfer_progress = |id| self.snapshot_sender.progress(id).unwrap_or_default();
        let peer_status = |(id, progress): (NodeId, &Progress)| PeerStatus {
            node: id.get(),
            address: self.membership().address(id).unwrap_or_default().to_owned(),
            stage: progress.state_name().to_owned(),
            matched: progress.matched.0,
            lag: last.0 - progress.matched.0,
            // From the last entry that the follower agreed to hold to the last one sent. The log does not know the
            // sizes of compacted entries.
            inflight_bytes: log.bytes(progress.known_matching.max(log.base().index), progress.next.prev()),
            // A leader that receives nothing from a majority for an election timeout steps down: this shows how close
            // it is to that.
            heard_ms: Some(now.since(progress.last_contact).as_millis() as u64),
            probes: progress.probe_number,
            // Zero for a follower that is sent entries: it has no transfer.
            snapshot_has: transfer_progress(id).0,
            snapshot_bytes: transfer_progress(id).1,
            lost_acknowledged: progress.lost_upto.map_or(0, |position| position.index.0),
            losses: progress.loss_count,
            uncounted: uncounted_reason(progress).to_owned(),
        };
        self.raft.progress().map(peer_status).collect()
    }

    /// The members in the configuration in force, committed or not (§6). During a change the two sets of voters
    /// overlap: a node may be in the new one, in the old one or in both, and each counts for its own majority.
    fn member_statuses(&self) -> Vec<MemberStatus> {
        let membership = self.membership();
        // A voter that stays is in both halves of a joint configuration, so membership of the new half alone marks a
        // new one.
        let member_kind = |id: &NodeId| match (membership.voters.contains(id), membership.outgoing.contains(id)) {
            (true, false) if membership.is_joint() => "incoming",
            (true, _) => "voter",
            (false, true) => "outgoing",
            (false, false) => "learner",
        };
        // The role that a leader will give the member without a further command, as the log already records.
        let role_words = |pending_role| match pending_role {
            PendingRole::Unchanged => String::new(),
            PendingRole::Promote => "becomes a voter when it has caught up".to_owned(),
            PendingRole::Replace(old) => format!("takes the place of {old} when it has caught up"),
            PendingRole::Remove => "leaves".to_owned(),
        };
        let member_status = |(id, member): (&NodeId, &crate::types::Member)| MemberStatus {
            node: id.get(),
            kind: member_kind(id).to_owned(),
            address: member.address.clone(),
            disk: member.disk.as_ref().map(DiskId::to_string).unwrap_or_default(),
            prospect: role_words(member.pending_role),
        };
        membership.members.iter().map(member_status).collect()
    }
}

/// Why a follower's copy of the log is not counted, in words; empty if it counts, or if the follower has not responded
/// yet.
///
/// The leader counts by disk, not by id (docs/voters.md, rules 1 and 2). An operator sees a follower that responds and
/// has all entries, while the cluster does not commit: the returned words explain why.
fn uncounted_reason(progress: &Progress) -> &'static str {
    match progress.copy_counts_from {
        // The most serious reason comes first: a follower that lost entries is also behind, and would look merely slow.
        _ if progress.lost_upto.is_some() => "has lost entries that it acknowledged",
        None if progress.disk.is_some() => "the log does not name its disk yet",
        Some(from) if progress.responded_this_term && progress.matched < from => {
            "does not hold the entry yet that names its disk"
        }
        _ => "",
    }
}
