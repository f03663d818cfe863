//! Replaces the TLS keys and the password while the node runs.

use super::Net;
use crate::net::credentials::Credentials;
use crate::secure::{Keys, Validity};

impl Net {
    /// Sets the credentials of connections opened from now on. Whether TLS is used and whether a password is required
    /// is fixed at startup; a credential missing in `fresh` stays as it is.
    pub fn set_credentials(&mut self, fresh: Credentials) {
        let Credentials { keys, password } = fresh;
        if self.options.keys.is_some() && keys.is_some() {
            self.options.keys = keys;
        }
        if self.gateways.redis.options.password.is_some() && password.is_some() {
            self.gateways.redis.options.password.clone_from(&password);
        }
        if self.gateways.http.password.is_some() && password.is_some() {
            self.gateways.http.password = password;
        }
    }

    /// When the certificates in use expire.
    pub fn validity(&self) -> Validity {
        self.options.keys.as_ref().map(Keys::validity).unwrap_or_default()
    }
}
