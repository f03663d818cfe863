//! A node's status: what `status`, `top`, the metrics and the live page show.

use super::figures::Counters;
use super::peer_status::PeerStatus;
use super::version_status::VersionStatus;
use serde::{Deserialize, Serialize};

/// The role of a node in its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// A voter that follows a leader, or waits for one.
    #[default]
    Follower,
    /// A voter that requests pre-votes; its term does not change (thesis §9.6).
    Precandidate,
    /// A voter that requests votes (§5.2).
    Candidate,
    /// The leader of its term: it appends commands to the log.
    Leader,
    /// A member that receives the log and has no vote.
    Learner,
    /// A node that is not a member of the configuration that it knows: not yet, or not any more.
    Outside,
}

impl std::fmt::Display for RoleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            RoleName::Follower => "follower",
            RoleName::Precandidate => "precandidate",
            RoleName::Candidate => "candidate",
            RoleName::Leader => "leader",
            RoleName::Learner => "learner",
            RoleName::Outside => "outside",
        })
    }
}

/// A node's own status. Sent as JSON, so that fields can be added.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// This node's id.
    pub node: u64,
    /// The id of this node's cluster, in hex.
    pub cluster: String,
    /// The node's role in the current term.
    pub role: RoleName,
    /// The latest term that the node knows.
    pub term: u64,
    /// The leader, as far as this node knows.
    pub leader: Option<u64>,
    /// The last index of this node's log that is known to be committed.
    pub commit: u64,
    /// The highest index that the node knows to be committed, even if its own log has not reached it yet.
    #[serde(default)]
    pub goal: u64,
    /// The last index applied to the state machine.
    pub applied: u64,
    /// The last index in this node's log.
    pub last: u64,
    /// The last index that is durable on this node's disk.
    pub durable: u64,
    /// A digest of state machine and sessions as of `applied`, in hex: equal on all nodes at the same index.
    pub digest: String,
    /// Number of open sessions.
    pub sessions: u64,
    /// The members of the configuration in force, in words.
    pub membership: String,
    /// On a leader, the replication progress of each other member; otherwise empty.
    pub peers: Vec<PeerStatus>,
    /// The syncs of this node's journal, and the free space on its disk.
    pub disk: DiskStatus,
    /// Whether writes are synced before they are answered. False only under `--unsafe-no-fsync`.
    pub fsync: bool,
    /// Whether this node's data is in memory, on a tmpfs: a sync there makes nothing durable.
    #[serde(default)]
    pub in_memory: bool,
    /// The file system of this node's data, such as `ext4`; empty if it is not recognized.
    #[serde(default)]
    pub file_system: String,
    /// The timeouts that the node was started with.
    #[serde(default)]
    pub timing: TimingStatus,
    /// Whether the node's disk has too little room. As leader it then refuses writes, except those that free room.
    #[serde(default)]
    pub low_space: bool,
    /// The processor time that this process has used, in nanoseconds.
    pub cpu_ns: u64,
    /// Milliseconds since the process started.
    pub uptime_ms: u64,
    /// How long each stage of a write takes, measured while this node leads.
    pub stages: StageStatus,
    /// The build: version and profile.
    pub version: String,
    /// The versions that this node's program supports, and those of the cluster.
    #[serde(default)]
    pub versions: VersionStatus,
    /// Elections this node has started since its process started, by reason.
    pub elections: std::collections::BTreeMap<String, u64>,
    /// The members of the configuration in force.
    #[serde(default)]
    pub members: Vec<MemberStatus>,
    /// The target of this leader's leadership transfer; 0 if there is none.
    #[serde(default)]
    pub hands_over: u64,
    /// The id of this node's log, in hex; empty until the cluster has agreed on it.
    #[serde(default)]
    pub log_id: String,
    /// The position that this node acknowledged and no longer holds, as `index@term`; empty if there is none.
    #[serde(default)]
    pub promised: String,
    /// The repair that is under way: the log ends before `promised`. `None` if the log is whole.
    #[serde(default)]
    pub repair: Option<RepairStatus>,
    /// The part of the log that this node keeps, and the snapshot that covers the rest.
    #[serde(default)]
    pub log: LogStatus,
    /// Milliseconds until this node's consensus timer is due: a leader then sends a heartbeat, and a follower
    /// campaigns.
    #[serde(default)]
    pub timer_ms: u64,
    /// When this node's certificate expires, in seconds since 1970; `None` without TLS.
    pub certificate_expires: Option<u64>,
    /// The name of the state machine and the version of its commands; empty if the machine does not report them.
    #[serde(default)]
    pub machine: String,
    /// When the last of the certificate authorities that this node trusts expires, in seconds since 1970; `None`
    /// without TLS.
    pub authority_expires: Option<u64>,
    /// Counters and histograms since the process started.
    #[serde(default)]
    pub figures: Counters,
    /// The passes that check this node's files, and the damage that was found while the process ran.
    #[serde(default)]
    pub scrub: ScrubStatus,
}

