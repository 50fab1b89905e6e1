// SPDX-License-Identifier: Apache-2.0
//! `process`: arguments, environment, user, capabilities, limits.

use std::{collections::HashSet, os::unix::ffi::OsStrExt};

use crate::Error;
use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimit, Process as OciProcess};
use trine_abi::control::{NO_HANDLE, Process, Rlimit};

use super::{byte_strings, invalid, unsupported};

/// File mode creation mask where the spec has none, as runc's.
const DEFAULT_UMASK: u32 = 0o022;

/// Capability names by number, as in capabilities(7), without `CAP_`.
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Resource limits by number, as in Linux's `asm-generic/resource.h`.
const RLIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

/// Parses the JSON of an OCI process, as containerd sends it for an exec.
///
/// # Errors
/// [`Error::Invalid`].
pub fn parse_process(json: &[u8]) -> Result<OciProcess, Error> {
    serde_json::from_slice(json).map_err(|error| invalid("process spec", error.to_string()))
}

/// Translates the process of an exec, and returns it with its warnings.
///
/// # Errors
/// [`Error::Invalid`] names the field, [`Error::Unsupported`] the feature.
pub fn process(process: &OciProcess) -> Result<(Process, Vec<String>), Error> {
    let mut warnings = Vec::new();
    let process = translate(process, &mut warnings)?;
    Ok((process, warnings))
}

pub(super) fn translate(
    process: &OciProcess,
    warnings: &mut Vec<String>,
) -> Result<Process, Error> {
    let args = process.args().as_deref().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(invalid("process.args", "the program is missing"));
    }
    let cwd = process.cwd().as_os_str().as_bytes();
    if !cwd.starts_with(b"/") || cwd.contains(&0) {
        return Err(invalid("process.cwd", format!("{:?} is not an absolute path", process.cwd())));
    }
    warn_of_ignored(process, warnings);

    let user = process.user();
    let console = process.console_size();
    Ok(Process {
        key: 0,
        args: byte_strings("process.args", args)?,
        env: environment(process.env().as_deref().unwrap_or_default())?,
        cwd: cwd.to_vec(),
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: umask(user.umask())?,
        capabilities: capability_sets(process.capabilities().as_ref()),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: rlimits(process.rlimits().as_deref().unwrap_or_default())?,
        terminal: process.terminal().unwrap_or(false),
        rows: console.map_or(0, |size| terminal_cells(size.height())),
        columns: console.map_or(0, |size| terminal_cells(size.width())),
        stdio: [NO_HANDLE; 3],
    })
}

fn warn_of_ignored(process: &OciProcess, warnings: &mut Vec<String>) {
    let mut warn = |what: &str| warnings.push(format!("{what} has no effect in a Trine VM"));
    if process.apparmor_profile().as_ref().is_some_and(|profile| !profile.is_empty()) {
        warn("process.apparmorProfile");
    }
    if process.selinux_label().as_ref().is_some_and(|label| !label.is_empty()) {
        warn("process.selinuxLabel");
    }
    if process.io_priority().is_some() {
        warn("process.ioPriority");
    }
    if process.scheduler().is_some() {
        warn("process.scheduler");
    }
    if process.exec_cpu_affinity().is_some() {
        warn("process.execCPUAffinity");
    }
}

fn environment(env: &[String]) -> Result<Vec<Vec<u8>>, Error> {
    byte_strings("process.env", env)
}

fn umask(umask: Option<u32>) -> Result<u32, Error> {
    match umask {
        None => Ok(DEFAULT_UMASK),
        Some(mask) if mask <= 0o777 => Ok(mask),
        Some(mask) => Err(invalid("process.user.umask", format!("{mask:#o} is over 0777"))),
    }
}

fn terminal_cells(count: u64) -> u32 {
    // The guest's winsize has 16 bits.
    u32::from(u16::try_from(count).unwrap_or(u16::MAX))
}

/// Returns the sets in the order of [`Process::capabilities`]; no section means no capability.
fn capability_sets(sets: Option<&LinuxCapabilities>) -> [u64; 5] {
    let Some(sets) = sets else { return [0; 5] };
    [sets.effective(), sets.permitted(), sets.inheritable(), sets.bounding(), sets.ambient()]
        .map(|set| set.as_ref().map_or(0, capability_mask))
}

fn capability_mask(set: &Capabilities) -> u64 {
    set.iter()
        .filter_map(|capability| {
            let name = capability.to_string();
            CAPABILITIES.iter().position(|known| *known == name)
        })
        .fold(0, |mask, number| mask | 1 << number)
}

