//! Replaces the TLS keys and the password while the node runs.

use super::Net;
use crate::net::credentials::Credentials;
use crate::secure::{CertificateExpiry, Keys};

impl Net {
    /// Sets the credentials for connections opened from now on. A credential that is missing in `new_credentials` stays
    /// as it is. Whether TLS is used and whether a password is required is fixed at startup.
    pub fn set_credentials(&mut self, new_credentials: Credentials) {
        let Credentials { keys, password } = new_credentials;
        if self.options.keys.is_some() && keys.is_some() {
            self.options.keys = keys;
        }
        if self.gateways.redis.options.password.is_some() && password.is_some() {
            self.gateways.redis.options.password.clone_from(&password);
        }
        if self.gateways.http_options.password.is_some() && password.is_some() {
            self.gateways.http_options.password = password;
        }
    }

    /// When the certificates in use expire; unknown without TLS.
    pub fn certificate_expiry(&self) -> CertificateExpiry {
        self.options.keys.as_ref().map(Keys::expiry).unwrap_or_default()
    }
}
