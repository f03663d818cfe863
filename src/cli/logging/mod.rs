//! The log of a node: what is logged, in which form, and how it reaches standard error.
//!
//! No thread of a node waits for whoever reads the log: lines go through a bounded queue ([`sink`]) to a thread of
//! their own, and what does not fit is dropped and counted.

pub mod json;
pub mod logger;
pub mod sink;

pub use logger::{Format, change_level, flush, say_last, start};
