//! The TLS certificates of a process, read from PEM files.

#[cfg(feature = "tls")]
use std::io;
use std::path::PathBuf;

/// The paths of the PEM files with the certificates and the private key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyFiles {
    /// This process's certificate chain and its private key. A client may have none.
    pub certificate_and_key: Option<(PathBuf, PathBuf)>,
    /// The certificates of the trusted authorities.
    pub authority: PathBuf,
}

/// A certificate or key file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct UnusableKeyFile {
    /// The path of the file, as it was configured.
    pub file: String,
    /// Why the file cannot be used: the error text of the file system, the PEM parser or the TLS library.
    pub reason: String,
}

/// The times at which certificates expire, in seconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CertificateExpiry {
    /// The earliest expiry in this process's own certificate chain. `None` without a chain, or if no expiry can be
    /// read.
    pub own_expires_at: Option<u64>,
    /// The latest expiry of the trusted authorities' certificates. `None` if no expiry can be read.
    pub authority_expires_at: Option<u64>,
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

    /// The TLS configuration of a process: its own certificate chain, and the authorities that it trusts.
    #[derive(Clone, Debug)]
    pub struct Keys {
        client_config: Arc<ClientConfig>,
        server_config: Option<Arc<ServerConfig>>,
        expiry: CertificateExpiry,
    }

    /// Returns a function that turns a reason into the error for a file.
    fn key_file_error(file: &Path) -> impl Fn(String) -> UnusableKeyFile + '_ {
        |reason| UnusableKeyFile { file: file.display().to_string(), reason }
    }

    fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, UnusableKeyFile> {
        let certificates = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match certificates {
            Ok(certificates) if certificates.is_empty() => {
                Err(key_file_error(file)("the file contains no certificate".to_owned()))
            }
            certificates => certificates.map_err(|error| key_file_error(file)(error.to_string())),
        }
    }

    fn expiry_times(certificates: &[CertificateDer]) -> impl Iterator<Item = u64> {
        certificates.iter().filter_map(|certificate| valid_until(certificate))
    }

    impl Keys {
        /// Reads the certificates and the private key, and checks that they belong together.
        ///
        /// # Errors
        ///
        /// The first file that cannot be used, and why.
        pub fn read(files: &KeyFiles) -> Result<Keys, UnusableKeyFile> {
            let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
            let mut roots = RootCertStore::empty();
            let authority_certificates = read_certificates(&files.authority)?;
            let mut expiry = CertificateExpiry {
                authority_expires_at: expiry_times(&authority_certificates).max(),
                own_expires_at: None,
            };
            for certificate in authority_certificates {
                roots.add(certificate).map_err(|error| key_file_error(&files.authority)(error.to_string()))?;
            }
            let roots = Arc::new(roots);
            let chain_and_key = files.certificate_and_key.as_ref().map(|(certificate, key)| {
                let chain = read_certificates(certificate)?;
                let private_key =
                    PrivateKeyDer::from_pem_file(key).map_err(|error| key_file_error(key)(error.to_string()))?;
                Ok((chain, private_key, key_file_error(certificate)))
            });
            let chain_and_key = chain_and_key.transpose()?;
            expiry.own_expires_at = chain_and_key.as_ref().and_then(|(chain, ..)| expiry_times(chain).min());
            let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
            let builder = builder.map_err(|error| key_file_error(&files.authority)(error.to_string()))?;
            let builder = builder.with_root_certificates(roots.clone());
            let client_config = match &chain_and_key {
                None => builder.with_no_client_auth(),
                Some((chain, private_key, to_error)) => builder
                    .with_client_auth_cert(chain.clone(), private_key.clone_key())
                    .map_err(|error| to_error(error.to_string()))?,
            };
            let server_config = chain_and_key.map(|(chain, private_key, to_error)| {
                let config_error = |error: &dyn std::error::Error| to_error(error.to_string());
                // A certificate is verified if it is presented. Without one, the other side is accepted only as a
                // client.
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| config_error(&error))?;
                ServerConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .map_err(|error| config_error(&error))?
                    .with_client_cert_verifier(verifier)
                    .with_single_cert(chain, private_key)
                    .map_err(|error| config_error(&error))
            });
            Ok(Keys {
                client_config: Arc::new(client_config),
                server_config: server_config.transpose()?.map(Arc::new),
                expiry,
            })
        }

        /// When the own certificate chain and the authorities' certificates expire.
        pub fn expiry(&self) -> CertificateExpiry {
            self.expiry
        }

        /// Creates the server side of a TLS session. Without an own certificate that is an error.
        pub(in crate::secure) fn server_session(&self) -> io::Result<ServerConnection> {
            let server_config = self
                .server_config
                .clone()
                .ok_or_else(|| io::Error::other("this process has no certificate to present"))?;
            ServerConnection::new(server_config).map_err(io::Error::other)
        }

        /// Creates the client side of a TLS session with `endpoint`, as `HOST:PORT`. The server's certificate must name
        /// that host.
        pub(in crate::secure) fn client_session(&self, endpoint: &str) -> io::Result<ClientConnection> {
            let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            ClientConnection::new(self.client_config.clone(), name).map_err(io::Error::other)
        }
    }
}

#[cfg(feature = "tls")]
pub use with_tls::Keys;

/// Without the feature `tls` this type has no values, so TLS cannot be configured.
#[cfg(not(feature = "tls"))]
#[derive(Clone, Copy, Debug)]
pub enum Keys {}

#[cfg(not(feature = "tls"))]
impl Keys {
    /// Always fails: this program was built without TLS.
    pub fn read(files: &KeyFiles) -> Result<Keys, UnusableKeyFile> {
        let reason = "this program was built without TLS (the feature `tls`)".to_owned();
        Err(UnusableKeyFile { file: files.authority.display().to_string(), reason })
    }

    /// Cannot be called, since the type has no values.
    pub fn expiry(&self) -> CertificateExpiry {
        match *self {}
    }
}
