// SPDX-License-Identifier: Apache-2.0
//! What the files of a process say.

use alloc::{string::String, vec::Vec};
use core::{
    fmt::{self, Write},
    sync::atomic::Ordering,
};

use super::process::Subject;
use crate::{
    Errno,
    fs::{FileRef, event::PidFd, notify::Inotify, tty},
    mm::{Area, AreaKind, Mm, MmRef, PAGE_SIZE},
    process::signal::{SIG_DFL, SIG_IGN, SIGNAL_MAX, SignalSet, bit},
};

/// Clock ticks per second (`sysconf(_SC_CLK_TCK)`).
const TICK_NS: u64 = 10_000_000;
/// Most bytes of arguments or environment that are shown.
const STRINGS_MAX: u64 = 1 << 20;

/// Text that is put together piece by piece, and may hold names that are not UTF-8.
#[derive(Default)]
pub(super) struct Text(pub(super) Vec<u8>);

impl Text {
    pub(super) fn line(&mut self, line: fmt::Arguments<'_>) {
        self.add(line);
        self.0.push(b'\n');
    }

    pub(super) fn add(&mut self, text: fmt::Arguments<'_>) {
        let mut string = String::new();
        // Writing to a string cannot fail.
        let _ = string.write_fmt(text);
        self.0.extend_from_slice(string.as_bytes());
    }
}

fn memory(subject: &Subject) -> Result<MmRef, Errno> {
    subject.task()?.mm().ok_or(Errno::SRCH)
}

/// Memory of a process as far as it can be read.
fn strings(mm: &Mm, (start, end): (u64, u64)) -> Vec<u8> {
    let bytes = end.saturating_sub(start).min(STRINGS_MAX);
    let mut strings = alloc::vec![0; bytes as usize];
    match mm.read_bytes(start, &mut strings) {
        Ok(()) => strings,
        Err(_) => Vec::new(),
    }
}

pub(super) fn cmdline(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let Ok(mm) = memory(subject) else { return Ok(Vec::new()) };
    let range = mm.layout.lock().arguments;
    Ok(strings(&mm, range))
}

pub(super) fn environ(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let mm = memory(subject)?;
    let range = mm.layout.lock().environment;
    Ok(strings(&mm, range))
}

pub(super) fn auxv(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let mm = memory(subject)?;
    let auxv = mm.layout.lock().auxv.clone();
    Ok(auxv)
}

fn name(subject: &Subject) -> Vec<u8> {
    let Ok(task) = subject.task() else { return b"zombie".to_vec() };
    let name = *task.name.lock();
    name.iter().copied().take_while(|&byte| byte != 0).collect()
}

pub(super) fn comm(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let mut name = name(subject);
    name.push(b'\n');
    Ok(name)
}

pub(super) fn set_comm(subject: &Subject, name: &[u8]) -> Result<(), Errno> {
    let name = name.strip_suffix(b"\n").unwrap_or(name);
    let mut kept = [0; 16];
    let bytes = name.len().min(15);
    kept[..bytes].copy_from_slice(&name[..bytes]);
    *subject.task()?.name.lock() = kept;
    Ok(())
}

fn rights(area: &Area) -> [char; 4] {
    let flag = |set: bool, letter: char| if set { letter } else { '-' };
    [
        flag(area.protection.read, 'r'),
        flag(area.protection.write, 'w'),
        flag(area.protection.execute, 'x'),
        if area.is_shared() { 's' } else { 'p' },
    ]
}

fn map_line(subject: &Subject, area: &Area, text: &mut Text) {
    let [r, w, x, s] = rights(area);
    let (offset, device, ino, path) = match &area.kind {
        AreaKind::File { file, page, .. } => {
            let attr = file.attr();
            (page * PAGE_SIZE, attr.device, attr.ino, subject.shown(file.location()))
        }
        _ => match &area.label {
            Some(label) => (0, 0, 0, alloc::format!("[anon:{label}]").into_bytes()),
            None => (0, 0, 0, area.name.as_bytes().to_vec()),
        },
    };
    let (major, minor) = crate::fs::types::split_device(device);
    let start = text.0.len();
    text.add(format_args!(
        "{:08x}-{:08x} {r}{w}{x}{s} {offset:08x} {major:02x}:{minor:02x} {ino} ",
        area.start, area.end,
    ));
    if !path.is_empty() {
        while text.0.len() - start < 73 {
            text.0.push(b' ');
        }
        text.0.extend(path.iter().map(|&byte| if byte == b'\n' { b'?' } else { byte }));
    }
    text.0.push(b'\n');
}

