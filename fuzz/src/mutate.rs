// SPDX-License-Identifier: Apache-2.0
//! Mutations that depend on a seed alone.

/// Longest input.
const LONGEST: usize = 4096;
/// Numbers at which things change.
const EDGES: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    4095,
    4096,
    4097,
    0x7fff,
    0xffff,
    0x1_0000,
    0x4000_0000,
    0x5000_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Makes inputs of other inputs.
#[derive(Clone, Debug)]
pub struct Mutator(u64);

impl Mutator {
    /// One with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// One of the inputs, changed in one to eight places.
    pub fn input(&mut self, corpus: &[&[u8]]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].to_vec();
        for _ in 0..=self.below(8) {
            self.change(&mut bytes, corpus);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[&[u8]]) {
        let at = self.below(bytes.len() + 1);
        let length = self.below(bytes.len() - at + 1).min(64);
        match self.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = self.next() as u8,
            2 => {
                let value = EDGES[self.below(EDGES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][self.below(4)];
                for (byte, new) in bytes.iter_mut().skip(at).zip(&value[..width]) {
                    *byte = *new;
                }
            }
            3 => drop(bytes.drain(at..at + length)),
            4 => {
                let copy = bytes[at..at + length].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            5 => {
                let other = corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                let piece = &other[from..(from + 1 + self.below(64)).min(other.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            6 => {
                let count = self.below(16);
                let new: Vec<u8> = (0..count).map(|_| self.next() as u8).collect();
                bytes.splice(at..at, new);
            }
            7 => bytes.truncate(at),
            _ => {
                let byte = self.next() as u8;
                bytes[at..at + length].fill(byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_depend_on_the_seed_alone_and_differ() {
        let corpus: &[&[u8]] = &[b"one and more", b""];
        let make = |seed| {
            let mut mutator = Mutator::new(seed);
            (0..1000).map(|_| mutator.input(corpus)).collect::<Vec<_>>()
        };
        assert_eq!(make(7), make(7));
        assert_ne!(make(7), make(8));
        let mut all = make(7);
        all.sort();
        all.dedup();
        assert!(all.len() > 300, "{} different inputs", all.len());
        assert!(all.iter().all(|input| input.len() <= LONGEST));
    }
}
