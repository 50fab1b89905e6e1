// SPDX-License-Identifier: Apache-2.0
//! Signals to a command in the foreground, passed on to its container.

use std::thread;

use anyhow::{Context as _, Result};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH},
    iterator::Signals,
};

/// Something that a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Pass on this signal.
    Signal(u32),
    /// The caller's terminal has another size.
    Resized,
}

/// Signals that are caught from now on, and handled once there is somebody to pass them to.
#[derive(Debug)]
pub(crate) struct Forwarder {
    signals: Signals,
}

impl Forwarder {
    /// Catches the signals.  Children start with them uncaught.
    ///
    /// # Errors
    /// If the host refuses.
    pub(crate) fn catch() -> Result<Self> {
        let signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH])
            .context("cannot catch signals")?;
        Ok(Self { signals })
    }

    /// Hands each signal, also those that came before, to `handle`, on a thread of its own.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn start(mut self, handle: impl Fn(Event) + Send + 'static) -> Result<()> {
        let forward = move || {
            for signal in self.signals.forever() {
                handle(match signal {
                    SIGWINCH => Event::Resized,
                    other => Event::Signal(other as u32),
                });
            }
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(forward)
            .context("cannot start the thread that passes signals on")?;
        Ok(())
    }
}
