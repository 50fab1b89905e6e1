// SPDX-License-Identifier: Apache-2.0
//! The one place where a call on a socket is decided about, before it is made.

use std::cell::RefCell;

use rustix::io::Errno;
use trine_policy::{Action, Call, CallKind, case::Case, meter::Budget};

use super::{Address, names::Names};
use crate::guard::Guard;

/// What may be done.
#[derive(Debug)]
pub(super) struct Permit {
    /// For this address.
    pub(super) address: Address,
    /// Bytes that may be moved.
    pub(super) budget: Budget,
    /// It is only said to be done.
    pub(super) is_pinned: bool,
}

/// Decides about a call that names no address.
pub(super) fn decide(guard: &Guard, kind: CallKind, case: &RefCell<Case>) -> Result<(), Errno> {
    if guard.cares_about(kind) {
        guard.decide(&Call::new(kind, ""), case)?;
    }
    Ok(())
}

/// Decides about a call that names an address: one's own for `bind`, else the peer's.  The address
/// that it is to be made for may be another.
pub(super) fn decide_address(
    guard: &Guard,
    (kind, family): (CallKind, u16),
    address: Address,
    names: &Names,
    case: &RefCell<Case>,
) -> Result<Permit, Errno> {
    let mut permit = Permit { address, budget: Budget::default(), is_pinned: false };
    if !guard.cares_about(kind) {
        return Ok(permit);
    }
    let known = names.of(permit.address.ip);
    let address = Some(permit.address.socket());
    let call = Call { address, names: &known, ..Call::new(kind, "") };
    match guard.decide(&call, case)? {
        Action::RewriteAddress(to) => permit.address = Address::of(to, family)?,
        Action::Pin(_) => permit.is_pinned = true,
        _ => {}
    }
    permit.budget = case.borrow_mut().take_budget();
    Ok(permit)
}
