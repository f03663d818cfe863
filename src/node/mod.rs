//! The whole server, minus its I/O: `handle(event)`, then `turn() -> actions`.

pub mod event;
