//! The level of a node's log, and requests to read or change it while the node runs.

use std::fmt;
use std::str::FromStr;

/// How much a node logs: lines of this level and of the less verbose levels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogLevel {
    /// No lines at all.
    Off,
    /// Failures that stop the node or one of its functions.
    Error,
    /// Errors, and conditions that an operator should change.
    Warn,
    /// Warnings, and events that an operator may want to know of, such as a new leader. The default of a node.
    Info,
    /// Lines of level `Info`, and details that explain them.
    Debug,
    /// Lines of all levels.
    Trace,
}

/// A request to read or change a node's log level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogLevelRequest {
    /// Reads the level in force; nothing changes.
    Read,
    /// Resets the level to the one at the start of the process.
    Reset,
    /// Sets the level until it is changed again, or the process ends.
    Set(LogLevel),
}

/// The log level in force on a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogLevelInForce {
    /// The level; if different modules have different levels, the most verbose one.
    pub level: LogLevel,
    /// Whether the level differs from the one at the start of the process because of a request.
    pub changed: bool,
}

impl LogLevel {
    /// All levels, from the least verbose to the most.
    pub const ALL: [LogLevel; 6] =
        [LogLevel::Off, LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            LogLevel::Off => "off",
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        })
    }
}

impl FromStr for LogLevelRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<LogLevelRequest, String> {
        if text == "reset" {
            return Ok(LogLevelRequest::Reset);
        }
        let level = LogLevel::ALL.into_iter().find(|level| level.to_string() == text);
        level.map(LogLevelRequest::Set).ok_or_else(|| "off, error, warn, info, debug, trace or reset".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_level_name_roundtrips() {
        for level in LogLevel::ALL {
            assert_eq!(level.to_string().parse(), Ok(LogLevelRequest::Set(level)));
        }
        assert_eq!("reset".parse(), Ok(LogLevelRequest::Reset));
        assert!("loud".parse::<LogLevelRequest>().is_err());
    }
}
