// SPDX-License-Identifier: Apache-2.0
//! containerd and the shim.  Trine runs without them: what is missing is a warning.

use std::{
    env, fs,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::Finding;

const SOCKET: &str = "/run/containerd/containerd.sock";
const SHIM: &str = "containerd-shim-trine-v1";
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Checks them.
pub(super) fn check() -> Vec<Finding> {
    let own_path = env::var("PATH").unwrap_or_else(|_| PATH_DEFAULT.to_owned());
    let Some(program) = find_program("containerd", &own_path) else {
        return vec![Finding::warn(
            "containerd",
            "is not installed",
            "not needed for `trine run`; for Kubernetes and ctr install 1.6 or newer",
        )];
    };
    let running = running_containerd();
    let path = running.and_then(path_of).unwrap_or(own_path);
    vec![version(&program), socket(), shim(&path, running.is_some())]
}

fn version(program: &Path) -> Finding {
    const NAME: &str = "containerd";
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let text = match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => {
            let found = format!("{} does not run ({error})", program.display());
            return Finding::warn(NAME, found, "install it again");
        }
    };
    match parse_version(&text) {
        Some(version) if version >= (1, 6) => {
            Finding::ok(NAME, format!("{}.{} at {}", version.0, version.1, program.display()))
        }
        Some((major, minor)) => Finding::warn(
            NAME,
            format!("{major}.{minor} at {}", program.display()),
            "the shim needs 1.6 or newer: upgrade",
        ),
        None => Finding::warn(NAME, format!("unknown version {text:?}"), "use 1.6 or newer"),
    }
}

/// Takes the first word that looks like `[v]MAJOR.MINOR...`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let (major, rest) = word.trim_start_matches('v').split_once('.')?;
        let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

fn socket() -> Finding {
    const NAME: &str = "containerd socket";
    match UnixStream::connect(SOCKET) {
        Ok(_) => Finding::ok(NAME, SOCKET),
        Err(error) => Finding::warn(
            NAME,
            format!("{SOCKET} does not answer ({})", error.kind()),
            "`systemctl start containerd`, or run as root",
        ),
    }
}

fn shim(path: &str, is_of_containerd: bool) -> Finding {
    const NAME: &str = "shim";
    let whose = if is_of_containerd { "containerd's PATH" } else { "PATH" };
    match find_program(SHIM, path) {
        Some(program) => {
            Finding::ok(NAME, format!("io.containerd.trine.v1 is {} on {whose}", program.display()))
        }
        None => Finding::warn(
            NAME,
            format!("{SHIM} is not on {whose} ({path})"),
            "`make install`, or link it into one of these directories",
        ),
    }
}

fn find_program(name: &str, path: &str) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(path).map(|directory| directory.join(name)).find(is_program)
}

/// Finds a running containerd.
fn running_containerd() -> Option<u32> {
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim_end() == "containerd"
    })
}

/// Reads the PATH of a process, which only its user and root may.
fn path_of(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.split('\0').find_map(|variable| variable.strip_prefix("PATH=")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn parse_version_reads_debian_and_upstream() {
        for (text, version) in [
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1", (1, 6)),
            ("containerd containerd.io 1.7.27 05044ec0a9a7", (1, 7)),
            ("containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b71", (2, 1)),
        ] {
            assert_eq!(parse_version(text), Some(version), "{text}");
        }
        assert_eq!(parse_version("containerd unknown"), None);
    }

    #[test]
    fn find_program_ignores_what_cannot_be_executed() {
        let scratch = TempDir::new().expect("scratch directory");
        let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
        for (directory, mode) in [(&one, 0o644), (&two, 0o755)] {
            fs::create_dir(directory).expect("mkdir");
            fs::write(directory.join("p"), "").expect("write");
            fs::set_permissions(directory.join("p"), fs::Permissions::from_mode(mode))
                .expect("chmod");
        }
        let path = format!("{}:{}", one.display(), two.display());
        assert_eq!(find_program("p", &path), Some(two.join("p")));
        assert_eq!(find_program("q", &path), None);
    }
}
