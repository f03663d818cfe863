//! Opens the HTTP gateway, and reads requests from its connections.

use super::Net;
use super::gateway_kind::GatewayKind;
use crate::gateway::http::connection::{HttpConnection, RequestContext};
use crate::gateway::http::gateway::Options;
use crate::net::conn::ConnPhase;
use crate::types::Time;
use bytes::BytesMut;
use mio::Token;
use mio::net::TcpListener;
use std::io;
use std::net::SocketAddr;

impl Net {
    /// Opens the HTTP gateway on a listening socket. Returns the address of the socket.
    pub fn open_http(&mut self, listener: TcpListener, options: Options) -> io::Result<SocketAddr> {
        self.gateways.http_options = options;
        self.gateways.open(self.poll.registry(), GatewayKind::Http, listener)
    }

    /// Processes the complete requests of the input until reading is suspended. Returns false if the connection with
    /// token `token` is closed already.
    pub(super) fn process_http_input(
        &mut self,
        now: Time,
        token: Token,
        http: &mut HttpConnection,
        out: &mut BytesMut,
    ) -> bool {
        let Some(mut conn) = self.connections.get_mut(token) else { return false };
        let on_loopback =
            conn.stream.socket().local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
        let context =
            RequestContext { now, options: &self.gateways.http_options, on_loopback, stopping: self.stopping };
        loop {
            conn.has_unprocessed_input = http.pipeline.is_full() || out.len() > self.options.client_output_pause_bytes;
            if conn.has_unprocessed_input || http.pipeline.closes_when_empty || conn.phase() != ConnPhase::Open {
                return true;
            }
            if !http.read_request(conn.input(), out, &context) {
                return true;
            }
            // A complete request ends the timeout. The next one starts with the next input.
            conn.set_timeout(now, None);
        }
    }
}
