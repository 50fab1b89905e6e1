// SPDX-License-Identifier: Apache-2.0
//! Where a process's cgroups lie in the file system.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Returns the cgroup directories of a process, by controller; "" for cgroup v2.  What cannot be
/// found is left out.
pub fn of_process(pid: u32) -> Vec<(String, PathBuf)> {
    let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    resolve(&membership, &mounts)
}

fn resolve(membership: &str, mountinfo: &str) -> Vec<(String, PathBuf)> {
    let mounts: Vec<_> = mountinfo.lines().filter_map(CgroupMount::parse).collect();
    let mut found = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        for controller in controllers.split(',') {
            let mount = mounts.iter().find(|mount| mount.has(controller));
            if let Some(dir) = mount.and_then(|mount| mount.locate(path)) {
                found.push((controller.to_owned(), dir));
            }
        }
    }
    // On a host with v1 controllers, the v2 tree has none.
    if found.iter().any(|(controller, _)| !controller.is_empty()) {
        found.retain(|(controller, _)| !controller.is_empty());
    }
    found
}

/// A mounted hierarchy.
#[derive(Debug)]
struct CgroupMount<'a> {
    root: &'a str,
    point: &'a str,
    is_v2: bool,
    options: &'a str,
}

impl<'a> CgroupMount<'a> {
    /// Parses a line of proc_pid_mountinfo(5).
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        let mut file_system = file_system.split(' ');
        let is_v2 = match file_system.next()? {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        Some(Self { root, point, is_v2, options: file_system.nth(1)? })
    }

    fn has(&self, controller: &str) -> bool {
        if controller.is_empty() {
            return self.is_v2;
        }
        !self.is_v2 && self.options.split(',').any(|option| option == controller)
    }

    fn locate(&self, path: &str) -> Option<PathBuf> {
        let below = Path::new(path).strip_prefix(self.root).ok()?;
        Some(Path::new(self.point).join(below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
30 25 0:26 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
33 25 8:1 / /data rw - ext4 /dev/sda1 rw";

    #[test]
    fn v1_controllers_are_found_each() {
        let found =
            resolve("3:memory:/pod/x\n2:cpu,cpuacct:/pod/x\n1:name=systemd:/y\n0::/z\n", V1);
        let expected = [
            ("memory", "/sys/fs/cgroup/memory/pod/x"),
            ("cpu", "/sys/fs/cgroup/cpu,cpuacct/pod/x"),
            ("cpuacct", "/sys/fs/cgroup/cpu,cpuacct/pod/x"),
        ];
        assert_eq!(found, expected.map(|(name, dir)| (name.to_owned(), PathBuf::from(dir))));
    }

    #[test]
    fn v2_has_one_directory_below_the_root_of_its_mount() {
        let mounts = "30 25 0:26 /kube /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(
            resolve("0::/kube/pod/x\n", mounts),
            [(String::new(), PathBuf::from("/sys/fs/cgroup/pod/x"))]
        );
        assert_eq!(resolve("0::/elsewhere\n", mounts), []);
    }
}
