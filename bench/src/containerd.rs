// SPDX-License-Identifier: Apache-2.0
//! A containerd of this run's own, with one image.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{image, session::Session, system::System};

const START_DEADLINE: Duration = Duration::from_secs(20);
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// The daemon.  It is stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Containerd<'a> {
    session: &'a Session,
    daemon: Child,
    ctr: PathBuf,
    socket: PathBuf,
    shim_config: PathBuf,
    runc_root: PathBuf,
}

impl<'a> Containerd<'a> {
    /// Starts the daemon and imports the image.
    ///
    /// # Errors
    /// If it does not come up.
    pub(crate) fn start(session: &'a Session) -> Result<Result<Self, String>> {
        let (program, ctr) = match (&session.tools.containerd, &session.tools.ctr) {
            (Ok(program), Ok(ctr)) => (program, ctr.clone()),
            (Err(reason), _) | (_, Err(reason)) => return Ok(Err(reason.clone())),
        };
        let directory = session.scratch.directory("containerd")?;
        let socket = directory.join("sock");
        let config = directory.join("config.toml");
        fs::write(&config, configuration(&directory, &socket))
            .context("cannot write containerd's configuration")?;
        let shim_config = directory.join("trine.toml");
        fs::write(&shim_config, shim_configuration(session)?)
            .context("cannot write the shim's configuration")?;

        let log = directory.join("log");
        let log_file = File::create(&log).context("cannot make containerd's log")?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&config).env("PATH", search_path(session)?);
        let daemon = session.runner.spawn(&mut command, &log_file)?;
        let runc_root = session.scratch.directory("state/ctr-runc")?;
        let mut containerd = Self { session, daemon, ctr, socket, shim_config, runc_root };
        containerd.await_ready(&log)?;
        containerd.import()?;
        Ok(Ok(containerd))
    }

    /// Process id of the daemon.
    pub(crate) fn id(&self) -> u32 {
        self.daemon.id()
    }

    /// `ctr run` of a command in the image, with the runtime of a system.
    pub(crate) fn run(&self, system: System, flags: &[&str], id: &str, args: &[&str]) -> Command {
        let mut command = self.ctr();
        command.arg("run").args(flags);
        if system == System::Trine {
            command.args(["--runtime", "io.containerd.trine.v1", "--runtime-config-path"]);
            command.arg(&self.shim_config);
        } else {
            command.args(["--runtime", "io.containerd.runc.v2", "--runc-root"]);
            command.arg(&self.runc_root);
        }
        command.args([image::NAME, id]).args(args);
        command
    }

    /// Ends and deletes a container, whatever state it is in.
    pub(crate) fn delete(&self, id: &str) {
        let runner = &self.session.runner;
        runner.tidy(self.ctr().args(["task", "delete", "--force", id]));
        runner.tidy(self.ctr().args(["container", "delete", id]));
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new(&self.ctr);
        command.arg("--address").arg(&self.socket);
        command.args(["--namespace", self.session.scratch.name()]);
        command
    }

    fn await_ready(&mut self, log: &Path) -> Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if self.socket.exists() {
                let finished = self.session.runner.run(self.ctr().arg("version"))?;
                if finished.status.success() {
                    return Ok(());
                }
            }
            let ended = self.daemon.try_wait().context("cannot watch containerd")?;
            if ended.is_some() || Instant::now() > deadline {
                let text = fs::read_to_string(log).unwrap_or_default();
                let last = text.lines().last().unwrap_or("it logged nothing");
                bail!("containerd does not start: {last}");
            }
            self.session.runner.sleep(Duration::from_millis(20))?;
        }
    }

    fn import(&self) -> Result<()> {
        let archive = self.session.scratch.path().join("image.tar");
        image::write(&self.session.rootfs.path, &archive)?;
        self.session.runner.succeed(self.ctr().args(["image", "import"]).arg(&archive))?;
        fs::remove_file(&archive).context("cannot remove the image archive")
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        if let Some(id) = Pid::from_raw(self.daemon.id().cast_signed()) {
            // Not waited for yet, so that the number is still its own.
            let _ = kill_process(id, Signal::TERM);
        }
        let deadline = Instant::now() + STOP_DEADLINE;
        while matches!(self.daemon.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.daemon.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Only what is needed, so that the host's containerd is not touched.
fn configuration(directory: &Path, socket: &Path) -> String {
    let (directory, socket) = (directory.display(), socket.display());
    format!(
        "version = 2\n\
         root = \"{directory}/root\"\n\
         state = \"{directory}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \
         \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.btrfs\", \
         \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.aufs\", \
         \"io.containerd.tracing.processor.v1.otlp\", \"io.containerd.internal.v1.tracing\", \
         \"io.containerd.internal.v1.opt\"]\n\
         [grpc]\n  address = \"{socket}\"\n\
         [ttrpc]\n  address = \"{socket}.ttrpc\"\n"
    )
}

fn shim_configuration(session: &Session) -> Result<String> {
    let images = session.scratch.directory("images")?;
    let mut text = format!("[cache]\ndir = \"{}\"\n", images.display());
    if let Ok(kernel) = &session.tools.kernel
        && let Some(libexec) = kernel.parent()
    {
        text = format!("libexec = \"{}\"\n{text}", libexec.display());
    }
    Ok(text)
}

/// PATH for the daemon: it looks its shims up there.
fn search_path(session: &Session) -> Result<std::ffi::OsString> {
    let own = env::var_os("PATH").unwrap_or_default();
    let shim = session.tools.shim.as_deref().ok().and_then(Path::parent);
    let directories = shim.map(Path::to_owned).into_iter().chain(env::split_paths(&own));
    env::join_paths(directories).context("the shim's directory has a colon in its name")
}

/// Tells whether a system can run under containerd, and if not, why.
///
/// # Errors
/// The reason.
pub(crate) fn shim_of(session: &Session, system: System) -> Result<(), String> {
    let tools = &session.tools;
    let needed = match system {
        System::Runc => [&tools.runc, &tools.runc_shim],
        System::Trine => [&tools.shim, &tools.kernel],
        System::Plain | System::Runsc => return Err(format!("{system} has no shim here")),
    };
    needed.into_iter().try_for_each(|found| found.clone().map(drop))
}
