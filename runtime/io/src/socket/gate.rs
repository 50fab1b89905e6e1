// SPDX-License-Identifier: Apache-2.0
//! The one place where a call on a socket is decided about, before it is made.

use std::{fmt, sync::Arc};

use rustix::io::Errno;

use super::Address;

/// A call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    /// Its Linux name: `socket`, `bind`, `connect`, `sendto` or `accept`.
    pub(crate) name: &'static str,
    /// `AF_INET` or `AF_INET6`.
    #[expect(dead_code, reason = "rules may ask for it")]
    pub(crate) family: u16,
    /// The address that it names: one's own for `bind`, else the peer's.
    pub(crate) address: Option<&'a Address>,
}

/// Decides: `Err` is what the guest sees instead of the call.
pub(crate) type DecideFn = dyn Fn(&Call<'_>) -> Result<(), Errno> + Send + Sync;

/// Who decides.
#[derive(Clone)]
pub(crate) struct Gate(Option<Arc<DecideFn>>);

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Gate(rules)" } else { "Gate(open)" })
    }
}

impl Gate {
    /// Lets everything pass.
    pub(crate) fn open() -> Self {
        Self(None)
    }

    /// Asks rules.
    #[cfg(test)]
    pub(crate) fn new(decide_fn: Arc<DecideFn>) -> Self {
        Self(Some(decide_fn))
    }

    /// Decides about a call.
    pub(crate) fn decide(&self, call: &Call<'_>) -> Result<(), Errno> {
        match &self.0 {
            Some(decide_fn) => decide_fn(call),
            None => Ok(()),
        }
    }
}