/// The passes that check a node's files. All numbers count from the start of the process, which has checked all files.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// The number of the pass that is running or requested; otherwise of the last one, or 0.
    pub pass: u64,
    /// The number of the last pass that has ended; 0 before the first.
    pub ended: u64,
    /// Milliseconds since the last pass ended; `None` before the first.
    pub ended_ago_ms: Option<u64>,
    /// The bytes to check in the running pass; `None` if none is running.
    pub total_bytes: Option<u64>,
    /// The bytes checked in the running pass.
    pub pass_bytes: u64,
    /// How many files the last pass could not check; the node's log says why.
    pub unchecked_files: u64,
    /// Bytes checked.
    pub checked_bytes: u64,
    /// Damaged files found.
    pub found: u64,
    /// Damaged files that were mended: a snapshot has replaced them.
    pub mended: u64,
    /// The last index of the damaged part of the log that is not mended yet; 0 if there is none.
    pub damaged_upto: u64,
    /// The latest damaged files, oldest first.
    pub findings: Vec<ScrubFinding>,
}

/// A damaged file that a node found while it ran.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ScrubFinding {
    /// File, offset, what is wrong, and the affected entries, in words.
    pub text: String,
    /// Whether the file is mended: a snapshot has replaced it.
    pub mended: bool,
}

/// A node's timeouts, in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TimingStatus {
    /// The interval of a leader's heartbeats.
    pub heartbeat_ms: f64,
    /// The shortest election timeout: each one is drawn at random, between this and `election_max_ms`.
    pub election_min_ms: f64,
    /// The longest election timeout.
    pub election_max_ms: f64,
}

/// A member of the cluster, from the configuration in force.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MemberStatus {
    /// The member's id.
    pub node: u64,
    /// `voter` or `learner`; in a joint configuration also `incoming` and `outgoing` (§6).
    pub kind: String,
    /// The address that the configuration names, as `host:port`.
    pub address: String,
    /// The id of the member's disk, in hex; empty if it is not known yet.
    pub disk: String,
    /// The role that the leader will give the member without a further command, in words; empty if the role does not
    /// change.
    pub prospect: String,
}

/// The repair of a node whose log lacks entries that it acknowledged. The node votes only for logs that have them,
/// does not campaign, and answers no local reads.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RepairStatus {
    /// The damaged file; empty if it is not known any more, because the process was started again during the repair, or
    /// if the directory is an older copy.
    pub file: String,
    /// The offset of the first damaged byte in the file.
    pub offset: u64,
    /// What is wrong with the file, in words.
    pub damage: String,
    /// The indexes of the damaged entries, in words.
    pub lost: String,
    /// Number of entries received since this process saw the repair begin.
    pub received: u64,
    /// Number of entries up to the promised position; `None` if the end of the lost log is not known.
    pub missing: Option<u64>,
    /// Milliseconds since this process saw the repair begin.
    pub age_ms: u64,
}

/// The part of the log that a node keeps.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LogStatus {
    /// The first index that the log still holds: entries before it are compacted.
    pub first: u64,
    /// Bytes of entries in the log.
    pub bytes: u64,
    /// Bytes of entries that the newest snapshot covers as well.
    pub reclaimable: u64,
    /// Why the reclaimable entries are still kept, in words; empty if `reclaimable` is 0.
    pub kept_for: String,
    /// The last index in the newest snapshot; 0 if there is none.
    pub snapshot: u64,
    /// The size of the newest snapshot in bytes; 0 if there is none.
    pub snapshot_bytes: u64,
    /// Milliseconds since the newest snapshot was taken or received, or since the process started if it is older.
    #[serde(default)]
    pub snapshot_age_ms: u64,
    /// Whether a snapshot is being taken.
    pub taking: bool,
    /// Whether the last snapshot that was started did not fit on the disk, not even with the reserve.
    #[serde(default)]
    pub lacks_room: bool,
    /// Bytes of snapshots sent to followers since the process started, retransmissions included.
    #[serde(default)]
    pub shipped_bytes: u64,
    /// Bytes of snapshots received from leaders since the process started.
    #[serde(default)]
    pub received_bytes: u64,
}

/// Statistics of a node's disk since the process started. Latencies are in microseconds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Number of the journal's syncs.
    pub syncs: u64,
    /// Number of entries that the journal's syncs made durable.
    pub entries: u64,
    /// Bytes that the journal's syncs made durable.
    pub bytes: u64,
    /// Median sync latency.
    pub sync_p50_us: f64,
    /// The 99th percentile of the sync latency.
    pub sync_p99_us: f64,
    /// The latency of the longest sync.
    pub sync_max_us: f64,
    /// Age of the oldest write not yet durable, in milliseconds.
    pub oldest_unsynced_ms: u64,
    /// About how many bytes the log can still grow by until the disk is full; `None` before the first measurement.
    pub room: Option<u64>,
}

/// Median times of the stages of a write on its leader, in microseconds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StageStatus {
    /// From the proposal until the write is handed to the disk.
    pub queue_us: f64,
    /// The duration of a sync of the leader's own journal, with the write before it.
    pub fsync_us: f64,
    /// From handing the write to the disk until a quorum holds it and the leader commits it.
    pub replicate_us: f64,
    /// From the submission of the entry's batch to the applier until the applier reports that the batch is applied.
    pub apply_us: f64,
}
