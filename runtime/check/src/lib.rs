// SPDX-License-Identifier: Apache-2.0
//! Says before a program runs which system calls it needs that the guest kernel lacks.
//!
//! A [`Checker`] looks at programs of a [`Files`]: the files of this host, or those of an image.  It
//! decodes the code of a program and of the libraries that it names, finds the `syscall`
//! instructions that can be reached, and follows back what is in RAX there.  The result is a
//! [`Report`].
//!
//! ```no_run
//! use std::path::Path;
//! use trine_check::{Checker, HostFiles};
//!
//! # fn main() -> Result<(), trine_check::CheckError> {
//! let mut checker = Checker::new(HostFiles);
//! checker.program(Path::new("/bin/true"))?;
//! let report = checker.finish();
//! for call in &report.lacking {
//!     println!("{} ({}): {}", call.name, call.number, call.missing);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What it cannot know: calls of code that is made or loaded at run time (JITs, plug-ins that no
//! file of an image names), jumps through pointers that are computed, and whether a program copes
//! with the error that it gets.  What it could not follow, it counts.
//!
//! | module | what |
//! | --- | --- |
//! | [`calls`] | what the kernel has of each system call |
//! | [`files`] | where programs and libraries are found |
//! | `object` | one ELF file: symbols, libraries, relocations |
//! | `code` | its instructions: functions, jumps, calls |
//! | `trace` | what a register holds at an instruction |
//! | `reach` | which code of its libraries a program reaches |
//! | `checker` | programs and whole images |
//! | [`report`] | the result |
#![forbid(unsafe_code)]

pub mod calls;
mod checker;
mod code;
pub mod files;
mod object;
mod reach;
pub mod report;
mod trace;

pub use self::{
    checker::{CheckError, Checker},
    files::{Files, HostFiles, ImageFiles},
    report::Report,
};
