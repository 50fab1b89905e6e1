// SPDX-License-Identifier: Apache-2.0
//! Control groups, for the limits of VMs.

use std::{collections::BTreeSet, fs, path::Path};

use super::Finding;

const MOUNT: &str = "/sys/fs/cgroup";
/// Controllers that OCI resources of a VM use.
const WANTED: [&str; 2] = ["cpu", "memory"];

/// How the host's cgroups are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Layout {
    /// One tree.
    Unified(BTreeSet<String>),
    /// A tree for each controller; `true` if there is a v2 tree beside them.
    Legacy(BTreeSet<String>, bool),
    /// None.
    Missing,
}

/// Checks them.
pub(super) fn check() -> Vec<Finding> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let unified = Path::new(MOUNT).join("cgroup.controllers");
    let controllers = fs::read_to_string(unified).unwrap_or_default();
    vec![judge(&layout(&mountinfo, &controllers))]
}

fn layout(mountinfo: &str, unified_controllers: &str) -> Layout {
    let mut has_unified = false;
    let mut legacy = BTreeSet::new();
    for line in mountinfo.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else {
            continue;
        };
        let point = mount.split(' ').nth(4).unwrap_or_default();
        if !point.starts_with(MOUNT) {
            continue;
        }
        let mut fields = filesystem.split(' ');
        match fields.next() {
            Some("cgroup2") if point == MOUNT => {
                let words = unified_controllers.split_whitespace().map(str::to_owned);
                return Layout::Unified(words.collect());
            }
            Some("cgroup2") => has_unified = true,
            Some("cgroup") => {
                let options = fields.nth(1).unwrap_or_default().split(',');
                legacy.extend(options.filter(|option| *option != "rw").map(str::to_owned));
            }
            _ => {}
        }
    }
    match legacy.is_empty() {
        true => Layout::Missing,
        false => Layout::Legacy(legacy, has_unified),
    }
}

fn judge(layout: &Layout) -> Finding {
    const NAME: &str = "cgroups";
    let (kind, controllers) = match layout {
        Layout::Unified(controllers) => ("v2", controllers),
        Layout::Legacy(controllers, false) => ("v1", controllers),
        Layout::Legacy(controllers, true) => ("hybrid (v1 controllers)", controllers),
        Layout::Missing => {
            return Finding::warn(
                NAME,
                format!("nothing is mounted at {MOUNT}"),
                "limits of CPU and memory cannot be set: mount cgroup2 there",
            );
        }
    };
    let missing: Vec<_> = WANTED.into_iter().filter(|name| !controllers.contains(*name)).collect();
    if missing.is_empty() {
        let names: Vec<_> = controllers.iter().map(String::as_str).collect();
        Finding::ok(NAME, format!("{kind}: {}", names.join(" ")))
    } else {
        Finding::warn(
            NAME,
            format!("{kind}, without {}", missing.join(" and ")),
            "such limits cannot be set: enable the controllers on the kernel's command line, or \
             delegate them to this container",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Grade;

    fn mounted(point: &str, filesystem: &str) -> String {
        format!("30 25 0:26 / {point} rw,relatime shared:9 - {filesystem}\n")
    }

    #[test]
    fn layout_unified_takes_the_controllers_file() {
        let text = mounted("/sys/fs/cgroup", "cgroup2 cgroup2 rw");
        let layout = layout(&text, "cpu io memory\n");
        let finding = judge(&layout);
        assert_eq!((finding.grade, finding.found.as_str()), (Grade::Ok, "v2: cpu io memory"));
    }

    #[test]
    fn layout_hybrid_takes_the_options_of_the_v1_mounts() {
        let text = [
            mounted("/sys/fs/cgroup", "tmpfs tmpfs rw"),
            mounted("/sys/fs/cgroup/cpu,cpuacct", "cgroup cgroup rw,cpu,cpuacct"),
            mounted("/sys/fs/cgroup/memory", "cgroup cgroup rw,memory"),
            mounted("/sys/fs/cgroup/unified", "cgroup2 cgroup2 rw"),
        ]
        .concat();
        let finding = judge(&layout(&text, ""));
        let expected = "hybrid (v1 controllers): cpu cpuacct memory";
        assert_eq!((finding.grade, finding.found.as_str()), (Grade::Ok, expected));
    }

    #[test]
    fn layout_without_memory_or_without_mounts_warns() {
        let text = mounted("/sys/fs/cgroup", "cgroup2 cgroup2 rw");
        assert!(judge(&layout(&text, "cpu")).found.contains("without memory"));
        assert_eq!(judge(&layout("", "")).grade, Grade::Warn);
        // Mounted elsewhere is of no use.
        assert_eq!(layout(&mounted("/mnt", "cgroup2 c rw"), "cpu"), Layout::Missing);
    }
}
