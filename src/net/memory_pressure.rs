//! The level of memory use by all clients, which limits what a single connection may hold.

/// The memory in bytes that every connection may hold, whatever other connections hold.
pub const GUARANTEED_CONN_BYTES: usize = 16 << 10;

/// How much of the memory for all clients is used. The bound is `clients_memory_bytes_max` of the options.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum MemoryPressure {
    /// At most half of the bound.
    #[default]
    None,
    /// More than half of the bound.
    High,
    /// More than the bound.
    OverBound,
}
