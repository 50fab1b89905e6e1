// SPDX-License-Identifier: Apache-2.0
//! Files of the whole system, and /proc/sys.

use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use trine_abi::socket::NETWORK_FILES;

use super::{Shared, facts::Text};
use crate::{
    Errno,
    fs::{
        inode::InodeRef,
        mount::Vfs,
        pipe::CAPACITY_MAX,
        pseudo::{self, Numbers},
        types::{Attr, FileType},
    },
    process::creds::CAP_SYS_ADMIN,
};

/// What the kernel says it is (uname(2)).
pub(crate) const RELEASE: &str = "6.1.0-trine";
const VERSION: &str = "#1 SMP";
const TICK_NS: u64 = 10_000_000;

/// The files of the root directory.
pub(super) fn entries(
    shared: &Arc<Shared>,
    numbers: &mut Numbers,
) -> Vec<(&'static str, InodeRef)> {
    type ReadFn = fn(&Shared) -> Vec<u8>;
    let made: [(&str, ReadFn); 8] = [
        ("cpuinfo", cpuinfo),
        ("meminfo", meminfo),
        ("stat", stat),
        ("loadavg", loadavg),
        ("uptime", uptime),
        ("version", version),
        ("vmstat", vmstat),
        ("partitions", |_| b"major minor  #blocks  name\n\n".to_vec()),
    ];
    let mut entries: Vec<(&'static str, InodeRef)> = made
        .into_iter()
        .map(|(name, read)| {
            let shared = Arc::clone(shared);
            (name, pseudo::file(numbers.file(0o444), move || Ok(read(&shared))))
        })
        .collect();
    let fixed = [
        (
            "filesystems",
            "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tcgroup2\nnodev\tdevpts\n\
             nodev\tmqueue\nnodev\toverlay\n\terofs\n",
        ),
        ("cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"),
        ("cmdline", "trine\n"),
        ("devices", "Character devices:\n  1 mem\n  5 /dev/tty\n136 pts\n\nBlock devices:\n"),
        ("diskstats", ""),
        ("interrupts", "           CPU0\n"),
        ("modules", ""),
        ("swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"),
    ];
    entries.extend(fixed.map(|(name, text)| (name, numbers.text(text))));
    entries.push(("sys", sys(shared, numbers)));
    entries
}

fn cpus(shared: &Shared) -> u32 {
    shared.vfs.upgrade().map_or(1, |vfs| vfs.cpus())
}

fn cpuinfo(shared: &Shared) -> Vec<u8> {
    let mut text = Text::default();
    let cpus = cpus(shared);
    for cpu in 0..cpus {
        text.line(format_args!("processor\t: {cpu}"));
        text.line(format_args!("vendor_id\t: GenuineTrine"));
        text.line(format_args!("cpu family\t: 6\nmodel\t\t: 1"));
        text.line(format_args!("model name\t: virtual x86-64 CPU"));
        text.line(format_args!("physical id\t: 0\nsiblings\t: {cpus}\ncore id\t\t: {cpu}"));
        text.line(format_args!("cpu cores\t: {cpus}"));
        // The base instruction set: CPUID tells programs the rest.
        text.line(format_args!(
            "flags\t\t: fpu tsc cx8 cmov mmx fxsr sse sse2 syscall nx lm constant_tsc"
        ));
        text.line(format_args!("address sizes\t: 46 bits physical, 48 bits virtual\n"));
    }
    text.0
}

fn meminfo(shared: &Shared) -> Vec<u8> {
    let arena = shared.services.arena;
    let (total, free) = (arena.ram_bytes() / 1024, arena.free_bytes() / 1024);
    let mut text = Text::default();
    let values = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", total - free),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", total - free),
        ("Mapped", 0),
        ("Shmem", 0),
        ("Slab", 0),
        ("CommitLimit", total),
        ("Committed_AS", total - free),
        ("VmallocTotal", 0),
        ("HugePages_Total", 0),
        ("HugePages_Free", 0),
        ("Hugepagesize", 2048),
    ];
    for (name, value) in values {
        let unit = if name.starts_with("HugePages") { "" } else { " kB" };
        text.line(format_args!("{:<16}{value:8}{unit}", alloc::format!("{name}:")));
    }
    text.0
}

fn vmstat(shared: &Shared) -> Vec<u8> {
    let arena = shared.services.arena;
    let (total, free) = (arena.ram_bytes() / 4096, arena.free_bytes() / 4096);
    let processes = shared.services.registry.processes();
    let faults = processes.iter().map(|p| p.faults.load(Ordering::Relaxed)).sum();
    let mut text = Text::default();
    let values = [
        ("nr_free_pages", free),
        ("nr_inactive_anon", 0),
        ("nr_active_anon", total - free),
        ("nr_inactive_file", 0),
        ("nr_active_file", 0),
        ("nr_unevictable", 0),
        ("nr_mlock", 0),
        ("nr_anon_pages", total - free),
        ("nr_mapped", 0),
        ("nr_file_pages", 0),
        ("nr_dirty", 0),
        ("nr_writeback", 0),
        ("nr_shmem", 0),
        ("pgpgin", 0),
        ("pgpgout", 0),
        ("pswpin", 0),
        ("pswpout", 0),
        ("pgfault", faults),
        ("pgmajfault", 0),
        ("oom_kill", 0),
    ];
    for (name, value) in values {
        text.line(format_args!("{name} {value}"));
    }
    text.0
}

