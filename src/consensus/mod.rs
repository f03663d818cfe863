//! Raft as a pure state machine, without clock, thread, socket, file or log line.
//!
//! Read the modules in this order: [`message`], the messages between nodes; [`log`], the log they replicate;
//! [`replica`], a node's state in any role, with the [`gate`], which holds back messages until the disk allows them;
//! [`rules`], the paper's rules, each with the switch that breaks it in tests; [`follower`], [`candidate`] and
//! [`leader`], the roles; and [`raft`], which changes the role as in Figure 4 of the paper.
//!
//! The core uses the positions and sizes of entries, never their payloads: an append leaves the core as a range of
//! indexes ([`ready::EntriesToSend`]), and the driver fills in the entries.

pub mod ballot;
pub mod candidate;
pub mod claims;
pub mod clock;
pub mod configs;
pub mod disk_room;
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
pub mod rules;

pub use options::Options;
pub use raft::Raft;
pub use ready::Ready;
