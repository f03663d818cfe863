//! The versions that a program supports, as a node announces them to its peers.
//!
//! The feature `next-version` compiles in the next version, for tests of an upgrade: one message, one command and one
//! format of snapshots that no released program knows. A node of such a build uses them only if its
//! [`Versions`] say so.

use super::feature_level::FEATURE_LEVEL_MAX;

/// The oldest version of the protocol that nodes may use with each other: from version 8 on, a vote carries the time
/// that the voter last received from a leader.
pub const PEER_PROTOCOL_MIN: u16 = 8;

/// The versions that a program supports. Each node announces its own in the hello of every connection to a peer, so that
/// a restart with another program is noticed at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Versions {
    /// The newest supported version of the protocol.
    pub protocol_max: u16,
    /// The highest feature level that the program knows.
    pub feature_level_max: u16,
}

impl Versions {
    /// The versions of this program.
    pub const CURRENT: Versions = Versions { protocol_max: 8, feature_level_max: FEATURE_LEVEL_MAX };

    /// The next versions, which only tests use.
    #[cfg(feature = "next-version")]
    pub const NEXT: Versions = Versions {
        protocol_max: Versions::CURRENT.protocol_max + 1,
        feature_level_max: Versions::CURRENT.feature_level_max + 1,
    };

    /// The newest versions that are compiled in.
    #[cfg(feature = "next-version")]
    pub const COMPILED: Versions = Versions::NEXT;
    /// The newest versions that are compiled in.
    #[cfg(not(feature = "next-version"))]
    pub const COMPILED: Versions = Versions::CURRENT;
}

impl Default for Versions {
    fn default() -> Versions {
        Versions::CURRENT
    }
}
