// SPDX-License-Identifier: Apache-2.0
//! The root file systems, made of Debian packages with mmdebstrap: packages are installed as apt and
//! dpkg do, so that the programs find what their maintainers set up.

mod table;

use std::{fs, io::ErrorKind, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

pub(crate) use self::table::{BENCH, CPYTHON, GO, JAVA, KSELFTEST, PROGRAMS, STRESS, SUITES};
use crate::{command, images::write_hex, paths};

/// To be changed when the code below makes something else than before.
const RECIPE: &str = "2";
const PATIENCE: Duration = Duration::from_secs(1800);
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A root file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    /// Its name.
    pub(crate) name: &'static str,
    /// The memory that its cases get: what they write is kept there too.
    pub(crate) memory: &'static str,
    packages: &'static [&'static str],
    /// A script of bash that is run in it when the packages are installed.
    setup: Option<&'static str>,
}

impl Root {
    /// Its directory.
    pub(crate) fn path(self) -> PathBuf {
        paths::cache().join("rootfs").join(self.name)
    }

    fn recipe(self) -> String {
        let mut text = format!("{RECIPE} {}", self.packages.join(" "));
        text.extend(self.setup);
        write_hex(&Sha256::digest(text))
    }

    fn setup_file(self) -> PathBuf {
        paths::cache().join("rootfs").join(format!("{}.setup", self.name))
    }

    fn stamp_file(self) -> PathBuf {
        paths::cache().join("rootfs").join(format!("{}.stamp", self.name))
    }
}

/// What says which root file system this is.
pub(crate) fn stamp(root: Root) -> Result<String> {
    let file = root.stamp_file();
    fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}

/// Makes a root file system, unless it is there and up to date.
pub(crate) fn prepare(root: Root) -> Result<()> {
    let (path, recipe) = (root.path(), root.recipe());
    if path.exists() && stamp(root).is_ok_and(|text| text == recipe) {
        return Ok(());
    }
    println!("installing {} with mmdebstrap", root.name);
    remove(root)?;
    let packages = paths::cache().join("packages");
    fs::create_dir_all(&packages).with_context(|| format!("create {}", packages.display()))?;
    fs::create_dir_all(paths::cache().join("rootfs")).context("create the folder of roots")?;

    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--variant=apt", "--mode=root", "--quiet", "--skip=download/empty"]);
    mmdebstrap.arg("--skip=essential/unlink");
    for folder in ["man", "locale", "doc", "info"] {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{folder}/*"));
    }
    // Downloads are kept, and found again.  Java's scripts need the folder of manuals.
    let archives = r#""$1"/var/cache/apt/archives"#;
    let packages = packages.display();
    mmdebstrap.arg(format!(
        "--setup-hook=mkdir -p \"$1\"/usr/share/man/man1 {archives} && cp -ln '{packages}'/*.deb {archives}/ || true"
    ));
    let keep = format!("--customize-hook=cp -ln {archives}/*.deb '{packages}'/ || true");
    mmdebstrap.arg(&keep);
    if let Some(script) = root.setup {
        let file = root.setup_file();
        fs::write(&file, script).with_context(|| format!("write {}", file.display()))?;
        mmdebstrap.arg(format!(
            "--customize-hook=chroot \"$1\" bash -euo pipefail -c \"$(cat '{}')\" </dev/null",
            file.display()
        ));
        mmdebstrap.arg(&keep);
    }
    mmdebstrap.arg(format!("--include={}", root.packages.join(",")));
    mmdebstrap.arg("bookworm").arg(&path);
    for (archive, suite) in [
        ("debian", "bookworm"),
        ("debian", "bookworm-updates"),
        ("debian-security", "bookworm-security"),
    ] {
        mmdebstrap
            .arg(format!("deb [signed-by={KEYRING}] http://deb.debian.org/{archive} {suite} main"));
    }
    command::must(&mut mmdebstrap, PATIENCE).context("install a root file system")?;
    // runc adds none, and programs look up localhost.
    fs::write(path.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 compat\n")
        .context("write /etc/hosts")?;
    fs::write(root.stamp_file(), recipe).context("write the stamp of a root file system")
}

/// Removes a root file system: it is made again when it is needed.
pub(crate) fn remove(root: Root) -> Result<()> {
    fs::remove_file(root.stamp_file()).ok();
    let path = root.path();
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
