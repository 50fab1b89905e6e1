// SPDX-License-Identifier: Apache-2.0
//! The thread that serves one VM.

mod forward;

use std::{
    collections::BTreeMap,
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    io::Errno,
};
use trine_abi::window::{Family, Operation, Submission};
use trine_policy::case::Verdict;

use crate::{
    guard::Guard,
    held::Holds,
    host::Notices,
    protocol::{Direction, MAX_STREAMS, Notice},
    service::{Context, Kind, Service},
    stream::{self, Stream},
    window::{Window, WindowError},
    workers::Workers,
};

/// How long the server looks at the ring before it sleeps, when that has paid lately.
const SPIN: Duration = Duration::from_micros(50);
/// A sleep that a doorbell ended so soon would better have been a spin.
const SHORT_SLEEP: Duration = Duration::from_micros(80);
/// How long the held end of an output FIFO is kept for a reader that is not there.
const LINGER: Duration = Duration::from_secs(10);
/// How often a lingering FIFO is looked at: no event tells that it was emptied.
const LINGER_STEP: Duration = Duration::from_millis(25);

const DOORBELL: u64 = u64::MAX;
const ORDERS: u64 = u64::MAX - 1;

/// What the link tells the thread of one VM.
#[derive(Debug)]
pub(crate) enum Order {
    /// More streams; `Added` with the ticket when they are there.
    Add { streams: Vec<(u32, Stream)>, ticket: u32 },
    /// End of input, or end of an output.
    Close { handle: u32 },
    /// The stream is of no use any more.
    Remove { handle: u32 },
    /// Somebody who was asked about a call has answered.
    Verdict { question: u64, verdict: Verdict },
    /// Write what was submitted, then end.
    Detach { deadline: Instant },
}

