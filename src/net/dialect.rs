//! How one kind of caller talks: frames in, what they say out.

use crate::types::NodeId;
use crate::wire::WireError;
use crate::wire::client::{Numbered, read_request_frame};
use crate::wire::frame::{Frame, Kind};
use crate::wire::hello::{Hello, Welcome};
use crate::wire::peer::PeerFrame;

/// Who a connection is with, and so what may be said on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Someone who has not said who it is.
    Stranger,
    /// A peer that dialed us, to speak.
    Speaker(NodeId),
    /// A client, under our number for it.
    Client(u64),
    /// A client that came through a door, under our number for it. It has no frames.
    Guest(u64),
    /// A peer that we dialed and that has not answered yet.
    Dialed(NodeId),
    /// A peer that we dialed, and that listens.
    Listener(NodeId),
}

/// What a frame says.
#[derive(Debug)]
pub enum Said {
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
pub fn read(role: Role, frame: Frame) -> Result<Said, WireError> {
    match (role, frame.kind) {
        (Role::Stranger, Kind::Hello) => Ok(Said::Hello(Hello::read(frame)?)),
        (Role::Dialed(_), Kind::Welcome | Kind::Refused) => Ok(Said::Welcome(Welcome::read(frame)?)),
        (Role::Speaker(_), Kind::Raft | Kind::Forward | Kind::Answer) => Ok(Said::Peer(PeerFrame::read(frame)?)),
        (Role::Client(_), Kind::Request) => Ok(Said::Request(read_request_frame(frame)?)),
        (_, kind) => Err(WireError::Kind(kind as u8)),
    }
}
