//! Options of a node's network layer, with the reasons for them.

use crate::limits::SESSION_WINDOW_MAX;
use crate::secure::Keys;
use crate::types::Versions;
use std::time::Duration;

/// Limits and timeouts of a node's connections.
#[derive(Clone, Debug)]
pub struct Options {
    /// Maximum connected clients, of all protocols together. A further client gets an error and is disconnected.
    pub clients_max: usize,
    /// Maximum inbound connections in handshake, in addition to clients and peers. Beyond the maximum, the oldest of
    /// them is closed.
    pub handshakes_max: usize,
    /// Maximum HTTP connections beyond `clients_max`, each for one request about the node's health.
    pub probes_max: usize,
    /// Maximum bytes of memory for all clients together: unread replies, queued requests, and incomplete requests.
    /// Above half of the maximum, connections that hold much are not read from; above the maximum, stalled connections
    /// are closed.
    pub clients_memory_bytes_max: usize,
    /// How long an inbound connection may take to send its hello. Then it is closed.
    pub hello_timeout: Duration,
    /// How long a frame, a Redis command or an HTTP body may take to arrive completely. Then the connection is closed.
    pub frame_timeout: Duration,
    /// How long the head of an HTTP request may take to arrive completely. Then the connection is closed.
    pub request_head_timeout: Duration,
    /// How long an HTTP client may stay without a request, and a Redis client without the password. Then it is
    /// disconnected.
    pub idle_timeout: Duration,
    /// How long input of a gateway client is read and discarded after its last reply. Then the socket is closed.
    pub linger_timeout: Duration,
    /// How long a dialed peer may take to answer the hello. Then it is dialed again.
    pub dial_timeout: Duration,
    /// The longest pause between two attempts to dial a peer. It is well below an election timeout, so that a restarted
    /// node is reached before election timeouts expire.
    pub redial_pause_max: Duration,
    /// The number of bytes of unread replies above which a client is not read from.
    pub client_output_pause_bytes: usize,
    /// The number of bytes of unread replies above which a client is disconnected.
    pub client_output_bytes_max: usize,
    /// The number of unanswered requests above which a native client is not read from. The default is the maximum
    /// window of a session.
    pub client_requests_max: usize,
    /// The number of bytes waiting to be written to a peer above which further messages to it are dropped.
    pub peer_output_bytes_max: usize,
    /// Maximum unsent bytes in the kernel's send buffer for a peer (`TCP_NOTSENT_LOWAT`). The number is small because a
    /// heartbeat cannot overtake these bytes.
    pub peer_unsent_bytes_max: u32,
    /// The name of this node's state machine, compared with that of each peer; empty for no comparison.
    pub machine_kind: &'static str,
    /// The versions that this node supports and announces to its peers.
    pub versions: Versions,
    /// The TLS certificates. If set, every connection is encrypted, and each peer must present a certificate.
    pub keys: Option<Keys>,
    /// Maximum bytes read from one connection before other connections are served.
    pub read_budget_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            clients_max: 10_000,
            handshakes_max: 256,
            probes_max: 64,
            clients_memory_bytes_max: 256 << 20,
            hello_timeout: Duration::from_secs(5),
            frame_timeout: Duration::from_secs(30),
            request_head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            linger_timeout: Duration::from_secs(2),
            dial_timeout: Duration::from_secs(1),
            redial_pause_max: Duration::from_millis(100),
            client_output_pause_bytes: 256 << 10,
            client_output_bytes_max: 64 << 20,
            client_requests_max: SESSION_WINDOW_MAX as usize,
            peer_output_bytes_max: 16 << 20,
            peer_unsent_bytes_max: 128 << 10,
            machine_kind: "",
            versions: Versions::CURRENT,
            keys: None,
            read_budget_bytes: 1 << 20,
        }
    }
}
