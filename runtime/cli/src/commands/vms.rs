// SPDX-License-Identifier: Apache-2.0
//! VMs of this host, as its /proc shows them: also those that containerd started.

use std::{collections::HashSet, fs, time::Duration};

use rustix::{
    param::clock_ticks_per_second,
    time::{ClockId, clock_gettime},
};

use crate::store::parse_start_ticks;

/// Name of the VMM's process.
const VMM: &str = "trine-vmm";
/// Start of the names of its vCPU threads.
const VCPU: &str = "vcpu";

/// What /proc says of a VMM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VmProcess {
    /// Process id.
    pub(crate) pid: u32,
    /// Resident memory, in bytes.
    pub(crate) resident_bytes: u64,
    /// How long it has been running.
    pub(crate) uptime: Duration,
}

/// A VM that no container under `--root` owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForeignVm {
    /// The process.
    pub(crate) process: VmProcess,
    /// Container id, if its process title says so.
    pub(crate) id: String,
    /// containerd's namespace, if a shim started it.
    pub(crate) namespace: Option<String>,
    /// vCPU threads.
    pub(crate) vcpus: u32,
}

/// Looks at a VMM; `None` if it is gone.
pub(crate) fn look_at(pid: u32) -> Option<VmProcess> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let started =
        Duration::from_secs_f64(parse_start_ticks(&stat)? as f64 / clock_ticks_per_second() as f64);
    let now = clock_gettime(ClockId::Boottime);
    let now = Duration::new(now.tv_sec as u64, now.tv_nsec as u32);
    Some(VmProcess {
        pid,
        resident_bytes: resident_bytes(&status)?,
        uptime: now.saturating_sub(started),
    })
}

/// Finds the VMMs whose processes are not among `known`.
pub(crate) fn find_others(known: &HashSet<u32>) -> Vec<ForeignVm> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return vec![];
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found: Vec<_> =
        pids.filter(|pid| !known.contains(pid)).filter_map(look_at_other).collect();
    found.sort_by_key(|vm| vm.process.pid);
    found
}

fn look_at_other(pid: u32) -> Option<ForeignVm> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    if name.trim_end() != VMM {
        return None;
    }
    let command = arguments_of(pid);
    let parent = parent_of(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)?;
    Some(ForeignVm {
        process: look_at(pid)?,
        id: command.into_iter().nth(1).unwrap_or_else(|| "-".to_owned()),
        namespace: flag_of(&arguments_of(parent), "-namespace"),
        vcpus: count_vcpus(pid),
    })
}

fn arguments_of(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.split_terminator('\0').map(crate::failure::flatten).collect()
}

fn flag_of(arguments: &[String], flag: &str) -> Option<String> {
    let position = arguments.iter().position(|argument| argument == flag)?;
    arguments.get(position + 1).cloned()
}

fn count_vcpus(pid: u32) -> u32 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    let names = threads.flatten().filter_map(|t| fs::read_to_string(t.path().join("comm")).ok());
    names.filter(|name| name.starts_with(VCPU)).count() as u32
}

fn resident_bytes(status: &str) -> Option<u64> {
    let kibibytes: u64 = field(status, "VmRSS:")?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

fn parent_of(status: &str) -> Option<u32> {
    field(status, "PPid:")?.parse().ok()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str =
        "Name:\ttrine-vmm\nPid:\t12\nPPid:\t34\nVmRSS:\t    5120 kB\nThreads:\t3\n";

    #[test]
    fn status_gives_parent_and_resident_memory() {
        assert_eq!((parent_of(STATUS), resident_bytes(STATUS)), (Some(34), Some(5 << 20)));
        // A zombie has no memory.
        assert_eq!(resident_bytes("Name:\tx\nPPid:\t1\n"), None);
    }

    #[test]
    fn flag_of_shim_arguments_is_the_namespace() {
        let arguments =
            ["containerd-shim-trine-v1", "-namespace", "k8s.io", "-id", "x"].map(str::to_owned);
        assert_eq!(flag_of(&arguments, "-namespace").as_deref(), Some("k8s.io"));
        assert_eq!(flag_of(&arguments[..2], "-namespace"), None);
    }

    #[test]
    fn look_at_this_process_is_plausible() {
        let vm = look_at(std::process::id()).expect("it runs");
        assert!(vm.resident_bytes > 100 << 10 && vm.uptime < Duration::from_secs(3600), "{vm:?}");
        assert!(find_others(&HashSet::new()).iter().all(|vm| vm.process.pid != std::process::id()));
    }
}
