// SPDX-License-Identifier: Apache-2.0
//! Root file systems.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{command, packages, programs};

/// To be changed when the code below makes something else than before.
pub(super) const RECIPE: &str = "1";

/// What the Debian image consists of: bash and coreutils with all that they link, and the small
/// tools that scripts expect.
pub(super) const DEBIAN_PACKAGES: &[&str] = &[
    "base-files",
    "base-passwd",
    "bash",
    "coreutils",
    "dash",
    "debianutils",
    "findutils",
    "gcc-12-base",
    "grep",
    "gzip",
    "hostname",
    "libacl1",
    "libattr1",
    "libc-bin",
    "libc6",
    "libgcc-s1",
    "libgmp10",
    "libpcre2-8-0",
    "libselinux1",
    "libtinfo6",
    "mawk",
    "ncurses-base",
    "sed",
    "tar",
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n\
                      nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n";

/// Makes the root file system of the busybox image.
pub(super) fn busybox(root: &Path, programs: &Path) -> Result<()> {
    for folder in ["bin", "usr/bin", "home/user"] {
        fs::create_dir_all(root.join(folder))?;
    }
    base(root)?;
    let unpacked = tempfile::tempdir()?;
    for package in packages::download(&["busybox-static"])? {
        packages::unpack(&package, unpacked.path())?;
    }
    let program = ["bin/busybox", "usr/bin/busybox"].map(|path| unpacked.path().join(path));
    let program = program.iter().find(|path| path.exists()).context("no busybox in its package")?;
    fs::copy(program, root.join("bin/busybox")).context("copy busybox")?;

    let list = command::must(Command::new(program).arg("--list"), Duration::from_secs(10))?;
    for applet in list.lines().filter(|applet| *applet != "busybox") {
        symlink("/bin/busybox", root.join("bin").join(applet))?;
    }
    for name in programs::NAMES {
        fs::copy(programs.join(name), root.join("usr/bin").join(name))?;
    }
    fs::create_dir_all(root.join("broken"))?;
    for (name, _) in programs::BROKEN {
        fs::copy(programs.join("broken").join(name), root.join("broken").join(name))?;
    }
    files(root)
}

/// Makes the root file system of the Debian image.
pub(super) fn debian(root: &Path) -> Result<()> {
    unpack(root, DEBIAN_PACKAGES)?;
    for (program, link) in [("dash", "usr/bin/sh"), ("mawk", "usr/bin/awk")] {
        if !root.join(link).exists() {
            symlink(program, root.join(link))?;
        }
    }
    for folder in ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"] {
        fs::remove_dir_all(root.join(folder)).ok();
    }
    files(root)?;
    // What Linux cannot run, nobody can: an image that lacks a library fails here and not in a test.
    let script = "set -e; ls /usr/bin | wc -l; sort --version; awk 'BEGIN { print 1 }'; \
                  grep --version; sed --version; find --version; date; id";
    command::must(
        Command::new("chroot").arg(root).args(["/bin/bash", "-c", script]),
        Duration::from_secs(30),
    )
    .context("try the Debian image on this host")?;
    Ok(())
}

/// What Python and its `socket` module need.
const PYTHON_PACKAGES: &[&str] =
    &["libc6", "libexpat1", "libpython3.11-minimal", "libssl3", "python3.11-minimal", "zlib1g"];

/// Makes a root file system with Python and little else.
pub(super) fn python(root: &Path) -> Result<()> {
    unpack(root, PYTHON_PACKAGES)?;
    fs::remove_dir_all(root.join("usr/share/doc")).ok();
    files(root)
}

/// Unpacks packages into a root file system whose `/bin` is `/usr/bin`.
fn unpack(root: &Path, list: &[&str]) -> Result<()> {
    for folder in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(folder))?;
        symlink(format!("usr/{folder}"), root.join(folder))?;
    }
    for package in packages::download(list)? {
        packages::unpack(&package, root)
            .with_context(|| format!("unpack {}", package.display()))?;
    }
    base(root)
}

fn base(root: &Path) -> Result<()> {
    for folder in ["dev", "etc", "home", "mnt", "proc", "root", "run", "sys", "tmp", "var/tmp"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for folder in ["tmp", "var/tmp"] {
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(0o1777))?;
    }
    Ok(())
}

fn files(root: &Path) -> Result<()> {
    fs::write(root.join("etc/passwd"), PASSWD)?;
    fs::write(root.join("etc/group"), GROUP)?;
    Ok(())
}
