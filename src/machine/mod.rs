//! The state machine: the trait an embedding program implements, and the key-value machine of drave.

pub mod commands;
mod decide;
mod expiry;
mod frozen;
mod index;
pub mod kv;
pub mod state_machine;

pub use commands::{
    Answer, Command, CommandOrQuery, Deadline, Expiration, ExpireCondition, Query, SetCondition, TimeToLive,
};
pub use kv::{KIND, Kv};
pub use state_machine::{Context, StateMachine};
