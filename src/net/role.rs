//! The role of a connection, and which frames a role may receive.

use crate::types::NodeId;
use crate::wire::WireError;
use crate::wire::client::{Numbered, read_request_frame};
use crate::wire::frame::{Frame, FrameKind};
use crate::wire::hello::{Hello, Welcome};
use crate::wire::peer::PeerFrame;

/// What a connection is used for, which decides which frames are accepted on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// An inbound connection without a complete handshake.
    Handshaking,
    /// An inbound connection of a peer, which sends messages on it.
    InboundPeer(NodeId),
    /// A native client, with its number on this node.
    Client(u64),
    /// A gateway client, with its number on this node. It sends no frames.
    GatewayClient(u64),
    /// An outbound connection to a peer that has not answered the hello yet.
    Connecting(NodeId),
    /// An outbound connection to a peer, on which this node sends messages.
    OutboundPeer(NodeId),
}

/// A decoded frame.
#[derive(Debug)]
pub enum ClientFrame {
    /// A caller's introduction.
    Hello(Hello),
    /// A peer's acceptance of this node.
    Welcome(Welcome),
    /// A message of a peer.
    Peer(PeerFrame),
    /// A client's request.
    Request(Numbered),
}

/// Decodes a frame, if the role may receive its kind. Any other frame is an error that ends the connection.
pub fn read(role: Role, frame: Frame) -> Result<ClientFrame, WireError> {
    match (role, frame.kind) {
        (Role::Handshaking, FrameKind::Hello) => Ok(ClientFrame::Hello(Hello::read(frame)?)),
        (Role::Connecting(_), FrameKind::Welcome | FrameKind::Refused) => {
            Ok(ClientFrame::Welcome(Welcome::read(frame)?))
        }
        (Role::InboundPeer(_), FrameKind::Raft | FrameKind::Forward | FrameKind::Answer) => {
            Ok(ClientFrame::Peer(PeerFrame::read(frame)?))
        }
        (Role::Client(_), FrameKind::Request) => Ok(ClientFrame::Request(read_request_frame(frame)?)),
        (_, kind) => Err(WireError::Kind(kind as u8)),
    }
}
