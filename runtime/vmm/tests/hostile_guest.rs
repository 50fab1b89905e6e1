// SPDX-License-Identifier: Apache-2.0
//! What a VMM does when its guest fails or attacks it: the real kernel image with its first
//! instructions replaced.  Needs /dev/kvm and a built kernel (`make kernel`); skips loudly without.

use std::{
    fs::File,
    io::Write,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use elf::{ElfBytes, abi::PT_LOAD, endian::LittleEndian};
use rustix::{event::EventfdFlags, fs::MemfdFlags};
use trine_abi::{
    layout::{CONTROL_RINGS, DIRECT_MAP, MMIO_CALL, PAGE_SIZE},
    ring::{RING_STRIDE, TAIL_OFFSET},
    window::WINDOW_BYTES,
};
use trine_jail::Landlock;
use trine_link::Link;
use trine_vmm::protocol::{
    BOOT, BootRequest, Cause, NOTICE, Notice, REQUEST, Request, SystemCalls,
};

/// The kernel image, or why there is none.
fn kernel() -> Result<Vec<u8>, String> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        return Err(format!("/dev/kvm: {error}"));
    }
    let path = std::env::var_os("TRINE_KERNEL").map_or_else(
        || {
            let target = Path::new(env!("CARGO_BIN_EXE_trine-vmm")).parent();
            let release = target.and_then(Path::parent).map(|dir| dir.join("release/trine-kernel"));
            release.unwrap_or_default()
        },
        PathBuf::from,
    );
    std::fs::read(&path).map_err(|error| format!("{}: {error} (make kernel)", path.display()))
}

/// The kernel with `code` in place of its entry.
fn kernel_with(code: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = match kernel() {
        Ok(bytes) => bytes,
        Err(reason) => {
            eprintln!("SKIPPED: {reason}");
            return None;
        }
    };
    let at = {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(&bytes).expect("an elf file");
        let entry = elf.ehdr.e_entry;
        let segment = elf
            .segments()
            .expect("segments")
            .iter()
            .find(|s| entry >= s.p_vaddr && entry < s.p_vaddr + s.p_filesz)
            .expect("the entry is in a segment");
        (entry - segment.p_vaddr + segment.p_offset) as usize
    };
    bytes[at..at + code.len()].copy_from_slice(code);
    Some(bytes)
}

/// `movabs $address, %rax; movl $value, (%rax)`.
fn store(address: u64, value: u32) -> Vec<u8> {
    let mut code = vec![0x48, 0xb8];
    code.extend(address.to_le_bytes());
    code.extend([0xc7, 0x00]);
    code.extend(value.to_le_bytes());
    code
}

fn temporary(bytes: &[u8]) -> OwnedFd {
    let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).expect("memfd");
    File::from(file.try_clone().expect("dup")).write_all(bytes).expect("write");
    // A second, read-only description, as images must have.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    File::open(path).expect("reopen").into()
}

struct Vm {
    link: Link,
    child: Child,
}

impl Vm {
    fn boot(kernel: &[u8], memory_bytes: u64) -> Self {
        let (link, end) = Link::pair().expect("a link");
        let child = Command::new(env!("CARGO_BIN_EXE_trine-vmm"))
            .stdin(Stdio::from(end))
            .stderr(Stdio::null())
            .spawn()
            .expect("trine-vmm starts");
        let window = rustix::fs::memfd_create("window", MemfdFlags::CLOEXEC).expect("memfd");
        rustix::fs::ftruncate(&window, WINDOW_BYTES).expect("size");
        let event = || rustix::event::eventfd(0, EventfdFlags::NONBLOCK).expect("eventfd");
        let (doorbell, notify) = (event(), event());
        let (kernel, image) = (temporary(kernel), temporary(&[0; 4096]));
        let request = BootRequest {
            id: "test".into(),
            memory_bytes,
            vcpus: 1,
            images: 1,
            landlock: Landlock::BestEffort,
            system_calls: SystemCalls::default(),
        };
        let payload = serde_json::to_vec(&request).expect("json");
        let descriptors =
            [kernel.as_fd(), window.as_fd(), doorbell.as_fd(), notify.as_fd(), image.as_fd()];
        link.send(BOOT, &payload, &descriptors).expect("boot request");
        Self { link, child }
    }

    /// Reads notices up to the last one.
    fn end(mut self) -> (Cause, String) {
        let mut end = None;
        while let Some(message) = self.link.receive().expect("link") {
            if message.kind == NOTICE
                && let Notice::Ended { cause, reason } =
                    serde_json::from_slice(&message.payload).expect("a notice")
            {
                end = Some((cause, reason));
            }
        }
        self.child.wait().expect("trine-vmm ends");
        end.expect("the end was reported")
    }
}

