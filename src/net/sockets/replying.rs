//! Output: messages to peers on their links, and replies to clients.

use super::Net;
use super::gateway_state::SESSION_CALLER;
use crate::api::{Refusal, Reply, Request};
use crate::consensus::message::Envelope;
use crate::net::conn::Conn;
use crate::net::links::Link;
use crate::net::role::Role;
use crate::node::event::{Caller, Event};
use crate::types::{NodeId, Time};
use crate::wire::client::{NEWS, put_reply, reply_frame_size};
use crate::wire::frame::FrameKind;
use crate::wire::peer::PeerFrame;
use bytes::{BufMut, BytesMut};
use mio::Token;

impl Net {
    /// Sends a message to a peer. It is dropped if the link is down or has too much output.
    pub fn send(&mut self, envelope: Envelope) {
        let urgent = envelope.message.is_urgent();
        let (to, frame) = (envelope.to, PeerFrame::Raft(envelope));
        let Some(mut conn) = self.peers.up(to).and_then(|token| self.connections.get_mut(token)) else { return };
        if conn.lanes.size() > self.options.peer_bytes_max {
            return;
        }
        if urgent {
            conn.lanes.put_urgent(FrameKind::Raft, |out| frame.put_content(out));
        } else {
            conn.lanes.put(FrameKind::Raft, frame.size(), |out| frame.put_content(out));
        }
        conn.schedule_write();
    }

    /// Forwards a request to a peer, or reports to the node that it could not be sent.
    pub fn forward(&mut self, to: NodeId, id: u64, request: Request) {
        if !self.say(to, &PeerFrame::Forward { id, request }) {
            self.events.push(Event::NotSent { to, id });
        }
    }

    /// Sends a reply to the caller of a request, if it is still connected.
    pub fn answer(&mut self, now: Time, to: Caller, id: u64, reply: Reply) {
        match to {
            SESSION_CALLER => self.session_answered(now, id, reply),
            Caller::Client(number) => {
                let token = Token(number as usize);
                let reply = self.bounded(token, reply);
                if let Some(reply) = self.answer_gateway(token, id, reply) {
                    self.reply(token, id, &reply);
                }
            }
            Caller::Peer(peer) => {
                if !self.say(peer, &PeerFrame::Answer { id, reply })
                    && let Some(token) = self.peers.get(peer).and_then(Link::token)
                {
                    // The peer waits for this answer. When this node connects again, the peer learns that no answer
                    // will come. If this node has just dialed and is not accepted yet, the peer may have learned that
                    // before it sent the request.
                    self.close(now, token);
                }
            }
        }
    }

    /// Sends the status, and so the current members, to every native client: all members that a client knows may be
    /// gone before it next sends a request. A client that does not read is skipped.
    pub fn announce(&mut self, status: &Reply) {
        let mut news = BytesMut::new();
        put_numbered(&mut news, NEWS, status);
        self.connections.for_each(|mut conn| {
            let pressure = conn.pressure();
            if matches!(conn.role, Role::Client(_)) && !conn.is_read_suspended(&self.options, pressure) {
                conn.lanes.put(FrameKind::Reply, news.len(), |out| out.put_slice(&news));
                conn.schedule_write();
            }
        });
    }

    /// Returns the reply to a client, or, if it is the answer to a read and the client has too much unread output
    /// already, a refusal.
    fn bounded(&self, token: Token, reply: Reply) -> Reply {
        // Any other reply reports an effect, and must not be dropped.
        let (Reply::Answer { answer: bytes, .. } | Reply::SnapshotChunk { bytes, .. }) = &reply else { return reply };
        if self.connections.has_room(token, bytes.len(), &self.options) { reply } else { Reply::Refused(Refusal::Busy) }
    }

    /// Sends a frame to a peer. Returns false if the link is down or has too much output.
    fn say(&mut self, to: NodeId, frame: &PeerFrame) -> bool {
        let Some(mut conn) = self.peers.up(to).and_then(|token| self.connections.get_mut(token)) else { return false };
        if conn.lanes.size() > self.options.peer_bytes_max {
            return false;
        }
        conn.lanes.put(frame.kind(), frame.size(), |out| frame.put_content(out));
        conn.schedule_write();
        true
    }

    pub(super) fn reply(&mut self, token: Token, id: u64, reply: &Reply) {
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        self.counting.answered(reply);
        conn.unanswered = conn.unanswered.saturating_sub(1);
        if conn.lanes.size() > self.options.client_bytes_max {
            // The connection is closed at the next flush, so its reply is dropped.
            return;
        }
        put(&mut conn, id, reply);
        conn.count_memory();
        conn.schedule_write();
    }
}

fn put(conn: &mut Conn, id: u64, reply: &Reply) {
    conn.lanes.put(FrameKind::Reply, reply_frame_size(reply), |out| put_numbered(out, id, reply));
}

fn put_numbered(out: &mut BytesMut, id: u64, reply: &Reply) {
    out.put_u64_le(id);
    put_reply(out, reply);
}
