// SPDX-License-Identifier: Apache-2.0
//! Configuration of the node: `/etc/trine/config.toml`, or the file that the runtime's options name.
//!
//! ```toml
//! log_level = "info"            # error, warn, info or debug
//! libexec = "/usr/local/libexec/trine"
//! socket_dir = "/run/containerd/s"
//! idle_exit_seconds = 60        # a server that never got a task ends after this
//! policy = "/etc/trine/policy.toml"   # what pods may forward to the host; none: everything
//! audit = "/var/log/trine/audit"      # where the policy's log goes; none: beside the VM's log
//! landlock = "required"         # or best-effort, or off: see docs/security.md
//! system_calls = "direct"       # or trap: never by a jump, see docs/kernel.md
//!
//! [cache]
//! dir = "/var/lib/trine/images"
//! max_mib = 10240
//!
//! [vm]
//! default_memory_mib = 256      # of containers without a memory limit
//! default_vcpus = 1             # of containers without a CPU quota
//! ```
//!
//! `start` reads and checks it, and hands the result to the server in its environment, so that a
//! mistake shows when the pod starts and the server never reads files that may have changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use trine::{Landlock, SystemCalls, oci::MEMORY_MIN_BYTES};

use crate::log::Level;

/// Where the configuration is unless the runtime's options say otherwise.
pub const DEFAULT_PATH: &str = "/etc/trine/config.toml";
/// Variable in which the server gets its configuration, as JSON.
pub const ENVIRONMENT: &str = "TRINE_SHIM_CONFIG";

/// The configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is logged.
    pub log_level: Level,
    /// Where the VMM, the I/O server and the guest kernel lie; `None` = the library's places.
    pub libexec: Option<PathBuf>,
    /// Where the server's socket is made; `None` = containerd's choice, or `/run/containerd/s`.
    pub socket_dir: Option<PathBuf>,
    /// How long a server that never got a task waits for one, in seconds.
    pub idle_exit_seconds: u64,
    /// The policy of pods; `None` = everything is accepted.
    pub policy: Option<PathBuf>,
    /// Where the policy's log goes; `None` = beside the log of the pod's VMs.
    pub audit: Option<PathBuf>,
    /// Whether the processes of pods confine themselves with Landlock.
    pub landlock: Landlock,
    /// How programs enter their VM's kernel.
    pub system_calls: SystemCalls,
    /// The image cache.
    pub cache: Cache,
    /// Sizes of VMs.
    pub vm: Vm,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log_level: Level::default(),
            libexec: None,
            socket_dir: None,
            idle_exit_seconds: 60,
            policy: None,
            audit: None,
            landlock: Landlock::default(),
            system_calls: SystemCalls::default(),
            cache: Cache::default(),
            vm: Vm::default(),
        }
    }
}

/// The image cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Its directory.
    pub dir: PathBuf,
    /// What it may grow to, in MiB.
    pub max_mib: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self { dir: PathBuf::from("/var/lib/trine/images"), max_mib: 10 << 10 }
    }
}

/// Sizes of VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vm {
    /// Guest RAM of containers without a memory limit, in MiB.
    pub default_memory_mib: u64,
    /// vCPUs of containers without a CPU quota.
    pub default_vcpus: u32,
}

impl Default for Vm {
    fn default() -> Self {
        Self { default_memory_mib: 256, default_vcpus: 1 }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML, or has an unknown key or a value of the wrong type.
    #[error("{} line {line}: {reason}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A value is out of range.
    #[error("{}: {key} is {value}, expected {expected}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
}

impl Config {
    /// Reads the configuration; `None` means [`DEFAULT_PATH`], which need not exist.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        match fs::read_to_string(file) {
            Ok(text) => Self::parse(&text, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_none() => {
                Ok(Self::default())
            }
            Err(source) => Err(ConfigError::Read { path: file.to_owned(), source }),
        }
    }

