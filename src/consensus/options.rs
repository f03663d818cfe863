//! The core's options, each with its reason.

use crate::limits;
use crate::types::Mutants;
use std::time::Duration;

/// The options of the core. They are the same, or nearly, on every node of a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// The shortest election timeout (§5.2). A voter that received a message from a leader within it also ignores
    /// candidates (thesis §4.2.3).
    pub election_min: Duration,
    /// The longest election timeout. Timeouts are drawn anew each time, so that split votes are rare and do not repeat
    /// (§9.3).
    pub election_max: Duration,
    /// The interval of a leader's heartbeats: well below `election_min`, so that a few may be lost.
    pub heartbeat: Duration,
    /// The longest delay before a follower campaigns after its leader's connection closed. A killed process closes its
    /// sockets within a millisecond; an election timeout is a hundred times that.
    pub link_closed_within: Duration,
    /// How long a follower may not know of a commit while no other message is sent to it.
    pub commit_told_within: Duration,
    /// Payload of one append, in bytes. Past a megabyte bandwidth gains little and latency doubles.
    pub append_bytes: u64,
    /// Entries of one append.
    pub append_entries: usize,
    /// Bytes sent to a follower and not yet acknowledged. At the limit its stream pauses.
    pub window_bytes: u64,
    /// Appends sent to a follower and not yet acknowledged. At the limit its stream pauses.
    pub window_appends: usize,
    /// Bytes proposed and not yet committed. At the limit proposals are refused as busy.
    pub uncommitted_bytes: u64,
    /// Reserved room on each disk, in bytes. At the limit the driver refuses writes ([`super::Raft::has_room_for`]);
    /// with half of it left it also refuses those that free room. Accepted entries are sent as long as a quarter is
    /// left. The rest is for elections.
    pub reserve_bytes: u64,
    /// Reads that wait for their round. At the limit reads are refused as busy.
    pub reads_waiting: usize,
    /// How long founders wait for silent founders of their list before a majority of them begins a log: a silent
    /// founder may hold a log already.
    pub founding_wait: Duration,
    /// Whether founders begin a log without waiting, even if one of them holds a log.
    pub force_founding: bool,
    /// How long a founder that is alone in its list waits for members of another log to dial it, before it accepts a
    /// command.
    pub sole_founder_wait: Duration,
    /// The safety rules that a test breaks on purpose; none outside tests.
    pub mutants: Mutants,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
            heartbeat: Duration::from_millis(50),
            link_closed_within: Duration::from_millis(20),
            commit_told_within: Duration::from_millis(1),
            append_bytes: 1 << 20,
            append_entries: limits::APPEND_ENTRIES_MAX,
            window_bytes: 8 << 20,
            window_appends: 256,
            uncommitted_bytes: 64 << 20,
            reserve_bytes: 0,
            reads_waiting: 64 << 10,
            founding_wait: Duration::from_secs(5),
            force_founding: false,
            sole_founder_wait: Duration::from_millis(600),
            mutants: Mutants::NONE,
        }
    }
}