pub(super) fn maps(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let mut text = Text::default();
    if let Ok(mm) = memory(subject) {
        for area in mm.list() {
            map_line(subject, &area, &mut text);
        }
    }
    Ok(text.0)
}

/// The part of smaps that can be told without walking page tables: sizes, not residency by area.
fn smaps_numbers(text: &mut Text, size_kib: u64, resident_kib: u64) {
    text.line(format_args!("Size:           {size_kib:8} kB"));
    text.line(format_args!("KernelPageSize:        4 kB"));
    text.line(format_args!("MMUPageSize:           4 kB"));
    let resident = ["Rss:", "Pss:", "Private_Dirty:", "Anonymous:"];
    for (name, kib) in resident.into_iter().map(|name| (name, resident_kib)) {
        text.line(format_args!("{name:16}{kib:8} kB"));
    }
    for name in ["Shared_Clean:", "Shared_Dirty:", "Private_Clean:", "AnonHugePages:", "Swap:"] {
        text.line(format_args!("{name:16}{:8} kB", 0));
    }
}

pub(super) fn smaps(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let mut text = Text::default();
    if let Ok(mm) = memory(subject) {
        let mut left = mm.resident_pages() * 4;
        for area in mm.list() {
            map_line(subject, &area, &mut text);
            let size = (area.end - area.start) / 1024;
            let part = size.min(left);
            left -= part;
            smaps_numbers(&mut text, size, part);
        }
    }
    Ok(text.0)
}

pub(super) fn smaps_rollup(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let mm = memory(subject)?;
    let areas = mm.list();
    let (start, end) = (areas.first().map_or(0, |a| a.start), areas.last().map_or(0, |a| a.end));
    let mut text = Text::default();
    text.line(format_args!("{start:08x}-{end:08x} ---p 00000000 00:00 0 [rollup]"));
    smaps_numbers(&mut text, mm.virtual_pages() * 4, mm.resident_pages() * 4);
    Ok(text.0)
}

/// Sets of ignored and of caught signals.
fn actions(subject: &Subject) -> (SignalSet, SignalSet) {
    let actions = subject.process.actions.lock().clone();
    let actions = actions.lock();
    (1..=SIGNAL_MAX).fold((0, 0), |(ignored, caught), signal| match actions.of(signal).handler {
        SIG_DFL => (ignored, caught),
        SIG_IGN => (ignored | bit(signal), caught),
        _ => (ignored, caught | bit(signal)),
    })
}

fn cpu_ns(subject: &Subject) -> (u64, u64) {
    match &subject.thread {
        None => subject.process.cpu_ns(),
        Some(task) => {
            (task.user_ns.load(Ordering::Relaxed), task.system_ns.load(Ordering::Relaxed))
        }
    }
}

