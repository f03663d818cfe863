//! TLS keys and the password, and the files from which they are reloaded while the node runs.

use crate::gateway::password::Password;
use crate::secure::{Files, Keys};
use std::path::PathBuf;

/// Credentials for new connections. Open connections keep those that they began with.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Certificates and their keys.
    pub keys: Option<Keys>,
    /// The password that clients of the gateways have to present.
    pub password: Option<Password>,
}

/// The files that contain the credentials.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CredentialFiles {
    /// PEM files; `None` without TLS.
    pub keys: Option<Files>,
    /// The password file; `None` without a password.
    pub password: Option<PathBuf>,
}

impl CredentialFiles {
    /// Whether there are no files.
    pub fn is_empty(&self) -> bool {
        self.keys.is_none() && self.password.is_none()
    }

    /// Reads all files.
    ///
    /// # Errors
    ///
    /// Which file is invalid, and why. In that case nothing is changed.
    pub fn read(&self) -> Result<Credentials, String> {
        let keys = self.keys.as_ref().map(Keys::read).transpose().map_err(|error| error.to_string())?;
        let password = self.password.as_deref().map(Password::read).transpose()?;
        Ok(Credentials { keys, password })
    }
}
