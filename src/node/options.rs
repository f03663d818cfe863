//! The node's options, each with its reason.
//!
//! Most of them are bounds. A node under more load than it can carry must refuse early and cheaply: a request that
//! waits in a queue beyond its client's patience is executed for no one, and takes the place of one that is still
//! awaited. Hence a bound on each queue, by number and by bytes, and a refusal that tells the client that it may try
//! elsewhere.

use crate::limits;
use crate::types::{ClusterId, Mutants};
use std::time::Duration;

/// How a node treats clients and followers.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster id, for `status`.
    pub cluster: ClusterId,
    /// Whether the journal really syncs, for `status`.
    pub fsync: bool,
    /// The largest operation or query, in bytes. A larger one is rejected with this limit. The check comes before the
    /// log: an entry that fits no message to a follower could never be committed, nor anything behind it.
    pub entry_bytes: u64,
    /// How long a request may wait for a leader: an election should be a blip, not an error.
    pub parked_for: Duration,
    /// How many requests may wait for a leader. Further ones are refused as busy. All of them are handled in one turn,
    /// once there is a leader.
    pub parked: usize,
    /// How many bytes of such requests.
    pub parked_bytes: u64,
    /// How many forwarded requests may be unanswered. Further ones are refused as busy. A leader that is slow to answer
    /// must not fill the memory of its followers.
    pub forwarded: usize,
    /// How many bytes of such requests.
    pub forwarded_bytes: u64,
    /// How many bytes of queries may wait for their heartbeat round or the applier. Further ones are refused as busy.
    pub reading_bytes: u64,
    /// The log growth in bytes after which a snapshot is due; or the size of the last snapshot, if that is larger. A
    /// start reads and applies about that much again, so the time of a start is bounded with it.
    pub snapshot_log_bytes: u64,
    /// The age after which a new snapshot is due, if any entry was applied since the last one. A log that grows slowly
    /// may take weeks to reach that size, and clients that read the newest snapshot for a backup would get one that
    /// old.
    pub snapshot_max_age: Duration,
    /// How long after a snapshot that did not fit the disk another is attempted.
    pub snapshot_again: Duration,
    /// How many bytes of log are kept behind the newest snapshot, for followers that lag a little: sending them entries
    /// costs less than sending them the state.
    pub trailing_bytes: u64,
    /// How many bytes of log are kept, at most, for a follower that is being sent an older snapshot. Beyond that the
    /// follower is sent a newer one: a full disk here would harm more nodes than that one.
    pub hold_bytes: u64,
    /// How long that log is kept for a follower that does not respond.
    pub hold_for: Duration,
    /// Bytes per snapshot chunk: heartbeats pass between chunks. A chunk that takes an election timeout to send would
    /// cost the leader its followers.
    pub chunk_bytes: usize,
    /// How long a snapshot is held after a client last read from it, though a newer one has replaced it.
    pub read_hold: Duration,
    /// Bytes of entries per batch for the applier: bounds a turn. The state is digested and reported once per batch, so
    /// a batch should not be one entry either.
    pub apply_bytes: u64,
    /// Whether a command only frees room, as the state machine defines it.
    pub frees: fn(&[u8]) -> bool,
    /// Which safety rule is broken on purpose: none, outside tests.
    pub mutants: Mutants,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cluster: ClusterId::default(),
            fsync: true,
            entry_bytes: limits::ENTRY_BYTES_MAX,
            parked_for: Duration::from_secs(3),
            parked: 16 << 10,
            parked_bytes: 32 << 20,
            forwarded: 64 << 10,
            forwarded_bytes: 64 << 20,
            reading_bytes: 64 << 20,
            snapshot_log_bytes: 64 << 20,
            snapshot_max_age: Duration::from_secs(60 * 60),
            snapshot_again: Duration::from_secs(5),
            trailing_bytes: 16 << 20,
            hold_bytes: 1 << 30,
            hold_for: Duration::from_secs(60),
            chunk_bytes: limits::CHUNK_BYTES,
            read_hold: Duration::from_secs(30),
            apply_bytes: 256 << 10,
            frees: |_| false,
            mutants: Mutants::NONE,
        }
    }
}
