// SPDX-License-Identifier: Apache-2.0
//! Files that are nothing but events: eventfd(2), timerfd_create(2), signalfd(2),
//! pidfd_open(2), epoll(7).

pub(crate) mod epoll;
mod eventfd;
mod pidfd;
mod signalfd;
mod timerfd;

use alloc::sync::Arc;

pub(crate) use epoll::Epoll;
pub(crate) use eventfd::EventFd;
pub(crate) use pidfd::PidFd;
pub(crate) use signalfd::SignalFd;
pub(crate) use timerfd::{TimerFd, TimerSetting};

use crate::{
    fs::{
        anonymous,
        file::{File, FileOps, FileRef},
        mount::Vfs,
        types::{FileType, OpenFlags},
    },
    io::Sink,
};

/// Makes the open file of an event object; `name` shows in /proc/self/fd.
pub(crate) fn file(vfs: &Vfs, ops: Arc<dyn FileOps>, name: &str, flags: OpenFlags) -> FileRef {
    let inode = anonymous::plain(vfs.number(), FileType::Anonymous);
    File::new(vfs, vfs.nameless(inode, name.as_bytes()), ops, flags | OpenFlags::RDWR)
}

/// Gives a record whole; false if its memory is not there yet (nothing was given then).
fn put_whole(sink: &mut dyn Sink, record: &[u8]) -> bool {
    sink.put(record) > 0
}
