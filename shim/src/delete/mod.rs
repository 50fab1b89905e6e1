// SPDX-License-Identifier: Apache-2.0
//! The action `delete`: cleans up after a container whose server is dead, half dead, or gone wrong.
//!
//! A server that still answers is asked to let go of the container.  Else this knows what the
//! bundle's records say and nothing else, and needs nobody.  It may be run any number of times, also
//! at once: everything that is not there any more is as it should be.

mod server;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use containerd_shim_protos::{
    api::DeleteResponse,
    protobuf::{Message, MessageField},
};

use crate::{
    flags::Flags,
    ids::{self, IdError},
    mounts,
    record::{ADDRESS_FILE, ShimRecord, TaskRecord},
    start::{
        self,
        socket::{self, GroupLock},
    },
    time::{from_unix_nanos, timestamp},
};
use server::Answer;

/// Exit status of a container that was killed because its server is gone: 128 + SIGKILL.
const KILLED: u32 = 137;
/// How long a killed process may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a server that ends, and still sends its last events, may take.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a cgroup may take to become empty after its last process has ended.
const CGROUP_TIMEOUT: Duration = Duration::from_secs(1);

/// Why nothing could be cleaned up.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The id is not one.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The bundle is unknown.
    #[error("cannot find the bundle, give it with -bundle")]
    Bundle(#[source] io::Error),
    /// Something is left; trying again may help.
    #[error("container {id:?} is not cleaned up: {}", left.join(", "))]
    Left {
        /// The container.
        id: String,
        /// What is left.
        left: Vec<String>,
    },
}

/// Runs the action and returns what is to be written to standard output.
///
/// # Errors
/// [`DeleteError`]; containerd then keeps the bundle.
pub fn run(flags: &Flags) -> Result<Vec<u8>, DeleteError> {
    ids::check("id", &flags.id)?;
    let bundle = match &flags.bundle {
        Some(bundle) => bundle.clone(),
        None => env::current_dir().map_err(DeleteError::Bundle)?,
    };
    let response = clean_up(&flags.id, &bundle)?;
    Ok(response.write_to_bytes().expect("a message of three numbers always encodes"))
}

/// Removes what a container left on the host, and says how it ended.
///
/// # Errors
/// [`DeleteError::Left`].
pub fn clean_up(id: &str, bundle: &Path) -> Result<DeleteResponse, DeleteError> {
    let shim = ShimRecord::load(bundle).ok().flatten();
    let mut left = Vec::new();

    let socket = socket_of(bundle, shim.as_ref());
    let is_let_go = match socket.as_deref().filter(|socket| socket::is_served(socket)) {
        Some(socket) => match server::let_go(&socket::address(socket), id) {
            Answer::LetGo => true,
            Answer::Refused => false,
            Answer::Silent => end_server(shim.as_ref(), Duration::ZERO, &mut left),
        },
        // Dead, or about to end.
        None => end_server(shim.as_ref(), END_TIMEOUT, &mut left),
    };
    // Read now, for a server that lived has written the end down.  A record that cannot be read
    // names nothing that could be cleaned up.
    let task = TaskRecord::load(bundle).ok().flatten().unwrap_or_default();
    if !is_let_go {
        end_processes(&task, &mut left);
    }
    if let Err(error) = mounts::unmount_all(&bundle.join("rootfs")) {
        left.push(format!("rootfs is still mounted ({error})"));
    }
    remove_socket(id, bundle, shim.as_ref());

    if !left.is_empty() {
        return Err(DeleteError::Left { id: id.to_owned(), left });
    }
    let exited_at = task.exit.map_or_else(SystemTime::now, |exit| from_unix_nanos(exit.at_unix_ns));
    Ok(DeleteResponse {
        pid: task.vmm.or(task.io).map_or(0, |process| process.pid),
        exit_status: task.exit.map_or(KILLED, |exit| exit.status),
        exited_at: MessageField::some(timestamp(exited_at)),
        ..DeleteResponse::default()
    })
}

/// Ends what a server that is gone should have ended.
fn end_processes(task: &TaskRecord, left: &mut Vec<String>) {
    for (name, process) in [("vmm", task.vmm), ("i/o process", task.io)] {
        if process.is_some_and(|process| !process.kill(KILL_TIMEOUT)) {
            left.push(format!("the {name} does not end"));
        }
    }
    for cgroup in &task.cgroups {
        if let Err(error) = remove_cgroup(cgroup) {
            left.push(format!("cgroup {} is left ({error})", cgroup.display()));
        }
    }
}