    /// Parses and checks a configuration; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError::Malformed`], [`ConfigError::Value`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().map_or(0, |span| span.start).min(text.len());
            ConfigError::Malformed {
                path: path.to_owned(),
                line: text.as_bytes()[..before].iter().filter(|byte| **byte == b'\n').count() + 1,
                reason: error.message().replace('\n', ", "),
            }
        })?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let fault = |key, value: String, expected| {
            Err(ConfigError::Value { path: path.to_owned(), key, value, expected })
        };
        let memory_mib = self.vm.default_memory_mib;
        if !(MEMORY_MIN_BYTES >> 20..=1 << 18).contains(&memory_mib) {
            let expected = "16 to 262144 (256 GiB)";
            return fault("vm.default_memory_mib", memory_mib.to_string(), expected);
        }
        if !(1..=16).contains(&self.vm.default_vcpus) {
            return fault("vm.default_vcpus", self.vm.default_vcpus.to_string(), "1 to 16");
        }
        if self.cache.max_mib == 0 || self.cache.max_mib > 1 << 30 {
            let expected = "1 to 1073741824 (1 PiB)";
            return fault("cache.max_mib", self.cache.max_mib.to_string(), expected);
        }
        if !(1..=86_400).contains(&self.idle_exit_seconds) {
            return fault("idle_exit_seconds", self.idle_exit_seconds.to_string(), "1 to 86400");
        }
        for (key, dir) in [
            ("cache.dir", Some(&self.cache.dir)),
            ("libexec", self.libexec.as_ref()),
            ("socket_dir", self.socket_dir.as_ref()),
            ("policy", self.policy.as_ref()),
            ("audit", self.audit.as_ref()),
        ] {
            if let Some(dir) = dir.filter(|dir| !dir.is_absolute()) {
                return fault(key, format!("{dir:?}"), "an absolute path");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        Config::parse(text, Path::new("/c.toml")).unwrap_err().to_string()
    }

    #[test]
    fn config_defaults_where_nothing_is_said() {
        assert_eq!(Config::parse("", Path::new("c")).unwrap(), Config::default());
        let config = Config::parse("[vm]\ndefault_vcpus = 4\n", Path::new("c")).unwrap();
        assert_eq!(config.vm, Vm { default_vcpus: 4, ..Vm::default() });
    }

    #[test]
    fn config_round_trips_through_the_environment() {
        let text = "log_level = \"debug\"\nlandlock = \"best-effort\"\nlibexec = \"/x\"\n[cache]\ndir = \"/y\"\nmax_mib = 7\n";
        let config = Config::parse(text, Path::new("c")).unwrap();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
        assert_eq!((config.log_level, config.landlock), (Level::Debug, Landlock::BestEffort));
    }

    #[test]
    fn config_faults_name_line_or_key() {
        for (text, expected) in [
            ("log_level = \"info\"\n\n[vm\n", "/c.toml line 3: "),
            ("\nmemory = 1\n", "/c.toml line 2: unknown field `memory`"),
            ("[vm]\ndefault_vcpus = \"many\"", "/c.toml line 2: invalid type: string"),
            ("log_level = \"loud\"", "/c.toml line 1: unknown variant `loud`"),
            ("[vm]\ndefault_memory_mib = 15", "vm.default_memory_mib is 15, expected 16 to"),
            ("[vm]\ndefault_vcpus = 17", "vm.default_vcpus is 17, expected 1 to 16"),
            ("[cache]\nmax_mib = 0", "cache.max_mib is 0"),
            ("policy = \"p\"", "policy is \"p\", expected an absolute path"),
            ("landlock = \"on\"", "/c.toml line 1: unknown variant `on`"),
            ("system_calls = \"fast\"", "/c.toml line 1: unknown variant `fast`"),
            ("libexec = \"lib\"", "libexec is \"lib\", expected an absolute path"),
        ] {
            let fault = fault(text);
            assert!(fault.contains(expected), "{text:?}: {fault}");
            assert!(!fault.contains('\n'), "{fault:?}");
        }
    }

    #[test]
    fn config_file_that_was_named_must_exist() {
        let error = Config::load(Some(Path::new("/nonexistent.toml"))).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nonexistent.toml");
    }
}
