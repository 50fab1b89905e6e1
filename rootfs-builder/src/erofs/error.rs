// SPDX-License-Identifier: Apache-2.0
//! Errors of writing an image.

use std::io;

use thiserror::Error;

use crate::tree::TreeError;

/// Why an image could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// A file of the source cannot be read any more.
    #[error(transparent)]
    Source(#[from] TreeError),
    /// The unpacked data of an archive cannot be read back.
    #[error("read unpacked data at byte {offset}")]
    Spool {
        /// Position in the spool file.
        offset: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The image file cannot be written.
    #[error("write image at byte {offset}")]
    Io {
        /// Position in the image.
        offset: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The image is larger than 32-bit block numbers reach.
    #[error("image of {bytes} bytes is larger than EROFS's 16 TiB")]
    TooLarge {
        /// Size reached.
        bytes: u64,
    },
    /// A sparse file would need chunks so large that they were mostly zeros.
    #[error("sparse file {path:?} of {bytes} bytes is too large for an image; make it smaller")]
    TooSparse {
        /// A name of the file, without its directories.
        path: String,
        /// Its size.
        bytes: u64,
    },
    /// One file's extended attributes are more than an inode can have.
    #[error("extended attributes of {path:?} take {bytes} bytes, more than EROFS allows")]
    XattrsTooLarge {
        /// A name of the file, without its directories.
        path: String,
        /// Bytes needed.
        bytes: usize,
    },
}
