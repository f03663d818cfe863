//! The core's knobs, each with its reason.

use crate::limits;
use crate::types::Mutants;
use std::time::Duration;

/// How the core behaves. The same on every node of a cluster, or nearly.
#[derive(Clone, Debug)]
pub struct Options {
    /// The shortest time without a leader before a node campaigns (§5.2); also how long a voter
    /// that hears a leader ignores candidates (thesis §4.2.3).
    pub election_min: Duration,
    /// The longest. Drawn anew each time, so that split votes are rare and do not repeat (§9.3).
    pub election_max: Duration,
    /// How often a leader says that it lives: well below `election_min`, so that a few may be lost.
    pub heartbeat: Duration,
    /// How long after its leader's connection closed a follower asks around, at most: a killed
    /// process closes its sockets within a millisecond, an election timeout is a hundred times that.
    pub link_closed_within: Duration,
    /// How long a follower may not know of a commit while nothing else is sent to it.
    pub commit_told_within: Duration,
    /// Payload of one append. Past a megabyte bandwidth gains little and latency doubles.
    pub append_bytes: u64,
    /// Entries of one append.
    pub append_entries: usize,
    /// Bytes sent to a follower and not yet acknowledged. At the limit its stream rests.
    pub window_bytes: u64,
    /// Appends sent to a follower and not yet acknowledged. At the limit its stream rests.
    pub window_appends: usize,
    /// Bytes proposed and not yet committed. At the limit proposals are refused: busy.
    pub uncommitted_bytes: u64,
    /// Room that is kept on each disk, in bytes. At the limit the driver refuses writes
    /// ([`super::Raft::has_room_for`]), with half of it left also those that free room; what is let in is sent as
    /// long as a quarter is left. What remains is for elections.
    pub reserve_bytes: u64,
    /// Reads waiting for their round. At the limit reads are refused: busy.
    pub reads_waiting: usize,
    /// How long founders wait for those of their list that are silent before a majority of them begins a log: one
    /// that is silent may hold a log already.
    pub founding_wait: Duration,
    /// Whether they neither wait nor mind that one of them holds a log.
    pub found_anyway: bool,
    /// How long a founder that has nobody to ask waits for members of another log to dial it, before it takes a
    /// command.
    pub alone_wait: Duration,
    /// Which safety rule is broken on purpose: none, outside tests.
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
            found_anyway: false,
            alone_wait: Duration::from_millis(600),
            mutants: Mutants::NONE,
        }
    }
}
