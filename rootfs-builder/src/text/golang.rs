// SPDX-License-Identifier: Apache-2.0
//! Where the functions of Go programs begin: their own table, which stripped ones have too.

use std::ops::Range;

use super::object::{ADDRESS_MAX, Object};

const SECTION: &str = ".gopclntab";
/// Magic numbers of Go 1.18 and of Go 1.20 and newer.
const MAGICS: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
/// Bytes of a pointer, as the table has it.
const POINTER_BYTES: u8 = 8;
/// Where the words of the header stand: two zero bytes, the instructions' alignment and the size of
/// pointers follow the magic number.
const COUNT_AT: usize = 8;
const TEXT_START_AT: usize = 24;
const TABLE_AT: usize = 64;
/// A function: where it begins, from the start of the text, and where more is said of it.
const ENTRY_BYTES: usize = 8;

/// The functions, each up to the next one, in order; none if the table is not understood.
pub(super) fn functions(object: &Object<'_>) -> impl Iterator<Item = Range<u64>> {
    let table = object.section(SECTION).and_then(parse);
    // Relocated programs may have no start there before they are relocated.
    let table = table.filter(|(text, _)| object.text_with(&(*text..text + 1)).is_some());
    table.into_iter().flat_map(|(text, entries)| ranges(text, entries))
}

/// Where the text starts, and the entries, of which the last one is an end.
fn parse(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let is_known = MAGICS.contains(&u32_at(bytes, 0)?)
        && bytes.get(4..6)? == [0, 0]
        && *bytes.get(7)? == POINTER_BYTES;
    if !is_known {
        return None;
    }
    let text = u64_at(bytes, TEXT_START_AT)?;
    let count = usize::try_from(u64_at(bytes, COUNT_AT)?).ok()?;
    let start = usize::try_from(u64_at(bytes, TABLE_AT)?).ok()?;
    let size = count.checked_mul(ENTRY_BYTES)?.checked_add(size_of::<u32>())?;
    let entries = bytes.get(start..start.checked_add(size)?)?;
    (text <= ADDRESS_MAX).then_some((text, entries))
}

fn ranges(text: u64, entries: &[u8]) -> impl Iterator<Item = Range<u64>> {
    let start = move |entry: &[u8]| Some(text + u64::from(u32_at(entry, 0)?));
    let starts = entries.chunks(ENTRY_BYTES).map_while(start);
    let nexts = starts.clone().skip(1);
    starts.zip(nexts).map(|(start, next)| start..next)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of functions at these distances from the text, of which the last is an end.
    fn table(magic: u32, text: u64, starts: &[u32]) -> Vec<u8> {
        let mut bytes = magic.to_le_bytes().to_vec();
        bytes.extend([0, 0, 1, POINTER_BYTES]);
        let count = starts.len() as u64 - 1;
        bytes.extend([count, 7, text, 0, 0, 0, 0, 80].map(u64::to_le_bytes).concat());
        bytes.resize(80, 0);
        for start in starts {
            bytes.extend([*start, 99].map(u32::to_le_bytes).concat());
        }
        bytes
    }

    #[test]
    fn functions_reach_to_the_next_one() {
        for magic in MAGICS {
            let bytes = table(magic, 0x1000, &[0, 16, 48, 50]);
            let (text, entries) = parse(&bytes).unwrap();
            let found: Vec<_> = ranges(text, entries).collect();
            assert_eq!(found, [0x1000..0x1010, 0x1010..0x1030, 0x1030..0x1032]);
        }
    }

    #[test]
    fn tables_that_are_not_understood_or_cut_have_no_functions() {
        let good = table(MAGICS[0], 0x1000, &[0, 16]);
        assert!(parse(&table(0xffff_fffa, 0x1000, &[0, 16])).is_none());
        assert!(parse(&table(MAGICS[0], u64::MAX, &[0, 16])).is_none());
        // The word behind the end is not needed.
        for end in 0..good.len() - size_of::<u32>() {
            assert!(parse(&good[..end]).is_none(), "{end}");
        }
        for at in [COUNT_AT, TABLE_AT] {
            let mut huge = good.clone();
            huge[at..at + 8].fill(0xff);
            assert!(parse(&huge).is_none(), "{at}");
        }
    }
}
