// SPDX-License-Identifier: Apache-2.0
//! The name of an image's content.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// Version of the bytes that are hashed; part of every digest.
const DOMAIN: &[u8] = b"trine erofs image v2\0";

/// Names the content of an image: the SHA-256 of a canonical description of it.
///
/// It is not the SHA-256 of the file: data is hashed once, per file, while it is copied; the digest
/// is taken over those hashes, in order, and all the metadata as it is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageDigest([u8; 32]);

impl ImageDigest {
    /// Returns the 64 lower-case hexadecimal digits, without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// Reads what [`ImageDigest::hex`] returned.
    #[must_use]
    pub fn from_hex(digits: &str) -> Option<Self> {
        parse_hex(digits).map(Self)
    }

    /// Returns the image's UUID: the first bytes, marked as version 8 (custom) of RFC 9562.
    pub(super) fn uuid(&self) -> [u8; 16] {
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&self.0[..16]);
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        uuid
    }
}

impl Display for ImageDigest {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl FromStr for ImageDigest {
    type Err = ();

    /// Reads `sha256:` and 64 lower-case hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix("sha256:").ok_or(())?;
        Self::from_hex(digits).ok_or(())
    }
}

/// Builds an [`ImageDigest`].
pub(super) struct DigestBuilder(Sha256);

impl DigestBuilder {
    pub(super) fn new() -> Self {
        Self(Sha256::new_with_prefix(DOMAIN))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> ImageDigest {
        ImageDigest(self.0.finalize().into())
    }
}

/// Returns `bytes` as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// Reads 64 lower-case hexadecimal digits.
pub(crate) fn parse_hex(digits: &str) -> Option<[u8; 32]> {
    let digits = digits.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_text_round_trips_and_rejects_other_forms() {
        let digest = DigestBuilder::new().finish();
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for bad in ["", "sha256:", "sha512:00", &digest.hex(), &digest.to_string().to_uppercase()] {
            assert!(bad.parse::<ImageDigest>().is_err(), "{bad}");
        }
    }
}
