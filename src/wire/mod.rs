//! The native protocol: between nodes, and between clients and nodes.
//!
//! One listener serves nodes and clients: the *hello*, the first frame of a connection, states which of the two has
//! connected. All integers are little-endian, and all data is in frames.
//!
//! # A frame
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | length of the content, at most 64 KiB |
//! | 4 | 1 | kind |
//! | 5 | 1 | flags: 0 a whole frame; 1 a piece, more follow; 3 the last piece |
//! | 6 | 2 | reserved, zero |
//! | 8 | 4 | CRC-32 of the eight bytes before it and of the content |
//! | 12 | … | content |
//!
//! Content longer than 64 KiB (and at most 4 MiB) is sent in pieces of one kind, which the receiver reassembles. Whole
//! frames may be sent between two pieces, so that a heartbeat never waits behind megabytes; the pieces of two frames
//! never interleave. A length is checked before memory is reserved for it, and memory grows only with the bytes that
//! have arrived.
//!
//! # A connection
//!
//! ```text
//! caller                                  node
//!   hello    own identity, target   ──▶
//!                                    ◀──  welcome   own identity, common version
//!                                         or refused with a reason; then the connection closes
//!   a peer:    raft, forward, answer ──▶  (nothing comes back: a node dials to send,
//!                                          and is dialed to receive)
//!   a client:  request               ──▶
//!                                    ◀──  reply     in any order, by id
//! ```
//!
//! | kind | name | content | sender |
//! |---|---|---|---|
//! | 1 | hello | [`hello::Hello`] | the dialing side, first |
//! | 2 | welcome | [`hello::Welcome`] | the dialed side, first |
//! | 3 | refused | [`reason::HelloRejection`] | the dialed side, first and last |
//! | 16 | raft | [`peer`]: one consensus message | a peer |
//! | 17 | forward | id, request | a peer, for one of its clients |
//! | 18 | answer | id, reply | a peer, for a forwarded request |
//! | 32 | request | [`client`]: id, whether to forward, request | a client |
//! | 33 | reply | id, reply | a node, to a client; unsolicited with [`client::STATUS_UPDATE_ID`]: a new status |
//!
//! # What closes a connection
//!
//! Any violation of this description: a wrong checksum, a length beyond its limit, an unknown kind or value, trailing
//! bytes, a piece out of sequence, a peer that sends messages of another node, entries that are not consecutive. The
//! receiver skips no bytes and guesses no values. A connection also closes if no hello arrives within five seconds, or
//! if a frame is not complete within thirty seconds; a connection that is idle after its hello stays open.
//!
//! # Versions
//!
//! A hello has its sender's oldest and newest version; the welcome has the newest version that both support, or the
//! node rejects the connection. Nothing else is negotiated: within a version no kind or field is ever added, except to
//! the status, which is JSON.
//!
//! This is version 8. A client and a node use version 7 if one of them supports no newer one: it has no request for a
//! node's log level, which a client sends only under version 8. Nodes use only version 8 with each other: before it, a
//! vote did not carry the time that the voter had last received from a leader. Versions before 7 are rejected: 6 has no
//! gateway addresses, and accepts 007 as a number. Version 2 has no deadlines of keys, so such a node would keep keys
//! that other nodes expire; it does not report a disk's free space; and it has no unsolicited replies. Version 1 has no
//! membership changes, and no refusal of a node that is not a member.

mod change;
pub mod client;
mod entries;
pub mod error;
pub mod frame;
pub mod hello;
pub mod http;
mod log_level;
pub mod peer;
mod peer_version;
pub mod reason;
mod refusal;
pub mod resp;

pub use error::WireError;
