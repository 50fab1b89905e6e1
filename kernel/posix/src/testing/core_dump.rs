// SPDX-License-Identifier: Apache-2.0
//! Core dumps.

use super::World;
use crate::{fs, process::Creds};

#[test]
fn core_has_registers_notes_and_memory() {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    let at = world.map(&child, 8192);
    world.poke(&child, at, b"find me in the dump");
    let limits = at + 4096;
    world.poke(&child, limits, &[1_u64 << 30, u64::MAX].map(u64::to_le_bytes).concat());
    assert_eq!(world.call(&child, 160, &[4, limits]), Ok(0), "RLIMIT_CORE");
    child.registers.lock().r15 = 0x1234_5678;
    world.touch(&child, 0x9999_0000, true);
    let (_, status) = world.wait(&init, -1, 0);
    assert_eq!(status, 11 | 0x80, "SIGSEGV, dumped");
    let context = world.context();
    let place = context.lookup(&Creds::root(), b"/core").expect("there");
    assert_eq!(place.attr().mode, 0o600);
    let file = fs::open_executable_at(&context, &Creds::root(), place.clone());
    assert!(file.is_err(), "not a program");
    let mut raw = vec![0; place.attr().size as usize];
    let mut sink = crate::io::VecSink::new(raw.len());
    while sink.bytes.len() < raw.len() {
        place.inode().read_at(sink.bytes.len() as u64, &mut sink).expect("readable");
    }
    raw.copy_from_slice(&sink.bytes);
    let word = |at: usize| u64::from_le_bytes(raw[at..at + 8].try_into().expect("8 bytes"));
    assert_eq!((&raw[..4], raw[16], raw[18]), (&b"\x7fELF"[..], 4, 62));
    let segments = usize::from(u16::from_le_bytes([raw[56], raw[57]]));
    let notes = word(64 + 8) as usize;
    assert_eq!(raw[notes + 8], 1, "NT_PRSTATUS");
    assert_eq!(word(notes + 20 + 112), 0x1234_5678, "r15");
    let found = (1..segments).map(|index| 64 + 56 * index).find(|segment| {
        let start = word(segment + 16);
        (start..start + word(segment + 40)).contains(&at)
    });
    let segment = found.expect("a segment with the page");
    let place = (word(segment + 8) + at - word(segment + 16)) as usize;
    assert_eq!(&raw[place..place + 19], b"find me in the dump");
}

#[test]
fn no_core_without_a_limit_or_for_other_signals() {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    world.touch(&child, 0x9999_0000, true);
    assert_eq!(world.wait(&init, -1, 0).1, 11);
    let child = world.fork(&init);
    let limits = world.map(&child, 4096);
    world.poke(&child, limits, &[u64::MAX; 2].map(u64::to_le_bytes).concat());
    assert_eq!(world.call(&child, 160, &[4, limits]), Ok(0));
    let pid = u64::from(child.process.pid);
    assert_eq!(world.call(&init, 62, &[pid, 15]), Ok(0), "SIGTERM");
    world.kick(&child);
    assert_eq!(world.wait(&init, -1, 0).1, 15);
    assert!(world.context().lookup(&Creds::root(), b"/core").is_err());
}
