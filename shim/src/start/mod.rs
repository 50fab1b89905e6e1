// SPDX-License-Identifier: Apache-2.0
//! The action `start`: makes sure that the pod has a server and returns its address.
//!
//! ```text
//!  containerd            start                              server
//!     ├─ argv, stdin ──────▶ lock the pod's socket
//!     │                      someone listens? then that is it
//!     │                      else bind, write `address`,
//!     │                      spawn ──────── listener ──────────▶ setsid, serve
//!     │                      write the record, unlock
//!     ◀──── the answer ──────┘
//!     └─ connect ─────────────────────────────────────────────▶ accepted
//! ```
//!
//! The listener is bound here and passed on as the server's standard input, so whoever reads the
//! answer can connect at once.  Nothing is written to standard error unless `start` fails, because
//! containerd reads both streams as one.

pub mod protocol;
pub mod socket;

use std::{
    collections::HashMap,
    env, fs,
    io::{self, IsTerminal, Read},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde::Deserialize;

use crate::{
    config::{self, Config, ConfigError},
    flags::Flags,
    ids::{self, IdError},
    log::Level,
    process::ProcessId,
    record::{self, ADDRESS_FILE, ShimRecord},
};
use protocol::Request;
use socket::GroupLock;

/// Annotation that names the pod of a container.
pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
/// Variable with the address of containerd's event service.
pub const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";
/// Most bytes that are read from standard input.
const STDIN_MAX_BYTES: u64 = 4 << 20;

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A name is not one.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `config.json` of the bundle is not a spec.
    #[error("invalid {}", path.display())]
    Spec {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A host operation failed.
    #[error("cannot {action}")]
    Host {
        /// What was being done.
        action: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Runs the action in the bundle that is the working directory, and returns what is to be written
/// to standard output.
///
/// # Errors
/// [`StartError`], with everything undone.
pub fn run(flags: &Flags) -> Result<Vec<u8>, StartError> {
    ids::check("namespace", &flags.namespace)?;
    ids::check("id", &flags.id)?;
    let bundle = env::current_dir().map_err(|error| host("find the bundle", error))?;
    let stdin = read_stdin().map_err(|error| host("read standard input", error))?;

    let request = Request::parse(&stdin, &flags.id, &flags.namespace);
    let mut config = request.options.load_config()?;
    if let Some(level) = request.log_level {
        config.log_level = config.log_level.max(level);
    }
    if flags.debug {
        config.log_level = Level::Debug;
    }
    let group = group(&bundle, &flags.id)?;
    ids::check("sandbox id", &group)?;

    let dir = request.socket_dir.as_deref().or(config.socket_dir.as_deref());
    let dir = dir.unwrap_or(Path::new(socket::DEFAULT_DIR));
    socket::make_dir(dir).map_err(|error| host(format!("make {}", dir.display()), error))?;
    let socket = socket::path(dir, &flags.address, &flags.namespace, &group);
    let address = socket::address(&socket);

    let _lock = GroupLock::acquire(&socket)
        .map_err(|error| host(format!("lock {}", socket.display()), error))?;
    if socket::is_served(&socket) {
        write_address(&bundle, &address)?;
    } else {
        let server = Server { flags, request: &request, config: &config, socket: &socket };
        server.start(&bundle, &address)?;
    }
    Ok(request.reply(&address))
}

/// Reads the name of the pod that a container belongs to.
///
/// # Errors
/// [`StartError::Spec`], [`StartError::Host`].
pub fn group(bundle: &Path, id: &str) -> Result<String, StartError> {
    #[derive(Deserialize)]
    struct Annotated {
        #[serde(default)]
        annotations: Option<HashMap<String, String>>,
    }

    let path = bundle.join("config.json");
    let text = match fs::read(&path) {
        Ok(text) => text,
        // Create says so in its own words.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(id.to_owned()),
        Err(error) => return Err(host(format!("read {}", path.display()), error)),
    };
    let spec: Annotated =
        serde_json::from_slice(&text).map_err(|source| StartError::Spec { path, source })?;
    let named = spec.annotations.unwrap_or_default().remove(SANDBOX_ID);
    Ok(named.filter(|group| !group.is_empty()).unwrap_or_else(|| id.to_owned()))
}

fn read_stdin() -> io::Result<Vec<u8>> {
    let stdin = io::stdin();
    let mut bytes = Vec::new();
    // Someone who tries it by hand should not have to press ^D.
    if !stdin.is_terminal() {
        stdin.lock().take(STDIN_MAX_BYTES).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn write_address(bundle: &Path, address: &str) -> Result<(), StartError> {
    let path = bundle.join(ADDRESS_FILE);
    record::write_atomically(&path, address.as_bytes())
        .map_err(|error| host(format!("write {}", path.display()), error))
}

fn host(action: impl Into<String>, source: impl Into<io::Error>) -> StartError {
    StartError::Host { action: action.into(), source: source.into() }
}

/// A server to be started.
#[derive(Debug)]
struct Server<'a> {
    flags: &'a Flags,
    request: &'a Request,
    config: &'a Config,
    socket: &'a Path,
}

impl Server<'_> {
    /// Starts the server, or leaves nothing behind.
    fn start(&self, bundle: &Path, address: &str) -> Result<(), StartError> {
        // Left by a server that was killed: nobody listens there.
        let _ = fs::remove_file(self.socket);
        let mut child = None;
        let started = self.try_start(bundle, address, &mut child);
        if started.is_err() {
            // What failed to start says more than what fails to be undone.
            if let Some(mut child) = child {
                let _ = child.kill();
                let _ = child.wait();
            }
            let _ = fs::remove_file(self.socket);
            let _ = fs::remove_file(bundle.join(ADDRESS_FILE));
            ShimRecord::remove(bundle);
        }
        started
    }

    fn try_start(
        &self,
        bundle: &Path,
        address: &str,
        child: &mut Option<Child>,
    ) -> Result<(), StartError> {
        let listener = socket::bind(self.socket)
            .map_err(|error| host(format!("listen on {}", self.socket.display()), error))?;
        write_address(bundle, address)?;
        let child = child
            .insert(self.spawn(listener).map_err(|error| host("start the server process", error))?);
        ProcessId::of(child.id())
            .and_then(|process| ShimRecord { process, socket: self.socket.to_owned() }.save(bundle))
            .map_err(|error| host(format!("write the record in {}", bundle.display()), error))
    }

    fn spawn(&self, listener: UnixListener) -> io::Result<Child> {
        let config = serde_json::to_string(self.config)?;
        let mut command = Command::new(env::current_exe()?);
        command
            .args(["-namespace", &self.flags.namespace, "-id", &self.flags.id])
            .args(["-address", &self.flags.address])
            .args(["-publish-binary", &self.flags.publish_binary])
            .arg("-socket")
            .arg(self.socket)
            .args(self.flags.debug.then_some("-debug"))
            .arg("-serve")
            .env(config::ENVIRONMENT, config)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(address) = &self.request.ttrpc_address {
            command.env(TTRPC_ADDRESS, address);
        }
        command.spawn()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_is_the_sandbox_or_the_container_itself() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(group(bundle.path(), "c1").unwrap(), "c1");
        for (json, expected) in [
            ("{}", "c1"),
            (r#"{"annotations": null}"#, "c1"),
            (r#"{"annotations": {"io.kubernetes.cri.sandbox-id": ""}}"#, "c1"),
            (r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "p1"}}"#, "p1"),
        ] {
            fs::write(bundle.path().join("config.json"), json).unwrap();
            assert_eq!(group(bundle.path(), "c1").unwrap(), expected);
        }
        fs::write(bundle.path().join("config.json"), "{").unwrap();
        assert!(matches!(group(bundle.path(), "c1"), Err(StartError::Spec { .. })));
    }
}
