//! The handshake of a connection: both sides agree on a version, and name their node, cluster and state machine.
//!
//! A connection uses the highest version that both sides support, and keeps it. Nodes of two versions can therefore run in
//! one cluster, and a cluster is upgraded node by node. The frames of the handshake itself are the same in all versions,
//! up to fields that a later version appends: a node ignores appended fields in the hello of a caller that supports a
//! later version than the node itself.

use super::error::WireError;
use super::frame::{Frame, FrameKind, put_frame};
use super::reason::HelloRejection;
use crate::codec::{BufMutExt, Malformed, Reader};
use crate::limits::{ADDRESS_BYTES_MAX, MACHINE_KIND_BYTES_MAX};
use crate::types::versions::PEER_PROTOCOL_MIN;
use crate::types::{ClusterId, DiskId, LogId, NodeId, Position, Run, Versions};
use bytes::{BufMut, BytesMut};

/// The oldest protocol version that a client may use.
pub const CLIENT_VERSION_MIN: u16 = 7;
/// The newest protocol version that this program supports.
pub const VERSION_MAX: u16 = Versions::CURRENT.protocol_max;

const HELLO_MAGIC: [u8; 6] = *b"drave\n";

/// The first frame on any connection: the dialing side identifies itself.
///
/// | at | size | field |
/// |---|---|---|
/// | 0 | 6 | `drave\n` |
/// | 6 | 2 | oldest supported version |
/// | 8 | 2 | newest supported version |
/// | 10 | 1 | role: 1 a peer, 2 a client, 3 an operator (since version 8) |
/// | 11 | 1 | zero |
/// | 12 | 4 | group, zero: reserved |
/// | 16 | 8 | cluster, 0 if a client does not know it |
/// | 24 | 8 | the peer's id, 0 for a client |
/// | 32 | 8 | the peer's disk, 0 for a client |
/// | 40 | 8 | the target node, 0 for any |
/// | 48 | 8 | the peer's process: random, drawn at its start, 0 for a client |
/// | 56 | 8 | the peer's log, 0 if it has no agreed log, and for a client |
/// | 64 | 16 | the position of the peer's configuration, 0 for a client |
/// | 80 | 8 | how many times a node was started on the peer's disk, 0 for a client |
/// | 88 | … | the peer's address, after its length (4); empty for a client |
/// | … | … | the address of the peer's Redis gateway, after its length (4); empty if it has none |
/// | … | … | the state machine's kind, after its length (4); empty turns the check off |
/// | … | 2 | of a peer only: the highest feature level that its program knows |
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The oldest version that the caller supports.
    pub version_min: u16,
    /// The newest version that the caller supports.
    pub version_max: u16,
    /// The cluster that the caller belongs to or expects; `None` if a client does not know it.
    pub cluster: Option<ClusterId>,
    /// Whether the caller is a node, a client or an operator, and which node.
    pub caller: CallerKind,
    /// The node that the caller expects at the dialed address; `None` if the caller accepts any node.
    pub target: Option<NodeId>,
    /// The state machine that the caller runs, or whose commands it sends; empty turns the check off.
    pub machine_kind: String,
    /// The address at which the caller can be dialed; empty for a client. A node that does not know the caller yet
    /// dials it there.
    pub address: String,
    /// The address of the peer's Redis gateway; empty if it has none.
    pub redis_address: String,
}

/// A node's log and configuration, which a peer must know before it accepts the node's messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PeerLogState {
    /// The id of the node's log; `None` until the members have agreed on one.
    pub log: Option<LogId>,
    /// The position of the entry with the node's current configuration.
    pub config_position: Position,
}

impl PeerLogState {
    fn put(self, out: &mut BytesMut) {
        out.put_u64_le(self.log.map_or(0, |log| log.0));
        out.put_position(self.config_position);
    }

    fn read(reader: &mut Reader) -> Result<PeerLogState, Malformed> {
        let log = Some(reader.u64()?).filter(|log| *log != 0).map(LogId);
        Ok(PeerLogState { log, config_position: reader.position()? })
    }
}

