// SPDX-License-Identifier: Apache-2.0
//! The server of a pod.
//!
//! It is started by `start`, with the listener as standard input, and lives as long as the pod:
//!
//! - **Shutdown** ends it when it has no task; with tasks, the call changes nothing.
//! - **SIGTERM and SIGINT** do the same.  With tasks they are ignored: systemd sends SIGTERM to all
//!   processes of a scope or slice that it stops, and containers must then end by containerd's
//!   calls, with their own signals and grace, not because their server is gone.
//! - **SIGHUP** loads the pod's policy anew, from the file that the configuration names.
//! - **Idle**: a server that never got a task ends after a while (containerd died between `start`
//!   and Create).
//!
//! Before it ends it removes its socket, then sends the events that still wait.

mod detach;

use std::{
    env, fs,
    io::{self, Read},
    num::NonZero,
    os::{fd::AsFd, unix::net::UnixListener},
    panic,
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use containerd_shim_protos::ttrpc::r#async::{Server, transport::Listener};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::spawn_blocking,
    time,
};
use trine::oci::Defaults;

use crate::{
    config::{self, Config},
    events::{self, Queue},
    flags::Flags,
    host::{Host, Trine},
    log,
    rootfs::Images,
    service::Service,
    start::TTRPC_ADDRESS,
    tasks::{Registry, Settings},
};

