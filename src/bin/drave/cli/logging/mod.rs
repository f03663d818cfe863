//! The log of a node: the filter and the format of its records, and the queue through which they reach standard error.
//!
//! No thread of a node waits for the reader of the log: lines go through a bounded queue ([`sink`]) to a writer
//! thread, and lines that do not fit are dropped and counted.

pub mod json;
pub mod logger;
pub mod sink;

pub use logger::{LogFormat, change_level, flush, log_final_error, start};
