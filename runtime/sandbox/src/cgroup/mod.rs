// SPDX-License-Identifier: Apache-2.0
//! The host cgroup of a process: made before it, limited, and removed after it.
//!
//! Works with cgroup v2, and with v1 and hybrid hosts, where each controller has a tree of its own.
//! Files are written directly: a container needs a handful of directories, and every system call
//! is on the path of a start.
//!
//! | file | what |
//! | --- | --- |
//! | `hierarchy.rs` | which trees the host has |
//! | `path.rs` | the path of a cgroup from its OCI form |
//! | `resources.rs` | OCI `linux.resources`, as control files to write |

mod hierarchy;
mod path;
mod resources;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

pub(crate) use self::resources::Resources;
use self::{
    hierarchy::{Hierarchy, Tree},
    resources::Setting,
};
use crate::Error;

/// How often the removal of a cgroup is tried again while its last process goes away.
const REMOVE_TRIES: u32 = 100;
const REMOVE_STEP: Duration = Duration::from_millis(2);

/// A cgroup of ours, in every tree that it needs.
#[derive(Debug)]
pub(crate) struct Cgroup {
    hierarchy: &'static Hierarchy,
    /// Below the root of each tree.
    relative: PathBuf,
    made: Mutex<Made>,
}

/// What there is of a cgroup.
#[derive(Debug, Default)]
struct Made {
    /// Its directory in each tree that it is in.
    directories: Vec<(&'static Tree, PathBuf)>,
    /// Ancestors that were not there before, innermost first.
    ancestors: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes the cgroup that `name` says (see [`crate::Limits::cgroup`]).
    pub(crate) fn create(name: &str, resources: &Resources) -> Result<Self, Error> {
        let relative = path::parse(name)?;
        let hierarchy = Hierarchy::of_host()?;
        let settings = resources.settings(hierarchy.is_unified())?;
        let cgroup = Self { hierarchy, relative, made: Mutex::default() };
        let mut made = cgroup.lock();
        for tree in hierarchy.trees().iter().filter(|tree| tree.is_wanted(&settings)) {
            cgroup.make(&mut made, tree)?;
        }
        write_all(&made, &settings)?;
        drop(made);
        Ok(cgroup)
    }

    fn lock(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes its directory in one tree.
    fn make(&self, made: &mut Made, tree: &'static Tree) -> Result<(), Error> {
        let leaf = tree.root.join(&self.relative);
        let refuse = |source| Error::host(format!("make cgroup {}", leaf.display()), source);
        // The common case is one call: the parent is there.
        let mut result = fs::create_dir(&leaf);
        let mut tries = 0;
        // A neighbour that removes an empty parent at this moment makes it vanish again.
        while matches!(&result, Err(error) if error.kind() == io::ErrorKind::NotFound) && tries < 10
        {
            tries += 1;
            let mut parent = tree.root.clone();
            for part in self.relative.parent().unwrap_or(Path::new("")) {
                parent.push(part);
                match fs::create_dir(&parent) {
                    Ok(()) => made.ancestors.insert(0, parent.clone()),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) => return Err(refuse(error)),
                }
            }
            result = fs::create_dir(&leaf);
        }
        match result {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(refuse(error)),
        }
        made.directories.push((tree, leaf.clone()));
        if self.hierarchy.is_unified() {
            hierarchy::delegate(&tree.root, &self.relative);
        } else if tree.has("cpuset") {
            hierarchy::inherit_cpuset(&tree.root, &self.relative).map_err(refuse)?;
        }
        Ok(())
    }

    /// Whether a thread can enter it alone.
    pub(crate) fn is_per_thread(&self) -> bool {
        !self.hierarchy.is_unified()
    }

    /// Moves the calling thread into it; its children are born there.
    pub(crate) fn enter_thread(&self) -> Result<(), Error> {
        self.lock().directories.iter().try_for_each(|(_, path)| write(&path.join("tasks"), "0"))
    }

    /// Moves a process into it.
    pub(crate) fn adopt(&self, pid: u32) -> Result<(), Error> {
        let made = self.lock();
        made.directories.iter().try_for_each(|(_, directory)| adopt(directory, pid))
    }

    /// Applies other limits to it and its process.
    pub(crate) fn update(&self, resources: &Resources, pid: u32) -> Result<(), Error> {
        let settings = resources.settings(self.hierarchy.is_unified())?;
        let mut made = self.lock();
        for tree in self.hierarchy.trees().iter().filter(|tree| tree.is_wanted(&settings)) {
            if !made.directories.iter().any(|(known, _)| std::ptr::eq(*known, tree)) {
                self.make(&mut made, tree)?;
                adopt(&tree.root.join(&self.relative), pid)?;
            }
        }
        write_all(&made, &settings)
    }

    /// How often the kernel killed something in it because its memory ran out.
    pub(crate) fn oom_kills(&self) -> u64 {
        let file = if self.hierarchy.is_unified() { "memory.events" } else { "memory.oom_control" };
        let made = self.lock();
        let trees = made.directories.iter();
        trees
            .filter(|(tree, _)| tree.has("memory"))
            .filter_map(|(_, directory)| fs::read_to_string(directory.join(file)).ok())
            .filter_map(|text| {
                let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
                line.trim().parse::<u64>().ok()
            })
            .sum()
    }

    /// Its directories by controller; "" for cgroup v2.
    pub(crate) fn paths(&self) -> Vec<(String, PathBuf)> {
        let made = self.lock();
        let trees = made.directories.iter();
        trees
            .flat_map(|(tree, directory)| {
                let names = if self.hierarchy.is_unified() { &[""][..] } else { &tree.controllers };
                names.iter().map(|name| ((*name).to_owned(), directory.clone()))
            })
            .collect()
    }

    /// Removes it, once its processes are gone.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        let mut result = Ok(());
        let made = self.lock();
        for (_, directory) in &made.directories {
            if let Err(error) = remove_directory(directory) {
                result = Err(Error::host(format!("remove cgroup {}", directory.display()), error));
            }
        }
        for ancestor in &made.ancestors {
            // In use by somebody else by now: theirs.
            let _ = fs::remove_dir(ancestor);
        }
        result
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Removed already, or somebody is in it whom we do not know.
        let made = self.lock();
        let directories = made.directories.iter().map(|(_, directory)| directory);
        for directory in directories.chain(&made.ancestors) {
            let _ = fs::remove_dir(directory);
        }
    }
}

