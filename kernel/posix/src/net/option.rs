// SPDX-License-Identifier: Apache-2.0
//! Options of SOL_SOCKET that a socket of the guest only keeps, and those that the system calls act
//! on themselves (time-outs).

use alloc::vec::Vec;

use crate::{Errno, sync::Lock};

/// Bytes of a send or receive buffer at first (net.core.wmem_default).
pub(crate) const BUFFER_BYTES: u32 = 212_992;
const BUFFER_MIN: u32 = 4608;
const RECEIVE_MIN: u32 = 2304;

pub(crate) const SO_DEBUG: u32 = 1;
pub(crate) const SO_REUSEADDR: u32 = 2;
pub(crate) const SO_TYPE: u32 = 3;
pub(crate) const SO_ERROR: u32 = 4;
pub(crate) const SO_DONTROUTE: u32 = 5;
pub(crate) const SO_BROADCAST: u32 = 6;
pub(crate) const SO_SNDBUF: u32 = 7;
pub(crate) const SO_RCVBUF: u32 = 8;
pub(crate) const SO_KEEPALIVE: u32 = 9;
pub(crate) const SO_OOBINLINE: u32 = 10;
pub(crate) const SO_PRIORITY: u32 = 12;
pub(crate) const SO_LINGER: u32 = 13;
pub(crate) const SO_REUSEPORT: u32 = 15;
pub(crate) const SO_PASSCRED: u32 = 16;
pub(crate) const SO_PEERCRED: u32 = 17;
pub(crate) const SO_RCVLOWAT: u32 = 18;
pub(crate) const SO_SNDLOWAT: u32 = 19;
pub(crate) const SO_RCVTIMEO: u32 = 20;
pub(crate) const SO_SNDTIMEO: u32 = 21;
pub(crate) const SO_TIMESTAMP: u32 = 29;
pub(crate) const SO_ACCEPTCONN: u32 = 30;
pub(crate) const SO_SNDBUFFORCE: u32 = 32;
pub(crate) const SO_RCVBUFFORCE: u32 = 33;
pub(crate) const SO_PROTOCOL: u32 = 38;
pub(crate) const SO_DOMAIN: u32 = 39;
pub(crate) const SO_PEEK_OFF: u32 = 42;
const SO_RCVTIMEO_NEW: u32 = 66;
const SO_SNDTIMEO_NEW: u32 = 67;

/// What is kept.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// Bit per option number below 32: switches.
    switches: u32,
    send_bytes: u32,
    receive_bytes: u32,
    linger: (u32, u32),
    priority: u32,
    receive_least: u32,
    /// Time-outs in microseconds; 0: none.
    receive_us: u64,
    send_us: u64,
}

/// The options of one socket.
#[derive(Debug)]
pub(crate) struct Options(Lock<Kept>);

const SWITCHES: u32 = 1 << SO_DEBUG
    | 1 << SO_REUSEADDR
    | 1 << SO_DONTROUTE
    | 1 << SO_BROADCAST
    | 1 << SO_KEEPALIVE
    | 1 << SO_OOBINLINE
    | 1 << SO_REUSEPORT
    | 1 << SO_PASSCRED
    | 1 << SO_TIMESTAMP;

impl Options {
    /// As a new socket has them.
    pub(crate) fn new() -> Self {
        Self(Lock::new(Kept {
            switches: 0,
            send_bytes: BUFFER_BYTES,
            receive_bytes: BUFFER_BYTES,
            linger: (0, 0),
            priority: 0,
            receive_least: 1,
            receive_us: 0,
            send_us: 0,
        }))
    }

    /// Whether a switch (`SO_*` below 32) is on.
    pub(crate) fn is_on(&self, option: u32) -> bool {
        self.0.lock().switches >> option & 1 == 1
    }

    /// Bytes that may be under way from this socket.
    pub(crate) fn send_bytes(&self) -> usize {
        self.0.lock().send_bytes as usize
    }

    /// Fewest bytes that a blocking receive waits for.
    pub(crate) fn receive_least(&self) -> usize {
        self.0.lock().receive_least as usize
    }

    /// How long a receive waits, in nanoseconds.
    pub(crate) fn receive_timeout_ns(&self) -> Option<u64> {
        let us = self.0.lock().receive_us;
        (us > 0).then(|| us.saturating_mul(1000))
    }

