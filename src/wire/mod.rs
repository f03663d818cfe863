//! The native protocol: what travels between nodes, and between clients and nodes.
//!
//! One listener serves both; they are told apart by their *hello*. Everything is little-endian, and
//! everything travels in frames.
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
//! What is longer than 64 KiB (and at most 4 MiB) travels in pieces of one kind, put together by the
//! receiver. Between two pieces whole frames may pass, so that a heartbeat never waits behind
//! megabytes; two frames in pieces never mix. A length is checked before a byte is set aside for it,
//! and memory grows only with the bytes that have come.
//!
//! # A connection
//!
//! ```text
//! caller                                  node
//!   hello    who I am, whom I want   ──▶
//!                                    ◀──  welcome   who I am, the version we speak
//!                                         or refused, why; and the connection closes
//!   a peer:    raft, forward, answer ──▶  (nothing comes back: it dials to speak,
//!                                          and is dialed to listen)
//!   a client:  request               ──▶
//!                                    ◀──  reply     in any order, by number
//! ```
//!
//! | kind | name | content | who says it |
//! |---|---|---|---|
//! | 1 | hello | [`hello::Hello`] | who dials, first |
//! | 2 | welcome | [`hello::Welcome`] | who was dialed, first |
//! | 3 | refused | [`reason::Reason`] | who was dialed, first and last |
//! | 16 | raft | [`peer`]: one message of the consensus | a peer |
//! | 17 | forward | number, request | a peer, for a client of its own |
//! | 18 | answer | number, reply | a peer, to what was forwarded |
//! | 32 | request | [`client`]: number, whether to forward, request | a client |
//! | 33 | reply | number, reply | a node, to a client; under the number [`client::NEWS`] a status that nobody asked for, when the members change |
//!
//! # What closes a connection
//!
//! Anything that is not as written here: a checksum that is wrong, a length beyond its limit, a kind
//! or value that is not known, bytes left over, a piece out of place, a peer that speaks for another
//! node, entries that do not follow one another. Nothing is guessed, nothing skipped. No hello within
//! five seconds, or a frame begun and not ended within thirty, closes it too; a connection that said
//! hello and then nothing is welcome to stay.
//!
//! # Versions
//!
//! A hello names the oldest and the newest version its sender speaks; the welcome names the newest
//! that both speak, or the caller is refused. There is nothing else to negotiate: within a version no
//! kind and no field is ever added, but for status, which is JSON. This is version 8, and 7 is spoken with who knows no
//! newer one: it had no request for the level of a node's log, which a client sends only where 8 was agreed. Between
//! nodes 8 alone is spoken: before it, a vote did not say which time the voter had heard. Versions
//! before 7 are refused: 6 said of no gateway where it is, and took 007 for a number. Version 2 had no deadlines of
//! keys, which a node that does not know of them would keep otherwise than the others; no word of how much room a
//! disk has; and a reply came only to a request. Version 1 had no changes of members, and no word for who is none.

mod change;
pub mod client;
pub mod error;
pub mod frame;
pub mod hello;
pub mod http;
mod log_level;
pub mod peer;
pub mod reason;
pub mod resp;

pub use error::WireError;
