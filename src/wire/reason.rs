//! Why a caller is not wanted.

use crate::codec::Malformed;

/// Why a caller is not wanted. Travels as one byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[repr(u8)]
pub enum Reason {
    /// There is no version that both speak.
    #[error("no common version of the protocol")]
    Version = 1,
    /// It means another cluster.
    #[error("this node belongs to another cluster")]
    Cluster = 2,
    /// It means another node: the address is not that node's any more.
    #[error("another node answers at this address")]
    Target = 3,
    /// It is a peer that is not a member.
    #[error("not a member of this cluster: never added, or removed; `drave member add` makes it one")]
    Stranger = 4,
    /// It bears the id of the node it dials.
    #[error("it bears this node's own id")]
    Double = 5,
    /// It is a peer that comes with another disk than it had.
    #[error(
        "another disk than this node had: an empty or older directory must never run under an id that was in use; \
         bring back the one it had, or `drave member remove` it and `drave member add` it again"
    )]
    Disk = 8,
    /// It is a peer that runs already.
    #[error(
        "another process runs under this identity, on a copy of its disk: stop one of them, and never start it again; \
         for a new node `drave member add` a new id, with an empty directory"
    )]
    Twin = 9,
    /// It is a peer that has shown no certificate, where everybody is to show one.
    #[error("a node has to show a certificate here: start it with --tls-cert, --tls-key and --tls-ca")]
    Unproven = 10,
    /// It belongs to another log.
    #[error(
        "this node belongs to another log: one of the two was founded anew, recovered or restored; a node of the one \
         never becomes a node of the other with the directory it has"
    )]
    Log = 11,
    /// It runs another state machine, or sends commands of one.
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

    /// The reason that travels as that byte.
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
