//! A cluster seen from outside: how commands reach it, and what they say when they cannot.

pub mod cluster;
pub mod explain;
pub mod failure;
pub mod interrupt;
pub mod poll;
pub mod process;
pub mod tls;
