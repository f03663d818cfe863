//! Who is calling, which versions it speaks, and which cluster it means.

use super::error::WireError;
use super::frame::{Frame, FrameKind, put_frame};
use super::reason::Reason;
use crate::codec::{Malformed, Put, Reader};
use crate::limits::{ADDRESS_BYTES_MAX, MACHINE_BYTES_MAX};
use crate::types::{ClusterId, DiskId, LogId, NodeId, Position, Run};
use bytes::{BufMut, BytesMut};

/// The oldest version of the protocol this program speaks.
pub const VERSION_MIN: u16 = 7;
/// The oldest version it speaks with a peer: a vote says since then which time the voter has heard.
pub const PEER_VERSION_MIN: u16 = 8;
/// The newest version of the protocol this program speaks.
pub const VERSION_MAX: u16 = 8;

const MAGIC: [u8; 6] = *b"drave\n";

/// Who dials says who it is. The first frame on any connection.
///
/// | at | size | field |
/// |---|---|---|
/// | 0 | 6 | `drave\n` |
/// | 6 | 2 | oldest version spoken |
/// | 8 | 2 | newest version spoken |
/// | 10 | 1 | role: 1 a peer, 2 a client, 3 an operator (since version 8) |
/// | 11 | 1 | zero |
/// | 12 | 4 | group, zero: reserved |
/// | 16 | 8 | cluster, 0 if a client does not know |
/// | 24 | 8 | the peer's id, 0 for a client |
/// | 32 | 8 | the peer's disk, 0 for a client |
/// | 40 | 8 | the node that is meant, 0 for any |
/// | 48 | 8 | the peer's process: drawn when it started, 0 for a client |
/// | 56 | 8 | the peer's log, 0 if it holds none that is agreed, and for a client |
/// | 64 | 16 | the position of the peer's configuration, 0 for a client |
/// | 80 | 8 | how many times a node was started on the peer's disk, 0 for a client |
/// | 88 | … | where the peer is reached, behind its length (4); empty for a client |
/// | … | … | where Redis clients reach the peer, behind its length (4); empty if nowhere |
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The oldest version it speaks.
    pub version_min: u16,
    /// The newest version it speaks.
    pub version_max: u16,
    /// Its cluster, if it knows.
    pub cluster: Option<ClusterId>,
    /// What it is.
    pub caller: CallerKind,
    /// The node it means to reach, if not just any.
    pub target: Option<NodeId>,
    /// The state machine that it runs, or whose commands it sends; empty if it does not say.
    pub machine: String,
    /// Where a peer is reached: who does not know it yet has to answer somewhere.
    pub address: String,
    /// Where Redis clients reach a peer; empty if it has no Redis gateway.
    pub redis: String,
}

/// What a node holds, as far as a peer has to know before it hears it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Holds {
    /// The id of its log, if that is agreed.
    pub log: Option<LogId>,
    /// The position of its configuration.
    pub configured: Position,
}

impl Holds {
    fn put(self, out: &mut BytesMut) {
        out.put_u64_le(self.log.map_or(0, |log| log.0));
        out.put_position(self.configured);
    }

    fn read(reader: &mut Reader) -> Result<Holds, Malformed> {
        let log = Some(reader.u64()?).filter(|log| *log != 0).map(LogId);
        Ok(Holds { log, configured: reader.position()? })
    }
}

/// What a caller is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallerKind {
    /// A node, which will speak on this connection and be dialed to listen.
    Peer {
        /// Its id.
        node: NodeId,
        /// The disk it is known by.
        disk: DiskId,
        /// Its process.
        run: Run,
        /// What it holds.
        holds: Holds,
    },
    /// A client.
    Client,
    /// An operator's command, which proposes nothing: it has a seat where none is left for clients.
    Operator,
}

/// Who was dialed agrees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The version both will speak.
    pub version: u16,
    /// The cluster.
    pub cluster: ClusterId,
    /// Who was reached.
    pub node: NodeId,
    /// The disk it is known by.
    pub disk: DiskId,
    /// What it holds.
    pub holds: Holds,
}

