// SPDX-License-Identifier: Apache-2.0
//! Tests of address spaces.

use super::*;
use crate::{HugeFrame, arena::for_tests};

fn page(arena: &'static Arena) -> Page {
    Page::Frame(Frame::zeroed(arena).expect("a frame"))
}

#[test]
fn map_write_read_unmap_frees_all() {
    let arena = for_tests(8 << 20, &[]);
    let before = arena.free_bytes();
    let mut space = AddressSpace::new(arena).expect("a space");
    for i in 0..3 {
        space.map(0x40_0000 + i * 4096, page(arena), Access::READ_WRITE).expect("map");
    }
    let data: Vec<u8> = (0..9000u32).map(|i| i as u8).collect();
    assert_eq!(space.write(0x40_0010, &data), 9000);
    assert_eq!(space.write(0x40_2ff0, &data), 16);
    let mut back = vec![0; 9000];
    assert_eq!(space.read(0x40_0010, &mut back), 9000);
    assert_eq!(back[..8000], data[..8000]);
    let before_unmap = space.translations();
    space.unmap(0, USER_END);
    assert_ne!(space.translations(), before_unmap);
    assert_eq!(space.resident_pages(), 0);
    assert_eq!(space.read(0x40_0000, &mut back), 0);
    drop(space);
    let tables = 4 * 4096;
    assert_eq!(arena.free_bytes(), before - tables, "only pooled page tables are out");
}

#[test]
fn write_to_kernel_or_read_only_copies_nothing() {
    let arena = for_tests(8 << 20, &[]);
    let mut space = AddressSpace::new(arena).expect("a space");
    space.map(0x1000, page(arena), Access::READ).expect("map");
    assert_eq!(space.write(0x1000, b"x"), 0);
    assert_eq!(space.write(USER_END, b"x"), 0);
    assert_eq!(space.read(u64::MAX - 4, &mut [0; 16]), 0);
}

#[test]
fn fork_private_over_budget_shares_read_only() {
    let arena = for_tests(8 << 20, &[]);
    let mut parent = AddressSpace::new(arena).expect("a space");
    for i in 0..4 {
        parent.map(0x10_0000 + i * 4096, page(arena), Access::READ_WRITE).expect("map");
        parent.write(0x10_0000 + i * 4096, &[i as u8 + 1]);
    }
    let mut child = AddressSpace::new(arena).expect("a space");
    let before = parent.translations();
    let mut budget = 1;
    parent.fork_into(&mut child, 0, USER_END, Sharing::Private, &mut budget).expect("room");
    assert_eq!(budget, 0);
    assert_ne!(parent.translations(), before);
    assert_eq!(parent.write(0x10_0000, &[9]), 1, "copied at once: still writable");
    assert_eq!(parent.write(0x10_1000, &[9]), 0, "shared: must fault first");
    let mut byte = [0];
    assert_eq!(child.read(0x10_0000, &mut byte), 1);
    assert_eq!(byte, [1]);
    assert_eq!(child.read(0x10_3000, &mut byte), 1);
    assert_eq!(byte, [4]);
    let (Page::Frame(frame), access) = child.lookup(0x10_3000).expect("mapped") else {
        panic!("a frame")
    };
    assert!(!access.write && !frame.is_unique());
}

#[test]
fn huge_page_partial_unmap_splits_and_frees_all() {
    let arena = for_tests(16 << 20, &[]);
    let before = arena.free_bytes();
    let mut space = AddressSpace::new(arena).expect("a space");
    let block = HugeFrame::zeroed(arena).expect("a block");
    space.map_huge(0x4000_0000, block, Access::READ_WRITE).expect("room");
    assert_eq!(space.resident_pages(), 512);
    assert_eq!(space.write(0x4000_0ffe, b"abcd"), 4);
    space.unmap(0x4000_1000, 0x4000_2000);
    assert_eq!(space.resident_pages(), 511);
    let mut bytes = [0; 4];
    assert_eq!(space.read(0x4000_0ffe, &mut bytes), 2, "the second page is gone");
    assert_eq!(&bytes[..2], b"ab");
    let mut child = AddressSpace::new(arena).expect("a space");
    space.fork_into(&mut child, 0, USER_END, Sharing::Private, &mut 0).expect("room");
    assert_eq!(child.resident_pages(), 511);
    drop((space, child));
    let pooled = 10 * 4096;
    assert!(arena.free_bytes() >= before - pooled, "only pooled page tables are out");
}

#[test]
fn huge_page_whole_protect_and_unmap_does_not_split() {
    let arena = for_tests(16 << 20, &[]);
    let mut space = AddressSpace::new(arena).expect("a space");
    let block = HugeFrame::zeroed(arena).expect("a block");
    space.map_huge(0x4000_0000, block, Access::READ_WRITE).expect("room");
    let again = HugeFrame::zeroed(arena).expect("a block");
    assert!(space.map_huge(0x4000_0000, again, Access::READ_WRITE).is_err());
    space.protect(0x4000_0000, 0x4020_0000, Access::READ);
    assert_eq!(space.write(0x4010_0000, b"x"), 0);
    assert_eq!(space.read(0x4010_0000, &mut [0]), 1);
    assert_eq!(space.spare.len(), 1, "still one large page");
    space.unmap(0x3ff0_0000, 0x4020_0000);
    assert_eq!((space.resident_pages(), space.spare.len()), (0, 0));
}

#[test]
fn protect_none_holds_the_page() {
    let arena = for_tests(8 << 20, &[]);
    let mut space = AddressSpace::new(arena).expect("a space");
    space.map(0x1000, page(arena), Access::READ_WRITE).expect("map");
    space.write(0x1000, b"k");
    let none = Access { read: false, write: false, execute: false };
    let before = space.translations();
    space.protect(0x1000, 0x2000, none);
    assert_ne!(space.translations(), before);
    assert_eq!(space.read(0x1000, &mut [0]), 0);
    space.protect(0x1000, 0x2000, Access::READ_WRITE);
    let mut byte = [0];
    assert_eq!(space.read(0x1000, &mut byte), 1);
    assert_eq!(&byte, b"k");
    assert_eq!(space.write(0x1000, b"x"), 0, "write comes back through a fault");
}
