//! How much of the memory shared by all clients is used, as a single connection needs to know it.

/// A connection that holds at most this many bytes never has to wait because of others.
pub const FEW_BYTES: usize = 16 << 10;

/// How much is used of the memory that all clients together may hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Pressure {
    /// At most half of it.
    #[default]
    None,
    /// More than half of it.
    High,
    /// More than all of it.
    Over,
}
