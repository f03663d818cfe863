//! The Redis door: what Redis clients ask, in terms of the key-value machine, and the answers in theirs.
//!
//! [`table`] names every command; [`asking`] makes of one what the machine is told or asked, and [`telling`]
//! of its answer a reply. A [`Talk`](talk::Talk) is one connection; [`hearing`] decides what each command is to it.
//! What is answered without the machine stands in [`small`], [`about`] and [`info`]. Nothing here has a socket: `sockets/redis.rs` moves the bytes.

pub mod about;
pub mod asking;
pub mod door;
pub mod glob;
pub mod hearing;
pub mod info;
pub mod small;
pub mod table;
pub mod talk;
pub mod telling;
