// SPDX-License-Identifier: Apache-2.0
//! The machine that was measured on, and how it was at that time.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{FsWord, statfs},
    system::uname,
};
use serde::Serialize;

use crate::{accounting, interleave::Plan, session::Session};

/// Facts without which the numbers mean nothing.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Facts {
    /// Seconds since 1970 when it ended.
    pub(crate) unix_seconds: u64,
    /// Seconds that it took.
    pub(crate) took_seconds: f64,
    /// `--quick`: the numbers mean nothing.
    pub(crate) is_quick: bool,
    /// Rounds that were thrown away.
    pub(crate) warmups: u32,
    /// Rounds that counted.
    pub(crate) runs: u32,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Model of the processor.
    pub(crate) cpu: String,
    /// Processors that are online.
    pub(crate) cpus: usize,
    /// Bytes of memory.
    pub(crate) memory_bytes: u64,
    /// Which kind of KVM.
    pub(crate) kvm: String,
    /// Whether this machine is itself a VM.
    pub(crate) is_virtual: bool,
    /// cgroup v1, v2, or both.
    pub(crate) cgroups: String,
    /// Transparent huge pages.
    pub(crate) huge_pages: String,
    /// Where images and state lay.
    pub(crate) scratch: String,
    /// What idle containers ran.
    pub(crate) sleeper: String,
    /// Load averages before.
    pub(crate) load_before: String,
    /// Load averages after; the benchmark's own load is in them.
    pub(crate) load_after: String,
    /// Programs and their versions.
    pub(crate) versions: Vec<(String, String)>,
}

impl Facts {
    /// Looks around, before anything is measured.
    pub(crate) fn gather(session: &Session) -> Self {
        let Plan { warmups, runs } = session.args.plan();
        let cpuinfo = read("/proc/cpuinfo");
        let meminfo = read("/proc/meminfo");
        Self {
            is_quick: session.args.quick,
            warmups,
            runs,
            kernel: uname().release().to_string_lossy().into_owned(),
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_bytes: accounting::number(&meminfo, "MemTotal:").unwrap_or(0) * 1024,
            kvm: kvm(),
            is_virtual: flags(&cpuinfo).any(|flag| flag == "hypervisor"),
            cgroups: cgroups(&read("/proc/self/mountinfo")).to_owned(),
            huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")).to_owned(),
            scratch: file_system(session),
            sleeper: session.rootfs.sleeper.args().join(" "),
            load_before: load(),
            versions: session.tools.versions(&session.runner),
            ..Self::default()
        }
    }

    /// Looks again, after everything.
    pub(crate) fn finish(&mut self, took_seconds: f64) {
        self.took_seconds = took_seconds;
        self.load_after = load();
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        self.unix_seconds = since.map_or(0, |time| time.as_secs());
    }

    /// A few lines for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let virtual_machine = if self.is_virtual { ", itself a virtual machine" } else { "" };
        let gibibytes = self.memory_bytes as f64 / f64::from(1 << 30);
        let mut lines = vec![
            format!("{} x {}, {gibibytes:.0} GiB{virtual_machine}", self.cpus, self.cpu),
            format!(
                "Linux {}, KVM: {}, cgroups: {}, huge pages: {}, scratch: {}",
                self.kernel, self.kvm, self.cgroups, self.huge_pages, self.scratch
            ),
            format!(
                "{} runs after {} warm-ups, interleaved; load {} before, {} after; took {:.0} s",
                self.runs, self.warmups, self.load_before, self.load_after, self.took_seconds
            ),
        ];
        let version = |(name, version): &(String, String)| match version.strip_prefix(name) {
            Some(rest) => format!("{name}{rest}"),
            None => format!("{name}: {version}"),
        };
        lines.push(self.versions.iter().map(version).collect::<Vec<_>>().join("; "));
        lines
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn load() -> String {
    read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

fn flags(cpuinfo: &str) -> impl Iterator<Item = &str> {
    field(cpuinfo, "flags").unwrap_or_default().split(' ')
}

fn kvm() -> String {
    let is_loaded = |name: &str| fs::exists(format!("/sys/module/{name}")).unwrap_or(false);
    let kinds = [("kvm_intel", "VMX"), ("kvm_amd", "SVM"), ("kvm_pvm", "PVM")];
    let found = kinds.into_iter().filter(|(module, _)| is_loaded(module));
    let found: Vec<_> = found.map(|(module, kind)| format!("{kind} ({module})")).collect();
    if found.is_empty() { "unknown".to_owned() } else { found.join(", ") }
}

fn cgroups(mountinfo: &str) -> &'static str {
    let has = |kind: &str| mountinfo.contains(&format!(" - {kind} "));
    match (has("cgroup"), has("cgroup2")) {
        (true, true) => "hybrid",
        (true, false) => "v1",
        (false, true) => "v2",
        (false, false) => "none",
    }
}

/// The word in brackets.
fn chosen(choices: &str) -> &str {
    choices.split(['[', ']']).nth(1).unwrap_or("unknown")
}

fn file_system(session: &Session) -> String {
    const KINDS: [(FsWord, &str); 4] =
        [(0x0102_1994, "tmpfs"), (0xef53, "ext4"), (0x9123_683e, "btrfs"), (0x5846_5342, "xfs")];
    match statfs(session.scratch.path()) {
        Ok(found) => {
            let known = KINDS.into_iter().find(|(magic, _)| *magic == found.f_type);
            known.map_or_else(|| format!("{:#x}", found.f_type), |(_, name)| name.to_owned())
        }
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_the_kernels_text() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A CPU: fast\nflags\t\t: fpu hypervisor\n";

        assert_eq!(field(cpuinfo, "model name"), Some("A CPU: fast"));
        assert!(flags(cpuinfo).any(|flag| flag == "hypervisor"));
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(cgroups("1 2 0:3 / /a rw - cgroup2 cgroup2 rw\n"), "v2");
        assert_eq!(cgroups("1 2 0:3 / /a rw - cgroup c rw\n1 - cgroup2 c rw\n"), "hybrid");
    }
}
