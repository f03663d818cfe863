//! Feature levels: which kinds of entries, snapshots and commands a cluster may use.
//!
//! | level | adds |
//! |---|---|
//! | 1 | everything in version 0.1.0 |
//!
//! The latest configuration in the log holds the cluster's level ([`Membership::feature_level`]). An operator raises
//! it once every member announces the new level. The cluster uses a new kind of entry, snapshot or command only when the
//! entry that raises the level is committed. A program that does not know the level of a log does not start on that log.
//!
//! [`Membership::feature_level`]: super::Membership::feature_level

/// The highest feature level that this program knows.
pub const FEATURE_LEVEL_MAX: u16 = 1;
