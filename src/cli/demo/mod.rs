//! A real cluster on this machine, to play with: `drave demo`, and `drave kill` for it.

pub mod kill;
mod nodes;
mod register;
pub mod run;
