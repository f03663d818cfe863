//! The level of the process's log, for clients that ask for it.

use crate::api::{LogLevelInForce, LogLevelRequest, Refusal, Reply};

/// Does what is asked of the level of the process's log; the level that holds then. It is called by the thread of the
/// sockets, and must not wait.
pub type LogControl = fn(LogLevelRequest) -> LogLevelInForce;

/// What a client is told: refused where the process has no such control, as where a program embeds the node.
pub fn answer(control: Option<LogControl>, request: LogLevelRequest) -> Reply {
    control.map_or(Reply::Refused(Refusal::NotOffered), |control| Reply::LogLevel(control(request)))
}
