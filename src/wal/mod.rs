//! The journal: one ordered stream of numbered writes, entries and hard state together.
//!
//! The *journal* writes, on the log thread; a *view* reads, on the reactor. What they share is sent
//! from one to the other and cannot change. `wal-format.md` says what the files hold.

pub mod ahead;
pub mod format;
pub mod identity;
pub mod inspect;
pub mod journal;
pub mod load;
pub mod open;
pub mod options;
pub mod outline;
pub mod recover;
pub mod report;
pub mod reserve;
pub mod scan;
pub mod segment;
pub mod side;
pub mod spare;
pub mod task;
pub mod view;

#[cfg(test)]
mod tests;

pub use journal::Journal;
pub use options::{Options, Reading, TailPolicy};
pub use recover::{Head, Recovered};
pub use report::{Fault, Report, Result, Sealed};
pub use reserve::{Reserve, Watch};
pub use spare::{Spare, SpareOrder};
pub use task::Task;
pub use view::View;
