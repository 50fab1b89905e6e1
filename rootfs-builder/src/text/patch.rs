// SPDX-License-Identifier: Apache-2.0
//! The bytes of rewritten pages and of trampolines.

use std::collections::BTreeMap;

use trine_abi::text::{GATE_DISPLACEMENT, TRAMPOLINE_BYTES, TRAMPOLINE_ORIGIN};

use super::{
    Hop, PAGE_BYTES, Page, Rewrite, Site, moving,
    object::Object,
    padding::{FAR_JUMP_BYTES, NEAR_JUMP_BYTES},
    plan::{Plan, Planned, SYSCALL},
};

/// Fills what nobody executes: `int3`.
const FILLER: u8 = 0xcc;
/// `lea distance(%rip), %rcx`, without the distance.
const LOAD_RETURN: [u8; 3] = [0x48, 0x8d, 0x0d];
/// `jmp *%gs:address`, without the address.
const ENTER: [u8; 4] = [0x65, 0xff, 0x24, 0x25];
/// `jmp distance`, without the distance.
const FAR_JUMP: u8 = 0xe9;
/// `jmp` by one signed byte, without it.
const NEAR_JUMP: u8 = 0xeb;
/// The instruction of each length that does nothing.
const NOPS: [&[u8]; 9] = [
    &[],
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// Makes what a plan says.
pub(super) fn apply(object: &Object<'_>, plan: &Plan) -> Rewrite {
    let mut rewrite = Rewrite {
        found: plan.found,
        trampolines: vec![FILLER; (plan.pages * PAGE_BYTES) as usize],
        place: plan.trampolines - plan.base,
        ..Rewrite::default()
    };
    let mut pages = Pages { object, pages: BTreeMap::new() };
    let offset = |address: u64| (address.cast_signed() - plan.base).cast_unsigned();
    // Of an instruction that is overwritten in part, nothing is left that is none.
    for room in plan.sites.iter().filter_map(|site| site.hop.as_ref()) {
        let size = room.gap.end - room.gap.start;
        pages.write(offset(room.gap.start), &vec![FILLER; size as usize]);
    }
    let slots = rewrite.trampolines.chunks_exact_mut(TRAMPOLINE_BYTES as usize);
    for (index, (site, slot)) in plan.sites.iter().zip(slots).enumerate() {
        let at = index as u64 * TRAMPOLINE_BYTES;
        // A site that is too far from its trampoline leaves that unused.
        let patch = Patch::of(object, site, plan.trampolines + at.cast_signed());
        let Some(patch) = patch else { continue };
        slot.copy_from_slice(&patch.trampoline);
        pages.write(offset(site.head.start), &patch.replacement);
        let hop = site.hop.as_ref().map(|room| {
            pages.write(offset(room.at), &patch.far_jump);
            Hop { offset: offset(room.at), gap: offset(room.gap.start)..offset(room.gap.end) }
        });
        rewrite.sites.push(Site {
            offset: offset(site.head.start),
            length: patch.replacement.len() as u8,
            call: offset(site.call),
            hop,
            trampoline: at,
        });
    }
    if rewrite.sites.is_empty() {
        return Rewrite { found: plan.found, ..Rewrite::default() };
    }
    rewrite.pages = pages.into_pages();
    rewrite
}

/// What one site becomes.
struct Patch {
    /// As long as what it replaces.
    replacement: Vec<u8>,
    /// The jump to the trampoline, which is in padding if the replacement leads there.
    far_jump: [u8; FAR_JUMP_BYTES as usize],
    trampoline: [u8; TRAMPOLINE_BYTES as usize],
}

impl Patch {
    /// Encodes a site; `None` if something is too far.
    fn of(object: &Object<'_>, site: &Planned, trampoline: i64) -> Option<Self> {
        let at = site.head.start.cast_signed();
        let length = usize::try_from(site.head.end - site.head.start).ok()?;
        let jump_at = site.hop.as_ref().map_or(at, |room| room.at.cast_signed());
        let after = site.call.cast_signed() + SYSCALL.len() as i64;

        let mut bytes = moving::moved(object.code(&(site.head.start..site.call))?);
        bytes.extend(LOAD_RETURN);
        let next = trampoline + bytes.len() as i64 + size_of::<i32>() as i64;
        bytes.extend(distance(next, after)?);
        bytes.extend(ENTER);
        bytes.extend(GATE_DISPLACEMENT.to_le_bytes());
        bytes.resize(TRAMPOLINE_ORIGIN as usize, FILLER);
        bytes.extend(distance(trampoline, at)?);

        let mut far_jump = [FAR_JUMP; FAR_JUMP_BYTES as usize];
        let next = jump_at + FAR_JUMP_BYTES.cast_signed();
        far_jump[1..].copy_from_slice(&distance(next, trampoline)?);
        let mut replacement = match site.hop {
            None => far_jump.to_vec(),
            Some(_) => {
                let distance = i8::try_from(jump_at - at - NEAR_JUMP_BYTES.cast_signed()).ok()?;
                vec![NEAR_JUMP, distance.cast_unsigned()]
            }
        };
        replacement.extend(*NOPS.get(length.checked_sub(replacement.len())?)?);
        Some(Self { replacement, far_jump, trampoline: bytes.try_into().ok()? })
    }
}

/// The encoded distance from one address to another.
fn distance(from: i64, to: i64) -> Option<[u8; 4]> {
    Some(i32::try_from(to - from).ok()?.to_le_bytes())
}

/// Copies of pages.
struct Pages<'a> {
    object: &'a Object<'a>,
    pages: BTreeMap<u32, Box<[u8; PAGE_BYTES as usize]>>,
}

impl Pages<'_> {
    /// Writes bytes at an offset of the file.
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (offset, byte) in (offset..).zip(bytes) {
            let number = offset / PAGE_BYTES;
            // Files are not that large.
            let Ok(key) = u32::try_from(number) else { continue };
            let file = self.object.file;
            let page = self.pages.entry(key).or_insert_with(|| {
                let mut page = Box::new([0; PAGE_BYTES as usize]);
                let rest = file.get((number * PAGE_BYTES) as usize..).unwrap_or_default();
                let count = rest.len().min(page.len());
                page[..count].copy_from_slice(&rest[..count]);
                page
            });
            page[(offset % PAGE_BYTES) as usize] = *byte;
        }
    }

    fn into_pages(self) -> Vec<Page> {
        self.pages.into_iter().map(|(number, bytes)| Page { number, bytes }).collect()
    }
}
