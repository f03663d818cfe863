//! A digest of a state machine's state. Equal states have equal digests on all machines and in all builds.

use std::ops::{AddAssign, SubAssign};

/// The wrapping sum of the hashes of the parts of a state. The order of the parts does not matter. A part's hash is
/// added when the part is inserted and subtracted when it is removed, so an update costs the same however large the
/// state is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest(u64);

/// Odd numbers without a pattern, mixed into every hash. Nodes compare hashes, so these numbers must never change.
const HASH_SALTS: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93, 0xa076_1d64_78bd_642f];

impl Digest {
    /// The digest as one number. It also depends on `part_count`, the number of parts of the state.
    pub fn finish(self, part_count: u64) -> u64 {
        fold_product(self.0 ^ HASH_SALTS[0], part_count ^ HASH_SALTS[1])
    }
}

impl AddAssign<u64> for Digest {
    fn add_assign(&mut self, part_hash: u64) {
        self.0 = self.0.wrapping_add(part_hash);
    }
}

impl SubAssign<u64> for Digest {
    fn sub_assign(&mut self, part_hash: u64) {
        self.0 = self.0.wrapping_sub(part_hash);
    }
}

/// A fast hash of bytes: sixteen at a time, multiplied and folded. Not collision-resistant against an adversary.
pub fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut state = seed ^ fold_product(bytes.len() as u64 ^ HASH_SALTS[0], HASH_SALTS[1]);
    let (blocks, tail) = bytes.as_chunks::<16>();
    for block in blocks {
        state = mix_block(state, block);
    }
    if !tail.is_empty() {
        let mut block = [0; 16];
        block[..tail.len()].copy_from_slice(tail);
        state = mix_block(state, &block);
    }
    fold_product(state ^ HASH_SALTS[1], HASH_SALTS[2])
}

/// A hash of numbers that depends on their order.
pub fn hash_numbers<const N: usize>(numbers: [u64; N]) -> u64 {
    numbers.iter().fold(HASH_SALTS[2], |state, number| {
        state.rotate_left(23) ^ fold_product(number ^ HASH_SALTS[0], state ^ HASH_SALTS[1])
    })
}

/// Mixes one block into the state of a hash.
fn mix_block(state: u64, block: &[u8; 16]) -> u64 {
    let halves = u128::from_le_bytes(*block);
    // The xor with the rotated state keeps that state in the result even if the product is zero.
    state.rotate_left(23) ^ fold_product(halves as u64 ^ HASH_SALTS[1], (halves >> 64) as u64 ^ state)
}

/// The two halves of the 128-bit product of `a` and `b`, combined by xor.
fn fold_product(a: u64, b: u64) -> u64 {
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
