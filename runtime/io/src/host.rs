// SPDX-License-Identifier: Apache-2.0
//! The link's side: takes the sandbox's requests and hands them to the threads of the VMs.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::EventfdFlags;
use trine_abi::window::WINDOW_BYTES;
use trine_jail::{
    JailError, Landlock,
    fence::{Fence, Root},
    shared::{SharedError, SharedMemory},
};
use trine_link::{Link, LinkError, Message};
use trine_policy::PolicyError;

use crate::{
    files::Files,
    guard::{Guard, PodGuard, PodSpec},
    protocol::{NOTICE, Narrowing, Notice, REQUEST, Request, StreamSpec, VolumeSpec},
    server::{Order, Server, ServerError, chain},
    socket::{Network, Sockets},
    stream::Stream,
    window::Window,
};

/// Stack of a VM's thread: its deepest call has a few small buffers.
const STACK_BYTES: usize = 128 << 10;

/// Why the I/O process ends.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The sandbox sent something that is not in the protocol.
    #[error("sandbox sent a bad request: {0}")]
    Protocol(String),
    /// The process could not be confined.
    #[error("cannot confine the process")]
    Confine(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What can go wrong with one VM's request.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("no vm {0} is attached")]
    NoVm(u32),
    #[error("vm {0} is attached already")]
    Attached(u32),
    #[error("message has {found} descriptors instead of {wanted}")]
    Descriptors { found: usize, wanted: usize },
    #[error("cannot use the window")]
    Window(#[from] SharedError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("cannot use the volume at {destination}")]
    Volume {
        destination: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Confine(#[from] JailError),
    #[error("cannot {action}")]
    Host {
        action: &'static str,
        #[source]
        source: io::Error,
    },
}

/// The sending side of the link, shared by all threads.
#[derive(Clone, Debug)]
pub(crate) struct Notices {
    link: Arc<Mutex<Link>>,
}

impl Notices {
    /// Sends a notice; a sandbox that is gone ends the process through the receiving side.
    pub(crate) fn send(&self, notice: &Notice) {
        if let Ok(payload) = serde_json::to_vec(notice) {
            let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = link.send(NOTICE, &payload, &[]);
        }
    }
}

/// The line to the thread of one VM.
#[derive(Debug)]
struct Vm {
    orders: Sender<Order>,
    wake: Arc<OwnedFd>,
}

impl Vm {
    fn order(&self, order: Order) {
        // A thread that is gone has said why.
        if self.orders.send(order).is_ok() {
            let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        }
    }
}

/// Serves a sandbox until it closes the link.  At its first request, while the process has a single
/// thread, `enter_fn` is called with the network namespace if there is one, and then `confine_fn`.
///
/// # Errors
/// [`ServeError`]; the sandbox has been told.
pub fn serve<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    link: Link,
    enter_fn: impl FnOnce(Option<BorrowedFd<'_>>) -> Result<(), E>,
    confine_fn: impl FnOnce(Landlock) -> Result<(), E>,
) -> Result<(), ServeError> {
    let notices = Notices { link: Arc::new(Mutex::new(link.try_clone()?)) };
    let may_spin = rustix::thread::sched_getaffinity(None).is_ok_and(|cpus| cpus.count() > 1);
    let guard = PodGuard::new(PodSpec::default(), notices.clone());
    let guard = guard.map_err(|error| ServeError::Protocol(error.to_string()))?;
    let (vms, network) = (BTreeMap::new(), None);
    let landlock = Landlock::default();
    let host = Host { notices: notices.clone(), vms, network, may_spin, guard, landlock };
    let served = host.serve(&link, enter_fn, confine_fn);
    if let Err(error) = &served {
        notices.send(&Notice::Failed { vm: None, reason: chain(error) });
    }
    served
}

struct Host {
    notices: Notices,
    vms: BTreeMap<u32, Vm>,
    /// What is known of the pod's network namespace.
    network: Option<Arc<Network>>,
    /// There is more than one CPU.
    may_spin: bool,
    guard: Arc<PodGuard>,
    landlock: Landlock,
}

impl Host {
    fn serve<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        mut self,
        link: &Link,
        enter_fn: impl FnOnce(Option<BorrowedFd<'_>>) -> Result<(), E>,
        confine_fn: impl FnOnce(Landlock) -> Result<(), E>,
    ) -> Result<(), ServeError> {
        let Some(first) = link.receive()? else {
            return Ok(());
        };
        let Request::Setup { name, network, policy, narrowing, audit, record, landlock } =
            decode(&first)?
        else {
            return Err(ServeError::Protocol("the first request is not a setup".into()));
        };
        let mut files = first.descriptors.into_iter();
        let namespace = if network { files.next() } else { None };
        let log = if audit { files.next() } else { None };
        let spec = PodSpec { name, policy, narrowing, log, records: record };
        let guard = PodGuard::new(spec, self.notices.clone());
        self.guard = guard.map_err(|error| ServeError::Protocol(error.to_string()))?;
        self.landlock = landlock;
        enter_fn(namespace.as_ref().map(AsFd::as_fd))
            .map_err(|error| ServeError::Confine(error.into()))?;
        drop(namespace);
        self.network = Some(Arc::new(Network::open()));
        confine_fn(landlock).map_err(|error| ServeError::Confine(error.into()))?;
        self.notices.send(&Notice::Ready);
        while let Some(message) = link.receive()? {
            let request = decode(&message)?;
            self.execute(request, message.descriptors)?;
        }
        Ok(())
    }

    fn execute(&mut self, request: Request, files: Vec<OwnedFd>) -> Result<(), ServeError> {
        let (vm, done) = match request {
            Request::Setup { .. } => {
                return Err(ServeError::Protocol("a second setup".into()));
            }
            Request::Attach { vm, container, streams, volumes, narrowing } => {
                let container = (&*container, narrowing.as_ref());
                (vm, self.attach(vm, container, &streams, &volumes, files))
            }
            Request::Policy { generation, policy } => {
                let refused = self.guard.replace(generation, &policy).err();
                let refused = refused.map(|error| error.to_string());
                self.notices.send(&Notice::Policy { generation, refused });
                return Ok(());
            }
            // An answer to a VM that is gone is late, and no more than that.
            Request::Verdict { vm, question, verdict } => {
                if let Some(vm) = self.vms.get(&vm) {
                    vm.order(Order::Verdict { question, verdict });
                }
                return Ok(());
            }
            Request::AddStreams { vm, ticket, streams } => {
                let opened = open_all(&streams, &mut files.into_iter());
                (vm, opened.and_then(|streams| self.order(vm, Order::Add { streams, ticket })))
            }
            Request::CloseStream { vm, handle } => (vm, self.order(vm, Order::Close { handle })),
            Request::RemoveStream { vm, handle } => (vm, self.order(vm, Order::Remove { handle })),
            Request::Detach { vm, milliseconds } => {
                let deadline = Instant::now() + Duration::from_millis(milliseconds.into());
                let done = self.order(vm, Order::Detach { deadline });
                self.vms.remove(&vm);
                (vm, done)
            }
        };
        if let Err(error) = done {
            self.notices.send(&Notice::Failed { vm: Some(vm), reason: chain(&error) });
        }
        Ok(())
    }

    fn attach(
        &mut self,
        number: u32,
        (container, narrowing): (&str, Option<&Narrowing>),
        streams: &[StreamSpec],
        volumes: &[VolumeSpec],
        mut files: Vec<OwnedFd>,
    ) -> Result<(), RequestError> {
        if self.vms.contains_key(&number) {
            return Err(RequestError::Attached(number));
        }
        let found = files.len();
        let Some(first) = found.checked_sub(volumes.len()) else {
            return Err(RequestError::Descriptors { found, wanted: 3 + volumes.len() });
        };
        let roots = files.split_off(first);
        let mut files = files.into_iter();
        let (Some(memory), Some(doorbell), Some(notify)) =
            (files.next(), files.next(), files.next())
        else {
            return Err(RequestError::Descriptors { found, wanted: 3 });
        };
        let streams = open_all(streams, &mut files)?;
        let memory = SharedMemory::map(memory.as_fd(), WINDOW_BYTES as usize)?;
        let host = |action| move |source: io::Error| RequestError::Host { action, source };
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = rustix::event::eventfd(0, flags)
            .map_err(|errno| host("make an eventfd")(errno.into()))?;
        let wake = Arc::new(wake);
        let (orders, receiver) = mpsc::channel();
        let window = Window::new(memory, notify);
        let notices = self.notices.clone();
        let mut server = Server::new(
            number,
            window,
            (doorbell, Arc::clone(&wake)),
            receiver,
            notices,
            self.may_spin,
            Guard::new(Arc::clone(&self.guard), container, narrowing)?,
        )?;
        for (handle, stream) in streams {
            server.add(handle, stream)?;
        }
        if let Some(network) = &self.network {
            server.serve_sockets(Box::new(Sockets::new(Arc::clone(network))));
        }
        let fence = self.fence(volumes, &roots)?;
        if !volumes.is_empty() {
            let mut files = Files::new();
            for (volume, root) in volumes.iter().zip(roots) {
                files.add(volume, root).map_err(|errno| {
                    let destination = volume.destination.clone();
                    RequestError::Volume { destination, source: errno.into() }
                })?;
            }
            server.set_files(Box::new(files));
        }
        thread::Builder::new()
            .name(format!("vm{number}"))
            .stack_size(STACK_BYTES)
            .spawn({
                let notices = self.notices.clone();
                move || match fence.enter() {
                    Ok(()) => server.run(),
                    Err(error) => {
                        let reason = chain(&error);
                        notices.send(&Notice::Failed { vm: Some(number), reason });
                    }
                }
            })
            .map_err(host("start a thread"))?;
        self.vms.insert(number, Vm { orders, wake });
        self.notices.send(&Notice::Attached { vm: number });
        Ok(())
    }

    /// What the thread of a VM puts itself under: it reaches that VM's volumes only.
    fn fence(&self, volumes: &[VolumeSpec], roots: &[OwnedFd]) -> Result<Fence, RequestError> {
        let roots: Vec<_> = volumes
            .iter()
            .zip(roots)
            .map(|(volume, root)| Root { descriptor: root.as_fd(), is_readonly: volume.readonly })
            .collect();
        Ok(Fence::around_volumes(self.landlock, &roots)?)
    }

    fn order(&self, vm: u32, order: Order) -> Result<(), RequestError> {
        self.vms.get(&vm).ok_or(RequestError::NoVm(vm))?.order(order);
        Ok(())
    }
}

fn decode(message: &Message) -> Result<Request, ServeError> {
    if message.kind != REQUEST {
        return Err(ServeError::Protocol(format!("frame of kind {}", message.kind)));
    }
    serde_json::from_slice(&message.payload)
        .map_err(|error| ServeError::Protocol(error.to_string()))
}

/// Pairs the specs of streams with the descriptors that came for them.
fn open_all(
    specs: &[StreamSpec],
    files: &mut impl ExactSizeIterator<Item = OwnedFd>,
) -> Result<Vec<(u32, Stream)>, RequestError> {
    let found = files.len();
    let wanted = specs.iter().map(|spec| 1 + usize::from(spec.held)).sum();
    if found != wanted {
        return Err(RequestError::Descriptors { found, wanted });
    }
    let mut streams = Vec::with_capacity(specs.len());
    for spec in specs {
        let Some(file) = files.next() else {
            return Err(RequestError::Descriptors { found, wanted });
        };
        let hold = if spec.held { files.next() } else { None };
        let stream = Stream::new(file, hold, spec.direction, spec.kind)
            .map_err(|source| ServerError::Stream { handle: spec.handle, source })?;
        streams.push((spec.handle, stream));
    }
    Ok(streams)
}
