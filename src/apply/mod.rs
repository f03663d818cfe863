//! Applies committed entries to a state machine, with client sessions around the state machine.

pub mod applier;
pub mod frozen_state;
pub mod report;
pub mod restore;
pub mod session;
pub mod sessions;

pub use applier::Applier;
pub use frozen_state::{Piece, StateHeader};
pub use report::Report;
pub use restore::ApplierRestore;
