//! Every bound in the house, and how they must relate.
//!
//! Each queue, buffer, window and table has its limit here or in its room's `Options`; what
//! happens at the limit is said where it is obeyed.

/// The largest command a client may propose, in bytes (`--max-entry` may lower it).
pub const ENTRY_BYTES_MAX: u64 = 1 << 20;
/// What an entry adds to its payload, on the wire and in the journal, at most.
pub const ENTRY_OVERHEAD_MAX: u64 = 64;
/// The payload of one append to a follower, in bytes, at most.
pub const APPEND_BYTES_MAX: u64 = 2 << 20;
/// How many entries one append holds, at most.
pub const APPEND_ENTRIES_MAX: usize = 16 << 10;
/// What a frame adds to its content, at most.
pub const FRAME_OVERHEAD_MAX: u64 = 1 << 10;
/// The largest frame on any connection, in bytes.
pub const FRAME_BYTES_MAX: u64 = 4 << 20;
/// A frame longer than this travels in pieces, so that a heartbeat can pass between them.
pub const FRAGMENT_BYTES: u64 = 64 << 10;
/// The largest answer a machine may give, in bytes: it must fit a frame.
pub const ANSWER_BYTES_MAX: u64 = 2 << 20;
/// The largest key, in bytes.
pub const KEY_BYTES_MAX: usize = 64 << 10;
/// How many arguments a command of a Redis client may have.
pub const RESP_ARGUMENTS_MAX: usize = 1 << 20;
/// How long an argument may be that is passed over because it is too long to be taken, in bytes: Redis' own limit.
pub const RESP_BULK_BYTES_MAX: usize = 512 << 20;
/// How long such a command may be, all in all, in bytes.
pub const RESP_COMMAND_BYTES_MAX: usize = 4 << 20;
/// How long one that comes as a line may be, and the line that announces anything, in bytes.
pub const RESP_LINE_BYTES_MAX: usize = 64 << 10;
/// How long the head of an HTTP request may be, in bytes.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 << 10;
/// How many header fields it may have.
pub const HTTP_HEADERS_MAX: usize = 64;
/// How many members a cluster may have.
pub const MEMBERS_MAX: usize = 64;
/// How long the name of a state machine and its version may be.
pub const MACHINE_BYTES_MAX: usize = 64;
/// The longest `host:port`, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 300;
/// How many commands a session may have outstanding, at most.
pub const SESSION_WINDOW_MAX: u32 = 1024;
/// How many sessions are remembered, at most; the one unused for longest lapses first.
pub const SESSIONS_MAX: usize = 16 << 10;
/// How many bytes of stored answers all sessions together may hold.
pub const SESSION_ANSWER_BYTES_MAX: u64 = 256 << 20;
/// A session lapses when nothing was asked in it for this long, by the cluster's clock.
pub const SESSION_IDLE_MS_MAX: u64 = 60 * 60 * 1000;
/// About how long the pieces are in which a frozen state is told, stored and sent.
pub const CHUNK_BYTES: usize = 256 << 10;
/// By how much a piece may be longer than was asked for: one pair of the largest key and value, or
/// one stored answer, and what stands around it.
pub const PIECE_EXCESS_MAX: usize = (2 << 20) + (1 << 10);

const _: () = {
    // One entry always fits an append, one append always fits a frame: no entry can be accepted
    // that cannot travel.
    assert!(ENTRY_BYTES_MAX + ENTRY_OVERHEAD_MAX < APPEND_BYTES_MAX);
    assert!(APPEND_BYTES_MAX + FRAME_OVERHEAD_MAX < FRAME_BYTES_MAX);
    assert!(ANSWER_BYTES_MAX + FRAME_OVERHEAD_MAX < FRAME_BYTES_MAX);
    assert!(ENTRY_BYTES_MAX < ANSWER_BYTES_MAX);
    assert!(FRAGMENT_BYTES < FRAME_BYTES_MAX);
    // Whatever fits an entry can be asked for as Redis clients ask, with a length before each key and value.
    assert!(2 * ENTRY_BYTES_MAX < RESP_COMMAND_BYTES_MAX as u64);
    assert!(KEY_BYTES_MAX as u64 * 2 < ENTRY_BYTES_MAX);
    // A value that grew by what was put behind it is no longer than one that came in one command.
    assert!(ENTRY_BYTES_MAX + KEY_BYTES_MAX as u64 + ENTRY_OVERHEAD_MAX < PIECE_EXCESS_MAX as u64);
    assert!(ENTRY_BYTES_MAX + KEY_BYTES_MAX as u64 + ENTRY_OVERHEAD_MAX < ANSWER_BYTES_MAX);
    // A key and its value came in one command, an answer is bounded: whatever a machine holds can be
    // told; and what is sent of a snapshot at once fits a frame, even a whole piece.
    assert!(ENTRY_BYTES_MAX + ENTRY_OVERHEAD_MAX < PIECE_EXCESS_MAX as u64);
    assert!(ANSWER_BYTES_MAX + ENTRY_OVERHEAD_MAX < PIECE_EXCESS_MAX as u64);
    assert!((CHUNK_BYTES + PIECE_EXCESS_MAX) as u64 + FRAME_OVERHEAD_MAX < FRAME_BYTES_MAX);
};
