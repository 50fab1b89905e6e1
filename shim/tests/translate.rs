// SPDX-License-Identifier: Apache-2.0
//! Specs as containerd writes them, and what becomes of them.

use std::{fs, path::Path};

use trine::{
    Limits,
    oci::{self, Defaults, Network},
};
use trine_abi::control::{Mount, NO_HANDLE, Process, Rlimit};

/// What `ctr run` of containerd 1.6.20 wrote for busybox.
const CTR: &[u8] = include_bytes!("data/ctr-1.6.20.json");
/// The shape of what the CRI plugin writes for a container of a burstable pod.
const CRI: &[u8] = include_bytes!("data/cri-container.json");

fn defaults() -> Defaults {
    Defaults { memory_bytes: 256 << 20, vcpus: 1, host_cpus: 4, host_memory_bytes: 8 << 30 }
}

/// Capability mask of numbers.
fn mask(numbers: &[u32]) -> u64 {
    numbers.iter().fold(0, |mask, number| mask | 1 << number)
}

fn strings(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: source.into(),
        options: strings(options),
        volume: None,
    }
}

#[test]
fn ctr_container_becomes_a_vm() {
    let spec = oci::parse_spec(CTR, Path::new("config.json")).unwrap();
    let made = oci::container(&spec, Path::new("/"), &defaults()).unwrap();

    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE,
    // NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP.
    let capabilities = mask(&[0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31]);
    let expected = Process {
        key: 0,
        args: strings(&["/bin/sleep", "1000"]),
        env: strings(&["PATH=/bin"]),
        cwd: b"/".to_vec(),
        groups: vec![0],
        umask: 0o022,
        capabilities: [capabilities, capabilities, 0, capabilities, 0],
        no_new_privileges: true,
        rlimits: vec![Rlimit { resource: 7, soft: 1024, hard: 1024 }],
        stdio: [NO_HANDLE; 3],
        ..Process::default()
    };
    assert_eq!(made.process, expected);
    let destinations: Vec<_> = made
        .config
        .mounts
        .iter()
        .map(|mount| (mount.destination.as_slice(), mount.kind.as_slice()))
        .collect();
    let expected: [(&[u8], &[u8]); 7] = [
        (b"/proc", b"proc"),
        (b"/dev", b"tmpfs"),
        (b"/dev/pts", b"devpts"),
        (b"/dev/shm", b"tmpfs"),
        (b"/dev/mqueue", b"mqueue"),
        (b"/sys", b"sysfs"),
        (b"/run", b"tmpfs"),
    ];
    assert_eq!(destinations, expected);
    assert!(!made.config.readonly_root && made.config.files.is_empty());
    assert!(made.config.masked_paths.contains(&b"/proc/kcore".to_vec()));
    assert_eq!(
        made.limits,
        Limits {
            memory_bytes: 256 << 20,
            vcpus: 1,
            cgroup: Some("/default/mem1".to_owned()),
            resources: Some(r#"{"cpu":{"shares":1024}}"#.to_owned()),
        }
    );
    assert_eq!(made.network, Network::Fresh);
    assert_eq!(made.warnings, Vec::<String>::new());
}

#[test]
fn cri_container_becomes_a_vm_of_its_pod() {
    let bundle = tempfile::tempdir().unwrap();
    for name in ["etc-hosts", "termination-log", "hostname", "resolv.conf"] {
        fs::write(bundle.path().join(name), name).unwrap();
    }
    let spec = oci::parse_spec(CRI, Path::new("config.json")).unwrap();
    let made = oci::container(&spec, bundle.path(), &defaults()).unwrap();

    assert_eq!((made.process.uid, made.process.gid), (1000, 3000));
    assert_eq!(made.process.groups, [2000, 3000]);
    assert_eq!(made.process.cwd, b"/srv");
    assert_eq!(made.config.hostname, b"web-0");
    assert!(made.config.readonly_root);
    let shm = ["nosuid", "nodev", "noexec", "mode=1777", "size=65536k"];
    assert_eq!(made.config.mounts.last(), Some(&mount("/dev/shm", "tmpfs", "shm", &shm)));
    let volumes: Vec<_> = made
        .config
        .mounts
        .iter()
        .filter(|mount| mount.volume.is_some())
        .zip(&made.volumes)
        .map(|(mount, volume)| {
            let source = volume.source.strip_prefix(bundle.path()).unwrap();
            (mount.destination.as_slice(), source.to_str().unwrap(), volume.readonly)
        })
        .collect();
    let expected: [(&[u8], _, _); 4] = [
        (b"/etc/hosts", "etc-hosts", false),
        (b"/dev/termination-log", "termination-log", false),
        (b"/etc/hostname", "hostname", true),
        (b"/etc/resolv.conf", "resolv.conf", true),
    ];
    assert_eq!(volumes, expected);

    assert_eq!((made.limits.memory_bytes, made.limits.vcpus), (128 << 20, 2));
    assert_eq!(
        made.limits.cgroup.as_deref(),
        Some("kubepods-burstable-pod1.slice:cri-containerd:c1")
    );
    let resources = made.limits.resources.unwrap();
    assert!(resources.contains("\"limit\":134217728") && resources.contains("\"shares\":512"));
    assert!(!resources.contains("devices") && !resources.contains("hugepage"), "{resources}");
    assert_eq!(made.network, Network::Path("/proc/4711/ns/net".into()));
    // The pod's /dev/shm is not shared.
    assert_eq!(made.warnings.len(), 1, "{:?}", made.warnings);
}

#[test]
fn what_a_kubernetes_pod_may_not_have_yet_is_named() {
    let bundle = tempfile::tempdir().unwrap();
    for name in ["etc-hosts", "termination-log", "hostname", "resolv.conf"] {
        fs::write(bundle.path().join(name), name).unwrap();
    }
    let text = String::from_utf8(CRI.to_vec()).unwrap();
    let refusal = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let text = text.replace(from, to);
        let spec = oci::parse_spec(text.as_bytes(), Path::new("config.json")).unwrap();
        oci::container(&spec, bundle.path(), &defaults()).unwrap_err().to_string()
    };
    for (from, to, expected) in [
        ("\"source\": \"etc-hosts\"", "\"source\": \"gone\"", "the bind mount at /etc/hosts"),
        ("\"limit\": 134217728", "\"limit\": 4096", "invalid memory limit: 4096 bytes"),
        ("\"cwd\": \"/srv\"", "\"cwd\": \"srv\"", "invalid process.cwd"),
        ("\"type\": \"uts\"", "\"type\": \"user\"", "a user namespace is not supported"),
        ("\"type\": \"pid\"", "\"type\": \"time\"", "a time namespace is not supported"),
        ("\"type\": \"devpts\"", "\"type\": \"nfs\"", "mount of type \"nfs\" at /dev/pts"),
    ] {
        let refusal = refusal(from, to);
        assert!(refusal.contains(expected), "{refusal}");
        assert!(!refusal.contains('\n'));
    }
}
