//! The behavior of a world's operator.

use rand::RngExt;
use rand::rngs::SmallRng;
use std::time::Duration;

/// How long the operator waits for an answer by default.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The behavior of a world's operator.
#[derive(Clone, Debug, Default)]
pub struct Governance {
    /// The average time between two actions. Without it there is no operator.
    pub every: Option<Duration>,
    /// How long it waits for an answer before it goes on with something else.
    pub patience: Duration,
    /// How many of a hundred changes are forced. (Forced changes and lost disks together can leave a cluster that
    /// nothing repairs: a world has only one of them.)
    pub forced: u32,
    /// How many machines lose their disks at most.
    pub wipes: u64,
    /// Whether it transfers leadership, and shuts processes down in an orderly way.
    pub transfers: bool,
    /// Whether it requests arbitrary sets of voters, rather than changes of one member at a time.
    pub at_will: bool,
}

impl Governance {
    /// Draws the operator's behavior for a cluster with that many founders.
    pub fn draw(rng: &mut SmallRng, founders: u64) -> Governance {
        let every = Duration::from_millis([60, 250, 1000][rng.random_range(0..3)]);
        let wipes = rng.random_range(0..2) == 0;
        let forced = [0, 10, 50][rng.random_range(0..3)];
        Governance {
            every: Some(every),
            patience: PATIENCE,
            forced: if wipes { 0 } else { forced },
            // A cluster that one node founded, and that has grown, may lose its founder.
            wipes: if !wipes { 0 } else { (founders.saturating_sub(1) / 2).max(u64::from(founders == 1)) },
            transfers: rng.random_range(0..3) > 0,
            at_will: rng.random_range(0..2) == 0,
        }
    }
}
