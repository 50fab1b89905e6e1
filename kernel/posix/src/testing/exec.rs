// SPDX-License-Identifier: Apache-2.0
//! Loading programs.

use trine_abi::control::{Command, Event};

use super::{Outcome, World, elf::Builder};
use crate::{
    Errno,
    process::{TaskRef, exec::parse_script},
};

fn exec(world: &mut World, task: &TaskRef, path: &str, args: &[&str]) -> Outcome {
    let at = world.map(task, 0x8000);
    let mut strings = at + 0x2000;
    let mut put = |world: &World, text: &str| {
        let here = strings;
        world.poke(task, here, text.as_bytes());
        world.poke(task, here + text.len() as u64, &[0]);
        strings += text.len() as u64 + 1;
        here
    };
    let path_at = put(world, path);
    for (index, arg) in args.iter().enumerate() {
        let here = put(world, arg);
        world.poke(task, at + 8 * index as u64, &here.to_le_bytes());
    }
    world.poke(task, at + 8 * args.len() as u64, &0_u64.to_le_bytes());
    let before = task.registers.lock().rip + 2;
    world.try_call(task, 59, &[path_at, at, 0]);
    let registers = *task.registers.lock();
    if registers.rip == before { World::result(task) } else { Ok(registers.rip) }
}

fn string(world: &World, task: &TaskRef, at: u64) -> Vec<u8> {
    let _ = world;
    task.mm().expect("alive").read_string(at, 4096).expect("mapped").expect("ends")
}

type Strings = Vec<Vec<u8>>;

/// Arguments, environment and auxiliary vector as they are on the stack.
fn stack(world: &World, task: &TaskRef) -> (Strings, Strings, Vec<(u64, u64)>) {
    let mut at = task.registers.lock().rsp;
    assert!(at.is_multiple_of(16), "psABI: the stack is aligned at entry");
    let mut next = || {
        let word = world.peek_u64(task, at);
        at += 8;
        word
    };
    let count = next();
    let args = (0..count).map(|_| string(world, task, next())).collect();
    assert_eq!(next(), 0);
    let mut env = Vec::new();
    loop {
        match next() {
            0 => break,
            pointer => env.push(string(world, task, pointer)),
        }
    }
    let mut auxv = Vec::new();
    loop {
        let (key, value) = (next(), next());
        auxv.push((key, value));
        if key == 0 {
            return (args, env, auxv);
        }
    }
}

fn aux(auxv: &[(u64, u64)], key: u64) -> u64 {
    auxv.iter().find(|entry| entry.0 == key).unwrap_or_else(|| panic!("no {key}")).1
}

#[test]
fn spawn_static_program_builds_stack_and_segments() {
    let mut world = World::new();
    let task = world.start(0, &["init", "one", ""]);
    assert_eq!(task.tid(), 1);
    assert_eq!(task.registers.lock().rip, 0x40_0200);
    let (args, env, auxv) = stack(&world, &task);
    assert_eq!(args, [&b"init"[..], b"one", b""]);
    assert_eq!(env, [b"PATH=/bin"]);
    assert_eq!(aux(&auxv, 3), 0x40_0040, "AT_PHDR");
    assert_eq!(aux(&auxv, 5), 2, "AT_PHNUM");
    assert_eq!(aux(&auxv, 6), 4096);
    assert_eq!(aux(&auxv, 9), 0x40_0200, "AT_ENTRY");
    assert_eq!(aux(&auxv, 7), 0, "AT_BASE");
    assert_eq!(string(&world, &task, aux(&auxv, 31)), b"/bin/init");
    assert_eq!(string(&world, &task, aux(&auxv, 15)), b"x86_64");
    assert_eq!(world.peek::<8>(&task, 0x40_1000), *b"datadata");
    assert_eq!(world.peek::<8>(&task, 0x40_1800), [0; 8], "the tail of the last page is zero");
    assert_eq!(world.peek::<8>(&task, 0x40_2ff8), [0; 8], "bss");
    assert_eq!(task.mm().expect("alive").read_bytes(0x40_3000, &mut [0]), Err(Errno::FAULT));
    let code = task.mm().expect("alive").write_bytes(0x40_0000, &[1]);
    assert_eq!(code, Err(Errno::FAULT), "code is read-only");
    assert_eq!(&task.name.lock()[..5], b"init\0");
}

#[test]
fn exec_dynamic_program_starts_at_interpreter() {
    let (mut world, init) = World::with_init();
    let program = Builder::pie().with_interpreter("/bin/ld").build();
    world.add_file("/bin/dynamic", 0o755, &program);
    world.add_file("/bin/ld", 0o755, &Builder::pie().build());
    exec(&mut world, &init, "/bin/dynamic", &["dynamic"]).expect("loads");
    let (_, _, auxv) = stack(&world, &init);
    let base = aux(&auxv, 7);
    assert!(base != 0 && base.is_multiple_of(4096));
    assert_eq!(init.registers.lock().rip, base + 0x200);
    assert_eq!(aux(&auxv, 9) % 4096, 0x200);
    assert_ne!(aux(&auxv, 9), base + 0x200, "AT_ENTRY is the program's");
}

