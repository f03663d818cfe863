//! Plain data types: ids, positions, times, entries, memberships.
//!
//! All other modules use these types. No type does I/O or reads a clock. Distinct types prevent mistakes, such as an
//! index used as a term.

pub mod address;
pub mod change;
pub mod digest;
pub mod entry;
pub mod feature_level;
pub mod ids;
pub mod membership;
pub mod mutant;
pub mod time;
pub mod versions;

pub use change::{Change, InvalidChange};
pub use entry::{Entry, HardState, Payload, SnapshotPoint, Vote, Write};
pub use ids::{ClusterId, DiskId, Index, LogId, NodeId, Position, Run, SessionId, Term, WriteId};
pub use membership::{Member, Membership, PendingRole};
pub use mutant::{Mutant, Mutants};
pub use time::{ClusterTime, Time};
pub use versions::Versions;
