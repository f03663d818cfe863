//! Why a server did not start or had to stop.

use crate::config::ConfigError;
use crate::driver::reactor::Broken;
use crate::wal::Fault;
use std::io::{self, ErrorKind};

/// The reason why a server did not start or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The configuration is invalid.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The data directory cannot be used, or no longer.
    #[error("{0}")]
    Fault(#[from] Fault),
    /// A listener cannot be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address that the listener cannot use.
        address: String,
        /// The option that gives the address.
        option: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The system provides no thread, poll or signal.
    #[error("{0}")]
    System(#[from] io::Error),
    /// A required part of the server is gone: a bug.
    #[error("{0}")]
    Broken(Broken),
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
            ServerError::Broken(_) => 70,
        }
    }
}

impl From<Broken> for ServerError {
    fn from(broken: Broken) -> ServerError {
        match broken {
            Broken::Fault(fault) => ServerError::Fault(fault),
            Broken::Poll(error) => ServerError::System(error),
            other => ServerError::Broken(other),
        }
    }
}
