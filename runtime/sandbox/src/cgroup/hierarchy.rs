// SPDX-License-Identifier: Apache-2.0
//! The cgroup trees of the host.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::fs::statfs;

use super::resources::Setting;
use crate::Error;

const ROOT: &str = "/sys/fs/cgroup";
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// Controllers that limit or account something that a VM uses.
const CONTROLLERS: [&str; 5] = ["memory", "cpu", "cpuacct", "cpuset", "pids"];

/// One tree.
#[derive(Debug)]
pub(super) struct Tree {
    /// Where it is mounted.
    pub(super) root: PathBuf,
    /// Those of `CONTROLLERS` that it has.
    pub(super) controllers: Vec<&'static str>,
}

impl Tree {
    /// Whether `controller` lives here.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.contains(&controller)
    }

    /// Whether a cgroup with these limits is made here.  A cpuset that limits nothing is the
    /// dearest of all directories, and on v1 it has no figures to read either.
    pub(super) fn is_wanted(&self, settings: &[Setting]) -> bool {
        self.controllers != ["cpuset"]
            || settings.iter().any(|setting| setting.controller() == "cpuset")
    }
}

/// All trees that matter.
#[derive(Debug)]
pub(super) struct Hierarchy {
    trees: Vec<Tree>,
    is_unified: bool,
}

impl Hierarchy {
    /// Looks at the host, once.
    pub(super) fn of_host() -> Result<&'static Self, Error> {
        static HOST: OnceLock<Hierarchy> = OnceLock::new();
        if let Some(host) = HOST.get() {
            return Ok(host);
        }
        let found = Self::find(Path::new(ROOT))
            .map_err(|source| Error::host(format!("find the cgroups in {ROOT}"), source))?;
        Ok(HOST.get_or_init(|| found))
    }

    fn find(root: &Path) -> io::Result<Self> {
        if u64::try_from(statfs(root)?.f_type) == Ok(CGROUP2_MAGIC) {
            let present = fs::read_to_string(root.join("cgroup.controllers"))?;
            let has = |name: &str| present.split_whitespace().any(|word| word == name);
            let controllers = CONTROLLERS.into_iter().filter(|name| has(name)).collect();
            let trees = vec![Tree { root: root.to_path_buf(), controllers }];
            return Ok(Self { trees, is_unified: true });
        }
        let mut trees: Vec<Tree> = Vec::new();
        for controller in CONTROLLERS {
            // Trees with several controllers have a symbolic link for each.
            let Ok(root) = fs::canonicalize(root.join(controller)) else {
                continue;
            };
            match trees.iter_mut().find(|tree| tree.root == root) {
                Some(tree) => tree.controllers.push(controller),
                None => trees.push(Tree { root, controllers: vec![controller] }),
            }
        }
        if trees.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no cgroup tree is mounted"));
        }
        Ok(Self { trees, is_unified: false })
    }

    /// The trees.
    pub(super) fn trees(&self) -> &[Tree] {
        &self.trees
    }

    /// Whether this is cgroup v2.
    pub(super) fn is_unified(&self) -> bool {
        self.is_unified
    }
}

/// cgroup v2: lets the children of each ancestor have controllers.  What cannot be had shows when
/// a limit is written.
pub(super) fn delegate(root: &Path, relative: &Path) {
    let mut directory = root.to_path_buf();
    let parents = relative.parent().unwrap_or(Path::new(""));
    for part in [None].into_iter().chain(parents.iter().map(Some)) {
        if let Some(part) = part {
            directory.push(part);
        }
        for controller in CONTROLLERS {
            let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

/// cgroup v1: a new cpuset is empty, and takes no process before it has CPUs and memory nodes.
pub(super) fn inherit_cpuset(root: &Path, relative: &Path) -> io::Result<()> {
    let mut directory = root.to_path_buf();
    for part in relative {
        let parent = directory.clone();
        directory.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read(directory.join(file))?.iter().all(u8::is_ascii_whitespace) {
                fs::write(directory.join(file), fs::read(parent.join(file))?)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn find_joined_controllers_returns_one_tree() {
        let root = tempfile::tempdir().expect("directory");
        for name in ["cpu,cpuacct", "memory", "unified"] {
            fs::create_dir(root.path().join(name)).expect("directory");
        }
        for name in ["cpu", "cpuacct"] {
            symlink("cpu,cpuacct", root.path().join(name)).expect("link");
        }
        let found = Hierarchy::find(root.path()).expect("found");
        assert!(!found.is_unified());
        let controllers: Vec<_> = found.trees().iter().map(|tree| &tree.controllers[..]).collect();
        assert_eq!(controllers, [&["memory"][..], &["cpu", "cpuacct"]]);
        assert!(Hierarchy::find(&root.path().join("unified")).is_err(), "nothing there");
    }

    #[test]
    fn inherit_cpuset_fills_every_empty_level() {
        let root = tempfile::tempdir().expect("directory");
        fs::create_dir_all(root.path().join("a/b")).expect("directories");
        for (directory, cpus) in [("", "0-3\n"), ("a", "\n"), ("a/b", "")] {
            fs::write(root.path().join(directory).join("cpuset.cpus"), cpus).expect("file");
            fs::write(root.path().join(directory).join("cpuset.mems"), "0").expect("file");
        }
        inherit_cpuset(root.path(), Path::new("a/b")).expect("inherited");
        let read = |file| fs::read_to_string(root.path().join(file)).expect("file");
        assert_eq!(
            (read("a/cpuset.cpus"), read("a/b/cpuset.cpus")),
            ("0-3\n".into(), "0-3\n".into())
        );
    }
}
