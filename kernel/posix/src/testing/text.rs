// SPDX-License-Identifier: Apache-2.0
//! Rewritten program text: who sees it, who does not, and threads in trampolines.

use std::{fs, sync::LazyLock, vec::Vec};

use trine_abi::text::{FileEntry, Header, MAGIC, PageEntry};
use trine_machine::context::Trap;

use super::{Outcome, World};
use crate::{
    Errno,
    fs::{
        erofs::Erofs,
        tests::{TempDir, leak, make_image},
        types::OpenFlags,
    },
    process::TaskRef,
};

const PAGE: u64 = 4096;
const PRIVATE: u64 = 2;
const FIXED: u64 = 0x10;
const READ: u64 = 1;
const WRITE: u64 = 2;
const EXEC: u64 = 4;

/// The bytes of page 1 of the file, and of its rewritten copy.
const OWN: [u8; 4] = [1; 4];
const REWRITTEN: [u8; 4] = [0xaa; 4];
/// From the second trampoline to the place that jumps there: offset 0x10 of page 1.
const ORIGIN: i32 = (PAGE as i32) + PAGE as i32 + 0x10 - 32;

/// An image with `/lib` of three pages, of which the second has a rewritten copy; the one page of
/// trampolines belongs right below the first.
static IMAGE: LazyLock<Option<&'static [u8]>> = LazyLock::new(|| {
    let tree = TempDir::new();
    let contents: Vec<u8> = (0..3 * PAGE).map(|at| (at / PAGE) as u8).collect();
    fs::write(tree.path().join("lib"), contents).expect("a file");
    let mut image = make_image(tree.path(), &[])?;
    let blocks = u32::from_le_bytes(image[1060..1064].try_into().expect("four bytes"));
    image.resize(blocks as usize * 4096, 0);
    let opened = Erofs::open(leak(&image)).expect("a good image");
    let root = opened.inode(opened.root()).expect("a root");
    let entry = opened.lookup(&root, b"lib").expect("a good directory").expect("there");
    let file = FileEntry {
        inode: entry.nid,
        trampolines: -(PAGE as i64),
        first_page: 0,
        pages: 1,
        trampoline_block: blocks + 2,
        trampoline_pages: 1,
    };
    image.extend(Header { magic: MAGIC, files: 1, pages: 1 }.encode());
    image.extend(file.encode());
    image.extend(PageEntry { page: 1, block: blocks + 1 }.encode());
    image.resize((blocks as usize + 1) * 4096, 0);
    let mut rewritten = [REWRITTEN[0]; 4096];
    // The jump in padding that the second trampoline is reached by.
    rewritten[HOP as usize] = 0xe9;
    let distance = -(PAGE as i32) - PAGE as i32 + 32 - HOP as i32 - 5;
    rewritten[HOP as usize + 1..][..4].copy_from_slice(&distance.to_le_bytes());
    image.extend(rewritten);
    let mut trampolines = [0xcc; 4096];
    trampolines[60..64].copy_from_slice(&ORIGIN.to_le_bytes());
    image.extend(trampolines);
    Some(leak(&image))
});

/// Where in page 1 a jump to the second trampoline is, in padding.
const HOP: u64 = 0x100;

struct Rig {
    world: World,
    init: TaskRef,
    /// Descriptor of `/lib`.
    file: u64,
    /// Its executable mapping.
    at: u64,
}

impl Rig {
    /// `None` without the tool that makes images; that was said.
    fn new() -> Option<Self> {
        let mut world = World::over_image((*IMAGE)?);
        let init = world.start(0, &["/bin/init"]);
        let path = world.map(&init, PAGE);
        world.poke(&init, path, b"/lib\0");
        let file = world.call(&init, 2, &[path, u64::from(OpenFlags::RDWR.bits())]).expect("there");
        let mut rig = Self { world, init, file, at: 0 };
        rig.at = rig.map_file(0, READ | EXEC, PRIVATE).expect("room");
        Some(rig)
    }

