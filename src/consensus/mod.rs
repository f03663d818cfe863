//! The algorithm: Raft as a pure state machine. No clock, thread, socket, file or log line.
//!
//! Read it in this order: [`message`] is what nodes say to one another; [`log`] what they agree
//! on; [`replica`] what a node is in any role, with the [`gate`] that holds back what its disk has
//! not yet earned; [`follower`], [`candidate`] and [`leader`] what it does this term; and [`raft`]
//! the spine that turns from one to the other, which is Figure 4 of the paper.
//!
//! The core reasons about positions and sizes, never about payloads: an append leaves it as a
//! range ([`ready::EntriesToSend`]), and whoever drives it fills in the entries.

pub mod ballot;
pub mod candidate;
pub mod claims;
pub mod clock;
pub mod configs;
pub mod follower;
pub mod follower_reads;
pub mod founding;
pub mod gate;
pub mod invariants;
pub mod leader;
pub mod log;
pub mod message;
pub mod next;
pub mod note;
pub mod options;
pub mod peer_class;
pub mod progress;
pub mod quorum;
pub mod raft;
pub mod reads;
pub mod ready;
pub mod replica;
pub mod role;
pub mod room;

pub use options::Options;
pub use raft::Raft;
pub use ready::Ready;
