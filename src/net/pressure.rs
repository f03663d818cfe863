//! How full the memory is that all clients share: what a connection has to know of the others.

/// A connection that holds no more than this never waits for others.
pub const FEW_BYTES: usize = 16 << 10;

/// How much is used of the memory that all clients together may hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Pressure {
    /// At most half of it.
    #[default]
    None,
    /// More than half of it.
    High,
    /// All of it.
    Over,
}