    fn map_file(&mut self, at: u64, protection: u64, flags: u64) -> Outcome {
        self.world.call(&self.init, 9, &[at, 3 * PAGE, protection, flags, self.file, 0])
    }

    fn second_page(&self, at: u64) -> [u8; 4] {
        self.world.peek(&self.init, at + PAGE)
    }

    /// The names of what is mapped right below an address.
    fn below(&self, at: u64) -> &'static str {
        let mm = self.init.mm().expect("alive");
        let areas = mm.areas.lock();
        areas.find(at - 1).map_or("", |area| area.name)
    }

    fn uses_rewritten(&self) -> bool {
        self.init.mm().expect("alive").uses_rewritten_text()
    }

    fn trap_at(&mut self, rip: u64, trap: Trap) -> u64 {
        self.init.registers.lock().rip = rip;
        self.world.kernel.trap(&self.init, trap);
        self.init.registers.lock().rip
    }
}

macro_rules! rig {
    () => {
        match Rig::new() {
            Some(rig) => rig,
            None => return,
        }
    };
}

#[test]
fn executable_mappings_have_rewritten_pages_and_others_the_files() {
    let mut rig = rig!();
    assert_eq!(rig.second_page(rig.at), REWRITTEN);
    assert_eq!(rig.world.peek::<4>(&rig.init, rig.at), [0; 4]);
    assert_eq!(rig.world.peek::<4>(&rig.init, rig.at + 2 * PAGE), [2; 4]);
    assert_eq!(rig.below(rig.at), "[syscalls]");
    for (protection, flags) in
        [(READ, PRIVATE), (READ | WRITE, PRIVATE), (READ | WRITE | EXEC, PRIVATE), (READ | EXEC, 1)]
    {
        let at = rig.map_file(0, protection, flags).expect("room");
        assert_eq!(rig.second_page(at), OWN, "{protection} {flags}");
    }
    let buffer = rig.world.map(&rig.init, PAGE);
    assert_eq!(rig.world.call(&rig.init, 17, &[rig.file, buffer, 4, PAGE]), Ok(4), "pread64");
    assert_eq!(rig.world.peek(&rig.init, buffer), OWN);
}

#[test]
fn a_child_has_what_its_parent_has() {
    let mut rig = rig!();
    let child = rig.world.fork(&rig.init);
    assert_eq!(rig.world.peek::<4>(&child, rig.at + PAGE), REWRITTEN);
    rig.init.mm().expect("alive").use_own_text();
    assert_eq!(rig.second_page(rig.at), OWN);
    assert_eq!(rig.world.peek::<4>(&child, rig.at + PAGE), REWRITTEN);
}

#[test]
fn a_thread_in_a_trampoline_is_moved_back_to_where_it_came_from() {
    let mut rig = rig!();
    let (trampoline, origin) = (rig.at - PAGE + 32, rig.at + PAGE + 0x10);
    for offset in [0, 5, 31] {
        assert_eq!(rig.trap_at(trampoline + offset, Trap::Kick), origin);
    }
    // What ran there, of the program, touches a page that is not there yet.
    let heap = rig.world.map(&rig.init, PAGE);
    let fault = Trap::PageFault { address: heap, code: 6 };
    assert_eq!(rig.trap_at(trampoline + 5, fault), origin);
    assert_eq!(rig.second_page(rig.at), REWRITTEN);
    assert_eq!(rig.trap_at(rig.at + PAGE + HOP, Trap::Kick), origin);
    for elsewhere in [rig.at + PAGE + HOP + 1, rig.at + PAGE + HOP + 5, rig.at + 2 * PAGE] {
        assert_eq!(rig.trap_at(elsewhere, Trap::Kick), elsewhere);
    }
    assert!(rig.uses_rewritten());
    // A jump through a GS base that is not the kernel's.
    let fault = Trap::PageFault { address: 8, code: 4 };
    assert_eq!(rig.trap_at(trampoline + 12, fault), origin);
    assert!(!rig.uses_rewritten());
    assert_eq!(rig.second_page(rig.at), OWN);
    assert_eq!(rig.trap_at(trampoline, Trap::Exception { vector: 1, code: 0 }), origin);
}

