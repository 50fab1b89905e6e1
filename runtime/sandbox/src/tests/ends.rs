// SPDX-License-Identifier: Apache-2.0
//! Ends by force, by accident and by malice.

use std::{
    thread,
    time::{Duration, Instant},
};

use trine_abi::control::{Event, INIT_KEY};
use trine_vmm::protocol::{Cause, Notice, Request};

use super::rig::{Received, Rig};
use crate::{ContainerState, Error};

#[test]
fn sigkill_ends_a_vmm_that_answers() {
    let rig = Rig::running();
    rig.run_exec("e");
    thread::scope(|scope| {
        let killing = scope.spawn(|| rig.container.kill("", 9, false));
        assert_eq!(rig.guest.receive(), Received::Request(Request::Stop));
        rig.guest.notice(&Notice::Ended { cause: Cause::Stopped, reason: "asked to".into() });
        killing.join().expect("joined").expect("killed");
    });
    // The rest of the VMM's life is its own; here it ends by force.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(rig.vmm_pid as i32).expect("a pid"),
        rustix::process::Signal::KILL,
    )
    .expect("killed");
    let Rig { container, guest, exits, .. } = rig;
    drop(guest);
    assert_eq!(container.wait("").expect("an exit").code, 137);
    let exits = exits.lock().expect("lock").clone();
    assert_eq!(exits, [("e".to_owned(), 137), (String::new(), 137)]);
    assert!(matches!(container.kill("", 9, false), Err(Error::NotFound { .. })));
}

#[test]
fn sigkill_ends_a_vmm_that_hangs() {
    let rig = Rig::running();
    let Rig { container, guest, .. } = rig;
    // Only the process that reads nothing holds the link now.
    drop(guest);
    let start = Instant::now();
    container.kill("", 9, false).expect("killed");
    assert_eq!(container.wait("").expect("an exit").code, 137);
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
    assert_eq!(container.end_reason().as_deref(), Some("it was killed"));
    assert_eq!(container.delete("").expect("deleted").expect("a status").code, 137);
}

#[test]
fn guest_that_takes_no_commands_blocks_nobody_for_long() {
    let rig = Rig::running();
    let Rig { container, guest, .. } = rig;
    drop(guest);
    let start = Instant::now();
    thread::scope(|scope| {
        // Enough to fill the link: one of these waits for its deadline.
        let flooding = scope.spawn(|| while container.kill("", 15, false).is_ok() {});
        thread::sleep(Duration::from_millis(300));
        container.kill("", 9, false).expect("killed");
        assert_eq!(container.wait("").expect("an exit").code, 137);
        flooding.join().expect("joined");
    });
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
}

#[test]
fn killing_a_created_container_ends_it() {
    let rig = Rig::new();
    let Rig { container, guest, exits, .. } = rig;
    drop(guest);
    container.kill("", 9, false).expect("killed");
    assert_eq!(container.wait("").expect("an exit").code, 137);
    assert_eq!(exits.lock().expect("lock").len(), 1);
    assert!(matches!(container.start(""), Err(Error::WrongState { state: "stopped", .. })));
}

#[test]
fn deleting_a_created_container_tells_nobody() {
    let rig = Rig::new();
    let Rig { container, guest, exits, vmm_pid, .. } = rig;
    drop(guest);
    assert_eq!(container.delete("").expect("deleted"), None);
    assert!(exits.lock().expect("lock").is_empty());
    assert!(!std::path::Path::new(&format!("/proc/{vmm_pid}")).exists());
}

#[test]
fn malformed_event_ends_the_vm() {
    let rig = Rig::running();
    rig.guest.raw_event(&[250, 1, 2, 3]);
    let Rig { container, .. } = rig;
    assert_eq!(container.wait("").expect("an exit").code, 137);
    let reason = container.end_reason().expect("a reason");
    assert!(reason.contains("event that cannot be read"), "{reason}");
}