fn end_of(code: &[u8]) -> Option<(Cause, String)> {
    Some(Vm::boot(&kernel_with(code)?, 64 << 20).end())
}

#[test]
fn trap_before_the_kernel_is_ready_is_reported() {
    let Some((cause, reason)) = end_of(&[0x0f, 0x0b]) else { return };
    assert_eq!(cause, Cause::Panic, "{reason}");
    assert!(reason.contains("early trap: vector 6"), "{reason}");
}

#[test]
fn access_to_unbacked_memory_ends_the_vm() {
    let code = store(DIRECT_MAP + MMIO_CALL + 0x1000, 1);
    let Some((cause, reason)) = end_of(&code) else { return };
    assert_eq!(cause, Cause::BadGuest, "{reason}");
    assert!(reason.contains("unbacked address 0x4000002000"), "{reason}");
}

#[test]
fn unknown_call_ends_the_vm() {
    let Some((cause, reason)) = end_of(&store(DIRECT_MAP + MMIO_CALL, 99)) else { return };
    assert_eq!((cause, reason.as_str()), (Cause::BadGuest, "guest failed: unknown call 99"));
}

#[test]
fn impossible_ring_position_ends_the_vm() {
    let tail = DIRECT_MAP + CONTROL_RINGS + RING_STRIDE + TAIL_OFFSET;
    let mut code = store(tail, u32::MAX);
    code.extend(store(DIRECT_MAP + MMIO_CALL, 2));
    code.extend([0xeb, 0xfe]);
    let Some((cause, reason)) = end_of(&code) else { return };
    assert_eq!(cause, Cause::BadGuest, "{reason}");
    assert!(reason.contains("broken control ring"), "{reason}");
}

#[test]
fn triple_fault_ends_the_vm() {
    // No gate for #UD and none for the double fault that follows.  The tables of vCPU 0 follow the
    // kernel: a page for GDT and TSS, then the IDT.
    let Ok(bytes) = kernel() else { return };
    let elf = ElfBytes::<LittleEndian>::minimal_parse(&bytes).expect("an elf file");
    let loaded = elf.segments().expect("segments").iter().filter(|s| s.p_type == PT_LOAD);
    let end = loaded.map(|s| s.p_vaddr + s.p_memsz).max().expect("a loaded segment");
    let idt = end.next_multiple_of(PAGE_SIZE) + PAGE_SIZE;
    let mut code = Vec::new();
    for vector in [6, 8, 13] {
        code.extend(store(idt + vector * 16, 0));
        code.extend(store(idt + vector * 16 + 4, 0));
    }
    code.extend([0x0f, 0x0b]);
    let Some((cause, reason)) = end_of(&code) else { return };
    assert_eq!(cause, Cause::BadGuest, "{reason}");
}

#[test]
fn stop_request_ends_a_guest_that_spins() {
    let Some(kernel) = kernel_with(&[0xeb, 0xfe]) else { return };
    let vm = Vm::boot(&kernel, 64 << 20);
    let payload = serde_json::to_vec(&Request::Stop).expect("json");
    let begin = Instant::now();
    vm.link.send(REQUEST, &payload, &[]).expect("stop request");
    assert_eq!(vm.end().0, Cause::Stopped);
    assert!(begin.elapsed() < Duration::from_secs(1), "a busy guest ends within a second");
}

#[test]
fn closed_link_ends_the_vmm() {
    let Some(kernel) = kernel_with(&[0xeb, 0xfe]) else { return };
    let Vm { link, mut child } = Vm::boot(&kernel, 64 << 20);
    let message = link.receive().expect("link").expect("booted");
    assert_eq!(message.kind, NOTICE);
    link.shut_down();
    drop(link);
    child.wait().expect("trine-vmm ends with its sandbox");
}

#[test]
fn too_little_memory_is_refused() {
    let Some(kernel) = kernel_with(&[0xeb, 0xfe]) else { return };
    let (cause, reason) = Vm::boot(&kernel, 4 << 20).end();
    assert_eq!(cause, Cause::Host);
    assert!(reason.contains("below the minimum"), "{reason}");
}

#[test]
fn garbage_kernel_is_refused() {
    if kernel_with(&[]).is_none() {
        return;
    }
    for garbage in [&b"not a kernel"[..], &[0x7f; 4096]] {
        let (cause, reason) = Vm::boot(garbage, 64 << 20).end();
        assert_eq!(cause, Cause::Host);
        assert!(reason.contains("kernel image is unusable"), "{reason}");
    }
}
