//! Options of a node's network layer, with the reasons for them.

use crate::limits::SESSION_WINDOW_MAX;
use crate::secure::Keys;
use std::time::Duration;

/// Options of a node's network layer.
#[derive(Clone, Debug)]
pub struct Options {
    /// Maximum connected clients. Further ones get an error and are disconnected.
    pub clients_max: usize,
    /// Maximum connections in handshake, in addition to clients and peers. Beyond it, the oldest of these is closed.
    pub handshakes_max: usize,
    /// Maximum HTTP connections in addition to those, for one request about the node's health each.
    pub probes_max: usize,
    /// Maximum bytes held for all clients together: unread replies, requests waiting for answers, and incomplete
    /// requests. Above half of it, connections that hold much have to wait; above it, stalled connections are closed.
    pub clients_bytes_max: usize,
    /// A connection without a complete hello after this long is closed.
    pub hello_patience: Duration,
    /// A connection is closed if a frame takes longer than this to arrive.
    pub frame_patience: Duration,
    /// An HTTP connection is closed if the head of a request takes longer than this to arrive.
    pub head_patience: Duration,
    /// An HTTP client without a request, or a Redis client without the password, is disconnected after this long.
    pub idle_patience: Duration,
    /// After the last reply, an HTTP client that is still sending is disconnected after this long.
    pub linger: Duration,
    /// A dialed peer that has not answered the hello after this long is dialed again.
    pub dial_patience: Duration,
    /// The longest pause between two attempts to dial a peer. It is well below an election timeout: a restarted node
    /// must be reached before election timeouts expire.
    pub dial_pause_max: Duration,
    /// A client with this many bytes of unread replies is not read from.
    pub client_bytes_mark: usize,
    /// A client with this many bytes of unread replies is disconnected.
    pub client_bytes_max: usize,
    /// A client with this many unanswered requests is not read from. A session never has more.
    pub client_requests_max: usize,
    /// While this many bytes wait to be written to a peer, further messages to it are dropped.
    pub peer_bytes_max: usize,
    /// Maximum unsent bytes in the kernel's buffer for a peer. It is small because a heartbeat cannot overtake these
    /// bytes.
    pub unsent_bytes: u32,
    /// The name of the state machine that runs here; empty if peers' names are not to be checked against it.
    pub machine: &'static str,
    /// TLS keys. If set, every connection is encrypted, and peers present certificates.
    pub keys: Option<Keys>,
    /// How many bytes of one connection are read before other connections are served.
    pub read_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            clients_max: 10_000,
            handshakes_max: 256,
            probes_max: 64,
            clients_bytes_max: 256 << 20,
            hello_patience: Duration::from_secs(5),
            frame_patience: Duration::from_secs(30),
            head_patience: Duration::from_secs(10),
            idle_patience: Duration::from_secs(60),
            linger: Duration::from_secs(2),
            dial_patience: Duration::from_secs(1),
            dial_pause_max: Duration::from_millis(100),
            client_bytes_mark: 256 << 10,
            client_bytes_max: 64 << 20,
            client_requests_max: SESSION_WINDOW_MAX as usize,
            peer_bytes_max: 16 << 20,
            unsent_bytes: 128 << 10,
            machine: "",
            keys: None,
            read_bytes: 1 << 20,
        }
    }
}