fn rlimits(limits: &[PosixRlimit]) -> Result<Vec<Rlimit>, Error> {
    let mut seen = HashSet::new();
    limits.iter().map(|limit| rlimit(limit, &mut seen)).collect()
}

fn rlimit(limit: &PosixRlimit, seen: &mut HashSet<u32>) -> Result<Rlimit, Error> {
    let name = limit.typ().to_string();
    let what = || format!("process.rlimits {name}");
    let resource = RLIMITS
        .iter()
        .zip(0u32..)
        .find_map(|(known, number)| (*known == name).then_some(number))
        .ok_or_else(|| unsupported(what(), "remove it"))?;
    if !seen.insert(resource) {
        return Err(invalid(what(), "given twice"));
    }
    if limit.soft() > limit.hard() {
        let (soft, hard) = (limit.soft(), limit.hard());
        return Err(invalid(what(), format!("soft limit {soft} is over hard limit {hard}")));
    }
    Ok(Rlimit { resource, soft: limit.soft(), hard: limit.hard() })
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Capability;

    use super::*;

    fn parsed(json: &str) -> Result<(Process, Vec<String>), Error> {
        process(&parse_process(json.as_bytes()).unwrap())
    }

    #[test]
    fn process_fields_are_carried_over() {
        let (process, warnings) = parsed(
            r#"{"terminal": true, "consoleSize": {"height": 50, "width": 99999},
                "user": {"uid": 7, "gid": 8, "umask": 63, "additionalGids": [1, 2]},
                "args": ["sh", "-c", ""], "env": ["A=b"], "cwd": "/srv",
                "capabilities": {"effective": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"],
                                 "bounding": ["CAP_KILL"]},
                "noNewPrivileges": true, "apparmorProfile": "x",
                "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]}"#,
        )
        .unwrap();
        let expected = Process {
            key: 0,
            args: vec![b"sh".to_vec(), b"-c".to_vec(), vec![]],
            env: vec![b"A=b".to_vec()],
            cwd: b"/srv".to_vec(),
            uid: 7,
            gid: 8,
            groups: vec![1, 2],
            umask: 63,
            capabilities: [1 | 1 << 40, 0, 0, 1 << 5, 0],
            no_new_privileges: true,
            rlimits: vec![Rlimit { resource: 7, soft: 1, hard: 2 }],
            terminal: true,
            rows: 50,
            columns: 65535,
            stdio: [NO_HANDLE; 3],
        };
        assert_eq!(process, expected);
        assert_eq!(warnings, ["process.apparmorProfile has no effect in a Trine VM"]);
    }

    #[test]
    fn process_bad_fields_are_named() {
        let cases = [
            (r#"{"user": {}, "cwd": "/", "args": []}"#, "process.args"),
            (r#"{"user": {}, "cwd": "/", "args": [""]}"#, "process.args"),
            (r#"{"user": {}, "cwd": "/"}"#, "process.args"),
            (r#"{"user": {}, "cwd": "x", "args": ["a"]}"#, "process.cwd"),
            (r#"{"user": {}, "cwd": "/", "args": ["a\u0000b"]}"#, "NUL"),
            (r#"{"user": {"umask": 512}, "cwd": "/", "args": ["a"]}"#, "umask"),
            (
                r#"{"user": {}, "cwd": "/", "args": ["a"],
                    "rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]}"#,
                "soft limit 2 is over hard limit 1",
            ),
            (
                r#"{"user": {}, "cwd": "/", "args": ["a"],
                    "rlimits": [{"type": "RLIMIT_CPU"}, {"type": "RLIMIT_CPU"}]}"#,
                "given twice",
            ),
        ];
        for (json, expected) in cases {
            let error = parsed(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }

    #[test]
    fn every_capability_of_the_specification_has_its_number() {
        for (number, name) in CAPABILITIES.iter().enumerate() {
            let json = format!("\"CAP_{name}\"");
            let capability: Capability = serde_json::from_str(&json).unwrap();
            assert_eq!(capability_mask(&[capability].into()), 1 << number, "{name}");
        }
    }

    #[test]
    fn every_rlimit_of_the_specification_has_its_number() {
        for (number, name) in RLIMITS.iter().zip(0u32..).map(|(name, number)| (number, name)) {
            let json = format!(
                r#"{{"user": {{}}, "cwd": "/", "args": ["a"], "rlimits": [{{"type": "{name}"}}]}}"#
            );
            assert_eq!(parsed(&json).unwrap().0.rlimits[0].resource, number, "{name}");
        }
    }
}
