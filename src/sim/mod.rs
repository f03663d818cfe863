//! A simulated world around the real node: a disk that loses, a network that delays, and chance
//! that repeats.
//!
//! Nothing here has a clock, a thread or a generator of its own: time and chance are handed in, so
//! that a seed is a whole history.

pub mod disk;
