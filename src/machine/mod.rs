//! The state machine: the trait an embedding program implements, and the key-value machine we ship.

mod deciding;
mod expiry;
mod frozen;
mod index;
pub mod kv;
pub mod seam;
pub mod words;

pub use kv::{KIND, Kv};
pub use seam::{Context, StateMachine};
pub use words::{Answer, Bar, Command, Deadline, Left, Life, Presence, Query, Step};
