// SPDX-License-Identifier: Apache-2.0
//! Against the cgroups of this host; skipped, and said so, where they may not be made.

use std::{
    process::{Child, Command},
    sync::atomic::AtomicU32,
};

use super::*;

fn name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("/trine-test-{}-{number}/inner", std::process::id())
}

fn create(name: &str, json: &str) -> Option<Cgroup> {
    let resources = Resources::parse(json).expect("json");
    match Cgroup::create(name, &resources) {
        Err(Error::Host { action, source })
            if matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            eprintln!("skipped: cannot {action}: {source}");
            None
        }
        other => Some(other.expect("a cgroup")),
    }
}

fn sleep() -> Child {
    Command::new("/bin/sleep").arg("100").spawn().expect("sleep")
}

fn assert_alone_inside(cgroup: &Cgroup, child: &Child) {
    for (_, path) in cgroup.paths() {
        let members = fs::read_to_string(path.join("cgroup.procs")).expect("members");
        assert_eq!(members.trim(), child.id().to_string(), "{}", path.display());
    }
}

fn end(cgroup: Cgroup, mut child: Child) {
    child.kill().expect("killed");
    child.wait().expect("reaped");
    cgroup.remove().expect("removed");
}

#[test]
fn create_limits_and_removes_every_directory() {
    let name = name();
    let Some(cgroup) = create(&name, r#"{"memory": {"limit": 67108864}, "cpu": {"shares": 512}}"#)
    else {
        return;
    };
    let paths = cgroup.paths();
    assert!(!paths.is_empty() && paths.iter().all(|(_, path)| path.ends_with(&name[1..])));
    let memory = paths.iter().find(|(name, _)| name == "memory" || name.is_empty());
    let (_, memory) = memory.expect("a memory controller");
    let file = if cgroup.is_per_thread() { "memory.limit_in_bytes" } else { "memory.max" };
    let limit = || fs::read_to_string(memory.join(file)).expect("limit");
    assert_eq!(limit().trim(), (96 << 20).to_string());
    let update = Resources::parse(r#"{"memory": {"limit": 33554432}}"#).expect("json");
    cgroup.update(&update, std::process::id()).expect("updated");
    assert_eq!(limit().trim(), (64 << 20).to_string());
    assert_eq!(cgroup.oom_kills(), 0);

    cgroup.remove().expect("removed");
    for (_, path) in paths {
        assert!(!path.exists() && !path.parent().expect("parent").exists(), "{}", path.display());
    }
}

#[test]
fn child_of_a_thread_inside_is_born_inside() {
    let Some(cgroup) = create(&name(), "{}") else {
        return;
    };
    if !cgroup.is_per_thread() {
        eprintln!("skipped: cgroup v2");
        return;
    }
    let child = thread::scope(|scope| {
        let spawner = scope.spawn(|| {
            cgroup.enter_thread().expect("inside");
            sleep()
        });
        spawner.join().expect("thread")
    });
    assert_alone_inside(&cgroup, &child);
    end(cgroup, child);
}

#[test]
fn adopted_process_is_inside() {
    let Some(cgroup) = create(&name(), "{}") else {
        return;
    };
    let child = sleep();
    cgroup.adopt(child.id()).expect("inside");
    assert_alone_inside(&cgroup, &child);
    end(cgroup, child);
}

#[test]
fn cpuset_comes_with_its_first_limit_and_its_process() {
    let Some(cgroup) = create(&name(), "{}") else {
        return;
    };
    let child = sleep();
    cgroup.adopt(child.id()).expect("inside");
    let update = Resources::parse(r#"{"cpu": {"cpus": "0"}}"#).expect("json");
    cgroup.update(&update, child.id()).expect("updated");
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("status");
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    end(cgroup, child);
}

#[test]
fn create_in_a_parent_that_exists_leaves_the_parent() {
    let outer = name();
    let Some(parent) = create(&outer, "{}") else {
        return;
    };
    let cgroup = create(&format!("{outer}/leaf"), "{}").expect("a cgroup");
    cgroup.remove().expect("removed");
    assert!(parent.paths().iter().all(|(_, path)| path.exists()));
    parent.remove().expect("removed");
}
