//! The journal: one ordered stream of numbered writes, entries and hard state together.
//!
//! The *journal* writes, on the log thread; a *view* reads, on the reactor. What they share is sent
//! from one to the other and cannot change.

pub mod report;
