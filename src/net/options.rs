//! What the network side of a node can be told, and why it is what it is.

use crate::limits::SESSION_WINDOW_MAX;
use crate::secure::Keys;
use std::time::Duration;

/// What the network side of a node can be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many clients may be connected. One more is told so and turned away.
    pub clients_max: usize,
    /// How many callers may be connected that have not said who they are, beside clients and peers.
    /// Beyond it the one that has been silent for longest is let go.
    pub strangers_max: usize,
    /// How many HTTP connections may be open beside those: each is answered one request about the node.
    pub probes_max: usize,
    /// How many bytes of all clients together may be held: answers that wait to be read, requests that wait for their
    /// answers, and requests that have not come whole. From half of it on, connections that hold much wait; above it,
    /// those that take nothing are closed.
    pub clients_bytes_max: usize,
    /// A caller that has not said who it is for this long is let go.
    pub hello_patience: Duration,
    /// A caller that began a frame and has not ended it for this long is let go.
    pub frame_patience: Duration,
    /// An HTTP client that began the head of a request and has not ended it for this long is let go.
    pub head_patience: Duration,
    /// An HTTP client that asks nothing for this long is let go.
    pub idle_patience: Duration,
    /// An HTTP client that has been told its last, and still sends, is let go after this long.
    pub linger: Duration,
    /// A peer that was dialed and has not answered for this long is dialed again.
    pub dial_patience: Duration,
    /// The longest pause between two attempts to dial a peer. Well below an election timeout: a node that
    /// comes back must be reached before anyone runs out of patience with it.
    pub dial_pause_max: Duration,
    /// A client that has this many bytes of replies to read is not read from.
    pub client_bytes_mark: usize,
    /// A client that has this many bytes of replies to read is let go.
    pub client_bytes_max: usize,
    /// A client that waits for this many replies is not read from. A session never has more.
    pub client_requests_max: usize,
    /// A peer that has this many bytes to read is not sent more: messages are dropped.
    pub peer_bytes_max: usize,
    /// How many bytes the kernel may hold for a peer that it has not sent yet. Little, or a heartbeat
    /// waits behind them where nothing can pass.
    pub unsent_bytes: u32,
    /// The state machine that runs here, as it calls itself; empty if that is not to be checked.
    pub machine: &'static str,
    /// With these, everything that is said is encrypted, and peers show certificates.
    pub keys: Option<Keys>,
    /// How many bytes of one connection are read before the others have their turn.
    pub read_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            clients_max: 10_000,
            strangers_max: 256,
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