/// Threads for calls that do not block.
const WORKERS: usize = 2;
/// How long the last events may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the last answers may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often an idle server looks whether it still is.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// Why a server could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It was started by hand.
    #[error("standard input is not a listening socket: -serve is for `start` alone")]
    Listener(#[source] io::Error),
    /// The environment has no usable configuration.
    #[error("{} has no configuration", config::ENVIRONMENT)]
    Config(#[source] serde_json::Error),
    /// A host operation failed.
    #[error("cannot {action}")]
    Host {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The ttrpc server failed.
    #[error("cannot serve")]
    Ttrpc(#[source] ttrpc::Error),
}

/// Serves until the pod is over.
///
/// # Errors
/// [`ServeError`].
pub fn run(flags: &Flags) -> Result<(), ServeError> {
    let listener = take_listener()?;
    let config = env::var(config::ENVIRONMENT).unwrap_or_default();
    let config: Config = serde_json::from_str(&config).map_err(ServeError::Config)?;
    detach::detach().map_err(host("detach from containerd"))?;
    // Without a log there still are containers.
    let _ = log::open("log".as_ref(), config.log_level);
    panic::set_hook(Box::new(|info| log::error(format!("bug: {info}"))));

    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("shim")
        .enable_all()
        .build()
        .map_err(host("start threads"))?;
    let socket = flags.socket.clone().unwrap_or_default();
    let result = runtime.block_on(serve(listener, socket, flags, &config));
    // Blocking calls that still run belong to tasks that are gone.
    runtime.shutdown_background();
    result
}

async fn serve(
    listener: UnixListener,
    socket: PathBuf,
    flags: &Flags,
    config: &Config,
) -> Result<(), ServeError> {
    let queue = Arc::new(Queue::default());
    start_publisher(&queue, flags);
    let images = Images::new(&config.cache.dir, config.cache.max_mib << 20);
    let host_below: Arc<dyn Host> = Arc::new(Trine::new(images));
    let settings = Settings {
        defaults: defaults(config),
        libexec: config.libexec.clone(),
        policy: config.policy.clone(),
        audit: config.audit.clone(),
        landlock: config.landlock,
        system_calls: config.system_calls,
    };
    let registry = Arc::new(Registry::new(host_below, settings, Arc::clone(&queue)));
    let closer = Arc::new(Closer::new(Arc::clone(&registry), socket));
    let service = Service::new(Arc::clone(&registry), Arc::clone(&closer));

    let listener = Listener::try_from(listener).map_err(host("listen"))?;
    let mut server = Server::new().add_listener(listener).register_service(service.into_ttrpc());
    server.start().await.map_err(ServeError::Ttrpc)?;
    log::info(format!("serving pod of container {:?}", flags.id));

    tokio::spawn(heed_signals(Arc::clone(&closer)));
    tokio::spawn(end_when_idle(registry, Arc::clone(&closer), config.idle_exit_seconds));
    closer.closed().await;

    if !queue.flushed(FLUSH_TIMEOUT).await {
        log::error("events were lost: containerd did not take them in time");
    }
    if time::timeout(CLOSE_TIMEOUT, server.shutdown()).await.is_err() {
        log::debug("a connection did not close in time");
    }
    log::info("the server ends");
    Ok(())
}

/// Decides when the server ends.
#[derive(Debug)]
pub struct Closer {
    registry: Arc<Registry>,
    socket: PathBuf,
    is_closed: watch::Sender<bool>,
}

impl Closer {
    /// For the server that listens on `socket`.
    pub fn new(registry: Arc<Registry>, socket: PathBuf) -> Self {
        Self { registry, socket, is_closed: watch::Sender::new(false) }
    }

    /// Ends the server if it has no task; says whether.  The socket is gone when this returns, so
    /// that nobody can begin to talk to a server that ends.
    pub fn close_if_empty(&self) -> bool {
        self.registry.close_if_empty(|| {
            // Not there: it was removed by a call before this one, or by `delete`.
            let _ = fs::remove_file(&self.socket);
            self.is_closed.send_replace(true);
        })
    }

    /// Waits until the server is to end.
    pub async fn closed(&self) {
        // The sender lives as long as `self`.
        let _ = self.is_closed.subscribe().wait_for(|is_closed| *is_closed).await;
    }
}

fn take_listener() -> Result<UnixListener, ServeError> {
    let stdin = io::stdin();
    let descriptor = stdin.as_fd().try_clone_to_owned().map_err(ServeError::Listener)?;
    if !rustix::net::sockopt::socket_acceptconn(&descriptor)
        .map_err(|error| ServeError::Listener(error.into()))?
    {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen");
        return Err(ServeError::Listener(error));
    }
    Ok(UnixListener::from(descriptor))
}

fn start_publisher(queue: &Arc<Queue>, flags: &Flags) {
    let address = env::var(TTRPC_ADDRESS).unwrap_or_default();
    let queue = Arc::clone(queue);
    if address.is_empty() {
        log::warn("TTRPC_ADDRESS is not set: events go nowhere");
        tokio::spawn(async move {
            loop {
                queue.done(&queue.first().await);
            }
        });
        return;
    }
    tokio::spawn(events::publish(queue, address, flags.namespace.clone()));
}

async fn heed_signals(closer: Arc<Closer>) {
    let signals = signal(SignalKind::terminate()).and_then(|terminate| {
        // There is no terminal whose end SIGHUP could mean.
        Ok((terminate, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?))
    });
    let (mut terminate, mut interrupt, mut hangup) = match signals {
        Ok(signals) => signals,
        Err(error) => return log::error(format!("cannot handle signals: {error}")),
    };
    loop {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hangup.recv() => {
                let registry = Arc::clone(&closer.registry);
                match spawn_blocking(move || registry.reload_policy()).await {
                    Ok(Ok(true)) => log::info("SIGHUP: the policy was loaded anew"),
                    Ok(Ok(false)) => log::warn("SIGHUP: there is no pod, or it has no policy"),
                    Ok(Err(error)) => log::error(format!(
                        "SIGHUP: the old policy stays in force: {error}"
                    )),
                    Err(error) => log::error(format!("SIGHUP: {error}")),
                }
                continue;
            }
        };
        if closer.close_if_empty() {
            return log::info(format!("{name}: the server has no tasks and ends"));
        }
        log::warn(format!("{name} is ignored while there are tasks"));
    }
}

async fn end_when_idle(registry: Arc<Registry>, closer: Arc<Closer>, seconds: u64) {
    time::sleep(Duration::from_secs(seconds)).await;
    while !registry.had_tasks() {
        if closer.close_if_empty() {
            return log::warn(format!("no task within {seconds} s: the server ends"));
        }
        // One is being created.
        time::sleep(IDLE_INTERVAL).await;
    }
}

fn defaults(config: &Config) -> Defaults {
    Defaults {
        memory_bytes: config.vm.default_memory_mib << 20,
        vcpus: config.vm.default_vcpus,
        host_cpus: thread::available_parallelism()
            .map_or(1, NonZero::get)
            .try_into()
            .unwrap_or(u32::MAX),
        host_memory_bytes: host_memory_bytes().unwrap_or(u64::MAX),
    }
}

/// Reads the size of the host's memory.
fn host_memory_bytes() -> Option<u64> {
    let mut text = String::new();
    fs::File::open("/proc/meminfo").ok()?.read_to_string(&mut text).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn host(action: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::Host { action, source }
}
