//! The live view of a cluster, for `drave demo` and `drave top`.
//!
//! [`model`] is the known state of the cluster: a pure function of observations and their times. [`screen`] draws the
//! model, and [`event_log`] describes the difference between two observations in a sentence. [`poll`] requests the
//! status of each node on a thread of its own, so that a node that does not answer delays no other. [`load`] writes to
//! the cluster and measures the latency. [`jobs`] runs long operations. [`keys`] is the table of key bindings, and
//! [`app`] is the main loop.

pub mod app;
pub mod event_log;
pub mod jobs;
pub mod keys;
pub mod load;
pub mod model;
pub mod node;
pub mod node_table;
pub mod poll;
pub mod screen;
pub mod terminal;