/// How the thread of a VM ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// The guest's doing, or a window that is broken.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// The host failed.
    #[error("cannot wait for events")]
    Host(#[from] Errno),
    /// The host refused a stream.
    #[error("cannot use stream {handle}")]
    Stream {
        /// Its handle.
        handle: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The state of the thread that serves one VM.
#[derive(Debug)]
pub(crate) struct Server {
    vm: u32,
    window: Window,
    epoll: OwnedFd,
    orders: Receiver<Order>,
    /// Orders for the next round.
    kept: Vec<Order>,
    notices: Notices,
    streams: BTreeMap<u32, Stream>,
    /// Which family each id in flight is of, and for streams the handle.
    in_flight: [Option<(Kind, u32)>; 64],
    /// Executes forwarded file calls.
    files: Option<Box<dyn Service>>,
    /// Executes forwarded socket calls.
    sockets: Option<Box<dyn Service>>,
    workers: Workers,
    lingering: Vec<(OwnedFd, Instant)>,
    taken: Vec<Submission>,
    spins: bool,
    may_spin: bool,
    guard: Guard,
    /// Requests whose decision has to wait.
    holds: Holds,
    /// Watched by `epoll`, and open for as long.
    _events: (OwnedFd, Arc<OwnedFd>),
}

impl Server {
    /// Prepares to serve `window`; `doorbell` and `wake` tell of submissions and of orders;
    /// `may_spin` if a guest can run meanwhile.
    pub(crate) fn new(
        vm: u32,
        window: Window,
        (doorbell, wake): (OwnedFd, Arc<OwnedFd>),
        orders: Receiver<Order>,
        notices: Notices,
        may_spin: bool,
        guard: Guard,
    ) -> Result<Self, ServerError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        // Edge-triggered: the counters need never be read.
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &doorbell, EventData::new_u64(DOORBELL), flags)?;
        epoll::add(&epoll, &*wake, EventData::new_u64(ORDERS), flags)?;
        Ok(Self {
            vm,
            window,
            epoll,
            orders,
            kept: Vec::new(),
            notices,
            streams: BTreeMap::new(),
            in_flight: [None; 64],
            files: None,
            sockets: None,
            workers: Workers::new(vm, Arc::clone(&wake)),
            lingering: Vec::new(),
            taken: Vec::new(),
            spins: false,
            may_spin,
            guard,
            holds: Holds::default(),
            _events: (doorbell, wake),
        })
    }

    /// Serves forwarded socket calls from now on.
    pub(crate) fn serve_sockets(&mut self, sockets: Box<dyn Service>) {
        self.sockets = Some(sockets);
    }

    /// Sets what executes forwarded file calls.
    pub(crate) fn set_files(&mut self, files: Box<dyn Service>) {
        self.files = Some(files);
    }

    /// Adds a stream under a new handle.
    pub(crate) fn add(&mut self, handle: u32, stream: Stream) -> Result<(), ServerError> {
        let refuse = |source| ServerError::Stream { handle, source };
        if self.streams.len() >= MAX_STREAMS || self.streams.contains_key(&handle) {
            return Err(refuse(io::ErrorKind::AlreadyExists.into()));
        }
        let flags = match stream.direction() {
            Direction::In => EventFlags::IN | EventFlags::RDHUP | EventFlags::ET,
            Direction::Out => EventFlags::OUT | EventFlags::ET,
        };
        match epoll::add(&self.epoll, &stream, EventData::new_u64(u64::from(handle)), flags) {
            // Regular files and some devices are always ready and cannot be watched.
            Ok(()) | Err(Errno::PERM) => {}
            Err(errno) => return Err(refuse(errno.into())),
        }
        self.streams.insert(handle, stream);
        Ok(())
    }

    /// Serves the VM until it is detached or breaks the rules.
    pub(crate) fn run(mut self) {
        let end = loop {
            match self.turn() {
                Ok(None) => {}
                Ok(Some(deadline)) => break self.detach(deadline),
                Err(error) => break Err(error),
            }
        };
        match end {
            Ok(lost_bytes) => self.notices.send(&Notice::Detached { vm: self.vm, lost_bytes }),
            Err(error) => {
                let reason = chain(&error);
                self.notices.send(&match error {
                    ServerError::Window(WindowError::Violation(_)) => {
                        Notice::Violation { vm: self.vm, reason }
                    }
                    _ => Notice::Failed { vm: Some(self.vm), reason },
                });
                self.await_detach();
            }
        }
        // Before the wait for readers, what the VM held is freed.
        let lingering = std::mem::take(&mut self.lingering);
        drop(self);
        linger(lingering);
    }

    /// One round: requests, orders, answers, sleep.  Returns the deadline when detached.
    ///
    /// Orders and submissions come by different ways.  A stream is added before a submission that
    /// was made after its `Added`, since new orders are looked for after the submissions are seen.
    /// A stream is closed after the submissions that were made before its `CloseStream`, since
    /// other orders are kept until the submissions have been looked for once more.
    fn turn(&mut self) -> Result<Option<Instant>, ServerError> {
        let orders = std::mem::take(&mut self.kept);
        let mut taken = std::mem::take(&mut self.taken);
        taken.clear();
        self.window.take(&mut taken)?;
        self.receive()?;
        self.collect()?;
        self.release_held()?;
        for request in &taken {
            self.submit(request)?;
        }
        for order in orders {
            if let Some(deadline) = self.obey(order)? {
                return Ok(Some(deadline));
            }
        }
        let idle = taken.is_empty();
        self.taken = taken;
        self.window.publish()?;
        if self.kept.is_empty() && (idle || !self.spin()?) {
            self.sleep()?;
        }
        Ok(None)
    }

    /// Adds streams that wait to be, and keeps the other orders.
    fn receive(&mut self) -> Result<(), ServerError> {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Add { streams, ticket }) => {
                    for (handle, stream) in streams {
                        self.add(handle, stream)?;
                    }
                    self.notices.send(&Notice::Added { vm: self.vm, ticket });
                }
                Ok(Order::Verdict { question, verdict }) => self.holds.answer(question, verdict),
                Ok(other) => self.kept.push(other),
                Err(TryRecvError::Empty) => return Ok(()),
                // The process is about to end.
                Err(TryRecvError::Disconnected) => {
                    self.kept.push(Order::Detach { deadline: Instant::now() });
                    return Ok(());
                }
            }
        }
    }

    /// Executes an order; returns the deadline of a detach.
    fn obey(&mut self, order: Order) -> Result<Option<Instant>, ServerError> {
        match order {
            Order::Add { .. } | Order::Verdict { .. } => {}
            Order::Close { handle } => self.close(handle)?,
            Order::Remove { handle } => self.remove(handle)?,
            Order::Detach { deadline } => return Ok(Some(deadline)),
        }
        Ok(None)
    }

    fn submit(&mut self, request: &Submission) -> Result<(), ServerError> {
        let (id, handle) = (request.id, request.handle);
        match request.operation.family() {
            Family::Stream => {}
            Family::File => return self.forward(Kind::File, request),
            Family::Socket => return self.forward(Kind::Socket, request),
        }
        if request.operation == Operation::Cancel {
            return Ok(self.cancel(id, request.argument)?);
        }
        let wanted = match request.operation {
            Operation::Read => Some(Direction::In),
            Operation::Write => Some(Direction::Out),
            _ => None,
        };
        let stream = self.streams.get_mut(&handle).filter(|stream| {
            !stream.is_closing() && wanted.is_none_or(|wanted| wanted == stream.direction())
        });
        let Some(stream) = stream else {
            return Ok(self.window.complete(id, stream::errno_of(Errno::BADF), 0)?);
        };
        if let Some(slot) = self.in_flight.get_mut(id as usize) {
            *slot = Some((Kind::Stream, handle));
        }
        if wanted.is_some() {
            stream.push(request);
            stream.advance(&mut self.window)?;
            return Ok(());
        }
        if stream.direction() == Direction::In {
            stream.cancel_all(&mut self.window)?;
        }
        stream.begin_close(Some(id));
        self.finish_close(handle)
    }

    /// Passes on the answers of workers.
    fn collect(&mut self) -> Result<(), WindowError> {
        while let Some(outcome) = self.workers.next() {
            self.window.complete(outcome.id, outcome.errno, outcome.result)?;
        }
        Ok(())
    }

    /// A `CloseStream`.
    fn close(&mut self, handle: u32) -> Result<(), ServerError> {
        let Some(stream) = self.streams.get_mut(&handle) else {
            return Ok(());
        };
        match stream.direction() {
            Direction::In => {
                stream.end_input(Instant::now());
                Ok(stream.advance(&mut self.window)?)
            }
            Direction::Out => {
                if !stream.is_closing() {
                    stream.begin_close(None);
                }
                self.finish_close(handle)
            }
        }
    }

    /// A `RemoveStream`.
    fn remove(&mut self, handle: u32) -> Result<(), ServerError> {
        if let Some(mut stream) = self.streams.remove(&handle) {
            stream.cancel_all(&mut self.window)?;
            if let Some(id) = stream.close_id() {
                self.window.complete(id, 0, 0)?;
            }
            self.release(stream);
        }
        Ok(())
    }

    /// Drops a closing stream whose writes are done.
    fn finish_close(&mut self, handle: u32) -> Result<(), ServerError> {
        let done = |stream: &&Stream| stream.is_closing() && stream.is_idle();
        let Some(id) = self.streams.get(&handle).filter(done).map(Stream::close_id) else {
            return Ok(());
        };
        if let Some(stream) = self.streams.remove(&handle) {
            self.release(stream);
        }
        if let Some(id) = id {
            self.window.complete(id, 0, 0)?;
        }
        Ok(())
    }

    fn release(&mut self, stream: Stream) {
        if let Some(hold) = stream.release() {
            self.lingering.push((hold, Instant::now() + LINGER));
        }
    }

    /// Looks at the ring for a moment if that has paid lately; true if a submission came.
    fn spin(&mut self) -> Result<bool, WindowError> {
        if !self.spins {
            return Ok(false);
        }
        let start = Instant::now();
        while start.elapsed() < SPIN {
            if self.window.has_work()? {
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        self.spins = false;
        Ok(false)
    }

    /// Sleeps until something happens, and advances the streams it happened to.
    fn sleep(&mut self) -> Result<(), ServerError> {
        if !self.window.fall_asleep()? {
            return Ok(());
        }
        let start = Instant::now();
        let doorbell = self.wait(self.next_deadline(start), start)?;
        self.window.wake_up()?;
        if doorbell && self.may_spin && start.elapsed() < SHORT_SLEEP {
            self.spins = true;
        }
        self.expire()?;
        self.collect()?;
        self.release_held()?;
        Ok(self.window.publish()?)
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let linger = (!self.lingering.is_empty()).then(|| now + LINGER_STEP);
        let streams = self.streams.values().filter_map(Stream::deadline);
        streams.chain(linger).chain(self.holds.deadline()).min()
    }

    /// Waits for events until `deadline`; true if the doorbell was among them.
    fn wait(&mut self, deadline: Option<Instant>, now: Instant) -> Result<bool, ServerError> {
        let timeout = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(now);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let mut space = [MaybeUninit::<Event>::uninit(); 32];
        let events = match epoll::wait(&self.epoll, &mut space, timeout.as_ref()) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        let mut doorbell = false;
        for event in events {
            match event.data.u64() {
                DOORBELL => doorbell = true,
                ORDERS => {}
                token if token >> 32 != 0 => {
                    let kind =
                        if token >> 32 == Kind::File as u64 { Kind::File } else { Kind::Socket };
                    let flags = event.flags;
                    let ready = |service: &mut dyn Service, context: &mut Context<'_>| {
                        service.ready(token as u32, flags, context)
                    };
                    self.with_service(kind, <_>::default(), ready).transpose()?;
                }
                token => {
                    let handle = u32::try_from(token).unwrap_or(u32::MAX);
                    if let Some(stream) = self.streams.get_mut(&handle) {
                        stream.set_ready();
                        stream.advance(&mut self.window)?;
                    }
                    self.finish_close(handle)?;
                }
            }
        }
        Ok(doorbell)
    }

    /// Acts on deadlines that have passed.
    fn expire(&mut self) -> Result<(), ServerError> {
        if self.lingering.is_empty() && self.streams.values().all(|s| s.deadline().is_none()) {
            return Ok(());
        }
        let now = Instant::now();
        for stream in self.streams.values_mut() {
            if stream.deadline().is_some_and(|deadline| deadline <= now) {
                stream.advance(&mut self.window)?;
            }
        }
        self.lingering.retain(|(hold, until)| *until > now && !stream::is_drained(hold));
        Ok(())
    }

    /// Writes what was submitted, until `deadline`; returns the bytes that could not be.
    fn detach(&mut self, deadline: Instant) -> Result<u64, ServerError> {
        loop {
            let waiting: u64 = self.streams.values().map(Stream::waiting_bytes).sum();
            let now = Instant::now();
            if waiting == 0 || now >= deadline {
                self.release_all();
                return Ok(waiting);
            }
            self.wait(Some(deadline), now)?;
            self.window.publish()?;
        }
    }

    /// After a failure: the VM's streams are closed, and the detach that follows is answered.
    fn await_detach(&mut self) {
        self.release_all();
        let mut kept = std::mem::take(&mut self.kept).into_iter();
        while let Some(order) = kept.next().or_else(|| self.orders.recv().ok()) {
            match order {
                Order::Detach { .. } => {
                    self.notices.send(&Notice::Detached { vm: self.vm, lost_bytes: 0 });
                    return;
                }
                Order::Add { ticket, .. } => {
                    self.notices.send(&Notice::Added { vm: self.vm, ticket });
                }
                Order::Close { .. } | Order::Remove { .. } | Order::Verdict { .. } => {}
            }
        }
    }

    fn release_all(&mut self) {
        for (_, stream) in std::mem::take(&mut self.streams) {
            self.release(stream);
        }
    }
}

/// Keeps output FIFOs alive for readers that have yet to come.
fn linger(mut fifos: Vec<(OwnedFd, Instant)>) {
    loop {
        let now = Instant::now();
        fifos.retain(|(hold, until)| *until > now && !stream::is_drained(hold));
        if fifos.is_empty() {
            return;
        }
        std::thread::sleep(LINGER_STEP);
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        next = cause.source();
    }
    line
}
