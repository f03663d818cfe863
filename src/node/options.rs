//! The node's knobs, each with its reason.

use crate::limits;
use crate::types::{ClusterId, Mutants};
use std::time::Duration;

/// How a node treats those who ask, and those it feeds.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster it belongs to, for `status`.
    pub cluster: ClusterId,
    /// Whether the journal really syncs, for `status`.
    pub fsync: bool,
    /// The largest operation, or query, that is accepted. A larger one is refused with this limit.
    pub entry_bytes: u64,
    /// How long a request waits for a leader to be found: an election should be a blip, not an error.
    pub parked_for: Duration,
    /// How many requests may wait for a leader. At the limit they are refused: busy.
    pub parked: usize,
    /// How many bytes of them.
    pub parked_bytes: u64,
    /// How many requests may be passed on to the leader and not yet answered. At the limit: busy.
    pub forwarded: usize,
    /// How many bytes of them.
    pub forwarded_bytes: u64,
    /// How many bytes of queries may wait for their round, or for the applier. At the limit: busy.
    pub reading_bytes: u64,
    /// How much the log must have grown, at least, for the next snapshot; and as much as the last one is.
    pub snapshot_log_bytes: u64,
    /// A snapshot older than that is taken anew, if anything was applied since.
    pub snapshot_max_age: Duration,
    /// One that did not fit the disk is tried again after so long.
    pub snapshot_again: Duration,
    /// How much of the log is kept behind the newest snapshot, for followers that are a little behind.
    pub trailing_bytes: u64,
    /// How much of the log is kept, at most, for a follower that is being sent an older snapshot.
    pub hold_bytes: u64,
    /// How long so much is kept for a follower that does not say a word.
    pub hold_for: Duration,
    /// How many bytes of a snapshot are sent to a follower at once: heartbeats pass between them.
    pub chunk_bytes: usize,
    /// A snapshot that a client reads is held for so long after the last piece, though a newer one took its place.
    pub read_hold: Duration,
    /// How many bytes of entries the applier is given at once: bounds a turn.
    pub apply_bytes: u64,
    /// Whether a command only frees room: the machine's word on it.
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
