// SPDX-License-Identifier: Apache-2.0
//! Lives as they should be.

use std::{fs, io::Read, thread, time::Duration};

use trine_abi::{
    control::{Command, Event, INIT_KEY, NO_HANDLE, ProcessInfo},
    window::{DATA, Operation, SQ_TAIL, SUBMISSIONS, Submission},
};
use trine_vmm::protocol::{Cause, Notice, Request, Stages};

use super::rig::{Received, Rig, null, process};
use crate::{ContainerState, Error, ProcessState, Stdio, Stream};

#[test]
fn first_process_runs_and_exits_and_is_deleted() {
    let rig = Rig::new();
    assert_eq!(rig.container.state(), ContainerState::Created);
    assert_eq!(rig.container.process_state("").expect("state"), ProcessState::Created);
    assert_eq!(rig.container.pid(), rig.vmm_pid);
    let stages = Stages { create_ns: 1, loaded_ns: 2, ready_ns: 3 };
    rig.guest.notice(&Notice::Ready(stages));
    rig.start();
    assert!(matches!(rig.container.start(""), Err(Error::WrongState { state: "running", .. })));
    assert!(matches!(rig.container.delete(""), Err(Error::WrongState { .. })));

    thread::scope(|scope| {
        let waiting = scope.spawn(|| rig.container.wait("").expect("an exit"));
        rig.guest.exited(INIT_KEY, 7 << 8);
        assert_eq!(waiting.join().expect("joined").code, 7);
    });
    assert_eq!(rig.exits(), [(String::new(), 7)], "told before the wait returned");
    assert_eq!(rig.container.state(), ContainerState::Stopped);
    assert_eq!(rig.exit_of(""), 7, "again");
    assert_eq!(rig.container.stages(), stages);
    rig.guest.notice(&Notice::Ended { cause: Cause::PowerOff, reason: String::new() });

    let zombie = format!("/proc/{}", rig.vmm_pid);
    assert!(fs::exists(&zombie).expect("stat"));
    let status = rig.container.delete("").expect("deleted").expect("a status");
    assert_eq!(status.code, 7);
    assert!(!fs::exists(&zombie).expect("stat"), "reaped");
    assert!(matches!(rig.container.delete(""), Err(Error::NotFound { .. })));
    assert_eq!(rig.container.end_reason(), None);
}

#[test]
fn execs_run_and_all_end_before_the_first_process() {
    let rig = Rig::running();
    let one = rig.run_exec("one");
    rig.run_exec("two");
    rig.container.exec("never", process(false), null()).expect("registered");
    rig.guest.exited(one, 3 << 8);
    assert_eq!(rig.exit_of("one"), 3);
    assert_eq!(rig.container.delete("one").expect("deleted").expect("a status").code, 3);
    assert!(matches!(rig.container.wait("one"), Err(Error::NotFound { .. })));
    assert!(matches!(rig.container.delete("two"), Err(Error::WrongState { .. })));

    rig.guest.exited(INIT_KEY, 9);
    assert_eq!(rig.exit_of(""), 137);
    let exits = [("one", 3), ("two", 137), ("", 137)].map(|(id, code)| (id.to_owned(), code));
    assert_eq!(rig.exits(), exits);
    assert_eq!(rig.exit_of("never"), 137, "who waits for it is woken");
}

#[test]
fn exec_that_cannot_be_loaded_is_an_error_and_has_ended() {
    let rig = Rig::running();
    rig.container.exec("e", process(false), null()).expect("registered");
    let again = rig.container.exec("e", process(false), null());
    assert!(matches!(again, Err(Error::AlreadyExists { .. })));
    thread::scope(|scope| {
        let starting = scope.spawn(|| rig.container.start("e"));
        let Command::Spawn(process) = rig.guest.command() else { panic!("no spawn") };
        assert_eq!(process.stdio, [NO_HANDLE; 3]);
        let reason = b"no such file or directory".to_vec();
        rig.guest.event(&Event::SpawnFailed { key: process.key, errno: 2, reason });
        let error = starting.join().expect("joined").expect_err("it failed");
        assert!(matches!(error, Error::Program { errno: 2, .. }));
        assert_eq!(error.to_string(), "cannot run \"/bin/sh\": no such file or directory");
    });
    assert_eq!(rig.exit_of("e"), 127);
    assert!(rig.exits().is_empty(), "it never ran");
    assert!(rig.container.delete("e").is_ok());
}

#[test]
fn deleting_an_exec_wakes_who_waits() {
    let rig = Rig::running();
    rig.container.exec("e", process(false), null()).expect("registered");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| rig.container.wait("e"));
        thread::sleep(Duration::from_millis(20));
        assert_eq!(rig.container.delete("e").expect("deleted"), None);
        assert!(matches!(waiting.join().expect("joined"), Err(Error::NotFound { .. })));
    });
}

#[test]
fn signals_go_to_the_guest() {
    let rig = Rig::running();
    let key = rig.run_exec("e");
    rig.container.kill("e", 9, false).expect("sent");
    assert_eq!(rig.guest.command(), Command::Kill { key, signal: 9, all: false });
    rig.container.kill("", 15, true).expect("sent");
    assert_eq!(rig.guest.command(), Command::Kill { key: INIT_KEY, signal: 15, all: true });
    for signal in [0, 65, u32::MAX] {
        assert!(matches!(rig.container.kill("", signal, false), Err(Error::Invalid { .. })));
    }
}

