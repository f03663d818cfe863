//! Two kinds of time: a node's own monotonic clock, and the cluster time.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment on this node's monotonic clock, in nanoseconds since an arbitrary start.
///
/// The driver passes the time with every call, and no pure module reads a clock, so that the simulator can pass
/// simulated time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// The start of the clock.
    pub const ZERO: Time = Time(0);
    /// A moment that never comes: the deadline of a timer that is not set.
    pub const NEVER: Time = Time(u64::MAX);

    /// The duration since `earlier`; zero if `earlier` is later than this moment.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Time> for Time {
    type Output = Duration;
    fn sub(self, earlier: Time) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000_000, self.0 / 1000 % 1_000_000)
    }
}

/// The cluster time, in milliseconds: every entry carries it, it advances while there is a leader, and it never goes
/// back. Expiry of sessions and keys uses the cluster time, so that every node expires them at the same entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterTime(pub u64);

impl fmt::Debug for ClusterTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}
