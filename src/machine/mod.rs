//! The state machine: the trait an embedding program implements, and the key-value machine we ship.

pub mod seam;

pub use seam::{Context, StateMachine};
