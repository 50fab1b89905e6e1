// SPDX-License-Identifier: Apache-2.0
//! The compressions that layers and archives come in.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// zstd's window, as a power of two, beyond which a frame is refused (the tool's own default).
const MAX_WINDOW_BITS: u32 = 27;
const BUFFER_BYTES: usize = 256 << 10;

/// How data is packed; told by its first bytes, since media types are wrong more often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
    /// Known, but not read.
    Other(&'static str),
}

impl Compression {
    pub(super) fn of(magic: &[u8; 4]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] => Self::Zstd,
            [b'B', b'Z', b'h', _] => Self::Other("bzip2"),
            [0xfd, b'7', b'z', b'X'] => Self::Other("xz"),
            _ => Self::None,
        }
    }
}

/// Returns a reader of the unpacked data.
pub(super) fn decoder<'a>(
    compression: Compression,
    input: impl Read + 'a,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => {
            Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, input)))
        }
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::new(input)?;
            decoder.window_log_max(MAX_WINDOW_BITS)?;
            Box::new(decoder)
        }
        Compression::Other(name) => {
            let reason = format!("{name} compression is not supported; use gzip or zstd");
            return Err(io::Error::other(reason));
        }
    })
}
