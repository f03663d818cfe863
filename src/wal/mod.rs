//! The journal: one ordered stream of numbered writes, entries and hard state together.
//!
//! The *journal* writes, on the log thread; a *view* reads, on the reactor. Data shared between them is sent from one
//! to the other and is immutable. `wal-format.md` defines the file format.

pub mod ballast;
pub mod batches;
pub mod format;
pub mod identity;
pub mod inspect;
mod invariants;
pub mod journal;
pub mod load;
pub mod log_summary;
pub mod open;
pub mod options;
pub mod parallel_checksum;
pub mod recover;
pub mod report;
pub mod scan;
pub mod segment;
pub mod spare;
pub mod sync_marker;
pub mod tail;
pub mod task;
pub mod view;

#[cfg(test)]
mod tests;

pub use ballast::{Ballast, SpaceMonitor};
pub use journal::Journal;
pub use options::{Options, ReadMode, TailPolicy};
pub use recover::{EntrySummary, Recovered};
pub use report::{Fault, Report, Result, Sealed};
pub use spare::{Spare, SpareOrder};
pub use task::Task;
pub use view::View;
