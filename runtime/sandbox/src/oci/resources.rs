// SPDX-License-Identifier: Apache-2.0
//! `linux.resources`: the size of the VM, and what remains for its cgroup on the host.

use crate::{Error, Limits};
use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources, Spec};
use trine_abi::layout::{MAX_VCPUS, PAGE_SIZE};

use super::{Defaults, invalid};

/// Least memory limit of a container, in bytes.
pub const MEMORY_MIN_BYTES: u64 = 16 << 20;

/// Parses the JSON of OCI resources, as containerd sends it for an update.
///
/// # Errors
/// [`Error::Invalid`].
pub fn parse_resources(json: &[u8]) -> Result<LinuxResources, Error> {
    serde_json::from_slice(json).map_err(|error| invalid("resources", error.to_string()))
}

/// Returns the memory limit in bytes, if there is one.
pub fn memory_limit(resources: &LinuxResources) -> Option<u64> {
    let limit = resources.memory().as_ref().and_then(LinuxMemory::limit)?;
    u64::try_from(limit).ok().filter(|limit| *limit > 0)
}

/// Returns what of an update goes to the VM's cgroup on the host, as JSON; `memory_bytes` is the
/// guest's RAM.
///
/// # Errors
/// [`Error::Unsupported`] if the memory limit is to change: RAM has the size that it started with.
pub fn update(resources: &LinuxResources, memory_bytes: Option<u64>) -> Result<String, Error> {
    if let (Some(limit), Some(memory_bytes)) = (memory_limit(resources), memory_bytes)
        && limit / PAGE_SIZE != memory_bytes / PAGE_SIZE
    {
        return Err(super::unsupported(
            format!("changing the memory limit from {memory_bytes} to {limit} bytes"),
            "create the container anew with the limit it needs",
        ));
    }
    host_resources(resources, &mut Vec::new())
}

pub(super) fn limits(
    spec: &Spec,
    defaults: &Defaults,
    warnings: &mut Vec<String>,
) -> Result<Limits, Error> {
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let cgroup = linux
        .and_then(|linux| linux.cgroups_path().as_ref())
        .filter(|path| !path.as_os_str().is_empty());
    let cgroup = match cgroup {
        Some(path) => {
            Some(path.to_str().ok_or_else(|| invalid("linux.cgroupsPath", "not UTF-8"))?.to_owned())
        }
        None => None,
    };
    let resources_json = match (resources, &cgroup) {
        (Some(resources), Some(_)) => Some(host_resources(resources, warnings)?),
        (Some(_), None) => {
            warnings.push("linux.resources is not applied: there is no linux.cgroupsPath".into());
            None
        }
        (None, _) => None,
    };

    Ok(Limits {
        memory_bytes: memory_bytes(resources.and_then(memory_limit), defaults)?,
        vcpus: vcpus(resources.and_then(|resources| resources.cpu().as_ref()), defaults),
        cgroup,
        resources: resources_json,
    })
}

fn memory_bytes(limit: Option<u64>, defaults: &Defaults) -> Result<u64, Error> {
    let Some(limit) = limit else {
        return Ok(defaults.memory_bytes);
    };
    if limit < MEMORY_MIN_BYTES {
        return Err(invalid(
            "memory limit",
            format!("{limit} bytes is under the minimum of {MEMORY_MIN_BYTES} bytes (16 MiB)"),
        ));
    }
    // Not an error: a limit above the host's memory is common, and means "none".
    let most = defaults.host_memory_bytes.max(MEMORY_MIN_BYTES);
    Ok(limit.min(most) / PAGE_SIZE * PAGE_SIZE)
}

fn vcpus(cpu: Option<&LinuxCpu>, defaults: &Defaults) -> u32 {
    // The period that Linux assumes where only a quota is given, in microseconds.
    const DEFAULT_PERIOD_US: u64 = 100_000;

    let quota = cpu
        .and_then(LinuxCpu::quota)
        .and_then(|quota| u64::try_from(quota).ok())
        .filter(|quota| *quota > 0);
    let wanted = match quota {
        None => u64::from(defaults.vcpus),
        Some(quota) => {
            let period = cpu.and_then(LinuxCpu::period).filter(|period| *period > 0);
            quota.div_ceil(period.unwrap_or(DEFAULT_PERIOD_US))
        }
    };
    let most = (defaults.host_cpus as usize).clamp(1, MAX_VCPUS);
    usize::try_from(wanted).unwrap_or(most).clamp(1, most) as u32
}

