//! The error of a server that did not start or had to stop, and its exit code.

use crate::config::ConfigError;
use crate::driver::reactor::ReactorError;
use crate::wal::Fault;
use std::io::{self, ErrorKind};

/// The reason why a server did not start or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The configuration is invalid.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The data directory cannot be used, or can no longer be used.
    #[error("{0}")]
    Fault(#[from] Fault),
    /// A listener cannot be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address that the listener cannot use.
        address: String,
        /// The command line option that sets the address.
        option: &'static str,
        /// The error with which the system refused to resolve the address or to listen.
        source: io::Error,
    },
    /// The system refused to provide a thread, a poll or a signal handler.
    #[error("{0}")]
    System(#[from] io::Error),
    /// A thread of the server ended although the server was not stopped: a bug.
    #[error("{0}")]
    Reactor(ReactorError),
}

impl ServerError {
    /// The process exit code: 5 corrupt data, 70 a bug, 74 I/O, 75 a temporary failure, 78 configuration.
    pub fn exit_code(&self) -> i32 {
        match self {
            ServerError::Config(_) => 78,
            ServerError::Fault(fault) => fault.exit_code(),
            // A port in use may soon be free, and a missing address may soon be present.
            ServerError::Listen { source, .. } => match source.kind() {
                ErrorKind::PermissionDenied | ErrorKind::InvalidInput => 78,
                _ => 75,
            },
            ServerError::System(_) => 74,
            ServerError::Reactor(_) => 70,
        }
    }
}

impl From<ReactorError> for ServerError {
    fn from(error: ReactorError) -> ServerError {
        match error {
            ReactorError::NodeFault(fault) => ServerError::Fault(fault),
            ReactorError::Poll(source) => ServerError::System(source),
            other => ServerError::Reactor(other),
        }
    }
}