#[test]
fn pause_and_resume_change_the_state_when_they_are_done() {
    let rig = Rig::running();
    assert!(matches!(rig.container.resume(), Err(Error::WrongState { .. })));
    thread::scope(|scope| {
        let pausing = scope.spawn(|| rig.container.pause());
        assert_eq!(rig.guest.receive(), Received::Request(Request::Pause));
        assert_eq!(rig.container.state(), ContainerState::Running);
        rig.guest.notice(&Notice::Paused);
        pausing.join().expect("joined").expect("paused");
        assert_eq!(rig.container.state(), ContainerState::Paused);
        assert!(matches!(rig.container.delete(""), Err(Error::WrongState { .. })));
        let resuming = scope.spawn(|| rig.container.resume());
        assert_eq!(rig.guest.receive(), Received::Request(Request::Resume));
        rig.guest.notice(&Notice::Resumed);
        resuming.join().expect("joined").expect("resumed");
    });
    assert_eq!(rig.container.state(), ContainerState::Running);
}

#[test]
fn processes_are_those_of_the_answer_to_this_request() {
    let rig = Rig::running();
    let list = vec![ProcessInfo { pid: 1, command: b"sh".to_vec(), ..ProcessInfo::default() }];
    thread::scope(|scope| {
        let listing = scope.spawn(|| rig.container.processes());
        let Command::ListProcesses { request } = rig.guest.command() else { panic!("no list") };
        rig.guest.event(&Event::Processes { request: request + 1, list: vec![] });
        rig.guest.event(&Event::Processes { request, list: list.clone() });
        assert_eq!(listing.join().expect("joined").expect("a list"), list);
    });
}

#[test]
fn terminal_size_is_stored_before_a_start_and_sent_after() {
    let rig = Rig::with(null(), true);
    rig.container.resize("", 30, 100).expect("sent");
    let resize = Command::Resize { key: INIT_KEY, rows: 30, columns: 100 };
    assert_eq!(rig.guest.command(), resize, "it is loaded already");
    rig.start();
    rig.container.exec("e", process(true), null()).expect("registered");
    rig.container.resize("e", 40, 120).expect("stored");
    thread::scope(|scope| {
        let starting = scope.spawn(|| rig.container.start("e"));
        let Command::Spawn(process) = rig.guest.command() else { panic!("no spawn") };
        assert_eq!((process.rows, process.columns), (40, 120));
        rig.guest.event(&Event::Spawned { key: process.key, pid: 9 });
        starting.join().expect("joined").expect("started");
    });
    rig.container.exec("plain", process(false), null()).expect("registered");
    let refused = rig.container.resize("plain", 1, 1);
    assert!(matches!(refused, Err(Error::WrongState { .. })));
    assert!(matches!(rig.container.resize("nobody", 1, 1), Err(Error::NotFound { .. })));
}

#[test]
fn output_that_was_submitted_is_read_before_the_wait_returns() {
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    let stdio = Stdio { stdout: Stream::Descriptor(writer.into()), ..null() };
    let rig = Rig::with(stdio, false);
    rig.start();
    // More than the pipe holds; the handle is the first that was given.
    let bytes = 1 << 20;
    rig.guest.window.write(DATA, &vec![b'x'; bytes as usize]).expect("in the window");
    let request = Submission {
        operation: Operation::Write,
        id: 0,
        handle: 1,
        bytes,
        data: 0,
        input: 0,
        argument: 0,
    };
    rig.guest.window.write(SUBMISSIONS, &request.encode()).expect("in the window");
    rig.guest.window.store_release(SQ_TAIL, 1).expect("in the window");
    rustix::io::write(&rig.guest.doorbell, &1_u64.to_ne_bytes()).expect("doorbell");
    rig.guest.exited(INIT_KEY, 0);

    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            thread::sleep(Duration::from_millis(200));
            let mut all = Vec::new();
            reader.read_to_end(&mut all).expect("read to the end");
            all.len()
        });
        thread::sleep(Duration::from_millis(50));
        assert_eq!(rig.container.state(), ContainerState::Running, "its output is under way");
        assert_eq!(rig.exit_of(""), 0);
        assert_eq!(reading.join().expect("joined"), bytes as usize);
    });
}

#[test]
fn input_of_an_exec_can_be_closed_before_its_start() {
    let rig = Rig::running();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("stdin");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).expect("fifo");
    let stdio = Stdio { stdin: Stream::Fifo(path.clone()), ..null() };
    rig.container.exec("e", process(false), stdio).expect("registered");
    rig.container.close_stdin("e").expect("closed");
    rig.container.close_stdin("e").expect("closed again");
    thread::scope(|scope| {
        let starting = scope.spawn(|| rig.container.start("e"));
        let Command::Spawn(process) = rig.guest.command() else { panic!("no spawn") };
        assert!(process.stdio[0] != NO_HANDLE && process.stdio[1] == NO_HANDLE);
        rig.guest.event(&Event::Spawned { key: process.key, pid: 9 });
        starting.join().expect("joined").expect("started");
    });
    // Nobody holds the writing end any more: a writer alone could not be opened if the reader
    // were gone, and the reader sees the end.
    assert!(matches!(rig.container.close_stdin("nobody"), Err(Error::NotFound { .. })));
    let missing = Stdio { stdout: Stream::Fifo(folder.path().join("no")), ..null() };
    rig.container.exec("f", process(false), missing).expect("registered");
    let error = rig.container.start("f").expect_err("no such fifo");
    assert!(error.to_string().contains("/no"), "{error}");
    assert_eq!(rig.exit_of("f"), 126);
}
