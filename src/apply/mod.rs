//! Committed entries in, outcomes out: sessions around a state machine.

pub mod applier;
pub mod report;
pub mod restoring;
pub mod session;
pub mod sessions;

pub use applier::Applier;
pub use report::Report;
pub use restoring::{Piece, Restoring, StateHeader};
