//! The reasons why a node rejects a connection after its hello.

use crate::codec::Malformed;

/// Why a node rejects a connection after its hello. The number of a variant is its byte on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[repr(u8)]
pub enum HelloRejection {
    /// Caller and node support no common version of the protocol.
    #[error("no common version of the protocol")]
    Version = 1,
    /// The caller expects another cluster.
    #[error("this node belongs to another cluster")]
    Cluster = 2,
    /// The caller expects another node at this address, perhaps the one that had the address before.
    #[error("another node answers at this address")]
    WrongNode = 3,
    /// The caller is a node that is not a member of the cluster.
    #[error("not a member of this cluster: never added, or removed; add it with `drave member add`")]
    NotMember = 4,
    /// The caller has the same node id as the node that it dials.
    #[error("the connecting node has this node's own id")]
    SameNodeId = 5,
    /// The caller is a member, and its disk id is not the one that the configuration names for this member.
    #[error(
        "another disk than this node had: an empty or older directory must never run under an id that was in use; \
         restore its former directory, or `drave member remove` it and `drave member add` it again"
    )]
    UnknownDisk = 8,
    /// Two processes run with the caller's node id and disk id, so one runs on a copy of the disk.
    #[error(
        "another process runs under this identity, on a copy of its disk: stop one of them, and never start it again; \
         for a new node `drave member add` a new id, with an empty directory"
    )]
    CopiedDisk = 9,
    /// The caller is a node without a certificate, and this node requires one.
    #[error("a node must present a certificate here: start it with --tls-cert, --tls-key and --tls-ca")]
    NoCertificate = 10,
    /// The caller is a node of this cluster whose log was founded, recovered or restored separately.
    #[error(
        "this node belongs to another log: one of the two was founded anew, recovered or restored; a node never \
         moves from one log to the other with its present directory"
    )]
    Log = 11,
    /// The caller uses another state machine, or another version of its commands.
    #[error("this cluster runs another state machine, or another version of it: see `machine` in drave status -o json")]
    Machine = 12,
    /// The node serves its maximum number of client connections.
    #[error("too many connections")]
    TooManyConnections = 6,
    /// The node is stopping, and accepts no more connections.
    #[error("the node is stopping")]
    Stopping = 7,
}

impl HelloRejection {
    /// The reason in two or three words, for the status and for log lines that list several peers.
    pub fn label(self) -> &'static str {
        match self {
            HelloRejection::Version => "another version",
            HelloRejection::Cluster => "another cluster",
            HelloRejection::WrongNode => "another node there",
            HelloRejection::NotMember => "no member",
            HelloRejection::SameNodeId => "own id",
            HelloRejection::UnknownDisk => "unknown disk",
            HelloRejection::CopiedDisk => "copied disk",
            HelloRejection::NoCertificate => "no certificate",
            HelloRejection::Log => "another log",
            HelloRejection::Machine => "another machine",
            HelloRejection::TooManyConnections => "too many connections",
            HelloRejection::Stopping => "stopping",
        }
    }

    /// Decodes a reason from its byte on the wire. An unknown byte is an error.
    pub(super) fn from_byte(byte: u8) -> Result<HelloRejection, Malformed> {
        Ok(match byte {
            1 => HelloRejection::Version,
            2 => HelloRejection::Cluster,
            3 => HelloRejection::WrongNode,
            4 => HelloRejection::NotMember,
            5 => HelloRejection::SameNodeId,
            6 => HelloRejection::TooManyConnections,
            7 => HelloRejection::Stopping,
            12 => HelloRejection::Machine,
            8 => HelloRejection::UnknownDisk,
            9 => HelloRejection::CopiedDisk,
            10 => HelloRejection::NoCertificate,
            11 => HelloRejection::Log,
            _ => return Err(Malformed("unknown reason")),
        })
    }
}
