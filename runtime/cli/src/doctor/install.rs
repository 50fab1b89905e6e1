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

/// What the library looks for.
const PROGRAMS: [&str; 2] = ["trine-vmm", "trine-io"];
const KERNEL: &str = "trine-kernel";

/// Checks them.
pub(super) fn check(context: &Context) -> Vec<Finding> {
    vec![libexec(&candidates()), images(&context.images), state(&context.root_path)]
}

/// Directories that may have the programs, in the library's order.
fn candidates() -> Vec<PathBuf> {
    let beside = env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    let mut directories: Vec<_> =
        env::var_os("TRINE_LIBEXEC").map(PathBuf::from).into_iter().collect();
    if let Some(beside) = beside {
        directories.push(beside.clone());
        directories.push(beside.join("../libexec/trine"));
    }
    directories.push(PathBuf::from("/usr/local/libexec/trine"));
    directories
}

fn libexec(candidates: &[PathBuf]) -> Finding {
    const NAME: &str = "programs";
    let is_complete = |directory: &&PathBuf| missing_in(directory).is_empty();
    if let Some(directory) = candidates.iter().find(is_complete) {
        let names = format!("{}, {KERNEL}", PROGRAMS.join(", "));
        return Finding::ok(NAME, format!("{names} in {}", directory.display()));
    }
    // The directory with the most of them is where the rest belongs.
    let nearest = candidates.iter().min_by_key(|directory| missing_in(directory).len());
    let found = match nearest {
        Some(directory) if missing_in(directory).len() <= PROGRAMS.len() => {
            format!("{} lacks {}", directory.display(), missing_in(directory).join(", "))
        }
        _ => format!("{}, {KERNEL} are nowhere", PROGRAMS.join(", ")),
    };
    Finding::fail(NAME, found, "`make install`, or set TRINE_LIBEXEC to where they are")
}

fn missing_in(directory: &Path) -> Vec<&'static str> {
    let is_program = |name: &&str| {
        let metadata = directory.join(name).metadata();
        metadata.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    let mut missing: Vec<_> = PROGRAMS.into_iter().filter(|name| !is_program(name)).collect();
    if File::open(directory.join(KERNEL)).is_err() {
        missing.push(KERNEL);
    }
    missing
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
    fn libexec_takes_the_first_complete_directory() {
        let scratch = TempDir::new().expect("scratch directory");
        let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
        for directory in [&one, &two] {
            fs::create_dir(directory).expect("mkdir");
            program(&directory.join("trine-vmm"), 0o755);
            program(&directory.join("trine-io"), 0o755);
        }
        let candidates = [one.clone(), two.clone()];
        let finding = libexec(&candidates);
        assert_eq!(finding.grade, Grade::Fail);
        assert_eq!(finding.found, format!("{} lacks trine-kernel", one.display()));

        program(&two.join("trine-kernel"), 0o644);
        assert!(libexec(&candidates).found.ends_with(&two.display().to_string()));
        program(&two.join("trine-io"), 0o644);
        assert_eq!(libexec(&candidates).grade, Grade::Fail, "trine-io cannot be executed");
    }

    #[test]
    fn libexec_nowhere_says_so() {
        let scratch = TempDir::new().expect("scratch directory");
        let finding = libexec(&[scratch.path().to_owned()]);
        assert!(finding.found.ends_with("are nowhere"), "{}", finding.found);
    }
}