/// The kind of a caller, and the identity of a caller that is a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallerKind {
    /// A node, which sends on this connection and receives on one that it accepts.
    Peer {
        /// The node's id.
        node: NodeId,
        /// The id of the node's data directory.
        disk: DiskId,
        /// The node's process: two processes with one node id and disk id run on copies of a directory.
        run: Run,
        /// The id of the node's log, and the position of its configuration.
        log_state: PeerLogState,
        /// The highest feature level that the node's program knows.
        feature_level_max: u16,
    },
    /// A client, which sends commands and queries.
    Client,
    /// An operator's command, which proposes nothing: it may use a client slot reserved for operators when clients
    /// occupy all others.
    Operator,
}

/// The reply to an accepted hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The protocol version that both sides use from now on.
    pub version: u16,
    /// The id of the cluster to which the dialed node belongs.
    pub cluster: ClusterId,
    /// The id of the node that was dialed.
    pub node: NodeId,
    /// The id of the dialed node's data directory.
    pub disk: DiskId,
    /// The id of the dialed node's log, and the position of its configuration.
    pub log_state: PeerLogState,
}

impl Hello {
    /// The hello of a client, with the supported versions.
    pub fn client() -> Hello {
        Hello {
            version_min: CLIENT_VERSION_MIN,
            version_max: VERSION_MAX,
            cluster: None,
            caller: CallerKind::Client,
            target: None,
            machine_kind: String::new(),
            address: String::new(),
            redis_address: String::new(),
        }
    }

    /// The hello of an operator's command. Versions before 8 have no operators.
    pub fn operator() -> Hello {
        Hello { version_min: 8, caller: CallerKind::Operator, ..Hello::client() }
    }

    /// The hello of a node that dials the node `target`, with the versions supported between nodes.
    pub fn peer(cluster: ClusterId, node: NodeId, disk: DiskId, run: Run, target: NodeId) -> Hello {
        let Versions { protocol_max, feature_level_max } = Versions::CURRENT;
        let caller = CallerKind::Peer { node, disk, run, log_state: PeerLogState::default(), feature_level_max };
        Hello {
            version_min: PEER_PROTOCOL_MIN,
            version_max: protocol_max,
            cluster: Some(cluster),
            caller,
            target: Some(target),
            machine_kind: String::new(),
            address: String::new(),
            redis_address: String::new(),
        }
    }

    /// Sets the peer's log and configuration.
    pub fn with_log_state(mut self, state: PeerLogState) -> Hello {
        if let CallerKind::Peer { log_state, .. } = &mut self.caller {
            *log_state = state;
        }
        self
    }

    /// The newest versions that a peer supports; `None` for a client.
    pub fn versions(&self) -> Option<Versions> {
        match self.caller {
            CallerKind::Peer { feature_level_max, .. } => {
                Some(Versions { protocol_max: self.version_max, feature_level_max })
            }
            CallerKind::Client | CallerKind::Operator => None,
        }
    }

    /// Sets the newest versions that the peer supports.
    pub fn with_versions(mut self, versions: Versions) -> Hello {
        if let CallerKind::Peer { feature_level_max, .. } = &mut self.caller {
            (self.version_max, *feature_level_max) = (versions.protocol_max, versions.feature_level_max);
        }
        self
    }

    /// Sets the state machine that the caller runs, or whose commands it sends.
    pub fn with_machine_kind(self, machine_kind: &str) -> Hello {
        Hello { machine_kind: machine_kind.to_owned(), ..self }
    }

    /// Sets the address at which the caller can be dialed.
    pub fn with_address(self, address: &str) -> Hello {
        Hello { address: address.to_owned(), ..self }
    }

    /// Sets the address of the peer's Redis gateway, if it has one.
    pub fn with_redis_address(self, redis_address: Option<String>) -> Hello {
        Hello { redis_address: redis_address.unwrap_or_default(), ..self }
    }