    /// How long a send waits, in nanoseconds.
    pub(crate) fn send_timeout_ns(&self) -> Option<u64> {
        let us = self.0.lock().send_us;
        (us > 0).then(|| us.saturating_mul(1000))
    }

    /// An accepted socket starts with its listener's options.
    pub(crate) fn inherit(&self, from: &Self) {
        let kept = *from.0.lock();
        *self.0.lock() = kept;
    }

    /// Sets an option of SOL_SOCKET; false: it is none of these.
    ///
    /// # Errors
    /// `EINVAL` if the value is too short, `EDOM` for a time of no such microsecond.
    pub(crate) fn set(&self, option: u32, value: &[u8]) -> Result<bool, Errno> {
        let number = |at: usize| {
            let bytes = value.get(at..at + 4).ok_or(Errno::INVAL)?;
            Ok(u32::from_le_bytes(bytes.try_into().unwrap_or_default()))
        };
        match option {
            option if option < 32 && SWITCHES >> option & 1 == 1 => {
                let on = number(0)? != 0;
                let mut kept = self.0.lock();
                kept.switches = kept.switches & !(1 << option) | u32::from(on) << option;
            }
            SO_SNDBUF | SO_SNDBUFFORCE => {
                let bytes = number(0)?.min(BUFFER_BYTES);
                self.0.lock().send_bytes = (bytes * 2).max(BUFFER_MIN);
            }
            SO_RCVBUF | SO_RCVBUFFORCE => {
                let bytes = number(0)?.min(BUFFER_BYTES);
                self.0.lock().receive_bytes = (bytes * 2).max(RECEIVE_MIN);
            }
            SO_LINGER => self.0.lock().linger = (u32::from(number(0)? != 0), number(4)?),
            SO_PRIORITY => self.0.lock().priority = number(0)?,
            SO_RCVLOWAT => {
                let least = number(0)?;
                let least = if least > i32::MAX as u32 { i32::MAX as u32 } else { least.max(1) };
                self.0.lock().receive_least = least;
            }
            SO_RCVTIMEO | SO_RCVTIMEO_NEW => self.0.lock().receive_us = time(value)?,
            SO_SNDTIMEO | SO_SNDTIMEO_NEW => self.0.lock().send_us = time(value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Reads an option of SOL_SOCKET; `None`: it is none of these.
    pub(crate) fn get(&self, option: u32) -> Option<Vec<u8>> {
        let kept = *self.0.lock();
        let number = match option {
            option if option < 32 && SWITCHES >> option & 1 == 1 => kept.switches >> option & 1,
            SO_SNDBUF => kept.send_bytes,
            SO_RCVBUF => kept.receive_bytes,
            SO_PRIORITY => kept.priority,
            SO_RCVLOWAT => kept.receive_least,
            SO_SNDLOWAT => 1,
            SO_LINGER => {
                let (on, seconds) = kept.linger;
                return Some([on.to_le_bytes(), seconds.to_le_bytes()].concat());
            }
            SO_RCVTIMEO | SO_RCVTIMEO_NEW => return Some(encode_time(kept.receive_us)),
            SO_SNDTIMEO | SO_SNDTIMEO_NEW => return Some(encode_time(kept.send_us)),
            _ => return None,
        };
        Some(number.to_le_bytes().to_vec())
    }
}

/// Reads a `struct timeval` as microseconds.
fn time(value: &[u8]) -> Result<u64, Errno> {
    let word = |at: usize| {
        let bytes = value.get(at..at + 8).ok_or(Errno::INVAL)?;
        Ok(i64::from_le_bytes(bytes.try_into().unwrap_or_default()))
    };
    let (seconds, us) = (word(0)?, word(8)?);
    if !(0..1_000_000).contains(&us) {
        return Err(Errno::DOM);
    }
    if seconds < 0 {
        // Linux: no time at all, but a time-out.
        return Ok(1);
    }
    Ok(seconds.unsigned_abs().saturating_mul(1_000_000).saturating_add(us.unsigned_abs()))
}

fn encode_time(us: u64) -> Vec<u8> {
    [(us / 1_000_000).to_le_bytes(), (us % 1_000_000).to_le_bytes()].concat()
}
