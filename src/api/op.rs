//! Operations: what a client writes into the log.

use crate::codec::Malformed;
use crate::limits::SESSION_WINDOW_MAX;
use crate::types::SessionId;
use byteorder::{LittleEndian, ReadBytesExt};
use bytes::{BufMut, Bytes, BytesMut};

/// The content of an opaque entry: an operation in a session, so that it executes once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op<C = Bytes> {
    /// Opens a session that may have up to `window` commands outstanding. Its id is the index of the entry.
    Open {
        /// How many commands may be outstanding, at most [`SESSION_WINDOW_MAX`].
        window: u32,
        /// Whether its commands execute in the order of their numbers: number n only when every number from the
        /// lowest outstanding one to n - 1 has executed. A command that comes early is [`Outcome::OutOfOrder`].
        ordered: bool,
    },
    /// Executes a command once, however often it is retried.
    Execute {
        /// The session it belongs to.
        session: SessionId,
        /// The command's number in the session, from 1. A number seen before gets the stored first answer.
        seq: u64,
        /// The lowest number whose answer the client still waits for: answers below it are discarded.
        first_outstanding: u64,
        /// The command for the state machine.
        command: C,
    },
    /// Ends a session.
    Close {
        /// The session to end.
        session: SessionId,
    },
    /// Only the time that its entry carries: the leader's own, to expire keys and sessions while no request arrives. No
    /// client may send it.
    Tick,
}

const OPEN: u8 = 1;
const EXECUTE: u8 = 2;
const CLOSE: u8 = 3;
const TICK: u8 = 4;
/// A separate kind, so that logs written before ordered sessions existed are still readable.
const OPEN_ORDERED: u8 = 5;

impl Op {
    /// Encodes the operation: kind (1 byte), then the fields in order, a command last and without a length.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(match self {
            Op::Execute { command, .. } => 25 + command.len(),
            Op::Open { .. } | Op::Close { .. } | Op::Tick => 9,
        });
        match self {
            Op::Open { window, ordered } => {
                out.put_u8(if *ordered { OPEN_ORDERED } else { OPEN });
                out.put_u32_le(*window);
            }
            Op::Execute { session, seq, first_outstanding: lowest, command } => {
                out.put_u8(EXECUTE);
                out.put_u64_le(session.0);
                out.put_u64_le(*seq);
                out.put_u64_le(*lowest);
                out.put_slice(command);
            }
            Op::Close { session } => {
                out.put_u8(CLOSE);
                out.put_u64_le(session.0);
            }
            Op::Tick => out.put_u8(TICK),
        }
        out.freeze()
    }

    /// Decodes an operation; a command is a slice of `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Op, Malformed> {
        Ok(match Op::read(&bytes)? {
            Op::Open { window, ordered } => Op::Open { window, ordered },
            Op::Execute { session, seq, first_outstanding: lowest, command } => {
                Op::Execute { session, seq, first_outstanding: lowest, command: bytes.slice_ref(command) }
            }
            Op::Close { session } => Op::Close { session },
            Op::Tick => Op::Tick,
        })
    }
}

impl<'a> Op<&'a [u8]> {
    /// Decodes an operation from borrowed bytes: no reference count changes.
    pub fn read(mut bytes: &'a [u8]) -> Result<Op<&'a [u8]>, Malformed> {
        let op = Op::take(&mut bytes).map_err(|_| Malformed("ends too early"))?;
        match op {
            None => Err(Malformed("unknown kind of operation")),
            Some(Op::Open { .. } | Op::Close { .. } | Op::Tick) if !bytes.is_empty() => {
                Err(Malformed("bytes left over"))
            }
            Some(Op::Open { window, .. }) if window == 0 || window > SESSION_WINDOW_MAX => {
                Err(Malformed("a session's window is 1 to 1024"))
            }
            Some(Op::Execute { seq: 0, .. }) => Err(Malformed("a session's sequence numbers begin at 1")),
            Some(op) => Ok(op),
        }
    }

    fn take(bytes: &mut &'a [u8]) -> std::io::Result<Option<Op<&'a [u8]>>> {
        Ok(match bytes.read_u8()? {
            kind @ (OPEN | OPEN_ORDERED) => {
                Some(Op::Open { window: bytes.read_u32::<LittleEndian>()?, ordered: kind == OPEN_ORDERED })
            }
            EXECUTE => Some(Op::Execute {
                session: SessionId(bytes.read_u64::<LittleEndian>()?),
                seq: bytes.read_u64::<LittleEndian>()?,
                first_outstanding: bytes.read_u64::<LittleEndian>()?,
                command: bytes,
            }),
            CLOSE => Some(Op::Close { session: SessionId(bytes.read_u64::<LittleEndian>()?) }),
            TICK => Some(Op::Tick),
            _ => None,
        })
    }
}

/// The result of an operation, decided where it is applied, the same on every node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The session is open.
    Opened {
        /// Its id.
        session: SessionId,
    },
    /// The command was executed, now or when its number was first seen.
    Executed {
        /// The state machine's first answer to it.
        answer: Bytes,
        /// Whether it had been executed before, so that this is the stored answer.
        duplicate: bool,
    },
    /// The session is closed, now or before.
    Closed,
    /// The session is unknown: it expired, was closed, or never existed. Nothing was executed; an earlier attempt under
    /// this number may have been.
    SessionExpired,
    /// The number is below the lowest that the client waits for: its answer is discarded. Nothing was executed.
    ResponseDiscarded,
    /// The session's window of outstanding commands is exceeded. Nothing was executed.
    WindowExceeded,
    /// In an ordered session: a number between the lowest outstanding one and this one has not executed. Nothing was
    /// executed, and the attempt leaves no trace: the same number can be proposed again after the earlier ones.
    OutOfOrder,
    /// The operation could not be decoded. Nothing was executed.
    Malformed,
    /// The command was executed, now or when its number was first seen; the answer exceeded the size limit and was
    /// dropped.
    AnswerTooLong,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_roundtrips() {
        for op in [
            Op::Open { window: 7, ordered: false },
            Op::Open { window: 7, ordered: true },
            Op::Execute { session: SessionId(3), seq: 9, first_outstanding: 4, command: Bytes::from_static(b"x") },
            Op::Close { session: SessionId(3) },
            Op::Tick,
        ] {
            assert_eq!(Op::decode(op.encode()), Ok(op));
        }
    }

    #[test]
    fn invalid_operation_is_rejected() {
        for ordered in [false, true] {
            assert!(Op::decode(Op::Open { window: 0, ordered }.encode()).is_err());
            assert!(Op::decode(Op::Open { window: SESSION_WINDOW_MAX + 1, ordered }.encode()).is_err());
        }
        assert!(Op::decode(Bytes::new()).is_err());
        let zero = Op::Execute { session: SessionId(3), seq: 0, first_outstanding: 0, command: Bytes::new() };
        assert!(Op::decode(zero.encode()).is_err());
    }
}
