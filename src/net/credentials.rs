//! Keys and the password, and the files that they are read from again while the node runs.

use super::password::Password;
use crate::secure::{Files, Keys};
use std::path::PathBuf;

/// What the connections of a node are opened with. Connections that are open keep what they began with.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Certificates and their keys.
    pub keys: Option<Keys>,
    /// What clients of the gateways have to say.
    pub password: Option<Password>,
}

/// The files that credentials are read from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CredentialFiles {
    /// PEM files; nothing where nothing is encrypted.
    pub keys: Option<Files>,
    /// The file that holds the password; nothing where there is none.
    pub password: Option<PathBuf>,
}

impl CredentialFiles {
    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.keys.is_none() && self.password.is_none()
    }

    /// Reads all of them.
    ///
    /// # Errors
    ///
    /// Which file is of no use, and why. Nothing is changed then.
    pub fn read(&self) -> Result<Credentials, String> {
        let keys = self.keys.as_ref().map(Keys::read).transpose().map_err(|error| error.to_string())?;
        let password = self.password.as_deref().map(Password::read).transpose()?;
        Ok(Credentials { keys, password })
    }
}
