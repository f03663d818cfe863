//! Committed entries in, outcomes out: sessions around a state machine.

pub mod report;

pub use report::Report;
