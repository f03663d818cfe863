//! Sends messages to peers on their links, and replies to clients.

use super::Net;
use super::gateway_state::SESSION_CALLER;
use crate::api::{Refusal, Reply, Request};
use crate::consensus::message::Envelope;
use crate::net::conn::Conn;
use crate::net::links::OutboundLink;
use crate::net::role::Role;
use crate::node::event::{Caller, Event};
use crate::types::{Mutants, NodeId, Time};
use crate::wire::client::{STATUS_UPDATE_ID, put_reply, reply_frame_size};
use crate::wire::frame::FrameKind;
use crate::wire::peer::PeerFrame;
use bytes::{BufMut, BytesMut};
use mio::Token;

impl Net {
    /// Sends a Raft message to a peer. The message is dropped if the link is down, if too much output waits on it, or if
    /// the message is of a later version of the protocol than the link.
    pub fn send(&mut self, envelope: Envelope) {
        let urgent = envelope.message.is_urgent();
        let (to, frame) = (envelope.to, PeerFrame::Raft(envelope));
        let Some(mut conn) = self.peer_links.outbound_connection(to).and_then(|token| self.connections.get_mut(token))
        else {
            return;
        };
        let Some(version) = frame.version_on(conn.version, Mutants::NONE) else { return };
        if conn.output.pending_bytes() > self.options.peer_output_bytes_max {
            return;
        }
        if urgent {
            conn.output.push_urgent_frame(FrameKind::Raft, |out| frame.put_content(version, out));
        } else {
            conn.output.push_frame(FrameKind::Raft, frame.size(), |out| frame.put_content(version, out));
        }
        conn.schedule_write();
    }

    /// Forwards a request to a peer, usually the leader. If the request cannot be sent, the node gets an event.
    pub fn forward(&mut self, to: NodeId, id: u64, request: Request) {
        if !self.send_frame(to, &PeerFrame::Forward { id, request }) {
            self.events.push(Event::ForwardNotSent { to, id });
        }
    }

    /// Sends a reply to the caller of a request. The reply is dropped if the caller is no longer connected.
    pub fn answer(&mut self, now: Time, to: Caller, id: u64, reply: Reply) {
        match to {
            SESSION_CALLER => self.handle_session_reply(now, id, reply),
            Caller::Client(number) => {
                let token = Token(number as usize);
                let reply = self.refuse_read_of_slow_client(token, reply);
                if let Some(reply) = self.reply_to_gateway(token, id, reply) {
                    self.reply(token, id, &reply);
                }
            }
            Caller::Peer(peer) => {
                if !self.send_frame(peer, &PeerFrame::Answer { id, reply })
                    && let Some(token) = self.peer_links.get(peer).and_then(OutboundLink::token)
                {
                    // The peer waits for this answer, which is lost now. A new connection from this node tells the peer
                    // that answers were lost. A connection that is being dialed does not suffice: the peer may have
                    // accepted it before it sent the request.
                    self.close(now, token);
                }
            }
        }
    }

    /// Sends the status, which contains the current members, to every native client. Without this update, all members
    /// that a client knows might be removed before its next request. A client that does not read its replies is
    /// skipped.
    pub fn broadcast_status(&mut self, status: &Reply) {
        let mut frame = BytesMut::new();
        put_numbered_reply(&mut frame, STATUS_UPDATE_ID, status);
        self.connections.for_each(|mut conn| {
            let pressure = conn.pressure();
            if matches!(conn.role, Role::Client(_)) && !conn.is_read_suspended(&self.options, pressure) {
                conn.output.push_frame(FrameKind::Reply, frame.len(), |out| out.put_slice(&frame));
                conn.schedule_write();
            }
        });
    }

    /// Replaces the answer to a read by a refusal if the client has too much unread output. Returns any other reply as
    /// it is.
    fn refuse_read_of_slow_client(&self, token: Token, reply: Reply) -> Reply {
        // Any other reply reports the effect of a request, and must not be dropped.
        let (Reply::Answer { answer: bytes, .. } | Reply::SnapshotChunk { bytes, .. }) = &reply else { return reply };
        if self.connections.may_send_answer(token, bytes.len(), &self.options) {
            reply
        } else {
            Reply::Refused(Refusal::Busy)
        }
    }

    /// Sends a frame to a peer, in order. Returns false if the link is down, if too much output waits on it, or if the
    /// frame is of a later version of the protocol than the link.
    fn send_frame(&mut self, to: NodeId, frame: &PeerFrame) -> bool {
        let Some(mut conn) = self.peer_links.outbound_connection(to).and_then(|token| self.connections.get_mut(token))
        else {
            return false;
        };
        let Some(version) = frame.version_on(conn.version, Mutants::NONE) else { return false };
        if conn.output.pending_bytes() > self.options.peer_output_bytes_max {
            return false;
        }
        conn.output.push_frame(frame.kind(), frame.size(), |out| frame.put_content(version, out));
        conn.schedule_write();
        true
    }

    /// Sends a reply to a native client, with the number of its request.
    pub(super) fn reply(&mut self, token: Token, id: u64, reply: &Reply) {
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        self.protocol_counters.count_reply_failure(reply);
        conn.unanswered_requests = conn.unanswered_requests.saturating_sub(1);
        if conn.output.pending_bytes() > self.options.client_output_bytes_max {
            // The connection will be closed at the next flush, so the reply is dropped.
            return;
        }
        push_reply(&mut conn, id, reply);
        conn.count_memory();
        conn.schedule_write();
    }
}

fn push_reply(conn: &mut Conn, id: u64, reply: &Reply) {
    conn.output.push_frame(FrameKind::Reply, reply_frame_size(reply), |out| put_numbered_reply(out, id, reply));
}

fn put_numbered_reply(out: &mut BytesMut, id: u64, reply: &Reply) {
    out.put_u64_le(id);
    put_reply(out, reply);
}
