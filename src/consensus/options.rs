//! The options of the consensus core: timeouts, limits and the reserved disk space.

use crate::limits;
use crate::types::{Mutants, Versions};
use std::time::Duration;

/// The options of the consensus core. All nodes of a cluster should have the same timeouts.
#[derive(Clone, Debug)]
pub struct Options {
    /// The shortest election timeout (§5.2). A voter that received a leader's message within this time also ignores
    /// candidates (thesis §4.2.3).
    pub election_min: Duration,
    /// The longest election timeout. Each timeout is a new random value, so that split votes are rare and do not repeat
    /// (§9.3).
    pub election_max: Duration,
    /// The interval of a leader's heartbeats: well below `election_min`, so that a few lost heartbeats cause no
    /// election.
    pub heartbeat: Duration,
    /// The longest delay before a follower campaigns after its leader's connection closed. A killed process closes its
    /// sockets within a millisecond; an election timeout is a hundred times that.
    pub link_loss_delay_max: Duration,
    /// The longest delay before a follower learns of a commit if no append to it carries the commit index.
    pub commit_delay_max: Duration,
    /// The most bytes of entries in one append. Beyond a megabyte, throughput gains little and latency doubles.
    pub append_bytes_max: u64,
    /// The most entries in one append, however small they are.
    pub append_entries_max: usize,
    /// The most bytes in flight to a follower, sent and not yet acknowledged. At the limit the leader sends it no
    /// more appends.
    pub window_bytes_max: u64,
    /// The most appends in flight to a follower. At the limit the leader sends it no more appends.
    pub window_appends_max: usize,
    /// The most bytes proposed and not yet committed. At the limit proposals are refused as busy.
    pub uncommitted_bytes_max: u64,
    /// Reserved space on each disk, in bytes. When only the reserve is free, the driver refuses commands
    /// ([`super::Raft::has_room_for`]). When only half of the reserve is free, the driver also refuses commands that
    /// free space. Accepted entries are sent to a follower while more than a quarter of the reserve is free on its
    /// disk. That quarter is for the writes of elections.
    pub reserve_bytes: u64,
    /// The most reads that wait for a heartbeat round (on a leader) or a read index (on a follower). At the limit reads
    /// are refused as busy.
    pub waiting_reads_max: usize,
    /// How long founders wait for founders that do not respond, before a majority begins a log: a silent founder may
    /// hold a log already.
    pub founding_wait: Duration,
    /// Whether founders begin a log without waiting, even if one of them holds a log.
    pub force_founding: bool,
    /// How long the only founder of a cluster waits before it accepts commands. If this node was a member of an
    /// existing log, other members of that log have this time to dial it.
    pub sole_founder_wait: Duration,
    /// The versions that this node's program supports.
    pub versions: Versions,
    /// The safety rules that a test breaks on purpose; none outside tests.
    pub mutants: Mutants,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
            heartbeat: Duration::from_millis(50),
            link_loss_delay_max: Duration::from_millis(20),
            commit_delay_max: Duration::from_millis(1),
            append_bytes_max: 1 << 20,
            append_entries_max: limits::APPEND_ENTRIES_MAX,
            window_bytes_max: 8 << 20,
            window_appends_max: 256,
            uncommitted_bytes_max: 64 << 20,
            reserve_bytes: 0,
            waiting_reads_max: 64 << 10,
            founding_wait: Duration::from_secs(5),
            force_founding: false,
            sole_founder_wait: Duration::from_millis(600),
            versions: Versions::CURRENT,
            mutants: Mutants::NONE,
        }
    }
}
