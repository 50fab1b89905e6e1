// SPDX-License-Identifier: Apache-2.0
//! Locks.
//!
//! One lock around the whole personality serialises it today, so these are never contended: they
//! are interior mutability that stays right when that lock is split.  A lock that *is* contended
//! was taken twice on one path: that is a bug, and it is reported instead of spinning for ever.

use core::fmt;

use spin::{Mutex, MutexGuard};

/// A mutual exclusion lock.
#[derive(Default)]
pub struct Lock<T: ?Sized>(Mutex<T>);

impl<T> Lock<T> {
    /// Makes an open lock.
    pub const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }
}

impl<T: ?Sized> Lock<T> {
    /// Takes the lock.
    ///
    /// # Panics
    /// If it is taken already.
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.try_lock().expect("lock taken twice on one path")
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.try_lock() {
            Some(value) => fmt::Debug::fmt(&*value, f),
            None => f.write_str("<locked>"),
        }
    }
}