pub(super) fn stat(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let process = &subject.process;
    let task = subject.task().ok();
    let mm = memory(subject).ok();
    let mut text = Text::default();
    text.add(format_args!("{} (", subject.id()));
    text.0.extend_from_slice(&name(subject));
    let terminal = tty::of_process(process);
    let (device, foreground) =
        terminal.as_ref().map_or((0, -1), |tty| (tty.device(), i64::from(tty.foreground())));
    text.add(format_args!(
        ") {} {} {} {} {device} {foreground} 0 {} 0 0 0",
        char::from(process.state_letter()),
        process.parent_pid(),
        process.pgid(),
        process.sid(),
        process.faults.load(Ordering::Relaxed),
    ));
    let (user, system) = cpu_ns(subject);
    let children =
        [0, 1].map(|at: usize| process.children_ns[at].load(Ordering::Relaxed) / TICK_NS);
    let nice = process.nice.load(Ordering::Relaxed).cast_signed();
    text.add(format_args!(
        " {} {} {} {} {} {nice} {} 0 {}",
        user / TICK_NS,
        system / TICK_NS,
        children[0],
        children[1],
        20 + nice,
        process.threads.lock().len(),
        process.start_ns / TICK_NS,
    ));
    let (pages, resident) =
        mm.as_ref().map_or((0, 0), |mm| (mm.virtual_pages(), mm.resident_pages()));
    let layout = mm.as_ref().map(|mm| mm.layout.lock().clone()).unwrap_or_default();
    text.add(format_args!(
        " {} {resident} {} {} {} {} 0 0",
        pages * PAGE_SIZE,
        u64::MAX,
        layout.code.0,
        layout.code.1,
        layout.stack_start,
    ));
    let low = |set: SignalSet| set & 0x7fff_ffff;
    let (pending, mask) =
        task.as_ref().map_or((0, 0), |task| (task.pending_signals(), task.signals.lock().mask));
    let (ignored, caught) = actions(subject);
    text.line(format_args!(
        " {} {} {} {} 0 0 0 {} 0 0 0 0 0 0 {} {} {} {} {} {} {} 0",
        low(pending),
        low(mask),
        low(ignored),
        low(caught),
        process.exit_signal.load(Ordering::Relaxed),
        layout.data.0,
        layout.data.1,
        layout.brk_start,
        layout.arguments.0,
        layout.arguments.1,
        layout.environment.0,
        layout.environment.1,
    ));
    Ok(text.0)
}

pub(super) fn statm(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let mut text = Text::default();
    match memory(subject) {
        Ok(mm) => {
            let (pages, resident) = (mm.virtual_pages(), mm.resident_pages());
            let code = {
                let layout = mm.layout.lock();
                (layout.code.1.saturating_sub(layout.code.0)).div_ceil(PAGE_SIZE)
            };
            text.line(format_args!("{pages} {resident} 0 {code} 0 {pages} 0"));
        }
        Err(_) => text.line(format_args!("0 0 0 0 0 0 0")),
    }
    Ok(text.0)
}

/// The bits of a mask as a list: `0-1,3`.
fn mask_list(mask: u64) -> String {
    let mut list = String::new();
    let mut at = 0;
    while at < 64 {
        if mask >> at & 1 == 0 {
            at += 1;
            continue;
        }
        let run = (mask >> at).trailing_ones();
        let comma = if list.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = match run {
            1 => write!(list, "{comma}{at}"),
            run => write!(list, "{comma}{at}-{}", at + run - 1),
        };
        at += run;
    }
    list
}

