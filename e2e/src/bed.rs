// SPDX-License-Identifier: Apache-2.0
//! A containerd of our own, with the runtime under test on its PATH.

use std::{
    cell::Cell,
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    census::Scope,
    command::{self, Output, PATIENCE, Running},
    images::{self, Image},
    isolate, paths,
};

/// A containerd and what is around it.
#[derive(Debug)]
pub(crate) struct Bed {
    /// Everything is under this folder.
    pub(crate) folder: PathBuf,
    /// The runtime under test.
    pub(crate) runtime: String,
    /// containerd's namespace.
    pub(crate) namespace: String,
    daemon: Option<Child>,
    next: Cell<u32>,
}

impl Bed {
    /// Starts containerd and imports the images.
    pub(crate) fn new(runtime: &str) -> Result<Self> {
        let folder = isolate::folder()?;
        let mut bed = Self {
            namespace: isolate::name_of(&folder),
            folder,
            runtime: runtime.to_owned(),
            daemon: None,
            next: Cell::new(1),
        };
        fs::write(bed.folder.join("config.toml"), bed.config())?;
        bed.start_daemon()?;
        for image in images::ALL {
            let mut import = bed.ctr(&["images", "import"]);
            command::must(import.arg(image.archive()), Duration::from_secs(120))?;
        }
        Ok(bed)
    }

    fn config(&self) -> String {
        let folder = self.folder.display();
        format!(
            "version = 2\nroot = \"{folder}/root\"\nstate = \"{folder}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{folder}/containerd.sock\"\n\
             [debug]\nlevel = \"debug\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{folder}/opt\"\n"
        )
    }

    /// Starts containerd, on the state that an earlier one left if there was one.
    pub(crate) fn start_daemon(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(self.folder.join("config.toml"))
            .env("PATH", path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("run containerd")?;
        self.daemon = Some(daemon);
        command::until("containerd answers", PATIENCE, || {
            Ok(command::run(&mut self.ctr(&["version"]))?.status == 0)
        })
    }

    /// Kills containerd, as a crash would.
    pub(crate) fn kill_daemon(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().context("kill containerd")?;
            daemon.wait().context("wait for containerd")?;
        }
        Ok(())
    }

