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

/// Makes a /sys.
pub(super) fn sys(_services: &ServicesRef, device: u64) -> (Arc<dyn FileSystem>, InodeRef) {
    let mut n = Numbers::new(device, 1);
    let topology = [
        ("core_id", "0\n"),
        ("physical_package_id", "0\n"),
        ("thread_siblings", "1\n"),
        ("thread_siblings_list", "0\n"),
        ("core_siblings_list", "0\n"),
    ]
    .map(|(name, text)| (name, n.text(text)));
    let cpu0 = [("topology", n.dir(Vec::from(topology)))];
    let cpu0 = n.dir(Vec::from(cpu0));
    let mut cpu = Vec::from([("cpu0", cpu0)]);
    for name in ["online", "possible", "present"] {
        cpu.push((name, n.text("0\n")));
    }
    cpu.push(("offline", n.text("\n")));
    cpu.push(("kernel_max", n.text("0\n")));
    let node0 = [("cpulist", n.text("0\n")), ("cpumap", n.text("1\n"))];
    let node = [
        ("online", n.text("0\n")),
        ("possible", n.text("0\n")),
        ("node0", n.dir(Vec::from(node0))),
    ];
    let clock =
        [("current_clocksource", n.text("tsc\n")), ("available_clocksource", n.text("tsc\n"))];
    let clock = [("clocksource0", n.dir(Vec::from(clock)))];
    let devices = [
        ("cpu", n.dir(cpu)),
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
