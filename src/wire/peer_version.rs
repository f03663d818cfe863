//! Which frames exist in which version of the protocol between nodes.
//!
//! A later version may add kinds of frames and messages, which are sent only on connections whose handshake has agreed on
//! that version or a later one. To add a kind of message, name its version in [`message_introduced_in`]; to add a field,
//! compare the version that `PeerFrame::put` and `PeerFrame::read` receive. A message that changes the log needs a
//! feature level too ([`crate::types::feature_level`]): any member may have to read it later.

use super::peer::PeerFrame;
use crate::consensus::message::Message;
use crate::types::versions::PEER_PROTOCOL_MIN;
use crate::types::{Mutant, Mutants, Versions};

impl PeerFrame {
    /// The version in which to send the frame on a connection of version `connection`; `None` if the frame must be
    /// dropped, because a later version introduced it. A sender must cope with that, as with a frame that is lost.
    pub fn version_on(&self, connection: u16, mutants: Mutants) -> Option<u16> {
        if mutants.breaks(Mutant::SendUnnegotiated) {
            return Some(Versions::COMPILED.protocol_max);
        }
        Some(connection).filter(|version| self.exists_in(*version))
    }

    /// Whether the frame exists in that version of the protocol.
    pub(super) fn exists_in(&self, version: u16) -> bool {
        version >= self.introduced_in()
    }

    /// The version of the protocol that introduced this kind of frame or message.
    fn introduced_in(&self) -> u16 {
        match self {
            PeerFrame::Raft(envelope) => message_introduced_in(&envelope.message),
            PeerFrame::Forward { .. } | PeerFrame::Answer { .. } => PEER_PROTOCOL_MIN,
        }
    }
}

/// The version of the protocol that introduced a kind of message.
fn message_introduced_in(message: &Message) -> u16 {
    match message {
        #[cfg(feature = "next-version")]
        Message::NextVersionNotice => PEER_PROTOCOL_MIN + 1,
        _ => PEER_PROTOCOL_MIN,
    }
}

#[cfg(all(test, feature = "next-version"))]
mod tests {
    use super::*;
    use crate::codec::{self, ENTRY_HEADER, ENTRY_KIND_MAX};
    use crate::consensus::message::{Envelope, Origin};
    use crate::types::{ClusterTime, Entry, Index, NodeId, Payload, Position, Term};
    use crate::wire::frame::{Frame, FrameKind, FrameReader};
    use crate::wire::hello::VERSION_MAX;
    use bytes::BytesMut;

    fn frame(message: Message) -> PeerFrame {
        let id = |n| NodeId::new(n).unwrap();
        PeerFrame::Raft(Envelope { from: id(1), to: id(2), term: Term(3), origin: Origin::default(), message })
    }

    #[test]
    fn message_of_a_later_version_is_neither_sent_nor_accepted_on_a_connection() {
        let (frame, next) = (frame(Message::NextVersionNotice), Versions::NEXT.protocol_max);
        assert_eq!(frame.version_on(VERSION_MAX, Mutants::NONE), None);
        assert_eq!(frame.version_on(next, Mutants::NONE), Some(next));
        let mut out = BytesMut::new();
        frame.put(next, &mut out);
        let encoded = FrameReader::default().next(&mut out).unwrap().unwrap();
        assert!(PeerFrame::read(encoded.clone(), VERSION_MAX).is_err());
        assert_eq!(PeerFrame::read(encoded, next), Ok(frame));
    }

    /// A node that was away when the feature level was raised receives the raise and entries of the new level together.
    #[test]
    fn entries_before_one_of_an_unknown_kind_are_delivered() {
        let entry = |index| codec::entry(Position::new(Index(index), Term(1)), ClusterTime(1), Payload::Noop);
        let entries: Vec<Entry> = (1..=3).map(entry).collect();
        let append = |entries| {
            frame(Message::AppendEntries { prev: Position::ZERO, commit: Index(1), probe_number: 0, entries })
        };
        let mut out = BytesMut::new();
        append(entries.clone()).put_content(VERSION_MAX, &mut out);
        let third_entry_at = out.len() - ENTRY_HEADER;
        out[third_entry_at + 7] = ENTRY_KIND_MAX + 1;
        let received = Frame { kind: FrameKind::Raft, content: out.freeze() };
        assert_eq!(PeerFrame::read(received, VERSION_MAX), Ok(append(entries[..2].to_vec())));
    }
}
