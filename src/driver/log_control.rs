//! Changes the process's log level at a client's request.

use crate::api::{LogLevelInForce, LogLevelRequest, Refusal, Reply};

/// Changes or reads the process's log level, and returns the level in force. It is called on the thread of the event
/// loop and must not block.
pub type LogControl = fn(LogLevelRequest) -> LogLevelInForce;

/// Answers a client's request to read or change the log level. The request is refused where the process has no log
/// control, as in a program that embeds the node.
pub fn answer_log_level_request(control: Option<LogControl>, request: LogLevelRequest) -> Reply {
    control.map_or(Reply::Refused(Refusal::NotSupported), |control| Reply::LogLevel(control(request)))
}
