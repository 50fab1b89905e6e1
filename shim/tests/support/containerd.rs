// SPDX-License-Identifier: Apache-2.0
//! A containerd that is not there: it takes events, makes bundles, and runs the real program.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use containerd_shim_protos::{
    api::{ConnectRequest, Empty, ShutdownRequest},
    protobuf::{Message, well_known_types::any::Any},
    shim::events::ForwardRequest,
    shim_async::{Client, Events, TaskClient, create_events},
    ttrpc::{
        r#async::{Server, TtrpcContext, transport::Socket},
        context,
    },
};
use tempfile::TempDir;
use tokio::net::UnixStream;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_containerd-shim-trine-v1");
/// containerd's namespace in all tests.
pub(crate) const NAMESPACE: &str = "test";
const EVENTS_SOCKET: &str = "containerd.sock.ttrpc";

/// A containerd that is not there.
pub(crate) struct Containerd {
    dir: TempDir,
    events: Arc<Recorder>,
    /// Behind a lock only because it is not `Sync`.
    _server: Mutex<Server>,
}

#[derive(Default)]
struct Recorder {
    topics: Mutex<Vec<String>>,
}

#[async_trait]
impl Events for Recorder {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = &request.envelope;
        assert_eq!(envelope.namespace, NAMESPACE);
        assert!(envelope.timestamp.seconds > 0);
        self.topics.lock().unwrap().push(envelope.topic.clone());
        Ok(Empty::default())
    }
}

impl Containerd {
    pub(crate) async fn new() -> Self {
        Self::with_config("").await
    }

    /// With more lines at the top of the shim's configuration.
    pub(crate) async fn with_config(lines: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (sockets, cache) = (dir.path().join("s"), dir.path().join("cache"));
        let config = format!(
            "{lines}\nlog_level = 'debug'\nsocket_dir = '{}'\n[cache]\ndir = '{}'\n",
            sockets.display(),
            cache.display()
        );
        fs::write(dir.path().join("config.toml"), config).unwrap();
        let events = Arc::new(Recorder::default());
        let address = format!("unix://{}", dir.path().join(EVENTS_SOCKET).display());
        let mut server =
            Server::new().bind(&address).unwrap().register_service(create_events(events.clone()));
        server.start().await.unwrap();
        Self { dir, events, _server: Mutex::new(server) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Sockets, locks and whatever else is where sockets are.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.dir.path().join("s")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Topics of the events that came so far.
    pub(crate) fn topics(&self) -> Vec<String> {
        self.events.topics.lock().unwrap().clone()
    }

    /// Makes a bundle with annotations in its spec.
    pub(crate) fn bundle(&self, id: &str, annotations: &[(&str, &str)]) -> PathBuf {
        let bundle = self.dir.path().join("bundles").join(id);
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        let annotations: serde_json::Map<_, _> =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let spec = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": { "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/true"] },
            "root": { "path": "rootfs" },
            "annotations": annotations,
            "linux": { "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "network"},
            ]},
        });
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        let log = bundle.join("log");
        let _ = fs::remove_file(&log);
        rustix::fs::mkfifoat(rustix::fs::CWD, &log, 0o700.into()).unwrap();
        bundle
    }

    /// Runs an action in a bundle.
    pub(crate) fn run(&self, action: &str, id: &str, bundle: &Path, stdin: &[u8]) -> Output {
        let mut child = Command::new(PROGRAM)
            .args(["-namespace", NAMESPACE, "-id", id, "-publish-binary", "/bin/containerd"])
            .arg("-address")
            .arg(self.dir.path().join("containerd.sock"))
            .args((action == "delete").then_some("-bundle"))
            .args((action == "delete").then_some(bundle))
            .arg(action)
            .current_dir(bundle)
            .env("TTRPC_ADDRESS", self.dir.path().join(EVENTS_SOCKET))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A broken pipe is the program's right.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        child.wait_with_output().unwrap()
    }

    /// The runtime's options, as containerd 1.6 sends them.
    pub(crate) fn options(&self) -> Vec<u8> {
        let path = self.dir.path().join("config.toml").to_str().unwrap().to_owned();
        let mut value = vec![0x12, u8::try_from(path.len()).unwrap()];
        value.extend(path.as_bytes());
        Any { type_url: "runtimeoptions.v1.Options".to_owned(), value, ..Any::default() }
            .write_to_bytes()
            .unwrap()
    }

    /// Starts a shim as containerd 1.6 does, and returns its address.
    pub(crate) fn start(&self, id: &str, bundle: &Path) -> String {
        let output = self.run("start", id, bundle, &self.options());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        assert_eq!(stderr, "", "containerd would take it for a part of the address");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Connects to a shim.
pub(crate) async fn connect(address: &str) -> std::io::Result<Client> {
    let path = address.strip_prefix("unix://").unwrap();
    Ok(Client::new(Socket::from(UnixStream::connect(path).await?)))
}

/// Connects to a shim that must be there.
pub(crate) async fn task_client(address: &str) -> TaskClient {
    TaskClient::new(connect(address).await.unwrap())
}

/// The deadline that containerd gives most calls.
pub(crate) fn deadline() -> context::Context {
    context::with_duration(Duration::from_secs(10))
}

/// Asks a shim for its process id.
pub(crate) async fn shim_pid(client: &TaskClient) -> u32 {
    client.connect(deadline(), &ConnectRequest::default()).await.unwrap().shim_pid
}

/// Asks a shim to end.
pub(crate) async fn shut_down(client: &TaskClient) {
    client.shutdown(deadline(), &ShutdownRequest::default()).await.unwrap();
}

/// Says whether a process runs; one that nobody waited for does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap().starts_with('Z'))
}

/// Waits for a condition.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
