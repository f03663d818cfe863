//! TLS for connections: a byte stream with or without encryption, and the certificates.
//!
//! [`Keys`] are the certificates of a process, read at its start and again when the files are replaced. [`Stream`] is a
//! socket with or without TLS. Nodes present certificates of one authority to each other. Clients check the node's
//! certificate, and need none of their own. Without the feature `tls`, [`Keys`] has no values, and no stream is
//! encrypted.

#[cfg(feature = "tls")]
mod expiry;
pub mod keys;
pub mod stream;

pub use keys::{CertificateExpiry, KeyFiles, Keys};
pub use stream::Stream;
