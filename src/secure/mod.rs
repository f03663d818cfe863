//! Byte streams that may be encrypted: whoever reads and writes need not know.
//!
//! [`Keys`] are read once, at the start; [`Stream`] is a socket, or a socket with TLS on it. Nodes show one another
//! certificates of one authority; clients check the node's, and need none of their own. Without the feature `tls`
//! there are no keys, and every stream is plain.

pub mod keys;
pub mod stream;

pub use keys::{Files, Keys};
pub use stream::Stream;