impl Hello {
    /// A client's, of this program's versions.
    pub fn client() -> Hello {
        Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            cluster: None,
            caller: CallerKind::Client,
            target: None,
            machine: String::new(),
            address: String::new(),
            redis: String::new(),
        }
    }

    /// An operator's, of this program's versions.
    pub fn operator() -> Hello {
        Hello { version_min: 8, caller: CallerKind::Operator, ..Hello::client() }
    }

    /// A peer's, of this program's versions.
    pub fn peer(cluster: ClusterId, node: NodeId, disk: DiskId, run: Run, target: NodeId) -> Hello {
        let caller = CallerKind::Peer { node, disk, run, holds: Holds::default() };
        Hello {
            version_min: PEER_VERSION_MIN,
            version_max: VERSION_MAX,
            cluster: Some(cluster),
            caller,
            target: Some(target),
            machine: String::new(),
            address: String::new(),
            redis: String::new(),
        }
    }

    /// The same, of a peer that holds that.
    pub fn holding(mut self, what: Holds) -> Hello {
        if let CallerKind::Peer { holds, .. } = &mut self.caller {
            *holds = what;
        }
        self
    }

    /// The same, of a caller that runs that state machine, or sends its commands.
    pub fn of_machine(self, machine: &str) -> Hello {
        Hello { machine: machine.to_owned(), ..self }
    }

    /// The same, of a peer that is reached there.
    pub fn at(self, address: &str) -> Hello {
        Hello { address: address.to_owned(), ..self }
    }

    /// The same, of a peer that Redis clients reach there, if anywhere.
    pub fn with_redis(self, redis: Option<String>) -> Hello {
        Hello { redis: redis.unwrap_or_default(), ..self }
    }

    /// The newest version that both speak, if there is one.
    pub fn version(&self) -> Option<u16> {
        let newest = self.version_max.min(VERSION_MAX);
        let oldest = if matches!(self.caller, CallerKind::Peer { .. }) { PEER_VERSION_MIN } else { VERSION_MIN };
        (newest >= self.version_min && newest >= oldest).then_some(newest)
    }

    /// Appends it as a frame.
    pub fn put(&self, out: &mut BytesMut) {
        put_frame(out, FrameKind::Hello, |out| {
            out.put_slice(&MAGIC);
            out.put_u16_le(self.version_min);
            out.put_u16_le(self.version_max);
            let (role, node, disk, run, holds) = match self.caller {
                CallerKind::Peer { node, disk, run, holds } => (1, Some(node), disk.0, run, holds),
                CallerKind::Client => (2, None, 0, Run::default(), Holds::default()),
                CallerKind::Operator => (3, None, 0, Run::default(), Holds::default()),
            };
            out.put_u8(role);
            out.put_u8(0);
            out.put_u32_le(0);
            out.put_u64_le(self.cluster.map_or(0, |cluster| cluster.0));
            out.put_node(node);
            out.put_u64_le(disk);
            out.put_node(self.target);
            out.put_u64_le(run.id);
            holds.put(out);
            out.put_u64_le(run.starts);
            out.put_blob(self.address.as_bytes());
            out.put_blob(self.redis.as_bytes());
            out.put_blob(self.machine.as_bytes());
        });
    }

    /// Reads it from a frame.
    pub fn read(frame: Frame) -> Result<Hello, WireError> {
        let mut reader = content(frame, FrameKind::Hello)?;
        if reader.bytes(MAGIC.len())? != MAGIC[..] {
            return Err(Malformed("not this protocol").into());
        }
        let (version_min, version_max) = (reader.u16()?, reader.u16()?);
        let (role, zero, group) = (reader.u8()?, reader.u8()?, reader.u32()?);
        if (zero, group) != (0, 0) {
            return Err(Malformed("a group: there are none yet").into());
        }
        let cluster = Some(reader.u64()?).filter(|id| *id != 0).map(ClusterId);
        let (node, disk, target) = (reader.node()?, DiskId(reader.u64()?), reader.node()?);
        let (id, holds) = (reader.u64()?, Holds::read(&mut reader)?);
        let run = Run { id, starts: reader.u64()? };
        let address = reader.string(ADDRESS_BYTES_MAX)?;
        let redis = reader.string(ADDRESS_BYTES_MAX)?;
        let machine = reader.string(MACHINE_BYTES_MAX)?;
        let caller = match (role, node) {
            (1, Some(node)) => CallerKind::Peer { node, disk, run, holds },
            (2, None) => CallerKind::Client,
            (3, None) => CallerKind::Operator,
            _ => return Err(Malformed("neither peer nor client").into()),
        };
        reader.end()?;
        Ok(Hello { version_min, version_max, cluster, caller, target, machine, address, redis })
    }
}

