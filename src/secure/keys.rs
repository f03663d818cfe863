//! The certificates of a process, and the authority that it trusts.

#[cfg(feature = "tls")]
use std::io;
use std::path::PathBuf;

/// The key files, in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// A certificate chain and its private key. A client may have none.
    pub own: Option<(PathBuf, PathBuf)>,
    /// The certificates of the trusted authorities.
    pub authority: PathBuf,
}

/// Why key files cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {what}")]
pub struct UnusableKeyFile {
    /// The path of the file that cannot be used.
    pub file: String,
    /// The reason.
    pub what: String,
}

/// When certificates expire, in seconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Validity {
    /// The earliest expiry in this process's own chain. `None` without a certificate, or if none states its expiry.
    pub own: Option<u64>,
    /// The latest expiry of the trusted authorities' certificates.
    pub authority: Option<u64>,
}

#[cfg(feature = "tls")]
mod with_tls {
    use super::*;
    use crate::secure::expiry::valid_until;
    use rustls::crypto::{CryptoProvider, ring};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
    use std::path::Path;
    use std::sync::Arc;

    /// The TLS configuration of a process: its own certificate, and the authority that it trusts.
    #[derive(Clone, Debug)]
    pub struct Keys {
        client: Arc<ClientConfig>,
        server: Option<Arc<ServerConfig>>,
        validity: Validity,
    }

    fn unusable(file: &Path) -> impl Fn(String) -> UnusableKeyFile + '_ {
        |what| UnusableKeyFile { file: file.display().to_string(), what }
    }

    fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, UnusableKeyFile> {
        let all = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match all {
            Ok(all) if all.is_empty() => Err(unusable(file)("the file contains no certificate".to_owned())),
            all => all.map_err(|error| unusable(file)(error.to_string())),
        }
    }

    fn ends(certificates: &[CertificateDer]) -> impl Iterator<Item = u64> {
        certificates.iter().filter_map(|certificate| valid_until(certificate))
    }

    impl Keys {
        /// Reads the key files, and checks that they belong together.
        pub fn read(files: &Files) -> Result<Keys, UnusableKeyFile> {
            let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
            let mut roots = RootCertStore::empty();
            let authority = certificates(&files.authority)?;
            let mut validity = Validity { authority: ends(&authority).max(), own: None };
            for certificate in authority {
                roots.add(certificate).map_err(|error| unusable(&files.authority)(error.to_string()))?;
            }
            let roots = Arc::new(roots);
            let own = files.own.as_ref().map(|(certificate, key)| {
                let chain = certificates(certificate)?;
                let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key)(error.to_string()))?;
                Ok((chain, secret, unusable(certificate)))
            });
            let own = own.transpose()?;
            validity.own = own.as_ref().and_then(|(chain, ..)| ends(chain).min());
            let begun = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
            let begun = begun.map_err(|error| unusable(&files.authority)(error.to_string()))?;
            let begun = begun.with_root_certificates(roots.clone());
            let client = match &own {
                None => begun.with_no_client_auth(),
                Some((chain, secret, wrong)) => begun
                    .with_client_auth_cert(chain.clone(), secret.clone_key())
                    .map_err(|error| wrong(error.to_string()))?,
            };
            let server = own.map(|(chain, secret, wrong)| {
                let failed = |error: &dyn std::error::Error| wrong(error.to_string());
                // A presented certificate is verified; a peer without one may be a client, and no more than that.
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| failed(&error))?;
                ServerConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .map_err(|error| failed(&error))?
                    .with_client_cert_verifier(verifier)
                    .with_single_cert(chain, secret)
                    .map_err(|error| failed(&error))
            });
            Ok(Keys { client: Arc::new(client), server: server.transpose()?.map(Arc::new), validity })
        }

        /// When the certificates expire.
        pub fn validity(&self) -> Validity {
            self.validity
        }

        /// Creates the TLS session of a server.
        pub(in crate::secure) fn server_session(&self) -> io::Result<ServerConnection> {
            let server =
                self.server.clone().ok_or_else(|| io::Error::other("this process has no certificate to present"))?;
            ServerConnection::new(server).map_err(io::Error::other)
        }

        /// Creates the TLS session of a client of `host:port`. The certificate must name that host.
        pub(in crate::secure) fn client_session(&self, endpoint: &str) -> io::Result<ClientConnection> {
            let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            ClientConnection::new(self.client.clone(), name).map_err(io::Error::other)
        }
    }
}

#[cfg(feature = "tls")]
pub use with_tls::Keys;

/// Without the feature `tls` this type has no values.
#[cfg(not(feature = "tls"))]
#[derive(Clone, Copy, Debug)]
pub enum Keys {}

#[cfg(not(feature = "tls"))]
impl Keys {
    /// Fails: this program was built without TLS.
    pub fn read(files: &Files) -> Result<Keys, UnusableKeyFile> {
        let what = "this program was built without TLS (the feature `tls`)".to_owned();
        Err(UnusableKeyFile { file: files.authority.display().to_string(), what })
    }

    /// Cannot be called: there is no value.
    pub fn validity(&self) -> Validity {
        match *self {}
    }
}