#[test]
fn exec_script_passes_interpreter_argument_and_path() {
    let (mut world, init) = World::with_init();
    world.add_file("/bin/script", 0o755, b"#! /bin/init  -x y \nbody");
    exec(&mut world, &init, "/bin/script", &["ignored", "last"]).expect("loads");
    let (args, ..) = stack(&world, &init);
    assert_eq!(args, [&b"/bin/init"[..], b"-x y", b"/bin/script", b"last"]);
    assert_eq!(&init.name.lock()[..7], b"script\0");
}

#[test]
fn exec_bad_files_fails_and_keeps_the_old_program() {
    let (mut world, init) = World::with_init();
    let mut other_machine = Builder::small();
    other_machine.machine = 183;
    let missing = Builder::pie().with_interpreter("/bin/none").build();
    let corrupt = Builder::pie().with_interpreter("/bin/text").build();
    let files: [(&str, u32, Vec<u8>, Errno); 8] = [
        ("/bin/text", 0o755, b"hello".to_vec(), Errno::NOEXEC),
        ("/bin/empty", 0o755, Vec::new(), Errno::NOEXEC),
        ("/bin/data", 0o644, Builder::small().build(), Errno::ACCES),
        ("/bin/arm", 0o755, other_machine.build(), Errno::NOEXEC),
        ("/bin/lost", 0o755, missing, Errno::NOENT),
        ("/bin/corrupt", 0o755, corrupt, Errno::LIBBAD),
        ("/bin/bang", 0o755, b"#!/bin/none\n".to_vec(), Errno::NOENT),
        ("/bin/loop", 0o755, b"#!/bin/loop\n".to_vec(), Errno::LOOP),
    ];
    for (path, mode, contents, errno) in files {
        world.add_file(path, mode, &contents);
        assert_eq!(exec(&mut world, &init, path, &["x"]), Err(errno), "{path}");
    }
    assert_eq!(exec(&mut world, &init, "/bin/none", &["x"]), Err(Errno::NOENT));
    assert_eq!(exec(&mut world, &init, "/bin", &["x"]), Err(Errno::ACCES));
    assert_eq!(world.peek::<8>(&init, 0x40_1000), *b"datadata");
}

#[test]
fn spawn_failures_say_what_failed() {
    let mut world = World::new();
    world.add_file("/bin/data", 0o644, b"x");
    world.add_file("/bin/text", 0o755, b"x");
    let cases = [
        ("foo", 2, "exec: \"foo\": executable file not found in $PATH"),
        ("/bin/foo", 2, "exec: \"/bin/foo\": no such file or directory"),
        ("data", 13, "exec: \"data\": permission denied"),
        ("/bin/data", 13, "exec: \"/bin/data\": permission denied"),
        ("text", 8, "exec: \"/bin/text\": exec format error"),
    ];
    for (name, errno, reason) in cases {
        world.kernel.command(Command::Spawn(World::spec(0, &[name])));
        let expected = Event::SpawnFailed { key: 0, errno, reason: reason.as_bytes().to_vec() };
        assert_eq!(world.kernel.take_events(), [expected]);
    }
    assert!(world.kernel.services.registry.processes().is_empty());
}

#[test]
fn exec_resets_handlers_and_closes_descriptors() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    for (signal, handler) in [(10_u64, 0x1234_u64), (12, 1)] {
        world.poke(&init, at, &handler.to_le_bytes());
        world.call(&init, 13, &[signal, at, 0, 8]).expect("sigaction");
    }
    init.files().expect("alive").lock().set_cloexec(2, true).expect("open");
    exec(&mut world, &init, "/bin/init", &["again"]).expect("loads");
    let actions = init.process.actions.lock().clone();
    assert_eq!(actions.lock().of(10).handler, 0);
    assert_eq!(actions.lock().of(12).handler, 1);
    let files = init.files().expect("alive");
    assert!(files.lock().get(1).is_ok());
    assert!(files.lock().get(2).is_err());
}

#[test]
fn exec_from_second_thread_takes_over_the_process() {
    let (mut world, init) = World::with_init();
    let flags = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000;
    let tid = world.call(&init, 56, &[flags, 0x40_1800, 0, 0, 0]).expect("a thread");
    let thread = world.kernel.services.registry.task(tid as u32).expect("there");
    exec(&mut world, &thread, "/bin/init", &["again"]).expect("loads");
    assert_eq!(thread.tid(), 1);
    assert_eq!(thread.registers.lock().rip, 0x40_0200);
    assert_eq!(init.phase(), crate::process::task::Phase::Dead);
    assert_eq!(world.kernel.services.registry.task_count(), 1);
    assert_eq!(world.call(&thread, 186, &[]), Ok(1));
}

#[test]
fn parse_script_lines() {
    let parse = |text: &str| parse_script(text.as_bytes());
    assert_eq!(parse("#!/bin/sh\n"), Ok((b"/bin/sh".to_vec(), None)));
    assert_eq!(parse("#!\t /bin/sh -e -u\t\n"), Ok((b"/bin/sh".to_vec(), Some(b"-e -u".to_vec()))));
    assert_eq!(parse("#!/bin/sh"), Ok((b"/bin/sh".to_vec(), None)));
    for bad in ["#!\n", "#!   ", "#", ""] {
        assert_eq!(parse(bad), Err(Errno::NOEXEC), "{bad:?}");
    }
    let long = format!("#!/{}", "x".repeat(300));
    assert_eq!(parse_script(&long.as_bytes()[..256]), Err(Errno::NOEXEC));
}
