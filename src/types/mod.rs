//! Plain data types: ids, positions, times, entries, memberships.
//!
//! All other modules build on these. None of them does I/O, keeps a clock or knows what a node is; each either prevents
//! a mistake or carries an invariant.

pub mod address;
pub mod change;
pub mod digest;
pub mod entry;
pub mod ids;
pub mod membership;
pub mod mutant;
pub mod time;

pub use change::{Change, InvalidChange};
pub use entry::{Entry, HardState, Payload, SnapshotPoint, Vote, Write};
pub use ids::{ClusterId, DiskId, Index, LogId, NodeId, Position, Run, SessionId, Term, WriteId};
pub use membership::{Member, Membership, PendingRole};
pub use mutant::{Mutant, Mutants};
pub use time::{ClusterTime, Time};
