//! Every limit in the crate, and how the limits relate.
//!
//! Each queue, buffer, window and table has its limit here or in its module's `Options`; the behavior at the limit is
//! documented where it is enforced.

/// The largest command that a client may propose, in bytes (`--max-entry` may lower it).
pub const ENTRY_BYTES_MAX: u64 = 1 << 20;
/// The most bytes that header, length and checksums add to the payload of an entry, on the wire and in the journal.
pub const ENTRY_OVERHEAD_BYTES_MAX: u64 = 64;
/// The largest total payload of one AppendEntries message to a follower, in bytes.
pub const APPEND_BYTES_MAX: u64 = 2 << 20;
/// The most entries in one AppendEntries message.
pub const APPEND_ENTRIES_MAX: usize = 16 << 10;
/// The most positions in one request for lost entries: one for each of the latest terms of the requester's log.
pub const KNOWN_POSITIONS_MAX: usize = 16;
/// The most bytes that a frame adds to its payload: the frame's header, and the other fields of the message.
pub const FRAME_OVERHEAD_BYTES_MAX: u64 = 1 << 10;
/// The largest frame on a native connection, in bytes. A longer one closes the connection: its length is not trusted.
pub const FRAME_BYTES_MAX: u64 = 4 << 20;
/// A frame of more than this many bytes is sent in fragments, so that a heartbeat can pass between them.
pub const FRAME_FRAGMENT_BYTES: u64 = 64 << 10;
/// The largest answer of a state machine, in bytes: an answer must fit a frame.
pub const ANSWER_BYTES_MAX: u64 = 2 << 20;
/// The longest key of the key-value machine, in bytes; the gateways and the machine reject a longer one.
pub const KEY_BYTES_MAX: usize = 64 << 10;
/// The most arguments of a Redis command, the command's name included.
pub const RESP_ARGUMENTS_MAX: usize = 1 << 20;
/// The longest argument of a Redis command, in bytes, that the parser still skips to answer with an error. A longer one
/// closes the connection. Redis has the same limit.
pub const RESP_BULK_BYTES_MAX: usize = 512 << 20;
/// The largest Redis command, in bytes, with all its arguments.
pub const RESP_COMMAND_BYTES_MAX: usize = 4 << 20;
/// The longest inline Redis command, or line of the Redis protocol, in bytes.
pub const RESP_LINE_BYTES_MAX: usize = 64 << 10;
/// The longest head of an HTTP request (request line and header fields), in bytes.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 << 10;
/// The most header fields of an HTTP request.
pub const HTTP_HEADERS_MAX: usize = 64;
/// The most members of a cluster, learners included.
pub const MEMBERS_MAX: usize = 64;
/// The longest kind of a state machine (its name and version), in bytes.
pub const MACHINE_KIND_BYTES_MAX: usize = 64;
/// The longest address of a node (`host:port`), in bytes: host names have at most 253.
pub const ADDRESS_BYTES_MAX: usize = 300;
/// The most outstanding commands of a session. A session's answers are stored until the client no longer awaits them.
pub const SESSION_WINDOW_MAX: u32 = 1024;
/// The most open sessions of a cluster; the least recently used one expires first.
pub const SESSIONS_MAX: usize = 16 << 10;
/// The most bytes of answers that all sessions of a cluster together may store.
pub const SESSION_ANSWER_BYTES_MAX: u64 = 256 << 20;
/// A session expires after this long without a command, in milliseconds of cluster time.
pub const SESSION_IDLE_MS_MAX: u64 = 60 * 60 * 1000;
/// The approximate size of the chunks in which a state machine's frozen state is serialized, stored and sent, in bytes.
pub const CHUNK_BYTES: usize = 256 << 10;
/// The most bytes by which a chunk of a serialized state may exceed the requested size: one pair of the largest key and
/// value, or one stored answer, with its framing.
pub const CHUNK_EXCESS_BYTES_MAX: usize = (2 << 20) + (1 << 10);

const _: () = {
    // An entry always fits an append, and an append always fits a frame: every accepted entry can be sent.
    assert!(ENTRY_BYTES_MAX + ENTRY_OVERHEAD_BYTES_MAX < APPEND_BYTES_MAX);
    assert!(APPEND_BYTES_MAX + FRAME_OVERHEAD_BYTES_MAX < FRAME_BYTES_MAX);
    assert!(ANSWER_BYTES_MAX + FRAME_OVERHEAD_BYTES_MAX < FRAME_BYTES_MAX);
    assert!(ENTRY_BYTES_MAX < ANSWER_BYTES_MAX);
    assert!(FRAME_FRAGMENT_BYTES < FRAME_BYTES_MAX);
    // Every command that fits an entry also fits the Redis protocol, with a length before each key and value.
    assert!(2 * ENTRY_BYTES_MAX < RESP_COMMAND_BYTES_MAX as u64);
    assert!(KEY_BYTES_MAX as u64 * 2 < ENTRY_BYTES_MAX);
    // The largest key with the largest value fits a chunk and an answer. A value that grew by appends is no longer
    // than a value set by one command.
    assert!(ENTRY_BYTES_MAX + KEY_BYTES_MAX as u64 + ENTRY_OVERHEAD_BYTES_MAX < CHUNK_EXCESS_BYTES_MAX as u64);
    assert!(ENTRY_BYTES_MAX + KEY_BYTES_MAX as u64 + ENTRY_OVERHEAD_BYTES_MAX < ANSWER_BYTES_MAX);
    // Everything that a machine holds fits a chunk: a key and its value come in one command, and an answer has a limit.
    // A message with a whole chunk of a snapshot fits a frame.
    assert!(ENTRY_BYTES_MAX + ENTRY_OVERHEAD_BYTES_MAX < CHUNK_EXCESS_BYTES_MAX as u64);
    assert!(ANSWER_BYTES_MAX + ENTRY_OVERHEAD_BYTES_MAX < CHUNK_EXCESS_BYTES_MAX as u64);
    assert!((CHUNK_BYTES + CHUNK_EXCESS_BYTES_MAX) as u64 + FRAME_OVERHEAD_BYTES_MAX < FRAME_BYTES_MAX);
};
