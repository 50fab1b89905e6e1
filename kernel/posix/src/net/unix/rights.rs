// SPDX-License-Identifier: Apache-2.0
//! Open files under way in messages (SCM_RIGHTS).
//!
//! A socket can be sent through itself: then nobody can receive it any more, and counting
//! references never frees it.  So [`InFlight`] counts how often each socket is under way; when a
//! socket is closed, [`InFlight::unreachable`] finds those that only messages of each other refer
//! to.  How many files are under way at all is bounded, too.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::UnixSocket;
use crate::{
    Errno,
    fs::{File, FileRef},
    net::file::SocketFile,
    sync::Lock,
};

/// Files under way, in all messages together.
const FILES_MAX: usize = 16_384;
/// Files in one message (SCM_MAX_FD).
pub(crate) const MESSAGE_FILES_MAX: usize = 253;

/// A socket that is under way, and how often.
type Counted = (Weak<File>, usize);

/// The files that are under way.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    files: AtomicUsize,
    /// By the address of the open file.
    sockets: Lock<BTreeMap<usize, Counted>>,
    /// Files to be dropped by a loop, because dropping one may drop messages with more.
    dead: Lock<Vec<FileRef>>,
    burying: AtomicBool,
}

/// Files of one message.
#[derive(Debug)]
pub(crate) struct Rights {
    files: Vec<FileRef>,
    in_flight: Arc<InFlight>,
}

/// The AF_UNIX socket that an open file is.
fn socket(file: &File) -> Option<&UnixSocket> {
    let file = file.ops().as_any().downcast_ref::<SocketFile>()?;
    file.socket().as_any().downcast_ref()
}

impl Rights {
    /// Puts files under way.
    ///
    /// # Errors
    /// `ETOOMANYREFS` if too many are.
    pub(crate) fn new(in_flight: &Arc<InFlight>, files: Vec<FileRef>) -> Result<Self, Errno> {
        let count = files.len();
        if in_flight.files.fetch_add(count, Ordering::Relaxed) + count > FILES_MAX {
            in_flight.files.fetch_sub(count, Ordering::Relaxed);
            return Err(Errno::TOOMANYREFS);
        }
        {
            let mut sockets = in_flight.sockets.lock();
            for file in files.iter().filter(|file| socket(file).is_some()) {
                let at = Arc::as_ptr(file).addr();
                sockets.entry(at).or_insert_with(|| (Arc::downgrade(file), 0)).1 += 1;
            }
        }
        Ok(Self { files, in_flight: Arc::clone(in_flight) })
    }

    /// The files.
    pub(crate) fn files(&self) -> &[FileRef] {
        &self.files
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        let files = core::mem::take(&mut self.files);
        self.in_flight.files.fetch_sub(files.len(), Ordering::Relaxed);
        {
            let mut sockets = self.in_flight.sockets.lock();
            for file in files.iter().filter(|file| socket(file).is_some()) {
                let at = Arc::as_ptr(file).addr();
                if let Some(entry) = sockets.get_mut(&at) {
                    entry.1 -= 1;
                    if entry.1 == 0 {
                        sockets.remove(&at);
                    }
                }
            }
        }
        self.in_flight.bury(files);
    }
}

impl InFlight {
    fn bury(&self, files: Vec<FileRef>) {
        self.dead.lock().extend(files);
        if self.burying.swap(true, Ordering::Relaxed) {
            return;
        }
        loop {
            let next = self.dead.lock().pop();
            let Some(file) = next else { break };
            drop(file);
        }
        self.burying.store(false, Ordering::Relaxed);
    }

    /// The sockets that only messages refer to which nobody can receive.
    pub(super) fn unreachable(&self) -> Vec<FileRef> {
        let candidates: BTreeMap<usize, (FileRef, usize)> = {
            let sockets = self.sockets.lock();
            let live =
                |(at, (file, count)): (&usize, &Counted)| Some((*at, (file.upgrade()?, *count)));
            sockets.iter().filter_map(live).collect()
        };
        // A file that somebody else holds, and all that its queue leads to, can be reached.  Here
        // one more reference is our own.
        let mut reached = BTreeSet::new();
        let mut open: Vec<usize> = Vec::new();
        for (at, (file, count)) in &candidates {
            if Arc::strong_count(file) > count + 1 {
                reached.insert(*at);
                open.push(*at);
            }
        }
        // Whatever leaves a queue of a socket that is not under way can be received.
        let mut inner = BTreeMap::new();
        for (at, (file, _)) in &candidates {
            if let Some(socket) = socket(file) {
                let mut below = Vec::new();
                socket.visit_rights(&mut |file| below.push(Arc::as_ptr(file).addr()));
                inner.insert(*at, below);
            }
        }
        let mut held: BTreeMap<usize, usize> = BTreeMap::new();
        for at in inner.values().flatten() {
            *held.entry(*at).or_default() += 1;
        }
        for (at, (_, count)) in &candidates {
            // Some message with it is in a queue of a socket that is not a candidate.
            if held.get(at).copied().unwrap_or(0) < *count && reached.insert(*at) {
                open.push(*at);
            }
        }
        while let Some(at) = open.pop() {
            for next in inner.get(&at).into_iter().flatten() {
                if candidates.contains_key(next) && reached.insert(*next) {
                    open.push(*next);
                }
            }
        }
        let lost = candidates.into_iter().filter(|(at, _)| !reached.contains(at));
        lost.map(|(_, (file, _))| file).collect()
    }

    /// Whether so many sockets are under way that it is time to look for lost ones, even if none
    /// is closed: about as often as their number has doubled.
    pub(super) fn has_many_sockets(&self) -> bool {
        let count = self.sockets.lock().len();
        count >= 32 && count.is_power_of_two()
    }

    /// Whether any socket is under way.
    pub(super) fn has_sockets(&self) -> bool {
        !self.sockets.lock().is_empty()
    }
}
