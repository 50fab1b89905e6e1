// SPDX-License-Identifier: Apache-2.0
//! The program headers of 64-bit ELF files.

const PT_LOAD: u64 = 1;
const PT_INTERP: u64 = 3;

/// A program header.
struct Header {
    kind: u64,
    /// Bytes that it takes up in the file.
    file_bytes: u64,
}

/// Tells whether a file is an ELF file that needs no interpreter.
pub(crate) fn is_static(file: &[u8]) -> bool {
    headers(file).is_some_and(|all| all.iter().all(|header| header.kind != PT_INTERP))
}

/// Bytes of a file that are loaded, which symbols and debug information are not.
pub(crate) fn loaded_bytes(file: &[u8]) -> Option<u64> {
    let headers = headers(file)?;
    let loaded = headers.iter().filter(|header| header.kind == PT_LOAD);
    loaded.map(|header| header.file_bytes).try_fold(0_u64, u64::checked_add)
}

fn headers(file: &[u8]) -> Option<Vec<Header>> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (number(file, 32, 8)?, number(file, 54, 2)?, number(file, 56, 2)?);
    let header = |index: u64| {
        let at = table.checked_add(index * size)?;
        let kind = number(file, at, 4)?;
        Some(Header { kind, file_bytes: number(file, at.checked_add(32)?, 8)? })
    };
    (0..count).map(header).collect()
}

/// A little-endian number.
fn number(file: &[u8], offset: u64, length: u64) -> Option<u64> {
    let range = usize::try_from(offset).ok()?..usize::try_from(offset.checked_add(length)?).ok()?;
    let bytes = file.get(range)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(headers: &[(u8, u8)]) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56 * headers.len()];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (bytes[32], bytes[54], bytes[56]) = (64, 56, headers.len() as u8);
        for (index, (kind, file_bytes)) in headers.iter().enumerate() {
            bytes[64 + 56 * index] = *kind;
            bytes[64 + 56 * index + 32] = *file_bytes;
        }
        bytes
    }

    #[test]
    fn interpreter_is_found_in_any_header() {
        assert!(!is_static(&elf(&[(6, 0), (3, 0), (1, 0)])));
        assert!(is_static(&elf(&[(1, 0), (1, 0), (2, 0)])));
    }

    #[test]
    fn only_loaded_segments_are_counted() {
        assert_eq!(loaded_bytes(&elf(&[(1, 10), (4, 100), (1, 20)])), Some(30));
    }

    #[test]
    fn what_is_no_whole_elf_file_is_nothing() {
        let mut cut = elf(&[(1, 1), (1, 1)]);
        cut.truncate(100);

        assert!(!is_static(b"#!/bin/sh\n") && !is_static(&cut));
        assert_eq!(loaded_bytes(&cut), None);
    }
}
