// SPDX-License-Identifier: Apache-2.0
//! From an OCI bundle to a plan.

use std::{fs, path::Path, time::SystemTime};

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::Spec;
use trine::{
    Landlock, SystemCalls,
    oci::{self, Defaults, Translation},
};
use trine_abi::control::Process;

use crate::{
    context::Context,
    failure::WithRemedy as _,
    images::Images,
    plan::{Outline, Plan},
    store::Record,
    values,
};

/// Reads a bundle and finds or builds the image of its root file system.
///
/// # Errors
/// What is wrong with config.json or the root file system.
pub(crate) fn load(context: &Context, bundle: &Path, id: &str) -> Result<Plan> {
    values::check_id(id)?;
    let bundle = fs::canonicalize(bundle)
        .with_context(|| format!("cannot use bundle {}", bundle.display()))
        .remedy("give --bundle a directory with config.json")?;
    let mut spec = read_spec(&bundle)?;
    settle_cgroup(context, &mut spec, id)?;
    let translation = oci::container(&spec, &bundle, &defaults())?;
    for warning in &translation.warnings {
        context.log.debug(|| format!("{}: {warning}", bundle.join("config.json").display()));
    }
    let rootfs = match spec.root() {
        Some(root) => bundle.join(root.path()),
        None => bail!("config.json has no root: give root.path the root file system's directory"),
    };
    context.log.debug(|| format!("building or finding the image of {}", rootfs.display()));
    let image = Images::open(&context.images)?.of_directory(&rootfs)?;

    let annotations = spec.annotations().clone().unwrap_or_default().into_iter().collect();
    let Translation { config, volumes, process, limits, network, narrowing, .. } = translation;
    Ok(Plan {
        outline: Outline {
            record: Record {
                id: id.to_owned(),
                bundle,
                rootfs: rootfs.display().to_string(),
                created: values::format_rfc3339(SystemTime::now()),
                annotations,
                memory_bytes: limits.memory_bytes,
                vcpus: limits.vcpus,
                ..Record::default()
            },
            network_namespace: network.namespace_path(),
            cgroup: limits.cgroup,
            resources: limits.resources,
            volumes,
            policy: None,
            narrowing,
            audit: None,
            landlock: Landlock::default(),
            system_calls: SystemCalls::default(),
            records_calls: false,
            log: context.log.vm_path.clone(),
        },
        image: image.file,
        config,
        process,
    })
}

/// Reads an OCI process from a file, as `exec --process` gives it.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn load_process(path: &Path) -> Result<Process> {
    let json = fs::read(path).with_context(|| format!("cannot read process {}", path.display()))?;
    let translate = || oci::process(&oci::parse_process(&json)?);
    let (process, _warnings) = translate().with_context(|| format!("in {}", path.display()))?;
    Ok(process)
}

/// What a VM gets that nothing was said about, and the most it can get on this host.
pub(crate) fn defaults() -> Defaults {
    let memory = rustix::system::sysinfo();
    Defaults {
        host_cpus: host_cpus(),
        host_memory_bytes: memory.totalram.saturating_mul(u64::from(memory.mem_unit)),
        ..Defaults::default()
    }
}

/// Counts the CPUs that this process may use.
pub(crate) fn host_cpus() -> u32 {
    // Not `available_parallelism`, which reads half a dozen files for the cgroup's quota as well.
    rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count().max(1))
}

/// Settles the cgroup: runc makes one also for a container whose spec names none; here that is only
/// worth its time if there are limits for it.
///
/// # Errors
/// If the spec's path has another form than `--systemd-cgroup` says.
pub(crate) fn settle_cgroup(context: &Context, spec: &mut Spec, id: &str) -> Result<()> {
    let Some(mut linux) = spec.linux().clone() else {
        return Ok(());
    };
    let has_limits = linux.resources().as_ref().is_some_and(|resources| {
        resources.memory().is_some()
            || resources.cpu().is_some()
            || resources.pids().is_some()
            || resources.block_io().is_some()
            || resources.unified().is_some()
    });
    let given = linux.cgroups_path().as_ref().filter(|path| !path.as_os_str().is_empty());
    let given = given.map(|path| path.display().to_string());
    let path = context.cgroup_path(given, id, has_limits)?;
    linux.set_cgroups_path(path.map(Into::into));
    spec.set_linux(Some(linux));
    Ok(())
}

fn read_spec(bundle: &Path) -> Result<Spec> {
    let path = bundle.join("config.json");
    if !path.exists() {
        bail!("{} does not exist: `trine spec` writes one", path.display());
    }
    Ok(oci::load_spec(&path)?)
}