impl Welcome {
    /// Appends it as a frame: version (2), cluster (8), node (8), disk (8), log (8), position of the configuration (16).
    pub fn put(&self, out: &mut BytesMut) {
        put_frame(out, FrameKind::Welcome, |out| {
            out.put_u16_le(self.version);
            out.put_u64_le(self.cluster.0);
            out.put_node(Some(self.node));
            out.put_u64_le(self.disk.0);
            self.holds.put(out);
        });
    }

    /// Reads the answer to a hello.
    pub fn read(frame: Frame) -> Result<Welcome, WireError> {
        if frame.kind == FrameKind::Refused {
            let mut reader = Reader::new(frame.content);
            return Err(WireError::Refused(Reason::from_byte(reader.u8()?)?));
        }
        let mut reader = content(frame, FrameKind::Welcome)?;
        let version = reader.u16()?;
        let cluster = ClusterId(reader.u64()?);
        let (node, disk) = (reader.somebody()?, DiskId(reader.u64()?));
        let holds = Holds::read(&mut reader)?;
        reader.end()?;
        if !(VERSION_MIN..=VERSION_MAX).contains(&version) {
            return Err(WireError::Refused(Reason::Version));
        }
        Ok(Welcome { version, cluster, node, disk, holds })
    }
}

impl Reason {
    /// Appends it as a frame.
    pub fn put(self, out: &mut BytesMut) {
        put_frame(out, FrameKind::Refused, |out| out.put_u8(self as u8));
    }
}

fn content(frame: Frame, kind: FrameKind) -> Result<Reader, WireError> {
    if frame.kind == kind { Ok(Reader::new(frame.content)) } else { Err(WireError::Kind(frame.kind as u8)) }
}

#[cfg(test)]
mod tests {
    use super::super::frame::FrameReader;
    use super::*;
    use crate::types::{Index, Term};

    fn through_the_wire(put: impl FnOnce(&mut BytesMut)) -> Frame {
        let mut out = BytesMut::new();
        put(&mut out);
        FrameReader::default().next(&mut out).unwrap().unwrap()
    }

    fn id(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    #[test]
    fn hellos_come_back_as_they_were() {
        let holds = Holds { log: Some(LogId(3)), configured: Position::new(Index(8), Term(2)) };
        let peer =
            Hello::peer(ClusterId(9), id(1), DiskId(77), Run { id: 5, starts: 6 }, id(2)).at("a:1").holding(holds);
        let open = peer.clone().with_redis(Some("a:2".into()));
        for hello in [Hello::client(), Hello::operator(), peer, open] {
            assert_eq!(Hello::read(through_the_wire(|out| hello.put(out))), Ok(hello));
        }
        let welcome = Welcome { version: VERSION_MAX, cluster: ClusterId(9), node: id(2), disk: DiskId(5), holds };
        assert_eq!(Welcome::read(through_the_wire(|out| welcome.put(out))), Ok(welcome));
        for byte in 1..=11 {
            let reason = Reason::from_byte(byte).unwrap();
            assert_eq!(Welcome::read(through_the_wire(|out| reason.put(out))), Err(WireError::Refused(reason)));
        }
    }

    #[test]
    fn a_hello_cut_anywhere_is_not_one() {
        let whole = through_the_wire(|out| Hello::client().put(out));
        for cut in 0..whole.content.len() {
            let frame = Frame { kind: FrameKind::Hello, content: whole.content.slice(..cut) };
            assert!(Hello::read(frame).is_err());
        }
    }

    #[test]
    fn what_is_reserved_is_zero() {
        let whole = through_the_wire(|out| Hello::client().put(out)).content;
        for at in 11..16 {
            let mut bytes = whole.to_vec();
            bytes[at] = 1;
            assert!(Hello::read(Frame { kind: FrameKind::Hello, content: bytes.into() }).is_err(), "byte {at}");
        }
    }

    #[test]
    fn versions_meet_or_do_not() {
        let speaks = |version_min, version_max| Hello { version_min, version_max, ..Hello::client() }.version();
        assert_eq!(speaks(1, VERSION_MAX + 1), Some(VERSION_MAX));
        assert_eq!(speaks(VERSION_MAX + 1, VERSION_MAX + 2), None);
        assert_eq!(speaks(VERSION_MIN, VERSION_MIN), Some(VERSION_MIN));
        // A node of before there were deadlines would keep them otherwise than the others.
        assert_eq!(speaks(1, VERSION_MIN - 1), None);
        // One that takes 007 for a number would hold another counter.
        assert_eq!(speaks(1, 6), None);
        assert_eq!(speaks(0, 0), None);
    }
}