fn adopt(directory: &Path, pid: u32) -> Result<(), Error> {
    write(&directory.join("cgroup.procs"), &pid.to_string())
}

fn write_all(made: &Made, settings: &[Setting]) -> Result<(), Error> {
    for setting in settings {
        let controller = setting.controller();
        let mut trees = made.directories.iter().filter(|(tree, _)| tree.has(controller));
        let Some((_, directory)) = trees.next() else {
            return Err(Error::Unsupported {
                what: format!("limit {}", setting.file),
                hint: format!(
                    "this host has no {controller} cgroup controller; enable it, or leave the \
                     limit out"
                ),
            });
        };
        let file = directory.join(&setting.file);
        match write(&file, &setting.value) {
            Err(_) if setting.is_optional && !file.exists() => {}
            other => other?,
        }
    }
    Ok(())
}

fn remove_directory(directory: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries < REMOVE_TRIES => {
                tries += 1;
                thread::sleep(REMOVE_STEP);
            }
            other => return other,
        }
    }
}

/// Writes a control file in one call, as they want it.
fn write(file: &Path, value: &str) -> Result<(), Error> {
    let refuse =
        |source: io::Error| Error::host(format!("write {value:?} to {}", file.display()), source);
    let mut open = fs::OpenOptions::new();
    let mut opened = open.write(true).open(file).map_err(refuse)?;
    io::Write::write_all(&mut opened, value.as_bytes()).map_err(refuse)
}

#[cfg(test)]
mod tests;
