// SPDX-License-Identifier: Apache-2.0
//! Where the functions of Go programs begin: their own table, which stripped ones have too.

use std::ops::Range;

use super::object::Object;

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
    let table = table(object);
    table.into_iter().flat_map(|(text, entries)| {
        let start = move |entry: &[u8]| Some(text + u64::from(u32_at(entry, 0)?));
        let starts = entries.chunks(ENTRY_BYTES).map_while(start);
        let nexts = starts.clone().skip(1);
        starts.zip(nexts).map(|(start, next)| start..next)
    })
}

/// Where the text starts, and the entries, of which the last one is an end.
fn table<'a>(object: &Object<'a>) -> Option<(u64, &'a [u8])> {
    let bytes = object.section(SECTION)?;
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
    // Relocated programs may have nothing there before they are.
    object.text_with(&(text..text.checked_add(1)?)).map(|_| (text, entries))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
