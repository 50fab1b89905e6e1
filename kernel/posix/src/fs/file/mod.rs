// SPDX-License-Identifier: Apache-2.0
//! Open files: what a descriptor refers to.
//!
//! | module | what |
//! | --- | --- |
//! | `description` | an open file: flags, position, reading and writing |
//! | `ops` | what kinds of files do differently |
//! | `ioctl` | the argument of an ioctl |

mod description;
mod ioctl;
mod ops;

pub(crate) use self::ops::{Contents, PathOnly};
pub use self::{
    description::{File, FileRef, read_at},
    ioctl::{CopyIn, CopyOut, IoctlMemory},
    ops::FileOps,
};
