//! How one kind of caller talks: frames in, what they say out.

use crate::types::NodeId;
use crate::wire::WireError;
use crate::wire::client::{Numbered, read_request_frame};
use crate::wire::frame::{Frame, FrameKind};
use crate::wire::hello::{Hello, Welcome};
use crate::wire::peer::PeerFrame;

/// Who a connection is with, and so what may be said on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Someone who has not said who it is.
    Handshaking,
    /// A peer that dialed us, to speak.
    InboundPeer(NodeId),
    /// A client, under our number for it.
    Client(u64),
    /// A client that came through a door, under our number for it. It has no frames.
    Guest(u64),
    /// A peer that we dialed and that has not answered yet.
    Connecting(NodeId),
    /// A peer that we dialed, and that listens.
    OutboundPeer(NodeId),
}

/// What a frame says.
#[derive(Debug)]
pub enum ClientFrame {
    /// Who it is.
    Hello(Hello),
    /// That we are welcome.
    Welcome(Welcome),
    /// Something between peers.
    Peer(PeerFrame),
    /// What a client asks.
    Request(Numbered),
}

/// Reads a frame as that role may say it; anything else ends the connection.
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
