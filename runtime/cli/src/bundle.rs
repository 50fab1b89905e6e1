// SPDX-License-Identifier: Apache-2.0
//! From an OCI bundle to a plan.

use std::{fs, path::Path, time::SystemTime};

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::Spec;
use trine::oci::{self, Defaults, Translation};
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
    let spec = read_spec(&bundle)?;
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
    let Translation { config, process, limits, network, .. } = translation;
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
            cgroup: context.cgroup_path(limits.cgroup, id)?,
            resources: limits.resources,
            log: context.log.path.clone(),
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
    std::thread::available_parallelism().map_or(1, |count| count.get() as u32)
}

fn read_spec(bundle: &Path) -> Result<Spec> {
    let path = bundle.join("config.json");
    if !path.exists() {
        bail!("{} does not exist: `trine spec` writes one", path.display());
    }
    Ok(oci::load_spec(&path)?)
}
