//! Byte streams that may be encrypted, transparently to their readers and writers.
//!
//! [`Keys`] are read at the start, and again whenever they are replaced; [`Stream`] is a socket, or a socket with TLS
//! on it. Nodes present certificates of one authority to each other; clients check the node's certificate, and need
//! none of their own. Without the feature `tls` there are no keys, and every stream is plain.

#[cfg(feature = "tls")]
mod expiry;
pub mod keys;
pub mod stream;

pub use keys::{Files, Keys, Validity};
pub use stream::Stream;