pub(super) fn status(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let process = &subject.process;
    let task = subject.task().ok();
    let mut text = Text::default();
    text.0.extend_from_slice(b"Name:\t");
    text.0.extend_from_slice(&name(subject));
    text.0.push(b'\n');
    if let Some(fs) = task.as_ref().and_then(|task| task.fs()) {
        text.line(format_args!("Umask:\t{:04o}", fs.lock().umask));
    }
    let state = process.state_letter();
    let word = match state {
        b'R' => "running",
        b'T' => "stopped",
        b't' => "tracing stop",
        b'Z' => "zombie",
        _ => "sleeping",
    };
    text.line(format_args!("State:\t{} ({word})", char::from(state)));
    text.line(format_args!("Tgid:\t{}", process.pid));
    text.line(format_args!("Ngid:\t0\nPid:\t{}", subject.id()));
    let tracer = task.as_ref().and_then(|task| task.tracer()).map_or(0, |tracer| tracer.pid);
    text.line(format_args!("PPid:\t{}\nTracerPid:\t{tracer}", process.parent_pid()));
    let creds = task.as_ref().map(|task| task.creds()).unwrap_or_default();
    let ids = [creds.uid, creds.euid, creds.suid, creds.fsuid];
    text.line(format_args!("Uid:\t{}\t{}\t{}\t{}", ids[0], ids[1], ids[2], ids[3]));
    let ids = [creds.gid, creds.egid, creds.sgid, creds.fsgid];
    text.line(format_args!("Gid:\t{}\t{}\t{}\t{}", ids[0], ids[1], ids[2], ids[3]));
    text.line(format_args!("FDSize:\t64"));
    text.add(format_args!("Groups:\t"));
    for group in &creds.groups {
        text.add(format_args!("{group} "));
    }
    text.0.push(b'\n');
    text.line(format_args!("NStgid:\t{}\nNSpid:\t{}", process.pid, subject.id()));
    text.line(format_args!("NSpgid:\t{}\nNSsid:\t{}", process.pgid(), process.sid()));
    if let Ok(mm) = memory(subject) {
        let (pages, resident) = (mm.virtual_pages() * 4, mm.resident_pages() * 4);
        let peak = process.peak_pages.load(Ordering::Relaxed) * 4;
        text.line(format_args!("VmPeak:\t{pages:8} kB\nVmSize:\t{pages:8} kB"));
        text.line(format_args!("VmLck:\t       0 kB\nVmPin:\t       0 kB"));
        text.line(format_args!("VmHWM:\t{:8} kB\nVmRSS:\t{resident:8} kB", peak.max(resident)));
        text.line(format_args!("VmData:\t{pages:8} kB\nVmSwap:\t       0 kB"));
    }
    text.line(format_args!("Threads:\t{}", process.threads.lock().len()));
    let own = task.as_ref().map_or((0, 0), |task| {
        let signals = task.signals.lock();
        (signals.pending.set(), signals.mask)
    });
    let shared = process.pending.lock().set();
    let (ignored, caught) = actions(subject);
    text.line(format_args!("SigQ:\t0/4096\nSigPnd:\t{:016x}\nShdPnd:\t{shared:016x}", own.0));
    text.line(format_args!(
        "SigBlk:\t{:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}",
        own.1
    ));
    let caps = &creds.caps;
    text.line(format_args!(
        "CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}",
        caps.inheritable, caps.permitted, caps.effective, caps.bounding, caps.ambient
    ));
    let seccomp = task.as_ref().map(|task| task.seccomp.lock().clone()).unwrap_or_default();
    text.line(format_args!("NoNewPrivs:\t{}", u32::from(creds.no_new_privileges)));
    text.line(format_args!("Seccomp:\t{}\nSeccomp_filters:\t{}", seccomp.mode(), seccomp.count()));
    let cpus = subject.shared.vfs.upgrade().map_or(1, |vfs| vfs.cpus());
    let all = if cpus >= 64 { u64::MAX } else { (1 << cpus) - 1 };
    let allowed = all & task.as_ref().map_or(all, |t| t.affinity.load(Ordering::Relaxed));
    text.line(format_args!("Cpus_allowed:\t{allowed:x}"));
    text.line(format_args!("Cpus_allowed_list:\t{}", mask_list(allowed)));
    text.line(format_args!("Mems_allowed:\t1\nMems_allowed_list:\t0"));
    text.line(format_args!("voluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0"));
    Ok(text.0)
}

/// The old scale of oom_score_adj: -17 to 15.
pub(super) fn oom_adj(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let value = subject.process.oom_score_adj.load(Ordering::Relaxed);
    let scaled = if value == 1000 { 15 } else { value * 17 / 1000 };
    Ok(alloc::format!("{scaled}\n").into_bytes())
}

/// How bad the process is: 0 to 2000, of which 1000 is all of memory.
pub(super) fn oom_score(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let adjustment = i64::from(subject.process.oom_score_adj.load(Ordering::Relaxed));
    let ram_pages = subject.shared.services.arena.ram_bytes() / PAGE_SIZE;
    let pages = memory(subject).map_or(0, |mm| mm.resident_pages());
    let share = (pages * 1000 / ram_pages.max(1)).cast_signed();
    let score = if adjustment == -1000 { 0 } else { (share + adjustment).max(0) };
    Ok(alloc::format!("{score}\n").into_bytes())
}

pub(super) fn personality(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let persona = subject.process.personality.load(Ordering::Relaxed);
    Ok(alloc::format!("{persona:08x}\n").into_bytes())
}

