//! Operations: the entries that clients append to the log.

use crate::codec::Malformed;
use crate::limits::SESSION_WINDOW_MAX;
use crate::types::SessionId;
use byteorder::{LittleEndian, ReadBytesExt};
use bytes::{BufMut, Bytes, BytesMut};

/// The content of an opaque entry: an operation in a session, so that it executes once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op<C = Bytes> {
    /// Opens a session that may have up to `window` commands outstanding. The session's id is the index of the entry.
    Open {
        /// How many commands may be outstanding, at most [`SESSION_WINDOW_MAX`].
        window: u32,
        /// Whether the session's commands execute in the order of their numbers: number n only when every number from
        /// the lowest outstanding one to n - 1 has executed. A command that comes early is [`Outcome::OutOfOrder`].
        ordered: bool,
    },
    /// Executes a command once, however often it is retried.
    Execute {
        /// The session in which the command is numbered.
        session: SessionId,
        /// The command's number in the session, from 1. A number seen before gets the stored first answer.
        seq: u64,
        /// The lowest number whose answer the client still waits for: stored answers to lower numbers are discarded.
        first_outstanding: u64,
        /// The command for the state machine.
        command: C,
    },
    /// Ends a session, and discards its stored answers.
    Close {
        /// The session to end. A session that has expired already is no error.
        session: SessionId,
    },
    /// No operation: the entry only carries the cluster time. The leader appends it, to expire keys and sessions while
    /// no request arrives. No client may send it.
    Tick,
}

// The kinds of an encoded operation: its first byte.
const KIND_OPEN: u8 = 1;
const KIND_EXECUTE: u8 = 2;
const KIND_CLOSE: u8 = 3;
const KIND_TICK: u8 = 4;
/// Opens an ordered session. This is a separate kind, so that logs written before ordered sessions existed are still
/// readable.
const KIND_OPEN_ORDERED: u8 = 5;

impl Op {
    /// Encodes the operation: kind (1 byte), then the fields in order, a command last and without a length.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(match self {
            Op::Execute { command, .. } => 25 + command.len(),
            Op::Open { .. } | Op::Close { .. } | Op::Tick => 9,
        });
        match self {
            Op::Open { window, ordered } => {
                out.put_u8(if *ordered { KIND_OPEN_ORDERED } else { KIND_OPEN });
                out.put_u32_le(*window);
            }
            Op::Execute { session, seq, first_outstanding, command } => {
                out.put_u8(KIND_EXECUTE);
                out.put_u64_le(session.0);
                out.put_u64_le(*seq);
                out.put_u64_le(*first_outstanding);
                out.put_slice(command);
            }
            Op::Close { session } => {
                out.put_u8(KIND_CLOSE);
                out.put_u64_le(session.0);
            }
            Op::Tick => out.put_u8(KIND_TICK),
        }
        out.freeze()
    }

    /// Decodes an operation; a command is a slice of `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Op, Malformed> {
        Ok(match Op::read(&bytes)? {
            Op::Open { window, ordered } => Op::Open { window, ordered },
            Op::Execute { session, seq, first_outstanding, command } => {
                Op::Execute { session, seq, first_outstanding, command: bytes.slice_ref(command) }
            }
            Op::Close { session } => Op::Close { session },
            Op::Tick => Op::Tick,
        })
    }
}

impl<'a> Op<&'a [u8]> {
    /// Decodes an operation from borrowed bytes: no reference count changes.
    pub fn read(mut bytes: &'a [u8]) -> Result<Op<&'a [u8]>, Malformed> {
        let op = Op::parse(&mut bytes).map_err(|_| Malformed("ends too early"))?;
        match op {
            None => Err(Malformed("unknown kind of operation")),
            Some(Op::Open { .. } | Op::Close { .. } | Op::Tick) if !bytes.is_empty() => {
                Err(Malformed("bytes after the end of the operation"))
            }
            Some(Op::Open { window, .. }) if window == 0 || window > SESSION_WINDOW_MAX => {
                Err(Malformed("a session's window is 1 to 1024"))
            }
            Some(Op::Execute { seq: 0, .. }) => Err(Malformed("a session's sequence numbers begin at 1")),
            Some(op) => Ok(op),
        }
    }

    fn parse(bytes: &mut &'a [u8]) -> std::io::Result<Option<Op<&'a [u8]>>> {
        Ok(match bytes.read_u8()? {
            kind @ (KIND_OPEN | KIND_OPEN_ORDERED) => {
                Some(Op::Open { window: bytes.read_u32::<LittleEndian>()?, ordered: kind == KIND_OPEN_ORDERED })
            }
            KIND_EXECUTE => Some(Op::Execute {
                session: SessionId(bytes.read_u64::<LittleEndian>()?),
                seq: bytes.read_u64::<LittleEndian>()?,
                first_outstanding: bytes.read_u64::<LittleEndian>()?,
                command: bytes,
            }),
            KIND_CLOSE => Some(Op::Close { session: SessionId(bytes.read_u64::<LittleEndian>()?) }),
            KIND_TICK => Some(Op::Tick),
            _ => None,
        })
    }
}

/// The result of applying an operation, the same on every node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The entry opened a session.
    Opened {
        /// The id of the session: the index of the entry that opened it.
        session: SessionId,
    },
    /// The command was executed, now or when its number was first seen.
    Executed {
        /// The state machine's answer to the first execution.
        answer: Bytes,
        /// Whether the command had been executed before, so that `answer` is the stored one.
        duplicate: bool,
    },
    /// The session is closed, by this entry or before.
    Closed,
    /// The session is unknown: it expired, was closed, or never existed. Nothing was executed; an earlier attempt under
    /// this number may have been.
    SessionExpired,
    /// The number is below the lowest that the client waits for, so its answer was discarded. Nothing was executed.
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
        let op_with_zero_seq =
            Op::Execute { session: SessionId(3), seq: 0, first_outstanding: 0, command: Bytes::new() };
        assert!(Op::decode(op_with_zero_seq.encode()).is_err());
    }
}
