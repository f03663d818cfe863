//! The live view of a cluster: what `drave demo` and `drave top` show in a terminal.
//!
//! What is known is a pure [`model`], which is told what was seen and when; [`draw`] makes a screen of it, and
//! [`story`] sentences of how one thing seen differs from the one before. Around them stand those who see:
//! [`poll`] asks each node on a thread of its own, so that one that is silent holds up nobody; [`load`] writes, if
//! that is wanted, and measures how long it takes; [`errands`] does what takes a while. [`keys`] says what each
//! key asks for, in one table, and [`live`] brings all of it together.

pub mod draw;
pub mod errands;
pub mod keys;
pub mod live;
pub mod load;
pub mod model;
pub mod poll;
pub mod story;
pub mod table;
pub mod terminal;
