// SPDX-License-Identifier: Apache-2.0
//! A few threads for what may block: one VM's fsync does not hold up its other calls.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

/// Most threads of one VM.
const WORKERS_MAX: usize = 4;
/// Stack of a worker: it makes a system call.
const STACK_BYTES: usize = 64 << 10;

type Job = Box<dyn FnOnce() -> Outcome + Send>;

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The request.
    pub(crate) id: u32,
    /// 0, or a Linux errno.
    pub(crate) errno: u32,
    /// The result.
    pub(crate) result: u64,
}

/// The workers of one VM; they start when they are needed, and end with this.
#[derive(Debug)]
pub(crate) struct Workers {
    vm: u32,
    jobs: Option<Sender<Job>>,
    queue: Arc<Mutex<Receiver<Job>>>,
    outcomes: Receiver<Outcome>,
    report: Sender<Outcome>,
    wake: Arc<OwnedFd>,
    threads: usize,
    under_way: usize,
}

impl Workers {
    /// No workers yet; `wake` is an eventfd that tells of outcomes.
    pub(crate) fn new(vm: u32, wake: Arc<OwnedFd>) -> Self {
        let (jobs, queue) = mpsc::channel();
        let (report, outcomes) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        Self { vm, jobs: Some(jobs), queue, outcomes, report, wake, threads: 0, under_way: 0 }
    }

    /// Has a job done; its outcome comes from [`Workers::next`].
    ///
    /// # Errors
    /// If no thread could be started, and there is none.
    pub(crate) fn start(
        &mut self,
        job_fn: impl FnOnce() -> Outcome + Send + 'static,
    ) -> io::Result<()> {
        if self.under_way >= self.threads && self.threads < WORKERS_MAX {
            match self.spawn() {
                Ok(()) => self.threads += 1,
                Err(error) if self.threads == 0 => return Err(error),
                Err(_) => {}
            }
        }
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.jobs.as_ref().ok_or_else(gone)?.send(Box::new(job_fn)).map_err(|_| gone())?;
        self.under_way += 1;
        Ok(())
    }

    fn spawn(&self) -> io::Result<()> {
        let queue = Arc::clone(&self.queue);
        let report = self.report.clone();
        let wake = Arc::clone(&self.wake);
        thread::Builder::new()
            .name(format!("vm{}-worker", self.vm))
            .stack_size(STACK_BYTES)
            .spawn(move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    if report.send(job()).is_err() {
                        return;
                    }
                    let _ = rustix::io::write(&*wake, &1_u64.to_ne_bytes());
                }
            })
            .map(drop)
    }

    /// The next outcome, if one is there.
    pub(crate) fn next(&mut self) -> Option<Outcome> {
        let outcome = self.outcomes.try_recv().ok()?;
        self.under_way -= 1;
        Some(outcome)
    }
}
