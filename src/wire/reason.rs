//! The reasons for rejecting a connection.

use crate::codec::Malformed;

/// The reason for rejecting a connection. One byte on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[repr(u8)]
pub enum Reason {
    /// There is no version that both sides support.
    #[error("no common version of the protocol")]
    Version = 1,
    /// The caller expects another cluster.
    #[error("this node belongs to another cluster")]
    Cluster = 2,
    /// The caller expects another node: the address is no longer that node's.
    #[error("another node answers at this address")]
    Target = 3,
    /// The caller is a peer that is not a member.
    #[error("not a member of this cluster: never added, or removed; add it with `drave member add`")]
    Stranger = 4,
    /// The caller has the id of the node it dials.
    #[error("the connecting node has this node's own id")]
    Double = 5,
    /// The caller is a peer with another disk than before.
    #[error(
        "another disk than this node had: an empty or older directory must never run under an id that was in use; \
         restore its former directory, or `drave member remove` it and `drave member add` it again"
    )]
    Disk = 8,
    /// Another process uses the peer's identity.
    #[error(
        "another process runs under this identity, on a copy of its disk: stop one of them, and never start it again; \
         for a new node `drave member add` a new id, with an empty directory"
    )]
    Twin = 9,
    /// The caller is a peer without a certificate, and certificates are required.
    #[error("a node must present a certificate here: start it with --tls-cert, --tls-key and --tls-ca")]
    Unproven = 10,
    /// The caller belongs to another log.
    #[error(
        "this node belongs to another log: one of the two was founded anew, recovered or restored; a node never \
         moves from one log to the other with its present directory"
    )]
    Log = 11,
    /// The caller uses another state machine.
    #[error("this cluster runs another state machine, or another version of it: see `machine` in drave status -o json")]
    Machine = 12,
    /// There are too many connections.
    #[error("too many connections")]
    Full = 6,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping = 7,
}

impl Reason {
    /// The reason in a word or two.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Version => "another version",
            Reason::Cluster => "another cluster",
            Reason::Target => "another node there",
            Reason::Stranger => "no member",
            Reason::Double => "own id",
            Reason::Disk => "unknown disk",
            Reason::Twin => "copied disk",
            Reason::Unproven => "no certificate",
            Reason::Log => "another log",
            Reason::Machine => "another machine",
            Reason::Full => "too many connections",
            Reason::Stopping => "stopping",
        }
    }

    /// Decodes a reason from its byte.
    pub(super) fn from_byte(byte: u8) -> Result<Reason, Malformed> {
        Ok(match byte {
            1 => Reason::Version,
            2 => Reason::Cluster,
            3 => Reason::Target,
            4 => Reason::Stranger,
            5 => Reason::Double,
            6 => Reason::Full,
            7 => Reason::Stopping,
            12 => Reason::Machine,
            8 => Reason::Disk,
            9 => Reason::Twin,
            10 => Reason::Unproven,
            11 => Reason::Log,
            _ => return Err(Malformed("unknown reason")),
        })
    }
}