fn remove_cgroup(cgroup: &Path) -> io::Result<()> {
    let deadline = Instant::now() + CGROUP_TIMEOUT;
    loop {
        match fs::remove_dir(cgroup) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A process that has ended is still in it until it was waited for.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                if Instant::now() > deadline {
                    return Err(error);
                }
                thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// Ends the pod's server, if this container is the one that it was started for; returns false.
fn end_server(shim: Option<&ShimRecord>, patience: Duration, left: &mut Vec<String>) -> bool {
    if let Some(process) = shim.map(|shim| shim.process)
        && !process.ended_within(patience)
        && !process.kill(KILL_TIMEOUT)
    {
        left.push("the server does not end".to_owned());
    }
    false
}

fn socket_of(bundle: &Path, shim: Option<&ShimRecord>) -> Option<PathBuf> {
    match shim {
        Some(shim) => Some(shim.socket.clone()),
        None => fs::read_to_string(bundle.join(ADDRESS_FILE))
            .ok()
            .and_then(|address| socket::from_address(&address)),
    }
}

/// Removes the pod's socket, if this container is the one the pod is named after.
fn remove_socket(id: &str, bundle: &Path, shim: Option<&ShimRecord>) {
    let is_owner = shim.is_some() || start::group(bundle, id).is_ok_and(|group| group == id);
    let Some(socket) = socket_of(bundle, shim).filter(|_| is_owner) else { return };
    remove_stale_socket(&socket);
}

fn remove_stale_socket(socket: &PathBuf) {
    // Its directory is gone: so is the socket.
    let Ok(_lock) = GroupLock::acquire(socket) else { return };
    // A server that began meanwhile keeps its socket.
    if !socket::is_served(socket) {
        let _ = fs::remove_file(socket);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::{process::ProcessId, record::ExitRecord};

    fn sleeper() -> (Child, ProcessId) {
        let child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        (child, process)
    }

    #[test]
    fn delete_of_nothing_succeeds_with_137() {
        let bundle = tempfile::tempdir().unwrap();
        for bundle in [bundle.path(), Path::new("/nonexistent/bundle")] {
            let response = clean_up("c1", bundle).unwrap();
            assert_eq!((response.pid, response.exit_status), (0, KILLED));
            assert!(response.exited_at.seconds > 0);
        }
    }

    #[test]
    fn delete_ends_what_the_records_name_and_can_be_repeated() {
        let bundle = tempfile::tempdir().unwrap();
        let (mut shim, shim_process) = sleeper();
        let (mut vmm, vmm_process) = sleeper();
        let socket = bundle.path().join("socket");
        drop(socket::bind(&socket).unwrap());
        ShimRecord { process: shim_process, socket: socket.clone() }.save(bundle.path()).unwrap();
        let exit = ExitRecord { status: 7, at_unix_ns: 9_000_000_000 };
        TaskRecord { vmm: Some(vmm_process), exit: Some(exit), ..TaskRecord::default() }
            .save(bundle.path())
            .unwrap();

        for _ in 0..2 {
            let response = clean_up("c1", bundle.path()).unwrap();
            assert_eq!((response.pid, response.exit_status), (vmm_process.pid, 7));
            assert_eq!(response.exited_at.seconds, 9);
            assert!(!socket.exists());
        }
        assert!(!shim.wait().unwrap().success());
        assert!(!vmm.wait().unwrap().success());
    }

    #[test]
    fn delete_of_a_member_leaves_the_pod_alone() {
        let bundle = tempfile::tempdir().unwrap();
        let socket = bundle.path().join("socket");
        drop(socket::bind(&socket).unwrap());
        fs::write(bundle.path().join(ADDRESS_FILE), socket::address(&socket)).unwrap();
        let json = r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "p1"}}"#;
        fs::write(bundle.path().join("config.json"), json).unwrap();

        clean_up("c1", bundle.path()).unwrap();
        assert!(socket.exists());
        clean_up("p1", bundle.path()).unwrap();
        assert!(!socket.exists());
    }

    #[test]
    fn delete_keeps_a_socket_that_someone_serves() {
        let bundle = tempfile::tempdir().unwrap();
        let socket = bundle.path().join("socket");
        let _listener = socket::bind(&socket).unwrap();
        fs::write(bundle.path().join(ADDRESS_FILE), socket::address(&socket)).unwrap();
        clean_up("c1", bundle.path()).unwrap();
        assert!(socket.exists());
    }

    #[test]
    fn delete_with_damaged_records_still_answers() {
        let bundle = tempfile::tempdir().unwrap();
        for file in ["trine-shim.json", "trine-task.json", "config.json", ADDRESS_FILE] {
            fs::write(bundle.path().join(file), "{").unwrap();
        }
        assert_eq!(clean_up("c1", bundle.path()).unwrap().exit_status, KILLED);
    }
}
