//! TLS keys and the password, and the files from which they are reloaded while the node runs.

use crate::gateway::password::Password;
use crate::secure::{KeyFiles, Keys};
use std::path::PathBuf;

/// Credentials for new connections. An open connection keeps the credentials that it began with.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// This node's certificate and the trusted authority; `None` without TLS.
    pub keys: Option<Keys>,
    /// The password that Redis and HTTP clients have to present; `None` if clients need no password.
    pub password: Option<Password>,
}

/// The files that the credentials are read from at the start, and again on a reload.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CredentialFiles {
    /// The PEM files of the certificates; `None` without TLS.
    pub keys: Option<KeyFiles>,
    /// The password file; `None` without a password.
    pub password: Option<PathBuf>,
}

impl CredentialFiles {
    /// Whether the node has neither certificates nor a password, so that a reload has nothing to read.
    pub fn is_empty(&self) -> bool {
        self.keys.is_none() && self.password.is_none()
    }

    /// Reads the certificates and the password from their files.
    ///
    /// # Errors
    ///
    /// A text that names the first invalid file and the reason.
    pub fn read(&self) -> Result<Credentials, String> {
        let keys = self.keys.as_ref().map(Keys::read).transpose().map_err(|error| error.to_string())?;
        let password = self.password.as_deref().map(Password::read).transpose()?;
        Ok(Credentials { keys, password })
    }
}
