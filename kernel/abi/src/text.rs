// SPDX-License-Identifier: Apache-2.0
//! Rewritten program text: what the image builder appends to an image, and how rewritten code
//! enters the kernel.
//!
//! A `syscall` is a trap, which is dear on a PVM host; a jump is not.  Where a program sets registers
//! and then executes `syscall`, one of the instructions before it is replaced by a jump to a
//! *trampoline*; the `syscall` bytes stay, so that whoever is past that instruction, or restarts the
//! call, traps as ever.  The trampoline (never a `call`: the red zone below RSP may be in use)
//!
//! ```text
//!     mov  $number, %eax        what the jump replaced, and what follows up to `syscall`
//!     lea  after(%rip), %rcx    the address after `syscall`, as SYSCALL leaves it in RCX
//!     jmp  *%gs:DISPLACEMENT    into the nucleus pages of this vCPU
//! ```
//!
//! changes nothing but RCX and what the moved instructions set, which they set again to the same when
//! they run again, so that the kernel can move a thread that it finds in one, or that faults there,
//! back to the place that jumps there.  Files keep their bytes: rewritten pages are copies, which
//! follow the file system in the image, and which only executable mappings of the file use.
//!
//! All integers are little endian.  After the last block of the file system: [`Header`],
//! [`Header::files`] times [`FileEntry`] sorted by inode, [`Header::pages`] times [`PageEntry`],
//! sorted by page for each file, padding to a block, then the blocks that these name.  An image that
//! ends with its file system has no rewritten text.

/// Value of [`Header::magic`]: "TRINETX1", little endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"TRINETX1");
/// Bytes of a trampoline.
pub const TRAMPOLINE_BYTES: u64 = 32;
/// Offset in a trampoline of an `i32`: from the trampoline's first byte to that of the jump that
/// leads there (the first of two, if that leads to another one in padding nearby).
pub const TRAMPOLINE_ORIGIN: u64 = 28;
/// What trampolines add to the GS base to find the address to jump to.  The kernel sets the base
/// accordingly; it is far away, so that a program that sets GS itself faults here, and is noticed.
pub const GATE_DISPLACEMENT: i32 = -0x7000_0000;
/// Most pages of trampolines that a file has: each of its jumps reaches them.
pub const TRAMPOLINE_PAGES_MAX: u32 = 4096;

/// Head of the table, at the first byte after the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// Number of [`FileEntry`] records.
    pub files: u32,
    /// Number of [`PageEntry`] records.
    pub pages: u32,
}

/// A file with rewritten text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// EROFS inode number.
    pub inode: u64,
    /// Where the trampolines belong, in bytes from where the file's first byte would lie: a mapping
    /// of file offset `o` at address `a` needs them at `a - o + trampolines`.  Whole pages.
    pub trampolines: i64,
    /// First of its [`PageEntry`] records, which files of the same content share.
    pub first_page: u32,
    /// Number of its [`PageEntry`] records.
    pub pages: u32,
    /// First block of the trampolines, in blocks of 4096 bytes from the start of the image.
    pub trampoline_block: u32,
    /// Number of these blocks, up to [`TRAMPOLINE_PAGES_MAX`].
    pub trampoline_pages: u32,
}

/// A rewritten page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageEntry {
    /// The page of the file: its offset in bytes / 4096.
    pub page: u32,
    /// The block of the image that has the rewritten page.
    pub block: u32,
}

/// Reads the integers of a record, which must be as long as it is.
macro_rules! record {
    ($name:ident, $bytes:expr, $($field:ident: $type:ty),+) => {
        impl $name {
            /// Bytes of a record.
            pub const BYTES: usize = $bytes;

            /// The record in its encoded form.
            pub fn encode(&self) -> [u8; $bytes] {
                let mut bytes = [0; $bytes];
                let mut rest = &mut bytes[..];
                $(
                    let (field, after) = rest.split_at_mut(size_of::<$type>());
                    field.copy_from_slice(&self.$field.to_le_bytes());
                    rest = after;
                )+
                debug_assert!(rest.is_empty());
                bytes
            }

            /// The record that is encoded in `bytes`.
            pub fn decode(bytes: &[u8; $bytes]) -> Self {
                let mut rest = &bytes[..];
                $(
                    let (field, after) = rest.split_at(size_of::<$type>());
                    let mut $field = [0; size_of::<$type>()];
                    $field.copy_from_slice(field);
                    rest = after;
                )+
                debug_assert!(rest.is_empty());
                Self { $($field: <$type>::from_le_bytes($field)),+ }
            }
        }
    };
}

record!(Header, 16, magic: u64, files: u32, pages: u32);
record!(
    FileEntry, 32, inode: u64, trampolines: i64, first_page: u32, pages: u32,
    trampoline_block: u32, trampoline_pages: u32
);
record!(PageEntry, 8, page: u32, block: u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_decode_to_what_was_encoded() {
        let header = Header { magic: MAGIC, files: 1, pages: 2 };
        assert_eq!(Header::decode(&header.encode()), header);
        let file = FileEntry {
            inode: 1 << 40,
            trampolines: -0x3000,
            first_page: 3,
            pages: 4,
            trampoline_block: 5,
            trampoline_pages: 6,
        };
        assert_eq!(FileEntry::decode(&file.encode()), file);
        assert_eq!(file.encode()[8..16], (-0x3000_i64).to_le_bytes());
        let page = PageEntry { page: 7, block: 8 };
        assert_eq!(PageEntry::decode(&page.encode()), page);
    }
}
