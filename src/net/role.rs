//! The role of a connection, and the frames that each role may receive.

use crate::types::NodeId;
use crate::wire::WireError;
use crate::wire::client::{NumberedRequest, read_request_frame};
use crate::wire::frame::{Frame, FrameKind};
use crate::wire::hello::{Hello, Welcome};
use crate::wire::peer::PeerFrame;

/// The use of a connection. It decides which kinds of frames are accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// An inbound connection that has not sent its hello yet. It may become a peer or a native client.
    Handshaking,
    /// An inbound connection of a peer. The peer sends messages, and this node sends nothing back.
    InboundPeer(NodeId),
    /// A native client, with the number that identifies it to the node.
    Client(u64),
    /// A Redis or HTTP client, with the number that identifies it to the node. It sends no frames.
    GatewayClient(u64),
    /// An outbound connection to a peer that has not answered the hello yet.
    Connecting(NodeId),
    /// An outbound connection to a peer, on which this node sends messages.
    OutboundPeer(NodeId),
}

/// A decoded frame, of a kind that the role of its connection may receive.
#[derive(Debug)]
pub enum DecodedFrame {
    /// The first frame of a peer or client that has connected to this node.
    Hello(Hello),
    /// The answer of a peer that this node has dialed: it accepts this node.
    Welcome(Welcome),
    /// A Raft message, a forwarded request, or the answer to one.
    Peer(PeerFrame),
    /// A request of a native client, with its number.
    Request(NumberedRequest),
}

/// Decodes a frame, on a connection of a peer by the version of the protocol that the handshake has agreed on. A kind of frame that the role may not receive is an error, after which the connection is closed.
pub fn decode_frame(role: Role, version: u16, frame: Frame) -> Result<DecodedFrame, WireError> {
    match (role, frame.kind) {
        (Role::Handshaking, FrameKind::Hello) => Ok(DecodedFrame::Hello(Hello::read(frame)?)),
        (Role::Connecting(_), FrameKind::Welcome | FrameKind::Refused) => {
            Ok(DecodedFrame::Welcome(Welcome::read(frame)?))
        }
        (Role::InboundPeer(_), FrameKind::Raft | FrameKind::Forward | FrameKind::Answer) => {
            Ok(DecodedFrame::Peer(PeerFrame::read(frame, version)?))
        }
        (Role::Client(_), FrameKind::Request) => Ok(DecodedFrame::Request(read_request_frame(frame)?)),
        (_, kind) => Err(WireError::UnexpectedFrameKind(kind as u8)),
    }
}
