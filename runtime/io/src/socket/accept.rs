// SPDX-License-Identifier: Apache-2.0
//! Connections that come in.
//!
//! ```text
//! accept4 on the host -> decided -> told to the guest
//!                     -> refused: closed at once
//!                     -> waits   -> decided again -> admitted, told when there is room
//! ```

use std::{
    cell::RefCell,
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
};

use rustix::io::Errno;
use trine_abi::socket::{self as abi, Accepted};
use trine_jail::socket as host;
use trine_policy::{CallKind, case::Case, meter::Budget};

use super::{Address, Sockets, errno, gate, object};
use crate::{service::Context, window::WindowError};

/// Most connections of one VM whose decision waits; others wait in the host's queue.
const WAITING_MAX: usize = 64;

/// A connection that the guest does not know of yet.
#[derive(Debug)]
pub(super) struct Incoming {
    file: OwnedFd,
    peer: Vec<u8>,
    own: Vec<u8>,
    budget: Budget,
}

/// Connections whose decision waits, and their listeners.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    by_token: BTreeMap<u32, (u32, Incoming)>,
    next: u32,
}

impl Sockets {
    /// Tells of the connections of a listener, as far as there is room.
    pub(super) fn accept_all(
        &mut self,
        handle: u32,
        page: &mut object::Page,
        context: &mut Context<'_>,
    ) -> Result<(), WindowError> {
        loop {
            let Some(listener) = self.objects.get_mut(&handle) else { return Ok(()) };
            if !page.has_room(abi::ADDRESS_BYTES_MAX * 2 + 12) || !listener.has_credit() {
                break;
            }
            let admitted = listener.admitted.pop_front();
            let incoming = match admitted {
                Some(incoming) => incoming,
                None if self.accepting.by_token.len() < WAITING_MAX => {
                    match self.accept_one(handle, context) {
                        Some(incoming) => incoming,
                        None => break,
                    }
                }
                None => break,
            };
            self.admit(handle, incoming, page, context)?;
        }
        if let Some(listener) = self.objects.get_mut(&handle) {
            listener.tell_state(handle, page, context)?;
        }
        Ok(())
    }

    /// Takes the next connection that the policy accepts at once.
    fn accept_one(&mut self, handle: u32, context: &mut Context<'_>) -> Option<Incoming> {
        loop {
            let listener = self.objects.get_mut(&handle).filter(|listener| listener.readable)?;
            let family = listener.family;
            let (file, peer) = match host::accept(listener.file.as_fd()) {
                Ok(accepted) => accepted,
                Err(error) => {
                    match errno(&error) {
                        Errno::INTR | Errno::CONNABORTED => continue,
                        Errno::AGAIN => {}
                        // Too many files: a later event looks again.
                        _ => listener.error_once(errno(&error)),
                    }
                    listener.readable = false;
                    return None;
                }
            };
            let own = host::own_name(file.as_fd()).unwrap_or_default();
            let mut incoming = Incoming { file, peer, own, budget: Budget::default() };
            let case = RefCell::default();
            match self.decide_incoming(family, &mut incoming, &case, context) {
                Ok(()) => return Some(incoming),
                Err(_) => self.wait(handle, incoming, case.into_inner(), context),
            }
            if self.accepting.by_token.len() >= WAITING_MAX {
                return None;
            }
        }
    }

    fn decide_incoming(
        &self,
        family: u16,
        incoming: &mut Incoming,
        case: &RefCell<Case>,
        context: &Context<'_>,
    ) -> Result<(), Errno> {
        let peer = Address::parse(&incoming.peer)?;
        let call = (CallKind::Accept, family);
        let permit = gate::decide_address(context.guard, call, peer, &self.names, case)?;
        incoming.budget = permit.budget;
        Ok(())
    }

    /// Keeps a connection whose decision waits; one that is refused is closed here.
    fn wait(&mut self, handle: u32, incoming: Incoming, case: Case, context: &mut Context<'_>) {
        if case.waits_for().is_none() {
            return;
        }
        let token = self.accepting.next;
        self.accepting.next = token.wrapping_add(1);
        self.accepting.by_token.insert(token, (handle, incoming));
        context.hold_token(token, case);
    }

    /// Goes on with a connection that waited.
    pub(super) fn resume_accept(&mut self, token: u32, case: Case, context: &mut Context<'_>) {
        let Some((handle, mut incoming)) = self.accepting.by_token.remove(&token) else { return };
        let Some(family) = self.objects.get(&handle).map(|listener| listener.family) else {
            return;
        };
        let case = RefCell::new(case);
        if self.decide_incoming(family, &mut incoming, &case, context).is_err() {
            self.wait(handle, incoming, case.into_inner(), context);
        } else if let Some(listener) = self.objects.get_mut(&handle) {
            listener.admitted.push_back(incoming);
        }
        // There may be more, which had to wait for a place here.
        let listeners = self.objects.iter().filter(|(_, object)| object.listening);
        let listeners: Vec<_> = listeners.map(|(handle, _)| *handle).collect();
        listeners.into_iter().for_each(|listener| self.tell(listener));
    }

    /// Makes a connection a socket of the guest and tells of it.
    fn admit(
        &mut self,
        handle: u32,
        incoming: Incoming,
        page: &mut object::Page,
        context: &mut Context<'_>,
    ) -> Result<(), WindowError> {
        let Some(family) = self.objects.get(&handle).map(|listener| listener.family) else {
            return Ok(());
        };
        let Incoming { file, peer, own, budget } = incoming;
        let Ok(new) = self.insert(file, family, true) else { return Ok(()) };
        if let Some(object) = self.objects.get_mut(&new) {
            object.is_connected();
            object.budget = budget;
        }
        if self.watch(new, context).is_err() {
            self.objects.remove(&new);
            return Ok(());
        }
        if let Some(listener) = self.objects.get_mut(&handle) {
            listener.use_credit(1);
        }
        let accepted = Accepted { handle: new, peer, own };
        page.put(context, handle, abi::EventKind::Accepted, &accepted.encode())
    }
}
