//! The HTTP gateway's sockets: input becomes requests.

use super::Net;
use super::gateway_kind::GatewayKind;
use crate::gateway::http::connection::{HttpConnection, RequestContext};
use crate::gateway::http::gateway::Options;
use crate::net::conn::Phase;
use crate::types::Time;
use bytes::BytesMut;
use mio::Token;
use mio::net::TcpListener;
use std::io;
use std::net::SocketAddr;

impl Net {
    /// Opens the HTTP gateway. Returns its address.
    pub fn open_http(&mut self, listener: TcpListener, options: Options) -> io::Result<SocketAddr> {
        self.gateways.http = options;
        self.gateways.open(self.poll.registry(), GatewayKind::Http, listener)
    }

    /// Processes complete requests until the connection has to wait. Returns false if the connection is gone.
    pub(super) fn process_http_input(
        &mut self,
        now: Time,
        token: Token,
        talk: &mut HttpConnection,
        out: &mut BytesMut,
    ) -> bool {
        let Some(mut conn) = self.connections.get_mut(token) else { return false };
        let on_loopback =
            conn.stream.socket().local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
        let setting = RequestContext { now, options: &self.gateways.http, on_loopback, stopping: self.stopping };
        loop {
            conn.unprocessed = talk.pipeline.is_full() || out.len() > self.options.client_bytes_mark;
            if conn.unprocessed || talk.pipeline.leaving || conn.phase() != Phase::Open {
                return true;
            }
            if !talk.read_request(conn.input(), out, &setting) {
                return true;
            }
            // A complete request arrived, so the timeout starts anew.
            conn.wait_for(now, None);
        }
    }
}