#[test]
fn vmm_that_dies_is_an_exit_with_a_reason() {
    let rig = Rig::running();
    let Rig { container, guest, vmm_pid, .. } = rig;
    drop(guest);
    let pid = rustix::process::Pid::from_raw(vmm_pid as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::SEGV).expect("killed");
    assert_eq!(container.wait("").expect("an exit").code, 137);
    assert_eq!(container.end_reason().as_deref(), Some("vmm was killed by signal 11"));
    let error = container.processes().expect_err("it is gone");
    assert!(matches!(error, Error::VmEnded { .. } | Error::Host { .. }), "{error:?}");
}

#[test]
fn panic_and_lack_of_memory_are_told_apart() {
    for (cause, out_of_memory) in [(Cause::Panic, false), (Cause::OutOfMemory, true)] {
        let rig = Rig::running();
        rig.guest.notice(&Notice::Ended { cause, reason: "what\nhappened".into() });
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(rig.vmm_pid as i32).expect("a pid"),
            rustix::process::Signal::TERM,
        )
        .expect("killed");
        let Rig { container, guest, .. } = rig;
        drop(guest);
        let status = container.wait("").expect("an exit");
        assert_eq!((status.code, status.out_of_memory), (137, out_of_memory));
        assert_eq!(container.end_reason().as_deref(), Some("what?happened"));
    }
}

#[test]
fn end_of_the_io_process_ends_its_containers() {
    let rig = Rig::running();
    rig.io_peer.shut_down();
    rig.io.await_end();
    let Rig { container, guest, .. } = rig;
    drop(guest);
    assert_eq!(container.wait("").expect("an exit").code, 137);
    let reason = container.end_reason().expect("a reason");
    assert!(reason.contains("trine-io"), "{reason}");
}

#[test]
fn window_that_is_misused_ends_its_vm() {
    let rig = Rig::running();
    rig.guest.window.store_release(trine_abi::window::SQ_TAIL, 1000).expect("in the window");
    rustix::io::write(&rig.guest.doorbell, &1_u64.to_ne_bytes()).expect("doorbell");
    let Rig { container, guest, .. } = rig;
    drop(guest);
    assert_eq!(container.wait("").expect("an exit").code, 137);
    let reason = container.end_reason().expect("a reason");
    assert!(reason.contains("rules of its window"), "{reason}");
}

#[test]
fn signal_can_end_a_process_before_its_start() {
    let rig = Rig::new();
    rig.container.kill("", 15, false).expect("sent");
    rig.guest.exited(INIT_KEY, 15);
    assert_eq!(rig.exit_of(""), 143);
    assert_eq!(rig.container.state(), ContainerState::Stopped);
}

#[test]
fn events_about_nobody_change_nothing() {
    let rig = Rig::running();
    rig.guest.exited(77, 0);
    rig.guest.event(&Event::Spawned { key: 77, pid: 1 });
    rig.guest.event(&Event::SpawnFailed { key: INIT_KEY, errno: 1, reason: vec![] });
    rig.guest.event(&Event::OutOfMemory { pid: 4 });
    rig.guest.event(&Event::Processes { request: 9, list: vec![] });
    rig.guest.event(&Event::Log { text: vec![7; 5000] });
    rig.guest.exited(INIT_KEY, 0);
    rig.guest.exited(INIT_KEY, 1 << 8);
    assert_eq!(rig.exit_of(""), 0);
    assert_eq!(rig.exits(), [(String::new(), 0)]);
}

#[test]
fn vm_that_does_not_power_off_is_killed() {
    let rig = Rig::running();
    rig.guest.exited(INIT_KEY, 0);
    assert_eq!(rig.exit_of(""), 0);
    let start = Instant::now();
    let stat = format!("/proc/{}/stat", rig.vmm_pid);
    let is_zombie = || std::fs::read_to_string(&stat).expect("stat").contains(") Z ");
    while !is_zombie() {
        assert!(start.elapsed() < Duration::from_secs(10), "it lives");
        thread::sleep(Duration::from_millis(50));
    }
}
