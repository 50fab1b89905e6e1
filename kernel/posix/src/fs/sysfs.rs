// SPDX-License-Identifier: Apache-2.0
//! The little of /sys and of a cgroup that programs read to size themselves.

use alloc::{string::String, sync::Arc, vec::Vec};

use crate::{
    fs::{
        inode::{FileSystem, InodeRef},
        pseudo::{self, Numbers, PseudoFs},
    },
    services::ServicesRef,
};

const SYSFS_MAGIC: u64 = 0x6265_6572;
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// CPUs as /sys lists them: `0-3`.
pub(super) fn cpu_list(cpus: u32) -> String {
    if cpus <= 1 { String::from("0\n") } else { alloc::format!("0-{}\n", cpus - 1) }
}

/// A file that says always the same.
fn text(n: &mut Numbers, text: String) -> InodeRef {
    pseudo::file(n.file(0o444), move || Ok(text.as_bytes().to_vec()))
}

/// One CPU, a core of its own.
fn cpu(n: &mut Numbers, index: u32, cpus: u32) -> InodeRef {
    let mask = |bits: u64| alloc::format!("{bits:x}\n");
    let all = if cpus >= 64 { u64::MAX } else { (1 << cpus) - 1 };
    let topology = [
        ("core_id", alloc::format!("{index}\n")),
        ("physical_package_id", String::from("0\n")),
        ("thread_siblings", mask(1 << index.min(63))),
        ("thread_siblings_list", alloc::format!("{index}\n")),
        ("core_siblings", mask(all)),
        ("core_siblings_list", cpu_list(cpus)),
    ]
    .map(|(name, what)| (name, text(n, what)));
    let mut entries = Vec::from([("topology", n.dir(Vec::from(topology)))]);
    if index > 0 {
        entries.push(("online", n.text("1\n")));
    }
    n.dir(entries)
}

/// Makes a /sys.
pub(super) fn sys(cpus: u32, device: u64) -> (Arc<dyn FileSystem>, InodeRef) {
    let mut n = Numbers::new(device, 1);
    let names: Vec<String> = (0..cpus).map(|index| alloc::format!("cpu{index}")).collect();
    let mut cpu_dir: Vec<(&str, InodeRef)> = Vec::new();
    for (index, name) in names.iter().enumerate() {
        cpu_dir.push((name, cpu(&mut n, index as u32, cpus)));
    }
    for name in ["online", "possible", "present"] {
        cpu_dir.push((name, text(&mut n, cpu_list(cpus))));
    }
    cpu_dir.push(("offline", n.text("\n")));
    cpu_dir.push(("kernel_max", text(&mut n, alloc::format!("{}\n", cpus.max(1) - 1))));
    let all = if cpus >= 64 { u64::MAX } else { (1 << cpus) - 1 };
    let node0 = [
        ("cpulist", text(&mut n, cpu_list(cpus))),
        ("cpumap", text(&mut n, alloc::format!("{all:x}\n"))),
        ("distance", n.text("10\n")),
    ];
    let node = [
        ("online", n.text("0\n")),
        ("possible", n.text("0\n")),
        ("has_cpu", n.text("0\n")),
        ("has_memory", n.text("0\n")),
        ("node0", n.dir(Vec::from(node0))),
    ];
    let clock =
        [("current_clocksource", n.text("tsc\n")), ("available_clocksource", n.text("tsc\n"))];
    let clock = [("clocksource0", n.dir(Vec::from(clock)))];
    let devices = [
        ("cpu", n.dir(cpu_dir)),
        ("node", n.dir(Vec::from(node))),
        ("clocksource", n.dir(Vec::from(clock))),
    ];
    let devices = [("system", n.dir(Vec::from(devices)))];
    let huge = [
        ("enabled", n.text("always [madvise] never\n")),
        ("defrag", n.text("always defer defer+madvise [madvise] never\n")),
        ("shmem_enabled", n.text("always within_size advise [never] deny force\n")),
        ("hpage_pmd_size", n.text("2097152\n")),
        ("use_zero_page", n.text("1\n")),
    ];
    let mm = [("transparent_hugepage", n.dir(Vec::from(huge))), ("hugepages", n.dir(Vec::new()))];
    let kernel = [("mm", n.dir(Vec::from(mm)))];
    // An empty directory is where the cgroup is mounted.
    let fs = [("cgroup", n.dir(Vec::new()))];
    let class = [("net", n.dir(Vec::new()))];
    let root = [
        ("devices", n.dir(Vec::from(devices))),
        ("kernel", n.dir(Vec::from(kernel))),
        ("fs", n.dir(Vec::from(fs))),
        ("class", n.dir(Vec::from(class))),
        ("block", n.dir(Vec::new())),
    ];
    let root = n.dir(Vec::from(root));
    (Arc::new(PseudoFs { name: "sysfs", magic: SYSFS_MAGIC, device }), root)
}

/// Makes the view of a container's own cgroup (version 2).
pub(super) fn cgroup(services: &ServicesRef, device: u64) -> (Arc<dyn FileSystem>, InodeRef) {
    let mut n = Numbers::new(device, 1);
    let number = |n: &mut Numbers, value_fn: fn(&ServicesRef) -> u64| {
        let services = Arc::clone(services);
        pseudo::file(n.file(0o444), move || {
            Ok(alloc::format!("{}\n", value_fn(&services)).into_bytes())
        })
    };
    let processes = Arc::clone(services);
    let procs = pseudo::file(n.file(0o444), move || {
        let list = processes.registry.processes();
        let lines = list.iter().map(|process| alloc::format!("{}\n", process.pid));
        Ok(lines.collect::<String>().into_bytes())
    });
    let mut root = Vec::from([
        ("cgroup.procs", procs),
        ("memory.max", number(&mut n, |services| services.arena.ram_bytes())),
        (
            "memory.current",
            number(&mut n, |services| services.arena.ram_bytes() - services.arena.free_bytes()),
        ),
        ("pids.current", number(&mut n, |services| services.registry.task_count() as u64)),
    ]);
    let texts = [
        ("cgroup.controllers", "cpu memory pids\n"),
        ("cgroup.type", "domain\n"),
        ("cpu.max", "max 100000\n"),
        ("memory.high", "max\n"),
        ("memory.swap.max", "0\n"),
        ("pids.max", "max\n"),
    ];
    root.extend(texts.map(|(name, text)| (name, n.text(text))));
    let root = n.dir(root);
    (Arc::new(PseudoFs { name: "cgroup2", magic: CGROUP2_MAGIC, device }), root)
}