#[test]
fn who_could_tell_the_difference_gets_the_files_own_text() {
    type Act = fn(&mut Rig) -> Outcome;
    let acts: [(&str, Act); 5] = [
        ("ARCH_SET_GS", |rig| rig.world.call(&rig.init, 158, &[0x1001, 0x1000])),
        ("munmap of the trampolines", |rig| rig.world.call(&rig.init, 11, &[rig.at - PAGE, PAGE])),
        ("a mapping over them", |rig| {
            let at = rig.at - PAGE;
            rig.world.call(&rig.init, 9, &[at, PAGE, READ, 0x22 | FIXED, u64::MAX, 0])
        }),
        ("process_vm_readv", |rig| {
            let at = rig.world.map(&rig.init, PAGE);
            let words = [at + 64, 4, rig.at + PAGE, 4].map(u64::to_le_bytes).concat();
            rig.world.poke(&rig.init, at, &words);
            let pid = u64::from(rig.init.process.pid);
            let copied = rig.world.call(&rig.init, 310, &[pid, at, 1, at + 16, 1, 0]);
            assert_eq!(rig.world.peek(&rig.init, at + 64), OWN);
            copied
        }),
        ("mremap", |rig| {
            let to = rig.world.map(&rig.init, 3 * PAGE);
            let moved = rig.world.call(&rig.init, 25, &[rig.at, 3 * PAGE, 3 * PAGE, 3, to]);
            rig.at = to;
            moved
        }),
    ];
    for (name, act) in acts {
        let mut rig = rig!();
        assert!(act(&mut rig).is_ok(), "{name}");
        assert!(!rig.uses_rewritten(), "{name}");
        assert_eq!(rig.second_page(rig.at), OWN, "{name}");
    }
}

#[test]
fn text_that_becomes_writable_or_is_written_is_the_files_own() {
    let mut rig = rig!();
    let (at, mapping) = (rig.at, 3 * PAGE);
    assert_eq!(rig.world.call(&rig.init, 10, &[at, mapping, READ | WRITE]), Ok(0));
    assert_eq!(rig.second_page(at), OWN);
    assert!(rig.uses_rewritten(), "other mappings may");

    let at = rig.map_file(0, READ | EXEC, PRIVATE).expect("room");
    assert_eq!(rig.second_page(at), REWRITTEN);
    let buffer = rig.world.map(&rig.init, PAGE);
    rig.world.poke(&rig.init, buffer, b"new!");
    assert_eq!(rig.world.call(&rig.init, 18, &[rig.file, buffer, 4, PAGE]), Ok(4), "pwrite64");
    assert_eq!(rig.second_page(at), *b"new!");
    let again = rig.map_file(0, READ | EXEC, PRIVATE).expect("room");
    assert_eq!(rig.second_page(again), *b"new!");
    assert_ne!(rig.below(again), "[syscalls]");
}

#[test]
fn trampolines_go_with_the_last_mapping_of_their_text() {
    let mut rig = rig!();
    let at = rig.at;
    assert_eq!(rig.world.call(&rig.init, 11, &[at, PAGE]), Ok(0));
    assert_eq!(rig.below(at), "[syscalls]");
    assert_eq!(rig.world.call(&rig.init, 11, &[at + PAGE, 2 * PAGE]), Ok(0));
    assert_ne!(rig.below(at), "[syscalls]");
    assert!(rig.uses_rewritten());
    // Where there is no room for them, the text is the file's own.
    assert_eq!(rig.map_file(at, READ | EXEC, PRIVATE | FIXED), Ok(at));
    assert_eq!(rig.second_page(at), REWRITTEN);
    assert_eq!(rig.map_file(at + 3 * PAGE, READ | EXEC, PRIVATE | FIXED), Ok(at + 3 * PAGE));
    assert_eq!(rig.second_page(at + 3 * PAGE), OWN);
    assert_eq!(rig.world.call(&rig.init, 11, &[at + 1, PAGE]), Err(Errno::INVAL));
}
