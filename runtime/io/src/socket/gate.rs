// SPDX-License-Identifier: Apache-2.0
//! The one place where a call on a socket is decided about, before it is made.

use rustix::io::Errno;
use trine_policy::{Action, Call, CallKind};

use super::{Address, names::Names};
use crate::guard::Guard;

/// Decides about a call that names no address.
pub(super) fn decide(guard: &Guard, kind: CallKind) -> Result<(), Errno> {
    if guard.cares_about(kind) {
        guard.decide(&Call::new(kind, ""))?;
    }
    Ok(())
}

/// Decides about a call that names an address: one's own for `bind`, else the peer's.  The address
/// that it is to be made for may be another.
pub(super) fn decide_address(
    guard: &Guard,
    kind: CallKind,
    family: u16,
    address: Address,
    names: &Names,
) -> Result<Address, Errno> {
    if !guard.cares_about(kind) {
        return Ok(address);
    }
    let known = names.of(address.ip);
    let call = Call { address: Some(address.socket()), names: &known, ..Call::new(kind, "") };
    match guard.decide(&call)? {
        Action::RewriteAddress(to) => Address::of(to, family),
        _ => Ok(address),
    }
}