    /// containerd's log, with those of the shims in it.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("containerd.log")
    }

    /// Returns an id that no container has had.
    pub(crate) fn id(&self, word: &str) -> String {
        let number = self.next.get();
        self.next.set(number + 1);
        format!("{word}-{number}")
    }

    /// A `ctr` command.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> Command {
        ctr(&self.folder, &self.namespace, arguments)
    }

    /// Returns what removes every task and container, as well as it goes.
    pub(crate) fn sweeper(&self) -> impl Fn() + 'static {
        let (folder, namespace) = (self.folder.clone(), self.namespace.clone());
        move || {
            let ids = command::run(&mut ctr(&folder, &namespace, &["container", "ls", "-q"]));
            for id in ids.map(|output| output.stdout).unwrap_or_default().lines() {
                for words in [
                    ["task", "kill", "--signal", "SIGKILL", id].as_slice(),
                    &["task", "delete", "--force", id],
                    &["container", "delete", id],
                ] {
                    // Whatever cannot be removed, the end of the namespaces removes.
                    command::run(&mut ctr(&folder, &namespace, words)).ok();
                }
            }
        }
    }

    /// A `ctr run` command with the runtime under test.
    pub(crate) fn ctr_run(
        &self,
        flags: &[&str],
        image: Image,
        id: &str,
        arguments: &[&str],
    ) -> Command {
        let mut ctr = self.ctr(&["run", "--runtime", &self.runtime]);
        ctr.args(flags).arg(image.reference).arg(id).args(arguments);
        ctr
    }

    /// Runs a container to its end and removes it.
    pub(crate) fn run(&self, image: Image, arguments: &[&str]) -> Result<Output> {
        command::run(&mut self.ctr_run(&["--rm"], image, &self.id("run"), arguments))
    }

    /// Runs a script in a container to its end and removes it.
    pub(crate) fn sh(&self, image: Image, script: &str) -> Result<Output> {
        self.run(image, &["/bin/sh", "-c", script])
    }

    /// Starts a container and leaves it running, with its streams on nothing.
    pub(crate) fn detach(&self, image: Image, arguments: &[&str]) -> Result<String> {
        let id = self.id("detached");
        let mut ctr = self.ctr_run(&["--detach", "--null-io"], image, &id, arguments);
        command::must(&mut ctr, PATIENCE)?;
        Ok(id)
    }

    /// Runs a command in a running container.
    pub(crate) fn exec(&self, id: &str, arguments: &[&str]) -> Result<Output> {
        let exec_id = self.id("exec");
        let mut ctr = self.ctr(&["task", "exec", "--exec-id", &exec_id, id]);
        command::run(ctr.args(arguments))
    }

    /// Sends a signal to a task.
    pub(crate) fn kill(&self, id: &str, signal: &str) -> Result<()> {
        command::must(&mut self.ctr(&["task", "kill", "--signal", signal, id]), PATIENCE)?;
        Ok(())
    }

    /// Returns what `ctr task ls` says of a task, such as RUNNING; nothing if it does not list it.
    pub(crate) fn status(&self, id: &str) -> Result<Option<String>> {
        let list = command::must(&mut self.ctr(&["task", "ls"]), PATIENCE)?;
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(id));
        Ok(line.and_then(|line| line.split_whitespace().nth(2).map(str::to_owned)))
    }

    /// Waits until a task is in a state.
    pub(crate) fn until_status(&self, id: &str, status: &str) -> Result<()> {
        command::until(&format!("task {id} {status}"), Duration::from_secs(15), || {
            Ok(self.status(id)?.as_deref() == Some(status))
        })
    }

    /// Deletes a task that has ended, if it is still there, and its container.
    pub(crate) fn delete(&self, id: &str) -> Result<()> {
        if self.status(id)?.is_some() {
            // The exit status of `ctr task delete` is the task's.
            let output = command::run(&mut self.ctr(&["task", "delete", id]))?;
            if self.status(id)?.is_some() {
                bail!("ctr task delete left the task: {output}");
            }
        }
        command::must(&mut self.ctr(&["container", "delete", id]), PATIENCE)?;
        Ok(())
    }

    /// Kills a task, waits for its end, and deletes task and container.
    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        self.kill(id, "SIGKILL")?;
        self.until_status(id, "STOPPED")?;
        self.delete(id)
    }

    /// Lets containerd remove the snapshots of deleted containers, which it does when it finds time.
    pub(crate) fn collect_garbage(&self) -> Result<()> {
        let lease = self.id("lease");
        command::must(&mut self.ctr(&["leases", "create", "--id", &lease]), PATIENCE)?;
        command::must(&mut self.ctr(&["leases", "delete", "--sync", &lease]), PATIENCE)?;
        Ok(())
    }

    /// Follows containerd's events.
    pub(crate) fn events(&self) -> Result<Running> {
        command::start(&mut self.ctr(&["events"]), Stdio::null())
    }

    /// What a leak check looks at.
    pub(crate) fn scope(&self, with_daemon: bool) -> Scope {
        let folders = ["root/io.containerd.snapshotter.v1.overlayfs/snapshots", "state"];
        let mut folders: Vec<PathBuf> = folders.iter().map(|name| self.folder.join(name)).collect();
        folders.extend(["/run", "/var/lib/trine"].map(PathBuf::from));
        // The `delete` of runc's shim leaves the socket of one that was killed.
        let ignored = (!self.is_trine()).then(|| PathBuf::from("/run/containerd/s"));
        let daemon = self.daemon.as_ref().filter(|_| with_daemon).map(Child::id);
        Scope { name: self.namespace.clone(), folders, ignored, daemon }
    }

    /// Copies the log to where it outlives the test, and returns that place.
    pub(crate) fn keep_log(&self) -> Result<PathBuf> {
        let kept = paths::cache().join("containerd.log");
        fs::copy(self.log(), &kept).context("keep containerd's log")?;
        Ok(kept)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.kill_daemon().ok();
    }
}

fn ctr(folder: &Path, namespace: &str, arguments: &[&str]) -> Command {
    let mut ctr = Command::new("ctr");
    ctr.arg("--address").arg(folder.join("containerd.sock"));
    ctr.args(["--namespace", namespace]).args(arguments).env("PATH", path());
    ctr
}

/// The PATH on which containerd finds our shim before any that is installed.
fn path() -> OsString {
    let inherited = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    let all = [paths::programs()].into_iter().chain(env::split_paths(&inherited)).chain(system);
    env::join_paths(all.filter(|path| path.is_absolute() && path != Path::new("")))
        .unwrap_or(inherited)
}