/// Returns what of the resources is for the VM's cgroup on the host, as JSON; the library adds what
/// the VMM itself needs.
fn host_resources(resources: &LinuxResources, warnings: &mut Vec<String>) -> Result<String, Error> {
    let mut host = resources.clone();
    // Device rules are for the container's processes, which are in the VM; the VMM needs /dev/kvm.
    host.set_devices(None);
    if let Some(pids) = host.pids().as_ref().filter(|pids| pids.limit() > 0) {
        warnings.push(format!(
            "linux.resources.pids {} counts threads of the VMM, not processes of the guest",
            pids.limit()
        ));
    }
    host.set_network(None);
    host.set_rdma(None);
    let huge = host.hugepage_limits().as_deref().unwrap_or_default();
    if let Some(limit) = huge.iter().find(|limit| limit.limit() > 0) {
        warnings.push(format!(
            "linux.resources.hugepageLimits {} is not applied",
            LinuxHugepageLimit::page_size(limit)
        ));
    }
    host.set_hugepage_limits(None);
    serde_json::to_string(&host).map_err(|error| invalid("linux.resources", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits_of(resources: &str) -> Result<(Limits, Vec<String>), Error> {
        let text = format!(
            r#"{{"ociVersion": "1.0.2", "process": {{"user": {{}}, "cwd": "/", "args": ["a"]}},
                "linux": {{"cgroupsPath": "/default/x", "resources": {resources}}}}}"#
        );
        let defaults =
            Defaults { memory_bytes: 64 << 20, vcpus: 2, host_cpus: 8, host_memory_bytes: 1 << 30 };
        let mut warnings = Vec::new();
        let spec = serde_json::from_str(&text).unwrap();
        limits(&spec, &defaults, &mut warnings).map(|limits| (limits, warnings))
    }

    fn memory_of(resources: &str) -> u64 {
        limits_of(resources).unwrap().0.memory_bytes
    }

    fn vcpus_of(cpu: &str) -> u32 {
        limits_of(&format!(r#"{{"cpu": {cpu}}}"#)).unwrap().0.vcpus
    }

    #[test]
    fn memory_limit_becomes_guest_memory() {
        assert_eq!(memory_of("{}"), 64 << 20);
        assert_eq!(memory_of(r#"{"memory": {"limit": -1}}"#), 64 << 20);
        assert_eq!(memory_of(r#"{"memory": {"limit": 0}}"#), 64 << 20);
        assert_eq!(memory_of(r#"{"memory": {"limit": 16777216}}"#), 16 << 20);
        assert_eq!(memory_of(r#"{"memory": {"limit": 20000000}}"#), 20_000_000 / 4096 * 4096);
        assert_eq!(memory_of(r#"{"memory": {"limit": 9223372036854771712}}"#), 1 << 30);
    }

    #[test]
    fn memory_limit_under_the_minimum_is_refused() {
        let error = limits_of(r#"{"memory": {"limit": 16777215}}"#).unwrap_err().to_string();
        assert_eq!(
            error,
            "invalid memory limit: 16777215 bytes is under the minimum of 16777216 bytes (16 MiB)"
        );
    }

    #[test]
    fn cpu_quota_rounds_up_to_vcpus_within_the_host() {
        assert_eq!(vcpus_of("{}"), 2);
        assert_eq!(vcpus_of(r#"{"quota": -1, "period": 100000}"#), 2);
        assert_eq!(vcpus_of(r#"{"quota": 1000, "period": 100000}"#), 1);
        assert_eq!(vcpus_of(r#"{"quota": 100001, "period": 100000}"#), 2);
        assert_eq!(vcpus_of(r#"{"quota": 250000}"#), 3);
        assert_eq!(vcpus_of(r#"{"quota": 9000000, "period": 100000}"#), 8);
        assert_eq!(vcpus_of(r#"{"quota": 100000, "period": 0}"#), 1);
    }

    #[test]
    fn update_changes_shares_but_not_memory() {
        let resources =
            parse_resources(br#"{"cpu": {"shares": 7}, "memory": {"limit": 33554432}}"#).unwrap();
        assert!(update(&resources, Some(32 << 20)).unwrap().contains("\"shares\":7"));
        assert!(update(&resources, None).is_ok());
        let error = update(&resources, Some(64 << 20)).unwrap_err().to_string();
        assert!(error.contains("from 67108864 to 33554432 bytes is not supported"), "{error}");
        assert!(parse_resources(b"{").is_err());
    }

    #[test]
    fn host_cgroup_gets_no_rules_for_the_guest() {
        let (limits, warnings) = limits_of(
            r#"{"devices": [{"allow": false, "access": "rwm"}], "pids": {"limit": 5},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
                "memory": {"limit": 104857600, "swap": 104857600}, "cpu": {"shares": 512}}"#,
        )
        .unwrap();
        let host = parse_resources(limits.resources.unwrap().as_bytes()).unwrap();
        assert_eq!(host.memory().unwrap().limit(), Some(104_857_600));
        assert_eq!(host.cpu().as_ref().unwrap().shares(), Some(512));
        assert!(host.devices().is_none() && host.hugepage_limits().is_none());
        assert_eq!(limits.cgroup.as_deref(), Some("/default/x"));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }
}