    /// The newest version that the caller and a node with versions up to `protocol_max` support, if there is one.
    pub fn common_version(&self, protocol_max: u16) -> Option<u16> {
        let newest_common = self.version_max.min(protocol_max);
        (newest_common >= self.version_min && newest_common >= self.oldest_allowed_version()).then_some(newest_common)
    }

    /// The oldest version that a node accepts from this kind of caller.
    fn oldest_allowed_version(&self) -> u16 {
        if matches!(self.caller, CallerKind::Peer { .. }) { PEER_PROTOCOL_MIN } else { CLIENT_VERSION_MIN }
    }

    /// Describes why the caller and a node with versions up to `protocol_max` have no common version, with advice.
    pub fn describe_version_mismatch(&self, protocol_max: u16) -> String {
        let node_min = self.oldest_allowed_version();
        let advice = match self.version_max < node_min {
            true => "it is older: start it with a program of a later version",
            false => "this node is older: upgrade it",
        };
        format!(
            "it supports versions {} to {} of the protocol, and this node {node_min} to {protocol_max}: {advice}",
            self.version_min, self.version_max
        )
    }

    /// Appends the hello as a frame, in the layout described at [`Hello`].
    pub fn put(&self, out: &mut BytesMut) {
        put_frame(out, FrameKind::Hello, |out| {
            out.put_slice(&HELLO_MAGIC);
            out.put_u16_le(self.version_min);
            out.put_u16_le(self.version_max);
            let (role, node, disk, run, log_state) = match self.caller {
                CallerKind::Peer { node, disk, run, log_state, .. } => (1, Some(node), disk.0, run, log_state),
                CallerKind::Client => (2, None, 0, Run::default(), PeerLogState::default()),
                CallerKind::Operator => (3, None, 0, Run::default(), PeerLogState::default()),
            };
            out.put_u8(role);
            out.put_u8(0);
            out.put_u32_le(0);
            out.put_u64_le(self.cluster.map_or(0, |cluster| cluster.0));
            out.put_optional_node_id(node);
            out.put_u64_le(disk);
            out.put_optional_node_id(self.target);
            out.put_u64_le(run.id);
            log_state.put(out);
            out.put_u64_le(run.starts);
            out.put_blob(self.address.as_bytes());
            out.put_blob(self.redis_address.as_bytes());
            out.put_blob(self.machine_kind.as_bytes());
            if let CallerKind::Peer { feature_level_max, .. } = self.caller {
                out.put_u16_le(feature_level_max);
            }
        });
    }

    /// Decodes a hello from a frame. Other magic bytes and nonzero reserved fields are errors, and so are trailing bytes,
    /// unless the caller supports a later version than this program.
    pub fn read(frame: Frame) -> Result<Hello, WireError> {
        let mut reader = expect_content(frame, FrameKind::Hello)?;
        if reader.bytes(HELLO_MAGIC.len())? != HELLO_MAGIC[..] {
            return Err(Malformed("the magic bytes are not those of this protocol").into());
        }
        let (version_min, version_max) = (reader.u16()?, reader.u16()?);
        let (role, zero, group) = (reader.u8()?, reader.u8()?, reader.u32()?);
        if (zero, group) != (0, 0) {
            return Err(Malformed("the reserved byte and the group must be zero").into());
        }
        let cluster = Some(reader.u64()?).filter(|id| *id != 0).map(ClusterId);
        let (node, disk, target) = (reader.optional_node_id()?, DiskId(reader.u64()?), reader.optional_node_id()?);
        let (id, log_state) = (reader.u64()?, PeerLogState::read(&mut reader)?);
        let run = Run { id, starts: reader.u64()? };
        let address = reader.string(ADDRESS_BYTES_MAX)?;
        let redis_address = reader.string(ADDRESS_BYTES_MAX)?;
        let machine_kind = reader.string(MACHINE_KIND_BYTES_MAX)?;
        let caller = match (role, node) {
            (1, Some(node)) => CallerKind::Peer { node, disk, run, log_state, feature_level_max: reader.u16()? },
            (2, None) => CallerKind::Client,
            (3, None) => CallerKind::Operator,
            _ => return Err(Malformed("the caller is neither peer nor client").into()),
        };
        // A later version may have appended fields, which mean nothing to this one.
        if version_max <= VERSION_MAX {
            reader.check_end()?;
        }
        Ok(Hello { version_min, version_max, cluster, caller, target, machine_kind, address, redis_address })
    }
}

