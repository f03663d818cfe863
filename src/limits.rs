//! Every limit in the crate, and how the limits relate.
//!
//! Each queue, buffer, window and table has its limit here or in its module's `Options`; the behavior at the limit is
//! documented where it is enforced.

/// The largest command that a client may propose, in bytes (`--max-entry` may lower it).
pub const ENTRY_BYTES_MAX: u64 = 1 << 20;
/// Bytes that an entry adds to its payload, on the wire and in the journal, at most.
pub const ENTRY_OVERHEAD_MAX: u64 = 64;
/// Payload of one append to a follower, in bytes, at most.
pub const APPEND_BYTES_MAX: u64 = 2 << 20;
/// Entries in one append, at most.
pub const APPEND_ENTRIES_MAX: usize = 16 << 10;
/// Bytes that a frame adds to its content, at most.
pub const FRAME_OVERHEAD_MAX: u64 = 1 << 10;
/// The largest frame on any connection, in bytes.
pub const FRAME_BYTES_MAX: u64 = 4 << 20;
/// A frame longer than this is sent in fragments, so that a heartbeat can pass between them.
pub const FRAGMENT_BYTES: u64 = 64 << 10;
/// The largest answer of a state machine, in bytes: it must fit a frame.
pub const ANSWER_BYTES_MAX: u64 = 2 << 20;
/// The largest key, in bytes.
pub const KEY_BYTES_MAX: usize = 64 << 10;
/// Arguments of a Redis command, at most.
pub const RESP_ARGUMENTS_MAX: usize = 1 << 20;
/// The longest argument, in bytes, that is skipped because it is too long to be accepted: Redis' own limit.
pub const RESP_BULK_BYTES_MAX: usize = 512 << 20;
/// Total bytes of a Redis command, at most.
pub const RESP_COMMAND_BYTES_MAX: usize = 4 << 20;
/// Bytes of an inline Redis command, or of any protocol line, at most.
pub const RESP_LINE_BYTES_MAX: usize = 64 << 10;
/// Bytes of the head of an HTTP request, at most.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 << 10;
/// Header fields of an HTTP request, at most.
pub const HTTP_HEADERS_MAX: usize = 64;
/// Members of a cluster, at most.
pub const MEMBERS_MAX: usize = 64;
/// The longest name and version of a state machine, in bytes.
pub const MACHINE_BYTES_MAX: usize = 64;
/// The longest `host:port`, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 300;
/// Outstanding commands of a session, at most.
pub const SESSION_WINDOW_MAX: u32 = 1024;
/// Open sessions, at most; the least recently used one expires first.
pub const SESSIONS_MAX: usize = 16 << 10;
/// Bytes of stored answers of all sessions together, at most.
pub const SESSION_ANSWER_BYTES_MAX: u64 = 256 << 20;
/// A session expires after this long without a command, in milliseconds of cluster time.
pub const SESSION_IDLE_MS_MAX: u64 = 60 * 60 * 1000;
/// Approximate size of the chunks in which a frozen state is serialized, stored and sent, in bytes.
pub const CHUNK_BYTES: usize = 256 << 10;
/// Bytes by which a chunk may exceed the size requested: one pair of the largest key and value, or one stored answer,
/// with its framing.
pub const PIECE_EXCESS_MAX: usize = (2 << 20) + (1 << 10);

const _: () = {
    // An entry always fits an append, and an append always fits a frame: every accepted entry can be sent.
    assert!(ENTRY_BYTES_MAX + ENTRY_OVERHEAD_MAX < APPEND_BYTES_MAX);
    assert!(APPEND_BYTES_MAX + FRAME_OVERHEAD_MAX < FRAME_BYTES_MAX);
    assert!(ANSWER_BYTES_MAX + FRAME_OVERHEAD_MAX < FRAME_BYTES_MAX);
    assert!(ENTRY_BYTES_MAX < ANSWER_BYTES_MAX);
    assert!(FRAGMENT_BYTES < FRAME_BYTES_MAX);
    // Every command that fits an entry also fits the Redis protocol, with a length before each key and value.
    assert!(2 * ENTRY_BYTES_MAX < RESP_COMMAND_BYTES_MAX as u64);
    assert!(KEY_BYTES_MAX as u64 * 2 < ENTRY_BYTES_MAX);
    // A value that grew by appends is no longer than a value set by one command.
    assert!(ENTRY_BYTES_MAX + KEY_BYTES_MAX as u64 + ENTRY_OVERHEAD_MAX < PIECE_EXCESS_MAX as u64);
    assert!(ENTRY_BYTES_MAX + KEY_BYTES_MAX as u64 + ENTRY_OVERHEAD_MAX < ANSWER_BYTES_MAX);
    // A key and its value come in one command, and an answer is bounded: everything that a machine holds can be
    // serialized. A message with a whole chunk of a snapshot fits a frame.
    assert!(ENTRY_BYTES_MAX + ENTRY_OVERHEAD_MAX < PIECE_EXCESS_MAX as u64);
    assert!(ANSWER_BYTES_MAX + ENTRY_OVERHEAD_MAX < PIECE_EXCESS_MAX as u64);
    assert!((CHUNK_BYTES + PIECE_EXCESS_MAX) as u64 + FRAME_OVERHEAD_MAX < FRAME_BYTES_MAX);
};
