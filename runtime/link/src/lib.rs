// SPDX-License-Identifier: Apache-2.0
//! Framed messages with descriptors over a UNIX stream socket: how a sandbox talks to its VMM and
//! I/O processes.
//!
//! A child gets its end of the link as standard input; every other descriptor that it may have
//! comes over the link (`SCM_RIGHTS`, always close-on-exec).  A frame is
//!
//! ```text
//! u32  payload bytes, little endian, at most MAX_PAYLOAD
//! u8   kind, the protocol's business
//! ...  payload
//! ```
//!
//! and its descriptors travel with its first byte.
#![forbid(unsafe_code)]

mod stream;

pub use stream::{Link, LinkError, MAX_DESCRIPTORS, MAX_PAYLOAD, Message};