impl Welcome {
    /// Appends the welcome as a frame: version (2 bytes), cluster, node, disk and log (8 bytes each), position of the
    /// configuration (16 bytes).
    pub fn put(&self, out: &mut BytesMut) {
        put_frame(out, FrameKind::Welcome, |out| {
            out.put_u16_le(self.version);
            out.put_u64_le(self.cluster.0);
            out.put_optional_node_id(Some(self.node));
            out.put_u64_le(self.disk.0);
            self.log_state.put(out);
        });
    }

    /// Decodes the reply to a hello. A rejection of the hello is an error, with its reason.
    pub fn read(frame: Frame) -> Result<Welcome, WireError> {
        if frame.kind == FrameKind::Refused {
            let mut reader = Reader::new(frame.content);
            let reason = HelloRejection::from_byte(reader.u8()?)?;
            return Err(match (reason, reader.u16(), reader.u16()) {
                (HelloRejection::Version, Ok(min), Ok(max)) => WireError::NoCommonVersion { min, max },
                _ => WireError::Refused(reason),
            });
        }
        let mut reader = expect_content(frame, FrameKind::Welcome)?;
        let version = reader.u16()?;
        let cluster = ClusterId(reader.u64()?);
        let (node, disk) = (reader.node_id()?, DiskId(reader.u64()?));
        let log_state = PeerLogState::read(&mut reader)?;
        reader.check_end()?;
        if !(CLIENT_VERSION_MIN..=Versions::COMPILED.protocol_max).contains(&version) {
            return Err(WireError::Refused(HelloRejection::Version));
        }
        Ok(Welcome { version, cluster, node, disk, log_state })
    }
}

impl HelloRejection {
    /// Appends the reason for the rejection of `hello` as a frame: its byte; and if there is no common version, the oldest
    /// and the newest version that this node accepts from such a caller (2 bytes each).
    pub fn put(self, hello: &Hello, protocol_max: u16, out: &mut BytesMut) {
        put_frame(out, FrameKind::Refused, |out| {
            out.put_u8(self as u8);
            if self == HelloRejection::Version {
                out.put_u16_le(hello.oldest_allowed_version());
                out.put_u16_le(protocol_max);
            }
        });
    }
}

