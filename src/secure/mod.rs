//! Byte streams that may be encrypted: whoever reads and writes need not know.
//!
//! [`Keys`] are read at the start, and whenever they are replaced; [`Stream`] is a socket, or a socket with TLS on it. Nodes show one another
//! certificates of one authority; clients check the node's, and need none of their own. Without the feature `tls`
//! there are no keys, and every stream is plain.

#[cfg(feature = "tls")]
mod expiry;
pub mod keys;
pub mod stream;

pub use keys::{Files, Keys, Validity};
pub use stream::Stream;
