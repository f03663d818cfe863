//! The log of a node: which records are logged, in which form, and how they reach standard error.
//!
//! No thread of a node waits for the reader of the log: lines go through a bounded queue ([`sink`]) to a thread of its
//! own, and lines that do not fit are dropped and counted.

pub mod json;
pub mod logger;
pub mod sink;

pub use logger::{Format, change_level, flush, log_final_error, start};
