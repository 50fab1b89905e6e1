// SPDX-License-Identifier: Apache-2.0
//! The argument of an ioctl.

use core::fmt;

use crate::Errno;

/// Copies from the caller's memory.
pub type CopyIn<'a> = dyn FnMut(u64, &mut [u8]) -> Result<(), Errno> + 'a;
/// Copies to the caller's memory.
pub type CopyOut<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Errno> + 'a;

/// The argument of an ioctl: the number itself, and the memory that it may point to.
pub struct IoctlMemory<'a> {
    /// The argument.
    pub argument: u64,
    /// Copies from the caller.
    pub read: &'a mut CopyIn<'a>,
    /// Copies to the caller.
    pub write: &'a mut CopyOut<'a>,
}

impl fmt::Debug for IoctlMemory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoctlMemory({:#x})", self.argument)
    }
}

impl IoctlMemory<'_> {
    /// Reads the int that the argument points to.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_int(&mut self) -> Result<i32, Errno> {
        let mut bytes = [0; 4];
        (self.read)(self.argument, &mut bytes)?;
        Ok(i32::from_le_bytes(bytes))
    }

    /// Writes the int that the argument points to.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write_int(&mut self, value: i32) -> Result<(), Errno> {
        (self.write)(self.argument, &value.to_le_bytes())
    }

    /// Reads bytes that the argument points to.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_to(&mut self, to: &mut [u8]) -> Result<(), Errno> {
        (self.read)(self.argument, to)
    }

    /// Writes bytes where the argument points to.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write_from(&mut self, from: &[u8]) -> Result<(), Errno> {
        (self.write)(self.argument, from)
    }
}
