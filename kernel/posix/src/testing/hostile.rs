// SPDX-License-Identifier: Apache-2.0
//! ELF files that mean harm: loading fails or works, and never panics.

use trine_abi::control::{Command, Event};

use super::{World, elf::Builder};
use crate::mm::elf::{parse_header, parse_program};

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Numbers that parsers get wrong.
    fn nasty(&mut self) -> u64 {
        let base = [0, 1, 0xfff, 0x1000, 1 << 31, 1 << 32, 1 << 47, 1 << 63, u64::MAX];
        let pick = base[(self.next() % base.len() as u64) as usize];
        pick.wrapping_add(self.next() % 3).wrapping_sub(1)
    }
}

#[test]
fn parse_random_headers_never_panics() {
    let mut random = Random(0x1234_5678_9abc_def1);
    for round in 0..20_000 {
        let mut file = Builder::pie().with_interpreter("/bin/ld").build();
        for _ in 0..1 + round % 6 {
            let at = (random.next() % 240) as usize & !7;
            file[at..at + 8].copy_from_slice(&random.nasty().to_le_bytes());
        }
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        if let Ok(header) = parse_header(&file[..64])
            && let Ok(program) = parse_program(&header, &file[64..])
        {
            let (low, high) = program.span();
            assert!(low <= high);
            assert!(program.align().is_power_of_two());
        }
    }
}

#[test]
fn load_random_programs_ends_in_an_event() {
    let mut random = Random(42);
    let mut loaded = 0;
    for round in 0..300_u64 {
        let mut world = World::with_ram(4 << 20);
        let mut file = Builder::small().build();
        let at = (64 + (random.next() % (2 * 56)) as usize) & !7;
        file[at..at + 8].copy_from_slice(&random.nasty().to_le_bytes());
        if round % 3 == 0 {
            let at = (16 + (random.next() % 48) as usize) & !7;
            file[at..at + 8].copy_from_slice(&random.nasty().to_le_bytes());
        }
        world.add_file("/bin/evil", 0o755, &file);
        world.kernel.command(Command::Spawn(World::spec(0, &["/bin/evil"])));
        match world.kernel.take_events().as_slice() {
            [Event::Spawned { .. }] => loaded += 1,
            [Event::SpawnFailed { errno, .. }] => assert!(*errno > 0),
            other => panic!("{other:?}"),
        }
    }
    assert!(loaded > 10, "some mutations must be harmless, else this test tests nothing");
}

#[test]
fn load_interpreter_path_from_nowhere_fails() {
    for offset in [u64::MAX, u64::MAX - 8, 1 << 62, 1 << 40] {
        let mut file = Builder::pie().with_interpreter("/bin/ld").build();
        let third = 64 + 2 * 56;
        file[third + 8..third + 16].copy_from_slice(&offset.to_le_bytes());
        let mut world = World::with_ram(4 << 20);
        world.add_file("/bin/evil", 0o755, &file);
        world.kernel.command(Command::Spawn(World::spec(0, &["/bin/evil"])));
        let events = world.kernel.take_events();
        assert!(matches!(events[..], [Event::SpawnFailed { errno: 8, .. }]), "{events:?}");
    }
}

#[test]
fn load_truncated_program_fails() {
    let whole = Builder::small().build();
    for bytes in [0, 4, 63, 64, 100, 64 + 111] {
        let mut world = World::with_ram(4 << 20);
        world.add_file("/bin/cut", 0o755, &whole[..bytes]);
        world.kernel.command(Command::Spawn(World::spec(0, &["/bin/cut"])));
        let events = world.kernel.take_events();
        assert!(matches!(events[..], [Event::SpawnFailed { errno: 8, .. }]), "{bytes}: {events:?}");
    }
}
