//! The behavior of a world's operator: which kinds of actions the operator takes, and how often.

use rand::RngExt;
use rand::rngs::SmallRng;
use std::time::Duration;

/// How long the operator waits for an answer by default, and how long the operator is idle after a machine has lost its
/// disk.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// The behavior of a world's operator: which kinds of actions the operator takes, and how often.
#[derive(Clone, Debug, Default)]
pub struct OperatorProfile {
    /// The average time between two actions; `None` if there is no operator.
    pub interval: Option<Duration>,
    /// How long the operator waits for an answer before it abandons the request.
    pub reply_timeout: Duration,
    /// The percentage of changes that are forced. Forced changes and lost disks together can leave a cluster that
    /// nothing repairs: a world has only one of the two.
    pub forced_percent: u32,
    /// The largest number of machines whose disks the operator wipes.
    pub wipes_max: u64,
    /// Whether the operator transfers leadership, and shuts processes down in an orderly way.
    pub transfers_leadership: bool,
    /// Whether the operator also requests arbitrary sets of voters, besides changes of one member at a time.
    pub arbitrary_voters: bool,
}

impl OperatorProfile {
    /// Draws the operator's behavior for a cluster with `founders` founding nodes.
    pub fn draw(rng: &mut SmallRng, founders: u64) -> OperatorProfile {
        let interval = Duration::from_millis([60, 250, 1000][rng.random_range(0..3)]);
        let may_wipe = rng.random_range(0..2) == 0;
        let forced_percent = [0, 10, 50][rng.random_range(0..3)];
        OperatorProfile {
            interval: Some(interval),
            reply_timeout: REPLY_TIMEOUT,
            forced_percent: if may_wipe { 0 } else { forced_percent },
            // In a cluster that one node founded, one disk may be lost once the cluster has grown.
            wipes_max: if !may_wipe { 0 } else { (founders.saturating_sub(1) / 2).max(u64::from(founders == 1)) },
            transfers_leadership: rng.random_range(0..3) > 0,
            arbitrary_voters: rng.random_range(0..2) == 0,
        }
    }
}