fn expect_content(frame: Frame, kind: FrameKind) -> Result<Reader, WireError> {
    if frame.kind == kind {
        Ok(Reader::new(frame.content))
    } else {
        Err(WireError::UnexpectedFrameKind(frame.kind as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::FrameReader;
    use super::*;
    use crate::types::{Index, Term};

    fn encode_frame(put: impl FnOnce(&mut BytesMut)) -> Frame {
        let mut out = BytesMut::new();
        put(&mut out);
        FrameReader::default().next(&mut out).unwrap().unwrap()
    }

    fn id(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    #[test]
    fn hello_and_welcome_round_trip() {
        let log_state = PeerLogState { log: Some(LogId(3)), config_position: Position::new(Index(8), Term(2)) };
        let peer = Hello::peer(ClusterId(9), id(1), DiskId(77), Run { id: 5, starts: 6 }, id(2))
            .with_address("a:1")
            .with_log_state(log_state);
        let with_redis_address = peer.clone().with_redis_address(Some("a:2".into()));
        for hello in [Hello::client(), Hello::operator(), peer, with_redis_address] {
            assert_eq!(Hello::read(encode_frame(|out| hello.put(out))), Ok(hello));
        }
        let welcome = Welcome { version: VERSION_MAX, cluster: ClusterId(9), node: id(2), disk: DiskId(5), log_state };
        assert_eq!(Welcome::read(encode_frame(|out| welcome.put(out))), Ok(welcome));
        for byte in 2..=12 {
            let reason = HelloRejection::from_byte(byte).unwrap();
            let frame = encode_frame(|out| reason.put(&Hello::client(), VERSION_MAX, out));
            assert_eq!(Welcome::read(frame), Err(WireError::Refused(reason)));
        }
        let rejection = encode_frame(|out| HelloRejection::Version.put(&Hello::client(), 12, out));
        assert_eq!(Welcome::read(rejection), Err(WireError::NoCommonVersion { min: CLIENT_VERSION_MIN, max: 12 }));
    }

    #[test]
    fn version_mismatch_names_both_versions_and_the_older_side() {
        let text_of = |version_min, version_max, protocol_max| {
            Hello { version_min, version_max, ..Hello::peer(ClusterId(9), id(1), DiskId(7), Run::default(), id(2)) }
                .describe_version_mismatch(protocol_max)
        };
        assert_eq!(
            text_of(6, 7, 8),
            "it supports versions 6 to 7 of the protocol, and this node 8 to 8: it is older: start it with a program of \
             a later version"
        );
        assert!(
            text_of(11, 12, 9)
                .ends_with("11 to 12 of the protocol, and this node 8 to 9: this node is older: upgrade it")
        );
        let text = WireError::NoCommonVersion { min: 11, max: 12 }.to_string();
        assert!(text.contains("versions 11 to 12") && text.ends_with("this program is older: upgrade it"), "{text}");
        let text = WireError::NoCommonVersion { min: 1, max: 2 }.to_string();
        assert!(text.ends_with("it is older: upgrade it"), "{text}");
    }

    #[test]
    fn fields_appended_by_a_later_version_are_ignored() {
        let peer = Hello::peer(ClusterId(9), id(1), DiskId(7), Run::default(), id(2));
        let later = peer.clone().with_versions(Versions { protocol_max: VERSION_MAX + 1, feature_level_max: 7 });
        for (hello, is_accepted) in [(later, true), (peer, false)] {
            let content = [&encode_frame(|out| hello.put(out)).content[..], b"more"].concat();
            let decoded = Hello::read(Frame { kind: FrameKind::Hello, content: content.into() });
            assert_eq!(decoded.ok(), Some(hello).filter(|_| is_accepted));
        }
    }

    #[test]
    fn truncated_hello_is_rejected() {
        let encoded = encode_frame(|out| Hello::client().put(out));
        for cut in 0..encoded.content.len() {
            let frame = Frame { kind: FrameKind::Hello, content: encoded.content.slice(..cut) };
            assert!(Hello::read(frame).is_err());
        }
    }

    #[test]
    fn nonzero_reserved_byte_is_rejected() {
        let encoded = encode_frame(|out| Hello::client().put(out)).content;
        for at in 11..16 {
            let mut bytes = encoded.to_vec();
            bytes[at] = 1;
            assert!(Hello::read(Frame { kind: FrameKind::Hello, content: bytes.into() }).is_err(), "byte {at}");
        }
    }

    #[test]
    fn highest_common_version_is_negotiated() {
        let negotiated_version = |version_min, version_max| {
            Hello { version_min, version_max, ..Hello::client() }.common_version(VERSION_MAX)
        };
        assert_eq!(negotiated_version(1, VERSION_MAX + 1), Some(VERSION_MAX));
        assert_eq!(negotiated_version(VERSION_MAX + 1, VERSION_MAX + 2), None);
        assert_eq!(negotiated_version(CLIENT_VERSION_MIN, CLIENT_VERSION_MIN), Some(CLIENT_VERSION_MIN));
        // Older nodes do not know deadlines of keys, and would keep keys that other nodes expire.
        assert_eq!(negotiated_version(1, CLIENT_VERSION_MIN - 1), None);
        // Nodes of version 6 accept 007 as a number, so their counters would differ.
        assert_eq!(negotiated_version(1, 6), None);
        assert_eq!(negotiated_version(0, 0), None);
    }
}
