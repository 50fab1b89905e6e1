// SPDX-License-Identifier: Apache-2.0
//! One cgroup over everything that a run starts.
//!
//! Bundles put their containers into cgroups; a plain process, and a runtime that ignores cgroups,
//! would stay outside and compete for the processors with all of the host's other processes, each of
//! them as strong as one whole container.  So this process moves into a cgroup beside theirs.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Membership in the cgroup; it ends, and the cgroups go, when this is dropped.
#[derive(Debug)]
pub(crate) struct Cgroups {
    name: String,
    /// Where this process was, in the hierarchy that shares out the processors.
    before: Option<PathBuf>,
}

impl Cgroups {
    /// Moves this process into `/NAME/bench`.  Where that cannot be done, it stays where it is: on a
    /// machine that does nothing else this makes no difference.
    pub(crate) fn enter(name: &str) -> Self {
        let before = move_into(name).unwrap_or_else(|error| {
            eprintln!("bench: cannot use a cgroup for plain processes and runsc: {error}");
            None
        });
        Self { name: name.to_owned(), before }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(error) = join(before)
        {
            eprintln!("bench: cannot move back to {}: {error}", before.display());
        }
        for (hierarchy, _) in mounts() {
            // Not every runtime uses every hierarchy.
            let _ = remove(&hierarchy.join(&self.name));
        }
    }
}

fn move_into(name: &str) -> io::Result<Option<PathBuf>> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let Some((hierarchy, before)) = of_processors(&mounts(), &own) else {
        return Ok(None);
    };
    let group = hierarchy.join(name).join("bench");
    fs::create_dir_all(&group)?;
    join(&group)?;
    Ok(Some(before))
}

fn join(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
}

/// Removes a cgroup and those below it, which must have no processes.
fn remove(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

/// Mount points of hierarchies, with their options; those of cgroup v2 have "cgroup2" instead.
fn mounts() -> Vec<(PathBuf, String)> {
    parse_mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

fn parse_mounts(mountinfo: &str) -> Vec<(PathBuf, String)> {
    let of_line = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let point = PathBuf::from(left.split(' ').nth(4)?);
        match right.split(' ').collect::<Vec<_>>()[..] {
            ["cgroup2", ..] => Some((point, "cgroup2".to_owned())),
            ["cgroup", _, options] => Some((point, options.to_owned())),
            _ => None,
        }
    };
    mountinfo.lines().filter_map(of_line).collect()
}

/// The hierarchy that shares out the processors, and where in it a process is whose
/// `/proc/PID/cgroup` has this text.
fn of_processors(mounts: &[(PathBuf, String)], membership: &str) -> Option<(PathBuf, PathBuf)> {
    let has_cpu = |options: &str| options.split(',').any(|option| option == "cpu");
    let v1 = mounts.iter().find(|(_, options)| has_cpu(options));
    let (hierarchy, kind) = v1.or_else(|| mounts.iter().find(|(_, kind)| kind == "cgroup2"))?;
    // NUMBER:CONTROLLERS:PATH; the controllers of cgroup v2 are not listed.
    let path = membership.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let is_it = if kind == "cgroup2" { controllers.is_empty() } else { has_cpu(controllers) };
        fields.next().filter(|_| is_it)
    })?;
    Some((hierarchy.clone(), hierarchy.join(path.trim_start_matches('/'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "30 25 0:26 / /c/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
                          31 25 0:27 / /c/memory rw - cgroup cgroup rw,memory\n\
                          32 25 0:28 / /c/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";

    #[test]
    fn hybrid_hosts_share_processors_in_v1() {
        let membership = "5:memory:/m\n4:cpu,cpuacct:/a/b\n0::/u\n";

        let found = of_processors(&parse_mounts(HYBRID), membership);

        let expected = (PathBuf::from("/c/cpu,cpuacct"), PathBuf::from("/c/cpu,cpuacct/a/b"));
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn v2_hosts_have_one_hierarchy() {
        let mounts = parse_mounts("30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");

        let found = of_processors(&mounts, "0::/\n");

        let root = PathBuf::from("/sys/fs/cgroup");
        assert_eq!(found, Some((root.clone(), root.join(""))));
        assert_eq!(of_processors(&[], "0::/\n"), None);
    }
}
