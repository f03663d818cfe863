//! The live view of a cluster, for `drave demo` and `drave top`.
//!
//! [`model`] holds what is known of the cluster: a pure function of observations and their times. [`draw`] renders it,
//! and [`story`] describes the difference between two observations in a sentence. [`poll`] requests the status of each
//! node on a thread of its own, so that a node that does not answer delays no other. [`load`] writes to the cluster and
//! measures the latency. [`jobs`] runs long operations. [`keys`] is the table of key bindings, and [`live`] is the main
//! loop.

pub mod draw;
pub mod jobs;
pub mod keys;
pub mod live;
pub mod load;
pub mod model;
pub mod poll;
pub mod story;
pub mod table;
pub mod terminal;