pub(super) fn io(_subject: &Subject) -> Result<Vec<u8>, Errno> {
    let names =
        ["rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "cancelled_write_bytes"];
    let mut text = Text::default();
    for name in names {
        text.line(format_args!("{name}: 0"));
    }
    Ok(text.0)
}

pub(super) fn limits(subject: &Subject) -> Result<Vec<u8>, Errno> {
    const NAMES: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    let limits = subject.process.limits.lock().clone();
    let mut text = Text::default();
    text.line(format_args!(
        "{:<25} {:<20} {:<20} {:<10}",
        "Limit", "Soft Limit", "Hard Limit", "Units"
    ));
    let shown = |value: u64| match value {
        u64::MAX => String::from("unlimited"),
        value => alloc::format!("{value}"),
    };
    for ((name, unit), (soft, hard)) in NAMES.iter().zip(limits.0) {
        text.line(format_args!("{name:<25} {:<20} {:<20} {unit:<10}", shown(soft), shown(hard)));
    }
    Ok(text.0)
}

/// A path with what separates fields made octal, as in /proc/mounts.
fn escaped(path: &[u8], text: &mut Text) {
    for &byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => text.add(format_args!("\\{byte:03o}")),
            byte => text.0.push(byte),
        }
    }
}

pub(super) fn mounts(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let vfs = subject.shared.vfs.upgrade().ok_or(Errno::NOENT)?;
    let mut text = Text::default();
    for mount in vfs.mounts() {
        let root = crate::fs::Location { dentry: mount.root().clone(), mount: mount.clone() };
        escaped(&mount.source, &mut text);
        text.0.push(b' ');
        escaped(&subject.shown(&root), &mut text);
        let access = if mount.is_readonly() { "ro" } else { "rw" };
        text.add(format_args!(" {} {access}", mount.fs.name()));
        for (set, word) in [(mount.nosuid, ",nosuid"), (mount.noexec, ",noexec")] {
            text.add(format_args!("{}", if set { word } else { "" }));
        }
        text.line(format_args!(",relatime 0 0"));
    }
    Ok(text.0)
}

pub(super) fn mountinfo(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let vfs = subject.shared.vfs.upgrade().ok_or(Errno::NOENT)?;
    let mut text = Text::default();
    for mount in vfs.mounts() {
        let root = crate::fs::Location { dentry: mount.root().clone(), mount: mount.clone() };
        let parent = mount.point().map_or(1, |point| point.mount.id);
        let (major, minor) = crate::fs::types::split_device(mount.fs.device());
        text.add(format_args!("{} {parent} {major}:{minor} / ", mount.id));
        escaped(&subject.shown(&root), &mut text);
        let access = if mount.is_readonly() { "ro" } else { "rw" };
        text.add(format_args!(" {access}"));
        for (set, word) in [(mount.nosuid, ",nosuid"), (mount.noexec, ",noexec")] {
            text.add(format_args!("{}", if set { word } else { "" }));
        }
        text.add(format_args!(",relatime - {} ", mount.fs.name()));
        escaped(&mount.source, &mut text);
        text.line(format_args!(" {access}"));
    }
    Ok(text.0)
}

pub(super) fn fdinfo(file: &FileRef) -> Result<Vec<u8>, Errno> {
    let position = *file.position().lock();
    let mut text = Text::default();
    text.line(format_args!("pos:\t{position}"));
    text.line(format_args!("flags:\t0{:o}", file.flags().bits()));
    text.line(format_args!("mnt_id:\t{}", file.location().mount.id));
    text.line(format_args!("ino:\t{}", file.attr().ino));
    if let Some(inotify) = file.ops().as_any().downcast_ref::<Inotify>() {
        for (descriptor, ino, device, mask) in inotify.list() {
            text.line(format_args!(
                "inotify wd:{descriptor:x} ino:{ino:x} sdev:{device:x} mask:{mask:x} ignored_mask:0"
            ));
        }
    }
    if let Some(pidfd) = file.ops().as_any().downcast_ref::<PidFd>() {
        let process = pidfd.process();
        let gone = process.is_zombie() && process.any_thread().is_none();
        let pid = if gone { -1 } else { process.pid.cast_signed() };
        text.line(format_args!("Pid:\t{pid}\nNSpid:\t{pid}"));
    }
    Ok(text.0)
}
