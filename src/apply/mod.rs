//! Applies committed entries to a state machine, with client sessions around it.

pub mod applier;
pub mod frozen_state;
pub mod report;
pub mod restoring;
pub mod session;
pub mod sessions;

pub use applier::Applier;
pub use frozen_state::{Piece, StateHeader};
pub use report::Report;
pub use restoring::ApplierRestore;
