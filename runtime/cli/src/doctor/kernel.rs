// SPDX-License-Identifier: Apache-2.0
//! Features of the host's kernel that the sandboxes of VMM and I/O process need.  Each is tried, not
//! guessed from the version.

use std::fs;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetError, Scope,
};
use rustix::{
    fs::{CWD, MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags},
    io::Errno,
    mount::FsOpenFlags,
    process::{PidfdFlags, getpid, pidfd_open},
};

use super::Finding;

/// Checks them.
pub(super) fn check() -> Vec<Finding> {
    vec![version(), memfd(), openat2(), pidfd(), mounts(), seccomp(), landlock()]
}

fn version() -> Finding {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    match parse_version(&release) {
        Some(version) if version >= (5, 15) => Finding::ok("kernel", format!("Linux {release}")),
        _ => Finding::warn(
            "kernel",
            format!("Linux {release}"),
            "Trine is tested with Linux 5.15 and newer: upgrade",
        ),
    }
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn memfd() -> Finding {
    const NAME: &str = "memfd sealing";
    let seal = || -> rustix::io::Result<()> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("trine-doctor", flags)?;
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
    };
    tried(NAME, seal(), "use Linux 3.17 or newer, with CONFIG_MEMFD_CREATE")
}

fn openat2() -> Finding {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let result = rustix::fs::openat2(CWD, "/", flags, Mode::empty(), inside);
    let remedy = "use Linux 5.6 or newer; in a container, let its seccomp profile pass openat2";
    tried("openat2", result.map(drop), remedy)
}

fn pidfd() -> Finding {
    let result = pidfd_open(getpid(), PidfdFlags::empty());
    let remedy = "use Linux 5.3 or newer; in a container, let its seccomp profile pass pidfd_open";
    tried("pidfd", result.map(drop), remedy)
}

fn tried(name: &'static str, result: Result<(), Errno>, remedy: &str) -> Finding {
    match result {
        Ok(()) => Finding::ok(name, "works"),
        Err(error) => Finding::fail(name, format!("does not work ({error})"), remedy),
    }
}

fn seccomp() -> Finding {
    const NAME: &str = "seccomp";
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if actions.split_whitespace().any(|action| action == "kill_process") {
        Finding::ok(NAME, "filters with kill_process")
    } else {
        Finding::fail(
            NAME,
            "filters with kill_process are missing",
            "use Linux 4.14 or newer, with CONFIG_SECCOMP_FILTER",
        )
    }
}

fn landlock() -> Finding {
    const NAME: &str = "landlock";
    match landlock_abi() {
        0 | 1 => Finding::fail(
            NAME,
            "is missing, off or too old",
            "use Linux 5.19 or newer, with landlock in the kernel's lsm= parameter; or do without: \
             landlock = \"best-effort\" in /etc/trine/config.toml, and trine run --landlock \
             best-effort",
        ),
        number => Finding::ok(NAME, format!("ABI {number}")),
    }
}

/// Finds the newest ABI by asking for the rights that each brought; 0 if there is none.
fn landlock_abi() -> u32 {
    const LEVEL: CompatLevel = CompatLevel::HardRequirement;
    let base = || Ruleset::default().set_compatibility(LEVEL);
    let files = |abi| base().handle_access(AccessFs::from_all(abi));
    // A ruleset does nothing until a process restricts itself with it.
    let newest_first = [
        (6, base().scope(Scope::from_all(ABI::V6))),
        (5, files(ABI::V5)),
        (4, base().handle_access(AccessNet::from_all(ABI::V4))),
        (3, files(ABI::V3)),
        (2, files(ABI::V2)),
        (1, files(ABI::V1)),
    ];
    let works = |(number, ruleset): (u32, Result<Ruleset, RulesetError>)| {
        ruleset.and_then(Ruleset::create).is_ok().then_some(number)
    };
    newest_first.into_iter().find_map(works).unwrap_or(0)
}

/// The mount calls that give a process a root of its own without a path.
fn mounts() -> Finding {
    const NAME: &str = "fsopen";
    match rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => Finding::ok(NAME, "works"),
        Err(Errno::PERM) => Finding::fail(NAME, "is not permitted", "run as root (CAP_SYS_ADMIN)"),
        Err(error) => Finding::fail(
            NAME,
            format!("does not work ({error})"),
            "use Linux 5.2 or newer; in a container, let its seccomp profile pass fsopen",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Grade;

    #[test]
    fn parse_version_reads_what_distributions_write() {
        for (release, version) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.15.0", Some((5, 15))),
            ("6.18.44-fc-v595", Some((6, 18))),
            ("6.8+", Some((6, 8))),
            ("linux", None),
        ] {
            assert_eq!(parse_version(release), version, "{release}");
        }
    }

    #[test]
    fn tried_error_is_named_with_its_remedy() {
        let finding = tried("openat2", Err(Errno::NOSYS), "do this");
        assert_eq!(finding.grade, Grade::Fail);
        assert!(finding.found.contains("not implemented"), "{}", finding.found);
        assert_eq!(finding.remedy.as_deref(), Some("do this"));
    }
}
