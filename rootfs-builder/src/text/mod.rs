// SPDX-License-Identifier: Apache-2.0
//! Rewrites programs so that their system calls jump into the guest kernel rather than trap.
//!
//! [`rewrite`] looks at one ELF file and returns copies of those of its text pages in which the
//! instruction before a `syscall` has become a jump to a *trampoline*, and the trampolines.
//! [`trine_abi::text`] says what a trampoline does, and how an image carries all that.
//!
//! Of the instructions before a `syscall` that may run in a trampoline ([`moving`]), one is replaced.
//! With five bytes or more it has room for the jump to the trampoline.  A shorter one becomes a jump
//! to padding nearby, which gets that jump ([`padding`]).
//!
//! Bytes that look like a `syscall` are one only if decoding the function that they are in, from its
//! first byte, comes upon them: what functions there are is read from unwind tables and symbols
//! ([`functions`]).  A file that is not what it should be loses nothing but speed: anything that does
//! not fit is left as it is.
//!
//! | module | |
//! | --- | --- |
//! | [`object`] | segments of an ELF file |
//! | [`functions`] | where functions begin and end |
//! | [`golang`] | the same of Go programs |
//! | [`sites`] | the system calls of a function |
//! | [`moving`] | which instructions may move |
//! | [`padding`] | room for jumps |
//! | [`plan`] | which sites get a trampoline |
//! | [`patch`] | the bytes |
//! | [`scan`] | which files are worth a look |

mod functions;
mod golang;
mod moving;
mod object;
mod padding;
mod patch;
mod plan;
mod scan;
mod sites;

pub(crate) use self::scan::Scan;

use std::ops::Range;

use self::{object::Object, plan::Plan};

/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;
/// Largest file that is looked at, since it is read whole.
pub(crate) const FILE_BYTES_MAX: u64 = 256 << 20;

/// What became of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// How many `syscall` instructions were found in functions.
    pub found: u64,
    /// Those that are rewritten, by offset.
    pub sites: Vec<Site>,
    /// The rewritten pages, by number.
    pub pages: Vec<Page>,
    /// Whole pages of trampolines.
    pub trampolines: Vec<u8>,
    /// Where they belong, as [`trine_abi::text::FileEntry::trampolines`] says it.
    pub place: i64,
}

/// A system call that is rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Where the replaced instruction begins, in bytes from the start of the file.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u8,
    /// Where the `syscall` is, in bytes from the start of the file.
    pub call: u64,
    /// Where the jump to the trampoline is, if it has no room for that.
    pub hop: Option<Hop>,
    /// Where its trampoline begins, in bytes from that of the first one.
    pub trampoline: u64,
}

/// A jump in padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Where it begins, in bytes from the start of the file.
    pub offset: u64,
    /// The padding, all of which is overwritten.
    pub gap: Range<u64>,
}

/// A rewritten page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its offset in the file / 4096.
    pub number: u32,
    /// Its bytes; those beyond the end of the file are 0.
    pub bytes: Box<[u8; PAGE_BYTES as usize]>,
}

/// Rewrites what can be rewritten of a file, given all its bytes.
#[must_use]
pub fn rewrite(file: &[u8]) -> Rewrite {
    if file.len() as u64 > FILE_BYTES_MAX {
        return Rewrite::default();
    }
    let Some(object) = Object::parse(file) else { return Rewrite::default() };
    Plan::of(&object).map_or_else(Rewrite::default, |plan| patch::apply(&object, &plan))
}
