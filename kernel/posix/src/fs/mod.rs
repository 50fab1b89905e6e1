// SPDX-License-Identifier: Apache-2.0
//! Files.
//!
//! | module | what |
//! | --- | --- |
//! | [`types`] | kinds, attributes, flags |
//! | [`inode`] | what a file system's inodes can do |
//! | [`dentry`], [`mount`], `walk`, `permission` | names, mounts, path resolution |
//! | [`file`], `open`, [`table`], `locks` | open files, descriptors, locks |
//! | `volume` | files of the host |
//! | `erofs`, `text`, `memory` | the image, and its rewritten program text; tmpfs and the writable root over the image |
//! | `pseudo`, `proc`, `sysfs` | what the kernel makes up |
//! | `mqueue`, `notify` | POSIX message queues; inotify |
//! | `devices`, [`pipe`], [`tty`], [`stream`] | devices, pipes, terminals, standard streams |
//! | `event` | eventfd, timerfd, signalfd, epoll |
//! | [`boot`] | mounting all of it |
//!
//! **Nothing in here blocks.**  What cannot be done now is `EAGAIN`; the system call then puts its
//! ticket where `poll` says, and is made again when it is woken.
//!
//! Lock order: descriptor table, file position, inode, file system, window.  Files are dropped
//! (closed) with no lock held.

pub(crate) mod anonymous;
pub mod boot;
mod context;
pub mod dentry;
mod devices;
pub(crate) mod erofs;
pub(crate) mod event;
pub mod file;
pub mod inode;
pub mod locks;
pub(crate) mod memory;
pub mod mount;
pub(crate) mod mqueue;
pub(crate) mod notify;
pub(crate) mod open;
pub(crate) mod permission;
pub mod pipe;
pub(crate) mod proc;
mod pseudo;
pub mod stream;
mod sysfs;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod text;
pub mod tty;
pub mod types;
pub(crate) mod volume;
pub(crate) mod walk;

pub use boot::mount_all;
pub use context::FsContext;
pub use dentry::Location;
pub use file::{File, FileRef, read_at};
pub use mount::Vfs;
pub use open::{open_executable, open_executable_at};
pub use table::FdTable;
pub use text::Text;
