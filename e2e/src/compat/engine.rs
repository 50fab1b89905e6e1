// SPDX-License-Identifier: Apache-2.0
//! runc and Trine as ways to run a command in a root file system.

use std::{
    fmt, fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::roots::Root;
use crate::{command, paths};

/// How long the start and the end of a container may take, in addition to its command.
const OVERHEAD: Duration = Duration::from_secs(20);
/// More output than this is cut.
const OUTPUT_MAX_BYTES: u64 = 1 << 20;

const ENVIRONMENT: &[&str] = &[
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
    "LC_ALL=C.UTF-8",
    "TERM=dumb",
];

/// What a command did.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Its exit status; none if it took too long.
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) seconds: f64,
}

impl Outcome {
    /// Its exit status in words.
    pub(crate) fn status_text(&self) -> String {
        self.status.map_or_else(|| "(timed out)".to_owned(), |status| status.to_string())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stdout, stderr, seconds, .. } = self;
        let status = self.status_text();
        write!(f, "status {status}, {seconds:.2} s\n-- stdout\n{stdout}\n-- stderr\n{stderr}\n")
    }
}

/// The folder of the images.
pub(crate) fn images() -> PathBuf {
    paths::cache().join("compat/images")
}

/// A way to run commands in containers.
pub(crate) trait Engine {
    /// Runs a command in a fresh container with so many CPUs, if that can be limited.
    fn run(&self, command: &[String], timeout: Duration, cpus: u32) -> Result<Outcome>;
}

/// Trine's command line.
#[derive(Debug)]
pub(crate) struct Trine {
    state: PathBuf,
    root: Root,
}

impl Trine {
    /// Builds the image of the root file system, unless it is there.
    pub(crate) fn new(state: &Path, root: Root) -> Result<Self> {
        let this = Self { state: state.to_owned(), root };
        let build = ["image", "build", "-t", root.name];
        command::must(this.trine().args(build).arg(root.path()), Duration::from_secs(300))
            .context("build the image")?;
        // What the name meant before is of no use.
        command::must(this.trine().args(["image", "prune"]), command::PATIENCE)
            .context("remove old images")?;
        Ok(this)
    }

    /// In a network namespace of its own, as runc gives one: cases bind the same ports.
    fn trine(&self) -> Command {
        let mut trine = Command::new("unshare");
        let script = r#"busybox ip link set lo up && exec "$@""#;
        trine.args(["--net", "--", "sh", "-c", script, "unshare"]).arg(paths::trine());
        trine.arg("--root").arg(&self.state);
        trine.arg("--images").arg(images());
        trine
    }
}

impl Engine for Trine {
    fn run(&self, command: &[String], timeout: Duration, cpus: u32) -> Result<Outcome> {
        let mut trine = self.trine();
        let seconds = timeout.as_secs().to_string();
        trine.args(["run", "--timeout", &seconds, "--hostname", "compat"]);
        trine.args(["--memory", self.root.memory, "--cpus", &cpus.to_string()]);
        for variable in ENVIRONMENT {
            trine.args(["--env", variable]);
        }
        trine.arg(self.root.name).args(command);
        let mut outcome = run(&mut trine, timeout + OVERHEAD, |child| {
            child.kill().ok();
        })?;
        if outcome.status == Some(124) && outcome.seconds + 0.5 > timeout.as_secs_f64() {
            outcome.status = None;
        }
        Ok(outcome)
    }
}

/// runc, each container on an overlay of its own.
#[derive(Debug)]
pub(crate) struct Runc {
    folder: PathBuf,
    root: Root,
    next: AtomicU32,
}

impl Runc {
    /// `folder` takes bundles and state.
    pub(crate) fn new(folder: &Path, root: Root) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(Self { folder: folder.to_owned(), root, next: AtomicU32::new(1) })
    }

    fn runc(&self) -> Command {
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(self.folder.join("state"));
        runc
    }
}

impl Engine for Runc {
    fn run(&self, command: &[String], timeout: Duration, _cpus: u32) -> Result<Outcome> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("compat-{}-{}-{number}", std::process::id(), self.root.name);
        let bundle = self.folder.join(&name);
        let [upper, work, rootfs] = ["upper", "work", "rootfs"].map(|part| bundle.join(part));
        for folder in [&upper, &work, &rootfs] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            self.root.path().display(),
            upper.display(),
            work.display()
        );
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "-o", &options, "overlay"]).arg(&rootfs);
        command::must(&mut mount, command::PATIENCE).context("mount an overlay for runc")?;
        fs::write(bundle.join("config.json"), config(command).to_string())?;

        let mut runc = self.runc();
        runc.arg("run").arg("--bundle").arg(&bundle).arg(&name);
        let outcome = run(&mut runc, timeout, |child| {
            // runc forwards no SIGKILL: end the container, and runc ends by itself.
            self.runc().args(["kill", "--all", &name, "KILL"]).output().ok();
            thread::sleep(Duration::from_millis(500));
            child.kill().ok();
        });
        self.runc().args(["delete", "--force", &name]).output().ok();
        command::must(Command::new("umount").arg(&rootfs), command::PATIENCE)?;
        fs::remove_dir_all(&bundle).with_context(|| format!("remove {}", bundle.display()))?;
        outcome
    }
}

/// The same container as Trine makes of an image without a configuration.
fn config(command: &[String]) -> Value {
    let capabilities = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SYS_CHROOT",
        "CAP_MKNOD",
        "CAP_AUDIT_WRITE",
        "CAP_SETFCAP",
    ];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": command,
            "env": ENVIRONMENT,
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
        },
        "root": { "path": "rootfs" },
        "hostname": "compat",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620",
                          "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
        ],
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "mount" }, { "type": "uts" },
                { "type": "network" },
            ],
            "resources": { "memory": { "limit": 3_u64 << 30 }, "pids": { "limit": 8192 } },
        },
    })
}

/// Runs a command with nothing on standard input; past its deadline, `stop_fn` ends it.
fn run(
    command: &mut Command,
    deadline: Duration,
    stop_fn: impl FnOnce(&mut Child),
) -> Result<Outcome> {
    use std::{io::Seek as _, os::unix::process::ExitStatusExt as _};
    let mut stdout = tempfile::tempfile().context("create a file for output")?;
    let mut stderr = tempfile::tempfile().context("create a file for output")?;
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .spawn()
        .with_context(|| format!("run {}", command.get_program().display()))?;
    let status = loop {
        if let Some(status) = child.try_wait().context("wait for a container")? {
            break status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        }
        if start.elapsed() > deadline {
            stop_fn(&mut child);
            child.wait().context("wait for a container")?;
            break None;
        }
        thread::sleep(Duration::from_millis(2));
    };
    let seconds = start.elapsed().as_secs_f64();
    let text_of_fn = |file: &mut fs::File| -> Result<String> {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.take(OUTPUT_MAX_BYTES).read_to_end(&mut bytes).context("read output")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (stdout, stderr) = (text_of_fn(&mut stdout)?, text_of_fn(&mut stderr)?);
    Ok(Outcome { status, stdout, stderr, seconds })
}
