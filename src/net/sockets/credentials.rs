//! Keys and the password, replaced while the node runs.

use super::Net;
use crate::net::credentials::Credentials;
use crate::secure::{Keys, Validity};

impl Net {
    /// Connections that are opened from now on use these. Whether anything is encrypted, and whether a password is
    /// asked for, was decided at the start: what is missing here stays as it is.
    pub fn set_credentials(&mut self, fresh: Credentials) {
        let Credentials { keys, password } = fresh;
        if self.options.keys.is_some() && keys.is_some() {
            self.options.keys = keys;
        }
        if self.redis.options.password.is_some() && password.is_some() {
            self.redis.options.password.clone_from(&password);
        }
        if self.http.password.is_some() && password.is_some() {
            self.http.password = password;
        }
    }

    /// Until when the certificates in use are valid.
    pub fn validity(&self) -> Validity {
        self.options.keys.as_ref().map(Keys::validity).unwrap_or_default()
    }
}
