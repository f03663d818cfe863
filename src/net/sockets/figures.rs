//! What the sockets know of themselves, for whoever asks how the node is.

use super::Net;
use crate::api::figures::Figures;
use crate::net::conn::Conn;
use crate::net::dialect::Role;
use crate::net::speech::Speech;

impl Net {
    /// Adds what only the sockets know.
    pub fn complete(&self, figures: &mut Figures) {
        figures.sent_bytes = self.sent.iter().map(|(peer, bytes)| (peer.get(), *bytes)).collect();
        figures.connections = ["native", "redis", "http", "peer", "unknown"].map(|door| (door.to_owned(), 0)).into();
        for (_, conn) in &self.conns {
            if let Role::Listener(peer) = conn.role {
                *figures.sent_bytes.entry(peer.get()).or_default() += conn.lanes.sent();
            }
            *figures.connections.entry(door(conn).to_owned()).or_default() += 1;
        }
    }
}

/// Where it came in, or went out.
fn door(conn: &Conn) -> &'static str {
    match (conn.role, &conn.speech) {
        (Role::Client(_), _) => "native",
        (Role::Guest(_), Some(Speech::Http(_))) => "http",
        (Role::Guest(_), _) => "redis",
        (Role::Speaker(_) | Role::Dialed(_) | Role::Listener(_), _) => "peer",
        (Role::Stranger, _) => "unknown",
    }
}