/// CPU time of all processes, in ticks: application, kernel.
fn busy(shared: &Shared) -> (u64, u64) {
    let (user, system) = busy_ns(shared);
    (user / TICK_NS, system / TICK_NS)
}

fn busy_ns(shared: &Shared) -> (u64, u64) {
    let mut sum = (0, 0);
    for process in shared.services.registry.processes() {
        let (user, system) = process.cpu_ns();
        sum = (sum.0 + user, sum.1 + system);
    }
    sum
}

fn stat(shared: &Shared) -> Vec<u8> {
    let (user, system) = busy(shared);
    let up = shared.services.monotonic_ns() / TICK_NS;
    let cpus = u64::from(cpus(shared));
    let idle = (up * cpus).saturating_sub(user + system);
    let mut text = Text::default();
    text.line(format_args!("cpu  {user} 0 {system} {idle} 0 0 0 0 0 0"));
    for cpu in 0..cpus {
        let (user, system, idle) = (user / cpus, system / cpus, idle / cpus);
        text.line(format_args!("cpu{cpu} {user} 0 {system} {idle} 0 0 0 0 0 0"));
    }
    let registry = &shared.services.registry;
    let boot = shared.services.realtime_offset_ns / 1_000_000_000;
    text.line(format_args!("intr 0\nctxt 0\nbtime {boot}"));
    text.line(format_args!("processes {}", registry.task_count()));
    text.line(format_args!("procs_running 1\nprocs_blocked 0\nsoftirq 0"));
    text.0
}

fn loadavg(shared: &Shared) -> Vec<u8> {
    let tasks = shared.services.registry.tasks();
    let running = tasks
        .iter()
        .filter(|task| task.phase() == crate::process::task::Phase::Runnable)
        .count()
        .max(1);
    let last = tasks.iter().map(|task| task.tid()).max().unwrap_or(1);
    let mut text = Text::default();
    text.line(format_args!("0.00 0.00 0.00 {running}/{} {last}", tasks.len()));
    text.0
}

fn uptime(shared: &Shared) -> Vec<u8> {
    // The processes' time first, and all in nanoseconds: what is idle never becomes less.
    let (user, system) = busy_ns(shared);
    let up = shared.services.monotonic_ns();
    let idle = (up * u64::from(cpus(shared))).saturating_sub(user + system) / TICK_NS;
    let hundredths = up / TICK_NS;
    let mut text = Text::default();
    text.line(format_args!(
        "{}.{:02} {}.{:02}",
        hundredths / 100,
        hundredths % 100,
        idle / 100,
        idle % 100
    ));
    text.0
}

fn version(_shared: &Shared) -> Vec<u8> {
    alloc::format!("Linux version {RELEASE} (trine) {VERSION}\n").into_bytes()
}

fn line(bytes: &[u8]) -> Vec<u8> {
    [bytes, b"\n"].concat()
}

fn uuid(shared: &Shared) -> String {
    let mut bytes = [0; 16];
    shared.services.random(&mut bytes);
    format_uuid(bytes)
}

/// A random UUID (version 4).
fn format_uuid(mut bytes: [u8; 16]) -> String {
    use core::fmt::Write;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{dash}{byte:02x}");
    }
    text
}

fn name_file(
    shared: &Arc<Shared>,
    numbers: &mut Numbers,
    get: fn(&Vfs) -> Vec<u8>,
    set: fn(&Vfs, Vec<u8>),
) -> InodeRef {
    let (reader, writer) = (Arc::clone(shared), Arc::clone(shared));
    pseudo::writable(
        numbers.file(0o644),
        move || Ok(line(&get(&*reader.vfs.upgrade().ok_or(Errno::IO)?))),
        move |text| {
            let creds = writer.services.current().map(|task| task.creds());
            if !creds.is_some_and(|creds| creds.has_cap(CAP_SYS_ADMIN)) {
                return Err(Errno::PERM);
            }
            let text = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
            if text.len() > 64 {
                return Err(Errno::INVAL);
            }
            set(&*writer.vfs.upgrade().ok_or(Errno::IO)?, text.to_vec());
            Ok(())
        },
    )
}

