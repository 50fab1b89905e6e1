// SPDX-License-Identifier: Apache-2.0
//! Bounds on what an archive may unpack to, and the reader that enforces them.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use super::ArchiveError;
use crate::erofs::hex;

/// Below this many unpacked bytes a high compression ratio is no danger.
const RATIO_FREE_BYTES: u64 = 64 << 20;

/// What an archive may contain.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The most bytes that all layers together may unpack to.
    pub max_unpacked_bytes: u64,
    /// The most entries that all layers together may have.
    pub max_entries: u64,
    /// How many times its compressed size a layer may unpack to (beyond 64 MiB).
    pub max_ratio: u64,
    /// The longest path, in bytes.
    pub max_path_bytes: usize,
    /// The most names in a path.
    pub max_depth: usize,
    /// The largest manifest, index or configuration, in bytes.
    pub max_document_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_unpacked_bytes: 16 << 30,
            max_entries: 2_000_000,
            max_ratio: 500,
            max_path_bytes: 4095,
            max_depth: 256,
            max_document_bytes: 8 << 20,
        }
    }
}

/// Hashes and counts what is read through it, and stops at a limit.
pub(super) struct Meter<R> {
    input: R,
    hash: Sha256,
    bytes: u64,
    /// The most bytes that may come, and the error beyond them.
    bound: u64,
    limit: u64,
    unit: &'static str,
}

impl<R: Read> Meter<R> {
    /// Reads from `input`, which unpacks `packed_bytes`, with `left_bytes` of the total allowance
    /// left.
    pub(super) fn new(input: R, limits: &Limits, packed_bytes: u64, left_bytes: u64) -> Self {
        let by_ratio = packed_bytes.saturating_mul(limits.max_ratio).max(RATIO_FREE_BYTES);
        let (bound, limit, unit) = if by_ratio < left_bytes {
            (by_ratio, limits.max_ratio, "times the compressed size (decompression bomb)")
        } else {
            (left_bytes, limits.max_unpacked_bytes, "unpacked bytes")
        };
        Self { input, hash: Sha256::new(), bytes: 0, bound, limit, unit }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the digest of all that was read.
    pub(super) fn digest(self) -> String {
        format!("sha256:{}", hex(&self.hash.finalize()))
    }
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.bytes += count as u64;
        if self.bytes > self.bound {
            let error = ArchiveError::TooLarge { limit: self.limit, unit: self.unit };
            return Err(io::Error::other(error));
        }
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}
