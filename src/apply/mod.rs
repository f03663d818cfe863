//! Committed entries in, outcomes out: sessions around a state machine.

pub mod applier;
pub mod report;
pub mod sessions;

pub use applier::Applier;
pub use report::Report;
