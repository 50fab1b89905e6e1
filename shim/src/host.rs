// SPDX-License-Identifier: Apache-2.0
//! What the task service needs of the machine below it, so that its tests need no VM.
//!
//! The real one is [`Trine`], over the library `trine` and the image cache of
//! `trine-rootfs-builder`; everything that touches the latter is in `rootfs.rs`.

use std::{fmt, fs::File, path::PathBuf, sync::Arc};

use trine::{ContainerSpec, Error, ExitStatus, PodOptions, ProcessState, Stdio};
use trine_abi::control::Process;

use crate::{mounts::Mount, rootfs::Images};

/// Where a root file system comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rootfs {
    /// Mounts that would make it.
    Mounts(Vec<Mount>),
    /// A directory that is it.
    Directory(PathBuf),
}

/// Receives the ends of processes: "" or an exec id, and how.
pub type OnExit = Box<dyn Fn(&str, ExitStatus) + Send + Sync>;

/// Makes pods and images.
pub trait Host: fmt::Debug + Send + Sync {
    /// As [`trine::Pod::create`].
    ///
    /// # Errors
    /// As there.
    fn create_pod(&self, options: PodOptions) -> Result<Arc<dyn Pod>, Error>;

    /// Says whether the image of a root file system can be made from these mounts themselves.
    fn reads_mounts(&self, mounts: &[Mount]) -> bool;

    /// Returns the image of a root file system, made now or before.
    ///
    /// # Errors
    /// If it cannot be made.
    fn image(&self, rootfs: &Rootfs) -> Result<File, Error>;
}

/// As [`trine::Pod`].
pub trait Pod: fmt::Debug + Send + Sync {
    /// As [`trine::Pod::io_pid`].
    fn io_pid(&self) -> u32;

    /// As [`trine::Pod::create_container`].
    ///
    /// # Errors
    /// As there.
    fn create_container(&self, spec: ContainerSpec) -> Result<Arc<dyn Guest>, Error>;

    /// As [`trine::Pod::stop`].
    ///
    /// # Errors
    /// As there.
    fn stop(&self) -> Result<(), Error>;

    /// As [`trine::Pod::wait`].
    fn wait(&self);

    /// As [`trine::Pod::reload_policy`], from the file that it was loaded from.
    ///
    /// # Errors
    /// As there.
    fn reload_policy(&self) -> Result<(), Error>;
}

/// As [`trine::Container`], or the sandbox of a pod.
pub trait Guest: fmt::Debug + Send + Sync {
    /// As [`trine::Container::pid`].
    fn pid(&self) -> u32;

    /// As [`trine::Container::end_reason`]; what has no VM has none.
    fn end_reason(&self) -> Option<String> {
        None
    }

    /// As [`trine::Container::process_state`].
    ///
    /// # Errors
    /// As there.
    fn process_state(&self, process: &str) -> Result<ProcessState, Error>;

    /// As [`trine::Container::start`].
    ///
    /// # Errors
    /// As there.
    fn start(&self, process: &str) -> Result<(), Error>;

    /// As [`trine::Container::exec`].
    ///
    /// # Errors
    /// As there.
    fn exec(&self, exec_id: &str, process: Process, stdio: Stdio) -> Result<(), Error>;

    /// As [`trine::Container::kill`].
    ///
    /// # Errors
    /// As there.
    fn kill(&self, process: &str, signal: u32, all: bool) -> Result<(), Error>;

    /// As [`trine::Container::resize`].
    ///
    /// # Errors
    /// As there.
    fn resize(&self, process: &str, rows: u32, columns: u32) -> Result<(), Error>;

    /// As [`trine::Container::close_stdin`].
    ///
    /// # Errors
    /// As there.
    fn close_stdin(&self, process: &str) -> Result<(), Error>;

    /// As [`trine::Container::pause`].
    ///
    /// # Errors
    /// As there.
    fn pause(&self) -> Result<(), Error>;

    /// As [`trine::Container::resume`].
    ///
    /// # Errors
    /// As there.
    fn resume(&self) -> Result<(), Error>;

    /// As [`trine::Container::cgroup_paths`].
    fn cgroup_paths(&self) -> Vec<(String, PathBuf)>;

    /// As [`trine::Container::update`].
    ///
    /// # Errors
    /// As there.
    fn update(&self, resources: &str) -> Result<(), Error>;

    /// As [`trine::Container::delete`].
    ///
    /// # Errors
    /// As there.
    fn delete(&self, process: &str) -> Result<Option<ExitStatus>, Error>;

    /// As [`trine::Container::on_exit`].
    fn on_exit(&self, notify: OnExit);
}

/// The real host.
#[derive(Debug)]
pub struct Trine {
    images: Images,
}

impl Trine {
    /// A host that keeps its images in this cache.
    pub fn new(images: Images) -> Self {
        Self { images }
    }
}

impl Host for Trine {
    fn create_pod(&self, options: PodOptions) -> Result<Arc<dyn Pod>, Error> {
        Ok(Arc::new(TrinePod(trine::Pod::create(options)?)))
    }

    fn reads_mounts(&self, mounts: &[Mount]) -> bool {
        Images::reads(mounts)
    }

    fn image(&self, rootfs: &Rootfs) -> Result<File, Error> {
        self.images.image(rootfs)
    }
}

#[derive(Debug)]
struct TrinePod(Arc<trine::Pod>);

impl Pod for TrinePod {
    fn io_pid(&self) -> u32 {
        self.0.io_pid()
    }

    fn create_container(&self, spec: ContainerSpec) -> Result<Arc<dyn Guest>, Error> {
        Ok(self.0.create_container(spec)?)
    }

    fn stop(&self) -> Result<(), Error> {
        self.0.stop()
    }

    fn wait(&self) {
        self.0.wait();
    }

    fn reload_policy(&self) -> Result<(), Error> {
        self.0.reload_policy(None)
    }
}

impl Guest for trine::Container {
    fn pid(&self) -> u32 {
        self.pid()
    }

    fn end_reason(&self) -> Option<String> {
        self.end_reason()
    }

    fn process_state(&self, process: &str) -> Result<ProcessState, Error> {
        self.process_state(process)
    }

    fn start(&self, process: &str) -> Result<(), Error> {
        self.start(process)
    }

    fn exec(&self, exec_id: &str, process: Process, stdio: Stdio) -> Result<(), Error> {
        self.exec(exec_id, process, stdio)
    }

    fn kill(&self, process: &str, signal: u32, all: bool) -> Result<(), Error> {
        self.kill(process, signal, all)
    }

    fn resize(&self, process: &str, rows: u32, columns: u32) -> Result<(), Error> {
        self.resize(process, rows, columns)
    }

    fn close_stdin(&self, process: &str) -> Result<(), Error> {
        self.close_stdin(process)
    }

    fn pause(&self) -> Result<(), Error> {
        self.pause()
    }

    fn resume(&self) -> Result<(), Error> {
        self.resume()
    }

    fn cgroup_paths(&self) -> Vec<(String, PathBuf)> {
        self.cgroup_paths()
    }

    fn update(&self, resources: &str) -> Result<(), Error> {
        self.update(resources)
    }

    fn delete(&self, process: &str) -> Result<Option<ExitStatus>, Error> {
        self.delete(process)
    }

    fn on_exit(&self, notify: OnExit) {
        self.on_exit(notify);
    }
}
