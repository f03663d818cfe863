//! A digest of state: equal on all machines and in all builds for equal state.

use std::ops::{AddAssign, SubAssign};

/// The wrapping sum of the hashes of parts, in any order. A part's hash is added when the part is inserted and
/// subtracted when it is removed, so an update costs the same however large the state is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest(u64);

/// Odd numbers without a pattern. The digest depends on them: never change them.
const SALT: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93, 0xa076_1d64_78bd_642f];

impl Digest {
    /// The digest as one number. It also depends on the number of parts.
    pub fn finish(self, parts: u64) -> u64 {
        fold(self.0 ^ SALT[0], parts ^ SALT[1])
    }
}

impl AddAssign<u64> for Digest {
    fn add_assign(&mut self, part: u64) {
        self.0 = self.0.wrapping_add(part);
    }
}

impl SubAssign<u64> for Digest {
    fn sub_assign(&mut self, part: u64) {
        self.0 = self.0.wrapping_sub(part);
    }
}

/// A fast hash of bytes: sixteen at a time, multiplied and folded. Not collision-resistant against an adversary.
pub fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut state = seed ^ fold(bytes.len() as u64 ^ SALT[0], SALT[1]);
    let (blocks, tail) = bytes.as_chunks::<16>();
    for block in blocks {
        state = absorb(state, block);
    }
    if !tail.is_empty() {
        let mut block = [0; 16];
        block[..tail.len()].copy_from_slice(tail);
        state = absorb(state, &block);
    }
    fold(state ^ SALT[1], SALT[2])
}

/// A hash of numbers, in order.
pub fn hash_numbers<const N: usize>(numbers: [u64; N]) -> u64 {
    numbers.iter().fold(SALT[2], |state, number| state.rotate_left(23) ^ fold(number ^ SALT[0], state ^ SALT[1]))
}

fn absorb(state: u64, block: &[u8; 16]) -> u64 {
    let both = u128::from_le_bytes(*block);
    // The former state is kept by xor, whatever the block: the product may be zero.
    state.rotate_left(23) ^ fold(both as u64 ^ SALT[1], (both >> 64) as u64 ^ state)
}

/// The two halves of the 128-bit product, combined by xor.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_never_changes_between_builds() {
        // Nodes of different builds compare digests.
        assert_eq!(hash(7, b"a value longer than sixteen bytes"), 0x872c_3868_94a1_db2e);
        assert_eq!(hash_numbers([1, 2, 3]), 0xe87b_0022_d8b7_256a);
    }
}
