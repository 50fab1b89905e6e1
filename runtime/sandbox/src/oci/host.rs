// SPDX-License-Identifier: Apache-2.0
//! What a spec wants of the host's kernel: namespaces, hooks, devices, security modules.  Most of
//! it is the VM's own business; what would need the host is refused.

use std::path::Path;

use crate::Error;
use oci_spec::runtime::{Hook, Linux, LinuxNamespaceType, Spec};

use super::{Network, unsupported};

/// Device nodes that every guest has.
const GUEST_DEVICES: [&str; 9] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/console",
    "/dev/ptmx",
    "/dev/pts/ptmx",
];

pub(super) fn check(spec: &Spec, warnings: &mut Vec<String>) -> Result<(), Error> {
    check_hooks(spec)?;
    let Some(linux) = spec.linux() else { return Ok(()) };
    check_namespaces(linux, warnings)?;
    check_devices(linux)?;
    check_sysctls(linux, warnings)?;

    if linux.mount_label().as_ref().is_some_and(|label| !label.is_empty()) {
        warnings.push("linux.mountLabel has no effect in a Trine VM".to_owned());
    }
    if linux.intel_rdt().is_some() {
        warnings.push("linux.intelRdt is not applied".to_owned());
    }
    if linux.personality().is_some() {
        return Err(unsupported("linux.personality", "remove it"));
    }
    if linux.memory_policy().is_some() {
        warnings.push("linux.memoryPolicy is not applied".to_owned());
    }
    if linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty()) {
        return Err(unsupported("linux.timeOffsets", "remove them"));
    }
    if linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        return Err(unsupported(
            "linux.netDevices",
            "remove them, sockets live in the pod's network namespace",
        ));
    }
    if matches!(linux.rootfs_propagation().as_deref(), Some("shared" | "rshared")) {
        return Err(unsupported(
            "linux.rootfsPropagation \"shared\"",
            "use \"private\" or \"slave\", mounts never leave the VM",
        ));
    }
    Ok(())
}

pub(super) fn network(spec: &Spec) -> Network {
    let namespaces =
        spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    match namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::Network) {
        None => Network::Host,
        Some(namespace) => match namespace.path() {
            Some(path) if !path.as_os_str().is_empty() => Network::Path(path.clone()),
            _ => Network::Fresh,
        },
    }
}

fn check_hooks(spec: &Spec) -> Result<(), Error> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    let kinds: [(&str, &Option<Vec<Hook>>); 6] = [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (kind, list) in kinds {
        if let Some(hook) = list.as_deref().unwrap_or_default().first() {
            return Err(unsupported(
                format!("{kind} hook {}", hook.path().display()),
                "run the container without hooks",
            ));
        }
    }
    Ok(())
}

fn check_namespaces(linux: &Linux, warnings: &mut Vec<String>) -> Result<(), Error> {
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let find = |kind| namespaces.iter().find(|namespace| namespace.typ() == kind);
    let path_of = |kind| {
        find(kind)
            .and_then(|namespace| namespace.path().as_deref())
            .filter(|path: &&Path| !path.as_os_str().is_empty())
    };

    let mapped = [linux.uid_mappings(), linux.gid_mappings()]
        .into_iter()
        .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()));
    if mapped || find(LinuxNamespaceType::User).is_some() {
        return Err(unsupported("a user namespace", "run without one (hostUsers: true)"));
    }
    if find(LinuxNamespaceType::Time).is_some() {
        return Err(unsupported("a time namespace", "run without one"));
    }
    if find(LinuxNamespaceType::Pid).is_none() {
        return Err(unsupported(
            "the host's PID namespace",
            "run without hostPID, a VM has processes of its own",
        ));
    }
    if find(LinuxNamespaceType::Ipc).is_none() {
        return Err(unsupported(
            "the host's IPC namespace",
            "run without hostIPC, a VM has IPC of its own",
        ));
    }
    if let Some(path) = path_of(LinuxNamespaceType::Pid) {
        warnings.push(format!(
            "the PID namespace {} is not joined: the container has its own",
            path.display()
        ));
    }
    Ok(())
}

fn check_devices(linux: &Linux) -> Result<(), Error> {
    for device in linux.devices().as_deref().unwrap_or_default() {
        let path = device.path();
        if !GUEST_DEVICES.iter().any(|known| Path::new(known) == path.as_path()) {
            return Err(unsupported(
                format!("device {}", path.display()),
                "run without it (for privileged pods set privileged_without_host_devices = true \
                 in the runtime's table of containerd's configuration)",
            ));
        }
    }
    Ok(())
}

fn check_sysctls(linux: &Linux, warnings: &mut Vec<String>) -> Result<(), Error> {
    let Some(sysctls) = linux.sysctl() else { return Ok(()) };
    for key in sysctls.keys() {
        if key.starts_with("net.") {
            warnings.push(format!("linux.sysctl {key} is not applied"));
        } else {
            return Err(unsupported(format!("linux.sysctl {key}"), "remove it"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const NAMESPACES: &str = r#"{"type": "pid"}, {"type": "ipc"}, {"type": "mount"}"#;

    fn spec(linux: &str, rest: &str) -> Spec {
        let text = format!(
            r#"{{"ociVersion": "1.0.2", "process": {{"user": {{}}, "cwd": "/", "args": ["a"]}},
                "linux": {{ {linux} }} {rest}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn refusal(linux: &str, rest: &str) -> String {
        check(&spec(linux, rest), &mut Vec::new()).unwrap_err().to_string()
    }

    fn with_namespaces(linux: &str) -> String {
        format!(r#""namespaces": [{NAMESPACES}], {linux}"#)
    }

    #[test]
    fn what_needs_the_host_is_refused_by_name() {
        let hook = r#", "hooks": {"poststop": [{"path": "/h"}]}"#;
        assert!(refusal("", hook).contains("poststop hook /h"));
        assert!(refusal(r#""namespaces": [{"type": "ipc"}]"#, "").contains("PID namespace"));
        assert!(refusal(r#""namespaces": [{"type": "pid"}]"#, "").contains("IPC namespace"));

        let cases = [
            (r#""devices": [{"path": "/dev/fuse", "type": "c"}]"#, "device /dev/fuse"),
            (r#""uidMappings": [{"hostID": 1, "containerID": 0, "size": 1}]"#, "user namespace"),
            (r#""sysctl": {"kernel.shmmax": "1"}"#, "linux.sysctl kernel.shmmax"),
            (r#""rootfsPropagation": "rshared""#, "rootfsPropagation"),
        ];
        for (linux, expected) in cases {
            let refusal = refusal(&with_namespaces(linux), "");
            assert!(refusal.contains(expected), "{refusal}");
        }
    }

    #[test]
    fn what_has_no_effect_is_a_warning() {
        let linux = with_namespaces(
            r#""sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
               "devices": [{"path": "/dev/null", "type": "c"}]"#,
        );
        let mut warnings = Vec::new();
        check(&spec(&linux, ""), &mut warnings).unwrap();
        assert_eq!(warnings, ["linux.sysctl net.ipv4.ip_unprivileged_port_start is not applied",]);
    }

    #[test]
    fn network_follows_the_namespace_entry() {
        let network_of =
            |entries: &str| network(&spec(&format!(r#""namespaces": [{entries}]"#), ""));
        assert_eq!(network_of(NAMESPACES), Network::Host);
        assert_eq!(network_of(r#"{"type": "network"}"#), Network::Fresh);
        assert_eq!(
            network_of(r#"{"type": "network", "path": "/run/netns/x"}"#),
            Network::Path(PathBuf::from("/run/netns/x"))
        );
    }
}
