//! The encoding of log levels.

use crate::api::{LogLevel, LogLevelInForce, LogLevelRequest};
use crate::codec::{Malformed, Reader};
use bytes::{BufMut, BytesMut};

const READ: u8 = 0;
const RESET: u8 = 1;
/// Sets the level `off`; each further level has the next number.
const SET: u8 = 2;

/// Appends a request: 0 to read, 1 to reset, or 2 plus the level's number, counted from `off`.
pub(super) fn put_level_request(out: &mut BytesMut, request: LogLevelRequest) {
    out.put_u8(match request {
        LogLevelRequest::Read => READ,
        LogLevelRequest::Reset => RESET,
        LogLevelRequest::Set(level) => SET + level as u8,
    });
}

pub(super) fn read_level_request(reader: &mut Reader) -> Result<LogLevelRequest, Malformed> {
    Ok(match reader.u8()? {
        READ => LogLevelRequest::Read,
        RESET => LogLevelRequest::Reset,
        set => LogLevelRequest::Set(level(set - SET)?),
    })
}

/// Appends the level in force: its number, counted from `off`, and whether it was changed.
pub(super) fn put_level(out: &mut BytesMut, in_force: LogLevelInForce) {
    out.put_u8(in_force.level as u8);
    out.put_u8(u8::from(in_force.changed));
}

pub(super) fn read_level(reader: &mut Reader) -> Result<LogLevelInForce, Malformed> {
    Ok(LogLevelInForce { level: level(reader.u8()?)?, changed: reader.bool()? })
}

fn level(number: u8) -> Result<LogLevel, Malformed> {
    LogLevel::ALL.get(usize::from(number)).copied().ok_or(Malformed("unknown log level"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_level_request_round_trips_and_unknown_is_rejected() {
        let sets = LogLevel::ALL.map(LogLevelRequest::Set);
        for request in sets.into_iter().chain([LogLevelRequest::Read, LogLevelRequest::Reset]) {
            let mut out = BytesMut::new();
            put_level_request(&mut out, request);
            assert_eq!(read_level_request(&mut Reader::new(out.freeze())), Ok(request));
        }
        for byte in SET + LogLevel::ALL.len() as u8..=u8::MAX {
            assert!(read_level_request(&mut Reader::new(vec![byte].into())).is_err());
        }
    }
}
