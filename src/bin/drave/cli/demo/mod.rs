//! `drave demo`, a real cluster on this machine to experiment with, and `drave kill` for its nodes.

pub mod kill;
mod nodes;
mod registry;
pub mod run;
