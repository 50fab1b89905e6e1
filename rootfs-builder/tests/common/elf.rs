// SPDX-License-Identifier: Apache-2.0
//! Small ELF files, made by hand.

use std::ops::Range;

/// A program of one or more segments.
pub(crate) struct Program {
    kind: u16,
    segments: Vec<Segment>,
    functions: Vec<Range<u64>>,
}

struct Segment {
    flags: u32,
    address: u64,
    bytes: Vec<u8>,
}

pub(crate) const READ: u32 = 4;
pub(crate) const WRITE: u32 = 2;
pub(crate) const EXECUTE: u32 = 1;

const HEADER: usize = 64;
const SEGMENT: usize = 56;
const SECTION: usize = 64;
/// Where the first segment's bytes begin in the file.
pub(crate) const FIRST_OFFSET: u64 = 0x1000;

impl Program {
    /// One that is mapped where it says.
    pub(crate) fn fixed() -> Self {
        Self { kind: 2, segments: Vec::new(), functions: Vec::new() }
    }

    /// One that is relocated.
    pub(crate) fn relocated() -> Self {
        Self { kind: 3, ..Self::fixed() }
    }

    /// Adds a segment: its bytes follow those of the one before, at the next page of the file.
    pub(crate) fn segment(mut self, flags: u32, address: u64, bytes: &[u8]) -> Self {
        self.segments.push(Segment { flags, address, bytes: bytes.to_vec() });
        self
    }

    /// Says that a function is there.
    pub(crate) fn function(mut self, range: Range<u64>) -> Self {
        self.functions.push(range);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut offset = FIRST_OFFSET;
        let mut headers = Vec::new();
        let mut body = Vec::new();
        for segment in &self.segments {
            // The same place in its page.
            let at = offset + segment.address % 0x1000;
            headers.extend([1_u32, segment.flags].map(u32::to_le_bytes).concat());
            let size = segment.bytes.len() as u64;
            let words = [at, segment.address, segment.address, size, size, 0x1000];
            headers.extend(words.map(u64::to_le_bytes).concat());
            body.resize((at - FIRST_OFFSET) as usize, 0);
            body.extend(&segment.bytes);
            offset = (at + size).next_multiple_of(0x1000);
        }
        let mut symbols = vec![0; 24];
        for range in &self.functions {
            // A function, global, in some section.
            symbols.extend([0, 0, 0, 0, 0x12, 0, 1, 0]);
            symbols.extend([range.start, range.end - range.start].map(u64::to_le_bytes).concat());
        }
        let symbols_at = FIRST_OFFSET + body.len() as u64;
        let names_at = symbols_at + symbols.len() as u64;
        let sections_at = names_at + 1;
        let section = |kind: u32, at: u64, size: u64, link: u32, entry: u64| {
            let mut bytes = [0, kind].map(u32::to_le_bytes).concat();
            bytes.extend([0, 0, at, size].map(u64::to_le_bytes).concat());
            bytes.extend([link, 0].map(u32::to_le_bytes).concat());
            bytes.extend([1, entry].map(u64::to_le_bytes).concat());
            assert_eq!(bytes.len(), SECTION);
            bytes
        };

        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend([self.kind, 62].map(u16::to_le_bytes).concat());
        file.extend(1_u32.to_le_bytes());
        file.extend([0, HEADER as u64, sections_at].map(u64::to_le_bytes).concat());
        file.extend(0_u32.to_le_bytes());
        let counts = [HEADER, SEGMENT, self.segments.len(), SECTION, 3, 2];
        file.extend(counts.map(|count| (count as u16).to_le_bytes()).concat());
        file.extend(headers);
        file.resize(FIRST_OFFSET as usize, 0);
        file.extend(body);
        file.extend(&symbols);
        file.push(0);
        file.extend(section(0, 0, 0, 0, 0));
        file.extend(section(2, symbols_at, symbols.len() as u64, 2, 24));
        file.extend(section(3, names_at, 1, 0, 0));
        file
    }
}