fn sys(shared: &Arc<Shared>, n: &mut Numbers) -> InodeRef {
    let host = name_file(
        shared,
        n,
        |vfs| vfs.names.lock().host.clone(),
        |vfs, name| vfs.names.lock().host = name,
    );
    let domain = name_file(
        shared,
        n,
        |vfs| vfs.names.lock().domain.clone(),
        |vfs, name| vfs.names.lock().domain = name,
    );
    let boot_id = uuid(shared);
    let random = {
        let fresh = Arc::clone(shared);
        let entries = [
            ("uuid", pseudo::file(n.file(0o444), move || Ok(line(uuid(&fresh).as_bytes())))),
            ("boot_id", pseudo::file(n.file(0o444), move || Ok(line(boot_id.as_bytes())))),
            ("entropy_avail", n.text("256\n")),
            ("poolsize", n.text("256\n")),
        ];
        n.dir(Vec::from(entries))
    };
    let release = pseudo::file(n.file(0o444), || Ok(line(RELEASE.as_bytes())));
    let version = pseudo::file(n.file(0o444), || Ok(line(VERSION.as_bytes())));
    let services = Arc::clone(&shared.services);
    let threads_max = pseudo::file(n.file(0o444), move || {
        Ok(line(format!("{}", services.tasks_max()).as_bytes()))
    });
    let yama = [("ptrace_scope", n.text("0\n"))];
    let mut kernel = Vec::from([
        ("hostname", host),
        ("domainname", domain),
        ("random", random),
        ("osrelease", release),
        ("version", version),
        ("threads-max", threads_max),
        ("yama", n.dir(Vec::from(yama))),
    ]);
    let texts = [
        ("ostype", "Linux\n"),
        ("pid_max", "32768\n"),
        ("cap_last_cap", "40\n"),
        ("ngroups_max", "65536\n"),
        ("core_pattern", "core\n"),
        ("sem", "32000\t1024000000\t500\t32000\n"),
        ("shmmax", "18446744073692774399\n"),
        ("shmall", "18446744073692774399\n"),
        ("shmmni", "4096\n"),
        ("msgmax", "8192\n"),
        ("msgmni", "32000\n"),
        ("msgmnb", "16384\n"),
        ("randomize_va_space", "2\n"),
        ("perf_event_paranoid", "4\n"),
        ("dmesg_restrict", "1\n"),
        ("kptr_restrict", "2\n"),
        ("tainted", "0\n"),
    ];
    kernel.extend(texts.map(|(name, text)| (name, n.text(text))));
    let vm = [
        ("overcommit_memory", "1\n"),
        ("overcommit_ratio", "50\n"),
        ("max_map_count", "65530\n"),
        ("mmap_min_addr", "65536\n"),
        ("swappiness", "0\n"),
    ]
    .map(|(name, text)| (name, n.text(text)));
    let inotify = [
        ("max_user_watches", "65536\n"),
        ("max_user_instances", "128\n"),
        ("max_queued_events", "16384\n"),
    ]
    .map(|(name, text)| (name, n.text(text)));
    let pipe_max =
        pseudo::file(n.file(0o444), || Ok(alloc::format!("{CAPACITY_MAX}\n").into_bytes()));
    let mut fs = Vec::from([("inotify", n.dir(Vec::from(inotify))), ("pipe-max-size", pipe_max)]);
    let texts = [
        ("file-max", "1048576\n"),
        ("file-nr", "0\t0\t1048576\n"),
        ("nr_open", "1048576\n"),
        ("protected_hardlinks", "0\n"),
        ("protected_symlinks", "0\n"),
        ("protected_fifos", "0\n"),
        ("protected_regular", "0\n"),
    ];
    fs.extend(texts.map(|(name, text)| (name, n.text(text))));
    let core = [
        ("somaxconn", "4096\n"),
        ("rmem_max", "212992\n"),
        ("wmem_max", "212992\n"),
        ("rmem_default", "212992\n"),
        ("wmem_default", "212992\n"),
    ]
    .map(|(name, text)| (name, n.text(text)));
    let net = [("core", n.dir(Vec::from(core)))];
    let entries = [
        ("kernel", n.dir(kernel)),
        ("vm", n.dir(Vec::from(vm))),
        ("fs", n.dir(fs)),
        ("net", n.dir(Vec::from(net))),
    ];
    n.dir(Vec::from(entries))
}

/// /proc/[pid]/net: what the I/O server's kernel says of the pod's namespace; and AF_UNIX.
pub(super) fn net(shared: &Arc<Shared>) -> InodeRef {
    let mut numbers = Numbers::new(shared.device, 1 << 19);
    let mut entries = Vec::new();
    // The last ones are of /proc/sys.
    for name in &NETWORK_FILES[..NETWORK_FILES.len() - 4] {
        let vfs = shared.vfs.clone();
        let text = move || vfs.upgrade().ok_or(Errno::NOENT)?.net.file(name);
        entries.push((*name, pseudo::file(numbers.file(0o444), text)));
    }
    let vfs = shared.vfs.clone();
    let unix = move || Ok(vfs.upgrade().ok_or(Errno::NOENT)?.net.unix_table());
    entries.push(("unix", pseudo::file(numbers.file(0o444), unix)));
    let attr = Attr::new(shared.device, 1 << 19, FileType::Directory, 0o555);
    pseudo::directory(attr, entries)
}
