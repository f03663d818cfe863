//! Nouns that do nothing: ids, positions, times, entries, memberships.
//!
//! Everything above is built from these. None of them does I/O, keeps a clock or knows what a
//! node is; each either forbids a mistake or carries a law.

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
