// SPDX-License-Identifier: Apache-2.0
//! Memory devices (mem(4), null(4), random(4)) and the table of all character devices.

use alloc::sync::Arc;
use core::any::Any;

use crate::{
    Errno,
    fs::{
        file::{File, FileOps, IoctlMemory},
        mount::Vfs,
        tty::{self, pty},
        types::{FileType, OpenFlags, Ready, split_device},
    },
    io::{Sink, Source},
    services::ServicesRef,
    wait::Ticket,
};

const RNDGETENTCNT: u32 = 0x8004_5200;

/// A memory device.
#[derive(Debug)]
enum Device {
    Null,
    Zero,
    Full,
    Random(ServicesRef),
}

/// Opens a device by its number.
///
/// # Errors
/// `ENXIO` if there is no such device, or no controlling terminal for /dev/tty.
pub(crate) fn open(
    vfs: &Arc<Vfs>,
    kind: FileType,
    rdev: u64,
    flags: OpenFlags,
) -> Result<Arc<dyn FileOps>, Errno> {
    if kind != FileType::CharDevice {
        return Err(Errno::NXIO);
    }
    let device = match split_device(rdev) {
        (1, 3) => Device::Null,
        (1, 5) => Device::Zero,
        (1, 7) => Device::Full,
        (1, 8 | 9) => Device::Random(Arc::clone(&vfs.services)),
        (5, 0 | 1) => {
            let task = vfs.services.current().ok_or(Errno::NXIO)?;
            let tty = tty::of_process(&task.process).ok_or(Errno::NXIO)?;
            return Ok(tty.open(flags | OpenFlags::NOCTTY)?);
        }
        (5, 2) => return pty::open_master(vfs),
        (major @ 136..=143, minor) => {
            let index = (major - 136) << 8 | minor;
            return Ok(vfs.ptys.get(index).ok_or(Errno::IO)?.open(flags)?);
        }
        _ => return Err(Errno::NXIO),
    };
    Ok(Arc::new(device))
}

impl FileOps for Device {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        match self {
            Self::Null => Ok(0),
            Self::Zero | Self::Full => Ok(sink.put_zeroes(sink.room())),
            Self::Random(services) => {
                let mut done = 0;
                let mut bytes = [0; 256];
                while sink.room() > 0 {
                    let part = sink.room().min(bytes.len());
                    services.random(&mut bytes[..part]);
                    let taken = sink.put(&bytes[..part]);
                    done += taken;
                    if taken < part {
                        break;
                    }
                }
                Ok(done)
            }
        }
    }

    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Source) -> Result<usize, Errno> {
        if matches!(self, Self::Full) {
            return Err(Errno::NOSPC);
        }
        // Read, so that a bad address is an error.
        let mut buffer = [0; 1024];
        let mut done = 0;
        while source.left() > 0 {
            let part = source.left().min(buffer.len());
            let taken = source.take(&mut buffer[..part]);
            done += taken;
            if taken < part {
                break;
            }
        }
        Ok(done)
    }

    fn poll(&self, _ticket: Option<&Ticket>) -> Ready {
        Ready::READABLE | Ready::WRITABLE
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn ignores_seek(&self) -> bool {
        true
    }

    fn ioctl(
        &self,
        _file: &File,
        command: u32,
        memory: &mut IoctlMemory<'_>,
    ) -> Result<u64, Errno> {
        match (self, command) {
            (Self::Random(_), RNDGETENTCNT) => {
                memory.write_int(256)?;
                Ok(0)
            }
            _ => Err(Errno::NOTTY),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
