// SPDX-License-Identifier: Apache-2.0
//! Trine's own programs and directories.

use std::{
    env,
    fs::File,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::Finding;
use crate::{context::Context, images::Images};

/// What the library looks for, and what it needs besides.
const PROGRAMS: [&str; 2] = ["trine-io", "trine-vmm"];
const KERNEL: &str = "trine-kernel";

/// Checks them.
pub(super) fn check(context: &Context) -> Vec<Finding> {
    vec![libexec(&candidates()), images(&context.images), state(&context.root_path)]
}

/// Directories that may have the programs, in the library's order.
fn candidates() -> Vec<PathBuf> {
    if let Some(named) = env::var_os("TRINE_LIBEXEC").filter(|value| !value.is_empty()) {
        return vec![named.into()];
    }
    let beside = env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    let mut directories = Vec::new();
    if let Some(beside) = beside {
        directories.push(beside.clone());
        directories.push(beside.join("../libexec/trine"));
    }
    directories.push(PathBuf::from("/usr/local/libexec/trine"));
    directories
}

/// The library takes the first directory with the first program: there all the rest must be.
fn libexec(candidates: &[PathBuf]) -> Finding {
    const NAME: &str = "programs";
    const REMEDY: &str = "`make install`, or set TRINE_LIBEXEC to where they are";
    let taken = candidates.iter().find(|directory| is_program(&directory.join(PROGRAMS[0])));
    let Some(taken) = taken else {
        let shown: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
        let found = format!("{} is not in {}", PROGRAMS[0], shown.join(", "));
        return Finding::fail(NAME, found, REMEDY);
    };
    let mut missing = PROGRAMS.to_vec();
    missing.retain(|name| !is_program(&taken.join(name)));
    if File::open(taken.join(KERNEL)).is_err() {
        missing.push(KERNEL);
    }
    let shown = taken.display();
    if missing.is_empty() {
        Finding::ok(NAME, format!("{}, {KERNEL} in {shown}", PROGRAMS.join(", ")))
    } else {
        Finding::fail(NAME, format!("{shown} lacks {}", missing.join(", ")), REMEDY)
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

fn images(directory: &Path) -> Finding {
    const NAME: &str = "image cache";
    match Images::open(directory).and_then(|images| images.list()) {
        Ok(list) => {
            let bytes = list.iter().map(|image| image.size_bytes).sum();
            let size = crate::values::format_bytes(bytes);
            Finding::ok(NAME, format!("{}: {} images, {size}", directory.display(), list.len()))
        }
        Err(error) => Finding::fail(
            NAME,
            crate::failure::one_line(&error),
            "run as root, or give --images a directory you may write",
        ),
    }
}

fn state(directory: &Path) -> Finding {
    const NAME: &str = "state directory";
    // It is made with the first container: until then its nearest ancestor counts.
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(directory);
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    match rustix::fs::access(existing, access) {
        Ok(()) => Finding::ok(NAME, directory.display().to_string()),
        Err(error) => Finding::fail(
            NAME,
            format!("{} cannot be written ({error})", existing.display()),
            "run as root, or give --root a directory you may write",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::doctor::Grade;

    fn program(path: &Path, mode: u32) {
        fs::write(path, "").expect("write");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    }

    #[test]
    fn libexec_is_the_first_directory_with_the_io_server_and_must_be_complete() {
        let scratch = TempDir::new().expect("scratch directory");
        let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
        for directory in [&one, &two] {
            fs::create_dir(directory).expect("mkdir");
        }
        let candidates = [one.clone(), two.clone()];
        let found = || libexec(&candidates).found;
        assert!(found().starts_with("trine-io is not in "), "{}", found());

        program(&one.join("trine-io"), 0o644);
        program(&two.join("trine-io"), 0o755);
        assert_eq!(found(), format!("{} lacks trine-vmm, trine-kernel", two.display()));
        program(&two.join("trine-vmm"), 0o755);
        program(&two.join("trine-kernel"), 0o644);
        assert_eq!(libexec(&candidates).grade, Grade::Ok);
        program(&one.join("trine-io"), 0o755);
        assert_eq!(found(), format!("{} lacks trine-vmm, trine-kernel", one.display()));
    }
}
