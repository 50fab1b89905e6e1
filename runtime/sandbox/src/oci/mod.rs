// SPDX-License-Identifier: Apache-2.0
//! OCI runtime specification to Trine: what a `config.json` means for a VM.
//!
//! [`load_spec`] reads and checks the file, [`container`] turns it into what
//! [`trine::ContainerSpec`] needs, [`process`] does the same for one exec.  What Trine cannot do is
//! refused with [`trine::Error::Unsupported`]; what is accepted but has no effect yet comes back as
//! a warning, never in silence.
//!
//! ```
//! use std::path::Path;
//! use trine::oci::{self, Defaults};
//!
//! let json = br#"{"ociVersion": "1.0.2",
//!     "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/true"]},
//!     "root": {"path": "rootfs"}}"#;
//! let spec = oci::parse_spec(json, Path::new("config.json"))?;
//! let made = oci::container(&spec, Path::new("."), &Defaults::default())?;
//! assert_eq!(made.process.args, [b"/bin/true".to_vec()]);
//! assert_eq!(made.limits.memory_bytes, Defaults::default().memory_bytes);
//! # Ok::<(), trine::Error>(())
//! ```

mod host;
mod mounts;
mod process;
mod resources;
mod seccomp;
mod spec;

use std::path::{Path, PathBuf};

use crate::{
    Error, Limits, Volume,
    policy::{self, Narrowing},
};
use oci_spec::runtime::Spec;
use trine_abi::control::{Config, Process};

pub use process::{CAPABILITIES, parse_process, process};
pub use resources::{MEMORY_MIN_BYTES, memory_limit, parse_resources, update};
pub use spec::{load_spec, parse_spec};

/// What the translation takes from the configuration and the host where the spec says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Guest RAM of a container without a memory limit, in bytes.
    pub memory_bytes: u64,
    /// vCPUs of a container without a CPU quota.
    pub vcpus: u32,
    /// CPUs of the host: no VM gets more.
    pub host_cpus: u32,
    /// Memory of the host in bytes: no VM gets more.
    pub host_memory_bytes: u64,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { memory_bytes: 256 << 20, vcpus: 1, host_cpus: 1, host_memory_bytes: u64::MAX }
    }
}

/// The network namespace that a spec asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// A fresh one, with loopback only.
    Fresh,
    /// The host's.
    Host,
    /// The one at this path.
    Path(PathBuf),
}

impl Network {
    /// Returns what [`trine::PodOptions::network_namespace`] takes.
    pub fn namespace_path(&self) -> Option<PathBuf> {
        match self {
            Self::Fresh => None,
            // The caller runs in the host's namespace.
            Self::Host => Some(PathBuf::from("/proc/self/ns/net")),
            Self::Path(path) => Some(path.clone()),
        }
    }
}

/// A container in Trine's terms.
#[derive(Clone, Debug)]
pub struct Translation {
    /// What the container is like.
    pub config: Config,
    /// Its volumes, in the order of the handles in `config.mounts`.
    pub volumes: Vec<Volume>,
    /// Its first process.
    pub process: Process,
    /// Sizes, and the host's cgroup.
    pub limits: Limits,
    /// Network namespace of the pod.
    pub network: Network,
    /// What its annotations narrow the pod's policy to.
    pub narrowing: Option<Narrowing>,
    /// What was accepted and has no effect, one line each.
    pub warnings: Vec<String>,
}

/// Translates a container's spec; `bundle` is what relative sources of bind mounts start from.
///
/// # Errors
/// [`Error::Invalid`] names the field, [`Error::Unsupported`] the feature, [`Error::Host`] a file
/// of the host that cannot be read.
pub fn container(spec: &Spec, bundle: &Path, defaults: &Defaults) -> Result<Translation, Error> {
    let mut warnings = Vec::new();
    host::check(spec, &mut warnings)?;

    let oci_process = spec.process().as_ref().ok_or_else(|| invalid("process", "is missing"))?;
    let process = process::translate(oci_process, &mut warnings)?;
    let limits = resources::limits(spec, defaults, &mut warnings)?;
    let (mut config, volumes) = mounts::translate(spec, bundle, &mut warnings)?;
    config.hostname = bytes("hostname", spec.hostname().as_deref().unwrap_or_default())?;
    config.domainname = bytes("domainname", spec.domainname().as_deref().unwrap_or_default())?;

    if let Some(profile) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        config.seccomp = seccomp::translate(profile)?;
    }

    let (network, narrowing) = (network(spec), narrowing(spec)?);
    Ok(Translation { config, volumes, process, limits, network, narrowing, warnings })
}

/// Returns what the annotations of a spec narrow its pod's policy to.
///
/// # Errors
/// As [`policy::narrowing`].
pub fn narrowing(spec: &Spec) -> Result<Option<Narrowing>, Error> {
    spec.annotations().as_ref().map_or(Ok(None), policy::narrowing)
}

/// Returns the network namespace that a spec asks for.
pub fn network(spec: &Spec) -> Network {
    host::network(spec)
}

/// Tells why a field cannot be used.
fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Invalid { what: what.into(), reason: reason.into() }
}

/// Tells what is not supported and what to do instead.
fn unsupported(what: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::Unsupported { what: what.into(), hint: hint.into() }
}

/// Returns the bytes of a string that will become a C string in the guest.
fn bytes(what: &str, text: &str) -> Result<Vec<u8>, Error> {
    if text.contains('\0') {
        return Err(invalid(what, format!("{text:?} contains a NUL byte")));
    }
    Ok(text.as_bytes().to_vec())
}

/// Does [`bytes`] for a list.
fn byte_strings(what: &str, list: &[String]) -> Result<Vec<Vec<u8>>, Error> {
    list.iter().map(|text| bytes(what, text)).collect()
}
