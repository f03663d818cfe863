//! The encoding of log levels and of requests for a node's log level.

use crate::api::{LogLevel, LogLevelInForce, LogLevelRequest};
use crate::codec::{Malformed, Reader};
use bytes::{BufMut, BytesMut};

const LEVEL_REQUEST_READ: u8 = 0;
const LEVEL_REQUEST_RESET: u8 = 1;
/// The byte of a request to set the level `off`. The following bytes set the other levels, in the order of
/// `LogLevel::ALL`.
const LEVEL_REQUEST_SET_OFF: u8 = 2;

/// Appends a request: 0 to read, 1 to reset, or 2 plus the level's number, counted from `off`.
pub(super) fn put_level_request(out: &mut BytesMut, request: LogLevelRequest) {
    out.put_u8(match request {
        LogLevelRequest::Read => LEVEL_REQUEST_READ,
        LogLevelRequest::Reset => LEVEL_REQUEST_RESET,
        LogLevelRequest::Set(level) => LEVEL_REQUEST_SET_OFF + level as u8,
    });
}

pub(super) fn read_level_request(reader: &mut Reader) -> Result<LogLevelRequest, Malformed> {
    Ok(match reader.u8()? {
        LEVEL_REQUEST_READ => LogLevelRequest::Read,
        LEVEL_REQUEST_RESET => LogLevelRequest::Reset,
        byte => LogLevelRequest::Set(log_level_from_number(byte - LEVEL_REQUEST_SET_OFF)?),
    })
}

/// Appends the level in force: its number, counted from `off`, and whether it was changed.
pub(super) fn put_level(out: &mut BytesMut, in_force: LogLevelInForce) {
    out.put_u8(in_force.level as u8);
    out.put_u8(u8::from(in_force.changed));
}

pub(super) fn read_level(reader: &mut Reader) -> Result<LogLevelInForce, Malformed> {
    Ok(LogLevelInForce { level: log_level_from_number(reader.u8()?)?, changed: reader.bool()? })
}

fn log_level_from_number(number: u8) -> Result<LogLevel, Malformed> {
    LogLevel::ALL.get(usize::from(number)).copied().ok_or(Malformed("unknown log level"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_level_request_round_trips_and_unknown_is_rejected() {
        let set_requests = LogLevel::ALL.map(LogLevelRequest::Set);
        for request in set_requests.into_iter().chain([LogLevelRequest::Read, LogLevelRequest::Reset]) {
            let mut out = BytesMut::new();
            put_level_request(&mut out, request);
            assert_eq!(read_level_request(&mut Reader::new(out.freeze())), Ok(request));
        }
        for byte in LEVEL_REQUEST_SET_OFF + LogLevel::ALL.len() as u8..=u8::MAX {
            assert!(read_level_request(&mut Reader::new(vec![byte].into())).is_err());
        }
    }
}
