//! The node's options, each with its reason.
//!
//! Most of them are bounds. A node under more load than it can handle must refuse early and cheaply: a request that
//! waits in a queue beyond its client's timeout is executed for no one, and delays requests that are still awaited.
//! Hence a bound on each queue, by number and by bytes, and a refusal that tells the client to try another node.

use crate::limits;
use crate::types::{ClusterId, Mutants};
use std::time::Duration;

/// The limits and timeouts of a node: requests, snapshots, and log compaction.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster id that `status` reports.
    pub cluster: ClusterId,
    /// Whether the journal really syncs, as `status` reports it.
    pub fsync: bool,
    /// The largest operation or query, in bytes. A larger one is rejected, and the refusal names this limit. The check
    /// comes before the log: an entry that fits no message to a follower could never be committed, nor anything behind
    /// it.
    pub op_bytes_max: u64,
    /// How long a request may wait for a leader: an election should delay requests, not fail them.
    pub park_timeout: Duration,
    /// How many requests may wait for a leader. Further ones are refused as busy. All of them are handled in one turn,
    /// once there is a leader.
    pub parked_requests_max: usize,
    /// How many bytes of requests may wait for a leader. Further ones are refused as busy.
    pub parked_bytes_max: u64,
    /// How many forwarded requests may be unanswered. Further ones are refused as busy. A leader that is slow to answer
    /// must not fill the memory of its followers.
    pub forwarded_requests_max: usize,
    /// How many bytes of forwarded requests may be unanswered. Further ones are refused as busy.
    pub forwarded_bytes_max: u64,
    /// How many bytes of queries may wait for their heartbeat round or the applier. Further ones are refused as busy.
    pub waiting_read_bytes_max: u64,
    /// The log growth in bytes after which a snapshot is due; or the size of the last snapshot, if that is larger. A
    /// start applies about that many bytes of log again, so the limit bounds the duration of a start.
    pub snapshot_log_bytes: u64,
    /// The age after which a new snapshot is due, if any entry was applied since the last one. A log that grows slowly
    /// may take weeks to reach `snapshot_log_bytes`, and clients that read the newest snapshot for a backup would get
    /// one that is weeks old.
    pub snapshot_max_age: Duration,
    /// The delay before the next attempt after a snapshot that did not fit the disk. It doubles with each failure.
    pub snapshot_retry_delay: Duration,
    /// How many bytes of log are kept behind the newest snapshot, for followers that lag a little: sending them entries
    /// costs less than sending them the state.
    pub trailing_bytes: u64,
    /// How many bytes of log are kept, at most, for a follower that is being sent an older snapshot. Beyond that the
    /// follower is sent a newer one: a full disk here would harm more nodes than that one.
    pub log_hold_bytes: u64,
    /// How long the log behind an older snapshot is kept for a follower that does not respond.
    pub log_hold_time: Duration,
    /// Bytes per snapshot chunk. Heartbeats are sent between chunks: a chunk that takes an election timeout to send
    /// would cost the leader its followers.
    pub chunk_bytes: usize,
    /// How long a snapshot is held after a client last read from it, though a newer one has replaced it.
    pub snapshot_read_hold: Duration,
    /// The time between two passes that check all files of this node; `None` if passes begin on request only. A disk may
    /// damage what nobody reads, and a second damage elsewhere may be the one too many.
    pub scrub_interval: Option<Duration>,
    /// The most bytes of entries per batch for the applier, which bounds for how long a batch blocks the event loop.
    /// The state's digest is computed once per batch, so batches of single entries would be slow.
    pub apply_batch_bytes_max: u64,
    /// Whether an encoded command only frees space, as the state machine defines it. Such commands are accepted on a
    /// full disk.
    pub frees_space: fn(&[u8]) -> bool,
    /// The feature level that an encoded command needs, as the state machine defines it. A command of a later level than
    /// the cluster's is refused.
    pub needed_level: fn(&[u8]) -> u16,
    /// The safety rules that are broken on purpose: none, outside tests.
    pub mutants: Mutants,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cluster: ClusterId::default(),
            fsync: true,
            op_bytes_max: limits::ENTRY_BYTES_MAX,
            park_timeout: Duration::from_secs(3),
            parked_requests_max: 16 << 10,
            parked_bytes_max: 32 << 20,
            forwarded_requests_max: 64 << 10,
            forwarded_bytes_max: 64 << 20,
            waiting_read_bytes_max: 64 << 20,
            snapshot_log_bytes: 64 << 20,
            snapshot_max_age: Duration::from_secs(60 * 60),
            snapshot_retry_delay: Duration::from_secs(5),
            trailing_bytes: 16 << 20,
            log_hold_bytes: 1 << 30,
            log_hold_time: Duration::from_secs(60),
            chunk_bytes: limits::CHUNK_BYTES,
            snapshot_read_hold: Duration::from_secs(30),
            scrub_interval: Some(Duration::from_secs(7 * 24 * 60 * 60)),
            apply_batch_bytes_max: 256 << 10,
            frees_space: |_| false,
            needed_level: |_| 1,
            mutants: Mutants::NONE,
        }
    }
}
